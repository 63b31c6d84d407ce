/* PAGES records and their BLOCKs: runs of memory and their bytes, out of a process or a file and
 * into one. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vin/blocks.h"
#include "vin/mem.h"
#include "vin/relay.h"

#define PAGE	  4096ULL
#define PARTS	  (VIN_RELAY_BLOCK / PAGE) /* of a block, at most */
#define TABLE_MAX (1U << 26)		   /* runs of one record */

/* How far both ends are in the runs; each goes through them by itself. */
struct walk {
	const struct vin_bytes *bytes;
	const struct vin_runs *runs;
	size_t run;
	uint64_t done; /* of that run */
	uint64_t at;   /* address of the last that was tried */
};

struct end {
	struct walk walk;
	struct vin_out *out;
	struct vin_in *in;
	bool whole;	     /* of formats 1 and 2: all bytes in one record */
	vin_fetch_fn *fetch; /* in place of it; may be NULL */
	void *fetch_arg;
	struct fvm_error *err;
};

/* The next block's worth of runs. Return: how many, with @ret_len bytes together */
static size_t next_parts(struct walk *w, struct iovec parts[PARTS], size_t *ret_len)
{
	size_t count = 0, len = 0;
	while (w->run < w->runs->count && len < VIN_RELAY_BLOCK && count < PARTS) {
		const struct vin_run *run = &w->runs->runs[w->run];
		const uint64_t left = run->end - run->start - w->done, room = VIN_RELAY_BLOCK - len;
		const size_t part = (size_t)(left < room ? left : room);
		parts[count++] = (struct iovec){ (void *)(run->start + w->done), part };
		len += part;
		w->done += part;
		if (part == left) {
			w->run++;
			w->done = 0;
		}
	}
	*ret_len = len;
	return count;
}

/* ---- out of memory ---- */

static int read_part(struct walk *w, const struct iovec *part, char *to)
{
	const struct vin_bytes *s = w->bytes;
	const size_t len = part->iov_len;
	w->at = (uint64_t)part->iov_base;
	ssize_t n = pread(s->fd, to, len, (off_t)(s->base + w->at));
	if (n < 0)
		return -errno;
	if (s->pid == 0 && (size_t)n > len - PAGE) { /* a file ends within a page */
		memset(to + n, 0, len - (size_t)n);
		return 0;
	}
	return (size_t)n == len ? 0 : -EIO;
}

static int read_what_is_there(struct walk *w, const struct iovec *part, char *to)
{
	for (size_t at = 0; at < part->iov_len; at += PAGE) {
		const struct iovec page = { (char *)part->iov_base + at, PAGE };
		if (read_part(w, &page, to + at) == 0)
			continue;
		memset(to + at, 0, PAGE);
		if (vin_runs_add(w->bytes->gone, w->at, w->at + PAGE) < 0)
			return -ENOMEM;
	}
	return 0;
}

/* Who runs may have ended meanwhile, and its number be a stranger's: but not while it is not
 * reaped. */
static bool was_its_own(const struct vin_bytes *s)
{
	return !s->gone || pidfd_send_signal(s->pidfd, 0, NULL, 0) == 0;
}

/* Pages that the program itself may not read (PROT_NONE, with contents) only the file shows. */
static long read_memory(struct walk *w, void *block)
{
	struct iovec parts[PARTS];
	size_t len, at = 0;
	const size_t count = next_parts(w, parts, &len);
	struct iovec here = { block, len };
	if (w->bytes->pid > 0 && count > 0 &&
	    process_vm_readv(w->bytes->pid, &here, 1, parts, count, 0) == (ssize_t)len &&
	    was_its_own(w->bytes))
		return (long)len;
	for (size_t i = 0; i < count; i++) {
		int r = w->bytes->gone ? read_what_is_there(w, &parts[i], (char *)block + at)
				       : read_part(w, &parts[i], (char *)block + at);
		if (r < 0)
			return r;
		at += parts[i].iov_len;
	}
	return (long)len;
}

