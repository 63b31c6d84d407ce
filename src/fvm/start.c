#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <grp.h>
#include <unistd.h>

#include "fvm/base.h"
#include "fvm/caps.h"
#include "fvm/hide_record.h"
#include "fvm/internal.h"
#include "fvm/kernel.h"
#include "common/fault.h"
#include "fvm/prove.h"
#include "fvm/seccomp.h"
#include "fvm/slot.h"
#include "fvm/start_priv.h"
#include "fvm/sys.h"
#include "fvm/recorder.h"

#define SLIRP_TIMEOUT_MS 3000

/* ---- PID 1, between clone3() and fvm_init_main(); on a copy of our memory ---- */

static _Noreturn void init_failed(const struct start *s, const struct fvm_error *err)
{
	(void)!write(s->report[1], err, sizeof(*err));
	_exit(125);
}

static int become_root(struct fvm_error *err)
{
	/* EPERM: a user's namespace in which groups can't be dropped, nor are they needed */
	if ((syscall(SYS_setgroups, 0, NULL) < 0 && errno != EPERM) ||
	    syscall(SYS_setresgid, 0, 0, 0) < 0 || syscall(SYS_setresuid, 0, 0, 0) < 0)
		return fvm_error_set(err, errno, "become the VM's root");
	return 0;
}

/* Last of all, as from here on PID 1's own calls wait for the tracer, too. */
static int init_trace(const struct start *s, struct fvm_error *err)
{
	scoped_fd listener = fvm_trace_filter_install(NULL);
	if (listener < 0)
		return fvm_error_set(err, -listener, "install the trace's filter");
	int r = fvm_send_fds(s->trace[1], "l", 1, &listener, 1);
	return r < 0 ? fvm_error_set(err, -r, "reach the tracer") : 0;
}

/* Each byte lets PID 1 do one step more; without it, whoever was to give it has died. */
static int await(int go, enum start_step step, struct fvm_error *err)
{
	char byte;
	if (fvm_read_full(go, &byte, 1) != 1 || byte != (char)step)
		return fvm_error_set(err, ECANCELED, "start PID 1");
	return 0;
}

/* A rootless VM's with nat is the builder's, see net_user.h: it is there already. */
static bool has_outer_net(const struct start *s)
{
	return s->vm->config.rootless && s->vm->config.net == FVM_NET_NAT;
}

/*
 * Namespaces that take their time are made here, while the builder mounts: the network's alone
 * is a third of all. Once this VM's ids are mapped, as their files belong to its root.
 */
static int make_spaces(const struct start *s, struct fvm_error *err)
{
	static const uint64_t for_both = 2; /* builder and net thread */
	int net = s->vm->config.net == FVM_NET_HOST || has_outer_net(s) ? 0 : CLONE_NEWNET;
	int r = await(s->go[0], START_MAPPED, err);
	if (r == 0)
		r = become_root(err);
	if (r < 0)
		return r;
	int ipc = FVM_FAULT("confine.ipc") < 0 ? 0 : CLONE_NEWIPC;
	if (unshare(ipc | CLONE_NEWUTS | net) < 0)
		return fvm_error_set(err, errno, "make the VM's namespaces");
	if (write(s->spaces, &for_both, sizeof(for_both)) != sizeof(for_both))
		return fvm_error_set(err, errno, "tell of the VM's namespaces");
	return 0;
}

static int net_prepare(const struct start *s, struct fvm_error *err)
{
	if (s->has_net) {
		int r = await(s->go[0], START_CONNECTED, err);
		return r < 0 ? r : fvm_net_inside(&s->net, err);
	}
	if (has_outer_net(s))
		return 0;
	if (s->vm->config.net != FVM_NET_HOST)
		return fvm_net_lo_up(err);
	if (fvm_landlock_guard() < 0)
		return fvm_error_set(err, EOPNOTSUPP, "guard the host's abstract sockets");
	return 0;
}

static int enter_world(int go, struct fvm_error *err)
{
	int r = await(go, START_GO, err);
	if (r == 0 && unshare(CLONE_NEWNS) < 0)
		r = fvm_error_set(err, errno, "take the mounts over");
	return r;
}

