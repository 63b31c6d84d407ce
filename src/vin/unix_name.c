/* Names of unix sockets, word for word as they were given: see unix.h. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vin/unix.h"

struct binding {
	int fd;
	const struct unix_place *place;
	int parent;    /* directory that the room is made in */
	char name[40]; /* of the room, a directory of our own */
	int room;      /* that directory */
	int dir;       /* that the file is moved to; -1: it goes */
	const char *base;
	int node;   /* number for what the name leads to */
	int within; /* pidfd of who is in the programs' user namespace; -1: we are */
};

static socklen_t address(const struct unix_name *name, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(ret->sun_path, name->bytes, name->len);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + name->len);
}

socklen_t unix_reach(const struct unix_name *name, int node, struct sockaddr_un *ret)
{
	if (node < 0)
		return address(name, ret);
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d", node);
	return sizeof(*ret);
}

/* ---- in the child, whose root is the room; he clears it away even if nobody waits for him ---- */

/* All directories on the way to the last part; those above the root are the root. */
static int make_way(const char *name)
{
	char part[UNIX_NAME_MAX + 1];
	for (const char *at = name;;) {
		at += strspn(at, "/");
		size_t len = strcspn(at, "/");
		if (!at[len])
			break;
		memcpy(part, at, len);
		part[len] = '\0';
		at += len;
		if (strcmp(part, ".") == 0)
			continue;
		if (strcmp(part, "..") != 0 && mkdir(part, 0700) < 0 && errno != EEXIST)
			return -errno;
		if (chdir(part) < 0)
			return -errno;
	}
	return fvm_nerr(chdir("/"));
}

/* Who may not change his root as he is may in the user namespace that he owns. */
static int enter_room(const struct binding *b)
{
	if (fchdir(b->room) < 0)
		return -errno;
	if (chroot(".") < 0 &&
	    (b->within < 0 || setns(b->within, CLONE_NEWUSER) < 0 || chroot(".") < 0))
		return -errno;
	return fvm_nerr(chdir("/"));
}

static int bind_here(const struct binding *b)
{
	struct sockaddr_un a;
	const char *name = b->place->name->bytes;
	const socklen_t len = address(b->place->name, &a);
	const uid_t uid = (uid_t)b->place->uid;
	const gid_t gid = (gid_t)b->place->gid;
	int r = enter_room(b);
	if (r == 0)
		r = make_way(name);
	(void)umask(~(mode_t)b->place->mode & 0777);
	if (r < 0 || bind(b->fd, (struct sockaddr *)&a, len) < 0)
		return r < 0 ? r : -errno;
	scoped_fd node = open(name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (node < 0 || dup3(node, b->node, O_CLOEXEC) < 0)
		return -errno;
	/* an id that is not to be had here is not kept */
	if (fchownat(node, "", uid, gid, AT_EMPTY_PATH) < 0 && errno != EPERM && errno != EINVAL)
		return -errno;
	return b->dir < 0 ? 0 : fvm_nerr(renameat(AT_FDCWD, name, b->dir, b->base));
}

static int bind_in_room(void *arg)
{
	struct binding *b = arg;
	struct stat st;
	if (fstat(b->parent, &st) < 0 || mkdirat(b->parent, b->name, 0700) < 0)
		return -errno;
	b->room = fvm_nerr(
		openat(b->parent, b->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
	int r = b->room < 0 ? b->room : bind_here(b);
	fvm_fd_closep(&b->room);
	int gone = fvm_remove_tree(b->parent, b->name);
	const struct timespec times[2] = { st.st_atim, st.st_mtim };
	(void)utimensat(b->parent, "", times, AT_EMPTY_PATH);
	return r < 0 ? r : gone;
}

/* ---- here ---- */

/* Only a socket gives way: the file that the name had when it was captured. */
static int may_replace(int dir, const char *base)
{
	struct stat st;
	if (fstatat(dir, base, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	return S_ISSOCK(st.st_mode) ? 0 : -EEXIST;
}

static int have_bound(int dir, struct binding *b)
{
	static unsigned int rooms;
	b->parent = dir;
	snprintf(b->name, sizeof(b->name), ".vin-%d-%u", getpid(), rooms++);
	return unix_apart(bind_in_room, b);
}

/* A directory that a name without a file may be given in. */
static int any_directory(const struct vin_reopen *r)
{
	static const char *const likely[] = { "/tmp", "/run", "/dev/shm", "/" };
	int fd = -ENOENT;
	for (size_t i = 0; i < FVM_COUNT(likely); i++) {
		fd = vin_name_open(r, likely[i]);
		if (fd >= 0 && faccessat(fd, "", W_OK | X_OK, AT_EMPTY_PATH | AT_EACCESS) == 0)
			return fd;
		fvm_fd_closep(&fd);
	}
	return -EACCES;
}

static int bind_to_file(const struct vin_reopen *r, struct binding *b)
{
	const char *path = b->place->path, *slash = strrchr(path, '/');
	scoped_free char *way = NULL;
	if (!slash) {
		scoped_fd any = any_directory(r);
		return any < 0 ? any : have_bound(any, b);
	}
	b->base = slash + 1;
	if (!b->base[0] || strcmp(b->base, ".") == 0 || strcmp(b->base, "..") == 0)
		return -EBADMSG;
	/* with the dot a symlink is what it leads to, below the root */
	if (asprintf(&way, "%.*s/.", (int)(slash - path), path) < 0)
		return -ENOMEM;
	scoped_fd dir = vin_name_open(r, way);
	if (dir < 0)
		return dir;
	b->dir = dir;
	int e = may_replace(dir, b->base);
	return e < 0 ? e : have_bound(dir, b);
}

int unix_bind(const struct vin_reopen *r, int fd, const struct unix_place *place, int *ret_node)
{
	struct sockaddr_un a;
	const struct unix_name *name = place->name;
	*ret_node = -1;
	if (name->len == 0 || name->bytes[0] == '\0')
		return fvm_nerr(bind(fd, (struct sockaddr *)&a, address(name, &a)));
	scoped_fd node = unix_reserve();
	if (node < 0)
		return node;
	struct binding b = {
		.fd = fd, .place = place, .room = -1, .dir = -1, .node = node, .within = r->within
	};
	int e = bind_to_file(r, &b);
	if (e == 0)
		*ret_node = fvm_fd_take(&node);
	return e;
}
