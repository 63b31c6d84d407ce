/*
 * One directory of the skeleton made what the host's is: the only code that writes the layer.
 *
 * It serves three times: to make a directory that is not there, to bring one up to date, and, dry,
 * to find out whether that is needed. Every step can be done again after a crash.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fvm/adopt.h"
#include "fvm/skeleton_priv.h"

#define COPY_LIMIT (256LL << 20) /* larger files stay the host's */
#define ETC_LIMIT  (32LL << 20)
#define MAX_SHARED 1024 /* each takes the first start 0.1 ms, and every check 1 us */

static const char *const tops[] = { "/usr", "/etc",  "/var", "/opt",   "/srv",	 "/boot",  "/root",
				    "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32" };

bool fvm_skeleton_has(const char *path)
{
	for (size_t i = 0; i < FVM_COUNT(tops); i++) {
		if (fvm_path_below(path, tops[i]))
			return true;
	}
	return false;
}

static int sync_dir(struct skel_walk *w, int host, int skel, const char *path, bool fresh);

/* ---- files ---- */

static bool readable(int dir, const char *name)
{
	return faccessat(dir, name, R_OK, AT_EACCESS) == 0;
}

/* What the layer needs for the host's @name; 0: nothing, the host's own is good. */
static int wanted(int host, const char *name, const struct stat *st, bool etc)
{
	if (S_ISLNK(st->st_mode))
		return etc ? SKEL_COPY : 0;
	if (!S_ISREG(st->st_mode))
		return 0;
	if (etc)
		return readable(host, name) ? (st->st_size <= ETC_LIMIT ? SKEL_COPY : 0)
					    : SKEL_WHITEOUT;
	bool odd_exec = (st->st_mode & 0111) && !(st->st_mode & 0001);
	if ((st->st_mode & 0004) && !odd_exec)
		return 0;
	if (!readable(host, name))
		return SKEL_WHITEOUT;
	if (odd_exec && faccessat(host, name, X_OK, AT_EACCESS) < 0 && st->st_size <= COPY_LIMIT)
		return SKEL_COPY;
	return 0;
}

/* What a stranger who is root where he is would miss (base.h): his ids are not the file's. */
static int wanted_by_root(int host, const char *name, const struct stat *st, bool etc)
{
	char path[NAME_MAX + 40];
	struct stat dir;
	if (S_ISLNK(st->st_mode))
		return etc ? SKEL_COPY : 0;
	if (!S_ISREG(st->st_mode) || st->st_size > (etc ? ETC_LIMIT : COPY_LIMIT))
		return 0;
	if (etc || !(st->st_mode & 0004) || (st->st_mode & (S_ISUID | S_ISGID)))
		return SKEL_COPY;
	/* where the sticky bit is, strangers' files can't be removed */
	if (fstat(host, &dir) == 0 && (dir.st_mode & S_ISVTX))
		return SKEL_COPY;
	if (!(st->st_mode & 0111))
		return 0;
	if (!(st->st_mode & 0001))
		return SKEL_COPY;
	snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", host, name);
	return lgetxattr(path, "security.capability", NULL, 0) > 0 ? SKEL_COPY : 0;
}

/* "name:..." lines of passwd or group become locked entries of shadow or gshadow */
static int make_standin(int host, int skel, const char *name)
{
	bool group = name[0] == 'g';
	scoped_free char *text = NULL;
	scoped_buf out = { 0 };
	int r = fvm_read_file(host, group ? "group" : "passwd", 16 << 20, &text, NULL);
	if (r < 0)
		return r;
	for (char *line = text; *line;) {
		size_t n = strcspn(line, "\n"), user = strcspn(line, ":\n");
		if (user && user < n && line[user] == ':')
			fvm_buf_printf(&out, "%.*s:*:%s\n", (int)user, line,
				       group ? ":" : "19000:0:99999:7:::");
		line += n + (line[n] == '\n');
	}
	if (out.failed)
		return -ENOMEM;
	r = fvm_write_file_atomic(skel, name, out.data ? out.data : "", out.len, false);
	if (r == 0 && fchmodat(skel, name, 0640, 0) < 0)
		r = -errno;
	return r;
}

/* Of @from, which is open or a name in @dir. Labels of security modules stay behind. */
static void copy_acls(const char *from, const char *to)
{
	static const char *const names[] = { "system.posix_acl_access",
					     "system.posix_acl_default" };
	char value[4096];
	for (size_t i = 0; i < FVM_COUNT(names); i++) {
		ssize_t n = lgetxattr(from, names[i], value, sizeof(value));
		if (n > 0)
			(void)lsetxattr(to, names[i], value, (size_t)n, 0);
	}
}

