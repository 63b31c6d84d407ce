#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fvm/owners.h"
#include "fvm/skeleton.h"
#include "fvm/store.h"

#define LIST_MAX_BYTES (64UL * 1024 * 1024)
#define MAPS	       64

struct line {
	const char *path; /* KEY/REL as escaped */
	ino_t ino;
	size_t order; /* later ones win */
	struct fvm_owner owner;
};

struct map {
	uint32_t vm, host, count;
};

struct fvm_owners {
	char *text; /* the whole list; paths point into it */
	struct line *lines;
	size_t count;
	struct map uids[MAPS], gids[MAPS];
	size_t uid_count, gid_count;
	uid_t user; /* owner of the layer's directory: who VM root is */
};

void fvm_owners_free(struct fvm_owners *owners)
{
	if (!owners)
		return;
	free(owners->text);
	free(owners->lines);
	free(owners);
}

/* ---- one record ---- */

/* Reads digits of @base up to @max; *@p stands behind them. Return: whether there was a number */
static bool number(const char **p, int base, unsigned long max, unsigned long *ret)
{
	char *end;
	if (!isdigit((unsigned char)**p))
		return false;
	errno = 0;
	*ret = strtoul(*p, &end, base);
	*p = end;
	return errno == 0 && *ret <= max;
}

static bool parse_device(const char **p, struct fvm_owner *o)
{
	unsigned long major_nr, minor_nr;
	if (!number(p, 10, 0xfff, &major_nr) || **p != '.')
		return false;
	(*p)++;
	if (!number(p, 10, 0xfffff, &minor_nr))
		return false;
	o->rdev = makedev((unsigned int)major_nr, (unsigned int)minor_nr);
	return true;
}

int fvm_owner_parse(const char *text, size_t len, struct fvm_owner *ret)
{
	char copy[64];
	unsigned long uid, gid, mode = 0;
	struct fvm_owner o = { 0 };
	if (len >= sizeof(copy))
		return -EINVAL;
	memcpy(copy, text, len);
	copy[len] = '\0';
	const char *p = copy;
	if (!number(&p, 10, UINT32_MAX - 1, &uid) || *p++ != ':')
		return -EINVAL;
	if (!number(&p, 10, UINT32_MAX - 1, &gid))
		return -EINVAL;
	if (*p == ':') {
		p++;
		if (!number(&p, 8, 0177777, &mode))
			return -EINVAL;
		o.has_mode = true;
	}
	if (*p == ':') {
		p++;
		if (!parse_device(&p, &o))
			return -EINVAL;
	}
	if (*p != '\0' || (size_t)(p - copy) != len)
		return -EINVAL;
	o.uid = (uid_t)uid;
	o.gid = (gid_t)gid;
	o.mode = (mode_t)mode;
	*ret = o;
	return 0;
}

void fvm_owner_format(const struct fvm_owner *o, char *ret, size_t size)
{
	if (!o->has_mode)
		snprintf(ret, size, "%u:%u", o->uid, o->gid);
	else if (!S_ISCHR(o->mode) && !S_ISBLK(o->mode))
		snprintf(ret, size, "%u:%u:%o", o->uid, o->gid, o->mode);
	else
		snprintf(ret, size, "%u:%u:%o:%u.%u", o->uid, o->gid, o->mode, major(o->rdev),
			 minor(o->rdev));
}

/* ---- the list ---- */

void fvm_owners_line(struct fvm_buf *ret, const struct fvm_owner *owner, ino_t ino, const char *key,
		     const char *rel)
{
	char text[64];
	fvm_owner_format(owner, text, sizeof(text));
	fvm_buf_printf(ret, "own %s %llu ", text, (unsigned long long)ino);
	fvm_octal(ret, key);
	fvm_buf_puts(ret, "/");
	fvm_octal(ret, rel);
	fvm_buf_puts(ret, "\n");
}

