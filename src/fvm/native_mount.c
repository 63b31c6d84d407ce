/*
 * The builder's part of native directories: see native.h for where one comes from. Everything is
 * done through descriptors of the store's clone, which has the VM's ids, and of the new root, which
 * holds what the VM may have written: no symlink is followed in either.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/build.h"
#include "fvm/layer_copy.h"
#include "fvm/native.h"
#include "fvm/sys.h"

#define NEW "+new"

struct filling {
	struct fvm_build *b;
	const struct fvm_native *native;
	char entry[264]; /* "at-KEY" */
	int dir;	 /* +native of the workspace */
	int data, links; /* of +new */
};

/* The workspace's +native, made if need be. Return: descriptor or negative errno */
static int open_dir(const struct fvm_build *b)
{
	scoped_fd fs = fvm_build_workspace(b);
	if (fs < 0)
		return fs;
	if (mkdirat(fs, FVM_NATIVE_DIR, 0700) < 0 && errno != EEXIST)
		return -errno;
	return fvm_open_nofollow(fs, FVM_NATIVE_DIR, O_RDONLY | O_DIRECTORY);
}

/* ---- filling one ---- */

static int make_new(struct filling *f)
{
	int r = fvm_remove_tree(f->dir, NEW);
	if (r < 0)
		return r;
	if (mkdirat(f->dir, NEW, 0700) < 0 || mkdirat(f->dir, NEW "/data", 0755) < 0 ||
	    mkdirat(f->dir, NEW "/links", 0700) < 0)
		return -errno;
	f->data = fvm_open_nofollow(f->dir, NEW "/data", O_RDONLY | O_DIRECTORY);
	if (f->data < 0)
		return f->data;
	f->links = fvm_open_nofollow(f->dir, NEW "/links", O_RDONLY | O_DIRECTORY);
	return f->links < 0 ? f->links : 0;
}

/* The one of the topmost frozen layer that has it. Return: 1 copied, 0 none has, negative errno */
static int copy_frozen(const struct filling *f, struct fvm_error *err)
{
	const struct fvm_strv *layers = &f->b->vm->config.layers;
	for (size_t i = layers->count; i-- > 0;) {
		char path[400];
		snprintf(path, sizeof(path), "layers/%.60s/fs/" FVM_NATIVE_DIR "/%s",
			 layers->items[i], f->entry);
		scoped_fd from = fvm_open_nofollow(f->b->store, path, O_RDONLY | O_DIRECTORY);
		if (from == -ENOENT)
			continue;
		if (from < 0)
			return fvm_error_set(err, -from, "open the snapshot's");
		const struct fvm_tree_copying how = { .name = f->native->path,
						      .links = f->links,
						      .progress = f->b->copying };
		int r = fvm_tree_copy(from, f->data, &how, err);
		return r < 0 ? r : 1;
	}
	return 0;
}

static int copy_seen(const struct filling *f, int seen, struct fvm_error *err)
{
	size_t skipped = 0;
	const struct fvm_tree_copying how = {
		.name = f->native->path,
		.links = f->links,
		.seen = true,
		.ret_skipped = &skipped,
		.progress = f->b->copying,
	};
	int r = fvm_tree_copy(seen, f->data, &how, err);
	if (r == -EXDEV)
		fvm_error_hint(err, "another file system is mounted there: %.100s:empty covers it",
			       f->native->path);
	else if (r == -ENOSPC || r == -EDQUOT)
		fvm_error_hint(err, "--native %.100s:empty copies nothing", f->native->path);
	if (r == 0 && skipped &&
	    fvm_build_leave_out(f->b, f->native->path,
				"not all in it can be read: what can is "
				"in the native directory") < 0)
		r = fvm_error_set(err, ENOMEM, "copy it");
	return r;
}

/* What stands in DIR, with nothing in it. */
static int make_like(const struct filling *f, int seen, struct fvm_error *err)
{
	struct stat st;
	if (fstat(seen, &st) < 0)
		return fvm_error_set(err, errno, "look at it in the VM");
	/* whom the VM has no id for, it sees as nobody */
	(void)!fchown(f->data, st.st_uid, st.st_gid);
	if (fchmod(f->data, st.st_mode & 07777) < 0)
		return fvm_error_set(err, errno, "set its mode");
	return 0;
}

