/* Those who wait for a lock, as fcntl(2) and flock(2) have it: they go on waiting in the new world,
 * and have the lock when who holds it there gives it back. */
#include <pthread.h>
#include <sys/file.h>
#include <sys/syscall.h>

#include "worlds.h"

#define WAITERS 3

static char path[64];
static int held;
static pid_t waiters[WAITERS];

static struct flock whole(short type)
{
	return (struct flock){ .l_type = type };
}

static int posix_lock(int fd, bool wait)
{
	struct flock l = whole(F_WRLCK);
	return fcntl(fd, wait ? F_SETLKW : F_SETLK, &l);
}

static int ofd_lock(int fd, bool wait)
{
	struct flock l = whole(F_WRLCK);
	return fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &l);
}

static int flock_lock(int fd, bool wait)
{
	return flock(fd, LOCK_EX | (wait ? 0 : LOCK_NB));
}

static int (*lock)(int fd, bool wait);

static int open_it(void)
{
	int fd = open(path, O_RDWR);
	CHECK(fd >= 0);
	return fd;
}

/* Whoever has it says so; what he gives back the next one gets. */
static void wait_for_it(int n)
{
	int fd = open_it();
	board->seen[4] |= 1ULL << n;
	CHECK(lock(fd, true) == 0);
	board->seen[n] = 1;
	CHECK(close(fd) == 0);
}

/* In the middle of the call, as the kernel tells of who sleeps. */
static bool is_waiting(pid_t tid)
{
	char name[64], call[256] = "";
	snprintf(name, sizeof(name), "/proc/%d/syscall", tid);
	FILE *f = fopen(name, "r");
	const bool there = f && fgets(call, sizeof(call), f);
	if (f)
		fclose(f);
	const long nr = there ? strtol(call, NULL, 10) : -1;
	return process_state(tid) == 'S' && (nr == SYS_fcntl || nr == SYS_flock);
}

static void hold(void)
{
	held = open_it();
	CHECK(lock(held, false) == 0);
}

/* In a namespace of its own the numbers of /proc are not ours: there only what follows tells. */
static void until_it_waits(pid_t tid)
{
	char self[16] = "";
	CHECK(readlink("/proc/self", self, sizeof(self) - 1) > 0);
	if (atoi(self) != getpid())
		return;
	for (int ms = 0; ms < 30000 && !is_waiting(tid); ms++)
		nap(1);
	CHECK(is_waiting(tid));
}

static void processes_wait(void)
{
	hold();
	for (int i = 0; i < WAITERS; i++) {
		waiters[i] = fork();
		if (waiters[i] == 0) {
			close(held);
			wait_for_it(i);
			_exit(0);
		}
		CHECK(waiters[i] > 0);
		until_it_waits(waiters[i]);
	}
}

static void give_back(void)
{
	if (lock == ofd_lock || lock == posix_lock) {
		struct flock l = whole(F_UNLCK);
		CHECK(fcntl(held, lock == ofd_lock ? F_OFD_SETLK : F_SETLK, &l) == 0);
	} else {
		CHECK(flock(held, LOCK_UN) == 0);
	}
}

static void they_get_it(void)
{
	int status, other = open_it();
	for (int i = 0; i < WAITERS; i++)
		until_it_waits(waiters[i]);
	CHECK(!board->seen[0] && !board->seen[1] && !board->seen[2]);
	CHECK(lock == posix_lock || (lock(other, false) < 0));
	board->seen[0] = board->seen[1] = board->seen[2] = 0;
	give_back();
	for (int i = 0; i < WAITERS; i++)
		CHECK(waitpid(waiters[i], &status, 0) == waiters[i] && status == 0);
	CHECK(board->seen[0] && board->seen[1] && board->seen[2]);
	board->seen[0] = board->seen[1] = board->seen[2] = 0;
	CHECK(lock(other, false) == 0);
}

static void with(int (*which)(int fd, bool wait))
{
	lock = which;
	bare.bare = false;
	scoped_fd fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	goes_on(processes_wait, they_get_it, CLONE_NEWIPC);
}

static void processes_that_wait_for_a_process(void **state)
{
	(void)state;
	with(posix_lock);
}

static void processes_that_wait_for_a_description(void **state)
{
	(void)state;
	with(ofd_lock);
}

static void processes_that_wait_for_a_flock(void **state)
{
	(void)state;
	with(flock_lock);
}

/* ---- threads ---- */

static pthread_t thread;
static pid_t thread_id;

static void *wait_as_thread(void *arg)
{
	(void)arg;
	*(volatile pid_t *)&thread_id = gettid();
	wait_for_it(0);
	return NULL;
}

static void a_thread_waits(void)
{
	hold();
	CHECK(pthread_create(&thread, NULL, wait_as_thread, NULL) == 0);
	while (!*(volatile pid_t *)&thread_id)
		nap(1);
	until_it_waits(thread_id);
}

static void it_gets_it(void)
{
	until_it_waits(thread_id);
	CHECK(!board->seen[0]);
	give_back();
	CHECK(pthread_join(thread, NULL) == 0 && board->seen[0]);
	board->seen[0] = 0;
}

static void a_thread_that_waits_for_its_own_process(void **state)
{
	(void)state;
	bare.bare = false;
	scoped_fd fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	lock = ofd_lock;
	goes_on(a_thread_waits, it_gets_it, CLONE_NEWIPC);
	lock = flock_lock;
	goes_on(a_thread_waits, it_gets_it, CLONE_NEWIPC);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		WORLD(processes_that_wait_for_a_process),
		WORLD(processes_that_wait_for_a_description),
		WORLD(processes_that_wait_for_a_flock),
		WORLD(a_thread_that_waits_for_its_own_process),
	};
	snprintf(path, sizeof(path), "/tmp/vin-waiters-%d", getpid());
	int failed = cmocka_run_group_tests(tests, worlds_setup, worlds_teardown);
	(void)unlink(path);
	return failed;
}

int main(void)
{
	return worlds_main(run);
}
