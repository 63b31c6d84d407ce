#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "vin/kinds.h"
#include "vin/mounts.h"
#include "vin/search.h"

#ifndef AT_HANDLE_FID
#define AT_HANDLE_FID 0x200
#endif

struct walk {
	const struct vin_files *files;
	struct vin_sought_list *sought;
	dev_t dev;
	size_t left;	/* sought ones of this file system */
	size_t entries; /* seen */
	char **queue;
	size_t first, count;
};

void vin_sought_free(struct vin_sought_list *s)
{
	for (size_t i = 0; i < s->count; i++)
		free(s->list[i].name);
	free(s->list);
	*s = (struct vin_sought_list){ 0 };
}

static bool same_inode(const struct vin_mark *a, const struct vin_mark *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->handle_type == b->handle_type &&
	       a->handle_len == b->handle_len && memcmp(a->handle, b->handle, a->handle_len) == 0;
}

const struct vin_sought *vin_sought_find(const struct vin_sought_list *s,
					 const struct vin_mark *mark)
{
	for (size_t i = 0; s && i < s->count; i++) {
		if (s->list[i].found && same_inode(&s->list[i].mark, mark))
			return &s->list[i];
	}
	return NULL;
}

/* ---- is it the one? ---- */

union handle {
	struct file_handle head;
	unsigned char bytes[sizeof(struct file_handle) + VIN_HANDLE_MAX];
};

/* Handles that only identify are had everywhere, by new kernels. */
static bool get_handle(int fd, union handle *ret)
{
	int mount_id;
	ret->head.handle_bytes = VIN_HANDLE_MAX;
	if (name_to_handle_at(fd, "", &ret->head, &mount_id, AT_EMPTY_PATH | AT_HANDLE_FID) == 0)
		return true;
	ret->head.handle_bytes = VIN_HANDLE_MAX;
	return name_to_handle_at(fd, "", &ret->head, &mount_id, AT_EMPTY_PATH) == 0;
}

/* 1, 0, or -1: there are no handles here. */
static int has_handle(int fd, const struct vin_mark *m)
{
	union handle h;
	if (m->handle_len == 0 || !get_handle(fd, &h))
		return -1;
	return h.head.handle_type == m->handle_type && h.head.handle_bytes == m->handle_len &&
	       memcmp(h.head.f_handle, m->handle, m->handle_len) == 0;
}

static bool is_it(int fd, const struct vin_mark *m)
{
	struct stat st;
	int r = has_handle(fd, m);
	return r >= 0 ? r : fstat(fd, &st) == 0 && st.st_ino == m->ino && st.st_dev == m->dev;
}

/* Its name was taken away, and it has another one. */
static bool has_other_name(const struct vin_files *f, const struct vin_open *o)
{
	return o->kind == &vin_kind_file && o->st.st_nlink > 0 && vin_link_deleted(o) &&
	       !vin_link_leads(f, o);
}

bool vin_sought_any(const struct vin_files *f, const struct vin_open *o)
{
	return o->info.mark_count > 0 || has_other_name(f, o);
}

const char *vin_sought_name(const struct vin_sought_list *all, const struct vin_open *o)
{
	for (size_t i = 0; all && i < all->count; i++) {
		const struct vin_sought *s = &all->list[i];
		if (s->found && s->name && s->mark.ino == o->st.st_ino && is_it(o->fd, &s->mark))
			return s->name;
	}
	return NULL;
}

static void take_name(const struct vin_files *f, struct vin_sought *s, const char *name)
{
	scoped_fd fd = vin_name_look(f, name);
	if (s->found || fd < 0 || !is_it(fd, &s->mark))
		return;
	s->name = strdup(name);
	s->found = s->name != NULL;
}

/* ---- open files, handles ---- */

