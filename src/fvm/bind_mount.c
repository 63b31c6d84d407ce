/* The builder's part of binds: after everything else of the VM's tree, before it is locked. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/build.h"
#include "fvm/sys.h"

/* No symlink is followed: the VM's layers may hold any. */
int fvm_build_target(int dir, const char *path, bool file)
{
	char name[NAME_MAX + 1];
	scoped_fd at = fcntl(dir, F_DUPFD_CLOEXEC, 3);
	while (at >= 0 && *path) {
		size_t n = strcspn(path, "/");
		if (n > NAME_MAX)
			return -ENAMETOOLONG;
		memcpy(name, path, n);
		name[n] = '\0';
		path += n + (path[n] == '/');
		bool last_file = file && !*path;
		int flags = O_PATH | O_NOFOLLOW | O_CLOEXEC | (last_file ? 0 : O_DIRECTORY);
		int next = openat(at, name, flags);
		if (next < 0 && errno == ENOENT) {
			int r = last_file ? mknodat(at, name, S_IFREG | 0644, 0)
					  : mkdirat(at, name, 0755);
			next = r < 0 ? -1 : openat(at, name, flags);
		}
		if (next < 0)
			return -errno;
		close(fvm_fd_take(&at));
		at = next;
	}
	return at < 0 ? -errno : fvm_fd_take(&at);
}

static int attach(int tree, int target, uint64_t set, uint64_t userns)
{
	const struct sys_mount_attr attr = {
		.attr_set = set | (userns ? MOUNT_ATTR_IDMAP : 0),
		.userns_fd = userns,
	};
	int r = sys_mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr);
	return r < 0 ? r
		     : sys_move_mount(tree, "", target, "",
				      MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

/*
 * Held by descriptor before it is judged: a symlink on the way may have been made by another VM,
 * into which that directory is written through, and be another one a moment later.
 */
static int open_source(const struct fvm_build *b, const struct fvm_bind *bind,
		       struct fvm_error *err)
{
	char link[64], real[PATH_MAX];
	scoped_fd fd = open(bind->source, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return fvm_error_set(err, errno, "share '%s'", bind->source);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, real, sizeof(real) - 1);
	if (n < 0)
		return fvm_error_set(err, errno, "share '%s'", bind->source);
	real[n] = '\0';
	int r = fvm_bind_check_real(bind, real, b->vm->store->path, b->hide, err);
	return r < 0 ? r : fvm_fd_take(&fd);
}

/* A part of the host, without what is mounted below it. */
static int mount_source(const struct fvm_build *b, const struct fvm_bind *bind,
			struct fvm_error *err)
{
	struct stat st;
	scoped_fd source = open_source(b, bind, err);
	if (source < 0)
		return source;
	scoped_fd tree = sys_open_tree(source, "",
				       OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH |
					       AT_NO_AUTOMOUNT);
	if (tree < 0)
		return fvm_error_set(err, -tree, "share '%s'", bind->source);
	if (fstatat(tree, "", &st, AT_EMPTY_PATH) < 0)
		return fvm_error_set(err, errno, "share '%s'", bind->source);
	if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)) {
		fvm_error_set(err, EINVAL, "share '%s': neither a file nor a directory",
			      bind->source);
		fvm_error_hint(err, "for devices there is --device");
		return -EINVAL;
	}
	scoped_fd target = fvm_build_target(b->root, bind->target + 1, S_ISREG(st.st_mode));
	if (target < 0)
		return fvm_error_set(err, -target, "make '%s' in the VM", bind->target);
	int r = attach(tree, target,
		       MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID |
			       (bind->read_only ? MOUNT_ATTR_RDONLY : 0),
		       b->trees ? 0 : (uint64_t)b->userns); /* an ordinary user's ids are his */
	if (r == -EINVAL)
		fvm_error_hint(err, "its file system can't map ids: share a directory elsewhere");
	return r < 0 ? fvm_error_set(err, -r, "share '%s'", bind->source) : 0;
}

/* A part of the VM itself, which it may not change; there or not. */
static int mount_read_only(const struct fvm_build *b, const struct fvm_bind *bind,
			   struct fvm_error *err)
{
	scoped_fd target = fvm_open_nofollow(b->root, bind->target + 1, O_PATH);
	if (target == -ENOENT || target == -ENOTDIR)
		return 0;
	if (target < 0)
		return fvm_error_set(err, -target, "open '%s' in the VM", bind->target);
	scoped_fd tree =
		sys_open_tree(target, "",
			      OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);
	int r = tree < 0 ? tree : attach(tree, target, MOUNT_ATTR_RDONLY, 0);
	return r < 0 ? fvm_error_set(err, -r, "make '%s' read-only", bind->target) : 0;
}

int fvm_binds_mount(const struct fvm_build *b, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < b->binds->count; i++) {
		const struct fvm_bind *bind = &b->binds->items[i];
		r = bind->source ? mount_source(b, bind, err) : mount_read_only(b, bind, err);
	}
	return r;
}
