/* What was hidden at which time: kept, merged when in doubt, and read back with care. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fvm/hide_record.h"
#include "tests/box.h"

static struct fvm_hide hidden(struct fvm_hidden *items, size_t count)
{
	return (struct fvm_hide){ items, count };
}

static struct fvm_hide_record *parse(const char *text)
{
	struct fvm_hide_record *r = NULL;
	assert_int_equal(fvm_hide_record_parse(text, strlen(text), &r), 0);
	return r;
}

static void times_and_ancestors_are_told_apart(void **state)
{
	struct fvm_hide_record *r = parse("fvm-hide 1\n@100\n/a\n/b/c%20d\n@200\n@300\n/a\n/a-b\n");
	(void)state;
	assert_true(fvm_hide_record_at(r, "/a/x", 50)); /* before the first: as the first */
	assert_true(fvm_hide_record_at(r, "/b/c d/e/f", 199));
	assert_false(fvm_hide_record_at(r, "/b/c", 199));
	assert_false(fvm_hide_record_at(r, "/a", 200));
	assert_true(fvm_hide_record_at(r, "/a-b", 1000));
	assert_false(fvm_hide_record_at(r, "/ab", 1000));
	assert_true(fvm_hide_record_ever(r, "/a/b/c/d"));
	assert_false(fvm_hide_record_ever(r, "/"));
	assert_false(fvm_hide_record_always(r, "/a"));
	size_t at = 0;
	assert_string_equal(fvm_hide_record_below(r, "/b", &at), "/b/c d");
	assert_null(fvm_hide_record_below(r, "/b", &at));
	at = 0;
	assert_null(fvm_hide_record_below(r, "/a", &at)); /* /a-b does not lie below it */
	fvm_hide_record_free(r);
}

static void what_is_damaged_is_refused(void **state)
{
	static const char *const bad[] = {
		"",
		"fvm-hide\n@1\n",
		"fvm-hide 1\n",
		"fvm-hide 1\n/a\n",
		"fvm-hide 1\n@1\n/a",
		"fvm-hide 1\n@x\n",
		"fvm-hide 1\n@1\na\n",
		"fvm-hide 1\n@1\n/%0\n",
		"fvm-hide 1\n@1\n/%00\n",
		"fvm-hide 1\n@1 \n",
		"fvm-hide 1\n@2\n@1\n/a\n",
	};
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(bad); i++) {
		struct fvm_hide_record *r = NULL;
		if (fvm_hide_record_parse(bad[i], strlen(bad[i]), &r) != -EBADMSG)
			fail_msg("not refused: %s", bad[i]);
	}
}

static size_t spans_in(const struct box *box)
{
	scoped_free char *text = NULL;
	size_t count = 0;
	assert_int_equal(fvm_read_file(box->dir, "hidden", 1 << 20, &text, NULL), 0);
	for (const char *p = text; (p = strchr(p, '@')); p++)
		count++;
	return count;
}

static void only_what_differs_is_written(void **state)
{
	const struct box *box = *state;
	struct fvm_hidden one[] = { { .path = (char *)"/a\n%" } };
	struct fvm_hidden two[] = { { .path = (char *)"/a\n%" }, { .path = (char *)"/b" } };
	const struct fvm_hide first = hidden(one, 1), second = hidden(two, 2);
	struct fvm_hide_record *r = NULL;
	for (int i = 0; i < 3; i++)
		assert_int_equal(fvm_hide_record_note(box->dir, &first, false, NULL), 0);
	assert_int_equal(spans_in(box), 1);
	for (int i = 0; i < 40; i++) {
		usleep(11000); /* the clock of inodes has ticks of up to 10 ms */
		assert_int_equal(fvm_hide_record_note(box->dir, i % 2 ? &first : &second, false,
						      NULL),
				 0);
	}
	assert_int_equal(spans_in(box), 16);
	assert_int_equal(fvm_hide_record_load(box->dir, &r, NULL), 0);
	assert_true(fvm_hide_record_always(r, "/a\n%/x"));
	assert_true(fvm_hide_record_at(r, "/b", 0)); /* merged: hidden in any of them */
	assert_false(fvm_hide_record_at(r, "/b", INT64_MAX));
	fvm_hide_record_free(r);
	assert_int_equal(fvm_hide_record_flatten(box->dir), 0);
	assert_int_equal(spans_in(box), 1);
	assert_int_equal(fvm_hide_record_load(box->dir, &r, NULL), 0);
	assert_true(fvm_hide_record_always(r, "/b"));
	fvm_hide_record_free(r);
}

static void a_clock_that_was_set_back_hides_more_not_less(void **state)
{
	const struct box *box = *state;
	static const char later[] = "fvm-hide 1\n@9000000000000000000\n/a\n";
	struct fvm_hidden one[] = { { .path = (char *)"/b" } };
	const struct fvm_hide now = hidden(one, 1);
	struct fvm_hide_record *r = NULL;
	assert_int_equal(fvm_write_file_atomic(box->dir, "hidden", later, sizeof(later) - 1, false),
			 0);
	assert_int_equal(fvm_hide_record_note(box->dir, &now, false, NULL), 0);
	assert_int_equal(fvm_hide_record_load(box->dir, &r, NULL), 0);
	assert_true(fvm_hide_record_always(r, "/a") && fvm_hide_record_always(r, "/b"));
	fvm_hide_record_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(times_and_ancestors_are_told_apart),
		cmocka_unit_test(what_is_damaged_is_refused),
		cmocka_unit_test_setup_teardown(only_what_differs_is_written, box_setup,
						box_teardown),
		cmocka_unit_test_setup_teardown(a_clock_that_was_set_back_hides_more_not_less,
						box_setup, box_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
