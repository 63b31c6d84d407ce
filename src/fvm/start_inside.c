/*
 * PID 1 between clone3() and fvm_init_main(): namespaces, network, host name.
 *
 * It runs on a copy of the starter's memory and calls nothing that another thread may have held a
 * lock of. What it waits for comes as a byte for each step: enum start_step.
 */
#include <errno.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>
#include <grp.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/internal.h"
#include "fvm/kernel.h"
#include "fvm/recorder.h"
#include "fvm/seccomp.h"
#include "fvm/start_priv.h"
#include "fvm/sys.h"

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
	/* the net thread connects it, and START_GO waits for that */
	if (s->has_net || has_outer_net(s))
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

/* PID 1 gets ready while its world is built, unless it takes a filter with a listener itself. */
static bool gets_ready_early(const struct start *s)
{
	return s->supervised || !s->options->trace;
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
	if (r == 0 && !gets_ready_early(s))
		r = init_trace(s, err);
	return r;
}

static unsigned int filter_flags(const struct fvm_config *c)
{
	return (c->io_uring ? FVM_FILTER_IO_URING : 0) |
	       (c->i386_sockets ? FVM_FILTER_I386_SOCKETS : 0);
}

_Noreturn void start_inside(const struct start *s)
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
		.watchdog = s->options->watchdog,
		.watchdog_file = s->watchdog,
		.plain_uid = s->ids.uid,
		.enter = gets_ready_early(s) ? enter_world : NULL,
		.enter_fd = s->go[0],
	};
	fvm_init_main(&args);
}
