/*
 * What a process has to give back of System V semaphores when it ends (SEM_UNDO). No call tells
 * it. kcmp(2) tells whether there is a list: it is not the same nothing that we have. But each
 * process that had a thread has one, empty as a rule; where there are no semaphores it must be.
 */
#include <errno.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vin/traits.h"

static bool has_list(pid_t tid)
{
	return syscall(SYS_kcmp, getpid(), tid, KCMP_SYSVSEM, 0, 0) > 0;
}

static int refuse(pid_t pid, struct fvm_error *err)
{
	return fvm_error_say(err, ENOTSUP,
			     "process %d may have semaphores of System V to undo (SEM_UNDO), which "
			     "nobody is shown",
			     pid);
}

/* An ordinary user may go there by way of his own user namespace. */
static _Noreturn void look(int pidfd)
{
	struct seminfo info = { 0 };
	bool there =
		setns(pidfd, CLONE_NEWIPC) == 0 || setns(pidfd, CLONE_NEWUSER | CLONE_NEWIPC) == 0;
	_exit(there && syscall(SYS_semctl, 0, 0, SEM_INFO, &info) >= 0 && info.semusz > 0);
}

/* In its IPC namespace, where only a child of ours may go; false when that may not either. */
static bool has_semaphores(pid_t pid)
{
	int status = 0;
	scoped_fd pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	pid_t child = pidfd < 0 ? -1 : fork();
	if (child == 0)
		look(pidfd);
	return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
	       WEXITSTATUS(status) == 1;
}

static int check(pid_t pid, pid_t tid, struct fvm_error *err)
{
	bool shared = pid != tid && syscall(SYS_kcmp, pid, tid, KCMP_SYSVSEM, 0, 0) == 0;
	return !shared && has_list(tid) && has_semaphores(pid) ? refuse(pid, err) : 0;
}

static int ask(struct vin_steps *s, struct fvm_error *err)
{
	(void)err;
	uint64_t at = vin_steps_data(s, NULL, sizeof(struct seminfo));
	VIN_STEP(s, NULL, SYS_semctl, 0, 0, SEM_INFO, at);
	return 0;
}

static int put(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
	       struct fvm_error *err)
{
	(void)to;
	const struct seminfo *info = vin_steps_told(s, told->args[3]);
	if (told->result >= 0 && info->semusz > 0 && has_list(s->t->tid))
		return refuse(s->t->pid, err);
	return 0;
}

static int replay(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		  struct fvm_error *err)
{
	(void)s;
	(void)told;
	(void)from;
	(void)err;
	return 0;
}

const struct vin_trait vin_undo = {
	.name = "semaphores to undo", .check = check, .ask = ask, .put = put, .replay = replay
};
