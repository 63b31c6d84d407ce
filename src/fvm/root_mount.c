/*
 * One overlay of a rootless VM (root_user.h).
 *
 * Layers are named by descriptor (/proc/self/fd/N): no path is too long for the page of options,
 * none has to be quoted, and no symlink that a VM left in a layer is followed.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fvm/adopt.h"
#include "fvm/build.h"
#include "fvm/foreign.h"
#include "fvm/internal.h"
#include "fvm/root_priv.h"
#include "fvm/skeleton.h"
#include "fvm/spare.h"
#include "fvm/sys.h"

#define SMALL_FILE (1 << 20)
#define MAX_LAYERS 128 /* options must fit a page */

/* What is open while one overlay is put together. */
struct stack {
	int fds[MAX_LAYERS + 8];
	size_t count;
	size_t lower; /* how many of them are lower layers, topmost first */
};

static void stack_close(struct stack *s)
{
	while (s->count)
		close(s->fds[--s->count]);
}

static int stack_add(struct stack *s, int fd)
{
	if (fd < 0)
		return fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP ? 0 : fd;
	if (s->count >= MAX_LAYERS) {
		close(fd);
		return -E2BIG;
	}
	s->fds[s->count++] = fd;
	s->lower++;
	return 0;
}

/* ---- workspaces ---- */

/* Where a service's directory is the top of a tree; see add_owned(). */
static int give_upper(const struct fvm_build *b, int upper, const struct fvm_tree *t)
{
	if (!b->owned || !fvm_skeleton_has(t->path) || t->st.st_uid == b->ids->uid)
		return 0;
	return fchown(upper, fvm_idmap_uid(b->map, t->st.st_uid),
		      fvm_idmap_gid(b->map, t->st.st_gid));
}

