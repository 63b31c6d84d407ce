#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/cgroup.h"
#include "fvm/lock.h"
#include "fvm/pause.h"
#include "fvm/sys.h"

/* What both directions need of a running VM. */
struct target {
	struct fvm_running running;
	struct fvm_cgroups cgroups;
	int pidfd, run_dir;
};

static void target_close(struct target *t)
{
	fvm_running_free(&t->running);
	fvm_fd_closep(&t->pidfd);
	fvm_fd_closep(&t->run_dir);
}

#define scoped_target __attribute__((cleanup(target_close))) struct target

static int target_open(const struct fvm_vm *vm, struct target *t, struct fvm_error *err)
{
	int r = fvm_running_load(vm, &t->running, err);
	if (r < 0)
		return r;
	t->pidfd = fvm_running_pidfd(&t->running);
	if (t->pidfd < 0)
		return fvm_error_set(err, -t->pidfd, "find PID 1 of VM '%s'", vm->config.name);
	t->run_dir = fvm_vm_run_dir(vm, false);
	if (t->run_dir < 0)
		return fvm_error_set(err, -t->run_dir, "open the run directory of VM '%s'",
				     vm->config.name);
	r = fvm_cgroup_named(t->running.cgroup, &t->cgroups);
	return r < 0 ? fvm_error_set(err, -r, "find the cgroups of VM '%s'", vm->config.name) : 0;
}

static int stop_or_go(const struct target *t, bool stop, unsigned int timeout_ms)
{
	int r = fvm_cgroup_freeze(&t->cgroups, stop, timeout_ms);
	if (r == -ENODEV || r == -EACCES || r == -EPERM)
		r = fvm_signal_pause(t->running.init_pid, t->run_dir, stop, timeout_ms);
	return r;
}

