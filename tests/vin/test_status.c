#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "vin/status.h"

#define TAIL                                                                                       \
	" 0 4194560 100 0 0 0 5 6 7 8 20 -3 2 0 4242 1000 200 18446744073709551615 4096 8192 "     \
	"140000 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 9000 9500 10000 140100 140200 140300 140400 "     \
	"1792\n"

static void a_name_may_hold_brackets_and_newlines(void **state)
{
	(void)state;
	struct vin_stat s = { 0 };
	assert_int_equal(vin_stat_parse("77 (a) R 1\n(b) T 12 77 70 34816" TAIL, &s), 0);
	assert_string_equal(s.comm, "a) R 1\n(b");
	assert_int_equal(vin_stat_parse("77 (a) (\nb)) T 12 77 70 34816" TAIL, &s), 0);
	assert_string_equal(s.comm, "a) (\nb)");
	assert_int_equal(s.state, 'T');
	assert_int_equal(s.parent, 12);
	assert_int_equal(s.group, 77);
	assert_int_equal(s.session, 70);
	assert_int_equal(s.terminal, 34816);
}

static void fields_are_where_the_manual_says(void **state)
{
	(void)state;
	struct vin_stat s = { 0 };
	assert_int_equal(vin_stat_parse("77 (x) S 12 77 70 34816" TAIL, &s), 0);
	assert_int_equal(s.nice, -3);
	assert_int_equal(s.threads, 2);
	assert_int_equal(s.start_ticks, 4242);
	assert_int_equal(s.code_start, 4096);
	assert_int_equal(s.code_end, 8192);
	assert_int_equal(s.stack_start, 140000);
	assert_int_equal(s.exit_signal, 17);
	assert_int_equal(s.brk_start, 10000);
	assert_int_equal(s.args_start, 140100);
	assert_int_equal(s.env_end, 140400);
	assert_int_equal(WEXITSTATUS(s.exit_code), 7);
}

static void what_is_cut_or_no_stat_is_refused(void **state)
{
	(void)state;
	static const char *const bad[] = { "",
					   "77",
					   "77 (x",
					   "77 (x)",
					   "77 (x) ",
					   "77 (x) S 1 2 3",
					   "77 )x( S 1 2 3",
					   "77 (x) S 1 q" };
	for (size_t i = 0; i < FVM_COUNT(bad); i++) {
		struct vin_stat s;
		assert_int_equal(vin_stat_parse(bad[i], &s), -EBADMSG);
	}
}

static void a_status_is_taken_apart(void **state)
{
	(void)state;
	scoped_status s = { 0 };
	assert_int_equal(
		vin_status_parse("Name:\ta\\nb\nUmask:\t0027\nState:\tS (sleeping)\n"
				 "TracerPid:\t9\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n"
				 "Groups:\t24 25 4294967294 \nNStgid:\t900\t12\nNSpid:\t901\t13\n"
				 "NSpgid:\t900\t12\nNSsid:\t800\t0\nSigQ:\t0/1\n"
				 "ShdPnd:\t0000000000000200\nSigBlk:\tfffffffe7ffbfeff\n"
				 "CapBnd:\t000001ffffffffff\nNoNewPrivs:\t1\nSeccomp:\t2\n"
				 "Seccomp_filters:\t3\nSomething_new:\t1 2\n",
				 &s),
		0);
	assert_int_equal(s.umask, 027);
	assert_int_equal(s.tracer, 9);
	assert_int_equal(s.uid.fs, 4);
	assert_int_equal(s.gid.real, 5);
	assert_int_equal(s.group_count, 3);
	assert_true(s.groups[2] == 4294967294U);
	assert_int_equal(s.depth, 2);
	assert_int_equal(s.pids[1], 13);
	assert_int_equal(s.leaders[1], 12);
	assert_int_equal(s.sessions[1], 0);
	assert_true(s.process_pending == 0x200 && s.blocked == 0xfffffffe7ffbfeff);
	assert_true(s.bounding == 0x1ffffffffff);
	assert_true(s.no_new_privs);
	assert_int_equal(s.seccomp, 2);
	assert_int_equal(s.filters, 3);
}