static int make_upper(const struct fvm_build *b, int top, const struct fvm_tree *t)
{
	/* a spare's is there, with what the last base was like */
	if (mkdirat(top, "upper", 0700) < 0 && !(errno == EEXIST && b->throw_away))
		return errno == EEXIST ? 0 : -errno;
	const struct timespec times[2] = { t->st.st_atim, t->st.st_mtim };
	struct stat st;
	scoped_fd upper = openat(top, "upper", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (upper < 0 || give_upper(b, upper, t) < 0 || fstat(upper, &st) < 0)
		return -errno;
	/* mostly the last base was the same; each change is one of the disk's */
	if (st.st_mode != t->st.st_mode && fchmod(upper, t->st.st_mode & 07777) < 0)
		return -errno;
	bool same = st.st_mtim.tv_sec == times[1].tv_sec && st.st_mtim.tv_nsec == times[1].tv_nsec;
	return !same && futimens(upper, times) < 0 ? -errno : 0;
}

/*
 * fs/KEY. Of a VM that will be a spare (spare.h) each lies in a block group of its own, as what
 * overlay makes and deletes at each mount is searched through at the next; which one depends on
 * the name that a directory is made with.
 */
static int make_key(const struct fvm_build *b, int fs, const char *key)
{
	char name[20] = ".";
	if (!b->throw_away)
		return mkdirat(fs, key, 0700) < 0 && errno != EEXIST ? -errno : 0;
	if (faccessat(fs, key, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	fvm_spread(fs);
	fvm_random_hex(name + 1, 16);
	if (mkdirat(fs, name, 0700) < 0 || renameat(fs, name, fs, key) < 0)
		return -errno;
	return 0;
}

/* Return: descriptor of fs/KEY with upper and work in it, or negative errno */
static int open_workspace(const struct fvm_build *b, const struct fvm_tree *t)
{
	scoped_fd fs = fvm_build_workspace(b);
	if (fs < 0)
		return fs;
	int r = make_key(b, fs, t->key);
	scoped_fd top = r < 0 ? r : fvm_open_nofollow(fs, t->key, O_RDONLY | O_DIRECTORY);
	if (top < 0)
		return top;
	/* a volatile mount that was not unmounted in order leaves a mark which refuses the next */
	if (b->throw_away && faccessat(top, "work/work/incompat", F_OK, 0) == 0)
		(void)fvm_remove_tree(top, "work");
	if (mkdirat(top, "work", 0700) < 0 && errno != EEXIST)
		return -errno;
	r = make_upper(b, top, t);
	return r < 0 ? r : fvm_fd_take(&top);
}

/* ---- lower layers ---- */

/* The VM's layers of the mounts above @t, from where @t begins, nearest first. */
static int add_from_above(const struct fvm_build *b, struct stack *s, const struct fvm_tree *t,
			  const char *layer)
{
	int r = 0;
	for (size_t i = b->trees->count; r == 0 && i-- > 0;) {
		const struct fvm_tree *above = &b->trees->items[i];
		if (above == t || !fvm_path_below(t->path, above->path))
			continue;
		char path[PATH_MAX];
		size_t skip = above->path[1] ? strlen(above->path) : 0;
		if (snprintf(path, sizeof(path), "%s/fs/%s/upper%s", layer, above->key,
			     t->path + skip) < (int)sizeof(path))
			r = stack_add(s, fvm_open_nofollow(b->store, path, O_PATH | O_DIRECTORY));
	}
	return r;
}

static int add_vm_layers(const struct fvm_build *b, struct stack *s, const struct fvm_tree *t)
{
	const struct fvm_strv *layers = &b->vm->config.layers;
	char layer[FVM_NAME_MAX + 40], path[FVM_NAME_MAX + 320];
	if (b->throw_away && layers->count == 0)
		return 0; /* it was just made */
	snprintf(layer, sizeof(layer), "vms/%s/workspace", b->vm->config.name);
	int r = add_from_above(b, s, t, layer);
	for (size_t i = layers->count; r == 0 && i-- > 0;) {
		snprintf(layer, sizeof(layer), "layers/%s", layers->items[i]);
		snprintf(path, sizeof(path), "%s/fs/%s/upper", layer, t->key);
		r = stack_add(s, fvm_open_nofollow(b->store, path, O_PATH | O_DIRECTORY));
		if (r == 0)
			r = add_from_above(b, s, t, layer);
	}
	return r;
}

static int add_skeleton(const struct fvm_build *b, struct stack *s, const struct fvm_tree *t)
{
	char path[PATH_MAX];
	if (snprintf(path, sizeof(path), "%s%s", b->skeleton->path, t->path) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	return stack_add(s, fvm_open_nofollow(b->store, path, O_PATH | O_DIRECTORY));
}

/* ---- what lies between: hidden paths, made-up directories ---- */

int root_scratch_dir(const struct fvm_build *b, const char *prefix, size_t number, mode_t mode)
{
	char name[32];
	snprintf(name, sizeof(name), "%s%zu", prefix, number);
	if (mkdirat(b->scratch, name, mode) < 0 || fchmodat(b->scratch, name, mode, 0) < 0)
		return -errno;
	int fd = openat(b->scratch, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* The directory of the layer that what is hidden next mostly lies in, too: they are sorted. */
struct hiding {
	int layer, at;
	const char *path; /* of the last one, in the plan; NULL: none */
	size_t len;	  /* of its directory */
};

/* Directories of @path below @top get the host's attributes, which they hide. Return: 0, also when
 * there is nothing to hide and @h->at is -1, or negative errno */
static int hide_dirs(struct hiding *h, const char *top, const char *path, size_t len)
{
	char host[PATH_MAX];
	const char *p = path + (top[1] ? strlen(top) : 0);
	scoped_fd at = fcntl(h->layer, F_DUPFD_CLOEXEC, 3);
	for (p += strspn(p, "/"); at >= 0 && p < path + len; p += strspn(p, "/")) {
		struct stat st;
		const char *name = p;
		p += strcspn(p, "/");
		if (p - path >= PATH_MAX)
			return -ENAMETOOLONG;
		memcpy(host, path, (size_t)(p - path));
		host[p - path] = '\0';
		if (lstat(host, &st) < 0 || !S_ISDIR(st.st_mode))
			return 0;
		name = host + (name - path);
		(void)mkdirat(at, name, 0700);
		int next = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		close(at);
		at = next;
		const struct timespec times[2] = { st.st_atim, st.st_mtim };
		if (at >= 0 && (fchmod(at, st.st_mode & 07777) < 0 || futimens(at, times) < 0))
			return -errno;
	}
	if (at < 0)
		return -errno;
	h->at = fvm_fd_take(&at);
	return 0;
}

/* One whiteout in the layer. */
static int hide_one(struct hiding *h, const char *top, const char *path)
{
	const char *slash = strrchr(path, '/');
	size_t len = (size_t)(slash - path);
	if (!h->path || h->len != len || memcmp(h->path, path, len) != 0) {
		fvm_fd_closep(&h->at);
		h->path = path;
		h->len = len;
		int r = hide_dirs(h, top, path, len);
		if (r < 0)
			return r;
	}
	if (h->at < 0)
		return 0;
	return mknodat(h->at, slash + 1, S_IFCHR, 0) < 0 && errno != EEXIST ? -errno : 0;
}

static int hide_all(const struct fvm_build *b, struct hiding *h, const struct fvm_tree *t)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < b->hide->count; i++) {
		const char *path = b->hide->items[i].path;
		if (strcmp(path, t->path) == 0 || !fvm_path_below(path, t->path))
			continue;
		if (h->layer < 0)
			h->layer = root_scratch_dir(b, "hide", b->overlays, 0755);
		r = h->layer < 0 ? h->layer : hide_one(h, t->path, path);
	}
	return r;
}

static int add_hidden(const struct fvm_build *b, struct stack *s, const struct fvm_tree *t)
{
	struct hiding h = { .layer = -1, .at = -1 };
	int r = hide_all(b, &h, t);
	fvm_fd_closep(&h.at);
	if (r == 0 && h.layer >= 0)
		r = stack_add(s, fvm_fd_take(&h.layer));
	fvm_fd_closep(&h.layer);
	return r;
}

static const struct fvm_tree_place *place_of(const struct fvm_trees *t, const char *path)
{
	for (size_t i = 0; i < t->place_count; i++) {
		if (strcmp(t->places[i].path, path) == 0)
			return &t->places[i];
	}
	return NULL;
}

/* With ranges of ids what is a service's of the host is his in the VM; @st as seen from outside. */
static int give_place(const struct fvm_build *b, int dir, const char *name, const char *full,
		      const struct stat *st)
{
	uint32_t uid = fvm_idmap_uid(b->map, st->st_uid), gid = fvm_idmap_gid(b->map, st->st_gid);
	if (!b->owned || !fvm_skeleton_has(full) || st->st_uid == b->ids->uid)
		return 0;
	return fchownat(dir, name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* From in here all others' are nobody's: root's, unless the skeleton's list says otherwise. */
static void find_owner(const struct fvm_build *b, const char *full, struct stat *st)
{
	const char *at = b->owned, *end = at + b->owned_len;
	struct fvm_skeleton_owned o;
	size_t n = strlen(full);
	st->st_uid = st->st_gid = 0;
	while (b->owned && fvm_skeleton_owned(&at, end, &o)) {
		if (o.len != n || memcmp(o.path, full, n) != 0)
			continue;
		st->st_uid = o.uid;
		st->st_gid = o.gid;
		return;
	}
}

static int fill_inner(const struct fvm_build *b, int dir, const char *name, const char *full);

/* A directory with the host's attributes; @st NULL: of a mount that nobody may ask. */
static int fill_dir(const struct fvm_build *b, int dir, const char *name, const char *full,
		    const struct stat *st)
{
	if (mkdirat(dir, name, st ? 0700 : 0755) < 0)
		return errno == EEXIST ? 0 : -errno;
	if (!st)
		return 0;
	const struct timespec times[2] = { st->st_atim, st->st_mtim };
	const struct fvm_tree_place *place = place_of(b->trees, full);
	int r = give_place(b, dir, name, full, st);
	if (r == 0 && place && place->inner)
		r = fill_inner(b, dir, name, full);
	if (r < 0 || fchmodat(dir, name, st->st_mode & 07777, 0) < 0)
		return r < 0 ? r : -errno;
	(void)utimensat(dir, name, times, 0);
	return 0;
}

static int fill_one(const struct fvm_build *b, int host, int dir, const char *path,
		    const char *name)
{
	char full[PATH_MAX];
	struct stat st;
	if (snprintf(full, sizeof(full), "%s/%s", path[1] ? path : "", name) >= (int)sizeof(full))
		return 0;
	/* a mount point is a directory or, rarely, a file; asking it may hang */
	for (size_t i = 0; i < b->plan->count; i++) {
		if (strcmp(b->plan->mounts[i].path, full) != 0)
			continue;
		const struct fvm_tree_place *place = place_of(b->trees, full);
		return fill_dir(b, dir, name, full, place ? &place->st : NULL);
	}
	if (fvm_hide_has(b->hide, full) || fstatat(host, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	if (S_ISDIR(st.st_mode)) {
		find_owner(b, full, &st);
		return fill_dir(b, dir, name, full, &st);
	}
	if (!S_ISLNK(st.st_mode) && (!S_ISREG(st.st_mode) || st.st_size > SMALL_FILE))
		return 0;
	int r = fvm_copy_entry(host, name, dir, name, &st);
	return r == -ENOSPC || r == -ENOMEM ? r : 0;
}

/* @dir: what is made of the host's @path */
static int fill(const struct fvm_build *b, int dir, const char *path)
{
	scoped_dir d = fvm_dir_take(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	int r = d ? 0 : -errno;
	for (struct dirent *e; r == 0 && (e = fvm_dir_next(d));)
		r = fill_one(b, dirfd(d), dir, path, e->d_name);
	return r;
}

static int fill_inner(const struct fvm_build *b, int dir, const char *name, const char *full)
{
	scoped_fd inner = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return inner < 0 ? -errno : fill(b, inner, full);
}

static int add_synthetic(const struct fvm_build *b, struct stack *s, const struct fvm_tree *t)
{
	scoped_fd dir = root_scratch_dir(b, "made", b->overlays, t->st.st_mode & 07777);
	int r = dir < 0 ? dir : fill(b, dir, t->path);
	return r < 0 ? r : stack_add(s, fvm_fd_take(&dir));
}

/* ---- directories of other people, where there is no skeleton ---- */

static int open_foreign(void *arg)
{
	const struct fvm_build *b = arg;
	return root_scratch_dir(b, "foreign", b->overlays, 0755);
}

static int add_foreign(const struct fvm_build *b, struct stack *s, const struct fvm_tree *t)
{
	int layer = -1;
	if (t->foreign) {
		layer = fvm_open_nofollow(b->store, t->foreign, O_PATH | O_DIRECTORY);
		if (layer >= 0)
			return stack_add(s, layer);
	}
	scoped_fd top = open(t->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (top < 0)
		return 0;
	int r = fvm_foreign_make(top, open_foreign, (void *)(uintptr_t)b, &layer);
	if (layer < 0)
		return r;
	int added = stack_add(s, layer);
	return r < 0 ? r : added;
}

/* ---- the host's own directory ---- */

static int mount_at(int target, unsigned long flags, const char *options)
{
	char link[48];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", target);
	return mount("fvm", link, "overlay", flags | MS_NODEV, options) < 0 ? -errno : 0;
}

/* See root_user.h: the store lies in this directory. */
static int nest_host(const struct fvm_build *b, int host)
{
	char options[120];
	scoped_fd empty = root_scratch_dir(b, "none", b->overlays, 0755);
	scoped_fd at = root_scratch_dir(b, "nest", b->overlays, 0755);
	if (empty < 0 || at < 0)
		return empty < 0 ? empty : at;
	snprintf(options, sizeof(options), "userxattr,lowerdir=/proc/self/fd/%d:/proc/self/fd/%d",
		 empty, host);
	int r = mount_at(at, MS_RDONLY, options);
	if (r < 0)
		return r;
	char name[32];
	snprintf(name, sizeof(name), "nest%zu", b->overlays);
	int fd = openat(b->scratch, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int add_host(const struct fvm_build *b, struct stack *s, const struct fvm_tree *t)
{
	if (t->bare || faccessat(AT_FDCWD, t->path, X_OK, AT_EACCESS) < 0)
		return 0;
	int host = open(t->path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (host < 0)
		return -errno;
	if (fvm_path_below(b->vm->store->path, t->path)) {
		int nested = nest_host(b, host);
		close(host);
		host = nested;
		if (host < 0)
			return host;
	}
	return stack_add(s, host);
}

/* ---- one overlay ---- */

static int add_system(const struct fvm_build *b, struct stack *s, const struct fvm_tree *t)
{
	int r = stack_add(s, root_owned_layer(b, t));
	return r < 0 ? r : add_skeleton(b, s, t);
}

static int add_lower(const struct fvm_build *b, struct stack *s, const struct fvm_tree *t)
{
	int r = add_vm_layers(b, s, t);
	if (r == 0 && t->kind == FVM_TREE_SYNTHETIC)
		r = add_synthetic(b, s, t);
	if (r == 0 && t->kind != FVM_TREE_SYNTHETIC)
		r = add_hidden(b, s, t);
	if (r == 0 && t->kind == FVM_TREE_OVERLAY)
		r = fvm_skeleton_has(t->path) ? add_system(b, s, t) : add_foreign(b, s, t);
	if (r == 0 && t->kind != FVM_TREE_SYNTHETIC)
		r = add_host(b, s, t);
	/* nothing readable on the host, or only one where a read-only overlay wants two */
	if (r == 0 && (s->lower == 0 || (t->kind == FVM_TREE_READ_ONLY && s->lower == 1)))
		r = stack_add(s, root_scratch_dir(b, "void", b->overlays, 0755));
	return r;
}

static void lower_option(const struct stack *s, struct fvm_buf *o)
{
	fvm_buf_puts(o, "userxattr,lowerdir=");
	for (size_t i = 0; i < s->lower; i++)
		fvm_buf_printf(o, "%s/proc/self/fd/%d", i ? ":" : "", s->fds[i]);
}

static int open_target(const struct fvm_build *b, const char *path)
{
	if (b->root < 0) /* the root itself is mounted on a directory of ours */
		return openat(b->scratch, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fvm_open_nofollow(b->root, path + 1, O_PATH | O_DIRECTORY);
}

static int mount_with(const struct fvm_build *b, struct stack *s, const struct fvm_tree *t)
{
	scoped_buf options = { 0 };
	scoped_fd target = open_target(b, t->path);
	scoped_fd top = -1;
	if (target < 0)
		return target;
	int r = add_lower(b, s, t);
	if (r < 0)
		return r;
	lower_option(s, &options);
	if (t->kind != FVM_TREE_READ_ONLY) {
		top = open_workspace(b, t);
		if (top < 0)
			return top;
		fvm_buf_printf(&options,
			       ",upperdir=/proc/self/fd/%d/upper,workdir=/proc/self/fd/%d/work%s",
			       top, top, b->throw_away ? ",volatile" : "");
	}
	if (options.failed)
		return -ENOMEM;
	return mount_at(target, t->flags | (t->kind == FVM_TREE_READ_ONLY ? MS_RDONLY : 0),
			options.data);
}

int root_mount_overlay(const struct fvm_build *build, size_t number)
{
	struct fvm_build b = *build;
	struct stack s = { 0 };
	b.overlays = number;
	int r = mount_with(&b, &s, &b.trees->items[number]);
	stack_close(&s);
	return r;
}
