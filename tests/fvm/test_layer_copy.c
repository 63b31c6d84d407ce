/* src/fvm/layer_copy.c: a layer that is copied while it changes, and what a last pass makes of it.
 */
#include <errno.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>

#include "fvm/layer_copy.h"
#include "tests/box.h"

struct layers {
	struct box *box;
	int from, to, root; /* "root" is the original's from/root/upper */
	struct fvm_layer_pass pass;
};

static int open_dir(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static int setup(void **state)
{
	struct layers *l = calloc(1, sizeof(*l));
	if (box_setup((void **)&l->box) < 0)
		return -1;
	const int dir = l->box->dir;
	mkdirat(dir, "from", 0700);
	mkdirat(dir, "to", 0700);
	mkdirat(dir, "from/root", 0700);
	mkdirat(dir, "from/root/upper", 0755);
	l->from = open_dir(dir, "from");
	l->to = open_dir(dir, "to");
	l->root = open_dir(dir, "from/root/upper");
	l->pass.origins = openat(dir, "origins", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	l->pass.copied_ns = INT64_MIN;
	*state = l;
	return l->pass.origins < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	struct layers *l = *state;
	close(l->from);
	close(l->to);
	close(l->root);
	close(l->pass.origins);
	void *box = l->box;
	free(l);
	return box_teardown(&box);
}

static void write_file(const struct layers *l, const char *name, const char *text)
{
	scoped_fd fd = openat(l->root, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(fvm_write_all(fd, text, strlen(text)), 0);
}

/* The copy's name, by the path that it has in the original. */
static void copy_path(const char *name, char ret[300])
{
	snprintf(ret, 300, "root/upper/%s", name);
}

static void assert_text(const struct layers *l, const char *name, const char *text)
{
	char path[300], is[100] = "";
	copy_path(name, path);
	scoped_fd fd = openat(l->to, path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_true(read(fd, is, sizeof(is) - 1) >= 0);
	assert_string_equal(is, text);
}

static ino_t copy_ino(const struct layers *l, const char *name)
{
	char path[300];
	struct stat st;
	copy_path(name, path);
	return fstatat(l->to, path, &st, AT_SYMLINK_NOFOLLOW) < 0 ? 0 : st.st_ino;
}

/* As if all had been made long before: what changes from here on is younger than the first pass. */
static void first_pass(struct layers *l)
{
	struct fvm_error err = { 0 };
	struct timespec now;
	const struct timespec old = { .tv_nsec = 100000000 };
	nanosleep(&old, NULL); /* more than what a time may be late by: see SLACK_NS */
	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	l->pass.now_ns = now.tv_sec * 1000000000LL + now.tv_nsec;
	if (fvm_layer_copy_pass(l->from, l->to, &l->pass, NULL, NULL, &err) < 0)
		fail_msg("%s", err.text);
	l->pass.copied_ns = l->pass.now_ns;
	nanosleep(&old, NULL);
}

static void last_pass(struct layers *l)
{
	struct fvm_error err = { 0 };
	l->pass.still = true;
	if (fvm_layer_copy_pass(l->from, l->to, &l->pass, NULL, NULL, &err) < 0)
		fail_msg("%s", err.text);
}

static void what_did_not_change_is_not_copied_again(void **state)
{
	struct layers *l = *state;
	mkdirat(l->root, "d", 0755);
	write_file(l, "d/same", "same");
	write_file(l, "d/other", "before");
	first_pass(l);
	const ino_t same = copy_ino(l, "d/same");
	write_file(l, "d/other", "after");
	last_pass(l);
	assert_int_equal(copy_ino(l, "d/same"), same);
	assert_text(l, "d/same", "same");
	assert_text(l, "d/other", "after");
	assert_int_equal(faccessat(l->to, "+links", F_OK, 0), -1);
}

static void names_that_came_went_and_moved_are_followed(void **state)
{
	struct layers *l = *state;
	mkdirat(l->root, "d", 0755);
	mkdirat(l->root, "tree", 0755);
	mkdirat(l->root, "tree/deep", 0755);
	write_file(l, "tree/deep/file", "deep");
	write_file(l, "gone", "gone");
	write_file(l, "moved", "moved");
	write_file(l, "becomes", "a directory");
	first_pass(l);
	assert_text(l, "gone", "gone");
	unlinkat(l->root, "gone", 0);
	renameat(l->root, "moved", l->root, "d/here");
	renameat(l->root, "tree", l->root, "d/tree");
	unlinkat(l->root, "becomes", 0);
	mkdirat(l->root, "becomes", 0755);
	write_file(l, "becomes/new", "new");
	last_pass(l);
	assert_int_equal(copy_ino(l, "gone"), 0);
	assert_int_equal(copy_ino(l, "moved"), 0);
	assert_int_equal(copy_ino(l, "tree"), 0);
	assert_text(l, "d/here", "moved");
	assert_text(l, "d/tree/deep/file", "deep");
	assert_text(l, "becomes/new", "new");
}

static void directories_that_changed_places_are_not_taken_for_each_other(void **state)
{
	struct layers *l = *state;
	mkdirat(l->root, "a", 0755);
	mkdirat(l->root, "b", 0755);
	write_file(l, "a/file", "of a"); /* neither of them changes any more */
	write_file(l, "b/file", "of b");
	first_pass(l);
	assert_int_equal(renameat2(l->root, "a", l->root, "b", RENAME_EXCHANGE), 0);
	last_pass(l);
	assert_text(l, "a/file", "of b");
	assert_text(l, "b/file", "of a");
}

static void links_are_those_of_the_end(void **state)
{
	struct layers *l = *state;
	mkdirat(l->root, "m", 0755);
	write_file(l, "kept", "kept");
	linkat(l->root, "kept", l->root, "m/kept", 0);
	write_file(l, "one", "one");
	linkat(l->root, "one", l->root, "two", 0);
	write_file(l, "single", "single");
	first_pass(l);
	renameat(l->root, "m", l->root, "n"); /* its file is a link to what stays */
	unlinkat(l->root, "two", 0);
	write_file(l, "two", "another");
	write_file(l, "one", "anew");
	linkat(l->root, "single", l->root, "double", 0);
	last_pass(l);
	assert_int_equal(copy_ino(l, "kept"), copy_ino(l, "n/kept"));
	assert_int_equal(copy_ino(l, "single"), copy_ino(l, "double"));
	assert_int_not_equal(copy_ino(l, "one"), copy_ino(l, "two"));
	assert_text(l, "one", "anew");
	assert_text(l, "two", "another");
	assert_text(l, "n/kept", "kept");
}

static void attributes_are_those_of_the_end(void **state)
{
	struct layers *l = *state;
	struct stat st;
	const struct timespec times[2] = { { .tv_sec = 1000 }, { .tv_sec = 2000 } };
	mkdirat(l->root, "d", 0755);
	write_file(l, "d/file", "x");
	scoped_fd d = open_dir(l->root, "d");
	if (fsetxattr(d, "user.old", "1", 1, 0) < 0) {
		print_message("no user.* attributes here\n");
		skip();
	}
	first_pass(l);
	fremovexattr(d, "user.old");
	fsetxattr(d, "user.new", "2", 1, 0);
	fchmod(d, 0710);
	write_file(l, "d/more", "y");
	futimens(d, times);
	last_pass(l);
	scoped_fd copy = open_dir(l->to, "root/upper/d");
	assert_int_equal(fgetxattr(copy, "user.old", NULL, 0), -1);
	assert_int_equal(fgetxattr(copy, "user.new", NULL, 0), 1);
	assert_int_equal(fstat(copy, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0710);
	assert_int_equal(st.st_mtim.tv_sec, 2000);
}

static void holes_stay_and_a_size_is_followed(void **state)
{
	struct layers *l = *state;
	struct stat st;
	write_file(l, "holes", "x");
	first_pass(l);
	scoped_fd fd = openat(l->root, "holes", O_WRONLY | O_CLOEXEC);
	assert_int_equal(ftruncate(fd, 64 << 20), 0);
	last_pass(l);
	assert_int_equal(fstatat(l->to, "root/upper/holes", &st, 0), 0);
	assert_int_equal(st.st_size, 64 << 20);
	assert_true(st.st_blocks * 512 < 1 << 20);
}

static void without_trust_all_is_copied(void **state)
{
	struct layers *l = *state;
	write_file(l, "file", "before");
	first_pass(l);
	const ino_t before = copy_ino(l, "file");
	/* as a store through a mapping that leaves no time */
	scoped_fd copy = openat(l->to, "root/upper/file", O_WRONLY | O_TRUNC | O_CLOEXEC);
	assert_true(copy >= 0 && before);
	l->pass.copied_ns = INT64_MIN;
	last_pass(l);
	assert_text(l, "file", "before");
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(what_did_not_change_is_not_copied_again),
		test(names_that_came_went_and_moved_are_followed),
		test(directories_that_changed_places_are_not_taken_for_each_other),
		test(links_are_those_of_the_end),
		test(attributes_are_those_of_the_end),
		test(holes_stay_and_a_size_is_followed),
		test(without_trust_all_is_copied),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
