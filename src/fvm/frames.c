#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fvm/compare.h"
#include "fvm/frames.h"

#define DENTS (64 * 1024)

struct dent { /* struct linux_dirent64 of getdents64(2) */
	uint64_t ino;
	int64_t off;
	uint16_t len;
	uint8_t type;
	char name[];
};

static void frame_close(struct fvm_frame *frame)
{
	for (size_t i = 0; i < frame->level_count; i++)
		fvm_fd_closep(&frame->levels[i].fd);
	fvm_fd_closep(&frame->base);
	frame->closed = true;
}

static void frame_free(struct fvm_frame *frame)
{
	if (!frame->closed)
		frame_close(frame);
	free(frame->levels);
	free(frame->arena);
	free(frame->names);
}

void fvm_frames_free(struct fvm_frames *f)
{
	while (f->count > 0)
		fvm_frames_pop(f);
	free(f->items);
	free(f->dents);
	*f = (struct fvm_frames){ 0 };
}

void fvm_frames_pop(struct fvm_frames *f)
{
	frame_free(&f->items[--f->count]);
}

/* ---- names ---- */

/* While the arena grows its strings have no addresses yet, only offsets. */
struct reader {
	struct fvm_buf arena;
	struct fvm_buf names; /* of struct fvm_name */
};

static void reader_add(struct reader *r, const char *text, uint16_t level)
{
	struct fvm_name name = { .offset = r->arena.len, .level = level };
	fvm_buf_add(&r->names, &name, sizeof(name));
	fvm_buf_add(&r->arena, text, strlen(text) + 1);
}

