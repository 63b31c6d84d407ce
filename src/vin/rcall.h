/*
 * vin/rcall - system calls made by another program's thread: the one primitive of vin
 *
 * Theory of operation
 *   vin_post_open() puts a few pages into a parked thread's program: the trampoline (vin/arch), a
 *   table for batches, room for arguments, and scratch stack. The first calls, those that make the
 *   pages, and the last ones run on a stub with a way back (vin/frame); all others run on the
 *   trampoline, one by one or many at once:
 *
 *     single   registers are set, the thread runs one call and stops at a breakpoint: 10 to 90 us
 *     batch    the thread runs down the table: as many calls as there are, one stop
 *
 *   All signals but the breakpoint's are blocked meanwhile. Between calls the thread stays on the
 *   trampoline (moved); vin_thread_park() brings it back, vin_post_close() takes the pages away.
 *
 *   When the controller dies, in the middle of a batch too, the breakpoint's signal reaches the
 *   program, whose handler for it is then ours: it puts the program's own action back, takes the
 *   pages away (where there is no frame they stay, used by nobody) and returns to where the program
 *   was.
 *
 * Limits: a program has one post, and one thread in calls at a time. Seccomp filters of the
 * program judge the calls, unless they could be suspended (root) until a controller dies. A call
 * that waits is not to be made; one that does so in spite of that ends with -ETIMEDOUT. Where a
 * program has no room for a frame, a controller that dies within one of the first or last calls
 * harms it. A sleep or poll with a time ends with EINTR when its controller dies during calls.
 * When he dies, a thread may be back in the program some microseconds before another one has put
 * SIGTRAP's action back: one that then goes into a breakpoint of the program's own ends it.
 * Sources: ptrace(2), rt_sigaction(2), vdso(7).
 */
#ifndef VIN_RCALL_H
#define VIN_RCALL_H

#include "vin/frame.h"

#define VIN_BATCH_MAX 512
#define VIN_DATA_SIZE (64 * 1024)
#define VIN_NOT_MADE  INT64_MIN /* the result of a call that a batch did not come to */
#define VIN_POST_SIZE (256 * 1024) /* pages of ours in a program, at most */

struct vin_post {
	pid_t pid; /* a thread that lives as long as the post: the first may have ended */
	struct vin_place place;
	uint64_t base; /* all pages of ours in the program */
	size_t size;
	uint64_t table;		     /* VIN_BATCH_MAX entries */
	uint64_t data;		     /* VIN_DATA_SIZE bytes for arguments and results */
	struct vin_sigaction action; /* the program's own for SIGTRAP */
	uint64_t bare;		     /* a system call instruction: the stub's, or the program's */
	struct vin_frame frame;	     /* none in a blank */
	struct vin_thread *owner;    /* who has the frame that cleans up: on the trampoline or the
					stub from the first call to the last */
	unsigned int slot;	     /* which of the two frames that is */
	struct vin_thread *last;     /* who had it before, on its way to be parked */
	bool ready;		     /* the rescue handler is there */
	bool blank; /* of a program that dies with us: its threads have nothing to be brought back to */
	bool narrow; /* of a program of 32 bits, or a blank that becomes one */
};

/**
 * vin_post_open() - make a thread of the program ready for calls
 * @t: parked, and moved afterwards
 * Return: 0, -ENOEXEC (no system call instruction found), -EACCES (a filter of the
 *         program forbids it), or another negative errno; the thread is parked after a failure
 */
int vin_post_open(struct vin_post *post, struct vin_thread *t, struct fvm_error *err);

/**
 * vin_post_open_at() - as vin_post_open(), at an address where nothing is yet
 * @base: address of a page; @size: at least VIN_POST_SIZE, what is above that is the caller's
 * Return: as vin_post_open(), or -EEXIST (something is there)
 */
int vin_post_open_at(struct vin_post *post, struct vin_thread *t, uint64_t base, size_t size,
		     struct fvm_error *err);

/**
 * vin_post_inherit() - the post of a process that was cloned from one that has it
 * @t: its thread; moved afterwards
 */
int vin_post_inherit(struct vin_post *ret, const struct vin_post *parent, struct vin_thread *t,
		     struct fvm_error *err);

/**
 * vin_post_close() - take the pages away and the thread back: nothing is left in the program
 * @t: any parked or moved thread of the program; parked afterwards
 */
int vin_post_close(struct vin_post *post, struct vin_thread *t, struct fvm_error *err);

/** vin_post_keep_action() - what SIGTRAP's action is to be when the post is closed
 *  Return: 0 or negative errno */
int vin_post_keep_action(struct vin_post *post, const struct vin_sigaction *a);

/** vin_post_leave() - no more calls by a thread that is at the post, before another one's, or none's,
 *  turn; what it had to wait with is given back. It is parked, or will be: by the moves of the
 *  next two, or the post's close; in a blank, by vin_thread_park() */
int vin_post_leave(struct vin_post *post, struct vin_thread *t, struct fvm_error *err);

/** vin_post_move() - bring a thread of the program to the post, where it may be already; @t stays
 *  where it is until the next move or the post's close */
int vin_post_move(struct vin_post *post, struct vin_thread *t, struct fvm_error *err);

/**
 * vin_call() - one system call
 * @name: for messages, "dup2"
 * @ret:  what it returned, a value or a negative errno; may be NULL when only success is of use
 * Return: 0 when the call was made (and, without @ret, succeeded); a negative errno when it could
 *         not be made, or failed and there is no @ret
 */
int vin_call(const struct vin_post *post, struct vin_thread *t, const char *name,
	     const struct vin_call *call, int64_t *ret, struct fvm_error *err);

/**
 * vin_clone() - clone3(2) by the thread, whose child is traced by us and stopped from its birth
 * @flags: as clone3(2) has them; @exit_signal: 0 for a thread
 * @number: of the child in the innermost pid namespace; 0: any
 * @ret:    the child's number here, parked or about to be: see vin_thread_settle()
 * PTRACE_O_TRACECLONE, TRACEFORK must be set for the thread.
 */
int vin_clone(const struct vin_post *post, struct vin_thread *t, uint64_t flags, int exit_signal,
	      pid_t number, pid_t *ret, struct fvm_error *err);

/**
 * vin_batch() - many calls at one stop
 * @calls: at most VIN_BATCH_MAX; their results are filled in
 * @whole: go on after one that failed
 * @ret_done: how many were made, the failed one included
 * Return: 0 when all were made (and, without @whole, succeeded), or the first failure
 */
int vin_batch(const struct vin_post *post, struct vin_thread *t, struct vin_call *calls,
	      size_t count, bool whole, size_t *ret_done, struct fvm_error *err);

/**
 * vin_pull() - what a call returns as a descriptor becomes one of ours; the program keeps none
 * All threads that have the program's descriptors are stopped: the call's own number is known before
 * it is made, and the program closes it itself, in the same batch, whoever dies meanwhile.
 * Return: 0, as vin_call(), or another negative errno
 */
int vin_pull(const struct vin_post *post, struct vin_thread *t, const char *name,
	     const struct vin_call *call, int *ret_fd, struct fvm_error *err);

#endif