/* Looked at where it was just copied to, by who does not write. */
static long read_block(void *arg, void *block)
{
	long n = read_memory(arg, (char *)block + sizeof(struct vin_block_head));
	return n > 0 ? (long)vin_block_pack(block, (size_t)n) : n;
}

static int write_piece(void *arg, const void *block, size_t len)
{
	const struct end *e = arg;
	int r = vin_out_begin(e->out, VIN_TAG_BLOCK, len, e->err);
	if (r == 0)
		r = vin_out_piece(e->out, block, len, e->err);
	return r < 0 ? r : vin_out_finish(e->out, e->err);
}

static int failed(int r, const char *what, const struct walk *w, struct fvm_error *err)
{
	if (err && err->code)
		return r;
	return fvm_error_set(err, -r, "%s memory at %llx", what, (unsigned long long)w->at);
}

int vin_stream_out(const struct vin_bytes *s, uint64_t number, const struct vin_runs *runs,
		   struct vin_out *out, struct fvm_error *err)
{
	struct fvm_error mine = { 0 };
	struct walk from = { .bytes = s, .runs = runs };
	struct end to = { .out = out, .err = &mine };
	const uint64_t head[2] = { number, runs->count }, bytes = vin_runs_bytes(runs);
	const size_t table = runs->count * sizeof(*runs->runs);
	const struct vin_relay_ends ends = { .fill = read_block,
					     .drain = write_piece,
					     .fill_arg = &from,
					     .drain_arg = &to,
					     .fill_apart = true };
	const enum vin_tag tag = s->gone ? VIN_TAG_EARLY : VIN_TAG_PAGES;
	int r = vin_out_begin(out, tag, sizeof(head) + table, err);
	if (r == 0)
		r = vin_out_piece(out, head, sizeof(head), err);
	if (r == 0)
		r = vin_out_piece(out, runs->runs, table, err);
	if (r == 0)
		r = vin_out_finish(out, err);
	if (r < 0)
		return r;
	r = vin_relay(&ends, bytes);
	if (r == 0)
		return 0;
	r = failed(r, "read", &from, &mine);
	if (err)
		*err = mine;
	return r;
}

/* ---- into memory ---- */

static long read_piece(void *arg, void *block)
{
	struct end *e = arg;
	struct iovec parts[PARTS];
	size_t len, at = 0;
	const size_t count = next_parts(&e->walk, parts, &len);
	int r = 0;
	if (len && !e->fetch)
		r = e->whole ? vin_in_piece(e->in, block, len, e->err)
			     : vin_block_read(e->in, block, len, e->err);
	for (size_t i = 0; r == 0 && e->fetch && i < count; i++) {
		r = e->fetch(e->fetch_arg, (uint64_t)parts[i].iov_base, (char *)block + at,
			     parts[i].iov_len);
		at += parts[i].iov_len;
	}
	return r < 0 ? r : (long)len;
}

static int write_part(struct walk *w, const struct iovec *part, const char *from)
{
	w->at = (uint64_t)part->iov_base;
	ssize_t n = pwrite(w->bytes->fd, from, part->iov_len, (off_t)(w->bytes->base + w->at));
	return n < 0 ? -errno : (size_t)n == part->iov_len ? 0 : -EIO;
}

/* Parts of memory, and where the bytes for them are. */
struct pairs {
	struct iovec there[PARTS], here[PARTS];
	size_t count, len;
};

static void add_pair(struct pairs *p, char *there, char *here, size_t len)
{
	const size_t last = p->count - 1;
	if (p->count && (char *)p->there[last].iov_base + p->there[last].iov_len == there &&
	    (char *)p->here[last].iov_base + p->here[last].iov_len == here) {
		p->there[last].iov_len += len;
		p->here[last].iov_len += len;
	} else {
		p->there[p->count] = (struct iovec){ there, len };
		p->here[p->count++] = (struct iovec){ here, len };
	}
	p->len += len;
}

