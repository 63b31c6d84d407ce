/* Timers of both sorts: getitimer(2), timer_create(2). */
#include "twins.h"

#include <sys/time.h>

#include "vin/timers.h"

static int raw_create(clockid_t clock, struct sigevent *event, int *ret_id)
{
	return (int)syscall(SYS_timer_create, clock, event, ret_id);
}

static int raw_set(int id, long ms, long interval_ms)
{
	struct itimerspec t = { { interval_ms / 1000, interval_ms % 1000 * 1000000 },
				{ ms / 1000, ms % 1000 * 1000000 } };
	return (int)syscall(SYS_timer_settime, id, 0, &t, NULL);
}

static void block(int sig)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, sig);
	CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
}

static int take(int sig, siginfo_t *info, int ms)
{
	const struct timespec t = { ms / 1000, ms % 1000 * 1000000L };
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, sig);
	return sigtimedwait(&set, info, &t);
}

/* ---- getitimer ---- */

static void itimers_set_up(int thread)
{
	(void)thread;
	for (int which = 0; which < 3; which++) {
		const struct itimerval t = { { 50 + which, 5 }, { 100 * (which + 1), 0 } };
		CHECK(setitimer(which, &t, NULL) == 0);
	}
}

static void itimers_verify(int thread)
{
	(void)thread;
	for (int which = 0; which < 3; which++) {
		struct itimerval t;
		CHECK(getitimer(which, &t) == 0);
		CHECK(t.it_interval.tv_sec == 50 + which);
		/* profiling counts in ticks */
		CHECK(t.it_interval.tv_usec >= 5 && t.it_interval.tv_usec < 10005);
		CHECK(t.it_value.tv_sec <= 100 * (which + 1));
		CHECK(t.it_value.tv_sec >= 100 * (which + 1) - 30);
	}
}

static const struct twins itimers_twins = { "interval timers go on with what was left",
					    itimers_set_up, itimers_verify, 0, false };

static void rang_set_up(int thread)
{
	(void)thread;
	const struct itimerval t = { { 0, 30000 }, { 0, 1000 } };
	block(SIGALRM);
	CHECK(setitimer(ITIMER_REAL, &t, NULL) == 0);
	nap(20);
}

static void rang_verify(int thread)
{
	(void)thread;
	siginfo_t info;
	CHECK(take(SIGALRM, &info, 0) == SIGALRM);
	for (int i = 0; i < 3; i++)
		CHECK(take(SIGALRM, &info, 5000) == SIGALRM);
}

static const struct twins rang_twins = { "an alarm that rang goes on ringing", rang_set_up,
					 rang_verify, 0, false };

/* ---- timer_create ---- */

static const struct {
	clockid_t clock;
	int notify, sig;
} timers[] = {
	{ CLOCK_REALTIME, SIGEV_SIGNAL, 40 },
	{ CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGALRM },
	{ CLOCK_BOOTTIME, SIGEV_NONE, 41 },
	{ CLOCK_TAI, SIGEV_SIGNAL, 42 },
	{ CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, 43 },
	{ CLOCK_THREAD_CPUTIME_ID, SIGEV_NONE, 44 },
	{ CLOCK_MONOTONIC, SIGEV_THREAD_ID, 45 },
	{ CLOCK_MONOTONIC, SIGEV_THREAD, 46 },
	{ CLOCK_REALTIME_ALARM, SIGEV_SIGNAL, 47 },
	{ CLOCK_BOOTTIME_ALARM, SIGEV_SIGNAL, 48 },
};

static struct sigevent event_of(size_t i)
{
	struct sigevent e = { .sigev_notify = timers[i].notify, .sigev_signo = timers[i].sig };
	e.sigev_value.sival_ptr = (void *)(0x1234567890000000 + i);
	if (timers[i].notify == SIGEV_THREAD_ID)
		e._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	return e;
}

/* Of each four one stays: numbers have holes. */
static void timers_set_up(int thread)
{
	if (thread != 0)
		return;
	for (size_t i = 0; i < FVM_COUNT(timers); i++) {
		int id = -1, ids[3];
		struct sigevent e = event_of(i);
		for (int j = 0; j < 3; j++)
			CHECK(raw_create(CLOCK_MONOTONIC, NULL, &ids[j]) == 0);
		/* alarms are not on each machine, and not for everybody */
		bool made = raw_create(timers[i].clock, &e, &id) == 0;
		CHECK(made || timers[i].clock == CLOCK_REALTIME_ALARM ||
		      timers[i].clock == CLOCK_BOOTTIME_ALARM);
		if (made)
			CHECK(raw_set(id, 1000000 + (long)i * 1000, 7000 + (long)i) == 0);
		for (int j = 0; j < 3; j++)
			CHECK(syscall(SYS_timer_delete, ids[j]) == 0);
		facts[i] = made ? id : -1;
	}
}

