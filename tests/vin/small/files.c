/* Open files, as open(2), lseek(2), dup(2), fcntl(2), flock(2), unlink(2), rename(2), getdents(2),
 * pipe(2), pipe(7), fifo(7), splice(2) and tee(2) have them. */
#include <dirent.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include "small.h"

static int fd = -1, other = -1, ends[2];
static int helper; /* a child */
static struct stat before;

static off_t position(int of)
{
	return lseek(of, 0, SEEK_CUR);
}

static int flags_of(int of)
{
	return fcntl(of, F_GETFL) & ~0100000; /* O_LARGEFILE */
}

static bool reads(int from, const char *text)
{
	char got[256] = "";
	const ssize_t len = (ssize_t)strlen(text);
	return len < (ssize_t)sizeof(got) && read(from, got, (size_t)len) == len &&
	       memcmp(got, text, (size_t)len) == 0;
}

/* The whole content of an open file is @text, its position stays. */
static bool holds(int of, const char *text)
{
	char got[256];
	const ssize_t len = pread(of, got, sizeof(got), 0);
	return len == (ssize_t)strlen(text) && memcmp(got, text, (size_t)len) == 0;
}

/* ---- open(2) ---- */

static void position_make(void)
{
	fd = small_file("letters", "abcdefgh", O_RDWR);
	CHECK(lseek(fd, 3, SEEK_SET) == 3);
}

static void position_check(void)
{
	CHECK(position(fd) == 3 && flags_of(fd) == O_RDWR && reads(fd, "de") && position(fd) == 5);
	CHECK(lseek(fd, -2, SEEK_CUR) == 3);
}

static void read_only_make(void)
{
	fd = small_file("letters", "abc", O_RDONLY);
}

static void read_only_check(void)
{
	CHECK(flags_of(fd) == O_RDONLY && write(fd, "x", 1) < 0 && errno == EBADF);
	CHECK(ftruncate(fd, 0) < 0 && errno == EINVAL && holds(fd, "abc"));
}

static void write_only_make(void)
{
	fd = small_file("letters", "abc", O_WRONLY);
}

static void write_only_check(void)
{
	char c;
	CHECK(flags_of(fd) == O_WRONLY && read(fd, &c, 1) < 0 && errno == EBADF);
	CHECK(pwrite(fd, "abc", 3, 0) == 3 && position(fd) == 0);
}

static void append_make(void)
{
	fd = small_file("log", "1", O_WRONLY | O_APPEND);
	other = open("log", O_RDONLY);
}

static void append_check(void)
{
	struct stat st;
	CHECK(fstat(fd, &before) == 0 && lseek(fd, 0, SEEK_SET) == 0 && write(fd, "x", 1) == 1);
	CHECK(fstat(fd, &st) == 0 && st.st_size == before.st_size + 1 &&
	      position(fd) == st.st_size);
	CHECK(flags_of(fd) == (O_WRONLY | O_APPEND));
}

static void cloexec_make(void)
{
	fd = small_file("letters", "abc", O_RDONLY | O_CLOEXEC);
	other = dup(fd);
}

static void cloexec_check(void)
{
	CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC && fcntl(other, F_GETFD) == 0);
}

static void path_make(void)
{
	CHECK(close(small_file("letters", "abc", O_RDONLY)) == 0);
	fd = open("letters", O_PATH);
	other = open(".", O_PATH | O_DIRECTORY);
	CHECK(fd >= 0 && other >= 0 && fstat(fd, &before) == 0);
}

static void path_check(void)
{
	char c;
	struct stat st;
	CHECK(read(fd, &c, 1) < 0 && errno == EBADF && flags_of(fd) == O_PATH);
	CHECK(fstat(fd, &st) == 0 && st.st_size == 3 && S_ISREG(st.st_mode));
	CHECK(fstatat(other, "letters", &st, 0) == 0 && st.st_size == 3);
}

static void symlink_path_make(void)
{
	CHECK(symlink("nowhere", "link") == 0);
	fd = open("link", O_PATH | O_NOFOLLOW);
	CHECK(fd >= 0);
}

static void symlink_path_check(void)
{
	char text[16];
	struct stat st;
	CHECK(fstat(fd, &st) == 0 && S_ISLNK(st.st_mode));
	CHECK(readlinkat(fd, "", text, sizeof(text)) == 7 && memcmp(text, "nowhere", 7) == 0);
}

