/*
 * The three places of an entry - layer, area, host - and the exchange of the last two.
 *
 * An entry that replaces something is put in place by RENAME_EXCHANGE: in one step the new inode
 * stands at the path and the old one in the area, under the entry's number. Undo is the same step
 * again. So the old inode itself is kept, with all that belongs to it (hard links, ACLs, holes,
 * flags), nothing is copied to save it, and which of the two stands where is seen by inode numbers
 * after any crash. Where nothing stood before, or nothing is to stand after, it is a plain rename
 * that must not replace. File systems without exchange get two renames through NUMBER.old.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/commit_priv.h"
#include "fvm/inode.h"
#include "fvm/internal.h"
#include "fvm/subids.h"

const char *commit_name(const char *rel)
{
	const char *slash = strrchr(rel, '/');
	return slash ? slash + 1 : rel;
}

char *commit_path(const struct commit *c, const struct commit_entry *e)
{
	const char *mount = c->stacks[e->stack].mount_point;
	char *path;
	if (asprintf(&path, "%s%s%s", strcmp(mount, "/") == 0 ? "" : mount, "/", e->rel) < 0)
		return NULL;
	size_t len = strlen(path);
	if (!*e->rel && len > 1)
		path[len - 1] = '\0';
	return path;
}

void commit_node_from(struct commit_node *node, const struct stat *st)
{
	*node = (struct commit_node){
		.ino = st->st_ino,
		.size = (uint64_t)st->st_size,
		.mode = st->st_mode,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.atime_ns = st->st_atim.tv_sec * 1000000000LL + st->st_atim.tv_nsec,
		.mtime_ns = st->st_mtim.tv_sec * 1000000000LL + st->st_mtim.tv_nsec,
		.ctime_ns = st->st_ctim.tv_sec * 1000000000LL + st->st_ctim.tv_nsec,
	};
}

/* Open the @len bytes of @path below @top, unless that is what the cache holds. */
int commit_dir_open(struct commit_dir *cache, uint64_t tag, int top, const char *path, size_t len)
{
	if (cache->fd >= 0 && cache->tag == tag && strncmp(cache->path, path, len) == 0 &&
	    cache->path[len] == '\0')
		return cache->fd;
	fvm_fd_closep(&cache->fd);
	free(cache->path);
	cache->fd = -1;
	cache->tag = tag;
	cache->path = strndup(path, len);
	if (!cache->path)
		return -ENOMEM;
	return cache->fd = fvm_open_deep(top, cache->path, O_RDONLY | O_DIRECTORY);
}

static size_t parent_length(const char *rel)
{
	const char *slash = strrchr(rel, '/');
	return slash ? (size_t)(slash - rel) : 0;
}

int commit_host_dir(struct commit *c, const struct commit_entry *e)
{
	return commit_dir_open(&c->host_dir, e->stack, c->stacks[e->stack].base, e->rel,
			       parent_length(e->rel));
}

int commit_staged_dir(struct commit *c, uint32_t index, struct commit_dir *cache, const char **name,
		      char number[16])
{
	const struct commit_entry *e = &c->entries[index];
	int area = c->areas[e->area].fd;
	if (e->top == COMMIT_NO_TOP) {
		snprintf(number, 16, "%u", index);
		*name = number;
		return area;
	}
	const char *below = e->rel + strlen(c->entries[e->top].rel) + 1;
	scoped_free char *path = NULL;
	if (asprintf(&path, "%u/%s", e->top, below) < 0)
		return -ENOMEM;
	*name = commit_name(e->rel);
	return commit_dir_open(cache, e->area, area, path, parent_length(path));
}

/* ---- opening ---- */

/* Mounts of which nothing was committed may be gone by now. */
static bool stack_used(const struct commit *c, size_t stack)
{
	for (size_t i = 0; i < c->count; i++) {
		if (c->entries[i].stack == stack)
			return true;
	}
	for (size_t i = 0; i < c->area_count; i++) {
		if (!c->areas[i].in_store && c->areas[i].stack == stack)
			return true;
	}
	return false;
}

