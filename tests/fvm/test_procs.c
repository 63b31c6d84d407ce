/* src/fvm/procs.c, users.c, and freezer.c's way by signals, on processes of this test. */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#include "fvm/procs.h"
#include "tests/box.h"

static void stat_line_with_a_forged_name_is_read_right(void **state)
{
	struct fvm_proc p;
	(void)state;
	assert_int_equal(fvm_proc_parse("42 (x) R 1 (\n) S 7 42 42 0 -1 4194304 9 0 0 0 250 50 0 0 "
					"20 0 3 0 987 1000 25 18446744073709551615 0",
					100, 4096, &p),
			 0);
	assert_int_equal(p.pid, 42);
	assert_int_equal(p.parent, 7);
	assert_int_equal(p.state, 'S');
	assert_int_equal(p.threads, 3);
	assert_int_equal(p.start, 987);
	assert_int_equal(p.cpu_ns, 3000000000);
	assert_int_equal(p.memory_bytes, 25 * 4096);
	assert_string_equal(p.name, "x) R 1 (\n");
}

static void broken_stat_lines_are_refused(void **state)
{
	static const char *const lines[] = {
		"",	   "1",	      "1 (",
		"1 )(",	   "1 (a",    "1 (a)",
		"1 (a) S", "(a) S 1", "0 (a) S 7 42 42 0 -1 4 9 0 0 0 1 1 0 0"
	};
	struct fvm_proc p;
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(lines); i++)
		assert_int_equal(fvm_proc_parse(lines[i], 100, 4096, &p), -EBADMSG);
}

static _Noreturn void wait_for_ever(void)
{
	for (;;)
		pause();
}

/* A family like a VM's: a first process with children, one of them stopped by its own wish. */
static pid_t family_start(pid_t *ret_stopped)
{
	int pipe_fds[2];
	assert_int_equal(pipe(pipe_fds), 0);
	pid_t init = fork();
	if (init == 0) {
		pid_t pids[2];
		for (int i = 0; i < 2; i++) {
			pids[i] = fork();
			if (pids[i] == 0)
				wait_for_ever();
		}
		kill(pids[1], SIGSTOP);
		waitpid(pids[1], NULL, WUNTRACED);
		(void)!write(pipe_fds[1], &pids[1], sizeof(pids[1]));
		wait_for_ever();
	}
	assert_int_equal(read(pipe_fds[0], ret_stopped, sizeof(*ret_stopped)), sizeof(pid_t));
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	return init;
}

static void family_end(pid_t init)
{
	scoped_procs procs = { 0 };
	assert_int_equal(fvm_procs_list(NULL, init, &procs), 0);
	for (size_t i = 0; i < procs.count; i++)
		fvm_proc_signal(&procs.items[i], SIGKILL);
	waitpid(init, NULL, 0);
}

static void family_is_listed_with_command_lines(void **state)
{
	pid_t stopped, init = family_start(&stopped);
	scoped_procs procs = { 0 };
	(void)state;
	assert_int_equal(fvm_procs_list(NULL, init, &procs), 0);
	assert_int_equal(procs.count, 3);
	assert_int_equal(procs.items[0].pid, init);
	assert_int_equal(procs.items[1].parent, init);
	assert_int_equal(procs.items[0].uid, geteuid());
	fvm_procs_commands(&procs, 2000);
	assert_non_null(procs.items[2].command);
	assert_non_null(strstr(procs.items[2].command, "test_fvm_procs"));
	family_end(init);
}

static bool is_stopped(pid_t pid)
{
	struct fvm_proc p;
	return fvm_proc_read(pid, &p) == 0 && p.state == 'T';
}

static void signals_pause_all_and_resume_those_that_ran(void **state)
{
	const struct box *box = *state;
	pid_t stopped, init = family_start(&stopped);
	scoped_procs before = { 0 };
	assert_int_equal(fvm_procs_list(NULL, init, &before), 0);
	assert_false(is_stopped(init));
	assert_int_equal(fvm_signal_pause(init, box->dir, true, 3000), 0);
	assert_true(is_stopped(init));
	for (size_t i = 0; i < before.count; i++)
		assert_true(is_stopped(before.items[i].pid));
	assert_int_equal(fvm_signal_pause(init, box->dir, false, 0), 0);
	for (int i = 0; i < 100 && is_stopped(init); i++)
		usleep(10000);
	assert_false(is_stopped(init));
	assert_true(is_stopped(stopped));
	family_end(init);
}

static void later_owner_of_a_pid_gets_no_signal(void **state)
{
	pid_t stopped, init = family_start(&stopped);
	struct fvm_proc p;
	(void)state;
	assert_int_equal(fvm_proc_read(init, &p), 0);
	p.start++;
	assert_int_equal(fvm_proc_signal(&p, SIGKILL), -ESRCH);
	assert_int_equal(fvm_proc_read(init, &p), 0);
	family_end(init);
}

static void users_are_mapped_and_named(void **state)
{
	char name[64];
	struct fvm_users *u = fvm_users_open(getpid(), NULL);
	(void)state;
	assert_non_null(u);
	assert_int_equal(fvm_users_inside(u, 0), 0);
	assert_string_equal(fvm_users_name(u, 0, name), "root");
	assert_null(fvm_users_name(u, 4000000001U, name));
	fvm_users_free(u);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, box_setup, box_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(stat_line_with_a_forged_name_is_read_right),
		CASE(broken_stat_lines_are_refused),
		CASE(family_is_listed_with_command_lines),
		CASE(signals_pause_all_and_resume_those_that_ran),
		CASE(later_owner_of_a_pid_gets_no_signal),
		CASE(users_are_mapped_and_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
