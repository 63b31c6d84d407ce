#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <linux/securebits.h>

#include "fvm/build.h"
#include "fvm/caps.h"
#include "fvm/internal.h"
#include "fvm/standins.h"
#include "fvm/start.h"
#include "fvm/sys.h"

#define HIDE_NAME_MAX 40

int fvm_build_leave_out(struct fvm_build *b, const char *path, const char *why)
{
	struct fvm_running *r = b->running;
	struct fvm_left_out *more = realloc(r->left_out, (r->left_out_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	r->left_out = more;
	more += r->left_out_count;
	more->path = strdup(path);
	more->why = strdup(why);
	r->left_out_count++;
	return more->path && more->why ? 0 : -ENOMEM;
}

/* ---- step 3: workspaces ---- */

/* The upper's own attributes are what programs see of the mount's top directory. */
static int copy_top(int upper, const struct stat *base)
{
	struct timespec times[2] = { base->st_atim, base->st_mtim };
	if (fchown(upper, base->st_uid, base->st_gid) < 0 ||
	    fchmod(upper, base->st_mode & 07777) < 0 || futimens(upper, times) < 0)
		return -errno;
	return 0;
}

int fvm_build_workspace(const struct fvm_build *b)
{
	char path[FVM_NAME_MAX + 24];
	snprintf(path, sizeof(path), "vms/%s/workspace/fs", b->vm->config.name);
	return fvm_open_nofollow(b->store, path, O_RDONLY | O_DIRECTORY);
}

static int make_workspace(const struct fvm_build *b, const char *key, const struct stat *base)
{
	scoped_fd fs = fvm_build_workspace(b);
	if (fs < 0)
		return fs;
	if (mkdirat(fs, key, 0700) < 0 && errno != EEXIST)
		return -errno;
	scoped_fd top = fvm_open_nofollow(fs, key, O_RDONLY | O_DIRECTORY);
	if (top < 0)
		return top;
	/* a volatile mount that was not unmounted in order leaves a mark which refuses the next */
	if (b->throw_away && faccessat(top, "work/work/incompat", F_OK, 0) == 0)
		(void)fvm_remove_tree(top, "work");
	if (mkdirat(top, "work", 0700) < 0 && errno != EEXIST)
		return -errno;
	/* a spare's is there, with what the last base was like */
	if (mkdirat(top, "upper", 0700) < 0 && !(errno == EEXIST && b->throw_away))
		return errno == EEXIST ? 0 : -errno;
	scoped_fd upper = openat(top, "upper", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return upper < 0 ? -errno : copy_top(upper, base);
}

/* ---- step 4: the host's trees and the store, with the VM's ids ---- */

/* Owners in the mount @tree are the VM's from now on; @flags: also AT_RECURSIVE */
static int map_ids(const struct fvm_build *b, int tree, unsigned int flags)
{
	const struct sys_mount_attr attr = {
		.attr_set = MOUNT_ATTR_IDMAP,
		.userns_fd = (uint64_t)b->userns,
	};
	return sys_mount_setattr(tree, "", AT_EMPTY_PATH | flags, &attr);
}

/* Attach a clone of the mount at scratch/@at. Return: 0, or -EINVAL when it can't be idmapped */
static int attach_base(const struct fvm_build *b, const struct fvm_mount *m, const char *at,
		       struct stat *ret_st)
{
	scoped_fd tree = sys_open_tree(AT_FDCWD, m->path,
				       OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_NO_AUTOMOUNT);
	if (tree < 0)
		return tree;
	if (fstatat(tree, "", ret_st, AT_EMPTY_PATH | AT_NO_AUTOMOUNT) < 0)
		return -errno;
	int r = m->unmapped ? 0 : map_ids(b, tree, 0);
	if (r < 0)
		return r;
	if (mkdirat(b->scratch, at, 0700) < 0 && errno != EEXIST)
		return -errno;
	return sys_move_mount(tree, "", b->scratch, at, MOVE_MOUNT_F_EMPTY_PATH);
}

/* Sized workspaces and layers, where the clone of the store will bring them along. */
int fvm_build_disks(const struct fvm_build *b, struct fvm_error *err)
{
	char path[sizeof(b->vm->store->path) + FVM_NAME_MAX + 40], name[80];
	const struct fvm_strv *layers = &b->vm->config.layers;
	int r = 0;
	for (size_t i = 0; r == 0 && i < layers->count; i++) {
		snprintf(name, sizeof(name), "layers/%s", layers->items[i]);
		scoped_fd layer =
			fvm_open_nofollow(b->vm->store->dir, name, O_RDONLY | O_DIRECTORY);
		if (layer < 0 || !fvm_disk_has_image(layer))
			continue;
		snprintf(path, sizeof(path), "%s/%s/fs", b->vm->store->path, name);
		r = fvm_disk_mount(layer, FVM_DISK_IMAGE, 0, path, err);
	}
	if (r < 0 || b->disk == FVM_DISK_PLAIN || b->disk == FVM_DISK_QUOTA)
		return r;
	scoped_fd workspace = fvm_open_nofollow(b->vm->dir, "workspace", O_RDONLY | O_DIRECTORY);
	snprintf(path, sizeof(path), "%s/vms/%s/workspace/fs", b->vm->store->path,
		 b->vm->config.name);
	return fvm_disk_mount(workspace, b->disk, b->vm->config.disk_bytes, path, err);
}

/* As the store: by path, and before RUN is covered, too. */
static int clone_hide(const struct fvm_build *b)
{
	char link[64], path[PATH_MAX];
	if (b->hide_shared < 0)
		return b->hide_kept < 0 ? -ENOENT : fvm_hide_clone(b->hide_kept);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", b->hide_shared);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	if (n < 0)
		return -errno;
	path[n] = '\0';
	return sys_open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
}

static int make_scratch(struct fvm_build *b, struct fvm_error *err)
{
	char options[96];
	int r = fvm_build_disks(b, err);
	if (r < 0)
		return r;
	/* by path, as store->dir is of the host's mount namespace and only ours can be cloned from
	 * here; now, before the tmpfs covers it; a sized workspace mounted below it comes along */
	b->store = sys_open_tree(AT_FDCWD, b->vm->store->path,
				 OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (b->store < 0)
		return fvm_error_set(err, -b->store, "clone %s", b->vm->store->path);
	b->hide_tree = clone_hide(b);
	snprintf(options, sizeof(options), "mode=0755,uid=%u,gid=%u", b->map->base, b->map->base);
	/* the store itself serves as the mount point: we hold it by descriptor */
	if (mount("fvm", b->vm->store->path, "tmpfs", MS_NOSUID, options) < 0)
		return fvm_error_set(err, errno, "mount a tmpfs");
	b->scratch = open(b->vm->store->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (b->scratch < 0 || fchdir(b->scratch) < 0)
		return fvm_error_set(err, errno, "enter the tmpfs");
	static const char *const dirs[] = { "root", "store", "empty", "overlay" };
	for (size_t i = 0; i < FVM_COUNT(dirs); i++) {
		if (mkdirat(b->scratch, dirs[i], 0755) < 0)
			return fvm_error_set(err, errno, "make %s", dirs[i]);
	}
	return 0;
}

/* The store with all layers. */
static int attach_store(const struct fvm_build *b, struct fvm_error *err)
{
	int r = map_ids(b, b->store, AT_RECURSIVE);
	if (r == 0)
		r = sys_move_mount(b->store, "", b->scratch, "store", MOVE_MOUNT_F_EMPTY_PATH);
	if (r < 0) {
		fvm_error_set(err, -r, "map the ids of the store %s", b->vm->store->path);
		fvm_error_hint(err,
			       "its file system can't be idmapped: set FVM_HOME to a directory "
			       "on ext4, xfs or btrfs");
	}
	return r;
}

/* What can't be idmapped (before Linux 6.3) is made here instead. */
static void attach_hide(struct fvm_build *b)
{
	b->hide_attached =
		map_ids(b, b->hide_tree, 0) == 0 && mkdirat(b->scratch, "hide", 0700) == 0 &&
		sys_move_mount(b->hide_tree, "", b->scratch, "hide", MOVE_MOUNT_F_EMPTY_PATH) == 0;
}

/* ---- step 5: overlays ---- */

/* What lies between the base and the VM's own layers: directories of scratch, or "". */
struct between {
	char hidden[HIDE_NAME_MAX], stand_ins[32];
};

/* lowerdir, topmost first: workspace > frozen > hide > stand-ins > base. Short symlinks keep it in
 * a page. */
static int overlay_options(const struct fvm_build *b, const char *key, const char *base,
			   const struct between *mid, bool writable, struct fvm_buf *o)
{
	char path[400], name[48];
	const struct fvm_strv *layers = &b->vm->config.layers;
	fvm_buf_puts(o, "lowerdir=");
	for (size_t i = layers->count; i-- > 0;) {
		snprintf(path, sizeof(path), "store/layers/%s/fs/%s/upper", layers->items[i], key);
		struct stat st;
		if (fstatat(b->scratch, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		snprintf(name, sizeof(name), "l%zu-%zu", b->overlays, i);
		if (symlinkat(path, b->scratch, name) < 0 && errno != EEXIST)
			return -errno;
		fvm_buf_printf(o, "%s:", name);
	}
	bool hides = mid->hidden[0];
	if (hides)
		fvm_buf_printf(o, "%s:", mid->hidden);
	if (mid->stand_ins[0])
		fvm_buf_printf(o, "%s:", mid->stand_ins);
	/* a read-only overlay wants two layers at least */
	fvm_buf_printf(o, "%s%s", writable || hides ? "" : "empty:", base);
	if (writable)
		fvm_buf_printf(o,
			       ",upperdir=store/vms/%s/workspace/fs/%s/upper"
			       ",workdir=store/vms/%s/workspace/fs/%s/work",
			       b->vm->config.name, key, b->vm->config.name, key);
	fvm_buf_puts(o, ",redirect_dir=off,metacopy=off,index=off");
	/* the tmpfs is another device, yet find -xdev is to see one */
	if (hides)
		fvm_buf_puts(o, ",xino=on");
	if (writable && b->throw_away)
		fvm_buf_puts(o, ",volatile");
	return o->failed ? -ENOMEM : 0;
}

static int open_target(const struct fvm_build *b, const char *path)
{
	if (b->root < 0) /* the root itself is mounted on a directory of ours */
		return openat(b->scratch, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fvm_open_nofollow(b->root, path[1] ? path + 1 : ".", O_PATH | O_DIRECTORY);
}

static int mount_at(int target, unsigned long flags, const char *options)
{
	char link[64];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", target);
	return mount("fvm", link, "overlay", flags, options) < 0 ? -errno : 0;
}

/* Overlay refuses a lower layer that lies below another one (ELOOP), as frozen layers do when the
 * store is on the file system they change. Seen through an overlay of its own the base has another
 * root, and all is well; that costs one more mount and a second look-up per file. */
static int nest_base(const struct fvm_build *b, const char *base, char *nested, size_t size)
{
	char options[64];
	snprintf(nested, size, "n%s", base);
	snprintf(options, sizeof(options), "lowerdir=empty:%s,index=off", base);
	if (mkdirat(b->scratch, nested, 0700) < 0)
		return -errno;
	scoped_fd target = openat(b->scratch, nested, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return target < 0 ? -errno : mount_at(target, MS_RDONLY | MS_NODEV, options);
}

/* See base.h. */
static int make_stand_ins(const struct fvm_build *b, const struct fvm_mount *m, const char *base,
			  char name[32])
{
	char path[PATH_MAX];
	struct stat st;
	snprintf(name, 32, "s%s", base);
	for (size_t i = 0; m->network && i < b->standin_count; i++) {
		if (b->standins[i].mount == (size_t)(m - b->plan->mounts))
			return fvm_standins_mount(&b->standins[i], b->scratch, name);
	}
	if (m->network) {
		name[0] = '\0';
		return 0;
	}
	if (snprintf(path, sizeof(path), "store/%s%s", b->skeleton->path, m->path) >=
	    (int)sizeof(path))
		return -ENAMETOOLONG;
	if (fstatat(b->scratch, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return symlinkat(path, b->scratch, name) < 0 ? -errno : 0;
}

/* Return: 0 and mid->hidden, "" when nothing is hidden there; or negative errno */
static int hide_layer(const struct fvm_build *b, const struct fvm_mount *m, const char *base,
		      bool shared, struct between *mid)
{
	size_t mount = (size_t)(m - b->plan->mounts);
	int r;
	if (shared) {
		snprintf(mid->hidden, sizeof(mid->hidden), "hide/fs/%zu", mount);
		r = fvm_hide_in(b->hide, mount);
	} else {
		snprintf(mid->hidden, sizeof(mid->hidden), "h%s", base);
		r = fvm_hide_layer(b->hide, b->plan, mount, m->unmapped ? b->map : NULL, b->scratch,
				   base, mid->hidden);
	}
	if (r <= 0)
		mid->hidden[0] = '\0';
	return r < 0 ? r : 0;
}

/* One overlay, as mount_overlay() will have it. */
struct wanted {
	const char *key, *base;
	struct between mid;
	bool writable;
	unsigned long flags;
	int target;
};

/* What refuses an overlay does so after it has put the mark of a volatile one into the work
 * directory, which refuses the next. */
static void forget_volatile(const struct fvm_build *b, const struct wanted *w)
{
	char path[FVM_NAME_MAX + 320];
	snprintf(path, sizeof(path), "store/vms/%s/workspace/fs/%s", b->vm->config.name, w->key);
	scoped_fd top = openat(b->scratch, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (top >= 0 && b->throw_away && fvm_remove_tree(top, "work") == 0)
		(void)mkdirat(top, "work", 0700);
}

static int try_overlay(const struct fvm_build *b, const struct wanted *w)
{
	scoped_buf options = { 0 };
	int r = overlay_options(b, w->key, w->base, &w->mid, w->writable, &options);
	if (r == 0)
		r = mount_at(w->target, w->flags, options.data);
	if (r == -ELOOP && w->writable)
		forget_volatile(b, w);
	return r;
}

static int mount_overlay(struct fvm_build *b, const struct fvm_mount *m, const char *key,
			 const char *base)
{
	scoped_fd target = open_target(b, m->path);
	char nested[32];
	bool writable = m->class == FVM_MOUNT_OVERLAY, shared = b->hide_attached && !m->network;
	if (target < 0)
		return target;
	struct wanted w = {
		.key = key,
		.base = base,
		.writable = writable,
		/* the host's device nodes must stay dead, whatever its own flags say */
		.flags = (m->flags & (MS_NOSUID | MS_NOEXEC)) | MS_NODEV |
			 (writable ? 0 : MS_RDONLY),
		.target = target,
	};
	int r = hide_layer(b, m, base, shared, &w.mid);
	if (r == 0 && m->unmapped && writable)
		r = make_stand_ins(b, m, base, w.mid.stand_ins);
	if (r < 0)
		return r;
	r = try_overlay(b, &w);
	if (r == -ELOOP && shared && w.mid.hidden[0]) { /* RUN lies in what is mounted here */
		r = hide_layer(b, m, base, false, &w.mid);
		if (r == 0)
			r = try_overlay(b, &w);
	}
	if (r == -ELOOP) {
		w.base = nested;
		r = nest_base(b, base, nested, sizeof(nested));
		if (r == 0)
			r = try_overlay(b, &w);
	}
	b->overlays++;
	return r;
}

/* A read-only file system that overlay can't stand on: the tree itself, read-only and locked. */
static int bind_read_only(const struct fvm_build *b, const struct fvm_mount *m)
{
	scoped_fd target = open_target(b, m->path);
	scoped_fd tree = sys_open_tree(AT_FDCWD, m->path,
				       OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_NO_AUTOMOUNT);
	if (target < 0 || tree < 0)
		return target < 0 ? target : tree;
	struct sys_mount_attr attr = {
		.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV |
			    (m->flags & MS_NOSUID ? MOUNT_ATTR_NOSUID : 0) |
			    (m->flags & MS_NOEXEC ? MOUNT_ATTR_NOEXEC : 0),
	};
	int r = sys_mount_setattr(tree, "", AT_EMPTY_PATH, &attr);
	if (r < 0)
		return r;
	return sys_move_mount(tree, "", target, "",
			      MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

struct base {
	const struct fvm_mount *mount;
	char key[256];
	char at[24]; /* where in scratch it is attached; "" if it isn't */
};

static int prepare_base(struct fvm_build *b, const struct fvm_mount *m, size_t i, struct base *base,
			struct fvm_error *err)
{
	struct stat st;
	base->mount = m;
	base->at[0] = '\0';
	if (m->class == FVM_MOUNT_FRESH)
		return 0;
	if (m->class == FVM_MOUNT_LEFT_OUT)
		return fvm_build_leave_out(b, m->path, m->why);
	if (fvm_hide_has(b->hide, m->path))
		return fvm_build_leave_out(b, m->path, "it is hidden");
	int r = fvm_mount_key(m->path, base->key, sizeof(base->key));
	if (r < 0)
		return fvm_build_leave_out(b, m->path, "its path is too long");
	char at[24];
	snprintf(at, sizeof(at), "b%zu", i);
	r = attach_base(b, m, at, &st);
	if (r < 0 && strcmp(m->path, "/") == 0)
		return fvm_error_set(err, -r, "map the ids of / (%s)", m->fstype);
	if (r < 0 && m->class == FVM_MOUNT_READ_ONLY)
		return 0; /* bound as it is */
	if (r < 0)
		return fvm_build_leave_out(b, m->path, "its file system can't be idmapped");
	if (!S_ISDIR(st.st_mode))
		return fvm_build_leave_out(b, m->path, "a file, not a directory, is mounted there");
	strcpy(base->at, at);
	if (m->class != FVM_MOUNT_OVERLAY)
		return 0;
	r = make_workspace(b, base->key, &st);
	return r < 0 ? fvm_error_set(err, -r, "make the workspace of %s", m->path) : 0;
}

static int mount_one(struct fvm_build *b, const struct base *base, struct fvm_error *err)
{
	const struct fvm_mount *m = base->mount;
	if (m->class != FVM_MOUNT_OVERLAY && m->class != FVM_MOUNT_READ_ONLY)
		return 0;
	if (fvm_hide_has(b->hide, m->path))
		return 0;
	int r = -EINVAL;
	if (base->at[0])
		r = mount_overlay(b, m, base->key, base->at);
	else if (m->class == FVM_MOUNT_OVERLAY)
		return 0; /* was left out */
	if (r < 0 && m->class == FVM_MOUNT_READ_ONLY) {
		if (fvm_hide_in(b->hide, (size_t)(m - b->plan->mounts)))
			return fvm_build_leave_out(b, m->path,
						   "part of it is hidden, which it can't be");
		r = bind_read_only(b, m);
	}
	if (r < 0 && strcmp(m->path, "/") == 0)
		return fvm_error_set(err, -r, "mount the overlay of /");
	if (r == -ENOENT || r == -ENOTDIR || r == -ELOOP)
		return fvm_build_leave_out(b, m->path,
					   "the VM has put something else in its place");
	if (r < 0)
		return fvm_build_leave_out(b, m->path, strerror(-r));
	if (b->root < 0) {
		b->root = openat(b->scratch, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (b->root < 0)
			return fvm_error_set(err, errno, "open the new root");
	}
	return m->class == FVM_MOUNT_OVERLAY ? fvm_strv_add(&b->running->keys, base->key) : 0;
}

/*
 * Files made from now on belong to the VM's root, with all our capabilities kept but one: overlay
 * writes with the credentials of now, and CAP_SYS_RESOURCE would write past quotas and into the
 * blocks that the host's file system keeps for its root.
 */
static int become_vm_root(const struct fvm_build *b, struct fvm_error *err)
{
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) < 0)
		return fvm_error_set(err, errno, "keep capabilities");
	int r = fvm_caps_lower(FVM_CAP(SYS_RESOURCE));
	if (r < 0)
		return fvm_error_set(err, -r, "drop CAP_SYS_RESOURCE");
	syscall(SYS_setfsgid, b->map->base);
	syscall(SYS_setfsuid, b->map->base);
	return 0;
}

static int mount_trees(struct fvm_build *b, struct fvm_error *err)
{
	scoped_free struct base *bases = calloc(b->plan->count, sizeof(*bases));
	if (!bases)
		return fvm_error_set(err, ENOMEM, "plan the mounts");
	int r = 0;
	for (size_t i = 0; r == 0 && i < b->plan->count; i++)
		r = prepare_base(b, &b->plan->mounts[i], i, &bases[i], err);
	if (r == 0 && b->hide_tree >= 0)
		attach_hide(b);
	if (r == 0)
		r = attach_store(b, err);
	if (r == 0)
		r = become_vm_root(b, err);
	for (size_t i = 0; r == 0 && i < b->plan->count; i++)
		r = mount_one(b, &bases[i], err);
	return r;
}

/* ---- /dev and /run: directories of the scratch tmpfs ---- */

static int bind_part(const struct fvm_build *b, const char *part, const char *where,
		     uint64_t attributes, struct fvm_error *err)
{
	scoped_fd tree =
		sys_open_tree(b->scratch, part, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	scoped_fd target = fvm_open_nofollow(b->root, where, O_PATH | O_DIRECTORY);
	if (target == -ENOENT && mkdirat(b->root, where, 0755) == 0)
		target = fvm_open_nofollow(b->root, where, O_PATH | O_DIRECTORY);
	if (tree < 0 || target < 0) {
		fvm_error_set(err, tree < 0 ? -tree : -target, "open /%s", where);
		if (target < 0)
			fvm_error_hint(err, "if the VM replaced it: fvm reset VM /%s", where);
		return -err->code;
	}
	const struct sys_mount_attr attr = { .attr_set = attributes };
	int r = sys_mount_setattr(tree, "", AT_EMPTY_PATH, &attr);
	if (r == 0)
		r = sys_move_mount(tree, "", target, "",
				   MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
	return r < 0 ? fvm_error_set(err, -r, "mount /%s", where) : 0;
}

static int mount_parts(const struct fvm_build *b, struct fvm_error *err)
{
	int r = fvm_dev_make(b, err);
	if (r == 0)
		r = fvm_run_dir_make(b, err);
	if (r == 0)
		r = fvm_names_make(b, err);
	if (r == 0)
		r = bind_part(b, "dev", "dev", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, err);
	if (r == 0)
		r = bind_part(b, "run", "run", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, err);
	return r;
}

/* ---- step 6: what belongs to the VM's namespaces ---- */

static int mount_kernel_fs(const struct fvm_build *b, const char *type, const char *where,
			   unsigned long flags, bool needed, struct fvm_error *err)
{
	char link[64];
	scoped_fd target = fvm_open_nofollow(b->root, where, O_PATH | O_DIRECTORY);
	if (target < 0 && !needed)
		return 0;
	if (target < 0)
		return fvm_error_set(err, -target, "open /%s", where);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", target);
	if (mount(type, link, type, flags | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 && needed)
		return fvm_error_set(err, errno, "mount /%s", where);
	return 0;
}

struct proc_mount {
	const struct fvm_build *build;
	struct fvm_error *err;
};

static int mount_proc(void *arg)
{
	const struct proc_mount *p = arg;
	int r = mount_kernel_fs(p->build, "proc", "proc", 0, true, p->err);
	/* in a user namespace the kernel shows no more of proc than what is seen around it */
	if (r == -EPERM && p->build->trees)
		fvm_error_hint(p->err,
			       "parts of /proc are covered here, as in containers: docker "
			       "run --security-opt systempaths=unconfined, or --privileged");
	return r < 0;
}

static int mount_kernel(const struct fvm_build *b, struct fvm_error *err)
{
	/* the host's network namespace is no user's: neither to be entered nor to be shown */
	bool others_net = b->trees && b->vm->config.net == FVM_NET_HOST;
	int flags = CLONE_NEWCGROUP | CLONE_NEWIPC | (others_net ? 0 : CLONE_NEWNET);
	int r = b->await_spaces(b->await_arg);
	if (r < 0)
		return fvm_error_set(err, -r, "await the VM's namespaces");
	if (setns(b->init_pidfd, flags) < 0)
		return fvm_error_set(err, errno, "enter the VM's namespaces");
	r = mount_kernel_fs(b, "sysfs", "sys", MS_RDONLY, !others_net, err);
	if (r == 0)
		r = mount_kernel_fs(b, "cgroup2", "sys/fs/cgroup", b->own_cgroups ? 0 : MS_RDONLY,
				    false, err);
	if (r == 0)
		r = mount_kernel_fs(b, "mqueue", "dev/mqueue", 0, false, err);
	if (r == 0 && setns(b->init_pidfd, CLONE_NEWPID) < 0)
		r = fvm_error_set(err, errno, "enter the VM's pid namespace");
	/* proc shows the pid namespace its mounter lives in, and only a new process lives there */
	struct proc_mount p = { b, err };
	if (r == 0)
		r = fvm_spawn_shared(mount_proc, &p, -1);
	if (r > 0)
		r = -err->code;
	return r;
}

static int pivot(const struct fvm_build *b, struct fvm_error *err)
{
	if (fchdir(b->root) < 0 || sys_pivot_root(".", ".") < 0 || umount2(".", MNT_DETACH) < 0 ||
	    chdir("/") < 0)
		return fvm_error_set(err, errno, "change the root");
	return 0;
}

int fvm_build_world(struct fvm_build *b, struct fvm_error *err)
{
	b->store = b->scratch = b->root = b->hide_tree = -1;
	mode_t mask = umask(0); /* what is made here gets the mode that it is made with */
	int r = b->trees ? fvm_trees_mount(b, err) : make_scratch(b, err);
	if (r == 0 && !b->trees)
		r = mount_trees(b, err);
	if (r == 0)
		r = mount_parts(b, err);
	if (r == 0)
		r = fvm_natives_mount(b, err);
	if (r == 0)
		r = fvm_binds_mount(b, err);
	if (r == 0)
		r = mount_kernel(b, err);
	if (r == 0)
		r = pivot(b, err);
	umask(mask);
	fvm_fd_closep(&b->store);
	fvm_fd_closep(&b->hide_tree);
	fvm_fd_closep(&b->scratch);
	fvm_fd_closep(&b->root);
	return r;
}
