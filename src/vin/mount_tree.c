/*
 * What lies in a tmpfs. Each thing is told twice: what it is, before what is in it, and then what
 * it is like, as writing changes that. Sockets are made by who listens to them.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "vin/mounts.h"

#define FULL	   (1U << 20) /* bytes of a record, some more or less */
#define BLOCK	   (256U << 10)
#define DEPTH_MAX  256
#define ATTRIBUTES (64U << 10) /* of one file: names, and each value */

enum { NODE = 1, LINK = 2, DATA = 3, LIKE = 4 };

/* ---- writing ---- */

struct linked {
	ino_t inode;
	char *path;
};

struct writing {
	size_t index;
	struct fvm_buf payload;
	vin_mount_send_fn send;
	void *arg;
	dev_t device;
	struct linked *links;
	size_t link_count;
	char *block;
	struct fvm_error *err;
};

static int flush(struct writing *w, size_t limit)
{
	int r = 0;
	if (w->payload.len > limit) {
		r = w->payload.failed ? -ENOMEM : w->send(w->arg, &w->payload);
		w->payload.len = 0;
	}
	if (w->payload.len == 0) {
		vin_put_u64(&w->payload, VIN_MOUNT_CONTENT);
		vin_put_u64(&w->payload, w->index);
	}
	return r;
}

static int failed(const struct writing *w, int r, const char *path)
{
	return fvm_error_set(w->err, -r, "read %s in a tmpfs", *path ? path : "/");
}

static const char *earlier_name(const struct writing *w, const struct stat *st)
{
	for (size_t i = 0; i < w->link_count; i++) {
		if (w->links[i].inode == st->st_ino)
			return w->links[i].path;
	}
	return NULL;
}

