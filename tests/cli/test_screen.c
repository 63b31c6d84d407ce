/* src/cli/screen.c and usage.c: keys as terminals send them, text as hostile programs choose it. */
#include "cli/screen.h"
#include "cli/usage.h"
#include "tests/box.h"

static int key(const char *bytes, size_t len, size_t expected_used)
{
	size_t used = 0;
	int found = cli_key_parse(bytes, len, &used);
	assert_int_equal(used, expected_used);
	return found;
}

static void keys_are_told_apart(void **state)
{
	(void)state;
	assert_int_equal(key("q", 1, 1), 'q');
	assert_int_equal(key("\033[A", 3, 3), CLI_KEY_UP);
	assert_int_equal(key("\033OB", 3, 3), CLI_KEY_DOWN);
	assert_int_equal(key("\033[6~x", 5, 4), CLI_KEY_PAGE_DOWN);
	assert_int_equal(key("\033", 1, 1), CLI_KEY_ESCAPE);
}

static void unknown_sequences_are_swallowed_whole(void **state)
{
	(void)state;
	assert_int_equal(key("\033[1;5Aq", 7, 6), CLI_KEY_NONE);
	assert_int_equal(key("\033[200", 5, 5), CLI_KEY_NONE);
}

static void control_bytes_do_not_reach_the_terminal(void **state)
{
	char buf[64];
	(void)state;
	assert_string_equal(cli_clean("a\033[2Jb\n\x7f", buf, sizeof(buf)), "a?[2Jb??");
	assert_string_equal(cli_clean("\xc2\x9b"
				      "31m",
				      buf, sizeof(buf)),
			    "??31m");
	assert_string_equal(cli_clean("gr\xc3\xbc\xc3\x9f\xff", buf, sizeof(buf)),
			    "gr\xc3\xbc\xc3\x9f?");
	assert_string_equal(cli_clean("\xe2\x82", buf, sizeof(buf)), "??");
}

static void text_is_cut_between_characters(void **state)
{
	char buf[4];
	(void)state;
	assert_string_equal(cli_clean("ab\xc3\xbc", buf, sizeof(buf)), "ab");
	assert_string_equal(cli_clean("abcdef", buf, sizeof(buf)), "abc");
}

static void numbers_are_short(void **state)
{
	char size[8], time[24];
	(void)state;
	assert_string_equal(cli_size_short(false, 5, size), "-");
	assert_string_equal(cli_size_short(true, 0, size), "0B");
	assert_string_equal(cli_size_short(true, 1536, size), "1.5K");
	assert_string_equal(cli_size_short(true, UINT64_MAX, size), "16384P");
	assert_string_equal(cli_cpu_time(62030000000, time), "1:02.03");
	assert_string_equal(cli_cpu_time(11045000000000, time), "3:04:05");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keys_are_told_apart),
		cmocka_unit_test(unknown_sequences_are_swallowed_whole),
		cmocka_unit_test(control_bytes_do_not_reach_the_terminal),
		cmocka_unit_test(text_is_cut_between_characters),
		cmocka_unit_test(numbers_are_short),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