static void sync_flags_make(void)
{
	fd = small_file("letters", "abc", O_RDWR | O_DSYNC | O_NOATIME | O_NONBLOCK);
	other = open("letters", O_WRONLY | O_SYNC);
	CHECK(other >= 0);
}

static void sync_flags_check(void)
{
	CHECK(flags_of(fd) == (O_RDWR | O_DSYNC | O_NOATIME | O_NONBLOCK));
	CHECK(flags_of(other) == (O_WRONLY | O_SYNC));
}

static void direct_make(void)
{
	CHECK(close(small_file("blocks", "", O_RDONLY)) == 0 && truncate("blocks", 8192) == 0);
	fd = open("blocks", O_RDWR | O_DIRECT);
	if (fd < 0)
		small_skip("this file system has no O_DIRECT");
}

static void direct_check(void)
{
	CHECK(flags_of(fd) == (O_RDWR | O_DIRECT));
	CHECK(fcntl(fd, F_SETFL, 0) == 0 && flags_of(fd) == O_RDWR);
	CHECK(fcntl(fd, F_SETFL, O_DIRECT) == 0);
}

static void tmpfile_make(void)
{
	fd = open(".", O_TMPFILE | O_RDWR, 0640);
	if (fd < 0)
		small_skip("this file system has no O_TMPFILE");
	CHECK(write(fd, "nameless", 8) == 8 && lseek(fd, 3, SEEK_SET) == 3);
}

/* It is captured more than once before it gets its name. */
static void tmpfile_check(void)
{
	static int turns;
	char path[40];
	struct stat st;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	CHECK(holds(fd, "nameless") && position(fd) == 3 && fstat(fd, &st) == 0);
	CHECK(st.st_nlink == 0 && (st.st_mode & 07777) == 0640);
	CHECK(flags_of(fd) == (O_RDWR | O_TMPFILE));
	if (++turns % 3)
		return;
	CHECK(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) == 0);
	other = open("named", O_RDONLY);
	CHECK(other >= 0 && holds(other, "nameless") && close(other) == 0 && close(fd) == 0);
	CHECK(unlink("named") == 0);
	tmpfile_make();
}

static void tmpfile_append_make(void)
{
	fd = open(".", O_TMPFILE | O_WRONLY | O_APPEND, 0600);
	if (fd < 0)
		small_skip("this file system has no O_TMPFILE");
	CHECK(write(fd, "one", 3) == 3);
	char path[40];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	other = open(path, O_RDONLY);
	CHECK(other >= 0 && lseek(other, 1, SEEK_SET) == 1);
}

static void tmpfile_append_check(void)
{
	CHECK(flags_of(fd) == (O_WRONLY | O_APPEND | O_TMPFILE) && flags_of(other) == O_RDONLY);
	CHECK(holds(other, "one") && position(other) == 1);
	CHECK(lseek(fd, 0, SEEK_SET) == 0 && write(fd, "two", 3) == 3 && position(fd) == 6);
	CHECK(holds(other, "onetwo") && ftruncate(fd, 3) == 0);
}

static void tmpfile_excl_make(void)
{
	fd = open(".", O_TMPFILE | O_EXCL | O_RDWR, 0600);
	if (fd < 0)
		small_skip("this file system has no O_TMPFILE");
	CHECK(write(fd, "secret", 6) == 6);
}

static void tmpfile_excl_check(void)
{
	struct stat st;
	CHECK(holds(fd, "secret") && flags_of(fd) == (O_RDWR | O_TMPFILE));
	CHECK(fstat(fd, &st) == 0 && st.st_nlink == 0 && (st.st_mode & 07777) == 0600);
}

/* ---- lseek(2), dup(2) ---- */

static void holes_make(void)
{
	fd = open(".", O_TMPFILE | O_RDWR, 0600);
	if (fd < 0)
		small_skip("this file system has no O_TMPFILE");
	CHECK(ftruncate(fd, 1 << 20) == 0 && pwrite(fd, "x", 1, 512 << 10) == 1);
}

static void holes_check(void)
{
	struct stat st;
	CHECK(lseek(fd, 0, SEEK_DATA) == 512 << 10 && fstat(fd, &st) == 0);
	CHECK(lseek(fd, 0, SEEK_HOLE) == 0 && lseek(fd, 0, SEEK_END) == 1 << 20);
	CHECK(st.st_blocks * 512 < 256 << 10);
}

