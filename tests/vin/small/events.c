/* What tells of events, as epoll(7), eventfd(2), timerfd_create(2), signalfd(2), inotify(7),
 * fanotify(7) and pidfd_open(2) have it, and what has the time, as setitimer(2), alarm(2),
 * timer_create(2) and clock_nanosleep(2) have it. */
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <sys/timerfd.h>

#include "small.h"

#define FAR 100000 /* seconds: never in a test */

static int fd = -1, inner = -1, ends[2];
static pid_t child;
static timer_t timer;
static siginfo_t info;

static void block(int sig)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, sig);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
}

static bool comes(int sig)
{
	const struct timespec limit = { 30, 0 };
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, sig);
	int got;
	do
		got = sigtimedwait(&set, &info, &limit);
	while (got < 0 && errno == EINTR);
	return got == sig;
}

/* ---- epoll(7) ---- */

static void add(int to, int of, uint32_t events, uint64_t data)
{
	struct epoll_event e = { .events = events, .data.u64 = data };
	CHECK(epoll_ctl(to, EPOLL_CTL_ADD, of, &e) == 0);
}

/* What is ready at once is that, and nothing else; 0: nothing. */
static bool ready(int of, uint64_t data, uint32_t events)
{
	struct epoll_event e[4] = { 0 };
	const int count = epoll_wait(of, e, 4, 0);
	return data ? count == 1 && e[0].data.u64 == data && e[0].events == events : count == 0;
}

static void level_make(void)
{
	fd = epoll_create1(EPOLL_CLOEXEC);
	CHECK(fd >= 0 && pipe(ends) == 0 && write(ends[1], "x", 1) == 1);
	add(fd, ends[0], EPOLLIN, 0x123456789abcdefULL);
}

static void level_check(void)
{
	char c;
	CHECK(ready(fd, 0x123456789abcdefULL, EPOLLIN) && ready(fd, 0x123456789abcdefULL, EPOLLIN));
	CHECK(read(ends[0], &c, 1) == 1 && ready(fd, 0, 0) && write(ends[1], "x", 1) == 1);
	CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
}

static void edge_make(void)
{
	fd = epoll_create1(0);
	CHECK(fd >= 0 && pipe(ends) == 0 && write(ends[1], "x", 1) == 1);
	add(fd, ends[0], EPOLLIN | EPOLLET, 7);
	CHECK(ready(fd, 7, EPOLLIN));
}

static void edge_check(void)
{
	char text[4];
	CHECK(ready(fd, 0, 0)); /* it was told */
	CHECK(write(ends[1], "y", 1) == 1 && ready(fd, 7, EPOLLIN) && ready(fd, 0, 0));
	CHECK(read(ends[0], text, 4) == 2 && write(ends[1], "x", 1) == 1 && ready(fd, 7, EPOLLIN));
}

static void untold_edge_make(void)
{
	fd = epoll_create1(0);
	CHECK(fd >= 0 && pipe(ends) == 0);
	add(fd, ends[0], EPOLLIN | EPOLLET, 9);
	CHECK(write(ends[1], "x", 1) == 1);
}

static void untold_edge_check(void)
{
	char c;
	CHECK(ready(fd, 9, EPOLLIN) && ready(fd, 0, 0) && read(ends[0], &c, 1) == 1);
	CHECK(write(ends[1], "x", 1) == 1);
}

static void oneshot_make(void)
{
	fd = epoll_create1(0);
	CHECK(fd >= 0 && pipe(ends) == 0 && write(ends[1], "x", 1) == 1);
	add(fd, ends[0], EPOLLIN | EPOLLONESHOT, 5);
	CHECK(ready(fd, 5, EPOLLIN));
}

static void oneshot_check(void)
{
	struct epoll_event e = { .events = EPOLLIN | EPOLLONESHOT, .data.u64 = 5 };
	CHECK(ready(fd, 0, 0) && epoll_ctl(fd, EPOLL_CTL_MOD, ends[0], &e) == 0);
	CHECK(ready(fd, 5, EPOLLIN) && ready(fd, 0, 0));
}

