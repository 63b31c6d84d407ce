#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>

#include "victim.h"
#include "vin/tree.h"

static void goes_on(void)
{
	uint64_t before = board->rounds;
	for (int i = 0; i < 30000 && board->rounds == before; i++)
		nap(1);
	assert_true(board->rounds != before);
}

/* Nobody of a group counts on while its tree is stopped. */
static void stands_still(void)
{
	uint64_t before = board->rounds;
	nap(30);
	assert_int_equal(board->rounds, before);
}

/* ---- trees that grow while they are looked at ---- */

static void *make_threads(void *arg)
{
	pthread_t t;
	usleep(3000);
	if (!board->end && pthread_create(&t, NULL, make_threads, arg) == 0)
		pthread_detach(t);
	__atomic_add_fetch(&board->rounds, 1, __ATOMIC_RELAXED);
	return NULL;
}

static void thread_chains(void)
{
	for (int i = 0; i < 4; i++)
		make_threads(NULL);
	board->ready = 1;
	while (!board->end)
		nap(1);
	nap(20);
}

static void threads_that_make_threads_are_all_stopped(void **state)
{
	(void)state;
	pid_t pid = victim(thread_chains, true);
	for (int i = 0; i < 10; i++) {
		struct vin_tree tree = { 0 };
		OK(vin_tree_seize(&pid, 1, 30000, &tree, &err));
		assert_int_equal(tree.count, 1);
		assert_true(tree.procs[0].thread_count >= 2);
		assert_int_equal(tree.procs[0].threads[0].tid, pid);
		stands_still();
		vin_tree_release(&tree);
		goes_on();
	}
	victim_end(pid);
}

/* Each child makes the next and ends: orphans, zombies and births all the time. */
static void fork_chains(void)
{
	for (int i = 0; i < 3; i++) {
		if (fork() == 0) {
			while (!board->end) {
				pid_t next = fork();
				if (next == 0) {
					usleep(3000);
					continue;
				}
				__atomic_add_fetch(&board->rounds, 1, __ATOMIC_RELAXED);
				_exit(0);
			}
			_exit(0);
		}
	}
	board->ready = 1;
	while (!board->end) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		nap(1);
	}
	while (waitpid(-1, NULL, 0) > 0)
		;
}

static void processes_that_make_processes_are_all_stopped(void **state)
{
	(void)state;
	pid_t pid = victim(fork_chains, true);
	for (int i = 0; i < 10; i++) {
		struct vin_tree tree = { 0 };
		OK(vin_tree_seize(&pid, 1, 30000, &tree, &err));
		assert_true(tree.count >= 2);
		stands_still();
		vin_tree_release(&tree);
		goes_on();
	}
	victim_end(pid);
}

static void below_an_init_that_itself_runs_on(void **state)
{
	(void)state;
	pid_t pid = victim(fork_chains, true);
	struct vin_tree tree = { 0 };
	OK(vin_tree_seize_below(pid, 10000, &tree, &err));
	assert_null(vin_tree_find(&tree, pid));
	stands_still();
	vin_tree_release(&tree);
	goes_on();
	victim_end(pid);
}

/* ---- shapes of processes ---- */

static void family(void)
{
	pid_t zombie = fork();
	if (zombie == 0)
		_exit(7);
	pid_t child = fork();
	if (child == 0) {
		pid_t grandchild = fork();
		while (!board->end)
			nap(1);
		if (grandchild > 0)
			waitpid(grandchild, NULL, 0);
		_exit(0);
	}
	nap(20);
	board->ready = 1;
	while (!board->end)
		nap(1);
	int status = 0;
	if (waitpid(zombie, &status, 0) != zombie || WEXITSTATUS(status) != 7)
		_exit(1);
	waitpid(child, NULL, 0);
}

static void a_parent_comes_before_its_children_and_zombies_have_no_threads(void **state)
{
	(void)state;
	pid_t pid = victim(family, true);
	struct vin_tree tree = { 0 };
	OK(vin_tree_seize(&pid, 1, 30000, &tree, &err));
	assert_int_equal(tree.count, 4);
	assert_int_equal(tree.procs[0].pid, pid);
	size_t zombies = 0;
	for (size_t i = 0; i < tree.count; i++) {
		const struct vin_proc *p = &tree.procs[i];
		zombies += p->zombie;
		assert_int_equal(p->thread_count, p->zombie ? 0 : 1);
		assert_true(i == 0 || vin_tree_find(&tree, p->parent) < p);
	}
	assert_int_equal(zombies, 1);
	vin_tree_release(&tree);
	victim_end(pid);
}

static void *count_on(void *arg)
{
	(void)arg;
	while (!board->end) {
		board->rounds++;
		nap(1);
	}
	_exit(0);
}

static void leader_that_ends(void)
{
	pthread_t t;
	pthread_create(&t, NULL, count_on, NULL);
	nap(10);
	board->ready = 1;
	syscall(SYS_exit, 0);
}

