/* Signals: what a process does with them, and those that wait. */
#include "twins.h"

#include <ucontext.h>

static int raw_action(int sig, const struct vin_sigaction *set, struct vin_sigaction *ret)
{
	return (int)syscall(SYS_rt_sigaction, sig, set, ret, 8);
}

static volatile int handled;

static void handler(int sig, siginfo_t *info, void *context)
{
	(void)context;
	handled = sig * 1000 + info->si_value.sival_int;
}

/* ---- actions ---- */

static const struct {
	int sig, flags;
	bool ignored;
} actions[] = {
	{ SIGHUP, SA_RESTART, false },
	{ SIGUSR1, SA_SIGINFO | SA_RESTART | SA_ONSTACK | SA_NODEFER, false },
	{ SIGUSR2, 0, true },
	{ SIGCHLD, SA_NOCLDSTOP | SA_NOCLDWAIT, false },
	{ SIGTRAP, SA_SIGINFO, false },
	{ SIGSEGV, (int)(SA_SIGINFO | SA_RESETHAND), false },
	{ 40, SA_SIGINFO | SA_RESETHAND, false },
	{ 64, SA_SIGINFO, false },
};

static struct sigaction action_of(size_t i)
{
	struct sigaction a = { .sa_sigaction = handler, .sa_flags = actions[i].flags };
	if (actions[i].ignored)
		a.sa_handler = SIG_IGN;
	sigaddset(&a.sa_mask, SIGTERM);
	sigaddset(&a.sa_mask, actions[i].sig == 64 ? 63 : 64);
	return a;
}

static void actions_set_up(int thread)
{
	(void)thread;
	for (size_t i = 0; i < FVM_COUNT(actions); i++) {
		struct sigaction a = action_of(i);
		CHECK(sigaction(actions[i].sig, &a, NULL) == 0);
	}
	/* as a program without libc might have it */
	struct vin_sigaction odd = { 0x12345678, VIN_SA_RESTORER | SA_SIGINFO, 0x87654321,
				     1ULL << 62 | 1 };
	CHECK(raw_action(50, &odd, NULL) == 0);
}

static void actions_verify(int thread)
{
	(void)thread;
	struct vin_sigaction odd, normal;
	CHECK(raw_action(50, NULL, &odd) == 0);
	CHECK(odd.handler == 0x12345678 && odd.restorer == 0x87654321);
	CHECK(odd.flags == (VIN_SA_RESTORER | SA_SIGINFO) && odd.mask == (1ULL << 62 | 1));
	for (size_t i = 0; i < FVM_COUNT(actions); i++) {
		struct sigaction a = action_of(i), now;
		CHECK(sigaction(actions[i].sig, NULL, &now) == 0);
		CHECK(now.sa_sigaction == a.sa_sigaction);
		CHECK((now.sa_flags & ~(int)VIN_SA_RESTORER) == a.sa_flags);
		CHECK(sigismember(&now.sa_mask, SIGTERM) == 1);
		CHECK(sigismember(&now.sa_mask, actions[i].sig == 64 ? 63 : 64) == 1);
		CHECK(sigismember(&now.sa_mask, SIGINT) == 0);
	}
	CHECK(raw_action(SIGWINCH, NULL, &normal) == 0);
	CHECK(normal.handler == 0);
	/* and they work */
	CHECK(sigqueue(getpid(), SIGTRAP, (union sigval){ .sival_int = 7 }) == 0);
	CHECK(handled == SIGTRAP * 1000 + 7);
	CHECK(sigqueue(getpid(), 40, (union sigval){ .sival_int = 8 }) == 0);
	CHECK(handled == 40008);
	CHECK(raw_action(40, NULL, &normal) == 0 && normal.handler == 0);
}

static const struct twins actions_twins = { "actions with flags, masks and restorers",
					    actions_set_up, actions_verify, 0, false };

/* ---- queued ---- */

static void block(int sig)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, sig);
	CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
}

static void queue(int sig, int value)
{
	CHECK(sigqueue(getpid(), sig, (union sigval){ .sival_int = value }) == 0);
}

static int take(int sig, siginfo_t *info)
{
	static const struct timespec at_once;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, sig);
	return sigtimedwait(&set, info, &at_once);
}

static void queued_set_up(int thread)
{
	(void)thread;
	for (int sig = 34; sig <= 36; sig++)
		block(sig);
	block(SIGUSR1);
	block(SIGCHLD);
	block(SIGUSR2);
	signal(SIGUSR2, SIG_IGN);
	for (int i = 0; i < 70; i++)
		queue(34, i);
	queue(36, 1);
	queue(35, 2);
	queue(36, 3);
	CHECK(kill(getpid(), SIGUSR1) == 0);
	CHECK(kill(getpid(), SIGUSR2) == 0);
	pid_t child = fork();
	if (child == 0)
		_exit(3);
	CHECK(waitpid(child, NULL, 0) == child);
	facts[0] = child;
}

