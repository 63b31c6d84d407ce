#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fvm/internal.h"
#include "fvm/lock.h"
#include "fvm/owners.h"
#include "fvm/spare.h"

#define SPARES "spare"
#define SPREAD                                                                                     \
	8 /* as many are in use at once, more or less; each has its blocks, which want reading */

/* ---- which there are ---- */

static const char *list_next(DIR *d)
{
	struct dirent *e = fvm_dir_next(d);
	return e ? e->d_name : NULL;
}

static unsigned int list_names(const struct fvm_store *store, char names[][33], unsigned int max)
{
	unsigned int count = 0;
	scoped_dir d = fvm_dir_open(store->dir, SPARES);
	for (const char *name; d && count < max && (name = list_next(d));) {
		if (strlen(name) == 32)
			strcpy(names[count++], name);
	}
	return count;
}

/* Open it and hold it. Return: descriptor, or -EAGAIN when somebody else does or it has just become
 * a VM, -ENOENT.. */
static int hold(const struct fvm_store *store, const char *path)
{
	scoped_fd fd = fvm_open_nofollow(store->dir, path, O_RDONLY | O_DIRECTORY);
	int r = fd < 0 ? fd : fvm_lock_named(fd, store->dir, path, LOCK_EX);
	return r < 0 ? r : fvm_fd_take(&fd);
}

/* ---- taking ---- */

void fvm_spread(int dir)
{
	int flags = 0;
	if (ioctl(dir, FS_IOC_GETFLAGS, &flags) < 0 || (flags & FS_TOPDIR_FL))
		return;
	flags |= FS_TOPDIR_FL;
	(void)ioctl(dir, FS_IOC_SETFLAGS, &flags); /* ext4 has it, others need it not */
}

static void make_place(const struct fvm_store *store)
{
	if (mkdirat(store->dir, SPARES, 0700) < 0)
		return;
	scoped_fd fd = fvm_open_nofollow(store->dir, SPARES, O_RDONLY | O_DIRECTORY);
	if (fd >= 0)
		fvm_spread(fd);
}

static int make_new(const struct fvm_store *store, char *ret_name)
{
	char id[33];
	for (int tries = 0; tries < 100; tries++) {
		fvm_random_hex(id, 32);
		snprintf(ret_name, 40, SPARES "/%s", id);
		int r = mkdirat(store->dir, ret_name, 0700) < 0 ? -errno : 0;
		if (r == -ENOENT)
			make_place(store);
		else if (r < 0)
			return r;
		int fd = r < 0 ? r : hold(store, ret_name);
		if (fd >= 0 || (fd != -EAGAIN && fd != -ENOENT))
			return fd;
	}
	return -EBUSY;
}

