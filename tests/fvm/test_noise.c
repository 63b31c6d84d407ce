#include "fvm/changes.h"
#include "tests/box.h"

static void noise_is_told_from_changes(void **state)
{
	static const char *const noise[] = {
		"/tmp",
		"/tmp/x",
		"/run/x/y",
		"/var/cache/apt/a",
		"/var/log",
		"/home/u/.cache/x",
		"/root/.cache",
		"/home/site/u/.cache/x",
		"/root/.bash_history",
		"/home/u/.python_history",
		"/home/u/.local/share/fish/fish_history",
		"/root/.viminfo.tmp",
		"/root/.bash_history-00123.tmp",
		"/home/u/.zcompdump-host-5.9.zwc",
		"/home/u/.local/state/python_history",
		"/var/lib/sudo/lectured/u",
		"/etc/.fvm-adopt-0123456789ab",
	};
	static const char *const changes[] = {
		"/",
		"/tmpx",
		"/etc/tmp",
		"/var/lib/x",
		"/home/u/x",
		"/home/u/.cachex",
		"/var/logs",
		"/etc/.bash_history",
		"/home/u/src/a/.cache/x",
		"/home/u/.lessfilter",
		"/home/u/.vimrc",
		"/var/lib/sudo",
		"/etc/fvm-adopt-x",
		"/root",
		"/home",
	};
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(noise); i++) {
		if (!fvm_path_is_noise(noise[i]))
			fail_msg("%s counts", noise[i]);
	}
	for (size_t i = 0; i < FVM_COUNT(changes); i++) {
		if (fvm_path_is_noise(changes[i]))
			fail_msg("%s does not count", changes[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(noise_is_told_from_changes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
