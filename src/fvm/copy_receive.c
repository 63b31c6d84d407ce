#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/copy.h"

#define DEPTH_MAX 600 /* a descriptor each */

struct receiver {
	struct fvm_copy *copy;
	FILE *in;
	char *buf; /* FVM_COPY_PIECE */
	uint64_t bytes;
	uint64_t made; /* temporary names */
	int depth;
	struct fvm_error *err;
};

struct entry { /* one record with its strings */
	struct fvm_copy_record record;
	char name[NAME_MAX + 1];
	char target[PATH_MAX];
};

static int broken(struct receiver *r, const char *what)
{
	return fvm_error_set(r->err, EBADMSG, "read the copied stream: %s", what);
}

/* The stream ends: who sent it has gone, and tells why by another way. */
static int get(struct receiver *r, void *into, size_t len)
{
	if (len == 0 || fread(into, 1, len, r->in) == len)
		return 0;
	return feof(r->in) ? -EPIPE : broken(r, "an error");
}

static bool name_is_good(const char *name, size_t len)
{
	return strlen(name) == len && !strchr(name, '/') && strcmp(name, ".") != 0 &&
	       strcmp(name, "..") != 0;
}

static int get_entry(struct receiver *r, struct entry *e)
{
	struct fvm_copy_record *record = &e->record;
	int n = get(r, record, sizeof(*record));
	if (n < 0)
		return n;
	if (record->magic != FVM_COPY_MAGIC || record->type < FVM_COPY_FILE ||
	    record->type > FVM_COPY_DONE)
		return broken(r, "no record where one should be");
	if (record->name_len > NAME_MAX || record->target_len >= PATH_MAX ||
	    record->mtime_ns >= 1000000000)
		return broken(r, "a length or time out of bounds");
	n = get(r, e->name, record->name_len);
	if (n == 0)
		n = get(r, e->target, record->target_len);
	if (n < 0)
		return n;
	e->name[record->name_len] = '\0';
	e->target[record->target_len] = '\0';
	if (!name_is_good(e->name, record->name_len) || strlen(e->target) != record->target_len)
		return broken(r, "a name that is none");
	return 0;
}

static int failed(struct receiver *r, const char *what, const char *name)
{
	char quoted[200];
	return fvm_error_set(r->err, errno, "%s %s", what, fvm_quote_error(name, quoted));
}

static void set_owner(const struct receiver *r, int dir, const char *name, int flags,
		      const struct entry *e)
{
	if (r->copy->flags & FVM_COPY_OWNERS)
		(void)!fchownat(dir, name, e->record.uid, e->record.gid, flags);
}

static int set_meta(struct receiver *r, int fd, const struct entry *e)
{
	const struct timespec times[2] = {
		{ .tv_nsec = UTIME_OMIT },
		{ .tv_sec = e->record.mtime_s, .tv_nsec = e->record.mtime_ns },
	};
	set_owner(r, fd, "", AT_EMPTY_PATH, e);
	if (fchmod(fd, e->record.mode & 01777) < 0 || futimens(fd, times) < 0)
		return failed(r, "set mode and time of", e->name);
	return 0;
}

/* The next piece of a file of which @at bytes are there, with its bytes in r->buf; the last has
 * none, and says how long the file is. */
static int get_piece(struct receiver *r, uint64_t at, struct fvm_copy_piece *ret)
{
	int n = get(r, ret, sizeof(*ret));
	if (n < 0)
		return n;
	if (ret->len > FVM_COPY_PIECE || ret->offset < at ||
	    ret->offset > INT64_MAX - FVM_COPY_PIECE)
		return broken(r, "a piece out of order");
	return get(r, r->buf, ret->len);
}

static int get_contents(struct receiver *r, int fd, const struct entry *e)
{
	uint64_t at = 0;
	for (;;) {
		struct fvm_copy_piece piece;
		int n = get_piece(r, at, &piece);
		if (n < 0)
			return n;
		at = piece.offset;
		if (piece.len == 0)
			return ftruncate(fd, (off_t)at) < 0 ? failed(r, "write", e->name) : 0;
		if (pwrite(fd, r->buf, piece.len, (off_t)at) != (ssize_t)piece.len)
			return failed(r, "write", e->name);
		at += piece.len;
		r->bytes += piece.len;
		if (r->copy->progress)
			r->copy->progress(r->copy->arg, r->bytes);
	}
}

