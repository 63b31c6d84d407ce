#include "tests/vin/carry.h"

#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#define SECOND 1000000000LL

static uint64_t taken(int fd)
{
	uint64_t n = 0;
	return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static void make_events(void)
{
	CHECK(eventfd(41, EFD_CLOEXEC) == 3 && eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK) == 4);
	CHECK(eventfd(0, EFD_NONBLOCK) == 5);
	CHECK(eventfd(0, EFD_NONBLOCK) == 6 && dup(6) == 7);
	const uint64_t most = UINT64_MAX - 1;
	CHECK(write(5, &most, sizeof(most)) == sizeof(most));
	CHECK(eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK) == 8);
}

static void check_events(void)
{
	CHECK(taken(3) == 41 && fcntl(3, F_GETFD) == FD_CLOEXEC &&
	      !(fcntl(3, F_GETFL) & O_NONBLOCK));
	CHECK(taken(4) == 1 && taken(4) == 1 && taken(4) == 1 && taken(4) == 0 && errno == EAGAIN);
	CHECK(taken(5) == UINT64_MAX - 1 && taken(6) == 0 && errno == EAGAIN);
	CHECK(eventfd_write(6, 5) == 0 && taken(7) == 5);
	CHECK(eventfd_write(8, 2) == 0 && taken(8) == 1 && taken(8) == 1 && taken(8) == 0);
}

static void eventfds_keep_what_they_count(void **state)
{
	(void)state;
	carried(make_events, check_events);
}

/* ---- timers ---- */

static int64_t ns(const struct timespec *t)
{
	return t->tv_sec * SECOND + t->tv_nsec;
}

static void make_timers(void)
{
	struct timespec now;
	struct itimerspec once = { .it_value = { 100, 0 } },
			  often = { .it_interval = { 0, 1000000 }, .it_value = { 0, 1000000 } };
	CHECK(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC) == 3);
	CHECK(timerfd_settime(3, 0, &once, NULL) == 0);
	clock_gettime(CLOCK_REALTIME, &now);
	struct itimerspec at = { .it_value = { now.tv_sec + 200, 0 } };
	CHECK(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK) == 4);
	CHECK(timerfd_settime(4, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &at, NULL) == 0);
	CHECK(timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK) == 5);
	CHECK(timerfd_settime(5, 0, &often, NULL) == 0);
	CHECK(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK) == 6);
	struct itimerspec soon = { .it_value = { 0, 1 } };
	CHECK(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK) == 7);
	CHECK(timerfd_settime(7, 0, &soon, NULL) == 0);
	nap(20);
}

static void check_timers(void)
{
	struct itimerspec t;
	struct timespec now;
	CHECK(timerfd_gettime(3, &t) == 0 && ns(&t.it_value) > 80 * SECOND &&
	      ns(&t.it_value) < 100 * SECOND);
	clock_gettime(CLOCK_REALTIME, &now);
	CHECK(timerfd_gettime(4, &t) == 0 && ns(&t.it_value) > 180 * SECOND &&
	      ns(&t.it_value) < 200 * SECOND);
	/* whole seconds were asked for, so the end is at one */
	int64_t end = (ns(&t.it_value) + ns(&now)) % SECOND;
	CHECK(end < 50000000 || end > SECOND - 50000000);
	CHECK(taken(5) >= 20 && timerfd_gettime(5, &t) == 0 && ns(&t.it_interval) == 1000000);
	nap(5);
	CHECK(taken(5) >= 4);
	CHECK(taken(6) == 0 && timerfd_gettime(6, &t) == 0 && ns(&t.it_value) == 0);
	CHECK(taken(7) == 1);
	CHECK(taken(7) == 0 && fcntl(4, F_GETFL) & O_NONBLOCK);
}

static void timers_go_on(void **state)
{
	(void)state;
	carried(make_timers, check_timers);
}

/* ---- signals ---- */

static void make_signals(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGRTMAX);
	CHECK(signalfd(-1, &set, SFD_NONBLOCK) == 3);
}

static void check_signals(void)
{
	struct signalfd_siginfo info;
	sigset_t set;
	sigfillset(&set);
	sigprocmask(SIG_SETMASK, &set, NULL);
	raise(SIGUSR2);
	CHECK(read(3, &info, sizeof(info)) < 0 && errno == EAGAIN);
	raise(SIGUSR1);
	raise(SIGRTMAX);
	CHECK(read(3, &info, sizeof(info)) == sizeof(info) && info.ssi_signo == SIGUSR1);
	CHECK(read(3, &info, sizeof(info)) == sizeof(info) && info.ssi_signo == (uint32_t)SIGRTMAX);
}

static void a_signalfd_keeps_its_mask(void **state)
{
	(void)state;
	carried(make_signals, check_signals);
}

/* ---- memory ---- */

static void make_memory(void)
{
	CHECK(memfd_create("a name", MFD_ALLOW_SEALING | MFD_CLOEXEC) == 3);
	CHECK(ftruncate(3, 8 << 20) == 0 && pwrite(3, "far", 3, 5 << 20) == 3);
	CHECK(lseek(3, 77, SEEK_SET) == 77 && open("/proc/self/fd/3", O_RDONLY) == 4);
	CHECK(memfd_create("sealed", MFD_ALLOW_SEALING) == 5 && write(5, "fixed", 5) == 5);
	CHECK(fcntl(5, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) == 0);
	CHECK(memfd_create("plain", 0) == 6);
}

static void check_memory(void)
{
	char got[8] = "", path[64] = "";
	struct stat st, other;
	CHECK(readlink("/proc/self/fd/3", path, sizeof(path) - 1) > 0);
	CHECK(strcmp(path, "/memfd:a name (deleted)") == 0);
	CHECK(fstat(3, &st) == 0 && fstat(4, &other) == 0 && st.st_ino == other.st_ino);
	CHECK(st.st_size == 8 << 20 && st.st_blocks * 512 <= 2 << 20);
	CHECK(lseek(3, 0, SEEK_CUR) == 77 && lseek(4, 0, SEEK_CUR) == 0);
	CHECK(pread(4, got, 3, 5 << 20) == 3 && strcmp(got, "far") == 0);
	CHECK(pwrite(3, "own", 3, 0) == 3 && write(4, "x", 1) < 0);
	CHECK(fcntl(3, F_GET_SEALS) == 0 && fcntl(6, F_GET_SEALS) == F_SEAL_SEAL);
	CHECK(fcntl(5, F_GET_SEALS) == (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL));
	CHECK(pread(5, got, 8, 0) == 5 && memcmp(got, "fixed", 5) == 0);
	CHECK(pwrite(5, "x", 1, 0) < 0 && errno == EPERM);
}

static void memfds_have_content_and_seals(void **state)
{
	(void)state;
	carried(make_memory, check_memory);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		CARRY(eventfds_keep_what_they_count),
		CARRY(timers_go_on),
		CARRY(a_signalfd_keeps_its_mask),
		CARRY(memfds_have_content_and_seals),
	};
	return cmocka_run_group_tests(tests, carry_setup, carry_teardown);
}

int main(void)
{
	return carry_main(run);
}
