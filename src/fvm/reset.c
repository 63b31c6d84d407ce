#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fvm/changes.h"
#include "fvm/compare.h"
#include "fvm/lock.h"
#include "fvm/native.h"
#include "fvm/plan.h"
#include "fvm/internal.h"
#include "fvm/reset.h"
#include "fvm/snapshot.h"
#include "fvm/subids.h"
#include "fvm/whiteout.h"

static int check_stopped(const struct fvm_vm *vm, struct fvm_error *err)
{
	if (!fvm_lock_alive(vm->dir))
		return 0;
	fvm_error_set(err, EBUSY, "reset VM '%s', which is running", vm->config.name);
	fvm_error_hint(err, "its programs may use any of its files; first: fvm stop %s",
		       vm->config.name);
	return -EBUSY;
}

int fvm_reset_all(struct fvm_vm *vm, struct fvm_error *err)
{
	int r = check_stopped(vm, err);
	return r < 0 ? r : fvm_vm_empty(vm, err);
}

static int workspace_of(const struct fvm_stack *stack)
{
	return stack->layers[stack->count - 1];
}

/* The stack that @path lies in: sorted by mount point, so the last that fits is the deepest. */
static const struct fvm_stack *stack_of(const struct fvm_stacks *s, const char *path)
{
	const struct fvm_stack *best = NULL;
	for (size_t i = 0; i < s->count; i++) {
		if (fvm_path_below(path, s->items[i].mount_point))
			best = &s->items[i];
	}
	return best;
}

static int shadowed(const char *path, const char *by, size_t len, const char *how,
		    struct fvm_error *err)
{
	char text[200], name[4096];
	snprintf(name, sizeof(name), "%.*s", (int)len, by);
	fvm_error_set(err, EINVAL, "reset %s alone: the VM %s the directory above it",
		      fvm_quote_error(path, text), how);
	fvm_error_hint(err, "reset that as a whole: %s", fvm_quote_error(name, text));
	return -EINVAL;
}

/* Whether a layer below the workspace, or the base, has a directory there. The kernel marks every
 * new directory opaque, also where there is nothing to hide. */
static bool lower_has(const struct fvm_stack *stack, const char *path, size_t len)
{
	char rel[4096];
	size_t skip = strlen(stack->mount_point);
	skip += path[skip] == '/';
	snprintf(rel, sizeof(rel), "%.*s", (int)(len - skip), path + skip);
	for (size_t i = 0; i < stack->count; i++) {
		int below = i + 1 < stack->count ? stack->layers[i] : stack->base;
		scoped_fd fd = below < 0 ? -1 : fvm_open_nofollow(below, rel, O_PATH | O_DIRECTORY);
		if (fd >= 0)
			return true;
	}
	return false;
}

/* What stands in the way at one directory above the path. Return: its descriptor, -ENOENT, .. */
static int step(const struct fvm_stack *stack, int dir, const char *name, const char *path,
		size_t len, struct fvm_error *err)
{
	struct stat st;
	int r = fvm_stat_at(dir, name, &st);
	if (r < 0)
		return r;
	if (fvm_whiteout_is(dir, name, &st, stack->user_xattr))
		return shadowed(path, path, len, "deleted", err);
	if (!S_ISDIR(st.st_mode))
		return shadowed(path, path, len, "put something else in the place of", err);
	int fd = fvm_open_dir(dir, name, false);
	if (fd >= 0 && fvm_opaque_get(fd, stack->user_xattr) == FVM_OPAQUE &&
	    lower_has(stack, path, len)) {
		close(fd);
		return shadowed(path, path, len, "deleted and made again", err);
	}
	return fd;
}

/*
 * The directory of the workspace that @path lies in, and its last component.
 * Return: descriptor; -ENOENT: nothing of it is in the workspace; -EINVAL: shadowed
 */
