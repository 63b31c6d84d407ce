/*
 * Calls about files: adopt what belongs to nobody, record what can't be had, let the kernel do the
 * rest.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fvm/adopt.h"
#include "fvm/copies.h"
#include "fvm/notify.h"
#include "fvm/owners.h"
#include "fvm/skeleton.h"

#define NO_ID	   UINT32_MAX
#define SMALL_COPY (1 << 20)  /* larger ones are made by a child */
#define BY_FD_COPY (64 << 20) /* but those whose descriptor would not know of it */

/* ---- which file ---- */

enum follow notify_follows(const struct call *c, const struct file_call *f)
{
	unsigned int flags = f->flags >= 0 ? (unsigned int)c->args[f->flags] : 0;
	switch ((enum naming)f->how) {
	case BY_FOLLOWING:
		return FOLLOW;
	case BY_NOFOLLOW_FLAG:
		return flags & AT_SYMLINK_NOFOLLOW ? NO_FOLLOW : FOLLOW;
	case BY_FOLLOW_FLAG:
		return flags & AT_SYMLINK_FOLLOW ? FOLLOW : NO_FOLLOW;
	default:
		return NO_FOLLOW;
	}
}

int notify_target(const struct call *c, const struct file_call *f, struct target *ret)
{
	char path[PATH_MAX];
	int dir = f->dir >= 0 ? (int)c->args[f->dir] : AT_FDCWD;
	if (f->path < 0)
		return notify_descriptor(c, dir, ret);
	if (c->args[f->path] == 0)
		return -EFAULT;
	int n = notify_string(c, c->args[f->path], path, sizeof(path));
	if (n < 0)
		return n;
	/* "" with AT_EMPTY_PATH is the descriptor itself; without it the kernel knows what to say
	 */
	if (n == 0)
		return dir == AT_FDCWD ? -ENOENT : notify_descriptor(c, dir, ret);
	return notify_resolve(c, dir, path, notify_follows(c, f), ret);
}

/* ---- adoption ---- */

static void say_foreign_dir(struct supervisor *sup, const struct target *t)
{
	char link[32], path[512];
	snprintf(link, sizeof(link), "self/fd/%d", t->fd);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	if (n > 0)
		notify_log(
			sup,
			"directory %.*s belongs to nobody here and can't be changed: it is newer "
			"than the VM's start, or somebody else's; start the VM anew",
			(int)n, path);
}

static bool has_dev(const struct supervisor *sup, dev_t dev)
{
	for (size_t i = 0; i < sup->dev_count; i++) {
		if (dev == sup->devs[i])
			return true;
	}
	return false;
}

/* Root's: in an overlay of an unmapped base, and not of the VM's ids. Files of an overlay may show
 * their layer's device, directories don't. */
static bool is_strangers(const struct call *c, const struct target *t)
{
	const struct supervisor *sup = c->sup;
	char name[NAME_MAX + 1];
	struct stat st;
	if (!fvm_idmap_is_stranger(sup->map, t->st.st_uid, t->st.st_gid))
		return false;
	if (S_ISDIR(t->st.st_mode))
		return has_dev(sup, t->st.st_dev);
	scoped_fd dir = notify_parent(c, t, name);
	return dir >= 0 && fstat(dir, &st) == 0 && has_dev(sup, st.st_dev);
}

/*
 * What no id of ours owns is shown as nobody's. With ranges of ids nobody has files of his own,
 * too: then a change that changes nothing tells, which is refused where an id has no place.
 */
bool notify_is_nobodys(const struct call *c, const struct target *t)
{
	char link[32];
	if (c->sup->map)
		return is_strangers(c, t);
	if (t->st.st_uid != FVM_NOBODY && t->st.st_gid != FVM_NOBODY)
		return false;
	if (c->sup->ids->count == 0)
		return true;
	if (S_ISLNK(t->st.st_mode))
		return fchownat(t->fd, "", NO_ID, NO_ID, AT_EMPTY_PATH) < 0;
	snprintf(link, sizeof(link), "self/fd/%d", t->fd);
	return chmod(link, t->st.st_mode & 07777) < 0;
}

/* A root VM's copy would be VM root's, and root's on the host after a commit: it is not made, and
 * the kernel refuses as it does on a mapped base (EOVERFLOW). */
static bool has_no_place(const struct call *c, const struct target *t)
{
	const struct fvm_idmap *map = c->sup->map;
	return map && (fvm_idmap_uid(map, t->st.st_uid) == UINT32_MAX ||
		       fvm_idmap_gid(map, t->st.st_gid) == UINT32_MAX);
}

