/* src/fvm/native.c: what --native takes, what it refuses, and who asks about it. */
#include <errno.h>

#include "fvm/native.h"
#include "tests/box.h"

static void assert_native(const char *text, const char *path, bool empty)
{
	scoped_native n = { 0 };
	struct fvm_error err = { 0 };
	if (fvm_native_parse(text, &n, &err) < 0)
		fail_msg("'%s': %s", text, err.text);
	assert_string_equal(n.path, path);
	assert_int_equal(n.empty, empty);
}

static void forms_are_understood(void **state)
{
	(void)state;
	assert_native("/srv/db", "/srv/db", false);
	assert_native("/srv/db/", "/srv/db", false);
	assert_native("/srv/db:empty", "/srv/db", true);
	assert_native("/srv/a\\:empty", "/srv/a:empty", false);
	assert_native("/srv/a\\\\b:empty", "/srv/a\\b", true);
}

static void images_of_containers_are_never_copied(void **state)
{
	(void)state;
	assert_native("/var/lib/docker", "/var/lib/docker", true);
	assert_native("/var/lib/containers/storage", "/var/lib/containers/storage", true);
	assert_native("/var/lib/dockers", "/var/lib/dockers", false);
	assert_native("/home/me/.local/share/containers", "/home/me/.local/share/containers", true);
	assert_native("/home/me/.local/share/docker/x", "/home/me/.local/share/docker/x", true);
	assert_native("/home/me/.local/share/dockers", "/home/me/.local/share/dockers", false);
}

static void nonsense_is_refused(void **state)
{
	static const char *const bad[] = {
		"",	     ":",	"db",	   "/srv:",  "/srv:emty", "/srv:empty:empty",
		"/srv/../x", "/srv//x", "/",	   "/usr",   "/etc/",	  "/var",
		"/proc",     "/proc/x", "/sys/fs", "/dev/x", "/run/x",	  "/srv:/x",
	};
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(bad); i++) {
		scoped_native n = { 0 };
		if (fvm_native_parse(bad[i], &n, NULL) != -EINVAL)
			fail_msg("'%s' was taken", bad[i]);
	}
	char longest[300] = "/srv/";
	memset(longest + 5, 'x', sizeof(longest) - 6);
	scoped_native n = { 0 };
	assert_int_equal(fvm_native_parse(longest, &n, NULL), -ENAMETOOLONG);
}

static int list(const char *a, const char *b, const struct fvm_hide *hide, struct fvm_natives *ret)
{
	scoped_config c = { 0 };
	struct fvm_error err = { 0 };
	assert_int_equal(fvm_strv_add(&c.native, a), 0);
	if (b)
		assert_int_equal(fvm_strv_add(&c.native, b), 0);
	return fvm_natives_list(&c, hide, ret, &err);
}

static void all_of_them_are_checked_together(void **state)
{
	char secret[] = "/srv/secret";
	struct fvm_hidden item = { secret, 0 };
	const struct fvm_hide none = { 0 }, hide = { &item, 1 };
	scoped_natives two = { 0 }, same = { 0 }, nested = { 0 }, hidden = { 0 }, above = { 0 };
	(void)state;
	assert_int_equal(list("/srv/b", "/srv/a", &none, &two), 0);
	assert_string_equal(two.items[0].path, "/srv/a");
	assert_int_equal(list("/srv/b", "/srv/b:empty", &none, &same), 0);
	assert_int_equal(same.count, 1);
	assert_true(same.items[0].empty);
	assert_int_equal(list("/srv/b", "/srv/b/c", &none, &nested), -EINVAL);
	assert_int_equal(list("/srv/secret/x", NULL, &hide, &hidden), -EINVAL);
	/* what is hidden below it is not there to be copied */
	assert_int_equal(list("/srv", NULL, &hide, &above), 0);
}

static void paths_in_one_are_refused(void **state)
{
	static const char *const in[] = { "/etc", "/srv/db/x", NULL };
	static const char *const beside[] = { "/etc", "/srv/dbx", "/srv", NULL };
	scoped_strv natives = { 0 };
	struct fvm_error err = { 0 };
	(void)state;
	assert_int_equal(fvm_strv_add(&natives, "/srv/db"), 0);
	assert_int_equal(fvm_natives_refuse(&natives, in, &err), -EINVAL);
	assert_non_null(strstr(err.text, "/srv/db/x"));
	assert_int_equal(fvm_natives_refuse(&natives, beside, &err), 0);
	assert_int_equal(fvm_natives_refuse(&natives, NULL, &err), 0);
	assert_string_equal(fvm_natives_above(&natives, "/srv/db"), "/srv/db");
	assert_null(fvm_natives_above(&natives, "/srv"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(forms_are_understood),
		cmocka_unit_test(images_of_containers_are_never_copied),
		cmocka_unit_test(nonsense_is_refused),
		cmocka_unit_test(all_of_them_are_checked_together),
		cmocka_unit_test(paths_in_one_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