static void nested_make(void)
{
	fd = epoll_create1(0);
	inner = epoll_create1(0);
	CHECK(fd >= 0 && inner >= 0 && pipe(ends) == 0);
	add(inner, ends[0], EPOLLIN, 1);
	add(fd, inner, EPOLLIN, 2);
}

static void nested_check(void)
{
	char c;
	CHECK(ready(fd, 0, 0) && write(ends[1], "x", 1) == 1);
	CHECK(ready(fd, 2, EPOLLIN) && ready(inner, 1, EPOLLIN) && read(ends[0], &c, 1) == 1);
}

static void closed_number_make(void)
{
	fd = epoll_create1(0);
	CHECK(fd >= 0 && pipe(ends) == 0);
	inner = dup(ends[0]);
	add(fd, ends[0], EPOLLIN, 3);
	CHECK(dup2(inner, 77) == 77 && close(ends[0]) == 0);
}

/* The registration is of the open file description, by a number that is closed. */
static void closed_number_check(void)
{
	char c;
	CHECK(ready(fd, 0, 0) && write(ends[1], "x", 1) == 1 && ready(fd, 3, EPOLLIN));
	CHECK(read(77, &c, 1) == 1);
}

static void epoll_exist_make(void)
{
	fd = epoll_create1(0);
	inner = eventfd(0, 0);
	CHECK(fd >= 0 && inner >= 0 && pipe(ends) == 0);
	add(fd, ends[0], EPOLLIN | EPOLLPRI | EPOLLRDHUP, 1);
	add(fd, ends[1], EPOLLOUT | EPOLLEXCLUSIVE, 2);
}

static void epoll_exist_check(void)
{
	struct epoll_event e = { .events = EPOLLIN };
	CHECK(epoll_ctl(fd, EPOLL_CTL_ADD, ends[0], &e) < 0 && errno == EEXIST);
	CHECK(ready(fd, 2, EPOLLOUT) && epoll_ctl(fd, EPOLL_CTL_DEL, inner, &e) < 0 &&
	      errno == ENOENT);
}

/* ---- eventfd(2) ---- */

static void counter_make(void)
{
	fd = eventfd(7, EFD_CLOEXEC | EFD_NONBLOCK);
	CHECK(fd >= 0);
}

static void counter_check(void)
{
	eventfd_t n;
	CHECK(eventfd_read(fd, &n) == 0 && n == 7 && eventfd_read(fd, &n) < 0 && errno == EAGAIN);
	CHECK(eventfd_write(fd, 3) == 0 && eventfd_write(fd, 4) == 0);
}

static void semaphore_make(void)
{
	fd = eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK);
	CHECK(fd >= 0);
}

static void semaphore_check(void)
{
	eventfd_t n;
	for (int i = 0; i < 3; i++)
		CHECK(eventfd_read(fd, &n) == 0 && n == 1);
	CHECK(eventfd_read(fd, &n) < 0 && eventfd_write(fd, 3) == 0);
}

static void eventfd_full_make(void)
{
	fd = eventfd(0, EFD_NONBLOCK);
	CHECK(fd >= 0 && eventfd_write(fd, 0xfffffffffffffffeULL) == 0);
}

static void eventfd_full_check(void)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT | POLLIN };
	eventfd_t n;
	CHECK(eventfd_write(fd, 1) < 0 && errno == EAGAIN);
	CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLIN && eventfd_read(fd, &n) == 0);
	CHECK(n == 0xfffffffffffffffeULL && eventfd_write(fd, n) == 0);
}

/* ---- timerfd_create(2) ---- */

static void timerfd_make(void)
{
	const struct itimerspec t = { { 7, 5 }, { FAR, 0 } };
	fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	CHECK(fd >= 0 && timerfd_settime(fd, 0, &t, NULL) == 0);
}

static void timerfd_check(void)
{
	struct itimerspec t;
	uint64_t n;
	CHECK(timerfd_gettime(fd, &t) == 0 && t.it_interval.tv_sec == 7 &&
	      t.it_interval.tv_nsec == 5);
	CHECK(t.it_value.tv_sec < FAR && t.it_value.tv_sec > FAR - 1000);
	CHECK(read(fd, &n, 8) < 0 && errno == EAGAIN);
}

