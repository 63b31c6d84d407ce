/*
 * vin/steps - system calls put together by several hands, made by a thread at one stop
 *
 * Theory of operation
 *   Whoever wants something of a stopped thread adds calls (VIN_STEP) and, before each, the bytes
 *   that it points to (vin_steps_data). vin_steps_run() writes the bytes into the program, has it
 *   make the calls as a batch (vin/rcall), and reads the bytes back. Results and bytes stay until
 *   vin_steps_rewind(), so that many can ask first and all read after one stop.
 *
 *     asking    vin_steps_begin .. data, STEP .. run: answers stay readable (vin_steps_told)
 *     telling   after vin_steps_keep() what was told before stays; what is added then runs when
 *               there is no more room, and at the end: results are only looked at for failures
 *
 *   A failure is kept and told by the next vin_steps_run(): adding never fails. A call has one
 *   piece of data at most, because the room may be emptied between two.
 *
 *   Without a post (vin_steps_new(NULL)) nobody makes the calls and all results are zero: that is
 *   how a payload is looked through before anything is done, and how it is fuzzed.
 */
#ifndef VIN_STEPS_H
#define VIN_STEPS_H

#include "vin/image.h"
#include "vin/rcall.h"
#include "vin/status.h"

struct vin_steps {
	struct vin_post *post; /* NULL: nobody makes the calls */
	struct vin_thread *t;  /* who makes them */
	struct vin_status status;
	struct vin_stat stat; /* of t, as it was at vin_steps_begin() */
	int failed;	      /* first failure, told by the next run */
	struct fvm_error why;
	size_t count, ran, kept;	 /* calls: added, made, of which results are of use */
	size_t used, kept_used;		 /* bytes of data */
	uint64_t filters;		 /* that a thread has of its world: vin/capture */
	long processors;		 /* of this machine; 0: nobody has wanted to know */
	bool old_timers;		 /* never ask for numbers of timers; for tests */
	struct vin_call calls[VIN_BATCH_MAX];
	const char *names[VIN_BATCH_MAX]; /* NULL: may fail */
	unsigned char data[VIN_DATA_SIZE];
};

/** vin_steps_new() - with no thread yet. @post: NULL to go through the motions. Return: or NULL */
struct vin_steps *vin_steps_new(struct vin_post *post);
void vin_steps_freep(struct vin_steps *const *s);
#define scoped_steps __attribute__((cleanup(vin_steps_freep))) struct vin_steps

/** vin_steps_at() - let @t make the calls; whoever made them until now is parked, but in
 *  a blank */
int vin_steps_at(struct vin_steps *s, struct vin_thread *t, struct fvm_error *err);

/** vin_steps_begin() - nothing is added, and /proc is read of the thread. Return: 0 or -errno */
int vin_steps_begin(struct vin_steps *s, struct fvm_error *err);

/**
 * vin_steps_data() - room in the program for the next step
 * @data: what is to be there, or NULL for zeros
 * Return: its address in the program; 0 when it is too much (and the next run fails)
 */
uint64_t vin_steps_data(struct vin_steps *s, const void *data, size_t len);

/** vin_steps_told() - our copy of what is at an address of vin_steps_data() */
void *vin_steps_told(struct vin_steps *s, uint64_t at);

/** vin_steps_add() - one more call. @name: for messages; NULL if its failure is none of ours */
void vin_steps_add(struct vin_steps *s, const char *name, const struct vin_call *call);
#define VIN_STEP(s, name, number, ...)                                                             \
	vin_steps_add(s, name, &(const struct vin_call){ .nr = (number), .args = { __VA_ARGS__ } })

/** vin_steps_run() - make what was added. Return: 0, or the first failure of a call with a name */
int vin_steps_run(struct vin_steps *s, struct fvm_error *err);

/** vin_steps_keep() - what was told until now stays */
void vin_steps_keep(struct vin_steps *s);

/** vin_steps_rewind() - forget what was told since vin_steps_keep() */
void vin_steps_rewind(struct vin_steps *s);

/** vin_steps_fail() - the next run fails with this. For what is found while steps are added */
void vin_steps_fail(struct vin_steps *s, int code, const char *text);

/** vin_step_call() - one call at once, by registers alone: for what makes memory unreadable */
int vin_step_call(struct vin_steps *s, const char *name, const struct vin_call *call, int64_t *ret,
		  struct fvm_error *err);

#endif
