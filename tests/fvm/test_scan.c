#include "tests/fvm/listing.h"

static bool user_xattr; /* second round: as an ordinary user would store it */

static char *list(const struct box *box, size_t layers, const struct fvm_scan_options *options)
{
	struct fvm_stack s;
	box_stack(box, "/", layers, &s);
	s.user_xattr = user_xattr;
	char *text = listing(&s, options);
	box_stack_close(&s);
	return text;
}

static void opaque(const struct box *box, const char *path, const char *value)
{
	box_xattr(box, path, user_xattr ? "user.overlay.opaque" : "trusted.overlay.opaque", value,
		  1);
}

static void kinds_are_told_apart(void **state)
{
	const struct box *box = *state;
	box_file(box, "base/etc/changed", "one");
	box_file(box, "base/etc/deleted", "x");
	box_file(box, "base/etc/mode", "x");
	box_file(box, "base/etc/type", "x");
	box_file(box, "base/etc/untouched", "x");
	box_file(box, "l0/etc/added", "x");
	box_file(box, "l0/etc/changed", "two");
	box_whiteout(box, "l0/etc/deleted");
	box_file(box, "l0/etc/mode", "x");
	assert_int_equal(fchmodat(box->dir, "l0/etc/mode", 04755, 0), 0);
	assert_int_equal(symlinkat("untouched", box->dir, "l0/etc/type"), 0);
	scoped_free char *text = list(box, 1, NULL);
	assert_string_equal(text, "A /etc/added\nM /etc/changed\nD /etc/deleted\n"
				  "m /etc/mode mode\nT /etc/type\n");
}

static void copied_up_and_put_back_is_no_change(void **state)
{
	const struct box *box = *state;
	box_file(box, "base/a/file", "same");
	box_file(box, "l0/a/file", "same");
	assert_int_equal(symlinkat("target", box->dir, "base/a/link"), 0);
	assert_int_equal(symlinkat("target", box->dir, "l0/a/link"), 0);
	assert_int_equal(mkfifoat(box->dir, "base/a/fifo", 0600), 0);
	assert_int_equal(mkfifoat(box->dir, "l0/a/fifo", 0600), 0);
	box_whiteout(box, "l0/a/never-was");
	scoped_free char *text = list(box, 1, NULL);
	assert_string_equal(text, "");
}

static void deleted_tree_is_one_change(void **state)
{
	const struct box *box = *state;
	box_file(box, "base/usr/share/doc/a", "x");
	box_file(box, "base/usr/share/b", "x");
	box_whiteout(box, "l0/usr/share");
	scoped_free char *text = list(box, 1, NULL);
	assert_string_equal(text, "D /usr/share\n");
}

static int list_below(const struct fvm_change *c, void *arg)
{
	int r = list_change(c, arg);
	return c->kind == FVM_DELETED && r == 0 ? fvm_change_deleted(c, list_change, arg) : r;
}

static void deleted_tree_can_be_listed(void **state)
{
	const struct box *box = *state;
	box_file(box, "base/usr/share/doc/a", "x");
	box_file(box, "base/usr/share/b", "x");
	box_whiteout(box, "l0/usr/share");
	struct fvm_stack s;
	box_stack(box, "/", 1, &s);
	scoped_buf b = { 0 };
	assert_int_equal(fvm_stack_scan(&s, NULL, list_below, &b, NULL), 0);
	assert_string_equal(b.data, "D /usr/share\nD /usr/share/b\nD /usr/share/doc\n"
				    "D /usr/share/doc/a\n");
	box_stack_close(&s);
}

static void directory_and_file_change_places_in_two_steps(void **state)
{
	const struct box *box = *state;
	box_file(box, "base/a/below", "x");
	box_file(box, "base/b", "x");
	box_write(box, "base/c", "x");
	box_mkdir(box, "l0");
	box_write(box, "l0/a", "now a file");
	box_file(box, "l0/b/below", "now a directory");
	scoped_free char *text = list(box, 1, NULL);
	assert_string_equal(text, "D /a\nA /a\nD /b\nA /b\nA /b/below\n");
}

static void opaque_directory_hides_the_base(void **state)
{
	const struct box *box = *state;
	box_file(box, "base/d/kept", "same");
	box_file(box, "base/d/gone", "x");
	box_file(box, "base/d/sub/gone", "x");
	box_file(box, "base/d/both/gone", "x");
	box_file(box, "l0/d/kept", "same");
	box_file(box, "l0/d/new", "x");
	box_mkdir(box, "l0/d/both");
	opaque(box, "l0/d", "y");
	scoped_free char *text = list(box, 1, NULL);
	assert_string_equal(text, "D /d/both/gone\nD /d/gone\nA /d/new\nD /d/sub\n");
}

