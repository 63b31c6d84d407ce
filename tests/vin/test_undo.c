/* What a process gives back of semaphores when it ends, of semop(2): A has it, B gets it from A's
 * payload, in A's IPC namespace. Each gives it back when it ends, and so both have had the same. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/sem.h>

#include "victim.h"

#include "vin/traits.h"

#define SEMAPHORES 6
#define THREADS	   2

union argument {
	int val;
	unsigned short *array;
};

struct twin {
	int threads;
	void (*make)(void);
	void (*in_thread)(void);
};

static const struct twin *twin;
static pid_t pair[2];
static int spaces = CLONE_NEWIPC;
/* shared: the set, and its values */
static volatile int *shared;
static volatile int started;

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			dprintf(2, "line %d: %s (errno %d)\n", __LINE__, #x, errno);               \
			board->wrong++;                                                            \
		}                                                                                  \
	} while (0)

static void change(int number, int by, int flags)
{
	struct sembuf op = { (unsigned short)number, (short)by, (short)flags };
	CHECK(semop(shared[0], &op, 1) == 0);
}

static void values(unsigned short *ret)
{
	CHECK(semctl(shared[0], 0, GETALL, (union argument){ .array = ret }) == 0);
}

static void *thread(void *arg)
{
	if (arg)
		((void (*)(void))(uintptr_t)arg)();
	__atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
	while (!board->end)
		nap(1);
	return NULL;
}

static void live(bool a)
{
	pthread_t t[THREADS];
	for (int i = 0; i < twin->threads; i++) {
		pthread_create(&t[i], NULL, thread,
			       (void *)(uintptr_t)(a ? (uintptr_t)twin->in_thread : 0));
		while (started <= i)
			nap(1);
	}
	if (a)
		twin->make();
	board->ready = 1;
	while (!board->end)
		nap(1);
	_exit(0);
}

static void life_of_a(void)
{
	unsigned short begin[SEMAPHORES] = { 0, 1, 100, 32767, 20000, 5 };
	CHECK(unshare(spaces) == 0);
	CHECK((shared[0] = semget(IPC_PRIVATE, SEMAPHORES, 0600)) >= 0);
	CHECK(semctl(shared[0], 0, SETALL, (union argument){ .array = begin }) == 0);
	live(true);
}

static void life_of_b(void)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/ns/ipc", pair[0]);
	scoped_fd space = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(setns(space, CLONE_NEWIPC) == 0);
	live(false);
}

/* ---- from one to the other ---- */

static struct vin_tree *stop(pid_t pid, struct vin_tree *tree, struct vin_post *post)
{
	OK(vin_tree_seize(&pid, 1, 30000, tree, &err));
	assert_int_equal(tree->procs[0].thread_count, twin->threads + 1);
	OK(vin_post_open(post, &tree->procs[0].threads[0], &err));
	return tree;
}

static void let_go(struct vin_tree *tree, struct vin_post *post)
{
	OK(vin_post_close(post, &tree->procs[0].threads[0], &err));
	vin_tree_release(tree);
}

