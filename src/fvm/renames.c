/*
 * Renames: the scan is run twice. The first run keeps every added and deleted name; then pairs are
 * looked for; the second run leaves out what was paired and tells of the pairs.
 *
 *   directories   Names come in order, so what lies in a directory follows it. Two directories
 *                 whose lists of (name, type, size) below have the same hash are compared file by
 *                 file; equal ones are one rename, and all below is done with.
 *   files         What is left is sorted by size. Where a size has one file on each side they are
 *                 compared; where it has more, by a hash of their content first. Of several equal
 *                 ones, that with the same last component is taken. Empty files are not paired.
 *
 * A hash only proposes: each pair has been compared byte by byte.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fvm/compare.h"
#include "fvm/scan.h"

#define NONE SIZE_MAX

struct item {
	char *path;
	const struct fvm_stack *stack;
	size_t layer;
	struct stat st;
	size_t end;  /* directories: behind the last item below */
	size_t pair; /* index on the other side, or NONE */
	bool done;   /* paired, or below a directory that was */
	uint64_t hash;
};

struct items {
	struct item *list;
	size_t count, room;
	struct item **by_path; /* for the second run */
};

struct renames {
	const struct fvm_stacks *stacks;
	struct items gone, new;
	struct fvm_compare compare;
	fvm_change_fn fn;
	void *arg;
};

static void items_free(struct items *l)
{
	for (size_t i = 0; i < l->count; i++)
		free(l->list[i].path);
	free(l->list);
	free(l->by_path);
}

/* ---- the first run ---- */

static const struct fvm_stack *stack_of(const struct fvm_stacks *s, const char *key)
{
	for (size_t i = 0; i < s->count; i++) {
		if (strcmp(s->items[i].key, key) == 0)
			return &s->items[i];
	}
	return NULL;
}

static int keep(const struct fvm_change *c, void *arg)
{
	struct renames *r = arg;
	if (c->kind != FVM_ADDED && c->kind != FVM_DELETED)
		return 0;
	struct items *l = c->kind == FVM_ADDED ? &r->new : &r->gone;
	if (l->count == l->room) {
		size_t room = l->room ? l->room * 2 : 256;
		struct item *list = realloc(l->list, room * sizeof(*list));
		if (!list)
			return -ENOMEM;
		l->list = list;
		l->room = room;
	}
	struct item *item = &l->list[l->count];
	*item = (struct item){
		.path = strdup(c->path),
		.stack = stack_of(r->stacks, c->key),
		.layer = c->layer,
		.st = c->now ? *c->now : *c->was,
		.pair = NONE,
	};
	if (!item->path)
		return -ENOMEM;
	l->count++;
	return 0;
}

/* ---- reading ---- */

static const char *item_rel(const struct item *item)
{
	const char *rel = item->path + strlen(item->stack->mount_point);
	return *rel == '/' ? rel + 1 : rel;
}

/* Return: a descriptor of the directory the item lies in, *@ret_name the last component */
static int item_dir(const struct item *item, bool is_new, const char **ret_name)
{
	char path[4096];
	const char *rel = item_rel(item), *slash = strrchr(rel, '/');
	int top = is_new ? item->stack->layers[item->layer] : item->stack->base;
	*ret_name = slash ? slash + 1 : rel;
	size_t len = slash ? (size_t)(slash - rel) : 0;
	if (len >= sizeof(path))
		return -ENAMETOOLONG;
	memcpy(path, rel, len);
	path[len] = '\0';
	return fvm_open_nofollow(top, len ? path : ".", O_PATH | O_DIRECTORY);
}

static int item_open(const struct item *item, bool is_new)
{
	const char *name;
	scoped_fd dir = item_dir(item, is_new, &name);
	return dir < 0 ? dir : fvm_open_regular(dir, name);
}

