/* One line per path below a root. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "common/common.h"
#include "tests/tools/inventory.h"

struct walk {
	const struct inventory_options *options;
	dev_t dev;
	int failed;
};

struct first_name {
	uint64_t dev, ino;
	char *path;
};

static void *names;

static int by_inode(const void *a, const void *b)
{
	return memcmp(a, b, offsetof(struct first_name, path));
}

/* Return: the name under which this inode was met before, or NULL */
static const char *seen_before(const struct stat *st, const char *path)
{
	struct first_name *n = calloc(1, sizeof(*n));
	if (!n)
		return NULL;
	n->dev = st->st_dev;
	n->ino = st->st_ino;
	struct first_name **found = tsearch(n, &names, by_inode);
	if (found && *found == n) {
		n->path = strdup(path);
		return NULL;
	}
	free(n);
	return found ? (*found)->path : NULL;
}

static void complain(struct walk *w, const char *path, const char *what)
{
	fprintf(stderr, "inventory: %s %s: %s\n", what, path, strerror(errno));
	w->failed = 1;
}

static int by_string(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void print_value(const char *value, ssize_t len)
{
	for (ssize_t i = 0; i < len; i++)
		printf("%02x", (unsigned char)value[i]);
}

/* @proc is /proc/self/fd/N of an O_PATH descriptor: the one way that works for all types. */
static void print_xattrs(const char *proc)
{
	char list[8192], value[65536];
	char *sorted[256];
	size_t count = 0;
	ssize_t len = listxattr(proc, list, sizeof(list));
	for (ssize_t at = 0; at < len && count < FVM_COUNT(sorted);
	     at += (ssize_t)strlen(list + at) + 1)
		sorted[count++] = list + at;
	qsort(sorted, count, sizeof(*sorted), by_string);
	for (size_t i = 0; i < count; i++) {
		printf(" %s=", sorted[i]);
		print_value(value, getxattr(proc, sorted[i], value, sizeof(value)));
	}
}

static void print_content(struct walk *w, int fd, const char *proc, const char *path,
			  const struct stat *st)
{
	if (S_ISLNK(st->st_mode)) {
		char target[4097];
		ssize_t n = readlinkat(fd, "", target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
		fputs(" ->", stdout);
		inventory_name(target);
	} else if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
		printf(" %u:%u", major(st->st_rdev), minor(st->st_rdev));
	} else if (S_ISREG(st->st_mode)) {
		char digest[INVENTORY_DIGEST];
		scoped_fd file = open(proc, O_RDONLY | O_CLOEXEC | O_NOATIME);
		if (file < 0 || inventory_digest(file, st, digest) < 0)
			complain(w, path, "read");
		else
			printf(" %s", digest);
	}
}

static void print_entry(struct walk *w, int fd, const char *path, const struct stat *st)
{
	static const char types[] = "?pc?d?b?-?l?s???";
	char proc[64];
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	inventory_name(path);
	const char *first =
		!S_ISDIR(st->st_mode) && st->st_nlink > 1 ? seen_before(st, path) : NULL;
	if (first) {
		fputs(" =", stdout);
		inventory_name(first);
		putchar('\n');
		return;
	}
	printf(" %c %04o %u:%u", types[(st->st_mode >> 12) & 15], st->st_mode & 07777, st->st_uid,
	       st->st_gid);
	if (!S_ISDIR(st->st_mode))
		printf(" n%lu s%lld", (unsigned long)st->st_nlink, (long long)st->st_size);
	if (!w->options->no_times)
		printf(" t%lld.%09ld", (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
	if (w->options->blocks && S_ISREG(st->st_mode))
		printf(" b%lld", (long long)st->st_blocks);
	print_content(w, fd, proc, path, st);
	if (!S_ISLNK(st->st_mode))
		print_xattrs(proc);
	putchar('\n');
}

static bool excluded(const struct walk *w, const char *path)
{
	for (size_t i = 0; i < w->options->exclude_count; i++) {
		if (strcmp(w->options->exclude[i], path) == 0)
			return true;
	}
	return false;
}

static void walk(struct walk *w, int dir, const char *name, const char *path);

static void walk_dir(struct walk *w, int fd, const char *path)
{
	int again = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOATIME);
	DIR *d = again < 0 ? NULL : fdopendir(again);
	if (!d) {
		complain(w, path, "list");
		return;
	}
	scoped_strv items = { 0 };
	for (struct dirent *e; (e = readdir(d));) {
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			fvm_strv_add(&items, e->d_name);
	}
	closedir(d);
	if (items.count)
		qsort(items.items, items.count, sizeof(*items.items), by_string);
	fvm_strv_each(&items, i) {
		scoped_buf child = { 0 };
		fvm_buf_printf(&child, "%s/%s", strcmp(path, "/") == 0 ? "" : path, items.items[i]);
		if (child.data)
			walk(w, fd, items.items[i], child.data);
	}
}

static void walk(struct walk *w, int dir, const char *name, const char *path)
{
	struct stat st;
	if (excluded(w, path))
		return;
	scoped_fd fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0) {
		complain(w, path, "open");
		return;
	}
	if (w->dev == 0)
		w->dev = st.st_dev;
	if (w->options->one_fs && st.st_dev != w->dev)
		return;
	print_entry(w, fd, path, &st);
	if (S_ISDIR(st.st_mode))
		walk_dir(w, fd, path);
}

int inventory_files(const char *root, const struct inventory_options *options)
{
	struct walk w = { .options = options };
	walk(&w, AT_FDCWD, root, root);
	return w.failed;
}