/* chown(2) takes set-id bits and capabilities away, which come back then. */
static int keep_owner(int host, const char *name, int skel, const char *copy, const struct stat *st)
{
	char from[NAME_MAX + 40], to[NAME_MAX + 40], caps[64];
	if (fchownat(skel, copy, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (S_ISLNK(st->st_mode))
		return 0;
	snprintf(from, sizeof(from), "/proc/self/fd/%d/%s", host, name);
	snprintf(to, sizeof(to), "/proc/self/fd/%d/%s", skel, copy);
	if (fchmodat(skel, copy, st->st_mode & 07777, 0) < 0)
		return -errno;
	ssize_t n = lgetxattr(from, "security.capability", caps, sizeof(caps));
	if (n > 0)
		(void)lsetxattr(to, "security.capability", caps, (size_t)n, 0);
	copy_acls(from, to);
	return 0;
}

static int make_copy(const struct skel_walk *w, int host, int skel, const char *name,
		     const struct stat *st)
{
	static const char temp[] = ".fvm-skeleton";
	(void)unlinkat(skel, temp, 0);
	int r = fvm_copy_entry(host, name, skel, temp, st);
	if (r == 0 && w->tops)
		r = keep_owner(host, name, skel, temp, st);
	if (r < 0)
		return r;
	return renameat(skel, temp, skel, name) < 0 ? -errno : 0;
}

/* Whether the layer has already what it should. */
static bool has_already(const struct skel_walk *w, int skel, const char *name, int kind,
			const struct stat *st)
{
	struct stat is;
	if (fstatat(skel, name, &is, AT_SYMLINK_NOFOLLOW) < 0)
		return false;
	if (kind == SKEL_WHITEOUT)
		return S_ISCHR(is.st_mode) && is.st_rdev == 0;
	if (w->tops && (is.st_uid != st->st_uid || is.st_gid != st->st_gid))
		return false;
	return (is.st_mode & (S_IFMT | 07777)) == (st->st_mode & (S_IFMT | 07777)) &&
	       is.st_size == st->st_size && is.st_mtim.tv_sec == st->st_mtim.tv_sec &&
	       is.st_mtim.tv_nsec == st->st_mtim.tv_nsec;
}

static int clear_way(int skel, const char *name)
{
	if (unlinkat(skel, name, 0) == 0 || errno == ENOENT)
		return 0;
	return errno == EISDIR || errno == EPERM ? fvm_remove_tree(skel, name) : -errno;
}

static int sync_file(struct skel_walk *w, int host, int skel, const char *name,
		     const struct stat *st, int kind)
{
	if (kind != SKEL_STANDIN && has_already(w, skel, name, kind, st))
		return 0;
	struct stat is;
	if (kind != SKEL_STANDIN || fstatat(skel, name, &is, 0) < 0)
		w->differs = true;
	if (w->dry)
		return 0;
	if (kind == SKEL_STANDIN)
		return make_standin(host, skel, name);
	if (kind == SKEL_COPY && fstatat(skel, name, &is, AT_SYMLINK_NOFOLLOW) == 0 &&
	    !S_ISDIR(is.st_mode))
		return make_copy(w, host, skel, name, st);
	int r = clear_way(skel, name);
	if (r < 0)
		return r;
	if (kind == SKEL_COPY)
		return make_copy(w, host, skel, name, st);
	return mknodat(skel, name, S_IFCHR, 0) < 0 ? -errno : 0;
}

static void note_owner(struct skel_walk *w, const struct stat *st, const char *path)
{
	if (!w->tops && (st->st_uid != 0 || st->st_gid != 0))
		skel_add(&w->list, S_ISDIR(st->st_mode) ? SKEL_OWNED_DIR : SKEL_OWNED_FILE,
			 (int64_t)((uint64_t)st->st_uid << 32 | st->st_gid), path);
}

/* Return: the kind if the layer has something for it, 0 if not, or negative errno */
static int do_file(struct skel_walk *w, int host, int skel, const char *path, const char *name)
{
	struct stat st;
	bool etc = fvm_path_below(path, "/etc");
	if (fstatat(host, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
		return errno == ENOENT ? 0 : -errno;
	char full[PATH_MAX];
	if (snprintf(full, sizeof(full), "%s/%s", path, name) >= (int)sizeof(full))
		return 0;
	int kind = w->tops ? wanted_by_root(host, name, &st, etc) : wanted(host, name, &st, etc);
	if (kind != SKEL_WHITEOUT)
		note_owner(w, &st, full);
	if (kind == 0)
		return 0;
	if (kind == SKEL_WHITEOUT && strcmp(path, "/etc") == 0 &&
	    (strcmp(name, "shadow") == 0 || strcmp(name, "gshadow") == 0))
		kind = SKEL_STANDIN;
	int r = sync_file(w, host, skel, name, &st, kind);
	/* gone or changed meanwhile, as the ctimes will tell, or not readable after all */
	if (r < 0 && r != -ENOSPC && r != -EDQUOT && r != -ENOMEM && r != -EROFS)
		return 0;
	if (r < 0)
		return r;
	skel_add(&w->list, (enum skel_kind)kind, skel_ctime(&st), full);
	return kind;
}

/* ---- directories ---- */

/* Opens the host's directory. Return: descriptor, or -EACCES when it is not for us */
static int open_host(int host, const char *name)
{
	int fd = openat(host, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (faccessat(fd, ".", X_OK, AT_EACCESS) == 0)
		return fd;
	close(fd);
	return -EACCES;
}

static int finish_dir(struct skel_walk *w, int skel, const struct stat *st)
{
	struct stat is;
	const struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, st->st_mtim };
	if (w->dry)
		return 0;
	if (fstat(skel, &is) < 0)
		return -errno;
	if ((is.st_mode & 07777) != (st->st_mode & 07777) && fchmod(skel, st->st_mode & 07777) < 0)
		return -errno;
	return futimens(skel, times) < 0 ? -errno : 0;
}

static int own_dir(int host, int skel, const struct stat *st)
{
	char from[32], to[32];
	if (fchown(skel, st->st_uid, st->st_gid) < 0)
		return -errno;
	snprintf(from, sizeof(from), "/proc/self/fd/%d/.", host);
	snprintf(to, sizeof(to), "/proc/self/fd/%d/.", skel);
	copy_acls(from, to);
	return 0;
}

static void note_progress(struct skel_walk *w)
{
	w->done++;
	if (w->progress && w->done % 256 == 0)
		w->progress->fn(w->progress->arg, w->done, w->total);
}

/* The layer's directory @name, made if need be and for us to write. */
static int open_skel(struct skel_walk *w, int skel, const char *name, bool *ret_fresh)
{
	struct stat st;
	int r = fstatat(skel, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
	*ret_fresh = r < 0 || !S_ISDIR(st.st_mode);
	if (*ret_fresh) {
		w->differs = true;
		if (w->dry)
			return -ENOENT;
		if (r == 0 && (r = clear_way(skel, name)) < 0)
			return r;
		if (mkdirat(skel, name, 0700) < 0)
			return -errno;
	} else if ((st.st_mode & 0700) != 0700 && !w->dry && fchmodat(skel, name, 0700, 0) < 0) {
		return -errno;
	}
	int fd = openat(skel, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static bool is_opaque(int skel)
{
	char value;
	return fgetxattr(skel, "user.overlay.opaque", &value, 1) == 1 && value == 'y';
}

/* The directory becomes one without content. */
static int make_opaque(struct skel_walk *w, int skel, const char *name)
{
	bool fresh;
	scoped_fd fd = open_skel(w, skel, name, &fresh);
	if (fd >= 0 && is_opaque(fd))
		return 0;
	w->differs = true;
	if (w->dry)
		return 0;
	if (fd < 0)
		return fd;
	int r = fvm_remove_tree(skel, name);
	if (r < 0)
		return r;
	if (mkdirat(skel, name, 0700) < 0)
		return -errno;
	scoped_fd again = openat(skel, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (again < 0 || fsetxattr(again, "user.overlay.opaque", "y", 1, 0) < 0)
		return -errno;
	return 0;
}

static int do_opaque(struct skel_walk *w, int host, int skel, const char *path, const char *name)
{
	struct stat st;
	if (fstatat(host, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
		return errno == ENOENT ? 0 : -errno;
	int r = make_opaque(w, skel, name);
	if (r < 0)
		return r;
	skel_add(&w->list, SKEL_OPAQUE, skel_ctime(&st), path);
	note_owner(w, &st, path);
	scoped_fd fd = w->dry ? -1 : openat(skel, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? 0 : finish_dir(w, fd, &st);
}

static int remove_others(struct skel_walk *w, int skel, const struct fvm_strv *kept)
{
	scoped_dir d = fvm_dir_open(skel, ".");
	if (!d)
		return -errno;
	int r = 0;
	for (struct dirent *e; r == 0 && (e = fvm_dir_next(d));) {
		if (fvm_strv_sorted_has(kept, e->d_name))
			continue;
		w->differs = true;
		if (!w->dry)
			r = fvm_remove_tree(skel, e->d_name);
	}
	return r;
}

static bool is_dir(int host, const struct dirent *e)
{
	struct stat st;
	if (e->d_type != DT_UNKNOWN)
		return e->d_type == DT_DIR;
	return fstatat(host, e->d_name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) == 0 &&
	       S_ISDIR(st.st_mode);
}

/* Only a directory to mount on. */
static int do_mount_point(struct skel_walk *w, int skel, const char *path, const char *name)
{
	static const struct fvm_strv nothing;
	bool fresh;
	skel_add(&w->list, SKEL_MOUNT, 0, path);
	scoped_fd fd = open_skel(w, skel, name, &fresh);
	if (fd < 0)
		return w->dry ? 0 : fd;
	int r = remove_others(w, fd, &nothing);
	if (r == 0 && !w->dry && fchmod(fd, 0755) < 0)
		r = -errno;
	return r;
}

/* What anybody may fill takes no user's start longer than this. Return: 1 no more room, 0, or
 * negative errno */
static int do_shared(struct skel_walk *w, int skel, const char *name, bool there)
{
	if (!w->shared || w->tops || (there && !w->deep)) /* which the list has told of */
		return 0;
	if (w->shared_count < MAX_SHARED) {
		w->shared_count++;
		return 0;
	}
	w->left_out = true;
	w->differs |= there;
	int r = there && !w->dry ? fvm_remove_tree(skel, name) : 0;
	return r < 0 ? r : 1;
}

static int do_dir(struct skel_walk *w, int host, int skel, const char *path, const char *name,
		  bool go_on)
{
	bool fresh;
	struct stat is;
	bool there = fstatat(skel, name, &is, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(is.st_mode);
	/* one that was there has a record of its own, and is looked at for its own sake */
	if (!go_on && there)
		return 0;
	int full = do_shared(w, skel, name, there);
	if (full)
		return full < 0 ? full : 0;
	if (fvm_strv_has(w->outs, path))
		return do_mount_point(w, skel, path, name);
	if (strcmp(path, w->store) == 0)
		return 0;
	scoped_fd from = open_host(host, name);
	if (from == -EACCES)
		return do_opaque(w, host, skel, path, name);
	if (from < 0)
		return from == -ENOENT || from == -ENOTDIR || from == -ELOOP ? 0 : from;
	/* by another path: a copy of itself would never end */
	if (fstat(from, &is) == 0 && is.st_ino == w->store_st.st_ino &&
	    is.st_dev == w->store_st.st_dev)
		return 0;
	scoped_fd to = open_skel(w, skel, name, &fresh);
	if (to >= 0 && is_opaque(to)) {
		w->differs = true;
		if (!w->dry && fvm_remove_tree(skel, name) < 0)
			return -EIO;
		close(to);
		to = w->dry ? -ENOENT : open_skel(w, skel, name, &fresh);
	}
	if (to < 0)
		return w->dry ? 0 : to;
	return sync_dir(w, from, to, path, fresh);
}

/*
 * Locks on the host's accounts come and go in a moment. Whoever looks at one just then has
 * overlayfs remember it, and could never take the VM's own: so they are never there.
 */
static const char *const locks[] = { "passwd.lock",  "shadow.lock", "group.lock",
				     "gshadow.lock", "subuid.lock", "subgid.lock" };

static bool is_lock(const struct skel_walk *w, const char *path, const char *name)
{
	for (size_t i = 0; !w->tops && strcmp(path, "/etc") == 0 && i < FVM_COUNT(locks); i++) {
		if (strcmp(name, locks[i]) == 0)
			return true;
	}
	return false;
}

static int hide_locks(struct skel_walk *w, int skel, const char *path, struct fvm_strv *kept)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < FVM_COUNT(locks) && is_lock(w, path, locks[i]); i++) {
		struct stat st;
		if (fstatat(skel, locks[i], &st, AT_SYMLINK_NOFOLLOW) < 0) {
			w->differs = true;
			if (!w->dry && mknodat(skel, locks[i], S_IFCHR, 0) < 0)
				return -errno;
		}
		r = fvm_strv_add(kept, locks[i]);
	}
	return r;
}

static int do_entry(struct skel_walk *w, int host, int skel, const char *path,
		    const struct dirent *e, bool dir, struct fvm_strv *kept)
{
	char full[PATH_MAX];
	int r;
	if (snprintf(full, sizeof(full), "%s/%s", path, e->d_name) >= (int)sizeof(full))
		return 0;
	if (is_lock(w, path, e->d_name))
		return 0;
	if (dir)
		r = do_dir(w, host, skel, full, e->d_name, w->deep);
	else
		r = do_file(w, host, skel, path, e->d_name);
	if (r < 0 || (r == 0 && !dir) || !kept)
		return r < 0 ? r : 0;
	return fvm_strv_add(kept, e->d_name);
}

static int do_entries(struct skel_walk *w, int host, int skel, const char *path,
		      const struct stat *st, struct fvm_strv *kept)
{
	const bool shared = w->shared, left_out = w->left_out;
	scoped_dir d = fvm_dir_open(host, ".");
	if (!d)
		return -errno;
	int r = 0;
	size_t told = w->list.len;
	w->shared |= (st->st_mode & S_IWOTH) != 0;
	w->left_out = false;
	if (w->shared)
		skel_add(&w->list, SKEL_LEFT_OUT, false, path);
	/* the files' records belong to this directory: they come before those of another */
	for (int dirs = 0; r >= 0 && dirs <= 1; dirs++) {
		rewinddir(d);
		for (struct dirent *e; r >= 0 && (e = fvm_dir_next(d));) {
			if (is_dir(host, e) == dirs)
				r = do_entry(w, host, skel, path, e, dirs, kept);
		}
	}
	if (w->left_out && !w->list.failed)
		skel_set_value(w->list.data + told, true);
	w->shared = shared;
	w->left_out = left_out;
	return r;
}

static int sync_dir(struct skel_walk *w, int host, int skel, const char *path, bool fresh)
{
	struct stat st;
	scoped_strv kept = { 0 };
	/* before anything is read: what changes meanwhile is then seen next time */
	if (fstat(host, &st) < 0)
		return -errno;
	skel_add(&w->list, w->shared ? SKEL_SHARED : SKEL_DIR, skel_ctime(&st), path);
	note_owner(w, &st, path);
	note_progress(w);
	int r = do_entries(w, host, skel, path, &st, fresh ? NULL : &kept);
	if (r >= 0)
		r = hide_locks(w, skel, path, &kept);
	if (r >= 0 && !fresh) {
		fvm_strv_sort(&kept);
		r = remove_others(w, skel, &kept);
	}
	if (r >= 0 && w->tops && !w->dry)
		r = own_dir(host, skel, &st);
	return r < 0 ? r : finish_dir(w, skel, &st);
}

/* The directories above a mount point of which root's skeleton has nothing else. */
static int make_way(const struct skel_walk *w, const char *top)
{
	char above[PATH_MAX];
	const char *name = strrchr(top, '/');
	if (name == top)
		return 0;
	snprintf(above, sizeof(above), "%.*s", (int)(name - top - 1), top + 1);
	return fvm_mkdir_p(w->tree, above, 0755);
}

int skel_sync_tops(struct skel_walk *w, struct fvm_error *err)
{
	scoped_fd host = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (host < 0)
		return fvm_error_set(err, errno, "open /");
	size_t count = w->tops ? w->tops->count : FVM_COUNT(tops);
	for (size_t i = 0; i < count; i++) {
		const char *top = w->tops ? w->tops->items[i] : tops[i];
		struct stat st;
		if (fstatat(host, top + 1, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0 ||
		    !S_ISDIR(st.st_mode))
			continue;
		int r = make_way(w, top);
		if (r == 0)
			r = do_dir(w, host, w->tree, top, top + 1, true);
		if (r < 0)
			return fvm_error_set(err, -r, "copy the directories of %s", top);
	}
	return w->list.failed ? fvm_error_set(err, ENOMEM, "list the directories") : 0;
}

int skel_sync_path(struct skel_walk *w, const char *path, struct fvm_error *err)
{
	char parent[PATH_MAX];
	const char *name = strrchr(path, '/') + 1;
	fvm_strv_each(w->outs, i) {
		if (fvm_path_below(path, w->outs->items[i]) && strcmp(path, w->outs->items[i]) != 0)
			return 0;
	}
	snprintf(parent, sizeof(parent), ".%.*s", (int)(name - path - 1), path);
	scoped_fd root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	scoped_fd host = fvm_open_nofollow(root, parent, O_PATH | O_DIRECTORY);
	scoped_fd skel = fvm_open_nofollow(w->tree, parent, O_PATH | O_DIRECTORY);
	struct stat st;
	if (host < 0 || skel < 0)
		return 0; /* went with a directory above it, which was changed */
	if (!fvm_strv_has(w->outs, path) &&
	    (fstatat(host, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0 ||
	     !S_ISDIR(st.st_mode)))
		return 0;
	int r = do_dir(w, host, skel, path, name, true);
	return r < 0 ? fvm_error_set(err, -r, "copy the directory %s", path) : 0;
}
