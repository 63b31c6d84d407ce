/* Eventfds. Whether one is a semaphore is told since Linux 6.5; before that it is tried, and what
 * was taken put back. */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vin/kinds.h"

struct event {
	uint64_t count;
	uint64_t semaphore;
};

static bool matches(const struct vin_open *o)
{
	return vin_link_is(o, "[eventfd]");
}

/* A semaphore gives one of two. */
static int try_semaphore(const struct vin_open *o, uint64_t *ret)
{
	const uint64_t more = o->info.eventfd_count < 2 ? 2 : 0,
		       full = o->info.eventfd_count + more;
	uint64_t got = 0;
	if (more > 0 && write(o->fd, &more, sizeof(more)) != sizeof(more))
		return -errno;
	if (read(o->fd, &got, sizeof(got)) != sizeof(got))
		return -errno;
	*ret = got == 1 && full > 1;
	/* a semaphore has to be read down to what it was, the other was emptied */
	for (uint64_t left = full - got; *ret && left > o->info.eventfd_count; left--) {
		if (read(o->fd, &got, sizeof(got)) != sizeof(got))
			return -errno;
	}
	const uint64_t back = *ret ? (more > 0 ? 0 : 1) : o->info.eventfd_count;
	return back > 0 && write(o->fd, &back, sizeof(back)) != sizeof(back) ? -errno : 0;
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	uint64_t semaphore = o->info.eventfd_semaphore == 1;
	(void)all;
	int r = o->info.eventfd_semaphore < 0 ? try_semaphore(o, &semaphore) : 0;
	if (r < 0)
		return fvm_error_set(err, -r, "try whether an eventfd is a semaphore");
	vin_put_u64(to, o->info.eventfd_count);
	vin_put_u64(to, semaphore);
	return 0;
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct event *e = ret;
	(void)first;
	e->count = vin_get_u64(p);
	e->semaphore = vin_get_u64(p);
	return p->failed || e->semaphore > 1 || e->count == UINT64_MAX ? -EBADMSG : 0;
}

static int open_event(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct event *e = f->its;
	(void)r;
	scoped_fd fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | (e->semaphore ? EFD_SEMAPHORE : 0));
	if (fd < 0 || (e->count > 0 && write(fd, &e->count, sizeof(e->count)) < 0))
		return fvm_error_set(err, errno, "make an eventfd");
	return fvm_fd_take(&fd);
}

const struct vin_kind vin_kind_eventfd = {
	.name = "an eventfd",
	.nr = VIN_KIND_EVENTFD,
	.matches = matches,
	.capture = capture,
	.size = sizeof(struct event),
	.parse = parse,
	.open = open_event,
};