static void what_is_no_status_is_refused(void **state)
{
	(void)state;
	static const char *const bad[] = {
		"",
		"Name:\tx\n",			     /* of nobody */
		"Umask:\t0022\nNSpid:\t1\n",	     /* no name */
		"Name:\tx\nNSpid:\tone\n",	     /* no number */
		"Name:\tx\nNSpid:\t1\nUid:\t1 2\n",  /* too few */
		"Name:\tx\nNSpid:\t1\nno colon\n",   /* no field */
		"Name:\tx\nNSpid:\t1\nGroups:\tx\n", /* no group */
	};
	for (size_t i = 0; i < FVM_COUNT(bad); i++) {
		scoped_status s = { 0 };
		assert_int_equal(vin_status_parse(bad[i], &s), -EBADMSG);
	}
}

static void we_are_who_we_are(void **state)
{
	(void)state;
	struct vin_stat stat;
	scoped_status status = { 0 };
	(void)umask(0127);
	assert_int_equal(prctl(PR_SET_NAME, ") S 1 (\n"), 0);
	assert_int_equal(vin_stat_read(getpid(), getpid(), &stat, NULL), 0);
	assert_int_equal(vin_status_read(getpid(), getpid(), &status, NULL), 0);
	assert_string_equal(stat.comm, ") S 1 (\n");
	assert_int_equal(stat.state, 'R');
	assert_int_equal(stat.parent, getppid());
	assert_int_equal(stat.group, getpgrp());
	assert_int_equal(stat.session, getsid(0));
	assert_int_equal(status.umask, 0127);
	assert_int_equal(status.uid.effective, geteuid());
	assert_int_equal(status.pids[0], getpid());
	assert_true(stat.brk_start > 0 && stat.brk_start <= (uint64_t)sbrk(0));
}

static void a_zombie_tells_how_it_ended(void **state)
{
	(void)state;
	struct vin_stat stat;
	pid_t pid = fork();
	if (pid == 0)
		_exit(5);
	siginfo_t info;
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(vin_stat_read(pid, pid, &stat, NULL), 0);
	assert_int_equal(stat.state, 'Z');
	assert_int_equal(WEXITSTATUS(stat.exit_code), 5);
	assert_int_equal(stat.exit_signal, SIGCHLD);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(vin_stat_read(pid, pid, &stat, NULL), -ESRCH);
}

static void one_in_a_namespace_has_two_numbers(void **state)
{
	(void)state;
	scoped_status here = { 0 }, there = { 0 };
	struct clone_args args = { .flags = CLONE_NEWPID, .exit_signal = SIGCHLD };
	if (geteuid() != 0)
		args.flags |= CLONE_NEWUSER;
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	assert_true(pid >= 0);
	if (pid == 0) {
		pause();
		_exit(0);
	}
	assert_int_equal(vin_status_read(getpid(), getpid(), &here, NULL), 0);
	int r = vin_status_read(pid, pid, &there, NULL);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_int_equal(r, 0);
	assert_int_equal(there.depth, here.depth + 1);
	assert_int_equal(there.pids[here.depth], 1);
	assert_int_equal(there.leaders[here.depth], 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_name_may_hold_brackets_and_newlines),
		cmocka_unit_test(fields_are_where_the_manual_says),
		cmocka_unit_test(what_is_cut_or_no_stat_is_refused),
		cmocka_unit_test(a_status_is_taken_apart),
		cmocka_unit_test(what_is_no_status_is_refused),
		cmocka_unit_test(we_are_who_we_are),
		cmocka_unit_test(a_zombie_tells_how_it_ended),
		cmocka_unit_test(one_in_a_namespace_has_two_numbers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
