/*
 * What was committed leaves the workspace for commits/ID/layer, under the entry's number, and comes
 * back from there on undo. Leaving it in the workspace is never wrong, it equals the host's then
 * and is no change; so whatever is in doubt stays:
 *   - the VM is paused: its programs may have the file open
 *   - a frozen layer has something at that path, which would show from below
 *   - it lies in an opaque directory, which would hide the host's
 *   - a new directory of which only a part was committed
 * Each step looks first whether it was done, so all of this can be repeated after a crash.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/commit_priv.h"
#include "fvm/inode.h"
#include "fvm/subids.h"

static const struct fvm_stack *stack_of(const struct commit *c, const struct commit_entry *e,
					const struct fvm_stacks *stacks)
{
	for (size_t i = 0; i < stacks->count; i++) {
		if (strcmp(stacks->items[i].key, c->stacks[e->stack].key) == 0)
			return &stacks->items[i];
	}
	return NULL;
}

static int workspace_of(const struct fvm_stack *stack)
{
	return stack && stack->count > 0 ? stack->layers[stack->count - 1] : -1;
}

/* Whether a frozen layer says anything about @rel or a directory it lies in, but by passing it on.
 */
static bool frozen_has(const struct fvm_stack *stack, const char *rel)
{
	for (size_t i = 0; i + 1 < stack->count; i++) {
		if (stack->layers[i] < 0)
			continue;
		scoped_fd fd = fvm_open_deep(stack->layers[i], rel, O_PATH);
		if (fd != -ENOENT)
			return true;
	}
	return false;
}

/* Whether a directory on the way to @rel is opaque in the workspace. */
static bool is_hidden(const struct fvm_stack *stack, const char *rel)
{
	scoped_free char *path = strdup(rel);
	for (char *slash = path ? strrchr(path, '/') : NULL; slash; slash = strrchr(path, '/')) {
		*slash = '\0';
		scoped_fd dir = fvm_open_deep(workspace_of(stack), path, O_RDONLY | O_DIRECTORY);
		if (dir < 0 || fvm_opaque_is(dir, stack->user_xattr))
			return true;
	}
	return !path;
}

/* ---- how much lies in a directory ---- */

static int count_level(int dir, struct fvm_strv *dirs, const char *below, size_t *ret_count)
{
	scoped_dir d = fvm_dir_take(dir);
	if (!d)
		return -errno;
	int r = 0;
	for (struct dirent *e; r == 0 && (e = fvm_dir_next(d));) {
		struct stat st;
		(*ret_count)++;
		if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			r = -errno;
		else if (S_ISDIR(st.st_mode))
			r = fvm_strv_addf(dirs, "%s/%s", below, e->d_name);
	}
	return r;
}

/* Entries in the whole tree @rel below @top, itself not counted: a list, no recursion. */
int commit_count_tree(int top, const char *rel, size_t *ret)
{
	scoped_strv dirs = { 0 };
	size_t count = 0;
	int r = fvm_strv_add(&dirs, rel);
	while (r == 0 && dirs.count > 0) {
		scoped_free char *path = dirs.items[--dirs.count];
		dirs.items[dirs.count] = NULL;
		int dir = fvm_open_deep(top, path, O_RDONLY | O_DIRECTORY);
		r = dir < 0 ? dir : count_level(dir, &dirs, path, &count);
	}
	*ret = count;
	return r;
}

size_t commit_count_inside(const struct commit *c, size_t top)
{
	size_t count = 0;
	/* they follow it at once, with other directories' times in between at most */
	for (size_t i = top + 1; i < c->count; i++)
		count += c->entries[i].top == top;
	return count;
}

/* ---- taking ---- */

static bool may_leave(const struct commit *c, size_t index, const struct fvm_stack *stack)
{
	const struct commit_entry *e = &c->entries[index];
	int workspace = workspace_of(stack);
	size_t count = 0;
	if (workspace < 0 || e->top != COMMIT_NO_TOP || !*e->rel)
		return false;
	if (e->op != COMMIT_DELETE && e->op != COMMIT_DIR && e->layer != stack->count - 1)
		return false;
	if (frozen_has(stack, e->rel) || is_hidden(stack, e->rel))
		return false;
	if (e->op != COMMIT_MKDIR && e->op != COMMIT_DIR)
		return true;
	if (commit_count_tree(workspace, e->rel, &count) < 0)
		return false;
	if (e->op == COMMIT_MKDIR)
		return count == commit_count_inside(c, index);
	scoped_fd dir = fvm_open_deep(workspace, e->rel, O_RDONLY | O_DIRECTORY);
	return count == 0 && dir >= 0 && !fvm_opaque_is(dir, stack->user_xattr);
}

