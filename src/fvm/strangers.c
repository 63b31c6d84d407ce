#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/build.h"

#define MAX_STRANGERS 512

struct strangers {
	const struct fvm_build *build;
	const char *name;
	int layer;	      /* -1: none yet */
	struct fvm_strv dirs; /* still to be looked into, relative to the top */
	size_t made, next;
};

/* Whom nobody in the VM can be becomes its root. */
static int give(const struct strangers *f, const char *path, const struct stat *st)
{
	const struct fvm_idmap *map = f->build->map;
	uint32_t uid = fvm_idmap_uid(map, st->st_uid), gid = fvm_idmap_gid(map, st->st_gid);
	return fchownat(f->layer, path, uid == UINT32_MAX ? map->base : uid,
			gid == UINT32_MAX ? map->base : gid, AT_SYMLINK_NOFOLLOW) < 0
		       ? -errno
		       : 0;
}

static int make_layer(struct strangers *f)
{
	int scratch = f->build->scratch;
	if (mkdirat(scratch, f->name, 0755) < 0)
		return -errno;
	f->layer = openat(scratch, f->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return f->layer < 0 ? -errno : 0;
}

static int add(struct strangers *f, const char *path, const struct stat *st)
{
	const struct timespec times[2] = { st->st_atim, st->st_mtim };
	int r = f->layer < 0 ? make_layer(f) : 0;
	if (r == 0 && mkdirat(f->layer, path, 0700) < 0)
		r = -errno;
	if (r == 0)
		r = give(f, path, st);
	if (r == 0 && fchmodat(f->layer, path, st->st_mode & 07777, 0) < 0)
		r = -errno;
	if (r < 0)
		return r;
	(void)utimensat(f->layer, path, times, 0);
	f->made++;
	return fvm_strv_add(&f->dirs, path);
}

static bool is_wanted(int dir, const char *name, struct stat *st)
{
	if (fstatat(dir, name, st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0 ||
	    !S_ISDIR(st->st_mode))
		return false;
	return faccessat(dir, name, R_OK | X_OK, 0) == 0;
}

static int look(struct strangers *f, int top, const char *path)
{
	scoped_dir d = fvm_dir_open(top, path);
	int r = 0;
	for (struct dirent *e; d && r == 0 && f->made < MAX_STRANGERS && (e = fvm_dir_next(d));) {
		char child[PATH_MAX];
		struct stat st;
		if ((e->d_type == DT_DIR || e->d_type == DT_UNKNOWN) &&
		    is_wanted(dirfd(d), e->d_name, &st) &&
		    snprintf(child, sizeof(child), "%s/%s", path, e->d_name) < (int)sizeof(child))
			r = add(f, child, &st);
	}
	return r;
}

int fvm_strangers_layer(const struct fvm_build *b, int top, const char *name)
{
	struct strangers f = { .build = b, .name = name, .layer = -1 };
	int r = look(&f, top, ".");
	while (r == 0 && f.next < f.dirs.count && f.made < MAX_STRANGERS)
		r = look(&f, top, f.dirs.items[f.next++]);
	fvm_strv_free(&f.dirs);
	bool made = f.layer >= 0;
	fvm_fd_closep(&f.layer);
	return r < 0 ? r : made;
}
