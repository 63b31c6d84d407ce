#include <errno.h>
#include <sys/mount.h>

#include "fvm/plan.h"
#include "tests/box.h"

static const struct fvm_mount *find(const struct fvm_plan *p, const char *path)
{
	for (size_t i = 0; i < p->count; i++) {
		if (strcmp(p->mounts[i].path, path) == 0)
			return &p->mounts[i];
	}
	return NULL;
}

static void mounts_are_put_into_classes(void **state)
{
	scoped_plan p = { 0 };
	const char *text =
		"20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
		"21 20 0:5 / /proc rw,nosuid - proc proc rw\n"
		"22 20 8:2 / /home rw,nosuid,nodev - xfs /dev/sdb rw\n"
		"23 20 7:0 / /snap/core/1 ro,nodev - squashfs /dev/loop0 ro\n"
		"24 20 0:30 / /mnt/nas rw - nfs4 server:/x rw\n"
		"25 20 0:31 / /misc rw - autofs systemd-1 rw\n"
		"26 20 0:32 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw\n"
		"27 20 0:33 / /run rw - tmpfs tmpfs rw\n"
		"28 27 0:34 / /run/user/1000 rw - tmpfs tmpfs rw\n"
		"29 20 8:3 / /mnt/my\\040disk ro - ext4 /dev/sdc rw\n";
	(void)state;
	assert_int_equal(fvm_plan_parse(text, &p, NULL), 0);
	assert_string_equal(p.mounts[0].path, "/");
	assert_int_equal(find(&p, "/")->class, FVM_MOUNT_OVERLAY);
	assert_int_equal(find(&p, "/proc")->class, FVM_MOUNT_FRESH);
	assert_int_equal(find(&p, "/home")->class, FVM_MOUNT_OVERLAY);
	assert_int_equal(find(&p, "/home")->flags, MS_NOSUID | MS_NODEV);
	assert_int_equal(find(&p, "/snap/core/1")->class, FVM_MOUNT_READ_ONLY);
	assert_true(find(&p, "/mnt/nas")->network);
	assert_int_equal(find(&p, "/misc")->class, FVM_MOUNT_LEFT_OUT);
	assert_non_null(find(&p, "/misc")->why);
	assert_int_equal(find(&p, "/var/lib/docker/overlay2/x/merged")->class, FVM_MOUNT_LEFT_OUT);
	assert_int_equal(find(&p, "/run/user/1000")->class, FVM_MOUNT_FRESH);
	assert_int_equal(find(&p, "/mnt/my disk")->class, FVM_MOUNT_READ_ONLY);
}

static void covered_mounts_are_left_aside(void **state)
{
	scoped_plan p = { 0 };
	const char *text = "20 1 8:1 / / rw - ext4 a rw\n"
			   "21 20 8:2 / /a/b rw - ext4 below rw\n"
			   "22 20 8:3 / /a rw - ext4 over rw\n"
			   "23 20 8:4 / /c rw - ext4 first rw\n"
			   "24 23 8:5 / /c rw - xfs second rw\n"
			   "25 23 8:6 / /c/d rw - ext4 hidden rw\n";
	(void)state;
	assert_int_equal(fvm_plan_parse(text, &p, NULL), 0);
	assert_null(find(&p, "/a/b"));
	assert_non_null(find(&p, "/a"));
	assert_string_equal(find(&p, "/c")->fstype, "xfs");
	assert_null(find(&p, "/c/d"));
}

static void root_is_there_even_where_it_is_no_mount_point(void **state)
{
	scoped_plan p = { 0 };
	(void)state;
	assert_int_equal(fvm_plan_parse("21 20 8:2 / /home rw - ext4 x rw\n", &p, NULL), 0);
	assert_string_equal(p.mounts[0].path, "/");
	assert_int_equal(p.count, 2);
}

static void garbage_is_refused(void **state)
{
	static const char *const bad[] = { "x\n", "1 2 3 4 5\n", "1 2 3 / / rw ext4\n",
					   "1 2 3 / rel rw - ext4 a rw\n", "1 2 3 / / rw - \n" };
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(bad); i++) {
		scoped_plan p = { 0 };
		assert_int_equal(fvm_plan_parse(bad[i], &p, NULL), -EBADMSG);
	}
}

static void of_a_users_fuse_only_his_home_stays(void **state)
{
	static const char *const text = "1 0 8:1 / / rw - ext4 a rw\n"
					"2 1 0:9 / /home/ann rw - fuse.gocryptfs c rw\n"
					"3 1 0:8 / /home/bob rw - fuse.gocryptfs c rw\n";
	scoped_plan p = { 0 };
	(void)state;
	assert_int_equal(fvm_plan_parse(text, &p, NULL), 0);
	fvm_plan_want_home(&p, "/home/ann/sub");
	assert_int_equal(p.count, 3);
	assert_int_equal(p.mounts[1].class, FVM_MOUNT_OVERLAY);
	assert_null(p.mounts[1].why);
	assert_int_equal(p.mounts[2].class, FVM_MOUNT_LEFT_OUT);
}

static void this_host_has_a_plan(void **state)
{
	scoped_plan p = { 0 };
	struct fvm_error err = { 0 };
	(void)state;
	assert_int_equal(fvm_plan_make(&p, &err), 0);
	assert_true(p.count > 0);
}

static void below_means_whole_components(void **state)
{
	(void)state;
	assert_true(fvm_path_below("/a/b", "/a"));
	assert_true(fvm_path_below("/a", "/a"));
	assert_true(fvm_path_below("/a", "/"));
	assert_false(fvm_path_below("/ab", "/a"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mounts_are_put_into_classes),
		cmocka_unit_test(covered_mounts_are_left_aside),
		cmocka_unit_test(root_is_there_even_where_it_is_no_mount_point),
		cmocka_unit_test(garbage_is_refused),
		cmocka_unit_test(of_a_users_fuse_only_his_home_stays),
		cmocka_unit_test(this_host_has_a_plan),
		cmocka_unit_test(below_means_whole_components),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