/* PID 1 gets ready while its world is built, unless a filter with a listener has to be last. */
static bool gets_ready_early(const struct start *s)
{
	return !s->supervised && !s->options->trace;
}

static int init_prepare(const struct start *s, struct fvm_error *err)
{
	close(s->go[1]);
	int r = make_spaces(s, err);
	if (r == 0)
		r = net_prepare(s, err);
	if (r < 0)
		return r;
	/* the caller's session keyring is not the VM's */
	(void)syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
	const char *host = s->vm->config.hostname;
	if (host && sethostname(host, strlen(host)) < 0)
		return fvm_error_set(err, errno, "set the host name");
	umask(022);
	if (!gets_ready_early(s))
		r = enter_world(s->go[0], err);
	if (r == 0 && s->supervised)
		r = start_user_inside(s, err);
	else if (r == 0 && s->options->trace)
		r = init_trace(s, err);
	return r;
}

static unsigned int filter_flags(const struct fvm_config *c)
{
	return (c->io_uring ? FVM_FILTER_IO_URING : 0) |
	       (c->i386_sockets ? FVM_FILTER_I386_SOCKETS : 0);
}

static _Noreturn void init_main(const struct start *s)
{
	struct fvm_error err = { 0 };
	if (init_prepare(s, &err) < 0)
		init_failed(s, &err);
	close(s->client[0]);
	bool rootless = s->vm->config.rootless;
	unsigned int filter = filter_flags(&s->vm->config);
	const struct fvm_init_args args = {
		.first = s->options->first,
		.until_first_ends = s->options->until_first_ends,
		.control = s->control,
		.alive = s->alive,
		.hide = s->hide_shared,
		.keep = rootless ? s->skeleton.lock : s->slot,
		.net = s->net.socket,
		.names = s->net.names,
		.resolv = s->has_net ? s->resolv : NULL,
		.log = s->log,
		.status = s->status,
		.report = s->report[1],
		.ended = s->options->until_first_ends ? s->ended[1] : -1,
		.client = s->client[1],
		.prove = s->prove[1],
		.bait = s->bait,
		.guard = s->guard[0],
		.filter = FVM_FAULT("confine.filter") < 0 ? NULL : fvm_filter_get(filter),
		.supervisor = s->supervisor[1],
		.session_filter = filter | start_user_filter(s),
		.session_trace = s->options->trace,
		.plain_uid = s->ids.uid,
		.enter = gets_ready_early(s) ? enter_world : NULL,
		.enter_fd = s->go[0],
	};
	fvm_init_main(&args);
}

/* ---- the builder: shares our memory, see build.h ---- */

/*
 * Whoever makes a user namespace pays for what is used up in it: inotify instances, namespaces,
 * queued signals. The host's root must not, or one VM takes them all from him; nor one VM from
 * another. So root's VMs are made by who is their root on the host: a uid that nobody else has.
 * Only this thread's, hence no C library; our real uid stays root's, so that all comes back.
 */
static void pay_as(const struct start *s, uint32_t uid)
{
	if (!s->vm->config.rootless)
		(void)syscall(SYS_setresuid, -1, uid, -1);
}

int start_make_init(struct start *s)
{
	int pidfd = -1;
	const struct clone_args args = {
		.flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWCGROUP | CLONE_NEWTIME |
			 CLONE_PIDFD | CLONE_PARENT,
		.pidfd = (uintptr_t)&pidfd,
	};
	pay_as(s, s->map.base);
	int pid = sys_clone3(&args);
	if (pid == 0)
		init_main(s);
	pay_as(s, 0);
	if (pid < 0)
		return fvm_error_set(&s->err, -pid, "make the VM's namespaces");
	s->init = pid;
	s->pidfd = pidfd;
	/* PID 1 alone holds it from here on: a helper that starts slowly, and has not come to
	 * closing what it inherited, would keep a VM alive that has ended */
	close(fvm_fd_take(&s->alive));
	return 0;
}

int start_map_ids(struct start *s)
{
	int r = fvm_idmap_write(&s->map, s->init);
	if (r == 0)
		r = start_let(s, START_MAPPED);
	return r < 0 ? fvm_error_set(&s->err, -r, "map the VM's ids") : 0;
}