/* Whether adopting would help. */
static bool wants_adoption(struct call *c, const struct target *t)
{
	bool read_only;
	if (c->no_adopt ||
	    !(c->sup->map || t->st.st_uid == FVM_NOBODY || t->st.st_gid == FVM_NOBODY))
		return false;
	if (notify_fs(t, &read_only) != OVERLAYFS_SUPER_MAGIC || read_only ||
	    !notify_is_nobodys(c, t) || has_no_place(c, t))
		return false;
	if (c->sup->map ? S_ISREG(t->st.st_mode) || S_ISLNK(t->st.st_mode) : fvm_adoptable(&t->st))
		return true;
	if (S_ISDIR(t->st.st_mode))
		say_foreign_dir(c->sup, t);
	return false;
}

bool notify_host_owner(const struct supervisor *sup, const char *path,
		       struct fvm_skeleton_owned *ret)
{
	const char *at = sup->owned, *end = at + sup->owned_len;
	size_t n = strlen(path);
	while (sup->owned && fvm_skeleton_owned(&at, end, ret)) {
		if (ret->len == n && memcmp(ret->path, path, n) == 0)
			return true;
	}
	*ret = (struct fvm_skeleton_owned){ 0 };
	return false;
}

static struct fvm_host_owner owner_of_target(const struct supervisor *sup, const struct target *t)
{
	char link[32], path[PATH_MAX];
	struct fvm_skeleton_owned owned;
	if (sup->map)
		return (struct fvm_host_owner){ t->st.st_uid, t->st.st_gid, true };
	snprintf(link, sizeof(link), "self/fd/%d", t->fd);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	path[n > 0 ? n : 0] = '\0';
	bool known = notify_host_owner(sup, path, &owned) || fvm_skeleton_has(path);
	return (struct fvm_host_owner){ owned.uid, owned.gid, known || t->st.st_uid != FVM_NOBODY };
}

static void write_record(struct supervisor *sup, const struct target *t,
			 const struct fvm_owner *owner);
static bool is_real(const struct supervisor *sup, uint32_t id, uint32_t own);

static void mark_as_hosts(const struct target *t)
{
	char link[32];
	if (!S_ISREG(t->st.st_mode))
		return;
	snprintf(link, sizeof(link), "self/fd/%d", t->fd);
	(void)setxattr(link, FVM_OWNER_XATTR, FVM_OWNER_OF_HOST, strlen(FVM_OWNER_OF_HOST), 0);
}

void notify_give_back(struct supervisor *sup, const struct target *t,
		      const struct fvm_host_owner *o)
{
	const struct fvm_owner owner = { .uid = o->uid, .gid = o->gid };
	uid_t uid = is_real(sup, o->uid, sup->ids->uid) ? o->uid : 0;
	gid_t gid = is_real(sup, o->gid, sup->ids->gid) ? o->gid : 0;
	mode_t mode = t->st.st_mode & 07777;
	if (!o->known) {
		mark_as_hosts(t);
		return;
	}
	if ((uid || gid) && fchownat(t->fd, "", uid, gid, AT_EMPTY_PATH) == 0 &&
	    S_ISREG(t->st.st_mode) && (mode & (S_ISUID | S_ISGID))) {
		char link[32];
		snprintf(link, sizeof(link), "self/fd/%d", t->fd);
		(void)chmod(link, mode);
	}
	bool is_users = o->uid == sup->ids->uid || o->gid == sup->ids->gid;
	if ((uid != o->uid || gid != o->gid) && !is_users)
		write_record(sup, t, &owner);
}

/* With ranges of ids: whether the task may write the file, as its owner and mode on the host say.
 * Root may, and who is root by another name. */
static bool may_write(const struct call *c, const struct target *t, const struct fvm_host_owner *o)
{
	uint32_t uid = notify_kernel_uid(c);
	if (c->sup->map)
		uid -= c->sup->map->base;
	return uid == 0 || (t->st.st_mode & 0002) || (o->uid == uid && (t->st.st_mode & 0200));
}

/**
 * adopt() - adopt the target if need be, and look at it anew
 * Return: 0, -EINPROGRESS (a child is at it: LATER), or negative errno (let the kernel say no)
 */
