#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "vin/mem.h"

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08 /* Linux 6.11 */
#endif
#define GUARD_INSTALL 102 /* MADV_GUARD_INSTALL, Linux 6.13 */
#define MSEAL	      462 /* mseal(2), Linux 6.10 */

bool vin_mem_is_narrow(const struct vin_mem *m)
{
	return vin_arch_is_narrow(m->auxv, m->auxv_len);
}

/* Calls that are made when there are enough of them. */
struct queue {
	struct vin_blank *b;
	struct vin_call calls[VIN_BATCH_MAX];
	size_t count;
};

static int flush(struct queue *q, struct fvm_error *err)
{
	size_t done = 0;
	if (q->count == 0)
		return 0;
	int r = vin_batch(&q->b->post, &q->b->thread, q->calls, q->count, false, &done, err);
	if (r < 0 && done > 0) {
		const struct vin_call *c = &q->calls[done - 1];
		fvm_error_wrap(err, r, "system call %llu (%llx, %llx, %llx)",
			       (unsigned long long)c->nr, (unsigned long long)c->args[0],
			       (unsigned long long)c->args[1], (unsigned long long)c->args[2]);
	}
	q->count = 0;
	return r;
}

static int queue(struct queue *q, const struct vin_call *call, struct fvm_error *err)
{
	int r = q->count == VIN_BATCH_MAX ? flush(q, err) : 0;
	q->calls[q->count++] = *call;
	return r;
}

/* ---- files ---- */

static int open_in_root(int root, const char *path, int flags)
{
	struct open_how how = { .flags = (uint64_t)(flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY),
				.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	return fvm_nerr((int)syscall(SYS_openat2, root, path, &how, sizeof(how)));
}

static int open_file(const struct vin_source *s, int root, struct fvm_error *err)
{
	struct stat st;
	scoped_fd fd = open_in_root(root, s->path, s->write ? O_RDWR : O_RDONLY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return fvm_error_set(err, fd < 0 ? -fd : errno, "open %s", s->path);
	const uint64_t mtime =
		(uint64_t)st.st_mtim.tv_sec * 1000000000 + (uint64_t)st.st_mtim.tv_nsec;
	const bool zeros = S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 5);
	if (!S_ISREG(st.st_mode) && !zeros)
		return fvm_error_say(err, ESTALE, "%s is no file any more", s->path);
	if (!s->write && !zeros && ((uint64_t)st.st_size != s->size || mtime != s->mtime))
		return fvm_error_say(err, ESTALE, "%s is not what it was when it was mapped",
				     s->path);
	return fvm_fd_take(&fd);
}

/* A segment is attached by its id. */
static const struct vin_object *segment_of(const struct vin_source *s,
					   const struct vin_objects *objects)
{
	return s->object < objects->count && objects->list[s->object].kind == VIN_OBJECT_SEGMENT
		       ? &objects->list[s->object]
		       : NULL;
}

static int open_to_read(int fd)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return fvm_nerr(open(path, O_RDONLY | O_CLOEXEC));
}

/* Files and objects of @m from @first on become descriptors of the blank; what is of the kernel has
 * none. Return: how many sources are dealt with */