static void timerfd_ticks_make(void)
{
	const struct itimerspec t = { { 0, 2000000 }, { 0, 2000000 } };
	fd = timerfd_create(CLOCK_MONOTONIC, 0);
	CHECK(fd >= 0 && timerfd_settime(fd, 0, &t, NULL) == 0);
}

static void timerfd_ticks_check(void)
{
	uint64_t n = 0;
	CHECK(read(fd, &n, 8) == 8 && n > 0 && read(fd, &n, 8) == 8 && n > 0);
}

static void timerfd_expired_make(void)
{
	const struct itimerspec t = { { 0, 0 }, { 0, 1 } };
	fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	CHECK(fd >= 0 && timerfd_settime(fd, 0, &t, NULL) == 0);
	while (!small_readable(fd))
		small_nap(1);
}

static void timerfd_expired_check(void)
{
	uint64_t n = 0;
	CHECK(read(fd, &n, 8) == 8 && n == 1 && read(fd, &n, 8) < 0 && close(fd) == 0);
	timerfd_expired_make();
}

static void timerfd_absolute_make(void)
{
	struct itimerspec t = { 0 };
	fd = timerfd_create(CLOCK_REALTIME, 0);
	CHECK(clock_gettime(CLOCK_REALTIME, &t.it_value) == 0);
	t.it_value.tv_sec += FAR;
	CHECK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &t, NULL) == 0);
}

static void timerfd_absolute_check(void)
{
	struct itimerspec t;
	CHECK(timerfd_gettime(fd, &t) == 0 && t.it_interval.tv_sec == 0 && !small_readable(fd));
	CHECK(t.it_value.tv_sec <= FAR && t.it_value.tv_sec > FAR - 1000);
}

static void timerfd_disarmed_make(void)
{
	fd = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
	CHECK(fd >= 0);
}

static void timerfd_disarmed_check(void)
{
	struct itimerspec t;
	uint64_t n;
	CHECK(timerfd_gettime(fd, &t) == 0 && !t.it_value.tv_sec && !t.it_value.tv_nsec);
	CHECK(read(fd, &n, 8) < 0 && errno == EAGAIN && (fcntl(fd, F_GETFL) & O_NONBLOCK));
}

/* ---- signalfd(2) ---- */

static void signalfd_make(void)
{
	sigset_t set;
	block(SIGRTMIN + 1);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	fd = signalfd(-1, &set, SFD_NONBLOCK);
	CHECK(fd >= 0 && sigqueue(getpid(), SIGRTMIN + 1, (union sigval){ .sival_int = 42 }) == 0);
}

static void signalfd_check(void)
{
	struct signalfd_siginfo s = { 0 };
	CHECK(read(fd, &s, sizeof(s)) == sizeof(s) && s.ssi_signo == (uint32_t)SIGRTMIN + 1);
	CHECK(s.ssi_int == 42 && s.ssi_pid == (uint32_t)getpid() && s.ssi_code == SI_QUEUE);
	CHECK(read(fd, &s, sizeof(s)) < 0 && errno == EAGAIN);
	CHECK(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){ .sival_int = 42 }) == 0);
}

/* ---- inotify(7) ---- */

static bool event(uint32_t mask, const char *of)
{
	union {
		struct inotify_event head;
		char room[4096];
	} e;
	memset(&e, 0, sizeof(e));
	/* one at a time: no more room than for one with such a name */
	const ssize_t len = read(fd, &e, sizeof(e.head) + (of ? 16 : 0));
	return len > 0 && e.head.mask == mask &&
	       (of ? e.head.len && !strcmp(e.head.name, of) : e.head.len == 0);
}

static void watch_make(void)
{
	fd = inotify_init1(IN_NONBLOCK);
	CHECK(fd >= 0 && mkdir("watched", 0755) == 0);
	inner = inotify_add_watch(fd, "watched", IN_CREATE | IN_DELETE);
	CHECK(inner == 1);
}

