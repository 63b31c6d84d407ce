/*
 * mlockall(2) for the future: what a process maps from then on is locked, and nothing in /proc says
 * so. But our own pages were mapped when it was in force: if they are locked, it is. smaps is read
 * only of who has locked memory at all.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "vin/maps.h"
#include "vin/traits.h"

#define ALL ((uint64_t)(MCL_FUTURE | MCL_ONFAULT))

static bool has_locks(pid_t pid)
{
	char path[40];
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	if (fvm_read_file(AT_FDCWD, path, 64 * 1024, &text, NULL) < 0)
		return true;
	const char *locked = strstr(text, "\nVmLck:");
	return !locked || strtoull(locked + strlen("\nVmLck:"), NULL, 10) > 0;
}

static int put(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
	       struct fvm_error *err)
{
	(void)told;
	scoped_maps maps = { 0 };
	uint64_t flags = 0;
	if (has_locks(s->t->pid)) {
		int r = vin_maps_read(s->t->pid, true, &maps, err);
		if (r < 0)
			return r;
		const struct vin_vma *ours = vin_maps_find(&maps, s->post->base);
		if (ours && vin_vma_is(ours, VIN_VMA_LOCKED))
			flags = MCL_FUTURE;
		if (flags && vin_vma_is(ours, VIN_VMA_LOCK_ON_FAULT))
			flags |= MCL_ONFAULT;
	}
	vin_put_u64(to, flags);
	return 0;
}

static int replay(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		  struct fvm_error *err)
{
	(void)told;
	(void)err;
	const uint64_t flags = vin_get_u64(from);
	if (from->failed || (flags && (flags & ~ALL || !(flags & MCL_FUTURE))))
		return -EBADMSG;
	if (flags)
		VIN_STEP(s, "mlockall", SYS_mlockall, flags);
	return 0;
}

const struct vin_trait vin_future = { .name = "future locks", .put = put, .replay = replay };
