#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/inode.h"

#define CAPS "security.capability"

int fvm_open_deep(int dir, const char *path, int flags)
{
	scoped_fd at = -1;
	char part[4000];
	while (strlen(path) >= sizeof(part)) {
		memcpy(part, path, sizeof(part));
		char *slash = memrchr(part, '/', sizeof(part));
		if (!slash)
			return -ENAMETOOLONG;
		*slash = '\0';
		int next = fvm_open_same_mount(at < 0 ? dir : at, part, O_PATH | O_DIRECTORY);
		if (next < 0)
			return next;
		if (at >= 0)
			close(at);
		at = next;
		path += slash - part + 1;
	}
	return fvm_open_same_mount(at < 0 ? dir : at, *path ? path : ".", flags | O_NOFOLLOW);
}

int fvm_open_file(int dir, const char *name)
{
	scoped_fd path = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;
	char link[40];
	if (path < 0 || fstat(path, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", path);
	int fd = open(link, O_RDONLY | O_CLOEXEC | O_NOATIME);
	if (fd < 0 && errno == EPERM) /* O_NOATIME is for the owner */
		fd = open(link, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* ---- xattrs: packed as "name\0", u32 length, value, one after the other ---- */

struct place { /* fvm_xattr_at as the system calls want it */
	int fd;
	char *link;
};

static int place_of(const struct fvm_xattr_at *at, struct place *ret)
{
	*ret = (struct place){ .fd = at->fd };
	if (at->name && asprintf(&ret->link, "/proc/self/fd/%d/%s", at->fd, at->name) < 0) {
		ret->link = NULL;
		return -ENOMEM;
	}
	return 0;
}

static ssize_t get_value(const struct place *p, const char *name, void *value, size_t size)
{
	return p->link ? lgetxattr(p->link, name, value, size)
		       : fgetxattr(p->fd, name, value, size);
}

static bool travels(const char *name)
{
	static const char *const never[] = { "trusted.", "user.overlay.", "user.fvm." };
	for (size_t i = 0; i < FVM_COUNT(never); i++) {
		if (strncmp(name, never[i], strlen(never[i])) == 0)
			return false;
	}
	/* integrity hashes are the host's to make */
	return strcmp(name, "security.ima") != 0 && strcmp(name, "security.evm") != 0;
}

/* vfs_ns_cap_data to vfs_cap_data: the revision changes, and the root id at the end goes. */
static size_t caps_for_host(unsigned char *value, size_t len)
{
	const unsigned char v2 = 0x02, v3 = 0x03;
	if (len != 24 || value[3] != v3)
		return len;
	value[3] = v2;
	return 20;
}

/* The names on @p as one string list. Return: its length, 0 without any, or -errno */
static ssize_t list_names(int fd, const char *link, char *names, size_t size)
{
	return link ? llistxattr(link, names, size) : flistxattr(fd, names, size);
}

ssize_t fvm_xattr_names(int fd, const char *link, char **ret)
{
	for (int tries = 0; tries < 5; tries++) {
		ssize_t size = list_names(fd, link, NULL, 0);
		if (size <= 0)
			return size == 0 || errno == EOPNOTSUPP ? 0 : -errno;
		char *names = malloc((size_t)size);
		if (!names)
			return -ENOMEM;
		size = list_names(fd, link, names, (size_t)size);
		if (size >= 0) {
			*ret = names;
			return size;
		}
		int code = errno;
		free(names);
		if (code != ERANGE) /* somebody added one meanwhile */
			return -code;
	}
	return -EBUSY;
}

static int pack_one(const struct place *p, const char *name, char *value, struct fvm_buf *ret)
{
	ssize_t n = get_value(p, name, value, XATTR_SIZE_MAX);
	if (n < 0)
		return errno == ENODATA || errno == EOPNOTSUPP ? 0 : -errno;
	size_t len = (size_t)n;
	if (strcmp(name, CAPS) == 0)
		len = caps_for_host((unsigned char *)value, len);
	uint32_t stored = (uint32_t)len;
	fvm_buf_add(ret, name, strlen(name) + 1);
	fvm_buf_add(ret, &stored, sizeof(stored));
	fvm_buf_add(ret, value, len);
	return ret->failed ? -ENOMEM : 0;
}

static int pack_all(const struct place *p, struct fvm_buf *ret)
{
	scoped_free char *names = NULL;
	ssize_t size = fvm_xattr_names(p->fd, p->link, &names);
	if (size <= 0)
		return (int)size;
	scoped_free char *value = malloc(XATTR_SIZE_MAX);
	if (!value)
		return -ENOMEM;
	for (const char *name = names; name < names + size; name += strlen(name) + 1) {
		int r = travels(name) ? pack_one(p, name, value, ret) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

int fvm_xattrs_read(const struct fvm_xattr_at *at, struct fvm_buf *ret)
{
	struct place p;
	int r = place_of(at, &p);
	if (r == 0)
		r = pack_all(&p, ret);
	free(p.link);
	return r;
}

struct packed { /* one xattr of a packed list */
	const char *name, *value;
	size_t len;
};

static bool next_packed(const char *packed, size_t len, size_t *pos, struct packed *ret)
{
	const char *p = packed + *pos;
	size_t left = len - *pos, name = left ? strnlen(p, left) + 1 : 0;
	uint32_t size;
	if (left == 0 || name + sizeof(size) > left)
		return false;
	memcpy(&size, p + name, sizeof(size));
	if (size > left - name - sizeof(size))
		return false;
	*ret = (struct packed){ p, p + name + sizeof(size), size };
	*pos += name + sizeof(size) + size;
	return true;
}

static bool xattrs_has(const char *packed, size_t len, const char *name)
{
	struct packed x;
	for (size_t pos = 0; next_packed(packed, len, &pos, &x);) {
		if (strcmp(x.name, name) == 0)
			return true;
	}
	return false;
}

static int drop_others(const struct place *p, const char *packed, size_t len)
{
	scoped_free char *names = NULL;
	ssize_t size = fvm_xattr_names(p->fd, p->link, &names);
	for (const char *name = names; size > 0 && name < names + size; name += strlen(name) + 1) {
		if (!travels(name) || xattrs_has(packed, len, name))
			continue;
		int r = p->link ? lremovexattr(p->link, name) : fremovexattr(p->fd, name);
		/* a label that came with the inode belongs to the security module */
		if (r < 0 && errno != ENODATA && strncmp(name, "security.", 9) != 0)
			return -errno;
	}
	return size < 0 ? (int)size : 0;
}

static bool may_be_refused(const struct packed *x)
{
	return strncmp(x->name, "security.", 9) == 0 && strcmp(x->name, CAPS) != 0;
}

static int write_all(const struct place *p, const char *packed, size_t len)
{
	struct packed x;
	int r = drop_others(p, packed, len);
	for (size_t pos = 0; r == 0 && next_packed(packed, len, &pos, &x);) {
		r = p->link ? lsetxattr(p->link, x.name, x.value, x.len, 0)
			    : fsetxattr(p->fd, x.name, x.value, x.len, 0);
		if (r < 0)
			r = may_be_refused(&x) ? 0 : -errno;
	}
	return r;
}

int fvm_xattrs_write(const struct fvm_xattr_at *at, const char *packed, size_t len)
{
	struct place p;
	int r = FVM_FAULT("copy.xattrs");
	if (r == 0)
		r = place_of(at, &p);
	if (r < 0)
		return r;
	r = write_all(&p, packed, len);
	free(p.link);
	return r;
}

/* ---- data ---- */

#define PIECE (64 << 20) /* between two calls of who is told: part of a second */

struct told {
	fvm_copied_fn fn; /* may be NULL */
	void *arg;
};

static void tell(const struct told *told, ssize_t bytes)
{
	if (told->fn)
		told->fn((uint64_t)bytes, told->arg);
}

static int copy_by_hand(int from, int to, off_t at, off_t end, const struct told *told)
{
	const size_t size = 256U << 10;
	scoped_free char *buf = malloc(size);
	if (!buf)
		return -ENOMEM;
	while (at < end) {
		size_t want = end - at < (off_t)size ? (size_t)(end - at) : size;
		ssize_t n = pread(from, buf, want, at);
		if (n <= 0)
			return n == 0 ? -ESTALE : -errno; /* shorter than it was */
		for (ssize_t done = 0; done < n;) {
			ssize_t w = pwrite(to, buf + done, (size_t)(n - done), at + done);
			if (w < 0)
				return -errno;
			done += w;
		}
		at += n;
		tell(told, n);
	}
	return 0;
}

static int copy_extent(int from, int to, off_t at, off_t end, const struct told *told)
{
	while (at < end) {
		off_t in = at, out = at, want = end - at;
		if (told->fn && want > PIECE)
			want = PIECE;
		ssize_t n = copy_file_range(from, &in, to, &out, (size_t)want, 0);
		if (n < 0 && errno != ENOSPC && errno != EDQUOT && errno != EIO)
			return copy_by_hand(from, to, at, end, told); /* not between these two */
		if (n <= 0)
			return n == 0 ? -ESTALE : -errno;
		at += n;
		tell(told, n);
	}
	return 0;
}

/* What fallocate() set aside looks like a hole; who did that counts on the space. */
static int set_aside(int from, int to, off_t size)
{
	struct stat st;
	if (fstat(from, &st) < 0)
		return -errno;
	if (st.st_blocks * 512 < size || fallocate(to, FALLOC_FL_KEEP_SIZE, 0, size) == 0)
		return 0;
	return errno == ENOSPC || errno == EDQUOT ? -errno : 0;
}

/* Return: bytes copied, or -errno */
static off_t copy_extents(int from, int to, off_t end, const struct told *told)
{
	off_t copied = 0;
	for (off_t at = 0; at < end;) {
		off_t data = lseek(from, at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break; /* a hole up to the end */
		off_t hole = data < 0 ? end : lseek(from, data, SEEK_HOLE);
		if (data < 0)
			data = at; /* a file system without holes */
		if (hole < 0 || hole > end)
			hole = end;
		if (data >= end)
			break;
		int r = copy_extent(from, to, data, hole, told);
		if (r < 0)
			return r;
		copied += hole - data;
		at = hole;
	}
	return copied;
}

int fvm_copy_data_told(int from, int to, uint64_t size, fvm_copied_fn fn, void *arg)
{
	const struct told told = { fn, arg };
	int r = FVM_FAULT("copy.data");
	if (r < 0)
		return r;
	if (size > 0 && ioctl(to, FICLONE, from) == 0)
		return 0;
	off_t end = (off_t)size, copied = copy_extents(from, to, end, &told);
	if (copied < 0)
		return (int)copied;
	if (ftruncate(to, end) < 0)
		return -errno;
	return copied < end ? set_aside(from, to, end) : 0;
}

int fvm_copy_data(int from, int to, uint64_t size)
{
	return fvm_copy_data_told(from, to, size, NULL, NULL);
}

#define DIG_BLOCK 4096

/* Give back the whole blocks of zeros between @at and @end. */
static int dig(int to, off_t at, off_t end)
{
	static const char zeros[DIG_BLOCK];
	char block[DIG_BLOCK];
	off_t from = -1; /* where the zeros that are not given back yet begin */
	for (at = (at + DIG_BLOCK - 1) & -DIG_BLOCK; at <= end; at += DIG_BLOCK) {
		bool zero = at + DIG_BLOCK <= end && pread(to, block, DIG_BLOCK, at) == DIG_BLOCK &&
			    memcmp(block, zeros, DIG_BLOCK) == 0;
		if (zero && from < 0)
			from = at;
		if (zero || from < 0)
			continue;
		if (fallocate(to, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from, at - from) < 0)
			return errno == EOPNOTSUPP || errno == ENOSYS ? 0 : -errno;
		from = -1;
	}
	return 0;
}

int fvm_dig_holes(int to, int like, uint64_t size)
{
	off_t end = (off_t)size;
	for (off_t at = 0; at < end;) {
		off_t hole = lseek(like, at, SEEK_HOLE);
		if (hole < 0 || hole >= end)
			break;
		off_t data = lseek(like, hole, SEEK_DATA);
		if (data < 0 || data > end)
			data = end;
		/* only what is data in our file can be filled for nothing */
		off_t filled = lseek(to, hole, SEEK_DATA);
		while (filled >= 0 && filled < data) {
			off_t stop = lseek(to, filled, SEEK_HOLE);
			int r = dig(to, filled, stop < 0 || stop > data ? data : stop);
			if (r < 0)
				return r;
			filled = stop < 0 ? -1 : lseek(to, stop, SEEK_DATA);
		}
		at = data;
	}
	return 0;
}