/* What stands in the workspace must be what was committed. */
static bool is_committed(const struct commit_entry *e, int dir, const char *name)
{
	struct stat st;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return false;
	if (e->op == COMMIT_DELETE)
		return !S_ISDIR(st.st_mode); /* the whiteout */
	if (e->op == COMMIT_DIR)
		return S_ISDIR(st.st_mode);
	return st.st_ino == e->layer_ino;
}

static int layer_parent(struct commit *c, const struct commit_entry *e, int workspace)
{
	const char *name = commit_name(e->rel);
	size_t len = name == e->rel ? 0 : (size_t)(name - e->rel - 1);
	return commit_dir_open(&c->layer_dir, (uint64_t)e->stack << 32 | UINT32_MAX, workspace,
			       e->rel, len);
}

static int keep_dir_open(struct commit *c, bool make)
{
	if (make && mkdirat(c->dir, "layer", 0700) < 0 && errno != EEXIST)
		return -errno;
	return fvm_open_nofollow(c->dir, "layer", O_RDONLY | O_DIRECTORY);
}

/* A rename that leaves the workspace's directory with the times that the VM gave it. */
static int move_quietly(int from, const char *name, int to, const char *new_name, int workspace)
{
	struct stat st;
	if (fstat(workspace, &st) < 0)
		return -errno;
	const struct timespec times[2] = { st.st_atim, st.st_mtim };
	if (renameat2(from, name, to, new_name, RENAME_NOREPLACE) < 0)
		return -errno;
	(void)futimens(workspace, times);
	return 0;
}

static int take_one(struct commit *c, size_t index, const struct fvm_stack *stack, int keep)
{
	const struct commit_entry *e = &c->entries[index];
	char number[24];
	if (!stack || !may_leave(c, index, stack))
		return 0;
	int dir = layer_parent(c, e, workspace_of(stack));
	if (dir < 0 || !is_committed(e, dir, commit_name(e->rel)))
		return dir == -ENOENT || dir >= 0 ? 0 : dir;
	int r = FVM_FAULT("commit.take");
	if (r < 0)
		return r;
	snprintf(number, sizeof(number), "%zu", index);
	r = move_quietly(dir, commit_name(e->rel), keep, number, dir);
	/* a layer on another file system than the store: it stays, and equals the host's */
	return r == -EXDEV || r == -ENOENT ? 0 : r;
}

static size_t depth_of(const char *rel)
{
	size_t depth = 0;
	for (; *rel; rel++)
		depth += *rel == '/';
	return depth;
}

static size_t depth_most(const struct commit *c)
{
	size_t most = 0;
	for (size_t i = 0; i < c->count; i++) {
		size_t depth = c->entries[i].op == COMMIT_DIR ? depth_of(c->entries[i].rel) : 0;
		most = depth > most ? depth : most;
	}
	return most;
}

/* Directories that stay last, the deepest first, so that they are empty by then. */
int commit_layer_take(struct commit *c, const struct fvm_vm *vm, const struct fvm_stacks *stacks)
{
	int r = 0;
	if (fvm_vm_state(vm) != FVM_STOPPED)
		return 0;
	scoped_fd keep = keep_dir_open(c, true);
	if (keep < 0)
		return keep;
	for (size_t i = 0; r == 0 && i < c->count; i++) {
		if (c->entries[i].op != COMMIT_DIR)
			r = take_one(c, i, stack_of(c, &c->entries[i], stacks), keep);
	}
	for (size_t depth = depth_most(c) + 1; r == 0 && depth-- > 0;) {
		for (size_t i = 0; r == 0 && i < c->count; i++) {
			const struct commit_entry *e = &c->entries[i];
			if (e->op == COMMIT_DIR && depth_of(e->rel) == depth)
				r = take_one(c, i, stack_of(c, e, stacks), keep);
		}
	}
	return r;
}

/* ---- giving back ---- */

