/*
 * fvm/apart - work that a child of ours does, and whose outcome it tells us
 *
 * Theory of operation
 *   Some work must not be done by the command itself: who traces must be out of the reach of a
 *   terminal's ^C, and who enters namespaces or takes on other ids can't come back. A child does
 *   it: fvm_apart_begin() makes it, fvm_apart_tell() is its last call, and has a result, an error,
 *   and what else it tells go to the parent in one write to a pipe, atomic as it is short.
 *   fvm_apart_end() waits for that, and for the child's end. A child that dies without a word is a
 *   failure (-EPIPE); should the parent die first, nobody reads, and no harm is done by writing.
 *
 *	struct fvm_apart a;
 *	int r = fvm_apart_begin(&a, err);
 *	if (r < 0)
 *		return r;
 *	if (a.pid == 0)
 *		be_worker(&a, ...);		// ends in fvm_apart_tell(&a, ...)
 *	return fvm_apart_end(&a, &told, sizeof(told), err);
 *
 *   How the child takes its parent's death is its own affair: a.parent tells whether it has happened
 *   before prctl(PR_SET_PDEATHSIG) was said.
 */
#ifndef FVM_APART_H
#define FVM_APART_H

#include <sys/types.h>

#include "common/common.h"

#define FVM_APART_TOLD_MAX 64

struct fvm_apart {
	pid_t pid;    /* the child's; 0 in the child */
	pid_t parent; /* who made it */
	int report;   /* end of a pipe, to read from or to write to */
};

/**
 * fvm_apart_begin() - fork; returns in both
 * The caller owes @ret fvm_apart_end(), the child fvm_apart_tell().
 * Return: 0, or negative errno (no child, nothing is owed)
 */
int fvm_apart_begin(struct fvm_apart *ret, struct fvm_error *err);

/**
 * fvm_apart_tell() - in the child: tell the parent, and end
 * @code: 0 or negative errno; @why says what went wrong then
 * @told: more for the parent, @len bytes of at most FVM_APART_TOLD_MAX; may be NULL if that is 0
 */
_Noreturn void fvm_apart_tell(const struct fvm_apart *a, int code, const struct fvm_error *why,
			      const void *told, size_t len);

/**
 * fvm_apart_end() - in the parent: wait until the child has told and ended
 * @told: gets the @len bytes that it told, whatever its code; untouched if it told nothing
 * Return: the child's code with its error in @err, -EPIPE (it died), or another negative errno
 */
int fvm_apart_end(struct fvm_apart *a, void *told, size_t len, struct fvm_error *err);

#endif
