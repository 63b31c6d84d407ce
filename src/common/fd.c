#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/dir.h"
#include "common/error.h"
#include "common/fault.h"
#include "common/fd.h"
#include "common/mem.h"

#define DESCRIPTORS_MAX (1U << 20) /* fs.nr_open, where nobody raised it */

void fvm_fd_closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

int fvm_fd_take(int *fd)
{
	int taken = *fd;
	*fd = -1;
	return taken;
}

void fvm_close_range(unsigned int first, unsigned int last)
{
	struct rlimit limit;
	if (syscall(SYS_close_range, first, last, 0U) == 0)
		return;
	/* refused: one by one, up to the highest that can have been had */
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_max > DESCRIPTORS_MAX)
		limit.rlim_max = DESCRIPTORS_MAX;
	for (unsigned int fd = first; fd <= last && fd < limit.rlim_max; fd++)
		(void)close((int)fd);
}

void fvm_raise_descriptors(struct rlimit *was)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	if (was)
		*was = limit;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}

void fvm_null_stdio(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; null >= 0 && fd < 3; fd++)
		(void)dup2(null, fd);
	if (null > 2)
		close(null);
}

static int open_how(int dir, const char *path, const struct open_how *how)
{
	return fvm_nerr(syscall(SYS_openat2, dir, path, how, sizeof(*how)));
}

int fvm_open_beneath(int dir, const char *path, int flags)
{
	struct open_how how = {
		.flags = (unsigned int)flags | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};
	return open_how(dir, path, &how);
}

int fvm_open_nofollow(int dir, const char *path, int flags)
{
	struct open_how how = {
		.flags = (unsigned int)flags | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
	};
	return open_how(dir, path, &how);
}

int fvm_open_same_mount(int dir, const char *path, int flags)
{
	struct open_how how = {
		.flags = (unsigned int)flags | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
	};
	return open_how(dir, path, &how);
}

int fvm_create_beneath(int dir, const char *path, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (unsigned int)flags | O_CREAT | O_CLOEXEC,
		.mode = mode,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};
	return open_how(dir, path, &how);
}

