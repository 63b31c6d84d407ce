/* Memory that may be late, before its programs go: records, and userfaultfds. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/lazy_priv.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00) /* Linux 6.1 */
#endif
#define DEVICE "/dev/userfaultfd"
#define BLOCK  (256UL * 1024)

/* What is known of one process, until it is filled. */
struct waiting {
	pid_t number;
	struct vin_pieces pieces; /* of the image */
	struct vin_pieces areas;  /* of a process, */
	pid_t source;		  /* this one */
};

struct vin_lazy {
	struct vin_blocks *blocks;
	int device; /* where userfaultfds come from, or -1 */
	struct waiting *waiting;
	size_t waiting_count;
	struct vin_lazy_space *spaces;
	size_t count;
	uint64_t left;
};

/* ---- whether it can be had ---- */

static int open_device(void)
{
	return open(DEVICE, O_RDWR | O_CLOEXEC);
}

static int begin_api(int uffd)
{
	struct uffdio_api api = { .api = UFFD_API, .features = VIN_LAZY_EVENTS };
	return fvm_nerr(ioctl(uffd, UFFDIO_API, &api));
}

int vin_lazy_can(struct fvm_error *err)
{
	scoped_fd device = open_device();
	const int flags = O_CLOEXEC | O_NONBLOCK;
	scoped_fd uffd = device >= 0 ? ioctl(device, USERFAULTFD_IOC_NEW, flags)
				     : (int)syscall(SYS_userfaultfd, flags);
	int r = uffd < 0 ? -errno : begin_api(uffd);
	if (r == 0)
		return 0;
	const char *why =
		r == -ENOSYS  ? "this kernel has no userfaultfd"
		: uffd < 0    ? "no right to serve page faults of the kernel (userfaultfd)"
		: r == -EPERM ? "no right to hear of children (userfaultfd needs CAP_SYS_PTRACE)"
			      : "this kernel's userfaultfd does not tell what programs do";
	return fvm_error_say(err, EOPNOTSUPP, "memory can't come late: %s", why);
}

struct vin_lazy *vin_lazy_new(struct vin_blocks *blocks)
{
	struct vin_lazy *l = calloc(1, sizeof(*l));
	if (l) {
		l->blocks = blocks;
		l->device = open_device();
	}
	return l;
}

void vin_lazy_space_free(struct vin_lazy_space *s)
{
	if (s->uffd >= 0)
		close(fvm_fd_take(&s->uffd));
	vin_pieces_free(&s->pieces);
	vin_pieces_free(&s->unsure);
	free(s->asked);
	s->asked = NULL;
}

static void forget_space(struct vin_lazy_space *s)
{
	vin_lazy_space_free(s);
	fvm_fd_closep(&s->from);
	fvm_fd_closep(&s->pagemap);
}

static void forget(struct waiting *w)
{
	vin_pieces_free(&w->pieces);
	vin_pieces_free(&w->areas);
}

void vin_lazy_free(struct vin_lazy *l)
{
	if (!l)
		return;
	for (size_t i = 0; i < l->waiting_count; i++)
		forget(&l->waiting[i]);
	for (size_t i = 0; i < l->count; i++)
		forget_space(&l->spaces[i]);
	free(l->waiting);
	free(l->spaces);
	fvm_fd_closep(&l->device);
	free(l);
}

uint64_t vin_lazy_left(const struct vin_lazy *l)
{
	return l->left;
}

/* ---- records ---- */

static struct waiting *waiting_of(struct vin_lazy *l, pid_t number)
{
	for (size_t i = 0; i < l->waiting_count; i++) {
		if (l->waiting[i].number == number)
			return &l->waiting[i];
	}
	struct waiting *more = realloc(l->waiting, fvm_room(l->waiting_count + 1) * sizeof(*more));
	if (!more)
		return NULL;
	l->waiting = more;
	more[l->waiting_count] = (struct waiting){ .number = number };
	return &more[l->waiting_count++];
}

int vin_lazy_take(struct vin_lazy *l, pid_t number, const struct vin_mem *m, struct vin_in *in,
		  struct fvm_error *err)
{
	scoped_runs runs = { 0 };
	uint64_t at;
	int r = vin_mem_leave_pages(m, in, l->blocks, &runs, &at, err);
	if (r < 0)
		return r;
	struct waiting *w = waiting_of(l, number);
	r = w ? vin_pieces_lay(&w->pieces, &runs, at) : -ENOMEM;
	return r < 0 ? fvm_error_set(err, -r, "list pages") : 0;
}

int vin_lazy_keep(struct vin_lazy *l, pid_t number, const struct vin_pieces *pieces,
		  struct fvm_error *err)
{
	struct waiting *w = waiting_of(l, number);
	int r = w ? 0 : -ENOMEM;
	for (size_t i = 0; r == 0 && i < pieces->count; i++) {
		const struct vin_piece *p = &pieces->list[i];
		r = vin_pieces_add(&w->pieces, p->start, p->end, p->at);
	}
	return r < 0 ? fvm_error_set(err, -r, "list pages") : 0;
}

