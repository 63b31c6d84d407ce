/* Files, directories and FIFOs that no name leads to any more: they are made under one, which is
 * taken away at once. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vin/unix.h"

static int make_at(int dir, const char *name, mode_t type)
{
	int fd, flags = O_CLOEXEC | O_NOFOLLOW;
	if (S_ISREG(type)) {
		fd = openat(dir, name, flags | O_RDWR | O_CREAT | O_EXCL, 0600);
		if (fd < 0)
			return -errno;
	} else {
		if ((S_ISDIR(type) ? mkdirat(dir, name, 0700) : mkfifoat(dir, name, 0600)) < 0)
			return -errno;
		fd = openat(dir, name, flags | (S_ISDIR(type) ? O_RDONLY : O_RDWR | O_NONBLOCK));
		if (fd < 0)
			fd = -errno;
	}
	if (unlinkat(dir, name, S_ISDIR(type) ? AT_REMOVEDIR : 0) < 0 && fd >= 0) {
		close(fd);
		fd = -errno;
	}
	return fd;
}

struct making {
	int dir;
	const char *name;
	mode_t type;
	int fd; /* or -errno */
};

/* Under its old name, so that /proc tells it as before, or one like it. */
static int make_any(int dir, const char *name, mode_t type)
{
	for (int i = 0; i < 100; i++) {
		char other[300];
		snprintf(other, sizeof(other), i == 0 ? "%.250s" : "%.250s~%d", name, i);
		int fd = make_at(dir, other, type);
		if (fd != -EEXIST)
			return fd;
	}
	return -EEXIST;
}

static int make_for(void *arg)
{
	struct making *m = arg;
	return m->fd = make_any(m->dir, m->name, m->type);
}

/* By somebody who takes its name away even if we are killed meanwhile. */
static int make_in(int dir, const char *name, mode_t type)
{
	struct making m = { dir, name, type, -ECANCELED };
	int r = unix_beside(make_for, &m);
	return r < 0 ? r : m.fd;
}

int vin_nameless(const struct vin_reopen *r, const char *name, mode_t type)
{
	scoped_free char *path = strdup(name);
	const char *last = strrchr(name, '/');
	if (!path)
		return -ENOMEM;
	if (!last || !last[1] || strcmp(last, "/.") == 0 || strcmp(last, "/..") == 0)
		return -EBADMSG;
	for (char *slash; (slash = strrchr(path, '/'));) {
		slash[slash == path] = '\0';
		scoped_fd dir = vin_name_open(r, path);
		int fd = dir < 0 ? dir : make_in(dir, last + 1, type);
		if ((fd != -ENOENT && fd != -ENOTDIR) || slash == path)
			return fd;
	}
	return -ENOENT;
}
