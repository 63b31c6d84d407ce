/* The table of mounts: from the kernel's text, to an image and out of it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "vin/mounts.h"

#define TEXT_MAX  (64U << 20)
#define COUNT_MAX 100000 /* the kernel's own limit */

#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif

static const struct {
	const char *name;
	uint64_t flag;
} words[] = {
	{ "ro", MOUNT_ATTR_RDONLY },
	{ "nosuid", MOUNT_ATTR_NOSUID },
	{ "nodev", MOUNT_ATTR_NODEV },
	{ "noexec", MOUNT_ATTR_NOEXEC },
	{ "noatime", MOUNT_ATTR_NOATIME },
	{ "nodiratime", MOUNT_ATTR_NODIRATIME },
	{ "nosymfollow", MOUNT_ATTR_NOSYMFOLLOW },
};

#define ATTRIBUTES                                                                                 \
	(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC |            \
	 MOUNT_ATTR_NODIRATIME | MOUNT_ATTR_NOSYMFOLLOW | MOUNT_ATTR__ATIME)

static void mount_free(struct vin_mount *m)
{
	free(m->root);
	free(m->point);
	free(m->type);
	free(m->source);
	free(m->options);
	fvm_fd_closep(&m->fd);
}

void vin_mount_table_free(struct vin_mount_table *t)
{
	for (size_t i = 0; i < t->count; i++)
		mount_free(&t->list[i]);
	free(t->list);
	*t = (struct vin_mount_table){ 0 };
}

static struct vin_mount *add(struct vin_mount_table *t)
{
	struct vin_mount *more = t->count < COUNT_MAX
					 ? realloc(t->list, fvm_room(t->count + 1) * sizeof(*more))
					 : NULL;
	if (!more)
		return NULL;
	t->list = more;
	more[t->count] = (struct vin_mount){ .fd = -1, .parent = VIN_MOUNT_NONE };
	return &more[t->count++];
}

/* ---- the kernel's text ---- */

char *vin_mount_option(char **at, char **ret_value)
{
	char *word = *at ? strsep(at, ",") : NULL;
	char *equals = word ? strchr(word, '=') : NULL;
	*ret_value = word ? word + strlen(word) : NULL;
	if (equals) {
		*equals = '\0';
		*ret_value = equals + 1;
		fvm_unoctal(*ret_value);
	}
	return word;
}

/* What is not said of times is the kernel's own choice, relatime; strictatime shows as nothing. */
static uint64_t parse_attributes(char *text)
{
	uint64_t all = 0;
	bool relative = false;
	char *value;
	for (char *word; (word = vin_mount_option(&text, &value));) {
		relative |= strcmp(word, "relatime") == 0;
		for (size_t i = 0; i < FVM_COUNT(words); i++)
			all |= strcmp(word, words[i].name) == 0 ? words[i].flag : 0;
	}
	return relative || (all & MOUNT_ATTR_NOATIME) ? all : all | MOUNT_ATTR_STRICTATIME;
}

static void parse_optional(struct vin_mount *m, const char *word)
{
	if (strncmp(word, "shared:", 7) == 0)
		m->shared = strtoul(word + 7, NULL, 10);
	else if (strncmp(word, "master:", 7) == 0)
		m->master = strtoul(word + 7, NULL, 10);
	else if (strcmp(word, "unbindable") == 0)
		m->unbindable = true;
}

static char *copy_word(char *word, bool unescape)
{
	char *copy = word ? strdup(word) : NULL;
	if (copy && unescape)
		fvm_unoctal(copy);
	return copy;
}

/* id, parent, major:minor, root, point, attributes, words .., "-", type, source, options */
static int parse_line(char *line, struct vin_mount *m, int *ret_parent)
{
	unsigned int major, minor;
	char *save = NULL, *head[6];
	for (size_t i = 0; i < FVM_COUNT(head); i++) {
		head[i] = strtok_r(i ? NULL : line, " ", &save);
		if (!head[i])
			return -EBADMSG;
	}
	if (sscanf(head[2], "%u:%u", &major, &minor) != 2)
		return -EBADMSG;
	m->id = (int)strtol(head[0], NULL, 10);
	*ret_parent = (int)strtol(head[1], NULL, 10);
	m->device = (uint64_t)major << 32 | minor;
	m->attributes = parse_attributes(head[5]);
	m->root = copy_word(head[3], true);
	m->point = copy_word(head[4], true);
	char *word;
	while ((word = strtok_r(NULL, " ", &save)) && strcmp(word, "-") != 0)
		parse_optional(m, word);
	if (!word)
		return -EBADMSG;
	/* a source may be nothing at all, and two blanks then stand there */
	char *type = strsep(&save, " "), *source = strsep(&save, " ");
	m->type = copy_word(type, true);
	m->source = copy_word(source, true);
	m->options = copy_word(save, false); /* its parts are */
	if (!type || !source || !save)
		return -EBADMSG;
	return m->root && m->point && m->type && m->source && m->options ? 0 : -ENOMEM;
}