static const struct vin_area *area_at(const struct vin_mem *m, uint64_t start, uint64_t end)
{
	for (size_t i = 0; i < m->area_count; i++) {
		if (m->areas[i].start == start && m->areas[i].end == end)
			return &m->areas[i];
	}
	return NULL;
}

int vin_lazy_expect(struct vin_lazy *l, pid_t number, const struct vin_mem *m,
		    const struct vin_lazy_options *options, struct vin_payload *p,
		    struct fvm_error *err)
{
	struct waiting *w = waiting_of(l, number);
	int r = 0;
	if (!options->source || (w && (w->source = options->source(options->arg, number)) <= 0))
		return fvm_error_say(err, EOPNOTSUPP, "its memory is not in the image");
	while (w && r == 0 && p->at != p->end && !p->failed) {
		const uint64_t start = vin_get_u64(p), end = vin_get_u64(p);
		const struct vin_area *a = area_at(m, start, end);
		if (!a || !vin_mem_may_be_late(a))
			p->failed = true;
		else
			r = vin_pieces_add(&w->areas, start, end, start);
	}
	if (p->failed)
		return fvm_error_say(err, EBADMSG, "the image is damaged: no memory to come");
	return !w || r < 0 ? fvm_error_set(err, ENOMEM, "read a map of memory") : 0;
}

/* ---- what may be late ---- */

static bool is_late(const struct vin_area *a, const struct vin_pieces *p)
{
	return vin_mem_may_be_late(a) && vin_pieces_bytes(p, a->start, a->end) >= VIN_LATE_LEAST;
}

/* What may not be written to only the file of memory lets in. */
static int copy_piece(struct vin_blocks *from, int mem, const struct vin_piece *p, char *block)
{
	const uint64_t len = p->end - p->start;
	for (uint64_t done = 0; done < len;) {
		const size_t part = len - done < BLOCK ? (size_t)(len - done) : BLOCK;
		int r = vin_blocks_read(from, p->at + done, block, part);
		if (r < 0)
			return r;
		if (pwrite(mem, block, part, (off_t)(p->start + done)) != (ssize_t)part)
			return errno ? -errno : -EIO;
		done += part;
	}
	return 0;
}

static int fill_now(const struct vin_lazy *l, pid_t pid, const struct vin_pieces *now,
		    struct fvm_error *err)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	scoped_fd mem = open(path, O_WRONLY | O_CLOEXEC);
	scoped_free char *block = malloc(BLOCK);
	int r = mem < 0 ? -errno : block ? 0 : -ENOMEM;
	for (size_t i = 0; r == 0 && i < now->count; i++) {
		errno = 0;
		r = copy_piece(l->blocks, mem, &now->list[i], block);
	}
	return r == -EBADMSG ? fvm_error_say(err, EBADMSG, "the image is damaged: bytes of pages")
	       : r < 0	     ? fvm_error_set(err, -r, "write the memory of process %d", pid)
			     : 0;
}

/* ---- userfaultfds ---- */

/* Made by the process itself: it is of the memory of who makes it. */
static int make_inside(const struct vin_lazy *l, const struct vin_nest *nest, struct vin_blank *b,
		       int64_t *ret, struct fvm_error *err)
{
	int theirs = -1;
	const struct vin_call make = { SYS_userfaultfd, { O_CLOEXEC | O_NONBLOCK } };
	if (l->device < 0)
		return vin_call(&b->post, &b->thread, "userfaultfd", &make, ret, err);
	int r = vin_blank_give(nest, b, &l->device, 1, &theirs, err);
	const struct vin_call ask = {
		SYS_ioctl, { (uint64_t)theirs, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK }
	};
	const struct vin_call end = { SYS_close, { (uint64_t)theirs } };
	if (r == 0)
		r = vin_call(&b->post, &b->thread, "ioctl(USERFAULTFD_IOC_NEW)", &ask, ret, err);
	return r == 0 ? vin_call(&b->post, &b->thread, "close", &end, NULL, err) : r;
}

/* Ours, and no longer its own. Return: descriptor or negative errno */
static int take_uffd(const struct vin_lazy *l, const struct vin_nest *nest, struct vin_blank *b,
		     struct fvm_error *err)
{
	int64_t number = -1;
	int r = make_inside(l, nest, b, &number, err);
	if (r == 0 && number < 0)
		r = fvm_error_set(err, (int)-number, "make a userfaultfd");
	if (r < 0)
		return r;
	scoped_fd pidfd = pidfd_open(b->thread.pid, 0);
	scoped_fd uffd = pidfd < 0 ? -1 : pidfd_getfd(pidfd, (int)number, 0);
	if (uffd < 0)
		return fvm_error_set(err, errno, "take a userfaultfd");
	const struct vin_call end = { SYS_close, { (uint64_t)number } };
	r = vin_call(&b->post, &b->thread, "close", &end, NULL, err);
	if (r == 0 && (r = begin_api(uffd)) < 0)
		fvm_error_set(err, -r, "ask a userfaultfd for events");
	return r < 0 ? r : fvm_fd_take(&uffd);
}

