/*
 * Descriptors that still have the file which an adoption has replaced.
 *
 * A program that does one thing after the other by a descriptor without rights (O_PATH) means the
 * name it opened. After the first of them that name is our copy, and the descriptor's file nobody's
 * for ever. Which file took which one's place is remembered for the last ones; the name comes from
 * the kernel, and counts only as long as that very copy is there.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fvm/notify.h"

#define GONE " (deleted)" /* what the kernel says of a file whose name another has */

void notify_adopted(struct supervisor *sup, const struct stat *old, const struct target *t)
{
	struct adopted *a = &sup->adopted[sup->adopted_count++ % FVM_COUNT(sup->adopted)];
	*a = (struct adopted){ .dev = old->st_dev,
			       .ino = old->st_ino,
			       .new_dev = t->st.st_dev,
			       .new_ino = t->st.st_ino };
}

static const struct adopted *find(const struct supervisor *sup, const struct stat *st)
{
	for (size_t i = 0; i < FVM_COUNT(sup->adopted); i++) {
		const struct adopted *a = &sup->adopted[i];
		if (a->ino && a->ino == st->st_ino && a->dev == st->st_dev)
			return a;
	}
	return NULL;
}

/* Return: the file that has the name now, O_PATH, or -1 */
static int open_name(const struct target *t)
{
	char link[32], path[PATH_MAX];
	snprintf(link, sizeof(link), "self/fd/%d", t->fd);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	const ssize_t gone = (ssize_t)strlen(GONE);
	if (n <= gone || path[0] != '/' || memcmp(path + n - gone, GONE, (size_t)gone) != 0)
		return -1;
	path[n - gone] = '\0';
	return open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

void notify_follow_old(const struct call *c, struct target *t)
{
	const struct supervisor *sup = c->sup;
	const struct adopted *a = t->by_fd ? find(sup, &t->st) : NULL;
	bool is_root = sup->map ? notify_kernel_uid(c) == sup->map->base : notify_is_root(c);
	struct stat st;
	if (!a || !is_root)
		return;
	scoped_fd fd = open_name(t);
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_ino != a->new_ino || st.st_dev != a->new_dev ||
	    !notify_valid(c))
		return;
	close(t->fd);
	t->fd = fvm_fd_take(&fd);
	t->st = st;
	t->old = true;
}
