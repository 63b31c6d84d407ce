/* Signalfds: a mask. What they would read is pending in the processes, not in them. */
#include <errno.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/kinds.h"

static bool matches(const struct vin_open *o)
{
	return vin_link_is(o, "[signalfd]");
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	(void)all;
	(void)err;
	vin_put_u64(to, o->info.sigmask);
	return 0;
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	(void)first;
	*(uint64_t *)ret = vin_get_u64(p);
	return p->failed ? -EBADMSG : 0;
}

static int open_signalfd(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	(void)r;
	/* the kernel's mask, not libc's, which leaves its own signals out */
	int fd = fvm_nerr(syscall(SYS_signalfd4, -1, f->its, sizeof(uint64_t), SFD_CLOEXEC));
	return fd < 0 ? fvm_error_set(err, -fd, "make a signalfd") : fd;
}

const struct vin_kind vin_kind_signalfd = {
	.name = "a signalfd",
	.nr = VIN_KIND_SIGNALFD,
	.matches = matches,
	.capture = capture,
	.size = sizeof(uint64_t),
	.parse = parse,
	.open = open_signalfd,
};
