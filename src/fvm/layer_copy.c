#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/inode.h"
#include "fvm/layer_copy.h"
#include "fvm/native.h"
#include "fvm/owners.h"

#define OPEN_LEVELS 32
#define LINKS	    "+links"
#define NOBODY	    65534 /* the kernel's for ids without a number here */

struct level {
	int from, to; /* -1: closed, as too many are open below it */
	ino_t from_ino, to_ino;
	struct dirent **names;
	int count, at;
	size_t path_len;
	struct stat st; /* of the original, for its copy when that is filled */
	char *name;	/* in the level above */
};

struct walk {
	struct level *levels;
	size_t count, room;
	int links; /* directory of what has several names */
	const char *key;
	struct fvm_buf path; /* below the mount */
	const struct fvm_owners *owners;
	struct fvm_buf list; /* of the copy's owners */
	struct fvm_error *err;
	fvm_progress_fn progress; /* may be NULL */
	void *progress_arg;
	uint64_t bytes;
	bool seen; /* what a VM sees is copied, not what lies in a layer: see fvm_tree_copy() */
	size_t skipped; /* with that: what could not be had */
	const struct fvm_copy_progress *told;
	uint64_t entries;
};

static int failed(const struct walk *w, int r, const char *what)
{
	return fvm_error_set(w->err, -r, "%s '%.300s' of %s", what,
			     w->path.data ? w->path.data : "", w->key);
}

/* ---- attributes ---- */

struct place {
	char from[300], to[300]; /* by /proc/self/fd, for calls that take a path */
	bool seen;		 /* see struct walk */
};

static int copy_xattr(const struct place *p, const char *name, char *value)
{
	ssize_t n = lgetxattr(p->from, name, value, XATTR_SIZE_MAX);
	if (n < 0)
		return errno == ENODATA || p->seen ? 0 : -errno;
	if (lsetxattr(p->to, name, value, (size_t)n, 0) == 0 || p->seen)
		return 0;
	/* a label is the security module's */
	bool label = strncmp(name, "security.", 9) == 0 && strcmp(name, "security.capability") != 0;
	return label ? 0 : -errno;
}

static int copy_xattrs(const struct place *p)
{
	scoped_free char *names = NULL;
	ssize_t size = fvm_xattr_names(-1, p->from, &names);
	scoped_free char *value = size > 0 ? malloc(XATTR_SIZE_MAX) : NULL;
	if (size <= 0 || !value)
		return size > 0 ? -ENOMEM : (int)size;
	int r = 0;
	for (const char *name = names; r == 0 && name < names + size; name += strlen(name) + 1)
		r = copy_xattr(p, name, value);
	return r;
}

