/*
 * vin/frame - a way back for a thread that makes a call where our trampoline is not
 *
 * Theory of operation
 *   The first calls in a program make the trampoline, the last ones take it away. Each of them is
 *   made on a stub of some eighty bytes in the zeros at the end of the vdso (the program's own copy
 *   of that page from then on); what follows there is the way home. The stack pointer is at a frame
 *   as a signal's handler would find it, with all that the thread was. When the controller dies
 *   anywhere, the thread ends its call, takes our pages and our handler away (struct vin_keep),
 *   returns by the frame, and goes on as it was.
 *
 *   From the first call to the last there is one thread that does so, the owner: never none, who
 *   would leave the handler behind, and never two, of whom the second would unmap what the program
 *   has mapped in the meantime. Hence two frames: the next thread has its own before one word makes
 *   it the owner, and only then the last one goes back.
 *
 *   Frames can't be below the thread's stack pointer: small stacks (coroutines') have other
 *   things there. They are at the lower end of [stack], which the kernel makes 128 KiB larger than
 *   it is used, and only where all is zero. Zeros are put back at the end.
 *
 *   A thread whose controller died may still stand there when the next one comes: frames are not
 *   written over others as long as there is room elsewhere, and then over the oldest.
 * Limits: without a vdso or [stack], with more in either than is expected, with shadow stacks (which
 * want their own mark) or matrix tiles in use there is no frame, and calls are made on an
 * instruction of the program's own. The stub stays, read by nobody. Sources: rt_sigreturn(2).
 */
#ifndef VIN_FRAME_H
#define VIN_FRAME_H

#include "vin/task.h"

struct vin_frame { /* all 0: there is none */
	uint64_t map, call, home; /* in the stub */
	uint64_t keep;		  /* struct vin_keep */
	uint64_t at[2];
};

/** vin_frame_find() - write the stub, and find room for two frames; the first is of @t, the owner
 *  @narrow: in a program of 32 bits
 *  Return: 0, or a negative errno when the program has no room; nothing has changed but the stub */
int vin_frame_find(struct vin_thread *t, bool narrow, struct vin_frame *ret);

/** vin_frame_write() - what @t is, parked or in calls, into frame @slot. Return: 0 or -errno */
int vin_frame_write(const struct vin_frame *frame, unsigned int slot, const struct vin_thread *t);

/** vin_frame_keep() - one number of struct vin_keep: @field is its offset. Return: 0 or -errno */
int vin_frame_keep(const struct vin_frame *frame, const struct vin_thread *t, size_t field,
		   uint64_t value);

/**
 * vin_frame_go_home() - a thread whose last controller died is on its way back: let it end that first
 * @t: parked; what it is is read again
 * Two who clean up in one program would each undo the other's. Return: 0 or negative errno
 */
int vin_frame_go_home(struct vin_thread *t, struct fvm_error *err);

/** vin_frame_clear() - put zeros back; nobody stands there any more */
void vin_frame_clear(const struct vin_frame *frame, const struct vin_thread *t);

#endif