static void threads_of_a_dead_leader_are_stopped(void **state)
{
	(void)state;
	pid_t pid = victim(leader_that_ends, true);
	nap(10);
	struct vin_tree tree = { 0 };
	OK(vin_tree_seize(&pid, 1, 30000, &tree, &err));
	assert_int_equal(tree.count, 1);
	assert_true(tree.procs[0].leader_gone);
	assert_false(tree.procs[0].zombie);
	assert_int_equal(tree.procs[0].thread_count, 1);
	stands_still();
	vin_tree_release(&tree);
	goes_on();
	victim_end(pid);
}

static void stopped_child(void)
{
	pid_t child = fork();
	if (child == 0) {
		raise(SIGSTOP);
		_exit(9);
	}
	waitpid(child, NULL, WUNTRACED);
	board->ready = 1;
	while (!board->end)
		nap(1);
	int status;
	if (waitpid(child, &status, WNOHANG) != 0)
		_exit(1);
	kill(child, SIGCONT);
	if (waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 9)
		_exit(1);
}

static void a_stopped_child_is_known_as_stopped(void **state)
{
	(void)state;
	pid_t pid = victim(stopped_child, true);
	struct vin_tree tree = { 0 };
	OK(vin_tree_seize(&pid, 1, 30000, &tree, &err));
	assert_int_equal(tree.count, 2);
	assert_false(tree.procs[0].threads[0].stopped_by_signal);
	assert_true(tree.procs[1].threads[0].stopped_by_signal);
	vin_tree_release(&tree);
	victim_end(pid);
}

/* ---- who can't be had ---- */

static void traced_child(void)
{
	pid_t child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	if (ptrace(PTRACE_SEIZE, child, 0, 0) < 0)
		_exit(1);
	board->ready = 1;
	while (!board->end) {
		board->rounds++;
		nap(1);
	}
	ptrace(PTRACE_INTERRUPT, child, 0, 0);
	waitpid(child, NULL, __WALL);
	ptrace(PTRACE_DETACH, child, 0, 0);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

static void one_in_a_debugger_is_refused_and_nobody_is_stopped(void **state)
{
	(void)state;
	pid_t pid = victim(traced_child, true);
	char by[60];
	struct vin_tree tree = { 0 };
	err = (struct fvm_error){ 0 };
	assert_int_equal(vin_tree_seize(&pid, 1, 10000, &tree, &err), -EBUSY);
	snprintf(by, sizeof(by), "is traced by process %d", pid);
	assert_non_null(strstr(err.text, by));
	goes_on();
	victim_end(pid);
}

static void vfork_parent(void)
{
	struct clone_args args = { .flags = CLONE_VFORK, .exit_signal = SIGCHLD };
	board->ready = 1;
	if (syscall(SYS_clone3, &args, sizeof(args)) == 0) {
		while (!board->end)
			board->rounds++;
		_exit(0);
	}
}

static void one_that_does_not_stop_is_told_and_nobody_is_stopped(void **state)
{
	(void)state;
	pid_t pid = victim(vfork_parent, true);
	struct vin_tree tree = { 0 };
	nap(20);
	assert_int_equal(vin_tree_seize(&pid, 1, 200, &tree, &err), -ETIMEDOUT);
	goes_on();
	/* it is still ours; when it gets there it has to be let go */
	board->end = 1;
	int status;
	assert_int_equal(vin_thread_wait(pid, 5000, &status), 0);
	ptrace(PTRACE_DETACH, pid, 0, 0);
	victim_end(pid);
}

static void nobody_is_told(void **state)
{
	(void)state;
	pid_t nobody = 0x3ffffffe;
	struct vin_tree tree = { 0 };
	assert_int_equal(vin_tree_seize(&nobody, 1, 1000, &tree, &err), -ESRCH);
	assert_non_null(strstr(err.text, "there is no process"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(threads_that_make_threads_are_all_stopped, victim_kill),
		cmocka_unit_test_teardown(processes_that_make_processes_are_all_stopped,
					  victim_kill),
		cmocka_unit_test_teardown(below_an_init_that_itself_runs_on, victim_kill),
		cmocka_unit_test_teardown(
			a_parent_comes_before_its_children_and_zombies_have_no_threads,
			victim_kill),
		cmocka_unit_test_teardown(threads_of_a_dead_leader_are_stopped, victim_kill),
		cmocka_unit_test_teardown(a_stopped_child_is_known_as_stopped, victim_kill),
		cmocka_unit_test_teardown(one_in_a_debugger_is_refused_and_nobody_is_stopped,
					  victim_kill),
		cmocka_unit_test_teardown(one_that_does_not_stop_is_told_and_nobody_is_stopped,
					  victim_kill),
		cmocka_unit_test_teardown(nobody_is_told, victim_kill),
	};
	return cmocka_run_group_tests(tests, victims_setup, victims_teardown);
}
