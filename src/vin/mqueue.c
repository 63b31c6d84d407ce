/*
 * Descriptors of POSIX message queues. A queue that has its name still is the namespace's
 * (vin/ipc): there when its descriptors are opened. One that was unlinked lives in who has it open,
 * and comes with its messages.
 */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "vin/ipc.h"
#include "vin/kinds.h"

#define MQUEUE_MAGIC 0x19800202

struct descriptor {
	struct vin_mqueue queue; /* name only, if it has it still */
	bool gone;
	unsigned char *messages;
};

static bool matches(const struct vin_open *o)
{
	struct statfs fs;
	return S_ISREG(o->st.st_mode) && fstatfs(o->fd, &fs) == 0 &&
	       (unsigned long)fs.f_type == MQUEUE_MAGIC;
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	(void)all;
	scoped_fd fd = vin_again_here(o->fd, O_RDWR | O_NONBLOCK);
	/* what others own and has a name is looked at by vin/ipc */
	if (fd < 0)
		return o->st.st_nlink
			       ? 0
			       : fvm_error_set(err, -fd, "open a message queue without name");
	return vin_mqueue_check(fd, err);
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	(void)all;
	scoped_free char *link = o->st.st_nlink ? strdup(o->link) : vin_link_name(o);
	const char *slash = link ? strrchr(link, '/') : NULL;
	if (!slash)
		return fvm_error_set(err, link ? EIO : ENOMEM, "write down %s", o->link);
	if (o->id != o->twin)
		return 0;
	vin_put_u64(to, o->st.st_nlink == 0);
	if (o->st.st_nlink) {
		vin_put_string(to, slash + 1);
		return 0;
	}
	scoped_fd fd = vin_again_here(o->fd, O_RDWR | O_NONBLOCK);
	if (fd < 0)
		return fvm_error_set(err, -fd, "open the message queue %s", slash + 1);
	return vin_mqueue_put(to, slash + 1, fd, err);
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct descriptor *d = ret;
	if (!first)
		return 0;
	const uint64_t gone = vin_get_u64(p);
	d->gone = gone == 1;
	if (gone == 0) {
		d->queue.name = vin_get_string(p);
		return d->queue.name && *d->queue.name && !strchr(d->queue.name, '/') ? 0
										      : -EBADMSG;
	}
	int r = gone > 1 ? -EBADMSG : vin_mqueue_get(p, &d->queue);
	if (r < 0)
		return r;
	d->messages = malloc(d->queue.len + 1);
	if (!d->messages)
		return -ENOMEM;
	memcpy(d->messages, d->queue.messages, d->queue.len);
	d->queue.messages = d->messages;
	return 0;
}

static void forget(void *its)
{
	struct descriptor *d = its;
	free(d->queue.name);
	free(d->messages);
}

/* Under its old name if nobody else has that by now; then without one. */
static int make_gone(const struct vin_mqueue *q)
{
	char other[40], path[260];
	snprintf(other, sizeof(other), ".fvm-%d", getpid());
	const char *name = q->name;
	int fd = vin_mqueue_make(q, name);
	if (fd == -EEXIST)
		fd = vin_mqueue_make(q, name = other);
	snprintf(path, sizeof(path), "/%s", name);
	if (fd >= 0)
		(void)mq_unlink(path);
	return fd;
}

static int open_named(const char *name, unsigned int flags)
{
	char path[260];
	snprintf(path, sizeof(path), "/%s", name);
	return fvm_nerr(mq_open(path, (int)(flags & O_ACCMODE) | O_CLOEXEC | O_NONBLOCK));
}

static int open_queue(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct descriptor *first = r->files[f->twin].its;
	if (first->gone && f->id == f->twin) {
		int made = make_gone(&first->queue);
		if (made < 0)
			return fvm_error_set(err, -made, "make the message queue %s",
					     first->queue.name);
		f->maker = made;
	}
	int fd = first->gone ? vin_again(r, vin_maker_of(r, f), (f->flags & O_ACCMODE) | O_NONBLOCK)
			     : open_named(first->queue.name, f->flags);
	return fd < 0 ? fvm_error_set(err, -fd, "open the message queue %s", first->queue.name)
		      : fd;
}

const struct vin_kind vin_kind_mqueue = {
	.name = "a message queue",
	.nr = VIN_KIND_MQUEUE,
	.matches = matches,
	.check = check,
	.capture = capture,
	.size = sizeof(struct descriptor),
	.parse = parse,
	.forget = forget,
	.open = open_queue,
};
