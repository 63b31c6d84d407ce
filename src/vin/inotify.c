/*
 * Inotifies: numbered watches of files. The kernel tells each one's inode, not its name, which is
 * searched for (vin/search). In the new world the watch is put on what has that name, and gets its
 * old number.
 *
 * Events that are queued can't be seen without taking them away, nor put back. Whoever had some
 * finds IN_Q_OVERFLOW in their place: that some were lost, which programs have to expect. It is a
 * real one: more events are made than a queue holds, and all but the last are read.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "vin/kinds.h"
#include "vin/search.h"

#ifndef INOTIFY_IOC_SETNEXTWD
#define INOTIFY_IOC_SETNEXTWD _IOW('I', 0, int32_t)
#endif
#define NUMBERS_MAX 65536 /* taken one by one where the kernel can't be told which is next */
#define EVENTS_MAX  (1U << 22)
#define MASK	    (IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT)

struct one {
	uint64_t wd, mask;
	char *name;    /* "": it is the file: */
	uint64_t file; /* id */
};

struct inotify {
	uint64_t lost; /* events were queued */
	size_t count;
	struct one *watches; /* the lowest number first */
};

static bool matches(const struct vin_open *o)
{
	return vin_link_is(o, "inotify");
}

/* ---- capture ---- */

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	for (size_t i = 0; i < o->info.mark_count; i++) {
		const struct vin_mark *m = &o->info.marks[i];
		if (!vin_sought_find(all->sought, m))
			return fvm_error_say(err, EOPNOTSUPP,
					     "no name leads to what its watch %d is of (inode "
					     "%llu of device %u:%u)",
					     m->wd, (unsigned long long)m->ino, major(m->dev),
					     minor(m->dev));
	}
	return 0;
}

static int by_number(const void *a, const void *b)
{
	const struct vin_mark *x = a, *y = b;
	return x->wd < y->wd ? -1 : x->wd > y->wd;
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	const size_t count = o->info.mark_count;
	scoped_free struct vin_mark *marks = calloc(count + 1, sizeof(*marks));
	int queued = 0;
	if (!marks || ioctl(o->fd, FIONREAD, &queued) < 0)
		return fvm_error_set(err, marks ? errno : ENOMEM, "look at an inotify");
	if (count > 0)
		memcpy(marks, o->info.marks, count * sizeof(*marks));
	qsort(marks, count, sizeof(*marks), by_number);
	vin_put_u64(to, queued > 0);
	vin_put_u64(to, count);
	for (size_t i = 0; i < count; i++) {
		const struct vin_sought *s = vin_sought_find(all->sought, &marks[i]);
		if (!s)
			return fvm_error_set(err, ESTALE, "find what watch %d is of", marks[i].wd);
		vin_put_u64(to, (uint64_t)marks[i].wd);
		vin_put_u64(to, marks[i].mask & MASK);
		vin_put_string(to, s->name ? s->name : "");
		vin_put_u64(to, s->file);
	}
	return 0;
}

/* ---- replay ---- */

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct inotify *n = ret;
	uint64_t last = 0;
	(void)first;
	n->lost = vin_get_u64(p);
	uint64_t count = vin_get_u64(p);
	if (p->failed || n->lost > 1 || count > (size_t)(p->end - p->at) / 32)
		return -EBADMSG;
	n->watches = calloc(count + 1, sizeof(*n->watches));
	if (!n->watches)
		return -ENOMEM;
	while (n->count < count) {
		struct one *w = &n->watches[n->count++];
		w->wd = vin_get_u64(p);
		w->mask = vin_get_u64(p);
		w->name = vin_get_string(p);
		w->file = vin_get_u64(p);
		if (p->failed || w->wd <= last || w->wd > INT_MAX || w->mask & ~(uint64_t)MASK ||
		    (w->mask & IN_ALL_EVENTS) == 0 || (w->name[0] && w->name[0] != '/'))
			return -EBADMSG;
		last = w->wd;
	}
	return 0;
}

static void forget(void *its)
{
	struct inotify *n = its;
	for (size_t i = 0; i < n->count; i++)
		free(n->watches[i].name);
	free(n->watches);
}

static int open_inotify(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	(void)r;
	(void)f;
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	return fd < 0 ? fvm_error_set(err, errno, "make an inotify") : fd;
}

static int add(int inotify, int target, uint32_t mask)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", target);
	return fvm_nerr(inotify_add_watch(inotify, path, mask));
}