static int watch_area(int uffd, const struct vin_area *a)
{
	struct uffdio_register reg = { .range = { a->start, a->end - a->start },
				       .mode = UFFDIO_REGISTER_MODE_MISSING };
	return fvm_nerr(ioctl(uffd, UFFDIO_REGISTER, &reg));
}

/* What is late of an area goes from the rest, which has to be there at once, into the space. All of
 * a space is of a file, or of a process. */
static int part_area(const struct vin_area *a, struct waiting *rest, struct vin_lazy_space *s)
{
	int r = 0;
	if (vin_pieces_bytes(&rest->areas, a->start, a->end))
		r = vin_pieces_add(&s->unsure, a->start, a->end, a->start);
	else if (rest->areas.count == 0 && is_late(a, &rest->pieces))
		r = vin_pieces_take(&rest->pieces, a->start, a->end, 0, &s->pieces);
	else
		return 0;
	return r < 0 ? r : watch_area(s->uffd, a);
}

static int part(const struct vin_mem *m, struct waiting *rest, struct vin_lazy_space *s)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < m->area_count; i++)
		r = part_area(&m->areas[i], rest, s);
	return r;
}

/* Those of who stands still: they are its own, whoever has its number later. */
static int open_source(const struct waiting *w, struct vin_lazy_space *s)
{
	char path[40];
	if (w->areas.count == 0)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/mem", w->source);
	scoped_fd mem = open(path, O_RDONLY | O_CLOEXEC);
	scoped_fd pagemap = mem < 0 ? -errno : vin_pages_open(w->source);
	if (pagemap < 0)
		return pagemap;
	s->blocks = NULL;
	s->from = fvm_fd_take(&mem);
	s->pagemap = fvm_fd_take(&pagemap);
	return 0;
}

static bool anything_late(const struct vin_mem *m, const struct waiting *w)
{
	if (w->areas.count)
		return true;
	for (size_t i = 0; i < m->area_count; i++) {
		if (is_late(&m->areas[i], &w->pieces))
			return true;
	}
	return false;
}

static int keep_space(struct vin_lazy *l, struct vin_lazy_space *s)
{
	struct vin_lazy_space *more = realloc(l->spaces, fvm_room(l->count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	l->spaces = more;
	l->left += vin_pieces_bytes(&s->pieces, 0, UINT64_MAX);
	l->left += vin_pieces_bytes(&s->unsure, 0, UINT64_MAX);
	more[l->count++] = *s;
	return 0;
}

static int set_late(struct vin_lazy *l, const struct vin_nest *nest, struct waiting *rest,
		    struct vin_blank *b, const struct vin_mem *m, struct fvm_error *err)
{
	struct vin_lazy_space s = { .blocks = l->blocks, .from = -1, .pagemap = -1 };
	s.uffd = take_uffd(l, nest, b, err);
	if (s.uffd < 0)
		return s.uffd;
	int r = part(m, rest, &s);
	if (r == 0)
		r = open_source(rest, &s);
	if (r == 0)
		r = keep_space(l, &s);
	if (r == 0)
		return 0;
	forget_space(&s);
	return fvm_error_set(err, -r, "let the memory of process %d come late", b->thread.pid);
}

int vin_lazy_fill(struct vin_lazy *l, const struct vin_nest *nest, pid_t number,
		  struct vin_blank *b, const struct vin_mem *m, struct fvm_error *err)
{
	struct waiting *w = waiting_of(l, number);
	if (!w)
		return fvm_error_set(err, ENOMEM, "read pages");
	int r = anything_late(m, w) ? set_late(l, nest, w, b, m, err) : 0;
	if (r == 0)
		r = fill_now(l, b->thread.pid, &w->pieces, err);
	forget(w);
	return r;
}

int vin_lazy_begin(struct vin_lazy *l, pid_t init, const struct vin_lazy_options *options,
		   struct fvm_error *err)
{
	if (l->count == 0)
		return 0;
	scoped_fd ours = options->ends < 0 ? pidfd_open(init, 0) : -1;
	const int ends = options->ends < 0 ? ours : options->ends;
	if (ends < 0)
		return fvm_error_set(err, errno, "start a helper");
	int r = vin_lazy_help(l->spaces, l->count, ends, options, err);
	for (size_t i = 0; i < l->count; i++)
		forget_space(&l->spaces[i]);
	l->count = 0;
	return r;
}