static bool parse_map(struct fvm_owners *o, const char *p)
{
	bool user = *p == 'u';
	unsigned long vm, host, count;
	if ((*p != 'u' && *p != 'g') || p[1] != ' ')
		return false;
	p += 2;
	if (!number(&p, 10, UINT32_MAX, &vm) || *p++ != ' ')
		return false;
	if (!number(&p, 10, UINT32_MAX, &host) || *p++ != ' ')
		return false;
	if (!number(&p, 10, UINT32_MAX, &count) || *p != '\0')
		return false;
	size_t *n = user ? &o->uid_count : &o->gid_count;
	if (*n >= MAPS)
		return false;
	(user ? o->uids : o->gids)[(*n)++] =
		(struct map){ (uint32_t)vm, (uint32_t)host, (uint32_t)count };
	return true;
}

static bool parse_own(const char *p, struct line *ret)
{
	const char *space = strchr(p, ' ');
	if (!space || fvm_owner_parse(p, (size_t)(space - p), &ret->owner) < 0)
		return false;
	p = space + 1;
	unsigned long ino;
	if (!number(&p, 10, ULONG_MAX, &ino) || *p != ' ')
		return false;
	ret->ino = (ino_t)ino;
	ret->path = p + 1;
	return strchr(ret->path, ' ') == NULL;
}

static int compare_lines(const void *a, const void *b)
{
	const struct line *x = a, *y = b;
	int r = strcmp(x->path, y->path);
	if (r)
		return r;
	return x->order < y->order ? -1 : x->order > y->order;
}

static size_t count_lines(const char *text)
{
	size_t n = 0;
	for (; (text = strchr(text, '\n')); text++)
		n++;
	return n;
}

/* "fvm-owners N" */
static int check_format(const char *line, struct fvm_error *err)
{
	char head[32];
	snprintf(head, sizeof(head), "%s\n", line);
	if (strcmp(head, FVM_OWNERS_HEAD) == 0)
		return 0;
	fvm_error_hint(err, "a newer fvm wrote it: use that one");
	return fvm_error_set(err, EPROTONOSUPPORT, "the record of owners has format %.20s",
			     line + strlen("fvm-owners "));
}

/* Cuts the text into lines. One without its newline is being written, or a crash cut it: left out.
 */
static int parse_list(struct fvm_owners *o, struct fvm_error *err)
{
	size_t number_of = 0;
	o->lines = calloc(count_lines(o->text) + 1, sizeof(*o->lines));
	if (!o->lines)
		return fvm_error_set(err, ENOMEM, "read the record of owners");
	char *end;
	for (char *p = o->text; (end = strchr(p, '\n')); p = end + 1) {
		*end = '\0';
		number_of++;
		bool good = false;
		if (number_of == 1 && strncmp(p, "fvm-owners ", 11) == 0) {
			int r = check_format(p, err);
			if (r < 0)
				return r;
			good = true;
		} else if (strncmp(p, "map ", 4) == 0) {
			good = parse_map(o, p + 4);
		} else if (strncmp(p, "own ", 4) == 0) {
			good = parse_own(p + 4, &o->lines[o->count]);
			o->lines[o->count].order = o->count;
			o->count += good;
		}
		if (!good)
			return fvm_error_set(err, EBADMSG, "line %zu of the record of owners",
					     number_of);
	}
	qsort(o->lines, o->count, sizeof(*o->lines), compare_lines);
	return 0;
}

/* Takes the text over. */
static int take_list(char *text, size_t len, uid_t user, struct fvm_owners **ret,
		     struct fvm_error *err)
{
	struct fvm_owners *o = calloc(1, sizeof(*o));
	if (!o) {
		free(text);
		return fvm_error_set(err, ENOMEM, "read the record of owners");
	}
	o->text = text;
	o->user = user;
	int r = 0;
	if (text && strlen(text) != len)
		r = fvm_error_set(err, EBADMSG, "the record of owners holds a NUL");
	else if (text)
		r = parse_list(o, err);
	if (r < 0)
		fvm_owners_free(o);
	else
		*ret = o;
	return r;
}

int fvm_owners_load(int fs, struct fvm_owners **ret, struct fvm_error *err)
{
	struct stat st = { 0 };
	char *text = NULL;
	size_t len = 0;
	(void)fstat(fs, &st);
	int r = fvm_read_file(fs, FVM_OWNERS_FILE, LIST_MAX_BYTES, &text, &len);
	if (r < 0 && r != -ENOENT)
		fvm_error_set(err, -r, "read the record of owners");
	else
		r = take_list(text, len, st.st_uid, ret, err);
	if (r == -EBADMSG)
		fvm_error_hint(err, "restore that file, or delete the line and the owner that it "
				    "tells");
	return r < 0 ? fvm_error_wrap_at(err, r, fs, FVM_OWNERS_FILE) : 0;
}