/* Zeros that are there anyway cost no memory if nobody writes them. */
static void leave_out_zeros(const struct vin_bytes *s, const struct iovec *part, char *here,
			    struct pairs *ret)
{
	for (size_t at = 0; at < part->iov_len; at += PAGE) {
		char *there = (char *)part->iov_base + at;
		uint64_t word;
		if (!vin_page_same(here + at, &word) || word != 0 ||
		    !s->zeros(s->zeros_arg, (uint64_t)there, (uint64_t)there + PAGE))
			add_pair(ret, there, here + at, PAGE);
	}
}

/* What may not be written to only the file lets in. */
static int write_block(void *arg, const void *block, size_t len)
{
	struct walk *w = arg;
	struct pairs p = { 0 };
	struct iovec parts[PARTS];
	size_t same;
	char *here = (char *)(uintptr_t)block;
	const size_t count = next_parts(w, parts, &same);
	if (same != len)
		return -EINVAL;
	for (size_t i = 0; i < count; here += parts[i++].iov_len) {
		if (w->bytes->zeros)
			leave_out_zeros(w->bytes, &parts[i], here, &p);
		else
			add_pair(&p, parts[i].iov_base, here, parts[i].iov_len);
	}
	if (w->bytes->pid > 0 && process_vm_writev(w->bytes->pid, p.here, p.count, p.there, p.count,
						   0) == (ssize_t)p.len)
		return 0;
	for (size_t i = 0; i < p.count; i++) {
		int r = write_part(w, &p.there[i], p.here[i].iov_base);
		if (r < 0)
			return r;
	}
	return 0;
}

static int bad_pages(struct fvm_error *err)
{
	return fvm_error_say(err, EBADMSG, "the image is damaged: pages where there is no memory");
}

int vin_stream_table(struct vin_in *in, vin_allowed_fn *allowed, const void *arg,
		     struct vin_runs *ret, struct fvm_error *err)
{
	uint64_t count, last = 0;
	int r = vin_in_piece(in, &count, sizeof(count), err);
	if (r == 0 && count > TABLE_MAX)
		r = bad_pages(err);
	for (uint64_t i = 0; r == 0 && i < count; i++) {
		struct vin_run run;
		r = vin_in_piece(in, &run, sizeof(run), err);
		if (r < 0)
			return r;
		if ((run.start | run.end) % PAGE || run.start < last || run.start >= run.end ||
		    !allowed(arg, run.start, run.end))
			return bad_pages(err);
		last = run.end;
		if (vin_runs_add(ret, run.start, run.end) < 0)
			return fvm_error_set(err, ENOMEM, "read pages");
	}
	return r;
}

/* Both ends go through the runs by themselves; @from has where the bytes come from. */
static int pour(const struct vin_bytes *s, const struct vin_runs *runs, struct end *from,
		struct fvm_error *err)
{
	struct fvm_error mine = { 0 };
	struct walk to = { .bytes = s, .runs = runs };
	from->walk = to;
	from->err = &mine;
	const struct vin_relay_ends ends = {
		.fill = read_piece, .drain = write_block, .fill_arg = from, .drain_arg = &to
	};
	int r = vin_relay(&ends, vin_runs_bytes(runs));
	if (r == 0)
		return 0;
	r = failed(r, "write", &to, &mine);
	if (err)
		*err = mine;
	return r;
}

int vin_stream_in(const struct vin_bytes *s, vin_allowed_fn *allowed, const void *arg,
		  struct vin_in *in, struct fvm_error *err)
{
	scoped_runs runs = { 0 };
	struct end from = { .in = in };
	int r = vin_stream_table(in, allowed, arg, &runs, err);
	from.whole = vin_in_left(in) > 0;
	if (r == 0 && !from.whole)
		r = vin_in_finish(in, err);
	if (r == 0)
		r = pour(s, &runs, &from, err);
	return r == 0 && from.whole ? vin_in_finish(in, err) : r;
}

int vin_stream_fetch(const struct vin_bytes *s, const struct vin_runs *runs, vin_fetch_fn *fetch,
		     void *arg, struct fvm_error *err)
{
	struct end from = { .fetch = fetch, .fetch_arg = arg };
	return pour(s, runs, &from, err);
}
