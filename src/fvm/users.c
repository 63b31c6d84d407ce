/* Uids and user names as a VM has them: its uid map, and its own /etc/passwd. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fvm/disk.h"
#include "fvm/procs.h"
#include "fvm/store.h"

#define PASSWD_MAX     (1 << 20)
#define DATABASE_LIMIT (16 << 20)

struct fvm_users {
	char *map;    /* text of /proc/INIT/uid_map: "inside outside count" */
	char *passwd; /* text of the VM's /etc/passwd */
};

/*
 * The VM's file is the VM's to forge: absolute symlinks stay in its root, it must be a regular file
 * on the root's own file system (no FUSE that never answers), and no more than so much is read.
 */
static char *passwd_read(pid_t init)
{
	char path[40];
	struct stat st;
	struct open_how how = {
		.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
	};
	snprintf(path, sizeof(path), "/proc/%d/root", (int)init);
	scoped_fd root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	scoped_fd fd =
		root < 0 ? -1 : (int)syscall(SYS_openat2, root, "etc/passwd", &how, sizeof(how));
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return NULL;
	char *text = malloc(PASSWD_MAX + 1);
	ssize_t n = text ? fvm_read_full(fd, text, PASSWD_MAX) : -1;
	if (n < 0) {
		free(text);
		return NULL;
	}
	text[n] = '\0';
	return text;
}

/* ---- the VM's files through its layers ---- */

static int read_layer_file(int fs, const char *path, char **ret)
{
	char link[64];
	struct stat st;
	scoped_fd fd = fvm_open_nofollow(fs, path, O_RDONLY | O_NONBLOCK);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return -ENOENT; /* a whiteout: deleted in the VM */
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	return fvm_read_file(AT_FDCWD, link, DATABASE_LIMIT, ret, NULL);
}

/* /etc has an overlay of its own in an ordinary user's VM, and where it is a file system. */
static int read_layer(int dir, const char *top, const char *name, char **ret)
{
	char path[PATH_MAX];
	scoped_fd layer = fvm_open_nofollow(dir, top, O_RDONLY | O_DIRECTORY);
	scoped_fd fs = layer < 0 ? layer : fvm_disk_open(layer);
	if (fs < 0)
		return fs;
	snprintf(path, sizeof(path), "etc/upper/%s", name);
	if (read_layer_file(fs, path, ret) == 0)
		return 0;
	snprintf(path, sizeof(path), "root/upper/etc/%s", name);
	return read_layer_file(fs, path, ret);
}

char *fvm_vm_read_etc(const struct fvm_vm *vm, const char *name)
{
	char *text = NULL, top[128], host[NAME_MAX + 8];
	const struct fvm_strv *layers = &vm->config.layers;
	if (read_layer(vm->dir, "workspace", name, &text) == 0)
		return text;
	for (size_t i = layers->count; i-- > 0;) {
		snprintf(top, sizeof(top), "layers/%s", layers->items[i]);
		if (read_layer(vm->store->dir, top, name, &text) == 0)
			return text;
	}
	snprintf(host, sizeof(host), "/etc/%s", name);
	if (fvm_read_file(AT_FDCWD, host, DATABASE_LIMIT, &text, NULL) < 0)
		return strdup("");
	return text;
}

struct fvm_users *fvm_users_of(char *map, char *passwd)
{
	struct fvm_users *u = malloc(sizeof(*u));
	if (u) {
		*u = (struct fvm_users){ map, passwd };
		return u;
	}
	free(map);
	free(passwd);
	return NULL;
}

struct fvm_users *fvm_users_open(pid_t init, const struct fvm_vm *vm)
{
	char path[40], *map = NULL;
	snprintf(path, sizeof(path), "/proc/%d/uid_map", (int)init);
	if (fvm_read_file(AT_FDCWD, path, 1 << 20, &map, NULL) < 0)
		map = NULL;
	char *passwd = passwd_read(init);
	if (!passwd && vm)
		passwd = fvm_vm_read_etc(vm, "passwd");
	return fvm_users_of(map, passwd);
}

void fvm_users_free(struct fvm_users *u)
{
	if (!u)
		return;
	free(u->map);
	free(u->passwd);
	free(u);
}

uid_t fvm_users_inside(const struct fvm_users *u, uid_t host)
{
	unsigned int inside, outside, count;
	for (const char *at = u->map; at && *at; at += strcspn(at, "\n") + 1) {
		if (sscanf(at, "%u %u %u", &inside, &outside, &count) == 3 && host >= outside &&
		    host - outside < count)
			return inside + (host - outside);
		if (!at[strcspn(at, "\n")])
			break;
	}
	return (uid_t)-1;
}

/* "NAME:PASSWORD:UID:..."; the password may be empty. */
static bool passwd_line(const char *line, size_t len, uid_t uid, char name[64])
{
	const char *first = memchr(line, ':', len);
	if (!first || first == line || first - line > 63)
		return false;
	const char *second = memchr(first + 1, ':', len - (size_t)(first + 1 - line));
	char *end;
	if (!second || strtoul(second + 1, &end, 10) != uid || *end != ':' || end == second + 1)
		return false;
	memcpy(name, line, (size_t)(first - line));
	name[first - line] = '\0';
	return true;
}

const char *fvm_users_name(const struct fvm_users *u, uid_t uid, char name[64])
{
	for (const char *at = u->passwd; at && *at;) {
		size_t len = strcspn(at, "\n");
		if (passwd_line(at, len, uid, name))
			return name;
		at += len + (at[len] == '\n');
	}
	return NULL;
}
