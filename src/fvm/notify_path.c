/*
 * What a task names, looked up from outside as the task itself would.
 *
 * The supervisor has chrooted to the VM's root, so that absolute paths and symlinks lead where they
 * do inside. A task with another root (chroot in the VM) gets it for the time of one lookup. A few
 * names mean the task itself and are taken to its entry in the host's /proc, our working directory.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fvm/notify.h"

#define PAGE 4096U

/* ---- memory ---- */

int notify_read(const struct call *c, uint64_t at, void *to, size_t len)
{
	struct iovec local = { to, len };
	struct iovec remote = { (void *)(uintptr_t)at, len };
	ssize_t n = process_vm_readv((pid_t)c->req->pid, &local, 1, &remote, 1, 0);
	return n == (ssize_t)len ? 0 : -EFAULT;
}

int notify_write(const struct call *c, uint64_t at, const void *from, size_t len)
{
	struct iovec local = { (void *)(uintptr_t)from, len };
	struct iovec remote = { (void *)(uintptr_t)at, len };
	ssize_t n = process_vm_writev((pid_t)c->req->pid, &local, 1, &remote, 1, 0);
	return n == (ssize_t)len ? 0 : -EFAULT;
}

int notify_give(const struct call *c, uint64_t at, const void *from, size_t len)
{
	char path[32];
	snprintf(path, sizeof(path), "%u/mem", c->req->pid);
	scoped_fd memory = open(path, O_WRONLY | O_CLOEXEC);
	if (memory < 0 || !notify_valid(c))
		return -EFAULT;
	return pwrite(memory, from, len, (off_t)at) == (ssize_t)len ? 0 : -EFAULT;
}

/* Never beyond the end of a page: the next may not be there. */
int notify_string(const struct call *c, uint64_t at, char *to, size_t size)
{
	size_t have = 0;
	while (have < size) {
		size_t len = PAGE - ((at + have) & (PAGE - 1));
		if (len > size - have)
			len = size - have;
		int r = notify_read(c, at + have, to + have, len);
		if (r < 0)
			return r;
		const char *end = memchr(to + have, '\0', len);
		if (end)
			return (int)(end - to);
		have += len;
	}
	return -ENAMETOOLONG;
}

/* ---- lookup ---- */

