#include <errno.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/box.h"

/* The number may be another's by the end of the scope. */
static void what_was_closed_early_is_not_closed_again(void **state)
{
	const struct box *box = *state;
	int other;
	{
		scoped_fd early = dup(box->dir);
		const int number = early;
		fvm_fd_closep(&early);
		assert_int_equal(early, -1);
		other = fcntl(box->dir, F_DUPFD_CLOEXEC, number);
		assert_int_equal(other, number);
	}
	assert_true(fcntl(other, F_GETFD) >= 0);
	close(other);
}

static void path_that_climbs_out_is_refused(void **state)
{
	const struct box *box = *state;
	assert_int_equal(fvm_open_beneath(box->dir, "../secret", O_RDONLY), -EXDEV);
}

static void absolute_symlink_does_not_lead_out(void **state)
{
	const struct box *box = *state;
	assert_int_equal(symlinkat("/etc/passwd", box->dir, "way-out"), 0);
	assert_int_equal(fvm_open_beneath(box->dir, "way-out", O_RDONLY), -EXDEV);
	assert_int_equal(fvm_open_nofollow(box->dir, "way-out", O_RDONLY), -ELOOP);
}

static void file_is_replaced_whole(void **state)
{
	const struct box *box = *state;
	box_write(box, "file", "old");
	assert_int_equal(fvm_write_file_atomic(box->dir, "file", "newer", 5, true), 0);
	scoped_free char *text = NULL;
	size_t len = 0;
	assert_int_equal(fvm_read_file(box->dir, "file", 100, &text, &len), 0);
	assert_string_equal(text, "newer");
	assert_int_equal(len, 5);
}

static void file_above_the_limit_is_refused(void **state)
{
	const struct box *box = *state;
	box_write(box, "file", "0123456789");
	scoped_free char *text = NULL;
	assert_int_equal(fvm_read_file(box->dir, "file", 9, &text, NULL), -EFBIG);
	assert_int_equal(fvm_read_file(box->dir, "file", 10, &text, NULL), 0);
}

static void tree_with_a_closed_directory_is_removed(void **state)
{
	const struct box *box = *state;
	assert_int_equal(fvm_mkdir_p(box->dir, "a/b/c", 0700), 0);
	box_write(box, "a/b/c/file", "x");
	assert_int_equal(symlinkat("/etc", box->dir, "a/link"), 0);
	assert_int_equal(fchmodat(box->dir, "a/b", 0, 0), 0);
	assert_int_equal(fvm_remove_tree(box->dir, "a"), 0);
	assert_int_equal(fvm_remove_tree(box->dir, "a"), 0);
	assert_int_equal(access("/etc/passwd", F_OK), 0);
}

static void add_some(void *arg, unsigned long long done)
{
	const struct box *box = arg;
	char name[40];
	for (int i = 0; done == 512 && i < 50; i++) {
		snprintf(name, sizeof(name), "a/late-%d", i);
		box_write(box, name, "x");
	}
}

static void what_is_put_into_a_tree_meanwhile_goes_too(void **state)
{
	struct box *box = *state;
	char name[40];
	assert_int_equal(mkdirat(box->dir, "a", 0700), 0);
	for (int i = 0; i < 512; i++) {
		snprintf(name, sizeof(name), "a/%d", i);
		box_write(box, name, "x");
	}
	assert_int_equal(fvm_remove_tree_told(box->dir, "a", add_some, box), 0);
	assert_int_equal(faccessat(box->dir, "a", F_OK, 0), -1);
}

static void directories_are_made_through_no_symlink(void **state)
{
	const struct box *box = *state;
	assert_int_equal(mkdirat(box->dir, "outside", 0700), 0);
	assert_int_equal(mkdirat(box->dir, "in", 0700), 0);
	assert_int_equal(symlinkat("../outside", box->dir, "in/link"), 0);
	scoped_fd in = openat(box->dir, "in", O_PATH | O_DIRECTORY | O_CLOEXEC);
	scoped_fd made = fvm_mkdir_nofollow(in, "a/b//c", 0755);
	assert_true(made >= 0);
	assert_int_equal(faccessat(box->dir, "in/a/b/c", F_OK, 0), 0);
	assert_int_equal(fvm_mkdir_nofollow(in, "link/x", 0755), -ENOTDIR);
	assert_int_equal(fvm_mkdir_nofollow(in, "a/../../outside/x", 0755), -EXDEV);
	assert_int_equal(fvm_mkdir_nofollow(in, "", 0755), -ENOENT);
	assert_int_equal(faccessat(box->dir, "outside/x", F_OK, 0), -1);
}

/* Some levels have more than the next one in them, or no rights. */
static void deep_tree_needs_few_descriptors(void **state)
{
	const struct box *box = *state;
	const struct rlimit few = { .rlim_cur = 64, .rlim_max = 64 };
	scoped_fd at = openat(box->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < 3000; i++) {
		assert_int_equal(mkdirat(at, "a long name, so that no path could name it", 0700),
				 0);
		if (i % 40 == 0) {
			assert_int_equal(mkdirat(at, "beside", 0700), 0);
			close(openat(at, "z", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
		}
		int next = openat(at, "a long name, so that no path could name it",
				  O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		if (i % 30 == 29)
			assert_int_equal(fchmod(at, 0), 0);
		close(at);
		at = next;
	}
	pid_t child = fork();
	if (child == 0) {
		(void)setrlimit(RLIMIT_NOFILE, &few);
		_exit(fvm_remove_tree(box->dir, "a long name, so that no path could name it") < 0);
	}
	int status = -1;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(faccessat(box->dir, "z", F_OK, 0), 0);
	assert_int_equal(faccessat(box->dir, "a long name, so that no path could name it", F_OK, 0),
			 -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_was_closed_early_is_not_closed_again,
						box_setup, box_teardown),
		cmocka_unit_test_setup_teardown(path_that_climbs_out_is_refused, box_setup,
						box_teardown),
		cmocka_unit_test_setup_teardown(absolute_symlink_does_not_lead_out, box_setup,
						box_teardown),
		cmocka_unit_test_setup_teardown(file_is_replaced_whole, box_setup, box_teardown),
		cmocka_unit_test_setup_teardown(file_above_the_limit_is_refused, box_setup,
						box_teardown),
		cmocka_unit_test_setup_teardown(tree_with_a_closed_directory_is_removed, box_setup,
						box_teardown),
		cmocka_unit_test_setup_teardown(what_is_put_into_a_tree_meanwhile_goes_too,
						box_setup, box_teardown),
		cmocka_unit_test_setup_teardown(directories_are_made_through_no_symlink, box_setup,
						box_teardown),
		cmocka_unit_test_setup_teardown(deep_tree_needs_few_descriptors, box_setup,
						box_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
