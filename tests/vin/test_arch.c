/* What one machine's processor keeps, for another one's. */
#include <elf.h>
#include <errno.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "victim.h"
#include "vin/thread.h"

#define SIZE	 (64 * 1024)
#define FEATURES 464 /* as the kernel marks what it tells */
#define IN_USE	 512
#define AVX_AT	 576
#define AVX_SIZE 256
#define AVX	 7ULL
#define AVX_512	 (7ULL << 5)
#define KEYS	 (1ULL << 9)
#define TILES	 (3ULL << 17)

static struct {
	unsigned char bytes[SIZE];
	size_t len;
} own, foreign;

static void idle(void)
{
	board->ready = 1;
	while (!board->end)
		nap(1);
}

static uint64_t word(const unsigned char *bytes, size_t at)
{
	uint64_t value;
	memcpy(&value, bytes + at, sizeof(value));
	return value;
}

static void set_word(unsigned char *bytes, size_t at, uint64_t value)
{
	memcpy(bytes + at, &value, sizeof(value));
}

/* A stopped program and what it has; then as a machine with @features, of @len bytes, would tell
 * it, with @in_use of them. */
static void begin(struct vin_thread *t, uint64_t features, size_t len, uint64_t in_use)
{
	struct iovec iov = { own.bytes, SIZE };
	const pid_t pid = victim(idle, false);
	OK(vin_thread_seize(pid, &err));
	OK(vin_thread_settle(pid, pid, 5000, t, &err));
	assert_int_equal(ptrace(PTRACE_GETREGSET, pid, VIN_ARCH_EXTENDED, &iov), 0);
	own.len = iov.iov_len;
	if ((word(own.bytes, FEATURES) & AVX) != AVX) {
		print_message("this processor has no AVX\n");
		skip();
	}
	memset(&foreign, 0, sizeof(foreign));
	memcpy(foreign.bytes, own.bytes, FEATURES);
	foreign.len = len;
	set_word(foreign.bytes, FEATURES, features);
	set_word(foreign.bytes, IN_USE, in_use);
	for (size_t i = 0; i < AVX_SIZE; i++)
		foreign.bytes[AVX_AT + i] = (unsigned char)(i * 7 + 1);
}

static int fit(const char **ret_what)
{
	*ret_what = NULL;
	return vin_arch_fit(foreign.bytes, foreign.len, own.bytes, own.len, ret_what);
}

static void has_it(struct vin_thread *t)
{
	unsigned char now[SIZE];
	struct iovec told = { now, sizeof(now) };
	assert_int_equal(ptrace(PTRACE_GETREGSET, t->tid, VIN_ARCH_EXTENDED, &told), 0);
	assert_int_equal(told.iov_len, own.len);
	assert_memory_equal(now + AVX_AT, foreign.bytes + AVX_AT, AVX_SIZE);
	OK(vin_thread_release(t, &err));
	victim_end(t->pid);
}

/* The kernel takes it, and tells the same then. */
static void takes_it(struct vin_thread *t)
{
	struct iovec iov = { own.bytes, own.len };
	assert_int_equal(ptrace(PTRACE_SETREGSET, t->tid, VIN_ARCH_EXTENDED, &iov), 0);
	has_it(t);
}

static void a_smaller_processor_s_vectors_are_kept(void **state)
{
	(void)state;
	struct vin_thread t;
	const char *what;
	begin(&t, AVX, AVX_AT + AVX_SIZE, AVX);
	assert_int_equal(fit(&what), 0);
	assert_int_equal(word(own.bytes, IN_USE) & ~KEYS, AVX);
	takes_it(&t);
}

static void what_a_larger_one_has_and_nobody_uses_is_left_out(void **state)
{
	(void)state;
	struct vin_thread t;
	const char *what;
	begin(&t, AVX | AVX_512 | KEYS | TILES, 11008, AVX | KEYS);
	assert_int_equal(fit(&what), 0);
	takes_it(&t);
}

static void what_is_in_use_and_unknown_is_named(void **state)
{
	(void)state;
	struct vin_thread t;
	const char *what;
	begin(&t, AVX | TILES, 11008, AVX | TILES);
	if (word(own.bytes, FEATURES) & TILES) {
		print_message("this processor has AMX\n");
		skip();
	}
	assert_int_equal(fit(&what), -EOPNOTSUPP);
	assert_string_equal(what, "AMX");
	OK(vin_thread_release(&t, &err));
	victim_end(t.pid);
}

/* Larger vectors lie at other places on processors of another make. */
static void another_layout_is_not_guessed(void **state)
{
	(void)state;
	struct vin_thread t;
	const char *what;
	begin(&t, AVX | AVX_512, 9999, AVX | AVX_512);
	assert_int_equal(fit(&what), -EOPNOTSUPP);
	assert_string_equal(what, "AVX-512");
	OK(vin_thread_release(&t, &err));
	victim_end(t.pid);
}

static void less_than_it_says_is_damaged(void **state)
{
	(void)state;
	struct vin_thread t;
	const char *what;
	begin(&t, AVX, AVX_AT + AVX_SIZE - 1, AVX);
	assert_int_equal(fit(&what), -EBADMSG);
	foreign.len = AVX_AT - 1;
	assert_int_equal(fit(&what), -EBADMSG);
	foreign.len = 0;
	assert_int_equal(fit(&what), -EBADMSG);
	OK(vin_thread_release(&t, &err));
	victim_end(t.pid);
}

/* As replay does it, with an image from there. */
static int dress(struct vin_thread *t)
{
	struct vin_post post;
	struct vin_thread_state s = { .pid = t->pid,
				      .tid = t->tid,
				      .regs = t->regs,
				      .mask = t->mask,
				      .extended = foreign.bytes,
				      .extended_len = foreign.len };
	OK(vin_post_open(&post, t, &err));
	const int r = vin_thread_ready(&post, t, &s, &err);
	assert_int_equal(vin_post_close(&post, t, NULL), 0);
	return r;
}

static void a_thread_becomes_what_it_was_elsewhere(void **state)
{
	(void)state;
	struct vin_thread t;
	begin(&t, AVX | AVX_512 | TILES, 11008, AVX);
	OK(dress(&t));
	has_it(&t);
	begin(&t, AVX | TILES, 11008, AVX | 1ULL << 62);
	err = (struct fvm_error){ 0 };
	assert_int_equal(dress(&t), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "this processor has not"));
	OK(vin_thread_release(&t, &err));
	victim_end(t.pid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(a_smaller_processor_s_vectors_are_kept, victim_kill),
		cmocka_unit_test_teardown(what_a_larger_one_has_and_nobody_uses_is_left_out,
					  victim_kill),
		cmocka_unit_test_teardown(what_is_in_use_and_unknown_is_named, victim_kill),
		cmocka_unit_test_teardown(another_layout_is_not_guessed, victim_kill),
		cmocka_unit_test_teardown(a_thread_becomes_what_it_was_elsewhere, victim_kill),
		cmocka_unit_test_teardown(less_than_it_says_is_damaged, victim_kill),
	};
	return cmocka_run_group_tests(tests, victims_setup, victims_teardown);
}