int fvm_write_all(int fd, const void *buf, size_t len)
{
	const char *p = buf;
	while (len > 0) {
		ssize_t n = write(fd, p, len);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

ssize_t fvm_read_full(int fd, void *buf, size_t len)
{
	size_t done = 0;
	while (done < len) {
		ssize_t n = read(fd, (char *)buf + done, len - done);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

int fvm_read_file(int dir, const char *path, size_t limit, char **ret_buf, size_t *ret_len)
{
	/* in a directory of ours a FIFO is a mistake, and nobody to wait for */
	int flags = dir == AT_FDCWD ? 0 : O_NONBLOCK | O_NOCTTY;
	scoped_fd fd = openat(dir, path, O_RDONLY | O_CLOEXEC | flags);
	if (fd < 0)
		return -errno;

	size_t cap = 4096, len = 0;
	scoped_free char *buf = malloc(cap + 1);
	if (!buf)
		return -ENOMEM;
	for (;;) {
		ssize_t n = fvm_read_full(fd, buf + len, cap - len);
		if (n < 0)
			return (int)n;
		len += (size_t)n;
		if (len < cap)
			break;
		if (len > limit)
			return -EFBIG;
		cap *= 2;
		char *more = realloc(buf, cap + 1);
		if (!more)
			return -ENOMEM;
		buf = more;
	}
	if (len > limit)
		return -EFBIG;
	buf[len] = '\0';
	if (ret_len)
		*ret_len = len;
	*ret_buf = fvm_take_ptr(&buf);
	return 0;
}

int fvm_write_file(int dir, const char *path, const char *text)
{
	scoped_fd fd = openat(dir, path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return fvm_write_all(fd, text, strlen(text));
}

static int replace_by(int dir, const char *tmp, const char *name, int fd, bool sync)
{
	if (sync && fdatasync(fd) < 0)
		return -errno;
	int r = FVM_FAULT("file.rename");
	if (r < 0)
		return r;
	if (renameat(dir, tmp, dir, name) < 0)
		return -errno;
	if (!sync)
		return 0;
	scoped_fd top = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (top < 0 || fsync(top) < 0)
		return -errno;
	return 0;
}

/* Root at work in a user's directory leaves nothing there that the user can't read. */
static void give_to_owner(int dir, int fd)
{
	struct stat st;
	if (geteuid() == 0 && fstat(dir, &st) == 0 && st.st_uid != 0)
		(void)!fchown(fd, st.st_uid, st.st_gid);
}

/* An empty temporary, locked: without a lock it would be taken for a left-over. */
static int open_temporary(int dir, const char *tmp)
{
	struct stat st;
	for (int tries = 0; tries < 100; tries++) {
		scoped_fd fd = openat(dir, tmp, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0)
			return -errno;
		/* ENOLCK and its like: a file system without locks has none of ours to respect */
		if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
			continue;
		if (fstat(fd, &st) < 0)
			return -errno;
		if (st.st_nlink == 0)
			continue;
		if (st.st_size > 0 && ftruncate(fd, 0) < 0)
			return -errno;
		return fvm_fd_take(&fd);
	}
	return -EAGAIN;
}

/* ".NAME.PID.tmp" */
static bool is_temporary(const char *name)
{
	size_t len = strlen(name), n = len;
	if (name[0] != '.' || len < 8 || strcmp(name + len - 4, ".tmp") != 0)
		return false;
	for (n -= 4; n > 0 && isdigit((unsigned char)name[n - 1]);)
		n--;
	return n > 2 && n < len - 4 && name[n - 1] == '.';
}

static void remove_leftover(int dir, const char *name)
{
	struct stat held, there;
	scoped_fd fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
		return;
	/* its writer may have renamed it just now */
	if (fstat(fd, &held) == 0 && S_ISREG(held.st_mode) &&
	    fstatat(dir, name, &there, AT_SYMLINK_NOFOLLOW) == 0 && held.st_ino == there.st_ino)
		(void)unlinkat(dir, name, 0);
}

void fvm_remove_leftovers(int dir)
{
	scoped_dir d = fvm_dir_open(dir, ".");
	for (struct dirent *e; d && (e = readdir(d));) {
		if (is_temporary(e->d_name))
			remove_leftover(dir, e->d_name);
	}
}

int fvm_write_file_atomic(int dir, const char *name, const void *buf, size_t len, bool sync)
{
	char tmp[300];
	snprintf(tmp, sizeof(tmp), ".%s.%d.tmp", name, (int)getpid());
	int r = FVM_FAULT("file.create");
	if (r < 0)
		return r;
	scoped_fd fd = open_temporary(dir, tmp);
	if (fd < 0)
		return fd;
	give_to_owner(dir, fd);
	r = FVM_FAULT("file.write");
	if (r == 0)
		r = fvm_write_all(fd, buf, len);
	if (r == 0)
		r = replace_by(dir, tmp, name, fd, sync);
	if (r < 0)
		unlinkat(dir, tmp, 0);
	return r;
}

int fvm_mkdir_p(int dir, const char *path, mode_t mode)
{
	char part[4096];
	size_t len = strlen(path);
	if (len == 0 || len >= sizeof(part))
		return len ? -ENAMETOOLONG : -ENOENT;
	memcpy(part, path, len + 1);
	for (char *p = part + 1;; p++) {
		if (*p != '/' && *p != '\0')
			continue;
		char end = *p;
		*p = '\0';
		if (mkdirat(dir, part, mode) < 0 && errno != EEXIST)
			return -errno;
		if (end == '\0')
			return 0;
		*p = end;
	}
}

/* One step down: the directory @name, made if need be. Never through a symlink. */
static int step_into(int dir, const char *name, mode_t mode)
{
	if (mkdirat(dir, name, mode) < 0 && errno != EEXIST)
		return -errno;
	int fd = openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int fvm_mkdir_nofollow(int dir, const char *path, mode_t mode)
{
	char name[NAME_MAX + 1];
	scoped_fd at = -1;
	for (path += strspn(path, "/"); *path; path += strspn(path, "/")) {
		size_t n = strcspn(path, "/");
		if (n > NAME_MAX)
			return -ENAMETOOLONG;
		memcpy(name, path, n);
		name[n] = '\0';
		path += n;
		if (strcmp(name, "..") == 0)
			return -EXDEV;
		int next = step_into(at < 0 ? dir : at, name, mode);
		if (next < 0)
			return next;
		fvm_fd_closep(&at);
		at = next;
	}
	return at < 0 ? -ENOENT : fvm_fd_take(&at);
}

#define FDS_MAX 32

int fvm_sendv_fds(int sock, const struct iovec *iov, size_t pieces, const int *fds, size_t n)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(int) * FDS_MAX)];
	} control = { 0 };
	if (n > FDS_MAX)
		return -E2BIG;
	struct msghdr msg = { .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = pieces };
	if (n > 0) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
	}
	ssize_t sent;
	do {
		sent = sendmsg(sock, &msg, MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	if (sent < 0)
		return -errno;
	for (size_t i = 0; i < pieces; i++)
		sent -= (ssize_t)iov[i].iov_len;
	return sent == 0 ? 0 : -EMSGSIZE;
}

int fvm_send_fds(int sock, const void *buf, size_t len, const int *fds, size_t n)
{
	const struct iovec iov = { .iov_base = (void *)(uintptr_t)buf, .iov_len = len };
	return fvm_sendv_fds(sock, &iov, 1, fds, n);
}

static void take_fds(struct msghdr *msg, int *fds, size_t max, size_t *n)
{
	*n = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (*n < max)
				fds[(*n)++] = fd;
			else
				close(fd);
		}
	}
}

ssize_t fvm_recv_fds(int sock, void *buf, size_t len, int *fds, size_t max, size_t *ret_n)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(int) * FDS_MAX)];
	} control;
	struct iovec iov = { .iov_base = buf, .iov_len = len };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n;
	do {
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	*ret_n = 0;
	if (n < 0)
		return -errno;
	take_fds(&msg, fds, max, ret_n);
	if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		for (size_t i = 0; i < *ret_n; i++)
			close(fvm_fd_take(&fds[i]));
		*ret_n = 0;
		return -EMSGSIZE;
	}
	return n;
}
