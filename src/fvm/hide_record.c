#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fvm/hide_record.h"

#define FILE_MAX  ((size_t)16 << 20)
#define NAME	  "fvm-hide "
#define MAGIC	  NAME "1\n"
#define SPANS_MAX 16

struct span { /* up to where the next one begins */
	int64_t from_ns;
	struct fvm_strv paths; /* sorted by strcmp() */
};

struct fvm_hide_record {
	struct span *spans;
	size_t count;
	struct fvm_strv all; /* of all spans, sorted, each once */
};

void fvm_hide_record_free(struct fvm_hide_record *r)
{
	for (size_t i = 0; r && i < r->count; i++)
		fvm_strv_free(&r->spans[i].paths);
	if (r) {
		fvm_strv_free(&r->all);
		free(r->spans);
	}
	free(r);
}

static void record_freep(struct fvm_hide_record **r)
{
	fvm_hide_record_free(*r);
}
#define scoped_record __attribute__((cleanup(record_freep))) struct fvm_hide_record

/* ---- asking ---- */

/* @path itself, or any directory above it. */
static bool covered(const struct fvm_strv *sorted, const char *path)
{
	if (fvm_strv_sorted_has(sorted, path))
		return true;
	scoped_free char *part = strdup(path);
	for (char *slash; part && (slash = strrchr(part, '/')) && slash > part;) {
		*slash = '\0';
		if (fvm_strv_sorted_has(sorted, part))
			return true;
	}
	return !part;
}

bool fvm_hide_record_ever(const struct fvm_hide_record *r, const char *path)
{
	return covered(&r->all, path);
}

bool fvm_hide_record_always(const struct fvm_hide_record *r, const char *path)
{
	for (size_t i = 0; i < r->count; i++) {
		if (!covered(&r->spans[i].paths, path))
			return false;
	}
	return true;
}

bool fvm_hide_record_at(const struct fvm_hide_record *r, const char *path, int64_t ns)
{
	size_t i = 0;
	while (i + 1 < r->count && r->spans[i + 1].from_ns <= ns)
		i++;
	return i < r->count && covered(&r->spans[i].paths, path);
}

const char *fvm_hide_record_below(const struct fvm_hide_record *r, const char *path, size_t *at)
{
	while (*at < r->all.count) {
		const char *item = r->all.items[(*at)++];
		if (fvm_path_below(item, path) && strcmp(item, path) != 0)
			return item;
	}
	return NULL;
}

/* ---- the file ---- */

static int print(const struct fvm_hide_record *r, struct fvm_buf *to)
{
	fvm_buf_puts(to, MAGIC);
	for (size_t i = 0; i < r->count; i++) {
		fvm_buf_printf(to, "@%" PRId64 "\n", r->spans[i].from_ns);
		fvm_strv_each(&r->spans[i].paths, j) {
			fvm_percent(to, r->spans[i].paths.items[j]);
			fvm_buf_puts(to, "\n");
		}
	}
	return to->failed ? -ENOMEM : 0;
}

static struct span *span_add(struct fvm_hide_record *r, int64_t from_ns)
{
	struct span *more = realloc(r->spans, (r->count + 1) * sizeof(*more));
	if (!more)
		return NULL;
	r->spans = more;
	more[r->count] = (struct span){ .from_ns = from_ns };
	return &more[r->count++];
}

static int add_line(struct fvm_hide_record *r, char *line)
{
	char *end;
	if (*line == '@') {
		errno = 0;
		int64_t from = strtoll(line + 1, &end, 10);
		if (end == line + 1 || *end || errno)
			return -EBADMSG;
		if (r->count && from <= r->spans[r->count - 1].from_ns)
			return -EBADMSG;
		return span_add(r, from) ? 0 : -ENOMEM;
	}
	if (*line != '/' || r->count == 0 || fvm_unpercent(line) < 0)
		return -EBADMSG;
	return fvm_strv_add(&r->spans[r->count - 1].paths, line);
}

static int add_all(struct fvm_strv *to, const struct fvm_strv *from)
{
	scoped_strv fresh = { 0 };
	int r = 0;
	for (size_t i = 0; r == 0 && i < from->count; i++) {
		if (!fvm_strv_sorted_has(to, from->items[i]))
			r = fvm_strv_add(&fresh, from->items[i]);
	}
	for (size_t i = 0; r == 0 && i < fresh.count; i++)
		r = fvm_strv_add(to, fresh.items[i]);
	fvm_strv_sort(to);
	return r;
}

static int index_all(struct fvm_hide_record *r)
{
	int n = 0;
	for (size_t i = 0; n == 0 && i < r->count; i++) {
		fvm_strv_sort(&r->spans[i].paths);
		n = add_all(&r->all, &r->spans[i].paths);
	}
	return n;
}

int fvm_hide_record_parse(const char *text, size_t len, struct fvm_hide_record **ret)
{
	scoped_record *r = calloc(1, sizeof(*r));
	scoped_free char *copy = malloc(len + 1);
	if (!r || !copy)
		return -ENOMEM;
	memcpy(copy, text, len);
	copy[len] = '\0';
	if (strncmp(copy, NAME, strlen(NAME)) == 0 && strncmp(copy, MAGIC, strlen(MAGIC)) != 0)
		return -EPROTONOSUPPORT;
	/* a last line without its end was cut */
	if (strlen(copy) != len || strncmp(copy, MAGIC, strlen(MAGIC)) != 0 ||
	    copy[len - 1] != '\n')
		return -EBADMSG;
	int n = 0;
	for (char *line = copy + strlen(MAGIC), *end; n == 0 && *line; line = end + 1) {
		end = strchr(line, '\n');
		*end = '\0';
		n = add_line(r, line);
	}
	if (n == 0 && r->count == 0)
		n = -EBADMSG;
	if (n == 0)
		n = index_all(r);
	if (n == 0)
		*ret = fvm_take_ptr(&r);
	return n;
}