/* Whether both are the same; what can't be read is not. */
static bool same(struct renames *r, const struct item *gone, const struct item *new)
{
	if ((gone->st.st_mode & S_IFMT) != (new->st.st_mode &S_IFMT))
		return false;
	if (S_ISLNK(gone->st.st_mode)) {
		struct fvm_entry a = { .st = &gone->st }, b = { .st = &new->st };
		scoped_fd in_a = item_dir(gone, false, &a.name);
		scoped_fd in_b = item_dir(new, true, &b.name);
		a.dir = in_a;
		b.dir = in_b;
		return in_a >= 0 && in_b >= 0 && fvm_compare_links(&r->compare, &a, &b) == 1;
	}
	if (!S_ISREG(gone->st.st_mode))
		return true;
	if (gone->st.st_size != new->st.st_size)
		return false;
	scoped_fd a = item_open(gone, false);
	scoped_fd b = item_open(new, true);
	return a >= 0 && b >= 0 && fvm_compare_fds(&r->compare, a, b, gone->st.st_size, true) == 1;
}

static uint64_t mix(uint64_t h, uint64_t value)
{
	h = (h ^ value) * 0xff51afd7ed558ccdULL;
	return h ^ h >> 32;
}

static uint64_t mix_bytes(uint64_t h, const char *p, size_t len)
{
	for (; len >= 8; p += 8, len -= 8) {
		uint64_t word;
		memcpy(&word, p, 8);
		h = mix(h, word);
	}
	uint64_t rest = len;
	for (; len > 0; len--)
		rest = rest << 8 | (unsigned char)*p++;
	return mix(h, rest);
}

/* 0 when it can't be read, which pairs with nothing. */
static uint64_t content_hash(const struct item *item, bool is_new, char *block, size_t size)
{
	scoped_fd fd = item_open(item, is_new);
	uint64_t h = 1;
	if (fd < 0)
		return 0;
	for (;;) {
		ssize_t n = fvm_read_full(fd, block, size);
		if (n < 0)
			return 0;
		if (n == 0)
			return h ? h : 1;
		h = mix_bytes(h, block, (size_t)n);
	}
}

/* ---- directories ---- */

static void find_ends(struct items *l)
{
	for (size_t i = 0; i < l->count; i++) {
		struct item *item = &l->list[i];
		size_t len = strlen(item->path);
		size_t end = i + 1;
		item->end = end;
		if (!S_ISDIR(item->st.st_mode))
			continue;
		while (end < l->count && strncmp(l->list[end].path, item->path, len) == 0 &&
		       l->list[end].path[len] == '/')
			end++;
		item->end = end;
	}
}

/* The names, types and sizes of all that lies below. */
static uint64_t shape_hash(const struct items *l, const struct item *dir)
{
	uint64_t h = 1;
	size_t len = strlen(dir->path);
	for (const struct item *i = dir + 1; i < l->list + dir->end; i++) {
		h = mix_bytes(h, i->path + len, strlen(i->path + len));
		h = mix(h, i->st.st_mode & S_IFMT);
		h = mix(h, S_ISREG(i->st.st_mode) ? (uint64_t)i->st.st_size : 0);
	}
	return h;
}

static bool same_trees(struct renames *r, const struct item *gone, const struct item *new)
{
	size_t below = gone->end - (size_t)(gone - r->gone.list);
	size_t gone_len = strlen(gone->path), new_len = strlen(new->path);
	for (size_t i = 1; i < below; i++) {
		if (strcmp(gone[i].path + gone_len, new[i].path + new_len) != 0 ||
		    !same(r, &gone[i], &new[i]))
			return false;
	}
	return true;
}

static void pair(struct renames *r, struct item *gone, struct item *new)
{
	size_t i = (size_t)(gone - r->gone.list), j = (size_t)(new - r->new.list);
	gone->pair = j;
	new->pair = i;
	for (size_t at = i; at < gone->end; at++)
		r->gone.list[at].done = true;
	for (size_t at = j; at < new->end; at++)
		r->new.list[at].done = true;
}

static int compare_hashes(const void *a, const void *b)
{
	const struct item *x = *(struct item *const *)a, *y = *(struct item *const *)b;
	if (x->hash != y->hash)
		return x->hash < y->hash ? -1 : 1;
	return x < y ? -1 : x > y;
}

/* The items of @l that @take chooses, sorted by hash. */
static struct item **choose(struct items *l, bool (*take)(const struct item *, size_t at),
			    size_t *ret_count)
{
	struct item **chosen = calloc(l->count + 1, sizeof(void *));
	*ret_count = 0;
	for (size_t i = 0; chosen && i < l->count; i++) {
		if (take(&l->list[i], i))
			chosen[(*ret_count)++] = &l->list[i];
	}
	if (chosen)
		qsort(chosen, *ret_count, sizeof(void *), compare_hashes);
	return chosen;
}

