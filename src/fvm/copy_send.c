#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fvm/copy.h"

#define DEPTH_MAX 512
#define NOTES_MAX 64 /* the pipe they go through holds so many without a reader */

struct sender {
	struct fvm_copy *copy;
	FILE *out;
	char *buf; /* FVM_COPY_PIECE */
	uint64_t bytes;
	int depth;
};

static int put(struct sender *s, const void *data, size_t len)
{
	if (len == 0 || fwrite(data, 1, len, s->out) == len)
		return 0;
	return errno ? -errno : -EIO;
}

static int put_record(struct sender *s, enum fvm_copy_type type, const char *name,
		      const struct stat *st, const char *target)
{
	struct fvm_copy_record record = {
		.magic = FVM_COPY_MAGIC,
		.type = type,
		.name_len = (uint32_t)strlen(name),
		.target_len = (uint32_t)strlen(target),
	};
	if (st) {
		record.mode = st->st_mode & 01777;
		record.uid = st->st_uid;
		record.gid = st->st_gid;
		record.mtime_s = st->st_mtim.tv_sec;
		record.mtime_ns = (uint32_t)st->st_mtim.tv_nsec;
	}
	int r = put(s, &record, sizeof(record));
	if (r == 0)
		r = put(s, name, record.name_len);
	return r < 0 ? r : put(s, target, record.target_len);
}

static void note(struct sender *s, int code, const char *what, const char *name)
{
	char quoted[200];
	struct fvm_error err = { 0 };
	fvm_error_set(&err, code, "%s %s", what, fvm_quote_error(name, quoted));
	if (code) /* what can't be copied at all is left out, and no failure */
		s->copy->noted = true;
	if (s->copy->note)
		s->copy->note(s->copy->arg, &err);
}

/* Return: length of the next piece of data at or after *@at, 0 at the end, or negative errno */
static ssize_t next_piece(struct sender *s, int fd, off_t *at, off_t size)
{
	off_t data = lseek(fd, *at, SEEK_DATA);
	if (data < 0 && errno == ENXIO)
		return 0; /* a hole up to the end */
	if (data > *at)
		*at = data;
	if (*at >= size)
		return 0;
	ssize_t n = pread(fd, s->buf, FVM_COPY_PIECE, *at);
	return n < 0 ? -errno : n;
}

static int send_contents(struct sender *s, int fd, const char *name, const struct stat *st)
{
	off_t at = 0;
	int failed = 0, r = 0;
	for (;;) {
		ssize_t n = next_piece(s, fd, &at, st->st_size);
		if (n < 0)
			failed = (int)-n;
		if (n <= 0)
			break;
		struct fvm_copy_piece piece = { .offset = (uint64_t)at, .len = (uint32_t)n };
		r = put(s, &piece, sizeof(piece));
		if (r == 0)
			r = put(s, s->buf, (size_t)n);
		if (r < 0)
			return r;
		at += n;
		s->bytes += (uint64_t)n;
		if (s->copy->progress)
			s->copy->progress(s->copy->arg, s->bytes);
	}
	if (failed)
		note(s, failed, "read", name);
	struct fvm_copy_piece end = { .offset = (uint64_t)(at > st->st_size ? at : st->st_size),
				      .failed = failed != 0 };
	return put(s, &end, sizeof(end));
}

static int send_file(struct sender *s, int dir, const char *at, const char *name, int flags)
{
	struct stat st;
	scoped_fd fd = openat(dir, at, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | flags);
	if (fd < 0 || fstat(fd, &st) < 0) {
		note(s, errno, "open", name);
		return 0;
	}
	if (!S_ISREG(st.st_mode)) {
		note(s, EINVAL, "leave out what became no file:", name);
		return 0;
	}
	int r = put_record(s, FVM_COPY_FILE, name, &st, "");
	return r < 0 ? r : send_contents(s, fd, name, &st);
}

static int send_entry(struct sender *s, int dir, const char *name);

static int send_entries(struct sender *s, DIR *d)
{
	for (;;) {
		errno = 0;
		struct dirent *e = fvm_dir_next(d);
		if (!e && errno)
			note(s, errno, "list", "a directory");
		if (!e)
			return 0;
		int r = send_entry(s, dirfd(d), e->d_name);
		if (r < 0)
			return r;
	}
}

static int send_dir(struct sender *s, int dir, const char *at, const char *name, int flags)
{
	struct stat st;
	scoped_fd fd = openat(dir, at, O_RDONLY | O_DIRECTORY | O_CLOEXEC | flags);
	if (fd < 0 || fstat(fd, &st) < 0 || s->depth >= DEPTH_MAX) {
		note(s, fd >= 0 ? ENAMETOOLONG : errno, "open", name);
		return 0;
	}
	int r = put_record(s, FVM_COPY_DIR, name, &st, "");
	if (r < 0)
		return r;
	scoped_dir d = fvm_dir_take(fvm_fd_take(&fd));
	if (!d)
		return -errno;
	s->depth++;
	r = send_entries(s, d);
	s->depth--;
	return r < 0 ? r : put_record(s, FVM_COPY_UP, "", NULL, "");
}

static int send_link(struct sender *s, int dir, const char *name, const struct stat *st)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(dir, name, target, sizeof(target) - 1);
	if (n < 0) {
		note(s, errno, "read the link", name);
		return 0;
	}
	target[n] = '\0';
	return put_record(s, FVM_COPY_LINK, name, st, target);
}