static int find_parent(const struct fvm_stack *stack, const char *path, const char **ret_name,
		       struct fvm_error *err)
{
	const char *rel = path + strlen(stack->mount_point);
	rel += *rel == '/';
	int dir = fvm_open_dir(workspace_of(stack), ".", false);
	while (dir >= 0) {
		size_t len = strcspn(rel, "/");
		char name[256];
		if (rel[len] == '\0')
			break;
		if (len >= sizeof(name)) {
			close(dir);
			return -ENOENT;
		}
		memcpy(name, rel, len);
		name[len] = '\0';
		int next = step(stack, dir, name, path, (size_t)(rel - path) + len, err);
		close(dir);
		dir = next;
		rel += len + 1;
	}
	*ret_name = rel;
	return dir;
}

/* A tree goes by one rename, so that a crash leaves all of it or nothing, where it may be moved:
 * not out of an image, and not when it is a service's own. */
static int drop(const struct fvm_store *store, int dir, const char *name)
{
	int r = fvm_trash(store, dir, name, false);
	return r == -EXDEV || r == -EACCES || r == -EPERM ? fvm_subids_remove_tree(dir, name) : r;
}

/* A mount as a whole: its directory goes back to the base's attributes. Return: 1 when there was
 * something, 0, or -errno */
static int reset_mount(const struct fvm_store *store, const struct fvm_stack *stack)
{
	struct stat base;
	int upper = workspace_of(stack), any = 0, r = 0;
	if (upper < 0)
		return 0;
	scoped_dir d = fvm_dir_open(upper, ".");
	if (!d)
		return -errno;
	for (struct dirent *e; r == 0 && (e = fvm_dir_next(d));) {
		any = 1;
		r = drop(store, upper, e->d_name);
	}
	if (r == 0 && stack->base >= 0 && fstat(stack->base, &base) == 0 && !stack->owners &&
	    (fchown(upper, base.st_uid, base.st_gid) < 0 ||
	     fchmod(upper, base.st_mode & 07777) < 0))
		r = -errno;
	return r < 0 ? r : any;
}

/* With @dry: only find what stands in the way. Return: 1 when there was something, 0, or -errno */
static int reset_one(const struct fvm_store *store, const struct fvm_stacks *s, const char *path,
		     bool dry, struct fvm_error *err)
{
	int any = 0;
	for (size_t i = 0; i < s->count && dry; i++) {
		if (s->items[i].silent && fvm_path_below(s->items[i].mount_point, path))
			return fvm_stack_refuse(&s->items[i], err);
	}
	for (size_t i = 0; i < s->count && !dry; i++) {
		if (!fvm_path_below(s->items[i].mount_point, path))
			continue;
		int r = reset_mount(store, &s->items[i]);
		if (r < 0)
			return fvm_error_set(err, -r, "reset %s", s->items[i].mount_point);
		any |= r;
	}
	const struct fvm_stack *stack = stack_of(s, path);
	if (!stack || workspace_of(stack) < 0 || strcmp(stack->mount_point, path) == 0)
		return any;
	const char *name;
	struct stat st;
	char text[200];
	scoped_fd dir = find_parent(stack, path, &name, err);
	if (dir == -ENOENT || (dir >= 0 && fvm_stat_at(dir, name, &st) < 0))
		return any;
	if (dir < 0)
		return err->code ? dir
				 : fvm_error_set(err, -dir, "open what is above %s",
						 fvm_quote_error(path, text));
	if (dry)
		return 1;
	int r = drop(store, dir, name);
	return r < 0 ? fvm_error_set(err, -r, "reset %s", fvm_quote_error(path, text)) : 1;
}

int fvm_reset_paths(const struct fvm_vm *vm, const struct fvm_strv *paths,
		    struct fvm_strv *ret_changed, struct fvm_error *err)
{
	struct fvm_stacks s = { 0 };
	int r = check_stopped(vm, err);
	if (r == 0)
		r = fvm_stacks_open(vm, (const char *const *)paths->items, &s, err);
	if (r == 0)
		r = fvm_natives_refuse(&s.natives, (const char *const *)paths->items, err);
	for (size_t i = 0; i < paths->count && r >= 0; i++)
		r = reset_one(vm->store, &s, paths->items[i], true, err);
	for (size_t i = 0; i < paths->count && r >= 0; i++) {
		r = reset_one(vm->store, &s, paths->items[i], false, err);
		if (r == 1)
			r = fvm_strv_add(ret_changed, paths->items[i]);
	}
	fvm_stacks_close(&s);
	return r < 0 ? r : 0;
}
