/*
 * vin/precopy - most of the memory of programs, copied before they stand still
 *
 * Theory of operation
 *   vin_capture_track()   while they stand still for a moment: who has enough memory to be worth it is
 *                         tracked from now on (vin/dirty). They go on
 *   vin_precopy_copy()    EARLY records into the image, at its beginning: all their plain private
 *                         memory first, then what has changed meanwhile, until little is left or it
 *                         does not become less. Each pass is at most half of the one before, so that
 *                         an image is at most twice as large as it need be
 *   vin_capture_stop(), vin_capture_write()
 *                         with options.precopy: of each process a KEPT record names the pages that
 *                         are as they were copied last, and PAGES has all others
 *   vin_precopy_close()   lets their memory be; to be done when they go on
 *
 *   What happened to memory while it was copied does not matter as long as it is noticed: a page that
 *   was gone when it was to be read (zeros are written), an area that is another one's now, a program
 *   that has become another or has ended, are written in the stop like what nobody has copied.
 *   KEPT holds what was copied, is there still, and was not written to; nothing else.
 * Limits: shared memory, private maps of files, huge pages, and processes that were born since are
 * written in the stop.
 */
#ifndef VIN_PRECOPY_H
#define VIN_PRECOPY_H

#include "vin/image.h"
#include "vin/mem.h"
#include "vin/task.h"

#define VIN_PRECOPY_LEAST (2ULL << 20) /* bytes of a process that are worth it */

struct vin_precopy;

struct vin_precopy_told {
	size_t processes;    /* that are tracked */
	unsigned passes;     /* that were written */
	uint64_t bytes;	     /* all passes together */
	uint64_t last_bytes; /* what the last one found, written or not */
};

/** vin_precopy_open() - of nobody yet; @ways: see vin_dirty_begin(). Return: NULL when there is no
 *  memory */
struct vin_precopy *vin_precopy_open(unsigned ways);

/** vin_precopy_close() - may be NULL */
void vin_precopy_close(struct vin_precopy *p);

/** vin_precopy_add() - track the process of @t, all of which is stopped, if it can be done
 *  Return: 0 also if it can't, or -ENOMEM */
int vin_precopy_add(struct vin_precopy *p, struct vin_thread *t);

/**
 * vin_precopy_copy() - while they run
 * @out: was just opened
 * @enough: asked between passes whether to leave it at that; may be NULL
 * Return: 0, or what writing came to: then @p is of no more use
 */
typedef bool vin_enough_fn(void *arg);
int vin_precopy_copy(struct vin_precopy *p, struct vin_out *out, vin_enough_fn *enough, void *arg,
		     struct vin_precopy_told *ret, struct fvm_error *err);

/** vin_precopy_hide() - @maps of a process, detailed, as if nobody tracked it. @p may be NULL */
void vin_precopy_hide(const struct vin_precopy *p, pid_t pid, struct vin_maps *maps);

/** vin_precopy_write() - in place of vin_mem_write_pages(), which it calls for who is not tracked
 *  @via: a thread of @pid that lives */
int vin_precopy_write(const struct vin_precopy *p, pid_t pid, pid_t via, const struct vin_mem *m,
		      struct vin_out *out, struct fvm_error *err);

#endif
