/* The list of stamps in memory, a hash table by path, and its file. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/stamps.h"

#define FILE_MAX ((size_t)1 << 30)
#define MAGIC	 "fvm-stamps 1\n"
#define NAME	 "fvm-stamps " /* a number follows */

struct slot {
	char *path; /* NULL: free */
	bool gone;  /* dropped: the chain goes on behind it */
	struct fvm_stamp stamp;
};

struct fvm_stamps {
	struct slot *slots;
	size_t capacity, used, count; /* used counts dropped ones too */
	bool changed;
};

static uint64_t hash(const char *path)
{
	uint64_t h = 0xcbf29ce484222325ULL;
	for (; *path; path++)
		h = (h ^ (unsigned char)*path) * 0x100000001b3ULL;
	return h ^ (h >> 29);
}

static struct slot *slot_of(const struct fvm_stamps *s, const char *path)
{
	for (size_t at = hash(path) & (s->capacity - 1);; at = (at + 1) & (s->capacity - 1)) {
		struct slot *slot = &s->slots[at];
		if (!slot->path || strcmp(slot->path, path) == 0)
			return slot;
	}
}

static int grow(struct fvm_stamps *s)
{
	struct fvm_stamps bigger = { .capacity = 64 };
	while (bigger.capacity < s->count * 4)
		bigger.capacity *= 2;
	bigger.slots = calloc(bigger.capacity, sizeof(*bigger.slots));
	if (!bigger.slots)
		return -ENOMEM;
	for (size_t i = 0; i < s->capacity; i++) {
		if (s->slots[i].path && !s->slots[i].gone)
			*slot_of(&bigger, s->slots[i].path) = s->slots[i];
		else
			free(s->slots[i].path);
	}
	free(s->slots);
	s->slots = bigger.slots;
	s->capacity = bigger.capacity;
	s->used = s->count;
	return 0;
}

const struct fvm_stamp *fvm_stamps_find(const struct fvm_stamps *s, const char *path)
{
	if (!s || s->capacity == 0)
		return NULL;
	const struct slot *slot = slot_of(s, path);
	return slot->path && !slot->gone ? &slot->stamp : NULL;
}

int fvm_stamps_set(struct fvm_stamps *s, const char *path, const struct fvm_stamp *stamp)
{
	if ((s->used + 1) * 2 > s->capacity && grow(s) < 0)
		return -ENOMEM;
	struct slot *slot = slot_of(s, path);
	if (!slot->path) {
		slot->path = strdup(path);
		if (!slot->path)
			return -ENOMEM;
		s->used++;
		slot->gone = true;
	}
	s->count += slot->gone;
	slot->gone = false;
	slot->stamp = *stamp;
	s->changed = true;
	return 0;
}

void fvm_stamps_drop(struct fvm_stamps *s, const char *path)
{
	struct slot *slot = s->capacity ? slot_of(s, path) : NULL;
	if (!slot || !slot->path || slot->gone)
		return;
	slot->gone = true;
	s->count--;
	s->changed = true;
}

int fvm_stamps_each(const struct fvm_stamps *s, fvm_stamps_fn fn, void *arg)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < s->capacity; i++) {
		if (s->slots[i].path && !s->slots[i].gone)
			r = fn(s->slots[i].path, &s->slots[i].stamp, arg);
	}
	return r;
}

size_t fvm_stamps_count(const struct fvm_stamps *s)
{
	return s->count;
}

void fvm_stamps_free(struct fvm_stamps *s)
{
	for (size_t i = 0; s && i < s->capacity; i++)
		free(s->slots[i].path);
	if (s)
		free(s->slots);
	free(s);
}

void fvm_stamp_of(const struct stat *st, struct fvm_stamp *ret)
{
	*ret = (struct fvm_stamp){ .kind = 'a' };
	if (!st)
		return;
	ret->kind = S_ISREG(st->st_mode)   ? 'f'
		    : S_ISLNK(st->st_mode) ? 'l'
		    : S_ISDIR(st->st_mode) ? 'd'
					   : 'o';
	ret->ino = st->st_ino;
	ret->size = (uint64_t)st->st_size;
	ret->ctime_ns = st->st_ctim.tv_sec * 1000000000LL + st->st_ctim.tv_nsec;
	ret->mode = st->st_mode;
	ret->uid = st->st_uid;
	ret->gid = st->st_gid;
}

/* ---- the file ---- */

static void put_line(struct fvm_buf *b, const struct slot *slot)
{
	const struct fvm_stamp *t = &slot->stamp;
	fvm_buf_printf(b, "%c %llu %lld %llu %o %u %u ", t->drifted ? t->kind - 'a' + 'A' : t->kind,
		       (unsigned long long)t->ino, (long long)t->ctime_ns,
		       (unsigned long long)t->size, t->mode, t->uid, t->gid);
	for (size_t i = 0; t->has_digest && i < FVM_DIGEST_SIZE; i++)
		fvm_buf_printf(b, "%02x", t->digest[i]);
	fvm_buf_puts(b, t->has_digest ? " " : "- ");
	fvm_percent(b, slot->path);
	fvm_buf_puts(b, "\n");
}

