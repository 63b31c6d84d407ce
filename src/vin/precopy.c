#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "vin/dirty.h"
#include "vin/precopy.h"
#include "vin/status.h"

#define LITTLE	 (1ULL << 20) /* bytes that are not worth another pass */
#define KEPT_MAX (VIN_RECORD_MAX / 2 / sizeof(struct vin_run))

/* A process whose memory is copied. */
struct copied {
	pid_t pid, number; /* here, and its own */
	int pidfd, mem;
	struct vin_dirty dirty;
	struct vin_runs sent; /* what the image has of it */
	struct vin_runs now;  /* of this pass */
};

struct vin_precopy {
	unsigned ways;
	struct copied *list;
	size_t count;
};

struct vin_precopy *vin_precopy_open(unsigned ways)
{
	struct vin_precopy *p = calloc(1, sizeof(*p));
	if (p)
		p->ways = ways;
	return p;
}

static void forget(struct copied *c)
{
	vin_dirty_end(&c->dirty);
	vin_runs_free(&c->sent);
	vin_runs_free(&c->now);
	fvm_fd_closep(&c->mem);
	fvm_fd_closep(&c->pidfd);
}

void vin_precopy_close(struct vin_precopy *p)
{
	for (size_t i = 0; p && i < p->count; i++)
		forget(&p->list[i]);
	if (p)
		free(p->list);
	free(p);
}

static const struct copied *find(const struct vin_precopy *p, pid_t pid)
{
	for (size_t i = 0; p && i < p->count; i++) {
		if (p->list[i].pid == pid)
			return &p->list[i];
	}
	return NULL;
}

static int open_mem(pid_t tid)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/mem", tid);
	return fvm_nerr(open(path, O_RDONLY | O_CLOEXEC));
}

int vin_precopy_add(struct vin_precopy *p, struct vin_thread *t)
{
	struct copied *more = realloc(p->list, fvm_room(p->count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	p->list = more;
	struct copied *c = &p->list[p->count];
	*c = (struct copied){ .pid = t->pid, .number = vin_inner_number(t->pid) };
	c->dirty = (struct vin_dirty){ .uffd = -1, .pagemap = -1 };
	c->mem = open_mem(t->tid);
	c->pidfd = pidfd_open(t->pid, 0);
	if (c->mem < 0 || c->pidfd < 0 || c->number == 0 ||
	    vin_dirty_begin(t, p->ways, &c->dirty) < 0)
		forget(c);
	else
		p->count++;
	return 0;
}

/* ---- while they run ---- */

/* What fails is left to the stop; what was found before that is copied. */
static int find_changed(struct copied *c)
{
	scoped_maps maps = { 0 };
	vin_runs_free(&c->now);
	int r = vin_maps_read(c->pid, false, &maps, NULL);
	for (size_t i = 0; r == 0 && i < maps.count; i++) {
		const struct vin_vma *v = &maps.vmas[i];
		if (vin_dirty_may(v) &&
		    vin_dirty_pass(&c->dirty, v->start, v->end, &c->now) == -ENOMEM)
			r = -ENOMEM;
	}
	return r == -ENOMEM ? r : 0;
}

/* @list becomes what @fn makes of it and @other. */
static int change(struct vin_runs *list, const struct vin_runs *other,
		  int (*fn)(const struct vin_runs *a, const struct vin_runs *b,
			    struct vin_runs *ret))
{
	struct vin_runs new = { 0 };
	int r = fn(list, other, &new);
	vin_runs_free(list);
	*list = new;
	return r;
}

static int send_one(struct copied *c, struct vin_out *out, struct fvm_error *err)
{
	scoped_runs gone = { 0 };
	const struct vin_bytes s = {
		.pid = c->pid, .fd = c->mem, .gone = &gone, .pidfd = c->pidfd
	};
	if (c->now.count == 0)
		return 0;
	int r = vin_stream_out(&s, (uint64_t)c->number, &c->now, out, err);
	if (r < 0)
		return r;
	r = change(&c->sent, &c->now, vin_runs_either);
	if (r == 0)
		r = change(&c->sent, &gone, vin_runs_less);
	return r < 0 ? fvm_error_set(err, -r, "list pages") : 0;
}

static int send_all(struct vin_precopy *p, struct vin_out *out, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < p->count; i++)
		r = send_one(&p->list[i], out, err);
	return r;
}

/* They are protected again, as if they had been copied. */
static int leave_all(struct vin_precopy *p)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < p->count; i++)
		r = change(&p->list[i].sent, &p->list[i].now, vin_runs_less);
	return r;
}

static int find_all(struct vin_precopy *p, uint64_t *ret_bytes)
{
	int r = 0;
	*ret_bytes = 0;
	for (size_t i = 0; r == 0 && i < p->count; i++) {
		r = find_changed(&p->list[i]);
		*ret_bytes += vin_runs_bytes(&p->list[i].now);
	}
	return r;
}

