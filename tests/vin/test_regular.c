#include "tests/vin/carry.h"

#include <sys/file.h>
#include <sys/sysmacros.h>

static off_t at(int fd)
{
	return lseek(fd, 0, SEEK_CUR);
}

static bool link_is(int fd, const char *name)
{
	char path[40], link[200] = "", want[200];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	snprintf(want, sizeof(want), "%s/%s", dir, name);
	return readlink(path, link, sizeof(link) - 1) > 0 && strcmp(link, want) == 0;
}

static void make_positions(void)
{
	CHECK(open("letters", O_RDONLY | O_CLOEXEC) == 3 && lseek(3, 5, SEEK_SET) == 5);
	CHECK(open("letters", O_RDWR | O_APPEND | O_NONBLOCK | O_SYNC) == 4);
	CHECK(lseek(4, 100, SEEK_SET) == 100);
	CHECK(dup2(3, 20) == 20);
	CHECK(open("letters", O_RDONLY | O_NOATIME) == 5 && lseek(5, 5, SEEK_SET) == 5);
}

static void check_positions(void)
{
	char c;
	CHECK(at(3) == 5 && at(20) == 5 && at(5) == 5 && at(4) == 100);
	CHECK(read(20, &c, 1) == 1 && c == 'f' && at(3) == 6 && at(5) == 5);
	CHECK(fcntl(3, F_GETFD) == FD_CLOEXEC && fcntl(20, F_GETFD) == 0);
	const int flags = O_ACCMODE | O_APPEND | O_NONBLOCK | O_SYNC | O_NOATIME;
	CHECK((fcntl(3, F_GETFL) & flags) == O_RDONLY);
	CHECK((fcntl(4, F_GETFL) & flags) == (O_RDWR | O_APPEND | O_NONBLOCK | O_SYNC));
	CHECK((fcntl(5, F_GETFL) & flags) == (O_RDONLY | O_NOATIME));
	CHECK(link_is(3, "letters") && fcntl(6, F_GETFD) < 0);
}

static void a_file_keeps_position_and_flags_and_who_shares_it(void **state)
{
	(void)state;
	carried(make_positions, check_positions);
	no_kcmp = true;
	carried(make_positions, check_positions);
	no_kcmp = false;
}

static void make_deleted(void)
{
	const struct timespec times[2] = { { 1000, 7 }, { 2000, 8 } };
	CHECK(open("gone", O_RDWR | O_CREAT, 0640) == 3 && fchmod(3, 0604) == 0);
	CHECK(pwrite(3, "head", 4, 0) == 4 && pwrite(3, "tail", 4, 3 << 20) == 4);
	CHECK(ftruncate(3, 5 << 20) == 0 && lseek(3, 2, SEEK_SET) == 2);
	CHECK(open("gone", O_RDONLY) == 4);
	CHECK(unlink("gone") == 0 && futimens(3, times) == 0);
}

static void check_deleted(void)
{
	char got[5] = "";
	struct stat st, other;
	CHECK(fstat(3, &st) == 0 && fstat(4, &other) == 0 && st.st_ino == other.st_ino);
	CHECK(st.st_nlink == 0 && st.st_size == 5 << 20 && (st.st_mode & 07777) == 0604);
	CHECK(st.st_uid == geteuid() && st.st_blocks * 512 < 2 << 20);
	CHECK(st.st_mtim.tv_sec == 2000 && st.st_mtim.tv_nsec == 8);
	CHECK(at(3) == 2 && at(4) == 0 && read(3, got, 2) == 2 && strcmp(got, "ad") == 0);
	CHECK(pread(4, got, 4, 3 << 20) == 4 && strcmp(got, "tail") == 0);
	CHECK(pread(4, got, 4, 4 << 20) == 4 && got[0] == 0);
	CHECK((fcntl(4, F_GETFL) & O_ACCMODE) == O_RDONLY && write(3, "new", 3) == 3);
	CHECK(pread(4, got, 3, 4) == 3 && memcmp(got, "new", 3) == 0);
	CHECK(link_is(3, "gone (deleted)") && access("gone", F_OK) < 0);
}

static void a_deleted_file_has_its_content_and_its_holes(void **state)
{
	(void)state;
	carried(make_deleted, check_deleted);
}

static void make_replaced(void)
{
	make_deleted();
	scoped_fd other = open("gone", O_WRONLY | O_CREAT, 0600);
	CHECK(other >= 0 && write(other, "other", 5) == 5);
}

static void check_replaced(void)
{
	char got[6] = "";
	CHECK(pread(3, got, 5, 0) == 5 && memcmp(got, "head", 5) == 0);
	scoped_fd other = open("gone", O_RDONLY);
	CHECK(read(other, got, 5) == 5 && strcmp(got, "other") == 0);
	unlink("gone");
}

