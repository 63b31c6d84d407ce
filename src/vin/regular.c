/*
 * Regular files. One that a name leads to is opened by it. One without a name has its content in
 * the image; the first of its twins makes it anew, and all are opened through what that one holds.
 *
 * Limit: of O_TMPFILE the kernel keeps the flag, of O_EXCL beside it none that it tells. Only a
 * linkat(2) that succeeds would show whether a name is forbidden, and it can't be undone: nobody
 * can get one any more. So a file comes back as one that can get a name.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vin/kinds.h"
#include "vin/search.h"

struct regular {
	char *name;
	bool nameless;
	/* of the twin that was opened by O_TMPFILE: the file may get a name by linkat(2). Only one
	 * can have been. 0: none */
	unsigned int tmpfile;
	bool is_maker; /* this one is it, and shares its description with the maker */
	/* of the first that is nameless */
	uint64_t mode, uid, gid, size;
	struct timespec times[2];
};

#define TMPFILE ((unsigned int)(O_TMPFILE & ~O_DIRECTORY))
#define AT_OPEN (TMPFILE | O_ACCMODE | O_SYNC) /* flags that can't be set afterwards */
#define LATER	(O_APPEND | O_DIRECT | O_NOATIME | O_NONBLOCK)

static bool matches(const struct vin_open *o)
{
	return S_ISREG(o->st.st_mode) && o->link[0] == '/';
}

static bool nameless(const struct vin_files *all, const struct vin_open *o)
{
	return o->st.st_nlink == 0 && !vin_link_leads(all, o);
}

/* Content that a name doesn't lead to comes once. */
static bool has_content(const struct vin_files *all, const struct vin_open *o)
{
	return o->id == o->twin && nameless(all, o);
}

static bool is_breaking(const struct vin_open *o)
{
	for (size_t i = 0; i < o->info.lock_count; i++) {
		if (o->info.locks[i].breaking)
			return true;
	}
	return false;
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	int r = vin_place_check(all, o, err);
	if (r < 0)
		return r;
	if (is_breaking(o))
		return fvm_error_say(err, EOPNOTSUPP, "somebody waits for its lease to end");
	if (vin_link_leads(all, o) || o->st.st_nlink == 0 || vin_sought_name(all->sought, o))
		return 0;
	return fvm_error_say(err, EOPNOTSUPP,
			     "its name is gone or hidden, and another that it has is not known");
}

/* Flags of the one among the twins of @o. */
static uint64_t tmpfile_of(const struct vin_files *all, const struct vin_open *o)
{
	for (size_t i = o->twin; i < all->count && all->opens[i].twin == o->twin; i++) {
		if (all->opens[i].info.flags & TMPFILE)
			return all->opens[i].info.flags & AT_OPEN;
	}
	return 0;
}

/* By which it is found, or that it had. */
static char *name_of(const struct vin_files *all, const struct vin_open *o)
{
	if (nameless(all, o))
		return vin_link_name(o);
	const char *other = vin_link_leads(all, o) ? NULL : vin_sought_name(all->sought, o);
	return strdup(other ? other : o->link);
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	scoped_free char *name = name_of(all, o);
	uint64_t uid, gid;
	if (!name)
		return fvm_error_set(err, ENOMEM, "write down %s", o->link);
	vin_put_string(to, name);
	vin_put_u64(to, nameless(all, o));
	vin_put_u64(to, tmpfile_of(all, o));
	if (!has_content(all, o))
		return 0;
	vin_inner_ids(o, &uid, &gid);
	vin_put_u64(to, o->st.st_mode & 07777);
	vin_put_u64(to, uid);
	vin_put_u64(to, gid);
	vin_put_u64(to, (uint64_t)o->st.st_size);
	vin_put_u64(to, (uint64_t)o->st.st_atim.tv_sec);
	vin_put_u64(to, (uint64_t)o->st.st_atim.tv_nsec);
	vin_put_u64(to, (uint64_t)o->st.st_mtim.tv_sec);
	vin_put_u64(to, (uint64_t)o->st.st_mtim.tv_nsec);
	return 0;
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct regular *f = ret;
	f->name = vin_get_string(p);
	uint64_t gone = vin_get_u64(p), linkable = vin_get_u64(p);
	f->nameless = gone;
	f->tmpfile = (unsigned int)linkable;
	if (p->failed || gone > 1 || linkable & ~(uint64_t)AT_OPEN || f->name[0] != '/' ||
	    (linkable && (!(linkable & TMPFILE) || (linkable & O_ACCMODE) == O_RDONLY)))
		return -EBADMSG;
	if (!gone || !first)
		return 0;
	f->mode = vin_get_u64(p);
	f->uid = vin_get_u64(p);
	f->gid = vin_get_u64(p);
	f->size = vin_get_u64(p);
	for (int i = 0; i < 2; i++) {
		f->times[i].tv_sec = (time_t)vin_get_u64(p);
		uint64_t ns = vin_get_u64(p);
		f->times[i].tv_nsec = (long)(ns < 1000000000 ? ns : 0);
	}
	return f->mode > 07777 || f->uid > UINT32_MAX || f->gid > UINT32_MAX || f->size > INT64_MAX
		       ? -EBADMSG
		       : 0;
}

