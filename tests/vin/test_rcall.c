#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/rseq.h>

#include "victim.h"
#include "vin/rcall.h"

static void park(pid_t pid, struct vin_thread *t)
{
	OK(vin_thread_seize(pid, &err));
	OK(vin_thread_settle(pid, pid, 5000, t, &err));
}

static int64_t ask(const struct vin_post *post, struct vin_thread *t, struct vin_call call)
{
	int64_t result = 0;
	OK(vin_call(post, t, "test", &call, &result, &err));
	return result;
}

/* Registers of every sort hold values over the loop: a changed one is a wrong sum. */
static void work(void)
{
	double d[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	board->ready = 1;
	while (!board->end) {
		uint64_t a = 1, b = 2, c = 3, e = 5;
		double x = d[0], y = d[3];
		for (int i = 0; i < 5000; i++) {
			a = a * 6364136223846793005ULL + 1442695040888963407ULL;
			b ^= a >> 7;
			c += b;
			e = e * 3 + (c >> 3);
			x = x * 1.000001 + y;
			y = y * 0.999999 + 0.5;
		}
		static uint64_t sum;
		static double sums;
		if (board->rounds++ == 0) {
			sum = a ^ b ^ c ^ e;
			sums = x + y;
		} else if (sum != (a ^ b ^ c ^ e) || sums != x + y) {
			board->wrong++;
		}
	}
}

static void wait_for_rounds(void)
{
	uint64_t rounds = board->rounds;
	for (int ms = 0; ms < 30000 && board->rounds < rounds + 2; ms++)
		nap(1);
	assert_true(board->rounds > rounds);
}

static void a_call_is_made_by_the_other_program(void **state)
{
	(void)state;
	pid_t pid = victim(work, false);
	struct vin_thread t;
	struct vin_post post;
	park(pid, &t);
	OK(vin_post_open(&post, &t, &err));
	assert_int_equal(ask(&post, &t, (struct vin_call){ SYS_getpid }), pid);
	assert_int_equal(ask(&post, &t, (struct vin_call){ SYS_getppid }), getpid());
	assert_int_equal(ask(&post, &t, (struct vin_call){ SYS_close, { 12345 } }), -EBADF);
	err = (struct fvm_error){ 0 };
	struct vin_call bad = { SYS_close, { 12345 } };
	assert_int_equal(vin_call(&post, &t, "close", &bad, NULL, &err), -EBADF);
	assert_non_null(strstr(err.text, "close"));
	OK(vin_post_close(&post, &t, &err));
	OK(vin_thread_release(&t, &err));
	wait_for_rounds();
	victim_end(pid);
}

static void arguments_and_results_go_through_the_post(void **state)
{
	(void)state;
	pid_t pid = victim(work, false);
	struct vin_thread t;
	struct vin_post post;
	char cwd[200], here[200];
	park(pid, &t);
	OK(vin_post_open(&post, &t, &err));
	int64_t len = ask(&post, &t, (struct vin_call){ SYS_getcwd, { post.data, sizeof(cwd) } });
	assert_true(len > 1 && len <= (int64_t)sizeof(cwd));
	OK(vin_mem_read(pid, post.data, cwd, (size_t)len));
	assert_string_equal(cwd, getcwd(here, sizeof(here)));
	OK(vin_post_close(&post, &t, &err));
	OK(vin_thread_release(&t, &err));
	victim_end(pid);
}

static void a_batch_stops_at_the_first_failure_or_goes_on(void **state)
{
	(void)state;
	pid_t pid = victim(work, false);
	struct vin_thread t;
	struct vin_post post;
	struct vin_call calls[VIN_BATCH_MAX];
	size_t done = 0;
	park(pid, &t);
	OK(vin_post_open(&post, &t, &err));
	for (size_t i = 0; i < VIN_BATCH_MAX; i++)
		calls[i] = (struct vin_call){ SYS_getpid };
	OK(vin_batch(&post, &t, calls, VIN_BATCH_MAX, false, &done, &err));
	assert_int_equal(done, VIN_BATCH_MAX);
	for (size_t i = 0; i < VIN_BATCH_MAX; i++)
		assert_int_equal(calls[i].result, pid);
	calls[7] = (struct vin_call){ SYS_close, { 4000 } };
	assert_int_equal(vin_batch(&post, &t, calls, 20, false, &done, NULL), -EBADF);
	assert_int_equal(done, 8);
	assert_int_equal(calls[8].result, VIN_NOT_MADE);
	OK(vin_batch(&post, &t, calls, 20, true, &done, &err));
	assert_int_equal(done, 20);
	assert_int_equal(calls[7].result, -EBADF);
	assert_int_equal(calls[19].result, pid);
	assert_int_equal(vin_batch(&post, &t, calls, VIN_BATCH_MAX + 1, true, &done, NULL),
			 -EINVAL);
	OK(vin_post_close(&post, &t, &err));
	OK(vin_thread_release(&t, &err));
	victim_end(pid);
}

static size_t maps_lines(pid_t pid)
{
	char path[40];
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	assert_int_equal(fvm_read_file(AT_FDCWD, path, 1 << 20, &text, NULL), 0);
	size_t lines = 0;
	for (char *p = text; (p = strchr(p, '\n')); p++)
		lines++;
	return lines;
}

static void two_hundred_visits_change_nothing(void **state)
{
	(void)state;
	pid_t pid = victim(work, false);
	size_t before = maps_lines(pid);
	for (int i = 0; i < 200; i++) {
		struct vin_thread t;
		struct vin_post post;
		struct vin_call calls[5];
		size_t done;
		park(pid, &t);
		OK(vin_post_open(&post, &t, &err));
		for (size_t j = 0; j < 5; j++)
			calls[j] = (struct vin_call){ SYS_getuid };
		OK(vin_batch(&post, &t, calls, 5, false, &done, &err));
		OK(vin_thread_park(&t, &err));
		OK(vin_post_close(&post, &t, &err));
		OK(vin_thread_release(&t, &err));
	}
	assert_int_equal(maps_lines(pid), before);
	assert_true(board->rounds > 0);
	victim_end(pid);
}

/* ---- signals ---- */

static void on_trap(int sig)
{
	(void)sig;
	board->seen++;
}

static int trap_kind; /* 0: ignored, 1: blocked, 2: handled, 3: blocked and pending */

static void mind_traps(void)
{
	sigset_t trap;
	sigemptyset(&trap);
	sigaddset(&trap, SIGTRAP);
	if (trap_kind == 0)
		signal(SIGTRAP, SIG_IGN);
	else
		signal(SIGTRAP, on_trap);
	if (trap_kind == 1 || trap_kind == 3)
		sigprocmask(SIG_BLOCK, &trap, NULL);
	if (trap_kind == 3)
		raise(SIGTRAP);
	work();
	struct sigaction now;
	sigset_t mask, pending;
	sigaction(SIGTRAP, NULL, &now);
	sigprocmask(SIG_BLOCK, NULL, &mask);
	sigpending(&pending);
	board->wrong += now.sa_handler != (trap_kind == 0 ? SIG_IGN : on_trap);
	board->wrong += sigismember(&mask, SIGTRAP) != (trap_kind == 1 || trap_kind == 3);
	board->wrong += sigismember(&pending, SIGTRAP) != (trap_kind == 3);
	if (trap_kind != 0 && trap_kind != 3) {
		sigprocmask(SIG_UNBLOCK, &trap, NULL);
		raise(SIGTRAP);
		board->wrong += board->seen != 1;
	}
}

static void visit(pid_t pid)
{
	struct vin_thread t;
	struct vin_post post;
	park(pid, &t);
	OK(vin_post_open(&post, &t, &err));
	assert_int_equal(ask(&post, &t, (struct vin_call){ SYS_getpid }), pid);
	OK(vin_post_close(&post, &t, &err));
	OK(vin_thread_release(&t, &err));
}

static void sigtrap_stays_what_the_program_made_of_it(void **state)
{
	(void)state;
	for (trap_kind = 0; trap_kind < 4; trap_kind++) {
		pid_t pid = victim(mind_traps, false);
		visit(pid);
		nap(5);
		victim_end(pid);
	}
}

static void count_usr1(void)
{
	signal(SIGUSR1, on_trap);
	signal(SIGTRAP, on_trap);
	work();
}

static void signals_sent_meanwhile_arrive_afterwards(void **state)
{
	(void)state;
	pid_t pid = victim(count_usr1, false);
	struct vin_thread t;
	struct vin_post post;
	park(pid, &t);
	OK(vin_post_open(&post, &t, &err));
	kill(pid, SIGUSR1);
	kill(pid, SIGTRAP);
	assert_int_equal(ask(&post, &t, (struct vin_call){ SYS_getpid }), pid);
	assert_int_equal(ask(&post, &t, (struct vin_call){ SYS_getpid }), pid);
	assert_int_equal(board->seen, 0);
	OK(vin_post_close(&post, &t, &err));
	OK(vin_thread_release(&t, &err));
	for (int i = 0; i < 30000 && board->seen < 2; i++)
		nap(1);
	assert_int_equal(board->seen, 2);
	victim_end(pid);
}

static void a_stopped_program_stays_stopped(void **state)
{
	(void)state;
	pid_t pid = victim(work, false);
	kill(pid, SIGSTOP);
	while (process_state(pid) != 'T')
		nap(1);
	visit(pid);
	nap(20);
	assert_int_equal(process_state(pid), 'T');
	kill(pid, SIGCONT);
	wait_for_rounds();
	victim_end(pid);
}

/* ---- interrupted calls ---- */

static void sleep_once(void)
{
	struct timespec t = { 0, 300000000 }, left = { 0, 0 }, a, b;
	board->ready = 1;
	clock_gettime(CLOCK_MONOTONIC, &a);
	int r = nanosleep(&t, &left);
	clock_gettime(CLOCK_MONOTONIC, &b);
	int64_t ms = (b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000;
	board->wrong += r != 0 || ms < 299;
	board->seen = (uint64_t)ms;
}

static void a_sleep_goes_on_to_its_time(void **state)
{
	(void)state;
	pid_t pid = victim(sleep_once, false);
	nap(20);
	for (int i = 0; i < 5; i++)
		visit(pid);
	victim_end(pid);
}

static int pipes[2];

static void read_once(void)
{
	char c = 0;
	board->ready = 1;
	board->wrong += read(pipes[0], &c, 1) != 1 || c != 'x';
}

static void a_read_that_waits_goes_on_waiting(void **state)
{
	(void)state;
	assert_int_equal(pipe(pipes), 0);
	pid_t pid = victim(read_once, false);
	nap(20);
	for (int i = 0; i < 5; i++)
		visit(pid);
	assert_int_equal(write(pipes[1], "x", 1), 1);
	victim_end(pid);
	close(pipes[0]);
	close(pipes[1]);
}

/* ---- restartable sequences ---- */

/* Stands in a sequence, into which it goes again after each abort (timers bring some, too). One
 * that it is still in after a visit, which changes board->seen, is wrong. */
static void in_sequence(void)
{
	struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
	struct {
		uint32_t version, flags;
		uint64_t start, length, abort;
	} __attribute__((aligned(32))) section = { 0 };
	uint64_t wrong = 0;
	__asm__ volatile("	lea 2f(%%rip), %%rax\n"
			 "	mov %%rax, 8(%[s])\n"
			 "	lea 3f(%%rip), %%rcx\n"
			 "	sub %%rax, %%rcx\n"
			 "	mov %%rcx, 16(%[s])\n"
			 "	lea 4f(%%rip), %%rax\n"
			 "	mov %%rax, 24(%[s])\n"
			 "1:	mov %[s], 8(%[area])\n"
			 "2:	mov (%[seen]), %%rax\n"
			 "	movl $1, (%[ready])\n"
			 "6:	cmp (%[seen]), %%rax\n"
			 "	jne 7f\n"
			 "	cmpl $0, (%[end])\n"
			 "	je 6b\n"
			 "	jmp 3f\n"
			 "7:	inc %[wrong]\n"
			 "3:	jmp 5f\n"
			 "	.byte 0x0f, 0xb9, 0x3d\n"
			 "	.long 0x53053053\n"
			 "4:	jmp 1b\n"
			 "5:\n"
			 : [wrong] "+r"(wrong)
			 : [s] "r"(&section), [area] "r"(area), [ready] "r"(&board->ready),
			   [end] "r"(&board->end), [seen] "r"(&board->seen)
			 : "rax", "rcx", "memory");
	board->wrong += wrong;
}

static void a_sequence_is_aborted_not_gone_on_with(void **state)
{
	(void)state;
	if (__rseq_size == 0)
		skip();
	pid_t pid = victim(in_sequence, false);
	for (int i = 0; i < 30; i++) {
		struct vin_thread t;
		struct vin_post post;
		park(pid, &t);
		OK(vin_post_open(&post, &t, &err));
		assert_int_equal(ask(&post, &t, (struct vin_call){ SYS_getpid }), pid);
		board->seen++;
		OK(vin_post_close(&post, &t, &err));
		OK(vin_thread_release(&t, &err));
		nap(1);
	}
	victim_end(pid);
}

/* ---- our own death ---- */

/* A controller in a process of its own; dies in the middle of calls that wait. */
static void die_in_calls(pid_t pid, int after_us, bool in_batch)
{
	pid_t controller = fork();
	assert_true(controller >= 0);
	if (controller == 0) {
		struct vin_thread t;
		struct vin_post post;
		if (vin_thread_seize(pid, &err) < 0 ||
		    vin_thread_settle(pid, pid, 5000, &t, &err) < 0 ||
		    vin_post_open(&post, &t, &err) < 0)
			_exit(1);
		struct timespec ms = { 0, 1000000 };
		(void)vin_mem_write(pid, post.data, &ms, sizeof(ms));
		board->seen = 1;
		for (;;) {
			struct vin_call calls[30];
			size_t done;
			for (size_t i = 0; i < 30; i++)
				calls[i] = (struct vin_call){ SYS_nanosleep, { post.data, 0 } };
			if (in_batch)
				(void)vin_batch(&post, &t, calls, 30, true, &done, NULL);
			else
				(void)vin_call(&post, &t, "getpid",
					       &(struct vin_call){ SYS_getpid }, NULL, NULL);
		}
	}
	for (int i = 0; i < 30000 && !board->seen; i++)
		nap(1);
	assert_int_equal(board->seen, 1);
	board->seen = 0;
	usleep((unsigned int)after_us);
	kill(controller, SIGKILL);
	assert_int_equal(waitpid(controller, NULL, 0), controller);
}

static void the_program_survives_the_controller(void **state)
{
	(void)state;
	for (int i = 0; i < 100; i++) {
		trap_kind = i % 2;
		pid_t pid = victim(mind_traps, false);
		die_in_calls(pid, i * 217 % 7000, i & 2);
		wait_for_rounds();
		visit(pid);
		victim_end(pid);
	}
}

static void a_read_survives_the_controller(void **state)
{
	(void)state;
	assert_int_equal(pipe(pipes), 0);
	pid_t pid = victim(read_once, false);
	nap(20);
	die_in_calls(pid, 1000, true);
	nap(50);
	assert_int_equal(write(pipes[1], "x", 1), 1);
	victim_end(pid);
	close(pipes[0]);
	close(pipes[1]);
}

/* ---- what is no program to visit ---- */

static void quick_end(void)
{
	board->ready = 1;
}

static void a_zombie_or_nobody_is_told_so(void **state)
{
	(void)state;
	err = (struct fvm_error){ 0 };
	pid_t pid = victim(quick_end, false);
	while (process_state(pid) != 'Z')
		nap(1);
	assert_int_equal(vin_thread_seize(pid, &err), -EPERM);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(vin_thread_seize(pid, &err), -ESRCH);
}

static void a_program_that_dies_meanwhile_is_told_so(void **state)
{
	(void)state;
	pid_t pid = victim(work, false);
	struct vin_thread t;
	struct vin_post post;
	park(pid, &t);
	OK(vin_post_open(&post, &t, &err));
	kill(pid, SIGKILL);
	err = (struct fvm_error){ 0 };
	struct vin_call call = { SYS_getpid };
	assert_int_equal(vin_call(&post, &t, "getpid", &call, NULL, &err), -ESRCH);
	waitpid(pid, NULL, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(a_call_is_made_by_the_other_program, victim_kill),
		cmocka_unit_test_teardown(arguments_and_results_go_through_the_post, victim_kill),
		cmocka_unit_test_teardown(a_batch_stops_at_the_first_failure_or_goes_on,
					  victim_kill),
		cmocka_unit_test_teardown(two_hundred_visits_change_nothing, victim_kill),
		cmocka_unit_test_teardown(sigtrap_stays_what_the_program_made_of_it, victim_kill),
		cmocka_unit_test_teardown(signals_sent_meanwhile_arrive_afterwards, victim_kill),
		cmocka_unit_test_teardown(a_stopped_program_stays_stopped, victim_kill),
		cmocka_unit_test_teardown(a_sleep_goes_on_to_its_time, victim_kill),
		cmocka_unit_test_teardown(a_read_that_waits_goes_on_waiting, victim_kill),
		cmocka_unit_test_teardown(a_sequence_is_aborted_not_gone_on_with, victim_kill),
		cmocka_unit_test_teardown(the_program_survives_the_controller, victim_kill),
		cmocka_unit_test_teardown(a_read_survives_the_controller, victim_kill),
		cmocka_unit_test_teardown(a_zombie_or_nobody_is_told_so, victim_kill),
		cmocka_unit_test_teardown(a_program_that_dies_meanwhile_is_told_so, victim_kill),
	};
	return cmocka_run_group_tests(tests, victims_setup, victims_teardown);
}