static int fill(const struct filling *f, struct fvm_error *err)
{
	int r = copy_frozen(f, err);
	if (r)
		return r < 0 ? r : 0;
	scoped_fd seen = fvm_open_nofollow(f->b->root, f->native->path + 1, O_RDONLY | O_DIRECTORY);
	if (seen == -ENOENT)
		return 0;
	if (seen == -EACCES && f->native->empty)
		return 0;
	if (seen == -EACCES)
		return fvm_build_leave_out(f->b, f->native->path,
					   "it can't be read: the native directory starts empty");
	if (seen < 0)
		return fvm_error_set(err, -seen, "open it in the VM");
	return f->native->empty ? make_like(f, seen, err) : copy_seen(f, seen, err);
}

static int make(struct filling *f, struct fvm_error *err)
{
	int r = make_new(f);
	if (r < 0)
		return fvm_error_set(err, -r, "make it in the store");
	r = fill(f, err);
	if (r < 0)
		return r;
	/* its name says that it is whole */
	if (!f->b->throw_away && syncfs(f->data) < 0)
		return fvm_error_set(err, errno, "write it");
	r = FVM_FAULT("native.place");
	if (r == 0 && renameat(f->dir, NEW "/data", f->dir, f->entry) < 0)
		r = -errno;
	if (r == 0)
		r = fvm_remove_tree(f->dir, NEW);
	return r < 0 ? fvm_error_set(err, -r, "put it in its place") : 0;
}

/* ---- attaching it ---- */

static int attach(const struct filling *f, int target)
{
	const struct fvm_plan *plan = f->b->plan;
	unsigned long flags = plan->mounts[fvm_plan_find(plan, f->native->path, false)].flags;
	const struct sys_mount_attr attr = {
		.attr_set = MOUNT_ATTR_NODEV | (flags & MS_NOSUID ? MOUNT_ATTR_NOSUID : 0) |
			    (flags & MS_NOEXEC ? MOUNT_ATTR_NOEXEC : 0),
	};
	/* a clone of a mount that has the VM's ids has them, too */
	scoped_fd tree = sys_open_tree(f->dir, f->entry, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	int r = tree < 0 ? tree : sys_mount_setattr(tree, "", AT_EMPTY_PATH, &attr);
	return r < 0 ? r
		     : sys_move_mount(tree, "", target, "",
				      MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static int mount_one(struct filling *f, struct fvm_error *err)
{
	char key[256];
	int r = fvm_mount_key(f->native->path, key, sizeof(key));
	if (r < 0)
		return fvm_error_set(err, -r, "name it");
	snprintf(f->entry, sizeof(f->entry), "at-%s", key);
	scoped_fd there = fvm_open_nofollow(f->dir, f->entry, O_PATH | O_DIRECTORY);
	if (there < 0 && there != -ENOENT)
		return fvm_error_set(err, -there, "open it in the store");
	if (there == -ENOENT)
		r = make(f, err);
	fvm_fd_closep(&f->data);
	fvm_fd_closep(&f->links);
	if (r < 0)
		return r;
	scoped_fd target = fvm_build_target(f->b->root, f->native->path + 1, false);
	if (target < 0)
		return fvm_error_set(err, -target, "make it in the VM");
	r = attach(f, target);
	return r < 0 ? fvm_error_set(err, -r, "mount it") : 0;
}

int fvm_natives_mount(struct fvm_build *b, struct fvm_error *err)
{
	if (b->natives->count == 0)
		return 0;
	struct filling f = { .b = b, .dir = open_dir(b), .data = -1, .links = -1 };
	int r = f.dir < 0 ? fvm_error_set(err, -f.dir, "open native directories in the store") : 0;
	for (size_t i = 0; r == 0 && i < b->natives->count; i++) {
		f.native = &b->natives->items[i];
		r = mount_one(&f, err);
		if (r < 0)
			fvm_error_wrap(err, r, "native directory '%.100s'", f.native->path);
	}
	fvm_fd_closep(&f.dir);
	return r;
}