static void a_deleted_file_is_not_the_one_that_has_its_name_now(void **state)
{
	(void)state;
	carried(make_replaced, check_replaced);
}

static void make_other_name(void)
{
	CHECK(mkdir("near", 0700) == 0 && mkdir("far", 0700) == 0);
	CHECK(open("near/first", O_RDWR | O_CREAT, 0600) == 3 && write(3, "12", 2) == 2);
	CHECK(open("near/other", O_RDWR | O_CREAT, 0600) == 4);
	CHECK(link("near/first", "far/second") == 0 && link("near/other", "near/second") == 0);
	CHECK(unlink("near/first") == 0 && unlink("near/other") == 0);
	CHECK(open("far/second", O_RDONLY) == 5);
}

static void check_other_name(void)
{
	struct stat st, other;
	char got[5] = "";
	CHECK(link_is(3, "far/second") && link_is(4, "near/second"));
	CHECK(fstat(3, &st) == 0 && stat("far/second", &other) == 0 && st.st_ino == other.st_ino);
	CHECK(write(3, "34", 2) == 2 && read(5, got, 4) == 4 && strcmp(got, "1234") == 0);
	unlink("far/second");
	unlink("near/second");
	rmdir("near");
	rmdir("far");
}

static void a_file_is_found_by_the_name_that_is_left(void **state)
{
	(void)state;
	carried(make_other_name, check_other_name);
}

static void make_no_name_left(void)
{
	CHECK(open("first", O_RDWR | O_CREAT, 0600) == 3 && link("first", "second") == 0);
	CHECK(open("second", O_RDONLY) == 4 && unlink("first") == 0 && unlink("second") == 0);
	CHECK(write(3, "12", 2) == 2);
}

static void check_no_name_left(void)
{
	struct stat st, other;
	char got[5] = "";
	CHECK(fstat(3, &st) == 0 && fstat(4, &other) == 0 && st.st_ino == other.st_ino);
	CHECK(st.st_nlink == 0 && write(3, "34", 2) == 2);
	CHECK(read(4, got, 4) == 4 && strcmp(got, "1234") == 0);
}

static void two_names_that_are_gone_are_one_file(void **state)
{
	(void)state;
	carried(make_no_name_left, check_no_name_left);
}

/* linkat(2) gave it one, which /proc does not tell. */
static void make_named_later(void)
{
	CHECK(open(".", O_TMPFILE | O_RDWR, 0600) == 3 && write(3, "12", 2) == 2);
	CHECK(linkat(AT_FDCWD, "/proc/self/fd/3", AT_FDCWD, "later", AT_SYMLINK_FOLLOW) == 0);
}

static void check_named_later(void)
{
	CHECK(link_is(3, "later") && at(3) == 2 && write(3, "3", 1) == 1);
	unlink("later");
}

static void a_temporary_file_that_has_a_name_is_found_by_it(void **state)
{
	(void)state;
	carried(make_named_later, check_named_later);
}

static void make_tmpfile(void)
{
	CHECK(open(".", O_TMPFILE | O_RDWR, 0600) == 3 && write(3, "nameless", 8) == 8);
}

static void check_tmpfile(void)
{
	CHECK(at(3) == 8);
	CHECK(linkat(AT_FDCWD, "/proc/self/fd/3", AT_FDCWD, "named", AT_SYMLINK_FOLLOW) == 0);
	struct stat st;
	CHECK(stat("named", &st) == 0 && st.st_size == 8);
	unlink("named");
}

static void a_temporary_file_can_still_get_a_name(void **state)
{
	(void)state;
	carried(make_tmpfile, check_tmpfile);
}

static void make_renamed(void)
{
	CHECK(open("before", O_WRONLY | O_CREAT, 0600) == 3 && write(3, "12", 2) == 2);
	CHECK(rename("before", "after") == 0);
}

static void check_renamed(void)
{
	CHECK(link_is(3, "after") && at(3) == 2 && write(3, "3", 1) == 1);
	unlink("after");
}

static void a_renamed_file_is_found(void **state)
{
	(void)state;
	carried(make_renamed, check_renamed);
}

static void make_odd_names(void)
{
	CHECK(mkdir("dir (deleted)", 0700) == 0 && mkdir("gone", 0700) == 0);
	CHECK(open("dir (deleted)/line\nbreak", O_WRONLY | O_CREAT, 0600) == 3);
	CHECK(open("x (deleted)", O_WRONLY | O_CREAT, 0600) == 4);
	CHECK(open("gone/file", O_WRONLY | O_CREAT, 0600) == 5 && write(5, "y", 1) == 1);
	CHECK(unlink("gone/file") == 0 && rmdir("gone") == 0);
}