static int adopt(struct call *c, struct target *t, bool empty)
{
	char name[NAME_MAX + 1];
	if (!wants_adoption(c, t))
		return 0;
	scoped_fd dir = notify_parent(c, t, name);
	if (dir < 0)
		return dir;
	if (!notify_valid(c))
		return -ESRCH;
	const struct fvm_host_owner owner = owner_of_target(c->sup, t);
	if (!c->sup->one_id && !may_write(c, t, &owner))
		return -EACCES;
	const struct stat old = t->st;
	const long long limit = t->by_fd ? BY_FD_COPY : SMALL_COPY;
	bool large = S_ISREG(old.st_mode) && old.st_blocks * 512LL > limit && !empty;
	if (large || copies_find(c->sup, &t->st))
		return copies_add(c, dir, name, &t->st, &owner);
	notify_take_owner(c->sup, &t->st);
	int r = fvm_adopt(dir, name, &t->st, empty);
	notify_be_root(c->sup);
	if (r < 0)
		return r;
	int fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &t->st) < 0) {
		fvm_fd_closep(&fd);
		return -ESTALE;
	}
	close(t->fd);
	t->fd = fd;
	t->old = t->by_fd;
	notify_adopted(c->sup, &old, t);
	if (!c->sup->map)
		notify_give_back(c->sup, t, &owner);
	return 0;
}

static enum verdict after(int r)
{
	return r == -EINPROGRESS ? LATER : GO_ON;
}

enum verdict on_adopt(struct call *c, const struct file_call *f)
{
	struct target t;
	if (notify_target(c, f, &t) < 0)
		return GO_ON;
	int r = adopt(c, &t, false);
	close(t.fd);
	return after(r);
}

/* ---- open ---- */

