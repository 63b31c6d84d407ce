#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "vin/tree.h"

static volatile int *ready, *end;
static pid_t last; /* victim, PID 1 of a namespace of its own: nobody outlives it */
static volatile uint64_t *count;
static struct vin_watch watch;
static struct fvm_error err;

static int setup(void **state)
{
	(void)state;
	void *board = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ready = board;
	end = ready + 1;
	count = (uint64_t *)board + 1;
	vin_watch_begin(&watch);
	return board == MAP_FAILED ? -1 : 0;
}

static void nap(int ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000L };
	nanosleep(&t, NULL);
}

/* Its PID namespace ends with it. */
static int kill_victim(void **state)
{
	(void)state;
	if (last > 0 && kill(last, SIGKILL) == 0)
		waitpid(last, NULL, 0);
	last = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	vin_watch_end(&watch);
	return munmap((void *)(uintptr_t)ready, 4096);
}

static pid_t victim(void (*fn)(void))
{
	*ready = 0;
	*end = 0;
	*count = 0;
	struct clone_args args = { .flags = CLONE_NEWPID, .exit_signal = SIGCHLD };
	if (geteuid() != 0)
		args.flags |= CLONE_NEWUSER;
	last = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	assert_true(last >= 0);
	if (last == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		vin_watch_end(&watch);
		fn();
		_exit(0);
	}
	for (int i = 0; i < 5000 && !*ready; i++)
		nap(1);
	assert_int_equal(*ready, 1);
	return last;
}

static void reap(pid_t pid)
{
	int status;
	*end = 1;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	last = 0;
	assert_true(WIFEXITED(status));
}

#define OK(x)                                                                                      \
	do {                                                                                       \
		err = (struct fvm_error){ 0 };                                                     \
		int r_ = (x);                                                                      \
		if (r_ < 0)                                                                        \
			fvm_error_print("test", &err);                                             \
		assert_int_equal(r_, 0);                                                           \
	} while (0)

static void goes_on(void)
{
	uint64_t before = *count;
	for (int i = 0; i < 10000 && *count == before; i++)
		nap(1);
	assert_true(*count != before);
}

/* Nobody of a group counts on while its tree is stopped. */
static void stands_still(void)
{
	uint64_t before = *count;
	nap(30);
	assert_int_equal(*count, before);
}

/* ---- trees that grow while they are looked at ---- */

static void *make_threads(void *arg)
{
	pthread_t t;
	usleep(3000);
	if (!*end && pthread_create(&t, NULL, make_threads, arg) == 0)
		pthread_detach(t);
	__atomic_add_fetch(count, 1, __ATOMIC_RELAXED);
	return NULL;
}

static void thread_chains(void)
{
	for (int i = 0; i < 4; i++)
		make_threads(NULL);
	*ready = 1;
	while (!*end)
		nap(1);
	nap(20);
}

static void threads_that_make_threads_are_all_stopped(void **state)
{
	(void)state;
	pid_t pid = victim(thread_chains);
	for (int i = 0; i < 10; i++) {
		struct vin_tree tree = { 0 };
		OK(vin_tree_seize(&pid, 1, 10000, &tree, &err));
		assert_int_equal(tree.count, 1);
		assert_true(tree.procs[0].thread_count >= 2);
		assert_int_equal(tree.procs[0].threads[0].tid, pid);
		stands_still();
		vin_tree_release(&tree);
		goes_on();
	}
	reap(pid);
}

/* Each child makes the next and ends: orphans, zombies and births all the time. */
static void fork_chains(void)
{
	for (int i = 0; i < 3; i++) {
		if (fork() == 0) {
			while (!*end) {
				pid_t next = fork();
				if (next == 0) {
					usleep(3000);
					continue;
				}
				__atomic_add_fetch(count, 1, __ATOMIC_RELAXED);
				_exit(0);
			}
			_exit(0);
		}
	}
	*ready = 1;
	while (!*end) {
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
	pid_t pid = victim(fork_chains);
	for (int i = 0; i < 10; i++) {
		struct vin_tree tree = { 0 };
		OK(vin_tree_seize(&pid, 1, 10000, &tree, &err));
		assert_true(tree.count >= 2);
		stands_still();
		vin_tree_release(&tree);
		goes_on();
	}
	reap(pid);
}

static void below_an_init_that_itself_runs_on(void **state)
{
	(void)state;
	pid_t pid = victim(fork_chains);
	struct vin_tree tree = { 0 };
	OK(vin_tree_seize_below(pid, 10000, &tree, &err));
	assert_null(vin_tree_find(&tree, pid));
	stands_still();
	vin_tree_release(&tree);
	goes_on();
	reap(pid);
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
		while (!*end)
			nap(1);
		if (grandchild > 0)
			waitpid(grandchild, NULL, 0);
		_exit(0);
	}
	nap(20);
	*ready = 1;
	while (!*end)
		nap(1);
	int status = 0;
	if (waitpid(zombie, &status, 0) != zombie || WEXITSTATUS(status) != 7)
		_exit(1);
	waitpid(child, NULL, 0);
}