int fvm_owners_read(int list, struct fvm_owners **ret, struct fvm_error *err)
{
	struct stat st;
	if (fstat(list, &st) < 0 || (uint64_t)st.st_size > LIST_MAX_BYTES)
		return fvm_error_set(err, EFBIG, "read the record of owners");
	char *text = calloc(1, (size_t)st.st_size + 1);
	ssize_t n = text ? pread(list, text, (size_t)st.st_size, 0) : -1;
	if (n < 0) {
		int r = fvm_error_set(err, text ? errno : ENOMEM, "read the record of owners");
		free(text);
		return r;
	}
	return take_list(text, (size_t)n, st.st_uid, ret, err);
}

static const struct fvm_owner *find_line(const struct fvm_owners *o, const char *key,
					 const char *rel, ino_t ino)
{
	scoped_buf path = { 0 };
	fvm_octal(&path, key);
	fvm_buf_puts(&path, "/");
	fvm_octal(&path, rel);
	if (path.failed)
		return NULL;
	/* the first line behind all of this path */
	size_t low = 0, high = o->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (strcmp(o->lines[middle].path, path.data) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	while (low-- > 0 && strcmp(o->lines[low].path, path.data) == 0) {
		if (o->lines[low].ino == 0 || o->lines[low].ino == ino)
			return &o->lines[low].owner;
	}
	return NULL;
}

/* At another mount when it was noted: one above or below, and in an image "root". */
static const struct fvm_owner *find_elsewhere(const struct fvm_owners *o, const char *key,
					      const char *rel, ino_t ino)
{
	char point[4096], other[256];
	scoped_buf path = { 0 };
	if (fvm_mount_point(key, point, sizeof(point)) < 0)
		return NULL;
	fvm_buf_printf(&path, "%s/%s", point[1] ? point : "", rel);
	const struct fvm_owner *found = NULL;
	for (char *p = path.data; !path.failed && !found && p; p = strchr(p + 1, '/')) {
		*p = '\0';
		if (fvm_mount_key(p == path.data ? "/" : path.data, other, sizeof(other)) == 0 &&
		    strcmp(other, key) != 0)
			found = find_line(o, other, p + 1, ino);
		*p = '/';
	}
	return found;
}

const struct fvm_owner *fvm_owners_find(const struct fvm_owners *o, const char *key,
					const char *rel, ino_t ino)
{
	if (!o || o->count == 0)
		return NULL;
	const struct fvm_owner *found = find_line(o, key, rel, ino);
	return found ? found : find_elsewhere(o, key, rel, ino);
}

void fvm_owners_maps(const struct fvm_owners *o, struct fvm_buf *ret)
{
	fvm_buf_puts(ret, FVM_OWNERS_HEAD);
	for (size_t i = 0; i < o->uid_count; i++)
		fvm_buf_printf(ret, "map u %u %u %u\n", o->uids[i].vm, o->uids[i].host,
			       o->uids[i].count);
	for (size_t i = 0; i < o->gid_count; i++)
		fvm_buf_printf(ret, "map g %u %u %u\n", o->gids[i].vm, o->gids[i].host,
			       o->gids[i].count);
}

/* ---- what a file was meant to have ---- */

enum found_xattr { NO_RECORD, RECORD, OF_HOST };

static enum found_xattr read_xattr(int dir, const char *name, struct fvm_owner *ret)
{
	char path[320], value[64];
	if (snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dir, name) >= (int)sizeof(path))
		return NO_RECORD;
	ssize_t n = lgetxattr(path, FVM_OWNER_XATTR, value, sizeof(value));
	if (n == (ssize_t)strlen(FVM_OWNER_OF_HOST) &&
	    memcmp(value, FVM_OWNER_OF_HOST, (size_t)n) == 0)
		return OF_HOST;
	return n > 0 && fvm_owner_parse(value, (size_t)n, ret) == 0 ? RECORD : NO_RECORD;
}

