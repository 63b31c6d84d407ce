#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vin/pages.h"

/* linux/fs.h of Linux 6.7; Debian 12's headers are older */
struct scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t inverted, mask, any_of, report;
};
struct region {
	uint64_t start, end, categories;
};
#define SCAN	   _IOWR('f', 16, struct scan)
#define PROTECT	   (1U << 0) /* what is found */
#define TRACKED	   (1U << 1) /* or EPERM */
#define IS_WRITTEN (1U << 1) /* not protected */
#define IS_FILE	   (1U << 2)
#define IS_PRESENT (1U << 3)
#define IS_SWAPPED (1U << 4)
#define IS_ZERO	   (1U << 5)
#define IS_GUARD   (1U << 8)

#define REGIONS	   512
#define PAGE	   4096ULL

/* One number for each page of /proc/PID/pagemap. */
#define MAP_PRESENT (1ULL << 63)
#define MAP_SWAPPED (1ULL << 62)
#define MAP_FILE    (1ULL << 61)
#define MAP_GUARD   (1ULL << 58)
#define MAP_WRITTEN (1ULL << 55) /* "soft-dirty" */

void vin_runs_free(struct vin_runs *r)
{
	free(r->runs);
	*r = (struct vin_runs){ 0 };
}

int vin_runs_add(struct vin_runs *r, uint64_t start, uint64_t end)
{
	if (r->count > 0 && r->runs[r->count - 1].end == start) {
		r->runs[r->count - 1].end = end;
		return 0;
	}
	size_t room = fvm_room(r->count + 1);
	struct vin_run *more = realloc(r->runs, room * sizeof(*more));
	if (!more)
		return -ENOMEM;
	r->runs = more;
	r->runs[r->count++] = (struct vin_run){ start, end };
	return 0;
}

uint64_t vin_runs_bytes(const struct vin_runs *r)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < r->count; i++)
		sum += r->runs[i].end - r->runs[i].start;
	return sum;
}

int vin_pages_open(pid_t pid)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	return fvm_nerr(open(path, O_RDONLY | O_CLOEXEC));
}

/* A guard looks like a page that was swapped out. */
static void ask_for(struct scan *s, enum vin_pages what, bool guards)
{
	if (what == VIN_PAGES_GUARD) {
		s->mask = IS_GUARD;
		s->report = IS_GUARD;
		return;
	}
	if (what == VIN_PAGES_OWN)
		s->inverted = IS_FILE | IS_ZERO;
	if (guards)
		s->inverted |= IS_GUARD;
	s->mask = s->inverted;
	s->any_of = IS_PRESENT | IS_SWAPPED;
	s->report = IS_PRESENT;
}

/* A failure takes back nothing of what was protected until then: the kernel lists it, but does not
 * say how much there is. @found was empty. */
static size_t listed(const struct region found[REGIONS])
{
	size_t n = 0;
	while (n < REGIONS && found[n].end > 0)
		n++;
	return n;
}

/* @ret_written: gets those that are, if the question asks for it; or else all are in @ret */
static int scan(int pagemap, const struct scan *question, uint64_t start, uint64_t end,
		struct vin_runs *ret, struct vin_runs *ret_written)
{
	while (start < end) {
		struct region found[REGIONS] = { 0 };
		struct scan s = *question;
		s.size = sizeof(s);
		s.start = start;
		s.end = end;
		s.vec = (uintptr_t)found;
		s.vec_len = REGIONS;
		const int n = fvm_nerr(ioctl(pagemap, SCAN, &s));
		const size_t count = n < 0 ? listed(found) : (size_t)n;
		for (size_t i = 0; i < count; i++) {
			const bool written = ret_written && (found[i].categories & IS_WRITTEN);
			int r = vin_runs_add(written ? ret_written : ret, found[i].start,
					     found[i].end);
			if (r < 0)
				return r;
		}
		if (n < 0)
			return n;
		if (s.walk_end <= start)
			return -EIO; /* it would go on for ever */
		start = s.walk_end;
	}
	return 0;
}

static bool wanted(uint64_t page, enum vin_pages what)
{
	return (page & (MAP_PRESENT | MAP_SWAPPED)) && !(page & MAP_GUARD) &&
	       (what == VIN_PAGES_THERE || !(page & MAP_FILE));
}

/* @ret_written: as of scan() */
static int read_pagemap(int pagemap, uint64_t start, uint64_t end, enum vin_pages what,
			struct vin_runs *ret, struct vin_runs *ret_written)
{
	uint64_t pages[REGIONS];
	while (start < end) {
		size_t count = (end - start) / PAGE < REGIONS ? (end - start) / PAGE : REGIONS;
		ssize_t n = pread(pagemap, pages, count * 8, (off_t)(start / PAGE * 8));
		if (n < 0)
			return -errno;
		if (n < 8)
			return -EIO;
		for (size_t i = 0; i < (size_t)n / 8; i++, start += PAGE) {
			struct vin_runs *to =
				ret_written && (pages[i] & MAP_WRITTEN) ? ret_written : ret;
			int r = wanted(pages[i], what) ? vin_runs_add(to, start, start + PAGE) : 0;
			if (r < 0)
				return r;
		}
	}
	return 0;
}

int vin_pages_split_softly(int pagemap, uint64_t start, uint64_t end, struct vin_runs *ret_same,
			   struct vin_runs *ret_written)
{
	return read_pagemap(pagemap, start, end, VIN_PAGES_OWN, ret_same, ret_written);
}

int vin_pages_scan(int pagemap, uint64_t start, uint64_t end, enum vin_pages what,
		   struct vin_runs *ret)
{
	int r = -EINVAL;
	/* whether the kernel knows which pages are guards (Linux 6.15) */
	for (int guards = 1; r == -EINVAL && guards >= (what == VIN_PAGES_GUARD); guards--) {
		struct scan question = { 0 };
		ask_for(&question, what, guards);
		r = scan(pagemap, &question, start, end, ret, NULL);
	}
	return r == -EINVAL ? -ENOTTY : r;
}

int vin_pages_protect(int pagemap, uint64_t start, uint64_t end, bool all, struct vin_runs *ret)
{
	int r = -EINVAL;
	for (int guards = 1; r == -EINVAL && guards >= 0; guards--) {
		struct scan question = { .flags = PROTECT | TRACKED };
		ask_for(&question, VIN_PAGES_OWN, guards);
		if (!all)
			question.mask |= IS_WRITTEN;
		r = scan(pagemap, &question, start, end, ret, NULL);
	}
	return r;
}

int vin_pages_split(int pagemap, uint64_t start, uint64_t end, struct vin_runs *ret_same,
		    struct vin_runs *ret_written)
{
	int r = -EINVAL;
	for (int guards = 1; r == -EINVAL && guards >= 0; guards--) {
		struct scan question = { .flags = TRACKED };
		ask_for(&question, VIN_PAGES_OWN, guards);
		question.report |= IS_WRITTEN;
		r = scan(pagemap, &question, start, end, ret_same, ret_written);
	}
	return r;
}

int vin_pages_find(int pagemap, uint64_t start, uint64_t end, enum vin_pages what, bool old_way,
		   struct vin_runs *ret)
{
	const size_t before = ret->count;
	int r = old_way ? -ENOTTY : vin_pages_scan(pagemap, start, end, what, ret);
	if (r != -ENOTTY)
		return r;
	/* before 6.7, or without this category */
	if (what == VIN_PAGES_GUARD)
		return 0;
	return ret->count == before ? read_pagemap(pagemap, start, end, what, ret, NULL) : r;
}
