#include "tests/box.h"

#include <errno.h>
#include <string.h>

#include "fvm/doctor_fix.h"

static const struct stat root_alone = { .st_mode = S_IFCHR | 0600 };
static const struct stat of_group = { .st_mode = S_IFCHR | 0660, .st_gid = 1 };

static const char *device(const struct stat *st, int error, bool container)
{
	static char fix[400];
	fvm_fix_device("/dev/fuse", "fuse", st, error, container, fix, sizeof(fix));
	return fix;
}

static void device_that_may_not_be_opened_wants_no_module(void **state)
{
	(void)state;
	assert_string_equal(device(&root_alone, EACCES, false),
			    "only uid 0 may open it: chmod 666 /dev/fuse (until the next boot)");
	assert_non_null(strstr(device(&of_group, EACCES, false), "usermod -aG"));
	assert_non_null(strstr(device(&root_alone, EPERM, false), "DeviceAllow=/dev/fuse"));
	assert_null(strstr(device(NULL, EACCES, false), "modprobe"));
}

static void device_that_is_not_there_wants_its_module_or_the_container_to_give_it(void **state)
{
	(void)state;
	assert_string_equal(device(NULL, ENOENT, false), "modprobe fuse");
	assert_string_equal(device(&root_alone, ENXIO, false), "modprobe fuse");
	assert_string_equal(device(NULL, ENOENT, true), "docker run --device /dev/fuse");
	assert_string_equal(device(&root_alone, EPERM, true), "docker run --device /dev/fuse");
}

static void refused_user_namespace_names_the_rule_that_refuses_it(void **state)
{
	struct fvm_kernel k = { .max_user_namespaces = 0 };
	(void)state;
	assert_non_null(strstr(fvm_fix_userns(&k, ENOSPC), "sysctl -w user.max_user_namespaces="));
	k.max_user_namespaces = 100;
	assert_non_null(strstr(fvm_fix_userns(&k, ENOSPC), "user.max_user_namespaces"));
	assert_non_null(strstr(fvm_fix_userns(&k, EUSERS), "32 deep"));
	assert_non_null(strstr(fvm_fix_userns(&k, EINVAL), "CONFIG_USER_NS"));
	assert_non_null(strstr(fvm_fix_userns(&k, EPERM), "security module"));
	k.apparmor_restricts = true;
	assert_non_null(strstr(fvm_fix_userns(&k, EPERM), "contrib/apparmor"));
	k.debian_restricts = true;
	assert_non_null(strstr(fvm_fix_userns(&k, EPERM), "unprivileged_userns_clone=1"));
	k = (struct fvm_kernel){ .max_user_namespaces = 100, .container = true };
	assert_non_null(strstr(fvm_fix_userns(&k, EPERM), "docker run"));
}

static void same_finding_has_a_remedy_for_each_cause(void **state)
{
	(void)state;
	assert_string_equal(fvm_fix_of("overlay", ENODEV, true), "modprobe overlay");
	assert_non_null(strstr(fvm_fix_of("overlay", EINVAL, true), "volume"));
	assert_non_null(strstr(fvm_fix_of("overlay", EINVAL, false), "ext4"));
	assert_non_null(strstr(fvm_fix_of("nft", EPERM, true), "NET_ADMIN"));
	assert_non_null(strstr(fvm_fix_of("nft", EPROTONOSUPPORT, false), "modprobe nf_tables"));
	assert_non_null(strstr(fvm_fix_of("seccomp", EINVAL, true), "CONFIG_SECCOMP_FILTER"));
	assert_non_null(strstr(fvm_fix_of("seccomp", EPERM, true), "--security-opt"));
	assert_string_equal(fvm_fix_of("nothing", EPERM, false), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(device_that_may_not_be_opened_wants_no_module),
		cmocka_unit_test(
			device_that_is_not_there_wants_its_module_or_the_container_to_give_it),
		cmocka_unit_test(refused_user_namespace_names_the_rule_that_refuses_it),
		cmocka_unit_test(same_finding_has_a_remedy_for_each_cause),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
