/*
 * vin/thread - what a thread is apart from its memory: registers, and what the kernel keeps for it
 *
 * Theory of operation
 *   Read from outside where the kernel allows it: registers of all sorts, mask, name, restartable
 *   sequences, robust futexes. Two things only the thread itself is told: the word that is cleared
 *   when it ends, and its alternate stack: they are asked for with all else that is asked of the
 *   thread (vin/traits), so that it stands on the post once. All go into one THREAD record.
 *
 *   In a blank the thread sets them for itself (vin_thread_dress); registers and mask come last
 *   (vin_thread_ready), after which it is parked where its program was.
 *
 *   A system call that the stop has interrupted is in the registers, and the kernel starts it again
 *   when the thread is let go, here as there. Calls with a time to wait are an exception: the kernel
 *   keeps what is left of it apart from the registers. A sleep that told its program how much was
 *   left goes on for that time: the thread is made to sleep for it, and interrupted; all others are
 *   made anew from their start. Points in time (deadlines) are what they were.
 *   What the processor keeps besides (floating point, vectors) is taken by the kernel as its own
 *   machine has it. That of another one is fitted first; what is in use and unknown here is named.
 * Limits: relative times of poll(2), futex(2), select(2) and the like begin anew.
 * Sources: ptrace(2), rseq(2), get_robust_list(2), set_tid_address(2), sigaltstack(2),
 * restart_syscall(2).
 */
#ifndef VIN_THREAD_H
#define VIN_THREAD_H

#include "vin/image.h"
#include "vin/steps.h"

struct vin_thread_state {
	pid_t pid, tid; /* in their own namespace */
	char comm[16];
	struct vin_regs regs;
	uint64_t mask;
	void *extended; /* floating point, vectors: as ptrace has them */
	size_t extended_len;
	uint64_t tid_address;
	uint64_t robust, robust_len;
	uint64_t robust_32; /* that of 32-bit code */
	uint64_t stack, stack_flags, stack_size; /* alternate */
	uint64_t rseq, rseq_size, rseq_sig;
	uint64_t rest_ns; /* of a sleep; 0: none */
	bool stopped;	  /* by a signal .. */
	bool told;	  /* .. and its parent has waited for that (vin/stops) */
};

void vin_thread_state_free(struct vin_thread_state *s);

/** vin_thread_ask() - add the calls that tell what only the thread itself is told */
void vin_thread_ask(struct vin_steps *s);

/** vin_thread_told() - all of it, when they have been run. @told: the first of those calls
 *  Return: 0 or negative errno */
int vin_thread_told(struct vin_steps *s, const struct vin_call *told, struct vin_thread_state *ret,
		    struct fvm_error *err);

/** vin_thread_put() - into a payload; vin_thread_get() takes it apart, to its end
 *  Return of the latter: 0, -EBADMSG or -ENOMEM */
void vin_thread_put(struct fvm_buf *to, const struct vin_thread_state *s);
int vin_thread_get(struct vin_payload *p, struct vin_thread_state *ret);

/** vin_thread_dress() - add the calls by which it becomes all but registers and mask */
void vin_thread_dress(struct vin_steps *s, const struct vin_thread_state *state);

/** vin_thread_ready() - registers and mask: the next park of @t is at the program's place */
int vin_thread_ready(struct vin_post *post, struct vin_thread *t,
		     const struct vin_thread_state *s, struct fvm_error *err);

#endif
