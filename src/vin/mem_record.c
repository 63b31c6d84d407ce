#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vin/blocks.h"
#include "vin/mem.h"
#include "vin/pieces.h"

#define PAGE	 4096ULL
#define AUXV_MAX 4096

/* ---- areas ---- */

static void put_area(struct fvm_buf *to, const struct vin_area *a)
{
	vin_put_u64(to, a->kind);
	vin_put_u64(to, a->start);
	vin_put_u64(to, a->end);
	vin_put_u64(to, a->offset);
	vin_put_u64(to, (uint64_t)a->prot);
	vin_put_u64(to, a->shared);
	vin_put_u64(to, a->flags);
	vin_put_u64(to, a->source);
	vin_put_u64(to, a->huge_kb);
}

static void put_source(struct fvm_buf *to, const struct vin_source *s)
{
	vin_put_string(to, s->path);
	vin_put_u64(to, s->size);
	vin_put_u64(to, s->mtime);
	vin_put_u64(to, s->object);
	vin_put_u64(to, s->write);
}

void vin_mem_put(struct fvm_buf *to, const struct vin_mem *m)
{
	for (size_t i = 0; i < VIN_MEM_NUMBERS; i++)
		vin_put_u64(to, m->numbers[i]);
	vin_put_string(to, m->exe);
	vin_put_blob(to, m->auxv, m->auxv_len);
	vin_put_u64(to, m->vdso_sum);
	vin_put_u64(to, m->source_count);
	for (size_t i = 0; i < m->source_count; i++)
		put_source(to, &m->sources[i]);
	vin_put_u64(to, m->area_count);
	for (size_t i = 0; i < m->area_count; i++)
		put_area(to, &m->areas[i]);
	vin_put_blob(to, m->guards.runs, m->guards.count * sizeof(*m->guards.runs));
	vin_policies_put(to, m);
	vin_rings_put(to, m);
}

/* A count of things of which each has at least @least bytes; more than there can be is none. */
static size_t get_count(struct vin_payload *p, size_t least)
{
	uint64_t n = vin_get_u64(p);
	if (n > (uint64_t)(p->end - p->at) / least)
		p->failed = true;
	return p->failed ? 0 : (size_t)n;
}

static void get_source(struct vin_payload *p, struct vin_source *ret)
{
	ret->path = vin_get_string(p);
	ret->size = vin_get_u64(p);
	ret->mtime = vin_get_u64(p);
	ret->object = vin_get_u64(p);
	ret->write = vin_get_u64(p) != 0;
}

static bool outside(uint64_t start, uint64_t end, uint64_t hole)
{
	return end <= hole || start >= hole + VIN_HOLE_SIZE;
}

static bool fits_source(const struct vin_mem *m, const struct vin_area *a)
{
	if (a->kind == VIN_AREA_ANON)
		return !a->shared;
	if (a->kind == VIN_AREA_RING)
		return a->shared && !a->huge_kb;
	if (a->source >= m->source_count)
		return false;
	const struct vin_source *s = &m->sources[a->source];
	return (a->kind == VIN_AREA_OBJECT) == (s->object != UINT64_MAX) &&
	       (a->kind != VIN_AREA_FILE || s->path[0] == '/') &&
	       (a->kind != VIN_AREA_KERNEL || s->path[0] == '[');
}

/* Huge pages are a power of two of ordinary ones, and whole. */
static bool fits_pages(const struct vin_area *a)
{
	const uint64_t kb = a->huge_kb, page = kb * 1024;
	return kb == 0 || (kb <= 1 << 24 && (kb & (kb - 1)) == 0 && page > PAGE &&
			   (a->start | a->end | a->offset) % page == 0);
}

static void get_area(struct vin_payload *p, const struct vin_mem *m, uint64_t hole,
		     struct vin_area *ret)
{
	const uint64_t kind = vin_get_u64(p);
	struct vin_area a = { .start = vin_get_u64(p) };
	a.end = vin_get_u64(p);
	a.offset = vin_get_u64(p);
	const uint64_t prot = vin_get_u64(p);
	a.shared = vin_get_u64(p) != 0;
	a.flags = vin_get_u64(p);
	a.source = (size_t)vin_get_u64(p);
	a.huge_kb = vin_get_u64(p);
	a.prot = (int)(prot & 7);
	a.kind = kind < VIN_AREA_KINDS ? (enum vin_area_kind)kind : VIN_AREA_ANON;
	const uint64_t last = m->area_count ? m->areas[m->area_count - 1].end : PAGE;
	if (kind >= VIN_AREA_KINDS || prot > 7 || !fits_pages(&a) ||
	    (a.start | a.end | a.offset) % PAGE || a.start < last || a.end <= a.start ||
	    a.end > VIN_ARCH_END || a.offset > INT64_MAX - a.end ||
	    !outside(a.start, a.end, hole) || !fits_source(m, &a))
		p->failed = true;
	*ret = a;
}