static int open_of_task(const struct call *c, const char *what)
{
	char path[64];
	snprintf(path, sizeof(path), "%u/%s", c->req->pid, what);
	int fd = open(path, O_PATH | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

bool notify_at_home(const struct call *c)
{
	char path[32];
	struct statx x;
	snprintf(path, sizeof(path), "%u/root", c->req->pid);
	return statx(AT_FDCWD, path, 0, STATX_INO | STATX_MNT_ID, &x) < 0 ||
	       (x.stx_ino == c->sup->root_ino && x.stx_mnt_id == c->sup->root_mnt);
}

static int look(const struct call *c, int base, const char *path, enum follow follow)
{
	int flags = O_PATH | O_CLOEXEC | (follow == NO_FOLLOW ? O_NOFOLLOW : 0);
	/* one that may not be looked at is PID 1's child before its exec, with the VM's root */
	if (!notify_at_home(c)) {
		scoped_fd root = open_of_task(c, "root");
		scoped_fd proc = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (root < 0 || proc < 0 || fchdir(root) < 0 || chroot(".") < 0)
			return -errno;
		int fd = openat(base, path, flags);
		int r = fd < 0 ? -errno : fd;
		if (fchdir(c->sup->root) < 0 || chroot(".") < 0 || fchdir(proc) < 0)
			abort(); /* it worked a moment ago; better no VM than a wrong one */
		return r;
	}
	int fd = openat(base, path, flags);
	return fd < 0 ? -errno : fd;
}

/* ---- "/proc/self/fd/3" and the like ---- */

/* What follows a name that means the task itself, or NULL. @becomes: what that name stands for */
static const char *own_name(const char *path, const char **becomes)
{
	static const struct {
		const char *prefix, *becomes;
	} names[] = {
		{ "/proc/self/", "" },	  { "/proc/thread-self/", "" }, { "/dev/fd/", "fd/" },
		{ "/dev/stdin", "fd/0" }, { "/dev/stdout", "fd/1" },	{ "/dev/stderr", "fd/2" },
	};
	for (size_t i = 0; i < FVM_COUNT(names); i++) {
		size_t n = strlen(names[i].prefix);
		*becomes = names[i].becomes;
		if (strncmp(path, names[i].prefix, n) == 0 &&
		    (path[n - 1] == '/' || path[n] == '/' || path[n] == '\0'))
			return path + n;
	}
	return NULL;
}

/* Length of the link at the start of @name: "fd/N", "cwd", "root"; 0 for any other */
static size_t link_length(const char *name)
{
	static const char *const links[] = { "cwd", "root" };
	for (size_t i = 0; i < FVM_COUNT(links); i++) {
		size_t n = strlen(links[i]);
		if (strncmp(name, links[i], n) == 0 && (name[n] == '/' || name[n] == '\0'))
			return n;
	}
	size_t n = strncmp(name, "fd/", 3) == 0 ? strspn(name + 3, "0123456789") : 0;
	return n > 0 && (name[3 + n] == '/' || name[3 + n] == '\0') ? 3 + n : 0;
}

/*
 * The host's /proc is no place for a path that the VM has made up: ".." leads from there to the
 * host's root. So only one link of the task is followed there, and what comes after it is looked
 * up as any other path. All else of a task's directory is named in it or not at all.
 */
static int look_own(const struct call *c, const char *name, enum follow follow, bool *ret_fd)
{
	char what[32], task[16];
	size_t n = link_length(name);
	if (n == 0 || n >= sizeof(what)) {
		snprintf(task, sizeof(task), "%u", c->req->pid);
		scoped_fd dir = open(task, O_PATH | O_DIRECTORY | O_CLOEXEC);
		return dir < 0 ? -errno : fvm_open_nofollow(dir, name, O_PATH);
	}
	snprintf(what, sizeof(what), "%.*s", (int)n, name);
	name += n;
	*ret_fd = what[0] == 'f' && *name == '\0';
	if (*name == '\0' && follow == NO_FOLLOW) {
		char path[64];
		snprintf(path, sizeof(path), "%u/%s", c->req->pid, what);
		int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		return fd < 0 ? -errno : fd;
	}
	int at = open_of_task(c, what);
	name += strspn(name, "/");
	if (at < 0 || *name == '\0')
		return at;
	scoped_fd base = at;
	return look(c, base, name, follow);
}

static int open_base(const struct call *c, int dir, const char *path)
{
	char what[32];
	if (path[0] == '/')
		return fcntl(c->sup->root, F_DUPFD_CLOEXEC, 3);
	if (dir == AT_FDCWD)
		return open_of_task(c, "cwd");
	snprintf(what, sizeof(what), "fd/%d", dir);
	return open_of_task(c, what);
}

/* A task that has died meanwhile may have given its pid to a process outside the VM. */
static int finish(const struct call *c, int fd, struct target *ret)
{
	struct target t = { .fd = fd };
	if (fd < 0)
		return fd;
	if (fstat(fd, &t.st) < 0 || !notify_valid(c)) {
		close(fd);
		return -ESRCH;
	}
	t.by_fd = ret->by_fd;
	*ret = t;
	return 0;
}

int notify_resolve(const struct call *c, int dir, const char *path, enum follow follow,
		   struct target *ret)
{
	char own[PATH_MAX];
	const char *becomes, *rest = own_name(path, &becomes);
	ret->by_fd = false;
	if (rest) {
		int n = snprintf(own, sizeof(own), "%s%s", becomes, rest + strspn(rest, "/"));
		if (*becomes && becomes[strlen(becomes) - 1] != '/')
			n = snprintf(own, sizeof(own), "%s%s", becomes, rest);
		if (n < 0 || (size_t)n >= sizeof(own))
			return -ENAMETOOLONG;
		return finish(c, look_own(c, own, follow, &ret->by_fd), ret);
	}
	scoped_fd base = open_base(c, dir, path);
	if (base < 0)
		return base;
	return finish(c, look(c, base, path, follow), ret);
}

int notify_descriptor(const struct call *c, int fd, struct target *ret)
{
	char what[32];
	snprintf(what, sizeof(what), "fd/%d", fd);
	ret->by_fd = true;
	return finish(c, open_of_task(c, what), ret);
}

static bool holds(int dir, const char *name, const struct stat *st)
{
	struct stat is;
	return dir >= 0 && fstatat(dir, name, &is, AT_SYMLINK_NOFOLLOW) == 0 &&
	       is.st_ino == st->st_ino && is.st_dev == st->st_dev;
}

int notify_parent(const struct call *c, const struct target *t, char *name)
{
	char link[32], path[PATH_MAX];
	snprintf(link, sizeof(link), "self/fd/%d", t->fd);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	if (n <= 0 || path[0] != '/')
		return n < 0 ? -errno : -ESTALE;
	path[n] = '\0';
	char *slash = strrchr(path, '/');
	if (!slash[1] || strlen(slash + 1) > NAME_MAX)
		return -ESTALE;
	strcpy(name, slash + 1);
	*slash = '\0';
	scoped_fd dir = open(path[0] ? path : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (holds(dir, name, &t->st))
		return fvm_fd_take(&dir);
	/* in a VM inside the VM it has that name from the task's own root */
	scoped_fd theirs = look(c, c->sup->root, path[0] ? path : "/", FOLLOW);
	return holds(theirs, name, &t->st) ? fvm_fd_take(&theirs) : -ESTALE;
}

long notify_fs(const struct target *t, bool *ret_read_only)
{
	struct statfs fs;
	if (fstatfs(t->fd, &fs) < 0)
		return 0;
	*ret_read_only = fs.f_flags & ST_RDONLY;
	return (long)fs.f_type;
}
