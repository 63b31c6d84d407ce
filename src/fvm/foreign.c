#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/adopt.h"
#include "fvm/foreign.h"
#include "fvm/internal.h"
#include "fvm/skeleton_priv.h"

#define MAX_FOREIGN 512
#define WORTH	    24 /* fewer are made faster than compared */
#define LIST_LIMIT  (4 << 20)

struct walk {
	int top, layer; /* layer -1: none yet */
	int (*open)(void *arg);
	void *arg;
	const struct fvm_user_ids *ids; /* from outside; NULL: within the namespace */
	const char *path;		/* of the top; from outside */
	struct fvm_buf list;		/* from outside: records of what was looked at */
	bool dry;			/* make nothing, only note */
	bool full;			/* there are more */
	struct found {
		char *path; /* relative to the top */
		mode_t mode;
		struct timespec times[2];
	} * dirs;
	size_t count;
};

static bool is_foreign(const struct walk *w, const struct stat *st)
{
	const struct fvm_user_ids *i = w->ids;
	if (!i)
		return st->st_uid == FVM_NOBODY;
	return st->st_uid != i->uid &&
	       !(st->st_uid >= i->sub_uid && st->st_uid - i->sub_uid < i->count);
}

static int add(struct walk *w, const char *path, const struct stat *st)
{
	if (!w->dry && w->layer < 0)
		w->layer = w->open(w->arg);
	if (!w->dry && w->layer < 0)
		return w->layer;
	if (!w->dry && mkdirat(w->layer, path, 0700) < 0)
		return -errno;
	if (!w->dirs)
		w->dirs = calloc(MAX_FOREIGN, sizeof(*w->dirs));
	char *copy = w->dirs ? strdup(path) : NULL;
	if (!copy)
		return -ENOMEM;
	w->dirs[w->count++] = (struct found){ copy, st->st_mode, { st->st_atim, st->st_mtim } };
	return 0;
}

static void note(struct walk *w, int dir, const char *rel)
{
	struct stat st;
	char path[PATH_MAX];
	if (!w->ids || fstat(dir, &st) < 0)
		return;
	if (snprintf(path, sizeof(path), "%s%s", w->path, rel + 1) < (int)sizeof(path))
		skel_add(&w->list, SKEL_DIR, skel_ctime(&st), path);
}

/* @path: "." or "./..." */
static int look(struct walk *w, const char *path)
{
	scoped_dir d = fvm_dir_open(w->top, path);
	int r = 0;
	if (d)
		note(w, dirfd(d), path);
	for (struct dirent *e; d && r == 0 && !w->full && (e = fvm_dir_next(d));) {
		char child[PATH_MAX];
		struct stat st;
		if (e->d_type != DT_DIR ||
		    fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		    !is_foreign(w, &st) || faccessat(dirfd(d), e->d_name, R_OK | X_OK, 0) < 0)
			continue;
		w->full = w->count == MAX_FOREIGN;
		if (!w->full &&
		    snprintf(child, sizeof(child), "%s/%s", path, e->d_name) < (int)sizeof(child))
			r = add(w, child, &st);
	}
	return r;
}

/* Last of all, and backwards: what is made in a directory changes it. */
static void finish(struct walk *w)
{
	while (w->count) {
		struct found *f = &w->dirs[--w->count];
		if (!w->dry) {
			(void)!fchmodat(w->layer, f->path, f->mode & 07777, 0);
			(void)utimensat(w->layer, f->path, f->times, 0);
		}
		free(f->path);
	}
	free(w->dirs);
}

/* Return: how many directories, or negative errno */
static int walk(struct walk *w)
{
	int r = look(w, ".");
	for (size_t i = 0; r == 0 && i < w->count && !w->full; i++)
		r = look(w, w->dirs[i].path);
	if (w->full && w->ids)
		skel_add(&w->list, SKEL_LEFT_OUT, true, w->path);
	r = r < 0 ? r : (int)w->count;
	finish(w);
	return r;
}

int fvm_foreign_make(int top, int (*open)(void *arg), void *arg, int *ret_layer)
{
	struct walk w = { .top = top, .layer = -1, .open = open, .arg = arg };
	int r = walk(&w);
	*ret_layer = w.layer;
	return r < 0 ? r : 0;
}

/* ---- those that are kept ---- */

static bool is_ours(const struct fvm_tree *t)
{
	return t->kind == FVM_TREE_OVERLAY && !fvm_skeleton_has(t->path);
}

/* @ret: name of the layer. Return: 0, -ESTALE, or -ENOENT when there is no list */
static int check(int foreign, const char *key, char ret[NAME_MAX + 1], bool *ret_full)
{
	static const struct fvm_strv none;
	scoped_free char *list = NULL;
	struct skel_record record;
	size_t len;
	int r = fvm_read_file(foreign, key, LIST_LIMIT, &list, &len);
	if (r < 0)
		return r;
	const char *at = strchr(list, '\n'), *end = list + len;
	if (!at || at - list > NAME_MAX || strncmp(list, key, strlen(key)) != 0)
		return -ESTALE;
	memcpy(ret, list, (size_t)(at - list));
	ret[at - list] = '\0';
	if (strchr(ret, '/'))
		return -ESTALE;
	for (at++; at < end;) {
		if (!skel_next(&at, end, &record) || !skel_fresh(&record, &none))
			return -ESTALE;
		*ret_full |= record.kind == SKEL_LEFT_OUT;
	}
	return 0;
}

