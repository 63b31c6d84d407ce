/* src/fvm/hide.c and secrets.c on a home in a box. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "fvm/hide.h"
#include "tests/box.h"

static void make(const struct box *box, const char *dir)
{
	assert_int_equal(fvm_mkdir_p(box->dir, dir, 0755), 0);
}

/* A plan of two mounts: the root, and one below the box. */
static void plan_for(const struct box *box, struct fvm_plan *plan)
{
	char text[256];
	snprintf(text, sizeof(text),
		 "1 0 8:1 / / rw - ext4 d rw\n2 1 8:2 / %s/disk rw - ext4 d rw\n"
		 "3 1 0:9 / /run rw - tmpfs t rw\n",
		 box->path);
	assert_int_equal(fvm_plan_parse(text, plan, NULL), 0);
}

static void plan_hide(const struct box *box, const struct fvm_config *c, struct fvm_plan *plan,
		      struct fvm_hide *hide)
{
	char store[96];
	snprintf(store, sizeof(store), "%s/store", box->path);
	plan_for(box, plan);
	setenv("HOME", box->path, 1);
	assert_int_equal(fvm_hide_plan(c, store, plan, hide, NULL), 0);
}

static bool has(const struct fvm_hide *hide, const struct box *box, const char *name)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/%s", box->path, name);
	return fvm_hide_has(hide, path);
}

static void secrets_of_the_callers_home_are_hidden(void **state)
{
	const struct box *box = *state;
	scoped_plan plan = { 0 };
	scoped_hide hide = { 0 };
	const struct fvm_config c = { 0 };
	make(box, ".config/gh");
	plan_hide(box, &c, &plan, &hide);
	assert_true(has(&hide, box, ".ssh")); /* though it is not there yet */
	assert_true(has(&hide, box, ".ssh/id_ed25519"));
	assert_true(has(&hide, box, ".config/gh"));
	assert_true(has(&hide, box, "store"));
	assert_false(has(&hide, box, ".config"));
	assert_false(has(&hide, box, ".bashrc"));
	assert_false(has(&hide, box, ".docker/config.json")); /* no .docker: nothing to do */
}

/* Each browser's and messenger's profile, whoever packed it, and files that have tokens in clear.
 */
static void profiles_and_tokens_are_hidden_whoever_packed_the_program(void **state)
{
	const struct box *box = *state;
	static const char *const all[] = {
		".config/google-chrome-beta",
		".config/microsoft-edge-dev",
		".config/falkon",
		".local/share/epiphany",
		".local/share/qutebrowser",
		".var/app/org.chromium.Chromium",
		".var/app/org.signal.Signal",
		"snap/brave",
		"snap/thunderbird",
		".purple",
		".config/filezilla",
		".config/helm/registry",
		".pulumi/credentials.json",
		".terraformrc",
		".config/dart/pub-credentials.json",
		".subversion/auth",
	};
	scoped_plan plan = { 0 };
	scoped_hide hide = { 0 };
	const struct fvm_config c = { 0 };
	for (size_t i = 0; i < FVM_COUNT(all); i++)
		make(box, all[i]);
	plan_hide(box, &c, &plan, &hide);
	for (size_t i = 0; i < FVM_COUNT(all); i++) {
		if (!has(&hide, box, all[i]))
			fail_msg("%s is seen", all[i]);
	}
	assert_false(has(&hide, box, ".subversion"));
	assert_false(has(&hide, box, "snap"));
}

static void without_network_or_with_leave_only_the_store_is_hidden(void **state)
{
	const struct box *box = *state;
	const struct fvm_config none = { .net = FVM_NET_NONE }, leave = { .secrets = true };
	scoped_plan plan = { 0 }, again = { 0 };
	scoped_hide hide = { 0 }, more = { 0 };
	plan_hide(box, &none, &plan, &hide);
	assert_int_equal(hide.count, 1);
	plan_hide(box, &leave, &again, &more);
	assert_int_equal(more.count, 1);
	assert_true(has(&more, box, "store"));
}

static void shown_paths_are_taken_away_from_secrets(void **state)
{
	const struct box *box = *state;
	scoped_config c = { 0 };
	scoped_plan plan = { 0 };
	scoped_hide hide = { 0 };
	assert_int_equal(fvm_strv_addf(&c.show, "%s/.aws", box->path), 0);
	plan_hide(box, &c, &plan, &hide);
	assert_false(has(&hide, box, ".aws"));
	assert_true(has(&hide, box, ".ssh"));
}