static void forget(void *its)
{
	free(((struct regular *)its)->name);
}

/* ---- anew ---- */

static int open_tmpfile(const struct vin_reopen *r, const char *name, unsigned int flags)
{
	scoped_free char *dir_name = strdup(name);
	char *slash = dir_name ? strrchr(dir_name, '/') : NULL;
	if (!slash)
		return -ENOMEM;
	slash[slash == dir_name] = '\0';
	scoped_fd dir = vin_name_open(r, dir_name);
	return dir < 0 ? dir : fvm_nerr(openat(dir, ".", (int)flags | O_TMPFILE | O_CLOEXEC, 0600));
}

static int make(const struct vin_reopen *r, const struct regular *f, struct fvm_error *err)
{
	scoped_fd fd = f->tmpfile ? open_tmpfile(r, f->name, f->tmpfile) : -1;
	if (fd < 0)
		fd = vin_nameless(r, f->name, S_IFREG);
	struct stat st;
	if (fd < 0)
		return fvm_error_set(err, -fd, "make %s, which has no name", f->name);
	if (ftruncate(fd, (off_t)f->size) < 0 || fstat(fd, &st) < 0)
		return fvm_error_set(err, errno, "make %s, which has no name", f->name);
	if ((st.st_uid != f->uid || st.st_gid != f->gid) &&
	    fchown(fd, (uid_t)f->uid, (gid_t)f->gid) < 0)
		return fvm_error_set(err, errno, "set the owner of %s", f->name);
	if (fchmod(fd, (mode_t)f->mode) < 0)
		return fvm_error_set(err, errno, "set the mode of %s", f->name);
	return fvm_fd_take(&fd);
}

/* What is not what it was is not opened: that may wait, or do something. */
static int open_named(const struct vin_reopen *r, const char *name, unsigned int flags,
		      struct fvm_error *err)
{
	struct stat st;
	scoped_fd there = vin_name_open(r, name);
	if (there < 0 || fstat(there, &st) < 0)
		return fvm_error_set(err, there < 0 ? -there : errno, "find %s", name);
	if (!S_ISREG(st.st_mode))
		return fvm_error_say(err, ENXIO, "%s is no regular file any more", name);
	int fd = vin_again(r, there, flags);
	return fd < 0 ? fvm_error_set(err, -fd, "open %s", name) : fd;
}

static int open_regular(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	struct regular *its = f->its;
	/* O_TMPFILE has the bit of O_DIRECTORY, and stays in the flags */
	const unsigned int flags = f->flags & ~(unsigned int)O_TMPFILE;
	if (!its->nameless)
		return open_named(r, its->name, flags, err);
	if (f->id == f->twin) {
		/* of those that are mapped there is only the memory by now */
		f->maker = vin_shared_maker(r, f);
		if (f->maker == -ENOENT)
			f->maker = make(r, its, err);
		else if (f->maker >= 0 && ftruncate(f->maker, (off_t)its->size) < 0)
			return fvm_error_set(err, errno, "make %s, which has no name", its->name);
		if (f->maker < 0)
			return f->maker;
	}
	int maker = vin_maker_of(r, f);
	if (maker >= 0 && f->flags & TMPFILE && fcntl(maker, F_GETFL) & (int)TMPFILE) {
		its->is_maker = true;
		return fvm_nerr(fcntl(maker, F_DUPFD_CLOEXEC, 3));
	}
	int fd = maker < 0 ? -EBADMSG : vin_again(r, maker, flags);
	return fd < 0 ? fvm_error_set(err, -fd, "open %s, which has no name", its->name) : fd;
}

static int finish(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct regular *its = f->its;
	(void)r;
	if (f->maker >= 0 && futimens(f->maker, its->times) < 0)
		return fvm_error_set(err, errno, "set the times of %s", its->name);
	/* while its content came it was written to as none of these would have it */
	if (its->is_maker && fcntl(f->fd, F_SETFL, (int)(f->flags & LATER)) < 0)
		return fvm_error_set(err, errno, "set the flags of %s", its->name);
	return 0;
}

const struct vin_kind vin_kind_file = {
	.name = "a file",
	.nr = VIN_KIND_FILE,
	.seeks = true,
	.matches = matches,
	.check = check,
	.capture = capture,
	.has_content = has_content,
	.size = sizeof(struct regular),
	.parse = parse,
	.forget = forget,
	.open = open_regular,
	.finish = finish,
};
