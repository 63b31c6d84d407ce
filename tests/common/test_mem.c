#include "tests/box.h"

#include "common/mem.h"

static void a_list_is_sorted_by_bytes(void **state)
{
	static const char *const words[] = { "b", "a\xc3\xa4", "B", "", "a", "az" };
	static const char *const sorted[] = { "", "B", "a", "az", "a\xc3\xa4", "b" };
	scoped_strv v = { 0 };
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(words); i++)
		assert_int_equal(fvm_strv_add(&v, words[i]), 0);
	fvm_strv_sort(&v);
	assert_int_equal(v.count, FVM_COUNT(sorted));
	fvm_strv_each(&v, i)
		assert_string_equal(v.items[i], sorted[i]);
	assert_null(v.items[v.count]);
}

static void a_sorted_list_tells_what_it_holds(void **state)
{
	scoped_strv v = { 0 };
	(void)state;
	fvm_strv_sort(&v);
	assert_false(fvm_strv_sorted_has(&v, ""));
	for (int i = 0; i < 100; i++)
		assert_int_equal(fvm_strv_addf(&v, "%d", i * 7919 % 100 * 2), 0);
	fvm_strv_sort(&v);
	fvm_strv_each(&v, i)
		assert_true(fvm_strv_sorted_has(&v, v.items[i]));
	assert_true(fvm_strv_sorted_has(&v, "198"));
	assert_false(fvm_strv_sorted_has(&v, "199"));
	assert_false(fvm_strv_sorted_has(&v, "19"));
}

static void a_buffer_that_was_never_written_is_an_empty_string(void **state)
{
	struct fvm_buf b = { 0 };
	(void)state;
	scoped_free char *text = fvm_buf_steal(&b);
	assert_string_equal(text, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_list_is_sorted_by_bytes),
		cmocka_unit_test(a_sorted_list_tells_what_it_holds),
		cmocka_unit_test(a_buffer_that_was_never_written_is_an_empty_string),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
