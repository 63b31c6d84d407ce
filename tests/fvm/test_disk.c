/* src/fvm/disk*.c: what is refused anywhere, and images where root has loop devices. */
#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "fvm/disk.h"
#include "tests/box.h"

static const struct fvm_disk_options small = { .bytes = 16 << 20, .id = "0123456789abcdef" };

static void make_fs(const struct box *box)
{
	assert_int_equal(fvm_mkdir_p(box->dir, "fs", 0700), 0);
}

static void without_a_limit_it_is_a_plain_directory(void **state)
{
	const struct box *box = *state;
	const struct fvm_disk_options none = { .id = "00" };
	struct fvm_error err = { 0 };
	enum fvm_disk kind = FVM_DISK_IMAGE;
	uint64_t used, limit;
	assert_int_equal(fvm_disk_prepare(box->dir, &none, &kind, &err), -ENOENT);
	make_fs(box);
	assert_int_equal(fvm_disk_prepare(box->dir, &none, &kind, &err), 0);
	assert_int_equal(kind, FVM_DISK_PLAIN);
	box_write(box, "fs/file", "x");
	scoped_fd fs = fvm_disk_open(box->dir);
	assert_true(fs >= 0);
	assert_int_equal(faccessat(fs, "file", F_OK, 0), 0);
	assert_int_equal(fvm_disk_usage(box->dir, &used, &limit), -ENODATA);
	fvm_disk_release(box->dir);
}

static void limits_that_make_no_sense_are_refused(void **state)
{
	const struct box *box = *state;
	struct fvm_disk_options o = small;
	struct fvm_error err = { 0 };
	enum fvm_disk kind;
	make_fs(box);
	o.bytes = 4096;
	assert_int_equal(fvm_disk_prepare(box->dir, &o, &kind, &err), -EINVAL);
	assert_non_null(strstr(err.hint, "8M"));
	assert_int_equal(fvm_mkdir_p(box->dir, "fs/root", 0700), 0);
	assert_int_equal(fvm_disk_prepare(box->dir, &small, &kind, &err), -EBUSY);
}

static void ordinary_user_is_limited_only_in_memory(void **state)
{
	const struct box *box = *state;
	struct fvm_disk_options o = small;
	struct fvm_error err = { 0 };
	enum fvm_disk kind;
	make_fs(box);
	o.rootless = true;
	assert_int_equal(fvm_disk_prepare(box->dir, &o, &kind, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.hint, "--rm"));
	o.throw_away = true;
	assert_int_equal(fvm_disk_prepare(box->dir, &o, &kind, &err), 0);
	assert_int_equal(kind, FVM_DISK_TMPFS);
}

static void image_or_skip(const struct box *box)
{
	struct fvm_error err = { 0 };
	enum fvm_disk kind;
	make_fs(box);
	if (geteuid() != 0 || fvm_disk_prepare(box->dir, &small, &kind, &err) < 0 ||
	    kind != FVM_DISK_IMAGE) {
		print_message("needs root, loop devices and mkfs.ext4 (%s)\n", err.text);
		skip();
	}
}

static void image_is_full_at_its_limit_and_keeps_what_it_has(void **state)
{
	const struct box *box = *state;
	image_or_skip(box);
	assert_true(fvm_disk_has_image(box->dir));
	static char block[65536];
	size_t blocks = 0;
	{
		scoped_fd fs = fvm_disk_open(box->dir);
		assert_true(fs >= 0);
		int fd = openat(fs, "file", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		assert_true(fd >= 0);
		while (blocks < 10000 && write(fd, block, sizeof(block)) > 0)
			blocks++; /* the last one may be cut short */
		assert_int_equal(errno, ENOSPC);
		close(fd);
	}
	assert_in_range(blocks, 100, 256);
	scoped_fd again = fvm_disk_open(box->dir);
	struct stat st;
	assert_int_equal(fstatat(again, "file", &st, 0), 0);
	assert_true(st.st_size >= (off_t)((blocks - 1) * sizeof(block)));
	uint64_t used, limit;
	assert_int_equal(fvm_disk_usage(box->dir, &used, &limit), 0);
	assert_int_equal(limit, small.bytes);
	assert_in_range(used, 1, limit);
}

static void image_opened_twice_is_one_file_system(void **state)
{
	const struct box *box = *state;
	struct stat a, b;
	image_or_skip(box);
	scoped_fd one = fvm_disk_open(box->dir), two = fvm_disk_open(box->dir);
	assert_true(one >= 0 && two >= 0);
	assert_int_equal(mkdirat(one, "made", 0700), 0);
	assert_int_equal(fstatat(one, "made", &a, 0), 0);
	assert_int_equal(fstatat(two, "made", &b, 0), 0);
	assert_int_equal(a.st_dev, b.st_dev);
	assert_int_equal(a.st_ino, b.st_ino);
}

static void image_holds_nothing_but_what_was_put_there(void **state)
{
	const struct box *box = *state;
	image_or_skip(box);
	int fs = fvm_disk_open(box->dir);
	DIR *d = fdopendir(fs);
	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));)
		assert_int_equal(e->d_name[0], '.');
	closedir(d);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, box_setup, box_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(without_a_limit_it_is_a_plain_directory),
		CASE(limits_that_make_no_sense_are_refused),
		CASE(ordinary_user_is_limited_only_in_memory),
		CASE(image_is_full_at_its_limit_and_keeps_what_it_has),
		CASE(image_opened_twice_is_one_file_system),
		CASE(image_holds_nothing_but_what_was_put_there),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
