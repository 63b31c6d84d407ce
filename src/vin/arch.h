/*
 * vin/arch - what vin knows of the processor: registers, and sixty bytes of machine code
 *
 * Theory of operation
 *   All that differs between processors is here and in arch_NAME.c: how registers are read and
 *   written, which of them hold a system call's number, arguments and result, how a call that a
 *   stop has interrupted is started again, and the trampoline that a remote call runs on.
 *
 *   The trampoline is position independent and lies in a page of its own in the program. Parts:
 *     single   one system call whose registers the controller has set; then a breakpoint
 *     batch    a loop over a table of struct vin_call, until the end or the first failure; then a
 *              breakpoint
 *     rescue   the handler of SIGTRAP while the trampoline is there. The controller never lets the
 *              breakpoint's signal through; the kernel does when the controller has died. The
 *              handler then puts back the program's own SIGTRAP action and lets the kernel return
 *              to the registers and the signal mask that the program had when it was stopped.
 *
 *   For the calls before the trampoline is there, and after it has gone, there is the stub: a call,
 *   and right behind it the way home. Who owns the trampoline puts SIGTRAP's action back and unmaps
 *   the trampoline, once; then rt_sigreturn(2) takes all that the thread was from a frame as a
 *   signal would have left it (vin/frame). Where there is a stub, the rescue handler goes that way.
 *
 *   A program of 32 bits makes its calls of ours as one of 64: the trampoline is code of 64, below
 *   4 GiB. What the kernel keeps apart for the two is asked for and set by the old gate
 *   (VIN_CALL_32): which of them a signal's handler is of, robust futexes, what is left of a sleep.
 *   Sources: syscall(2), sigreturn(2), ptrace(2), the kernel's arch/x86/include/uapi/asm.
 */
#ifndef VIN_ARCH_H
#define VIN_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

/* General registers of a stopped thread. */
struct vin_regs {
	struct user_regs_struct gpr;
};

/* One entry of a batch's table, as the trampoline reads and writes it. */
struct vin_call {
	uint64_t nr; /* may have VIN_CALL_32 */
	uint64_t args[6];
	int64_t result; /* what the kernel returned: a value, or a negative errno */
};

/* By the gate of 32-bit programs, as they number calls: five arguments, of 32 bits. */
#define VIN_CALL_32	   (1ULL << 32)
#define VIN_32_SIGACTION   (VIN_CALL_32 | 174) /* rt_sigaction(2) */
#define VIN_32_ROBUST_SET  (VIN_CALL_32 | 311) /* set_robust_list(2) */
#define VIN_32_ROBUST_GET  (VIN_CALL_32 | 312)
#define VIN_32_ROBUST_SIZE 12 /* of its list's head */

/* What the rescue handler finds. */
struct vin_rescue {
	uint64_t gregs[19]; /* in the order of the kernel's struct sigcontext */
	uint64_t mask;	    /* the thread's signal mask */
};

/* Where a thread's calls run; addresses in the program. */
struct vin_place {
	uint64_t code;	 /* trampoline */
	uint64_t stack;	 /* highest address of scratch stack, for the frame of the rescue handler */
	uint64_t rescue; /* struct vin_rescue of the thread that is here */
	uint64_t action; /* the program's own SIGTRAP action, struct vin_sigaction, or that of 32 bits */
	uint64_t home;	 /* the stub's part that cleans up and goes back by a frame; or 0 */
	uint64_t frame;	 /* of the thread that is here */
	uint64_t keep;	 /* struct vin_keep */
};

/* The kernel's struct sigaction, not libc's. */
struct vin_sigaction {
	uint64_t handler;
	uint64_t flags;
	uint64_t restorer;
	uint64_t mask;
};

#define VIN_SA_32 (1ULL << 63) /* in flags, ours: the handler is code of 32 bits */

struct vin_sigaction_32 {
	uint32_t handler, flags, restorer, mask[2];
};

