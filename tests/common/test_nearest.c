#include "tests/box.h"

#include "common/nearest.h"

static const char *answer(const char *typed)
{
	static const char *const words[] = { "commit", "run", "rm", "rename", "ls", "ps" };
	struct fvm_nearest near = { 0 };
	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
		fvm_nearest_try(&near, typed, strlen(typed), words[i]);
	return near.word;
}

static void a_slip_finds_its_word(void **state)
{
	(void)state;
	assert_string_equal(answer("comit"), "commit");
	assert_string_equal(answer("rnu"), "run");
	assert_string_equal(answer("renmae"), "rename");
}

static void what_is_not_near_finds_none(void **state)
{
	char longer[200];
	(void)state;
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	assert_null(answer("tk"));
	assert_null(answer("x"));
	assert_null(answer("sl"));
	assert_null(answer(""));
	assert_null(answer("destroy"));
	assert_null(answer(longer));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_slip_finds_its_word),
		cmocka_unit_test(what_is_not_near_finds_none),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
