#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/common.h"
#include "fvm/textdiff.h"

#define CONTEXT 3

/* ---- lines ---- */

static int text_split(struct fvm_text *t, const char *data, size_t len)
{
	size_t count = 0;
	for (size_t at = 0; at < len; count++) {
		const char *end = memchr(data + at, '\n', len - at);
		at = end ? (size_t)(end - data) + 1 : len;
	}
	t->data = data;
	t->count = count;
	t->lines = calloc(count + 1, sizeof(*t->lines));
	t->changed = calloc(count + 1, sizeof(*t->changed));
	if (!t->lines || !t->changed)
		return -ENOMEM;
	size_t at = 0;
	for (size_t i = 0; i < count; i++) {
		const char *end = memchr(data + at, '\n', len - at);
		t->lines[i] = at;
		at = end ? (size_t)(end - data) + 1 : len;
	}
	t->lines[count] = len;
	return 0;
}

void fvm_textdiff_free(struct fvm_textdiff *d)
{
	free(d->was.lines);
	free(d->was.changed);
	free(d->now.lines);
	free(d->now.changed);
	*d = (struct fvm_textdiff){ 0 };
}

/* ---- numbers for lines ---- */

struct slot {
	const char *line;
	size_t len;
	uint64_t hash;
	unsigned int in; /* bit 0: the old text has it, bit 1: the new one */
};

/* Open addressing; a line's number is its slot. */
struct table {
	struct slot *slots;
	size_t mask;
};

static uint64_t hash_line(const char *p, size_t len)
{
	uint64_t h = 0x9e3779b97f4a7c15ULL ^ len;
	for (; len >= 8; p += 8, len -= 8) {
		uint64_t word;
		memcpy(&word, p, 8);
		h = (h ^ word) * 0xff51afd7ed558ccdULL;
		h ^= h >> 32;
	}
	for (; len > 0; p++, len--)
		h = (h ^ (unsigned char)*p) * 0x100000001b3ULL;
	return h ^ h >> 29;
}

static size_t table_number(struct table *t, const char *line, size_t len, unsigned int side)
{
	uint64_t hash = hash_line(line, len);
	size_t at = hash & t->mask;
	for (;; at = (at + 1) & t->mask) {
		struct slot *s = &t->slots[at];
		if (!s->in)
			*s = (struct slot){ line, len, hash, 0 };
		else if (s->hash != hash || s->len != len || memcmp(s->line, line, len) != 0)
			continue;
		s->in |= side;
		return at;
	}
}

/* ---- the shortest edit path ---- */

/* A side of the search: the numbers of the lines that both texts have, and which lines they are. */
struct side {
	size_t *numbers, *index;
	size_t count;
	struct fvm_text *text;
};

struct search {
	struct side a, b;
	/* by diagonal x - y: the furthest x reached from the start, and from the end */
	long *forward, *backward;
	long limit;
};

struct box { /* the part of both texts that is being compared */
	long a, a_end, b, b_end;
};

struct reach { /* the diagonals that were reached so far */
	long low, high;
};

/* Keeps the lines of [from, end) that the other text has too; marks the others as changed. */
static int side_make(struct side *s, struct fvm_text *t, const size_t *numbers, size_t from,
		     size_t end, const struct table *table)
{
	s->text = t;
	s->numbers = calloc(end - from + 1, sizeof(*s->numbers));
	s->index = calloc(end - from + 1, sizeof(*s->index));
	if (!s->numbers || !s->index)
		return -ENOMEM;
	for (size_t i = from; i < end; i++) {
		if (table->slots[numbers[i]].in != 3) {
			t->changed[i] = true;
			continue;
		}
		s->numbers[s->count] = numbers[i];
		s->index[s->count++] = i;
	}
	return 0;
}

static void side_free(struct side *s)
{
	free(s->numbers);
	free(s->index);
}

static bool match(const struct search *s, long x, long y)
{
	return s->a.numbers[x] == s->b.numbers[y];
}

