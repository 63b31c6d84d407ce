#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/disk.h"
#include "fvm/early.h"
#include "fvm/internal.h"
#include "fvm/layer_copy.h"
#include "fvm/stamps.h"
#include "fvm/subids.h"

#define STEP_NS 10000000 /* a clock that differs by less was read by a process that had to wait */

static int open_files(const struct fvm_vm *vm)
{
	scoped_fd workspace = fvm_open_nofollow(vm->dir, "workspace", O_RDONLY | O_DIRECTORY);
	return workspace < 0 ? workspace : fvm_disk_open(workspace);
}

/* Those whose page_mkwrite gives a time to the inode. */
bool fvm_early_can(const struct fvm_vm *vm)
{
	struct statfs s;
	scoped_fd fs = open_files(vm);
	if (fs < 0 || fstatfs(fs, &s) < 0)
		return false;
	switch ((unsigned long)s.f_type) {
	case EXT4_SUPER_MAGIC:
	case XFS_SUPER_MAGIC:
	case BTRFS_SUPER_MAGIC:
	case F2FS_SUPER_MAGIC:
		return true;
	default:
		return false;
	}
}

int fvm_early_open(const struct fvm_vm *vm, bool native, struct fvm_early *ret,
		   struct fvm_error *err)
{
	struct fvm_early e = { .vm = vm, .origins = -1, .native = native };
	e.dir = fvm_tmp_make(vm->store, e.tmp);
	if (e.dir < 0)
		return fvm_error_set(err, -e.dir, "make a directory in %s", vm->store->path);
	int r = mkdirat(e.dir, "fs", 0700) < 0 ? -errno : 0;
	if (r == 0)
		e.origins = openat(e.dir, "origins", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (r == 0 && e.origins < 0)
		r = -errno;
	if (r < 0) {
		fvm_early_close(&e);
		return fvm_error_set(err, -r, "make a directory in %s", vm->store->path);
	}
	*ret = e;
	return 0;
}

void fvm_early_close(struct fvm_early *e)
{
	if (e->dir >= 0)
		(void)fvm_subids_remove_tree(e->vm->store->dir, e->tmp);
	fvm_fd_closep(&e->dir);
	fvm_fd_closep(&e->origins);
}

static int64_t clock_ns(clockid_t clock)
{
	struct timespec t;
	(void)clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

void fvm_early_mark(struct fvm_early *e)
{
	e->offset_ns = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_BOOTTIME);
	e->marked_ns = clock_ns(CLOCK_REALTIME_COARSE);
}

static bool clock_was_set(const struct fvm_early *e)
{
	const int64_t now = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_BOOTTIME);
	return llabs(now - e->offset_ns) > STEP_NS;
}

static int pass(const struct fvm_early *e, const struct fvm_layer_pass *pass, struct fvm_error *err)
{
	scoped_fd from = open_files(e->vm);
	scoped_fd to = fvm_open_nofollow(e->dir, "fs", O_RDONLY | O_DIRECTORY);
	if (from < 0 || to < 0)
		return fvm_error_set(err, from < 0 ? -from : -to, "open the workspace");
	return fvm_layer_copy_pass(from, to, pass, pass->still ? NULL : e->progress, e->arg, err);
}

static int first_pass(void *arg, struct fvm_error *err)
{
	const struct fvm_early *e = arg;
	const struct fvm_layer_pass first = { .origins = e->origins,
					      .copied_ns = INT64_MIN,
					      .now_ns = e->marked_ns,
					      .native = e->native };
	scoped_fd fs = open_files(e->vm);
	int r = fs < 0 ? fs : FVM_FAULT("early.sync");
	if (r == 0 && syncfs(fs) < 0)
		r = -errno;
	return r < 0 ? fvm_error_set(err, -r, "write back the workspace") : pass(e, &first, err);
}

static int last_pass(void *arg, struct fvm_error *err)
{
	const struct fvm_early *e = arg;
	const bool trusted = e->copied && !clock_was_set(e);
	const struct fvm_layer_pass last = { .origins = e->origins,
					     .copied_ns = trusted ? e->marked_ns : INT64_MIN,
					     .still = true,
					     .native = e->native };
	int r = FVM_FAULT("early.finish");
	return r < 0 ? fvm_error_set(err, -r, "copy the workspace") : pass(e, &last, err);
}

int fvm_early_copy(struct fvm_early *e, struct fvm_error *err)
{
	int r = fvm_subids_call_always(first_pass, e, err);
	e->copied = r == 0;
	return r;
}

int fvm_early_finish(struct fvm_early *e, struct fvm_error *err)
{
	return fvm_subids_call_always(last_pass, e, err);
}
