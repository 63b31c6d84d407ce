#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>

#include "fvm/volatile.h"
#include "vin/mounts.h"
#include "vin/opener.h"

#define BLOCK	  (1 << 20)
#define DEPTH_MAX 128
#define LINKS_MAX 100000

static const char *const trees[] = { "run", "dev/shm" };

/* ---- in the VM's user namespace ---- */

struct task {
	int pidfd, root, fd;
	uint64_t left;		       /* to read */
	struct vin_mount_table mounts; /* some of them made inside .. */
	int spaces;		       /* .. this mount namespace; -1: none is */
	int (*fn)(struct task *t, struct fvm_error *err);
};

static int inside(struct task *t, struct fvm_error *err)
{
	int report[2], status;
	struct fvm_error why = { 0 };
	if (pipe2(report, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "make a pipe");
	pid_t pid = fork();
	if (pid == 0) {
		int r = vin_become_root(t->pidfd);
		if (r < 0)
			fvm_error_set(&why, -r, "enter the VM's user namespace");
		else
			r = t->fn(t, &why);
		if (r < 0)
			(void)!write(report[1], &why, sizeof(why));
		_exit(r < 0);
	}
	close(report[1]);
	ssize_t n = read(report[0], &why, sizeof(why));
	close(report[0]);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return fvm_error_set(err, errno, "start a process");
	if (n == sizeof(why))
		return fvm_error_take(err, &why, sizeof(why)) ?: -EIO;
	return status == 0 ? 0 : fvm_error_set(err, EIO, "copy the VM's own file systems");
}

/* Below @dir, through no link. */
static int open_below(int dir, const char *path, uint64_t flags)
{
	struct open_how how = { .flags = flags | O_CLOEXEC | O_NOFOLLOW,
				.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS };
	return fvm_nerr(syscall(SYS_openat2, dir, path, &how, sizeof(how)));
}

static int tar_failed(struct archive *a, struct fvm_error *err)
{
	int code = archive_errno(a);
	return fvm_error_set(err, code > 0 ? code : EIO, "copy the VM's own file systems");
}

/* ---- writing ---- */

struct linked {
	ino_t inode;
	char *path;
};

struct writing {
	struct archive *a;
	dev_t device;
	struct linked *links; /* of the tree */
	size_t link_count;
	char *block;
	struct fvm_error *err;
};

static const char *earlier_name(struct writing *w, const struct stat *st, const char *path)
{
	if (S_ISDIR(st->st_mode) || st->st_nlink < 2)
		return NULL;
	for (size_t i = 0; i < w->link_count; i++) {
		if (w->links[i].inode == st->st_ino)
			return w->links[i].path;
	}
	struct linked *more =
		w->link_count < LINKS_MAX
			? realloc(w->links, fvm_room(w->link_count + 1) * sizeof(*more))
			: NULL;
	if (more) {
		w->links = more;
		more[w->link_count].inode = st->st_ino;
		more[w->link_count].path = strdup(path);
		w->link_count += more[w->link_count].path != NULL;
	}
	return NULL;
}

static int write_bytes(struct writing *w, int fd, off_t size)
{
	for (off_t at = 0; at < size;) {
		ssize_t n = pread(fd, w->block, BLOCK, at);
		if (n < 0)
			return fvm_error_set(w->err, errno, "read a file of the VM");
		if (n == 0) { /* it became shorter: zeros, as the header says how many */
			n = size - at < BLOCK ? (ssize_t)(size - at) : BLOCK;
			memset(w->block, 0, (size_t)n);
		}
		if (n > size - at)
			n = (ssize_t)(size - at);
		if (archive_write_data(w->a, w->block, (size_t)n) != n)
			return tar_failed(w->a, w->err);
		at += n;
	}
	return 0;
}

static int write_entry(struct writing *w, int dir, const char *name, const char *path,
		       const struct stat *st)
{
	char target[PATH_MAX] = "";
	const char *before = earlier_name(w, st, path);
	scoped_fd fd = S_ISREG(st->st_mode) && !before ? open_below(dir, name, O_RDONLY) : -1;
	if (S_ISREG(st->st_mode) && !before && fd < 0)
		return fd == -ENOENT ? 0 : fvm_error_set(w->err, -fd, "open /%s of the VM", path);
	struct archive_entry *e = archive_entry_new();
	if (!e)
		return fvm_error_set(w->err, ENOMEM, "copy /%s of the VM", path);
	archive_entry_copy_stat(e, st);
	archive_entry_unset_atime(e);
	archive_entry_unset_ctime(e);
	archive_entry_set_pathname(e, path);
	if (S_ISLNK(st->st_mode)) {
		ssize_t n = readlinkat(dir, name, target, sizeof(target) - 1);
		target[n < 0 ? 0 : n] = '\0';
		archive_entry_set_symlink(e, target);
	}
	if (before) {
		archive_entry_set_hardlink(e, before);
		archive_entry_set_size(e, 0);
	}
	int r = archive_write_header(w->a, e) < ARCHIVE_WARN ? tar_failed(w->a, w->err) : 0;
	archive_entry_free(e);
	return r == 0 && fd >= 0 ? write_bytes(w, fd, st->st_size) : r;
}

static int write_dir(struct writing *w, int dir, const char *path, int depth)
{
	scoped_dir d = fvm_dir_open(dir, ".");
	int r = d ? 0 : fvm_error_set(w->err, errno, "read /%s of the VM", path);
	if (r == 0 && depth > DEPTH_MAX)
		r = fvm_error_set(w->err, ELOOP, "copy /%s of the VM", path);
	for (struct dirent *e; r == 0 && (e = fvm_dir_next(d));) {
		struct stat st;
		scoped_free char *below = NULL;
		if (asprintf(&below, "%s/%s", path, e->d_name) < 0)
			return fvm_error_set(w->err, ENOMEM, "copy /%s of the VM", path);
		if (fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		    st.st_dev != w->device || S_ISSOCK(st.st_mode) || S_ISCHR(st.st_mode) ||
		    S_ISBLK(st.st_mode))
			continue;
		r = write_entry(w, dir, e->d_name, below, &st);
		if (r < 0 || !S_ISDIR(st.st_mode))
			continue;
		scoped_fd sub = open_below(dir, e->d_name, O_RDONLY | O_DIRECTORY);
		if (sub >= 0)
			r = write_dir(w, sub, below, depth + 1);
	}
	return r;
}

static int write_tree(struct writing *w, int root, const char *tree)
{
	struct stat st;
	scoped_fd dir = open_below(root, tree, O_RDONLY | O_DIRECTORY);
	if (dir < 0)
		return dir == -ENOENT ? 0 : fvm_error_set(w->err, -dir, "open /%s of the VM", tree);
	if (fstat(dir, &st) < 0)
		return fvm_error_set(w->err, errno, "look at /%s of the VM", tree);
	w->device = st.st_dev;
	int r = write_dir(w, dir, tree, 0);
	for (size_t i = 0; i < w->link_count; i++)
		free(w->links[i].path);
	w->link_count = 0;
	return r;
}

/* Where none of the programs' own mounts is. */
static int uncover(struct task *t, struct fvm_error *err)
{
	if (t->spaces < 0)
		return 0;
	if (setns(t->spaces, CLONE_NEWNS) < 0)
		return fvm_error_set(err, errno, "enter the VM's mount namespace");
	int r = vin_mounts_uncover(&t->mounts, err);
	if (r < 0)
		return r;
	t->root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return t->root < 0 ? fvm_error_set(err, errno, "open the VM's root") : 0;
}

static int write_all(struct task *t, struct fvm_error *err)
{
	int uncovered = uncover(t, err);
	if (uncovered < 0)
		return uncovered;
	struct writing w = { .a = archive_write_new(), .block = malloc(BLOCK), .err = err };
	if (!w.a || !w.block)
		return fvm_error_set(err, ENOMEM, "copy the VM's own file systems");
	archive_write_set_format_pax(w.a); /* "restricted" knows no parts of a second */
	archive_write_set_options(w.a, "hdrcharset=BINARY");
	int r = archive_write_open_fd(w.a, t->fd) == ARCHIVE_OK ? 0 : tar_failed(w.a, err);
	for (size_t i = 0; r == 0 && i < FVM_COUNT(trees); i++)
		r = write_tree(&w, t->root, trees[i]);
	if (archive_write_close(w.a) != ARCHIVE_OK && r == 0)
		r = tar_failed(w.a, err);
	archive_write_free(w.a);
	free(w.links);
	free(w.block);
	return r;
}

static int open_covered(pid_t pid, struct task *t, struct fvm_error *err)
{
	char path[40];
	if (pid == 0)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", pid);
	t->spaces = open(path, O_RDONLY | O_CLOEXEC);
	return t->spaces < 0 ? fvm_error_set(err, errno, "open %s", path)
			     : vin_mount_table_read(pid, &t->mounts, err);
}

int fvm_volatile_write(int pidfd, int root, pid_t covered, int to, struct fvm_error *err)
{
	struct task t = { .pidfd = pidfd, .root = root, .fd = to, .fn = write_all, .spaces = -1 };
	int r = open_covered(covered, &t, err);
	if (r == 0)
		r = inside(&t, err);
	vin_mount_table_free(&t.mounts);
	fvm_fd_closep(&t.spaces);
	return r;
}

/* ---- reading ---- */

static int damaged(struct fvm_error *err)
{
	return fvm_error_say(err, EBADMSG, "the image is damaged: files of memory");
}

static bool climbs(const char *path)
{
	for (const char *p = path; p; p = strchr(p, '/')) {
		p += *p == '/';
		if (strncmp(p, "..", 2) == 0 && (p[2] == '/' || !p[2]))
			return true;
	}
	return false;
}

static bool is_ours(const char *path)
{
	if (climbs(path))
		return false;
	for (size_t i = 0; i < FVM_COUNT(trees); i++) {
		size_t len = strlen(trees[i]);
		if (strncmp(path, trees[i], len) == 0 && path[len] == '/')
			return true;
	}
	return false;
}

/* The directory that @path is in. */
static int open_parent(int root, const char *path, const char **ret_name)
{
	const char *slash = strrchr(path, '/');
	scoped_free char *dir = slash ? strndup(path, (size_t)(slash - path)) : NULL;
	*ret_name = slash ? slash + 1 : path;
	if (!dir || !**ret_name || strcmp(*ret_name, ".") == 0 || strcmp(*ret_name, "..") == 0)
		return -EBADMSG;
	return open_below(root, dir, O_RDONLY | O_DIRECTORY);
}

static int copy_bytes(struct archive *a, int fd, struct fvm_error *err)
{
	const void *data;
	size_t len;
	la_int64_t at;
	int h;
	while ((h = archive_read_data_block(a, &data, &len, &at)) == ARCHIVE_OK) {
		if (pwrite(fd, data, len, at) != (ssize_t)len)
			return fvm_error_set(err, errno ? errno : EIO, "write a file of the VM");
	}
	return h == ARCHIVE_EOF ? 0 : damaged(err);
}

static int make_file(struct archive *a, int dir, const char *name, la_int64_t size,
		     struct fvm_error *err)
{
	scoped_fd fd = fvm_create_beneath(dir, name, O_WRONLY, 0600);
	if (fd < 0)
		return fvm_error_set(err, -fd, "make '%s' in the VM", name);
	int r = copy_bytes(a, fd, err);
	if (r == 0 && ftruncate(fd, size) < 0)
		r = fvm_error_set(err, errno, "write '%s' in the VM", name);
	return r;
}

static int make_link(int root, int dir, const char *name, const char *first)
{
	const char *first_name;
	scoped_fd from = is_ours(first) ? open_parent(root, first, &first_name) : -EBADMSG;
	return from < 0 ? from : fvm_nerr(linkat(from, first_name, dir, name, 0));
}

static int make_directory(int dir, const char *name)
{
	struct stat st;
	if (mkdirat(dir, name, 0700) == 0)
		return 0;
	if (errno != EEXIST)
		return -errno;
	/* the tar may have made a link before, which attributes would go through */
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) ? 0 : -EBADMSG;
}