int fvm_spare_take(const struct fvm_store *store, char *ret_name, bool *ret_used)
{
	char names[FVM_SPARES_MAX][33];
	unsigned int count = list_names(store, names, FVM_SPARES_MAX);
	char lot[9];
	fvm_random_hex(lot, 8);
	unsigned int at = (unsigned int)strtoul(lot, NULL, 16);
	/* a few more than are in use at once: see "spread" */
	bool more = store->rootless && count < SPREAD;
	for (unsigned int i = 0; i < count && !more; i++, at++) {
		snprintf(ret_name, 40, SPARES "/%.32s", names[at % count]);
		int fd = hold(store, ret_name);
		if (fd < 0)
			continue;
		/* somebody who waited for its last VM has not found out yet */
		if (fvm_lock_any(fd)) {
			close(fd);
			continue;
		}
		/* else it is one that a crash left half made */
		if (faccessat(fd, "config.json", F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
			*ret_used = true;
			return fd;
		}
		(void)fvm_remove_tree(store->dir, ret_name);
		close(fd);
	}
	*ret_used = false;
	return make_new(store, ret_name);
}

/* ---- keeping ---- */

/* None but the number that overlay gives to each upper directory. */
static bool has_attributes(int fd)
{
	char names[256];
	ssize_t len = flistxattr(fd, names, sizeof(names));
	for (ssize_t at = 0; at < len; at += (ssize_t)strlen(names + at) + 1) {
		if (strcmp(names + at, "trusted.overlay.uuid") != 0 &&
		    strcmp(names + at, "user.overlay.uuid") != 0)
			return true;
	}
	return len < 0 && errno != EOPNOTSUPP;
}

/* Counts names other than those of @known, up to one. Return: -1 when it can't be read */
static int count_others(int dir, const char *const *known, size_t count)
{
	char entries[1024] __attribute__((aligned(8)));
	for (;;) {
		long n = syscall(SYS_getdents64, dir, entries, sizeof(entries));
		if (n <= 0)
			return n < 0 ? -1 : 0;
		for (long at = 0; at < n;) {
			const struct dirent64 *e = (const struct dirent64 *)(void *)(entries + at);
			size_t i = 0;
			while (i < count && strcmp(known[i], e->d_name) != 0)
				i++;
			if (i == count && strcmp(e->d_name, ".") != 0 &&
			    strcmp(e->d_name, "..") != 0)
				return 1;
			at += e->d_reclen;
		}
	}
}

/* As it was made: no entry, and no attribute that the VM has set. */
static bool is_blank(int at, const char *name)
{
	struct stat st;
	scoped_fd fd = fvm_open_nofollow(at, name, O_RDONLY | O_DIRECTORY);
	if (fd < 0 || has_attributes(fd))
		return false;
	/* a rootless VM may have given it to one of its services; root's sets owners anew */
	if (geteuid() != 0 &&
	    (fstat(fd, &st) < 0 || st.st_uid != geteuid() || st.st_gid != getegid()))
		return false;
	return count_others(fd, NULL, 0) == 0;
}

/* What overlay leaves in work would refuse the next mount: a directory, and in it the mark of a
 * volatile one; nobody may enter either. Whatever else is there keeps it from being removed. */
static bool clear_work(int dir, bool *ret_used)
{
	static const char *const marks[] = { "work", "work/incompat", "work/incompat/volatile" };
	size_t n = 0;
	scoped_fd work = fvm_open_nofollow(dir, "work", O_RDONLY | O_DIRECTORY);
	if (work < 0 || has_attributes(work))
		return false;
	while (n < FVM_COUNT(marks) && fchmodat(work, marks[n], 0700, 0) == 0)
		n++;
	*ret_used = n > 0;
	if (n == FVM_COUNT(marks))
		(void)unlinkat(work, "work/incompat/volatile/dirty", 0);
	while (n-- > 0)
		(void)unlinkat(work, marks[n], AT_REMOVEDIR);
	return count_others(work, NULL, 0) == 0;
}

/* upper and work of one mount; all of it goes when the last VM had no such mount. */
static bool clear_mount(int fs, const char *key)
{
	static const char *const known[] = { "upper", "work" };
	bool used;
	scoped_fd dir = fvm_open_nofollow(fs, key, O_RDONLY | O_DIRECTORY);
	if (dir < 0 || !is_blank(dir, "upper") || !clear_work(dir, &used) ||
	    count_others(dir, known, FVM_COUNT(known)) != 0)
		return false;
	return used ||
	       (unlinkat(dir, "upper", AT_REMOVEDIR) == 0 &&
		unlinkat(dir, "work", AT_REMOVEDIR) == 0 && unlinkat(fs, key, AT_REMOVEDIR) == 0);
}

static bool clear_mounts(int vm)
{
	scoped_fd fs = fvm_open_nofollow(vm, "workspace/fs", O_RDONLY | O_DIRECTORY);
	scoped_dir d = fs < 0 ? NULL : fvm_dir_open(fs, ".");
	bool clear = d;
	if (fs >= 0)
		(void)unlinkat(fs, FVM_OWNERS_FILE, 0);
	for (const char *key; clear && (key = list_next(d));)
		clear = clear_mount(fs, key);
	return clear;
}

/* Only what the next VM overwrites, or has as well. */
static bool has_only_known(int vm)
{
	static const char *const known[] = { "config.json", "lock", "workspace" };
	scoped_dir d = fvm_dir_open(vm, ".");
	unsigned int found = 0, others = 0;
	for (const char *name; d && (name = list_next(d));) {
		size_t i = 0;
		while (i < FVM_COUNT(known) && strcmp(known[i], name) != 0)
			i++;
		found += i < FVM_COUNT(known);
		others += i == FVM_COUNT(known);
	}
	scoped_dir w = fvm_dir_open(vm, "workspace");
	for (const char *name; w && (name = list_next(w));)
		others += strcmp(name, "fs") != 0;
	return d && w && found == FVM_COUNT(known) && others == 0;
}

bool fvm_spare_keep(const struct fvm_store *store, const char *path, int held)
{
	char names[FVM_SPARES_MAX][33], to[48];
	const char *slash = strrchr(path, '/');
	if (held < 0 || !slash || strlen(slash + 1) != 32 ||
	    list_names(store, names, FVM_SPARES_MAX) >= FVM_SPARES_MAX)
		return false;
	if (!has_only_known(held) || !clear_mounts(held))
		return false;
	snprintf(to, sizeof(to), SPARES "/%s", slash + 1);
	return renameat2(store->dir, path, store->dir, to, RENAME_NOREPLACE) == 0;
}

void fvm_spare_prune(const struct fvm_store *store)
{
	char names[FVM_SPARES_MAX][33], path[48];
	unsigned int count = list_names(store, names, FVM_SPARES_MAX);
	for (unsigned int i = 0; i < count; i++) {
		snprintf(path, sizeof(path), SPARES "/%.32s", names[i]);
		scoped_fd fd = hold(store, path);
		if (fd >= 0)
			(void)fvm_remove_tree(store->dir, path);
	}
}
