#include <errno.h>

#include "box.h"
#include "fvm/net_state.h"

#define PREFIX(a, b, c, d, n)                                                                      \
	{                                                                                          \
		(uint32_t)(a) << 24 | (b) << 16 | (c) << 8 | (d), n                                \
	}

static void pick(const uint32_t (*prefixes)[2], size_t count, uint8_t ret[2], int result)
{
	struct fvm_net_taken taken = { .count = count };
	taken.items = calloc(count + 1, sizeof(*taken.items));
	for (size_t i = 0; i < count; i++) {
		taken.items[i].address = prefixes[i][0];
		taken.items[i].bits = (uint8_t)prefixes[i][1];
	}
	assert_int_equal(fvm_net_range4_pick(&taken, ret), result);
	free(taken.items);
}

static void a_free_host_gives_the_first_candidate(void **state)
{
	uint8_t range[2];
	(void)state;
	pick(NULL, 0, range, 0);
	assert_int_equal(range[0], 10);
}

static void a_network_inside_or_around_is_avoided(void **state)
{
	uint8_t first[2], range[2];
	(void)state;
	pick(NULL, 0, first, 0);
	const uint32_t host[][2] = { PREFIX(first[0], first[1], 7, 9, 32) };
	pick(host, 1, range, 0);
	assert_memory_not_equal(range, first, 2);
	/* a VPN that takes 10/8 whole, and docker's first two */
	const uint32_t around[][2] = { PREFIX(10, 0, 0, 0, 8), PREFIX(172, 17, 0, 0, 16),
				       PREFIX(172, 18, 0, 0, 16) };
	pick(around, 3, range, 0);
	assert_int_equal(range[0], 172);
}

static void a_host_that_routes_everything_is_told_so(void **state)
{
	uint8_t range[2];
	const uint32_t halves[][2] = { PREFIX(0, 0, 0, 0, 1), PREFIX(128, 0, 0, 0, 1) };
	(void)state;
	pick(halves, 2, range, -EADDRINUSE);
}

static void addresses_of_slots_are_their_own(void **state)
{
	static struct net_state s = { .range = { { 10, 213 }, { 0xfd, 1, 2, 3, 4, 5, 6, 7 } } };
	struct fvm_nft_guest first, last;
	struct fvm_address gateway;
	char text[46];
	(void)state;
	fvm_net_guest(&s, 0, &first);
	fvm_net_guest(&s, FVM_SLOTS - 1, &last);
	fvm_net_gateway(&s.range, 2, 1, &gateway);
	fvm_address_print(&first.a4, text, sizeof(text));
	assert_string_equal(text, "10.213.0.3");
	fvm_address_print(&gateway, text, sizeof(text));
	assert_string_equal(text, "10.213.0.4");
	fvm_address_print(&last.a4, text, sizeof(text));
	assert_string_equal(text, "10.213.128.1");
	fvm_address_print(&last.a6, text, sizeof(text));
	assert_string_equal(text, "fd01:203:405:607::8001");
	assert_string_equal(last.link, "fvm16383");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_free_host_gives_the_first_candidate),
		cmocka_unit_test(a_network_inside_or_around_is_avoided),
		cmocka_unit_test(a_host_that_routes_everything_is_told_so),
		cmocka_unit_test(addresses_of_slots_are_their_own),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
