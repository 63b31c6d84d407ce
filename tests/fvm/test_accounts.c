#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "fvm/accounts.h"
#include "tests/box.h"

static void an_account_is_found_by_its_third_field(void **state)
{
	const struct box *box = *state;
	static const char text[] = "root:x:0:0::/root:/bin/sh\nbad\n:x:\nann:x:1000500000:7:::\n";
	char path[sizeof(box->path) + 16];
	snprintf(path, sizeof(path), "%s/passwd", box->path);
	assert_int_equal(fvm_write_file_atomic(box->dir, "passwd", text, strlen(text), false), 0);
	assert_true(fvm_account_in_file(path, 0));
	assert_true(fvm_account_in_file(path, 1000500000));
	assert_false(fvm_account_in_file(path, 7));
	assert_false(fvm_account_in_file("/nonexistent", 0));
}

static void who_is_in_a_file_costs_no_question(void **state)
{
	struct fvm_accounts a;
	(void)state;
	fvm_accounts_find(0, &a);
	assert_int_equal(a.files.count, 0);
	assert_int_equal(a.gid_count, 0);
	fvm_accounts_free(&a);
}

static void records_are_written_below_run_and_nowhere_else(void **state)
{
	const struct box *box = *state;
	scoped_free char *text = NULL;
	struct fvm_accounts a = { 0 };
	assert_int_equal(fvm_accounts_put(&a, box->dir), 0);
	assert_int_equal(faccessat(box->dir, "userdb", F_OK, 0), -1);
	fvm_strv_add(&a.files, "ann.user");
	fvm_strv_add(&a.files, "{}");
	assert_int_equal(fvm_accounts_put(&a, box->dir), 0);
	assert_int_equal(fvm_read_file(box->dir, "userdb/ann.user", 64, &text, NULL), 0);
	assert_string_equal(text, "{}");
	assert_int_equal(unlinkat(box->dir, "userdb/ann.user", 0), 0);
	/* tmpfiles.d of a VM may have made it something else: it does without, then */
	assert_int_equal(unlinkat(box->dir, "userdb", AT_REMOVEDIR), 0);
	assert_int_equal(mkdirat(box->dir, "other", 0700), 0);
	assert_int_equal(symlinkat("other", box->dir, "userdb"), 0);
	assert_int_equal(fvm_accounts_put(&a, box->dir), 0);
	assert_int_equal(unlinkat(box->dir, "other", AT_REMOVEDIR), 0);
	fvm_accounts_free(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(an_account_is_found_by_its_third_field, box_setup,
						box_teardown),
		cmocka_unit_test(who_is_in_a_file_costs_no_question),
		cmocka_unit_test_setup_teardown(records_are_written_below_run_and_nowhere_else,
						box_setup, box_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
