#include "tests/box.h"

#include "fvm/idmap_user.h"

static void largest_range_of_the_user_is_taken(void **state)
{
	uint32_t first = 0;
	(void)state;
	assert_int_equal(fvm_subid_parse("a:100000:65536\nme:200000:1000\nme:300000:65536\n", "me",
					 1001, &first),
			 65536);
	assert_int_equal(first, 300000);
	assert_int_equal(fvm_subid_parse("1001:5000:70000", "me", 1001, &first), 70000);
	assert_int_equal(first, 5000);
}

static void nothing_is_made_of_odd_lines(void **state)
{
	static const char *const texts[] = {
		"",
		"me",
		"me:",
		"me:1",
		"me:x:65536\n",
		"me:100000:x\n",
		"me:0:65536\n",		 /* root itself */
		"me:4294967295:65536\n", /* beyond what ids are */
		"me:100000:99999999999\n",
		"men:100000:65536\n",
		"xme:100000:65536\n",
		":100000:65536\n",
		"me:-5:65536\n",
		"me:100000:-1\n",
		"me:\n100000:65536\n", /* a range of nobody's */
		"me:100000:\n65536\n",
		"me: 100000:65536\n",
	};
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(texts); i++) {
		uint32_t first = 7;
		uint32_t n = fvm_subid_parse(texts[i], "me", 1001, &first);
		if (n != 0)
			print_message("%s: %u %u\n", texts[i], n, first);
		assert_int_equal(n, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(largest_range_of_the_user_is_taken),
		cmocka_unit_test(nothing_is_made_of_odd_lines),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
