#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "vin/mem.h"
#include "vin/status.h"

#define DELETED	      " (deleted)"
#define RING	      "/[aio]" DELETED
#define HUGE_NAMELESS "/anon_hugepage (deleted)"

/* What a program has that we can't make again: by the flags of its area ... */
static const struct {
	enum vin_vma_flag flag;
	const char *what;
} no_flags[] = {
	{ VIN_VMA_UFFD_MISSING, "its page faults are served by userfaultfd" },
	{ VIN_VMA_UFFD_WP, "its page faults are served by userfaultfd" },
	{ VIN_VMA_UFFD_MINOR, "its page faults are served by userfaultfd" },
	{ VIN_VMA_SHADOW_STACK, "it is a shadow stack" },
	{ VIN_VMA_IO, "it is memory of a device" },
	{ VIN_VMA_PFN, "it is memory of a device" },
};

/* ... and by its name. */
static const struct {
	const char *start;
	const char *what;
} no_names[] = {
	{ "/secretmem", "nobody but the program may read it" },
	{ "anon_inode:", "it belongs to a descriptor of the kernel's" },
	{ "[uprobes]", "somebody traces it with uprobes" },
};

void vin_mem_free(struct vin_mem *m)
{
	for (size_t i = 0; i < m->source_count; i++)
		free(m->sources[i].path);
	free(m->sources);
	free(m->areas);
	free(m->exe);
	free(m->auxv);
	vin_runs_free(&m->guards);
	free(m->policies);
	vin_rings_free(m);
	*m = (struct vin_mem){ 0 };
}

static bool of_kernel(const char *name)
{
	return strncmp(name, "[vvar", 5) == 0 || strcmp(name, "[vdso]") == 0;
}

static bool of_ring(const struct vin_vma *v)
{
	return strcmp(v->name, RING) == 0 && major(v->dev) == 0;
}

static const char *why_not(pid_t pid, const struct vin_vma *v)
{
	if (of_kernel(v->name))
		return vin_vma_is(v, VIN_VMA_SEALED) ? "the kernel has sealed it" : NULL;
	if (v->unknown)
		return "it has flags that this fvm does not know";
	if (v->key)
		return "it has a protection key";
	for (size_t i = 0; i < sizeof(no_flags) / sizeof(*no_flags); i++) {
		if (vin_vma_is(v, no_flags[i].flag))
			return no_flags[i].what;
	}
	for (size_t i = 0; i < sizeof(no_names) / sizeof(*no_names); i++) {
		if (strncmp(v->name, no_names[i].start, strlen(no_names[i].start)) == 0)
			return no_names[i].what;
	}
	return of_ring(v) ? vin_ring_why_not(pid, v) : NULL;
}

static int refuse(pid_t pid, const struct vin_vma *v, const char *what, struct fvm_error *err)
{
	return fvm_error_say(err, EOPNOTSUPP,
			     "process %d: memory at %" PRIx64 "%s%s can't be captured: %s", pid,
			     v->start, *v->name ? " of " : "", v->name, what);
}

static enum vin_area_kind kind_of(const struct vin_vma *v)
{
	const size_t len = strlen(v->name), tail = strlen(DELETED);
	if (of_kernel(v->name))
		return VIN_AREA_KERNEL;
	if (of_ring(v))
		return VIN_AREA_RING;
	if (vin_is_segment(v))
		return VIN_AREA_OBJECT;
	if (v->ino == 0 || (!v->shared && strcmp(v->name, HUGE_NAMELESS) == 0))
		return VIN_AREA_ANON;
	return len > tail && strcmp(v->name + len - tail, DELETED) == 0 ? VIN_AREA_OBJECT
									: VIN_AREA_FILE;
}

/* Return: the source's number, or -ENOMEM */
static ssize_t add_source(struct vin_mem *m, const struct vin_source *s, const char *path)
{
	for (size_t i = 0; i < m->source_count; i++) {
		if (strcmp(m->sources[i].path, path) == 0 && m->sources[i].object == s->object) {
			m->sources[i].write |= s->write;
			return (ssize_t)i;
		}
	}
	struct vin_source *more =
		realloc(m->sources, fvm_room(m->source_count + 1) * sizeof(*more));
	char *copy = strdup(path);
	if (more)
		m->sources = more;
	if (!more || !copy) {
		free(copy);
		return -ENOMEM;
	}
	m->sources[m->source_count] = *s;
	m->sources[m->source_count].path = copy;
	return (ssize_t)m->source_count++;
}