/* What the stub cleans up with, in the program. */
struct vin_keep {
	uint64_t owner;	 /* the frame whose thread has to clean up; nobody else does, nor does it twice */
	uint64_t action; /* address of what SIGTRAP's action is to be; 0: it stays */
	uint64_t base;	 /* memory to unmap; 1: none */
	uint64_t size;
	uint64_t turn; /* the higher, the later it was made */
	uint64_t home; /* the stub's way home */
	struct vin_sigaction own;
};

#define VIN_ARCH_END 0x7ffffffff000ULL /* addresses of user programs are below */

#define VIN_SA_RESTORER 0x04000000U

/** vin_arch_code() - the trampoline's bytes; @ret_len: how many */
const void *vin_arch_code(size_t *ret_len);

/** vin_arch_rescue_at() - offset of the rescue handler in the trampoline
 *  @home: of the one that goes home by the stub; @narrow: of one for a program of 32 bits */
size_t vin_arch_rescue_at(bool home, bool narrow);

/** vin_arch_gate_at() - offset of the old gate in the trampoline */
size_t vin_arch_gate_at(void);

/** vin_arch_action_32() - as the old gate takes it */
struct vin_sigaction_32 vin_arch_action_32(const struct vin_sigaction *a);

/** vin_arch_is_narrow() - whether the program, whose auxiliary vector begins with these @len bytes,
 *  is of 32 bits: a number and its value are eight bytes there, and none begins with four zeros */
bool vin_arch_is_narrow(const void *auxv, size_t len);

/** vin_arch_vdso_32() - the call that maps the vdso of 32-bit programs, and what it reads, from @at
 *  on; nothing of the kernel's may be mapped already */
struct vin_call vin_arch_vdso_32(uint64_t at);

/**
 * vin_arch_init() - a program for a PID 1: reaps until it has no children, then exits as the last
 * of them did. Position independent, makes its calls itself, uses its stack only.
 */
const void *vin_arch_init(size_t *ret_len);

/** vin_arch_again() - a call that a stop ended with @regs' result is made anew from its start */
void vin_arch_again(struct vin_regs *regs);

#define VIN_ARCH_CALL_SIZE 2 /* bytes of the instruction that makes a call */
#define VIN_ARCH_EXTENDED 0x202 /* NT_X86_XSTATE: floating point and vectors */
#define VIN_ARCH_SHADOW 0x204 /* NT_X86_SHSTK: pointer of the shadow stack, for those who have one */

/** vin_arch_rest_at() - where an interrupted sleep has written how long it still would have been
 *  @ret_width: bytes of its two numbers each. Return: address in the program, or 0 */
uint64_t vin_arch_rest_at(const struct vin_regs *regs, size_t *ret_width);

/** vin_arch_sleep() - that sleep again, for the time that is written at @time in the program, in
 *  numbers of the same width */
struct vin_call vin_arch_sleep(const struct vin_regs *regs, uint64_t time);

/** vin_arch_is_nameless() - whether the call was started again by the kernel's restart_syscall(2)
 *  before, and so has lost its number */
bool vin_arch_is_nameless(const struct vin_regs *regs);

/**
 * vin_arch_recall() - such a call gets its number by the instruction that has loaded it
 * @code: the @len bytes before the instruction that made the call
 * All other registers stay as they are. Return: whether it was found there
 */
bool vin_arch_recall(struct vin_regs *regs, const unsigned char *code, size_t len);

/** vin_arch_guess() - the same, by what its arguments look like */
void vin_arch_guess(struct vin_regs *regs);

/** vin_arch_kept() - whether the kernel keeps the end of an interrupted call for the thread */
bool vin_arch_kept(const struct vin_regs *regs);

/** vin_arch_restart_anew() - a call that only the kernel it was made in can go on with is to be made
 * from its start; all others stay as they are */
void vin_arch_restart_anew(struct vin_regs *regs);

/** vin_arch_get() - read @tid's registers. Return: 0 or negative errno */
int vin_arch_get(pid_t tid, struct vin_regs *ret);

