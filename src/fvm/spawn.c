/*
 * A child that shares our memory, as vfork() makes it, but with a stack of its own and born in a
 * cgroup. The C library has no wrapper for that: its clone() can't name a cgroup, and a raw
 * clone3() with CLONE_VM returns twice on one stack. So the few instructions between the system
 * call and the call of @fn are ours, per architecture; elsewhere, and where a filter refuses
 * clone3(), clone() does, and the child moves itself (10 ms instead of 0.2).
 */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/start.h"
#include "fvm/sys.h"

#define STACK_BYTES (256 * 1024)

struct moved {
	int (*fn)(void *);
	void *arg;
	int cgroup;
};

static int move_and_run(void *p)
{
	const struct moved *m = p;
	if (m->cgroup >= 0 && fvm_write_file(m->cgroup, "cgroup.procs", "0") < 0)
		return 1;
	return m->fn(m->arg);
}

static int spawn_and_move(int (*fn)(void *), void *arg, int cgroup, char *stack)
{
	struct moved m = { fn, arg, cgroup };
	int pid = clone(move_and_run, stack + STACK_BYTES,
			CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD, &m);
	return pid < 0 ? -errno : pid;
}

#if defined(__x86_64__)
static long clone3_call(const struct clone_args *args, int (*fn)(void *), void *arg)
{
	long ret = SYS_clone3;
	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "mov %[arg], %%rdi\n\t"
			 "call *%[fn]\n\t"
			 "mov %%eax, %%edi\n\t"
			 "mov $60, %%eax\n\t" /* exit(2) */
			 "syscall\n\t"
			 "1:\n\t"
			 : "+a"(ret)
			 : "D"(args), "S"(sizeof(*args)), [fn] "r"(fn), [arg] "r"(arg)
			 : "rcx", "r11", "memory", "cc");
	return ret;
}

static int spawn_in_cgroup(int (*fn)(void *), void *arg, int cgroup, char *stack)
{
	const struct clone_args args = {
		.flags = CLONE_VM | CLONE_VFORK | CLONE_FILES |
			 (cgroup >= 0 ? CLONE_INTO_CGROUP : 0),
		.exit_signal = SIGCHLD,
		.stack = (uintptr_t)stack,
		.stack_size = STACK_BYTES,
		.cgroup = cgroup >= 0 ? (uint64_t)cgroup : 0,
	};
	return (int)clone3_call(&args, fn, arg);
}
#endif

static int spawn(int (*fn)(void *), void *arg, int cgroup, char *stack)
{
#if defined(__x86_64__)
	int pid = spawn_in_cgroup(fn, arg, cgroup, stack);
	if (pid != -ENOSYS)
		return pid;
#endif
	return spawn_and_move(fn, arg, cgroup, stack);
}

int fvm_spawn_shared(int (*fn)(void *arg), void *arg, int cgroup)
{
	sigset_t all, old;
	char *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (stack == MAP_FAILED)
		return -errno;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	int pid = spawn(fn, arg, cgroup, stack);
	int status = 0;
	if (pid > 0) {
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	}
	sigprocmask(SIG_SETMASK, &old, NULL);
	munmap(stack, STACK_BYTES);
	if (pid < 0)
		return pid;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -ECHILD;
}

/* ---- on another processor ---- */

/* All processors but ours, if we may run on every one. Not the C library's sched_getcpu(): in a
 * child that shares our memory it tells of another. */
static bool other_processors(cpu_set_t *ret)
{
	unsigned int here;
	/* there may be more processors than the set has room for */
	if (sched_getaffinity(0, sizeof(*ret), ret) < 0 ||
	    CPU_COUNT(ret) != sysconf(_SC_NPROCESSORS_ONLN) ||
	    syscall(SYS_getcpu, &here, NULL, NULL) < 0 || here >= CPU_SETSIZE)
		return false;
	CPU_CLR(here, ret);
	return CPU_COUNT(ret) > 0;
}

/* Not only those that there are now: an affinity is inherited, and VMs may get more one day. */
static void all_processors(pid_t task)
{
	cpu_set_t all;
	memset(&all, 0xff, sizeof(all));
	(void)sched_setaffinity(task, sizeof(all), &all);
}

void fvm_task_push(pid_t task)
{
	cpu_set_t others;
	if (!other_processors(&others))
		return;
	(void)sched_setaffinity(task, sizeof(others), &others);
	all_processors(task);
}

void fvm_task_wake(pid_t task, sem_t *sem)
{
	cpu_set_t others;
	bool apart =
		other_processors(&others) && sched_setaffinity(task, sizeof(others), &others) == 0;
	sem_post(sem);
	if (apart)
		all_processors(task);
}

/* ---- threads ---- */

/* What a thread starts with that begins on another processor. */
struct apart {
	void *(*fn)(void *arg);
	void *arg;
};

static int start_with(pthread_t *ret, const cpu_set_t *where, void *(*fn)(void *arg), void *arg)
{
	pthread_attr_t attr;
	sigset_t all, old;
	int r = pthread_attr_init(&attr);
	if (r)
		return -r;
	(void)pthread_attr_setstacksize(&attr, STACK_BYTES);
	if (where)
		(void)pthread_attr_setaffinity_np(&attr, sizeof(*where), where);
	(void)mallopt(M_ARENA_MAX, 1); /* one more heap is not worth it for a millisecond */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(ret, &attr, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return -r;
}

int fvm_thread_start(pthread_t *ret, void *(*fn)(void *arg), void *arg)
{
	return start_with(ret, NULL, fn, arg);
}

static void *run_apart(void *p)
{
	struct apart own = *(struct apart *)p;
	free(p);
	all_processors(0);
	return own.fn(own.arg);
}

int fvm_thread_start_apart(pthread_t *ret, void *(*fn)(void *arg), void *arg)
{
	cpu_set_t others;
	struct apart *own = malloc(sizeof(*own));
	if (!own)
		return -ENOMEM;
	*own = (struct apart){ .fn = fn, .arg = arg };
	/* it may fail where there is one processor less than a moment ago */
	if (other_processors(&others) && start_with(ret, &others, run_apart, own) == 0)
		return 0;
	free(own);
	return start_with(ret, NULL, fn, arg);
}
