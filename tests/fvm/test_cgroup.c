/* src/fvm/cgroup*.c on drawings of hosts, and on this host where root may write its cgroups. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "fvm/cgroup.h"
#include "tests/box.h"

static const char v1_mounts[] =
	"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
	"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
	"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
	"37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer\n"
	"39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n"
	"40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
static const char v1_own[] = "6:freezer:/\n5:pids:/a\n4:memory:/user/1\n2:cpu,cpuacct:/\n";
static const char v2_line[] =
	"41 31 0:38 / /sys/fs/cgroup/unified rw shared:1 - cgroup2 cgroup2 rw\n";

static void v1_hierarchies_are_found(void **state)
{
	struct fvm_cgroup_host host;
	(void)state;
	fvm_cgroup_find(v1_mounts, v1_own, &host);
	assert_string_equal(host.v2.top, "");
	assert_string_equal(host.v1[FVM_CG_MEMORY].top, "/sys/fs/cgroup/memory");
	assert_string_equal(host.v1[FVM_CG_MEMORY].own, "/sys/fs/cgroup/memory/user/1");
	assert_string_equal(host.v1[FVM_CG_FREEZER].own, "/sys/fs/cgroup/freezer");
	assert_string_equal(host.v1[FVM_CG_CPU].top, "/sys/fs/cgroup/cpu,cpuacct");
	assert_string_equal(host.v1[FVM_CG_CPUACCT].top, "/sys/fs/cgroup/cpu,cpuacct");
	assert_string_equal(host.v1[FVM_CG_IO].top, "");
}

static void v1_only_host_uses_its_freezer(void **state)
{
	struct fvm_cgroup_host host;
	struct fvm_cgroups g;
	(void)state;
	fvm_cgroup_find(v1_mounts, v1_own, &host);
	assert_int_equal(fvm_cgroup_plan_on(&host, "ab12", false, &g), 0);
	assert_string_equal(g.name, "fvm/ab12");
	assert_string_equal(g.v2, "");
	assert_string_equal(g.v1[FVM_CG_FREEZER], "/sys/fs/cgroup/freezer/fvm/ab12");
	assert_string_equal(g.v1[FVM_CG_CPUACCT], "/sys/fs/cgroup/cpu,cpuacct/fvm/ab12");
}

static void hybrid_host_freezes_and_counts_time_in_v2(void **state)
{
	struct fvm_cgroup_host host;
	struct fvm_cgroups g;
	char mounts[2048];
	(void)state;
	snprintf(mounts, sizeof(mounts), "%s%s", v1_mounts, v2_line);
	fvm_cgroup_find(mounts, "4:memory:/\n0::/\n", &host);
	assert_string_equal(host.v2.own, "/sys/fs/cgroup/unified");
	assert_int_equal(fvm_cgroup_plan_on(&host, "ab12", false, &g), 0);
	assert_string_equal(g.v2, "/sys/fs/cgroup/unified/fvm/ab12");
	assert_string_equal(g.v1[FVM_CG_FREEZER], "");
	assert_string_equal(g.v1[FVM_CG_CPUACCT], "");
	assert_string_equal(g.v1[FVM_CG_MEMORY], "/sys/fs/cgroup/memory/fvm/ab12");
}

static void mount_below_the_hierarchys_root_is_seen_from_there(void **state)
{
	struct fvm_cgroup_host host;
	(void)state;
	fvm_cgroup_find("1 0 0:3 /docker/9 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
			"2 0 0:4 /../.. /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n",
			"3:memory:/docker/9/sub\n2:pids:/\n", &host);
	assert_string_equal(host.v1[FVM_CG_MEMORY].own, "/sys/fs/cgroup/memory/sub");
	assert_string_equal(host.v1[FVM_CG_PIDS].top, "/sys/fs/cgroup/pids");
	assert_string_equal(host.v1[FVM_CG_PIDS].own, "");
}

static void odd_lines_are_passed_over(void **state)
{
	struct fvm_cgroup_host host;
	(void)state;
	fvm_cgroup_find("\n- - - -\n1 2 3:4 / /x rw - cgroup2\n"
			"1 2 3:4 / /with\\040space rw a:1 b:2 - cgroup2 none rw",
			"0::\n::\n0:/\n", &host);
	assert_string_equal(host.v2.top, "/with space");
	fvm_cgroup_find("", "", &host);
	assert_string_equal(host.v2.top, "");
}

/* ---- a drawing of a v2 host: BOX/cg is the mount, the user's shell is in BOX/cg/u/app/term ----
 */

