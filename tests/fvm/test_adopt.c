#include "tests/box.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "fvm/adopt.h"

static void look(const struct box *box, const char *name, struct stat *st)
{
	assert_int_equal(fstatat(box->dir, name, st, AT_SYMLINK_NOFOLLOW), 0);
}

static void only_nobodys_files_and_links_are_adopted(void **state)
{
	struct stat st = { .st_mode = S_IFREG | 0644, .st_uid = FVM_NOBODY };
	(void)state;
	assert_true(fvm_adoptable(&st));
	st.st_mode = S_IFLNK | 0777;
	assert_true(fvm_adoptable(&st));
	st.st_mode = S_IFDIR | 0755;
	assert_false(fvm_adoptable(&st));
	st = (struct stat){ .st_mode = S_IFREG | 0644, .st_gid = FVM_NOBODY };
	assert_true(fvm_adoptable(&st));
	st.st_gid = 0;
	assert_false(fvm_adoptable(&st));
}

static void copy_takes_the_files_place_with_all_it_has(void **state)
{
	const struct box *box = *state;
	struct stat before, after, parent, parent_after;
	const struct timespec times[2] = { { 1000, 1 }, { 2000, 2 } };
	char text[16] = "";
	box_write(box, "f", "content");
	assert_int_equal(fchmodat(box->dir, "f", 04751, 0), 0);
	int fd = openat(box->dir, "f", O_RDONLY);
	bool xattrs = fsetxattr(fd, "user.x", "1", 1, 0) == 0;
	close(fd);
	assert_int_equal(utimensat(box->dir, "f", times, 0), 0);
	assert_int_equal(fstat(box->dir, &parent), 0);
	look(box, "f", &before);
	assert_int_equal(fvm_adopt(box->dir, "f", &before, false), 0);
	look(box, "f", &after);
	assert_int_not_equal(after.st_ino, before.st_ino);
	assert_int_equal(after.st_mode, before.st_mode);
	assert_int_equal(after.st_mtim.tv_sec, 2000);
	assert_int_equal(after.st_atim.tv_sec, 1000);
	assert_int_equal(fstat(box->dir, &parent_after), 0);
	assert_int_equal(parent_after.st_mtim.tv_nsec, parent.st_mtim.tv_nsec);
	fd = openat(box->dir, "f", O_RDONLY);
	assert_int_equal(read(fd, text, sizeof(text)), 7);
	assert_string_equal(text, "content");
	if (xattrs)
		assert_int_equal(fgetxattr(fd, "user.x", text, 1), 1);
	close(fd);
}

static void holes_stay_holes(void **state)
{
	const struct box *box = *state;
	struct stat before, after;
	int fd = openat(box->dir, "sparse", O_RDWR | O_CREAT, 0600);
	assert_int_equal(ftruncate(fd, 64 << 20), 0);
	assert_int_equal(pwrite(fd, "x", 1, 32 << 20), 1);
	close(fd);
	look(box, "sparse", &before);
	assert_int_equal(fvm_adopt(box->dir, "sparse", &before, false), 0);
	look(box, "sparse", &after);
	assert_int_equal(after.st_size, before.st_size);
	assert_true(after.st_blocks < 4096);
}

static void file_that_was_exchanged_is_left_alone(void **state)
{
	const struct box *box = *state;
	struct stat st;
	box_write(box, "f", "old");
	look(box, "f", &st);
	box_write(box, "g", "new");
	assert_int_equal(renameat(box->dir, "g", box->dir, "f"), 0);
	assert_int_equal(fvm_adopt(box->dir, "f", &st, false), -ESTALE);
	struct stat now;
	look(box, "f", &now);
	assert_int_equal(now.st_size, 3);
}

static void link_is_copied_not_followed(void **state)
{
	const struct box *box = *state;
	struct stat st;
	char target[32] = "";
	assert_int_equal(symlinkat("/nowhere", box->dir, "l"), 0);
	look(box, "l", &st);
	assert_int_equal(fvm_adopt(box->dir, "l", &st, false), 0);
	assert_int_equal(readlinkat(box->dir, "l", target, sizeof(target)), 8);
	assert_string_equal(target, "/nowhere");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_nobodys_files_and_links_are_adopted),
		cmocka_unit_test_setup_teardown(copy_takes_the_files_place_with_all_it_has,
						box_setup, box_teardown),
		cmocka_unit_test_setup_teardown(holes_stay_holes, box_setup, box_teardown),
		cmocka_unit_test_setup_teardown(file_that_was_exchanged_is_left_alone, box_setup,
						box_teardown),
		cmocka_unit_test_setup_teardown(link_is_copied_not_followed, box_setup,
						box_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
