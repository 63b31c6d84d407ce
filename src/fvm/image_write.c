/* A layer's trees as one tar: parents before children, names in order, so that it is the same each
 * time. The walk keeps its names on the heap, not on the stack, and descriptors of the lowest
 * levels only: one that was closed is opened again as ".." of the level below it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>

#include "common/fault.h"
#include "fvm/adopt.h"
#include "fvm/changes.h"
#include "fvm/image_priv.h"
#include "fvm/owners.h"

#define BLOCK	    (256 * 1024)
#define ZEROS	    (64UL << 20)
#define HOLES_WORTH (1LL << 30) /* bytes of holes in a file that are not written out */
#define HOLES_MAX   100000
#define OPEN_LEVELS 32

struct writer {
	struct archive *tar;
	const struct fvm_owners *owners;
	struct archive_entry_linkresolver *links;
	struct fvm_digest *raw; /* of the tar itself */
	struct fvm_digest *packed;
	int out;
	unsigned long long in_bytes, out_bytes;
	bool user_xattr;
	const char *key;
	char prefix[4096]; /* the mount's place without slashes at the ends; "" for the root */
	char *block;
	fvm_progress_fn progress;
	void *progress_arg;
	struct fvm_error *err;
};

static int tar_failed(const struct writer *w, const char *what, const char *path)
{
	int code = archive_errno(w->tar);
	return fvm_error_set(w->err, code > 0 ? code : EIO, "%s '%s': %s", what, path,
			     archive_error_string(w->tar) ? archive_error_string(w->tar)
							  : "failed");
}

/* system.posix_acl_* and user.* and security.capability travel; overlay's own marks do not. */
static bool xattr_travels(const char *name)
{
	if (strncmp(name, "user.overlay.", 13) == 0 || strcmp(name, FVM_OWNER_XATTR) == 0 ||
	    strcmp(name, IMAGE_NAMED_XATTR) == 0)
		return false;
	return strncmp(name, "user.", 5) == 0 || strcmp(name, "security.capability") == 0 ||
	       strncmp(name, "system.posix_acl_", 17) == 0;
}

static void add_xattrs(const char *link, struct archive_entry *e)
{
	char names[65536], value[65536];
	ssize_t n = listxattr(link, names, sizeof(names));
	for (const char *name = names; n > 0 && name < names + n; name += strlen(name) + 1) {
		ssize_t len = xattr_travels(name) ? getxattr(link, name, value, sizeof(value)) : -1;
		if (len >= 0)
			archive_entry_xattr_add_entry(e, name, value, (size_t)len);
	}
}

static int put_header(struct writer *w, struct archive_entry *e)
{
	if (archive_write_header(w->tar, e) < ARCHIVE_WARN)
		return tar_failed(w, "write", archive_entry_pathname(e));
	return 0;
}

static int put_mark(struct writer *w, const char *dir, const char *name)
{
	struct archive_entry *e = archive_entry_new();
	scoped_buf path = { 0 };
	fvm_buf_printf(&path, "%s%s%s", dir, *dir ? "/" : "", name);
	if (!e || path.failed) {
		archive_entry_free(e);
		return fvm_error_set(w->err, ENOMEM, "write a whiteout");
	}
	archive_entry_set_pathname(e, path.data);
	archive_entry_set_filetype(e, AE_IFREG);
	archive_entry_set_perm(e, 0600);
	archive_entry_set_size(e, 0);
	int r = put_header(w, e);
	archive_entry_free(e);
	return r;
}

/* A program can make a file of 16 TiB in a moment: to write that out would take hours. Small holes
 * are written as zeros, as image-spec wants it (layer.md): some tools read no sparse files. */
static bool is_mostly_hole(const struct stat *st)
{
	return st->st_size - st->st_blocks * 512 > HOLES_WORTH;
}

/* Where the next hole of @fd from @at on begins and ends; both @size if there is none. */
static void next_hole(int fd, off_t at, off_t size, off_t ret[2])
{
	off_t hole = lseek(fd, at, SEEK_HOLE);
	ret[0] = hole < 0 || hole > size ? size : hole;
	off_t data = ret[0] < size ? lseek(fd, ret[0], SEEK_DATA) : size;
	ret[1] = data < 0 || data > size ? size : data;
}