static void find_open(const struct vin_files *f, struct vin_sought *s)
{
	for (size_t i = 0; i < f->count && !s->found; i++) {
		const struct vin_open *o = &f->opens[i];
		if (o->st.st_ino != s->mark.ino || o->link[0] != '/')
			continue;
		take_name(f, s, o->link);
		/* a pipe or a socket has no handle, and is not looked at */
		if (!s->found && o->st.st_nlink == 0 && is_it(o->fd, &s->mark)) {
			s->found = true;
			s->file = o->id;
		}
	}
}

static int open_handle(const struct vin_files *f, const char *mount, const struct vin_mark *m)
{
	union handle h = { .head = { .handle_bytes = (unsigned int)m->handle_len,
				     .handle_type = m->handle_type } };
	scoped_fd dir = m->handle_len ? vin_name_look(f, mount) : -1;
	scoped_fd readable = dir < 0 ? -1 : vin_again_here(dir, O_RDONLY | O_DIRECTORY);
	memcpy(h.head.f_handle, m->handle, m->handle_len);
	return readable < 0 ? -1 : open_by_handle_at(readable, &h.head, O_PATH | O_CLOEXEC);
}

static void find_by_handle(const struct vin_files *f, const char *mount, struct vin_sought *s)
{
	char path[40], link[4096];
	scoped_fd fd = open_handle(f, mount, &s->mark);
	if (fd < 0)
		return;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ssize_t len = readlink(path, link, sizeof(link) - 1);
	if (len <= 0)
		return;
	link[len] = '\0';
	take_name(f, s, link);
}

/* ---- the walk ---- */

static int enqueue(struct walk *w, const char *dir, const char *name)
{
	char *path = NULL;
	if (asprintf(&path, "%s%s%s", dir, name && strcmp(dir, "/") != 0 ? "/" : "",
		     name ? name : "") < 0)
		return -ENOMEM;
	char **more = realloc(w->queue, fvm_room(w->count + 1) * sizeof(*more));
	if (!more) {
		free(path);
		return -ENOMEM;
	}
	w->queue = more;
	w->queue[w->count++] = path;
	return 0;
}

/* All of one file system that have this number. */
static void try_entry(struct walk *w, const char *path, ino_t ino)
{
	for (size_t i = 0; i < w->sought->count; i++) {
		struct vin_sought *s = &w->sought->list[i];
		if (s->found || s->mark.dev != w->dev || s->mark.ino != ino)
			continue;
		take_name(w->files, s, path);
		w->left -= s->found;
	}
}

static bool is_sought(const struct walk *w, ino_t ino)
{
	for (size_t i = 0; i < w->sought->count; i++) {
		const struct vin_sought *s = &w->sought->list[i];
		if (!s->found && s->mark.ino == ino && s->mark.dev == w->dev)
			return true;
	}
	return false;
}

/* Nothing of another mount: that may be dead, or endless. */
static DIR *open_directory(const struct walk *w, const char *path)
{
	struct stat st;
	scoped_fd place = vin_name_look(w->files, path);
	if (place < 0 || fstat(place, &st) < 0 || !S_ISDIR(st.st_mode))
		return NULL;
	int fd = vin_again_here(place, O_RDONLY | O_DIRECTORY | O_NONBLOCK);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (fd >= 0 && !d)
		close(fd);
	return d;
}

/* Return: its inode number, or 0: it is no directory of this device */
static ino_t directory_on(int dir, const char *name, dev_t dev)
{
	struct statx x;
	return statx(dir, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC,
		     STATX_TYPE | STATX_INO, &x) == 0 &&
			       S_ISDIR(x.stx_mode) &&
			       makedev(x.stx_dev_major, x.stx_dev_minor) == dev &&
			       !(x.stx_attributes & STATX_ATTR_MOUNT_ROOT)
		       ? x.stx_ino
		       : 0;
}