/* Replaces what is there, but a directory, whose content others may have. */
static int make_node(struct archive *a, struct archive_entry *e, int root, int dir,
		     const char *name, struct fvm_error *err)
{
	const mode_t type = archive_entry_filetype(e);
	const char *first = archive_entry_hardlink(e), *target = archive_entry_symlink(e);
	int r = 0;
	if (type != AE_IFDIR || first)
		(void)unlinkat(dir, name, 0);
	if (first)
		return make_link(root, dir, name, first);
	if (type == AE_IFREG)
		return make_file(a, dir, name, archive_entry_size(e), err);
	if (type == AE_IFDIR)
		r = make_directory(dir, name);
	else if (type == AE_IFLNK && target)
		r = fvm_nerr(symlinkat(target, dir, name));
	else if (type == AE_IFIFO)
		r = fvm_nerr(mkfifoat(dir, name, 0600));
	else
		r = -EBADMSG;
	return r;
}

static int set_attributes(struct archive_entry *e, int dir, const char *name)
{
	const struct timespec times[2] = {
		{ archive_entry_atime(e), archive_entry_atime_nsec(e) },
		{ archive_entry_mtime(e), archive_entry_mtime_nsec(e) },
	};
	if (archive_entry_hardlink(e))
		return 0;
	if (fchownat(dir, name, (uid_t)archive_entry_uid(e), (gid_t)archive_entry_gid(e),
		     AT_SYMLINK_NOFOLLOW) < 0 &&
	    errno != EINVAL)
		return -errno;
	/* what we have just made or looked at is no link, and nobody else is there */
	if (archive_entry_filetype(e) != AE_IFLNK &&
	    fchmodat(dir, name, archive_entry_perm(e), 0) < 0)
		return -errno;
	(void)utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW);
	return 0;
}