static void whiteout_may_be_an_xattr(void **state)
{
	const struct box *box = *state;
	const char *name = user_xattr ? "user.overlay.whiteout" : "trusted.overlay.whiteout";
	box_file(box, "base/d/gone", "x");
	box_file(box, "base/d/emptied", "x");
	box_file(box, "base/e/emptied", "x");
	box_file(box, "l0/d/gone", "");
	box_xattr(box, "l0/d/gone", name, "", 0);
	box_file(box, "l0/d/emptied", "");
	opaque(box, "l0/d", "x");
	/* without the mark on the directory it is a file like others */
	box_file(box, "l0/e/emptied", "");
	box_xattr(box, "l0/e/emptied", name, "", 0);
	scoped_free char *text = list(box, 1, NULL);
	assert_string_equal(text, "M /d/emptied\nD /d/gone\nM /e/emptied\n");
}

static void upper_layers_win(void **state)
{
	const struct box *box = *state;
	box_file(box, "base/a", "base");
	box_write(box, "base/b", "base");
	box_write(box, "base/c", "base");
	box_write(box, "base/g", "base");
	box_file(box, "l0/a", "zero");
	box_whiteout(box, "l0/b");
	box_write(box, "l0/d", "zero");
	box_file(box, "l0/dir/low", "zero");
	box_whiteout(box, "l0/g");
	box_file(box, "l1/a", "base"); /* put back */
	box_write(box, "l1/b", "back");
	box_whiteout(box, "l1/d");
	box_file(box, "l1/dir/high", "one");
	box_whiteout(box, "l1/dir/low");
	box_whiteout(box, "l2/c");
	box_file(box, "l2/dir/low", "again");
	scoped_free char *text = list(box, 3, NULL);
	assert_string_equal(text, "M /b\nD /c\nA /dir\nA /dir/high\nA /dir/low\nD /g\n");
}

static void lower_layer_stops_at_what_is_no_directory(void **state)
{
	const struct box *box = *state;
	box_file(box, "base/d/in-base", "x");
	box_mkdir(box, "l0");
	box_write(box, "l0/d", "a file once");
	box_file(box, "l1/d/new", "x");
	scoped_free char *text = list(box, 2, NULL);
	assert_string_equal(text, "D /d/in-base\nA /d/new\n");
}

static void equal_size_and_time_do_not_hide_a_change(void **state)
{
	const struct box *box = *state;
	const struct timespec times[2] = { { 1000, 5 }, { 1000, 5 } };
	box_file(box, "base/f", "aaaa");
	box_file(box, "l0/f", "aaab");
	assert_int_equal(utimensat(box->dir, "base/f", times, 0), 0);
	assert_int_equal(utimensat(box->dir, "l0/f", times, 0), 0);
	scoped_free char *text = list(box, 1, NULL);
	assert_string_equal(text, "M /f\n");
	scoped_free char *fast = list(box, 1, &(struct fvm_scan_options){ .skip_content = true });
	assert_string_equal(fast, "");
}

static void big_sparse_files_are_compared_fast(void **state)
{
	const struct box *box = *state;
	static const char *const names[] = { "base/same", "l0/same", "base/differs", "l0/differs" };
	box_mkdir(box, "base");
	box_mkdir(box, "l0");
	for (size_t i = 0; i < 4; i++) {
		scoped_fd fd = openat(box->dir, names[i], O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
		assert_int_equal(ftruncate(fd, 1LL << 40), 0);
		assert_int_equal(pwrite(fd, i == 3 ? "b" : "a", 1, (1LL << 40) - 5), 1);
	}
	scoped_fd fd = openat(box->dir, "l0/same", O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "\0\0\0", 3, 1 << 30), 3); /* zeros equal a hole */
	scoped_free char *text = list(box, 1, NULL);
	assert_string_equal(text, "M /differs\n");
}

static void xattrs_of_the_overlay_do_not_count(void **state)
{
	const struct box *box = *state;
	box_file(box, "base/same", "x");
	box_file(box, "base/user", "x");
	box_file(box, "base/value", "x");
	box_file(box, "base/lost", "x");
	box_file(box, "l0/same", "x");
	box_file(box, "l0/user", "x");
	box_file(box, "l0/value", "x");
	box_file(box, "l0/lost", "x");
	box_xattr(box, "l0/same", "trusted.overlay.origin", "1", 1);
	box_xattr(box, "l0/same", "user.overlay.impure", "y", 1);
	box_xattr(box, "l0/user", "user.mine", "1", 1);
	box_xattr(box, "base/value", "user.mine", "1", 1);
	box_xattr(box, "l0/value", "user.mine", "2", 1);
	box_xattr(box, "base/lost", "user.mine", "1", 1);
	scoped_free char *text = list(box, 1, NULL);
	assert_string_equal(text, "m /lost xattr\nm /user xattr\nm /value xattr\n");
}

