/* Programs that vin is tried on: a child that runs one function and shares a board with the test. */
#ifndef FVM_TESTS_VICTIM_H
#define FVM_TESTS_VICTIM_H

#include <linux/sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "checks.h"
#include "vin/task.h"

/* What victims and the test both see. */
static struct board {
	volatile uint64_t rounds; /* of work, each checked */
	volatile uint64_t wrong;  /* checks that failed */
	volatile uint64_t seen;	  /* what the victim wants to tell */
	volatile int ready;
	volatile int end;
} *board;
static struct vin_watch watch;
static pid_t last_victim;

static int victims_setup(void **state)
{
	(void)state;
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0);
	vin_watch_begin(&watch);
	return board == MAP_FAILED ? -1 : 0;
}

static int victims_teardown(void **state)
{
	(void)state;
	vin_watch_end(&watch);
	return munmap(board, sizeof(*board));
}

/* A child that runs @fn, and is ready when this returns.
 * @alone: as PID 1 of a namespace, so that nobody of it outlives it */
static pid_t victim(void (*fn)(void), bool alone)
{
	struct clone_args args = { .flags = CLONE_NEWPID, .exit_signal = SIGCHLD };
	if (geteuid() != 0)
		args.flags |= CLONE_NEWUSER;
	memset(board, 0, sizeof(*board));
	pid_t pid = alone ? (pid_t)syscall(SYS_clone3, &args, sizeof(args)) : fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		vin_watch_end(&watch);
		fn();
		_exit(0);
	}
	last_victim = pid;
	for (int i = 0; i < 30000 && !board->ready; i++)
		nap(1);
	assert_int_equal(board->ready, 1);
	return pid;
}

/* It has found nothing wrong, and ends by itself. */
__attribute__((unused)) static void victim_end(pid_t pid)
{
	int status;
	board->end = 1;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	last_victim = 0;
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_int_equal(board->wrong, 0);
}

/* After each test, whatever became of it. */
static int victim_kill(void **state)
{
	(void)state;
	if (last_victim > 0 && kill(last_victim, SIGKILL) == 0)
		waitpid(last_victim, NULL, 0);
	last_victim = 0;
	return 0;
}

#endif