static void draw_group(const struct box *box, const char *path, const char *controllers,
		       const char *on)
{
	static const char *const empty[] = { "cgroup.procs", "memory.max", "memory.swap.max",
					     "pids.max", "cpu.max" };
	char name[256];
	assert_int_equal(fvm_mkdir_p(box->dir, path, 0755), 0);
	snprintf(name, sizeof(name), "%s/cgroup.controllers", path);
	box_write(box, name, controllers);
	snprintf(name, sizeof(name), "%s/cgroup.subtree_control", path);
	box_write(box, name, on);
	for (size_t i = 0; i < FVM_COUNT(empty); i++) {
		snprintf(name, sizeof(name), "%s/%s", path, empty[i]);
		box_write(box, name, "");
	}
}

static void draw_host(const struct box *box, const char *own, struct fvm_cgroup_host *host)
{
	char mounts[256];
	snprintf(mounts, sizeof(mounts), "1 0 0:3 / %s/cg rw - cgroup2 cgroup2 rw\n", box->path);
	fvm_cgroup_find(mounts, own, host);
}

static void assert_file(const struct box *box, const char *name, const char *text)
{
	scoped_free char *found = NULL;
	assert_int_equal(fvm_read_file(box->dir, name, 4096, &found, NULL), 0);
	assert_string_equal(found, text);
}

static void limits_are_written_where_v2_has_the_controllers(void **state)
{
	const struct box *box = *state;
	struct fvm_cgroup_host host;
	struct fvm_cgroups g;
	struct fvm_config config = { .memory_bytes = 8 << 20, .pids = 7, .cpu_percent = 150 };
	struct fvm_error err = { 0 };
	draw_group(box, "cg", "cpuset cpu memory pids\n", "");
	draw_group(box, "cg/fvm", "cpu memory pids\n", "");
	draw_group(box, "cg/fvm/ab", "cpu memory pids\n", "");
	draw_host(box, "0::/\n", &host);
	assert_int_equal(fvm_cgroup_plan_on(&host, "ab", false, &g), 0);
	assert_true(g.v2_has[FVM_CG_MEMORY] && g.v2_has[FVM_CG_CPU] && !g.v2_has[FVM_CG_IO]);
	assert_int_equal(fvm_cgroup_make(&g, &config, &err), 0);
	assert_file(box, "cg/fvm/ab/memory.max", "8388608");
	assert_file(box, "cg/fvm/ab/memory.swap.max", "0");
	assert_file(box, "cg/fvm/ab/pids.max", "7");
	assert_file(box, "cg/fvm/ab/cpu.max", "150000 100000");
	assert_true(g.v2_has[FVM_CG_PIDS]);
}

static void missing_controller_is_named(void **state)
{
	const struct box *box = *state;
	struct fvm_cgroup_host host;
	struct fvm_cgroups g;
	struct fvm_config config = { .pids = 7 };
	struct fvm_error err = { 0 };
	draw_group(box, "cg", "memory\n", "memory\n");
	draw_host(box, "0::/\n", &host);
	assert_int_equal(fvm_cgroup_plan_on(&host, "ab", false, &g), 0);
	assert_int_equal(fvm_cgroup_make(&g, &config, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "pids"));
	assert_true(err.hint[0]);
}

