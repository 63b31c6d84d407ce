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
 *
 * To be ready takes it 6 to 11 ms, as long as all the rest of a start. So it is *late* where the
 * supervisor can have those wait who need it (notify_net.c): a process of ours starts it when the
 * supervisor asks, or the VM has lived for a moment, as routes and devices can be looked at without
 * a socket, too. A program that wants no network has ended by then.
 *
 * Both read what a hostile VM sends. pasta shuts itself in. slirp4netns is *shut in* where it can
 * be: it is given a tree of /etc and next to nothing of /run (no bus, no socket of a daemon), no
 * privilege and no exec. Its own options for that take it to be root of the user namespace
 * already; where they fail, as the kernel or the release lacks something, it is started without.
 * It says that it is ready when it has shut itself in: what fails later, a VM may have brought
 * about, and is not tried again.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/nsfs.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/helper.h"
#include "fvm/net.h"
#include "fvm/plan.h"
#include "fvm/sys.h"

#define PORT_TRIES 25
#define LOOK_MS	   1 /* at most between two looks */
#define LATE_MS	   100
#define READY_MS   3000
#define GUEST_LINK "eth0"

/* The VM's namespaces, as the program finds them, and where it tells that it is ready. */
enum { USER_FD = 3, NET_FD = 4, READY_FD = 5 };
#define USER_PATH "/proc/self/fd/3"
#define NET_PATH  "/proc/self/fd/4"

struct slirp {
	int user, net; /* once PID 1 runs, nobody may look at its namespaces any more */
	int vm[2], ready[2];
	int init, ask;			 /* late: PID 1's pidfd, and the supervisor's socket */
	struct fvm_strv argv, shut_argv; /* as it is, and shut in: empty for pasta */
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
		"--netns-type=path",
		"--ready-fd=5",
		NULL,
	};
	const char *const open[] = { "--userns-path=" USER_PATH, NET_PATH, GUEST_LINK, NULL };
	const char *const shut[] = { "--enable-sandbox", "--enable-seccomp", NET_PATH, GUEST_LINK,
				     NULL };
	int r = add_all(&s->argv, words);
	if (r == 0)
		r = add_all(&s->argv, open);
	if (r == 0)
		r = add_all(&s->shut_argv, words);
	return r < 0 ? r : add_all(&s->shut_argv, shut);
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

