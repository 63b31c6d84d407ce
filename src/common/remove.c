/*
 * Deleting a tree by descriptor. Whoever made it decided how deep it is, so only the lowest levels
 * are held open: one that was closed meanwhile is found again as ".." of the level below, and must
 * be the same inode.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/error.h"
#include "common/fd.h"
#include "common/mem.h"

#define OPEN_LEVELS 32
#define AGAIN_MAX   100 /* directories that somebody puts something into while we delete */

struct level {
	DIR *d; /* NULL: closed, as too many are open below it */
	dev_t dev;
	ino_t ino;
	char *name; /* in the level above */
};

struct removal {
	int top; /* directory that holds the first level */
	struct level *levels;
	size_t count, room;
	fvm_remove_fn fn;
	void *arg;
	unsigned long long done;
	unsigned int again; /* directories that were read again */
};

static int parent_of(const struct removal *r)
{
	return r->count ? dirfd(r->levels[r->count - 1].d) : r->top;
}

/* Overlay's work directory is made with mode 000. */
static int make_enterable(int dir, const char *name)
{
	char link[40];
	scoped_fd fd = openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	return chmod(link, 0700) < 0 ? -errno : 0;
}

static int level_open(int dir, const char *name)
{
	int fd = fvm_open_same_mount(dir, name, O_RDONLY | O_DIRECTORY);
	if (fd != -EACCES)
		return fd;
	int r = make_enterable(dir, name);
	return r < 0 ? r : fvm_open_same_mount(dir, name, O_RDONLY | O_DIRECTORY);
}

/* Takes @given over. */
static int level_push(struct removal *r, int given, const char *name)
{
	struct stat st;
	scoped_fd fd = given;
	if (r->count == r->room) {
		size_t room = r->room ? r->room * 2 : OPEN_LEVELS;
		struct level *more = realloc(r->levels, room * sizeof(*more));
		if (!more)
			return -ENOMEM;
		r->levels = more;
		r->room = room;
	}
	if (fstat(fd, &st) < 0)
		return -errno;
	if ((st.st_mode & 0700) != 0700)
		(void)fchmod(fd, 0700);
	scoped_free char *copy = strdup(name);
	DIR *d = copy ? fdopendir(fd) : NULL;
	if (!d)
		return copy ? -errno : -ENOMEM;
	(void)fvm_fd_take(&fd); /* it is d's now */
	r->levels[r->count++] = (struct level){ d, st.st_dev, st.st_ino, fvm_take_ptr(&copy) };
	if (r->count > OPEN_LEVELS) {
		struct level *far = &r->levels[r->count - 1 - OPEN_LEVELS];
		if (far->d)
			closedir(far->d);
		far->d = NULL;
	}
	return 0;
}

/* The level above the last one, open again. Names that were read before are gone by now. */
static int reopen_above(struct removal *r)
{
	struct level *above = r->count > 1 ? &r->levels[r->count - 2] : NULL;
	struct stat st;
	if (!above || above->d)
		return 0;
	scoped_fd fd =
		openat(dirfd(r->levels[r->count - 1].d), "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (st.st_dev != above->dev || st.st_ino != above->ino)
		return -ESTALE; /* somebody moves the tree about */
	above->d = fdopendir(fd);
	if (!above->d)
		return -errno;
	(void)fvm_fd_take(&fd);
	return 0;
}

static void level_drop(struct removal *r)
{
	struct level *l = &r->levels[--r->count];
	if (l->d)
		closedir(l->d);
	free(l->name);
}

/* The last level is empty: delete it. */
static int level_pop(struct removal *r)
{
	int result = reopen_above(r);
	struct level *last = &r->levels[r->count - 1];
	if (result == 0) {
		int above = r->count > 1 ? dirfd(r->levels[r->count - 2].d) : r->top;
		if (unlinkat(above, last->name, AT_REMOVEDIR) < 0 && errno != ENOENT)
			result = -errno;
	}
	if ((result == -ENOTEMPTY || result == -EEXIST) && r->again++ < AGAIN_MAX) {
		rewinddir(last->d);
		return 0;
	}
	level_drop(r);
	return result;
}

/* One name of the last level, or the first of all: deleted, or a directory to go into. */
static int remove_name(struct removal *r, const char *name)
{
	int dir = parent_of(r);
	if (r->fn && ++r->done % 256 == 0)
		r->fn(r->arg, r->done);
	if (unlinkat(dir, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	int code = errno;
	/* most directories of a VM are empty: one call instead of eight */
	if (unlinkat(dir, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 0;
	int fd = level_open(dir, name);
	if (fd < 0)
		return fd == -ENOTDIR ? -code : fd;
	return level_push(r, fd, name);
}

static int remove_next(struct removal *r)
{
	errno = 0;
	const struct dirent *e = readdir(r->levels[r->count - 1].d);
	if (!e)
		return errno ? -errno : level_pop(r);
	if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
		return 0;
	return remove_name(r, e->d_name);
}

int fvm_remove_tree(int dir, const char *name)
{
	return fvm_remove_tree_told(dir, name, NULL, NULL);
}

int fvm_remove_tree_told(int dir, const char *name, fvm_remove_fn fn, void *arg)
{
	struct removal r = { .top = dir, .fn = fn, .arg = arg };
	int result = remove_name(&r, name);
	while (result == 0 && r.count > 0)
		result = remove_next(&r);
	while (r.count > 0)
		level_drop(&r);
	free(r.levels);
	return result;
}
