/* src/fvm/bind.c: what --bind and --direct take, and what they refuse. */
#include <errno.h>

#include "fvm/bind.h"
#include "fvm/hide.h"
#include "tests/box.h"

static void assert_bind(const char *text, const char *source, const char *target, bool read_only)
{
	scoped_bind b = { 0 };
	struct fvm_error err = { 0 };
	if (fvm_bind_parse(text, &b, &err) < 0)
		fail_msg("'%s': %s", text, err.text);
	assert_string_equal(b.source, source);
	assert_string_equal(b.target, target);
	assert_int_equal(b.read_only, read_only);
}

static void forms_are_understood(void **state)
{
	(void)state;
	assert_bind("/a", "/a", "/a", false);
	assert_bind("/a/", "/a", "/a", false);
	assert_bind("/a:ro", "/a", "/a", true);
	assert_bind("/a:/b", "/a", "/b", false);
	assert_bind("/a:/b/:ro", "/a", "/b", true);
	assert_bind("/a\\:ro", "/a:ro", "/a:ro", false);
	assert_bind("/a\\\\b:/c", "/a\\b", "/c", false);
	assert_bind("/a b:/ro", "/a b", "/ro", false);
}

static void nonsense_is_refused(void **state)
{
	static const char *const bad[] = { "",	       ":",	    "a",   "/a:b",
					   "/a:/b:/c", "/a:/b:rw",  "/a:", "/a/../b",
					   "/a/./b",   "/a//b",	    "ro",  "/a:ro:ro",
					   "/a:ro:/b", "/a:/b:ro:", "/..", "/a:/b/.." };
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(bad); i++) {
		scoped_bind b = { 0 };
		if (fvm_bind_parse(bad[i], &b, NULL) != -EINVAL)
			fail_msg("'%s' was taken", bad[i]);
	}
}

static int list(const char *bind, const char *direct, const char *read_only, struct fvm_binds *ret)
{
	scoped_config c = { 0 };
	struct fvm_error err = { 0 };
	if (bind)
		assert_int_equal(fvm_strv_add(&c.binds, bind), 0);
	if (direct)
		assert_int_equal(fvm_strv_add(&c.direct, direct), 0);
	if (read_only)
		assert_int_equal(fvm_strv_add(&c.read_only, read_only), 0);
	return fvm_binds_list(&c, "/var/lib/fvm", ret, &err);
}

static void what_would_undo_the_vm_is_refused(void **state)
{
	static const char *const bad[] = { "/",
					   "/etc",
					   "/usr",
					   "/proc/sys",
					   "/sys",
					   "/srv:/proc/x",
					   "/srv:/dev",
					   "/dev/sda",
					   "/var/lib",
					   "/var/lib/fvm",
					   "/var/lib/fvm/vms",
					   "/srv:/",
					   "/var:/v" };
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(bad); i++) {
		scoped_binds b = { 0 };
		if (list(bad[i], NULL, NULL, &b) != -EINVAL)
			fail_msg("'%s' was taken", bad[i]);
	}
	scoped_binds b = { 0 };
	assert_int_equal(list("/etc:/host-etc:ro", "/srv", "/usr", &b), 0);
	assert_int_equal(b.count, 3);
	assert_string_equal(b.items[0].target, "/host-etc");
	assert_null(b.items[2].source);
}

static void same_target_twice_must_agree(void **state)
{
	scoped_binds same = { 0 }, other = { 0 }, both = { 0 };
	(void)state;
	assert_int_equal(list("/srv:ro", "/srv", NULL, &same), 0);
	assert_int_equal(same.count, 1);
	assert_true(same.items[0].read_only);
	assert_int_equal(list("/opt:/srv", "/srv", NULL, &other), -EINVAL);
	assert_int_equal(list(NULL, "/srv", "/srv", &both), 0);
	assert_true(both.items[0].read_only);
	assert_non_null(both.items[0].source);
}

static void nothing_hidden_shows_through_a_bind(void **state)
{
	char secret[] = "/nohome/me/.ssh";
	struct fvm_hidden item = { secret, 0 };
	const struct fvm_hide hide = { &item, 1 };
	scoped_binds home = { 0 }, exact = { 0 }, below = { 0 }, beside = { 0 };
	(void)state;
	assert_int_equal(list(NULL, "/nohome/me", NULL, &home), 0);
	assert_int_equal(fvm_binds_check(&home, &hide, NULL), -EINVAL);
	assert_int_equal(list(NULL, "/nohome/me/.ssh", NULL, &exact), 0);
	assert_int_equal(fvm_binds_check(&exact, &hide, NULL), 0);
	assert_int_equal(list("/nohome/me/.ssh/config:ro", NULL, NULL, &below), 0);
	assert_int_equal(fvm_binds_check(&below, &hide, NULL), 0);
	assert_int_equal(list(NULL, "/nohome/me/project", NULL, &beside), 0);
	assert_int_equal(fvm_binds_check(&beside, &hide, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(forms_are_understood),
		cmocka_unit_test(nonsense_is_refused),
		cmocka_unit_test(what_would_undo_the_vm_is_refused),
		cmocka_unit_test(same_target_twice_must_agree),
		cmocka_unit_test(nothing_hidden_shows_through_a_bind),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
