/*
 * Pidfds: processes and threads, held. They are opened anew when the new ones are born. What is
 * gone stays gone: a child that has ended and was waited for is as good as any.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vin/kinds.h"

struct held {
	uint64_t number; /* 0: gone */
	uint64_t thread;
};

static bool matches(const struct vin_open *o)
{
	return vin_link_is(o, "[pidfd]") && o->info.is_pidfd;
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	if (o->info.pid == -1 || vin_number_of(all, o, o->info.pid) > 0)
		return 0;
	return fvm_error_say(err, EOPNOTSUPP, "it leads to process %d, which is outside",
			     o->info.pid);
}

/* Who ended since it was looked at is gone, too. */
static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	pid_t number = o->info.pid == -1 ? 0 : vin_number_of(all, o, o->info.pid);
	if (o->info.pid != -1 && number == 0)
		return fvm_error_set(err, ESRCH, "find process %d", o->info.pid);
	vin_put_u64(to, (uint64_t)number);
	vin_put_u64(to, (o->info.flags & PIDFD_THREAD) != 0);
	return 0;
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct held *h = ret;
	(void)first;
	h->number = vin_get_u64(p);
	h->thread = vin_get_u64(p);
	return p->failed || h->number > INT_MAX || h->thread > 1 ? -EBADMSG : 0;
}

static int open_thread(pid_t pid, bool thread)
{
	return fvm_nerr(syscall(SYS_pidfd_open, pid, thread ? PIDFD_THREAD : 0));
}

static int open_gone(bool thread, struct fvm_error *err)
{
	pid_t pid = fork();
	if (pid == 0)
		_exit(0);
	if (pid < 0)
		return fvm_error_set(err, errno, "fork a process that ends");
	int fd = open_thread(pid, thread);
	if (waitpid(pid, NULL, 0) < 0 && fd >= 0) {
		close(fd);
		fd = -errno;
	}
	return fd < 0 ? fvm_error_set(err, -fd, "hold a process that ends") : fd;
}

static int open_pidfd(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct held *h = f->its;
	(void)r;
	return h->number == 0 ? open_gone(h->thread, err) : vin_late_open(f, err);
}

static int meet(struct vin_reopen *r, struct vin_file *f, const struct vin_who *who,
		struct fvm_error *err)
{
	const struct held *h = f->its;
	(void)r;
	pid_t pid = who->fn(who->arg, (pid_t)h->number);
	int fd = pid > 0 ? open_thread(pid, h->thread) : -ESRCH;
	return fd < 0 ? fvm_error_set(err, -fd, "hold process %d", (int)h->number) : fd;
}

const struct vin_kind vin_kind_pidfd = {
	.name = "a pidfd",
	.nr = VIN_KIND_PIDFD,
	.matches = matches,
	.check = check,
	.capture = capture,
	.size = sizeof(struct held),
	.parse = parse,
	.open = open_pidfd,
	.meet = meet,
};