static void timers_verify(int thread)
{
	if (thread != 0)
		return;
	for (size_t i = 0; i < FVM_COUNT(timers); i++) {
		struct itimerspec t;
		if (facts[i] < 0)
			continue;
		CHECK(syscall(SYS_timer_gettime, (int)facts[i], &t) == 0);
		CHECK(t.it_interval.tv_sec == 7 && t.it_interval.tv_nsec == (long)i * 1000000);
		CHECK(t.it_value.tv_sec <= 1000 + (long)i && t.it_value.tv_sec > 970);
		/* and it says what it should */
		block(timers[i].sig);
		CHECK(raw_set((int)facts[i], 1, 0) == 0);
		if (timers[i].notify == SIGEV_NONE || timers[i].clock == CLOCK_PROCESS_CPUTIME_ID)
			continue;
		siginfo_t info;
		CHECK(take(timers[i].sig, &info, 5000) == timers[i].sig);
		CHECK(info.si_code == SI_TIMER);
		CHECK(info.si_value.sival_ptr == (void *)(0x1234567890000000 + i));
	}
	/* no more than these */
	int left = 0;
	for (int id = 0; id < 100; id++)
		left += syscall(SYS_timer_delete, id) == 0;
	for (size_t i = 0; i < FVM_COUNT(timers); i++)
		left -= facts[i] >= 0;
	CHECK(left == 0);
}

static const struct twins timers_twins = { "timers of all clocks and kinds, with their numbers",
					   timers_set_up, timers_verify, 0, false };

/* One that tells a thread, and one whose thread has ended. */
static void *end_at_once(void *arg)
{
	int id;
	struct sigevent e = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = 50 };
	e._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	CHECK(raw_create(CLOCK_MONOTONIC, &e, &id) == 0);
	*(volatile int64_t *)arg = id;
	return NULL;
}

static void of_threads_set_up(int thread)
{
	block(49);
	if (thread == 1) {
		int id = -1;
		struct sigevent e = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = 49 };
		e._sigev_un._tid = (pid_t)syscall(SYS_gettid);
		CHECK(raw_create(CLOCK_MONOTONIC, &e, &id) == 0);
		CHECK(raw_set(id, 300, 0) == 0);
		facts[0] = id;
	}
	if (thread == 2) {
		pthread_t t;
		CHECK(pthread_create(&t, NULL, end_at_once, (void *)(uintptr_t)&facts[1]) == 0);
		CHECK(pthread_join(t, NULL) == 0);
	}
}

static void of_threads_verify(int thread)
{
	siginfo_t info;
	if (thread == 1) {
		CHECK(take(49, &info, 5000) == 49 && info.si_timerid == facts[0]);
	} else {
		CHECK(take(49, &info, 700) < 0);
	}
	if (thread == 2) {
		CHECK(raw_set((int)facts[1], 1, 0) == 0);
		CHECK(take(50, &info, 50) < 0);
	}
}

static const struct twins of_threads_twins = { "timers that tell a thread", of_threads_set_up,
					       of_threads_verify, 2, false };

/* ---- overruns ---- */

static void overrun_set_up(int thread)
{
	(void)thread;
	int id = -1;
	siginfo_t info;
	struct sigevent e = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = 51 };
	block(51);
	CHECK(raw_create(CLOCK_MONOTONIC, &e, &id) == 0);
	struct itimerspec t;
	struct timespec now;
	/* eleven rounds of 20 s have passed, the twelfth has not */
	CHECK(clock_gettime(CLOCK_BOOTTIME, &now) == 0);
	if (now.tv_sec < 300)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	t = (struct itimerspec){ { 20, 0 }, { now.tv_sec - 230, now.tv_nsec } };
	CHECK(syscall(SYS_timer_settime, id, TIMER_ABSTIME, &t, NULL) == 0);
	CHECK(take(51, &info, 5000) == 51 && info.si_overrun == 11);
	facts[0] = id;
	facts[1] = 1;
}

static void overrun_verify(int thread)
{
	(void)thread;
	siginfo_t info;
	struct itimerspec t;
	if (!facts[1])
		return;
	CHECK(syscall(SYS_timer_getoverrun, (int)facts[0]) == 11);
	CHECK(syscall(SYS_timer_gettime, (int)facts[0], &t) == 0);
	CHECK(t.it_value.tv_sec <= 10 && t.it_interval.tv_sec == 20);
	CHECK(take(51, &info, 0) < 0);
}

