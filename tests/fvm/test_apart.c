/* Work that a child does: its outcome, word and error are its parent's. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "fvm/apart.h"

static void what_the_child_tells_is_told(void **state)
{
	(void)state;
	struct fvm_apart a;
	struct fvm_error err = { 0 };
	int64_t told = 0;
	assert_int_equal(fvm_apart_begin(&a, &err), 0);
	if (a.pid == 0) {
		told = getppid() == a.parent ? 42 : 0;
		fvm_apart_tell(&a, 0, &err, &told, sizeof(told));
	}
	assert_int_equal(a.parent, getpid());
	assert_int_equal(fvm_apart_end(&a, &told, sizeof(told), &err), 0);
	assert_int_equal(told, 42);
	assert_int_equal(err.code, 0);
	assert_int_equal(waitpid(a.pid, NULL, 0), -1); /* it was waited for */
}

static void its_error_is_the_parents(void **state)
{
	(void)state;
	struct fvm_apart a;
	struct fvm_error err = { 0 };
	char told = 0;
	assert_int_equal(fvm_apart_begin(&a, &err), 0);
	if (a.pid == 0) {
		int r = fvm_error_say(&err, EBUSY, "it is in use");
		fvm_apart_tell(&a, r, &err, "x", 1);
	}
	assert_int_equal(fvm_apart_end(&a, &told, 1, &err), -EBUSY);
	assert_string_equal(err.text, "it is in use");
	assert_int_equal(told, 'x');
}

static void who_dies_without_a_word_has_failed(void **state)
{
	(void)state;
	struct fvm_apart a;
	struct fvm_error err = { 0 };
	char told = 'u';
	assert_int_equal(fvm_apart_begin(&a, &err), 0);
	if (a.pid == 0)
		_exit(0);
	assert_int_equal(fvm_apart_end(&a, &told, 1, &err), -EPIPE);
	assert_int_equal(err.code, EPIPE);
	assert_int_equal(told, 'u');
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_the_child_tells_is_told),
		cmocka_unit_test(its_error_is_the_parents),
		cmocka_unit_test(who_dies_without_a_word_has_failed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
