#include <errno.h>
#include <sys/stat.h>

#include "fvm/tmpfiles.h"
#include "tests/box.h"

static uint32_t same(const void *arg, uint32_t id)
{
	(void)arg;
	return geteuid() == 0 ? id : (uint32_t)geteuid();
}

static void lines_below_run_are_taken(void **state)
{
	const struct box *box = *state;
	scoped_buf list = { 0 };
	assert_int_equal(fvm_mkdir_p(box->dir, "usr/lib/tmpfiles.d", 0755), 0);
	assert_int_equal(fvm_mkdir_p(box->dir, "etc/tmpfiles.d", 0755), 0);
	box_write(box, "etc/passwd", "www:x:33:33::/:/bin/sh\n");
	box_write(box, "etc/group", "www:x:44:\n");
	box_write(box, "usr/lib/tmpfiles.d/a.conf",
		  "# comment\n"
		  "d /run/www 2750 www www -\n"
		  "d /var/run/old 0755 - - -\n"
		  "d /var/lib/not 0755 - - -\n"
		  "d /run/../etc/no 0755 - - -\n"
		  "d /run/%u 0755 - - -\n"
		  "d /run/nobody 0755 nosuch - -\n"
		  "f+! /run/nologin 0644 - - - text\n"
		  "L /run/shm - - - - /dev/shm\n");
	box_write(box, "usr/lib/tmpfiles.d/masked.conf", "d /run/masked 0755 - - -\n");
	assert_int_equal(symlinkat("/dev/null", box->dir, "etc/tmpfiles.d/masked.conf"), 0);
	assert_int_equal(fvm_tmpfiles_collect(box->dir, &list), 0);
	assert_string_equal(list.data, "d 2750 33 44 www\nd 755 0 0 old\nL 644 0 0 shm /dev/shm\n");
}

static void lines_are_made_and_no_link_is_followed(void **state)
{
	const struct box *box = *state;
	struct stat st;
	assert_int_equal(fvm_mkdir_p(box->dir, "run", 0755), 0);
	assert_int_equal(fvm_mkdir_p(box->dir, "outside", 0755), 0);
	assert_int_equal(symlinkat("../outside", box->dir, "run/link"), 0);
	scoped_fd run = openat(box->dir, "run", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fvm_tmpfiles_apply(run,
			   "d 1777 0 0 a/b\nf 640 0 0 a/file hello\nd 755 0 0 link/escape\n"
			   "garbage\nL 644 0 0 shm /dev/shm\n",
			   same, same, NULL);
	assert_int_equal(fstatat(run, "a/b", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 01777);
	assert_int_equal(fstatat(run, "a/file", &st, 0), 0);
	assert_int_equal(st.st_size, 5);
	assert_int_equal(fstatat(box->dir, "outside/escape", &st, 0), -1);
	assert_int_equal(fstatat(run, "shm", &st, AT_SYMLINK_NOFOLLOW), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(lines_below_run_are_taken, box_setup, box_teardown),
		cmocka_unit_test_setup_teardown(lines_are_made_and_no_link_is_followed, box_setup,
						box_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