int start_let(const struct start *s, enum start_step step)
{
	const char byte = (char)step;
	return write(s->go[1], &byte, 1) == 1 ? 0 : -errno;
}

int start_await_spaces(const struct start *s)
{
	struct pollfd p[2] = { { .fd = s->spaces, .events = POLLIN },
			       { .fd = s->pidfd, .events = POLLIN } };
	uint64_t one;
	while (poll(p, 2, -1) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	if (!(p[0].revents & POLLIN))
		return -ESRCH;
	return read(s->spaces, &one, sizeof(one)) == sizeof(one) ? 0 : -errno;
}

static int await_spaces(void *arg)
{
	start_net_mounted(arg);
	return start_await_spaces(arg);
}

static int open_userns(const struct start *s)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)s->init);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Who needs native directories runs containers in the VM, and these are put into cgroups. Where
 * the VM has no cgroup of its own, or it can't be given away, it sees it and that is all. */
static bool give_cgroups(const struct start *s)
{
	bool wanted = s->vm->config.init == FVM_INIT_SYSTEMD || s->natives.count;
	return wanted && s->has_cgroup &&
	       fvm_cgroup_delegate(&s->cgroups, s->map.base, s->map.base) == 0;
}

int start_build_world(struct start *s)
{
	scoped_fd userns = open_userns(s);
	if (userns < 0)
		return fvm_error_set(&s->err, -userns, "open the VM's user namespace");
	struct fvm_build b = {
		.vm = s->vm,
		.plan = &s->plan,
		.map = &s->map,
		.hide = &s->hide,
		.hide_shared = s->hide_shared,
		.hide_kept = s->hide_kept,
		.binds = &s->binds,
		.natives = &s->natives,
		.trees = s->vm->config.rootless ? &s->trees : NULL,
		.skeleton = &s->skeleton,
		.standins = s->standins,
		.standin_count = s->standin_count,
		.owned = s->map.same > 1 ? s->owned : NULL,
		.owned_len = s->owned_len,
		.ids = &s->ids,
		.throw_away = s->options->throw_away,
		.disk = s->disk,
		.systemd = s->vm->config.init == FVM_INIT_SYSTEMD,
		.own_cgroups = give_cgroups(s),
		.init_pidfd = s->pidfd,
		.userns = userns,
		.resolv = s->resolv,
		.accounts = &s->accounts,
		.user_uid = s->options->user_uid,
		.user_gid = s->options->user_gid,
		.running = &s->running,
		.await_spaces = await_spaces,
		.await_arg = s,
	};
	b.owners = -1;
	int r = fvm_build_world(&b, &s->err);
	s->owners = b.owners;
	return r;
}

static int builder(void *arg)
{
	struct start *s = arg;
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		fvm_error_set(&s->err, errno, "make a mount namespace");
		fvm_error_hint(&s->err, "a container or a security module forbids it: fvm doctor");
		return 1;
	}
	scoped_fd proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r = s->has_cgroup ? fvm_cgroup_join_v1(&s->cgroups) : 0;
	if (r < 0)
		fvm_error_set(&s->err, -r, "join the VM's cgroups");
	if (r == 0)
		r = start_make_init(s);
	if (r == 0)
		r = start_map_ids(s);
	/* before the world is built: its proc makes all our later children the VM's; and before
	 * the network's thread goes on, so that its copy of our memory is sound */
	if (r == 0 && s->supervised)
		r = start_supervisor(s, proc);
	if (r == 0 && s->has_net)
		start_net_connect(s);
	if (r == 0)
		r = start_build_world(s);
	return r < 0;
}

/* ---- the starter ---- */

static void start_init(struct start *s, struct fvm_vm *vm, const struct fvm_start_options *options)
{
	*s = (struct start){ .vm = vm, .options = options };
	s->alive = s->slot = s->run_dir = s->control = s->log = s->status = s->pidfd = -1;
	s->spaces = s->hide_shared = s->hide_kept = s->trace_file = -1;
	s->owners = s->skeleton.tree = s->skeleton.lock = -1;
	s->builder.net = s->slirp.vm = s->slirp.ready = -1;
	for (int i = 0; i < 2; i++) {
		s->go[i] = s->report[i] = s->prove[i] = s->client[i] = s->trace[i] = -1;
		s->supervisor[i] = s->guard[i] = s->ended[i] = -1;
	}
}