/* Numbers are given in turn. A kernel that can't be told the next one is brought there. */
static int set_next(int inotify, int spare, uint64_t wd)
{
	if (ioctl(inotify, INOTIFY_IOC_SETNEXTWD, (unsigned long)wd) == 0)
		return 0;
	for (uint64_t i = 0; i < NUMBERS_MAX; i++) {
		int got = add(inotify, spare, IN_OPEN);
		if (got < 0 || inotify_rm_watch(inotify, got) < 0)
			return got < 0 ? got : -errno;
		if ((uint64_t)got + 1 >= wd)
			return (uint64_t)got + 1 == wd ? 0 : -EOPNOTSUPP;
	}
	return -EOPNOTSUPP;
}

/* Two things under one name now, which were two before: the second adding changed the first. */
static int add_one(const struct vin_reopen *r, const struct vin_file *f, const struct one *w,
		   int spare)
{
	scoped_fd place = w->name[0] ? vin_name_open(r, w->name) : -1;
	int target = place;
	if (!w->name[0])
		target = w->file < r->count ? r->files[w->file].fd : -EBADMSG;
	if (target < 0)
		return target;
	int got = w->wd == 1 ? 0 : set_next(f->fd, spare, w->wd);
	if (got == 0)
		got = add(f->fd, target, (uint32_t)w->mask);
	return got < 0 ? got : (uint64_t)got == w->wd ? 0 : -EEXIST;
}

/* It does not wait here, whatever its program wants of it. */
static int drain(int inotify)
{
	char events[4096] __attribute__((aligned(8)));
	for (int queued = 1; queued > 0;) {
		if (ioctl(inotify, FIONREAD, &queued) < 0 ||
		    (queued > 0 && read(inotify, events, sizeof(events)) < 0))
			return -errno;
	}
	return 0;
}

/* Turns of reading and writing are events that are not joined into one. Once the queue is full, and
 * the overflow stands in it as its last, nothing else comes in. */
static int fill(int inotify, int spare, int *ret_queued)
{
	int before;
	*ret_queued = 0;
	for (unsigned int i = 0; i < EVENTS_MAX; i += 128) {
		char c = 0;
		before = *ret_queued;
		for (int n = 0; n < 64; n++) {
			if (pwrite(spare, &c, 1, 0) != 1 || pread(spare, &c, 1, 0) != 1)
				return -EIO;
		}
		if (ioctl(inotify, FIONREAD, ret_queued) < 0)
			return -errno;
		if (*ret_queued == before)
			return *ret_queued > 0 ? 0 : -EIO;
	}
	return -EOVERFLOW;
}

static int overflow(int inotify, int spare)
{
	char events[4096] __attribute__((aligned(8)));
	const int last = sizeof(struct inotify_event);
	int queued, wd = add(inotify, spare, IN_ACCESS | IN_MODIFY);
	int r = wd < 0 ? wd : fill(inotify, spare, &queued);
	if (wd >= 0 && inotify_rm_watch(inotify, wd) < 0 && r == 0)
		r = -errno;
	while (r == 0 && queued > last) {
		const int want = queued - last;
		ssize_t n = read(inotify, events, want < 4096 ? (size_t)want : sizeof(events));
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		queued -= (int)n;
	}
	return r;
}

/* A file that does nothing but be watched. */
static int make_spare(const struct vin_reopen *r)
{
	scoped_fd fd = memfd_create("spare", MFD_CLOEXEC);
	return fd < 0 ? -errno : vin_again(r, fd, O_RDWR);
}

/* After all that opens and writes files, which is none of the program's doing. */
static int settle(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct inotify *n = f->its;
	scoped_fd spare = make_spare(r);
	if (spare < 0)
		return fvm_error_set(err, -spare, "make a file to watch");
	for (size_t i = 0; i < n->count; i++) {
		const struct one *w = &n->watches[i];
		int e = add_one(r, f, w, spare);
		if (e < 0)
			return fvm_error_set(err, -e, "watch %s as number %d",
					     w->name[0] ? w->name : "a file without a name",
					     (int)w->wd);
	}
	int e = drain(f->fd);
	if (e == 0 && n->lost)
		e = overflow(f->fd, spare);
	return e < 0 ? fvm_error_set(err, -e, "tell that events were lost") : 0;
}

const struct vin_kind vin_kind_inotify = {
	.name = "an inotify",
	.nr = VIN_KIND_INOTIFY,
	.matches = matches,
	.check = check,
	.capture = capture,
	.size = sizeof(struct inotify),
	.parse = parse,
	.forget = forget,
	.open = open_inotify,
	.settle = settle,
};