static void no_cgroups_at_all_refuse_only_limits(void **state)
{
	struct fvm_cgroup_host host = { 0 };
	struct fvm_cgroups g;
	struct fvm_config config = { 0 };
	struct fvm_error err = { 0 };
	(void)state;
	assert_int_equal(fvm_cgroup_plan_on(&host, "ab", false, &g), 0);
	assert_int_equal(fvm_cgroup_make(&g, &config, &err), 0);
	assert_int_equal(fvm_cgroup_open_v2(&g), -ENOENT);
	assert_int_equal(fvm_cgroup_join_v1(&g), 0);
	assert_int_equal(fvm_cgroup_freeze(&g, true, 10), -ENODEV);
	assert_int_equal(fvm_cgroup_kill(&g), -ENODEV);
	config.memory_bytes = 8 << 20;
	assert_int_equal(fvm_cgroup_make(&g, &config, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "memory"));
	config.memory_bytes = 4096;
	assert_int_equal(fvm_cgroup_make(&g, &config, &err), -EINVAL);
}

static void user_gets_a_place_beside_his_own_cgroup(void **state)
{
	const struct box *box = *state;
	struct fvm_cgroup_host host;
	struct fvm_cgroups g;
	char expected[256];
	draw_group(box, "cg", "memory pids\n", "memory pids\n");
	draw_group(box, "cg/u/app", "memory pids\n", "memory pids\n");
	draw_group(box, "cg/u/app/term", "memory pids\n", "");
	draw_host(box, "0::/u/app/term\n", &host);
	assert_int_equal(fvm_cgroup_plan_on(&host, "ab", true, &g), 0);
	snprintf(expected, sizeof(expected), "%s/cg/u/app/fvm/ab", box->path);
	assert_string_equal(g.v2, expected);
	assert_string_equal(g.name, "u/app/fvm/ab");
	assert_true(g.v2_has[FVM_CG_PIDS] && !g.v2_has[FVM_CG_CPU]);
}

static void user_begins_below_his_limits_where_nothing_else_keeps_him_from_them(void **state)
{
	static const char line[] = "1 0 0:3 / %s/cg rw - cgroup2 cgroup2 rw%s\n";
	const struct box *box = *state;
	const struct fvm_config config = { 0 };
	struct fvm_cgroup_host host;
	struct fvm_cgroups g;
	struct stat st, vm;
	char mounts[512];
	draw_group(box, "cg", "memory pids\n", "memory pids\n");
	draw_group(box, "cg/u/app", "memory pids\n", "memory pids\n");
	draw_group(box, "cg/u/app/fvm", "memory pids\n", "memory pids\n");
	for (int delegates = 0; delegates < 2; delegates++) {
		const char *id = delegates ? "safe" : "bare";
		snprintf(mounts, sizeof(mounts), line, box->path, delegates ? ",nsdelegate" : "");
		fvm_cgroup_find(mounts, "0::/u/app\n", &host);
		assert_int_equal(fvm_cgroup_plan_on(&host, id, true, &g), 0);
		assert_int_equal(fvm_cgroup_make(&g, &config, NULL), 0);
		scoped_fd dir = fvm_cgroup_open_v2(&g);
		assert_true(dir >= 0 && fstat(dir, &st) == 0);
		assert_int_equal(stat(g.v2, &vm), 0);
		assert_int_equal(st.st_ino == vm.st_ino, delegates);
		/* root's VMs don't own their files */
		assert_int_equal(fvm_cgroup_plan_on(&host, id, false, &g), 0);
		assert_false(g.below);
	}
}