static void start_free(struct start *s)
{
	start_user_free(s);
	fvm_plan_free(&s->plan);
	fvm_accounts_free(&s->accounts);
	fvm_hide_free(&s->hide);
	fvm_binds_free(&s->binds);
	fvm_natives_free(&s->natives);
	fvm_running_free(&s->running);
	fvm_net_free(&s->net);
	free(s->resolv);
	if (s->bait)
		(void)fvm_bait_take(s->bait);
	free(s->bait);
	const int fds[] = { s->alive,	  s->slot,     s->run_dir,   s->control,     s->log,
			    s->status,	  s->pidfd,    s->spaces,    s->hide_shared, s->hide_kept,
			    s->go[0],	  s->go[1],    s->report[0], s->report[1],   s->client[0],
			    s->client[1], s->trace[0], s->trace[1],  s->prove[0],    s->prove[1],
			    s->ended[0],  s->ended[1] };
	for (size_t i = 0; i < FVM_COUNT(fds); i++)
		fvm_fd_closep(&fds[i]);
}

/* What a failed start has made so far. */
static void start_undo(struct start *s)
{
	int status;
	start_net_abandon(s);
	start_user_abandon(s);
	if (s->init > 0) {
		(void)sys_pidfd_send_signal(s->pidfd, SIGKILL);
		while (waitpid(s->init, &status, 0) < 0 && errno == EINTR)
			;
	}
	if (s->supervisor_pid > 0) { /* it holds the skeleton, which may have to be renewed */
		(void)kill(s->supervisor_pid, SIGKILL);
		while (waitpid(s->supervisor_pid, &status, 0) < 0 && errno == EINTR)
			;
	}
	if (s->has_net)
		fvm_net_detach(&s->net);
	if (s->has_cgroup)
		(void)fvm_cgroup_remove(&s->cgroups, 2000);
	if (s->slot >= 0) {
		close(s->slot);
		s->slot = -1;
		fvm_slot_drop(s->running.slot);
	}
	fvm_fd_closep(&s->alive);
	s->alive = -1;
	fvm_tidy_stopped(s->vm);
}

static int listen_control(struct start *s, struct fvm_error *err)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	/* through the descriptor: the path itself may be longer than an address may be */
	snprintf(at.sun_path, sizeof(at.sun_path), "/proc/self/fd/%d/control", s->run_dir);
	(void)unlinkat(s->run_dir, "control", 0);
	s->control = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* the mode that it gets, less the caller's umask */
	if (s->control < 0 || fchmod(s->control, 0600) < 0 ||
	    bind(s->control, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(s->control, 64) < 0)
		return fvm_error_set(err, errno, "make the control socket");
	return 0;
}

static int open_files(struct start *s, struct fvm_error *err)
{
	s->run_dir = fvm_vm_run_dir(s->vm, true);
	if (s->run_dir < 0)
		return fvm_error_set(err, -s->run_dir, "make its run-time directory");
	int r = listen_control(s, err);
	if (r < 0)
		return r;
	s->log = fvm_vm_open_output(s->vm, "log", O_RDWR | O_APPEND | O_CREAT);
	s->status = fvm_vm_open_output(s->vm, "status", O_WRONLY | O_CREAT | O_TRUNC);
	if (s->log < 0 || s->status < 0)
		return fvm_error_set(err, s->log < 0 ? -s->log : -s->status, "open its log");
	s->spaces = eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
	if (s->spaces < 0 || pipe2(s->go, O_CLOEXEC) < 0 || pipe2(s->report, O_CLOEXEC) < 0 ||
	    pipe2(s->ended, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "make a pipe");
	const struct fvm_command *first = s->options->first;
	if (first && !first->detached && first->terminal &&
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s->client) < 0)
		return fvm_error_set(err, errno, "make a socket");
	return 0;
}

