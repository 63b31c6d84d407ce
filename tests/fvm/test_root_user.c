#include "tests/box.h"

#include <errno.h>
#include <sys/stat.h>

#include "fvm/root_user.h"

/* A host made of a list of directories; with '-' before it one can't be entered, with '!' not
 * listed. */
struct host {
	const char *const *dirs;
};

static int look(void *arg, const char *path, struct stat *ret)
{
	const struct host *h = arg;
	*ret = (struct stat){ .st_mode = S_IFDIR | 0755 };
	for (const char *const *d = h->dirs; *d; d++) {
		if (strcmp(*d + ((*d)[0] == '!'), path) == 0)
			return 0;
		if ((*d)[0] == '-' && strcmp(*d + 1, path) == 0)
			return -EACCES;
	}
	return strcmp(path, "/") == 0 ? 0 : -ENOENT;
}

static int list(void *arg, const char *path, struct fvm_strv *ret, bool *ret_empty)
{
	const struct host *h = arg;
	size_t n = path[1] ? strlen(path) : 0;
	*ret_empty = true;
	for (const char *const *d = h->dirs; *d; d++) {
		const char *p = *d + ((*d)[0] != '/');
		if ((*d)[0] == '!' && strcmp(p, path) == 0)
			return -EACCES;
		if (strncmp(p, path, n) != 0 || p[n] != '/')
			continue;
		*ret_empty = false;
		if (!strchr(p + n + 1, '/'))
			assert_int_equal(fvm_strv_add(ret, p + n + 1), 0);
	}
	return 0;
}

static const char *const dirs[] = { "/usr",	"/usr/bin", "/etc",	  "/etc/x", "/home",
				    "/home/me", "/proc",    "/proc/1",	  "/run",   "/run/lock",
				    "/tmp",	"/tmp/a",   "/tmp/a/b",	  "/tmp/m", "/tmp/m/deep",
				    "-/root",	"/srv",	    "!/tmp/shut", NULL };

#define ROOT "1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:2 / /proc rw - proc proc rw\n"

/* "kind:path " for each tree */
static void plan(const char *mountinfo, const char *key, char *ret, size_t size)
{
	struct host host = { dirs };
	const struct fvm_tree_view view = { look, list, &host };
	scoped_plan p = { 0 };
	scoped_strv keys = { 0 };
	struct fvm_trees trees = { 0 };
	struct fvm_error err = { 0 };
	if (key)
		assert_int_equal(fvm_strv_add(&keys, key), 0);
	assert_int_equal(fvm_plan_parse(mountinfo, &p, &err), 0);
	assert_int_equal(fvm_trees_plan(&p, &keys, &view, &trees), 0);
	ret[0] = '\0';
	for (size_t i = 0; i < trees.count; i++)
		snprintf(ret + strlen(ret), size - strlen(ret), "%c:%s ",
			 "OSR"[trees.items[i].kind], trees.items[i].path);
	for (size_t i = 0; i < trees.place_count; i++)
		snprintf(ret + strlen(ret), size - strlen(ret), "%c:%s ",
			 "-+"[trees.places[i].inner], trees.places[i].path);
	fvm_trees_free(&trees);
}

static void each_top_directory_is_one_overlay(void **state)
{
	char text[512];
	(void)state;
	plan(ROOT, NULL, text, sizeof(text));
	assert_string_equal(text, "S:/ O:/etc O:/home O:/tmp O:/usr ");
}

static void tree_is_taken_apart_around_a_mount(void **state)
{
	char text[512];
	(void)state;
	plan(ROOT "3 1 0:3 / /tmp/m rw - tmpfs none rw\n", NULL, text, sizeof(text));
	assert_string_equal(text,
			    "S:/ O:/etc O:/home O:/tmp/a O:/tmp/m O:/tmp/shut O:/usr +:/tmp ");
}

static void mount_that_is_left_out_is_only_a_place(void **state)
{
	char text[512];
	(void)state;
	plan(ROOT "3 1 0:3 / /tmp/m rw - autofs none rw\n", NULL, text, sizeof(text));
	assert_string_equal(text, "S:/ O:/etc O:/home O:/tmp/a O:/tmp/shut O:/usr +:/tmp ");
	/* of a mount's own top, and of what has changes, there is an overlay */
	plan(ROOT "3 1 0:3 / /tmp rw - tmpfs none rw\n4 3 0:4 / /tmp/m rw - autofs none rw\n", NULL,
	     text, sizeof(text));
	assert_string_equal(text, "S:/ O:/etc O:/home S:/tmp O:/tmp/a O:/tmp/shut O:/usr ");
	plan(ROOT "3 1 0:3 / /tmp/m/deep rw - autofs none rw\n", "tmp", text, sizeof(text));
	assert_string_equal(text,
			    "S:/ O:/etc O:/home S:/tmp O:/tmp/a O:/tmp/shut O:/usr +:/tmp/m ");
}

static void mount_without_anything_to_see_keeps_its_attributes(void **state)
{
	char text[512];
	(void)state;
	plan(ROOT "3 1 0:3 / /srv rw - tmpfs none rw\n4 1 0:4 / /root rw - tmpfs none rw\n", NULL,
	     text, sizeof(text));
	assert_string_equal(text, "S:/ O:/etc O:/home O:/tmp O:/usr -:/root -:/srv ");
}

static void read_only_mount_has_no_workspace(void **state)
{
	char text[512];
	(void)state;
	plan(ROOT "3 1 0:3 / /usr ro - ext4 none ro\n", NULL, text, sizeof(text));
	assert_string_equal(text, "S:/ O:/etc O:/home O:/tmp R:/usr ");
}

static void what_was_changed_apart_stays_apart(void **state)
{
	char text[512];
	(void)state;
	plan(ROOT, "tmp-a", text, sizeof(text));
	assert_string_equal(text, "S:/ O:/etc O:/home O:/tmp O:/tmp/a O:/usr ");
	/* empty, but it was not when the VM changed it */
	plan(ROOT, "srv", text, sizeof(text));
	assert_string_equal(text, "S:/ O:/etc O:/home O:/srv O:/tmp O:/usr ");
	/* the host's is gone: nothing to stand on, the changes are kept */
	plan(ROOT, "data-old", text, sizeof(text));
	assert_string_equal(text, "S:/ O:/etc O:/home O:/tmp O:/usr ");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_top_directory_is_one_overlay),
		cmocka_unit_test(tree_is_taken_apart_around_a_mount),
		cmocka_unit_test(mount_that_is_left_out_is_only_a_place),
		cmocka_unit_test(mount_without_anything_to_see_keeps_its_attributes),
		cmocka_unit_test(read_only_mount_has_no_workspace),
		cmocka_unit_test(what_was_changed_apart_stays_apart),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
