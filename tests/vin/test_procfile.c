#include "tests/vin/carry.h"

#include <sys/mount.h>

static volatile uint64_t secret = 0x1234;

static bool reads(int fd, const char *text)
{
	char got[200] = "";
	ssize_t n = read(fd, got, strlen(text));
	return n == (ssize_t)strlen(text) && strncmp(got, text, strlen(text)) == 0;
}

static char called[16]; /* the test's program, as the kernel has it */

static void make_texts(void)
{
	char c[6];
	CHECK(prctl(PR_GET_NAME, called) == 0);
	CHECK(prctl(PR_SET_NAME, "carried") == 0);
	CHECK(open("/proc/self/comm", O_RDWR) == 3 && open("/proc/self/status", O_RDONLY) == 4);
	CHECK(read(4, c, 6) == 6 && memcmp(c, "Name:\t", 6) == 0);
	CHECK(open("/proc/thread-self/comm", O_RDONLY) == 5);
	close(5);
	CHECK(open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC) == 5);
}

static void check_texts(void)
{
	char path[64], want[64];
	ssize_t n = readlink("/proc/self/fd/4", path, sizeof(path) - 1);
	snprintf(want, sizeof(want), "/proc/%d/status", getpid());
	path[n > 0 ? n : 0] = '\0';
	CHECK(strcmp(path, want) == 0);
	CHECK(prctl(PR_SET_NAME, "follower") == 0 && reads(3, "follower\n"));
	CHECK(reads(4, called) && flags_of(3) == O_RDWR);
	CHECK(lseek(3, 0, SEEK_SET) == 0 && write(3, "renamed", 7) == 7);
	CHECK(fcntl(5, F_GETFD) == FD_CLOEXEC && pwrite(5, "500", 3, 0) == 3);
}

static void files_of_a_process_are_of_the_new_one(void **state)
{
	(void)state;
	carried(make_texts, check_texts);
}

static void make_memory(void)
{
	CHECK(open("/proc/self/mem", O_RDWR) == 3 && open("/proc/self/maps", O_RDONLY) == 4);
	secret = 0x5678;
}

static void check_memory(void)
{
	uint64_t got = 0, put = 0x9abc;
	char c;
	secret = 0xdef0;
	CHECK(pread(3, &got, 8, (off_t)(uintptr_t)&secret) == 8 && got == 0xdef0);
	CHECK(pwrite(3, &put, 8, (off_t)(uintptr_t)&secret) == 8 && secret == 0x9abc);
	CHECK(read(4, &c, 1) == 1 && c != 0);
}

static void memory_of_a_process_is_of_the_new_one(void **state)
{
	(void)state;
	carried(make_memory, check_memory);
}

static void make_directories(void)
{
	CHECK(open("/proc/self/fd", O_RDONLY | O_DIRECTORY) == 3);
	CHECK(open("/proc/self", O_PATH) >= 4);
	CHECK(open("/proc/self/task", O_RDONLY | O_DIRECTORY) == 5);
}

static void check_directories(void)
{
	char link[100];
	struct stat st;
	CHECK(readlinkat(3, "0", link, sizeof(link)) == 9 && memcmp(link, "/dev/null", 9) == 0);
	CHECK(fstatat(4, "maps", &st, 0) == 0 && fcntl(4, F_GETFL) & O_PATH);
	snprintf(link, sizeof(link), "%d", getpid());
	CHECK(fstatat(5, link, &st, 0) == 0 && S_ISDIR(st.st_mode));
}

static void directories_of_a_process_are_of_the_new_one(void **state)
{
	(void)state;
	carried(make_directories, check_directories);
}

/* What is in /proc and of no process is a file by its name. */
static void make_others(void)
{
	char c[3];
	CHECK(open("/proc/sys/kernel/ostype", O_RDONLY) == 3 && read(3, c, 3) == 3);
	CHECK(open("/proc", O_RDONLY | O_DIRECTORY) == 4);
	CHECK(open("/proc/filesystems", O_RDONLY) == 5);
	CHECK(open("/sys/kernel/mm", O_PATH) == 6);
}

static void check_others(void)
{
	struct stat st;
	CHECK(reads(3, "ux\n") && fstatat(4, "self", &st, 0) == 0 && reads(5, "nodev"));
	CHECK(fstatat(6, "transparent_hugepage", &st, 0) == 0 || errno == ENOENT);
}

static void other_files_of_proc_are_found_by_name(void **state)
{
	(void)state;
	carried(make_others, check_others);
}

/* ---- namespaces ---- */

static const char *const names[] = { "net", "uts", "ipc", "user", "mnt", "cgroup" };

static void make_namespaces(void)
{
	char path[40];
	for (int i = 0; i < (int)FVM_COUNT(names); i++) {
		snprintf(path, sizeof(path), "/proc/self/ns/%s", names[i]);
		CHECK(open(path, O_RDONLY) == 3 + i);
	}
}

static void check_namespaces(void)
{
	char path[40];
	for (int i = 0; i < (int)FVM_COUNT(names); i++) {
		struct stat a, b;
		snprintf(path, sizeof(path), "/proc/self/ns/%s", names[i]);
		CHECK(stat(path, &a) == 0 && fstat(3 + i, &b) == 0 && a.st_ino == b.st_ino);
	}
}

static void namespaces_of_the_programs_are_the_new_ones(void **state)
{
	(void)state;
	carried(make_namespaces, check_namespaces);
}

/* ---- refusals ---- */

static void make_outside(void)
{
	CHECK(open("/proc/1/comm", O_RDONLY) == 3);
}