static void watch_check(void)
{
	const int made = open("watched/one", O_CREAT | O_WRONLY, 0600);
	CHECK(made >= 0 && close(made) == 0 && event(IN_CREATE, "one") && !small_readable(fd));
	CHECK(unlink("watched/one") == 0 && event(IN_DELETE, "one"));
}

static void watch_file_make(void)
{
	fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	CHECK(fd >= 0 && close(small_file("one", "", O_RDONLY)) == 0);
	CHECK(close(small_file("two", "", O_RDONLY)) == 0);
	CHECK(inotify_add_watch(fd, "one", IN_MODIFY) == 1);
	CHECK(inotify_add_watch(fd, "two", IN_ATTRIB) == 2 && inotify_rm_watch(fd, 1) == 0);
	CHECK(event(IN_IGNORED, NULL));
}

static void watch_file_check(void)
{
	CHECK(truncate("one", 10) == 0 && !small_readable(fd));
	CHECK(chmod("two", 0600) == 0 && event(IN_ATTRIB, NULL) && !small_readable(fd));
	CHECK(inotify_rm_watch(fd, 1) < 0 && errno == EINVAL);
}

static void watch_oneshot_make(void)
{
	fd = inotify_init1(IN_NONBLOCK);
	CHECK(fd >= 0 && close(small_file("one", "", O_RDONLY)) == 0);
	CHECK(inotify_add_watch(fd, "one", IN_MODIFY | IN_ONESHOT) > 0);
}

static void watch_oneshot_check(void)
{
	CHECK(truncate("one", 10) == 0 && event(IN_MODIFY, NULL) && event(IN_IGNORED, NULL));
	CHECK(truncate("one", 0) == 0 && !small_readable(fd));
	CHECK(inotify_add_watch(fd, "one", IN_MODIFY | IN_ONESHOT) > 0);
}

/* ---- fanotify(7) ---- */

static bool fan_event(uint64_t mask)
{
	char room[4096] __attribute__((aligned(8)));
	const struct fanotify_event_metadata *e = (void *)room;
	const ssize_t len = read(fd, room, sizeof(room));
	return FAN_EVENT_OK(e, len) && e->mask == mask && e->fd == FAN_NOFD && e->pid == getpid();
}

static void marks_make(void)
{
	fd = fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID | FAN_NONBLOCK, 0);
	if (fd < 0)
		small_skip("this kernel has no fanotify for everybody");
	CHECK(close(small_file("one", "", O_RDONLY)) == 0 && mkdir("marked", 0755) == 0);
	if (fanotify_mark(fd, FAN_MARK_ADD, FAN_MODIFY, AT_FDCWD, "one") < 0)
		small_skip("files of this file system can't be marked");
	CHECK(fanotify_mark(fd, FAN_MARK_ADD, FAN_CREATE | FAN_DELETE | FAN_ONDIR, AT_FDCWD,
			    "marked") == 0);
}

static void marks_check(void)
{
	CHECK(!small_readable(fd) && truncate("one", 10) == 0 && fan_event(FAN_MODIFY));
	CHECK(mkdir("marked/dir", 0755) == 0 && fan_event(FAN_CREATE | FAN_ONDIR));
	CHECK(rmdir("marked/dir") == 0 && fan_event(FAN_DELETE | FAN_ONDIR));
	CHECK(!small_readable(fd));
}

/* ---- pidfd_open(2) ---- */

static pid_t new_child(void)
{
	pid_t pid = fork();
	if (pid == 0) {
		for (;;)
			pause();
	}
	return pid;
}

static int pidfd_of(pid_t pid, unsigned int flags)
{
	return (int)syscall(SYS_pidfd_open, pid, flags);
}

static void pidfd_make(void)
{
	child = new_child();
	fd = pidfd_of(child, 0);
	if (fd < 0)
		small_skip("this kernel has no pidfd_open(2)");
}