static int prepare_disk(struct start *s, struct fvm_error *err)
{
	const struct fvm_disk_options options = {
		.bytes = s->vm->config.disk_bytes,
		.id = s->vm->config.id,
		.throw_away = s->options->throw_away,
		.rootless = s->vm->config.rootless,
	};
	scoped_fd workspace = fvm_open_nofollow(s->vm->dir, "workspace", O_RDONLY | O_DIRECTORY);
	if (workspace < 0)
		return fvm_error_set(err, -workspace, "open its workspace");
	return fvm_disk_prepare(workspace, &options, &s->disk, err);
}

static int make_cgroups(struct start *s, struct fvm_error *err)
{
	struct fvm_config *c = &s->vm->config;
	int r = fvm_cgroup_plan(c->id, c->rootless, &s->cgroups, err);
	if (r == 0)
		r = fvm_cgroup_make(&s->cgroups, c, err);
	if (r != -EOPNOTSUPP || !c->soft_limits)
		return r;
	log_warn("a policy's limits are left out: %s", err ? err->text : "no cgroups");
	if (err)
		*err = (struct fvm_error){ 0 };
	c->memory_bytes = c->cpu_percent = c->pids = 0;
	c->soft_limits = false;
	return make_cgroups(s, err);
}

static int take_cgroups(struct start *s, struct fvm_error *err)
{
	int r = make_cgroups(s, err);
	s->has_cgroup = r == 0;
	return r;
}

static int take_vm(struct start *s, struct fvm_error *err)
{
	int r = fvm_layers_check(s->vm, err);
	return r < 0 ? r : fvm_vm_alive_lock(s->vm, &s->alive, err);
}

static int take_resources(struct start *s, struct fvm_error *err)
{
	int r = take_vm(s, err);
	if (r == 0)
		r = start_take_slot(s, err);
	if (r == 0 && s->vm->config.net == FVM_NET_NAT)
		r = start_net_begin(s, err);
	if (r == 0)
		r = prepare_disk(s, err);
	return r < 0 ? r : take_cgroups(s, err);
}

/* The builder is born in the VM's cgroups, and begins before there is a plan. */
static int begin_user(struct start *s, struct fvm_error *err)
{
	int r = take_vm(s, err);
	if (r == 0)
		r = take_cgroups(s, err);
	return r < 0 ? r : start_user_begin(s, err);
}

static int take_user_resources(struct start *s, struct fvm_error *err)
{
	int r = start_user_take(s, err);
	if (r == 0)
		r = prepare_disk(s, err);
	if (r == 0 && s->vm->config.net == FVM_NET_NAT)
		r = fvm_net_resolv_conf(NULL, &s->resolv, err);
	return r;
}

static int start_tracer(struct start *s, struct fvm_error *err)
{
	if (s->supervised) {
		s->trace_file = fvm_recorder_open(s->vm, err);
		return s->trace_file < 0 ? s->trace_file : 0;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s->trace) < 0)
		return fvm_error_set(err, errno, "make a socket");
	int r = fvm_tracer_start(s->vm, s->trace[0], err);
	/* ours closed, so that it hears of it when PID 1 never comes */
	close(fvm_fd_take(&s->trace[0]));
	return r;
}

static int start_proof(struct start *s, struct fvm_error *err)
{
	struct fvm_bait *bait = calloc(1, sizeof(*bait));
	if (!bait || pipe2(s->prove, O_CLOEXEC) < 0) {
		free(bait);
		return fvm_error_set(err, errno, "make a pipe");
	}
	int r = fvm_bait_put(&s->vm->config, &s->hide, bait, err);
	if (r < 0)
		free(bait);
	else
		s->bait = bait;
	return r;
}

/* What PID 1 wrote into its report. Return: whether it is one */
static bool take_report(const struct fvm_error *theirs, ssize_t n, struct fvm_error *err)
{
	if (n != sizeof(*theirs) || theirs->code <= 0)
		return false;
	*err = *theirs;
	err->text[sizeof(err->text) - 1] = err->hint[sizeof(err->hint) - 1] = '\0';
	return true;
}

