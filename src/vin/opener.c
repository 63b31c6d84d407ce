#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vin/opener.h"

#define STACK_SIZE (1 << 20)
#define LOOK_MS	   200 /* whether it is still there */

struct vin_opener {
	pid_t pid, owner;
	int within;
	void *stack;
	sem_t asked, done;
	int (*fn)(void *arg); /* NULL: end */
	void *arg;
	int result;
};

/* By calls of the kernel: the library's would tell all threads. */
int vin_be_root(void)
{
	(void)syscall(SYS_setgroups, 0, NULL);
	/* an ordinary user's may have no root: then we are the one user there is */
	if ((syscall(SYS_setresgid, 0, 0, 0) < 0 && errno != EINVAL) ||
	    (syscall(SYS_setresuid, 0, 0, 0) < 0 && errno != EINVAL))
		return -errno;
	return 0;
}

int vin_become_root(int within)
{
	return setns(within, CLONE_NEWUSER) < 0 ? -errno : vin_be_root();
}

static int settle(const struct vin_opener *o)
{
	const int r = vin_become_root(o->within);
	if (r < 0)
		return r;
	/* forgotten whenever ids change; without the second, /proc/self belongs to others. Nobody
	 * in the programs' pid namespace sees us */
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)prctl(PR_SET_DUMPABLE, 1);
	return getppid() == o->owner ? 0 : -ESRCH;
}

static int be_opener(void *arg)
{
	struct vin_opener *o = arg;
	const int r = o->result = settle(o);
	(void)sem_post(&o->done);
	while (r == 0) {
		while (sem_wait(&o->asked) < 0)
			;
		if (!o->fn)
			return 0;
		o->result = o->fn(o->arg);
		(void)sem_post(&o->done);
	}
	return 0; /* whose owner is gone already gets no signal */
}

static bool is_there(const struct vin_opener *o)
{
	siginfo_t info = { 0 };
	return waitid(P_PID, (id_t)o->pid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0 &&
	       info.si_pid == 0;
}

static int await(struct vin_opener *o)
{
	for (;;) {
		struct timespec until;
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += LOOK_MS * 1000000L;
		until.tv_sec += until.tv_nsec / 1000000000L;
		until.tv_nsec %= 1000000000L;
		if (sem_timedwait(&o->done, &until) == 0)
			return o->result;
		if (errno != EINTR && !is_there(o))
			return -EPIPE;
	}
}

static int start(struct vin_opener *o)
{
	sigset_t all, old;
	o->stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (o->stack == MAP_FAILED)
		return -errno;
	(void)sem_init(&o->asked, 0, 0);
	(void)sem_init(&o->done, 0, 0);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	o->pid = clone(be_opener, (char *)o->stack + STACK_SIZE, CLONE_VM | CLONE_FILES, o);
	int r = o->pid < 0 ? -errno : 0;
	sigprocmask(SIG_SETMASK, &old, NULL);
	return r < 0 ? r : await(o);
}

/* setns(2) refuses to enter the user namespace that one is in. */
static int is_ours(pid_t within)
{
	char path[40];
	struct stat ours, its;
	snprintf(path, sizeof(path), "/proc/%d/ns/user", within);
	if (stat("/proc/self/ns/user", &ours) < 0 || stat(path, &its) < 0)
		return -errno;
	return ours.st_dev == its.st_dev && ours.st_ino == its.st_ino;
}

int vin_opener_start(pid_t within, struct vin_opener **ret, struct fvm_error *err)
{
	const int here = is_ours(within);
	*ret = NULL;
	if (here != 0)
		return here > 0 ? 0
				: fvm_error_set(err, -here, "look at the programs' user namespace");
	struct vin_opener *o = calloc(1, sizeof(*o));
	if (!o)
		return fvm_error_set(err, ENOMEM, "enter the programs' user namespace");
	o->stack = MAP_FAILED;
	o->owner = getpid();
	o->within = pidfd_open(within, 0);
	int r = o->within < 0 ? -errno : start(o);
	if (r < 0) {
		vin_opener_end(o);
		return fvm_error_set(err, -r, "enter the programs' user namespace");
	}
	*ret = o;
	return 0;
}

int vin_opener_do(struct vin_opener *o, int (*fn)(void *arg), void *arg)
{
	if (!o)
		return fn(arg);
	o->fn = fn;
	o->arg = arg;
	(void)sem_post(&o->asked);
	return await(o);
}

void vin_opener_end(struct vin_opener *o)
{
	if (!o)
		return;
	if (o->pid > 0) {
		o->fn = NULL;
		(void)sem_post(&o->asked);
		(void)waitpid(o->pid, NULL, __WALL);
	}
	if (o->stack != MAP_FAILED)
		munmap(o->stack, STACK_SIZE);
	fvm_fd_closep(&o->within);
	free(o);
}