static int read_entry(struct task *t, struct archive *a, struct archive_entry *e,
		      struct fvm_error *err)
{
	const char *path = archive_entry_pathname(e), *name;
	if (!path || !is_ours(path) || archive_entry_sparse_count(e) > 0)
		return damaged(err);
	/* libarchive gives directories a slash */
	scoped_free char *plain = strdup(path);
	if (!plain)
		return fvm_error_set(err, ENOMEM, "read files of memory");
	for (size_t len = strlen(plain); len > 0 && plain[len - 1] == '/'; len--)
		plain[len - 1] = '\0';
	scoped_fd dir = open_parent(t->root, plain, &name);
	int r = dir < 0 ? dir : make_node(a, e, t->root, dir, name, err);
	if (r == 0)
		r = set_attributes(e, dir, name);
	if (r < 0 && !(err && err->code))
		fvm_error_set(err, -r, "make /%s in the VM", plain);
	return r;
}

static la_ssize_t read_block(struct archive *a, void *arg, const void **ret)
{
	static char block[65536];
	struct task *t = arg;
	size_t want = t->left < sizeof(block) ? (size_t)t->left : sizeof(block);
	ssize_t n = want ? read(t->fd, block, want) : 0;
	if (n < 0)
		archive_set_error(a, errno, "read");
	*ret = block;
	t->left -= n > 0 ? (uint64_t)n : 0;
	return n;
}