static void root_id_of_capabilities_does_not_count(void **state)
{
	const struct box *box = *state;
	unsigned char v2[20] = { 1, 0, 0, 2, 0, 4 }, v3[24] = { 1, 0, 0, 3, 0, 4 };
	unsigned char more[20] = { 1, 0, 0, 2, 0, 12 };
	v3[20] = 77;
	box_file(box, "base/same", "x");
	box_file(box, "base/more", "x");
	box_file(box, "base/none", "x");
	box_file(box, "l0/same", "x");
	box_file(box, "l0/more", "x");
	box_file(box, "l0/none", "x");
	box_xattr(box, "base/same", "security.capability", v2, sizeof(v2));
	box_xattr(box, "base/more", "security.capability", v2, sizeof(v2));
	box_xattr(box, "l0/same", "security.capability", v3, sizeof(v3));
	box_xattr(box, "l0/more", "security.capability", more, sizeof(more));
	box_xattr(box, "l0/none", "security.capability", v3, sizeof(v3));
	scoped_free char *text = list(box, 1, NULL);
	assert_string_equal(text, "m /more caps\nm /none caps\n");
}

static void acl_is_an_xattr_change(void **state)
{
	const struct box *box = *state;
	/* version 2; user::rw- user:7:r-- group::r-- mask::r-- other::r-- */
	static const unsigned char acl[] = {
		2, 0, 0,   0,	1,   0,	  6,  0, 255, 255, 255, 255, 2,	  0,   4,
		0, 7, 0,   0,	0,   4,	  0,  4, 0,   255, 255, 255, 255, 16,  0,
		4, 0, 255, 255, 255, 255, 32, 0, 4,   0,   255, 255, 255, 255,
	};
	box_file(box, "base/f", "x");
	box_file(box, "l0/f", "x");
	box_xattr(box, "l0/f", "system.posix_acl_access", acl, sizeof(acl));
	scoped_free char *text = list(box, 1, NULL);
	assert_string_equal(text, "m /f xattr\n");
}

static void owner_and_mode_of_directories_count(void **state)
{
	const struct box *box = *state;
	box_mkdir(box, "base/a");
	box_mkdir(box, "base/b");
	box_mkdir(box, "base/c");
	box_mkdir(box, "l0/a");
	box_mkdir(box, "l0/b");
	box_mkdir(box, "l0/c");
	assert_int_equal(fchownat(box->dir, "l0/a", 5, 6, 0), 0);
	assert_int_equal(fchmodat(box->dir, "l0/b", 01777, 0), 0);
	scoped_free char *text = list(box, 1, NULL);
	assert_string_equal(text, "m /a owner\nm /b mode\n");
	scoped_free char *all = list(box, 1, &(struct fvm_scan_options){ .meta_only_dirs = true });
	assert_string_equal(all, "m /\nm /a owner\nm /b mode\nm /c\n");
}

static void noise_is_left_out_unless_named(void **state)
{
	const struct box *box = *state;
	box_file(box, "l0/tmp/x", "x");
	box_file(box, "l0/var/cache/apt/x", "x");
	box_file(box, "l0/var/lib/x", "x");
	box_mkdir(box, "base/var/cache/apt");
	box_mkdir(box, "base/var/lib");
	scoped_free char *text = list(box, 1, NULL);
	assert_string_equal(text, "A /var/lib/x\n");
	const char *const named[] = { "/var/cache/apt", NULL };
	scoped_free char *below = list(box, 1, &(struct fvm_scan_options){ .paths = named });
	assert_string_equal(below, "A /var/cache/apt/x\n");
	scoped_free char *all = list(box, 1, &(struct fvm_scan_options){ .with_noise = true });
	assert_string_equal(all, "A /tmp\nA /tmp/x\nA /var/cache/apt/x\nA /var/lib/x\n");
}

static void only_named_paths_are_told(void **state)
{
	const struct box *box = *state;
	box_file(box, "base/usr/share/doc/x", "x");
	box_file(box, "base/usr/lib/x", "x");
	box_file(box, "l0/etc/a/b", "x");
	box_file(box, "l0/etc/ab", "x");
	box_whiteout(box, "l0/usr/share");
	const char *const paths[] = { "/etc/a", "/usr/share/doc/x", "/usr/share/none", NULL };
	scoped_free char *text = list(box, 1, &(struct fvm_scan_options){ .paths = paths });
	assert_string_equal(text, "A /etc/a\nA /etc/a/b\nD /usr/share/doc/x\n");
}

static void gone_base_makes_all_added(void **state)
{
	const struct box *box = *state;
	box_file(box, "l0/d/f", "x");
	box_whiteout(box, "l0/d/w");
	struct fvm_stack s;
	box_stack(box, "/mnt/usb", 1, &s);
	close(s.base);
	s.base = -1;
	scoped_free char *text = listing(&s, NULL);
	assert_string_equal(text, "A /mnt/usb/d\nA /mnt/usb/d/f\n");
	s.base = box_dir(box, "base");
	box_stack_close(&s);
}

