/* /dev of a VM: six devices that do no harm, a devpts of its own, and what a policy permits. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "fvm/build.h"

static const struct {
	const char *name;
	unsigned int major, minor;
} devices[] = {
	{ "null", 1, 3 }, { "zero", 1, 5 },   { "full", 1, 7 },
	{ "tty", 5, 0 },  { "random", 1, 8 }, { "urandom", 1, 9 },
};

static const struct {
	const char *name, *target;
} links[] = {
	{ "fd", "/proc/self/fd" },	 { "stdin", "/proc/self/fd/0" },
	{ "stdout", "/proc/self/fd/1" }, { "stderr", "/proc/self/fd/2" },
	{ "ptmx", "pts/ptmx" },		 { "core", "/proc/kcore" },
};

/* A device node below @dev, the scratch's "dev"; in a user's namespace the host's own, bound. */
static int make_device(int dev, const char *name, mode_t type, dev_t rdev)
{
	char host[300], here[300];
	if (mknodat(dev, name, type | 0666, rdev) == 0)
		return 0;
	if (errno != EPERM)
		return -errno;
	snprintf(host, sizeof(host), "/dev/%s", name);
	snprintf(here, sizeof(here), "dev/%s", name);
	scoped_fd file = openat(dev, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (file < 0 || mount(host, here, NULL, MS_BIND, NULL) < 0)
		return -errno;
	return 0;
}

static int make_devices(int dev, struct fvm_error *err)
{
	for (size_t i = 0; i < FVM_COUNT(devices); i++) {
		int r = make_device(dev, devices[i].name, S_IFCHR,
				    makedev(devices[i].major, devices[i].minor));
		if (r < 0)
			return fvm_error_set(err, -r, "make /dev/%s", devices[i].name);
	}
	for (size_t i = 0; i < FVM_COUNT(links); i++) {
		if (symlinkat(links[i].target, dev, links[i].name) < 0)
			return fvm_error_set(err, errno, "make /dev/%s", links[i].name);
	}
	return 0;
}

static int mount_pts(const struct fvm_build *b, struct fvm_error *err)
{
	char options[64];
	snprintf(options, sizeof(options), "newinstance,ptmxmode=0666,mode=0620,gid=%u",
		 fvm_idmap_gid(b->map, 5));
	if (mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, options) < 0)
		return fvm_error_set(err, errno, "mount /dev/pts");
	return 0;
}

/* A host device that a policy permits: a node like it, so that its owner and mode count for nothing
 * and the VM's root is its owner. */
static int add_device(int dev, const char *path, struct fvm_error *err)
{
	struct stat st;
	if (strncmp(path, "/dev/", 5) != 0 || strstr(path, "/.."))
		return fvm_error_set(err, EINVAL, "device '%s' is not below /dev", path);
	if (stat(path, &st) < 0)
		return fvm_error_set(err, errno, "look at device '%s'", path);
	if (!S_ISCHR(st.st_mode) && !S_ISBLK(st.st_mode))
		return fvm_error_set(err, ENODEV, "use '%s' as a device", path);
	const char *name = path + 5, *slash = strrchr(name, '/');
	if (slash) {
		char top[256];
		scoped_fd made = -ENAMETOOLONG;
		if (snprintf(top, sizeof(top), "%.*s", (int)(slash - name), name) <
		    (int)sizeof(top))
			made = fvm_mkdir_nofollow(dev, top, 0755);
		if (made < 0)
			return fvm_error_set(err, -made, "make the directory of '%s'", path);
	}
	int r = make_device(dev, name, st.st_mode & S_IFMT, st.st_rdev);
	/* one of those that every VM has */
	return r < 0 && r != -EEXIST ? fvm_error_set(err, -r, "make '%s'", path) : 0;
}

int fvm_dev_make(const struct fvm_build *b, struct fvm_error *err)
{
	if (mkdirat(b->scratch, "dev", 0755) < 0)
		return fvm_error_set(err, errno, "make /dev");
	scoped_fd dev = openat(b->scratch, "dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dev < 0 || mkdirat(dev, "pts", 0755) < 0 || mkdirat(dev, "shm", 01777) < 0 ||
	    mkdirat(dev, "mqueue", 01777) < 0)
		return fvm_error_set(err, errno, "make /dev");
	int r = make_devices(dev, err);
	if (r == 0)
		r = mount_pts(b, err);
	const struct fvm_strv *more = &b->vm->config.devices;
	for (size_t i = 0; r == 0 && i < more->count; i++)
		r = add_device(dev, more->items[i], err);
	return r;
}
