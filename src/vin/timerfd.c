/*
 * Timerfds. The kernel tells how long it is until the next expiry, of absolute ones too; of these
 * we keep when that is, by the process's own clock, which goes on in the new world (a time
 * namespace sees to that). Relative ones go on with what is left.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "vin/kinds.h"

#define SECOND	  1000000000LL
#define SET_TICKS _IOW('T', 0, uint64_t)

struct timer {
	uint64_t clock, flags, ticks;
	int64_t next, interval; /* nanoseconds; next: 0: not armed, otherwise left, or absolute */
};

static bool matches(const struct vin_open *o)
{
	return vin_link_is(o, "[timerfd]");
}

static int64_t to_ns(const struct timespec *t)
{
	return t->tv_sec > INT64_MAX / SECOND - 1 ? INT64_MAX : t->tv_sec * SECOND + t->tv_nsec;
}

static struct timespec from_ns(int64_t ns)
{
	return (struct timespec){ .tv_sec = ns / SECOND, .tv_nsec = ns % SECOND };
}

/* How far a process's clock is ahead of the host's. Lines "monotonic SECONDS NANOSECONDS". */
static int64_t offset_of(const char *pid, uint64_t clock)
{
	char path[64], name[16];
	long long seconds, ns;
	int64_t result = 0;
	const char *want = "";
	if (clock == CLOCK_MONOTONIC)
		want = "monotonic";
	else if (clock == CLOCK_BOOTTIME || clock == CLOCK_BOOTTIME_ALARM)
		want = "boottime";
	snprintf(path, sizeof(path), "/proc/%s/timens_offsets", pid);
	FILE *file = fopen(path, "re");
	while (file && fscanf(file, "%15s %lld %lld", name, &seconds, &ns) == 3) {
		if (strcmp(name, want) == 0)
			result = seconds * SECOND + ns;
	}
	if (file)
		fclose(file);
	return result;
}

static int64_t clock_of(pid_t pid, uint64_t clock)
{
	struct timespec now = { 0 };
	char number[16];
	snprintf(number, sizeof(number), "%d", pid);
	clock_gettime((clockid_t)clock, &now);
	return to_ns(&now) - offset_of("self", clock) + offset_of(number, clock);
}

/* What it has counted and what is left, of one moment: no expiry in between. */
static int read_moment(const struct vin_open *o, struct itimerspec *ret_left, uint64_t *ret_ticks)
{
	for (int i = 0; i < 100; i++) {
		struct itimerspec before, after;
		scoped_fdinfo info = { 0 };
		if (timerfd_gettime(o->fd, &before) < 0)
			return -errno;
		int r = vin_fdinfo_read(getpid(), o->fd, &info, NULL);
		if (r < 0 || timerfd_gettime(o->fd, &after) < 0)
			return r < 0 ? r : -errno;
		if (to_ns(&after.it_value) <= to_ns(&before.it_value) &&
		    (to_ns(&after.it_value) > 0) == (to_ns(&before.it_value) > 0)) {
			*ret_left = after;
			*ret_ticks = info.ticks;
			return 0;
		}
	}
	return -EAGAIN; /* expires faster than it can be read */
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	struct itimerspec left = { 0 };
	uint64_t ticks = 0;
	(void)all;
	int r = read_moment(o, &left, &ticks);
	if (r < 0)
		return fvm_error_set(err, -r, "read a timer");
	int64_t next = to_ns(&left.it_value);
	if (next > 0 && o->info.settime_flags & TFD_TIMER_ABSTIME)
		next += clock_of(o->pid, (uint64_t)o->info.clock);
	vin_put_u64(to, (uint64_t)o->info.clock);
	vin_put_u64(to, (uint64_t)o->info.settime_flags);
	vin_put_u64(to, ticks);
	vin_put_u64(to, (uint64_t)next);
	vin_put_u64(to, (uint64_t)to_ns(&left.it_interval));
	return 0;
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct timer *t = ret;
	(void)first;
	t->clock = vin_get_u64(p);
	t->flags = vin_get_u64(p);
	t->ticks = vin_get_u64(p);
	t->next = (int64_t)vin_get_u64(p);
	t->interval = (int64_t)vin_get_u64(p);
	return p->failed || t->clock > 63 || t->flags > 3 || t->next < 0 || t->interval < 0
		       ? -EBADMSG
		       : 0;
}

static int open_timer(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct timer *t = f->its;
	(void)r;
	int fd = timerfd_create((clockid_t)t->clock, TFD_CLOEXEC);
	return fd < 0 ? fvm_error_set(err, errno, "make a timerfd") : fd;
}

/* Ticks come behind the setting, which clears them. */
static int finish(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct timer *t = f->its;
	const struct itimerspec set = { from_ns(t->interval), from_ns(t->next) };
	(void)r;
	if (timerfd_settime(f->fd, (int)t->flags, &set, NULL) < 0)
		return fvm_error_set(err, errno, "set a timer");
	if (t->ticks > 0 && ioctl(f->fd, SET_TICKS, &t->ticks) < 0)
		return fvm_error_set(err, errno, "set what a timer has counted");
	return 0;
}

const struct vin_kind vin_kind_timerfd = {
	.name = "a timerfd",
	.nr = VIN_KIND_TIMERFD,
	.matches = matches,
	.capture = capture,
	.size = sizeof(struct timer),
	.parse = parse,
	.open = open_timer,
	.finish = finish,
};
