/*
 * The builder of a starting VM: makes PID 1, then its world around it (build.h).
 *
 * It shares the starter's memory, which sleeps meanwhile (fvm_spawn_shared()). An ordinary user's
 * (start_user.c) takes the same steps, in an order of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <unistd.h>

#include "fvm/doctor_fix.h"
#include "fvm/internal.h"
#include "fvm/start_priv.h"
#include "fvm/sys.h"

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

static int refused(struct start *s, int error)
{
	if (error == ENOSPC || error == EUSERS || error == EPERM || error == EACCES)
		fvm_userns_hint(error, &s->err);
	return fvm_error_set(&s->err, error, "make the VM's namespaces");
}

/* While it waits to be let go: afterwards PID 1 is nobody's to look at. */
static int open_userns(pid_t init)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)init);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
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
		start_inside(s);
	pay_as(s, 0);
	if (pid < 0)
		return refused(s, -pid);
	s->init = pid;
	s->pidfd = pidfd;
	s->userns = open_userns(pid);
	/* it waits for its ids before it does anything. A user's has no processor to itself */
	if (!s->vm->config.rootless)
		fvm_task_push(pid);
	/* PID 1 alone holds it from here on: a helper that starts slowly, and has not come to
	 * closing what it inherited, would keep a VM alive that has ended */
	close(fvm_fd_take(&s->alive));
	if (s->userns < 0)
		return fvm_error_set(&s->err, -s->userns, "open the VM's user namespace");
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
		.copying = s->options->copying,
		.throw_away = s->options->throw_away,
		.disk = s->disk,
		.systemd = s->vm->config.init == FVM_INIT_SYSTEMD,
		.own_cgroups = give_cgroups(s),
		.init_pidfd = s->pidfd,
		.userns = s->userns,
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

int start_build(void *arg)
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
		r = start_net_heard(s);
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
	s->world = openat(proc, "self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (r == 0)
		r = start_build_world(s);
	return r < 0;
}
