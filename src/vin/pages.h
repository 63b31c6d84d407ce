/*
 * vin/pages - which pages of a program's memory are worth copying
 *
 * Theory of operation
 *   Of a private area those pages count that the program has written to: present or swapped out, no
 *   page of a file, not the page of zeros. All others come again from the file or as zeros. Of a
 *   shared one all that is there counts. Pages that madvise(MADV_GUARD_INSTALL) has made into traps
 *   hold nothing, and are listed apart.
 *
 *   ioctl(PAGEMAP_SCAN) of Linux 6.7 says so in runs (11 to 17 ms for a GiB); before that, or where
 *   it is refused, /proc/PID/pagemap is read, which does not know the page of zeros. Linux 6.13 and
 *   6.14 have guards but do not tell which pages they are: they are listed as pages that were
 *   swapped out, and reading them fails (EFAULT).
 * Sources: the kernel's admin-guide/mm/pagemap.
 */
#ifndef VIN_PAGES_H
#define VIN_PAGES_H

#include <stdint.h>
#include <sys/types.h>

#include "common/common.h"

struct vin_run {
	uint64_t start, end; /* addresses, whole pages */
};

struct vin_runs { /* starts as { 0 } */
	struct vin_run *runs;
	size_t count;
};

void vin_runs_free(struct vin_runs *r);
#define scoped_runs __attribute__((cleanup(vin_runs_free))) struct vin_runs

/** vin_runs_add() - append; joined with the last where they touch. Return: 0 or -ENOMEM */
int vin_runs_add(struct vin_runs *r, uint64_t start, uint64_t end);

/** vin_runs_bytes() - of all runs together */
uint64_t vin_runs_bytes(const struct vin_runs *r);

/* Of two lists in order: what is in either, in both, in @a but not in @b; appended to @ret, which is
 * neither. Return: 0 or -ENOMEM */
int vin_runs_either(const struct vin_runs *a, const struct vin_runs *b, struct vin_runs *ret);
int vin_runs_both(const struct vin_runs *a, const struct vin_runs *b, struct vin_runs *ret);
int vin_runs_less(const struct vin_runs *a, const struct vin_runs *b, struct vin_runs *ret);

enum vin_pages {
	VIN_PAGES_OWN,	 /* what a private area has of its own */
	VIN_PAGES_THERE, /* what is there at all */
	VIN_PAGES_GUARD, /* traps; none before Linux 6.13 */
};

/** vin_pages_open() - a descriptor for the next. Return: descriptor, or negative errno */
int vin_pages_open(pid_t pid);

/**
 * vin_pages_find() - append the runs of one sort between two addresses
 * @pagemap: of vin_pages_open()
 * @old_way: read pagemap even where the kernel scans; for tests and comparison
 * Return: 0, or negative errno
 */
int vin_pages_find(int pagemap, uint64_t start, uint64_t end, enum vin_pages what, bool old_way,
		   struct vin_runs *ret);

/**
 * vin_pages_scan() - the same, where the kernel scans; what nobody has mapped in between costs nothing
 * Return: 0, -ENOTTY (it does not, or not for this), or another negative errno
 */
int vin_pages_scan(int pagemap, uint64_t start, uint64_t end, enum vin_pages what,
		   struct vin_runs *ret);

/**
 * vin_pages_protect() - own pages that were written to since the last time; they are protected now,
 * until the next write (vin/dirty). What it reports is copied behind that, or what is written
 * meanwhile is lost
 * @all: those that were not written to as well
 * Return: 0, -EPERM (not everything there is registered for it), or another negative errno; @ret has
 * what was protected then, too
 */
int vin_pages_protect(int pagemap, uint64_t start, uint64_t end, bool all, struct vin_runs *ret);

/** vin_pages_split() - own pages as they are: @ret_same not written to since, @ret_written all others
 *  Return: as vin_pages_protect() */
int vin_pages_split(int pagemap, uint64_t start, uint64_t end, struct vin_runs *ret_same,
		    struct vin_runs *ret_written);

/** vin_pages_split_softly() - the same since clear_refs was written to. Return: 0 or negative errno */
int vin_pages_split_softly(int pagemap, uint64_t start, uint64_t end, struct vin_runs *ret_same,
			   struct vin_runs *ret_written);

#endif
