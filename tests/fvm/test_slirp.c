/*
 * The network of a VM without privileges, as an ordinary user, in a network namespace that stands
 * for the host. Needs: CAP_SYS_ADMIN (to build that), slirp4netns, pasta.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "box.h"
#include "fvm/net.h"
#include "fvm/sys.h"

#define USER	 65533 /* somebody who has nothing */
#define OUTSIDE4 "198.51.100.1"

static bool program(const char *name)
{
	char path[64];
	snprintf(path, sizeof(path), "/usr/bin/%s", name);
	return access(path, X_OK) == 0;
}

static int shell(const char *command)
{
	return system(command); /* NOLINT: a test's own, constant text */
}

/* A host with a way out, a /dev/net/tun for everybody, and us an ordinary user on it. */
static int host_setup(void **state)
{
	(void)state;
	if (unshare(CLONE_NEWNET | CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("test", "/dev/net", "tmpfs", 0, NULL) < 0 ||
	    mknod("/dev/net/tun", S_IFCHR | 0666, makedev(10, 200)) < 0 ||
	    chmod("/dev/net/tun", 0666) < 0 ||
	    shell("ip link set lo up && ip link add up0 type veth peer name up1 && "
		  "ip link set up1 up && ip link set up0 up && "
		  "ip addr add 198.51.100.2/24 dev up0 && ip addr add " OUTSIDE4 "/32 dev lo && "
		  "ip route add default via 198.51.100.3") != 0 ||
	    setgroups(0, NULL) < 0 || setresgid(USER, USER, USER) < 0 ||
	    setresuid(USER, USER, USER) < 0 || prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) < 0) {
		print_message("skipped: needs CAP_SYS_ADMIN\n");
		*state = NULL;
		return 0;
	}
	*state = (void *)1;
	return 0;
}

struct vm {
	pid_t init;
	struct fvm_slirp slirp;
	int ask[2], answer[2];
};

static int try_connect(const char *address, uint16_t port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	inet_pton(AF_INET, address, &to.sin_addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int error = 0;
	socklen_t len = sizeof(error);
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0 && errno != EINPROGRESS)
		error = errno;
	else if (poll(&p, 1, 1500) != 1)
		error = ETIMEDOUT;
	else
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
	/* a translator accepts first and resets when the real connection fails */
	p.events = POLLIN;
	char c;
	if (error == 0 && poll(&p, 1, 300) == 1 && recv(fd, &c, 1, 0) <= 0)
		error = ECONNRESET;
	close(fd);
	return error;
}

static void put_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || fvm_write_all(fd, text, strlen(text)) < 0)
		_exit(2);
	close(fd);
}

struct question {
	char address[46];
	uint16_t port;
};

static _Noreturn void vm_main(const struct vm *vm)
{
	char map[64];
	struct question q;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
		_exit(1);
	put_file("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "0 %d 1", USER);
	put_file("/proc/self/uid_map", map);
	put_file("/proc/self/gid_map", map);
	if (fvm_net_lo_up(NULL) < 0)
		_exit(3);
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(80) };
	if (bind(s, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(s, 8) < 0)
		_exit(4);
	(void)!write(vm->answer[1], "r", 1);
	while (read(vm->ask[0], &q, sizeof(q)) == sizeof(q)) {
		char c = try_connect(q.address, q.port) == 0 ? 'y' : 'n';
		(void)!write(vm->answer[1], &c, 1);
	}
	_exit(0);
}

/* Ready when it is asked for. */
static int late_start(struct vm *vm, int net, struct fvm_error *err)
{
	int ask[2];
	char c = '?';
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ask), 0);
	scoped_fd ours = ask[0];
	scoped_fd init = sys_pidfd_open(vm->init, 0);
	vm->slirp.pid = fvm_slirp_start_late(net, init, ask[1], err);
	close(ask[1]);
	if (vm->slirp.pid < 0)
		return vm->slirp.pid;
	assert_int_equal(write(ours, "n", 1), 1);
	return read(ours, &c, 1) == 1 && c == 'r' ? 0 : -EIO;
}

static int early_start(struct vm *vm, int net, const struct fvm_config *config,
		       struct fvm_error *err)
{
	int r = fvm_slirp_start(net, config, &vm->slirp, err);
	if (r == 0)
		r = fvm_slirp_tell(&vm->slirp, vm->init);
	return r < 0 ? r : fvm_slirp_wait(&vm->slirp, vm->init, 5000);
}