static int send_entry(struct sender *s, int dir, const char *name)
{
	struct stat st;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		note(s, errno, "look at", name);
		return 0;
	}
	switch (st.st_mode & S_IFMT) {
	case S_IFREG:
		return send_file(s, dir, name, name, O_NOFOLLOW);
	case S_IFDIR:
		return send_dir(s, dir, name, name, O_NOFOLLOW);
	case S_IFLNK:
		return send_link(s, dir, name, &st);
	default:
		note(s, 0, "left out, as it is no file, directory or link:", name);
		return 0;
	}
}

void fvm_copy_name(const char *path, char name[NAME_MAX + 1])
{
	size_t len = strlen(path);
	while (len > 1 && path[len - 1] == '/')
		len--;
	size_t from = len;
	while (from > 0 && path[from - 1] != '/')
		from--;
	len -= from;
	bool dots = len == 0 ||
		    (path[from] == '.' && (len == 1 || (len == 2 && path[from + 1] == '.')));
	if (dots || len > NAME_MAX)
		len = 0;
	memcpy(name, path + from, len);
	name[len] = '\0';
}

static int send_top(struct sender *s, const char *path, struct fvm_error *err)
{
	struct stat st;
	char name[NAME_MAX + 1], quoted[200];
	fvm_copy_name(path, name);
	if (stat(path, &st) < 0)
		return fvm_error_set(err, errno, "copy %s", fvm_quote_error(path, quoted));
	bool dir = S_ISDIR(st.st_mode);
	if (!dir && !S_ISREG(st.st_mode))
		return fvm_error_set(err, EINVAL, "copy %s: it is no file and no directory",
				     fvm_quote_error(path, quoted));
	if (access(path, dir ? R_OK | X_OK : R_OK) < 0)
		return fvm_error_set(err, errno, "copy %s", fvm_quote_error(path, quoted));
	int r = dir ? send_dir(s, AT_FDCWD, path, name, 0) : send_file(s, AT_FDCWD, path, name, 0);
	if (r == 0)
		r = put_record(s, FVM_COPY_DONE, "", NULL, "");
	if (r == 0 && fflush(s->out) != 0)
		r = -errno;
	return r < 0 && r != -EPIPE
		       ? fvm_error_set(err, -r, "send %s", fvm_quote_error(path, quoted))
		       : r;
}

static mode_t current_umask(void)
{
	mode_t mask = umask(0);
	umask(mask);
	return mask;
}

/* What comes from stdin, as a file of that name. */
static int send_stdin(struct sender *s, struct fvm_error *err)
{
	struct fvm_copy_piece piece = { 0 };
	const struct stat st = { .st_mode = 0666 & ~current_umask(),
				 .st_uid = geteuid(),
				 .st_gid = getegid(),
				 .st_mtim.tv_sec = time(NULL) };
	int r = put_record(s, FVM_COPY_FILE, "stdin", &st, "");
	while (r == 0) {
		ssize_t n = read(STDIN_FILENO, s->buf, FVM_COPY_PIECE);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fvm_error_set(err, errno, "read the standard input");
		piece.len = (uint32_t)n;
		r = put(s, &piece, sizeof(piece));
		if (r == 0)
			r = put(s, s->buf, piece.len);
		if (n == 0)
			break;
		piece.offset += piece.len;
		if (s->copy->progress)
			s->copy->progress(s->copy->arg, piece.offset);
	}
	if (r == 0)
		r = put_record(s, FVM_COPY_DONE, "", NULL, "");
	if (r == 0 && fflush(s->out) != 0)
		r = -errno;
	return r < 0 && r != -EPIPE ? fvm_error_set(err, -r, "send the standard input") : r;
}

static int send_it(struct sender *s, const char *path, struct fvm_error *err)
{
	if (s->copy->flags & FVM_COPY_STDIO)
		return send_stdin(s, err);
	return send_top(s, path, err);
}

int fvm_copy_send(struct fvm_copy *copy, const char *path, struct fvm_error *err)
{
	struct sender s = { .copy = copy, .out = fdopen(copy->fd, "w") };
	s.buf = malloc(FVM_COPY_PIECE);
	int r = s.out && s.buf ? send_it(&s, path, err) : fvm_error_set(err, ENOMEM, "copy");
	free(s.buf);
	if (s.out)
		fclose(s.out);
	else
		close(copy->fd);
	return r;
}

/* ---- inside a VM ---- */

static void helper_note(void *arg, const struct fvm_error *err)
{
	int *count = arg;
	if ((*count)++ < NOTES_MAX)
		(void)!write(STDERR_FILENO, err, sizeof(*err));
}

int fvm_copy_helper(const struct fvm_command *c)
{
	int notes = 0;
	struct fvm_error err = { 0 };
	struct fvm_copy copy = { .note = helper_note, .arg = &notes };
	prctl(PR_SET_NAME, "fvm-copy");
	if (c->argv.count != 2)
		return 2;
	copy.flags = (unsigned int)strtoul(c->argv.items[1], NULL, 10);
	copy.fd = c->helper == FVM_HELPER_SEND ? STDOUT_FILENO : STDIN_FILENO;
	int r = c->helper == FVM_HELPER_SEND ? fvm_copy_send(&copy, c->argv.items[0], &err)
					     : fvm_copy_receive(&copy, c->argv.items[0], &err);
	if (r < 0 && err.code)
		(void)!write(STDERR_FILENO, &err, sizeof(err));
	return r < 0 || copy.noted;
}