static void beyond_make(void)
{
	fd = small_file("letters", "abc", O_RDWR);
	CHECK(lseek(fd, 1 << 30, SEEK_SET) == 1 << 30);
}

static void beyond_check(void)
{
	char c;
	CHECK(position(fd) == 1 << 30 && read(fd, &c, 1) == 0 && holds(fd, "abc"));
}

static void dup_make(void)
{
	fd = small_file("letters", "abcdefgh", O_RDONLY);
	other = fcntl(fd, F_DUPFD_CLOEXEC, 100);
	CHECK(other == 100 && dup2(fd, 50) == 50);
}

static void dup_check(void)
{
	CHECK(lseek(fd, 2, SEEK_SET) == 2 && position(other) == 2 && position(50) == 2);
	CHECK(reads(other, "cd") && position(fd) == 4);
	CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0 && (flags_of(50) & O_NONBLOCK));
	CHECK(fcntl(fd, F_SETFL, 0) == 0 && fcntl(other, F_GETFD) == FD_CLOEXEC);
}

static void twice_make(void)
{
	fd = small_file("letters", "abcdefgh", O_RDONLY);
	other = open("letters", O_RDONLY);
	CHECK(lseek(fd, 2, SEEK_SET) == 2 && lseek(other, 5, SEEK_SET) == 5);
}

static void twice_check(void)
{
	CHECK(position(fd) == 2 && position(other) == 5 && reads(fd, "c") && position(other) == 5);
	CHECK(lseek(fd, 2, SEEK_SET) == 2);
}

static void high_make(void)
{
	fd = small_file("letters", "abc", O_RDONLY);
	CHECK(dup2(fd, 1000) == 1000 && close(fd) == 0);
}

static void high_check(void)
{
	CHECK(position(1000) == 0 && fcntl(fd, F_GETFD) < 0 && errno == EBADF);
	fd = open("letters", O_RDONLY);
	CHECK(fd == 3 && close(fd) == 0);
}

static void with_child_make(void)
{
	fd = small_file("letters", "abcdefgh", O_RDONLY);
	CHECK(pipe(ends) == 0);
	helper = fork();
	if (helper == 0) {
		char c;
		while (read(ends[0], &c, 1) == 1)
			CHECK(lseek(fd, 1, SEEK_CUR) > 0);
		_exit(0);
	}
}

static void with_child_check(void)
{
	CHECK(lseek(fd, 3, SEEK_SET) == 3 && write(ends[1], "x", 1) == 1);
	for (int i = 0; i < 30000 && position(fd) != 4; i++)
		small_nap(1);
	CHECK(position(fd) == 4);
}

/* ---- fcntl(2) ---- */

static void owner_make(void)
{
	CHECK(pipe(ends) == 0 && fcntl(ends[0], F_SETOWN, getpid()) == 0);
	CHECK(fcntl(ends[1], F_SETOWN, -getpgrp()) == 0 &&
	      fcntl(ends[0], F_SETSIG, SIGRTMIN + 2) == 0);
}

static void owner_check(void)
{
	CHECK(fcntl(ends[0], F_GETOWN) == getpid() && fcntl(ends[1], F_GETOWN) == -getpgrp());
	CHECK(fcntl(ends[0], F_GETSIG) == SIGRTMIN + 2 && fcntl(ends[1], F_GETSIG) == 0);
}

static void owner_thread_make(void)
{
	struct f_owner_ex o = { F_OWNER_TID, (pid_t)syscall(SYS_gettid) };
	CHECK(pipe(ends) == 0 && fcntl(ends[0], F_SETOWN_EX, &o) == 0);
}

static void owner_thread_check(void)
{
	struct f_owner_ex o = { 0 };
	CHECK(fcntl(ends[0], F_GETOWN_EX, &o) == 0);
	CHECK(o.type == F_OWNER_TID && o.pid == (pid_t)syscall(SYS_gettid));
}

static void async_make(void)
{
	sigset_t io;
	sigemptyset(&io);
	sigaddset(&io, SIGRTMIN);
	CHECK(sigprocmask(SIG_BLOCK, &io, NULL) == 0 && pipe(ends) == 0);
	CHECK(fcntl(ends[0], F_SETOWN, getpid()) == 0 && fcntl(ends[0], F_SETSIG, SIGRTMIN) == 0);
	CHECK(fcntl(ends[0], F_SETFL, O_ASYNC | O_NONBLOCK) == 0);
}

