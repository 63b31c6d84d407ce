/*
 * Whether a change may be committed: what never is, what this user may not, what would run with
 * more rights than its caller's, and what the VM could not see.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fvm/commit_priv.h"
#include "fvm/hide_record.h"
#include "fvm/inode.h"
#include "fvm/owners.h"
#include "fvm/subids.h"

static bool in_groups(gid_t gid)
{
	static gid_t groups[1024]; /* those of the process, asked for once */
	static int count = -1;
	if (count < 0)
		count = getgroups((int)FVM_COUNT(groups), groups);
	if (gid == getegid())
		return true;
	for (int i = 0; i < count; i++) {
		if (groups[i] == gid)
			return true;
	}
	return false;
}

/* Why an ordinary user can't do it, or NULL. */
static const char *rights_missing(const struct fvm_change *ch, int parent)
{
	struct stat dir;
	uid_t me = geteuid();
	if (me == 0)
		return NULL;
	if (ch->now && ch->now->st_uid != me)
		return "its owner would be somebody else: only root can commit it";
	if (ch->now && !in_groups(ch->now->st_gid))
		return "its group is none of yours: only root can commit it";
	if (ch->kind == FVM_META && S_ISDIR(ch->now->st_mode))
		return ch->was->st_uid == me ? NULL : "the directory is not yours";
	if (parent < 0)
		return NULL; /* new, like itself */
	if (faccessat(parent, ".", W_OK | X_OK, AT_EACCESS) < 0)
		return "you may not write in its directory";
	if (fvm_subids_fstat(parent, &dir) == 0 && (dir.st_mode & S_ISVTX) && dir.st_uid != me &&
	    ch->was && ch->was->st_uid != me)
		return "it belongs to somebody else, in a sticky directory";
	if (ch->was && S_ISDIR(ch->was->st_mode) &&
	    faccessat(parent, ch->name, W_OK, AT_EACCESS | AT_SYMLINK_NOFOLLOW) < 0)
		return "you may not move that directory away";
	return NULL;
}

#define ACL_BYTES 65536 /* XATTR_SIZE_MAX */

static ssize_t acl_read(int dir, const char *name, const char *which, char ret[ACL_BYTES])
{
	scoped_free char *link = NULL;
	if (dir >= 0 && asprintf(&link, "/proc/self/fd/%d/%s", dir, name) >= 0)
		return lgetxattr(link, which, ret, ACL_BYTES);
	link = NULL;
	return -1;
}

/* The next entry that names a user or group, from *@at on. */
static bool acl_next(const char *acl, ssize_t len, size_t *at, struct posix_acl_xattr_entry *ret)
{
	if (*at == 0)
		*at = sizeof(struct posix_acl_xattr_header);
	while (len > 0 && *at + sizeof(*ret) <= (size_t)len) {
		memcpy(ret, acl + *at, sizeof(*ret));
		*at += sizeof(*ret);
		if (le16toh(ret->e_tag) == ACL_USER || le16toh(ret->e_tag) == ACL_GROUP)
			return true;
	}
	return false;
}

/* Whether it names somebody who has no id here. */
static bool acl_is_unknown(const char *acl, ssize_t len)
{
	struct posix_acl_xattr_entry e;
	for (size_t at = 0; acl_next(acl, len, &at, &e);) {
		if (le32toh(e.e_id) == (uint32_t)-1)
			return true;
	}
	return false;
}

static bool acl_has(const char *acl, ssize_t len, const struct posix_acl_xattr_entry *wanted)
{
	struct posix_acl_xattr_entry e;
	for (size_t at = 0; acl_next(acl, len, &at, &e);) {
		if (e.e_tag == wanted->e_tag && e.e_id == wanted->e_id)
			return true;
	}
	return false;
}

/* Whether @now names somebody else than @was does, and than the VM's owner. */
static bool acl_gains(const struct commit_check *k, const char *now, ssize_t n, const char *was,
		      ssize_t w)
{
	struct posix_acl_xattr_entry e;
	for (size_t at = 0; acl_next(now, n, &at, &e);) {
		const uint32_t own = le16toh(e.e_tag) == ACL_USER ? k->owner : k->group;
		if (le32toh(e.e_id) != own && !acl_has(was, w, &e))
			return true;
	}
	return false;
}

/*
 * Access lists of a VM without privileges name ids as the layer's file system has them: those of
 * others in the VM are the user's subordinate ones. And where he has such, a commit runs among
 * them, and can neither write nor bring back a list that names anybody else of the host.
 */
static const char *acl_refused(const struct commit_check *k, const struct fvm_change *ch)
{
	static const char *const all[] = { "system.posix_acl_access", "system.posix_acl_default" };
	char now[ACL_BYTES], was[ACL_BYTES];
	if (!k->vm->config.rootless || !ch->now || S_ISLNK(ch->now->st_mode))
		return NULL;
	for (size_t i = 0; i < FVM_COUNT(all); i++) {
		ssize_t n = acl_read(ch->layer_dir, ch->name, all[i], now);
		ssize_t w = acl_read(ch->base_dir, ch->name, all[i], was);
		if (acl_is_unknown(now, n) || (S_ISDIR(ch->now->st_mode) && acl_is_unknown(was, w)))
			return "its access list names somebody your VMs have no id for: only root "
			       "can commit it";
		if (acl_gains(k, now, n, was, w))
			return "its access list names ids that only the VM has: take them out by "
			       "setfacl";
	}
	return NULL;
}