int fvm_stamps_save(struct fvm_stamps *s, int dir)
{
	scoped_buf text = { 0 };
	if (!s->changed)
		return 0;
	fvm_buf_puts(&text, MAGIC);
	for (size_t i = 0; i < s->capacity; i++) {
		if (s->slots[i].path && !s->slots[i].gone)
			put_line(&text, &s->slots[i]);
	}
	if (text.failed)
		return -ENOMEM;
	int r = FVM_FAULT("stamps.write");
	if (r == 0)
		r = fvm_write_file_atomic(dir, "stamps", text.data, text.len, true);
	if (r == 0)
		s->changed = false;
	return r;
}

static bool get_digest(const char *text, struct fvm_stamp *t)
{
	t->has_digest = strcmp(text, "-") != 0;
	if (t->has_digest && strlen(text) != FVM_DIGEST_SIZE * 2)
		return false;
	for (size_t i = 0; t->has_digest && i < FVM_DIGEST_SIZE; i++) {
		int high = fvm_hex(text[2 * i]), low = fvm_hex(text[2 * i + 1]);
		if (high < 0 || low < 0)
			return false;
		t->digest[i] = (unsigned char)(high << 4 | low);
	}
	return true;
}

static int get_line(struct fvm_stamps *s, char *line)
{
	struct fvm_stamp t = { 0 };
	unsigned long long ino, size;
	long long ctime;
	char kind, digest[FVM_DIGEST_SIZE * 2 + 2];
	int used = 0;
	if (sscanf(line, "%c %llu %lld %llu %o %u %u %65s %n", &kind, &ino, &ctime, &size, &t.mode,
		   &t.uid, &t.gid, digest, &used) != 8 ||
	    used == 0 || !get_digest(digest, &t))
		return -EBADMSG;
	t.drifted = kind >= 'A' && kind <= 'Z';
	t.kind = t.drifted ? (char)(kind - 'A' + 'a') : kind;
	t.ino = ino;
	t.size = size;
	t.ctime_ns = ctime;
	char *path = line + used;
	if (!strchr("afldto", t.kind) || *path != '/' || fvm_unpercent(path) < 0)
		return -EBADMSG;
	return fvm_stamps_set(s, path, &t);
}

static int get_lines(struct fvm_stamps *s, const char *text, size_t len, struct fvm_error *err)
{
	size_t at = strlen(MAGIC), number = 2;
	if (len >= at && memcmp(text, NAME, strlen(NAME)) == 0 && memcmp(text, MAGIC, at) != 0) {
		fvm_error_hint(err, "a newer fvm wrote it: use that one");
		return fvm_error_set(err, EPROTONOSUPPORT, "read the list of stamps");
	}
	if (len < at || memcmp(text, MAGIC, at) != 0)
		return fvm_error_set(err, EBADMSG, "read the list of stamps");
	for (; at < len; number++) {
		const char *end = memchr(text + at, '\n', len - at);
		scoped_free char *line = end ? strndup(text + at, (size_t)(end - text) - at) : NULL;
		int r = !end ? -EBADMSG : !line ? -ENOMEM : get_line(s, line);
		if (r < 0)
			return fvm_error_set(err, -r, "read the list of stamps, line %zu", number);
		at = (size_t)(end - text) + 1;
	}
	return 0;
}

int fvm_stamps_parse(const char *text, size_t len, struct fvm_stamps **ret, struct fvm_error *err)
{
	struct fvm_stamps *s = calloc(1, sizeof(*s));
	if (!s)
		return fvm_error_set(err, ENOMEM, "read the list of stamps");
	int r = len > 0 ? get_lines(s, text, len, err) : 0;
	if (r < 0) {
		fvm_error_hint(err, "restore or delete that file; without it the birth times of "
				    "the VM's files count");
		fvm_stamps_free(s);
		return r;
	}
	s->changed = false;
	*ret = s;
	return 0;
}

int fvm_stamps_load(int dir, struct fvm_stamps **ret, struct fvm_error *err)
{
	scoped_free char *text = NULL;
	size_t len = 0;
	int r = fvm_read_file(dir, "stamps", FILE_MAX, &text, &len);
	if (r < 0 && r != -ENOENT)
		fvm_error_set(err, -r, "read the list of stamps");
	else
		r = fvm_stamps_parse(text ? text : "", len, ret, err);
	return r < 0 ? fvm_error_wrap_at(err, r, dir, "stamps") : 0;
}

/* A link does: the file is only ever replaced whole. Its length goes with what was changed. */
int fvm_stamps_copy(int from, int to)
{
	if (linkat(from, "stamps", to, "stamps", 0) == 0)
		return fsync(to) < 0 ? -errno : 0;
	if (errno == ENOENT)
		return 0;
	scoped_free char *text = NULL;
	size_t len = 0;
	int r = fvm_read_file(from, "stamps", FILE_MAX, &text, &len);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	return fvm_write_file_atomic(to, "stamps", text, len, true);
}