static int load(int vm_dir, struct fvm_hide_record **ret)
{
	scoped_free char *text = NULL;
	size_t len = 0;
	int r = fvm_read_file(vm_dir, "hidden", FILE_MAX, &text, &len);
	return r < 0 ? r : fvm_hide_record_parse(text, len, ret);
}

int fvm_hide_record_load(int vm_dir, struct fvm_hide_record **ret, struct fvm_error *err)
{
	int r = load(vm_dir, ret);
	if (r == 0 || r == -ENOENT)
		return r;
	fvm_error_hint(err, r == -EPROTONOSUPPORT
				    ? "a newer fvm wrote it: use that one"
				    : "restore or delete that file; without it what is hidden "
				      "today counts");
	fvm_error_set(err, -r, "read what was hidden from the VM");
	return fvm_error_wrap_at(err, r, vm_dir, "hidden");
}

static int save(int vm_dir, const struct fvm_hide_record *r, bool sync)
{
	scoped_buf text = { 0 };
	int n = print(r, &text);
	return n < 0 ? n : fvm_write_file_atomic(vm_dir, "hidden", text.data, text.len, sync);
}

/* ---- changing ---- */

static int append(struct fvm_hide_record *r, const struct fvm_hide *now, int64_t from_ns)
{
	struct span *span = span_add(r, from_ns);
	int n = span ? 0 : -ENOMEM;
	for (size_t i = 0; n == 0 && i < now->count; i++)
		n = fvm_strv_add(&span->paths, now->items[i].path);
	return n == 0 ? index_all(r) : n;
}

/* The first @count spans become one that hides what any of them did. */
static int merge_first(struct fvm_hide_record *r, size_t count)
{
	int n = 0;
	for (size_t i = 1; n == 0 && i < count; i++)
		n = add_all(&r->spans[0].paths, &r->spans[i].paths);
	for (size_t i = 1; i < count; i++)
		fvm_strv_free(&r->spans[i].paths);
	memmove(r->spans + 1, r->spans + count, (r->count - count) * sizeof(*r->spans));
	r->count -= count - 1;
	return n;
}

int fvm_hide_record_make(const struct fvm_hide *now, struct fvm_hide_record **ret)
{
	scoped_record *r = calloc(1, sizeof(*r));
	int n = r ? append(r, now, 0) : -ENOMEM;
	if (n == 0)
		*ret = fvm_take_ptr(&r);
	return n;
}

static bool same(const struct fvm_strv *sorted, const struct fvm_hide *now)
{
	bool equal = sorted->count == now->count;
	for (size_t i = 0; equal && i < now->count; i++)
		equal = fvm_strv_sorted_has(sorted, now->items[i].path);
	return equal;
}

/* Inodes get their times from the coarse clock, which is some milliseconds late. */
static int64_t inode_now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME_COARSE, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* What was made up to now is to be older than what will be: not within one step of the clock. */
static int64_t next_step_ns(int64_t now_ns)
{
	static const struct timespec wait = { .tv_nsec = 500000 };
	int64_t next = now_ns;
	for (int i = 0; next == now_ns && i < 100; i++) {
		nanosleep(&wait, NULL);
		next = inode_now_ns();
	}
	return next;
}

static int note(int vm_dir, const struct fvm_hide *now, bool sync)
{
	scoped_record *r = NULL;
	int64_t now_ns = inode_now_ns();
	int n = load(vm_dir, &r);
	if (n == -ENOENT) {
		r = calloc(1, sizeof(*r));
		n = r ? 0 : -ENOMEM;
	}
	if (n < 0)
		return n;
	const struct span *last = r->count ? &r->spans[r->count - 1] : NULL;
	if (last && same(&last->paths, now) && last->from_ns <= now_ns)
		return 0;
	if (last)
		now_ns = next_step_ns(now_ns);
	bool set_back = last && last->from_ns >= now_ns;
	n = append(r, now, now_ns);
	if (n == 0 && set_back)
		n = merge_first(r, r->count);
	else if (n == 0 && r->count > SPANS_MAX)
		n = merge_first(r, 2);
	return n == 0 ? save(vm_dir, r, sync) : n;
}

int fvm_hide_record_note(int vm_dir, const struct fvm_hide *now, bool sync, struct fvm_error *err)
{
	int r = note(vm_dir, now, sync);
	return r < 0 ? fvm_error_set(err, -r, "note what is hidden from it") : 0;
}

int fvm_hide_record_flatten(int vm_dir)
{
	scoped_record *r = NULL;
	int n = load(vm_dir, &r);
	if (n == -ENOENT || (n == 0 && r->count == 1))
		return 0;
	if (n == 0)
		n = merge_first(r, r->count);
	return n == 0 ? save(vm_dir, r, true) : n;
}

int fvm_hide_record_copy(int from, int to, bool flat)
{
	scoped_record *r = NULL;
	int n = load(from, &r);
	if (n == 0 && flat)
		n = merge_first(r, r->count);
	if (n == 0)
		n = save(to, r, true);
	return n == -ENOENT ? 0 : n;
}
