/*
 * Layers that hide, shared by all VMs that hide the same.
 *
 * A hundred whiteouts are a tenth of a start, and much of an idle VM's memory. They depend on a
 * list of names and on the directories above them, which seldom change. So they are kept in
 * RUN/hide/HASH, beside the text that HASH was made of, and attached with the VM's ids.
 *
 *   RUN/hide/HASH/key     compared as a whole: two texts may have one hash
 *   RUN/hide/HASH/stamps  attributes of the directories; when they differ, as homes do all the
 * time, they are copied once more RUN/hide/HASH/fs/N/   layer of the plan's mount N
 *
 * Who uses one holds a shared flock(2) on the directory (PID 1 does as long as it lives): it may
 * not lose a file under a running VM, which would show what was hidden. Whoever makes a new one
 * deletes those that nobody holds. One is made under another name, and renamed when whole.
 *
 * Where RUN is no tmpfs, a layer in it would be refused by overlay, as it lies below its own base.
 * There the network's keeper, which ends soon after the last VM, has a tmpfs with key and fs/ that
 * is attached nowhere, and who starts copies its descriptor.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fvm/hide.h"
#include "fvm/lock.h"
#include "fvm/internal.h"
#include "fvm/sys.h"

#define KEY_MAX (4 << 20)

/* FNV-1a, 64 bits (draft-eastlake-fnv) */
static uint64_t hash(const char *text, size_t len)
{
	uint64_t h = 0xcbf29ce484222325U;
	for (size_t i = 0; i < len; i++)
		h = (h ^ (unsigned char)text[i]) * 0x100000001b3U;
	return h;
}

static int open_place(int run)
{
	struct statfs fs;
	if (fstatfs(run, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
		return -EOPNOTSUPP;
	int dir = openat(run, "hide", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0 && errno == ENOENT) {
		if (mkdirat(run, "hide", 0700) < 0 && errno != EEXIST)
			return -errno;
		dir = openat(run, "hide", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	}
	return dir < 0 ? -errno : dir;
}

/* Return: descriptor that holds the lock, -ENOENT, or -EAGAIN when it has just been deleted */
static int hold(int place, const char *name, int how)
{
	scoped_fd dir = fvm_open_nofollow(place, name, O_RDONLY | O_DIRECTORY);
	int r = dir < 0 ? dir : fvm_lock_named(dir, place, name, how);
	return r < 0 ? r : fvm_fd_take(&dir);
}

static bool refresh(int dir, const struct fvm_plan *plan, const char *was, const char *is)
{
	scoped_fd fs = openat(dir, "fs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fs >= 0 && fvm_hide_refresh(plan, fs, was, is) == 0 &&
	       fvm_write_file_atomic(dir, "stamps", is, strlen(is), false) == 0;
}

bool fvm_hide_fits(int dir, const struct fvm_plan *plan, const struct fvm_hide_key *key)
{
	scoped_free char *names = NULL, *stamps = NULL;
	const char *now = key->stamps.data ? key->stamps.data : "";
	size_t len = 0;
	if (fvm_read_file(dir, "key", KEY_MAX, &names, &len) < 0 || len != key->names.len ||
	    (len && memcmp(names, key->names.data, len) != 0) ||
	    fvm_read_file(dir, "stamps", KEY_MAX, &stamps, NULL) < 0)
		return false;
	return strcmp(stamps, now) == 0 || refresh(dir, plan, stamps, now);
}

static void drop_unused(int place)
{
	scoped_dir d = fvm_dir_open(place, ".");
	for (struct dirent *e; d && (e = readdir(d));) {
		if (e->d_name[0] == '.')
			continue;
		scoped_fd one = hold(place, e->d_name, LOCK_EX);
		if (one >= 0)
			(void)fvm_remove_tree(place, e->d_name);
	}
}

static int fill(int dir, const struct fvm_hide *hide, const struct fvm_plan *plan,
		const struct fvm_hide_key *key)
{
	if (mkdirat(dir, "fs", 0700) < 0)
		return -errno;
	scoped_fd fs = openat(dir, "fs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int r = fs < 0 ? -errno : fvm_hide_layers(hide, plan, fs);
	if (r == 0)
		r = fvm_write_file_atomic(dir, "stamps", key->stamps.data, key->stamps.len, false);
	if (r == 0)
		r = fvm_write_file_atomic(dir, "key", key->names.data, key->names.len, false);
	return r;
}

/* Return: descriptor as of hold(), -EEXIST when somebody was faster, or another errno */
static int make(int place, const char *name, const struct fvm_hide *hide,
		const struct fvm_plan *plan, const struct fvm_hide_key *key)
{
	char tmp[33];
	fvm_random_hex(tmp, 32);
	if (mkdirat(place, tmp, 0700) < 0)
		return -errno;
	scoped_fd dir = hold(place, tmp, LOCK_SH);
	int r = dir < 0 ? dir : fill(dir, hide, plan, key);
	if (r == 0 && renameat2(place, tmp, place, name, RENAME_NOREPLACE) < 0)
		r = -errno;
	if (r == 0)
		return fvm_fd_take(&dir);
	(void)fvm_remove_tree(place, tmp);
	return r;
}

int fvm_hide_shared(int run, const struct fvm_hide *hide, const struct fvm_plan *plan)
{
	scoped_hide_key key = { 0 };
	scoped_fd place = open_place(run);
	if (place < 0)
		return place;
	int r = fvm_hide_key(hide, plan, &key);
	if (r < 0)
		return r;
	uint64_t h = hash(key.names.data, key.names.len);
	for (int tries = 0; tries < 16; tries++) {
		char name[24];
		snprintf(name, sizeof(name), "%016" PRIx64, h);
		scoped_fd dir = hold(place, name, LOCK_SH);
		if (dir >= 0 && fvm_hide_fits(dir, plan, &key))
			return fvm_fd_take(&dir);
		if (dir >= 0) /* another text's */
			h++;
		if (dir != -ENOENT)
			continue;
		drop_unused(place);
		int made = make(place, name, hide, plan, &key);
		if (made != -EEXIST)
			return made;
	}
	return -EAGAIN;
}

int fvm_hide_detached(const struct fvm_hide *hide, const struct fvm_plan *plan)
{
	scoped_hide_key key = { 0 };
	scoped_fd fs = sys_fsopen("tmpfs", FSOPEN_CLOEXEC);
	int r = fs < 0 ? fs : sys_fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
	if (r < 0)
		return r;
	scoped_fd tree = sys_fsmount(fs, FSMOUNT_CLOEXEC,
				     MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	scoped_fd clone = tree < 0 ? tree : fvm_hide_clone(tree);
	if (clone < 0)
		return clone;
	r = fvm_hide_key(hide, plan, &key);
	if (r == 0)
		r = fill(tree, hide, plan, &key);
	return r < 0 ? r : fvm_fd_take(&tree);
}

int fvm_hide_clone(int tree)
{
	return sys_open_tree(tree, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
}