/* One as it was told, on its way to its place. */
struct seat {
	int id;
	size_t at, parent; /* in the table as it was told; itself: the root */
	size_t round;
	bool known;
};

static int by_id(const void *a, const void *b)
{
	const struct seat *x = a, *y = b;
	return x->id != y->id ? (x->id > y->id) - (x->id < y->id)
			      : (x->at > y->at) - (x->at < y->at);
}

static int by_round(const void *a, const void *b)
{
	const struct seat *x = a, *y = b;
	return x->round != y->round ? (x->round > y->round) - (x->round < y->round)
				    : (x->at > y->at) - (x->at < y->at);
}

/* Programs may have moved each of a hundred thousand onto the next: so nobody is searched in line.
 */
static int find_parents(const struct vin_mount_table *all, const int *parents, struct seat *seats)
{
	scoped_free struct seat *sorted = calloc(all->count + 1, sizeof(*sorted));
	if (!sorted)
		return -ENOMEM;
	for (size_t i = 0; i < all->count; i++)
		seats[i] = sorted[i] = (struct seat){ .id = all->list[i].id, .at = i, .parent = i };
	qsort(sorted, all->count, sizeof(*sorted), by_id);
	for (size_t i = 0; i < all->count; i++) {
		const struct seat key = { .id = parents[i] };
		size_t low = 0, high = all->count;
		while (low < high) {
			const size_t middle = low + (high - low) / 2;
			if (by_id(&sorted[middle], &key) < 0)
				low = middle + 1;
			else
				high = middle;
		}
		if (low < all->count && sorted[low].id == parents[i])
			seats[i].parent = sorted[low].at;
	}
	return 0;
}

/* One that was told before its parent comes a round later than that. */
static int find_round(struct seat *seats, size_t count, size_t i, size_t *chain)
{
	size_t n = 0;
	for (; !seats[i].known && seats[i].parent != i; i = seats[i].parent) {
		if (n == count)
			return -EBADMSG; /* they are on each other */
		chain[n++] = i;
	}
	seats[i].known = true;
	for (; n > 0; i = chain[n]) {
		struct seat *s = &seats[chain[--n]];
		s->round = seats[i].round + (i > s->at);
		s->known = true;
	}
	return 0;
}

/* As they were made, but each behind its parent: one may have been moved onto a later one. */
static int order(struct vin_mount_table *all, const int *parents, struct vin_mount_table *ret)
{
	scoped_free struct seat *seats = calloc(all->count + 1, sizeof(*seats));
	scoped_free size_t *places = calloc(all->count + 1, sizeof(*places));
	ret->list = calloc(all->count + 1, sizeof(*ret->list));
	if (!seats || !places || !ret->list)
		return -ENOMEM;
	int r = find_parents(all, parents, seats);
	for (size_t i = 0; r == 0 && i < all->count; i++)
		r = find_round(seats, all->count, i, places);
	if (r < 0)
		return r;
	if (all->count)
		qsort(seats, all->count, sizeof(*seats), by_round);
	for (size_t i = 0; i < all->count; i++) {
		struct vin_mount *from = &all->list[seats[i].at];
		places[seats[i].at] = i;
		ret->list[i] = *from;
		ret->list[i].parent =
			seats[i].parent == seats[i].at ? VIN_MOUNT_NONE : places[seats[i].parent];
		*from = (struct vin_mount){ .fd = -1 };
	}
	ret->count = all->count;
	return 0;
}

int vin_mount_table_parse(char *text, struct vin_mount_table *ret)
{
	scoped_mounts all = { 0 };
	scoped_free int *parents = NULL;
	struct vin_mount_table sorted = { 0 };
	int r = 0;
	for (char *line; r == 0 && (line = strsep(&text, "\n"));) {
		if (!*line)
			continue;
		int *more = realloc(parents, fvm_room(all.count + 1) * sizeof(*more));
		struct vin_mount *m = more ? add(&all) : NULL;
		parents = more ?: parents;
		r = m ? parse_line(line, m, &parents[all.count - 1]) : -ENOMEM;
	}
	if (r == 0)
		r = order(&all, parents, &sorted);
	if (r < 0)
		vin_mount_table_free(&sorted);
	else
		*ret = sorted;
	return r;
}

int vin_mount_table_read(pid_t pid, struct vin_mount_table *ret, struct fvm_error *err)
{
	char path[40];
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "/proc/%d/mountinfo", pid);
	int r = fvm_read_file(AT_FDCWD, path, TEXT_MAX, &text, NULL);
	if (r == 0)
		r = vin_mount_table_parse(text, ret);
	return r < 0 ? fvm_error_set(err, -r, "read %s", path) : 0;
}

/* ---- images ---- */