static unsigned passes_of(const struct vin_precopy *p)
{
	unsigned most = p->count ? vin_dirty_passes(&p->list[0].dirty) : 0;
	for (size_t i = 1; i < p->count; i++) {
		const unsigned passes = vin_dirty_passes(&p->list[i].dirty);
		most = passes < most ? passes : most;
	}
	return most;
}

int vin_precopy_copy(struct vin_precopy *p, struct vin_out *out, vin_enough_fn *enough, void *arg,
		     struct vin_precopy_told *ret, struct fvm_error *err)
{
	struct vin_precopy_told told = { .processes = p->count };
	uint64_t before = UINT64_MAX;
	int r = 0;
	for (unsigned n = passes_of(p); r == 0 && n > 0 && before > LITTLE; n--) {
		r = find_all(p, &told.last_bytes);
		if (r < 0)
			return fvm_error_set(err, -r, "list pages");
		if (told.last_bytes > before / 2) {
			r = leave_all(p);
			r = r < 0 ? fvm_error_set(err, -r, "list pages") : 0;
			break;
		}
		r = send_all(p, out, err);
		told.passes++;
		told.bytes += told.last_bytes;
		before = told.last_bytes;
		if (enough && enough(arg))
			break;
	}
	*ret = told;
	return r;
}

/* ---- in the stop ---- */

void vin_precopy_hide(const struct vin_precopy *p, pid_t pid, struct vin_maps *maps)
{
	const struct copied *c = find(p, pid);
	for (size_t i = 0; c && i < maps->count; i++) {
		struct vin_vma *v = &maps->vmas[i];
		if (vin_vma_is(v, VIN_VMA_UFFD_WP) && vin_dirty_is(&c->dirty, v))
			v->flags &= ~(1ULL << VIN_VMA_UFFD_WP);
	}
}

static int add_all(struct vin_runs *to, const struct vin_runs *from)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < from->count; i++)
		r = vin_runs_add(to, from->runs[i].start, from->runs[i].end);
	return r;
}

/* @ret_same: as they were when they were copied, if they were; @ret: all others */
static int split_area(const struct copied *c, int pagemap, const struct vin_area *a,
		      struct vin_runs *ret_same, struct vin_runs *ret)
{
	scoped_runs same = { 0 }, written = { 0 };
	int r = a->kind == VIN_AREA_ANON && !a->huge_kb
			? vin_dirty_split(&c->dirty, pagemap, a->start, a->end, &same, &written)
			: -EPERM;
	if (r < 0)
		return vin_pages_find(pagemap, a->start, a->end, VIN_PAGES_OWN, false, ret);
	r = add_all(ret_same, &same);
	return r < 0 ? r : add_all(ret, &written);
}

/* All own pages, in two lists. */
static int split(const struct copied *c, pid_t via, const struct vin_mem *m,
		 struct vin_runs *ret_kept, struct vin_runs *ret_rest)
{
	scoped_runs same = { 0 }, written = { 0 }, lost = { 0 };
	scoped_fd pagemap = vin_pages_open(via);
	int r = pagemap < 0 ? pagemap : 0;
	for (size_t i = 0; r == 0 && i < m->area_count; i++) {
		if (vin_mem_has_own(&m->areas[i]))
			r = split_area(c, pagemap, &m->areas[i], &same, &written);
	}
	if (r == 0)
		r = vin_runs_both(&same, &c->sent, ret_kept);
	if (r == 0)
		r = vin_runs_less(&same, ret_kept, &lost);
	return r < 0 ? r : vin_runs_either(&written, &lost, ret_rest);
}

static int write_kept(pid_t number, const struct vin_runs *kept, struct vin_out *out,
		      struct fvm_error *err)
{
	int r = 0;
	for (size_t at = 0; r == 0 && at < kept->count; at += KEPT_MAX) {
		const size_t left = kept->count - at, count = left < KEPT_MAX ? left : KEPT_MAX;
		scoped_buf payload = { 0 };
		vin_put_u64(&payload, (uint64_t)number);
		vin_put_blob(&payload, kept->runs + at, count * sizeof(*kept->runs));
		r = vin_out_record(out, VIN_TAG_KEPT, &payload, err);
	}
	return r;
}

int vin_precopy_write(const struct vin_precopy *p, pid_t pid, pid_t via, const struct vin_mem *m,
		      struct vin_out *out, struct fvm_error *err)
{
	scoped_runs kept = { 0 }, rest = { 0 };
	const struct copied *c = find(p, pid);
	const pid_t number = vin_inner_number(pid);
	if (!c || c->number != number)
		return vin_mem_write_pages(via, number, m, out, err);
	int r = split(c, via, m, &kept, &rest);
	if (r < 0)
		return fvm_error_set(err, -r, "find the pages of process %d", pid);
	r = write_kept(number, &kept, out, err);
	if (r == 0)
		r = vin_mem_write_runs(via, number, &rest, out, err);
	return r < 0 ? r : vin_mem_write_late(number, m, out, err);
}