static void make_gone(void)
{
	char path[40];
	int p[2];
	CHECK(pipe(p) == 0);
	pid_t pid = fork_below();
	if (pid == 0) {
		/* its number in this /proc, which counts as another namespace */
		ssize_t n = readlink("/proc/self", path, sizeof(path));
		_exit(n < 0 || write(p[1], path, (size_t)n) != n);
	}
	ssize_t n = read(p[0], path, 20);
	CHECK(n > 0);
	path[n] = '\0';
	char name[60];
	snprintf(name, sizeof(name), "/proc/%s/stat", path);
	int fd = open(name, O_RDONLY);
	CHECK(fd >= 0 && waitpid(pid, NULL, 0) == pid && dup2(fd, 9) == 9);
	fvm_close_range(3, 8);
}

static void make_link(void)
{
	CHECK(open("/proc/self/exe", O_PATH | O_NOFOLLOW) == 3);
}

static void make_before_exec(void)
{
	/* of another memory than one's own: a child's that has ended */
	int fd = -1;
	char path[40] = "", name[60];
	int p[2], q[2];
	CHECK(pipe(p) == 0 && pipe(q) == 0);
	pid_t pid = fork_below();
	if (pid == 0) {
		ssize_t n = readlink("/proc/self", path, sizeof(path));
		if (n < 0 || write(p[1], path, (size_t)n) != n || read(q[0], path, 1) != 1)
			_exit(1);
		fvm_close_range(3, ~0U);
		execl("/bin/sleep", "sleep", "100", NULL);
		_exit(1);
	}
	CHECK(read(p[0], path, 20) > 0);
	snprintf(name, sizeof(name), "/proc/%s/mem", path);
	fd = open(name, O_RDONLY);
	CHECK(fd >= 0 && dup2(fd, 9) == 9 && write(q[1], "x", 1) == 1);
	fvm_close_range(3, 8);
	/* until it has executed the other program */
	board->seen = (uint64_t)pid;
	char c;
	for (int i = 0; i < 30000 && pread(9, &c, 1, (off_t)(uintptr_t)&secret) > 0; i++)
		nap(1);
}

static void what_shows_nobody_of_them_is_refused(void **state)
{
	(void)state;
	refused(make_outside, "it tells of a process that is gone or outside");
	refused(make_gone, "it tells of a process that is gone or outside");
	refused(make_link, "it is a link of /proc itself");
}

/* The child is of the tree, too: numbers that the test sees it by. */
static pid_t child_of(pid_t pid)
{
	char path[60];
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	assert_int_equal(fvm_read_file(AT_FDCWD, path, 4096, &text, NULL), 0);
	return (pid_t)strtol(text, NULL, 10);
}

static void memory_of_before_an_exec_is_refused(void **state)
{
	(void)state;
	carry_make = make_before_exec;
	pid_t pids[2] = { victim(carry_victim, true) };
	pids[1] = child_of(pids[0]);
	err = (struct fvm_error){ 0 };
	assert_true(pids[1] > 0);
	assert_int_equal(carry_capture(pids, 2), -1);
	victim_kill(NULL);
	assert_non_null(strstr(err.text, "memory, which may have gone"));
}

/* ---- records that somebody made up ---- */

static int parsed(const struct vin_kind *kind, uint64_t number, const char *proc, const char *rest)
{
	scoped_buf b = { 0 };
	unsigned char its[64] = { 0 };
	vin_put_u64(&b, number);
	if (proc) {
		vin_put_string(&b, proc);
		vin_put_string(&b, rest);
	} else {
		vin_put_u64(&b, (uint64_t)atoi(rest));
	}
	struct vin_payload p = { .at = (unsigned char *)b.data,
				 .end = (unsigned char *)b.data + b.len };
	int r = kind->parse(&p, true, its);
	if (kind->forget)
		kind->forget(its);
	return r;
}

static void made_up_names_are_refused(void **state)
{
	const struct vin_kind *k = &vin_kind_procfile, *n = &vin_kind_namespace;
	(void)state;
	assert_int_equal(parsed(k, 5, "/proc", "fd"), 0);
	assert_int_equal(parsed(k, 5, "/proc", ""), 0);
	assert_int_equal(parsed(k, 0, "/proc", "fd"), -EBADMSG);
	assert_int_equal(parsed(k, 1ULL << 31, "/proc", "fd"), -EBADMSG);
	assert_int_equal(parsed(k, 5, "proc", "fd"), -EBADMSG);
	assert_int_equal(parsed(k, 5, "/proc", "/etc/passwd"), -EBADMSG);
	assert_int_equal(parsed(k, 5, "/proc", "../1/mem"), -EBADMSG);
	assert_int_equal(parsed(k, 5, "/proc", "task/.."), -EBADMSG);
	assert_int_equal(parsed(n, 5, NULL, "7"), 0);
	assert_int_equal(parsed(n, 5, NULL, "8"), -EBADMSG);
	assert_int_equal(parsed(n, 0, NULL, "1"), -EBADMSG);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		CARRY(files_of_a_process_are_of_the_new_one),
		CARRY(memory_of_a_process_is_of_the_new_one),
		CARRY(directories_of_a_process_are_of_the_new_one),
		CARRY(other_files_of_proc_are_found_by_name),
		CARRY(namespaces_of_the_programs_are_the_new_ones),
		CARRY(what_shows_nobody_of_them_is_refused),
		CARRY(memory_of_before_an_exec_is_refused),
		CARRY(made_up_names_are_refused),
	};
	return cmocka_run_group_tests(tests, carry_setup, carry_teardown);
}

int main(void)
{
	return carry_main(run);
}