static int remember(struct writing *w, const struct stat *st, const char *path)
{
	struct linked *more = realloc(w->links, fvm_room(w->link_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	w->links = more;
	more[w->link_count] = (struct linked){ st->st_ino, strdup(path) };
	return more[w->link_count++].path ? 0 : -ENOMEM;
}

static int write_data(struct writing *w, int fd, const char *path, off_t at, off_t end)
{
	int r = 0;
	while (r == 0 && at < end) {
		const size_t want = end - at < BLOCK ? (size_t)(end - at) : BLOCK;
		ssize_t n = pread(fd, w->block, want, at);
		if (n <= 0)
			return n < 0 ? -errno : 0;
		vin_put_u64(&w->payload, DATA);
		vin_put_string(&w->payload, path);
		vin_put_u64(&w->payload, (uint64_t)at);
		vin_put_blob(&w->payload, w->block, (size_t)n);
		at += n;
		r = flush(w, FULL);
	}
	return r;
}

static int write_bytes(struct writing *w, int fd, const char *path)
{
	int r = 0;
	for (off_t at = 0, end; r == 0; at = end) {
		at = lseek(fd, at, SEEK_DATA);
		if (at < 0)
			return errno == ENXIO ? 0 : -errno;
		end = lseek(fd, at, SEEK_HOLE);
		r = end < 0 ? -errno : write_data(w, fd, path, at, end);
	}
	return r;
}

static int put_attributes(struct writing *w, int fd)
{
	char names[ATTRIBUTES + 1];
	ssize_t len = fd < 0 ? 0 : flistxattr(fd, names, ATTRIBUTES);
	uint64_t count = 0;
	if (len < 0)
		len = errno == ENOTSUP || errno == ENODATA ? 0 : -errno;
	if (len < 0)
		return (int)len;
	names[len] = '\0';
	for (ssize_t at = 0; at < len; at += (ssize_t)strlen(names + at) + 1)
		count++;
	vin_put_u64(&w->payload, count);
	for (ssize_t at = 0; at < len; at += (ssize_t)strlen(names + at) + 1) {
		ssize_t n = fgetxattr(fd, names + at, w->block, ATTRIBUTES);
		if (n < 0)
			return -errno;
		vin_put_string(&w->payload, names + at);
		vin_put_blob(&w->payload, w->block, (size_t)n);
	}
	return 0;
}

static int put_like(struct writing *w, int fd, const char *path, const struct stat *st)
{
	vin_put_u64(&w->payload, LIKE);
	vin_put_string(&w->payload, path);
	vin_put_u64(&w->payload, st->st_mode);
	vin_put_u64(&w->payload, st->st_uid);
	vin_put_u64(&w->payload, st->st_gid);
	vin_put_u64(&w->payload, (uint64_t)st->st_atim.tv_sec);
	vin_put_u64(&w->payload, (uint64_t)st->st_atim.tv_nsec);
	vin_put_u64(&w->payload, (uint64_t)st->st_mtim.tv_sec);
	vin_put_u64(&w->payload, (uint64_t)st->st_mtim.tv_nsec);
	int r = put_attributes(w, fd);
	return r < 0 ? r : flush(w, FULL);
}

static int put_node(struct writing *w, int dir, const char *name, const char *path,
		    const struct stat *st)
{
	char target[PATH_MAX] = "";
	if (S_ISLNK(st->st_mode)) {
		ssize_t n = readlinkat(dir, name, target, sizeof(target) - 1);
		if (n < 0)
			return -errno;
		target[n] = '\0';
	}
	vin_put_u64(&w->payload, NODE);
	vin_put_string(&w->payload, path);
	vin_put_u64(&w->payload, st->st_mode & S_IFMT);
	vin_put_u64(&w->payload, S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0);
	vin_put_string(&w->payload, target);
	return 0;
}

static int write_dir(struct writing *w, int fd, const char *path, int depth);

/* A device of 0:0 is how overlay remembers that something was deleted; nobody can make others. */
static int write_one(struct writing *w, int dir, const char *name, const char *path,
		     const struct stat *st, int depth)
{
	const bool opens = S_ISREG(st->st_mode) || S_ISDIR(st->st_mode);
	scoped_fd fd = opens ? fvm_open_nofollow(dir, name, O_RDONLY | O_NONBLOCK | O_NOATIME) : -1;
	if (opens && fd < 0)
		return fd;
	if (S_ISCHR(st->st_mode) ? st->st_rdev != 0 : S_ISBLK(st->st_mode))
		return -ENOTSUP;
	int r = put_node(w, dir, name, path, st);
	if (r == 0 && S_ISREG(st->st_mode))
		r = write_bytes(w, fd, path);
	if (r == 0 && S_ISDIR(st->st_mode))
		r = write_dir(w, fd, path, depth + 1);
	return r < 0 ? r : put_like(w, fd, path, st);
}

static int write_entry(struct writing *w, int dir, const char *name, const char *path, int depth)
{
	struct stat st;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return failed(w, -errno, path);
	if (S_ISSOCK(st.st_mode) || st.st_dev != w->device)
		return 0;
	const bool many = !S_ISDIR(st.st_mode) && st.st_nlink > 1;
	const char *before = many ? earlier_name(w, &st) : NULL;
	int r = 0;
	if (before) {
		vin_put_u64(&w->payload, LINK);
		vin_put_string(&w->payload, path);
		vin_put_string(&w->payload, before);
		return flush(w, FULL);
	}
	if (many)
		r = remember(w, &st, path);
	if (r == 0)
		r = write_one(w, dir, name, path, &st, depth);
	return r < 0 && !(w->err && w->err->code) ? failed(w, r, path) : r;
}

static int write_dir(struct writing *w, int fd, const char *path, int depth)
{
	scoped_dir d = fvm_dir_open(fd, ".");
	int r = d ? 0 : -errno;
	if (depth > DEPTH_MAX)
		return -ELOOP;
	for (struct dirent *e; r == 0 && (e = fvm_dir_next(d));) {
		scoped_buf below = { 0 };
		fvm_buf_printf(&below, "%s%s%s", path, *path ? "/" : "", e->d_name);
		/* by so long a name nobody could make it again */
		r = below.failed	    ? -ENOMEM
		    : below.len >= PATH_MAX ? -ENAMETOOLONG
					    : write_entry(w, fd, e->d_name, below.data, depth);
	}
	return r;
}

int vin_mount_tree_write(int fd, size_t index, vin_mount_send_fn send, void *arg,
			 struct fvm_error *err)
{
	struct writing w = { .index = index, .send = send, .arg = arg, .err = err };
	struct stat st;
	w.block = malloc(BLOCK);
	/* what was held by its name only can't be read */
	scoped_fd dir = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = !w.block ? -ENOMEM : dir < 0 || fstat(dir, &st) < 0 ? -errno : flush(&w, 0);
	if (r == 0) {
		w.device = st.st_dev;
		r = write_dir(&w, dir, "", 0);
	}
	if (r == 0)
		r = put_like(&w, dir, "", &st);
	if (r == 0)
		r = w.payload.failed ? -ENOMEM : w.send(w.arg, &w.payload);
	for (size_t i = 0; i < w.link_count; i++)
		free(w.links[i].path);
	free(w.links);
	free(w.block);
	fvm_buf_free(&w.payload);
	return r < 0 && !(err && err->code) ? failed(&w, r, "") : r;
}

/* ---- anew ---- */

/* The directory that @path is in; @ret_name is the rest. */
static int open_parent(int root, char *path, const char **ret_name)
{
	char *slash = strrchr(path, '/');
	*ret_name = slash ? slash + 1 : path;
	if (!**ret_name || strcmp(*ret_name, ".") == 0 || strcmp(*ret_name, "..") == 0)
		return -EBADMSG;
	if (slash)
		*slash = '\0';
	return fvm_open_nofollow(root, slash ? path : ".", O_PATH | O_DIRECTORY);
}

static int make_file(int dir, const char *name, uint64_t size)
{
	if (size > INT64_MAX)
		return -EBADMSG;
	scoped_fd fd =
		openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd < 0 || ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
}

static int make_node(int root, char *path, struct vin_payload *p)
{
	const char *name;
	const uint64_t type = vin_get_u64(p), size = vin_get_u64(p);
	scoped_free char *target = vin_get_string(p);
	scoped_fd dir = p->failed ? -EBADMSG : open_parent(root, path, &name);
	if (dir < 0)
		return dir;
	switch (type) {
	case S_IFREG:
		return make_file(dir, name, size);
	case S_IFDIR:
		return fvm_nerr(mkdirat(dir, name, 0700));
	case S_IFLNK:
		return fvm_nerr(symlinkat(target, dir, name));
	case S_IFIFO:
		return fvm_nerr(mkfifoat(dir, name, 0600));
	case S_IFCHR:
		return fvm_nerr(mknodat(dir, name, S_IFCHR, 0));
	default:
		return -EBADMSG;
	}
}

static int make_link(int root, char *path, struct vin_payload *p)
{
	const char *name, *first_name;
	scoped_free char *first = vin_get_string(p);
	scoped_fd dir = p->failed ? -EBADMSG : open_parent(root, path, &name);
	scoped_fd from = dir < 0 ? dir : open_parent(root, first, &first_name);
	return from < 0 ? from : fvm_nerr(linkat(from, first_name, dir, name, 0));
}

static int open_made(int root, const char *path, int flags)
{
	return fvm_open_nofollow(root, *path ? path : ".", flags | O_NONBLOCK);
}

static int write_back(int root, const char *path, struct vin_payload *p)
{
	size_t len;
	const uint64_t at = vin_get_u64(p);
	const char *data = vin_get_blob(p, &len);
	if (p->failed || at > INT64_MAX - len)
		return -EBADMSG;
	scoped_fd fd = open_made(root, path, O_WRONLY);
	if (fd < 0)
		return fd;
	for (size_t done = 0; done < len;) {
		ssize_t n = pwrite(fd, data + done, len - done, (off_t)(at + done));
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done += (size_t)n;
	}
	return 0;
}

static int set_attributes(int root, const char *path, uint64_t type, struct vin_payload *p)
{
	const uint64_t count = vin_get_u64(p);
	const bool opens = type == S_IFREG || type == S_IFDIR;
	scoped_fd fd = count && opens ? open_made(root, path, O_RDONLY) : -1;
	if (count && fd < 0)
		return opens ? fd : -EBADMSG;
	int r = 0;
	for (uint64_t i = 0; r == 0 && i < count; i++) {
		size_t len;
		scoped_free char *name = vin_get_string(p);
		const void *value = vin_get_blob(p, &len);
		r = p->failed ? -EBADMSG : fvm_nerr(fsetxattr(fd, name, value, len, 0));
	}
	return r;
}

static int set_times(int dir, const char *name, const uint64_t times[4])
{
	const struct timespec both[2] = {
		{ (time_t)times[0], (long)times[1] },
		{ (time_t)times[2], (long)times[3] },
	};
	return fvm_nerr(utimensat(dir, name, both, AT_SYMLINK_NOFOLLOW));
}

/* Its mode before the attributes: an ACL says more. */
static int make_like(int root, char *path, struct vin_payload *p)
{
	uint64_t times[4];
	const char *name = ".";
	const uint64_t mode = vin_get_u64(p), uid = vin_get_u64(p), gid = vin_get_u64(p);
	for (size_t i = 0; i < FVM_COUNT(times); i++)
		times[i] = vin_get_u64(p);
	scoped_free char *whole = strdup(path);
	if (!whole)
		return -ENOMEM;
	if (p->failed || uid > UINT32_MAX || gid > UINT32_MAX || times[1] >= 1000000000 ||
	    times[3] >= 1000000000)
		return -EBADMSG;
	scoped_fd dir = *path ? open_parent(root, path, &name) : fcntl(root, F_DUPFD_CLOEXEC, 0);
	if (dir < 0)
		return dir;
	struct stat st;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if ((st.st_mode & S_IFMT) != (mode & S_IFMT))
		return -EBADMSG;
	if (fchownat(dir, name, (uid_t)uid, (gid_t)gid, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!S_ISLNK(st.st_mode) && fchmodat(dir, name, (mode_t)mode & 07777, 0) < 0)
		return -errno;
	int r = set_attributes(root, whole, mode & S_IFMT, p);
	return r < 0 ? r : set_times(dir, name, times);
}

int vin_mount_tree_take(int fd, struct vin_payload *p, struct fvm_error *err)
{
	int r = 0;
	while (r == 0 && p->at != p->end) {
		const uint64_t kind = vin_get_u64(p);
		scoped_free char *path = vin_get_string(p);
		if (p->failed)
			return -EBADMSG;
		/* said as it is, as the functions take it apart */
		scoped_free char *said = strdup(path);
		if (kind == NODE)
			r = make_node(fd, path, p);
		else if (kind == LINK)
			r = make_link(fd, path, p);
		else if (kind == DATA)
			r = write_back(fd, path, p);
		else if (kind == LIKE)
			r = make_like(fd, path, p);
		else
			r = -EBADMSG;
		if (r < 0 && r != -EBADMSG)
			fvm_error_set(err, -r, "make %s in a tmpfs", said ?: "a file");
	}
	return r;
}
