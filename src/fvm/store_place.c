/*
 * Where the caller's store is.
 *
 * Overlay keeps a VM's changes only where whiteouts and attributes can be kept: not on NFS, most of
 * FUSE (an encrypted or remote home), another overlay (a container's root), ramfs. So the first
 * place is used that can; what is tried shows in the error. A place that has a store is taken as it
 * is, and nothing is tried there. What FVM_HOME names is the only place when it is set.
 *
 * The last places can be written by everybody: a directory is only used that is ours alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fvm/internal.h"
#include "fvm/kernel.h"

#ifndef FUSE_SUPER_MAGIC
#define FUSE_SUPER_MAGIC 0x65735546
#endif

#define ROOM	   64 /* that paths below the store may need in fvm_store.path */
#define MAX_PLACES 4

struct place {
	char path[sizeof(((struct fvm_store *)0)->path)]; /* "" when it would not fit */
	bool public;  /* in a directory that everybody may write */
	bool forgets; /* when the machine is started anew */
};

/* ---- one place ---- */

static bool is_private(int dir)
{
	struct stat st;
	return fstat(dir, &st) == 0 && st.st_uid == geteuid() && (st.st_mode & 077) == 0;
}

static int open_place(const struct place *p)
{
	int fd = open(p->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (p->public ? O_NOFOLLOW : 0));
	if (fd < 0)
		return -errno;
	if (!p->public || is_private(fd))
		return fd;
	close(fd);
	return -EPERM;
}

static bool has_store(const struct place *p)
{
	scoped_fd dir = open_place(p);
	return dir >= 0 && faccessat(dir, "format", F_OK, 0) == 0;
}

/* What overlay asks of an upper layer; FUSE may promise it and not keep it. Return: 0, -EOPNOTSUPP,
 * or why nothing can be written */