static void apply_record(const struct fvm_owner *o, struct stat *st)
{
	st->st_uid = o->uid;
	st->st_gid = o->gid;
	if (!o->has_mode)
		return;
	mode_t type = o->mode & S_IFMT ? o->mode & S_IFMT : st->st_mode & S_IFMT;
	st->st_mode = type | (o->mode & 07777);
	if (S_ISCHR(type) || S_ISBLK(type))
		st->st_rdev = o->rdev;
}

/* Return: the VM's id for a host's one; one that no line names stays */
static uint32_t map_id(const struct map *maps, size_t count, uint32_t id)
{
	for (size_t i = 0; i < count; i++) {
		if (id >= maps[i].host && id - maps[i].host < maps[i].count)
			return maps[i].vm + (id - maps[i].host);
	}
	return id;
}

/* Whether the VM has an id for the host's @id: the numbers are the same. */
static bool has_id(const struct map *maps, size_t count, uint32_t id)
{
	for (size_t i = 0; i < count; i++) {
		if (id >= maps[i].vm && id - maps[i].vm < maps[i].count)
			return true;
	}
	return false;
}

/* Whether the VM could know whose @base is, and give that to its copy. */
static bool is_known(const struct fvm_owners *o, const char *key, const char *rel,
		     const struct stat *base)
{
	char path[4096];
	if (base->st_uid == 0)
		return true;
	if (!has_id(o->uids, o->uid_count, base->st_uid) ||
	    fvm_mount_point(key, path, sizeof(path)) < 0)
		return false;
	size_t n = strlen(path);
	(void)snprintf(path + n, sizeof(path) - n, "/%s", rel);
	return fvm_skeleton_has(path + (path[0] == '/' && path[1] == '/'));
}

/* No record: see "A file without a record" in the header. */
static void apply_default(const struct fvm_owners *o, const char *key, const char *rel,
			  const struct stat *base, const struct stat *parent, struct stat *st)
{
	bool is_user = st->st_uid == o->user;
	if (!is_user) {
		st->st_uid = map_id(o->uids, o->uid_count, st->st_uid);
		st->st_gid = map_id(o->gids, o->gid_count, st->st_gid);
		return;
	}
	bool one_id = o->uid_count <= 1;
	/* of his user's id, yet of a group of the range: root's in the VM, as chown made it */
	uint32_t group = map_id(o->gids, o->gid_count, st->st_gid);
	bool real_group = !one_id && group != st->st_gid && group != 0;
	if (base && (one_id || base->st_uid == o->user || !is_known(o, key, rel, base))) {
		st->st_uid = base->st_uid;
		st->st_gid = base->st_gid;
		return;
	}
	st->st_uid = 0;
	st->st_gid = real_group ? group : 0;
	/* root's on the host: the copy is VM root's, whoever has the directory it lies in */
	if (real_group || (base && base->st_uid == 0 && base->st_gid == 0))
		return;
	if (parent && parent->st_uid != 0 && (one_id || parent->st_uid == o->user)) {
		st->st_uid = parent->st_uid;
		st->st_gid = parent->st_gid;
	} else if (parent && (parent->st_mode & S_ISGID)) {
		st->st_gid = parent->st_gid;
	}
}

void fvm_owners_apply(const struct fvm_owners *owners, int dir, const char *name, const char *key,
		      const char *rel, const struct stat *base, const struct stat *parent,
		      struct stat *st)
{
	struct fvm_owner owner;
	if (!owners)
		return;
	enum found_xattr found = S_ISREG(st->st_mode) || S_ISDIR(st->st_mode)
					 ? read_xattr(dir, name, &owner)
					 : NO_RECORD;
	if (found == OF_HOST) {
		st->st_uid = base ? base->st_uid : FVM_OWNER_UNKNOWN;
		st->st_gid = base ? base->st_gid : FVM_OWNER_UNKNOWN;
		return;
	}
	if (found == RECORD) {
		apply_record(&owner, st);
		return;
	}
	const struct fvm_owner *line = fvm_owners_find(owners, key, rel, st->st_ino);
	if (line) {
		apply_record(line, st);
	} else if (!*rel && base && st->st_uid == owners->user) {
		/* where an overlay begins: that directory of the layer was made by us */
		st->st_uid = base->st_uid;
		st->st_gid = base->st_gid;
	} else {
		apply_default(owners, key, rel, base, parent, st);
	}
}