/* One process at which we look. */
struct look {
	pid_t pid;
	struct vin_objects *objects;
	struct vin_mem *m;
	int root;		     /* where names of files begin; < 0: with us */
	const struct vin_vma *named; /* the last one whose file was looked for */
	struct stat st;		     /* what was found */
};

/* The areas of one file stand one behind the other: it is looked for once. The kernel tells us
 * names from where ours begin, whatever the process has for its root directory. */
static int stat_in_root(struct look *l, const struct vin_vma *v)
{
	const struct vin_vma *last = l->named;
	struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT };
	if (last && last->ino == v->ino && last->dev == v->dev && strcmp(last->name, v->name) == 0)
		return 0;
	const int root = l->root < 0 ? AT_FDCWD : l->root;
	if (l->root < 0)
		how.resolve = 0;
	scoped_fd fd = (int)syscall(SYS_openat2, root, v->name, &how, sizeof(how));
	if (fd < 0 || fstat(fd, &l->st) < 0)
		return -errno;
	l->named = v;
	return 0;
}

/* What is mapped from an overlay below another has the number it has there; the upper one writes in
 * its highest bits which of its layers it means ("xino"). Those who delete a file are seen by name.
 */
static bool is_mapped(const struct stat *named, const struct vin_vma *v)
{
	const unsigned int xino = 48;
	return named->st_ino == v->ino || (named->st_dev != v->dev && named->st_ino >> xino &&
					   ((named->st_ino ^ v->ino) << (64 - xino)) == 0);
}

/* The file under that name is the one that is mapped, as far as we may know. */
static int look_at_file(struct look *l, const struct vin_vma *v, struct vin_source *s,
			struct fvm_error *err)
{
	const struct stat *st = &l->st;
	int r = stat_in_root(l, v);
	if (r < 0 || !is_mapped(st, v))
		return refuse(l->pid, v, "the file is no more where its name says", err);
	const bool zeros = S_ISCHR(st->st_mode) && st->st_rdev == makedev(1, 5) && !v->shared;
	if (!S_ISREG(st->st_mode) && !zeros)
		return refuse(l->pid, v, "it is memory of a device", err);
	s->size = (uint64_t)st->st_size;
	s->mtime = (uint64_t)st->st_mtim.tv_sec * 1000000000 + (uint64_t)st->st_mtim.tv_nsec;
	/* what programs write to meanwhile is not expected to stay the same */
	s->write = v->shared && vin_vma_is(v, VIN_VMA_MAY_WRITE);
	return 0;
}

static ssize_t find_source(struct look *l, const struct vin_vma *v, enum vin_area_kind kind,
			   struct fvm_error *err)
{
	struct vin_source s = { .object = UINT64_MAX };
	ssize_t n = 0;
	if (kind == VIN_AREA_FILE)
		n = look_at_file(l, v, &s, err);
	if (n < 0)
		return n;
	if (kind == VIN_AREA_OBJECT) {
		n = vin_objects_see(l->objects, l->pid, v);
		s.object = (uint64_t)n;
		s.write = v->shared && vin_vma_is(v, VIN_VMA_MAY_WRITE);
	}
	if (n >= 0)
		n = add_source(l->m, &s, v->name);
	return n < 0 ? fvm_error_set(err, (int)-n, "list the memory of process %d", l->pid) : n;
}

static int add_area(struct look *l, const struct vin_vma *v, struct fvm_error *err)
{
	struct vin_area a = { kind_of(v), v->start,  v->end,   v->offset,
			      v->prot,	  v->shared, v->flags, 0 };
	const char *no = why_not(l->pid, v);
	const bool alone = a.kind == VIN_AREA_ANON || a.kind == VIN_AREA_RING;
	a.huge_kb = vin_vma_is(v, VIN_VMA_HUGETLB) ? v->page_kb : 0;
	if (no)
		return refuse(l->pid, v, no, err);
	if (alone)
		a.offset = 0;
	ssize_t n = alone ? 0 : find_source(l, v, a.kind, err);
	if (n < 0)
		return (int)n;
	a.source = (size_t)n;
	l->m->areas[l->m->area_count++] = a;
	return 0;
}

static int look_at_program(pid_t pid, struct vin_mem *m, struct fvm_error *err)
{
	char path[40], exe[4096];
	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	ssize_t n = readlink(path, exe, sizeof(exe) - 1);
	exe[n < 0 ? 0 : n] = '\0';
	const size_t tail = strlen(DELETED);
	if (n >= (ssize_t)tail && strcmp(exe + (size_t)n - tail, DELETED) == 0)
		exe[0] = '\0';
	m->exe = strdup(exe);
	snprintf(path, sizeof(path), "/proc/%d/auxv", pid);
	int r = m->exe ? fvm_read_file(AT_FDCWD, path, 4096, &m->auxv, &m->auxv_len) : -ENOMEM;
	if (r < 0)
		return fvm_error_set(err, -r, "read %s", path);
	return 0;
}