static int open_bases(struct commit *c, struct fvm_error *err)
{
	for (size_t i = 0; i < c->stack_count; i++) {
		struct commit_stack *s = &c->stacks[i];
		struct statfs fs;
		uint64_t fsid = 0;
		if (s->base >= 0 || !stack_used(c, i))
			continue;
		const char *path = s->mount_point + strspn(s->mount_point, "/");
		s->base = fvm_open_nofollow(c->host, *path ? path : ".", O_RDONLY | O_DIRECTORY);
		if (s->base < 0)
			return fvm_error_set(err, -s->base, "open %s", s->mount_point);
		if (fstatfs(s->base, &fs) == 0)
			memcpy(&fsid, &fs.f_fsid, sizeof(fsid));
		if (fsid != s->fsid) {
			fvm_error_set(err, ENODEV, "%s is another file system than at the commit",
				      s->mount_point);
			fvm_error_hint(err, "mount there what was mounted at the commit");
			return -ENODEV;
		}
	}
	return 0;
}

/* Who owns the directory above can put another one in its place, and rename ours. */
static bool is_ours(const struct commit *c, int area)
{
	struct stat st, store;
	if (fstat(area, &st) < 0 || fstat(c->all, &store) < 0)
		return false;
	return (st.st_uid == geteuid() || st.st_uid == store.st_uid) && !(st.st_mode & 0077);
}

static int area_lost(const struct commit *c, const struct commit_area *a, int r,
		     struct fvm_error *err)
{
	char text[200];
	const char *mount = a->in_store ? "" : c->stacks[a->stack].mount_point;
	scoped_free char *path = NULL;
	if (a->in_store)
		r = asprintf(&path, "%s/commits/%u/area", c->store->path, c->id) < 0 ? -ENOMEM : r;
	else
		r = asprintf(&path, "%s/%s", mount[1] ? mount : "", a->rel) < 0 ? -ENOMEM : r;
	if (r == -ENOENT || r == -ESTALE)
		fvm_error_hint(err,
			       "somebody moved it: move it back, or forget the commit: "
			       "fvm undo --drop %u",
			       c->id);
	return fvm_error_set(err, -r, "open what commit %u keeps, %s", c->id,
			     fvm_quote_error(path ?: "?", text));
}

static int area_open(const struct commit *c, struct commit_area *a)
{
	a->fd = a->in_store
			? fvm_open_nofollow(c->dir, "area", O_RDONLY | O_DIRECTORY)
			: fvm_open_deep(c->stacks[a->stack].base, a->rel, O_RDONLY | O_DIRECTORY);
	if (a->fd < 0 || is_ours(c, a->fd))
		return a->fd < 0 ? a->fd : 0;
	close(fvm_fd_take(&a->fd));
	return -ESTALE;
}

int commit_open_places(struct commit *c, enum commit_state state, struct fvm_error *err)
{
	bool may_miss = state == COMMIT_VOID || state == COMMIT_UNDONE;
	int r = open_bases(c, err);
	for (size_t i = 0; r == 0 && i < c->area_count; i++) {
		struct commit_area *a = &c->areas[i];
		int opened = a->fd >= 0 ? 0 : area_open(c, a);
		if (opened < 0 && !(may_miss && (opened == -ENOENT || opened == -ESTALE)))
			r = area_lost(c, a, opened, err);
	}
	return r;
}

/* The directory that an area lies in, and its times: they are none of the commit's changes. */
static int area_parent(const struct commit *c, const struct commit_area *a, struct stat *ret)
{
	const char *name = commit_name(a->rel);
	size_t len = name == a->rel ? 0 : (size_t)(name - a->rel - 1);
	scoped_free char *path = strndup(a->rel, len);
	if (!path)
		return -ENOMEM;
	int dir = fvm_open_deep(c->stacks[a->stack].base, path, O_RDONLY | O_DIRECTORY);
	return dir >= 0 && fstat(dir, ret) < 0 ? -errno : dir;
}

static void times_back(int dir, const struct stat *st)
{
	const struct timespec times[2] = { st->st_atim, st->st_mtim };
	(void)futimens(dir, times); /* not ours: then it shows that we were there */
}

static int area_make(struct commit *c, const struct commit_area *a)
{
	struct stat st;
	if (a->in_store)
		return fvm_nerr(mkdirat(c->dir, "area", 0700));
	scoped_fd dir = area_parent(c, a, &st);
	if (dir < 0)
		return dir;
	int r = fvm_nerr(mkdirat(dir, commit_name(a->rel), 0700));
	times_back(dir, &st);
	return r;
}