static void names_of_any_bytes_keep_their_order(void **state)
{
	const struct box *box = *state;
	box_file(box, "l0/a/x", "x");
	box_file(box, "l0/a-b", "x");
	box_file(box, "l0/a\nA shadow", "x");
	box_file(box, "l0/\xff\xfe", "x");
	scoped_free char *text = list(box, 1, NULL);
	assert_string_equal(text, "A /a\nA /a/x\nA /a\nA shadow\nA /a-b\nA /\xff\xfe\n");
}

/* deeper than there are descriptors, and than a path is long */
static void very_deep_trees_are_walked(void **state)
{
	const struct box *box = *state;
	enum { DEPTH = 3000 };
	box_mkdir(box, "base");
	box_mkdir(box, "l0");
	for (int side = 0; side < 2; side++) {
		scoped_fd at = box_dir(box, side ? "base" : "l0");
		for (int i = 0; i < DEPTH; i++) {
			assert_int_equal(mkdirat(at, "dd", 0755), 0);
			int in = openat(at, "dd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
			assert_true(in >= 0);
			close(at);
			at = in;
			/* something to come back to on the way up */
			if (side == 0 && i % 1000 == 7)
				assert_int_equal(mkdirat(at, "zz", 0755), 0);
		}
	}
	scoped_free char *text = list(box, 1, NULL);
	size_t lines = 0;
	for (const char *p = text; (p = strchr(p, '\n')); p++)
		lines++;
	assert_int_equal(lines, 3);
	assert_true(strncmp(text, "A /dd/dd/", 9) == 0);
	/* fvm_remove_tree() holds a descriptor per level */
	char command[200];
	snprintf(command, sizeof(command), "rm -rf %s/l0 %s/base", box->path, box->path);
	assert_int_equal(system(command), 0);
}

static int stop_at_b(const struct fvm_change *c, void *arg)
{
	list_change(c, arg);
	if (strcmp(c->path, "/b") == 0)
		return -ECANCELED;
	return strcmp(c->path, "/a") == 0;
}

static void caller_prunes_and_stops(void **state)
{
	const struct box *box = *state;
	box_file(box, "l0/a/below", "x");
	box_file(box, "l0/b", "x");
	box_file(box, "l0/c", "x");
	struct fvm_stack s;
	box_stack(box, "/", 1, &s);
	scoped_buf b = { 0 };
	struct fvm_error err = { 0 };
	assert_int_equal(fvm_stack_scan(&s, NULL, stop_at_b, &b, &err), -ECANCELED);
	assert_string_equal(b.data, "A /a\nA /b\n");
	assert_int_equal(err.code, 0);
	box_stack_close(&s);
}

static void symlink_over_a_directory_is_not_followed(void **state)
{
	const struct box *box = *state;
	box_mkdir(box, "base");
	assert_int_equal(symlinkat("/etc", box->dir, "base/link"), 0);
	box_file(box, "l0/link/passwd", "x");
	scoped_free char *text = list(box, 1, NULL);
	assert_string_equal(text, "D /link\nA /link\nA /link/passwd\n");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, box_setup, box_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(kinds_are_told_apart),
		TEST(copied_up_and_put_back_is_no_change),
		TEST(deleted_tree_is_one_change),
		TEST(deleted_tree_can_be_listed),
		TEST(directory_and_file_change_places_in_two_steps),
		TEST(opaque_directory_hides_the_base),
		TEST(whiteout_may_be_an_xattr),
		TEST(upper_layers_win),
		TEST(lower_layer_stops_at_what_is_no_directory),
		TEST(equal_size_and_time_do_not_hide_a_change),
		TEST(big_sparse_files_are_compared_fast),
		TEST(xattrs_of_the_overlay_do_not_count),
		TEST(root_id_of_capabilities_does_not_count),
		TEST(acl_is_an_xattr_change),
		TEST(owner_and_mode_of_directories_count),
		TEST(noise_is_left_out_unless_named),
		TEST(only_named_paths_are_told),
		TEST(gone_base_makes_all_added),
		TEST(names_of_any_bytes_keep_their_order),
		TEST(very_deep_trees_are_walked),
		TEST(caller_prunes_and_stops),
		TEST(symlink_over_a_directory_is_not_followed),
	};
	if (geteuid() != 0) { /* trusted.* and mknod */
		print_message("skipped: needs root\n");
		return 77;
	}
	umask(022);
	int failed = cmocka_run_group_tests_name("trusted.overlay", tests, NULL, NULL);
	user_xattr = true;
	return failed + cmocka_run_group_tests_name("user.overlay", tests, NULL, NULL);
}