static int vm_start(struct vm *vm, const char *const *ports, bool late, struct fvm_error *err)
{
	char c, path[64];
	struct fvm_config config = { .net = FVM_NET_NAT };
	assert_int_equal(pipe2(vm->ask, O_CLOEXEC), 0);
	assert_int_equal(pipe2(vm->answer, O_CLOEXEC), 0);
	vm->init = fork();
	if (vm->init == 0)
		vm_main(vm);
	close(vm->ask[0]);
	close(vm->answer[1]);
	assert_int_equal(read(vm->answer[0], &c, 1), 1);
	for (; ports && *ports; ports++)
		assert_int_equal(fvm_strv_add(&config.ports, *ports), 0);
	vm->slirp = (struct fvm_slirp){ 0, -1, -1 };
	snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)vm->init);
	scoped_fd net = open(path, O_RDONLY | O_CLOEXEC);
	int r = late ? late_start(vm, net, err) : early_start(vm, net, &config, err);
	fvm_strv_free(&config.ports);
	return r;
}

static bool vm_reaches(const struct vm *vm, const char *address, uint16_t port)
{
	struct question q = { .port = port };
	char c = '?';
	strcpy(q.address, address);
	assert_int_equal(write(vm->ask[1], &q, sizeof(q)), sizeof(q));
	assert_int_equal(read(vm->answer[0], &c, 1), 1);
	return c == 'y';
}

/* Ends the VM, and sees that what served it ends too. */
static void vm_end(struct vm *vm)
{
	char path[64], text[64];
	bool gone = false;
	kill(vm->init, SIGKILL);
	waitpid(vm->init, NULL, 0);
	close(vm->ask[1]);
	close(vm->answer[0]);
	pid_t watcher = vm->slirp.pid;
	fvm_slirp_close(&vm->slirp);
	for (int i = 0; i < 200 && !gone; i++) {
		usleep(10000);
		snprintf(path, sizeof(path), "/proc/%d/stat", (int)watcher);
		FILE *f = fopen(path, "re");
		gone = !f || !fgets(text, sizeof(text), f) || strstr(text, ") Z");
		if (f)
			fclose(f);
	}
	assert_true(gone);
	assert_int_not_equal(shell("pgrep -r R,S,D -U 65533 'pasta|slirp4netns' >/dev/null"), 0);
}

static int listener(const char *address, uint16_t port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	inet_pton(AF_INET, address, &at.sin_addr);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

static void loopback_is_shut_and_the_world_open(const char *const *ports, bool late)
{
	struct vm vm;
	struct fvm_error err = { 0 };
	int out = listener(OUTSIDE4, 8000), local = listener("127.0.0.1", 2222);
	int r = vm_start(&vm, ports, late, &err);
	if (r < 0)
		fvm_error_print("test", &err);
	assert_int_equal(r, 0);
	assert_true(vm_reaches(&vm, OUTSIDE4, 8000));
	assert_false(vm_reaches(&vm, "127.0.0.1", 2222));
	assert_false(vm_reaches(&vm, "10.0.2.2", 2222));     /* slirp4netns' name for the host */
	assert_false(vm_reaches(&vm, "198.51.100.3", 2222)); /* pasta's: the gateway */
	if (ports)
		assert_int_equal(try_connect("127.0.0.1", 8080), 0);
	vm_end(&vm);
	close(out);
	close(local);
}

static void slirp4netns_shows_the_world_but_not_loopback(void **state)
{
	if (!*state || !program("slirp4netns"))
		skip();
	loopback_is_shut_and_the_world_open(NULL, false);
}

static void slirp4netns_may_come_when_it_is_asked_for(void **state)
{
	const struct fvm_config plain = { .net = FVM_NET_NAT };
	if (!*state || !program("slirp4netns"))
		skip();
	assert_true(fvm_slirp_may_be_late(&plain));
	loopback_is_shut_and_the_world_open(NULL, true);
}

static void slirp4netns_that_nobody_asked_for_ends_with_its_vm(void **state)
{
	struct fvm_error err = { 0 };
	if (!*state || !program("slirp4netns"))
		skip();
	pid_t init = fork();
	if (init == 0)
		_exit(0);
	int ask[2];
	char c;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ask), 0);
	scoped_fd ours = ask[0];
	scoped_fd pidfd = sys_pidfd_open(init, 0);
	scoped_fd net = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	assert_true(fvm_slirp_start_late(net, pidfd, ask[1], &err) > 0);
	close(ask[1]);
	assert_int_equal(read(ours, &c, 1), 0);
	assert_int_equal(waitpid(init, NULL, 0), init);
}

static void pasta_publishes_and_does_not_show_loopback(void **state)
{
	const char *const ports[] = { "8080:80", NULL };
	if (!*state || !program("pasta"))
		skip();
	loopback_is_shut_and_the_world_open(ports, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(slirp4netns_shows_the_world_but_not_loopback),
		cmocka_unit_test(slirp4netns_may_come_when_it_is_asked_for),
		cmocka_unit_test(slirp4netns_that_nobody_asked_for_ends_with_its_vm),
		cmocka_unit_test(pasta_publishes_and_does_not_show_loopback),
	};
	return cmocka_run_group_tests(tests, host_setup, NULL);
}
