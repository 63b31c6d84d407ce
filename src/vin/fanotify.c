/*
 * Fanotify groups: marks of files, mounts and file systems. Of a marked file the kernel tells the
 * inode, not its name, which is searched for (vin/search); mounts and file systems are found by
 * where they are mounted. In the new world the marks are set anew, by the same names.
 *
 * Events that are queued can't be seen without taking them away, nor put back: a group with some is
 * captured when they have been read. Limit: a group that is asked for permission
 * (FAN_CLASS_CONTENT, FAN_CLASS_PRE_CONTENT) is refused, as who waits for its answer is not known.
 * Sources: fanotify(7), fanotify_init(2), fanotify_mark(2), proc_pid_fdinfo(5).
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "vin/kinds.h"
#include "vin/mounts.h"
#include "vin/search.h"

#ifndef FAN_MARK_EVICTABLE
#define FAN_MARK_EVICTABLE 0x00000200
#endif
#ifndef FAN_MARK_IGNORE
#define FAN_MARK_IGNORE 0x00000400
#endif
#define CLASSES	   (FAN_CLASS_CONTENT | FAN_CLASS_PRE_CONTENT)
#define MARK_FLAGS ((uint64_t)FAN_MARK_IGNORED_SURV_MODIFY | FAN_MARK_EVICTABLE | FAN_MARK_IGNORE)

struct one {
	uint64_t kind; /* enum vin_mark_kind */
	uint64_t mask, ignored, flags;
	char *name;    /* "": it is the file: */
	uint64_t file; /* id */
};

struct fanotify {
	uint64_t flags, event_flags;
	size_t count;
	struct one *marks;
};

static bool matches(const struct vin_open *o)
{
	return vin_link_is(o, "[fanotify]");
}

/* ---- capture ---- */

/* Where a mount is, or one of a file system. Return: to free(), or NULL */
static char *find_mount(const struct vin_open *o, const struct vin_mark *m)
{
	scoped_mounts t = { 0 };
	if (vin_mount_table_read(o->pid, &t, NULL) < 0)
		return NULL;
	const uint64_t device = (uint64_t)major(m->dev) << 32 | minor(m->dev);
	for (size_t i = 0; i < t.count; i++) {
		const struct vin_mount *mount = &t.list[i];
		if (m->kind == VIN_MARK_MOUNT ? mount->id == m->mnt_id : mount->device == device)
			return strdup(mount->point);
	}
	return NULL;
}

/* What the name leads to is what is marked. */
static bool leads(const struct vin_files *all, const struct vin_mark *m, const char *name)
{
	struct statx x;
	scoped_fd fd = vin_name_look(all, name);
	if (fd < 0 || statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &x) < 0)
		return false;
	return m->kind == VIN_MARK_MOUNT ? (int)x.stx_mnt_id == m->mnt_id
					 : makedev(x.stx_dev_major, x.stx_dev_minor) == m->dev;
}

static int check_mark(const struct vin_files *all, const struct vin_open *o,
		      const struct vin_mark *m, struct fvm_error *err)
{
	if (m->kind == VIN_MARK_INODE)
		return vin_sought_find(all->sought, m)
			       ? 0
			       : fvm_error_say(err, EOPNOTSUPP,
					       "no name leads to what is marked (inode %llu of "
					       "device %u:%u)",
					       (unsigned long long)m->ino, major(m->dev),
					       minor(m->dev));
	scoped_free char *name = find_mount(o, m);
	return name && leads(all, m, name)
		       ? 0
		       : fvm_error_say(err, EOPNOTSUPP, "the mount that is marked is not there");
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	int r = 0;
	if (!o->info.is_fanotify)
		return fvm_error_say(err, EOPNOTSUPP,
				     "the kernel does not tell what a fanotify watches");
	if (o->info.fanotify_flags & CLASSES)
		return fvm_error_say(err, EOPNOTSUPP, "others wait for what it permits (fanotify)");
	for (size_t i = 0; r == 0 && i < o->info.mark_count; i++)
		r = check_mark(all, o, &o->info.marks[i], err);
	return r;
}

static int ready(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	int queued = 0;
	(void)all;
	if (ioctl(o->fd, FIONREAD, &queued) < 0)
		return fvm_error_set(err, errno, "look at a fanotify");
	return queued > 0 ? fvm_error_say(err, EAGAIN, "what a fanotify tells is not read yet") : 0;
}

static int put_mark(const struct vin_files *all, const struct vin_open *o, const struct vin_mark *m,
		    struct fvm_buf *to)
{
	const struct vin_sought *s =
		m->kind == VIN_MARK_INODE ? vin_sought_find(all->sought, m) : NULL;
	scoped_free char *name = m->kind == VIN_MARK_INODE ? NULL : find_mount(o, m);
	if (!s && !name)
		return -ESTALE;
	vin_put_u64(to, m->kind);
	vin_put_u64(to, m->mask);
	vin_put_u64(to, m->ignored);
	vin_put_u64(to, m->flags & MARK_FLAGS);
	vin_put_string(to, name ? name : s->name ? s->name : "");
	vin_put_u64(to, s ? s->file : 0);
	return 0;
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	int r = 0;
	vin_put_u64(to, o->info.fanotify_flags);
	vin_put_u64(to, o->info.fanotify_event_flags);
	vin_put_u64(to, o->info.mark_count);
	for (size_t i = 0; r == 0 && i < o->info.mark_count; i++)
		r = put_mark(all, o, &o->info.marks[i], to);
	return r < 0 ? fvm_error_set(err, -r, "find what is marked") : 0;
}