static void temporary(struct receiver *r, char name[48])
{
	snprintf(name, 48, ".fvm-cp.%d.%llu", (int)getpid(), (unsigned long long)r->made++);
}

/* Into its place: what is there and no directory is replaced, links are not followed. */
static int put_in_place(struct receiver *r, int dir, const char *tmp, const char *name)
{
	struct stat st;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISREG(st.st_mode) &&
	    !S_ISLNK(st.st_mode)) {
		errno = S_ISDIR(st.st_mode) ? EISDIR : EEXIST;
		return failed(r, "replace", name);
	}
	return renameat(dir, tmp, dir, name) < 0 ? failed(r, "make", name) : 0;
}

static int make_file(struct receiver *r, int dir, const char *name, const struct entry *e)
{
	char tmp[48];
	temporary(r, tmp);
	scoped_fd fd = openat(dir, tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return failed(r, "make", name);
	int n = get_contents(r, fd, e);
	if (n == 0)
		n = set_meta(r, fd, e);
	if (n == 0)
		n = put_in_place(r, dir, tmp, name);
	if (n < 0)
		(void)unlinkat(dir, tmp, 0);
	return n;
}

static int make_link(struct receiver *r, int dir, const char *name, const struct entry *e)
{
	char tmp[48];
	temporary(r, tmp);
	if (symlinkat(e->target, dir, tmp) < 0)
		return failed(r, "make the link", name);
	set_owner(r, dir, tmp, AT_SYMLINK_NOFOLLOW, e);
	int n = put_in_place(r, dir, tmp, name);
	if (n < 0)
		(void)unlinkat(dir, tmp, 0);
	return n;
}

static int make_entry(struct receiver *r, int dir, const char *name, const struct entry *e);

static int get_entries(struct receiver *r, int fd)
{
	scoped_free struct entry *e = malloc(sizeof(*e));
	if (!e)
		return fvm_error_set(r->err, ENOMEM, "copy");
	for (;;) {
		int n = get_entry(r, e);
		if (n < 0)
			return n;
		if (e->record.type == FVM_COPY_UP)
			return 0;
		if (e->record.type == FVM_COPY_DONE || !e->name[0])
			return broken(r, "it ends within a directory");
		n = make_entry(r, fd, e->name, e);
		if (n < 0)
			return n;
	}
}

static int make_dir(struct receiver *r, int dir, const char *name, const struct entry *e)
{
	bool made = mkdirat(dir, name, 0700) == 0;
	if (!made && errno != EEXIST)
		return failed(r, "make", name);
	scoped_fd fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return failed(r, "open", name);
	if (r->depth >= DEPTH_MAX)
		return broken(r, "it is nested too deeply");
	r->depth++;
	int n = get_entries(r, fd);
	r->depth--;
	return n == 0 && made ? set_meta(r, fd, e) : n;
}

static int make_entry(struct receiver *r, int dir, const char *name, const struct entry *e)
{
	switch (e->record.type) {
	case FVM_COPY_FILE:
		return make_file(r, dir, name, e);
	case FVM_COPY_DIR:
		return make_dir(r, dir, name, e);
	case FVM_COPY_LINK:
		return make_link(r, dir, name, e);
	default:
		return broken(r, "a record out of place");
	}
}

/* The destination is the user's own path: its links are followed, what is copied follows none.
 * Return: descriptor of the directory it goes to, with its name there ("": the contents into it) */
static int open_place(const char *path, const struct entry *e, char name[NAME_MAX + 1])
{
	struct stat st;
	char real[PATH_MAX];
	bool there = stat(path, &st) == 0;
	if (there && S_ISDIR(st.st_mode)) {
		strcpy(name, e->name);
		return openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (there && (e->record.type == FVM_COPY_DIR || !S_ISREG(st.st_mode))) {
		errno = S_ISREG(st.st_mode) ? ENOTDIR : EEXIST;
		return -1;
	}
	size_t len = strlen(path);
	if (!there && errno != ENOENT)
		return -1;
	if (there ? !realpath(path, real) : len == 0 || len >= sizeof(real)) {
		errno = there ? errno : ENOENT;
		return -1;
	}
	if (!there) {
		strcpy(real, path);
		if (real[len - 1] == '/' && e->record.type != FVM_COPY_DIR) {
			errno = ENOENT; /* "cp file new/" asks for a directory */
			return -1;
		}
		while (len > 1 && real[len - 1] == '/')
			real[--len] = '\0';
	}
	char *slash = strrchr(real, '/');
	const char *last = slash ? slash + 1 : real;
	if (!*last || strlen(last) > NAME_MAX) {
		errno = *last ? ENAMETOOLONG : EINVAL;
		return -1;
	}
	strcpy(name, last);
	if (slash)
		*(slash == real ? slash + 1 : slash) = '\0';
	return openat(AT_FDCWD, slash ? real : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* A file's bytes, holes as zeros. */
static int get_bytes(struct receiver *r, int fd)
{
	static const char zeros[4096];
	struct fvm_copy_piece piece;
	uint64_t at = 0;
	for (;;) {
		int n = get_piece(r, at, &piece);
		if (n < 0)
			return n;
		for (size_t hole; n == 0 && at < piece.offset; at += hole) {
			hole = piece.offset - at < sizeof(zeros) ? (size_t)(piece.offset - at)
								 : sizeof(zeros);
			n = fvm_write_all(fd, zeros, hole);
		}
		if (n == 0 && piece.len == 0)
			return 0;
		if (n == 0)
			n = fvm_write_all(fd, r->buf, piece.len);
		if (n < 0)
			return fvm_error_set(r->err, -n, "write to the standard output");
		at += piece.len;
	}
}

static int receive_to_stdout(struct receiver *r, const struct entry *e)
{
	if (e->record.type == FVM_COPY_FILE)
		return get_bytes(r, STDOUT_FILENO);
	fvm_error_hint(r->err, "copy it to a directory");
	return fvm_error_say(r->err, EISDIR, "a directory can't be written to the standard output");
}

/* In a directory the name that comes decides what is replaced: not ".bashrc" for "notes.txt". */
static bool is_asked_for(const struct receiver *r, const struct entry *e)
{
	char name[NAME_MAX + 1];
	if (!r->copy->source)
		return true;
	fvm_copy_name(r->copy->source, name);
	return strcmp(name, e->name) == 0;
}

static int receive_top(struct receiver *r, const char *path)
{
	char name[NAME_MAX + 1], quoted[200];
	scoped_free struct entry *e = malloc(sizeof(*e));
	if (!e)
		return fvm_error_set(r->err, ENOMEM, "copy");
	int n = get_entry(r, e);
	if (n < 0)
		return n;
	if (e->record.type != FVM_COPY_DIR && e->record.type != FVM_COPY_FILE)
		return broken(r, "it does not begin with a file or directory");
	if (!is_asked_for(r, e))
		return broken(r, "it is called otherwise than what was asked for");
	if (r->copy->flags & FVM_COPY_STDIO)
		return receive_to_stdout(r, e);
	scoped_fd place = open_place(path, e, name);
	if (place < 0)
		return fvm_error_set(r->err, errno, "copy to %s", fvm_quote_error(path, quoted));
	n = name[0]			     ? make_entry(r, place, name, e)
	    : e->record.type == FVM_COPY_DIR ? get_entries(r, place)
					     : broken(r, "a file without a name");
	if (n == 0)
		n = get_entry(r, e);
	if (n == 0 && e->record.type != FVM_COPY_DONE)
		return broken(r, "something follows its end");
	return n;
}

int fvm_copy_receive(struct fvm_copy *copy, const char *path, struct fvm_error *err)
{
	struct fvm_error unused = { 0 };
	struct receiver r = { .copy = copy,
			      .in = fdopen(copy->fd, "r"),
			      .err = err ? err : &unused };
	r.buf = malloc(FVM_COPY_PIECE);
	int n = r.in && r.buf ? receive_top(&r, path) : fvm_error_set(err, ENOMEM, "copy");
	free(r.buf);
	if (r.in)
		fclose(r.in);
	else
		close(copy->fd);
	return n;
}