static int walk_directory(struct walk *w, const char *path)
{
	int r = 0;
	scoped_dir d = open_directory(w, path);
	for (struct dirent *e; r == 0 && d && w->left > 0 && (e = readdir(d));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (++w->entries > VIN_WALK_MAX)
			break;
		const ino_t below = e->d_type == DT_DIR || e->d_type == DT_UNKNOWN
					    ? directory_on(dirfd(d), e->d_name, w->dev)
					    : 0;
		/* an overlay may list a directory of several layers under another number */
		const ino_t ino = below ? below : e->d_ino;
		if (is_sought(w, ino)) {
			char *whole = NULL;
			if (asprintf(&whole, "%s/%s", strcmp(path, "/") == 0 ? "" : path,
				     e->d_name) < 0)
				return -ENOMEM;
			try_entry(w, whole, ino);
			free(whole);
		}
		if (below)
			r = enqueue(w, path, e->d_name);
	}
	return r;
}

/* A name that was taken away stood beside the other one, mostly. */
static int begin_beside(struct walk *w, const struct vin_open *o)
{
	char dir[4096];
	const char *slash = strrchr(o->link, '/');
	snprintf(dir, sizeof(dir), "%.*s", slash == o->link ? 1 : (int)(slash - o->link), o->link);
	return enqueue(w, dir, NULL);
}

/* What they have open, and what they stand in, is near to what they watch. */
static int begin_near(struct walk *w)
{
	char path[40], link[4096];
	int r = 0;
	for (size_t i = 0; r == 0 && i < w->files->count; i++) {
		if (has_other_name(w->files, &w->files->opens[i]))
			r = begin_beside(w, &w->files->opens[i]);
	}
	for (size_t i = 0; r == 0 && i < w->files->count; i++) {
		const struct vin_open *o = &w->files->opens[i];
		if (S_ISDIR(o->st.st_mode) && o->st.st_dev == w->dev && o->link[0] == '/')
			r = enqueue(w, o->link, NULL);
	}
	for (size_t i = 0; r == 0 && i < w->files->table_count; i++) {
		snprintf(path, sizeof(path), "/proc/%d/cwd", w->files->tables[i].pid);
		struct stat st;
		ssize_t len = readlink(path, link, sizeof(link) - 1);
		if (len <= 0 || stat(path, &st) < 0 || st.st_dev != w->dev)
			continue;
		link[len] = '\0';
		r = enqueue(w, link, NULL);
	}
	return r;
}

static int walk(struct walk *w, char *const *mounts)
{
	struct stat st;
	int r = begin_near(w);
	for (size_t i = 0; r == 0 && mounts[i]; i++)
		r = enqueue(w, mounts[i], NULL);
	/* what the walk begins with is nobody's entry */
	for (size_t i = 0; r == 0 && i < w->count; i++) {
		scoped_fd fd = vin_name_look(w->files, w->queue[i]);
		if (fd >= 0 && fstat(fd, &st) == 0)
			try_entry(w, w->queue[i], st.st_ino);
	}
	while (r == 0 && w->first < w->count && w->left > 0 && w->entries <= VIN_WALK_MAX)
		r = walk_directory(w, w->queue[w->first++]);
	for (size_t i = 0; i < w->count; i++)
		free(w->queue[i]);
	free(w->queue);
	return r;
}

/* ---- mounts ---- */

static void free_names(char **names)
{
	for (size_t i = 0; names && names[i]; i++)
		free(names[i]);
	free(names);
}

/* Where a file system is mounted, as @pid sees it; ends with NULL. */
static char **mounts_of(pid_t pid, dev_t dev)
{
	char path[40], point[4096];
	char **names = calloc(1, sizeof(*names));
	scoped_free char *line = NULL;
	size_t count = 0, room = 0;
	snprintf(path, sizeof(path), "/proc/%d/mountinfo", pid);
	FILE *file = fopen(path, "re");
	while (names && file && getline(&line, &room, file) > 0) {
		unsigned int high, low;
		if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &high, &low, point) != 3 ||
		    makedev(high, low) != dev)
			continue;
		fvm_unoctal(point);
		char **more = realloc(names, (count + 2) * sizeof(*names));
		if (!more)
			break;
		names = more;
		names[count] = strdup(point);
		names[count + 1] = NULL;
		count += names[count] != NULL;
	}
	if (file)
		fclose(file);
	return names;
}