static int give_one(struct commit *c, size_t index, const struct fvm_stack *stack, int keep)
{
	const struct commit_entry *e = &c->entries[index];
	char number[24];
	struct stat st;
	snprintf(number, sizeof(number), "%zu", index);
	if (!stack || fstatat(keep, number, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	int dir = workspace_of(stack) < 0 ? -ENOENT : layer_parent(c, e, workspace_of(stack));
	int r = FVM_FAULT("commit.give");
	if (r < 0 || dir < 0) /* or the VM threw its directory away since: there is no place */
		return r;
	r = move_quietly(keep, number, dir, commit_name(e->rel), dir);
	return r == -EEXIST ? 0 : r; /* the VM made a newer one */
}

/* The reverse: directories first, the highest first. */
int commit_layer_give(struct commit *c, const struct fvm_stacks *stacks)
{
	int r = 0;
	scoped_fd keep = keep_dir_open(c, false);
	if (keep < 0)
		return keep == -ENOENT ? 0 : keep;
	for (size_t depth = 0, most = depth_most(c); r == 0 && depth <= most; depth++) {
		for (size_t i = 0; r == 0 && i < c->count; i++) {
			const struct commit_entry *e = &c->entries[i];
			if (e->op == COMMIT_DIR && depth_of(e->rel) == depth)
				r = give_one(c, i, stack_of(c, e, stacks), keep);
		}
	}
	for (size_t i = 0; r == 0 && i < c->count; i++) {
		if (c->entries[i].op != COMMIT_DIR)
			r = give_one(c, i, stack_of(c, &c->entries[i], stacks), keep);
	}
	return r;
}

/* ---- stamps ---- */

/* What left the workspace is no change any more, and a later one starts from what is there then. */
static bool has_left(const struct commit *c, size_t index, int keep)
{
	char number[24];
	const struct commit_entry *e = &c->entries[index];
	snprintf(number, sizeof(number), "%zu", e->top == COMMIT_NO_TOP ? index : (size_t)e->top);
	return keep >= 0 && faccessat(keep, number, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* A tree that came back with an undo: what is in it may have other ctimes by then, as inodes with a
 * name elsewhere were moved there. */
static int stamp_tree(const struct commit *c, const struct commit_entry *e, int dir,
		      const struct stat *st, struct fvm_stamps *stamps, const char *path)
{
	const struct fvm_change gone = {
		.kind = FVM_DELETED,
		.path = path,
		.key = c->stacks[e->stack].key,
		.rel = e->rel,
		.layer_dir = -1,
		.base_dir = dir,
		.whiteout_dir = -1,
		.workspace = -1,
		.name = commit_name(e->rel),
		.was = st,
	};
	struct fvm_stamp stamp;
	fvm_stamp_of(st, &stamp);
	stamp.kind = 't';
	int r = fvm_stamp_tree_ctime(&gone, &stamp.ctime_ns);
	return r < 0 ? r : fvm_stamps_set(stamps, path, &stamp);
}

static int stamp_one(struct commit *c, const struct commit_entry *e, struct fvm_stamps *stamps,
		     const char *path)
{
	struct fvm_stamp stamp;
	struct stat st;
	int dir = commit_host_dir(c, e);
	bool there = dir >= 0 && fstatat(dir, *e->rel ? commit_name(e->rel) : "", &st,
					 AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) == 0;
	if (dir == -ENOMEM)
		return dir;
	fvm_stamp_of(there ? &st : NULL, &stamp);
	if (stamp.kind == 'd' && e->op != COMMIT_DIR && (e->flags & COMMIT_HAD) &&
	    st.st_ino == e->was.ino)
		return stamp_tree(c, e, dir, &st, stamps, path);
	if (stamp.kind == 'd' && e->op != COMMIT_DIR) {
		fvm_stamps_drop(stamps, path); /* a tree: its times tell as much */
		return 0;
	}
	return fvm_stamps_set(stamps, path, &stamp);
}

int commit_stamps(struct commit *c, const struct fvm_vm *vm, bool undone)
{
	struct fvm_stamps *stamps = NULL;
	scoped_fd keep = keep_dir_open(c, false);
	int r = fvm_stamps_load(vm->dir, &stamps, NULL);
	for (size_t i = 0; r == 0 && i < c->count; i++) {
		const struct commit_entry *e = &c->entries[i];
		if (e->op == COMMIT_DIR && !(e->flags & COMMIT_META))
			continue;
		scoped_free char *path = commit_path(c, e);
		if (!path)
			r = -ENOMEM;
		else if (!undone && has_left(c, i, keep))
			fvm_stamps_drop(stamps, path);
		else
			r = stamp_one(c, e, stamps, path);
	}
	if (r == 0)
		r = fvm_stamps_save(stamps, vm->dir);
	fvm_stamps_free(stamps);
	return r;
}

/* Return: 1 with *@ret when the stamp of that path has to follow, 0, or -errno */
static int moved_back(struct commit *c, const struct commit_entry *e, struct stat *ret)
{
	struct commit_node now;
	if (e->top != COMMIT_NO_TOP || !(e->flags & COMMIT_HAD) || (e->flags & COMMIT_DRIFTED) ||
	    e->op == COMMIT_DIR || S_ISDIR(e->was.mode))
		return 0;
	int dir = commit_host_dir(c, e);
	if (dir < 0 || fstatat(dir, commit_name(e->rel), ret, AT_SYMLINK_NOFOLLOW) < 0)
		return dir == -ENOMEM ? dir : 0;
	commit_node_from(&now, ret);
	return now.ino == e->was.ino && now.size == e->was.size && now.mode == e->was.mode &&
	       now.mtime_ns == e->was.mtime_ns && now.ctime_ns != e->was.ctime_ns;
}

int commit_stamps_back(struct commit *c, const struct fvm_vm *vm)
{
	struct fvm_stamps *stamps = NULL;
	int r = fvm_stamps_load(vm->dir, &stamps, NULL);
	for (size_t i = 0; r == 0 && i < c->count; i++) {
		struct fvm_stamp stamp, now;
		struct stat st;
		r = moved_back(c, &c->entries[i], &st);
		scoped_free char *path = r == 1 ? commit_path(c, &c->entries[i]) : NULL;
		if (r != 1)
			continue;
		if (!path) {
			r = -ENOMEM;
			continue;
		}
		const struct fvm_stamp *known = fvm_stamps_find(stamps, path);
		fvm_stamp_of(&st, &now);
		stamp = known ? *known : now;
		stamp.ctime_ns = now.ctime_ns;
		r = fvm_stamps_set(stamps, path, &stamp);
	}
	if (r == 0)
		r = fvm_stamps_save(stamps, vm->dir);
	fvm_stamps_free(stamps);
	return r;
}

/* ---- other commits ---- */

struct moved { /* paths of entries that were moved, as a set */
	struct commit *c;
	struct fvm_stamps *paths;
};

/* Return: 1 when the placed inode has another ctime and is else the same, 0, or -errno */
static int follow_placed(struct commit *c, uint32_t index)
{
	struct commit_entry *e = &c->entries[index];
	struct commit_node now;
	struct stat st;
	int dir = commit_host_dir(c, e);
	if (dir < 0 || fstatat(dir, commit_name(e->rel), &st, AT_SYMLINK_NOFOLLOW) < 0)
		return dir == -ENOMEM ? dir : 0;
	fvm_subids_stat(dir, commit_name(e->rel), &st);
	commit_node_from(&now, &st);
	const struct commit_node *then = &e->placed;
	if (now.ino != then->ino || now.size != then->size || now.mode != then->mode ||
	    now.uid != then->uid || now.gid != then->gid || now.mtime_ns != then->mtime_ns ||
	    now.ctime_ns == then->ctime_ns)
		return 0;
	e->placed.ctime_ns = now.ctime_ns;
	int r = commit_write_placed(c, index);
	return r < 0 ? r : 1;
}

static bool has_moved(const struct moved *m, const struct commit *c, const struct commit_entry *e)
{
	if (e->op == COMMIT_DELETE || e->op == COMMIT_DIR)
		return false;
	scoped_free char *path = commit_path(c, e);
	return path && fvm_stamps_find(m->paths, path);
}

static int follow_all(const struct moved *m, struct commit *c)
{
	/* what a crash left behind what is vouched for would cut off what is written now */
	int any = 0, r = fvm_nerr(ftruncate(c->journal.fd, (off_t)c->journal.written));
	for (uint32_t i = 0; r >= 0 && i < c->count; i++) {
		r = has_moved(m, c, &c->entries[i]) ? follow_placed(c, i) : 0;
		any |= r > 0;
	}
	if (r >= 0 && any)
		r = journal_sync(&c->journal);
	return r >= 0 && any ? commit_state_set(c, COMMIT_KEPT) : r;
}

static int follow_other(uint32_t id, void *arg)
{
	const struct moved *m = arg;
	scoped_commit c = COMMIT_INIT;
	struct fvm_error err = { 0 };
	enum commit_state state;
	if (id == m->c->id)
		return 0;
	c.store = m->c->store;
	c.host = m->c->host;
	c.all = fcntl(m->c->all, F_DUPFD_CLOEXEC, 0);
	if (c.all < 0 || commit_load(&c, id, &state, &err) < 0 || state != COMMIT_KEPT ||
	    commit_open_places(&c, state, &err) < 0)
		return 0; /* it is told of when it is its turn */
	return follow_all(m, &c);
}

int commit_follow(struct commit *c, bool itself)
{
	const struct fvm_stamp none = { .kind = 'f' };
	struct moved m = { .c = c };
	int r = fvm_stamps_parse("", 0, &m.paths, NULL);
	for (size_t i = 0; r == 0 && i < c->count; i++) {
		const struct commit_entry *e = &c->entries[i];
		if (e->op == COMMIT_DIR || e->top != COMMIT_NO_TOP)
			continue;
		scoped_free char *path = commit_path(c, e);
		r = path ? fvm_stamps_set(m.paths, path, &none) : -ENOMEM;
	}
	if (r == 0)
		r = commit_ids(c->all, follow_other, &m);
	if (r == 0 && itself)
		r = follow_all(&m, c);
	fvm_stamps_free(m.paths);
	return r < 0 ? r : 0;
}
