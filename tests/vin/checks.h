/* What all tests of vin share, for those that include setjmp.h and cmocka.h before. */
#ifndef FVM_TESTS_VIN_CHECKS_H
#define FVM_TESTS_VIN_CHECKS_H

#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "vin/status.h"

static struct fvm_error err;

/* It succeeds, or says why not. */
#define OK(x)                                                                                      \
	do {                                                                                       \
		err = (struct fvm_error){ 0 };                                                     \
		int r_ = (x);                                                                      \
		if (r_ < 0)                                                                        \
			fvm_error_print("test", &err);                                             \
		assert_int_equal(r_, 0);                                                           \
	} while (0)

__attribute__((unused)) static void nap(int ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000L };
	clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}

/* One letter, as of proc(5); '?': there is no such process */
__attribute__((unused)) static char process_state(pid_t pid)
{
	struct vin_stat st;
	return vin_stat_read(pid, pid, &st, NULL) < 0 ? '?' : st.state;
}

/* @pid and all below it, who would outlive a test that failed and hold what it writes to. */
__attribute__((unused)) static void kill_family(pid_t pid)
{
	char path[64];
	pid_t child;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	(void)kill(pid, SIGSTOP);
	FILE *f = fopen(path, "r");
	while (f && fscanf(f, "%d", &child) == 1)
		kill_family(child);
	if (f)
		fclose(f);
	(void)kill(pid, SIGKILL);
}

/* fork(), for one who does not outlive its parent. */
__attribute__((unused)) static pid_t fork_below(void)
{
	pid_t pid = fork();
	if (pid == 0)
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

#endif