static ssize_t give_some(const struct vin_nest *nest, struct vin_blank *b, const struct vin_mem *m,
			 const struct vin_objects *objects, int root, size_t first, int *theirs,
			 struct fvm_error *err)
{
	int ours[VIN_GIVE_MAX], got[VIN_GIVE_MAX];
	bool mine[VIN_GIVE_MAX];
	size_t place[VIN_GIVE_MAX], n = 0, i = first;
	int r = 0;
	for (; r == 0 && i < m->source_count && n < VIN_GIVE_MAX; i++) {
		const struct vin_source *s = &m->sources[i];
		if (s->path[0] == '[' || segment_of(s, objects))
			continue;
		/* what nobody here may ever write to may be sealed */
		const bool read_only = s->object < objects->count && !s->write;
		mine[n] = s->object == UINT64_MAX || read_only;
		if (!mine[n] && s->object >= objects->count)
			r = fvm_error_say(err, EBADMSG, "the image is damaged: no such object");
		else
			r = ours[n] = read_only ? open_to_read(objects->list[s->object].fd)
				      : mine[n] ? open_file(s, root, err)
						: objects->list[s->object].fd;
		if (r >= 0) {
			place[n++] = i;
			r = 0;
		}
	}
	if (r == 0 && n > 0)
		r = vin_blank_give(nest, b, ours, n, got, err);
	for (size_t j = 0; j < n; j++) {
		theirs[place[j]] = r < 0 ? -1 : got[j];
		if (mine[j])
			close(ours[j]);
	}
	return r < 0 ? r : (ssize_t)(i - first);
}

/* ---- areas ---- */

/* Not writable, but counted as if: it was writable once, and merges with others only as such. */
static bool was_writable(const struct vin_area *a)
{
	return !a->shared && !(a->prot & PROT_WRITE) && a->flags >> VIN_VMA_ACCOUNT & 1;
}

static struct vin_call map_call(const struct vin_area *a, const int *theirs)
{
	const bool droppable = a->flags >> VIN_VMA_DROPPABLE & 1;
	/* a ring's place, until it comes */
	const bool nameless = a->kind == VIN_AREA_ANON || a->kind == VIN_AREA_RING;
	int flags = MAP_FIXED_NOREPLACE | (droppable		    ? MAP_DROPPABLE
					   : a->shared && !nameless ? MAP_SHARED
								    : MAP_PRIVATE);
	int prot = a->prot | (was_writable(a) ? PROT_WRITE : 0);
	if (a->flags >> VIN_VMA_NORESERVE & 1)
		flags |= MAP_NORESERVE;
	if (a->flags >> VIN_VMA_GROWSDOWN & 1)
		flags |= MAP_GROWSDOWN;
	if (nameless)
		flags |= MAP_ANONYMOUS;
	if (a->kind == VIN_AREA_ANON && a->huge_kb)
		flags |= MAP_HUGETLB | __builtin_ctzll(a->huge_kb * 1024) << MAP_HUGE_SHIFT;
	const int fd = nameless ? -1 : theirs[a->source];
	return (struct vin_call){ SYS_mmap,
				  { a->start, a->end - a->start, (uint64_t)prot, (uint64_t)flags,
				    (uint64_t)(int64_t)fd, a->offset } };
}

static int move_kernel(const struct vin_nest *nest, const struct vin_area *a, const char *name,
		       struct queue *q, struct fvm_error *err)
{
	for (size_t i = 0; i < nest->parked_count; i++) {
		const struct vin_parked *p = &nest->parked[i];
		if (strcmp(p->name, name) != 0 || p->size != a->end - a->start)
			continue;
		struct vin_call move = { SYS_mremap,
					 { p->at, p->size, p->size, MREMAP_MAYMOVE | MREMAP_FIXED,
					   a->start } };
		return queue(q, &move, err);
	}
	return fvm_error_say(err, EOPNOTSUPP, "this kernel has no %s of the size that programs had",
			     name);
}

/* The kernel's pages of a 32-bit program lie beside each other; ours must go first, as it has
 * either. */
static int map_narrow(const struct vin_nest *nest, const struct vin_mem *m, struct queue *q,
		      struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < nest->parked_count; i++) {
		struct vin_call gone = { SYS_munmap, { nest->parked[i].at, nest->parked[i].size } };
		r = queue(q, &gone, err);
	}
	for (size_t i = 0; r == 0 && i < m->area_count; i++) {
		struct vin_call map = vin_arch_vdso_32(m->areas[i].start);
		if (m->areas[i].kind != VIN_AREA_KERNEL)
			continue;
		r = queue(q, &map, err);
		if (r == 0)
			r = flush(q, err);
		if (r == -EINVAL)
			fvm_error_hint(err, "this kernel runs no 32-bit programs, or has no "
					    "CONFIG_CHECKPOINT_RESTORE");
		break;
	}
	return r;
}

