#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "fvm/disk.h"
#include "fvm/root_user.h"

struct planner {
	const struct fvm_plan *plan;
	const struct fvm_strv *keys;
	const struct fvm_tree_view *view;
	struct fvm_trees trees;
};

void fvm_trees_free(struct fvm_trees *trees)
{
	for (size_t i = 0; i < trees->count; i++) {
		free(trees->items[i].path);
		free(trees->items[i].key);
		free(trees->items[i].foreign);
	}
	free(trees->items);
	for (size_t i = 0; i < trees->place_count; i++)
		free(trees->places[i].path);
	free(trees->places);
	*trees = (struct fvm_trees){ 0 };
}

/* ---- the plan ---- */

static const struct fvm_mount *mount_at(const struct fvm_plan *plan, const char *path)
{
	for (size_t i = 0; i < plan->count; i++) {
		if (strcmp(plan->mounts[i].path, path) == 0)
			return &plan->mounts[i];
	}
	return NULL;
}

/* The mount that @path lies in; mounts are sorted, so the last that fits is the deepest. */
static const struct fvm_mount *mount_of(const struct fvm_plan *plan, const char *path)
{
	const struct fvm_mount *best = &plan->mounts[0];
	for (size_t i = 0; i < plan->count; i++) {
		if (fvm_path_below(path, plan->mounts[i].path))
			best = &plan->mounts[i];
	}
	return best;
}

static bool mount_below(const struct fvm_plan *plan, const char *path)
{
	for (size_t i = 0; i < plan->count; i++) {
		const char *at = plan->mounts[i].path;
		if (strcmp(at, path) != 0 && fvm_path_below(at, path))
			return true;
	}
	return false;
}

static int add_tree(struct planner *p, enum fvm_tree_kind kind, const char *path, const char *key,
		    const struct stat *st)
{
	struct fvm_trees *t = &p->trees;
	struct fvm_tree *more = realloc(t->items, (t->count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	t->items = more;
	more += t->count++;
	*more = (struct fvm_tree){
		.kind = kind,
		.path = strdup(path),
		.key = strdup(key),
		.flags = mount_of(p->plan, path)->flags & (MS_NOSUID | MS_NOEXEC),
		.st = *st,
	};
	return more->path && more->key ? 0 : -ENOMEM;
}

static int add_place(struct planner *p, const char *path, const struct stat *st, bool inner)
{
	struct fvm_trees *t = &p->trees;
	struct fvm_tree_place *more = realloc(t->places, (t->place_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	t->places = more;
	more += t->place_count;
	*more = (struct fvm_tree_place){ .path = strdup(path), .st = *st, .inner = inner };
	t->place_count += more->path != NULL;
	return more->path ? 0 : -ENOMEM;
}

static int visit(struct planner *p, const char *path);

static int visit_children(struct planner *p, const char *path, const struct fvm_strv *names)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < names->count; i++) {
		char child[PATH_MAX];
		if (snprintf(child, sizeof(child), "%s/%s", path[1] ? path : "", names->items[i]) <
		    (int)sizeof(child))
			r = visit(p, child);
	}
	return r;
}

/* Made anew in the VM, whether the host has a mount there or not. */
static bool fresh_place(const struct fvm_mount *m, const char *path)
{
	static const char *const fresh[] = { "/proc", "/sys", "/dev", "/run" };
	for (size_t i = 0; i < FVM_COUNT(fresh); i++) {
		if (fvm_path_below(path, fresh[i]))
			return true;
	}
	return m && (m->class == FVM_MOUNT_FRESH || m->class == FVM_MOUNT_LEFT_OUT);
}

static int visit(struct planner *p, const char *path)
{
	const struct fvm_mount *m = mount_at(p->plan, path);
	scoped_strv names = { 0 };
	struct stat st;
	char key[256];
	bool empty = false, top = strcmp(path, "/") == 0;
	if (fresh_place(m, path) || fvm_mount_key(path, key, sizeof(key)) < 0)
		return 0;
	int r = p->view->look(p->view->arg, path, &st);
	bool searchable = r == 0;
	if (r < 0 && r != -EACCES)
		return top ? r : 0;
	bool below = top || mount_below(p->plan, path);
	if (searchable)
		r = p->view->list(p->view->arg, path, &names, &empty);
	bool readable = r == 0;
	if (searchable && r < 0 && r != -EACCES)
		return r;
	if (m && m->class == FVM_MOUNT_READ_ONLY && !below && !top)
		return readable ? add_tree(p, FVM_TREE_READ_ONLY, path, key, &st)
				: add_place(p, path, &st, false);
	/* what can't be listed may yet have files that can be opened by their names */
	if ((!searchable || (readable && empty)) && !below && !fvm_strv_has(p->keys, key))
		return m ? add_place(p, path, &st, false) : 0;
	/* what can't be listed has no host's directory below it: mounts there do no harm */
	bool apart = readable && below;
	/* of a mount's own top the flags may differ */
	if (apart && !top && !m && !fvm_strv_has(p->keys, key))
		r = add_place(p, path, &st, true);
	else
		r = add_tree(p, apart ? FVM_TREE_SYNTHETIC : FVM_TREE_OVERLAY, path, key, &st);
	if (r == 0 && below && !readable)
		p->trees.items[p->trees.count - 1].bare = true;
	return r == 0 && apart ? visit_children(p, path, &names) : r;
}

static bool has_tree(const struct fvm_trees *t, const char *key)
{
	for (size_t i = 0; i < t->count; i++) {
		if (strcmp(t->items[i].key, key) == 0)
			return true;
	}
	return false;
}

/* A key that was apart and has changes stays apart. */
static int add_old_keys(struct planner *p)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < p->keys->count; i++) {
		const char *key = p->keys->items[i];
		char path[PATH_MAX];
		struct stat st;
		if (has_tree(&p->trees, key) || fvm_mount_point(key, path, sizeof(path)) < 0)
			continue;
		const struct fvm_mount *m = mount_of(p->plan, path);
		if (fresh_place(m, path) || m->class == FVM_MOUNT_READ_ONLY)
			continue;
		r = p->view->look(p->view->arg, path, &st);
		if (r == 0)
			r = add_tree(p, FVM_TREE_OVERLAY, path, key, &st);
		else if (r != -ENOMEM)
			r = 0;
	}
	return r;
}

