#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fvm/adopt.h"
#include "fvm/inode.h"
#include "fvm/internal.h"

#define TEMP_PREFIX ".fvm-adopt-"

bool fvm_adoptable(const struct stat *st)
{
	return (S_ISREG(st->st_mode) || S_ISLNK(st->st_mode)) &&
	       (st->st_uid == FVM_NOBODY || st->st_gid == FVM_NOBODY);
}

bool fvm_adopt_leftover(const char *name)
{
	return strncmp(name, TEMP_PREFIX, strlen(TEMP_PREFIX)) == 0;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_dev == b->st_dev &&
	       (a->st_mode & S_IFMT) == (b->st_mode & S_IFMT);
}

/* ---- attributes ---- */

static void copy_xattr(int from, int to, const char *name)
{
	char value[4096];
	if (strncmp(name, "user.", 5) != 0 && strcmp(name, "security.capability") != 0)
		return;
	if (strncmp(name, "user.overlay.", 13) == 0)
		return;
	ssize_t n = fgetxattr(from, name, value, sizeof(value));
	if (n >= 0)
		(void)fsetxattr(to, name, value, (size_t)n, 0);
}

/* A capability that can't be kept is one the VM would not honour either. */
static void copy_xattrs(int from, int to)
{
	char names[4096];
	ssize_t n = flistxattr(from, names, sizeof(names));
	for (ssize_t i = 0; i < n; i += (ssize_t)strlen(names + i) + 1)
		copy_xattr(from, to, names + i);
}

/* ---- one entry ---- */

static int copy_file(int from_dir, const char *name, int to_dir, const char *to_name,
		     const struct stat *st, bool empty)
{
	struct stat is;
	scoped_fd from = openat(from_dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (from < 0 || fstat(from, &is) < 0)
		return -errno;
	if (!same_file(st, &is))
		return -ESTALE;
	scoped_fd to =
		openat(to_dir, to_name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (to < 0)
		return -errno;
	const struct timespec times[2] = { is.st_atim, is.st_mtim };
	int r = empty ? 0 : fvm_copy_data(from, to, (uint64_t)is.st_size);
	if (r == 0)
		copy_xattrs(from, to);
	if (r == 0 && (fchmod(to, is.st_mode & 07777) < 0 || futimens(to, times) < 0))
		r = -errno;
	return r;
}

static int copy_link(int from_dir, const char *name, int to_dir, const char *to_name,
		     const struct stat *st)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(from_dir, name, target, sizeof(target));
	if (n < 0 || n == sizeof(target))
		return n < 0 ? -errno : -ENAMETOOLONG;
	target[n] = '\0';
	const struct timespec times[2] = { st->st_atim, st->st_mtim };
	if (symlinkat(target, to_dir, to_name) < 0)
		return -errno;
	return utimensat(to_dir, to_name, times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int copy_any(int from_dir, const char *name, int to_dir, const char *to_name,
		    const struct stat *st, bool empty)
{
	int r = S_ISLNK(st->st_mode) ? copy_link(from_dir, name, to_dir, to_name, st)
				     : copy_file(from_dir, name, to_dir, to_name, st, empty);
	if (r < 0 && r != -EEXIST)
		(void)unlinkat(to_dir, to_name, 0);
	return r;
}

int fvm_copy_entry(int from_dir, const char *name, int to_dir, const char *to_name,
		   const struct stat *st)
{
	return copy_any(from_dir, name, to_dir, to_name, st, false);
}

int fvm_adopt(int dir, const char *name, const struct stat *st, bool empty)
{
	struct stat parent, is;
	char temp[32] = TEMP_PREFIX;
	fvm_random_hex(temp + strlen(TEMP_PREFIX), 12);
	if (fstatat(dir, "", &parent, AT_EMPTY_PATH) < 0)
		return -errno;
	int r = copy_any(dir, name, dir, temp, st, empty);
	if (r < 0)
		return r;
	if (fstatat(dir, name, &is, AT_SYMLINK_NOFOLLOW) < 0 || !same_file(st, &is))
		r = -ESTALE;
	else if (renameat(dir, temp, dir, name) < 0)
		r = -errno;
	if (r < 0)
		(void)unlinkat(dir, temp, 0);
	const struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, parent.st_mtim };
	(void)utimensat(dir, ".", times, 0);
	return r;
}