static void user_without_delegation_gets_nothing_and_a_hint(void **state)
{
	const struct box *box = *state;
	struct fvm_cgroup_host host;
	struct fvm_cgroups g;
	struct fvm_config config = { .memory_bytes = 8 << 20 };
	struct fvm_error err = { 0 };
	/* root could write even mode 0444: leave out what the kernel always has */
	assert_int_equal(fvm_mkdir_p(box->dir, "cg/s/session-1.scope", 0755), 0);
	draw_host(box, "0::/s/session-1.scope\n", &host);
	assert_int_equal(fvm_cgroup_plan_on(&host, "ab", true, &g), 0);
	assert_string_equal(g.v2, "");
	assert_string_equal(g.name, "");
	assert_int_equal(fvm_cgroup_make(&g, &config, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.hint, "systemd-run"));
}

static void accounts_of_v2_are_read(void **state)
{
	const struct box *box = *state;
	struct fvm_cgroups g = { 0 };
	struct fvm_cgroup_stats s;
	snprintf(g.v2, sizeof(g.v2), "%s", box->path);
	assert_int_equal(fvm_cgroup_stats(&g, &s), -ENODEV);
	box_write(box, "memory.current", "4096\n");
	box_write(box, "memory.max", "max\n");
	box_write(box, "memory.stat", "anon 1\ninactive_file 77\nactive_file 5\n");
	box_write(box, "cpu.stat", "usage_usec 1500\nuser_usec 1000\n");
	box_write(box, "pids.current", "3\n");
	box_write(box, "pids.max", "100\n");
	box_write(box, "io.stat",
		  "8:0 rbytes=10 wbytes=20 rios=1 wios=2\n8:16 rbytes=1 wbytes=2\n");
	assert_int_equal(fvm_cgroup_stats(&g, &s), 0);
	assert_true(s.has_memory && s.has_cpu && s.has_pids && s.has_io);
	assert_int_equal(s.memory_bytes, 4096);
	assert_int_equal(s.memory_limit_bytes, 0);
	assert_int_equal(s.memory_cache_bytes, 77);
	assert_int_equal(s.cpu_ns, 1500000);
	assert_int_equal(s.pids_limit, 100);
	assert_int_equal(s.io_read_bytes, 11);
	assert_int_equal(s.io_write_bytes, 22);
}

static void accounts_of_v1_are_read(void **state)
{
	const struct box *box = *state;
	struct fvm_cgroups g = { 0 };
	struct fvm_cgroup_stats s;
	for (int i = 0; i < FVM_CG_COUNT; i++)
		snprintf(g.v1[i], sizeof(g.v1[i]), "%s", box->path);
	box_write(box, "memory.usage_in_bytes", "8192\n");
	box_write(box, "memory.limit_in_bytes", "9223372036854771712\n");
	box_write(box, "cpuacct.usage", "123456789\n");
	box_write(box, "pids.current", "2\n");
	box_write(box, "pids.max", "max\n");
	box_write(box, "blkio.throttle.io_service_bytes_recursive",
		  "8:0 Read 5\n8:0 Write 6\n8:0 Total 11\nTotal 11\n");
	assert_int_equal(fvm_cgroup_stats(&g, &s), 0);
	assert_int_equal(s.memory_bytes, 8192);
	assert_int_equal(s.memory_limit_bytes, 0);
	assert_int_equal(s.cpu_ns, 123456789);
	assert_int_equal(s.pids, 2);
	assert_int_equal(s.io_read_bytes, 5);
	assert_int_equal(s.io_write_bytes, 6);
}

/* ---- this host ---- */

static void host_or_skip(const char *id, struct fvm_cgroups *g)
{
	struct fvm_error err = { 0 };
	struct fvm_config config = { 0 };
	if (geteuid() != 0 || fvm_cgroup_plan(id, false, g, &err) < 0 ||
	    fvm_cgroup_make(g, &config, &err) < 0 || (!g->v2[0] && !g->v1[FVM_CG_FREEZER][0])) {
		print_message("needs root and cgroups that can be written\n");
		skip();
	}
}

static volatile unsigned long *spins; /* shared with the child */

