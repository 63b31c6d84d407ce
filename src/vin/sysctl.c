/*
 * Parameters of a network namespace: the files below /proc/sys/net that its root may write.
 * Some set others, too (ip_forward, conf/all): these are written first, and all are gone through
 * until a round finds nothing to do. What can only be told to do something (route/flush) can't be
 * read. One that this kernel has not is left out, as it can't be said otherwise.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vin/spaces.h"

#define TOP	  "/proc/sys/net"
#define VALUE_MAX 4096
#define DEPTH_MAX 8
#define FILES_MAX 200000
#define ROUNDS	  3

struct entry {
	char *path; /* below TOP */
	char *value;
};

struct list {
	struct entry *entries;
	size_t count;
};

static void forget(struct list *l)
{
	for (size_t i = 0; i < l->count; i++) {
		free(l->entries[i].path);
		free(l->entries[i].value);
	}
	free(l->entries);
}
#define scoped_list __attribute__((cleanup(forget))) struct list

/* ---- capture ---- */

static int walk(int top, const char *path, int depth, struct fvm_buf *to);

static int look(int top, const char *path, int depth, struct fvm_buf *to)
{
	struct stat st;
	scoped_free char *value = NULL;
	if (fstatat(top, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0; /* a device has gone meanwhile */
	if (S_ISDIR(st.st_mode))
		return depth < DEPTH_MAX ? walk(top, path, depth + 1, to) : -ELOOP;
	if (!S_ISREG(st.st_mode) || !(st.st_mode & 0222) || !(st.st_mode & 0444))
		return 0;
	/* some can't be read until they were written */
	if (fvm_read_file(top, path, VALUE_MAX, &value, NULL) < 0)
		return 0;
	value[strcspn(value, "\n")] = '\0';
	vin_put_string(to, path);
	vin_put_string(to, value);
	return 0;
}

static int walk(int top, const char *path, int depth, struct fvm_buf *to)
{
	int r = 0;
	scoped_dir d = fvm_dir_open(top, path);
	for (struct dirent *e; r == 0 && d && (e = fvm_dir_next(d));) {
		char below[1024];
		if (snprintf(below, sizeof(below), "%s%s%s", strcmp(path, ".") == 0 ? "" : path,
			     strcmp(path, ".") == 0 ? "" : "/", e->d_name) < (int)sizeof(below))
			r = look(top, below, depth, to);
	}
	return r;
}

static int capture(void *arg, struct fvm_buf *to, struct fvm_error *err)
{
	(void)arg;
	scoped_fd top = open(TOP, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r = top < 0 ? -errno : walk(top, ".", 0, to);
	return r < 0 ? fvm_error_set(err, -r, "read %s", TOP) : 0;
}

/* ---- replay ---- */

static bool is_path(const char *path)
{
	return path[0] && path[0] != '/' && !strstr(path, "..") && strlen(path) < 1024;
}

static int take(struct vin_payload *p, struct list *l)
{
	while (!p->failed && p->at < p->end && l->count < FILES_MAX) {
		struct entry *more = realloc(l->entries, fvm_room(l->count + 1) * sizeof(*more));
		if (!more)
			return -ENOMEM;
		l->entries = more;
		more[l->count] = (struct entry){ vin_get_string(p), vin_get_string(p) };
		if (!p->failed &&
		    (!is_path(more[l->count].path) || strlen(more[l->count].value) > VALUE_MAX))
			p->failed = true;
		l->count++;
	}
	return vin_get_done(p);
}

/* Those that set others. */
static bool is_first(const char *path)
{
	return strstr(path, "ip_forward") || strstr(path, "/all/") || strstr(path, "/default/");
}

/* Return: 1: it was changed, 0: it is so already, or negative errno */
static int set(int top, const struct entry *e)
{
	scoped_free char *now = NULL;
	int r = fvm_read_file(top, e->path, VALUE_MAX, &now, NULL);
	if (r == -ENOENT)
		return 0;
	if (r == 0)
		now[strcspn(now, "\n")] = '\0';
	if (r == 0 && strcmp(now, e->value) == 0)
		return 0;
	scoped_fd fd = fvm_open_beneath(top, e->path, O_WRONLY | O_NOFOLLOW);
	r = fd < 0 ? fd : fvm_write_all(fd, e->value, strlen(e->value));
	return r < 0 ? r : 1;
}

static int set_all(int top, const struct list *l, bool first, bool *ret_changed,
		   struct fvm_error *err)
{
	for (size_t i = 0; i < l->count; i++) {
		const struct entry *e = &l->entries[i];
		if (is_first(e->path) != first)
			continue;
		int r = set(top, e);
		if (r < 0)
			return fvm_error_set(err, -r, "set %s/%s to '%s'", TOP, e->path, e->value);
		*ret_changed |= r > 0;
	}
	return 0;
}

static int make(struct vin_payload *p, struct vin_moved *moved, struct fvm_error *err)
{
	(void)moved;
	scoped_list l = { 0 };
	bool changed = true;
	int r = take(p, &l);
	scoped_fd top = r < 0 ? -1 : open(TOP, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (r == 0 && top < 0)
		r = fvm_error_set(err, errno, "open %s", TOP);
	for (int i = 0; r == 0 && changed && i < ROUNDS; i++) {
		changed = false;
		r = set_all(top, &l, true, &changed, err);
		if (r == 0)
			r = set_all(top, &l, false, &changed, err);
	}
	return r;
}

const struct vin_space_kind vin_space_sysctls = { .space = CLONE_NEWNET,
						  .capture = capture,
						  .make = make };
