/*
 * Whose a file is, told to who asks, where the kernel can't know it: it has one number, or none,
 * for what belongs to many.
 *
 *   recorded     what chown or mknod were meant to give (owners.h)
 *   the host's   shown as nobody's: root's, unless the skeleton's list says otherwise
 *   one id       what lies in a directory that was given away is that one's
 *
 * Asked by name; what descriptors say is the kernel's (seccomp.def).
 *
 * With ranges of ids the kernel knows all but the host's and what was given to the user himself;
 * only VM root is told, as the lookup here would show others what they may not search.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fvm/adopt.h"
#include "fvm/nest.h"
#include "fvm/notify.h"
#include "fvm/owners.h"
#include "fvm/skeleton.h"

/* ---- what can't carry an xattr ---- */

/* By path and inode, as a name may be another file's by now. What a former start has recorded is
 * read from the list once. */
struct stat_record {
	uint64_t hash; /* of the path; 0: free */
	ino_t ino;
	struct fvm_owner owner;
};

struct stat_records {
	struct stat_record *items;
	size_t size, count; /* size: a power of two */
	struct fvm_owners *former;
	bool looked;
	struct stat_known *known;
	unsigned int age; /* grows when something is given or moved */
};

enum told {
	KERNELS,       /* it says it as well as we could */
	TOLD,	       /* recorded, or the host's */
	TOLD_BY_PLACE, /* of the directory above */
};

static uint64_t hash_path(const char *path)
{
	uint64_t h = 0xcbf29ce484222325ULL; /* FNV-1a */
	for (; *path; path++)
		h = (h ^ (unsigned char)*path) * 0x100000001b3ULL;
	return h ? h : 1;
}

static struct stat_record *slot_of(const struct stat_records *r, uint64_t hash)
{
	size_t i = hash & (r->size - 1);
	while (r->items[i].hash && r->items[i].hash != hash)
		i = (i + 1) & (r->size - 1);
	return &r->items[i];
}

static int grow(struct stat_records *r)
{
	struct stat_records more = { .size = r->size ? r->size * 2 : 64 };
	more.items = calloc(more.size, sizeof(*more.items));
	if (!more.items)
		return -ENOMEM;
	for (size_t i = 0; i < r->size; i++) {
		if (r->items[i].hash)
			*slot_of(&more, r->items[i].hash) = r->items[i];
	}
	free(r->items);
	r->items = more.items;
	r->size = more.size;
	return 0;
}

void notify_remember(struct supervisor *sup, const char *path, ino_t ino,
		     const struct fvm_owner *owner)
{
	struct stat_records *r = sup->records;
	if (!r || ((r->count + 1) * 2 > r->size && grow(r) < 0))
		return;
	struct stat_record *slot = slot_of(r, hash_path(path));
	r->count += slot->hash == 0;
	*slot = (struct stat_record){ hash_path(path), ino, *owner };
}

static const struct fvm_owner *listed(const struct call *c, const char *path, ino_t ino)
{
	struct stat_records *r = c->sup->records;
	if (!r->looked && c->sup->owners >= 0) {
		r->looked = true;
		if (fvm_owners_read(c->sup->owners, &r->former, NULL) < 0)
			r->former = NULL;
	}
	const struct stat_record *slot = r->size ? slot_of(r, hash_path(path)) : NULL;
	if (slot && slot->hash && slot->ino == ino)
		return &slot->owner;
	const char *rel;
	const struct fvm_tree *tree = notify_tree(c->sup, path, &rel);
	return tree ? fvm_owners_find(r->former, tree->key, rel, ino) : NULL;
}

/* ---- whose it is ---- */

static bool recorded_at(const char *path, struct fvm_owner *ret)
{
	char text[64];
	ssize_t n = getxattr(path, FVM_OWNER_XATTR, text, sizeof(text));
	return n > 0 && fvm_owner_parse(text, (size_t)n, ret) == 0;
}

static bool recorded(const struct call *c, const struct target *t, const char *path,
		     struct fvm_owner *ret)
{
	char link[32];
	if (S_ISREG(t->st.st_mode) || S_ISDIR(t->st.st_mode)) {
		snprintf(link, sizeof(link), "self/fd/%d", t->fd);
		return recorded_at(link, ret);
	}
	const struct fvm_owner *owner = listed(c, path, t->st.st_ino);
	if (owner)
		*ret = *owner;
	return owner;
}

/* The nearest directory above that was given away; those of the host are told by the list alone. */
static bool inherited(const char *path, struct fvm_owner *ret)
{
	char above[PATH_MAX], *slash;
	strcpy(above, path);
	while ((slash = strrchr(above, '/')) && slash != above) {
		*slash = '\0';
		if (recorded_at(above, ret)) {
			ret->has_mode = false;
			return ret->uid != 0;
		}
	}
	return false;
}

static bool is_nested(const struct call *c)
{
	char path[32];
	struct stat st;
	snprintf(path, sizeof(path), "%u/ns/user", c->req->pid);
	return stat(path, &st) == 0 && st.st_ino != c->sup->userns;
}