static int compare_trees(const void *a, const void *b)
{
	return strcmp(((const struct fvm_tree *)a)->path, ((const struct fvm_tree *)b)->path);
}

int fvm_trees_plan(const struct fvm_plan *plan, const struct fvm_strv *keys,
		   const struct fvm_tree_view *view, struct fvm_trees *ret)
{
	struct planner p = { .plan = plan, .keys = keys, .view = view };
	int r = visit(&p, "/");
	if (r == 0)
		r = add_old_keys(&p);
	if (r < 0) {
		fvm_trees_free(&p.trees);
		return r;
	}
	qsort(p.trees.items, p.trees.count, sizeof(*p.trees.items), compare_trees);
	*ret = p.trees;
	return 0;
}

/* ---- this host ---- */

static int look(void *arg, const char *path, struct stat *ret)
{
	(void)arg;
	if (fstatat(AT_FDCWD, path, ret, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
		return -errno;
	if (!S_ISDIR(ret->st_mode))
		return -ENOTDIR;
	return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) < 0 ? -EACCES : 0;
}

static int list(void *arg, const char *path, struct fvm_strv *ret, bool *ret_empty)
{
	(void)arg;
	scoped_dir d = opendir(path);
	int r = 0;
	if (!d)
		return -errno;
	*ret_empty = true;
	for (struct dirent *e; r == 0 && (e = fvm_dir_next(d));) {
		*ret_empty = false;
		if (e->d_type == DT_DIR || e->d_type == DT_UNKNOWN)
			r = fvm_strv_add(ret, e->d_name);
	}
	return r;
}

/* ---- this VM ---- */

static bool has_entries(int dir, const char *key)
{
	char path[300];
	snprintf(path, sizeof(path), "%s/upper", key);
	scoped_dir d = fvm_dir_open(dir, path);
	/* EACCES: the VM gave it to one of its services */
	return d ? fvm_dir_next(d) != NULL : errno == EACCES;
}

static int add_keys(int parent, struct fvm_strv *keys)
{
	int fs = fvm_disk_open(parent), r = 0;
	scoped_dir d = fvm_dir_take(fs);
	for (struct dirent *e; d && r == 0 && (e = readdir(d));) {
		if (e->d_name[0] != '.' && !fvm_strv_has(keys, e->d_name) &&
		    has_entries(fs, e->d_name))
			r = fvm_strv_add(keys, e->d_name);
	}
	return r;
}

static int find_keys(const struct fvm_vm *vm, bool blank, struct fvm_strv *ret)
{
	scoped_fd workspace =
		blank ? -1 : fvm_open_nofollow(vm->dir, "workspace", O_RDONLY | O_DIRECTORY);
	int r = workspace < 0 ? 0 : add_keys(workspace, ret);
	for (size_t i = 0; r == 0 && i < vm->config.layers.count; i++) {
		char path[80];
		snprintf(path, sizeof(path), "layers/%s", vm->config.layers.items[i]);
		scoped_fd layer = fvm_open_nofollow(vm->store->dir, path, O_RDONLY | O_DIRECTORY);
		r = layer < 0 ? 0 : add_keys(layer, ret);
	}
	return r;
}

int fvm_trees_make(const struct fvm_vm *vm, const struct fvm_plan *plan, bool blank,
		   struct fvm_trees *ret, struct fvm_error *err)
{
	static const struct fvm_tree_view view = { look, list, NULL };
	scoped_strv keys = { 0 };
	int r = find_keys(vm, blank, &keys);
	if (r == 0)
		r = fvm_trees_plan(plan, &keys, &view, ret);
	return r < 0 ? fvm_error_set(err, -r, "plan the overlays") : 0;
}