/* When PID 1 died while others waited for it, it knows why. Return: whether it has said so */
static bool told_by_init(const struct start *s, struct fvm_error *err)
{
	struct pollfd p = { .fd = s->report[0], .events = POLLIN };
	struct fvm_error theirs;
	return err && poll(&p, 1, 0) == 1 && (p.revents & POLLIN) &&
	       take_report(&theirs, read(s->report[0], &theirs, sizeof(theirs)), err);
}

static int run_builder(struct start *s, struct fvm_error *err)
{
	scoped_fd cgroup = s->vm->config.rootless ? -1 : fvm_cgroup_open_v2(&s->cgroups);
	int r = s->vm->config.rootless ? start_user_build(s) : fvm_spawn_shared(builder, s, cgroup);
	if (r == 0)
		return 0;
	if (r == -ESTALE)
		return fvm_error_set(err, ESTALE, "mount the skeleton of the host's directories");
	if (r < 0)
		return fvm_error_set(err, -r, "start the builder");
	if (told_by_init(s, err))
		return -err->code;
	start_net_abandon(s);
	const struct fvm_error *first = s->net_thread.ended_init ? &s->net_thread.err : &s->err;
	if (err)
		*err = *first;
	return first->code ? -first->code : -EIO;
}

static int end_net(struct start *s, struct fvm_error *err)
{
	int r = start_net_end(s, err);
	return r < 0 && told_by_init(s, err) ? -err->code : r;
}

static int start_relay(struct start *s, struct fvm_error *err)
{
	if (!s->has_net || !s->net_thread.needs_relay)
		return 0;
	pid_t relay = fvm_net_serve(&s->net, s->init, err);
	if (relay < 0)
		return relay;
	s->running.net_pid = relay;
	return 0;
}

int start_note_running(struct start *s, struct fvm_error *err)
{
	struct fvm_running *r = &s->running;
	r->init_pid = s->init;
	r->init_start = fvm_process_start(s->init);
	r->started_ns = fvm_now_ns();
	strcpy(r->address4, s->net.address4);
	strcpy(r->address6, s->net.address6);
	strcpy(r->interface, s->net.interface);
	strcpy(r->cgroup, s->cgroups.name);
	if (fvm_strv_copy(&r->policies, &s->vm->used) < 0)
		return fvm_error_set(err, ENOMEM, "note its policies");
	r->helper_pid = s->supervisor_pid;
	if (s->slirp.pid)
		r->net_pid = s->slirp.pid;
	return fvm_running_save(s->vm, r, err);
}

/* A program's first connection would fail without it. */
static int await_slirp(const struct start *s, struct fvm_error *err)
{
	if (!s->slirp.pid)
		return 0;
	int r = fvm_slirp_wait(&s->slirp, s->init, SLIRP_TIMEOUT_MS);
	if (r == -ETIMEDOUT) {
		log_warn("the VM's network takes long to come up: going on without waiting");
		return 0;
	}
	if (r < 0) {
		fvm_error_hint(err, "fvm doctor tells what it needs; --net none needs nothing");
		return r == -ECHILD ? fvm_error_set(err, EIO,
						    "bring up the VM's network: its helper ended")
				    : fvm_error_set(err, -r, "bring up the VM's network");
	}
	return 0;
}

static void hand_over(struct start *s, struct fvm_started *ret)
{
	close(fvm_fd_take(&s->go[1]));
	close(fvm_fd_take(&s->report[1]));
	close(fvm_fd_take(&s->ended[1]));
	fvm_fd_closep(&s->prove[1]);
	s->prove[1] = -1;
	*ret = (struct fvm_started){
		.init = s->init,
		.pidfd = fvm_fd_take(&s->pidfd),
		.report = fvm_fd_take(&s->report[0]),
		.ended = fvm_fd_take(&s->ended[0]),
		.prove = fvm_fd_take(&s->prove[0]),
		.bait = fvm_take_ptr(&s->bait),
		.client = fvm_fd_take(&s->client[0]),
	};
}

/* In the host's network namespace only Landlock stands before the abstract sockets. */
static int check_net(const struct fvm_config *c, struct fvm_error *err)
{
	if (c->net != FVM_NET_HOST || fvm_landlock_abi() >= FVM_LANDLOCK_SCOPES)
		return 0;
	fvm_error_set(err, EOPNOTSUPP, "use --net host: this kernel can't guard abstract sockets");
	fvm_error_hint(err, "leave --net host out, or see 'Landlock' in fvm doctor");
	return -EOPNOTSUPP;
}

