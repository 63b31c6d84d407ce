/*
 * Directories of services' accounts, where their ids can be had (idmap_user.h): a layer above the
 * skeleton's, in which all is root's. To make one takes a VM a millisecond or two; so it is kept:
 *
 *   gN/own/KEY+HASH-IDS   of the tree KEY; HASH: of the text of gN/owned
 *
 * What is in it has the skeleton's attributes, and goes when these change, which they do only while
 * no VM runs on gN. What no list has any more goes then, too. Where it can't be kept, it is made in
 * the VM's scratch tmpfs.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/internal.h"
#include "fvm/root_priv.h"
#include "fvm/skeleton.h"
#include "fvm/subids.h"

/* A layer of such directories. They come sorted as the skeleton was walked, so most lie in the one
 * before or beside it: what is already made is left alone. */
struct owned_layer {
	int fd; /* -1: none yet */
	const struct fvm_tree *tree;
	char last[PATH_MAX]; /* the directory that was made last */
	struct owned_dir {
		size_t len; /* of last, up to this one */
		struct timespec times[2];
	} open[64]; /* those above it and itself: what is made in them changes their times */
	size_t depth;
};

static void owned_leave(struct owned_layer *l)
{
	const struct owned_dir *d = &l->open[--l->depth];
	l->last[d->len] = '\0';
	(void)utimensat(l->fd, l->last + strlen(l->tree->path) + 1, d->times, 0);
}