static int check_narrow(const struct vin_blank *b, const struct vin_mem *m, struct fvm_error *err)
{
	for (size_t i = 0; i < m->area_count; i++) {
		const struct vin_area *a = &m->areas[i];
		uint64_t sum;
		if (a->kind != VIN_AREA_KERNEL || strcmp(m->sources[a->source].path, "[vdso]") != 0)
			continue;
		if (vin_vdso_sum(b->post.pid, a->start, a->end - a->start, &sum) < 0 ||
		    sum != m->vdso_sum)
			return fvm_error_say(err, EOPNOTSUPP,
					     "32-bit programs have the vdso of another build of "
					     "the kernel");
	}
	return 0;
}

/* Pieces of one attachment: shmdt(2) of the program is to find them all. */
static bool of_one(const struct vin_area *a, const struct vin_area *b)
{
	return b->kind == VIN_AREA_OBJECT && a->source == b->source &&
	       a->start - a->offset == b->start - b->offset &&
	       (a->flags >> VIN_VMA_MAY_WRITE & 1) == (b->flags >> VIN_VMA_MAY_WRITE & 1);
}

static uint64_t segment_size(const struct vin_object *o)
{
	const uint64_t page = o->segment.huge_kb ? o->segment.huge_kb * 1024 : 4096;
	return (o->size + page - 1) & ~(page - 1);
}

static bool within(const struct vin_area *a, uint64_t size)
{
	const uint64_t len = a->end - a->start;
	return a->shared && len <= size && a->offset <= size - len;
}

/* Attached where the kernel likes it; the pieces go from there to their places. */
static int attach_pieces(const struct vin_mem *m, size_t first, const struct vin_object *o,
			 int flags, struct queue *q, struct fvm_error *err)
{
	struct vin_call attach = { SYS_shmat, { (uint64_t)o->segment.id, 0, (uint64_t)flags } };
	const uint64_t size = segment_size(o);
	uint64_t done = 0;
	int64_t at;
	int r = flush(q, err);
	if (r == 0)
		r = vin_call(&q->b->post, &q->b->thread, "shmat", &attach, &at, err);
	if (r == 0 && at < 0 && at > -4096)
		r = fvm_error_set(err, (int)-at, "attach the SysV segment %d", o->segment.id);
	for (size_t i = first; r == 0 && i <= m->area_count; i++) {
		const struct vin_area *a = &m->areas[i];
		const bool last = i == m->area_count;
		if (!last && !of_one(&m->areas[first], a))
			continue;
		if (!last && !within(a, size))
			return fvm_error_say(err, EBADMSG,
					     "the image is damaged: memory behind "
					     "the end of a segment");
		const uint64_t len = last ? 0 : a->end - a->start, from = last ? size : a->offset;
		struct vin_call gap = { SYS_munmap, { (uint64_t)at + done, from - done } };
		struct vin_call move = { SYS_mremap,
					 { (uint64_t)at + from, len, len,
					   MREMAP_MAYMOVE | MREMAP_FIXED, last ? 0 : a->start } };
		r = from > done ? queue(q, &gap, err) : 0;
		if (r == 0 && !last)
			r = queue(q, &move, err);
		done = from + len;
	}
	return r;
}

