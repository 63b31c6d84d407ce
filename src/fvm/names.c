/*
 * /etc/resolv.conf of a VM with a network of its own. Most hosts' works as it is: nothing is done
 * then. Where it is a symlink into /run, as systemd-resolved and others make it, the file is put
 * there, as the VM's /run is empty. Where it is a file that names a resolver of the host's
 * loopback, ours is mounted over it: written into the workspace it would be a change that nobody
 * made.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/build.h"
#include "fvm/sys.h"

#define FILE_LIMIT 65536

/* A link's target below /run, without that prefix; NULL when it leads elsewhere. */
static const char *below_run(const char *target)
{
	while (strncmp(target, "../", 3) == 0)
		target += 3;
	target += *target == '/';
	if (strncmp(target, "run/", 4) != 0 || strstr(target, ".."))
		return NULL;
	return target + 4;
}

static int write_new(int dir, const char *path, const char *text)
{
	scoped_fd fd = fvm_create_beneath(dir, path, O_WRONLY | O_TRUNC, 0644);
	return fd < 0 ? fd : fvm_write_all(fd, text, strlen(text));
}

static int put_into_run(const struct fvm_build *b, const char *path)
{
	char dir[PATH_MAX];
	scoped_fd run = openat(b->scratch, "run", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (run < 0)
		return -errno;
	snprintf(dir, sizeof(dir), "%s", path);
	char *slash = strrchr(dir, '/');
	if (!slash)
		return write_new(run, path, b->resolv);
	*slash = '\0';
	scoped_fd top = fvm_mkdir_nofollow(run, dir, 0755);
	return top < 0 ? top : write_new(top, slash + 1, b->resolv);
}

static bool says_the_same(int fd, const char *text)
{
	char link[64];
	scoped_free char *have = NULL;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	return fvm_read_file(AT_FDCWD, link, FILE_LIMIT, &have, NULL) == 0 &&
	       strcmp(have, text) == 0;
}

static int mount_over(const struct fvm_build *b)
{
	scoped_fd target = fvm_open_nofollow(b->root, "etc/resolv.conf", O_RDONLY | O_NONBLOCK);
	struct stat st;
	if (target < 0 || fstat(target, &st) < 0 || !S_ISREG(st.st_mode) ||
	    says_the_same(target, b->resolv))
		return 0;
	int r = write_new(b->scratch, "resolv.conf", b->resolv);
	if (r < 0)
		return r;
	scoped_fd tree =
		sys_open_tree(b->scratch, "resolv.conf", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (tree < 0)
		return tree;
	const struct sys_mount_attr attr = { .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
							 MOUNT_ATTR_NOEXEC };
	r = sys_mount_setattr(tree, "", AT_EMPTY_PATH, &attr);
	return r < 0 ? r
		     : sys_move_mount(tree, "", target, "",
				      MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

int fvm_names_make(const struct fvm_build *b, struct fvm_error *err)
{
	char target[PATH_MAX];
	if (!b->resolv)
		return 0;
	scoped_fd etc = fvm_open_nofollow(b->root, "etc", O_PATH | O_DIRECTORY);
	ssize_t n = etc < 0 ? -1 : readlinkat(etc, "resolv.conf", target, sizeof(target) - 1);
	int r = 0;
	if (n > 0) {
		target[n] = '\0';
		const char *path = below_run(target);
		r = path && *path ? put_into_run(b, path) : 0;
	} else {
		r = mount_over(b);
	}
	/* the VM has put something else in the way: it has to live with that */
	if (r == -ELOOP || r == -ENOTDIR)
		r = 0;
	return r < 0 ? fvm_error_set(err, -r, "make /etc/resolv.conf") : 0;
}