/* chown drops set-id bits and capabilities, an ACL is part of the mode, all change the times. */
static int copy_attributes(const struct walk *w, int from, int to, const char *name,
			   const struct stat *st)
{
	struct place p = { .seen = w->seen };
	const struct timespec times[2] = { st->st_atim, st->st_mtim };
	snprintf(p.from, sizeof(p.from), "/proc/self/fd/%d/%s", from, name);
	snprintf(p.to, sizeof(p.to), "/proc/self/fd/%d/%s", to, name);
	int r = FVM_FAULT("layer.attributes");
	if (r < 0)
		return r;
	/* whom the VM has no id for it sees as nobody: its root has the copy */
	uid_t uid = w->seen && st->st_uid == NOBODY ? (uid_t)-1 : st->st_uid;
	gid_t gid = w->seen && st->st_gid == NOBODY ? (gid_t)-1 : st->st_gid;
	if (fchownat(to, name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0 && !w->seen)
		return -errno;
	if (!S_ISLNK(st->st_mode) && fchmodat(to, name, st->st_mode & 07777, 0) < 0)
		return -errno;
	r = copy_xattrs(&p);
	if (r == 0 && utimensat(to, name, times, AT_SYMLINK_NOFOLLOW) < 0)
		r = -errno;
	return r;
}

/* ---- entries ---- */

static void tell_copied(uint64_t bytes, void *arg)
{
	struct walk *w = arg;
	w->bytes += bytes;
	w->progress(w->bytes, 0, w->progress_arg);
}

static int copy_file(struct walk *w, int from, int to, const char *name, const struct stat *st)
{
	scoped_fd in = fvm_open_file(from, name);
	if (in < 0)
		return in;
	scoped_fd out =
		openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (out < 0)
		return -errno;
	return fvm_copy_data_told(in, out, (uint64_t)st->st_size, w->progress ? tell_copied : NULL,
				  w);
}

static int copy_link(int from, int to, const char *name)
{
	char target[4097];
	ssize_t n = readlinkat(from, name, target, sizeof(target) - 1);
	if (n < 0)
		return -errno;
	target[n] = '\0';
	return symlinkat(target, to, name) < 0 ? -errno : 0;
}

static int copy_new(struct walk *w, const struct level *l, const char *name, const struct stat *st)
{
	int r = FVM_FAULT("layer.copy");
	if (r < 0)
		return r;
	if (S_ISREG(st->st_mode))
		r = copy_file(w, l->from, l->to, name, st);
	else if (S_ISLNK(st->st_mode))
		r = copy_link(l->from, l->to, name);
	else if (mknodat(l->to, name, (st->st_mode & S_IFMT) | 0600, st->st_rdev) < 0)
		r = -errno;
	return r < 0 ? r : copy_attributes(w, l->from, l->to, name, st);
}

/* Something with several names: the first of them is copied, the others are links to that. */
static int copy_linked(struct walk *w, const struct level *l, const char *name,
		       const struct stat *st)
{
	char ino[32];
	snprintf(ino, sizeof(ino), "%llu", (unsigned long long)st->st_ino);
	if (linkat(w->links, ino, l->to, name, 0) == 0)
		return 0;
	if (errno != ENOENT && errno != EMLINK)
		return -errno;
	int r = copy_new(w, l, name, st);
	if (r == 0 && linkat(l->to, name, w->links, ino, 0) < 0 && errno != EEXIST &&
	    errno != EMLINK)
		r = -errno;
	return r;
}

static int note_owner(struct walk *w, const struct level *l, const char *name,
		      const struct stat *st)
{
	struct stat now;
	const struct fvm_owner *owner =
		fvm_owners_find(w->owners, w->key, w->path.data, st->st_ino);
	if (!owner)
		return 0;
	if (fstatat(l->to, name, &now, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	fvm_owners_line(&w->list, owner, now.st_ino, w->key, w->path.data);
	return w->list.failed ? -ENOMEM : 0;
}

/* ---- the walk ---- */

static void level_free(struct level *l)
{
	for (int i = l->at; i < l->count; i++)
		free(l->names[i]);
	free(l->names);
	free(l->name);
	fvm_fd_closep(&l->from);
	fvm_fd_closep(&l->to);
}

static int level_fill(struct level *l, int from, int to, const char *name)
{
	struct stat now;
	l->from = fvm_open_same_mount(from, name, O_RDONLY | O_DIRECTORY);
	if (l->from < 0)
		return l->from;
	l->to = fvm_open_nofollow(to, name, O_RDONLY | O_DIRECTORY);
	if (l->to < 0)
		return l->to;
	if (fstat(l->from, &l->st) < 0 || fstat(l->to, &now) < 0)
		return -errno;
	l->from_ino = l->st.st_ino;
	l->to_ino = now.st_ino;
	l->name = strdup(name);
	l->count = scandirat(l->from, ".", &l->names, fvm_dir_filter, NULL);
	if (l->count < 0 || !l->name) {
		int r = l->count < 0 ? -errno : -ENOMEM;
		l->count = l->count < 0 ? 0 : l->count;
		return r;
	}
	return 0;
}

/* Make the directory @name of @to and go into it. */
static int push(struct walk *w, int from, int to, const char *name)
{
	if (w->count == w->room) {
		size_t room = w->room ? w->room * 2 : OPEN_LEVELS;
		struct level *more = realloc(w->levels, room * sizeof(*more));
		if (!more)
			return -ENOMEM;
		w->levels = more;
		w->room = room;
	}
	int r = FVM_FAULT("layer.directory");
	if (r < 0)
		return r;
	if (strcmp(name, ".") != 0 && mkdirat(to, name, 0700) < 0)
		return -errno;
	struct level *l = &w->levels[w->count++];
	*l = (struct level){ .from = -1, .to = -1, .path_len = w->path.len };
	r = level_fill(l, from, to, name);
	if (r == 0 && w->count > OPEN_LEVELS) {
		struct level *far = l - OPEN_LEVELS;
		fvm_fd_closep(&far->from);
		fvm_fd_closep(&far->to);
		far->from = far->to = -1;
	}
	return r;
}

static int open_above(int below, ino_t ino)
{
	struct stat st;
	scoped_fd fd = openat(below, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	return st.st_ino == ino ? fvm_fd_take(&fd) : -ESTALE;
}

/* All of a directory is there: its attributes, and back to the one above, or to @from and @to. */
static int pop(struct walk *w, int from, int to)
{
	struct level *l = &w->levels[w->count - 1];
	if (w->count > 1) {
		struct level *above = l - 1;
		if (above->from < 0)
			above->from = open_above(l->from, above->from_ino);
		if (above->to < 0)
			above->to = open_above(l->to, above->to_ino);
		from = above->from;
		to = above->to;
	}
	int r = from < 0 ? from : to;
	if (r >= 0)
		r = copy_attributes(w, from, to, l->name, &l->st);
	level_free(l);
	w->count--;
	return r;
}

/* Nobody's in this VM, or a device, or gone since its directory was read. */
static bool may_skip(int r)
{
	return r == -EACCES || r == -EPERM || r == -ENOENT || r == -ESTALE;
}

static int step(struct walk *w, int from, int to)
{
	struct level *l = &w->levels[w->count - 1];
	struct stat st;
	if (l->at == l->count) {
		int r = pop(w, from, to);
		return r < 0 ? failed(w, r, "copy directory") : 0;
	}
	scoped_free struct dirent *e = l->names[l->at++];
	w->path.len = l->path_len;
	fvm_buf_printf(&w->path, "%s%s", w->path.len ? "/" : "", e->d_name);
	if (w->path.failed)
		return failed(w, -ENOMEM, "copy");
	int r = 0;
	size_t level = w->count;
	if (fstatat(l->from, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		r = -errno;
	else if (S_ISDIR(st.st_mode))
		r = push(w, l->from, l->to, e->d_name);
	else if (st.st_nlink > 1)
		r = copy_linked(w, l, e->d_name, &st);
	else
		r = copy_new(w, l, e->d_name, &st);
	if (r == 0 && w->owners && !S_ISDIR(st.st_mode))
		r = note_owner(w, l, e->d_name, &st);
	if (r < 0 && w->seen && may_skip(r)) {
		while (w->count > level)
			level_free(&w->levels[--w->count]);
		w->skipped++;
		r = 0;
	}
	if (w->told)
		w->told->fn(w->told->arg, w->key, ++w->entries);
	return r < 0 ? failed(w, r, "copy") : 0;
}

static int copy_top(struct walk *w, int from, int to, const char *name)
{
	w->path.len = 0;
	fvm_buf_puts(&w->path, "");
	int r = push(w, from, to, name);
	if (r < 0)
		failed(w, r, "copy");
	while (r == 0 && w->count > 0)
		r = step(w, from, to);
	while (w->count > 0)
		level_free(&w->levels[--w->count]);
	return r;
}

/* One mount; of what begins with "+" and is no mount's only native directories (native.h). */
static int copy_key(struct walk *w, int from, int to, const char *key)
{
	struct stat st;
	w->key = key;
	if (strcmp(key, FVM_NATIVE_DIR) == 0)
		return copy_top(w, from, to, key);
	if (key[0] == '+')
		return 0;
	scoped_fd in = fvm_open_nofollow(from, key, O_RDONLY | O_DIRECTORY);
	if (in < 0 || fstatat(in, "upper", &st, AT_SYMLINK_NOFOLLOW) < 0)
		return in < 0 && in != -ENOTDIR ? failed(w, in, "open") : 0;
	if (mkdirat(to, key, 0700) < 0)
		return failed(w, -errno, "make");
	scoped_fd out = fvm_open_nofollow(to, key, O_RDONLY | O_DIRECTORY);
	return out < 0 ? failed(w, out, "open") : copy_top(w, in, out, "upper");
}

static int copy_keys(struct walk *w, int from, int to)
{
	struct dirent **keys = NULL;
	int n = scandirat(from, ".", &keys, fvm_dir_filter, NULL);
	int r = n < 0 ? fvm_error_set(w->err, errno, "read the workspace") : 0;
	for (int i = 0; i < n; i++) {
		if (r == 0)
			r = copy_key(w, from, to, keys[i]->d_name);
		free(keys[i]);
	}
	free(keys);
	return r;
}

static int write_list(const struct walk *w, int to)
{
	if (w->list.len == 0)
		return 0;
	int r = w->list.failed ? -ENOMEM
			       : fvm_write_file_atomic(to, FVM_OWNERS_FILE, w->list.data,
						       w->list.len, false);
	return r < 0 ? fvm_error_set(w->err, -r, "write the record of owners") : 0;
}

int fvm_layer_copy(int from, int to, fvm_progress_fn progress, void *arg, struct fvm_error *err)
{
	struct fvm_owners *owners = NULL;
	struct walk w = {
		.links = -1,
		.key = "the workspace",
		.err = err,
		.progress = progress,
		.progress_arg = arg,
	};
	int r = fvm_owners_load(from, &owners, err);
	if (r < 0)
		return r;
	w.owners = owners;
	if (faccessat(from, FVM_OWNERS_FILE, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		fvm_owners_maps(owners, &w.list);
	if (mkdirat(to, LINKS, 0700) == 0)
		w.links = fvm_open_nofollow(to, LINKS, O_RDONLY | O_DIRECTORY);
	r = w.links < 0 ? failed(&w, -EIO, "make a directory in the copy")
			: copy_keys(&w, from, to);
	if (r == 0)
		r = write_list(&w, to);
	if (w.links >= 0)
		close(w.links);
	int e = fvm_remove_tree(to, LINKS);
	if (r == 0 && e < 0)
		r = fvm_error_set(err, -e, "finish the copy");
	fvm_owners_free(owners);
	free(w.levels);
	fvm_buf_free(&w.path);
	fvm_buf_free(&w.list);
	return r;
}

int fvm_tree_copy(int from, int to, const struct fvm_tree_copying *how, struct fvm_error *err)
{
	struct walk w = {
		.links = how->links,
		.key = how->name,
		.seen = how->seen,
		.told = how->progress,
		.err = err,
	};
	int r = copy_top(&w, from, to, ".");
	free(w.levels);
	fvm_buf_free(&w.path);
	if (how->ret_skipped)
		*how->ret_skipped = w.skipped;
	return r;
}