static void async_check(void)
{
	sigset_t io;
	siginfo_t info = { 0 };
	const struct timespec limit = { 30, 0 };
	char c;
	sigemptyset(&io);
	sigaddset(&io, SIGRTMIN);
	CHECK((fcntl(ends[0], F_GETFL) & O_ASYNC) && write(ends[1], "x", 1) == 1);
	CHECK(sigtimedwait(&io, &info, &limit) == SIGRTMIN);
	CHECK(info.si_fd == ends[0] && info.si_code == POLL_IN && (info.si_band & POLLIN));
	CHECK(read(ends[0], &c, 1) == 1);
}

static void pipe_size_make(void)
{
	CHECK(pipe2(ends, O_NONBLOCK) == 0 && fcntl(ends[1], F_SETPIPE_SZ, 16384) == 16384);
}

static void pipe_size_check(void)
{
	static char bytes[32768];
	CHECK(fcntl(ends[0], F_GETPIPE_SZ) == 16384);
	CHECK(write(ends[1], bytes, sizeof(bytes)) == 16384 && write(ends[1], "x", 1) < 0);
	CHECK(errno == EAGAIN && read(ends[0], bytes, sizeof(bytes)) == 16384);
}

static struct flock lock_of(short type, off_t from, off_t len)
{
	return (struct flock){
		.l_type = type, .l_whence = SEEK_SET, .l_start = from, .l_len = len
	};
}

/* What another process is told of a lock that it would like to have. */
static bool child_finds(int cmd, off_t at, short type, pid_t owner)
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		struct flock l = lock_of(F_WRLCK, at, 1);
		int own = open("locked", O_RDWR);
		_exit(own < 0 || fcntl(own, cmd, &l) < 0 || l.l_type != type ||
		      (type != F_UNLCK && l.l_pid != owner));
	}
	return waitpid(pid, &status, 0) == pid && status == 0;
}

static void posix_lock_make(void)
{
	struct flock w = lock_of(F_WRLCK, 10, 5), r = lock_of(F_RDLCK, 20, 0);
	fd = small_file("locked", "", O_RDWR);
	CHECK(fcntl(fd, F_SETLK, &w) == 0 && fcntl(fd, F_SETLK, &r) == 0);
}

static void posix_lock_check(void)
{
	CHECK(child_finds(F_GETLK, 10, F_WRLCK, getpid()));
	CHECK(child_finds(F_GETLK, 14, F_WRLCK, getpid()));
	CHECK(child_finds(F_GETLK, 15, F_UNLCK, 0));
	CHECK(child_finds(F_GETLK, 1000, F_RDLCK, getpid()));
}

static void ofd_lock_make(void)
{
	struct flock w = lock_of(F_WRLCK, 0, 10);
	fd = small_file("locked", "", O_RDWR);
	other = open("locked", O_RDWR);
	CHECK(other >= 0 && fcntl(fd, F_OFD_SETLK, &w) == 0);
}

static void ofd_lock_check(void)
{
	struct flock l = lock_of(F_WRLCK, 5, 1);
	CHECK(fcntl(other, F_OFD_SETLK, &l) < 0 && errno == EAGAIN);
	l = lock_of(F_RDLCK, 5, 1);
	CHECK(fcntl(other, F_OFD_GETLK, &l) == 0 && l.l_type == F_WRLCK && l.l_pid == -1);
	l = lock_of(F_WRLCK, 10, 1);
	CHECK(fcntl(other, F_OFD_GETLK, &l) == 0 && l.l_type == F_UNLCK);
}

static void flock_make(void)
{
	fd = small_file("locked", "", O_RDWR);
	other = open("locked", O_RDWR);
	CHECK(other >= 0 && flock(fd, LOCK_EX) == 0);
}