static int attach(const struct vin_mem *m, size_t n, const struct vin_object *o, struct queue *q,
		  struct fvm_error *err)
{
	const struct vin_area *a = &m->areas[n];
	const uint64_t size = segment_size(o), len = a->end - a->start;
	const bool writes = a->flags >> VIN_VMA_MAY_WRITE & 1;
	const int flags = writes ? 0 : SHM_RDONLY;
	if (!within(a, size))
		return fvm_error_say(err, EBADMSG,
				     "the image is damaged: memory behind the end of a segment");
	struct vin_call whole = { SYS_shmat,
				  { (uint64_t)o->segment.id, a->start, (uint64_t)flags } };
	struct vin_call protect = { SYS_mprotect, { a->start, len, (uint64_t)a->prot } };
	size_t first = 0;
	while (first < n && !of_one(a, &m->areas[first]))
		first++;
	int r = first < n     ? 0
		: len == size ? queue(q, &whole, err)
			      : attach_pieces(m, n, o, flags, q, err);
	if (r == 0 && a->prot != (PROT_READ | (writes ? PROT_WRITE : 0)))
		r = queue(q, &protect, err);
	return r;
}

static int map_areas(const struct vin_nest *nest, const struct vin_mem *m,
		     const struct vin_objects *objects, const int *theirs, struct queue *q,
		     struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < m->area_count; i++) {
		const struct vin_area *a = &m->areas[i];
		const struct vin_object *segment =
			a->kind == VIN_AREA_OBJECT ? segment_of(&m->sources[a->source], objects)
						   : NULL;
		if (a->kind == VIN_AREA_KERNEL && vin_mem_is_narrow(m)) {
			continue;
		} else if (a->kind == VIN_AREA_KERNEL) {
			r = move_kernel(nest, a, m->sources[a->source].path, q, err);
		} else if (segment) {
			r = attach(m, i, segment, q, err);
		} else {
			struct vin_call map = map_call(a, theirs);
			r = queue(q, &map, err);
		}
	}
	for (size_t i = 0; r == 0 && i < m->source_count; i++) {
		struct vin_call close_it = { SYS_close, { (uint64_t)theirs[i] } };
		if (theirs[i] >= 0)
			r = queue(q, &close_it, err);
	}
	return r < 0 ? r : flush(q, err);
}

static int unmap_all(const struct vin_nest *nest, struct queue *q, struct fvm_error *err)
{
	const uint64_t end = nest->hole + VIN_HOLE_SIZE;
	struct vin_call below = { SYS_munmap, { 0, nest->hole } };
	struct vin_call above = { SYS_munmap, { end, VIN_ARCH_END - end } };
	int r = queue(q, &below, err);
	return r < 0 ? r : queue(q, &above, err);
}

static int same_kernel(const struct vin_nest *nest, const struct vin_mem *m, struct fvm_error *err)
{
	if (m->vdso_sum && m->vdso_sum != nest->vdso_sum && !vin_mem_is_narrow(m))
		return fvm_error_say(err, EOPNOTSUPP,
				     "programs have the vdso of another build of the kernel");
	return 0;
}

static bool has_huge(const struct vin_mem *m)
{
	size_t i = 0;
	while (i < m->area_count && !m->areas[i].huge_kb)
		i++;
	return i < m->area_count;
}

int vin_mem_map(const struct vin_nest *nest, struct vin_blank *b, const struct vin_mem *m,
		const struct vin_objects *objects, int root, struct fvm_error *err)
{
	scoped_free int *theirs = malloc((m->source_count + 1) * sizeof(*theirs));
	scoped_free struct queue *q = calloc(1, sizeof(*q));
	if (!theirs || !q)
		return fvm_error_set(err, ENOMEM, "map the memory of process %d", b->post.pid);
	q->b = b;
	memset(theirs, -1, (m->source_count + 1) * sizeof(*theirs));
	int r = same_kernel(nest, m, err);
	for (size_t done = 0; r == 0 && done < m->source_count;) {
		ssize_t n = give_some(nest, b, m, objects, root, done, theirs, err);
		r = n < 0 ? (int)n : 0;
		done += n < 0 ? 0 : (size_t)n;
	}
	if (r == 0)
		r = unmap_all(nest, q, err);
	b->post.narrow = vin_mem_is_narrow(m);
	if (r == 0 && b->post.narrow)
		r = map_narrow(nest, m, q, err);
	if (r == 0)
		r = map_areas(nest, m, objects, theirs, q, err);
	if (r == 0 && b->post.narrow)
		r = check_narrow(b, m, err);
	if (r == 0)
		r = vin_policies_set(b, m, err);
	if (r == 0)
		r = vin_rings_make(b, m, err);
	if (r == -ENOMEM && has_huge(m))
		fvm_error_hint(err, "it has huge pages: there may be none left that are reserved, "
				    "/sys/kernel/mm/hugepages tells");
	return r;
}

