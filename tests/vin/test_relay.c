/* Bytes pass from end to end whole and in order, on one thread and on two; who fails ends both. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vin/relay.h"

#define MANY (64UL * VIN_RELAY_BLOCK)

struct ends {
	size_t blocks, filled, drained; /* to pass; passed */
	size_t fill_fails, drain_fails; /* at which; 0: never */
};

/* Each block is one shorter than the last, and has its number everywhere. */
static long fill(void *arg, void *block)
{
	struct ends *e = arg;
	if (e->filled == e->blocks)
		return 0;
	if (++e->filled == e->fill_fails)
		return -EFAULT;
	memset(block, (int)e->filled, VIN_RELAY_BLOCK - e->filled);
	return (long)(VIN_RELAY_BLOCK - e->filled);
}

static int drain(void *arg, const void *block, size_t len)
{
	struct ends *e = arg;
	const unsigned char *bytes = block;
	if (++e->drained == e->drain_fails)
		return -ENOSPC;
	return len == VIN_RELAY_BLOCK - e->drained && bytes[0] == (e->drained & 0xff) &&
			       bytes[len - 1] == (e->drained & 0xff)
		       ? 0
		       : -EBADMSG;
}

static int relay(struct ends *e, bool fill_apart, unsigned long long bytes)
{
	const struct vin_relay_ends ends = { .fill = fill,
					     .drain = drain,
					     .fill_arg = e,
					     .drain_arg = e,
					     .fill_apart = fill_apart };
	return vin_relay(&ends, bytes);
}

static void all_bytes_arrive_in_order(void **state)
{
	(void)state;
	for (int apart = 0; apart < 2; apart++) {
		struct ends few = { .blocks = 3 }, many = { .blocks = 200 }, none = { 0 };
		assert_int_equal(relay(&few, apart, 1), 0);
		assert_int_equal(few.drained, 3);
		assert_int_equal(relay(&many, apart, MANY), 0);
		assert_int_equal(many.drained, 200);
		assert_int_equal(relay(&none, apart, MANY), 0);
	}
}

static void who_fails_ends_both(void **state)
{
	(void)state;
	for (int apart = 0; apart < 2; apart++) {
		for (size_t at = 1; at < 40; at += 6) {
			struct ends first = { .blocks = 50, .fill_fails = at };
			struct ends second = { .blocks = 50, .drain_fails = at };
			assert_int_equal(relay(&first, apart, MANY), -EFAULT);
			assert_true(first.drained < at);
			assert_int_equal(relay(&second, apart, MANY), -ENOSPC);
			assert_int_equal(second.drained, at);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_bytes_arrive_in_order),
		cmocka_unit_test(who_fails_ends_both),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