/* Under one id. A file of the kernel's root is VM root's, unless something says otherwise. */
static enum told one_id_owner(const struct call *c, const struct target *t, const char *path,
			      struct fvm_owner *ret)
{
	bool host = t->st.st_uid == FVM_NOBODY, known = fvm_skeleton_has(path);
	struct fvm_skeleton_owned o = { 0 };
	if (recorded(c, t, path, ret))
		return TOLD;
	if (known && (notify_host_owner(c->sup, path, &o) || host)) {
		*ret = (struct fvm_owner){ .uid = o.uid, .gid = o.gid };
		return TOLD;
	}
	return !host && inherited(path, ret) ? TOLD_BY_PLACE : KERNELS;
}

static enum told ranges_owner(const struct call *c, const struct target *t, const char *path,
			      struct fvm_owner *ret)
{
	struct fvm_skeleton_owned o = { 0 };
	if (t->st.st_uid != FVM_NOBODY && t->st.st_gid != FVM_NOBODY)
		return recorded(c, t, path, ret) ? TOLD : KERNELS;
	if (!fvm_skeleton_has(path) || !notify_is_nobodys(c, t))
		return KERNELS;
	(void)notify_host_owner(c->sup, path, &o);
	*ret = (struct fvm_owner){ .uid = o.uid, .gid = o.gid };
	return TOLD;
}

static bool is_somebodys(const struct stat *st)
{
	return st->st_uid != 0 && st->st_uid != FVM_NOBODY && st->st_gid != 0 &&
	       st->st_gid != FVM_NOBODY;
}

static enum told find_owner(const struct call *c, const struct target *t, struct fvm_owner *ret)
{
	char link[32], path[PATH_MAX];
	bool read_only;
	*ret = (struct fvm_owner){ 0 };
	if (is_somebodys(&t->st))
		return KERNELS;
	long fs = notify_fs(t, &read_only);
	if (fs != OVERLAYFS_SUPER_MAGIC && fs != TMPFS_MAGIC)
		return KERNELS;
	snprintf(link, sizeof(link), "self/fd/%d", t->fd);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	if (n <= 0 || path[0] != '/')
		return KERNELS;
	path[n] = '\0';
	return c->sup->ids->count ? ranges_owner(c, t, path, ret) : one_id_owner(c, t, path, ret);
}

bool notify_owner(const struct call *c, const struct target *t, struct fvm_owner *ret)
{
	return find_owner(c, t, ret) != KERNELS;
}

/* ---- what was found before ---- */

#define CACHED 32768 /* a power of two */

/* Holds as long as the file is the same, which its ctime says, and nothing was given or moved. */
struct stat_known {
	dev_t dev;
	ino_t ino;
	struct timespec ctime;
	unsigned int age; /* sup->age then */
	enum told told;
	struct fvm_owner owner;
};

static struct stat_known *cache_slot(const struct supervisor *sup, const struct stat *st)
{
	return &sup->records->known[(st->st_ino ^ st->st_dev * 0x9e37) & (CACHED - 1)];
}

static bool cached(const struct supervisor *sup, const struct stat *st, const struct stat_known *k)
{
	return k->ino == st->st_ino && k->dev == st->st_dev && k->age == sup->records->age &&
	       k->ctime.tv_sec == st->st_ctim.tv_sec && k->ctime.tv_nsec == st->st_ctim.tv_nsec;
}

void notify_owners_change(struct supervisor *sup)
{
	sup->records->age++;
}

int notify_records_make(struct supervisor *sup)
{
	sup->records = calloc(1, sizeof(*sup->records));
	if (sup->records)
		sup->records->known = calloc(CACHED, sizeof(struct stat_known));
	if (!sup->records || !sup->records->known)
		return -ENOMEM;
	sup->records->age = 1;
	return 0;
}

/* ---- the answer ---- */

/* A call that may be answered: by name, as seen from our working directory, the host's /proc; or,
 * where the task has a root or mounts of its own, by descriptor. */
struct asked {
	int fd; /* or -1 */
	char name[PATH_MAX + 32];
	int flags; /* O_NOFOLLOW or 0 */
	struct stat st;
	enum told told;
	struct fvm_owner owner;
};

static bool starts_with(const char *path, const char *prefix)
{
	return strncmp(path, prefix, strlen(prefix)) == 0;
}

/* Return: false: no file of ours, or the kernel shall say what is wrong */
static bool find_name(const struct call *c, const struct file_call *f, struct asked *a)
{
	char path[PATH_MAX] = "";
	int dir = f->dir >= 0 ? (int)c->args[f->dir] : AT_FDCWD;
	if (notify_string(c, c->args[f->path], path, sizeof(path)) <= 0)
		return false;
	a->flags = notify_follows(c, f) == NO_FOLLOW ? O_NOFOLLOW : 0;
	if (*path == '/' && (starts_with(path, "/proc/") || starts_with(path, "/dev/") ||
			     starts_with(path, "/sys/")))
		return false;
	if (*path == '/')
		strcpy(a->name, path);
	else if (dir == AT_FDCWD)
		snprintf(a->name, sizeof(a->name), "%u/cwd/%s", c->req->pid, path);
	else
		snprintf(a->name, sizeof(a->name), "%u/fd/%d/%s", c->req->pid, dir, path);
	return true;
}

