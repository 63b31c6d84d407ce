/*
 * Staging: every new inode is made whole in the area - data, owner, mode, xattrs, times - before
 * the first name of the host changes. Always a copy, never the layer's own inode: a paused VM may
 * have that open, and would write into the host's file afterwards.
 *
 * The layer is read as what it is, a tree made by somebody hostile: directories by descriptor,
 * nothing followed, and each inode must be the one the plan was made from.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/commit_priv.h"
#include "fvm/inode.h"

struct link { /* the first staged name of an inode that has several in the layer */
	uint64_t ino;
	uint32_t index, layer, stack;
};

struct stage {
	struct commit *c;
	const struct fvm_stacks *stacks;
	struct link *links; /* open addressing, capacity a power of two */
	size_t link_count, link_capacity;
};

static size_t link_slot(const struct link *links, size_t capacity, const struct link *key)
{
	size_t at =
		(size_t)((key->ino + key->layer * 31 + key->stack * 131) * 0x9e3779b97f4a7c15ULL);
	for (at &= capacity - 1; links[at].ino != 0; at = (at + 1) & (capacity - 1)) {
		if (links[at].ino == key->ino && links[at].layer == key->layer &&
		    links[at].stack == key->stack)
			break;
	}
	return at;
}

static int links_grow(struct stage *s)
{
	size_t capacity = s->link_capacity ? s->link_capacity * 2 : 64;
	struct link *more = calloc(capacity, sizeof(*more));
	if (!more)
		return -ENOMEM;
	for (size_t i = 0; i < s->link_capacity; i++) {
		if (s->links[i].ino)
			more[link_slot(more, capacity, &s->links[i])] = s->links[i];
	}
	free(s->links);
	s->links = more;
	s->link_capacity = capacity;
	return 0;
}

/* Return: 1 with *@ret_first, 0 when @index is the first one, or -ENOMEM */
static int link_find(struct stage *s, uint32_t index, uint32_t *ret_first)
{
	const struct commit_entry *e = &s->c->entries[index];
	const struct link key = { e->layer_ino, index, e->layer, e->stack };
	if ((s->link_count + 1) * 2 > s->link_capacity && links_grow(s) < 0)
		return -ENOMEM;
	size_t at = link_slot(s->links, s->link_capacity, &key);
	if (s->links[at].ino) {
		*ret_first = s->links[at].index;
		return 1;
	}
	s->links[at] = key;
	s->link_count++;
	return 0;
}

/* ---- one inode ---- */

struct spot { /* where it is made, and from what */
	int dir, from;
	const char *name, *from_name;
};

