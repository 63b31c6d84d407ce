#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/paths.h"

#define LINKS_MAX    40
#define OVERFLOW_UID 65534

/* Appends @path's components to the absolute path in @to. */
static void add_components(struct fvm_buf *to, const char *path)
{
	while (*path) {
		size_t len = strcspn(path, "/");
		if (len == 2 && path[0] == '.' && path[1] == '.') {
			char *slash = to->data ? strrchr(to->data, '/') : NULL;
			to->len = slash ? (size_t)(slash - to->data) : 0;
			if (to->data)
				to->data[to->len] = '\0';
		} else if (len > 0 && !(len == 1 && path[0] == '.')) {
			fvm_buf_puts(to, "/");
			fvm_buf_add(to, path, len);
		}
		path += len + (path[len] == '/');
	}
}

/* Whoever owns a link decides where it leads: root and the caller may. In a user namespace others
 * are the overflow uid. */
static bool is_trusted(uid_t owner)
{
	return owner == 0 || owner == geteuid() || owner == OVERFLOW_UID;
}

/* Puts what the link @fd says before *@rest. Return: 0, or negative errno */
static int follow(int fd, char rest[PATH_MAX])
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(fd, "", target, sizeof(target) - 1);
	if (n <= 0)
		return n < 0 ? -errno : -ENOENT;
	size_t len = strlen(rest);
	if ((size_t)n + 1 + len >= PATH_MAX)
		return -ENAMETOOLONG;
	memmove(rest + n + 1, rest, len + 1);
	memcpy(rest, target, (size_t)n);
	rest[n] = '/';
	return 0;
}

/* Takes the first component off @rest, into @name, which is "" at the end. */
static int take_name(char *rest, char name[NAME_MAX + 1])
{
	const size_t skip = strspn(rest, "/"), len = strcspn(rest + skip, "/");
	if (len > NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(name, rest + skip, len);
	name[len] = '\0';
	memmove(rest, rest + skip + len, strlen(rest + skip + len) + 1);
	return 0;
}

/* One step from *@at to @name. As realpath(3) does, by what readlink(2) says: no server is asked
 * about what is no link. */
static int step(int *at, const char *name, char rest[PATH_MAX], int *links)
{
	struct stat st;
	char target[2];
	scoped_fd next = openat(*at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (next < 0)
		return -errno;
	if (readlinkat(next, "", target, sizeof(target)) >= 0) {
		if (fstat(next, &st) < 0 || !is_trusted(st.st_uid) || ++*links > LINKS_MAX)
			return -ELOOP;
		int r = follow(next, rest);
		if (r < 0 || rest[0] != '/')
			return r;
		fvm_fd_closep(&next);
		next = open("/", O_PATH | O_CLOEXEC);
	}
	fvm_fd_closep(at);
	*at = fvm_fd_take(&next);
	return 0;
}

/*
 * As realpath(3), but not by others' links: root who commits /home/ann/new/x means that place, and
 * not one that Ann, who can have put anything there in her VM, makes of it by a link.
 */
static int resolve(const char *path, char real[PATH_MAX])
{
	char rest[PATH_MAX], name[NAME_MAX + 1], link[64];
	int links = 0;
	scoped_fd at = open("/", O_PATH | O_CLOEXEC);
	if (strlen(path) >= sizeof(rest))
		return -ENAMETOOLONG;
	strcpy(rest, path);
	for (;;) {
		int r = take_name(rest, name);
		if (r == 0 && name[0])
			r = step(&at, name, rest, &links);
		if (r < 0)
			return r;
		if (!name[0])
			break;
	}
	snprintf(link, sizeof(link), "/proc/self/fd/%d", at);
	ssize_t n = readlink(link, real, PATH_MAX - 1);
	if (n < 0)
		return -errno;
	real[n] = '\0';
	return 0;
}

/* With the directories above resolved, where that can be done. */
static int add_resolved(const char *path, struct fvm_strv *ret)
{
	char real[PATH_MAX];
	scoped_free char *copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	char *slash = strrchr(copy, '/');
	*slash = '\0';
	if (slash == copy || resolve(copy, real) < 0)
		return fvm_strv_add(ret, path);
	return fvm_strv_addf(ret, "%s/%s", strcmp(real, "/") == 0 ? "" : real, slash + 1);
}

static int make_one(const char *typed, struct fvm_strv *ret, struct fvm_error *err)
{
	scoped_buf path = { 0 };
	char cwd[PATH_MAX];
	if (typed[0] == '\0')
		return fvm_error_set(err, EINVAL, "an empty path names nothing");
	if (typed[0] != '/') {
		if (!getcwd(cwd, sizeof(cwd)))
			return fvm_error_set(err, errno, "find the working directory for '%s'",
					     typed);
		add_components(&path, cwd);
	}
	add_components(&path, typed);
	int r = -ENOMEM;
	if (!path.failed)
		r = path.len ? add_resolved(path.data, ret) : fvm_strv_add(ret, "/");
	return r < 0 ? fvm_error_set(err, -r, "take the path '%s'", typed) : 0;
}

int cli_paths_make(int count, char **paths, struct fvm_strv *ret, struct fvm_error *err)
{
	for (int i = 0; i < count; i++) {
		int r = make_one(paths[i], ret, err);
		if (r < 0)
			return r;
	}
	return 0;
}