/* ---- what follows the pages ---- */

static const struct {
	enum vin_vma_flag flag;
	int advice;
} advices[] = {
	{ VIN_VMA_SEQUENTIAL, MADV_SEQUENTIAL }, { VIN_VMA_RANDOM, MADV_RANDOM },
	{ VIN_VMA_DONTFORK, MADV_DONTFORK },	 { VIN_VMA_WIPEONFORK, MADV_WIPEONFORK },
	{ VIN_VMA_DONTDUMP, MADV_DONTDUMP },	 { VIN_VMA_HUGEPAGE, MADV_HUGEPAGE },
	{ VIN_VMA_NOHUGEPAGE, MADV_NOHUGEPAGE }, { VIN_VMA_MERGEABLE, MADV_MERGEABLE },
};

static int finish_area(const struct vin_area *a, struct queue *q, struct fvm_error *err)
{
	const uint64_t size = a->end - a->start;
	int r = 0;
	if (was_writable(a)) {
		struct vin_call protect = { SYS_mprotect, { a->start, size, (uint64_t)a->prot } };
		r = queue(q, &protect, err);
	}
	for (size_t i = 0; r == 0 && i < sizeof(advices) / sizeof(*advices); i++) {
		struct vin_call advise = { SYS_madvise,
					   { a->start, size, (uint64_t)advices[i].advice } };
		/* a droppable area has these by itself */
		if (a->flags >> advices[i].flag & 1 && !(a->flags >> VIN_VMA_DROPPABLE & 1))
			r = queue(q, &advise, err);
	}
	if (r == 0 && a->flags >> VIN_VMA_LOCKED & 1) {
		const bool late = a->flags >> VIN_VMA_LOCK_ON_FAULT & 1;
		struct vin_call lock = { SYS_mlock2, { a->start, size, late ? MLOCK_ONFAULT : 0 } };
		r = queue(q, &lock, err);
	}
	return r;
}

/* Nothing can be done to them any more. */
static int seal_areas(const struct vin_mem *m, struct queue *q, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < m->area_count; i++) {
		const struct vin_area *a = &m->areas[i];
		struct vin_call seal = { MSEAL, { a->start, a->end - a->start, 0 } };
		if (a->kind != VIN_AREA_KERNEL && a->flags >> VIN_VMA_SEALED & 1)
			r = queue(q, &seal, err);
	}
	return r < 0 ? r : flush(q, err);
}

int vin_mem_finish(struct vin_blank *b, const struct vin_mem *m, struct fvm_error *err)
{
	scoped_free struct queue *q = calloc(1, sizeof(*q));
	if (!q)
		return fvm_error_set(err, ENOMEM, "finish the memory of process %d", b->post.pid);
	int r = 0;
	q->b = b;
	for (size_t i = 0; r == 0 && i < m->area_count; i++) {
		if (m->areas[i].kind != VIN_AREA_KERNEL)
			r = finish_area(&m->areas[i], q, err);
	}
	for (size_t i = 0; r == 0 && i < m->guards.count; i++) {
		const struct vin_run *g = &m->guards.runs[i];
		struct vin_call guard = { SYS_madvise,
					  { g->start, g->end - g->start, GUARD_INSTALL } };
		r = queue(q, &guard, err);
	}
	if (r == 0)
		r = flush(q, err);
	return r < 0 ? r : seal_areas(m, q, err);
}

