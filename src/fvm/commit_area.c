/*
 * Which area an entry of a commit gets: where its new file is staged, and its old one kept. An area
 * is on the same mount, as both are moved by rename: in the commit's own directory where that is
 * there, else in a hidden directory as high up as this user may make one.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/commit_priv.h"
#include "fvm/inode.h"
#include "fvm/internal.h"

struct mount_id {
	uint64_t mount, dev;
};

/* Return: false with errno */
static bool mount_of(int dir, struct mount_id *ret)
{
	struct statx sx;
	if (statx(dir, "", AT_EMPTY_PATH, STATX_MNT_ID | STATX_INO, &sx) < 0)
		return false;
	*ret = (struct mount_id){ sx.stx_mnt_id,
				  (uint64_t)sx.stx_dev_major << 32 | sx.stx_dev_minor };
	return true;
}

static uint64_t mount_number(const struct mount_id *id)
{
	return id->mount * 0x9e3779b97f4a7c15ULL ^ id->dev;
}

/* The highest directory on the way to @rel that is on that mount and can be written in. */
static int area_place(const struct commit *c, uint32_t stack, const char *rel,
		      const struct mount_id *want, char **ret)
{
	char random[17];
	for (size_t len = 0;;) {
		struct mount_id got;
		scoped_free char *path = strndup(rel, len);
		if (!path)
			return -ENOMEM;
		scoped_fd dir = fvm_open_deep(c->stacks[stack].base, path, O_RDONLY | O_DIRECTORY);
		if (dir >= 0 && mount_of(dir, &got) && got.mount == want->mount &&
		    got.dev == want->dev && faccessat(dir, ".", W_OK | X_OK, AT_EACCESS) == 0) {
			fvm_random_hex(random, 16);
			if (asprintf(ret, "%s%s.fvm-commit-%s", path, len ? "/" : "", random) < 0)
				return -ENOMEM;
			return 0;
		}
		if (rel[len] == '\0')
			return -EACCES;
		len += rel[len] == '/';
		len += strcspn(rel + len, "/");
		if (rel[len] == '\0')
			return -EACCES; /* the entry itself */
	}
}

static int area_add(struct commit *c, const struct commit_area *area)
{
	struct commit_area *more = realloc(c->areas, (c->area_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	c->areas = more;
	c->areas[c->area_count++] = *area;
	return 0;
}

int commit_area_find(struct commit *c, struct commit_entry *e, int parent)
{
	struct mount_id id, store;
	if (!mount_of(parent, &id))
		return -errno;
	for (uint32_t i = 0; i < c->area_count; i++) {
		if (c->areas[i].mount == mount_number(&id)) {
			e->area = i;
			return 0;
		}
	}
	struct commit_area a = { .stack = e->stack, .mount = mount_number(&id), .fd = -1 };
	if (!mount_of(c->all, &store))
		return -errno;
	a.in_store = store.mount == id.mount && store.dev == id.dev;
	int r = 0;
	if (!a.in_store)
		r = area_place(c, e->stack, e->rel, &id, &a.rel);
	e->area = (uint32_t)c->area_count;
	if (r == 0)
		r = area_add(c, &a);
	if (r < 0)
		free(a.rel);
	return r;
}