static int plan_world(struct start *s, struct fvm_error *err)
{
	const struct fvm_config *c = &s->vm->config;
	const char *store = s->vm->store->path;
	int r = fvm_plan_make(&s->plan, err);
	if (r == 0)
		r = fvm_bases_ask(&s->plan, err);
	if (r == 0 && !c->rootless)
		r = fvm_bases_map(&s->plan, err);
	if (r == 0)
		r = fvm_hide_plan(c, store, &s->plan, &s->hide, err);
	if (r == 0)
		r = fvm_binds_list(c, store, &s->binds, err);
	if (r == 0)
		r = fvm_binds_check(&s->binds, &s->hide, err);
	/* nobody commits what is thrown away */
	if (r == 0 && !s->options->throw_away)
		r = fvm_hide_record_note(s->vm->dir, &s->hide, true, err);
	if (r == 0)
		r = fvm_natives_list(c, &s->hide, &s->natives, err);
	if (r == 0 && !c->rootless)
		r = start_unmapped_take(s, err);
	if (r == 0 && !c->rootless) /* without it the builder makes the VM's own */
		s->hide_shared = fvm_hide_shared(s->vm->store->run, &s->hide, &s->plan);
	return r;
}

struct hide_wanted {
	const struct fvm_plan *plan;
	const struct fvm_hide_key *key;
};

static bool hide_fits(int fd, const void *arg)
{
	const struct hide_wanted *w = arg;
	return fvm_hide_fits(fd, w->plan, w->key);
}

/* What the keeper has is only looked at: in vain, layers are made as if there were none. */
static void find_hide(struct start *s)
{
	scoped_hide_key key = { 0 };
	const struct hide_wanted wanted = { &s->plan, &key };
	if (s->has_net && s->hide_shared < 0 && fvm_hide_key(&s->hide, &s->plan, &key) == 0)
		s->hide_kept = fvm_net_kept(&s->net, hide_fits, &wanted);
}

/* The keeper's, which has a copy of our memory. */
static int make_kept(void *arg)
{
	const struct start *s = arg;
	return s->hide_shared < 0 ? fvm_hide_detached(&s->hide, &s->plan) : -EOPNOTSUPP;
}

/* What has to be looked at again, and no look is taken for granted. Numbers of mounts are used
 * again: even the same list may be another one. */
static bool worth_another(const struct start *s, int r)
{
	return r == -ESTALE || (s->init && ((r == -EINVAL && s->vm->config.rootless) ||
					    fvm_plan_changed(&s->plan)));
}

/* @guess: see start_priv.h. Return: 0, negative errno, or 1: failed, and the host has changed
 * meanwhile */
static int try_start(struct fvm_vm *vm, const struct fvm_start_options *options, bool guess,
		     struct fvm_started *ret, struct fvm_error *err)
{
	struct start s;
	start_init(&s, vm, options);
	s.guess = guess;
	start_find_account(&s);
	int r = check_net(&vm->config, err);
	if (r == 0)
		r = vm->config.rootless ? begin_user(&s, err) : take_resources(&s, err);
	if (r == 0)
		r = plan_world(&s, err);
	if (r == 0 && vm->config.rootless) /* these are planned by it */
		r = take_user_resources(&s, err);
	if (r == 0)
		r = open_files(&s, err);
	if (r == 0 && options->prove)
		r = start_proof(&s, err);
	if (r == 0 && options->trace)
		r = start_tracer(&s, err);
	if (r == 0)
		r = start_net_prepared(&s, err);
	if (r == 0 && !vm->config.rootless)
		find_hide(&s);
	if (r == 0 && s.supervised && !vm->config.rootless)
		r = start_standins(&s, err);
	if (r == 0)
		r = run_builder(&s, err);
	if (r == 0)
		r = end_net(&s, err);
	if (r == 0)
		r = start_relay(&s, err);
	if (r == 0)
		r = s.net_thread.noted ? 0 : start_note_running(&s, err);
	if (r == 0)
		r = await_slirp(&s, err);
	if (r == 0 && s.supervised)
		r = start_user_hand_over(&s, err);
	if (r == 0 && start_let(&s, START_GO) < 0)
		r = fvm_error_set(err, errno, "let PID 1 go");
	if (r == 0) {
		hand_over(&s, ret);
		if (s.has_net)
			fvm_net_settle(&s.net, s.init, make_kept, &s);
		if (s.skeleton.check_later)
			fvm_skeleton_check(vm->store, &s.plan, &s.trees, &s.ids);
	} else {
		start_undo(&s);
		if (worth_another(&s, r))
			r = 1;
	}
	start_free(&s);
	return r;
}

