/* Namespaces of programs: who is in one of his own is refused by name. */
#include <pthread.h>
#include <sys/shm.h>

#include "worlds.h"

static int sort;
static bool attached;

/* A child, or a thread of it, in a namespace of its own. */
static void leave(void)
{
	int done[2];
	char byte;
	CHECK(pipe(done) == 0);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		CHECK(unshare(sort) == 0);
		CHECK(write(done[1], "d", 1) == 1);
		for (;;)
			pause();
	}
	CHECK(read(done[0], &byte, 1) == 1);
	close(done[0]);
	close(done[1]);
}

static void what_is_not_held_is_refused_by_name(void **state)
{
	static const struct {
		int flag;
		const char *says;
	} sorts[] = {
		{ CLONE_NEWNS, "mount namespace of its own" },
		{ CLONE_NEWCGROUP, "cgroup namespace of its own" },
		{ CLONE_NEWPID, "pid namespace for its children" },
		{ CLONE_NEWTIME, "time namespace for its children" },
	};
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(sorts); i++) {
		sort = sorts[i].flag;
		world_refused(leave, sorts[i].says, 0);
	}
}

static void leave_with_a_segment(void)
{
	int done[2];
	char byte;
	CHECK(pipe(done) == 0);
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		CHECK(unshare(CLONE_NEWIPC) == 0);
		const int id = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
		CHECK(id >= 0 && (!attached || shmat(id, NULL, 0) != (void *)-1));
		CHECK(write(done[1], "d", 1) == 1);
		for (;;)
			pause();
	}
	CHECK(read(done[0], &byte, 1) == 1);
	close(done[0]);
	close(done[1]);
}

static void segments_of_an_own_namespace_are_refused(void **state)
{
	(void)state;
	attached = false;
	world_refused(leave_with_a_segment, "segments of shared memory", 0);
	attached = true;
	world_refused(leave_with_a_segment, "segment", 0);
}

static void *leave_by_thread(void *arg)
{
	(void)arg;
	CHECK(unshare(CLONE_NEWUTS) == 0);
	board->seen[0] = 1;
	for (;;)
		pause();
	return NULL;
}

static void start_thread(void)
{
	pthread_t t;
	CHECK(pthread_create(&t, NULL, leave_by_thread, NULL) == 0);
	while (!board->seen[0])
		nap(1);
}

static void a_threads_own_namespace_is_refused(void **state)
{
	(void)state;
	world_refused(start_thread, "thread", 0);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		WORLD(what_is_not_held_is_refused_by_name),
		WORLD(segments_of_an_own_namespace_are_refused),
		WORLD(a_threads_own_namespace_is_refused),
	};
	return cmocka_run_group_tests(tests, worlds_setup, worlds_teardown);
}

int main(void)
{
	return worlds_main(run);
}