static void pidfd_check(void)
{
	siginfo_t end = { 0 };
	CHECK(!small_readable(fd) && fcntl(fd, F_GETFD) == FD_CLOEXEC);
	CHECK(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0) == 0);
	CHECK(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0) == 0);
	CHECK(waitid((idtype_t)3 /* P_PIDFD */, (id_t)fd, &end, WEXITED) == 0);
	CHECK(end.si_pid == child && end.si_status == SIGTERM && close(fd) == 0);
	pidfd_make();
}

static void pidfd_zombie_make(void)
{
	child = fork();
	if (child == 0)
		_exit(7);
	fd = pidfd_of(child, 0);
	if (fd < 0)
		small_skip("this kernel has no pidfd_open(2)");
	CHECK(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0);
}

static void pidfd_zombie_check(void)
{
	siginfo_t end = { 0 };
	CHECK(small_readable(fd) && waitid((idtype_t)3, (id_t)fd, &end, WEXITED) == 0);
	CHECK(end.si_status == 7 && end.si_code == CLD_EXITED && close(fd) == 0);
	pidfd_zombie_make();
}

static void pidfd_polled_make(void)
{
	pidfd_make();
	inner = epoll_create1(0);
	add(inner, fd, EPOLLIN, 11);
}

static void pidfd_polled_check(void)
{
	struct epoll_event e = { 0 };
	CHECK(ready(inner, 0, 0) && kill(child, SIGKILL) == 0);
	CHECK(epoll_wait(inner, &e, 1, 30000) == 1 && e.data.u64 == 11);
	CHECK(waitpid(child, NULL, 0) == child && close(fd) == 0 && close(inner) == 0);
	pidfd_polled_make();
}

/* ---- setitimer(2), alarm(2), timer_create(2) ---- */

static void itimer_far_make(void)
{
	const struct itimerval r = { { 3, 4 }, { FAR, 0 } }, v = { { 1, 0 }, { 5000, 0 } };
	CHECK(setitimer(ITIMER_REAL, &r, NULL) == 0 && setitimer(ITIMER_VIRTUAL, &v, NULL) == 0);
}

static void itimer_far_check(void)
{
	struct itimerval r, v, p;
	CHECK(getitimer(ITIMER_REAL, &r) == 0 && getitimer(ITIMER_VIRTUAL, &v) == 0);
	CHECK(r.it_interval.tv_sec == 3 && r.it_interval.tv_usec == 4 && v.it_interval.tv_sec == 1);
	CHECK(r.it_value.tv_sec > FAR - 1000 && r.it_value.tv_sec <= FAR);
	CHECK(v.it_value.tv_sec > 4900 && v.it_value.tv_sec <= 5000);
	CHECK(getitimer(ITIMER_PROF, &p) == 0 && p.it_value.tv_sec == 0 && p.it_value.tv_usec == 0);
}

static void itimer_ticks_make(void)
{
	const struct itimerval t = { { 0, 2000 }, { 0, 2000 } };
	block(SIGALRM);
	CHECK(setitimer(ITIMER_REAL, &t, NULL) == 0);
}

static void itimer_ticks_check(void)
{
	CHECK(comes(SIGALRM) && info.si_code == SI_KERNEL && comes(SIGALRM));
}

static void alarm_make(void)
{
	block(SIGALRM);
	CHECK(alarm(FAR) == 0);
}

static void alarm_check(void)
{
	const unsigned int left = alarm(FAR);
	CHECK(left <= FAR && left > FAR - 1000);
}

static void timer_set(clockid_t clock, struct sigevent *e, time_t sec, long nsec)
{
	const struct itimerspec t = { { sec, nsec }, { sec, nsec } };
	CHECK(timer_create(clock, e, &timer) == 0 && timer_settime(timer, 0, &t, NULL) == 0);
}

static void timer_value_make(void)
{
	struct sigevent e = { .sigev_notify = SIGEV_SIGNAL,
			      .sigev_signo = SIGRTMIN + 3,
			      .sigev_value.sival_ptr = &timer };
	block(SIGRTMIN + 3);
	timer_set(CLOCK_MONOTONIC, &e, 0, 2000000);
}

static void timer_value_check(void)
{
	CHECK(comes(SIGRTMIN + 3) && info.si_code == SI_TIMER && info.si_value.sival_ptr == &timer);
	CHECK(comes(SIGRTMIN + 3) && timer_getoverrun(timer) >= 0);
}