/* ---- replay ---- */

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct fanotify *f = ret;
	(void)first;
	f->flags = vin_get_u64(p);
	f->event_flags = vin_get_u64(p);
	const uint64_t count = vin_get_u64(p);
	if (p->failed || f->flags > UINT32_MAX || f->flags & CLASSES ||
	    f->event_flags > UINT32_MAX || count > (size_t)(p->end - p->at) / 48)
		return -EBADMSG;
	f->marks = calloc(count + 1, sizeof(*f->marks));
	if (!f->marks)
		return -ENOMEM;
	while (f->count < count) {
		struct one *m = &f->marks[f->count++];
		m->kind = vin_get_u64(p);
		m->mask = vin_get_u64(p);
		m->ignored = vin_get_u64(p);
		m->flags = vin_get_u64(p);
		m->name = vin_get_string(p);
		m->file = vin_get_u64(p);
		if (p->failed || m->kind < VIN_MARK_INODE || m->kind > VIN_MARK_FILESYSTEM ||
		    m->flags & ~MARK_FLAGS || (m->name[0] && m->name[0] != '/') ||
		    (!m->name[0] && m->kind != VIN_MARK_INODE))
			return -EBADMSG;
	}
	return 0;
}

static void forget(void *its)
{
	struct fanotify *f = its;
	for (size_t i = 0; i < f->count; i++)
		free(f->marks[i].name);
	free(f->marks);
}

/* With the flags that fdinfo tells; we start nobody before the other one is set. */
static int open_group(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct fanotify *its = f->its;
	(void)r;
	int fd = fanotify_init((unsigned int)its->flags, (unsigned int)its->event_flags);
	if (fd >= 0)
		(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
	return fd < 0 ? fvm_error_set(err, errno, "make a fanotify") : fd;
}

static unsigned int sort_of(const struct one *m)
{
	return m->kind == VIN_MARK_MOUNT	? FAN_MARK_MOUNT
	       : m->kind == VIN_MARK_FILESYSTEM ? FAN_MARK_FILESYSTEM
						: FAN_MARK_INODE;
}

/* What is ignored is asked for by itself. */
static int mark(int fd, const struct one *m, int target)
{
	char path[40];
	const unsigned int flags = FAN_MARK_ADD | sort_of(m),
			   evictable = (unsigned int)m->flags & FAN_MARK_EVICTABLE,
			   how = m->flags & FAN_MARK_IGNORE ? FAN_MARK_IGNORE
							    : FAN_MARK_IGNORED_MASK,
			   survives = (unsigned int)m->flags & FAN_MARK_IGNORED_SURV_MODIFY;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", target);
	if (m->mask && fanotify_mark(fd, flags | evictable, m->mask, AT_FDCWD, path) < 0)
		return -errno;
	if (m->ignored &&
	    fanotify_mark(fd, flags | evictable | how | survives, m->ignored, AT_FDCWD, path) < 0)
		return -errno;
	return 0;
}

static int add(const struct vin_reopen *r, const struct vin_file *f, const struct one *m)
{
	scoped_fd place = m->name[0] ? vin_name_open(r, m->name) : -1;
	int target = place;
	if (!m->name[0])
		target = m->file < r->count ? r->files[m->file].fd : -EBADMSG;
	return target < 0 ? target : mark(f->fd, m, target);
}

/* What another's coming back has told it. An event may bring a descriptor. */
static int drain(int fd)
{
	char events[8192] __attribute__((aligned(8)));
	for (struct pollfd p = { .fd = fd, .events = POLLIN }; poll(&p, 1, 0) == 1;) {
		ssize_t n = read(fd, events, sizeof(events));
		if (n <= 0)
			return n == 0 ? -EIO : -errno;
		const struct fanotify_event_metadata *e = (void *)events;
		for (; FAN_EVENT_OK(e, n); e = FAN_EVENT_NEXT(e, n)) {
			if (e->fd >= 0)
				close(e->fd);
		}
	}
	return 0;
}

/* After all that opens and writes files, which is none of the program's doing. */
static int settle(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct fanotify *its = f->its;
	for (size_t i = 0; i < its->count; i++) {
		const struct one *m = &its->marks[i];
		int e = add(r, f, m);
		if (e < 0)
			return fvm_error_set(err, -e, "mark %s",
					     m->name[0] ? m->name : "a file without a name");
	}
	int e = drain(f->fd);
	return e < 0 ? fvm_error_set(err, -e, "take away what a fanotify was told") : 0;
}

const struct vin_kind vin_kind_fanotify = {
	.name = "a fanotify",
	.nr = VIN_KIND_FANOTIFY,
	.matches = matches,
	.check = check,
	.ready = ready,
	.capture = capture,
	.size = sizeof(struct fanotify),
	.parse = parse,
	.forget = forget,
	.open = open_group,
	.settle = settle,
};
