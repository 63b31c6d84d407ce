/*
 * vin/dirty - which pages of a running program were written to since they were copied
 *
 * Theory of operation
 *   vin_dirty_begin()  while the program stands still: from now on what it writes to is noted
 *   vin_dirty_pass()   while it runs: what it has written to between two addresses since the last
 *                      pass, all it has at the first one. To be copied behind that
 *   vin_dirty_split()  while it stands still: its pages there, those that are as they were at the
 *                      last pass and those that are not
 *   vin_dirty_end()    nothing is left of it in the program
 *
 *   There are two ways, in one table; the first that works is taken.
 *     async  userfaultfd(2) with WP_ASYNC (Linux 6.7): pages are protected, a write costs the
 *            program a fault of 0.8 us in which the kernel takes the protection away, and
 *            ioctl(PAGEMAP_SCAN) tells where, and protects again, in one step. The descriptor has to
 *            be of the program's own memory: it makes it, and we have it (vin_pull()). When we end,
 *            its end takes all away. No rights are needed.
 *     soft   /proc/PID/clear_refs (soft-dirty), where the kernel has it. What is noted can't be
 *            told and forgotten in one step: so there is one pass, from the stop on.
 *   Whatever replaces memory - mmap(2), mremap(2), execve(2), fork(2) - takes the noting away with
 *   it, and all that is there counts as written to: async is asked anew for what a pass does not
 *   find registered, as long as it is plain memory.
 * Limits: of shared memory only writes through that mapping would be seen, so it is not for this. A
 * program that registers memory of its own with userfaultfd meanwhile is told EBUSY. Soft-dirty bits
 * of a program that uses them itself are cleared.
 * Sources: the kernel's admin-guide/mm/pagemap and userfaultfd.
 */
#ifndef VIN_DIRTY_H
#define VIN_DIRTY_H

#include "vin/maps.h"
#include "vin/pages.h"
#include "vin/task.h"

enum vin_dirty_way { VIN_DIRTY_ASYNC, VIN_DIRTY_SOFT, VIN_DIRTY_WAYS };
#define VIN_DIRTY_ALL ((1U << VIN_DIRTY_WAYS) - 1)

struct vin_dirty_kind;

struct vin_dirty {
	const struct vin_dirty_kind *kind; /* NULL: nothing is noted */
	int uffd, pagemap;
};

/** vin_dirty_begin() - @t: a thread of it, parked before and afterwards; all of it is stopped
 *  @ways: bits of enum vin_dirty_way that may be tried
 *  Return: 0, -EOPNOTSUPP (there is no way), or another negative errno */
int vin_dirty_begin(struct vin_thread *t, unsigned ways, struct vin_dirty *ret);

void vin_dirty_end(struct vin_dirty *d);

/** vin_dirty_passes() - how many there may be */
unsigned vin_dirty_passes(const struct vin_dirty *d);

/** vin_dirty_pass() - Return: 0, or negative errno; what is in @ret then has to be copied still */
int vin_dirty_pass(struct vin_dirty *d, uint64_t start, uint64_t end, struct vin_runs *ret);

/** vin_dirty_split() - @pagemap: opened since the program stands still; of an area as a whole
 *  Return: 0, -EPERM (nothing of it was noted), or another negative errno */
int vin_dirty_split(const struct vin_dirty *d, int pagemap, uint64_t start, uint64_t end,
		    struct vin_runs *ret_same, struct vin_runs *ret_written);

/** vin_dirty_may() - whether an area is of the sort that this is for: private, plain, nobody else's */
bool vin_dirty_may(const struct vin_vma *v);

/** vin_dirty_is() - whether that area is registered by us now */
bool vin_dirty_is(const struct vin_dirty *d, const struct vin_vma *v);

#endif