int fvm_vm_pause(const struct fvm_vm *vm, unsigned int timeout_ms, bool *ret_was,
		 struct fvm_error *err)
{
	scoped_target t = { .pidfd = -1, .run_dir = -1 };
	int r = target_open(vm, &t, err);
	if (r < 0)
		return r;
	bool was = faccessat(t.run_dir, "paused", F_OK, 0) == 0;
	if (!was)
		r = stop_or_go(&t, true, timeout_ms);
	if (r < 0) {
		if (r == -ETIMEDOUT)
			fvm_error_hint(err,
				       "one of its processes waits inside the kernel "
				       "(state D in fvm ps %s); it runs on",
				       vm->config.name);
		return fvm_error_set(err, -r, "pause VM '%s'", vm->config.name);
	}
	scoped_fd mark = openat(t.run_dir, "paused", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (mark < 0) {
		r = fvm_error_set(err, errno, "note that VM '%s' is paused", vm->config.name);
		(void)stop_or_go(&t, false, timeout_ms);
		return r;
	}
	if (ret_was)
		*ret_was = was;
	return 0;
}

int fvm_vm_resume(const struct fvm_vm *vm, struct fvm_error *err)
{
	scoped_target t = { .pidfd = -1, .run_dir = -1 };
	int r = target_open(vm, &t, err);
	if (r < 0)
		return r;
	if (unlinkat(t.run_dir, "paused", 0) < 0 && errno != ENOENT)
		return fvm_error_set(err, errno, "resume VM '%s'", vm->config.name);
	r = stop_or_go(&t, false, 5000);
	return r < 0 ? fvm_error_set(err, -r, "resume VM '%s'", vm->config.name) : 0;
}

/* ---- for a moment ---- */

#define END_MS	10000
#define HELD	"held"
#define HOLD_MS 10000

static void release(const struct target *t)
{
	(void)stop_or_go(t, false, HOLD_MS);
	(void)unlinkat(t->run_dir, HELD, 0);
}

void fvm_vm_let_go(const struct fvm_vm *vm)
{
	scoped_fd run = fvm_vm_run_dir(vm, false);
	if (run < 0 || faccessat(run, HELD, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	scoped_target t = { .pidfd = -1, .run_dir = -1 };
	if (target_open(vm, &t, NULL) < 0)
		return;
	log_warn("VM '%s' was held by a command that was killed: it goes on", vm->config.name);
	release(&t);
}

/* Whatever ends our caller, the pipe's other end closes. Out of its terminal's reach. */
static _Noreturn void stand_by(const struct target *t, int pipe)
{
	char byte;
	(void)setsid();
	fvm_null_stdio();
	if (read(pipe, &byte, 1) != 1)
		release(t);
	_exit(0);
}

static pid_t start_guard(const struct target *t, int *ret_pipe)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	pid_t pid = fork();
	if (pid == 0) {
		close(ends[1]);
		stand_by(t, ends[0]);
	}
	int r = pid < 0 ? -errno : pid;
	close(ends[0]);
	if (pid < 0)
		close(ends[1]);
	else
		*ret_pipe = ends[1];
	return r;
}

static int hold(const struct fvm_vm *vm, struct target *t, pid_t *ret_guard, int *ret_pipe,
		struct fvm_error *err)
{
	int r = target_open(vm, t, err);
	if (r < 0)
		return r;
	scoped_fd mark = openat(t->run_dir, HELD, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	pid_t guard = mark < 0 ? -errno : start_guard(t, ret_pipe);
	if (guard < 0)
		return fvm_error_set(err, -guard, "hold VM '%s'", vm->config.name);
	*ret_guard = guard;
	r = stop_or_go(t, true, HOLD_MS);
	if (r == -ETIMEDOUT)
		fvm_error_hint(err, "one of its processes waits inside the kernel: try again");
	return r < 0 ? fvm_error_set(err, -r, "hold VM '%s'", vm->config.name) : 0;
}

int fvm_vm_while_paused(const struct fvm_vm *vm, int (*fn)(void *arg, struct fvm_error *err),
			void *arg, int64_t *ret_still_ns, struct fvm_error *err)
{
	scoped_target t = { .pidfd = -1, .run_dir = -1 };
	scoped_fd pipe = -1;
	pid_t guard = -1;
	*ret_still_ns = 0;
	if (vm->held || fvm_vm_state(vm) != FVM_RUNNING)
		return fn(arg, err);
	int64_t from = fvm_clock_ns();
	int r = hold(vm, &t, &guard, &pipe, err);
	if (r == 0)
		r = FVM_FAULT("pause.held");
	if (r == 0)
		r = fn(arg, err);
	if (t.run_dir >= 0)
		release(&t);
	*ret_still_ns = fvm_clock_ns() - from;
	if (guard > 0) {
		(void)!write(pipe, "d", 1);
		(void)waitpid(guard, NULL, 0);
	}
	return r;
}

int fvm_vm_kill(const struct fvm_vm *vm, unsigned int timeout_ms, struct fvm_error *err)
{
	scoped_target t = { .pidfd = -1, .run_dir = -1 };
	int r = target_open(vm, &t, err);
	if (r < 0)
		return r;
	/* the kernel kills all of a pid namespace with its PID 1; v1's freezer holds them until
	 * thawed */
	r = sys_pidfd_send_signal(t.pidfd, SIGKILL);
	if (r < 0 && r != -ESRCH)
		return fvm_error_set(err, -r, "kill VM '%s'", vm->config.name);
	(void)fvm_cgroup_kill(&t.cgroups);
	struct pollfd p = { .fd = t.pidfd, .events = POLLIN };
	if (poll(&p, 1, (int)timeout_ms) > 0)
		return 0;
	fvm_error_hint(err, "one of its processes is stuck inside the kernel");
	return fvm_error_set(err, ETIMEDOUT, "wait for VM '%s' to end", vm->config.name);
}

int fvm_vm_end(const struct fvm_vm *vm, struct fvm_error *err)
{
	struct fvm_error mine = { 0 };
	/* one whose starter was killed is about to end, and has no state yet */
	int r = fvm_vm_has_ended(vm) ? 0 : fvm_vm_kill(vm, END_MS, &mine);
	if (r < 0 && r != -ESRCH) {
		if (err)
			*err = mine;
		return r;
	}
	for (int ms = 0; ms < END_MS && !fvm_vm_has_ended(vm); ms++)
		fvm_sleep_ms(1);
	if (fvm_lock_alive(vm->dir))
		return fvm_error_set(err, ETIMEDOUT, "wait for VM '%s' to end", vm->config.name);
	fvm_tidy_stopped(vm);
	return 0;
}