static void a_parent_comes_before_its_children_and_zombies_have_no_threads(void **state)
{
	(void)state;
	pid_t pid = victim(family);
	struct vin_tree tree = { 0 };
	OK(vin_tree_seize(&pid, 1, 10000, &tree, &err));
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
	reap(pid);
}

static void *count_on(void *arg)
{
	(void)arg;
	while (!*end) {
		(*count)++;
		nap(1);
	}
	_exit(0);
}

static void leader_that_ends(void)
{
	pthread_t t;
	pthread_create(&t, NULL, count_on, NULL);
	nap(10);
	*ready = 1;
	syscall(SYS_exit, 0);
}

static void threads_of_a_dead_leader_are_stopped(void **state)
{
	(void)state;
	pid_t pid = victim(leader_that_ends);
	nap(10);
	struct vin_tree tree = { 0 };
	OK(vin_tree_seize(&pid, 1, 10000, &tree, &err));
	assert_int_equal(tree.count, 1);
	assert_true(tree.procs[0].leader_gone);
	assert_false(tree.procs[0].zombie);
	assert_int_equal(tree.procs[0].thread_count, 1);
	stands_still();
	vin_tree_release(&tree);
	goes_on();
	reap(pid);
}

static void stopped_child(void)
{
	pid_t child = fork();
	if (child == 0) {
		raise(SIGSTOP);
		_exit(9);
	}
	waitpid(child, NULL, WUNTRACED);
	*ready = 1;
	while (!*end)
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
	pid_t pid = victim(stopped_child);
	struct vin_tree tree = { 0 };
	OK(vin_tree_seize(&pid, 1, 10000, &tree, &err));
	assert_int_equal(tree.count, 2);
	assert_false(tree.procs[0].threads[0].stopped_by_signal);
	assert_true(tree.procs[1].threads[0].stopped_by_signal);
	vin_tree_release(&tree);
	reap(pid);
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
	*ready = 1;
	while (!*end) {
		(*count)++;
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
	pid_t pid = victim(traced_child);
	char by[60];
	struct vin_tree tree = { 0 };
	err = (struct fvm_error){ 0 };
	assert_int_equal(vin_tree_seize(&pid, 1, 10000, &tree, &err), -EBUSY);
	snprintf(by, sizeof(by), "is traced by process %d", pid);
	assert_non_null(strstr(err.text, by));
	goes_on();
	reap(pid);
}

static void vfork_parent(void)
{
	struct clone_args args = { .flags = CLONE_VFORK, .exit_signal = SIGCHLD };
	*ready = 1;
	if (syscall(SYS_clone3, &args, sizeof(args)) == 0) {
		while (!*end)
			(*count)++;
		_exit(0);
	}
}

static void one_that_does_not_stop_is_told_and_nobody_is_stopped(void **state)
{
	(void)state;
	pid_t pid = victim(vfork_parent);
	struct vin_tree tree = { 0 };
	nap(20);
	assert_int_equal(vin_tree_seize(&pid, 1, 200, &tree, &err), -ETIMEDOUT);
	goes_on();
	/* it is still ours; when it gets there it has to be let go */
	*end = 1;
	int status;
	assert_int_equal(vin_thread_wait(pid, 5000, &status), 0);
	ptrace(PTRACE_DETACH, pid, 0, 0);
	reap(pid);
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
		cmocka_unit_test_teardown(threads_that_make_threads_are_all_stopped, kill_victim),
		cmocka_unit_test_teardown(processes_that_make_processes_are_all_stopped,
					  kill_victim),
		cmocka_unit_test_teardown(below_an_init_that_itself_runs_on, kill_victim),
		cmocka_unit_test_teardown(
			a_parent_comes_before_its_children_and_zombies_have_no_threads,
			kill_victim),
		cmocka_unit_test_teardown(threads_of_a_dead_leader_are_stopped, kill_victim),
		cmocka_unit_test_teardown(a_stopped_child_is_known_as_stopped, kill_victim),
		cmocka_unit_test_teardown(one_in_a_debugger_is_refused_and_nobody_is_stopped,
					  kill_victim),
		cmocka_unit_test_teardown(one_that_does_not_stop_is_told_and_nobody_is_stopped,
					  kill_victim),
		cmocka_unit_test_teardown(nobody_is_told, kill_victim),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
