/*
 * The locks of a VM, as byte ranges of one file: see store.h. Open-file-description locks
 * belong to the descriptor, so they pass over fork and end with its last copy.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/internal.h"
#include "fvm/lock.h"

enum { BYTE_COMMAND = 0, BYTE_ALIVE = 1, BYTE_LATE = 2, BYTE_WATCHED = 3 };

#define HOLDER_BYTES 64
#define HOLDER_TEXT  200

static int lock_byte(int fd, off_t byte, int how)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
	return fcntl(fd, how, &l) < 0 ? -errno : 0;
}

/* Who took it is advice for people, so a race here costs nothing. */
static void write_holder(int fd)
{
	char text[HOLDER_BYTES];
	int n = snprintf(text, sizeof(text), "%.32s (pid %d)", program_invocation_short_name,
			 (int)getpid());
	/* always as long: cutting a file is dear, and twice so for one that is deleted soon */
	memset(text + n, ' ', sizeof(text) - (size_t)n);
	text[sizeof(text) - 1] = '\n';
	(void)!pwrite(fd, text, sizeof(text), 0);
}

/* Its command line, as far as there is room: "fvm commit web". */
static void read_command(pid_t pid, char *text, size_t size)
{
	char path[40], words[160];
	snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	scoped_fd fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, words, sizeof(words) - 1);
	if (n <= 0)
		return;
	words[n] = '\0';
	const char *first = strrchr(words, '/') ? strrchr(words, '/') + 1 : words;
	if (strncmp(first, "fvm", 3) != 0)
		return; /* that pid is another's by now */
	for (char *p = words; p < words + n - 1; p++) {
		if (*p == '\0')
			*p = ' ';
	}
	snprintf(text, size, "%s (pid %d)", first, (int)pid);
}

static void read_holder(int fd, char text[HOLDER_TEXT])
{
	int pid;
	ssize_t n = pread(fd, text, HOLDER_BYTES, 0);
	text[n > 0 ? n : 0] = '\0';
	text[strcspn(text, "\n")] = '\0';
	for (size_t len = strlen(text); len > 0 && text[len - 1] == ' ';)
		text[--len] = '\0';
	if (sscanf(text, "%*[^(](pid %d)", &pid) == 1)
		read_command(pid, text, HOLDER_TEXT);
	for (char *p = text; *p; p++) {
		if (*p < ' ' || *p > '~')
			*p = '?';
	}
}

static int wait_for(int fd, const char *name, struct fvm_error *err)
{
	char holder[HOLDER_TEXT];
	/* most are let go at once, as by who sees that the VM is another one now */
	unsigned int waited_ms = 0, pause_ms = 2;
	bool said = false;
	for (; waited_ms < 60000; waited_ms += pause_ms) {
		int r = lock_byte(fd, BYTE_COMMAND, F_OFD_SETLK);
		if (r != -EAGAIN && r != -EACCES)
			return r < 0 ? fvm_error_set(err, -r, "lock VM '%s'", name) : 0;
		if (waited_ms >= 1000 && !said) {
			said = true;
			read_holder(fd, holder);
			log_warn("VM '%s' is in use by %s: waiting", name, holder);
		}
		pause_ms = waited_ms < 100 ? 2 : 100;
		fvm_sleep_ms(pause_ms);
	}
	return -EAGAIN;
}

int fvm_lock_take(int dir, const char *name, bool wait, int *ret_fd, struct fvm_error *err)
{
	scoped_fd fd = openat(dir, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return fvm_error_set(err, errno, "open the lock of VM '%s'", name);
	int r = lock_byte(fd, BYTE_COMMAND, F_OFD_SETLK);
	if ((r == -EAGAIN || r == -EACCES) && wait)
		r = wait_for(fd, name, err);
	if (r == -EAGAIN || r == -EACCES) {
		char holder[HOLDER_TEXT];
		read_holder(fd, holder);
		fvm_error_set(err, EBUSY, "VM '%s' is in use by %s", name, holder);
		fvm_error_hint(err, "try again when that command has ended");
		return -EBUSY;
	}
	if (r < 0)
		return r;
	write_holder(fd);
	*ret_fd = fvm_fd_take(&fd);
	return 0;
}

static bool is_others(int fd, off_t from, off_t len)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = from, .l_len = len };
	return fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
}

static bool is_held(int dir, off_t from, off_t len)
{
	scoped_fd fd = openat(dir, "lock", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	return fd >= 0 && is_others(fd, from, len);
}

bool fvm_lock_alive(int dir)
{
	return is_held(dir, BYTE_ALIVE, 1);
}

bool fvm_lock_any(int dir)
{
	return is_held(dir, BYTE_COMMAND, BYTE_ALIVE + 1);
}

static int take_now(int dir, off_t byte, int *ret_fd)
{
	scoped_fd fd = openat(dir, "lock", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int r = lock_byte(fd, byte, F_OFD_SETLK);
	if (r == -EAGAIN || r == -EACCES)
		return -EBUSY;
	if (r == 0)
		*ret_fd = fvm_fd_take(&fd);
	return r;
}

int fvm_lock_take_alive(int dir, int *ret_fd)
{
	return take_now(dir, BYTE_ALIVE, ret_fd);
}

int fvm_lock_take_late(int dir, int *ret_fd)
{
	return take_now(dir, BYTE_LATE, ret_fd);
}

int fvm_lock_take_watched(int dir, int *ret_fd)
{
	return take_now(dir, BYTE_WATCHED, ret_fd);
}

bool fvm_lock_watched(int dir)
{
	return is_held(dir, BYTE_WATCHED, 1);
}

bool fvm_lock_watched_by(int fd)
{
	return is_others(fd, BYTE_WATCHED, 1);
}

int fvm_lock_await_late(int dir)
{
	scoped_fd fd = openat(dir, "lock", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	int r = fd < 0 ? -errno : -EINTR;
	while (r == -EINTR)
		r = lock_byte(fd, BYTE_LATE, F_OFD_SETLKW);
	return r;
}

void fvm_lock_drop(int fd)
{
	struct flock l = {
		.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = BYTE_COMMAND, .l_len = 1
	};
	(void)fcntl(fd, F_OFD_SETLK, &l);
}

int fvm_lock_named(int fd, int dir, const char *path, int how)
{
	struct stat held, named;
	if (flock(fd, how | LOCK_NB) < 0)
		return -errno;
	if (fstat(fd, &held) < 0 || fstatat(dir, path, &named, AT_SYMLINK_NOFOLLOW) < 0 ||
	    held.st_ino != named.st_ino || held.st_dev != named.st_dev)
		return -EAGAIN;
	return 0;
}