static enum verdict open_target(struct call *c, int dir, uint64_t path_at, uint64_t flags)
{
	char path[PATH_MAX];
	struct target t;
	bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC);
	if ((flags & (O_PATH | __O_TMPFILE)) || !writes ||
	    (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
		return GO_ON;
	if (notify_string(c, path_at, path, sizeof(path)) <= 0 ||
	    notify_resolve(c, dir, path, flags & O_NOFOLLOW ? NO_FOLLOW : FOLLOW, &t) < 0)
		return GO_ON;
	int r = S_ISREG(t.st.st_mode) ? adopt(c, &t, flags & O_TRUNC) : 0;
	close(t.fd);
	return after(r);
}

enum verdict on_open(struct call *c, const struct file_call *f)
{
	return open_target(c, f->dir >= 0 ? (int)c->args[f->dir] : AT_FDCWD, c->args[f->path],
			   f->flags >= 0 ? c->args[f->flags] : O_CREAT | O_WRONLY | O_TRUNC);
}

enum verdict on_openat2(struct call *c, const struct file_call *f)
{
	struct open_how how;
	(void)f;
	if (c->args[3] < sizeof(how) || notify_read(c, c->args[2], &how, sizeof(how)) < 0)
		return GO_ON;
	return open_target(c, (int)c->args[0], c->args[1], how.flags);
}

/* ---- access ---- */

/* Programs that ask before they write are told what writing would do; nothing is copied yet. */
enum verdict on_access(struct call *c, const struct file_call *f)
{
	struct target t;
	unsigned int mode = (unsigned int)c->args[f->path + 1];
	if (notify_target(c, f, &t) < 0)
		return GO_ON;
	const struct fvm_host_owner owner = owner_of_target(c->sup, &t);
	if (c->sup->map && !may_write(c, &t, &owner)) {
		close(t.fd);
		return GO_ON;
	}
	bool yes = S_ISREG(t.st.st_mode) && wants_adoption(c, &t) &&
		   (!(mode & X_OK) || (t.st.st_mode & 0111));
	close(t.fd);
	return yes ? answer(c, 0) : GO_ON;
}

/* ---- owners ---- */

/* Return: 0, -EAGAIN (it is the host's, whose owner nobody knows), or another negative errno */
static int read_record(const struct target *t, struct fvm_owner *ret)
{
	char link[32], text[64];
	if (!S_ISREG(t->st.st_mode) && !S_ISDIR(t->st.st_mode))
		return -ENODATA;
	snprintf(link, sizeof(link), "self/fd/%d", t->fd);
	ssize_t n = getxattr(link, FVM_OWNER_XATTR, text, sizeof(text));
	if (n == (ssize_t)strlen(FVM_OWNER_OF_HOST) &&
	    memcmp(text, FVM_OWNER_OF_HOST, (size_t)n) == 0)
		return -EAGAIN;
	return n < 0 ? -errno : fvm_owner_parse(text, (size_t)n, ret);
}

const struct fvm_tree *notify_tree(const struct supervisor *sup, const char *path,
				   const char **ret_rel)
{
	const struct fvm_tree *best = NULL; /* trees are sorted */
	for (size_t i = 0; i < sup->trees->count; i++) {
		if (fvm_path_below(path, sup->trees->items[i].path))
			best = &sup->trees->items[i];
	}
	if (!best)
		return NULL;
	*ret_rel = path + (best->path[1] ? strlen(best->path) : 0);
	*ret_rel += **ret_rel == '/';
	return best;
}

/* For what can't carry an xattr. */
static void list_record(struct supervisor *sup, const struct target *t,
			const struct fvm_owner *owner)
{
	char link[32], path[PATH_MAX];
	scoped_buf line = { 0 };
	snprintf(link, sizeof(link), "self/fd/%d", t->fd);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	if (n <= 0 || sup->owners < 0)
		return;
	path[n] = '\0';
	const char *rel;
	const struct fvm_tree *tree = notify_tree(sup, path, &rel);
	if (!tree)
		return;
	notify_remember(sup, path, t->st.st_ino, owner);
	fvm_owners_line(&line, owner, t->st.st_ino, tree->key, rel);
	if (!line.failed)
		(void)fvm_write_all(sup->owners, line.data, line.len);
}

static void write_record(struct supervisor *sup, const struct target *t,
			 const struct fvm_owner *owner)
{
	char link[32], text[64];
	notify_owners_change(sup);
	if (!S_ISREG(t->st.st_mode) && !S_ISDIR(t->st.st_mode)) {
		list_record(sup, t, owner);
		return;
	}
	fvm_owner_format(owner, text, sizeof(text));
	snprintf(link, sizeof(link), "self/fd/%d", t->fd);
	(void)setxattr(link, FVM_OWNER_XATTR, text, strlen(text), 0);
}

static bool keeps_records(const struct target *t)
{
	bool read_only;
	long fs = notify_fs(t, &read_only);
	return (fs == OVERLAYFS_SUPER_MAGIC || fs == TMPFS_MAGIC || fs == DEVPTS_SUPER_MAGIC) &&
	       !read_only;
}

/* As chown(2) does for files, but not for directories. */
static void drop_set_id(const struct target *t)
{
	char link[32];
	if (!S_ISREG(t->st.st_mode) || !(t->st.st_mode & (S_ISUID | S_ISGID)))
		return;
	snprintf(link, sizeof(link), "self/fd/%d", t->fd);
	(void)chmod(link, t->st.st_mode & 01777);
}

/* An id that the kernel can give: with ranges all but the user's @own, which are VM root's. */
static bool is_real(const struct supervisor *sup, uint32_t id, uint32_t own)
{
	return id == NO_ID || (id <= sup->ids->count && id != own);
}

static uint32_t held_as(const struct supervisor *sup, uint32_t id, uint32_t own)
{
	return is_real(sup, id, own) ? id : 0;
}

/* The kernel does it, unless it would do it to the file that an adoption has replaced. */
static enum verdict give(struct call *c, const struct target *t, uint32_t uid, uint32_t gid)
{
	if (!t->old)
		return GO_ON;
	return answer(c, fchownat(t->fd, "", uid, gid, AT_EMPTY_PATH) < 0 ? -errno : 0);
}

static enum verdict chown_target(struct call *c, struct target *t, uint32_t uid, uint32_t gid)
{
	struct fvm_owner owner = { 0 };
	int r = adopt(c, t, false);
	if (r < 0)
		return after(r);
	r = read_record(t, &owner);
	/* half of what nobody knows is not to be had */
	if (r == -EAGAIN && (uid == NO_ID || gid == NO_ID))
		return answer(c, 0);
	bool known = r == 0 || r == -EAGAIN;
	/* whose it was said to be, for the half that does not change, and to be taken back */
	if (!known && c->sup->one_id)
		known = notify_owner(c, t, &owner);
	if (c->sup->ids->count && !known && is_real(c->sup, uid, c->sup->ids->uid) &&
	    is_real(c->sup, gid, c->sup->ids->gid))
		return give(c, t, uid, gid);
	bool ours = (uid == 0 || uid == NO_ID) && (gid == 0 || gid == NO_ID);
	if (ours && !known)
		return give(c, t, uid, gid);
	if (notify_is_nobodys(c, t) || !keeps_records(t))
		return GO_ON;
	owner.uid = uid == NO_ID ? owner.uid : uid;
	owner.gid = gid == NO_ID ? owner.gid : gid;
	write_record(c->sup, t, &owner);
	if (ours)
		return give(c, t, uid, gid);
	if (c->sup->ids->count)
		(void)!fchownat(t->fd, "", held_as(c->sup, uid, c->sup->ids->uid),
				held_as(c->sup, gid, c->sup->ids->gid), AT_EMPTY_PATH);
	drop_set_id(t);
	return answer(c, 0);
}

/* Only the VM's root may give files away; the kernel says what it has to say to others. */
enum verdict on_chown(struct call *c, const struct file_call *f)
{
	struct target t;
	int at = f->path >= 0 ? f->path + 1 : f->dir + 1;
	if (c->sup->map)
		return f->path >= 0 ? on_adopt(c, f) : GO_ON;
	if (!notify_is_root(c) || notify_target(c, f, &t) < 0)
		return GO_ON;
	notify_follow_old(c, &t);
	enum verdict v = chown_target(c, &t, (uint32_t)c->args[at], (uint32_t)c->args[at + 1]);
	close(t.fd);
	return v;
}

/* ---- modes and devices ---- */

static enum verdict chmod_target(struct call *c, struct target *t, mode_t mode)
{
	struct fvm_owner owner;
	char link[32];
	int r = adopt(c, t, false);
	if (r < 0)
		return after(r);
	if (!c->sup->map && read_record(t, &owner) == 0 && owner.has_mode) {
		owner.mode = (owner.mode & S_IFMT) | (mode & 07777);
		write_record(c->sup, t, &owner);
	}
	if (!t->old || notify_is_nobodys(c, t) ||
	    (c->sup->map && notify_kernel_uid(c) != c->sup->map->base))
		return GO_ON;
	snprintf(link, sizeof(link), "self/fd/%d", t->fd);
	return answer(c, chmod(link, mode & 07777) < 0 ? -errno : 0);
}

enum verdict on_chmod(struct call *c, const struct file_call *f)
{
	struct target t;
	if (notify_target(c, f, &t) < 0)
		return GO_ON;
	notify_follow_old(c, &t);
	enum verdict v = chmod_target(c, &t, (mode_t)c->args[f->path + 1]);
	close(t.fd);
	return v;
}

static mode_t umask_of(const struct call *c)
{
	char path[32], *text = NULL;
	unsigned int mask = 022;
	snprintf(path, sizeof(path), "%u/status", c->req->pid);
	if (fvm_read_file(AT_FDCWD, path, 65536, &text, NULL) == 0) {
		const char *line = strstr(text, "\nUmask:");
		if (line)
			mask = (unsigned int)strtoul(line + 7, NULL, 8);
	}
	free(text);
	return mask & 0777;
}

/* An empty file stands for the device; what it was meant to be is recorded. */
static int make_stand_in(struct call *c, int dir, const char *path, mode_t mode, dev_t dev)
{
	char top[PATH_MAX];
	struct target t;
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	snprintf(top, sizeof(top), "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
	if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return -EEXIST;
	int r = notify_resolve(c, dir, top, FOLLOW, &t);
	if (r < 0)
		return r;
	scoped_fd parent = t.fd;
	mode_t bits = mode & 07777 & ~umask_of(c);
	if (!notify_valid(c))
		return -ESRCH;
	scoped_fd made =
		openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (made < 0)
		return -errno;
	const struct fvm_owner owner = { .mode = (mode & S_IFMT) | bits,
					 .rdev = dev,
					 .has_mode = true };
	t.fd = made;
	if (fchmod(made, bits & 0666) < 0 || fstat(made, &t.st) < 0)
		return -errno;
	write_record(c->sup, &t, &owner);
	return 0;
}

enum verdict on_mknod(struct call *c, const struct file_call *f)
{
	char path[PATH_MAX];
	mode_t mode = (mode_t)c->args[f->path + 1];
	uint32_t dev = (uint32_t)c->args[f->path + 2];
	if (c->sup->map)
		return GO_ON;
	if ((!S_ISCHR(mode) && !S_ISBLK(mode)) || (S_ISCHR(mode) && dev == 0) ||
	    !notify_is_root(c) || notify_string(c, c->args[f->path], path, sizeof(path)) <= 0)
		return GO_ON;
	/* the kernel's 32 bits: 12 of major between 8 and 12 of minor */
	dev_t wished = makedev((dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xfff00));
	int dir = f->dir >= 0 ? (int)c->args[f->dir] : AT_FDCWD;
	return answer(c, make_stand_in(c, dir, path, mode, wished));
}

/* ---- rename; with exchange both names are old ones ---- */

enum verdict on_rename(struct call *c, const struct file_call *f)
{
	notify_owners_change(c->sup);
	return on_adopt(c, f);
}

enum verdict on_renameat2(struct call *c, const struct file_call *f)
{
	static const struct file_call new_name = { 2, 3, -1, BY_NAME };
	enum verdict v = on_rename(c, f);
	if (v == LATER || !(c->args[4] & RENAME_EXCHANGE))
		return v;
	return on_adopt(c, &new_name);
}
