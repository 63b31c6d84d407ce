/* Namespaces of programs: who is in one of his own is refused by name. */
#include <pthread.h>
#include <sys/mount.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include "worlds.h"

static int sort;
static bool attached;

/* A child that does @leave_as, and says so. */
static void start(void (*leave_as)(void))
{
	int done[2];
	char byte;
	CHECK(pipe(done) == 0);
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		leave_as();
		CHECK(write(done[1], "d", 1) == 1);
		for (;;)
			pause();
	}
	CHECK(read(done[0], &byte, 1) == 1);
	close(done[0]);
	close(done[1]);
}

static void leave_sort(void)
{
	CHECK(unshare(sort) == 0);
}

static void leave(void)
{
	start(leave_sort);
}

static void what_is_not_held_is_refused_by_name(void **state)
{
	static const struct {
		int flag;
		const char *says;
	} sorts[] = {
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

static void make_segment(void)
{
	CHECK(unshare(CLONE_NEWIPC) == 0);
	const int id = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
	CHECK(id >= 0 && (!attached || shmat(id, NULL, 0) != (void *)-1));
}

static void leave_with_a_segment(void)
{
	start(make_segment);
}

static void segments_of_an_own_namespace_are_refused(void **state)
{
	(void)state;
	attached = false;
	world_refused(leave_with_a_segment, "segments of shared memory", 0);
	attached = true;
	world_refused(leave_with_a_segment, "segment", 0);
}

static void hide(void)
{
	CHECK(unshare(CLONE_NEWNS) == 0);
	CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
}

static void chroot_apart(void)
{
	hide();
	CHECK(mount("/", "/mnt", NULL, MS_BIND | MS_REC, NULL) == 0 && chroot("/mnt") == 0);
}

static void be_seen(void)
{
	CHECK(unshare(CLONE_NEWNS) == 0);
}

/* By one of its mounts it hears of the world's. */
static void start_one_that_is_seen(void)
{
	hide();
	CHECK(mount("seen", "/mnt", "tmpfs", 0, NULL) == 0);
	CHECK(mount(NULL, "/mnt", NULL, MS_SHARED, NULL) == 0);
	start(be_seen);
}

static void bind_a_namespace(void)
{
	hide();
	CHECK(mount("own", "/mnt", "tmpfs", 0, NULL) == 0);
	CHECK(close(open("/mnt/ns", O_CREAT | O_WRONLY, 0600)) == 0);
	CHECK(mount("/proc/self/ns/uts", "/mnt/ns", NULL, MS_BIND, NULL) == 0);
}

static void hide_below(void)
{
	CHECK(unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0);
}

static void start_chrooted(void)
{
	start(chroot_apart);
}

static void start_with_a_bound_namespace(void)
{
	start(bind_a_namespace);
}

static void start_below(void)
{
	start(hide_below);
}

static void share_directories(void)
{
	hide();
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FS | SIGCHLD, 0, 0, 0, 0);
	CHECK(pid >= 0);
	if (pid == 0) {
		for (;;)
			pause();
	}
}

static void start_sharing(void)
{
	start(share_directories);
}

static void mounts_that_can_not_be_made_again_are_refused(void **state)
{
	(void)state;
	world_refused(start_chrooted, "not at its root", 0);
	world_refused(start_one_that_is_seen, "shares what is mounted on it", 0);
	world_refused(start_with_a_bound_namespace, "it holds a namespace", 0);
	world_refused(start_below, "belongs to a user namespace of its own", 0);
	bare.bare = false; /* who shares what is asked only of whole programs */
	world_refused(start_sharing, "shares its directories", 0);
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
		WORLD(mounts_that_can_not_be_made_again_are_refused),
		WORLD(a_threads_own_namespace_is_refused),
	};
	return cmocka_run_group_tests(tests, worlds_setup, worlds_teardown);
}

int main(void)
{
	return worlds_main(run);
}
