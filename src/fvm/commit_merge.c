#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fvm/commit_merge.h"
#include "fvm/inode.h"
#include "fvm/textdiff.h"

struct side { /* one version, and where each line of the ancestor is in it */
	struct fvm_text text;
	long *at; /* -1: it is not */
};

struct merge {
	struct fvm_text base;
	struct side ours, theirs;
};

struct region { /* lines [from, to) */
	size_t from, to;
};

/* Unchanged lines of both texts belong together in their order. */
static int match_lines(const struct fvm_textdiff *d, struct side *side)
{
	side->text = d->now;
	side->at = malloc((d->was.count + 1) * sizeof(*side->at));
	if (!side->at)
		return -ENOMEM;
	size_t j = 0;
	for (size_t i = 0; i < d->was.count; i++) {
		side->at[i] = -1;
		if (d->was.changed[i])
			continue;
		while (j < d->now.count && d->now.changed[j])
			j++;
		side->at[i] = (long)j++;
	}
	return 0;
}

static size_t region_len(const struct fvm_text *t, struct region r)
{
	return t->lines[r.to] - t->lines[r.from];
}

static bool same(const struct fvm_text *a, struct region ra, const struct fvm_text *b,
		 struct region rb)
{
	size_t len = region_len(a, ra);
	return len == region_len(b, rb) &&
	       memcmp(a->data + a->lines[ra.from], b->data + b->lines[rb.from], len) == 0;
}

static void take(struct fvm_buf *ret, const struct fvm_text *t, struct region r)
{
	fvm_buf_add(ret, t->data + t->lines[r.from], region_len(t, r));
}

/* Return: 0, or 1 when both changed it, and differently */
static int merge_region(const struct merge *m, struct region base, struct region ours,
			struct region theirs, struct fvm_buf *ret)
{
	if (same(&m->base, base, &m->ours.text, ours))
		take(ret, &m->theirs.text, theirs);
	else if (same(&m->base, base, &m->theirs.text, theirs) ||
		 same(&m->ours.text, ours, &m->theirs.text, theirs))
		take(ret, &m->ours.text, ours);
	else
		return 1;
	return 0;
}

static int merge_all(const struct merge *m, struct fvm_buf *ret)
{
	size_t o = 0, a = 0, b = 0;
	for (;;) {
		size_t i = o;
		while (i < m->base.count && (m->ours.at[i] < 0 || m->theirs.at[i] < 0))
			i++;
		bool end = i == m->base.count;
		size_t a_end = end ? m->ours.text.count : (size_t)m->ours.at[i];
		size_t b_end = end ? m->theirs.text.count : (size_t)m->theirs.at[i];
		if (merge_region(m, (struct region){ o, i }, (struct region){ a, a_end },
				 (struct region){ b, b_end }, ret))
			return 1;
		if (end)
			return ret->failed ? -ENOMEM : 0;
		take(ret, &m->base, (struct region){ i, i + 1 });
		o = i + 1;
		a = a_end + 1;
		b = b_end + 1;
	}
}

int fvm_merge_texts(const struct fvm_buf *base, const struct fvm_buf *ours,
		    const struct fvm_buf *theirs, struct fvm_buf *ret)
{
	struct fvm_textdiff first = { 0 }, second = { 0 };
	struct merge m = { 0 };
	int r = fvm_textdiff_make(base->data, base->len, ours->data, ours->len, &first);
	if (r == 0)
		r = fvm_textdiff_make(base->data, base->len, theirs->data, theirs->len, &second);
	if (r == 0)
		r = match_lines(&first, &m.ours);
	if (r == 0)
		r = match_lines(&second, &m.theirs);
	m.base = first.was;
	if (r == 0)
		r = merge_all(&m, ret);
	free(m.ours.at);
	free(m.theirs.at);
	fvm_textdiff_free(&first);
	fvm_textdiff_free(&second);
	return r;
}

/* Return: 0, 1 when it is no small text, or -errno */
static int read_text(int dir, const char *name, struct fvm_buf *ret)
{
	scoped_free char *text = malloc(FVM_ANCESTOR_MAX);
	scoped_fd fd = fvm_open_file(dir, name);
	if (fd < 0 || !text)
		return fd < 0 ? fd : -ENOMEM;
	ssize_t n = fvm_read_full(fd, text, FVM_ANCESTOR_MAX);
	if (n < 0)
		return (int)n;
	if (n == FVM_ANCESTOR_MAX || memchr(text, '\0', (size_t)n))
		return 1;
	fvm_buf_add(ret, text, (size_t)n);
	fvm_buf_add(ret, "", 0);
	return ret->failed ? -ENOMEM : 0;
}

static int merge_files(const struct fvm_vm *vm, const struct fvm_stamps *stamps,
		       const struct fvm_change *ch, struct fvm_buf *ret, const char **ret_why)
{
	const struct fvm_stamp *stamp = fvm_stamps_find(stamps, ch->path);
	scoped_buf base = { 0 }, ours = { 0 }, theirs = { 0 };
	*ret_why = "changed on both sides, and what it was before is not known";
	if (!stamp || stamp->drifted ||
	    fvm_ancestor_read(vm->dir, stamp, &base.data, &base.len) < 0)
		return 1;
	*ret_why = "changed on both sides, and no text of less than 256 KiB";
	int r = read_text(ch->layer_dir, ch->name, &ours);
	if (r == 0)
		r = read_text(ch->base_dir, ch->name, &theirs);
	if (r != 0)
		return r;
	*ret_why = "changed on both sides in the same lines";
	return fvm_merge_texts(&base, &ours, &theirs, ret);
}

int commit_merge(const struct fvm_vm *vm, const struct fvm_stamps *stamps,
		 const struct fvm_change *ch, struct fvm_buf **ret, const char **ret_why)
{
	struct fvm_buf *merged = calloc(1, sizeof(*merged));
	if (!merged)
		return -ENOMEM;
	int r = merge_files(vm, stamps, ch, merged, ret_why);
	if (r != 0) {
		fvm_buf_free(merged);
		free(merged);
		return r;
	}
	*ret = merged;
	return 0;
}