static void flock_check(void)
{
	const int twin = dup(fd);
	CHECK(flock(other, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK);
	/* by a duplicate it is released for all */
	CHECK(flock(twin, LOCK_UN) == 0 && flock(other, LOCK_SH | LOCK_NB) == 0);
	CHECK(flock(other, LOCK_UN) == 0 && flock(fd, LOCK_EX) == 0 && close(twin) == 0);
}

static void flock_shared_make(void)
{
	fd = small_file("locked", "", O_RDWR);
	other = open("locked", O_RDWR);
	CHECK(other >= 0 && flock(fd, LOCK_SH) == 0 && flock(other, LOCK_SH) == 0);
}

static void flock_shared_check(void)
{
	const int third = open("locked", O_RDWR);
	CHECK(third >= 0 && flock(third, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK);
	CHECK(flock(third, LOCK_SH | LOCK_NB) == 0 && close(third) == 0);
	CHECK(flock(fd, LOCK_EX | LOCK_NB) < 0);
	CHECK(flock(fd, LOCK_SH) == 0);
}

static void lease_make(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	fd = small_file("leased", "abc", O_RDONLY);
	if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
		small_skip("this file system has no leases");
}

static void lease_check(void)
{
	sigset_t set;
	siginfo_t info;
	const struct timespec limit = { 30, 0 };
	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	CHECK(fcntl(fd, F_GETLEASE) == F_RDLCK);
	pid_t pid = fork();
	if (pid == 0)
		_exit(open("leased", O_WRONLY) < 0);
	/* its breaking is told, and it waits until the lease is gone */
	CHECK(sigtimedwait(&set, &info, &limit) == SIGIO);
	CHECK(fcntl(fd, F_GETLEASE) == F_UNLCK && fcntl(fd, F_SETLEASE, F_UNLCK) == 0);
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHECK(fcntl(fd, F_SETLEASE, F_RDLCK) == 0);
}

/* ---- names ---- */

static void unlinked_make(void)
{
	fd = small_file("gone", "still here", O_RDWR);
	other = open("gone", O_RDONLY);
	CHECK(unlink("gone") == 0 && lseek(other, 6, SEEK_SET) == 6);
}

static void unlinked_check(void)
{
	struct stat st, twin;
	CHECK(holds(fd, "still here") && fstat(fd, &st) == 0 && st.st_nlink == 0);
	CHECK(fstat(other, &twin) == 0 && twin.st_ino == st.st_ino && reads(other, "here"));
	CHECK(lseek(other, 6, SEEK_SET) == 6 && access("gone", F_OK) < 0);
	CHECK(pwrite(fd, "S", 1, 0) == 1 && holds(other, "Still here") &&
	      pwrite(fd, "s", 1, 0) == 1);
}

static void linked_make(void)
{
	fd = small_file("one", "still here", O_RDWR);
	CHECK(mkdir("dir", 0755) == 0 && link("one", "dir/two") == 0 && unlink("one") == 0);
}

static void linked_check(void)
{
	struct stat st;
	CHECK(fstat(fd, &st) == 0 && st.st_nlink == 1 && pwrite(fd, "S", 1, 0) == 1);
	other = open("dir/two", O_RDONLY);
	CHECK(other >= 0 && holds(other, "Still here") && close(other) == 0);
	CHECK(pwrite(fd, "s", 1, 0) == 1 && access("one", F_OK) < 0);
}

static void replaced_make(void)
{
	fd = small_file("name", "old", O_RDWR);
	CHECK(close(small_file("new", "new", O_RDONLY)) == 0 && rename("new", "name") == 0);
}

static void replaced_check(void)
{
	CHECK(holds(fd, "old"));
	other = open("name", O_RDONLY);
	CHECK(other >= 0 && holds(other, "new") && close(other) == 0);
}

static void renamed_make(void)
{
	fd = small_file("before", "text", O_RDWR);
	CHECK(mkdir("below", 0755) == 0 && rename("before", "below/after") == 0);
}

static void renamed_check(void)
{
	struct stat st, named;
	CHECK(holds(fd, "text") && fstat(fd, &st) == 0 && stat("below/after", &named) == 0);
	CHECK(st.st_ino == named.st_ino && st.st_dev == named.st_dev);
}

static void hard_links_make(void)
{
	fd = small_file("one", "text", O_RDWR);
	CHECK(link("one", "two") == 0);
}

static void hard_links_check(void)
{
	struct stat st, named;
	CHECK(fstat(fd, &st) == 0 && st.st_nlink == 2 && stat("two", &named) == 0);
	CHECK(st.st_ino == named.st_ino && holds(fd, "text"));
}

static void directory_make(void)
{
	char name[8];
	CHECK(mkdir("many", 0755) == 0);
	for (int i = 0; i < 40; i++) {
		snprintf(name, sizeof(name), "many/%02d", i);
		fd = open(name, O_WRONLY | O_CREAT, 0600);
		CHECK(fd >= 0 && close(fd) == 0);
	}
	fd = open("many", O_RDONLY | O_DIRECTORY);
	CHECK(fd >= 0);
}

/* Names below 64, as bits. */
static uint64_t read_some(size_t room)
{
	char bytes[4096];
	uint64_t seen = 0;
	const long len = syscall(SYS_getdents64, fd, bytes, room);
	CHECK(len >= 0);
	for (long at = 0; at < len; at += ((struct dirent64 *)(bytes + at))->d_reclen) {
		const char *name = ((struct dirent64 *)(bytes + at))->d_name;
		if (*name == '.')
			continue;
		const uint64_t bit = 1ULL << strtoul(name, NULL, 10);
		CHECK(!(seen & bit));
		seen |= bit;
	}
	return seen;
}

static uint64_t seen_names;

static void mid_read_make(void)
{
	directory_make();
	seen_names = read_some(400);
	CHECK(seen_names != 0 && seen_names != (1ULL << 40) - 1);
}

static void mid_read_check(void)
{
	uint64_t more;
	do {
		more = read_some(400);
		CHECK((more & seen_names) == 0);
		seen_names |= more;
	} while (more);
	CHECK(seen_names == (1ULL << 40) - 1);
	CHECK(lseek(fd, 0, SEEK_SET) == 0);
	seen_names = read_some(400);
}

static void times_make(void)
{
	const struct timespec times[2] = { { 1000000000, 123456789 }, { 1100000000, 987654321 } };
	fd = open(".", O_TMPFILE | O_RDWR, 0604);
	if (fd < 0)
		small_skip("this file system has no O_TMPFILE");
	CHECK(futimens(fd, times) == 0);
}

static void times_check(void)
{
	struct stat st;
	CHECK(fstat(fd, &st) == 0 && (st.st_mode & 07777) == 0604);
	CHECK(st.st_mtim.tv_sec == 1100000000 && st.st_mtim.tv_nsec == 987654321);
	CHECK(st.st_atim.tv_sec == 1000000000 && st.st_atim.tv_nsec == 123456789);
}

/* ---- pipe(7), fifo(7) ---- */

static void pipe_data_make(void)
{
	CHECK(pipe(ends) == 0 && write(ends[1], "queued", 6) == 6);
}

static void pipe_data_check(void)
{
	int waiting = 0;
	CHECK(ioctl(ends[0], FIONREAD, &waiting) == 0 && waiting == 6 && reads(ends[0], "queued"));
	CHECK(!small_readable(ends[0]) && write(ends[1], "queued", 6) == 6);
}

static void pipe_full_make(void)
{
	static char bytes[65536];
	CHECK(pipe2(ends, O_NONBLOCK) == 0);
	memset(bytes, 'f', sizeof(bytes));
	CHECK(write(ends[1], bytes, sizeof(bytes)) == 65536);
}

static void pipe_full_check(void)
{
	char bytes[4096];
	CHECK(write(ends[1], "x", 1) < 0 && errno == EAGAIN);
	CHECK(read(ends[0], bytes, sizeof(bytes)) == 4096 && bytes[0] == 'f' && bytes[4095] == 'f');
	CHECK(write(ends[1], bytes, sizeof(bytes)) == 4096);
}

static void packets_make(void)
{
	if (pipe2(ends, O_DIRECT) < 0)
		small_skip("this kernel has no pipes of packets");
	CHECK(write(ends[1], "first", 5) == 5 && write(ends[1], "second", 6) == 6);
}

static void packets_check(void)
{
	char text[16];
	CHECK((fcntl(ends[1], F_GETFL) & O_DIRECT) != 0);
	CHECK(read(ends[0], text, sizeof(text)) == 5 && memcmp(text, "first", 5) == 0);
	/* what is left of a packet is gone */
	CHECK(read(ends[0], text, 3) == 3 && memcmp(text, "sec", 3) == 0 &&
	      !small_readable(ends[0]));
	CHECK(write(ends[1], "first", 5) == 5 && write(ends[1], "second", 6) == 6);
}

static void no_writer_make(void)
{
	CHECK(pipe(ends) == 0 && write(ends[1], "last", 4) == 4 && close(ends[1]) == 0);
}

static void no_writer_check(void)
{
	char text[8];
	CHECK(read(ends[0], text, sizeof(text)) == 4 && memcmp(text, "last", 4) == 0);
	CHECK(read(ends[0], text, sizeof(text)) == 0);
	CHECK(close(ends[0]) == 0);
	no_writer_make();
}

static void no_reader_make(void)
{
	CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR && pipe(ends) == 0 && close(ends[0]) == 0);
}

static void no_reader_check(void)
{
	struct pollfd p = { .fd = ends[1], .events = POLLOUT };
	CHECK(write(ends[1], "x", 1) < 0 && errno == EPIPE);
	CHECK(poll(&p, 1, 0) == 1 && (p.revents & POLLERR));
}

static void fifo_make(void)
{
	CHECK(mkfifo("fifo", 0600) == 0);
	ends[0] = open("fifo", O_RDONLY | O_NONBLOCK);
	ends[1] = open("fifo", O_WRONLY);
	CHECK(ends[0] >= 0 && ends[1] >= 0 && write(ends[1], "in", 2) == 2);
}

static void fifo_check(void)
{
	struct stat st;
	CHECK(fstat(ends[0], &st) == 0 && S_ISFIFO(st.st_mode) && reads(ends[0], "in"));
	other = open("fifo", O_WRONLY | O_NONBLOCK);
	CHECK(other >= 0 && write(other, "by name", 7) == 7 && reads(ends[0], "by name"));
	CHECK(close(other) == 0 && write(ends[1], "in", 2) == 2);
}

static void fifo_alone_make(void)
{
	CHECK(mkfifo("fifo", 0600) == 0);
	fd = open("fifo", O_RDWR);
	CHECK(fd >= 0 && write(fd, "kept", 4) == 4);
}

static void fifo_alone_check(void)
{
	CHECK(reads(fd, "kept") && !small_readable(fd) && write(fd, "kept", 4) == 4);
}

static void splice_make(void)
{
	fd = small_file("source", "spliced text", O_RDONLY);
	CHECK(pipe(ends) == 0 && splice(fd, NULL, ends[1], NULL, 7, 0) == 7);
}

static void splice_check(void)
{
	CHECK(reads(ends[0], "spliced") && position(fd) == 7 && lseek(fd, 0, SEEK_SET) == 0);
	CHECK(splice(fd, NULL, ends[1], NULL, 7, 0) == 7);
}

static int copy[2];

static void tee_make(void)
{
	CHECK(pipe(ends) == 0 && pipe(copy) == 0 && write(ends[1], "both", 4) == 4);
	CHECK(tee(ends[0], copy[1], 100, 0) == 4);
}

static void tee_check(void)
{
	CHECK(reads(ends[0], "both") && reads(copy[0], "both") && write(ends[1], "both", 4) == 4);
	CHECK(tee(ends[0], copy[1], 100, 0) == 4);
}

static void vmsplice_make(void)
{
	static char text[] = "given";
	struct iovec v = { text, 5 };
	CHECK(pipe(ends) == 0 && vmsplice(ends[1], &v, 1, 0) == 5);
}

static void vmsplice_check(void)
{
	CHECK(reads(ends[0], "given"));
	vmsplice_make();
}

static void proc_fd_make(void)
{
	fd = open("/proc/self/stat", O_RDONLY);
	other = open("/proc/self/fd", O_RDONLY | O_DIRECTORY);
	CHECK(fd >= 0 && other >= 0);
}

static void proc_fd_check(void)
{
	char text[64] = "";
	CHECK(pread(fd, text, sizeof(text) - 1, 0) > 0 && strstr(text, "(small)"));
	snprintf(text, sizeof(text), "%d", fd);
	CHECK(faccessat(other, text, F_OK, 0) == 0);
}

static void devices_make(void)
{
	fd = open("/dev/zero", O_RDONLY);
	other = open("/dev/full", O_WRONLY);
	CHECK(fd >= 0 && other >= 0);
}

static void devices_check(void)
{
	char c = 1;
	CHECK(read(fd, &c, 1) == 1 && c == 0 && write(other, "x", 1) < 0 && errno == ENOSPC);
	CHECK(write(1, "x", 1) == 1 && read(0, &c, 1) == 0);
}

const struct small_case file_cases[] = {
	{ "open(2): the file offset, from which the next read goes on", position_make,
	  position_check },
	{ "open(2): O_RDONLY: writes and ftruncate(2) fail", read_only_make, read_only_check },
	{ "open(2): O_WRONLY: reads fail", write_only_make, write_only_check },
	{ "open(2): O_APPEND: each write is at the end", append_make, append_check },
	{ "open(2): O_CLOEXEC is the descriptor's, not its duplicate's", cloexec_make,
	  cloexec_check },
	{ "open(2): O_PATH of a file and a directory", path_make, path_check },
	{ "open(2): O_PATH|O_NOFOLLOW is the symbolic link itself", symlink_path_make,
	  symlink_path_check },
	{ "open(2): O_SYNC, O_DSYNC, O_NOATIME and O_NONBLOCK stay", sync_flags_make,
	  sync_flags_check },
	{ "open(2): O_DIRECT stays, and can be taken away", direct_make, direct_check },
	{ "open(2): O_TMPFILE: a file without a name that can get one", tmpfile_make,
	  tmpfile_check },
	{ "open(2): O_TMPFILE|O_APPEND, and another open file description of it",
	  tmpfile_append_make, tmpfile_append_check },
	{ "open(2): O_TMPFILE|O_EXCL: content, mode and flags", tmpfile_excl_make,
	  tmpfile_excl_check },
	{ "lseek(2): SEEK_DATA and SEEK_HOLE of a file without a name", holes_make, holes_check },
	{ "lseek(2): an offset beyond the end leaves the file as it is", beyond_make,
	  beyond_check },
	{ "dup(2): duplicates share offset and status flags", dup_make, dup_check },
	{ "open(2): two open file descriptions of one file have an offset each", twice_make,
	  twice_check },
	{ "dup2(2): a high number stays, and low ones are free", high_make, high_check },
	{ "fork(2): parent and child share the offset", with_child_make, with_child_check },
	{ "fcntl(2): F_SETOWN of process and group, F_SETSIG", owner_make, owner_check },
	{ "fcntl(2): F_SETOWN_EX: F_OWNER_TID", owner_thread_make, owner_thread_check },
	{ "fcntl(2): O_ASYNC: a signal with descriptor and band", async_make, async_check },
	{ "fcntl(2): F_SETPIPE_SZ: the pipe's capacity", pipe_size_make, pipe_size_check },
	{ "fcntl(2): F_SETLK: record locks, as others find them by F_GETLK", posix_lock_make,
	  posix_lock_check },
	{ "fcntl(2): F_OFD_SETLK conflicts with another open file description", ofd_lock_make,
	  ofd_lock_check },
	{ "flock(2): LOCK_EX is the open file description's", flock_make, flock_check },
	{ "flock(2): LOCK_SH twice", flock_shared_make, flock_shared_check },
	{ "fcntl(2): F_SETLEASE: a lease, broken by an open(2)", lease_make, lease_check },
	{ "link(2): a file that has lost the name it was opened by, and has another", linked_make,
	  linked_check },
	{ "unlink(2): a file that was removed is there while it is open", unlinked_make,
	  unlinked_check },
	{ "rename(2): a file whose name another one got", replaced_make, replaced_check },
	{ "rename(2): descriptors of a renamed file are not affected", renamed_make,
	  renamed_check },
	{ "link(2): a file with two names", hard_links_make, hard_links_check },
	{ "getdents64(2): a directory read halfway: each name comes once", mid_read_make,
	  mid_read_check },
	{ "utimensat(2): times and mode of a file without a name", times_make, times_check },
	{ "pipe(7): bytes in a pipe, counted by FIONREAD", pipe_data_make, pipe_data_check },
	{ "pipe(7): a full pipe: EAGAIN", pipe_full_make, pipe_full_check },
	{ "pipe(2): O_DIRECT: packets, and what is not read of one is discarded", packets_make,
	  packets_check },
	{ "pipe(7): no writer: the last bytes, then end of file", no_writer_make, no_writer_check },
	{ "pipe(7): no reader: EPIPE and POLLERR", no_reader_make, no_reader_check },
	{ "fifo(7): bytes in it, and its name", fifo_make, fifo_check },
	{ "fifo(7): opened for both reading and writing", fifo_alone_make, fifo_alone_check },
	{ "splice(2): a file's bytes in a pipe", splice_make, splice_check },
	{ "tee(2): the same bytes in two pipes", tee_make, tee_check },
	{ "vmsplice(2): a program's pages in a pipe", vmsplice_make, vmsplice_check },
	{ "proc(5): /proc/self/stat and /proc/self/fd that were opened before", proc_fd_make,
	  proc_fd_check },
	{ "null(4), full(4): devices of memory", devices_make, devices_check },
	{ NULL },
};