static int read_all(struct task *t, struct fvm_error *err)
{
	struct archive *a = archive_read_new();
	struct archive_entry *e;
	if (!a)
		return fvm_error_set(err, ENOMEM, "read files of memory");
	umask(0);
	archive_read_support_format_tar(a);
	archive_read_set_options(a, "hdrcharset=BINARY");
	int r = archive_read_open(a, t, NULL, read_block, NULL) == ARCHIVE_OK ? 0 : damaged(err);
	for (int h; r == 0 && (h = archive_read_next_header(a, &e)) != ARCHIVE_EOF;)
		r = h < ARCHIVE_WARN ? damaged(err) : read_entry(t, a, e, err);
	archive_read_free(a);
	return r;
}

int fvm_volatile_unpack(int root, int from, uint64_t len, struct fvm_error *err)
{
	struct task t = { .pidfd = -1, .root = root, .fd = from, .left = len };
	return read_all(&t, err);
}

int fvm_volatile_read(int pidfd, int root, int from, uint64_t len, struct fvm_error *err)
{
	struct task t = { .pidfd = pidfd, .root = root, .fd = from, .left = len, .fn = read_all };
	off_t at = lseek(from, 0, SEEK_CUR);
	int r = inside(&t, err);
	/* the child has moved it, as far as it read */
	if (r == 0 && (at < 0 || lseek(from, at + (off_t)len, SEEK_SET) < 0))
		r = fvm_error_set(err, errno, "read the programs");
	return r;
}