/* A child in the VM's cgroups that counts for ever. */
static pid_t spinner_start(const struct fvm_cgroups *g)
{
	spins = mmap(NULL, sizeof(*spins), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0);
	assert_ptr_not_equal(spins, MAP_FAILED);
	pid_t pid = fork();
	if (pid == 0) {
		char path[FVM_CGROUP_PATH + 32];
		snprintf(path, sizeof(path), "%s/cgroup.procs", g->v2);
		if (g->v2[0] && fvm_write_file(AT_FDCWD, path, "0") < 0)
			_exit(1);
		if (fvm_cgroup_join_v1(g) < 0)
			_exit(1);
		kill(getppid(), SIGUSR1);
		for (;; ++*spins)
			usleep(1000);
	}
	return pid;
}

static void vm_is_frozen_thawed_killed_and_removed(void **state)
{
	struct fvm_cgroups g, again;
	sigset_t set;
	(void)state;
	host_or_skip("testlimits01", &g);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	pid_t pid = spinner_start(&g);
	siginfo_t info;
	assert_int_equal(sigtimedwait(&set, &info, &(struct timespec){ .tv_sec = 5 }), SIGUSR1);

	assert_int_equal(fvm_cgroup_named(g.name, &again), 0);
	scoped_free pid_t *pids = NULL;
	size_t count = 0;
	assert_int_equal(fvm_cgroup_pids(&again, &pids, &count), 0);
	assert_int_equal(count, 1);
	assert_int_equal(pids[0], pid);
	struct fvm_cgroup_stats s;
	assert_int_equal(fvm_cgroup_stats(&again, &s), 0);

	assert_int_equal(fvm_cgroup_remove(&again, 0), -EBUSY);
	assert_int_equal(fvm_cgroup_freeze(&again, true, 2000), 0);
	unsigned long then = *spins;
	usleep(20000);
	assert_int_equal(*spins, then);
	assert_int_equal(fvm_cgroup_kill(&again), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(fvm_cgroup_remove(&again, 2000), 0);
	assert_int_equal(fvm_cgroup_freeze(&again, true, 10), -ENODEV);
}

static void starts_at_once_do_not_trip_over_each_other(void **state)
{
	struct fvm_cgroups g;
	(void)state;
	host_or_skip("testlimits02", &g);
	assert_int_equal(fvm_cgroup_remove(&g, 1000), 0);
	for (int i = 0; i < 4; i++) {
		if (fork() != 0)
			continue;
		for (int round = 0; round < 300; round++) {
			char id[32];
			struct fvm_config config = { 0 };
			struct fvm_error err = { 0 };
			snprintf(id, sizeof(id), "testlimits1%d", i);
			if (fvm_cgroup_plan(id, false, &g, &err) < 0 ||
			    fvm_cgroup_make(&g, &config, &err) < 0 ||
			    (!g.v2[0] && !g.v1[FVM_CG_FREEZER][0]) || fvm_cgroup_remove(&g, 0) < 0)
				_exit(1);
		}
		_exit(0);
	}
	for (int i = 0; i < 4; i++) {
		int status;
		assert_true(wait(&status) > 0);
		assert_int_equal(status, 0);
	}
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, box_setup, box_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(v1_hierarchies_are_found),
		CASE(v1_only_host_uses_its_freezer),
		CASE(hybrid_host_freezes_and_counts_time_in_v2),
		CASE(mount_below_the_hierarchys_root_is_seen_from_there),
		CASE(odd_lines_are_passed_over),
		CASE(limits_are_written_where_v2_has_the_controllers),
		CASE(missing_controller_is_named),
		CASE(no_cgroups_at_all_refuse_only_limits),
		CASE(user_gets_a_place_beside_his_own_cgroup),
		CASE(user_begins_below_his_limits_where_nothing_else_keeps_him_from_them),
		CASE(user_without_delegation_gets_nothing_and_a_hint),
		CASE(accounts_of_v2_are_read),
		CASE(accounts_of_v1_are_read),
		CASE(vm_is_frozen_thawed_killed_and_removed),
		CASE(starts_at_once_do_not_trip_over_each_other),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