static void note_holes(struct archive_entry *e, int fd, off_t size)
{
	off_t hole[2], at = 0;
	for (int i = 0; at < size; i++) {
		next_hole(fd, at, size, hole);
		if (i == HOLES_MAX)
			hole[0] = hole[1] = size;
		if (hole[0] > at)
			archive_entry_sparse_add_entry(e, at, hole[0] - at);
		at = hole[1];
		if (hole[0] < size && at == size)
			archive_entry_sparse_add_entry(e, size, 0);
	}
}

/* libarchive wants the bytes of holes, too, and throws them away. */
static int put_zeros(struct writer *w, const char *path, off_t len)
{
	scoped_free char *zeros = calloc(1, ZEROS);
	for (off_t n; zeros && len > 0; len -= n) {
		n = len < (off_t)ZEROS ? len : (off_t)ZEROS;
		if (archive_write_data(w->tar, zeros, (size_t)n) != n)
			return tar_failed(w, "write", path);
	}
	return zeros ? 0 : fvm_error_set(w->err, ENOMEM, "write '%s'", path);
}

/* Bytes @at to @end. */
static int put_data(struct writer *w, int fd, const char *path, off_t at, off_t end)
{
	while (at < end) {
		ssize_t n = pread(fd, w->block, BLOCK, at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return fvm_error_set(w->err, n < 0 ? errno : ESTALE, "read '%s'", path);
		if (n > end - at)
			n = end - at; /* it grew: the header has spoken */
		if (archive_write_data(w->tar, w->block, (size_t)n) != n)
			return tar_failed(w, "write", path);
		at += n;
		w->in_bytes += (unsigned long long)n;
		if (w->progress)
			w->progress(w->in_bytes, 0, w->progress_arg);
	}
	return 0;
}

static int put_sparse(struct writer *w, int fd, const char *path, off_t size)
{
	off_t hole[2];
	int r = 0;
	for (off_t at = 0; at < size && r == 0; at = hole[1]) {
		next_hole(fd, at, size, hole);
		r = put_data(w, fd, path, at, hole[0]);
		if (r == 0)
			r = put_zeros(w, path, hole[1] - hole[0]);
	}
	return r;
}

/* A hard link to something already written, or a file with its bytes. */
static int put_file(struct writer *w, struct archive_entry *e, int fd, const char *path)
{
	struct archive_entry *later = NULL;
	struct stat st;
	archive_entry_linkify(w->links, &e, &later);
	const off_t size = archive_entry_size(e);
	const bool sparse = size > 0 && fstat(fd, &st) == 0 && is_mostly_hole(&st);
	if (sparse)
		note_holes(e, fd, size);
	int r = put_header(w, e);
	if (r < 0 || size <= 0)
		return r;
	return sparse ? put_sparse(w, fd, path, size) : put_data(w, fd, path, 0, size);
}

struct item {
	int dir; /* directory in the layer */
	const char *name;
	const char *path; /* in the tar */
	const char *rel;  /* below the mount */
	struct stat st;
};

static void fill_entry(const struct writer *w, const struct item *it, struct archive_entry *e)
{
	struct stat st = it->st;
	struct stat real = it->st;
	fvm_owners_apply(w->owners, it->dir, it->name, w->key, it->rel, NULL, NULL, &st);
	if (st.st_uid == FVM_OWNER_UNKNOWN)
		st.st_uid = st.st_gid = FVM_NOBODY;
	archive_entry_copy_stat(e, &st);
	archive_entry_set_ino64(e, (int64_t)real.st_ino);
	archive_entry_set_dev(e, real.st_dev);
	archive_entry_set_nlink(e, S_ISDIR(real.st_mode) ? 1 : (unsigned int)real.st_nlink);
	archive_entry_set_pathname(e, it->path);
	archive_entry_unset_atime(e);
	archive_entry_unset_ctime(e);
	if (!S_ISREG(st.st_mode))
		archive_entry_set_size(e, 0);
	/* the format has no such names, but programs have: without a word a file would be deleted
	 */
	if (strncmp(it->name, ".wh.", 4) == 0)
		archive_entry_xattr_add_entry(e, IMAGE_NAMED_XATTR, "y", 1);
}

static int put_symlink(struct writer *w, const struct item *it, struct archive_entry *e)
{
	char target[4097];
	ssize_t n = readlinkat(it->dir, it->name, target, sizeof(target) - 1);
	if (n < 0)
		return fvm_error_set(w->err, errno, "read link '%.300s'", it->path);
	target[n] = '\0';
	archive_entry_set_symlink(e, target);
	return put_header(w, e);
}

static int put_opened(struct writer *w, const struct item *it, struct archive_entry *e)
{
	char link[64];
	scoped_fd fd = fvm_open_nofollow(it->dir, it->name, O_RDONLY | O_NONBLOCK);
	if (fd < 0)
		return fvm_error_set(w->err, -fd, "open '%s'", it->path);
	struct stat now;
	if (fstat(fd, &now) < 0 || (now.st_mode & S_IFMT) != (it->st.st_mode & S_IFMT))
		return fvm_error_set(w->err, ESTALE, "'%s' changed while it was read", it->path);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	add_xattrs(link, e);
	return S_ISREG(now.st_mode) ? put_file(w, e, fd, it->path) : put_header(w, e);
}

static int put_item(struct writer *w, const struct item *it)
{
	if (S_ISSOCK(it->st.st_mode))
		return 0; /* nothing listens in a file */
	struct archive_entry *e = archive_entry_new();
	if (!e)
		return fvm_error_set(w->err, ENOMEM, "write '%s'", it->path);
	fill_entry(w, it, e);
	int r;
	if (S_ISLNK(it->st.st_mode))
		r = put_symlink(w, it, e);
	else if (S_ISREG(it->st.st_mode) || S_ISDIR(it->st.st_mode))
		r = put_opened(w, it, e);
	else
		r = put_header(w, e); /* FIFOs */
	archive_entry_free(e);
	return r;
}

/* ---- the walk ---- */

struct level {
	int dir; /* -1: closed, as too many are open below it */
	dev_t dev;
	ino_t ino;
	struct dirent **names;
	int count, at;
	size_t path_len; /* of the path of this directory in the buffer */
};

static void level_free(struct level *l)
{
	for (int i = l->at; i < l->count; i++)
		free(l->names[i]);
	free(l->names);
	fvm_fd_closep(&l->dir);
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int level_open(int dir, size_t path_len, struct level *ret)
{
	struct stat st;
	*ret = (struct level){ .dir = dir, .path_len = path_len };
	if (fstat(dir, &st) < 0)
		return -errno;
	ret->dev = st.st_dev;
	ret->ino = st.st_ino;
	ret->count = scandirat(dir, ".", &ret->names, fvm_dir_filter, by_bytes);
	if (ret->count >= 0)
		return 0;
	ret->count = 0;
	return -errno;
}

static int push(struct level **stack, size_t *depth, int dir, size_t path_len)
{
	struct level *more = realloc(*stack, (*depth + 1) * sizeof(*more));
	if (!more) {
		close(dir);
		return -ENOMEM;
	}
	*stack = more;
	int r = level_open(dir, path_len, &more[*depth]);
	(*depth)++;
	if (*depth > OPEN_LEVELS) {
		struct level *far = &more[*depth - 1 - OPEN_LEVELS];
		fvm_fd_closep(&far->dir);
	}
	return r;
}

/* The last level is done; the one above goes on. */
static int pop(struct level *stack, size_t *depth)
{
	struct level *l = &stack[--*depth], *above = *depth ? l - 1 : NULL;
	struct stat st;
	int r = 0;
	if (above && above->dir < 0) {
		above->dir = openat(l->dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (above->dir < 0 || fstat(above->dir, &st) < 0)
			r = -errno;
		else if (st.st_dev != above->dev || st.st_ino != above->ino)
			r = -ESTALE;
	}
	level_free(l);
	return r;
}

/* One name of a directory. Return: 1 when it is a directory to go into, 0, or negative errno */
static int visit(struct writer *w, const struct level *l, const char *name, const char *path)
{
	struct item it = { .dir = l->dir, .name = name, .path = path };
	size_t skip = strlen(w->prefix);
	it.rel = path + skip + (skip && path[skip] == '/');
	if (fstatat(l->dir, name, &it.st, AT_SYMLINK_NOFOLLOW) < 0)
		return fvm_error_set(w->err, errno, "look at '%s'", path);
	if (fvm_whiteout_is(l->dir, name, &it.st, w->user_xattr)) {
		char mark[300];
		const char *slash = strrchr(path, '/');
		scoped_free char *dir = strndup(path, slash ? (size_t)(slash - path) : 0);
		if (!dir)
			return fvm_error_set(w->err, ENOMEM, "write a whiteout");
		snprintf(mark, sizeof(mark), ".wh.%s", name);
		return put_mark(w, dir, mark);
	}
	int r = put_item(w, &it);
	return r < 0 ? r : S_ISDIR(it.st.st_mode);
}

static int step(struct writer *w, struct level **stack, size_t *depth, struct fvm_buf *path)
{
	struct level *l = &(*stack)[*depth - 1];
	if (l->at == l->count) {
		int r = pop(*stack, depth);
		return r < 0 ? fvm_error_set(w->err, -r, "walk the layer") : 0;
	}
	scoped_free struct dirent *e = l->names[l->at++];
	path->len = l->path_len;
	fvm_buf_printf(path, "%s%s", path->len ? "/" : "", e->d_name);
	if (path->failed)
		return fvm_error_set(w->err, ENOMEM, "walk the layer");
	int r = visit(w, l, e->d_name, path->data);
	if (r <= 0)
		return r;
	int dir = fvm_open_nofollow(l->dir, e->d_name, O_RDONLY | O_DIRECTORY);
	if (dir < 0)
		return fvm_error_set(w->err, -dir, "open '%s'", path->data);
	bool opaque = fvm_opaque_is(dir, w->user_xattr);
	r = push(stack, depth, dir, path->len);
	if (r < 0)
		return fvm_error_set(w->err, -r, "read '%s'", path->data);
	return opaque ? put_mark(w, path->data, ".wh..wh..opq") : 0;
}

static int walk_upper(struct writer *w, int upper)
{
	struct level *stack = NULL;
	size_t depth = 0;
	scoped_buf path = { 0 };
	fvm_buf_puts(&path, w->prefix);
	int r = push(&stack, &depth, upper, path.len);
	if (r < 0)
		fvm_error_set(w->err, -r, "read the layer");
	while (r == 0 && depth > 0)
		r = step(w, &stack, &depth, &path);
	while (depth > 0)
		level_free(&stack[--depth]);
	free(stack);
	return r;
}

static int write_mount(struct writer *w, int fs, const char *key)
{
	char point[sizeof(w->prefix)], path[300];
	if (fvm_mount_point(key, point, sizeof(point)) < 0)
		return 0;
	snprintf(w->prefix, sizeof(w->prefix), "%s", point + 1);
	w->key = key;
	snprintf(path, sizeof(path), "%s/upper", key);
	int upper = fvm_open_nofollow(fs, path, O_RDONLY | O_DIRECTORY);
	return upper < 0 ? 0 : walk_upper(w, upper);
}

/* ---- compression and digests ---- */

static la_ssize_t packed_out(struct archive *a, void *arg, const void *data, size_t len)
{
	struct writer *w = arg;
	(void)a;
	fvm_digest_add(w->packed, data, len);
	w->out_bytes += len;
	int r = FVM_FAULT("export.data");
	if (r == 0)
		r = fvm_write_all(w->out, data, len);
	if (r < 0)
		archive_set_error(a, -r, "write the layer");
	return r < 0 ? -1 : (la_ssize_t)len;
}

#include <zstd.h>

/* libarchive's own zstd filter hides the bytes before it, whose digest OCI wants: so the tar comes
 * to us plain and is compressed here. */
struct packer {
	struct writer *w;
	ZSTD_CCtx *zstd;
	char *out;
	size_t room;
};

static int pack(struct packer *p, const void *data, size_t len, ZSTD_EndDirective how)
{
	ZSTD_inBuffer in = { data, len, 0 };
	for (;;) {
		ZSTD_outBuffer out = { p->out, p->room, 0 };
		size_t left = ZSTD_compressStream2(p->zstd, &out, &in, how);
		if (ZSTD_isError(left))
			return -EIO;
		if (out.pos && packed_out(p->w->tar, p->w, p->out, out.pos) < 0)
			return -EIO;
		if (how == ZSTD_e_end ? left == 0 : in.pos == in.size)
			return 0;
	}
}

static la_ssize_t tar_out(struct archive *a, void *arg, const void *data, size_t len)
{
	struct packer *p = arg;
	(void)a;
	fvm_digest_add(p->w->raw, data, len);
	return pack(p, data, len, ZSTD_e_continue) < 0 ? -1 : (la_ssize_t)len;
}

static int open_tar(struct writer *w, struct packer *p)
{
	w->tar = archive_write_new();
	w->links = archive_entry_linkresolver_new();
	w->block = malloc(BLOCK);
	w->raw = fvm_digest_new();
	w->packed = fvm_digest_new();
	p->w = w;
	p->room = ZSTD_CStreamOutSize();
	p->out = malloc(p->room);
	p->zstd = ZSTD_createCCtx();
	if (!w->tar || !w->links || !w->block || !w->raw || !w->packed || !p->out || !p->zstd)
		return fvm_error_set(w->err, ENOMEM, "start a layer");
	/* "restricted" drops what is below a second of a time: a program that was started from such
	 * a file would not find it again (fvm/checkpoint.h) */
	archive_write_set_format_pax(w->tar);
	archive_write_set_options(w->tar, "hdrcharset=BINARY");
	archive_write_set_bytes_per_block(w->tar, 0);
	archive_entry_linkresolver_set_strategy(w->links, archive_format(w->tar));
	ZSTD_CCtx_setParameter(p->zstd, ZSTD_c_compressionLevel, 3);
	ZSTD_CCtx_setParameter(p->zstd, ZSTD_c_checksumFlag, 1);
	if (archive_write_open(w->tar, p, NULL, tar_out, NULL) != ARCHIVE_OK)
		return tar_failed(w, "start", "layer");
	return 0;
}

static void close_tar(struct writer *w, struct packer *p)
{
	archive_write_free(w->tar);
	archive_entry_linkresolver_free(w->links);
	free(w->block);
	fvm_digest_free(w->raw);
	fvm_digest_free(w->packed);
	free(p->out);
	ZSTD_freeCCtx(p->zstd);
}

static int write_mounts(struct writer *w, int fs)
{
	struct dirent **keys = NULL;
	int n = scandirat(fs, ".", &keys, fvm_dir_filter, by_bytes);
	int r = n < 0 ? fvm_error_set(w->err, errno, "read the layer") : 0;
	for (int i = 0; i < n; i++) {
		if (r == 0)
			r = write_mount(w, fs, keys[i]->d_name);
		free(keys[i]);
	}
	free(keys);
	return r;
}

static int finish(struct writer *w, struct packer *p, int dir, struct image_blob *ret)
{
	if (archive_write_close(w->tar) != ARCHIVE_OK || pack(p, NULL, 0, ZSTD_e_end) < 0)
		return tar_failed(w, "finish", "layer");
	fvm_digest_end(w->raw, ret->diff_id);
	fvm_digest_end(w->packed, ret->digest);
	w->raw = w->packed = NULL;
	ret->size = w->out_bytes;
	if (renameat(dir, "layer", dir, ret->digest) < 0)
		return fvm_error_set(w->err, errno, "name the layer");
	return 0;
}

int image_layer_write(const struct fvm_vm *vm, int fs, int dir, struct image_blob *ret,
		      fvm_progress_fn progress, void *arg, struct fvm_error *err)
{
	struct fvm_owners *owners = NULL;
	int f = FVM_FAULT("export.layer");
	if (f < 0)
		return fvm_error_set(err, -f, "make a temporary file");
	scoped_fd out = openat(dir, "layer", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (out < 0)
		return fvm_error_set(err, errno, "make a temporary file");
	int r = vm->config.rootless ? fvm_owners_load(fs, &owners, err) : 0;
	if (r < 0)
		return r;
	struct writer w = {
		.owners = owners,
		.out = out,
		.user_xattr = vm->config.rootless,
		.progress = progress,
		.progress_arg = arg,
		.err = err,
	};
	struct packer p = { 0 };
	r = open_tar(&w, &p);
	if (r == 0)
		r = write_mounts(&w, fs);
	if (r == 0)
		r = finish(&w, &p, dir, ret);
	close_tar(&w, &p);
	fvm_owners_free(owners);
	return r;
}
