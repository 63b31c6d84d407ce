#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fvm/commit.h"
#include "fvm/internal.h"
#include "fvm/prune.h"
#include "fvm/spare.h"
#include "fvm/store.h"
#include "fvm/subids.h"

#define STORE_FORMAT "1\n"
#define MANY_VMS     64
#define TIDY_EVERY_S 10

static bool has_sys_admin(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };
	if (syscall(SYS_capget, &head, data) < 0)
		return false;
	return data[0].effective & (1U << CAP_SYS_ADMIN);
}

/* In a user namespace (a container, a VM of ours) uid 0 can't do what the real root can. */
static bool in_first_user_namespace(void)
{
	scoped_free char *map = NULL;
	unsigned long inside, outside, count;
	if (fvm_read_file(AT_FDCWD, "/proc/self/uid_map", 65536, &map, NULL) < 0)
		return true;
	return sscanf(map, "%lu %lu %lu", &inside, &outside, &count) == 3 && inside == 0 &&
	       outside == 0 && count == 4294967295UL;
}

static bool is_rootless(void)
{
	return getenv("FVM_ROOTLESS") || geteuid() != 0 || !has_sys_admin() ||
	       !in_first_user_namespace();
}

/* mkdir -p with an absolute path; only what is missing is made */
static int make_dir(const char *path, int *ret_fd)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT) {
		int r = fvm_mkdir_p(AT_FDCWD, path, 0700);
		if (r < 0)
			return r;
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

static int check_format(const struct fvm_store *s, struct fvm_error *err)
{
	scoped_free char *text = NULL;
	int r = fvm_read_file(s->dir, "format", 64, &text, NULL);
	if (r == -ENOENT) {
		r = fvm_write_file_atomic(s->dir, "format", STORE_FORMAT, strlen(STORE_FORMAT),
					  false);
		return r < 0 ? fvm_error_set(err, -r, "write %s/format", s->path) : 0;
	}
	if (r < 0)
		return fvm_error_set(err, -r, "read %s/format", s->path);
	if (strcmp(text, STORE_FORMAT) == 0)
		return 0;
	if (strspn(text, "0123456789") == 0 || atoi(text) <= atoi(STORE_FORMAT)) {
		fvm_error_hint(err, "restore it: echo %d >%s/format", atoi(STORE_FORMAT), s->path);
		return fvm_error_set(err, EBADMSG, "%s/format is no number of a format", s->path);
	}
	fvm_error_set(err, EPROTONOSUPPORT, "%s has format %.*s", s->path, (int)strcspn(text, "\n"),
		      text);
	fvm_error_hint(err, "a newer fvm made it: use that one, or another FVM_HOME");
	return -EPROTONOSUPPORT;
}

/*
 * VMs are born in tmp, each in a block group of its own: what a start makes and deletes in the
 * directory of one VM is not searched through by those of others (spare.h). In one group, 10,000
 * stored VMs leave so little room that each new inode is looked for among all that were deleted
 * in the last minutes.
 */
static void spread_tmp(const struct fvm_store *s)
{
	scoped_fd tmp = fvm_open_nofollow(s->dir, "tmp", O_RDONLY | O_DIRECTORY);
	if (tmp >= 0)
		fvm_spread(tmp);
}

static int make_parts(struct fvm_store *s, const char *run, struct fvm_error *err)
{
	static const char *const parts[] = { "vms", "layers", "commits", "hide", "trash", "tmp" };
	for (size_t i = 0; i < FVM_COUNT(parts); i++) {
		if (mkdirat(s->dir, parts[i], 0700) < 0 && errno != EEXIST)
			return fvm_error_set(err, errno, "make %s/%s", s->path, parts[i]);
	}
	spread_tmp(s);
	if ((mkdirat(s->run, "vms", 0700) < 0 && errno != EEXIST) ||
	    (mkdirat(s->run, "slots", 0700) < 0 && errno != EEXIST))
		return fvm_error_set(err, errno, "make %s/vms", run);
	return 0;
}

/* A VM that was being made, or deleted, stands on layers: on none any more. */
static void let_go_of_layers(const struct fvm_store *s, int entry)
{
	scoped_config config = { 0 };
	if (faccessat(entry, "config.json", F_OK, AT_SYMLINK_NOFOLLOW) == 0 &&
	    fvm_config_load(entry, &config, NULL) == 0)
		fvm_vm_unref_layers(s, &config, false);
}

static void tidy_entry(const struct fvm_store *s, int dir, const char *name)
{
	struct stat held, there;
	scoped_fd entry = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (entry < 0 || flock(entry, LOCK_EX | LOCK_NB) < 0)
		return;
	/* its maker may have moved it to its place just now */
	if (fstat(entry, &held) < 0 || fstatat(dir, name, &there, AT_SYMLINK_NOFOLLOW) < 0 ||
	    held.st_ino != there.st_ino)
		return;
	let_go_of_layers(s, entry);
	(void)fvm_subids_remove_tree(dir, name);
}

/* What a crash left in tmp/ or trash/: an entry on which nobody holds flock(2). */
static void tidy_dir(const struct fvm_store *s, const char *part)
{
	scoped_dir d = fvm_dir_open(s->dir, part);
	struct dirent *e;
	while (d && (e = readdir(d))) {
		if (e->d_name[0] != '.')
			tidy_entry(s, dirfd(d), e->d_name);
	}
}

/* VMs that ended by themselves. Where many run, not at each command: it would cost each of them a
 * look at all. */
static void tidy_ended(const struct fvm_store *s)
{
	struct stat vms, tidied;
	if (fstatat(s->run, "vms", &vms, 0) < 0)
		return;
	if (vms.st_nlink > MANY_VMS && fstatat(s->run, "tidied", &tidied, 0) == 0 &&
	    time(NULL) - tidied.st_mtime < TIDY_EVERY_S)
		return;
	scoped_fd mark = openat(s->run, "tidied",
				O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	if (mark >= 0)
		(void)futimens(mark, NULL);
	(void)fvm_store_tidy_ended(s, false);
}

static int open_parts(struct fvm_store *s, const char *run, struct fvm_error *err)
{
	int r = 0;
	s->vms = openat(s->dir, "vms", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->vms < 0 || faccessat(s->run, "slots", F_OK, 0) < 0 ||
	    faccessat(s->dir, "tmp", F_OK, 0) < 0) {
		r = make_parts(s, run, err);
		if (r == 0 && s->vms < 0)
			s->vms = openat(s->dir, "vms", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (r == 0 && s->vms < 0)
			r = fvm_error_set(err, errno, "open %s/vms", s->path);
	}
	return r;
}

static void tidy(const struct fvm_store *s)
{
	tidy_dir(s, "tmp");
	tidy_dir(s, "trash");
	tidy_ended(s);
}

/* A part that is a link would lead root's hands to where the user wants them. */
static int check_parts(const struct fvm_store *s, struct fvm_error *err)
{
	static const char *const parts[] = { "vms",   "layers", "commits", "hide",
					     "trash", "tmp",	"run" };
	for (size_t i = 0; i < FVM_COUNT(parts); i++) {
		struct stat st = { 0 };
		if (fstatat(s->dir, parts[i], &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
			continue;
		if (S_ISDIR(st.st_mode))
			continue;
		fvm_error_hint(err, "its owner has made it something else; leave it alone");
		return fvm_error_set(err, ENOTDIR, "open the store's %s/%s", s->path, parts[i]);
	}
	return 0;
}

/* Root in a user's store takes it as it is: what is missing there, or left over, is its owner's to
 * make and to tidy. He may even run nothing, and have no run-time directory there. */
static int open_theirs(struct fvm_store *s, const char *run, struct fvm_error *err)
{
	int r = check_parts(s, err);
	if (r < 0)
		return r;
	if (faccessat(s->dir, "format", F_OK, AT_SYMLINK_NOFOLLOW) < 0) {
		fvm_error_hint(err, "set FVM_HOME to a directory of your own");
		return fvm_error_set(err, errno, "find a store in another user's %s", s->path);
	}
	r = check_format(s, err);
	if (r < 0)
		return r;
	s->run = open(run, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	s->vms = fvm_open_nofollow(s->dir, "vms", O_RDONLY | O_DIRECTORY);
	return s->vms < 0 ? fvm_error_set(err, -s->vms, "open %s/vms", s->path) : 0;
}

static int open_ours(struct fvm_store *s, const char *run, struct fvm_error *err)
{
	int r = make_dir(run, &s->run);
	if (r < 0)
		return fvm_error_set(err, -r, "open the run-time directory %s", run);
	r = check_format(s, err);
	if (r == 0)
		r = open_parts(s, run, err);
	if (r == 0)
		tidy(s);
	return r;
}

static int recover_it(void *arg, struct fvm_error *err)
{
	return fvm_commit_recover(arg, err);
}

/* A commit that a crash cut off: no reason to refuse this command when it can't be finished now. */
static void recover_commit(const struct fvm_store *s)
{
	struct fvm_error err = { 0 };
	if (!fvm_commit_pending(s))
		return;
	int r = s->rootless ? fvm_subids_call(recover_it, (void *)(uintptr_t)s, &err)
			    : fvm_commit_recover(s, &err);
	if (r < 0)
		log_warn("%s: %s%s%s", err.text, strerror(err.code), err.hint[0] ? "; " : "",
			 err.hint);
}

int fvm_store_open(struct fvm_store *ret, struct fvm_error *err)
{
	scoped_store s = { .dir = -1, .vms = -1, .run = -1, .rootless = is_rootless() };
	char store[PATH_MAX], run[PATH_MAX], link[64];
	int r = fvm_store_place(store, run, err);
	if (r < 0)
		return r;
	r = make_dir(store, &s.dir);
	if (r < 0)
		return fvm_error_set(err, -r, "open the store %s", store);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", s.dir);
	ssize_t n = readlink(link, s.path, sizeof(s.path) - 1);
	if (n < 0) {
		r = fvm_error_set(err, errno, "resolve %.200s", store);
		if (access("/proc/self", F_OK) < 0)
			fvm_error_hint(err, "there is no /proc: mount -t proc proc /proc");
		return r;
	}
	s.path[n] = '\0';
	r = fvm_is_callers(s.dir, NULL) ? open_ours(&s, run, err) : open_theirs(&s, run, err);
	if (r < 0)
		return r;
	recover_commit(&s);
	*ret = s;
	s = (struct fvm_store){ .dir = -1, .vms = -1, .run = -1 };
	return 0;
}

void fvm_store_close(struct fvm_store *store)
{
	fvm_fd_closep(&store->dir);
	fvm_fd_closep(&store->vms);
	fvm_fd_closep(&store->run);
	*store = (struct fvm_store){ .dir = -1, .vms = -1, .run = -1 };
}

int fvm_store_list(const struct fvm_store *store, struct fvm_strv *ret, struct fvm_error *err)
{
	scoped_dir d = fvm_dir_open(store->vms, ".");
	if (!d)
		return fvm_error_set(err, errno, "read %s/vms", store->path);
	scoped_strv all = { 0 };
	int r = 0;
	for (struct dirent *e; r == 0 && (e = readdir(d));) {
		if (fvm_name_check(e->d_name, NULL) == 0)
			r = fvm_strv_add(&all, e->d_name);
	}
	if (r < 0)
		return fvm_error_set(err, -r, "list the VMs");
	fvm_strv_sort(&all);
	*ret = all;
	all = (struct fvm_strv){ 0 };
	return 0;
}

/* "/" is "root", which leaves "/root" to have its first letter escaped. */
static bool literal(const char *mount_point, const char *p)
{
	unsigned char c = (unsigned char)*p;
	bool first = p == mount_point + 1;
	if (first && strcmp(p, "root") == 0)
		return false;
	return isalnum(c) || c == '_' || (c == '.' && !first);
}

int fvm_mount_key(const char *mount_point, char *ret, size_t size)
{
	size_t n = 0;
	if (strcmp(mount_point, "/") == 0)
		return snprintf(ret, size, "root") >= (int)size ? -ENAMETOOLONG : 0;
	for (const char *p = mount_point + 1; *p; p++) {
		if (n + 4 >= size || n + 4 >= NAME_MAX)
			return -ENAMETOOLONG;
		if (*p == '/')
			ret[n++] = '-';
		else if (literal(mount_point, p))
			ret[n++] = *p;
		else
			n += (size_t)snprintf(ret + n, size - n, "%%%02X", (unsigned char)*p);
	}
	ret[n] = '\0';
	return 0;
}

int fvm_mount_point(const char *key, char *ret, size_t size)
{
	if (strcmp(key, "root") == 0)
		return snprintf(ret, size, "/") >= (int)size ? -EINVAL : 0;
	int n = snprintf(ret, size, "/%s", key);
	if (n < 2 || n >= (int)size)
		return -EINVAL;
	for (char *p = ret; *p; p++) {
		if (*p == '-')
			*p = '/';
	}
	return fvm_unpercent(ret) < 0 ? -EINVAL : 0;
}