static int try_layer(int dir, const char *path)
{
	const char *file = "probe", *moved = "probe.moved";
	struct statfs fs;
	if (fstatfs(dir, &fs) < 0)
		return -errno;
	if (fs.f_type == OVERLAYFS_SUPER_MAGIC || fs.f_type == RAMFS_MAGIC ||
	    fs.f_type == NFS_SUPER_MAGIC)
		return -EOPNOTSUPP;
	scoped_fd fd = openat(dir, file, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	int r = 0;
	if (fgetxattr(fd, geteuid() == 0 ? "trusted.fvm" : "user.fvm", NULL, 0) < 0 &&
	    errno == EOPNOTSUPP)
		r = -EOPNOTSUPP;
	if (r == 0 && renameat2(dir, file, dir, moved, RENAME_WHITEOUT) < 0)
		/* who is root in a container may make no device, and gets by without */
		r = errno == EPERM ? 0 : -EOPNOTSUPP;
	(void)unlinkat(dir, file, 0);
	(void)unlinkat(dir, moved, 0);
	if (r == 0 && fs.f_type == FUSE_SUPER_MAGIC && fvm_try_overlay(path) != 0)
		r = -EOPNOTSUPP;
	return r;
}

/* Make the directory and try it; it goes again when it is not fit. */
static int try_place(const struct place *p)
{
	struct stat st;
	bool was = lstat(p->path, &st) == 0;
	int r = was ? 0 : fvm_mkdir_p(AT_FDCWD, p->path, 0700);
	if (r < 0)
		return r;
	scoped_fd dir = open_place(p);
	r = dir < 0 ? dir : try_layer(dir, p->path);
	if (r < 0 && !was)
		(void)rmdir(p->path);
	return r;
}

/* ---- which there are ---- */

/* The home of who has no HOME is in his account. */
static const char *user_home(void)
{
	const char *home = getenv("HOME");
	if (home && home[0] == '/')
		return home;
	const struct passwd *pw = getpwuid(geteuid());
	return pw && pw->pw_dir && pw->pw_dir[0] == '/' ? pw->pw_dir : NULL;
}

static void add(struct place *places, size_t *count, struct place p)
{
	if (p.path[0] && strlen(p.path) + ROOM < sizeof(p.path))
		places[(*count)++] = p;
}

static size_t list_places(struct place places[MAX_PLACES])
{
	const char *data = getenv("XDG_DATA_HOME"), *home = user_home();
	const unsigned int uid = geteuid();
	size_t count = 0;
	struct place p = { 0 };
	if (uid == 0)
		snprintf(p.path, sizeof(p.path), "/var/lib/fvm");
	else if (data && data[0] == '/')
		snprintf(p.path, sizeof(p.path), "%s/fvm", data);
	else if (home)
		snprintf(p.path, sizeof(p.path), "%s/.local/share/fvm", home);
	add(places, &count, p);
	p.public = true;
	snprintf(p.path, sizeof(p.path), "/var/tmp/fvm-%u", uid);
	add(places, &count, p);
	p.forgets = true;
	snprintf(p.path, sizeof(p.path), "/dev/shm/fvm-%u", uid);
	add(places, &count, p);
	return count;
}

static int refuse(const struct place *p, int reason, struct fvm_error *err)
{
	fvm_error_hint(err, reason == -EOPNOTSUPP
				    ? "its file system can't keep a VM's changes: set FVM_HOME to "
				      "a directory on ext4, xfs, btrfs or (Linux 6.6) tmpfs"
				    : "set FVM_HOME to a directory that you can write");
	return fvm_error_set(err, -reason, "keep VMs in %.200s", p->path);
}

static int choose(const struct place *places, size_t count, size_t *ret, struct fvm_error *err)
{
	int first = -ENOENT;
	for (size_t i = 0; i < count; i++) {
		if (has_store(&places[i])) {
			*ret = i;
			return 0;
		}
	}
	for (size_t i = 0; i < count; i++) {
		int r = try_place(&places[i]);
		if (i == 0)
			first = r;
		if (r < 0)
			continue;
		if (i > 0)
			log_warn("%s can't keep VMs (%s): using %s%s", places[0].path,
				 strerror(-first), places[i].path,
				 places[i].forgets ? ", which the next boot empties" : "");
		*ret = i;
		return 0;
	}
	return refuse(&places[0], first, err);
}

/* Root of a user namespace is not root of the host's /run. */
static bool has_system_run(void)
{
	if (geteuid() != 0)
		return false;
	if (faccessat(AT_FDCWD, "/run/fvm", W_OK, AT_EACCESS) == 0)
		return true;
	return errno == ENOENT && faccessat(AT_FDCWD, "/run", W_OK, AT_EACCESS) == 0;
}

int fvm_store_place(char *store, char *run, struct fvm_error *err)
{
	const char *home = getenv("FVM_HOME"), *runtime = getenv("XDG_RUNTIME_DIR");
	struct place places[MAX_PLACES] = { 0 };
	bool only = home && *home;
	size_t count = 0, chosen = 0;
	if (only && home[0] != '/') { /* another one in each directory, and not to be hidden */
		fvm_error_hint(err, "set FVM_HOME to an absolute path");
		return fvm_error_say(err, EINVAL, "FVM_HOME is '%.200s': no absolute path", home);
	}
	if (only) {
		struct place p = { 0 };
		snprintf(p.path, sizeof(p.path), "%s", home);
		add(places, &count, p);
	} else {
		count = list_places(places);
	}
	if (!count)
		return fvm_error_set(err, ENAMETOOLONG, "use %.100s as the store", home);
	int r = choose(places, count, &chosen, err);
	if (r < 0)
		return r;
	const char *path = places[chosen].path;
	strcpy(store, path);
	if (!only && has_system_run())
		snprintf(run, PATH_MAX, "/run/fvm");
	else if (!only && geteuid() != 0 && runtime && strlen(runtime) < strlen(path) + ROOM &&
		 access(runtime, W_OK) == 0)
		snprintf(run, PATH_MAX, "%s/fvm", runtime);
	else
		snprintf(run, PATH_MAX, "%s/run", path);
	return 0;
}