static bool is_dots(const char *name)
{
	return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

static int read_names(struct reader *r, char *dents, int dir, uint16_t level)
{
	for (;;) {
		long n = syscall(SYS_getdents64, dir, dents, DENTS);
		if (n < 0)
			return -errno;
		if (n == 0)
			return r->arena.failed || r->names.failed ? -ENOMEM : 0;
		for (long at = 0; at < n;) {
			const struct dent *d = (const struct dent *)(dents + at);
			if (!is_dots(d->name))
				reader_add(r, d->name, level);
			at += d->len;
		}
	}
}

static int compare_names(const void *a, const void *b)
{
	const struct fvm_name *x = a, *y = b;
	int r = strcmp(x->text, y->text);
	return r ? r : (int)x->level - (int)y->level;
}

/* A directory of the base that we may enter but not list has no names for us. */
static int read_base_names(struct reader *r, char *dents, int base)
{
	scoped_fd dir = openat(base, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return errno == EACCES ? 0 : -errno;
	return read_names(r, dents, dir, FVM_LEVEL_BASE);
}

static int frame_read(struct fvm_frames *f, struct fvm_frame *frame)
{
	if (!f->dents)
		f->dents = malloc(DENTS);
	if (!f->dents)
		return -ENOMEM;
	struct reader reader = { 0 };
	int r = 0;
	for (size_t i = 0; i < frame->level_count && r == 0; i++)
		r = read_names(&reader, f->dents, frame->levels[i].fd, (uint16_t)i);
	if (r == 0 && frame->hidden && frame->base >= 0)
		r = read_base_names(&reader, f->dents, frame->base);
	if (r == 0 && reader.names.len > 0) {
		frame->name_count = reader.names.len / sizeof(struct fvm_name);
		frame->arena = fvm_buf_steal(&reader.arena);
		frame->names = (struct fvm_name *)(void *)fvm_buf_steal(&reader.names);
		if (!frame->arena || !frame->names)
			r = -ENOMEM;
	}
	fvm_buf_free(&reader.arena);
	fvm_buf_free(&reader.names);
	if (r < 0 || frame->name_count == 0)
		return r;
	for (size_t i = 0; i < frame->name_count; i++)
		frame->names[i].text = frame->arena + frame->names[i].offset;
	qsort(frame->names, frame->name_count, sizeof(*frame->names), compare_names);
	return 0;
}

/* ---- descriptors ---- */

static bool same_inode(int fd, dev_t dev, ino_t ino)
{
	struct stat st;
	return fstat(fd, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

static int level_of(const struct fvm_frame *frame, size_t layer)
{
	for (size_t i = 0; i < frame->level_count; i++) {
		if (frame->levels[i].layer == layer)
			return frame->levels[i].fd;
	}
	return -1;
}

static int revive(const struct fvm_frame *parent, struct fvm_frame *frame, const char *name)
{
	frame->closed = false;
	for (size_t i = 0; i < frame->level_count; i++) {
		struct fvm_level *level = &frame->levels[i];
		level->fd = fvm_open_dir(level_of(parent, level->layer), name, false);
		if (level->fd < 0)
			return level->fd;
		if (!same_inode(level->fd, level->dev, level->ino))
			return -ESTALE;
	}
	if (!frame->has_base)
		return 0;
	frame->base = fvm_open_dir(parent->base, name, true);
	if (frame->base < 0)
		return frame->base;
	return same_inode(frame->base, frame->base_dev, frame->base_ino) ? 0 : -ESTALE;
}

/* Opens frame @at again, and its ancestors up to the nearest that is open. */
static int revive_chain(struct fvm_frames *f, size_t at, const char *path)
{
	size_t open = at;
	while (f->items[open].closed)
		open--;
	for (size_t i = open + 1; i <= at; i++) {
		const struct fvm_frame *parent = &f->items[i - 1];
		struct fvm_frame *frame = &f->items[i];
		size_t from = parent->path_len;
		while (path[from] == '/')
			from++;
		char name[256];
		size_t len = frame->path_len - from;
		if (len >= sizeof(name))
			return -ENAMETOOLONG;
		memcpy(name, path + from, len);
		name[len] = '\0';
		int r = revive(parent, frame, name);
		if (r < 0)
			return r;
	}
	return 0;
}

static int frame_note_inodes(struct fvm_frame *frame)
{
	struct stat st;
	for (size_t i = 0; i < frame->level_count; i++) {
		if (fstat(frame->levels[i].fd, &st) < 0)
			return -errno;
		frame->levels[i].dev = st.st_dev;
		frame->levels[i].ino = st.st_ino;
	}
	frame->has_base = frame->base >= 0;
	if (!frame->has_base)
		return 0;
	if (fstat(frame->base, &st) < 0)
		return -errno;
	frame->base_dev = st.st_dev;
	frame->base_ino = st.st_ino;
	return 0;
}

static int make_room(struct fvm_frames *f)
{
	if (f->count < f->room)
		return 0;
	size_t room = f->room ? f->room * 2 : 64;
	struct fvm_frame *items = realloc(f->items, room * sizeof(*items));
	if (!items)
		return -ENOMEM;
	f->items = items;
	f->room = room;
	return 0;
}

/* Closes the frame that is leaving the window, unless it is one of those kept. */
static int trim(struct fvm_frames *f)
{
	if (f->count <= f->window || (f->count - 1) % f->window == 0)
		return 0;
	struct fvm_frame *frame = &f->items[f->count - 1 - f->window];
	if (frame->closed)
		return 0;
	int r = frame_note_inodes(frame);
	if (r == 0)
		frame_close(frame);
	return r;
}

int fvm_frames_push(struct fvm_frames *f, const struct fvm_frame *frame)
{
	int r = make_room(f);
	if (r < 0) {
		struct fvm_frame mine = *frame;
		frame_free(&mine);
		return r;
	}
	f->items[f->count++] = *frame;
	r = frame_read(f, &f->items[f->count - 1]);
	return r < 0 ? r : trim(f);
}

int fvm_frames_top(struct fvm_frames *f, const char *path, struct fvm_frame **ret)
{
	int r = 0;
	if (f->items[f->count - 1].closed)
		r = revive_chain(f, f->count - 1, path);
	if (r == 0)
		*ret = &f->items[f->count - 1];
	return r;
}