/* Overlay refuses what was mounted upon since the plan was made; with a new one it is no matter. */
static int start_effective(struct fvm_vm *vm, const struct fvm_start_options *options,
			   struct fvm_started *ret, struct fvm_error *err)
{
	struct fvm_error mine = { 0 };
	int r = 1;
	for (int tries = 0; r == 1 && tries < 5; tries++) {
		mine = (struct fvm_error){ 0 };
		r = try_start(vm, options, tries == 0, ret, &mine);
	}
	if (r && err)
		*err = mine;
	return r > 0 ? -mine.code : r;
}

/* Root without all capabilities is refused something somewhere. */
static void hint_rights(int r, struct fvm_error *err)
{
	char missing[FVM_CAPS_TEXT];
	if ((r == -EPERM || r == -EACCES) && fvm_caps_missing(true, missing))
		fvm_error_hint(err, "root lacks capabilities here; a container needs: %s", missing);
}

int fvm_vm_start(struct fvm_vm *vm, const struct fvm_start_options *options,
		 struct fvm_started *ret, struct fvm_error *err)
{
	const struct fvm_command *first = options->first;
	const char *program = first && first->argv.count ? first->argv.items[0] : NULL;
	int r = fvm_vm_policies(vm, program, err);
	if (r == 0 && vm->effective->init == FVM_INIT_SYSTEMD) {
		fvm_error_hint(err, "this fvm starts VMs with its own init only: --init fvm");
		r = fvm_error_set(err, EOPNOTSUPP, "have systemd as PID 1");
	}
	if (r == 0) {
		/* what is stored comes back afterwards: policies are never saved with it */
		struct fvm_config stored = vm->config;
		vm->config = *vm->effective;
		r = start_effective(vm, options, ret, err);
		vm->config = stored;
	}
	if (r < 0 && !vm->config.rootless)
		hint_rights(r, err);
	return r < 0 ? fvm_error_wrap(err, r, "start VM '%s'", vm->config.name) : 0;
}

void fvm_started_close(struct fvm_started *s)
{
	fvm_fd_closep(&s->pidfd);
	fvm_fd_closep(&s->report);
	fvm_fd_closep(&s->client);
	fvm_fd_closep(&s->prove);
	fvm_fd_closep(&s->ended);
	s->pidfd = s->report = s->client = s->prove = s->ended = -1;
	if (s->bait)
		(void)fvm_bait_take(s->bait);
	free(s->bait);
	s->bait = NULL;
}

int fvm_start_proof(struct fvm_started *s, struct fvm_proof *ret)
{
	if (s->bait && fvm_read_full(s->prove, ret, sizeof(*ret)) == sizeof(*ret)) {
		ret->name[sizeof(ret->name) - 1] = ret->what[sizeof(ret->what) - 1] = '\0';
		return 1;
	}
	int r = s->bait ? fvm_bait_take(s->bait) : 0;
	free(s->bait);
	s->bait = NULL;
	return r;
}

int fvm_start_wait_exec(struct fvm_started *s, struct fvm_error *err)
{
	struct fvm_error theirs, unheard;
	ssize_t n = fvm_read_full(s->report, &theirs, sizeof(theirs));
	close(fvm_fd_take(&s->report));
	if (n == 0)
		return 0;
	if (!take_report(&theirs, n, err ? err : &unheard))
		return fvm_error_set(err, EPROTO, "hear from PID 1");
	return -theirs.code;
}