static int set_times_at(int dir, const char *name, const struct commit_node *n)
{
	const struct timespec times[2] = {
		{ n->atime_ns / 1000000000, n->atime_ns % 1000000000 },
		{ n->mtime_ns / 1000000000, n->mtime_ns % 1000000000 },
	};
	return utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int copy_xattrs(const struct fvm_xattr_at *from, const struct fvm_xattr_at *to)
{
	scoped_buf packed = { 0 };
	int r = fvm_xattrs_read(from, &packed);
	if (r < 0)
		return r;
	return fvm_xattrs_write(to, packed.data ? packed.data : "", packed.len);
}

/* Owner and mode of an open file or directory, then its xattrs; times come last, elsewhere. */
static int set_meta(int from, int to, const struct commit_node *n)
{
	const struct fvm_xattr_at source = { .fd = from }, target = { .fd = to };
	struct stat st;
	int r = FVM_FAULT("commit.meta");
	if (r < 0)
		return r;
	if (fstat(to, &st) < 0)
		return -errno;
	if ((st.st_uid != n->uid || st.st_gid != n->gid) && fchown(to, n->uid, n->gid) < 0)
		return -errno;
	if (fchmod(to, n->mode & 07777) < 0)
		return -errno;
	return copy_xattrs(&source, &target);
}

struct told { /* of one file */
	const struct commit *c;
	uint64_t bytes;
};

static void tell_copied(uint64_t bytes, void *arg)
{
	struct told *t = arg;
	t->bytes += bytes;
	t->c->progress(t->c->progress_arg, "copy", t->c->copied_bytes + t->bytes, t->c->copy_bytes);
}

/* @like: what it replaces, or -1 */
static int fill(const struct commit *c, const struct commit_entry *e, int from, int to, int like)
{
	struct told told = { .c = c };
	if (e->merged)
		return fvm_write_all(to, e->merged->data, e->merged->len);
	int r = fvm_copy_data_told(from, to, e->now.size, c->progress ? tell_copied : NULL, &told);
	return r == 0 && like >= 0 ? fvm_dig_holes(to, like, e->now.size) : r;
}

/* The host's file that an entry replaces, if there is one that can be opened. */
static int open_replaced(struct commit *c, const struct commit_entry *e)
{
	if (!(e->flags & COMMIT_HAD) || e->top != COMMIT_NO_TOP || !S_ISREG(e->was.mode))
		return -1;
	int dir = commit_host_dir(c, e);
	return dir < 0 ? -1 : fvm_open_file(dir, commit_name(e->rel));
}

static int make_file(struct commit *c, struct commit_entry *e, const struct spot *s)
{
	struct stat st;
	scoped_fd like = open_replaced(c, e);
	scoped_fd from = fvm_open_file(s->from, s->from_name);
	if (from < 0)
		return from == -EINVAL ? -ESTALE : from; /* it was a regular file */
	if (fstat(from, &st) < 0)
		return -errno;
	if (st.st_ino != e->layer_ino || (!e->merged && (uint64_t)st.st_size != e->now.size))
		return -ESTALE;
	scoped_fd to =
		openat(s->dir, s->name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (to < 0)
		return -errno;
	int r = fill(c, e, from, to, like);
	if (r == 0)
		r = set_meta(from, to, &e->now);
	/* given to it since the plan was made, so nobody was asked */
	if (r == 0 && !(e->flags & COMMIT_CAPS) &&
	    fgetxattr(to, "security.capability", NULL, 0) > 0)
		r = -ESTALE;
	if (r < 0)
		return r;
	if (fstat(to, &st) < 0)
		return -errno;
	e->staged_ino = st.st_ino;
	return set_times_at(s->dir, s->name, &e->now);
}

static int make_symlink(const struct commit_entry *e, const struct spot *s)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(s->from, s->from_name, target, sizeof(target) - 1);
	if (n < 0)
		return -errno;
	target[n] = '\0';
	if (symlinkat(target, s->dir, s->name) < 0)
		return -errno;
	if (fchownat(s->dir, s->name, e->now.uid, e->now.gid, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return 0;
}

static int make_special(const struct commit_entry *e, const struct spot *s)
{
	if (mknodat(s->dir, s->name, (e->now.mode & S_IFMT) | 0600, 0) < 0)
		return -errno;
	if (fchownat(s->dir, s->name, e->now.uid, e->now.gid, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	/* what we have just made in a directory of our own is no symlink */
	return fchmodat(s->dir, s->name, e->now.mode & 07777, 0) < 0 ? -errno : 0;
}

static int make_named(struct commit_entry *e, const struct spot *s)
{
	struct stat st;
	const struct fvm_xattr_at from = { s->from, s->from_name }, to = { s->dir, s->name };
	if (fstatat(s->from, s->from_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (st.st_ino != e->layer_ino || (st.st_mode & S_IFMT) != (e->now.mode & S_IFMT))
		return -ESTALE;
	int r = S_ISLNK(e->now.mode) ? make_symlink(e, s) : make_special(e, s);
	if (r == 0)
		r = copy_xattrs(&from, &to);
	if (r == 0)
		r = set_times_at(s->dir, s->name, &e->now);
	if (r < 0)
		return r;
	if (fstatat(s->dir, s->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	e->staged_ino = st.st_ino;
	return 0;
}

static int make_dir(struct commit_entry *e, const struct spot *s)
{
	struct stat st;
	scoped_fd from = fvm_open_deep(s->from, s->from_name, O_RDONLY | O_DIRECTORY);
	if (from < 0)
		return from;
	if (fstat(from, &st) < 0)
		return -errno;
	if (st.st_ino != e->layer_ino)
		return -ESTALE;
	if (mkdirat(s->dir, s->name, 0700) < 0)
		return -errno;
	scoped_fd to = fvm_open_deep(s->dir, s->name, O_RDONLY | O_DIRECTORY);
	if (to < 0)
		return to;
	struct commit_node open = e->now;
	open.mode |= 0700; /* until all is in it: seal() */
	int r = set_meta(from, to, &open);
	if (r == 0 && fstat(to, &st) == 0)
		e->staged_ino = st.st_ino;
	return r;
}

/* ---- all of them ---- */

static int source_dir(struct stage *s, const struct commit_entry *e)
{
	const struct fvm_stack *stack = &s->stacks->items[e->stack];
	const char *name = commit_name(e->rel);
	size_t len = name == e->rel ? 0 : (size_t)(name - e->rel - 1);
	return commit_dir_open(&s->c->layer_dir, (uint64_t)e->stack << 32 | e->layer,
			       stack->layers[e->layer], e->rel, len);
}

static int make_link(struct stage *s, uint32_t index, uint32_t first, const struct spot *spot)
{
	struct commit *c = s->c;
	const char *name;
	char number[16];
	int dir = commit_staged_dir(c, first, &c->link_dir, &name, number);
	int r = FVM_FAULT("commit.link");
	if (dir < 0 || r < 0)
		return dir < 0 ? dir : r;
	if (linkat(dir, name, spot->dir, spot->name, 0) < 0)
		return -errno;
	c->entries[index].staged_ino = c->entries[first].staged_ino;
	return 0;
}

static int stage_one(struct stage *s, uint32_t index)
{
	struct commit *c = s->c;
	struct commit_entry *e = &c->entries[index];
	struct spot spot = { .from_name = commit_name(e->rel) };
	struct stat st;
	uint32_t first;
	char number[16];
	int r = FVM_FAULT("commit.stage");
	if (r < 0)
		return r;
	spot.from = source_dir(s, e);
	spot.dir = commit_staged_dir(c, index, &c->staged_dir, &spot.name, number);
	if (spot.from < 0 || spot.dir < 0)
		return spot.from < 0 ? spot.from : spot.dir;
	if (e->op == COMMIT_MKDIR)
		return make_dir(e, &spot);
	if (fstatat(spot.from, spot.from_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (st.st_nlink > 1 && st.st_ino == e->layer_ino && !e->merged) {
		r = link_find(s, index, &first);
		/* areas of two mounts can't share an inode; nor can names of another owner */
		if (r == 1 && c->entries[first].area == e->area)
			return make_link(s, index, first, &spot);
		if (r < 0)
			return r;
	}
	return S_ISREG(e->now.mode) ? make_file(c, e, &spot) : make_named(e, &spot);
}

/* A directory's mode and times, once nothing is put into it any more: children first. */
static int seal(struct commit *c, uint32_t index)
{
	const struct commit_entry *e = &c->entries[index];
	const char *name;
	char number[16];
	mode_t mode = e->now.mode & 07777;
	int dir = commit_staged_dir(c, index, &c->staged_dir, &name, number);
	if (dir < 0)
		return dir;
	/* who is not root could not move it: the mode follows when it is in place */
	if (e->top == COMMIT_NO_TOP && geteuid() != 0)
		mode |= 0700;
	if ((e->now.mode & 0700) != 0700 && fchmodat(dir, name, mode, 0) < 0)
		return -errno;
	return set_times_at(dir, name, &e->now);
}

static uint64_t bytes_of(const struct commit_entry *e)
{
	return e->op == COMMIT_PUT && S_ISREG(e->now.mode) ? e->now.size : 0;
}

static int stage_all(struct stage *s, struct fvm_error *err)
{
	struct commit *c = s->c;
	for (uint32_t i = 0; i < c->count; i++)
		c->copy_bytes += bytes_of(&c->entries[i]);
	for (uint32_t i = 0; i < c->count; i++) {
		const struct commit_entry *e = &c->entries[i];
		if (e->op != COMMIT_PUT && e->op != COMMIT_MKDIR)
			continue;
		int r = stage_one(s, i);
		if (r == 0)
			r = commit_write_staged(c, i);
		c->copied_bytes += bytes_of(e);
		if (c->progress && i % 64 == 0)
			c->progress(c->progress_arg, "copy", c->copied_bytes, c->copy_bytes);
		if (r == 0)
			continue;
		scoped_free char *path = commit_path(c, e);
		return fvm_error_set(err, -r, "copy %s out of the VM", path ? path : e->rel);
	}
	return 0;
}

int commit_stage(struct commit *c, const struct fvm_stacks *stacks, struct fvm_error *err)
{
	struct stage s = { .c = c, .stacks = stacks };
	int r = stage_all(&s, err);
	free(s.links);
	for (uint32_t i = (uint32_t)c->count; r == 0 && i-- > 0;) {
		if (c->entries[i].op == COMMIT_MKDIR)
			r = seal(c, i);
		if (r < 0)
			fvm_error_set(err, -r, "finish the directory %s", c->entries[i].rel);
	}
	if (r == 0)
		r = commit_sync(c);
	if (r == 0)
		r = journal_sync(&c->journal);
	return r < 0 && err && !err->code ? fvm_error_set(err, -r, "bring the copies to the disk")
					  : r;
}