static void check_odd_names(void)
{
	CHECK(link_is(3, "dir (deleted)/line\nbreak") && link_is(4, "x (deleted)"));
	struct stat st;
	CHECK(fstat(4, &st) == 0 && st.st_nlink == 1);
	CHECK(fstat(5, &st) == 0 && st.st_nlink == 0 && st.st_size == 1);
	unlink("dir (deleted)/line\nbreak");
	rmdir("dir (deleted)");
	unlink("x (deleted)");
}

static void odd_names_and_lost_directories_are_no_trouble(void **state)
{
	(void)state;
	carried(make_odd_names, check_odd_names);
}

/* ---- locks ---- */

static bool is_locked(short type, off_t start)
{
	struct flock l = { .l_type = type, .l_start = start, .l_len = 1 };
	/* whoever closes any descriptor of a file gives up his POSIX locks there */
	static int own = -1;
	if (own < 0)
		own = open("letters", O_RDWR | O_CLOEXEC);
	return fcntl(own, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
}

static void make_locks(void)
{
	struct flock posix = { .l_type = F_WRLCK, .l_start = 2, .l_len = 3 },
		     shared = { .l_type = F_RDLCK, .l_start = 10 },
		     ofd = { .l_type = F_WRLCK, .l_start = 7, .l_len = 1 };
	CHECK(open("letters", O_RDWR) == 3 && dup(3) == 4 && open("letters", O_RDWR) == 5);
	CHECK(fcntl(3, F_SETLK, &posix) == 0 && fcntl(3, F_SETLK, &shared) == 0);
	CHECK(fcntl(5, F_OFD_SETLK, &ofd) == 0);
	CHECK(open("letters", O_RDONLY) == 6 && flock(6, LOCK_EX) == 0);
}

static void check_locks(void)
{
	CHECK(!is_locked(F_RDLCK, 1) && is_locked(F_RDLCK, 2) && is_locked(F_RDLCK, 4));
	CHECK(!is_locked(F_WRLCK, 5) && is_locked(F_WRLCK, 7) && !is_locked(F_WRLCK, 8));
	CHECK(is_locked(F_WRLCK, 10) && !is_locked(F_RDLCK, 10) && is_locked(F_WRLCK, 1 << 30));
	scoped_fd own = open("letters", O_RDONLY | O_CLOEXEC);
	CHECK(flock(own, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK);
	close(6);
	CHECK(flock(own, LOCK_EX | LOCK_NB) == 0);
	/* one of the description goes with it, one of the process with any of its descriptors */
	close(5);
	CHECK(!is_locked(F_WRLCK, 7));
}

static void all_kinds_of_locks_are_held(void **state)
{
	(void)state;
	carried(make_locks, check_locks);
}

static void make_lease(void)
{
	CHECK(open("leased", O_RDWR | O_CREAT, 0600) == 3 && fcntl(3, F_SETLEASE, F_WRLCK) == 0);
	CHECK(fcntl(3, F_SETSIG, SIGUSR1) == 0);
}

static void check_lease(void)
{
	CHECK(fcntl(3, F_GETLEASE) == F_WRLCK && fcntl(3, F_GETSIG) == SIGUSR1);
	sigset_t set;
	siginfo_t info;
	const struct timespec wait = { 2, 0 };
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	CHECK(open("leased", O_RDONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK);
	CHECK(sigtimedwait(&set, &info, &wait) == SIGUSR1 && info.si_fd == 3);
	unlink("leased");
}

static void a_lease_is_held(void **state)
{
	(void)state;
	carried(make_lease, check_lease);
}

static void make_owner(void)
{
	CHECK(open("letters", O_RDONLY) == 3 && fcntl(3, F_SETOWN, getpid()) == 0);
}

/* In a namespace of its own the victim was 1: that is who follows it. */
static void check_owner(void)
{
	CHECK(fcntl(3, F_GETOWN) == getpid());
}

static void who_gets_its_signals_is_kept(void **state)
{
	(void)state;
	carried(make_owner, check_owner);
}

/* ---- directories ---- */

static void make_read_half(void)
{
	CHECK(mkdir("many", 0700) == 0);
	for (int i = 0; i < 200; i++) {
		char name[40];
		snprintf(name, sizeof(name), "many/%d", i);
		close(open(name, O_WRONLY | O_CREAT, 0600));
	}
	DIR *d = opendir("many");
	char some[2000];
	CHECK(d && dirfd(d) == 3 && syscall(SYS_getdents64, 3, some, sizeof(some)) > 0);
	CHECK(open("many", O_RDONLY | O_DIRECTORY) == 4);
	while (syscall(SYS_getdents64, 4, some, sizeof(some)) > 0)
		;
}

static int left(int fd)
{
	char some[2000];
	int count = 0;
	for (long n; (n = syscall(SYS_getdents64, fd, some, sizeof(some))) > 0;) {
		for (long i = 0; i < n; count++)
			i += *(unsigned short *)(some + i + 16);
	}
	return count;
}

static void check_read_half(void)
{
	char some[2000];
	CHECK(left(4) == 0);
	int rest = left(3);
	CHECK(lseek(3, 0, SEEK_SET) == 0);
	long n = syscall(SYS_getdents64, 3, some, sizeof(some));
	int read_before = 0;
	for (long i = 0; i < n; read_before++)
		i += *(unsigned short *)(some + i + 16);
	CHECK(rest + read_before == 202 && link_is(3, "many"));
	CHECK(fvm_remove_tree(AT_FDCWD, "many") == 0);
}

static void a_directory_is_read_on_where_it_was(void **state)
{
	(void)state;
	carried(make_read_half, check_read_half);
}

static void make_gone_directory(void)
{
	CHECK(mkdir("gone", 0700) == 0 && open("gone", O_RDONLY | O_DIRECTORY) == 3);
	CHECK(open("gone", O_RDONLY | O_DIRECTORY | O_NONBLOCK) == 4 && rmdir("gone") == 0);
}

static void check_gone_directory(void)
{
	struct stat st, other;
	CHECK(fstat(3, &st) == 0 && S_ISDIR(st.st_mode) && st.st_nlink == 0);
	CHECK(fstat(4, &other) == 0 && other.st_ino == st.st_ino);
	CHECK(openat(3, "x", O_CREAT | O_WRONLY, 0600) < 0 && errno == ENOENT);
}

static void a_deleted_directory_is_one_without_a_name(void **state)
{
	(void)state;
	carried(make_gone_directory, check_gone_directory);
}

static void make_places(void)
{
	CHECK(symlink("nowhere", "link") == 0);
	CHECK(open("letters", O_PATH) == 3 && open(".", O_PATH | O_DIRECTORY) == 4);
	CHECK(open("link", O_PATH | O_NOFOLLOW) == 5 && open("/dev/zero", O_RDONLY) == 6);
}

static void check_places(void)
{
	struct stat st;
	char c;
	CHECK(fcntl(3, F_GETFL) & O_PATH && read(3, &c, 1) < 0 && errno == EBADF);
	CHECK(faccessat(4, "letters", F_OK, 0) == 0);
	CHECK(fstat(5, &st) == 0 && S_ISLNK(st.st_mode));
	CHECK(fstat(0, &st) == 0 && st.st_rdev == makedev(1, 3));
	CHECK(read(6, &c, 1) == 1 && c == 0);
	unlink("link");
}

static void places_and_devices_of_memory_are_found(void **state)
{
	(void)state;
	carried(make_places, check_places);
}

/* ---- refusals ---- */

static void make_proc(void)
{
	CHECK(open("/proc/1/status", O_RDONLY) == 3);
}

static void what_cannot_be_found_again_is_refused(void **state)
{
	(void)state;
	refused(make_proc, "tells of a process");
}

static void no_check(void)
{
}

/* Of another type than the image says: it is not opened, and nobody waits for it. */
static void what_has_become_something_else_is_not_opened(void **state)
{
	(void)state;
	carry_make = make_renamed;
	pid_t pid = victim(carry_victim, true);
	int image = carry_capture(&pid, 1), status;
	victim_kill(NULL);
	assert_int_equal(unlink("after") | mkfifo("after", 0600), 0);
	pid = fork();
	if (pid == 0) {
		close(2);
		carry_restore(image, no_check);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 1);
	unlink("after");
	close(image);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		CARRY(a_file_keeps_position_and_flags_and_who_shares_it),
		CARRY(a_deleted_file_has_its_content_and_its_holes),
		CARRY(a_deleted_file_is_not_the_one_that_has_its_name_now),
		CARRY(a_file_is_found_by_the_name_that_is_left),
		CARRY(two_names_that_are_gone_are_one_file),
		CARRY(a_temporary_file_that_has_a_name_is_found_by_it),
		CARRY(a_temporary_file_can_still_get_a_name),
		CARRY(a_renamed_file_is_found),
		CARRY(odd_names_and_lost_directories_are_no_trouble),
		CARRY(all_kinds_of_locks_are_held),
		CARRY(a_lease_is_held),
		CARRY(who_gets_its_signals_is_kept),
		CARRY(a_directory_is_read_on_where_it_was),
		CARRY(a_deleted_directory_is_one_without_a_name),
		CARRY(places_and_devices_of_memory_are_found),
		CARRY(what_cannot_be_found_again_is_refused),
		CARRY(what_has_become_something_else_is_not_opened),
	};
	return cmocka_run_group_tests(tests, carry_setup, carry_teardown);
}

int main(void)
{
	return carry_main(run);
}
