#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include "vin/maps.h"

#define TEXT_LIMIT (1U << 30)
#define TRIES	   10 /* to read what changes meanwhile */

/* In the order of enum vin_vma_flag. */
static const char letters[VIN_VMA_FLAGS][3] = {
	"rd", "wr", "ex", "sh", "mr", "mw", "me", "ms", "gd", "pf", "lo", "io",
	"sr", "rr", "dc", "de", "ac", "nr", "ht", "sf", "wf", "dd", "sd", "mm",
	"hg", "nh", "mg", "um", "uw", "ui", "ss", "sl", "lf", "dp", "ar", "gu",
};

void vin_maps_free(struct vin_maps *m)
{
	for (size_t i = 0; i < m->count; i++)
		free(m->vmas[i].name);
	free(m->vmas);
	*m = (struct vin_maps){ 0 };
}

/* The kernel writes \012 for a newline, and nothing else in that way. */
static char *decode(const char *text)
{
	char *name = strdup(text);
	for (char *p = name; p && (p = strstr(p, "\\012")); p++) {
		*p = '\n';
		memmove(p + 1, p + 4, strlen(p + 4) + 1);
	}
	return name;
}

/* A number, and @end behind it; NULL when there is none. */
static const char *number(const char *p, int base, char end, uint64_t *ret)
{
	char *after;
	if ((*p < '0' || *p > '9') && (base < 16 || *p < 'a' || *p > 'f'))
		return NULL;
	errno = 0;
	*ret = strtoull(p, &after, base);
	return errno == 0 && *after == end ? after + 1 : NULL;
}

static const char *permissions(const char *p, struct vin_vma *ret)
{
	if (strnlen(p, 5) < 5 || p[4] != ' ' || !strchr("r-", p[0]) || !strchr("w-", p[1]) ||
	    !strchr("x-", p[2]) || !strchr("sp", p[3]))
		return NULL;
	ret->prot = (p[0] == 'r' ? PROT_READ : 0) | (p[1] == 'w' ? PROT_WRITE : 0) |
		    (p[2] == 'x' ? PROT_EXEC : 0);
	ret->shared = p[3] == 's';
	return p + 5;
}

/* "7f00-7f10 r-xp 00001000 fe:00 247498    /usr/bin/head" without its newline */
static bool parse_area(const char *p, struct vin_vma *ret)
{
	uint64_t major, minor, ino;
	struct vin_vma v = { 0 };
	p = number(p, 16, '-', &v.start);
	p = p ? number(p, 16, ' ', &v.end) : NULL;
	p = p ? permissions(p, &v) : NULL;
	p = p ? number(p, 16, ' ', &v.offset) : NULL;
	p = p ? number(p, 16, ':', &major) : NULL;
	p = p ? number(p, 16, ' ', &minor) : NULL;
	if (!p)
		return false;
	/* old kernels have no space behind an inode that no name follows */
	const char *rest = number(p, 10, ' ', &ino);
	if (!rest && !number(p, 10, '\0', &ino))
		return false;
	v.dev = makedev(major, minor);
	v.ino = ino;
	v.name = decode(rest ? rest + strspn(rest, " ") : "");
	*ret = v;
	return v.name != NULL;
}

static void parse_flags(const char *p, struct vin_vma *v)
{
	for (; p[0] && p[1]; p += 2 + (p[2] == ' ')) {
		size_t i = 0;
		while (i < VIN_VMA_FLAGS && strncmp(letters[i], p, 2) != 0)
			i++;
		if (i < VIN_VMA_FLAGS)
			v->flags |= 1ULL << i;
		else
			v->unknown = true;
	}
}

/* "Rss:                  12 kB" */
static void parse_detail(const char *line, struct vin_vma *v)
{
	const char *colon = strchr(line, ':');
	size_t len = colon ? (size_t)(colon - line) : 0;
	const char *value = colon ? colon + 1 + strspn(colon + 1, " ") : "";
	if (len == 7 && memcmp(line, "VmFlags", 7) == 0)
		parse_flags(value, v);
	else if ((len == 3 && memcmp(line, "Rss", 3) == 0) ||
		 (len == 4 && memcmp(line, "Swap", 4) == 0) ||
		 (len == 14 && memcmp(line, "Shared_Hugetlb", 14) == 0) ||
		 (len == 15 && memcmp(line, "Private_Hugetlb", 15) == 0))
		v->present_kb += strtoull(value, NULL, 10);
	else if (len == 14 && memcmp(line, "KernelPageSize", 14) == 0)
		v->page_kb = strtoull(value, NULL, 10);
	else if (len == 13 && memcmp(line, "ProtectionKey", 13) == 0)
		v->key = (int)strtol(value, NULL, 10);
}