/* An empty /run but for the directory that names the host's name servers. */
static int hide_run(void)
{
	char dir[PATH_MAX] = "", source[64];
	scoped_fd names = -1;
	if (realpath("/etc/resolv.conf", dir))
		*strrchr(dir, '/') = '\0';
	if (fvm_path_below(dir, "/run") && strcmp(dir, "/run") != 0)
		names = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	else if (dir[0] && !fvm_path_below(dir, "/etc"))
		return -EXDEV; /* it could not be read */
	if (mount("fvm", "/run", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64k,mode=755") <
	    0)
		return -errno;
	if (names < 0)
		return 0;
	snprintf(source, sizeof(source), "/proc/self/fd/%d", names);
	int r = fvm_mkdir_p(AT_FDCWD, dir, 0755);
	return r == 0 && mount(source, dir, NULL, MS_BIND | MS_REC, NULL) < 0 ? -errno : r;
}

static int shut_in(void)
{
	if (setns(USER_FD, CLONE_NEWUSER) < 0 || unshare(CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -errno;
	close(USER_FD);
	return hide_run();
}

static _Noreturn void slirp_exec(const struct slirp *s, bool shut, int tell)
{
	char *const *argv = shut ? s->shut_argv.items : s->argv.items;
	fvm_null_stdio();
	/* by way of higher numbers, as each may stand where the other belongs */
	const int from[] = { s->user, s->net, tell };
	int high[FVM_COUNT(from)];
	for (size_t i = 0; i < FVM_COUNT(from); i++)
		high[i] = fcntl(from[i], F_DUPFD, READY_FD + 1);
	for (size_t i = 0; i < FVM_COUNT(from); i++)
		(void)dup2(high[i], USER_FD + (int)i);
	fvm_close_range(READY_FD + 1, ~0U);
	/* pasta ends if it finds this ignored */
	signal(SIGPIPE, SIG_DFL);
	if (shut && shut_in() < 0)
		_exit(126);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* other credentials would have cleared it */
	execv(argv[0], argv);
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

/* Return: a pidfd of the program, or negative errno with @err */
static int program_start(const struct slirp *s, bool shut, int tell, pid_t *ret,
			 struct fvm_error *err)
{
	*ret = fork();
	if (*ret == 0)
		slirp_exec(s, shut, tell);
	int r = *ret < 0 ? fvm_error_set(err, errno, "start %s", s->argv.items[0])
			 : sys_pidfd_open(*ret, 0);
	if (*ret > 0 && r < 0) {
		(void)kill(*ret, SIGKILL);
		fvm_error_set(err, -r, "watch %s", s->argv.items[0]);
	}
	return r;
}

static int poll_restarted(struct pollfd *p, nfds_t count, int timeout_ms)
{
	int r;
	while ((r = poll(p, count, timeout_ms)) < 0 && errno == EINTR)
		;
	return r;
}

/* @vm: hears when nobody needs it any more, or -1
 * Return: a pidfd of the program, which is ready; or -1: not this way */
static int program_start_shut(const struct slirp *s, int vm, pid_t *ret)
{
	int said[2];
	char byte;
	if (s->shut_argv.count == 0 || pipe2(said, O_CLOEXEC) < 0)
		return -1;
	scoped_fd program = program_start(s, true, said[1], ret, NULL);
	close(said[1]);
	struct pollfd p[2] = { { .fd = said[0], .events = POLLIN },
			       { .fd = vm, .events = POLLIN } };
	bool ready = program >= 0 && poll_restarted(p, 2, READY_MS) > 0 && p[0].revents &&
		     read(said[0], &byte, 1) == 1;
	close(said[0]);
	if (ready)
		return fvm_fd_take(&program);
	if (program >= 0) {
		(void)kill(*ret, SIGKILL);
		(void)waitpid(*ret, NULL, 0);
	}
	return -1;
}

/* Whichever ends first, the other has no use any more. */
static void watch_both(int vm, int program, pid_t child)
{
	struct pollfd p[2] = { { .fd = vm, .events = POLLIN },
			       { .fd = program, .events = POLLIN } };
	while (vm >= 0 && poll(p, 2, -1) < 0 && errno == EINTR)
		;
	(void)kill(child, SIGKILL); /* not reaped, so still ours */
	(void)waitpid(child, NULL, 0);
}

static int watch(void *arg, int report)
{
	const struct slirp *s = arg;
	struct fvm_error err = { 0 };
	pid_t child = 0;
	(void)prctl(PR_SET_NAME, "fvm-net", 0, 0, 0);
	const int keep[] = { s->vm[0], s->ready[1], report, s->user, s->net };
	fvm_helper_close(keep, FVM_COUNT(keep));
	fvm_null_stdio(); /* nothing that is opened from here on may be 0 to 2 */
	scoped_fd program = program_start_shut(s, -1, &child);
	if (program >= 0)
		(void)!write(s->ready[1], "1", 1);
	else
		program = program_start(s, false, s->ready[1], &child, &err);
	close(s->ready[1]);
	fvm_helper_report(report, &err);
	if (program < 0)
		return 1;
	scoped_fd vm = await_vm(s->vm[0]);
	watch_both(vm, program, child);
	return 0;
}

/* ---- late ---- */

/* Return: whether the VM is still there to have a network */
static bool await_need(const struct slirp *s)
{
	struct pollfd p[2] = { { .fd = s->init, .events = POLLIN },
			       { .fd = s->ask, .events = POLLIN } };
	return poll_restarted(p, 2, LATE_MS) >= 0 && !p[0].revents;
}

/* The supervisor hears a byte, or that we hung up: then there will be no network. */
static void tell(const struct slirp *s, bool ready)
{
	if (ready)
		(void)!write(s->ask, "r", 1);
	close(s->ask);
}

static void tell_when_ready(const struct slirp *s, int program)
{
	char byte;
	struct pollfd p[3] = { { .fd = s->init, .events = POLLIN },
			       { .fd = program, .events = POLLIN },
			       { .fd = s->ready[0], .events = POLLIN } };
	int n = poll_restarted(p, 3, READY_MS);
	bool ready = n > 0 && p[2].revents && read(s->ready[0], &byte, 1) == 1;
	/* what takes long may still come */
	tell(s, ready || n == 0);
}

static int program_start_late(struct slirp *s, pid_t *ret)
{
	int program = program_start_shut(s, s->init, ret);
	if (program >= 0) {
		tell(s, true);
		return program;
	}
	if (pipe2(s->ready, O_CLOEXEC) < 0)
		return -errno;
	program = program_start(s, false, s->ready[1], ret, NULL);
	close(s->ready[1]);
	if (program >= 0)
		tell_when_ready(s, program);
	return program;
}

static int watch_late(struct slirp *s)
{
	pid_t child = 0;
	(void)setsid();
	signal(SIGPIPE, SIG_IGN);
	(void)prctl(PR_SET_NAME, "fvm-net", 0, 0, 0);
	const int keep[] = { s->ask, s->init, s->user, s->net };
	fvm_helper_close(keep, FVM_COUNT(keep));
	fvm_null_stdio(); /* nothing that is opened from here on may be 0 to 2 */
	if (!await_need(s))
		return 1;
	scoped_fd program = program_start_late(s, &child);
	if (program < 0)
		return 1;
	watch_both(s->init, program, child);
	return 0;
}

static int check_tun(struct fvm_error *err)
{
	if (access("/dev/net/tun", R_OK | W_OK) < 0) {
		fvm_error_set(err, errno, "use /dev/net/tun");
		fvm_error_hint(err, "have an administrator do: modprobe tun; chmod 666 "
				    "/dev/net/tun (a container: --device /dev/net/tun), or "
				    "use --net none");
		return err ? -err->code : -EACCES;
	}
	return 0;
}

static int choose(struct slirp *s, const struct fvm_port *ports, size_t count,
		  struct fvm_error *err)
{
	char path[64];
	const char *program;
	int r = check_tun(err);
	if (r < 0)
		return r;
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
	int r = fvm_ports_check(ports, count, err);
	for (int i = 0; i < PORT_TRIES && r == -EADDRINUSE; i++) {
		fvm_sleep_ms(20);
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
	fvm_strv_free(&s.shut_argv);
	int fds[] = { s.user, s.vm[0], s.vm[1], s.ready[0], s.ready[1] };
	for (size_t i = 0; i < FVM_COUNT(fds); i++)
		fvm_fd_closep(&fds[i]);
	return r;
}

bool fvm_slirp_may_be_late(const struct fvm_config *config)
{
	char path[64];
	/* io_uring makes sockets that no filter sees; and under a filter there may be a listener
	 * already, so that our sessions can ask nobody */
	return config->ports.count == 0 && !config->io_uring && prctl(PR_GET_SECCOMP) == 0 &&
	       check_tun(NULL) == 0 && program_find("slirp4netns", path, sizeof(path));
}

pid_t fvm_slirp_start_late(int net, int init, int ask, struct fvm_error *err)
{
	struct slirp s = { .net = net, .init = init, .ask = ask };
	s.user = ioctl(net, NS_GET_USERNS);
	if (s.user < 0)
		return fvm_error_set(err, errno, "open the user namespace of the VM's network");
	int r = choose(&s, NULL, 0, err);
	/* a child that nobody has to wait for, as the supervisor is: half of what a helper costs */
	const struct clone_args args = { 0 };
	if (r == 0 && (r = sys_clone3(&args)) == 0)
		_exit(watch_late(&s));
	if (r < 0 && s.argv.count)
		fvm_error_set(err, -r, "start a process for the VM's network");
	fvm_strv_free(&s.argv);
	fvm_strv_free(&s.shut_argv);
	close(s.user);
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
