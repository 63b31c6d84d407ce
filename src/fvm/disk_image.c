/* An ext4 in a sparse file, by a loop device that is shared by all who use the file. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/loop.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/disk_internal.h"
#include "fvm/sys.h"

#define TEMPORARY   "+image.tmp"
#define FREE_TRIES  64
#define LOOP_MAJOR_ 7

/* ---- making ---- */

static int mkfs_find(char path[64])
{
	static const char *const places[] = { "/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin" };
	for (size_t i = 0; i < FVM_COUNT(places); i++) {
		snprintf(path, 64, "%s/mkfs.ext4", places[i]);
		if (access(path, X_OK) == 0)
			return 0;
	}
	return -ENOENT;
}

/* Quiet, and with an environment of its own: nothing of the caller's decides what it does. */
static int mkfs_run(const char *program, int file, bool journal)
{
	char target[32];
	char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", language[] = "LC_ALL=C";
	char *const env[] = { path, language, NULL };
	snprintf(target, sizeof(target), "/dev/fd/%d", file);
	const char *argv[] = { "mkfs.ext4",
			       "-q",
			       "-F",
			       "-m",
			       "0",
			       "-E",
			       "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
			       "-O",
			       journal ? "has_journal" : "^has_journal",
			       target,
			       NULL };
	posix_spawn_file_actions_t actions;
	pid_t pid;
	int status;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, file, file); /* without close-on-exec */
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	int r = posix_spawn(&pid, program, &actions, NULL, (char **)(uintptr_t)argv, env);
	posix_spawn_file_actions_destroy(&actions);
	if (r != 0)
		return -r;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status == 0 ? 0 : -EIO;
}

static int image_fill(int file, uint64_t bytes, bool journal, struct fvm_error *err)
{
	char program[64];
	if (mkfs_find(program) < 0) {
		fvm_error_hint(err, "install e2fsprogs, or mount the store's file system with "
				    "prjquota");
		return fvm_error_set(err, EOPNOTSUPP,
				     "its file system has no project quotas, and "
				     "there is no mkfs.ext4");
	}
	if (ftruncate(file, (off_t)bytes) < 0)
		return fvm_error_set(err, errno, "make an image of %" PRIu64 " bytes", bytes);
	int r = mkfs_run(program, file, journal);
	if (r < 0)
		return fvm_error_set(err, -r, "make a file system of %" PRIu64 " bytes by %s",
				     bytes, program);
	return journal && fsync(file) < 0 ? fvm_error_set(err, errno, "write the image") : 0;
}

int disk_image_make(int fs, uint64_t bytes, bool journal, struct fvm_error *err)
{
	if (access("/dev/loop-control", R_OK | W_OK) < 0) {
		fvm_error_hint(err,
			       "mount the store's file system with prjquota, or: modprobe loop");
		return fvm_error_set(err, EOPNOTSUPP,
				     "its file system has no project quotas, and the "
				     "host no loop devices");
	}
	(void)unlinkat(fs, TEMPORARY, 0);
	scoped_fd file =
		openat(fs, TEMPORARY, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (file < 0)
		return fvm_error_set(err, errno, "make its image");
	int r = image_fill(file, bytes, journal, err);
	if (r == 0 && renameat(fs, TEMPORARY, fs, FVM_DISK_IMAGE_NAME) < 0)
		r = fvm_error_set(err, errno, "make its image");
	if (r < 0)
		(void)unlinkat(fs, TEMPORARY, 0);
	return r;
}

/* ---- loop devices ---- */

static int loop_open(int number)
{
	char path[32];
	struct stat st;
	snprintf(path, sizeof(path), "/dev/loop%d", number);
	scoped_fd fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISBLK(st.st_mode) || major(st.st_rdev) != LOOP_MAJOR_)
		return -ENXIO;
	return fvm_fd_take(&fd);
}

/* Held open, it is not given back: what is true of it now stays true. */
static bool loop_is_on(int loop, const struct stat *file)
{
	struct loop_info64 info;
	return ioctl(loop, LOOP_GET_STATUS64, &info) == 0 && info.lo_inode == file->st_ino &&
	       info.lo_device == (uint64_t)file->st_dev;
}

