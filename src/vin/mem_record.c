#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vin/mem.h"

#define PAGE	  4096ULL
#define BUFFER	  (256UL * 1024) /* stays in the processor's cache */
#define AUXV_MAX  4096
#define TABLE_MAX (1U << 26) /* runs of one record */

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
	if (a->source >= m->source_count)
		return false;
	const struct vin_source *s = &m->sources[a->source];
	return (a->kind == VIN_AREA_OBJECT) == (s->object != UINT64_MAX) &&
	       (a->kind != VIN_AREA_FILE || s->path[0] == '/') &&
	       (a->kind != VIN_AREA_KERNEL || s->path[0] == '[');
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
	a.prot = (int)(prot & 7);
	a.kind = kind < VIN_AREA_KINDS ? (enum vin_area_kind)kind : VIN_AREA_ANON;
	const uint64_t last = m->area_count ? m->areas[m->area_count - 1].end : PAGE;
	if (kind >= VIN_AREA_KINDS || prot > 7 || (a.start | a.end | a.offset) % PAGE ||
	    a.start < last || a.end <= a.start || a.end > VIN_ARCH_END ||
	    a.offset > INT64_MAX - a.end || !outside(a.start, a.end, hole) || !fits_source(m, &a))
		p->failed = true;
	*ret = a;
}

/* Whether areas lie everywhere between two addresses, and @own: hold pages of the process's own. */
static bool covered(const struct vin_mem *m, uint64_t start, uint64_t end, bool own)
{
	for (size_t i = 0; i < m->area_count && start < end; i++) {
		const struct vin_area *a = &m->areas[i];
		if (a->end <= start)
			continue;
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
	const size_t count = get_count(p, 8 * sizeof(uint64_t));
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
	if (r < 0 || p->failed)
		return r < 0 ? r : -EBADMSG;
	*ret = m;
	m = (struct vin_mem){ 0 };
	return 0;
}

/* ---- pages ---- */

/* Pages that the program itself may not read (PROT_NONE, with contents) only the file shows. */
static int take_piece(pid_t pid, int fd, uint64_t at, void *to, size_t len)
{
	if (pid > 0 && vin_mem_read(pid, at, to, len) == 0)
		return 0;
	ssize_t n = pread(fd, to, len, (off_t)at);
	if (n < 0)
		return -errno;
	if (pid == 0 && (size_t)n > len - PAGE) { /* a file ends within a page */
		memset((char *)to + n, 0, len - (size_t)n);
		return 0;
	}
	return (size_t)n == len ? 0 : -EIO;
}

static int stream_run(pid_t pid, int fd, const struct vin_run *run, void *buffer,
		      struct vin_out *out, struct fvm_error *err)
{
	for (uint64_t at = run->start; at < run->end;) {
		size_t len = run->end - at < BUFFER ? (size_t)(run->end - at) : BUFFER;
		int r = take_piece(pid, fd, at, buffer, len);
		if (r < 0)
			return fvm_error_set(err, -r, "read memory at %llx",
					     (unsigned long long)at);
		r = vin_out_piece(out, buffer, len, err);
		if (r < 0)
			return r;
		at += len;
	}
	return 0;
}

int vin_stream_out(pid_t pid, int fd, uint64_t number, const struct vin_runs *runs,
		   struct vin_out *out, struct fvm_error *err)
{
	scoped_free void *buffer = malloc(BUFFER);
	const uint64_t head[2] = { number, runs->count };
	const size_t table = runs->count * sizeof(*runs->runs);
	if (!buffer)
		return fvm_error_set(err, ENOMEM, "write pages");
	int r = vin_out_begin(out, VIN_TAG_PAGES, sizeof(head) + table + vin_runs_bytes(runs), err);
	if (r == 0)
		r = vin_out_piece(out, head, sizeof(head), err);
	if (r == 0)
		r = vin_out_piece(out, runs->runs, table, err);
	for (size_t i = 0; r == 0 && i < runs->count; i++)
		r = stream_run(pid, fd, &runs->runs[i], buffer, out, err);
	return r < 0 ? r : vin_out_finish(out, err);
}

static int fill_run(int fd, const struct vin_run *run, void *buffer, struct vin_in *in,
		    struct fvm_error *err)
{
	for (uint64_t at = run->start; at < run->end;) {
		size_t len = run->end - at < BUFFER ? (size_t)(run->end - at) : BUFFER;
		int r = vin_in_piece(in, buffer, len, err);
		if (r < 0)
			return r;
		ssize_t n = pwrite(fd, buffer, len, (off_t)at);
		if (n != (ssize_t)len)
			return fvm_error_set(err, n < 0 ? errno : EIO, "write memory at %llx",
					     (unsigned long long)at);
		at += len;
	}
	return 0;
}

static int bad_pages(struct fvm_error *err)
{
	return fvm_error_say(err, EBADMSG, "the image is damaged: pages where there is no memory");
}

static int get_table(struct vin_in *in, vin_allowed_fn *allowed, const void *arg,
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

int vin_stream_in(int fd, vin_allowed_fn *allowed, const void *arg, struct vin_in *in,
		  struct fvm_error *err)
{
	scoped_free void *buffer = malloc(BUFFER);
	scoped_runs runs = { 0 };
	int r = buffer ? get_table(in, allowed, arg, &runs, err)
		       : fvm_error_set(err, ENOMEM, "read pages");
	for (size_t i = 0; r == 0 && i < runs.count; i++)
		r = fill_run(fd, &runs.runs[i], buffer, in, err);
	return r < 0 ? r : vin_in_finish(in, err);
}

static int find_own(pid_t pid, const struct vin_mem *m, struct vin_runs *ret)
{
	scoped_fd pagemap = vin_pages_open(pid);
	int r = pagemap < 0 ? pagemap : 0;
	for (size_t i = 0; r == 0 && i < m->area_count; i++) {
		const struct vin_area *a = &m->areas[i];
		if (a->kind != VIN_AREA_KERNEL && !a->shared)
			r = vin_pages_find(pagemap, a->start, a->end, VIN_PAGES_OWN, false, ret);
	}
	return r;
}

static int open_mem(pid_t pid, int flags)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	return fvm_nerr(open(path, flags | O_CLOEXEC));
}

int vin_mem_write_pages(pid_t pid, pid_t number, const struct vin_mem *m, struct vin_out *out,
			struct fvm_error *err)
{
	scoped_runs runs = { 0 };
	scoped_fd mem = open_mem(pid, O_RDONLY);
	int r = mem < 0 ? mem : find_own(pid, m, &runs);
	if (r < 0)
		return fvm_error_set(err, -r, "find the pages of process %d", pid);
	r = vin_stream_out(pid, mem, (uint64_t)number, &runs, out, err);
	return r < 0 ? fvm_error_wrap(err, r, "process %d", pid) : 0;
}

static bool own_pages_go_there(const void *arg, uint64_t start, uint64_t end)
{
	return covered(arg, start, end, true);
}

int vin_mem_read_pages(pid_t pid, const struct vin_mem *m, struct vin_in *in, struct fvm_error *err)
{
	scoped_fd mem = open_mem(pid, O_WRONLY);
	if (mem < 0)
		return fvm_error_set(err, -mem, "open the memory of process %d", pid);
	return vin_stream_in(mem, own_pages_go_there, m, in, err);
}