static enum told look_closely(const struct call *c, struct asked *a)
{
	struct target t = { .fd = open(a->name, O_PATH | O_CLOEXEC | a->flags) };
	if (t.fd < 0 || fstat(t.fd, &t.st) < 0 || !notify_valid(c)) {
		fvm_fd_closep(&t.fd);
		return KERNELS;
	}
	struct stat_known *slot = cache_slot(c->sup, &t.st);
	a->st = t.st;
	a->told = find_owner(c, &t, &a->owner);
	close(t.fd);
	*slot = (struct stat_known){ t.st.st_dev,	   t.st.st_ino, t.st.st_ctim,
				     c->sup->records->age, a->told,	a->owner };
	return a->told;
}

static bool is_vm_root(const struct call *c)
{
	char path[16];
	struct stat st;
	snprintf(path, sizeof(path), "%u", c->req->pid);
	return stat(path, &st) == 0 && st.st_uid == 0 && !is_nested(c);
}

/* Where the kernel would say the same, it shall. */
static bool may_be_told(const struct call *c, const struct asked *a)
{
	const struct fvm_owner *o = &a->owner;
	if (a->told == KERNELS)
		return false;
	if (c->sup->ids->count)
		return is_vm_root(c);
	if (o->uid == a->st.st_uid && o->gid == a->st.st_gid && !o->has_mode)
		return is_nested(c);
	/* who has dropped to an id believes that all that is the user's is his */
	return a->told == TOLD || !is_nested(c);
}

static bool look_elsewhere(const struct call *c, const struct file_call *f, struct asked *a)
{
	struct target t;
	if (notify_target(c, f, &t) < 0)
		return false;
	a->st = t.st;
	a->told = find_owner(c, &t, &a->owner);
	if (may_be_told(c, a)) {
		a->fd = t.fd;
		return true;
	}
	close(t.fd);
	return false;
}

static bool look(struct call *c, const struct file_call *f, struct asked *a)
{
	int flags = 0;
	a->fd = -1;
	if (!find_name(c, f, a))
		return false;
	if (!notify_at_home(c))
		return look_elsewhere(c, f, a);
	if (a->flags & O_NOFOLLOW)
		flags |= AT_SYMLINK_NOFOLLOW;
	if (fstatat(AT_FDCWD, a->name, &a->st, flags) < 0 || is_somebodys(&a->st))
		return false;
	const struct stat_known *slot = cache_slot(c->sup, &a->st);
	if (cached(c->sup, &a->st, slot)) {
		a->told = slot->told;
		a->owner = slot->owner;
	} else {
		a->told = look_closely(c, a);
	}
	return may_be_told(c, a);
}

static mode_t mode_of(const struct fvm_owner *o, mode_t mode)
{
	mode_t type = o->mode & S_IFMT ? o->mode & S_IFMT : mode & S_IFMT;
	return o->has_mode ? type | (o->mode & 07777) : mode;
}

static bool is_device(const struct fvm_owner *o)
{
	return o->has_mode && (S_ISCHR(o->mode) || S_ISBLK(o->mode));
}

enum verdict on_stat(struct call *c, const struct file_call *f)
{
	struct asked a;
	if (!look(c, f, &a))
		return GO_ON;
	fvm_fd_closep(&a.fd);
	a.st.st_uid = a.owner.uid;
	a.st.st_gid = a.owner.gid;
	a.st.st_mode = mode_of(&a.owner, a.st.st_mode);
	if (is_device(&a.owner))
		a.st.st_rdev = a.owner.rdev;
	return answer(c, notify_give(c, c->args[f->path + 1], &a.st, sizeof(a.st)));
}

enum verdict on_statx(struct call *c, const struct file_call *f)
{
	struct asked a;
	struct statx x;
	if (!look(c, f, &a))
		return GO_ON;
	unsigned int flags = (unsigned int)c->args[2] & AT_STATX_SYNC_TYPE;
	if (a.flags & O_NOFOLLOW)
		flags |= AT_SYMLINK_NOFOLLOW;
	long r =
		a.fd < 0
			? syscall(SYS_statx, AT_FDCWD, a.name, flags, (unsigned int)c->args[3], &x)
			: syscall(SYS_statx, a.fd, "", AT_EMPTY_PATH, (unsigned int)c->args[3], &x);
	fvm_fd_closep(&a.fd);
	if (r < 0)
		return GO_ON;
	/* the number of our mount, not of the task's */
	x.stx_mask &= ~(__u32)(STATX_MNT_ID | 0x4000 /* STATX_MNT_ID_UNIQUE */);
	x.stx_mnt_id = 0;
	x.stx_uid = a.owner.uid;
	x.stx_gid = a.owner.gid;
	x.stx_mode = (__u16)mode_of(&a.owner, x.stx_mode);
	if (is_device(&a.owner)) {
		x.stx_rdev_major = major(a.owner.rdev);
		x.stx_rdev_minor = minor(a.owner.rdev);
	}
	return answer(c, notify_give(c, c->args[4], &x, sizeof(x)));
}