static void link_and_what_it_leads_to_are_both_hidden(void **state)
{
	const struct box *box = *state;
	scoped_config c = { 0 };
	scoped_plan plan = { 0 };
	scoped_hide hide = { 0 };
	make(box, "dots/ssh");
	make(box, "dots/config/gh");
	assert_int_equal(symlinkat("dots/ssh", box->dir, ".ssh"), 0);
	assert_int_equal(symlinkat("dots/config", box->dir, ".config"), 0);
	assert_int_equal(symlinkat("/", box->dir, ".aws"), 0);
	plan_hide(box, &c, &plan, &hide);
	assert_true(has(&hide, box, ".ssh"));
	assert_true(has(&hide, box, "dots/ssh"));
	assert_true(has(&hide, box, "dots/config/gh"));
	assert_false(has(&hide, box, "dots"));
	assert_false(fvm_hide_has(&hide, "/usr"));
}

static void mount_point_below_a_hidden_path_is_hidden(void **state)
{
	const struct box *box = *state;
	scoped_config c = { .secrets = true };
	scoped_plan plan = { 0 };
	scoped_hide hide = { 0 };
	make(box, "disk/in");
	assert_int_equal(fvm_strv_addf(&c.hide, "%s/disk", box->path), 0);
	assert_int_equal(fvm_strv_add(&c.hide, "/run/user"), 0);
	plan_hide(box, &c, &plan, &hide);
	assert_true(has(&hide, box, "disk"));
	assert_true(has(&hide, box, "disk/in"));
	assert_true(fvm_hide_in(&hide, 0));
	assert_false(fvm_hide_in(&hide, 1));		/* its mount point lies in the root */
	assert_false(fvm_hide_has(&hide, "/run/user")); /* made anew in any case */
}

static void what_is_below_something_hidden_is_listed_once(void **state)
{
	const struct box *box = *state;
	scoped_config c = { .secrets = true };
	scoped_plan plan = { 0 };
	scoped_hide hide = { 0 };
	make(box, "a/b");
	make(box, "a-c");
	assert_int_equal(fvm_strv_addf(&c.hide, "%s/a/b", box->path), 0);
	assert_int_equal(fvm_strv_addf(&c.hide, "%s/a", box->path), 0);
	assert_int_equal(fvm_strv_addf(&c.hide, "%s/a-c", box->path), 0);
	plan_hide(box, &c, &plan, &hide);
	assert_int_equal(hide.count, 3); /* a, a-c, the store */
}