/* The first area that ends above @address. */
static size_t first_above(const struct vin_mem *m, uint64_t address)
{
	size_t low = 0, high = m->area_count;
	while (low < high) {
		const size_t middle = low + (high - low) / 2;
		if (m->areas[middle].end > address)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* Whether areas lie everywhere between two addresses, and @own: hold pages of the process's own. */
static bool covered(const struct vin_mem *m, uint64_t start, uint64_t end, bool own)
{
	for (size_t i = first_above(m, start); i < m->area_count && start < end; i++) {
		const struct vin_area *a = &m->areas[i];
		if (a->start > start || a->kind == VIN_AREA_KERNEL || (own && a->shared))
			return false;
		start = a->end;
	}
	return start >= end;
}

static int get_guards(struct vin_payload *p, struct vin_mem *m)
{
	size_t len;
	const unsigned char *blob = vin_get_blob(p, &len);
	int r = 0;
	p->failed |= len % sizeof(struct vin_run) != 0;
	for (size_t at = 0; r == 0 && !p->failed && at < len; at += sizeof(struct vin_run)) {
		struct vin_run run;
		memcpy(&run, blob + at, sizeof(run));
		if ((run.start | run.end) % PAGE || run.start >= run.end ||
		    !covered(m, run.start, run.end, false))
			p->failed = true;
		else
			r = vin_runs_add(&m->guards, run.start, run.end);
	}
	return r;
}

static int get_sources(struct vin_payload *p, struct vin_mem *m)
{
	const size_t count = get_count(p, 5 * sizeof(uint64_t));
	m->sources = calloc(count + 1, sizeof(*m->sources));
	if (!m->sources)
		return -ENOMEM;
	while (!p->failed && m->source_count < count)
		get_source(p, &m->sources[m->source_count++]);
	return 0;
}

static int get_areas(struct vin_payload *p, uint64_t hole, struct vin_mem *m)
{
	const size_t count = get_count(p, 9 * sizeof(uint64_t));
	m->areas = calloc(count + 1, sizeof(*m->areas));
	if (!m->areas)
		return -ENOMEM;
	while (!p->failed && m->area_count < count) {
		struct vin_area a;
		get_area(p, m, hole, &a);
		m->areas[m->area_count++] = a;
	}
	return 0;
}

int vin_mem_get(struct vin_payload *p, uint64_t hole, struct vin_mem *ret)
{
	scoped_mem m = { 0 };
	for (size_t i = 0; i < VIN_MEM_NUMBERS; i++)
		m.numbers[i] = vin_get_u64(p);
	m.exe = vin_get_string(p);
	const void *auxv = vin_get_blob(p, &m.auxv_len);
	m.auxv = m.auxv_len <= AUXV_MAX ? malloc(m.auxv_len + 1) : NULL;
	m.vdso_sum = vin_get_u64(p);
	if (p->failed || m.auxv_len > AUXV_MAX)
		return -EBADMSG;
	if (!m.auxv)
		return -ENOMEM;
	memcpy(m.auxv, auxv, m.auxv_len);
	int r = get_sources(p, &m);
	if (r == 0 && !p->failed)
		r = get_areas(p, hole, &m);
	if (r == 0 && !p->failed)
		r = get_guards(p, &m);
	if (r == 0 && !p->failed)
		r = vin_policies_get(p, &m);
	if (r == 0 && !p->failed)
		r = vin_rings_get(p, &m);
	if (r < 0 || p->failed)
		return r < 0 ? r : -EBADMSG;
	*ret = m;
	m = (struct vin_mem){ 0 };
	return 0;
}

/* ---- pages ---- */

bool vin_mem_has_own(const struct vin_area *a)
{
	return a->kind != VIN_AREA_KERNEL && !a->shared && !a->late;
}

static int find_own(pid_t pid, const struct vin_mem *m, struct vin_runs *ret)
{
	scoped_fd pagemap = vin_pages_open(pid);
	return pagemap < 0 ? pagemap
			   : vin_mem_find(pagemap, m, vin_mem_has_own, VIN_PAGES_OWN, ret);
}

static int open_mem(pid_t pid, int flags)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	return fvm_nerr(open(path, flags | O_CLOEXEC));
}

int vin_mem_write_late(pid_t number, const struct vin_mem *m, struct vin_out *out,
		       struct fvm_error *err)
{
	scoped_buf late = { 0 };
	size_t count = 0;
	vin_put_u64(&late, (uint64_t)number);
	for (size_t i = 0; i < m->area_count; i++) {
		const struct vin_area *a = &m->areas[i];
		if (!a->late)
			continue;
		vin_put_u64(&late, a->start);
		vin_put_u64(&late, a->end);
		count++;
	}
	return count ? vin_out_record(out, VIN_TAG_LATE, &late, err) : 0;
}

int vin_mem_write_runs(pid_t pid, pid_t number, const struct vin_runs *runs, struct vin_out *out,
		       struct fvm_error *err)
{
	scoped_fd mem = open_mem(pid, O_RDONLY);
	if (mem < 0)
		return fvm_error_set(err, -mem, "open the memory of process %d", pid);
	const struct vin_bytes s = { .pid = pid, .fd = mem };
	int r = vin_stream_out(&s, (uint64_t)number, runs, out, err);
	return r < 0 ? fvm_error_wrap(err, r, "process %d", pid) : 0;
}

int vin_mem_write_pages(pid_t pid, pid_t number, const struct vin_mem *m, struct vin_out *out,
			struct fvm_error *err)
{
	scoped_runs runs = { 0 };
	int r = find_own(pid, m, &runs);
	if (r < 0)
		return fvm_error_set(err, -r, "find the pages of process %d", pid);
	r = vin_mem_write_runs(pid, number, &runs, out, err);
	return r < 0 ? r : vin_mem_write_late(number, m, out, err);
}

static bool own_pages_go_there(const void *arg, uint64_t start, uint64_t end)
{
	return covered(arg, start, end, true);
}

/* Nobody has written to it since it was mapped. */
static bool is_new(const void *arg, uint64_t start, uint64_t end)
{
	const struct vin_mem *m = arg;
	const size_t i = first_above(m, start);
	return i < m->area_count && m->areas[i].kind == VIN_AREA_ANON &&
	       m->areas[i].start <= start && m->areas[i].end >= end;
}

int vin_mem_read_pages(pid_t pid, const struct vin_mem *m, struct vin_in *in, struct fvm_error *err)
{
	scoped_fd mem = open_mem(pid, O_WRONLY);
	if (mem < 0)
		return fvm_error_set(err, -mem, "open the memory of process %d", pid);
	const struct vin_bytes s = { .pid = pid, .fd = mem, .zeros = is_new, .zeros_arg = m };
	return vin_stream_in(&s, own_pages_go_there, m, in, err);
}

int vin_mem_leave_pages(const struct vin_mem *m, struct vin_in *in, struct vin_blocks *blocks,
			struct vin_runs *ret, uint64_t *ret_at, struct fvm_error *err)
{
	int r = vin_stream_table(in, own_pages_go_there, m, ret, err);
	return r < 0 ? r : vin_blocks_take(blocks, in, vin_runs_bytes(ret), true, ret_at, err);
}

int vin_mem_get_kept(struct vin_payload *p, const struct vin_mem *m, struct vin_runs *ret)
{
	size_t len;
	uint64_t last = 0;
	const unsigned char *blob = vin_get_blob(p, &len);
	int r = len % sizeof(struct vin_run) ? -EBADMSG : vin_get_done(p);
	for (size_t at = 0; r == 0 && at < len; at += sizeof(struct vin_run)) {
		struct vin_run run;
		memcpy(&run, blob + at, sizeof(run));
		if ((run.start | run.end) % PAGE || run.start < last || run.start >= run.end ||
		    !covered(m, run.start, run.end, true))
			return -EBADMSG;
		last = run.end;
		r = vin_runs_add(ret, run.start, run.end);
	}
	return r;
}

struct fetching {
	struct vin_blocks *from;
	const struct vin_pieces *pieces;
	size_t at; /* the piece that was read last */
};

/* In order: each piece is looked at once. */
static int fetch(void *arg, uint64_t from, void *to, size_t len)
{
	struct fetching *f = arg;
	while (len > 0) {
		while (f->at < f->pieces->count && f->pieces->list[f->at].end <= from)
			f->at++;
		const struct vin_piece *p = &f->pieces->list[f->at];
		if (f->at == f->pieces->count || p->start > from)
			return -EBADMSG;
		const size_t part = p->end - from < len ? (size_t)(p->end - from) : len;
		int r = vin_blocks_read(f->from, p->at + (from - p->start), to, part);
		if (r < 0)
			return r;
		to = (char *)to + part;
		from += part;
		len -= part;
	}
	return 0;
}

int vin_mem_fetch_pages(pid_t pid, const struct vin_mem *m, const struct vin_runs *runs,
			struct vin_blocks *from, const struct vin_pieces *pieces,
			struct fvm_error *err)
{
	struct fetching f = { from, pieces, 0 };
	scoped_fd mem = open_mem(pid, O_WRONLY);
	if (mem < 0)
		return fvm_error_set(err, -mem, "open the memory of process %d", pid);
	const struct vin_bytes to = { .pid = pid, .fd = mem, .zeros = is_new, .zeros_arg = m };
	return vin_stream_fetch(&to, runs, fetch, &f, err);
}