int vin_mem_look(pid_t pid, int root, const struct vin_maps *maps, struct vin_objects *objects,
		 struct vin_mem *ret, struct fvm_error *err)
{
	scoped_mem m = { 0 };
	struct look l = { .pid = pid, .objects = objects, .m = &m, .root = root };
	m.areas = calloc(maps->count + 1, sizeof(*m.areas));
	if (!m.areas)
		return fvm_error_set(err, ENOMEM, "list the memory of process %d", pid);
	int r = look_at_program(pid, &m, err);
	for (size_t i = 0; r == 0 && i < maps->count; i++) {
		/* the same for all, and not to be moved */
		if (strcmp(maps->vmas[i].name, "[vsyscall]") != 0)
			r = add_area(&l, &maps->vmas[i], err);
	}
	if (r == 0) {
		*ret = m;
		m = (struct vin_mem){ 0 };
	}
	return r;
}

static int ask_numbers(const struct vin_post *post, struct vin_thread *t, struct vin_mem *m,
		       struct fvm_error *err)
{
	struct vin_stat st;
	struct vin_call brk = { SYS_brk, { 0 } };
	int64_t end;
	int r = vin_stat_read(t->pid, t->tid, &st, err);
	if (r == 0)
		r = vin_call(post, t, "brk", &brk, &end, err);
	if (r < 0)
		return r;
	const uint64_t n[VIN_MEM_NUMBERS] = { st.code_start,  st.code_end,   st.data_start,
					      st.data_end,    st.brk_start,  (uint64_t)end,
					      st.stack_start, st.args_start, st.args_end,
					      st.env_start,   st.env_end };
	memcpy(m->numbers, n, sizeof(n));
	return 0;
}

/* From one area that is wanted to the last before one that is not: one question of the kernel. */
static int scan_spans(int pagemap, const struct vin_mem *m, vin_wanted_fn *wanted,
		      enum vin_pages what, struct vin_runs *ret)
{
	struct vin_run span = { 0 };
	int r = 0;
	for (size_t i = 0; r == 0 && i <= m->area_count; i++) {
		const struct vin_area *a = i < m->area_count ? &m->areas[i] : NULL;
		if (a && wanted(a)) {
			span.start = span.end ? span.start : a->start;
			span.end = a->end;
		} else if (span.end) {
			r = vin_pages_scan(pagemap, span.start, span.end, what, ret);
			span = (struct vin_run){ 0 };
		}
	}
	return r;
}

int vin_mem_find(int pagemap, const struct vin_mem *m, vin_wanted_fn *wanted, enum vin_pages what,
		 struct vin_runs *ret)
{
	int r = scan_spans(pagemap, m, wanted, what, ret);
	if (r != -ENOTTY)
		return r;
	r = 0;
	for (size_t i = 0; r == 0 && i < m->area_count; i++) {
		const struct vin_area *a = &m->areas[i];
		if (wanted(a))
			r = vin_pages_find(pagemap, a->start, a->end, what, true, ret);
	}
	return r;
}

static bool may_have_guards(const struct vin_area *a)
{
	return a->kind != VIN_AREA_KERNEL;
}

static int sum_vdso(pid_t tid, struct vin_mem *m)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < m->area_count; i++) {
		const struct vin_area *a = &m->areas[i];
		if (a->kind == VIN_AREA_KERNEL && strcmp(m->sources[a->source].path, "[vdso]") == 0)
			r = vin_vdso_sum(tid, a->start, a->end - a->start, &m->vdso_sum);
	}
	return r;
}

int vin_mem_ask(const struct vin_post *post, struct vin_thread *t, struct vin_mem *m,
		struct fvm_error *err)
{
	int r = ask_numbers(post, t, m, err);
	if (r == 0)
		r = vin_policies_ask(post, t, m, err);
	if (r == 0)
		r = vin_rings_ask(post, t, m, err);
	scoped_fd pagemap = vin_pages_open(t->tid);
	if (r == 0 && pagemap < 0)
		r = fvm_error_set(err, errno, "open the page map of process %d", t->pid);
	if (r < 0)
		return r;
	r = vin_mem_find(pagemap, m, may_have_guards, VIN_PAGES_GUARD, &m->guards);
	if (r == 0)
		r = sum_vdso(t->tid, m);
	return r < 0 ? fvm_error_set(err, -r, "look at the memory of process %d", t->pid) : 0;
}