/* The device that has @file already. Return: its number, and open; or -ENOENT */
static int loop_find(const struct stat *file, int *ret_fd)
{
	int found = -ENOENT;
	DIR *d = opendir("/sys/block");
	if (!d)
		return -errno;
	for (struct dirent *e; found < 0 && (e = readdir(d));) {
		char path[300];
		int number;
		if (sscanf(e->d_name, "loop%d", &number) != 1)
			continue;
		snprintf(path, sizeof(path), "/sys/block/%s/loop/backing_file", e->d_name);
		scoped_fd loop = access(path, F_OK) == 0 ? loop_open(number) : -1;
		if (loop < 0 || !loop_is_on(loop, file))
			continue;
		found = number;
		*ret_fd = fvm_fd_take(&loop);
	}
	closedir(d);
	return found;
}

/* A free one for @file; who asks at the same time may take it first. */
static int loop_make(int file, int *ret_fd)
{
	struct loop_config config = {
		.fd = (unsigned int)file,
		.info = { .lo_flags = LO_FLAGS_AUTOCLEAR },
	};
	strcpy((char *)config.info.lo_file_name, "fvm");
	scoped_fd control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		return -errno;
	for (int i = 0; i < FREE_TRIES; i++) {
		int number = ioctl(control, LOOP_CTL_GET_FREE);
		if (number < 0)
			return -errno;
		scoped_fd loop = loop_open(number);
		if (loop < 0)
			return loop;
		if (ioctl(loop, LOOP_CONFIGURE, &config) == 0) {
			*ret_fd = fvm_fd_take(&loop);
			return number;
		}
		if (errno != EBUSY)
			return -errno;
	}
	return -EBUSY;
}

/* ---- mounting ---- */

static int ext4_mount(int number)
{
	char device[32];
	snprintf(device, sizeof(device), "/dev/loop%d", number);
	scoped_fd fs = sys_fsopen("ext4", FSOPEN_CLOEXEC);
	if (fs < 0)
		return fs;
	int r = sys_fsconfig(fs, FSCONFIG_SET_STRING, "source", device, 0);
	if (r == 0) /* what a VM deletes is a hole in the image again */
		r = sys_fsconfig(fs, FSCONFIG_SET_FLAG, "discard", NULL, 0);
	if (r == 0)
		r = sys_fsconfig(fs, FSCONFIG_SET_STRING, "errors", "remount-ro", 0);
	if (r == 0)
		r = sys_fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
	return r < 0 ? r : sys_fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NODEV);
}

static int mount_locked(int file, struct fvm_error *err)
{
	struct stat st;
	scoped_fd loop = -1;
	if (fstat(file, &st) < 0)
		return fvm_error_set(err, errno, "look at its image");
	int number = loop_find(&st, &loop);
	if (number == -ENOENT)
		number = loop_make(file, &loop);
	if (number < 0)
		return fvm_error_set(err, -number, "attach its image to a loop device");
	scoped_fd mount = ext4_mount(number);
	if (mount < 0)
		return fvm_error_set(err, -mount, "mount its image (/dev/loop%d)", number);
	(void)unlinkat(mount, "lost+found", AT_REMOVEDIR); /* keys of mounts are all that is here */
	return fvm_fd_take(&mount);
}

int disk_image_mount(int fs, struct fvm_error *err)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1 };
	scoped_fd file = openat(fs, FVM_DISK_IMAGE_NAME, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (file < 0)
		return fvm_error_set(err, errno, "open its image");
	if (fcntl(file, F_OFD_SETLKW, &lock) < 0)
		return fvm_error_set(err, errno, "lock its image");
	int r = mount_locked(file, err);
	/* the loop device keeps our open file, and with it the lock, unless we let it go */
	lock.l_type = F_UNLCK;
	(void)fcntl(file, F_OFD_SETLK, &lock);
	return r;
}