void vin_mount_table_put(struct fvm_buf *to, const struct vin_mount_table *t)
{
	vin_put_u64(to, t->count);
	for (size_t i = 0; i < t->count; i++) {
		const struct vin_mount *m = &t->list[i];
		vin_put_u64(to, m->parent == VIN_MOUNT_NONE ? 0 : m->parent + 1);
		vin_put_u64(to, m->device);
		vin_put_string(to, m->root);
		vin_put_string(to, m->point);
		vin_put_string(to, m->type);
		vin_put_string(to, m->source);
		vin_put_string(to, m->options);
		vin_put_u64(to, m->attributes);
		vin_put_u64(to, m->shared);
		vin_put_u64(to, m->master);
		vin_put_u64(to, m->unbindable);
		vin_put_u64(to, m->inside);
	}
}

static int get_mount(struct vin_payload *p, struct vin_mount_table *t)
{
	struct vin_mount *m = add(t);
	if (!m)
		return -ENOMEM;
	const uint64_t parent = vin_get_u64(p);
	m->device = vin_get_u64(p);
	m->root = vin_get_string(p);
	m->point = vin_get_string(p);
	m->type = vin_get_string(p);
	m->source = vin_get_string(p);
	m->options = vin_get_string(p);
	m->attributes = vin_get_u64(p);
	m->shared = vin_get_u64(p);
	m->master = vin_get_u64(p);
	const uint64_t unbindable = vin_get_u64(p), inside = vin_get_u64(p);
	m->parent = parent ? (size_t)parent - 1 : VIN_MOUNT_NONE;
	m->unbindable = unbindable;
	m->inside = inside;
	if (p->failed || parent >= t->count || unbindable > 1 || inside > 1 ||
	    m->attributes & ~(uint64_t)ATTRIBUTES || m->root[0] != '/' || m->point[0] != '/')
		return -EBADMSG;
	if (parent == 0)
		return inside ? -EBADMSG : 0; /* the root is the world's */
	return vin_mount_below(m->point, t->list[parent - 1].point) ? 0 : -EBADMSG;
}

int vin_mount_table_get(struct vin_payload *p, struct vin_mount_table *ret)
{
	struct vin_mount_table t = { 0 };
	const uint64_t count = vin_get_u64(p);
	int r = p->failed || count == 0 || count > COUNT_MAX ? -EBADMSG : 0;
	for (uint64_t i = 0; r == 0 && i < count; i++)
		r = get_mount(p, &t);
	for (size_t i = 0; r == 0 && i < t.count; i++) {
		if (t.list[i].inside && !vin_mount_is_new(&t, i) &&
		    vin_mount_source(&t, i, 0) == VIN_MOUNT_NONE)
			r = -EBADMSG;
	}
	if (r == 0)
		r = vin_get_done(p);
	if (r < 0)
		vin_mount_table_free(&t);
	else
		*ret = t;
	return r;
}

/* ---- what they have to do with each other ---- */

const char *vin_mount_below(const char *path, const char *above)
{
	const size_t len = strcmp(above, "/") == 0 ? 0 : strlen(above);
	if (strncmp(path, above, len) != 0 || (path[len] && path[len] != '/'))
		return NULL;
	path += len;
	return path + strspn(path, "/");
}

static bool is_type(const struct vin_mount *m, const char *type)
{
	return strcmp(m->type, type) == 0;
}

static bool has_earlier(const struct vin_mount_table *t, size_t i)
{
	for (size_t j = 0; j < i; j++) {
		if (t->list[j].device == t->list[i].device)
			return true;
	}
	return false;
}

/* There is one for each cgroup namespace, which begins at another directory in the new world. */
static bool is_whole_cgroup(const struct vin_mount_table *t, size_t i)
{
	for (size_t j = 0; j < t->count; j++) {
		if (!t->list[j].inside && is_type(&t->list[j], "cgroup2"))
			return strcmp(t->list[j].root, t->list[i].root) == 0;
	}
	return true;
}

/* What a namespace has one of is that one when it is mounted again, and never brings along what the
 * world has mounted below. */
bool vin_mount_is_new(const struct vin_mount_table *t, size_t i)
{
	const struct vin_mount *m = &t->list[i];
	if (!m->inside)
		return false;
	if (is_type(m, "cgroup2"))
		return is_whole_cgroup(t, i);
	if (strcmp(m->root, "/") != 0)
		return false;
	return is_type(m, "sysfs") || is_type(m, "mqueue") || !has_earlier(t, i);
}

size_t vin_mount_source(const struct vin_mount_table *t, size_t i, size_t from)
{
	for (size_t j = from; j < i; j++) {
		if (t->list[j].device == t->list[i].device &&
		    vin_mount_below(t->list[i].root, t->list[j].root))
			return j;
	}
	return VIN_MOUNT_NONE;
}

bool vin_mount_has_content(const struct vin_mount_table *t, size_t i)
{
	return is_type(&t->list[i], "tmpfs") && vin_mount_is_new(t, i);
}