/* One diagonal further on both sides, or, at the border of the box, one less; what lies just
 * outside gets a value that is never the better one. */
static void widen(struct reach *r, const struct box *in, long *best, long outside)
{
	if (r->low > in->a - in->b_end)
		best[--r->low - 1] = outside;
	else
		r->low++;
	if (r->high < in->a_end - in->b)
		best[++r->high + 1] = outside;
	else
		r->high--;
}

/* One more edit from the start. Return: the diagonal where both searches met, or LONG_MIN */
static long step_forward(struct search *s, const struct box *in, struct reach *r,
			 const struct reach *other)
{
	long *f = s->forward;
	bool odd = ((in->a - in->b) - (in->a_end - in->b_end)) & 1;
	widen(r, in, f, -1);
	for (long k = r->high; k >= r->low; k -= 2) {
		long x = f[k - 1] >= f[k + 1] ? f[k - 1] + 1 : f[k + 1];
		while (x < in->a_end && x - k < in->b_end && match(s, x, x - k))
			x++;
		f[k] = x;
		if (odd && k >= other->low && k <= other->high && s->backward[k] <= x)
			return k;
	}
	return LONG_MIN;
}

/* One more edit from the end. */
static long step_backward(struct search *s, const struct box *in, struct reach *r,
			  const struct reach *other)
{
	long *b = s->backward;
	bool odd = ((in->a - in->b) - (in->a_end - in->b_end)) & 1;
	widen(r, in, b, LONG_MAX);
	for (long k = r->high; k >= r->low; k -= 2) {
		long x = b[k - 1] < b[k + 1] ? b[k - 1] : b[k + 1] - 1;
		while (x > in->a && x - k > in->b && match(s, x - 1, x - k - 1))
			x--;
		b[k] = x;
		if (!odd && k >= other->low && k <= other->high && x <= s->forward[k])
			return k;
	}
	return LONG_MIN;
}

/* Too expensive: the point that the search from the start got furthest to. */
static void give_up(const struct search *s, const struct box *in, const struct reach *r,
		    long *ret_x, long *ret_y)
{
	long best = -1;
	for (long k = r->high; k >= r->low; k -= 2) {
		long x = s->forward[k] < in->a_end ? s->forward[k] : in->a_end;
		if (x - k > in->b_end)
			x = in->b_end + k;
		if (x + (x - k) > best) {
			best = x + (x - k);
			*ret_x = x;
			*ret_y = x - k;
		}
	}
}

/* A point that a short edit path goes through. The box's first lines differ, and its last. */
static void find_middle(struct search *s, const struct box *in, long *ret_x, long *ret_y)
{
	struct reach from_start = { in->a - in->b, in->a - in->b };
	struct reach from_end = { in->a_end - in->b_end, in->a_end - in->b_end };
	s->forward[from_start.low] = in->a;
	s->backward[from_end.low] = in->a_end;
	for (long cost = 1;; cost++) {
		long k = step_forward(s, in, &from_start, &from_end);
		const long *reached = s->forward;
		if (k == LONG_MIN) {
			k = step_backward(s, in, &from_end, &from_start);
			reached = s->backward;
		}
		if (k != LONG_MIN) {
			*ret_x = reached[k];
			*ret_y = reached[k] - k;
			return;
		}
		if (cost >= s->limit) {
			give_up(s, in, &from_start, ret_x, ret_y);
			return;
		}
	}
}

static void mark(const struct side *s, long from, long end)
{
	for (long i = from; i < end; i++)
		s->text->changed[s->index[i]] = true;
}

