#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fvm/changes.h"
#include "fvm/compare.h"
#include "fvm/owners.h"
#include "fvm/subids.h"

#define XATTR_CAPS "security.capability"
#define BLOCK	   (256 * 1024)
#define LIST_MAX   (64 * 1024) /* XATTR_LIST_MAX and XATTR_SIZE_MAX */

void fvm_compare_free(struct fvm_compare *c)
{
	free(c->blocks);
	free(c->lists);
	*c = (struct fvm_compare){ 0 };
}

static int buffers_need(char **buffers, size_t size)
{
	if (!*buffers)
		*buffers = malloc(size);
	return *buffers ? 0 : -ENOMEM;
}

int fvm_stat_at(int dir, const char *name, struct stat *ret)
{
	if (fstatat(dir, name, ret, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
		return -errno;
	fvm_subids_stat(dir, name, ret);
	return 0;
}

int fvm_open_dir(int dir, const char *name, bool path_only)
{
	return fvm_open_same_mount(dir, name, O_DIRECTORY | (path_only ? O_PATH : O_RDONLY));
}

int fvm_open_regular(int dir, const char *name)
{
	int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
	int fd = openat(dir, name, flags | O_NOATIME);
	if (fd < 0 && errno == EPERM) /* not ours */
		fd = openat(dir, name, flags);
	return fd < 0 ? -errno : fd;
}

/* Reads @len bytes at @at; a file that got shorter ends in zeros, and then differs or does not. */
static int read_block(int fd, char *to, size_t len, off_t at)
{
	size_t done = 0;
	while (done < len) {
		ssize_t n = pread(fd, to + done, len - done, at + (off_t)done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	memset(to + done, 0, len - done);
	return 0;
}

/* Where data begins at or after @at; @size when there is none. */
static off_t next_data(int fd, off_t at, off_t size)
{
	off_t data = lseek(fd, at, SEEK_DATA);
	if (data >= 0)
		return data < size ? data : size;
	return errno == ENXIO ? size : at;
}

int fvm_compare_fds(struct fvm_compare *c, int a, int b, off_t size, bool sparse)
{
	int r = buffers_need(&c->blocks, 2 * BLOCK);
	if (r < 0)
		return r;
	for (off_t at = 0; at < size;) {
		if (sparse) {
			off_t in_a = next_data(a, at, size), in_b = next_data(b, at, size);
			at = in_a < in_b ? in_a : in_b;
			if (at >= size)
				break;
		}
		size_t len = size - at < BLOCK ? (size_t)(size - at) : BLOCK;
		r = read_block(a, c->blocks, len, at);
		if (r == 0)
			r = read_block(b, c->blocks + BLOCK, len, at);
		if (r < 0)
			return r;
		if (memcmp(c->blocks, c->blocks + BLOCK, len) != 0)
			return 0;
		at += (off_t)len;
	}
	return 1;
}

static bool is_sparse(const struct stat *st)
{
	return st->st_blocks * 512 < st->st_size && st->st_size > BLOCK;
}

int fvm_compare_files(struct fvm_compare *c, const struct fvm_entry *a, const struct fvm_entry *b)
{
	if (a->st->st_size == 0)
		return 1;
	scoped_fd fd_a = fvm_open_regular(a->dir, a->name);
	if (fd_a < 0)
		return fd_a == -EACCES ? -EPERM : fd_a;
	scoped_fd fd_b = fvm_open_regular(b->dir, b->name);
	if (fd_b < 0)
		return fd_b;
	return fvm_compare_fds(c, fd_a, fd_b, a->st->st_size, is_sparse(a->st) || is_sparse(b->st));
}

int fvm_compare_links(struct fvm_compare *c, const struct fvm_entry *a, const struct fvm_entry *b)
{
	if (a->st->st_size != b->st->st_size)
		return 0;
	int r = buffers_need(&c->lists, 4 * LIST_MAX);
	if (r < 0)
		return r;
	char *in_a = c->lists, *in_b = c->lists + LIST_MAX;
	ssize_t len_a = readlinkat(a->dir, a->name, in_a, LIST_MAX);
	if (len_a < 0)
		return -errno;
	ssize_t len_b = readlinkat(b->dir, b->name, in_b, LIST_MAX);
	if (len_b < 0)
		return -errno;
	return len_a == len_b && memcmp(in_a, in_b, (size_t)len_a) == 0;
}

/* ---- extended attributes ---- */

struct list {
	char path[320]; /* below /proc/self/fd */
	char *names;	/* NUL after each */
	size_t len;
	char *value;
};

static const char *const ignored[] = {
	"trusted.overlay.", "user.overlay.", /* prefixes: the overlay's own */
	"security.selinux", "security.evm",  /* made anew by the system a file comes to */
};

static bool counts(const char *name, bool lenient)
{
	for (size_t i = 0; i < FVM_COUNT(ignored); i++) {
		if (strncmp(name, ignored[i], strlen(ignored[i])) == 0)
			return false;
	}
	if (lenient && strcmp(name, FVM_OWNER_XATTR) == 0)
		return false;
	/* the rest of system.* is a view of a file system's own data */
	return strncmp(name, "system.", 7) != 0 || strncmp(name, "system.posix_acl_", 17) == 0;
}

/* Leaves only the names that count. */
static void list_filter(struct list *l, bool lenient)
{
	size_t kept = 0;
	for (size_t at = 0; at < l->len;) {
		size_t len = strnlen(l->names + at, l->len - at) + 1;
		if (counts(l->names + at, lenient)) {
			memmove(l->names + kept, l->names + at, len);
			kept += len;
		}
		at += len;
	}
	l->len = kept;
}

static int list_read(struct list *l, const struct fvm_entry *e, bool lenient)
{
	if (snprintf(l->path, sizeof(l->path), "/proc/self/fd/%d/%s", e->dir, e->name) >=
	    (int)sizeof(l->path))
		return -ENAMETOOLONG;
	ssize_t n = llistxattr(l->path, l->names, LIST_MAX - 1);
	if (n < 0) {
		if (errno != ENOTSUP && errno != EACCES && errno != EPERM)
			return -errno;
		n = 0;
	}
	l->names[n] = '\0';
	l->len = (size_t)n;
	list_filter(l, lenient);
	return 0;
}

static bool list_has(const struct list *l, const char *name)
{
	for (size_t at = 0; at < l->len; at += strlen(l->names + at) + 1) {
		if (strcmp(l->names + at, name) == 0)
			return true;
	}
	return false;
}

/* Versions 2 and 3 differ in the root id alone, which stands at the end. */
static size_t caps_normalise(char *value, size_t len)
{
	struct vfs_ns_cap_data caps;
	if (len != sizeof(caps))
		return len;
	memcpy(&caps, value, sizeof(caps));
	uint32_t magic = le32toh(caps.magic_etc);
	if ((magic & VFS_CAP_REVISION_MASK) != VFS_CAP_REVISION_3)
		return len;
	magic = (magic & ~(uint32_t)VFS_CAP_REVISION_MASK) | VFS_CAP_REVISION_2;
	caps.magic_etc = htole32(magic);
	memcpy(value, &caps, sizeof(caps));
	return XATTR_CAPS_SZ_2;
}

/* Return: whether both have @name with the same value; what can't be read is taken as equal */
static bool same_value(const struct list *a, const struct list *b, const char *name)
{
	ssize_t len_a = lgetxattr(a->path, name, a->value, LIST_MAX);
	if (len_a < 0)
		return errno == EACCES || errno == EPERM;
	ssize_t len_b = lgetxattr(b->path, name, b->value, LIST_MAX);
	if (len_b < 0)
		return errno == EACCES || errno == EPERM;
	size_t n_a = (size_t)len_a, n_b = (size_t)len_b;
	if (strcmp(name, XATTR_CAPS) == 0) {
		n_a = caps_normalise(a->value, n_a);
		n_b = caps_normalise(b->value, n_b);
	}
	return n_a == n_b && memcmp(a->value, b->value, n_a) == 0;
}

static int bit_of(const char *name)
{
	return strcmp(name, XATTR_CAPS) == 0 ? FVM_META_CAPS : FVM_META_XATTR;
}

/* Without privileges only user.* and capabilities can be carried over to a copy. */
static bool could_carry(const char *name)
{
	return strncmp(name, "user.", 5) == 0 || strcmp(name, XATTR_CAPS) == 0;
}

int fvm_compare_xattrs(struct fvm_compare *c, const struct fvm_entry *a, const struct fvm_entry *b,
		       bool lenient)
{
	int r = buffers_need(&c->lists, 4 * LIST_MAX), bits = 0;
	if (r < 0)
		return r;
	struct list in_a = { 0 }, in_b = { 0 };
	in_a.names = c->lists;
	in_b.names = c->lists + LIST_MAX;
	in_a.value = c->lists + 2L * LIST_MAX;
	in_b.value = c->lists + 3L * LIST_MAX;
	r = list_read(&in_a, a, lenient);
	if (r == 0)
		r = list_read(&in_b, b, lenient);
	if (r < 0)
		return r;
	for (const char *name = in_a.names; name < in_a.names + in_a.len;
	     name += strlen(name) + 1) {
		if (!list_has(&in_b, name) || !same_value(&in_a, &in_b, name))
			bits |= bit_of(name);
	}
	for (const char *name = in_b.names; name < in_b.names + in_b.len;
	     name += strlen(name) + 1) {
		if (!list_has(&in_a, name) && !(lenient && !could_carry(name)))
			bits |= bit_of(name);
	}
	return bits;
}