/* What is in it goes first, so that there is next to no time between looking and setting back. */
static int area_remove(struct commit *c, const struct commit_area *a)
{
	struct stat st;
	scoped_dir d = fvm_dir_open(a->fd, ".");
	if (!d)
		return -errno;
	int r = 0;
	for (struct dirent *e; r == 0 && (e = fvm_dir_next(d));)
		r = fvm_remove_tree(a->fd, e->d_name);
	if (r < 0)
		return r;
	scoped_fd dir = area_parent(c, a, &st);
	if (dir < 0)
		return dir;
	r = fvm_nerr(unlinkat(dir, commit_name(a->rel), AT_REMOVEDIR));
	times_back(dir, &st);
	return r;
}

int commit_make_areas(struct commit *c, struct fvm_error *err)
{
	for (size_t i = 0; i < c->area_count; i++) {
		struct commit_area *a = &c->areas[i];
		int r = FVM_FAULT("commit.area");
		if (r == 0)
			r = area_make(c, a);
		if (r < 0)
			return fvm_error_set(err, -r, "make a directory beside what is replaced");
	}
	return commit_open_places(c, COMMIT_APPLYING, err);
}

int commit_remove_areas(struct commit *c)
{
	char name[16];
	int r = FVM_FAULT("commit.remove");
	for (size_t i = 0; r == 0 && i < c->area_count; i++) {
		struct commit_area *a = &c->areas[i];
		if (!a->in_store && a->fd >= 0)
			r = area_remove(c, a);
	}
	snprintf(name, sizeof(name), "%u", c->id);
	/* there may be 100,000 files in it: nobody waits for that */
	return r == 0 ? fvm_trash(c->store, c->all, name, true) : r;
}

/* ---- exchange ---- */

static uint64_t ino_at(int dir, const char *name)
{
	struct stat st;
	return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 ? st.st_ino : 0;
}

/* What stands there now; all zero: nothing. */
static struct commit_node node_at(int dir, const char *name)
{
	struct stat st;
	struct commit_node node = { 0 };
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		commit_node_from(&node, &st);
	return node;
}

/* No ctime: that of an inode with several names changes as we move another one of them. */
static bool is_as_planned(const struct commit *c, const struct commit_node *was,
			  const struct commit_node *now)
{
	return now->ino == was->ino &&
	       (c->force || (now->size == was->size && now->mode == was->mode &&
			     now->mtime_ns == was->mtime_ns));
}

