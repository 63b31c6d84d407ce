#include "tests/box.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/orphans.h"

static void only_who_never_hears_of_children_reaps_none(void **state)
{
	(void)state;
	const char *sleeper = "Name:\tsleep\nSigBlk:\t0000000000000000\n"
			      "SigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n";
	const char *shell = "Name:\tsh\nSigBlk:\t0000000000000000\n"
			    "SigIgn:\t0000000000000000\nSigCgt:\t0000000000010002\n";
	const char *waiter = "Name:\ttini\nSigBlk:\t0000000000010000\n"
			     "SigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n";
	assert_false(fvm_orphans_are_reaped(sleeper));
	assert_true(fvm_orphans_are_reaped(shell));
	assert_true(fvm_orphans_are_reaped(waiter));
	assert_true(fvm_orphans_are_reaped("Name:\tx\n"));
}

/* In a child of its own, whose orphans are nobody else's. */
static void orphans_are_waited_for_within_their_time(void **state)
{
	int status;
	(void)state;
	pid_t parent = fork();
	if (parent == 0) {
		(void)prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
		pid_t first = fork();
		if (first == 0) {
			if (fork() == 0)
				usleep(20000);
			_exit(0);
		}
		fvm_orphans_reap(2000);
		_exit(waitpid(-1, NULL, WNOHANG) == -1 ? 0 : 1);
	}
	assert_int_equal(waitpid(parent, &status, 0), parent);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_who_never_hears_of_children_reaps_none),
		cmocka_unit_test(orphans_are_waited_for_within_their_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
