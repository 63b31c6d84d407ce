/*
 * Children that work beside us, with our memory and our descriptors, while we wait; or with our
 * descriptors only, when they become somebody else. What they have begun they finish, whatever
 * becomes of us. One may be born in the pid namespace of the programs:
 * it is told their numbers as they know them, those of who has ended, too.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vin/unix.h"

#define STACK (256U << 10)

int unix_await(pid_t pid)
{
	int status;
	pid_t r = pid;
	do
		r = pid < 0 ? pid : waitpid(pid, &status, __WALL);
	while (r < 0 && pid >= 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -ECANCELED;
}

int unix_beside(int (*fn)(void *arg), void *arg)
{
	sigset_t all, before;
	char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (stack == MAP_FAILED)
		return -ENOMEM;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	int pid = clone(fn, stack + STACK, CLONE_VM | CLONE_VFORK | CLONE_FILES, arg);
	int r = pid < 0 ? -errno : 0;
	if (pid > 0)
		(void)unix_await(pid);
	sigprocmask(SIG_SETMASK, &before, NULL);
	munmap(stack, STACK);
	return r;
}

int unix_apart(int (*fn)(void *arg), void *arg)
{
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FILES, 0, 0, 0, 0);
	if (pid == 0)
		_exit(-fn(arg) & 0xff);
	return unix_await(pid);
}

struct visit {
	int pidfd; /* of who is there */
	int (*fn)(void *arg);
	void *arg;
	enum unix_view *view; /* is known when @fn runs */
	int r;
};

static int go_there(void *arg)
{
	struct visit *v = arg;
	*v->view = UNIX_NUMBERS;
	if (setns(v->pidfd, CLONE_NEWPID) < 0) {
		/* who owns the user namespace may do it from there, and counts ids as it does */
		*v->view = UNIX_ALL;
		if (setns(v->pidfd, CLONE_NEWUSER) < 0 || setns(v->pidfd, CLONE_NEWPID) < 0)
			return v->r = -errno;
	}
	return v->r = unix_beside(v->fn, v->arg);
}

static bool is_ours(pid_t pid)
{
	char path[40];
	struct stat here, there;
	snprintf(path, sizeof(path), "/proc/%d/ns/pid", pid);
	return stat("/proc/self/ns/pid", &here) == 0 && stat(path, &there) == 0 &&
	       vin_same_inode(&here, &there);
}

int unix_among(pid_t pid, int (*fn)(void *arg), void *arg, enum unix_view *view)
{
	scoped_fd pidfd = pidfd_open(pid, 0);
	struct visit v = { .pidfd = pidfd, .fn = fn, .arg = arg, .view = view, .r = -ESRCH };
	*view = UNIX_NUMBERS;
	if (is_ours(pid))
		return unix_beside(fn, arg);
	int r = pidfd < 0 ? 0 : unix_beside(go_there, &v);
	if (r < 0 || v.r == 0)
		return r;
	*view = UNIX_NOTHING;
	return unix_beside(fn, arg);
}