static int add(struct vin_maps *m, const struct vin_vma *v)
{
	uint64_t last = m->count ? m->vmas[m->count - 1].end : 0;
	if (v->start >= v->end || v->start < last)
		return -EBADMSG;
	size_t room = fvm_room(m->count + 1);
	struct vin_vma *more = realloc(m->vmas, room * sizeof(*more));
	if (!more)
		return -ENOMEM;
	m->vmas = more;
	m->vmas[m->count++] = *v;
	return 0;
}

static bool is_area(const char *line)
{
	return (*line >= '0' && *line <= '9') || (*line >= 'a' && *line <= 'f');
}

static int parse_line(const char *line, struct vin_maps *m)
{
	struct vin_vma v = { 0 };
	if (!is_area(line)) {
		if (m->count == 0)
			return -EBADMSG;
		m->detailed = true;
		parse_detail(line, &m->vmas[m->count - 1]);
		return 0;
	}
	if (!parse_area(line, &v))
		return -EBADMSG;
	int r = add(m, &v);
	if (r < 0)
		free(v.name);
	return r;
}

int vin_maps_parse(char *text, size_t len, struct vin_maps *ret, struct fvm_error *err)
{
	scoped_maps m = { 0 };
	size_t line = 0;
	for (char *p = text, *end = text + len; p < end; line++) {
		char *newline = memchr(p, '\n', (size_t)(end - p));
		if (!newline)
			return fvm_error_say(err, EBADMSG, "a memory map ends in line %zu",
					     line + 1);
		*newline = '\0';
		int r = memchr(p, '\0', (size_t)(newline - p)) ? -EBADMSG : parse_line(p, &m);
		if (r == -EBADMSG)
			return fvm_error_say(err, EBADMSG, "line %zu of a memory map is none",
					     line + 1);
		if (r < 0)
			return fvm_error_set(err, -r, "read a memory map");
		p = newline + 1;
	}
	*ret = m;
	m = (struct vin_maps){ 0 };
	return 0;
}

static int read_once(pid_t pid, const char *path, struct vin_maps *ret, struct fvm_error *err)
{
	size_t len;
	scoped_free char *text = NULL;
	int r = fvm_read_file(AT_FDCWD, path, TEXT_LIMIT, &text, &len);
	if (r < 0)
		return fvm_error_set(err, r == -ENOENT ? ESRCH : -r, "read %s", path);
	r = vin_maps_parse(text, len, ret, err);
	return r < 0 ? fvm_error_wrap(err, r, "process %d", pid) : 0;
}

/* One that runs may let an area grow between two pieces of the text: they overlap then. */
int vin_maps_read(pid_t pid, bool detailed, struct vin_maps *ret, struct fvm_error *err)
{
	char path[40];
	int r = -EBADMSG;
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, detailed ? "smaps" : "maps");
	for (int i = 0; i < TRIES && r == -EBADMSG; i++) {
		struct fvm_error why = { 0 };
		r = read_once(pid, path, ret, &why);
		if (r < 0 && err && (r != -EBADMSG || i == TRIES - 1))
			*err = why;
	}
	return r;
}

const struct vin_vma *vin_maps_find(const struct vin_maps *m, uint64_t address)
{
	size_t low = 0, high = m->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (m->vmas[middle].end <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low < m->count && m->vmas[low].start <= address ? &m->vmas[low] : NULL;
}

bool vin_maps_same(const struct vin_maps *a, const struct vin_maps *b)
{
	for (size_t i = 0; i < a->count && a->count == b->count; i++) {
		const struct vin_vma *x = &a->vmas[i], *y = &b->vmas[i];
		if (x->start != y->start || x->end != y->end || x->offset != y->offset ||
		    x->dev != y->dev || x->ino != y->ino || x->prot != y->prot ||
		    x->shared != y->shared || strcmp(x->name, y->name) != 0)
			return false;
	}
	return a->count == b->count;
}