/* The shorter half by recursion, the longer by going round: the depth stays logarithmic. */
static void search(struct search *s, struct box in)
{
	for (;;) {
		while (in.a < in.a_end && in.b < in.b_end && match(s, in.a, in.b))
			in.a++, in.b++;
		while (in.a < in.a_end && in.b < in.b_end && match(s, in.a_end - 1, in.b_end - 1))
			in.a_end--, in.b_end--;
		if (in.a == in.a_end || in.b == in.b_end) {
			mark(&s->a, in.a, in.a_end);
			mark(&s->b, in.b, in.b_end);
			return;
		}
		long x = 0, y = 0;
		find_middle(s, &in, &x, &y);
		struct box first = { in.a, x, in.b, y }, second = { x, in.a_end, y, in.b_end };
		bool first_is_longer = (x - in.a) + (y - in.b) > (in.a_end - x) + (in.b_end - y);
		search(s, first_is_longer ? second : first);
		in = first_is_longer ? first : second;
	}
}

static long cost_limit(size_t lines)
{
	long limit = 256;
	while ((size_t)limit * (size_t)limit < lines)
		limit *= 2;
	return limit;
}

static int search_run(struct search *s)
{
	size_t diagonals = s->a.count + s->b.count + 3;
	scoped_free long *room = calloc(2 * diagonals, sizeof(*room));
	if (!room)
		return -ENOMEM;
	s->forward = room + s->b.count + 1;
	s->backward = s->forward + diagonals;
	s->limit = cost_limit(diagonals);
	search(s, (struct box){ 0, (long)s->a.count, 0, (long)s->b.count });
	return 0;
}

/* ---- the whole ---- */

static size_t common_head(const struct fvm_text *a, const struct fvm_text *b)
{
	size_t least = a->count < b->count ? a->count : b->count, n = 0;
	while (n < least) {
		size_t len = a->lines[n + 1] - a->lines[n];
		if (len != b->lines[n + 1] - b->lines[n] ||
		    memcmp(a->data + a->lines[n], b->data + b->lines[n], len) != 0)
			break;
		n++;
	}
	return n;
}

static size_t common_tail(const struct fvm_text *a, const struct fvm_text *b, size_t head)
{
	size_t least = (a->count < b->count ? a->count : b->count) - head, n = 0;
	while (n < least) {
		const size_t *x = &a->lines[a->count - n - 1], *y = &b->lines[b->count - n - 1];
		if (x[1] - x[0] != y[1] - y[0] ||
		    memcmp(a->data + x[0], b->data + y[0], x[1] - x[0]) != 0)
			break;
		n++;
	}
	return n;
}

static size_t *number_lines(struct table *t, const struct fvm_text *text, size_t from, size_t end,
			    unsigned int side)
{
	size_t *numbers = calloc(text->count + 1, sizeof(*numbers));
	for (size_t i = from; numbers && i < end; i++)
		numbers[i] = table_number(t, text->data + text->lines[i],
					  text->lines[i + 1] - text->lines[i], side);
	return numbers;
}

static int compare_middle(struct fvm_textdiff *d, size_t head, size_t tail)
{
	size_t was_end = d->was.count - tail, now_end = d->now.count - tail, size = 64;
	while (size < 2 * (was_end + now_end - 2 * head))
		size *= 2;
	struct table table = { calloc(size, sizeof(struct slot)), size - 1 };
	scoped_free struct slot *slots = table.slots;
	if (!slots)
		return -ENOMEM;
	scoped_free size_t *was = number_lines(&table, &d->was, head, was_end, 1);
	scoped_free size_t *now = number_lines(&table, &d->now, head, now_end, 2);
	if (!was || !now)
		return -ENOMEM;
	struct search s = { 0 };
	int r = side_make(&s.a, &d->was, was, head, was_end, &table);
	if (r == 0)
		r = side_make(&s.b, &d->now, now, head, now_end, &table);
	if (r == 0)
		r = search_run(&s);
	side_free(&s.a);
	side_free(&s.b);
	return r;
}

static size_t count_changed(const struct fvm_text *t)
{
	size_t n = 0;
	for (size_t i = 0; i < t->count; i++)
		n += t->changed[i];
	return n;
}

