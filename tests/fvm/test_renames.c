#include "tests/fvm/listing.h"

static char *renames_of(const struct box *box, const struct fvm_scan_options *options)
{
	struct fvm_stack s;
	scoped_buf b = { 0 };
	box_stack(box, "/", 1, &s);
	const struct fvm_stacks stacks = { .items = &s, .count = 1 };
	fvm_buf_puts(&b, "");
	assert_int_equal(fvm_stacks_renames(&stacks, options, list_change, &b, NULL), 0);
	box_stack_close(&s);
	return fvm_buf_steal(&b);
}

#define assert_renames(box, expected)                                                              \
	do {                                                                                       \
		scoped_free char *text_ = renames_of(box, NULL);                                   \
		assert_string_equal(text_, (expected));                                            \
	} while (0)

static void file_of_equal_content_was_renamed(void **state)
{
	box_file(*state, "base/a/old", "some content");
	box_file(*state, "base/a/gone", "other");
	box_whiteout(*state, "l0/a/old");
	box_whiteout(*state, "l0/a/gone");
	box_file(*state, "l0/b/new", "some content");
	box_file(*state, "l0/b/more", "third");
	assert_renames(*state, "D /a/gone\nA /b\nA /b/more\nR /a/old -> /b/new\n");
}

static void same_size_alone_is_no_rename(void **state)
{
	box_file(*state, "base/old", "aaaa");
	box_whiteout(*state, "l0/old");
	box_file(*state, "l0/new", "bbbb");
	assert_renames(*state, "A /new\nD /old\n");
}

static void each_file_is_paired_once_best_by_name(void **state)
{
	box_file(*state, "base/d/one", "same");
	box_file(*state, "base/d/two", "same");
	box_file(*state, "base/d/three", "same");
	box_whiteout(*state, "l0/d/one");
	box_whiteout(*state, "l0/d/two");
	box_whiteout(*state, "l0/d/three");
	box_file(*state, "l0/e/two", "same");
	box_file(*state, "l0/e/x", "same");
	assert_renames(*state, "D /d/three\nA /e\nR /d/two -> /e/two\nR /d/one -> /e/x\n");
}

static void whole_directory_is_one_rename(void **state)
{
	const struct box *box = *state;
	box_file(box, "base/d/x", "one");
	box_file(box, "base/d/sub/y", "");
	box_file(box, "l0/moved/x", "one");
	box_file(box, "l0/moved/sub/y", "");
	assert_int_equal(symlinkat("x", box->dir, "base/d/link"), 0);
	assert_int_equal(symlinkat("x", box->dir, "l0/moved/link"), 0);
	box_whiteout(box, "l0/d");
	assert_renames(box, "R /d -> /moved\n");
}

static void changed_directory_is_renamed_file_by_file(void **state)
{
	box_file(*state, "base/d/x", "one");
	box_file(*state, "base/d/y", "two");
	box_file(*state, "l0/moved/x", "one");
	box_file(*state, "l0/moved/y", "TWO");
	box_whiteout(*state, "l0/d");
	assert_renames(*state, "D /d\nA /moved\nR /d/x -> /moved/x\nA /moved/y\n");
	scoped_free char *all =
		renames_of(*state, &(struct fvm_scan_options){ .whole_trees = true });
	assert_string_equal(all, "D /d\nD /d/y\nA /moved\nR /d/x -> /moved/x\nA /moved/y\n");
}

static void many_sizes_are_searched(void **state)
{
	char name[64], text[64];
	for (int i = 1; i < 40; i++) {
		memset(text, 'a' + i % 3, 64);
		text[i / 2 + 1] = '\0';
		snprintf(name, sizeof(name), "base/d/%d", i);
		box_file(*state, name, text);
		snprintf(name, sizeof(name), "l0/d/%d", i);
		box_whiteout(*state, name);
		snprintf(name, sizeof(name), "l0/e/new-%d", i);
		box_file(*state, name, text);
	}
	scoped_free char *list = renames_of(*state, NULL);
	size_t renamed = 0;
	for (const char *p = list; (p = strstr(p, "R /d/")); p++)
		renamed++;
	assert_int_equal(renamed, 39);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, box_setup, box_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(file_of_equal_content_was_renamed),
		TEST(same_size_alone_is_no_rename),
		TEST(each_file_is_paired_once_best_by_name),
		TEST(whole_directory_is_one_rename),
		TEST(changed_directory_is_renamed_file_by_file),
		TEST(many_sizes_are_searched),
	};
	if (geteuid() != 0) {
		print_message("skipped: needs root for whiteouts\n");
		return 77;
	}
	umask(022);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