/* PR_SET_MM_MAP: all numbers at once, the program's own file with them. */
static int set_numbers(struct vin_blank *b, const struct vin_mem *m, int exe, struct fvm_error *err)
{
	const uint64_t *n = m->numbers, at = b->post.data;
	struct prctl_mm_map map = {
		.start_code = n[VIN_MEM_CODE_START],
		.end_code = n[VIN_MEM_CODE_END],
		.start_data = n[VIN_MEM_DATA_START],
		.end_data = n[VIN_MEM_DATA_END],
		.start_brk = n[VIN_MEM_BRK_START],
		.brk = n[VIN_MEM_BRK],
		.start_stack = n[VIN_MEM_STACK],
		.arg_start = n[VIN_MEM_ARGS_START],
		.arg_end = n[VIN_MEM_ARGS_END],
		.env_start = n[VIN_MEM_ENV_START],
		.env_end = n[VIN_MEM_ENV_END],
		.auxv = (__u64 *)(at + sizeof(map)),
		.auxv_size = (uint32_t)m->auxv_len,
		.exe_fd = (uint32_t)exe,
	};
	struct vin_call set = { SYS_prctl, { PR_SET_MM, PR_SET_MM_MAP, at, sizeof(map), 0 } };
	int r = vin_mem_write(b->post.pid, at, &map, sizeof(map));
	if (r == 0)
		r = vin_mem_write(b->post.pid, at + sizeof(map), m->auxv, m->auxv_len);
	if (r < 0)
		return fvm_error_set(err, -r, "write to process %d", b->post.pid);
	return vin_call(&b->post, &b->thread, "prctl(PR_SET_MM)", &set, NULL, err);
}

int vin_mem_name(const struct vin_nest *nest, struct vin_blank *b, const struct vin_mem *m,
		 int root, struct fvm_error *err)
{
	int theirs = -1;
	if (*m->exe) {
		scoped_fd exe = open_in_root(root, m->exe, O_RDONLY);
		if (exe < 0)
			return fvm_error_set(err, -exe, "open %s", m->exe);
		int r = vin_blank_give(nest, b, &exe, 1, &theirs, err);
		if (r < 0)
			return r;
	}
	int r = set_numbers(b, m, theirs, err);
	struct vin_call close_it = { SYS_close, { (uint64_t)theirs } };
	if (r == 0 && theirs >= 0)
		r = vin_call(&b->post, &b->thread, "close", &close_it, NULL, err);
	return r;
}

/* ---- what may come later ---- */

#define EAGER_FLAGS                                                                                \
	(1ULL << VIN_VMA_GROWSDOWN | 1ULL << VIN_VMA_LOCKED | 1ULL << VIN_VMA_LOCK_ON_FAULT |      \
	 1ULL << VIN_VMA_WIPEONFORK | 1ULL << VIN_VMA_DROPPABLE | 1ULL << VIN_VMA_HUGETLB |        \
	 1ULL << VIN_VMA_UFFD_MISSING | 1ULL << VIN_VMA_UFFD_WP | 1ULL << VIN_VMA_UFFD_MINOR)

bool vin_mem_may_be_late(const struct vin_area *a)
{
	return a->kind == VIN_AREA_ANON && !a->shared && !a->huge_kb && !(a->flags & EAGER_FLAGS);
}

void vin_mem_mark_late(struct vin_mem *m, const struct vin_maps *maps)
{
	for (size_t i = 0; i < m->area_count; i++) {
		struct vin_area *a = &m->areas[i];
		const struct vin_vma *v = vin_maps_find(maps, a->start);
		a->late = v && v->present_kb >= VIN_LATE_LEAST / 1024 && vin_mem_may_be_late(a);
	}
}
