/*
 * The network of a VM without privileges: slirp4netns or pasta translate between a tap device in
 * the VM's namespace and sockets of the user's own.
 *
 * Left to their defaults both show the host's loopback to the VM (pasta even forwards every port
 * that is listened on), so these options are not a matter of taste. pasta: -t none -u none (but
 * for published ports), -T none, -U none, --no-map-gw; slirp4netns: --disable-host-loopback.
 * Names are asked at 10.0.2.3: built into slirp4netns, given to pasta by --dns-forward. Once it
 * has that option the pasta of 2023-03 rewrites the source of answers of the real server as well,
 * so that asking there fails: 10.0.2.3 is the only address to use.
 * slirp4netns is the first choice: 3 MB of memory against 31, ready as fast; it can't publish ports
 * without a further socket that would have to be guarded.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fvm/helper.h"
#include "fvm/net.h"
#include "fvm/sys.h"

#define PORT_TRIES 25
#define LOOK_MS	   1 /* at most between two looks */
#define GUEST_LINK "eth0"

/* The VM's namespaces, as the program finds them, and where it tells that it is ready. */
enum { USER_FD = 3, NET_FD = 4, READY_FD = 5 };
#define USER_PATH "/proc/self/fd/3"
#define NET_PATH  "/proc/self/fd/4"

struct slirp {
	int user, net; /* once PID 1 runs, nobody may look at its namespaces any more */
	int vm[2], ready[2];
	struct fvm_strv argv;
};

static const char *program_find(const char *name, char *path, size_t size)
{
	static const char *const dirs[] = { "/usr/local/bin", "/usr/bin", "/bin" };
	for (size_t i = 0; i < FVM_COUNT(dirs); i++) {
		snprintf(path, size, "%s/%s", dirs[i], name);
		if (access(path, X_OK) == 0)
			return path;
	}
	return NULL;
}

static int add_all(struct fvm_strv *argv, const char *const *words)
{
	int r = 0;
	for (; *words && r == 0; words++)
		r = fvm_strv_add(argv, *words);
	return r;
}

static int slirp4netns_argv(struct slirp *s, const char *program)
{
	const char *const words[] = {
		program,
		"--configure",
		"--mtu=65520",
		"--disable-host-loopback",
		"--userns-path=" USER_PATH,
		"--netns-type=path",
		"--ready-fd=5",
		NET_PATH,
		GUEST_LINK,
		NULL,
	};
	return add_all(&s->argv, words);
}

/* "-t 8080:80" or "-t 127.0.0.1/8080:80" for each port of a protocol, or "-t none" */
static int pasta_ports(struct slirp *s, const struct fvm_port *ports, size_t count, bool udp)
{
	size_t given = 0;
	int r = 0;
	for (size_t i = 0; i < count && r == 0; i++) {
		const struct fvm_port *p = &ports[i];
		if (p->udp != udp)
			continue;
		given++;
		r = fvm_strv_add(&s->argv, udp ? "-u" : "-t");
		if (r == 0)
			r = fvm_strv_addf(&s->argv, "%s%s%u:%u", p->host_address,
					  p->host_address[0] ? "/" : "", p->host_port,
					  p->guest_port);
	}
	if (r == 0 && given == 0)
		r = fvm_strv_add(&s->argv, udp ? "-u" : "-t");
	if (r == 0 && given == 0)
		r = fvm_strv_add(&s->argv, "none");
	return r;
}

static int pasta_argv(struct slirp *s, const char *program, const struct fvm_port *ports,
		      size_t count)
{
	const char *const words[] = {
		program,
		"--quiet",
		"--foreground",
		"--config-net",
		"--ns-ifname",
		GUEST_LINK,
		"-T",
		"none",
		"-U",
		"none",
		"--no-map-gw",
		"--dns-forward",
		FVM_SLIRP_DNS_ADDRESS,
		"--no-netns-quit",
		"--userns",
		USER_PATH,
		"--netns",
		NET_PATH,
		NULL,
	};
	int r = add_all(&s->argv, words);
	if (r == 0)
		r = pasta_ports(s, ports, count, false);
	if (r == 0)
		r = pasta_ports(s, ports, count, true);
	return r;
}

