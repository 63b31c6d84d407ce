/*
 * Devices of memory (null, zero, full, random, urandom), which keep nothing; and descriptors that
 * only hold a place (O_PATH), of whatever it is.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "vin/kinds.h"

struct place {
	char *name;
	uint64_t device; /* of a device */
};

static bool is_harmless(uint64_t device)
{
	static const unsigned int minors[] = { 3, 5, 7, 8, 9 };
	for (size_t i = 0; i < FVM_COUNT(minors); i++) {
		if (device == makedev(1, minors[i]))
			return true;
	}
	return false;
}

static bool device_matches(const struct vin_open *o)
{
	return S_ISCHR(o->st.st_mode) && is_harmless(o->st.st_rdev);
}

static bool path_matches(const struct vin_open *o)
{
	return o->info.flags & O_PATH;
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	struct statfs fs;
	if (S_ISLNK(o->st.st_mode) && fstatfs(o->fd, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC)
		return fvm_error_say(err, EOPNOTSUPP, "it is a link of /proc itself");
	if (vin_link_leads(all, o))
		return vin_place_check(all, o, err);
	return fvm_error_say(err, EOPNOTSUPP, "its name does not lead to it");
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	(void)all;
	(void)err;
	vin_put_string(to, o->link);
	vin_put_u64(to, S_ISCHR(o->st.st_mode) ? o->st.st_rdev : 0);
	return 0;
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct place *its = ret;
	(void)first;
	its->name = vin_get_string(p);
	its->device = vin_get_u64(p);
	return p->failed || its->name[0] != '/' ? -EBADMSG : 0;
}

static void forget(void *its)
{
	free(((struct place *)its)->name);
}

static int open_device(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct place *its = f->its;
	struct stat st;
	scoped_fd there = vin_name_open(r, its->name);
	if (there < 0 || fstat(there, &st) < 0)
		return fvm_error_set(err, there < 0 ? -there : errno, "find %s", its->name);
	if (!S_ISCHR(st.st_mode) || st.st_rdev != its->device || !is_harmless(st.st_rdev))
		return fvm_error_say(err, ENXIO, "%s is another device", its->name);
	int fd = vin_again(r, there, f->flags & ~(unsigned int)O_PATH);
	return fd < 0 ? fvm_error_set(err, -fd, "open %s", its->name) : fd;
}

/* A symlink is held itself; flags tell whether that was asked for. */
static int open_path(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct place *its = f->its;
	scoped_fd there = vin_name_open(r, its->name);
	if (there < 0)
		return fvm_error_set(err, -there, "find %s", its->name);
	if (f->flags & O_NOFOLLOW)
		return fvm_fd_take(&there);
	int fd = vin_again(r, there, O_PATH | (f->flags & O_DIRECTORY));
	return fd < 0 ? fvm_error_set(err, -fd, "hold %s", its->name) : fd;
}

const struct vin_kind vin_kind_device = {
	.name = "a device",
	.nr = VIN_KIND_DEVICE,
	.matches = device_matches,
	.check = check,
	.capture = capture,
	.size = sizeof(struct place),
	.parse = parse,
	.forget = forget,
	.open = open_device,
};

const struct vin_kind vin_kind_path = {
	.name = "a place",
	.nr = VIN_KIND_PATH,
	.matches = path_matches,
	.check = check,
	.capture = capture,
	.size = sizeof(struct place),
	.parse = parse,
	.forget = forget,
	.open = open_path,
};