/* ---- all of it ---- */

/* stat(2) may tell another device than its mount has. */
static dev_t device_of(const struct vin_open *o)
{
	scoped_mounts mounts = { 0 };
	if (vin_mount_table_read(o->pid, &mounts, NULL) < 0)
		return o->st.st_dev;
	for (size_t i = 0; i < mounts.count; i++) {
		const uint64_t device = mounts.list[i].device;
		if (mounts.list[i].id == o->info.mnt_id)
			return makedev((unsigned int)(device >> 32), (unsigned int)device);
	}
	return o->st.st_dev;
}

/* As the kernel would tell it of a watch. */
static struct vin_mark mark_of(const struct vin_open *o)
{
	union handle h;
	struct vin_mark m = { .kind = VIN_MARK_INODE, .ino = o->st.st_ino, .dev = device_of(o) };
	if (get_handle(o->fd, &h)) {
		m.handle_type = h.head.handle_type;
		m.handle_len = h.head.handle_bytes;
		memcpy(m.handle, h.head.f_handle, m.handle_len);
	}
	return m;
}

static int add_sought(const struct vin_files *f, struct vin_sought_list *to)
{
	size_t count = 0;
	for (size_t i = 0; i < f->count; i++)
		count += f->opens[i].info.mark_count + 1;
	to->list = calloc(count + 1, sizeof(*to->list));
	if (!to->list)
		return -ENOMEM;
	for (size_t i = 0; i < f->count; i++) {
		const struct vin_open *o = &f->opens[i];
		if (has_other_name(f, o))
			to->list[to->count++] =
				(struct vin_sought){ .mark = mark_of(o), .pid = o->pid };
		for (size_t m = 0; m < o->info.mark_count; m++) {
			if (o->info.marks[m].kind <= VIN_MARK_INODE)
				to->list[to->count++] =
					(struct vin_sought){ .mark = o->info.marks[m],
							     .pid = o->pid };
		}
	}
	return 0;
}

/* All that is sought on the file system of the first one that is not found yet. */
static int search_device(const struct vin_files *f, struct vin_sought_list *all, size_t from)
{
	struct walk w = { .files = f, .sought = all, .dev = all->list[from].mark.dev };
	char **mounts = mounts_of(all->list[from].pid, w.dev);
	if (!mounts)
		return -ENOMEM;
	for (size_t i = from; i < all->count; i++) {
		struct vin_sought *s = &all->list[i];
		for (size_t m = 0; s->mark.dev == w.dev && !s->found && mounts[m]; m++)
			find_by_handle(f, mounts[m], s);
		w.left += s->mark.dev == w.dev && !s->found;
	}
	int r = w.left > 0 ? walk(&w, mounts) : 0;
	free_names(mounts);
	return r;
}

static bool is_first_of_device(const struct vin_sought_list *all, size_t at)
{
	for (size_t i = 0; i < at; i++) {
		if (!all->list[i].found && all->list[i].mark.dev == all->list[at].mark.dev)
			return false;
	}
	return !all->list[at].found;
}

int vin_search(const struct vin_files *f, const struct vin_sought_list *before,
	       struct vin_sought_list *ret)
{
	struct vin_sought_list all = { 0 };
	int r = add_sought(f, &all);
	for (size_t i = 0; r == 0 && i < all.count; i++) {
		struct vin_sought *s = &all.list[i];
		const struct vin_sought *was = vin_sought_find(before, &s->mark);
		if (was && was->name)
			take_name(f, s, was->name);
		find_open(f, s);
	}
	for (size_t i = 0; r == 0 && i < all.count; i++) {
		if (is_first_of_device(&all, i))
			r = search_device(f, &all, i);
	}
	if (r < 0)
		vin_sought_free(&all);
	else
		*ret = all;
	return r;
}