static bool is_full_dir(const struct item *item, size_t at)
{
	return !item->done && S_ISDIR(item->st.st_mode) && item->end > at + 1;
}

static bool is_full_file(const struct item *item, size_t at)
{
	(void)at;
	return !item->done && S_ISREG(item->st.st_mode) && item->st.st_size > 0;
}

/* The first of sorted @list with @hash, or @count. */
static size_t find_hash(struct item *const *list, size_t count, uint64_t hash)
{
	size_t low = 0, high = count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (list[middle]->hash < hash)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static int pair_directories(struct renames *r)
{
	size_t count;
	find_ends(&r->gone);
	find_ends(&r->new);
	for (size_t i = 0; i < r->new.count; i++)
		r->new.list[i].hash = shape_hash(&r->new, &r->new.list[i]);
	struct item **new = choose(&r->new, is_full_dir, &count);
	if (!new)
		return -ENOMEM;
	for (size_t i = 0; i < r->gone.count; i++) {
		struct item *gone = &r->gone.list[i];
		if (!is_full_dir(gone, i))
			continue;
		uint64_t hash = shape_hash(&r->gone, gone);
		for (size_t j = find_hash(new, count, hash); j < count && new[j]->hash == hash;
		     j++) {
			size_t at = (size_t)(new[j] - r->new.list);
			if (new[j]->done || new[j]->end - at != gone->end - i ||
			    !same_trees(r, gone, new[j]))
				continue;
			pair(r, gone, new[j]);
			break;
		}
	}
	free(new);
	return 0;
}

/* ---- files ---- */

static const char *last_component(const char *path)
{
	return strrchr(path, '/') + 1;
}

/* How many of @list from @at on have the hash of the first. */
static size_t run_length(struct item *const *list, size_t at, size_t count)
{
	size_t n = 0;
	while (at + n < count && list[at + n]->hash == list[at]->hash)
		n++;
	return n;
}

/* Pairs @gone with the first of @new that is equal and free, and, if so asked, has its name. */
static void pair_equal(struct renames *r, struct item *gone, struct item **new, size_t count,
		       bool by_name)
{
	for (size_t i = 0; i < count; i++) {
		if (new[i]->done || (by_name && strcmp(last_component(gone->path),
						       last_component(new[i]->path)) != 0))
			continue;
		if (!same(r, gone, new[i]))
			continue;
		pair(r, gone, new[i]);
		return;
	}
}

/* Both lists have one hash throughout, that of the content or, one against one, of the size. */
static void pair_runs(struct renames *r, struct item **gone, size_t gone_count, struct item **new,
		      size_t new_count)
{
	/* thousands of equal files: every name against every other would take too long */
	if (gone_count < 1000 && new_count < 1000) {
		for (size_t i = 0; i < gone_count; i++)
			pair_equal(r, gone[i], new, new_count, true);
	}
	for (size_t i = 0; i < gone_count; i++) {
		while (new_count > 0 && new[0]->done) {
			new ++;
			new_count--;
		}
		if (!gone[i]->done)
			pair_equal(r, gone[i], new, new_count, false);
	}
}

static void for_each_run(struct renames *r, struct item **gone, size_t gone_count,
			 struct item **new, size_t new_count,
			 void (*fn)(struct renames *, struct item **, size_t, struct item **,
				    size_t))
{
	for (size_t i = 0; i < gone_count;) {
		size_t n = run_length(gone, i, gone_count);
		size_t j = find_hash(new, new_count, gone[i]->hash);
		if (gone[i]->hash && j < new_count && new[j]->hash == gone[i]->hash)
			fn(r, gone + i, n, new + j, run_length(new, j, new_count));
		i += n;
	}
}

/* One size: all files of it on both sides. */
static void pair_size(struct renames *r, struct item **gone, size_t gone_count, struct item **new,
		      size_t new_count)
{
	enum { BLOCK = 256 * 1024 };
	if (gone_count == 1 && new_count == 1) {
		pair_runs(r, gone, 1, new, 1);
		return;
	}
	scoped_free char *block = malloc(BLOCK);
	if (!block)
		return;
	for (size_t i = 0; i < gone_count; i++)
		gone[i]->hash = content_hash(gone[i], false, block, BLOCK);
	for (size_t i = 0; i < new_count; i++)
		new[i]->hash = content_hash(new[i], true, block, BLOCK);
	qsort(gone, gone_count, sizeof(void *), compare_hashes);
	qsort(new, new_count, sizeof(void *), compare_hashes);
	for_each_run(r, gone, gone_count, new, new_count, pair_runs);
	/* the lists these are runs of are sorted by size */
	for (size_t i = 0; i < gone_count; i++)
		gone[i]->hash = (uint64_t)gone[i]->st.st_size;
	for (size_t i = 0; i < new_count; i++)
		new[i]->hash = (uint64_t) new[i]->st.st_size;
}

static int pair_files(struct renames *r)
{
	size_t gone_count = 0, new_count = 0;
	for (size_t i = 0; i < r->gone.count; i++)
		r->gone.list[i].hash = (uint64_t)r->gone.list[i].st.st_size;
	for (size_t i = 0; i < r->new.count; i++)
		r->new.list[i].hash = (uint64_t)r->new.list[i].st.st_size;
	struct item **gone = choose(&r->gone, is_full_file, &gone_count);
	struct item **new = choose(&r->new, is_full_file, &new_count);
	if (gone && new)
		for_each_run(r, gone, gone_count, new, new_count, pair_size);
	int e = gone && new ? 0 : -ENOMEM;
	free(gone);
	free(new);
	return e;
}

/* ---- the second run ---- */

static int compare_paths(const void *a, const void *b)
{
	const struct item *x = *(struct item *const *)a, *y = *(struct item *const *)b;
	return strcmp(x->path, y->path);
}

static int index_paths(struct items *l)
{
	l->by_path = calloc(l->count + 1, sizeof(void *));
	if (!l->by_path)
		return -ENOMEM;
	for (size_t i = 0; i < l->count; i++)
		l->by_path[i] = &l->list[i];
	qsort(l->by_path, l->count, sizeof(void *), compare_paths);
	return 0;
}

static const struct item *find_path(const struct items *l, const char *path)
{
	struct item wanted = { .path = (char *)(uintptr_t)path }, *key = &wanted;
	struct item **found = bsearch(&key, l->by_path, l->count, sizeof(void *), compare_paths);
	return found ? *found : NULL;
}

static int tell(const struct fvm_change *c, void *arg)
{
	struct renames *r = arg;
	const struct item *item = NULL;
	if (c->kind == FVM_DELETED)
		item = find_path(&r->gone, c->path);
	else if (c->kind == FVM_ADDED)
		item = find_path(&r->new, c->path);
	if (!item || !item->done)
		return r->fn(c, r->arg);
	if (c->kind == FVM_DELETED || item->pair == NONE)
		return 0;
	const struct item *from = &r->gone.list[item->pair];
	struct fvm_change change = *c;
	change.kind = FVM_RENAMED;
	change.from = from->path;
	change.was = &from->st;
	return r->fn(&change, r->arg);
}

/* Names below a deleted directory are wanted in the first run; the caller may not want them. */
static int tell_tops(const struct fvm_change *c, void *arg)
{
	int r = tell(c, arg);
	return r == 0 && c->kind == FVM_DELETED ? 1 : r;
}

int fvm_stacks_renames(const struct fvm_stacks *stacks, const struct fvm_scan_options *options,
		       fvm_change_fn fn, void *arg, struct fvm_error *err)
{
	struct renames r = { .stacks = stacks, .fn = fn, .arg = arg };
	struct fvm_scan_options all = options ? *options : (struct fvm_scan_options){ 0 };
	bool tops = !all.whole_trees;
	all.whole_trees = true;
	int e = fvm_stacks_scan(stacks, &all, keep, &r, err);
	if (e >= 0) {
		e = pair_directories(&r);
		if (e == 0)
			e = pair_files(&r);
		if (e == 0)
			e = index_paths(&r.gone);
		if (e == 0)
			e = index_paths(&r.new);
		if (e < 0)
			fvm_error_set(err, -e, "look for renames");
	}
	if (e >= 0)
		e = fvm_stacks_scan(stacks, &all, tops ? tell_tops : tell, &r, err);
	items_free(&r.gone);
	items_free(&r.new);
	fvm_compare_free(&r.compare);
	return e;
}