/* One directory with the skeleton's attributes, and the owner's if it is the last. */
static int owned_step(const struct fvm_build *b, struct owned_layer *l, size_t len,
		      const struct fvm_skeleton_owned *o)
{
	char at[PATH_MAX];
	struct stat st;
	const char *rel = l->last + strlen(l->tree->path) + 1;
	if (l->depth == FVM_COUNT(l->open) ||
	    snprintf(at, sizeof(at), "%s%s", b->skeleton->path, l->last) >= (int)sizeof(at) ||
	    fstatat(b->store, at, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
		return -ENOENT;
	if (mkdirat(l->fd, rel, st.st_mode & 01777) < 0 && errno != EEXIST)
		return -errno;
	l->open[l->depth++] = (struct owned_dir){ len, { st.st_atim, st.st_mtim } };
	if (o && fchownat(l->fd, rel, fvm_idmap_uid(b->map, o->uid), fvm_idmap_gid(b->map, o->gid),
			  AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (st.st_mode & (S_ISUID | S_ISGID))
		(void)!fchmodat(l->fd, rel, st.st_mode & 07777, 0);
	return 0;
}

static int owned_add(const struct fvm_build *b, struct owned_layer *l,
		     const struct fvm_skeleton_owned *o)
{
	size_t top = strlen(l->tree->path);
	while (l->depth) {
		size_t len = l->open[l->depth - 1].len;
		if (len < o->len && o->path[len] == '/' && memcmp(l->last, o->path, len) == 0)
			break;
		owned_leave(l);
	}
	size_t n = l->depth ? l->open[l->depth - 1].len : top;
	for (n++; n <= o->len; n++) {
		if (n < o->len && o->path[n] != '/')
			continue;
		memcpy(l->last, o->path, n);
		l->last[n] = '\0';
		int r = owned_step(b, l, n, n == o->len ? o : NULL);
		if (r < 0)
			return r == -ENOENT ? 0 : r;
	}
	return 0;
}

/* Whether it has anything in the tree @t. */
static bool owned_next(const struct fvm_build *b, const struct fvm_tree *t, const char **at,
		       struct fvm_skeleton_owned *ret)
{
	const char *end = b->owned + b->owned_len;
	size_t top = strlen(t->path);
	while (fvm_skeleton_owned(at, end, ret)) {
		if (ret->dir && ret->len > top && memcmp(ret->path, t->path, top) == 0 &&
		    ret->path[top] == '/')
			return true;
	}
	return false;
}

static int owned_fill(const struct fvm_build *b, const struct fvm_tree *t, int layer)
{
	struct owned_layer l = { .fd = layer, .tree = t };
	struct fvm_skeleton_owned o;
	int r = 0;
	for (const char *at = b->owned; r == 0 && owned_next(b, t, &at, &o);)
		r = owned_add(b, &l, &o);
	while (l.depth)
		owned_leave(&l);
	return r;
}

static int make_scratch(const struct fvm_build *b, const struct fvm_tree *t)
{
	scoped_fd layer = root_scratch_dir(b, "owned", b->overlays, 0755);
	int r = layer < 0 ? layer : owned_fill(b, t, layer);
	return r < 0 ? r : fvm_fd_take(&layer);
}

/* ---- kept ---- */

static uint64_t hash(const char *text, size_t len)
{
	uint64_t h = 14695981039346656037ULL;
	for (size_t i = 0; i < len; i++)
		h = (h ^ (unsigned char)text[i]) * 1099511628211ULL;
	return h;
}

/* gN/own, made if need be. */
static int open_own(const struct fvm_build *b)
{
	char path[sizeof(b->skeleton->path) + 8];
	snprintf(path, sizeof(path), "%.*sown", (int)(strlen(b->skeleton->path) - strlen("tree")),
		 b->skeleton->path);
	int fd = fvm_open_nofollow(b->store, path, O_RDONLY | O_DIRECTORY);
	if (fd != -ENOENT)
		return fd;
	if (mkdirat(b->store, path, 0700) < 0 && errno != EEXIST)
		return -errno;
	return fvm_open_nofollow(b->store, path, O_RDONLY | O_DIRECTORY);
}

/* By rename, as another start may be at it, and one that is killed leaves nothing half done. */
static int make_kept(const struct fvm_build *b, const struct fvm_tree *t, int own, const char *name)
{
	char made[20] = ".";
	fvm_random_hex(made + 1, 16);
	if (mkdirat(own, made, 0755) < 0)
		return -errno;
	scoped_fd layer = fvm_open_nofollow(own, made, O_RDONLY | O_DIRECTORY);
	int r = layer < 0 ? layer : owned_fill(b, t, layer);
	if (r == 0 && renameat2(own, made, own, name, RENAME_NOREPLACE) == 0)
		return fvm_fd_take(&layer);
	r = r < 0 ? r : -errno;
	(void)fvm_remove_tree(own, made);
	return r == -EEXIST ? fvm_open_nofollow(own, name, O_PATH | O_DIRECTORY) : r;
}

static int take_kept(const struct fvm_build *b, const struct fvm_tree *t)
{
	char name[NAME_MAX + 1];
	const struct fvm_user_ids *i = b->ids;
	if (snprintf(name, sizeof(name), "%s+%016" PRIx64 "-%u-%u-%u", t->key,
		     hash(b->owned, b->owned_len), i->sub_uid, i->sub_gid,
		     i->count) >= (int)sizeof(name))
		return -ENAMETOOLONG;
	scoped_fd own = open_own(b);
	if (own < 0)
		return own;
	int fd = fvm_open_nofollow(own, name, O_PATH | O_DIRECTORY);
	return fd == -ENOENT ? make_kept(b, t, own, name) : fd;
}

int root_owned_layer(const struct fvm_build *b, const struct fvm_tree *t)
{
	struct fvm_skeleton_owned o;
	const char *at = b->owned;
	if (!b->owned || !owned_next(b, t, &at, &o))
		return -ENOENT;
	int fd = take_kept(b, t);
	return fd < 0 ? make_scratch(b, t) : fd;
}

void root_owned_drop(int gen, const char *owned, size_t owned_len)
{
	char now[24];
	scoped_fd own = fvm_open_nofollow(gen, "own", O_RDONLY | O_DIRECTORY);
	scoped_dir d = own < 0 ? NULL : fvm_dir_open(own, ".");
	snprintf(now, sizeof(now), "+%016" PRIx64 "-", hash(owned, owned_len));
	for (struct dirent *e; d && (e = fvm_dir_next(d));) {
		if (!strstr(e->d_name, now))
			(void)fvm_subids_remove_tree(own, e->d_name);
	}
}