static _Noreturn void slirp_exec(const struct slirp *s)
{
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	fvm_null_stdio();
	/* by way of higher numbers, as each may stand where the other belongs */
	const int from[] = { s->user, s->net, s->ready[1] };
	int high[FVM_COUNT(from)];
	for (size_t i = 0; i < FVM_COUNT(from); i++)
		high[i] = fcntl(from[i], F_DUPFD, READY_FD + 1);
	for (size_t i = 0; i < FVM_COUNT(from); i++)
		(void)dup2(high[i], USER_FD + (int)i);
	fvm_close_range(READY_FD + 1, ~0U);
	/* pasta ends if it finds this ignored */
	signal(SIGPIPE, SIG_DFL);
	execv(s->argv.items[0], s->argv.items);
	_exit(127);
}

/* Return: a pidfd of PID 1, or -1: it never came */
static int await_vm(int from)
{
	pid_t init;
	if (fvm_read_full(from, &init, sizeof(init)) != sizeof(init))
		return -1;
	return sys_pidfd_open(init, 0);
}

/* Watches over both: whichever ends first, the other has no use any more. */
static int watch(void *arg, int report)
{
	const struct slirp *s = arg;
	struct fvm_error err = { 0 };
	(void)prctl(PR_SET_NAME, "fvm-net", 0, 0, 0);
	const int keep[] = { s->vm[0], s->ready[1], report, s->user, s->net };
	fvm_helper_close(keep, FVM_COUNT(keep));
	pid_t child = fork();
	if (child == 0)
		slirp_exec(s);
	if (child < 0)
		fvm_error_set(&err, errno, "start %s", s->argv.items[0]);
	scoped_fd program = child > 0 ? sys_pidfd_open(child, 0) : -1;
	if (child > 0 && program < 0) {
		(void)kill(child, SIGKILL);
		fvm_error_set(&err, -program, "watch %s", s->argv.items[0]);
	}
	close(s->ready[1]);
	fvm_helper_report(report, &err);
	if (err.code)
		return 1;
	scoped_fd vm = await_vm(s->vm[0]);
	struct pollfd p[2] = { { .fd = vm, .events = POLLIN },
			       { .fd = program, .events = POLLIN } };
	while (vm >= 0 && poll(p, 2, -1) < 0 && errno == EINTR)
		;
	(void)kill(child, SIGKILL); /* not reaped, so still ours */
	(void)waitpid(child, NULL, 0);
	return 0;
}

static int choose(struct slirp *s, const struct fvm_port *ports, size_t count,
		  struct fvm_error *err)
{
	char path[64];
	const char *program;
	int r;
	if (access("/dev/net/tun", R_OK | W_OK) < 0) {
		fvm_error_set(err, errno, "use /dev/net/tun");
		fvm_error_hint(err, "have an administrator do: modprobe tun; chmod 666 "
				    "/dev/net/tun (a container: --device /dev/net/tun), or "
				    "use --net none");
		return err ? -err->code : -EACCES;
	}
	if (count == 0 && (program = program_find("slirp4netns", path, sizeof(path))))
		r = slirp4netns_argv(s, program);
	else if ((program = program_find("pasta", path, sizeof(path))))
		r = pasta_argv(s, program, ports, count);
	else
		r = -ENOENT;
	if (r == 0)
		return 0;
	fvm_error_set(err, -r, "find %s", count ? "pasta" : "slirp4netns or pasta");
	fvm_error_hint(err, "install the package %s, or use --net none",
		       count ? "passt" : "slirp4netns");
	return r;
}

/* A VM that has just ended had the port until its helper notices that. */
static int await_ports(const struct fvm_port *ports, size_t count, struct fvm_error *err)
{
	const struct timespec pause = { .tv_nsec = 20 * 1000000 };
	int r = fvm_ports_check(ports, count, err);
	for (int i = 0; i < PORT_TRIES && r == -EADDRINUSE; i++) {
		(void)nanosleep(&pause, NULL);
		if (err)
			*err = (struct fvm_error){ 0 };
		r = fvm_ports_check(ports, count, err);
	}
	return r;
}