/* NFS and many a FUSE server know no flags: a look before the rename must do there. */
static int move_to_nothing(int from, const char *old, int to, const char *name)
{
	if (renameat2(from, old, to, name, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
		return -errno;
	if (ino_at(to, name) != 0)
		return -EEXIST;
	return renameat(from, old, to, name) < 0 ? -errno : 0;
}

/* Bring what two renames of a file system without exchange left half-way to one side. */
static int settle(int area, const char *number, int host, const char *name)
{
	char spare[24];
	snprintf(spare, sizeof(spare), "%s.old", number);
	if (ino_at(area, spare) == 0)
		return 0;
	if (ino_at(area, number) != 0) /* the first of three steps was done: take it back */
		return move_to_nothing(area, spare, host, name);
	return renameat(area, spare, area, number) < 0 ? -errno : 0;
}

static int exchange_slowly(int area, const char *number, int host, const char *name)
{
	char spare[24];
	snprintf(spare, sizeof(spare), "%s.old", number);
	if (renameat(host, name, area, spare) < 0)
		return -errno;
	int r = FVM_FAULT("commit.between");
	if (r == 0)
		r = move_to_nothing(area, number, host, name);
	int settled = settle(area, number, host, name);
	return r < 0 ? r : settled;
}

static int exchange(int area, const char *number, int host, const char *name)
{
	int r = FVM_FAULT("commit.exchange");
	if (r == 0)
		r = fvm_nerr(renameat2(area, number, host, name, RENAME_EXCHANGE));
	if (r == -EINVAL || r == -ENOSYS || r == -EOPNOTSUPP)
		r = exchange_slowly(area, number, host, name);
	return r;
}

static int rename_to_nothing(int from, const char *old, int to, const char *name)
{
	int r = FVM_FAULT("commit.rename");
	return r < 0 ? r : move_to_nothing(from, old, to, name);
}

struct side { /* where an entry's two states are, by looking */
	int area, host;
	const char *name;
	char number[16];
	uint64_t in_area, on_host;
	struct commit_node host_node;
	bool placed; /* the new state is the host's */
};

static int look(struct commit *c, uint32_t index, struct side *s)
{
	const struct commit_entry *e = &c->entries[index];
	s->area = c->areas[e->area].fd;
	s->host = commit_host_dir(c, e);
	s->name = commit_name(e->rel);
	snprintf(s->number, sizeof(s->number), "%u", index);
	if (s->host < 0)
		return s->host;
	int r = settle(s->area, s->number, s->host, s->name);
	if (r < 0)
		return r;
	s->in_area = ino_at(s->area, s->number);
	s->host_node = node_at(s->host, s->name);
	s->on_host = s->host_node.ino;
	if (e->op == COMMIT_DELETE)
		s->placed = s->in_area != 0;
	else if (e->flags & COMMIT_HAD) /* in the area: ours, the old one, or what force took */
		s->placed = s->in_area == e->was.ino ||
			    (s->in_area != e->staged_ino && s->on_host == e->staged_ino);
	else
		s->placed = s->in_area == 0;
	return 0;
}

/* A user must be able to write in a directory that he moves to another parent. */
static void open_up(const struct commit_node *node, int dir, const char *name)
{
	if (geteuid() != 0 && S_ISDIR(node->mode) && !(node->mode & 0200))
		(void)!fchmodat(dir, name, (node->mode & 07777) | 0700, 0);
}

/* What force took away to put a deleted one back: under its number and ".new", until all is done.
 */
static int take_newer(const struct side *s)
{
	char newer[24];
	snprintf(newer, sizeof(newer), "%s.new", s->number);
	int r = rename_to_nothing(s->host, s->name, s->area, newer);
	return r < 0 ? r : rename_to_nothing(s->area, s->number, s->host, s->name);
}

static int give_newer(const struct side *s)
{
	char newer[24];
	snprintf(newer, sizeof(newer), "%s.new", s->number);
	if (ino_at(s->area, newer) == 0)
		return 0;
	return rename_to_nothing(s->area, newer, s->host, s->name);
}

static int swap_forth(const struct commit *c, const struct commit_entry *e, struct side *s,
		      bool any)
{
	if (e->op == COMMIT_DELETE) {
		if (s->on_host == 0 || (!any && !is_as_planned(c, &e->was, &s->host_node)))
			return -ESTALE;
		return rename_to_nothing(s->host, s->name, s->area, s->number);
	}
	if (!(e->flags & COMMIT_HAD))
		return rename_to_nothing(s->area, s->number, s->host, s->name);
	if (!any && !is_as_planned(c, &e->was, &s->host_node))
		return -ESTALE;
	int r = exchange(s->area, s->number, s->host, s->name);
	const struct commit_node taken = node_at(s->area, s->number);
	if (r < 0 || any || is_as_planned(c, &e->was, &taken))
		return r;
	/* somebody was faster than we after the look: what we took is not what was planned */
	exchange(s->area, s->number, s->host, s->name);
	return -ESTALE;
}

static int swap_back(const struct commit_entry *e, struct side *s, bool any)
{
	open_up(&e->now, s->host, s->name);
	if (e->op == COMMIT_DELETE) {
		if (s->on_host != 0 && any)
			return take_newer(s);
		return rename_to_nothing(s->area, s->number, s->host, s->name);
	}
	if (!any && s->on_host != e->staged_ino)
		return -ESTALE;
	if (s->on_host == 0 && !(e->flags & COMMIT_HAD))
		return 0; /* somebody else took it away */
	if (!(e->flags & COMMIT_HAD))
		return rename_to_nothing(s->host, s->name, s->area, s->number);
	if (s->on_host == 0)
		return rename_to_nothing(s->area, s->number, s->host, s->name);
	return exchange(s->area, s->number, s->host, s->name);
}

/* Put @index's new state in place (@forth), or its old one back; does nothing when that is so
 * already. Return: 0, -ESTALE (something else stands there), or -errno */
static int swap_entry(struct commit *c, uint32_t index, bool forth, bool any)
{
	struct side s;
	int r = look(c, index, &s);
	bool deletes = c->entries[index].op == COMMIT_DELETE;
	if (r == 0 && forth && !s.placed)
		r = swap_forth(c, &c->entries[index], &s, any);
	if (r == 0 && forth && deletes)
		return give_newer(&s);
	return r < 0 || forth || !s.placed ? r : swap_back(&c->entries[index], &s, any);
}

/* ---- directories that stay ---- */

static int set_times(int fd, const struct commit_node *n)
{
	const struct timespec times[2] = {
		{ n->atime_ns / 1000000000, n->atime_ns % 1000000000 },
		{ n->mtime_ns / 1000000000, n->mtime_ns % 1000000000 },
	};
	return futimens(fd, times) < 0 ? -errno : 0;
}

static int set_meta(int fd, const struct commit_node *n, const struct fvm_buf *xattrs)
{
	struct stat st;
	const struct fvm_xattr_at at = { .fd = fd };
	if (fvm_subids_fstat(fd, &st) < 0)
		return -errno;
	if ((st.st_uid != n->uid || st.st_gid != n->gid) && fchown(fd, n->uid, n->gid) < 0)
		return -errno;
	if (fchmod(fd, n->mode & 07777) < 0)
		return -errno;
	return fvm_xattrs_write(&at, xattrs->data ? xattrs->data : "", xattrs->len);
}

static int swap_dir(struct commit *c, const struct commit_entry *e, bool forth)
{
	const struct commit_node *node = forth ? &e->now : &e->was;
	int r = FVM_FAULT("commit.directory");
	if (r < 0)
		return r;
	scoped_fd fd = fvm_open_deep(c->stacks[e->stack].base, e->rel, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return fd;
	if (e->op == COMMIT_MKDIR) /* see open_up() */
		return fchmod(fd, e->now.mode & 07777) < 0 ? -errno : 0;
	if (e->flags & COMMIT_META)
		r = set_meta(fd, node, forth ? &e->new_xattrs : &e->old_xattrs);
	if (r < 0 || (forth && !(e->flags & COMMIT_TIMES)))
		return r;
	r = set_times(fd, node);
	/* times of a directory of somebody else: not ours to set, and no reason to fail */
	return (r == -EPERM || r == -EACCES) && geteuid() != 0 ? 0 : r;
}

static int swap_dirs(struct commit *c, bool forth, struct fvm_error *err)
{
	bool user = geteuid() != 0;
	for (size_t i = c->count; i-- > 0;) {
		const struct commit_entry *e = &c->entries[i];
		bool closed = user && e->op == COMMIT_MKDIR && e->top == COMMIT_NO_TOP && forth;
		if (e->op != COMMIT_DIR && !closed)
			continue;
		int r = swap_dir(c, e, forth);
		scoped_free char *path = r < 0 ? commit_path(c, e) : NULL;
		if (r < 0)
			return fvm_error_set(err, -r, "set mode, owner and times of %s", path);
	}
	return 0;
}

static int swap_one(struct commit *c, size_t index, bool forth, bool any, struct fvm_error *err)
{
	const struct commit_entry *e = &c->entries[index];
	if (e->op == COMMIT_DIR || e->top != COMMIT_NO_TOP)
		return 0;
	int r = swap_entry(c, (uint32_t)index, forth, any);
	if (r == 0)
		return 0;
	scoped_free char *path = commit_path(c, e);
	fvm_error_set(err, -r, "%s %s", forth ? "put in place" : "put back", path ? path : e->rel);
	if (r == -ESTALE || r == -EEXIST)
		fvm_error_hint(err, "the host changed it since a moment ago: try again");
	return r;
}

int commit_swap_all(struct commit *c, bool forth, bool any, struct fvm_error *err)
{
	/* back: a directory's old mode first, it may be what lets us write in it */
	int r = forth ? 0 : swap_dirs(c, false, err);
	for (size_t i = 0; r == 0 && i < c->count; i++) {
		r = swap_one(c, forth ? i : c->count - 1 - i, forth, any, err);
		if (c->progress && i % 64 == 0)
			c->progress(c->progress_arg, forth ? "apply" : "put back", i, c->count);
	}
	return r == 0 ? swap_dirs(c, forth, err) : r;
}

int commit_sync(struct commit *c)
{
	int r = FVM_FAULT("commit.sync");
	if (c->progress)
		c->progress(c->progress_arg, "write to the disk", 0, 0);
	for (size_t i = 0; r == 0 && i < c->area_count; i++) {
		if (c->areas[i].fd >= 0 && syncfs(c->areas[i].fd) < 0)
			r = -errno;
	}
	/* directories' metadata may lie on mounts without an area */
	for (size_t i = 0; r == 0 && c->area_count == 0 && i < c->stack_count; i++)
		r = c->stacks[i].base >= 0 ? fvm_nerr(syncfs(c->stacks[i].base)) : 0;
	return r;
}