int fvm_textdiff_make(const char *was, size_t was_len, const char *now, size_t now_len,
		      struct fvm_textdiff *ret)
{
	struct fvm_textdiff d = { 0 };
	int r = text_split(&d.was, was, was_len);
	if (r == 0)
		r = text_split(&d.now, now, now_len);
	if (r == 0) {
		size_t head = common_head(&d.was, &d.now);
		r = compare_middle(&d, head, common_tail(&d.was, &d.now, head));
	}
	if (r < 0) {
		fvm_textdiff_free(&d);
		return r;
	}
	d.removed = count_changed(&d.was);
	d.added = count_changed(&d.now);
	*ret = d;
	return 0;
}

/* ---- hunks ---- */

struct hunk {
	size_t a, a_end, b, b_end;
};

static void print_line(const struct fvm_text *t, size_t i, char sign, fvm_textdiff_fn fn, void *arg)
{
	static const char remark[] = " No newline at end of file";
	const char *line = t->data + t->lines[i];
	size_t len = t->lines[i + 1] - t->lines[i];
	bool whole = line[len - 1] == '\n';
	fn(sign, line, len - whole, arg);
	if (!whole)
		fn('\\', remark, sizeof(remark) - 1, arg);
}

/* An empty range is named by the line before it. */
static size_t line_number(size_t from, size_t end)
{
	return end == from ? from : from + 1;
}

static void print_hunk(const struct fvm_textdiff *d, struct hunk h, fvm_textdiff_fn fn, void *arg)
{
	char head[128];
	int len = snprintf(head, sizeof(head), "@ -%zu,%zu +%zu,%zu @@", line_number(h.a, h.a_end),
			   h.a_end - h.a, line_number(h.b, h.b_end), h.b_end - h.b);
	fn('@', head, (size_t)len, arg);
	while (h.a < h.a_end || h.b < h.b_end) {
		if (h.a < h.a_end && d->was.changed[h.a]) {
			print_line(&d->was, h.a++, '-', fn, arg);
		} else if (h.b < h.b_end && d->now.changed[h.b]) {
			print_line(&d->now, h.b++, '+', fn, arg);
		} else {
			print_line(&d->was, h.a++, ' ', fn, arg);
			h.b++;
		}
	}
}

/* Moves over lines that are equal, at most @most. Return: how many */
static size_t skip_equal(const struct fvm_textdiff *d, size_t a, size_t b, size_t most)
{
	size_t n = 0;
	while (n < most && a + n < d->was.count && b + n < d->now.count && !d->was.changed[a + n] &&
	       !d->now.changed[b + n])
		n++;
	return n;
}

static bool skip_changed(const struct fvm_textdiff *d, size_t *a, size_t *b)
{
	size_t from_a = *a, from_b = *b;
	while (*a < d->was.count && d->was.changed[*a])
		(*a)++;
	while (*b < d->now.count && d->now.changed[*b])
		(*b)++;
	return *a != from_a || *b != from_b;
}

void fvm_textdiff_hunks(const struct fvm_textdiff *d, fvm_textdiff_fn fn, void *arg)
{
	size_t a = 0, b = 0;
	for (;;) {
		size_t equal = skip_equal(d, a, b, SIZE_MAX);
		a += equal;
		b += equal;
		if (a >= d->was.count && b >= d->now.count)
			return;
		size_t before = equal < CONTEXT ? equal : CONTEXT;
		struct hunk h = { .a = a - before, .b = b - before };
		/* changes that are at most two contexts apart share a hunk */
		while (skip_changed(d, &a, &b)) {
			equal = skip_equal(d, a, b, 2 * CONTEXT + 1);
			if (equal > 2 * CONTEXT ||
			    (a + equal >= d->was.count && b + equal >= d->now.count))
				break;
			a += equal;
			b += equal;
		}
		equal = skip_equal(d, a, b, CONTEXT);
		h.a_end = a += equal;
		h.b_end = b += equal;
		print_hunk(d, h, fn, arg);
		/* the context before the next hunk is counted from here */
	}
}