/* Return: gN/foreign, or negative errno */
static int open_kept(const struct fvm_store *store, const char *gen, const struct fvm_trees *trees,
		     const struct fvm_user_ids *ids)
{
	scoped_fd dir = fvm_open_nofollow(store->dir, gen, O_RDONLY | O_DIRECTORY);
	int fd = fvm_open_nofollow(dir, "foreign", O_RDONLY | O_DIRECTORY);
	if (fd != -ENOENT)
		return fd;
	fvm_foreign_renew(dir, trees, ids);
	return fvm_open_nofollow(dir, "foreign", O_RDONLY | O_DIRECTORY);
}

void fvm_foreign_take(const struct fvm_store *store, const struct fvm_skeleton *skeleton,
		      struct fvm_trees *trees, const struct fvm_user_ids *ids)
{
	char gen[sizeof(skeleton->path)], name[NAME_MAX + 1];
	snprintf(gen, sizeof(gen), "%.*s", (int)(strlen(skeleton->path) - strlen("/tree")),
		 skeleton->path);
	scoped_fd foreign = open_kept(store, gen, trees, ids);
	for (size_t i = 0; foreign >= 0 && i < trees->count; i++) {
		struct fvm_tree *t = &trees->items[i];
		if (is_ours(t) && check(foreign, t->key, name, &t->full) == 0 &&
		    asprintf(&t->foreign, "%s/foreign/%s", gen, name) < 0)
			t->foreign = NULL;
	}
}

/* ---- making them ---- */

struct target {
	int foreign;
	char name[NAME_MAX + 1];
};

static int open_target(void *arg)
{
	const struct target *t = arg;
	if (mkdirat(t->foreign, t->name, 0755) < 0)
		return -errno;
	return fvm_open_nofollow(t->foreign, t->name, O_RDONLY | O_DIRECTORY);
}

static bool same_records(int foreign, const char *key, const struct fvm_buf *list)
{
	scoped_free char *text = NULL;
	size_t len;
	if (fvm_read_file(foreign, key, LIST_LIMIT, &text, &len) < 0)
		return false;
	const char *at = strchr(text, '\n');
	size_t head = at ? (size_t)(at + 1 - text) : 0;
	return at && len - head == list->len && memcmp(at + 1, list->data, list->len) == 0;
}

static void renew_tree(int foreign, const struct fvm_tree *tree, const struct fvm_user_ids *ids)
{
	struct target target = { .foreign = foreign };
	char hex[17];
	scoped_buf list = { 0 };
	fvm_random_hex(hex, 16);
	if (snprintf(target.name, sizeof(target.name), "%s+%s", tree->key, hex) >=
	    (int)sizeof(target.name))
		return;
	scoped_fd top = open(tree->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	const struct walk fresh = { .top = top,
				    .layer = -1,
				    .open = open_target,
				    .arg = &target,
				    .ids = ids,
				    .path = tree->path };
	struct walk w = fresh;
	w.dry = true;
	int n = top < 0 ? -errno : walk(&w);
	bool same = n >= WORTH && !w.list.failed && same_records(foreign, tree->key, &w.list);
	fvm_buf_free(&w.list);
	if (same)
		return;
	w = fresh;
	n = n >= WORTH ? walk(&w) : -ENOENT;
	fvm_fd_closep(&w.layer);
	fvm_buf_printf(&list, "%s\n", target.name);
	fvm_buf_add(&list, w.list.data ? w.list.data : "", w.list.len);
	if (n >= WORTH && !w.list.failed && !list.failed)
		(void)fvm_write_file_atomic(foreign, tree->key, list.data, list.len, false);
	else
		(void)unlinkat(foreign, tree->key, 0);
	fvm_buf_free(&w.list);
}

void fvm_foreign_drop(int gen, int lock)
{
	scoped_fd foreign = fvm_open_nofollow(gen, "foreign", O_RDONLY | O_DIRECTORY);
	if (foreign < 0 || flock(lock, LOCK_EX | LOCK_NB) < 0)
		return;
	scoped_dir d = fvm_dir_open(foreign, ".");
	for (struct dirent *e; d && (e = readdir(d));) {
		char key[NAME_MAX + 1], name[NAME_MAX + 2] = "";
		size_t n = strcspn(e->d_name, "+");
		if (e->d_name[n] == '\0')
			continue;
		memcpy(key, e->d_name, n);
		key[n] = '\0';
		scoped_fd list = openat(foreign, key, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		ssize_t got = list < 0 ? 0 : fvm_read_full(list, name, sizeof(name) - 1);
		name[got > 0 ? got : 0] = '\0';
		name[strcspn(name, "\n")] = '\0';
		if (strcmp(name, e->d_name) != 0)
			(void)fvm_remove_tree(foreign, e->d_name);
	}
}

void fvm_foreign_renew(int gen, const struct fvm_trees *trees, const struct fvm_user_ids *ids)
{
	if (mkdirat(gen, "foreign", 0700) < 0 && errno != EEXIST)
		return;
	scoped_fd foreign = fvm_open_nofollow(gen, "foreign", O_RDONLY | O_DIRECTORY);
	/* one at a time; who comes second would do the same again */
	if (foreign < 0 || flock(foreign, LOCK_EX | LOCK_NB) < 0)
		return;
	for (size_t i = 0; i < trees->count; i++) {
		if (is_ours(&trees->items[i]))
			renew_tree(foreign, &trees->items[i], ids);
	}
	(void)futimens(foreign, NULL); /* what a start goes by */
}