static const struct twins overrun_twins = { "missed rounds are known", overrun_set_up,
					    overrun_verify, 0, false };

/* ---- a kernel that can't be asked for numbers ---- */

static void numbers_set_up(int thread)
{
	(void)thread;
	int id;
	for (int i = 0; i < 700; i++) {
		CHECK(raw_create(CLOCK_MONOTONIC, NULL, &id) == 0);
		if (i == 3 || i == 4 || i == 699)
			CHECK(raw_set(id, 500000, 0) == 0);
		else
			CHECK(syscall(SYS_timer_delete, id) == 0);
	}
}

static void numbers_verify(int thread)
{
	(void)thread;
	struct itimerspec t;
	for (int id = 0; id < 700; id++) {
		bool there = syscall(SYS_timer_gettime, id, &t) == 0;
		CHECK(there == (id == 3 || id == 4 || id == 699));
		CHECK(!there || t.it_value.tv_sec > 400);
	}
}

static const struct twins numbers_twins = { "", numbers_set_up, numbers_verify, 0, false };

/* The payload of a trait alone, put in by hand. */
static int by_hand(struct vin_thread *t, bool capture, struct fvm_buf *payload)
{
	struct vin_post post = { 0 };
	OK(vin_post_open(&post, t, &err));
	scoped_steps *s = vin_steps_new(&post);
	s->t = t;
	s->old_timers = true;
	OK(vin_steps_begin(s, &err));
	struct vin_payload p = { (void *)payload->data, (void *)(payload->data + payload->len),
				 false };
	int r = capture ? vin_timers.put(s, NULL, payload, &err)
			: vin_timers.replay(s, NULL, &p, &err);
	if (r == 0)
		OK(vin_steps_run(s, &err));
	OK(vin_post_close(&post, t, NULL));
	return r;
}

static void numbers_are_counted_up_to(void **state)
{
	(void)state;
	twins = &numbers_twins;
	scoped_buf payload = { 0 };
	for (int i = 0; i < 2; i++) {
		struct vin_tree tree = { 0 };
		pid_t pid = twin(i == 0);
		OK(vin_tree_seize(&pid, 1, 30000, &tree, &err));
		OK(by_hand(tree.procs[0].threads, i == 0, &payload));
		/* not twice */
		if (i == 1)
			assert_int_equal(by_hand(tree.procs[0].threads, false, &payload), -EEXIST);
		vin_tree_release(&tree);
	}
	board->end = 1;
	for (int i = 0; i < 2; i++) {
		waitpid(pair[i], NULL, 0);
		pair[i] = 0;
	}
	assert_int_equal(board->wrong, 0);
}

/* ---- the text of /proc ---- */

static void text_is_understood(void **state)
{
	(void)state;
	char text[] = "ID: 7\nsignal: 40/0000000000001234\nnotify: signal/tid.55\nClockID: 1\n"
		      "ID: 2\nsignal: 14/ffffffffffffffff\nnotify: none/pid.54\nClockID: -6\n";
	scoped_free struct vin_timer *t = NULL;
	size_t count;
	assert_int_equal(vin_timers_parse(text, &t, &count), 0);
	assert_int_equal(count, 2);
	assert_int_equal(t[0].id, 2);
	assert_int_equal(t[0].notify, SIGEV_NONE);
	assert_int_equal(t[0].clock, -6);
	assert_true(t[0].value == ~0ULL);
	assert_int_equal(t[1].notify, SIGEV_THREAD_ID);
	assert_int_equal(t[1].target, 55);
}

static void other_text_is_refused(void **state)
{
	(void)state;
	const char *const texts[] = { "ID: 7\n", "x", "\n\n\n\n",
				      "ID: 7\nsignal: 40/12\nnotify: signal/tid.5\n",
				      "ID: 7\nsignal: 40/12\nnotify: bell/tid.5\nClockID: 1\n" };
	for (size_t i = 0; i < FVM_COUNT(texts); i++) {
		scoped_free char *text = strdup(texts[i]);
		struct vin_timer *t;
		size_t count;
		assert_int_equal(vin_timers_parse(text, &t, &count), -EBADMSG);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TWINS(&itimers_twins),
		TWINS(&rang_twins),
		TWINS(&timers_twins),
		TWINS(&of_threads_twins),
		TWINS(&overrun_twins),
		cmocka_unit_test_teardown(numbers_are_counted_up_to, end_both),
		cmocka_unit_test(text_is_understood),
		cmocka_unit_test(other_text_is_refused),
	};
	return as_root_and_user(cmocka_run_group_tests(tests, twins_setup, twins_teardown));
}
