#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <search.h>
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
	bool kept;	/* an earlier pass made it */
	bool touched;	/* and something in it was made anew */
};

/* What an inode of the copy was made from: numbers are never those of another in one pass. */
struct origin {
	uint64_t copy, from;
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
	const struct fvm_layer_pass *pass; /* see fvm_layer_copy_pass(); or NULL */
	struct origin *was;
	size_t was_count;
	struct fvm_buf origins; /* for the next pass */
	void *dirs, *linked;	/* trees (tsearch) of inodes that this pass has had already */
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

/* What a directory had, or a default ACL gives to what is made in it, is no longer the original's.
 */
static int drop_xattrs(const struct place *p)
{
	scoped_free char *names = NULL;
	ssize_t size = fvm_xattr_names(-1, p->to, &names);
	for (const char *name = names; size > 0 && name < names + size; name += strlen(name) + 1) {
		if (lgetxattr(p->from, name, NULL, 0) >= 0 || errno != ENODATA)
			continue;
		if (lremovexattr(p->to, name) < 0 && strncmp(name, "security.", 9) != 0)
			return -errno;
	}
	return size < 0 ? (int)size : 0;
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
	if (w->pass)
		r = drop_xattrs(&p);
	if (r == 0)
		r = copy_xattrs(&p);
	if (r == 0 && utimensat(to, name, times, AT_SYMLINK_NOFOLLOW) < 0)
		r = -errno;
	return r;
}

/* ---- several passes ---- */

#define NS	 1000000000LL
#define SLACK_NS 30000000 /* times of files are those of the kernel's last tick */

/* Whether an inode may have changed at @since or later. Nobody can set a ctime. */
static bool is_changed(const struct stat *st, int64_t since_ns)
{
	const struct timespec *t = &st->st_ctim;
	if (t->tv_nsec == 0) /* there are file systems that know seconds only */
		return t->tv_sec >= since_ns / NS;
	return t->tv_sec * NS + t->tv_nsec + SLACK_NS >= since_ns;
}

static int by_copy(const void *a, const void *b)
{
	const struct origin *x = a, *y = b;
	return (x->copy > y->copy) - (x->copy < y->copy);
}

static ino_t origin_of(const struct walk *w, ino_t copy)
{
	const struct origin key = { .copy = copy };
	const struct origin *o =
		w->was ? bsearch(&key, w->was, w->was_count, sizeof(key), by_copy) : NULL;
	return o ? o->from : 0;
}

static int note_origin(struct walk *w, ino_t copy, ino_t from)
{
	const struct origin o = { .copy = copy, .from = from };
	if (w->pass && !w->pass->still)
		fvm_buf_add(&w->origins, &o, sizeof(o));
	return w->origins.failed ? -ENOMEM : 0;
}

static int by_value(const void *a, const void *b)
{
	const uintptr_t x = (uintptr_t)a, y = (uintptr_t)b;
	return (x > y) - (x < y);
}

static void free_nothing(void *node)
{
	(void)node;
}

/* Return: 1 when it is in @tree, 0 when it is there from now on, or -ENOMEM */
static int had_already(void **tree, ino_t ino)
{
	const void *key = (const void *)(uintptr_t)ino; /* not 0 */
	if (tfind(key, tree, by_value))
		return 1;
	return tsearch(key, tree, by_value) ? 0 : -ENOMEM;
}

/* The copy that +links has of it is of an earlier pass, and it has changed since. */
static int drop_stale_link(struct walk *w, const struct stat *st, const char *ino)
{
	if (!w->pass || !is_changed(st, w->pass->copied_ns))
		return 0;
	int r = had_already(&w->linked, st->st_ino);
	if (r == 0 && unlinkat(w->links, ino, 0) < 0 && errno != ENOENT)
		return -errno;
	return r < 0 ? r : 0;
}

/* It goes, or becomes another, while it is looked at: the last pass sees it as it is then. */
static bool is_fleeting(const struct walk *w, int r)
{
	static const int codes[] = { ENOENT, ESTALE,  ENOTDIR, EISDIR, EINVAL,
				     ENXIO,  ENODATA, ELOOP,   EXDEV,  EEXIST };
	for (size_t i = 0; w->pass && !w->pass->still && i < FVM_COUNT(codes); i++) {
		if (r == -codes[i])
			return true;
	}
	return false;
}

/* Whether what an earlier pass made of it needs nothing more. What is not that is taken away.
 * Return: 1 or 0, or negative errno */
static int is_copied(const struct walk *w, struct level *l, const char *name, const struct stat *st)
{
	struct stat is;
	if (!w->pass)
		return 0;
	if (fstatat(l->to, name, &is, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	bool same = origin_of(w, is.st_ino) == st->st_ino &&
		    (is.st_mode & S_IFMT) == (st->st_mode & S_IFMT);
	if (same && (S_ISDIR(st->st_mode) || !is_changed(st, w->pass->copied_ns)))
		return 1;
	l->touched = true;
	int r = fvm_remove_tree(l->to, name);
	return r == -ENOENT ? 0 : r;
}

/* It will be copied again anyway; a directory counts as what lies in it. */
static bool is_for_later(const struct walk *w, const struct stat *st)
{
	return w->pass && !w->pass->still && !S_ISDIR(st->st_mode) &&
	       is_changed(st, w->pass->now_ns);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static bool has_name(const struct level *l, const char *name)
{
	for (int from = 0, end = l->count; from < end;) {
		const int at = from + (end - from) / 2, order = strcmp(l->names[at]->d_name, name);
		if (order == 0)
			return true;
		if (order < 0)
			from = at + 1;
		else
			end = at;
	}
	return false;
}

/* Names in the copy that the original has lost since. */
static int drop_gone(struct level *l)
{
	struct dirent **names = NULL;
	int n = scandirat(l->to, ".", &names, fvm_dir_filter, NULL);
	int r = n < 0 ? -errno : 0;
	for (int i = 0; i < n; i++) {
		if (r == 0 && !has_name(l, names[i]->d_name)) {
			l->touched = true;
			r = fvm_remove_tree(l->to, names[i]->d_name);
		}
		free(names[i]);
	}
	free(names);
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
	int r = drop_stale_link(w, st, ino);
	if (r < 0)
		return r;
	if (linkat(w->links, ino, l->to, name, 0) == 0)
		return 0;
	if (errno != ENOENT && errno != EMLINK)
		return -errno;
	r = copy_new(w, l, name, st);
	if (r == 0 && linkat(l->to, name, w->links, ino, 0) < 0 && errno != EEXIST &&
	    errno != EMLINK)
		r = -errno;
	return r;
}

static int note_copied(struct walk *w, const struct level *l, const char *name,
		       const struct stat *st)
{
	struct stat is;
	if (!w->pass || w->pass->still)
		return 0;
	return fstatat(l->to, name, &is, AT_SYMLINK_NOFOLLOW) < 0
		       ? -errno
		       : note_origin(w, is.st_ino, st->st_ino);
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
	l->count = scandirat(l->from, ".", &l->names, fvm_dir_filter, l->kept ? by_name : NULL);
	if (l->count < 0 || !l->name) {
		int r = l->count < 0 ? -errno : -ENOMEM;
		l->count = l->count < 0 ? 0 : l->count;
		return r;
	}
	return 0;
}

/* Make the directory @name of @to, if it is not kept, and go into it. */
static int push(struct walk *w, int from, int to, const char *name, bool kept)
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
	if (!kept && strcmp(name, ".") != 0 && mkdirat(to, name, 0700) < 0)
		return -errno;
	struct level *l = &w->levels[w->count++];
	*l = (struct level){ .from = -1, .to = -1, .path_len = w->path.len, .kept = kept };
	r = level_fill(l, from, to, name);
	if (r == 0 && kept && is_changed(&l->st, w->pass->copied_ns))
		r = drop_gone(l);
	if (r == 0 && w->count > OPEN_LEVELS) {
		struct level *far = l - OPEN_LEVELS;
		fvm_fd_closep(&far->from);
		fvm_fd_closep(&far->to);
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
	int r = from < 0 ? from : to < 0 ? to : 0;
	if (r == 0 && (!l->kept || l->touched || is_changed(&l->st, w->pass->copied_ns)))
		r = copy_attributes(w, from, to, l->name, &l->st);
	if (r == 0)
		r = note_origin(w, l->to_ino, l->from_ino);
	else if (is_fleeting(w, r) && from >= 0 && to >= 0)
		r = 0;
	level_free(l);
	w->count--;
	return r;
}

/* Nobody's in this VM, or a device, or gone since its directory was read. */
static bool may_skip(int r)
{
	return r == -EACCES || r == -EPERM || r == -ENOENT || r == -ESTALE;
}

/* A directory that was moved while we walk is met once: or whoever moves it has us walk for ever.
 */
static int enter(struct walk *w, const struct level *l, const char *name, const struct stat *st,
		 bool kept)
{
	int r = w->pass && !w->pass->still ? had_already(&w->dirs, st->st_ino) : 0;
	return r == 0 ? push(w, l->from, l->to, name, kept) : r < 0 ? r : -ESTALE;
}

static int visit(struct walk *w, struct level *l, const char *name)
{
	struct stat st;
	if (fstatat(l->from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (is_for_later(w, &st))
		return 0;
	int r = is_copied(w, l, name, &st);
	if (r < 0)
		return r;
	if (S_ISDIR(st.st_mode))
		return enter(w, l, name, &st, r);
	if (r == 0 && st.st_nlink > 1)
		r = copy_linked(w, l, name, &st);
	else if (r == 0)
		r = copy_new(w, l, name, &st);
	if (r >= 0)
		r = note_copied(w, l, name, &st);
	if (r == 0 && w->owners)
		r = note_owner(w, l, name, &st);
	return r;
}

static void leave(struct walk *w, size_t level)
{
	while (w->count > level)
		level_free(&w->levels[--w->count]);
}

static int step(struct walk *w, int from, int to)
{
	struct level *l = &w->levels[w->count - 1];
	if (l->at == l->count) {
		int r = pop(w, from, to);
		return r < 0 ? failed(w, r, "copy directory") : 0;
	}
	scoped_free struct dirent *e = l->names[l->at++];
	w->path.len = l->path_len;
	fvm_buf_printf(&w->path, "%s%s", w->path.len ? "/" : "", e->d_name);
	if (w->path.failed)
		return failed(w, -ENOMEM, "copy");
	size_t level = w->count;
	int r = visit(w, l, e->d_name);
	if (r < 0 && w->seen && may_skip(r)) {
		leave(w, level);
		w->skipped++;
		r = 0;
	} else if (r < 0 && is_fleeting(w, r)) {
		leave(w, level);
		r = fvm_remove_tree(w->levels[level - 1].to, e->d_name);
	}
	if (w->told)
		w->told->fn(w->told->arg, w->key, ++w->entries);
	return r < 0 ? failed(w, r, "copy") : 0;
}

static int copy_top(struct walk *w, int from, int to, const char *name)
{
	struct level top = { .from = from, .to = to };
	struct stat st;
	w->path.len = 0;
	fvm_buf_puts(&w->path, "");
	int r = w->pass && fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
	if (r == 0)
		r = is_copied(w, &top, name, &st);
	if (r >= 0)
		r = push(w, from, to, name, r);
	if (r < 0)
		failed(w, r, "copy");
	while (r == 0 && w->count > 0)
		r = step(w, from, to);
	leave(w, 0);
	return r;
}

/* One mount; of what begins with "+" and is no mount's only native directories (native.h). */
static int copy_key(struct walk *w, int from, int to, const char *key)
{
	struct stat st;
	w->key = key;
	if (strcmp(key, FVM_NATIVE_DIR) == 0)
		return w->pass && !w->pass->native ? 0 : copy_top(w, from, to, key);
	if (key[0] == '+')
		return 0;
	scoped_fd in = fvm_open_nofollow(from, key, O_RDONLY | O_DIRECTORY);
	if (in < 0 || fstatat(in, "upper", &st, AT_SYMLINK_NOFOLLOW) < 0)
		return in < 0 && in != -ENOTDIR ? failed(w, in, "open") : 0;
	if (mkdirat(to, key, 0700) < 0 && (!w->pass || errno != EEXIST))
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

static int read_origins(struct walk *w)
{
	struct stat st;
	if (fstat(w->pass->origins, &st) < 0)
		return -errno;
	w->was = malloc((size_t)st.st_size + 1);
	if (!w->was)
		return -ENOMEM;
	if (pread(w->pass->origins, w->was, (size_t)st.st_size, 0) != st.st_size)
		return -EIO;
	w->was_count = (size_t)st.st_size / sizeof(*w->was);
	qsort(w->was, w->was_count, sizeof(*w->was), by_copy);
	return 0;
}

static int write_origins(const struct walk *w)
{
	if (w->origins.failed)
		return -ENOMEM;
	if (ftruncate(w->pass->origins, 0) < 0 || lseek(w->pass->origins, 0, SEEK_SET) < 0)
		return -errno;
	return fvm_write_all(w->pass->origins, w->origins.data, w->origins.len);
}

/* What several names have one copy of is found by +links, up to the last pass. */
static int copy_linking(struct walk *w, int from, int to)
{
	if (mkdirat(to, LINKS, 0700) == 0 || (w->pass && errno == EEXIST))
		w->links = fvm_open_nofollow(to, LINKS, O_RDONLY | O_DIRECTORY);
	int r = w->links < 0 ? failed(w, -EIO, "make a directory in the copy")
			     : copy_keys(w, from, to);
	if (w->links >= 0)
		close(w->links);
	if (w->pass && !w->pass->still)
		return is_fleeting(w, r) ? 0 : r;
	if (r == 0)
		r = write_list(w, to);
	int e = fvm_remove_tree(to, LINKS);
	return r == 0 && e < 0 ? fvm_error_set(w->err, -e, "finish the copy") : r;
}

static int copy_layer(struct walk *w, int from, int to)
{
	struct fvm_owners *owners = NULL;
	int r = w->pass && !w->pass->still ? 0 : fvm_owners_load(from, &owners, w->err);
	if (r < 0)
		return r;
	w->owners = owners;
	if (owners && faccessat(from, FVM_OWNERS_FILE, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		fvm_owners_maps(owners, &w->list);
	r = copy_linking(w, from, to);
	fvm_owners_free(owners);
	free(w->levels);
	fvm_buf_free(&w->path);
	fvm_buf_free(&w->list);
	return r;
}

int fvm_layer_copy(int from, int to, fvm_progress_fn progress, void *arg, struct fvm_error *err)
{
	struct walk w = {
		.links = -1,
		.key = "the workspace",
		.err = err,
		.progress = progress,
		.progress_arg = arg,
	};
	return copy_layer(&w, from, to);
}

int fvm_layer_copy_pass(int from, int to, const struct fvm_layer_pass *pass,
			fvm_progress_fn progress, void *arg, struct fvm_error *err)
{
	struct walk w = {
		.links = -1,
		.key = "the workspace",
		.err = err,
		.progress = progress,
		.progress_arg = arg,
		.pass = pass,
	};
	int r = read_origins(&w);
	if (r < 0)
		fvm_error_set(err, -r, "read what was copied");
	if (r == 0)
		r = copy_layer(&w, from, to);
	if (r == 0 && !pass->still) {
		r = write_origins(&w);
		if (r < 0)
			fvm_error_set(err, -r, "note what was copied");
	}
	free(w.was);
	fvm_buf_free(&w.origins);
	tdestroy(w.dirs, free_nothing);
	tdestroy(w.linked, free_nothing);
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
