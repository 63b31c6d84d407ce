#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "fvm/disk.h"
#include "fvm/disk_internal.h"
#include "fvm/sys.h"

static int fs_open(int parent)
{
	return fvm_open_nofollow(parent, "fs", O_RDONLY | O_DIRECTORY);
}

static bool image_in(int fs)
{
	struct stat st;
	return fstatat(fs, FVM_DISK_IMAGE_NAME, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       S_ISREG(st.st_mode);
}

bool fvm_disk_has_image(int parent)
{
	scoped_fd fs = fs_open(parent);
	return fs >= 0 && image_in(fs);
}

static bool is_empty(int fs)
{
	bool empty = true;
	scoped_dir d = fvm_dir_open(fs, ".");
	for (struct dirent *e; d && empty && (e = readdir(d));)
		empty = e->d_name[0] == '.';
	return empty;
}

static int prepare_root(int fs, const struct fvm_disk_options *o, enum fvm_disk *ret,
			struct fvm_error *err)
{
	if (disk_quota_possible(fs)) {
		int r = disk_quota_set(fs, o->id, o->bytes);
		if (r == 0)
			*ret = FVM_DISK_QUOTA;
		return r < 0 ? fvm_error_set(err, -r, "set the project's quota") : 0;
	}
	int r = disk_image_make(fs, o->bytes, !o->throw_away, err);
	if (r == 0)
		*ret = FVM_DISK_IMAGE;
	return r;
}

static int check_wish(int fs, const struct fvm_disk_options *o, struct fvm_error *err)
{
	if (o->bytes < FVM_DISK_MIN) {
		fvm_error_hint(err, "at least %uM", FVM_DISK_MIN >> 20);
		return fvm_error_set(err, EINVAL, "%" PRIu64 " bytes", o->bytes);
	}
	uint64_t used, limit;
	if (o->rootless || disk_quota_get(fs, &used, &limit) == 0 || is_empty(fs))
		return 0;
	fvm_error_hint(err, "give the limit to a new VM, or tag a snapshot first: what comes after "
			    "it is limited then");
	return fvm_error_set(err, EBUSY, "it has written already");
}

int fvm_disk_prepare(int workspace, const struct fvm_disk_options *o, enum fvm_disk *ret,
		     struct fvm_error *err)
{
	scoped_fd fs = fs_open(workspace);
	if (fs < 0)
		return fvm_error_set(err, -fs, "open its workspace");
	*ret = image_in(fs) ? FVM_DISK_IMAGE : FVM_DISK_PLAIN;
	if (*ret == FVM_DISK_IMAGE || o->bytes == 0)
		return 0;
	struct fvm_error why = { 0 };
	int r = check_wish(fs, o, &why);
	if (r == 0 && !o->rootless)
		r = prepare_root(fs, o, ret, &why);
	else if (r == 0 && o->throw_away)
		*ret = FVM_DISK_TMPFS;
	else if (r == 0) {
		r = fvm_error_set(&why, EOPNOTSUPP, "quotas and loop devices are root's");
		fvm_error_hint(&why,
			       "only with --rm (the VM's files are in memory then), or as root");
	}
	if (r == 0)
		return 0;
	if (err)
		*err = why;
	return fvm_error_wrap(err, r, "limit what it may write");
}

static int tmpfs_mount(uint64_t bytes)
{
	char size[32];
	snprintf(size, sizeof(size), "%" PRIu64, bytes);
	scoped_fd fs = sys_fsopen("tmpfs", FSOPEN_CLOEXEC);
	if (fs < 0)
		return fs;
	int r = sys_fsconfig(fs, FSCONFIG_SET_STRING, "size", size, 0);
	if (r == 0)
		r = sys_fsconfig(fs, FSCONFIG_SET_STRING, "mode", "0700", 0);
	if (r == 0)
		r = sys_fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
	return r < 0 ? r : sys_fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NODEV);
}

int fvm_disk_open(int parent)
{
	scoped_fd fs = fs_open(parent);
	if (fs < 0 || !image_in(fs))
		return fvm_fd_take(&fs);
	/* fsmount() gives an O_PATH descriptor. The detached mount goes with it, but its file
	 * system stays for what was opened in it. */
	scoped_fd mount = disk_image_mount(fs, NULL);
	int top = mount < 0 ? mount : openat(mount, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return mount < 0 ? mount : fvm_nerr(top);
}

int fvm_disk_mount(int parent, enum fvm_disk kind, uint64_t bytes, const char *path,
		   struct fvm_error *err)
{
	scoped_fd fs = fs_open(parent), mount = -1;
	struct fvm_error why = { 0 };
	if (fs < 0 || kind == FVM_DISK_PLAIN || kind == FVM_DISK_QUOTA)
		return fs < 0 ? fvm_error_set(err, -fs, "open %s", path) : 0;
	mount = kind == FVM_DISK_TMPFS ? tmpfs_mount(bytes) : disk_image_mount(fs, &why);
	int r = mount;
	if (mount >= 0)
		r = sys_move_mount(mount, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH);
	if (r < 0 && why.code && err)
		*err = why;
	else if (r < 0)
		fvm_error_set(err, -r, "mount its files at %s", path);
	return r;
}

int fvm_disk_usage(int workspace, uint64_t *ret_bytes, uint64_t *ret_limit)
{
	struct stat st;
	scoped_fd fs = fs_open(workspace);
	if (fs < 0)
		return fs;
	if (fstatat(fs, FVM_DISK_IMAGE_NAME, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		*ret_bytes = (uint64_t)st.st_blocks * 512;
		*ret_limit = (uint64_t)st.st_size;
		return 0;
	}
	return disk_quota_get(fs, ret_bytes, ret_limit);
}

void fvm_disk_release(int workspace)
{
	scoped_fd fs = fs_open(workspace);
	if (fs >= 0)
		disk_quota_clear(fs);
}