bool commit_has_caps(const struct fvm_change *ch)
{
	scoped_free char *link = NULL;
	if (asprintf(&link, "/proc/self/fd/%d/%s", ch->layer_dir, ch->name) < 0) {
		link = NULL;
		return true;
	}
	return lgetxattr(link, "security.capability", NULL, 0) > 0;
}

static bool has_mount_below(const struct commit_check *k, const char *path)
{
	fvm_strv_each(&k->mounts, i) {
		if (fvm_path_below(k->mounts.items[i], path))
			return true;
	}
	return false;
}

/* What the host's user who made a rootless VM could not read, the VM has never seen. */
static bool is_stand_in(const struct commit_check *k, const struct fvm_change *ch)
{
	if (ch->unreadable)
		return true;
	const struct stat *was = ch->was;
	return k->vm->config.rootless && was && S_ISREG(was->st_mode) && was->st_uid != k->owner &&
	       !(was->st_mode & 0044) && ch->kind == FVM_CHANGED;
}

static const char *refused(const struct commit_check *k, const struct fvm_change *ch)
{
	if (ch->now && ch->now->st_uid == FVM_OWNER_UNKNOWN)
		return "whose it is the VM never knew, and it was moved: chown it in the VM";
	if (ch->now && (S_ISBLK(ch->now->st_mode) || S_ISCHR(ch->now->st_mode)))
		return "a device is never committed";
	if (is_stand_in(k, ch))
		return "the VM never saw the host's file, only a stand-in for it";
	if (ch->was && S_ISDIR(ch->was->st_mode) && !(ch->now && S_ISDIR(ch->now->st_mode)) &&
	    has_mount_below(k, ch->path))
		return "another file system is mounted in it";
	return NULL;
}

/*
 * What runs with more rights than its caller's, and did not before. A package's upgrade replaces
 * such files with new ones of the same owner and bits: that is no more than what it does to the
 * programs that root runs, and root's programs are whoever's commit this is to trust.
 */
static bool gains_privilege(const struct fvm_change *ch)
{
	const struct stat *now = ch->now, *was = ch->was;
	if (!now || !S_ISREG(now->st_mode))
		return false;
	bool same = was && S_ISREG(was->st_mode) && was->st_uid == now->st_uid &&
		    was->st_gid == now->st_gid;
	mode_t bits = now->st_mode & (S_ISUID | S_ISGID);
	if (bits & ~(same ? was->st_mode : 0))
		return true;
	/* who may start it counts as well */
	if (bits && (now->st_mode & ~was->st_mode & 0111))
		return true;
	return commit_has_caps(ch) && (!same || (ch->meta & FVM_META_CAPS));
}

const char *commit_check(const struct commit_check *k, const struct fvm_change *ch, int parent,
			 enum fvm_problem_kind *ret_kind)
{
	const char *why = refused(k, ch);
	*ret_kind = FVM_PROBLEM_REFUSED;
	if (why)
		return why;
	*ret_kind = FVM_PROBLEM_RIGHTS;
	why = rights_missing(ch, parent);
	if (!why)
		why = acl_refused(k, ch);
	if (why)
		return why;
	*ret_kind = FVM_PROBLEM_SETID;
	return !k->allow_setid && gains_privilege(ch)
		       ? "it would run with more rights than its caller's (set-id, capabilities)"
		       : NULL;
}

static bool host_has(const struct commit_check *k, const char *path)
{
	scoped_fd there = fvm_open_deep(k->host, path + 1, O_PATH);
	return there >= 0 || there == -EXDEV;
}

/* What the VM could not see it can't have meant to replace or to delete. */
const char *commit_check_hidden(const struct commit_check *k, const struct fvm_change *ch)
{
	const char *below;
	size_t at = 0;
	if (!k->hide)
		return NULL;
	if (ch->hidden && host_has(k, ch->path))
		return "the host has something there that was hidden from the VM";
	if (!ch->was || !S_ISDIR(ch->was->st_mode) || (ch->now && S_ISDIR(ch->now->st_mode)))
		return NULL;
	while ((below = fvm_hide_record_below(k->hide, ch->path, &at))) {
		if (host_has(k, below))
			return "the host has something in it that was hidden from the VM";
	}
	return NULL;
}

/* The host's mount points, as paths below @host. */
static int read_mounts(int host, struct fvm_strv *ret)
{
	char top[4096], link[40], *line = NULL;
	size_t size = 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", host);
	ssize_t n = readlink(link, top, sizeof(top) - 1);
	FILE *f = fopen("/proc/self/mountinfo", "re");
	int r = n < 0 || !f ? -errno : 0;
	if (r == 0)
		top[n == 1 ? 0 : n] = '\0'; /* "/" is no prefix */
	while (r == 0 && getline(&line, &size, f) > 0) {
		scoped_free char *point = NULL;
		if (sscanf(line, "%*s %*s %*s %*s %ms", &point) != 1)
			continue;
		fvm_unoctal(point);
		if (fvm_path_below(point, *top ? top : "/") && point[strlen(top)] == '/')
			r = fvm_strv_add(ret, point + strlen(top));
	}
	free(line);
	if (f)
		fclose(f);
	return r;
}

int commit_check_init(struct commit_check *k, int host, const struct fvm_vm *vm,
		      const struct fvm_hide_record *hide, bool allow_setid)
{
	struct stat store;
	*k = (struct commit_check){
		.vm = vm, .hide = hide, .host = host, .allow_setid = allow_setid
	};
	bool known = fstat(vm->dir, &store) == 0;
	k->owner = known ? store.st_uid : geteuid();
	k->group = known ? store.st_gid : getegid();
	return read_mounts(host, &k->mounts);
}
