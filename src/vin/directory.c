/*
 * Directories, with how far they have been read. A position means something to its file system
 * only, and maybe to another one something else; so the name that comes next is kept along with it,
 * and looked for where the position does not lead to it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/kinds.h"

struct directory {
	char *name;
	bool nameless;
	uint64_t mode, uid, gid; /* of a nameless one */
	char *next;		 /* entry that is read next; "": none is left */
};

/* The kernel's own. */
struct entry {
	uint64_t ino;
	int64_t off; /* of the one behind it */
	uint16_t len;
	uint8_t type;
	char name[];
};

static bool matches(const struct vin_open *o)
{
	return S_ISDIR(o->st.st_mode) && o->link[0] == '/';
}

/* The kernel tells nobody whether a directory sends signals when it changes (F_NOTIFY); but whoever
 * asked for them owns it. */
static bool may_notify(const struct vin_open *o)
{
	struct f_owner_ex owner;
	return !(o->info.flags & O_PATH) && fcntl(o->fd, F_GETOWN_EX, &owner) == 0 &&
	       owner.pid != 0;
}

/* One that an overlay has put together keeps a link of its lower layer's. */
static bool is_deleted(const struct vin_open *o)
{
	static const char mark[] = " (deleted)";
	const size_t len = strlen(o->link), tail = sizeof(mark) - 1;
	return len > tail && strcmp(o->link + len - tail, mark) == 0;
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	int r = vin_place_check(all, o, err);
	if (r < 0)
		return r;
	if (may_notify(o))
		return fvm_error_say(err, EOPNOTSUPP,
				     "it may send signals when it changes (dnotify)");
	if (vin_link_leads(all, o) || o->st.st_nlink == 0 || is_deleted(o))
		return 0;
	return fvm_error_say(err, EOPNOTSUPP, "its name is hidden");
}

/* The entries from @pos on, one by one: the name and where it stood. 0 at the end. */
static int find_next(int fd, int64_t pos, char to[256])
{
	union {
		struct entry entry;
		char bytes[1024];
	} b;
	to[0] = '\0';
	if (lseek(fd, pos, SEEK_SET) < 0)
		return -errno;
	long n = syscall(SYS_getdents64, fd, &b, sizeof(b));
	if (n < 0)
		return -errno;
	if (n > (long)offsetof(struct entry, name))
		strncat(to, b.entry.name, 255);
	return 0;
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	char next[256] = "";
	uint64_t uid, gid;
	bool nameless = !vin_link_leads(all, o);
	scoped_free char *name = nameless ? vin_link_name(o) : strdup(o->link);
	if (!name)
		return fvm_error_set(err, ENOMEM, "write down %s", o->link);
	if (!nameless && o->info.pos > 0) {
		scoped_fd own = vin_again_here(o->fd, O_RDONLY | O_DIRECTORY);
		int r = own < 0 ? own : find_next(own, o->info.pos, next);
		if (r < 0)
			return fvm_error_set(err, -r, "read %s", o->link);
	}
	vin_put_string(to, name);
	vin_put_u64(to, nameless);
	vin_put_string(to, next);
	vin_inner_ids(o, &uid, &gid);
	vin_put_u64(to, o->st.st_mode & 07777);
	vin_put_u64(to, uid);
	vin_put_u64(to, gid);
	return 0;
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct directory *d = ret;
	(void)first;
	d->name = vin_get_string(p);
	uint64_t nameless = vin_get_u64(p);
	d->next = vin_get_string(p);
	d->nameless = nameless;
	d->mode = vin_get_u64(p);
	d->uid = vin_get_u64(p);
	d->gid = vin_get_u64(p);
	return p->failed || nameless > 1 || d->name[0] != '/' || strlen(d->next) > 255 ||
			       d->mode > 07777 || d->uid > UINT32_MAX || d->gid > UINT32_MAX
		       ? -EBADMSG
		       : 0;
}

static void forget(void *its)
{
	struct directory *d = its;
	free(d->name);
	free(d->next);
}

/* ---- anew ---- */

/* Where the entry @name begins, or the end. Return: 0, -ENOENT or another negative errno */
static int seek_name(int fd, const char *name)
{
	char bytes[8192] __attribute__((aligned(8)));
	int64_t before = 0;
	if (lseek(fd, 0, SEEK_SET) < 0)
		return -errno;
	for (;;) {
		long n = syscall(SYS_getdents64, fd, bytes, sizeof(bytes));
		if (n <= 0)
			return n < 0 ? -errno : name[0] ? -ENOENT : 0;
		for (long at = 0; at < n;) {
			const struct entry *e = (const void *)(bytes + at);
			if (name[0] && strcmp(e->name, name) == 0)
				return lseek(fd, before, SEEK_SET) < 0 ? -errno : 0;
			before = e->off;
			at += e->len;
		}
	}
}

/* Where the entry is gone, the old position is as good as any: who reads a directory that changes
 * is promised no more. */
static int seek(int fd, int64_t pos, const char *next)
{
	char there[256];
	if (pos <= 0)
		return 0;
	int r = find_next(fd, pos, there);
	if (r < 0 || strcmp(there, next) != 0)
		r = seek_name(fd, next);
	else
		r = lseek(fd, pos, SEEK_SET) < 0 ? -errno : 0;
	if (r == -ENOENT)
		r = lseek(fd, pos, SEEK_SET) < 0 ? -errno : 0;
	return r;
}

static int find_again(struct vin_reopen *r, struct vin_file *f)
{
	const struct directory *d = f->its;
	if (!d->nameless)
		return vin_name_open(r, d->name);
	if (f->id != f->twin)
		return vin_again(r, r->files[f->twin].fd, O_RDONLY | O_DIRECTORY);
	scoped_fd made = vin_nameless(r, d->name, S_IFDIR);
	struct stat st;
	if (made < 0)
		return made;
	if (fstat(made, &st) < 0 ||
	    ((st.st_uid != d->uid || st.st_gid != d->gid) &&
	     fchown(made, (uid_t)d->uid, (gid_t)d->gid) < 0) ||
	    fchmod(made, (mode_t)d->mode) < 0)
		return -errno;
	return fvm_fd_take(&made);
}

static int open_directory(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct directory *d = f->its;
	scoped_fd there = find_again(r, f);
	if (there < 0)
		return fvm_error_set(err, -there, "find %s", d->name);
	scoped_fd fd = vin_again(r, there, O_RDONLY | O_DIRECTORY);
	int ret = fd < 0 ? fd : d->nameless ? 0 : seek(fd, f->pos, d->next);
	return ret < 0 ? fvm_error_set(err, -ret, "open %s", d->name) : fvm_fd_take(&fd);
}

const struct vin_kind vin_kind_directory = {
	.name = "a directory",
	.nr = VIN_KIND_DIRECTORY,
	.matches = matches,
	.check = check,
	.capture = capture,
	.size = sizeof(struct directory),
	.parse = parse,
	.forget = forget,
	.open = open_directory,
};