static void timer_none_make(void)
{
	struct sigevent e = { .sigev_notify = SIGEV_NONE };
	timer_set(CLOCK_BOOTTIME, &e, FAR, 0);
}

static void timer_none_check(void)
{
	struct itimerspec t;
	CHECK(timer_gettime(timer, &t) == 0 && t.it_interval.tv_sec == FAR);
	CHECK(t.it_value.tv_sec <= FAR && t.it_value.tv_sec > FAR - 1000);
}

static void timer_cpu_make(void)
{
	struct sigevent e = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 4 };
	block(SIGRTMIN + 4);
	timer_set(CLOCK_PROCESS_CPUTIME_ID, &e, 0, 3000000);
}

static void timer_cpu_check(void)
{
	sigset_t pending;
	for (int i = 0; i < 10000000; i++) {
		CHECK(sigpending(&pending) == 0);
		if (sigismember(&pending, SIGRTMIN + 4))
			break;
	}
	CHECK(comes(SIGRTMIN + 4) && info.si_code == SI_TIMER);
}

static void timer_thread_make(void)
{
	struct sigevent e = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 5 };
	e._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	block(SIGRTMIN + 5);
	timer_set(CLOCK_REALTIME, &e, 0, 2000000);
}

static void timer_thread_check(void)
{
	CHECK(comes(SIGRTMIN + 5) && info.si_code == SI_TIMER);
}

static void timer_ids_make(void)
{
	struct sigevent e = { .sigev_notify = SIGEV_NONE };
	timer_t first;
	CHECK(timer_create(CLOCK_MONOTONIC, &e, &first) == 0);
	CHECK(timer_create(CLOCK_MONOTONIC, &e, &timer) == 0 && timer_delete(first) == 0);
}

static void timer_ids_check(void)
{
	struct itimerspec t;
	CHECK(timer_gettime(timer, &t) == 0 && t.it_value.tv_sec == 0 && t.it_value.tv_nsec == 0);
}

/* ---- clock_nanosleep(2) ---- */

static volatile int done, begun;
static struct timespec asked, left;
static int flags;

static void *sleep_there(void *arg)
{
	(void)arg;
	begun = 1;
	const int r = clock_nanosleep(CLOCK_MONOTONIC, flags, &asked, &left);
	done = r == 0 ? 1 : -1;
	return NULL;
}

static void start_sleep(void)
{
	done = 0;
	begun = 0;
	small_thread(sleep_there, NULL);
	small_await(&begun, 1);
	small_asleep();
}

static void sleep_far_make(void)
{
	asked = (struct timespec){ FAR, 0 };
	start_sleep();
}

static void sleep_far_check(void)
{
	CHECK(done == 0);
	small_asleep();
}

static void sleep_short_make(void)
{
	asked = (struct timespec){ 0, 200000000 };
	start_sleep();
}

static void sleep_short_check(void)
{
	small_await(&done, 1);
	start_sleep();
}

static void sleep_until_make(void)
{
	flags = TIMER_ABSTIME;
	CHECK(clock_gettime(CLOCK_MONOTONIC, &asked) == 0);
	asked.tv_nsec += 200000000;
	asked.tv_sec += asked.tv_nsec / 1000000000;
	asked.tv_nsec %= 1000000000;
	start_sleep();
}

static void sleep_until_check(void)
{
	struct timespec now;
	small_await(&done, 1);
	CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	CHECK(now.tv_sec > asked.tv_sec ||
	      (now.tv_sec == asked.tv_sec && now.tv_nsec >= asked.tv_nsec));
	sleep_until_make();
}

static void cpu_clock_make(void)
{
	struct timespec t;
	do
		CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) == 0);
	while (t.tv_nsec < 2000000);
}

static void cpu_clock_check(void)
{
	struct timespec t, later;
	CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0);
	do
		CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &later) == 0);
	while (later.tv_sec == t.tv_sec && later.tv_nsec == t.tv_nsec);
	CHECK(later.tv_sec > t.tv_sec || later.tv_nsec > t.tv_nsec);
}