static int read_ports(const struct fvm_config *config, struct fvm_port **ret, struct fvm_error *err)
{
	int r = 0;
	*ret = calloc(config->ports.count + 1, sizeof(**ret));
	if (!*ret)
		return fvm_error_set(err, ENOMEM, "read the ports");
	for (size_t i = 0; i < config->ports.count && r == 0; i++) {
		struct fvm_port *p = &(*ret)[i];
		r = fvm_port_parse(config->ports.items[i], p, err);
		if (r == 0 && p->host_port < 1024 && geteuid() != 0)
			fvm_error_hint(err, "ports below 1024 are root's");
	}
	return r < 0 ? r : await_ports(*ret, config->ports.count, err);
}

static int start(struct slirp *s, const struct fvm_config *config, struct fvm_slirp *ret,
		 struct fvm_error *err)
{
	scoped_free struct fvm_port *ports = NULL;
	int r = read_ports(config, &ports, err);
	if (r == 0)
		r = choose(s, ports, config->ports.count, err);
	if (r < 0)
		return r;
	pid_t pid = fvm_helper_start(watch, s, err);
	if (pid < 0)
		return pid;
	*ret = (struct fvm_slirp){ pid, fvm_fd_take(&s->vm[1]), fvm_fd_take(&s->ready[0]) };
	return 0;
}

int fvm_slirp_start(int net, const struct fvm_config *config, struct fvm_slirp *ret,
		    struct fvm_error *err)
{
	struct slirp s = { .net = net, .vm = { -1, -1 }, .ready = { -1, -1 } };
	/* that which has rights over the network: the VM's, or the one around it (net_user.h) */
	s.user = ioctl(net, NS_GET_USERNS);
	if (s.user < 0)
		return fvm_error_set(err, errno, "open the user namespace of the VM's network");
	int r = pipe2(s.vm, O_CLOEXEC) < 0 || pipe2(s.ready, O_CLOEXEC) < 0
			? fvm_error_set(err, errno, "make a pipe")
			: start(&s, config, ret, err);
	fvm_strv_free(&s.argv);
	const int fds[] = { s.user, s.vm[0], s.vm[1], s.ready[0], s.ready[1] };
	for (size_t i = 0; i < FVM_COUNT(fds); i++)
		fvm_fd_closep(&fds[i]);
	return r;
}

int fvm_slirp_tell(struct fvm_slirp *s, pid_t init)
{
	int r = write(s->vm, &init, sizeof(init)) == sizeof(init) ? 0 : -errno;
	close(fvm_fd_take(&s->vm));
	return r;
}

void fvm_slirp_close(struct fvm_slirp *s)
{
	fvm_fd_closep(&s->vm);
	fvm_fd_closep(&s->ready);
	*s = (struct fvm_slirp){ 0, -1, -1 };
}

/* Has the VM a default route? */
static bool is_ready(pid_t init)
{
	char path[64];
	scoped_free char *routes = NULL;
	snprintf(path, sizeof(path), "/proc/%d/net/route", (int)init);
	return fvm_read_file(AT_FDCWD, path, 65536, &routes, NULL) == 0 &&
	       strstr(routes, GUEST_LINK "\t00000000\t");
}

/* pasta tells nobody: its pipe only hangs up, and who has not said anything is looked at. */
int fvm_slirp_wait(const struct fvm_slirp *s, pid_t init, unsigned int timeout_ms)
{
	char byte;
	scoped_fd watcher = sys_pidfd_open(s->pid, 0);
	struct pollfd p[2] = { { .fd = watcher, .events = POLLIN },
			       { .fd = s->ready, .events = POLLIN } };
	for (unsigned int ms = 0; !is_ready(init); ms++) {
		if (watcher < 0 && watcher != -ESRCH)
			return watcher;
		if (watcher < 0 || p[0].revents)
			return -ECHILD;
		if (ms >= timeout_ms)
			return -ETIMEDOUT;
		if (poll(p, 2, LOOK_MS) < 0 && errno != EINTR)
			return -errno;
		if (p[1].revents && read(s->ready, &byte, 1) == 1)
			return 0;
		if (p[1].revents) /* it hung up */
			p[1].fd = -1;
	}
	return 0;
}