/* What our own namespace has not got is looked at by a child in theirs. */
static void look_at(unsigned short *ret, pid_t *ret_last)
{
	int status;
	pid_t pid = fork_below();
	if (pid == 0) {
		unsigned short all[SEMAPHORES];
		char path[40];
		snprintf(path, sizeof(path), "/proc/%d/ns/ipc", pair[0]);
		scoped_fd space = open(path, O_RDONLY | O_CLOEXEC);
		if (setns(space, CLONE_NEWIPC) < 0)
			_exit(1);
		values(all);
		for (int i = 0; i < SEMAPHORES; i++) {
			shared[1 + i] = all[i];
			shared[10 + i] = semctl(shared[0], i, GETPID);
		}
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	for (int i = 0; i < SEMAPHORES; i++) {
		ret[i] = (unsigned short)shared[1 + i];
		ret_last[i] = shared[10 + i];
	}
}

static void end(int which)
{
	int status;
	/* a process that ends gives back, whatever ends it */
	kill(pair[which], SIGKILL);
	assert_int_equal(waitpid(pair[which], &status, 0), pair[which]);
	pair[which] = 0;
}

static void carry(void)
{
	scoped_buf payload = { 0 };
	struct vin_tree tree = { 0 };
	struct vin_post post = { 0 };
	stop(pair[0], &tree, &post);
	OK(vin_traits_capture(&post, tree.procs[0].threads, tree.procs[0].thread_count, 0, NULL,
			      &payload, &err));
	let_go(&tree, &post);
	started = 0;
	pair[1] = victim(life_of_b, false);
	stop(pair[1], &tree, &post);
	OK(vin_traits_replay(&post, tree.procs[0].threads, tree.procs[0].thread_count, NULL,
			     payload.data, payload.len, &err));
	let_go(&tree, &post);
}

/* Values before, after B got its part, after B ended. */
static void both_give_back(const struct twin *t, const int *owed)
{
	unsigned short before[SEMAPHORES], now[SEMAPHORES];
	pid_t last[SEMAPHORES];
	twin = t;
	started = 0;
	pair[0] = victim(life_of_a, false);
	last_victim = 0;
	look_at(before, last);
	assert_int_equal(board->wrong, 0);
	carry();
	look_at(now, last);
	assert_memory_equal(before, now, sizeof(now));
	/* still in the namespace, which B does not outlive */
	end(1);
	last_victim = 0;
	look_at(now, last);
	for (int i = 0; i < SEMAPHORES; i++)
		assert_int_equal(now[i], before[i] + owed[i]);
	assert_int_equal(board->wrong, 0);
	end(0);
}

/* ---- cases ---- */

static void ups_and_downs(void)
{
	change(0, 3, SEM_UNDO);
	change(1, -1, SEM_UNDO);
	change(2, -60, SEM_UNDO);
	change(2, 10, SEM_UNDO);
	change(2, 7, 0);
	change(5, 1, SEM_UNDO);
}

static void a_process_gives_back_what_it_owes(void **state)
{
	(void)state;
	static const struct twin t = { 0, ups_and_downs, NULL };
	both_give_back(&t, (const int[]){ -3, 1, 50, 0, 0, -1 });
}

static void far(void)
{
	change(3, -32767, SEM_UNDO);
	change(4, -20000, SEM_UNDO);
	change(4, 5, 0);
	change(0, 32767, SEM_UNDO);
	/* one more than the other way */
	change(5, -5, 0);
	change(5, 32767, SEM_UNDO);
	change(5, -32767, 0);
	change(5, 1, SEM_UNDO);
	change(5, 32766, 0);
}

static void as_much_as_there_can_be(void **state)
{
	(void)state;
	static const struct twin t = { 0, far, NULL };
	both_give_back(&t, (const int[]){ -32767, 0, 0, 32767, 20000, -32767 });
}

static void nothing(void)
{
	change(1, -1, SEM_UNDO);
	change(1, 1, SEM_UNDO);
}

static void what_is_even_owes_nothing(void **state)
{
	(void)state;
	static const struct twin t = { 0, nothing, NULL };
	both_give_back(&t, (const int[SEMAPHORES]){ 0 });
}

static void in_a_thread(void)
{
	change(2, -2, SEM_UNDO);
}

static void threads_have_one_list(void **state)
{
	(void)state;
	static const struct twin t = { 2, ups_and_downs, in_a_thread };
	both_give_back(&t, (const int[]){ -3, 1, 54, 0, 0, -1 });
}

static void of_my_own(void)
{
	CHECK(unshare(CLONE_SYSVSEM) == 0);
	change(2, -4, SEM_UNDO);
}

static void threads_may_have_lists_of_their_own(void **state)
{
	(void)state;
	static const struct twin t = { 2, ups_and_downs, of_my_own };
	both_give_back(&t, (const int[]){ -3, 1, 58, 0, 0, -1 });
}

/* B has another number than A here, so it is no semaphore's last user. A is what it was. */
static void asking_leaves_no_trace(void **state)
{
	(void)state;
	static const struct twin t = { 0, ups_and_downs, NULL };
	unsigned short before[SEMAPHORES], now[SEMAPHORES];
	pid_t last[SEMAPHORES], then[SEMAPHORES];
	scoped_buf payload = { 0 };
	struct vin_tree tree = { 0 };
	struct vin_post post = { 0 };
	twin = &t;
	pair[0] = victim(life_of_a, false);
	last_victim = 0;
	look_at(before, last);
	stop(pair[0], &tree, &post);
	for (int i = 0; i < 3; i++)
		OK(vin_traits_capture(&post, tree.procs[0].threads, 1, 0, NULL, &payload, &err));
	let_go(&tree, &post);
	look_at(now, then);
	assert_memory_equal(before, now, sizeof(now));
	assert_memory_equal(last, then, sizeof(then));
	assert_int_equal(last[0], pair[0]);
	end(0);
}

static void own_space(void)
{
	struct sembuf op = { 0, 1, SEM_UNDO };
	CHECK((shared[0] = semget(IPC_PRIVATE, 1, 0600)) >= 0);
	CHECK(semop(shared[0], &op, 1) == 0);
	board->ready = 1;
	while (!board->end)
		nap(1);
	_exit(semctl(shared[0], 0, IPC_RMID) < 0);
}

static void the_machines_semaphores_are_refused(void **state)
{
	(void)state;
	pid_t pid = victim(own_space, false);
	err = (struct fvm_error){ 0 };
	assert_int_equal(vin_traits_check(pid, 0, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "SEM_UNDO"));
	victim_end(pid);
}

static int end_all(void **state)
{
	for (int i = 0; i < 2; i++) {
		if (pair[i] > 0 && kill(pair[i], SIGKILL) == 0)
			waitpid(pair[i], NULL, 0);
		pair[i] = 0;
	}
	last_victim = 0;
	return victim_kill(state);
}

static int setup(void **state)
{
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return shared == MAP_FAILED ? -1 : victims_setup(state);
}

static int teardown(void **state)
{
	munmap((void *)(uintptr_t)shared, 4096);
	return victims_teardown(state);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(a_process_gives_back_what_it_owes, end_all),
		cmocka_unit_test_teardown(as_much_as_there_can_be, end_all),
		cmocka_unit_test_teardown(what_is_even_owes_nothing, end_all),
		cmocka_unit_test_teardown(threads_have_one_list, end_all),
		cmocka_unit_test_teardown(threads_may_have_lists_of_their_own, end_all),
		cmocka_unit_test_teardown(asking_leaves_no_trace, end_all),
		cmocka_unit_test_teardown(the_machines_semaphores_are_refused, end_all),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}

static int put(const char *path, const char *text)
{
	return fvm_write_file(AT_FDCWD, path, text);
}

int main(void)
{
	if (geteuid() != 0) {
		print_message("namespaces need root: not tried\n");
		return 77;
	}
	int failed = run(), status = 0;
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		if (setgid(65534) < 0 || setuid(65534) < 0 || prctl(PR_SET_DUMPABLE, 1) < 0 ||
		    unshare(CLONE_NEWUSER) < 0 || put("/proc/self/setgroups", "deny") < 0 ||
		    put("/proc/self/uid_map", "0 65534 1") < 0 ||
		    put("/proc/self/gid_map", "0 65534 1") < 0) {
			print_message("no user namespaces: not tried as an ordinary user\n");
			_exit(0);
		}
		exit(run() != 0);
	}
	return waitpid(pid, &status, 0) == pid && status == 0 ? failed : 1;
}