const struct small_case event_cases[] = {
	{ "epoll(7): level-triggered: told as long as it is so; its data", level_make,
	  level_check },
	{ "epoll(7): EPOLLET: not told again until something happens", edge_make, edge_check },
	{ "epoll(7): EPOLLET: what was not told yet is told once", untold_edge_make,
	  untold_edge_check },
	{ "epoll_ctl(2): EPOLLONESHOT: disabled until EPOLL_CTL_MOD", oneshot_make, oneshot_check },
	{ "epoll(7): an epoll in an epoll", nested_make, nested_check },
	{ "epoll(7): a registered number that is closed while a duplicate is open",
	  closed_number_make, closed_number_check },
	{ "epoll_ctl(2): EEXIST, ENOENT, EPOLLEXCLUSIVE", epoll_exist_make, epoll_exist_check },
	{ "eventfd(2): the counter, and EAGAIN when it is zero", counter_make, counter_check },
	{ "eventfd(2): EFD_SEMAPHORE: each read takes one", semaphore_make, semaphore_check },
	{ "eventfd(2): a full counter takes no more", eventfd_full_make, eventfd_full_check },
	{ "timerfd_create(2): time left and interval", timerfd_make, timerfd_check },
	{ "timerfd_create(2): an interval goes on", timerfd_ticks_make, timerfd_ticks_check },
	{ "timerfd_create(2): expirations that were not read", timerfd_expired_make,
	  timerfd_expired_check },
	{ "timerfd_create(2): TFD_TIMER_ABSTIME of CLOCK_REALTIME", timerfd_absolute_make,
	  timerfd_absolute_check },
	{ "timerfd_create(2): a disarmed one of CLOCK_BOOTTIME", timerfd_disarmed_make,
	  timerfd_disarmed_check },
	{ "signalfd(2): a queued signal is read with its data", signalfd_make, signalfd_check },
	{ "inotify(7): a watched directory: IN_CREATE, IN_DELETE and the names", watch_make,
	  watch_check },
	{ "inotify(7): watches of files; one that was removed stays so", watch_file_make,
	  watch_file_check },
	{ "inotify(7): IN_ONESHOT", watch_oneshot_make, watch_oneshot_check },
	{ "fanotify(7): marks of a file and of a directory", marks_make, marks_check },
	{ "pidfd_open(2): signals, waitid(2) and close-on-exec", pidfd_make, pidfd_check },
	{ "pidfd_open(2): of a zombie: it is readable", pidfd_zombie_make, pidfd_zombie_check },
	{ "pidfd_open(2): in an epoll: the child's end is told", pidfd_polled_make,
	  pidfd_polled_check },
	{ "setitimer(2): ITIMER_REAL and ITIMER_VIRTUAL: time left, interval", itimer_far_make,
	  itimer_far_check },
	{ "setitimer(2): an interval goes on", itimer_ticks_make, itimer_ticks_check },
	{ "alarm(2): seconds left", alarm_make, alarm_check },
	{ "timer_create(2): SIGEV_SIGNAL with its value", timer_value_make, timer_value_check },
	{ "timer_create(2): SIGEV_NONE of CLOCK_BOOTTIME: time left", timer_none_make,
	  timer_none_check },
	{ "timer_create(2): of the process's CPU time", timer_cpu_make, timer_cpu_check },
	{ "timer_create(2): SIGEV_THREAD_ID", timer_thread_make, timer_thread_check },
	{ "timer_create(2): a timer's id, with a deleted one before it", timer_ids_make,
	  timer_ids_check },
	{ "clock_nanosleep(2): a long sleep goes on", sleep_far_make, sleep_far_check },
	{ "clock_nanosleep(2): a short one ends, with 0", sleep_short_make, sleep_short_check },
	{ "clock_nanosleep(2): TIMER_ABSTIME: not before its time", sleep_until_make,
	  sleep_until_check },
	{ "clock_gettime(2): clocks of CPU time go on", cpu_clock_make, cpu_clock_check },
	{ NULL },
};