/** vin_arch_set() - write @tid's registers. Return: 0 or negative errno */
int vin_arch_set(pid_t tid, const struct vin_regs *regs);

/** vin_arch_find_syscall() - offset of a system call instruction in @text. Return: offset, or -1 */
ssize_t vin_arch_find_syscall(const void *text, size_t len);

/** vin_arch_ip() - where the thread is; may be written to */
uint64_t *vin_arch_ip(struct vin_regs *regs);

/** vin_arch_is_64bit() - whether the thread runs code of this processor's full width */
bool vin_arch_is_64bit(const struct vin_regs *regs);

/** vin_arch_forgets() - whether the thread is about to leave a call that ends with EINTR at any stop,
 *  where others are started again */
bool vin_arch_forgets(const struct vin_regs *regs);

/** vin_arch_interrupted() - whether a stop came into a system call that is to be started again */
bool vin_arch_interrupted(const struct vin_regs *regs);

/** vin_arch_result() - what the last system call returned */
int64_t vin_arch_result(const struct vin_regs *regs);

/** vin_arch_plain() - @regs ready to make @call with the instruction at @at, nothing of ours needed
 */
void vin_arch_plain(struct vin_regs *regs, const struct vin_call *call, uint64_t at);

/** vin_arch_single() - @regs ready to make @call on the trampoline of @place */
void vin_arch_single(struct vin_regs *regs, const struct vin_call *call,
		     const struct vin_place *place);

/**
 * vin_arch_batch() - @regs ready to make the @count calls of the table at @table
 * @whole: go on after a call that failed
 */
void vin_arch_batch(struct vin_regs *regs, uint64_t table, size_t count, bool whole,
		    const struct vin_place *place);

/** vin_arch_rescue() - what the handler needs to bring the thread back to @regs and @mask */
void vin_arch_rescue(const struct vin_regs *regs, uint64_t mask, struct vin_rescue *ret);

#define VIN_STUB_SIZE  96   /* room for the stub */
#define VIN_FRAME_SIZE 4096 /* room for a frame, and its alignment */

/** vin_arch_stub() - the stub's bytes, VIN_STUB_SIZE of them: it begins with a call that maps what is
 *  to be unmapped; @ret_call: where any other is made; @ret_home: where the way home begins
 *  @narrow: in a program of 32 bits */
const void *vin_arch_stub(bool narrow, size_t *ret_call, size_t *ret_home);

/**
 * vin_arch_frame() - the frame by which a thread gets back to @regs, @mask and its vectors
 * @at:   where it will be in the program; @stub: its first word, by which it is known as ours
 * @ret:  VIN_FRAME_SIZE bytes; @ret_len: how many are used
 * Return: 0, -E2BIG (more state than fits), or another negative errno
 * An interrupted call is started again as the kernel would, see vin_arch_rescue().
 */
int vin_arch_frame(pid_t tid, const struct vin_regs *regs, uint64_t mask, uint64_t at,
		   uint64_t stub, void *ret, size_t *ret_len);

/**
 * vin_arch_fit() - what another machine's processor keeps, in the form that this one's kernel takes
 * @own: what the kernel told of a thread of this machine; overwritten with the result
 * @ret_what: name of what is in use and unknown here
 * Rights of protection keys stay what they are here. Return: 0, -EOPNOTSUPP (@ret_what is set), or
 * -EBADMSG (it is less than it says)
 */
int vin_arch_fit(const void *state, size_t len, void *own, size_t own_len, const char **ret_what);

/** vin_arch_framed() - @regs, which are on the stub, get back by the frame at @at */
void vin_arch_framed(struct vin_regs *regs, uint64_t at, uint64_t keep);

/** vin_arch_owner() - by which the frame at @at is known in struct vin_keep */
uint64_t vin_arch_owner(uint64_t at);

/** vin_arch_sp() - the thread's stack pointer */
uint64_t vin_arch_sp(const struct vin_regs *regs);

#endif