static void assert_whiteout(int dir, const char *name)
{
	struct stat st;
	assert_int_equal(fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_true(S_ISCHR(st.st_mode) && st.st_rdev == makedev(0, 0));
}

static void layer_holds_whiteouts_below_directories_like_the_hosts(void **state)
{
	const struct box *box = *state;
	struct stat was, is;
	const struct timespec times[2] = { { 1000, 0 }, { 2000, 5 } };
	scoped_config c = { .secrets = true };
	scoped_plan plan = { 0 };
	scoped_hide hide = { 0 };
	char layer[128], base[32];
	make(box, "x/y");
	make(box, "scratch");
	assert_int_equal(fchmodat(box->dir, "x", 02711, 0), 0);
	assert_int_equal(fvm_strv_addf(&c.hide, "%s/x/y/one", box->path), 0);
	assert_int_equal(fvm_strv_addf(&c.hide, "%s/x/y/two", box->path), 0);
	assert_int_equal(fvm_strv_addf(&c.hide, "%s/x/three", box->path), 0);
	assert_int_equal(fvm_strv_addf(&c.hide, "%s/nowhere/four", box->path), 0);
	plan_hide(box, &c, &plan, &hide);
	assert_int_equal(utimensat(box->dir, "x/y", times, 0), 0);
	assert_int_equal(utimensat(box->dir, "x", times, 0), 0);
	scoped_fd scratch = openat(box->dir, "scratch", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	snprintf(base, sizeof(base), "base");
	assert_int_equal(symlinkat("/", scratch, base), 0);
	int r = fvm_hide_layer(&hide, &plan, 0, NULL, scratch, base, "layer");
	if (r == -EPERM)
		skip(); /* needs: the right to make 0:0 devices */
	assert_int_equal(r, 1);
	snprintf(layer, sizeof(layer), "layer%s", box->path);
	scoped_fd dir = openat(scratch, layer, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(dir >= 0);
	assert_whiteout(dir, "x/y/one");
	assert_whiteout(dir, "x/y/two");
	assert_whiteout(dir, "x/three");
	assert_whiteout(dir, "store");
	assert_int_equal(faccessat(dir, "nowhere", F_OK, 0), -1);
	assert_int_equal(fstatat(box->dir, "x", &was, 0), 0);
	assert_int_equal(fstatat(dir, "x", &is, 0), 0);
	assert_int_equal(is.st_mode, was.st_mode);
	assert_int_equal(is.st_mtim.tv_sec, 2000);
	assert_int_equal(is.st_mtim.tv_nsec, 5);
	assert_int_equal(fstatat(dir, "x/y", &is, 0), 0);
	assert_int_equal(is.st_mtim.tv_sec, 2000);
}

static void layers_get_the_attributes_that_directories_have_now(void **state)
{
	const struct box *box = *state;
	const struct fvm_config c = { 0 };
	scoped_plan plan = { 0 };
	scoped_hide hide = { 0 };
	scoped_hide_key was = { 0 }, is = { 0 }, other = { 0 };
	char below[256];
	struct stat host, layer;
	make(box, ".config/gh");
	make(box, "layers");
	plan_hide(box, &c, &plan, &hide);
	scoped_fd layers = openat(box->dir, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = fvm_hide_layers(&hide, &plan, layers);
	if (r == -EPERM)
		skip(); /* needs: the right to make 0:0 devices */
	assert_int_equal(r, 0);
	assert_int_equal(fvm_hide_key(&hide, &plan, &was), 0);

	assert_int_equal(fchmodat(box->dir, ".config", 0751, 0), 0);
	make(box, ".config/new");
	assert_int_equal(fvm_hide_key(&hide, &plan, &is), 0);
	assert_string_equal(was.names.data, is.names.data);
	assert_string_not_equal(was.stamps.data, is.stamps.data);
	assert_int_equal(fvm_hide_refresh(&plan, layers, was.stamps.data, is.stamps.data), 0);
	snprintf(below, sizeof(below), "0%s/.config", box->path);
	assert_int_equal(fstatat(layers, below, &layer, AT_SYMLINK_NOFOLLOW), 0);
	assert_int_equal(fstatat(box->dir, ".config", &host, AT_SYMLINK_NOFOLLOW), 0);
	assert_int_equal(layer.st_mode, host.st_mode);
	assert_memory_equal(&layer.st_mtim, &host.st_mtim, sizeof(host.st_mtim));

	make(box, ".docker"); /* more is hidden now: that takes another layer */
	assert_int_equal(fvm_hide_key(&hide, &plan, &other), 0);
	assert_string_equal(is.names.data, other.names.data);
	scoped_plan again = { 0 };
	scoped_hide more = { 0 };
	scoped_hide_key third = { 0 };
	plan_hide(box, &c, &again, &more);
	assert_int_equal(fvm_hide_key(&more, &again, &third), 0);
	assert_string_not_equal(is.names.data, third.names.data);
}

static void mount_with_nothing_hidden_needs_no_layer(void **state)
{
	const struct box *box = *state;
	scoped_config c = { .secrets = true };
	scoped_plan plan = { 0 };
	scoped_hide hide = { 0 };
	plan_hide(box, &c, &plan, &hide);
	assert_int_equal(fvm_hide_layer(&hide, &plan, 1, NULL, box->dir, ".", "layer"), 0);
	assert_int_equal(faccessat(box->dir, "layer", F_OK, 0), -1);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, box_setup, box_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(secrets_of_the_callers_home_are_hidden),
		TEST(profiles_and_tokens_are_hidden_whoever_packed_the_program),
		TEST(without_network_or_with_leave_only_the_store_is_hidden),
		TEST(shown_paths_are_taken_away_from_secrets),
		TEST(link_and_what_it_leads_to_are_both_hidden),
		TEST(mount_point_below_a_hidden_path_is_hidden),
		TEST(what_is_below_something_hidden_is_listed_once),
		TEST(layer_holds_whiteouts_below_directories_like_the_hosts),
		TEST(layers_get_the_attributes_that_directories_have_now),
		TEST(mount_with_nothing_hidden_needs_no_layer),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