static void queued_verify(int thread)
{
	(void)thread;
	siginfo_t info;
	for (int i = 0; i < 70; i++)
		CHECK(take(34, &info) == 34 && info.si_value.sival_int == i &&
		      info.si_code == SI_QUEUE);
	CHECK(take(36, &info) == 36 && info.si_value.sival_int == 1);
	CHECK(take(36, &info) == 36 && info.si_value.sival_int == 3);
	CHECK(take(35, &info) == 35 && info.si_value.sival_int == 2);
	CHECK(take(36, &info) < 0);
	CHECK(take(SIGUSR1, &info) == SIGUSR1 && info.si_code == SI_USER);
	CHECK(info.si_pid == getpid() && info.si_uid == getuid());
	CHECK(take(SIGUSR2, &info) == SIGUSR2);
	/* the kernel's word, which others may not speak */
	CHECK(take(SIGCHLD, &info) == SIGCHLD && info.si_code == CLD_EXITED);
	CHECK(info.si_pid == facts[0] && info.si_status == 3);
}

static const struct twins queued_twins = { "queued signals with their data, in their order",
					   queued_set_up, queued_verify, 0, false };

static void trap_set_up(int thread)
{
	(void)thread;
	block(SIGTRAP);
	queue(SIGTRAP, 77);
	/* another one, to the thread */
	siginfo_t info = { .si_signo = SIGTRAP, .si_code = SI_QUEUE };
	info.si_value.sival_int = 78;
	CHECK(syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), SIGTRAP, &info) == 0);
}

static void trap_verify(int thread)
{
	(void)thread;
	siginfo_t info;
	CHECK(take(SIGTRAP, &info) == SIGTRAP && info.si_value.sival_int == 78);
	CHECK(take(SIGTRAP, &info) == SIGTRAP && info.si_value.sival_int == 77);
	CHECK(take(SIGTRAP, &info) < 0);
}

static const struct twins trap_twins = { "a breakpoint's signal that waits", trap_set_up,
					 trap_verify, 0, false };

/* Each thread its own, and one that is for all. */
static void threads_set_up(int thread)
{
	block(37);
	block(38);
	siginfo_t info = { .si_signo = 37, .si_code = SI_QUEUE };
	info.si_value.sival_int = 100 + thread;
	CHECK(syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), 37, &info) == 0);
	if (thread == 0)
		queue(38, 5);
}

static void threads_verify(int thread)
{
	siginfo_t info;
	CHECK(take(37, &info) == 37 && info.si_value.sival_int == 100 + thread);
	CHECK(take(37, &info) < 0);
	if (thread == 2) {
		CHECK(take(38, &info) == 38 && info.si_value.sival_int == 5);
		CHECK(take(38, &info) < 0);
	}
}

static const struct twins threads_twins = { "signals of threads, and of their process",
					    threads_set_up, threads_verify, 3, false };

/* ---- somebody stops it while we are there ---- */

static void go_on(int thread)
{
	(void)thread;
}

static void one_that_is_stopped_meanwhile_stops_when_it_is_let_go(void **state)
{
	(void)state;
	static const struct twins t = { "", go_on, go_on, 0, false };
	struct vin_tree tree = { 0 };
	struct vin_post post = { 0 };
	scoped_buf payload = { 0 };
	twins = &t;
	pid_t pid = twin(true);
	for (int late = 0; late < 2; late++) {
		OK(vin_tree_seize(&pid, 1, 30000, &tree, &err));
		struct vin_thread *t0 = tree.procs[0].threads;
		if (!late)
			assert_int_equal(kill(pid, SIGSTOP), 0);
		OK(vin_post_open(&post, t0, &err));
		if (late)
			assert_int_equal(kill(pid, SIGSTOP), 0);
		assert_int_equal(vin_traits_capture(&post, t0, 1, 0, NULL, &payload, &err),
				 -EAGAIN);
		OK(vin_post_close(&post, t0, &err));
		vin_tree_release(&tree);
		for (int i = 0; i < 30000 && process_state(pid) != 'T'; i++)
			nap(1);
		assert_int_equal(process_state(pid), 'T');
		assert_int_equal(kill(pid, SIGCONT), 0);
	}
	board->end = 1;
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	pair[0] = 0;
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TWINS(&actions_twins),
		TWINS(&queued_twins),
		TWINS(&trap_twins),
		TWINS(&threads_twins),
		cmocka_unit_test_teardown(one_that_is_stopped_meanwhile_stops_when_it_is_let_go,
					  end_both),
	};
	return as_root_and_user(cmocka_run_group_tests(tests, twins_setup, twins_teardown));
}
