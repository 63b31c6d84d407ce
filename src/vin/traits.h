/*
 * vin/traits - what the kernel remembers of a process and of its threads, apart from memory and
 * descriptors: signals, timers, identity, limits, scheduling, and what prctl(2) sets
 *
 * Theory of operation
 *   One sort of thing is one struct vin_trait in a file of its own. The way of the data:
 *
 *     capture   ask: adds calls that tell (vin/steps); all traits of a thread ask at one stop
 *               put: answers, and what /proc and ptrace tell, go into the payload
 *     replay    the same asks tell what the new process has; then each trait adds the calls that
 *               make the difference, and nothing where there is none: so an ordinary user, who may
 *               change little, can restore what is as it was
 *
 *   Capture changes nothing in the program: what is asked is asked by calls that only tell.
 *   vin_traits_check() says before anybody is stopped what of a process can't be captured, as far
 *   as /proc shows it; capture refuses the rest, and the program goes on.
 *
 *   The order of replay. A step stands where it is because of the one behind it:
 *     1 actions      to ignore a signal throws away those that are queued
 *     2 each thread but the leader, then the leader: attributes; scheduling (while it may still
 *       raise itself); its queued signals; [3]; filters (they need CAP_SYS_ADMIN, and are asleep
 *       while we trace); credentials
 *     3 between, by the leader alone: timers of both sorts (a timer for a clock of alarms needs a
 *       capability, each needs room in RLIMIT_SIGPENDING), the process's queued signals, limits
 *       (they may be raised only with a capability), directories, what is left of prctl(2)
 *     4 dumpable     from then on even we may be refused a look into its memory
 *   All other threads must exist by then, and every descriptor (RLIMIT_NOFILE) and map.
 *
 *   Who may do what: everything is done by the restored process itself, through remote calls and
 *   with what its blank was given, so the kernel judges a hostile payload as it would judge the
 *   program. The few files of /proc that we write to instead are written only in the direction
 *   that needs no right. Filters that the blank has (a VM's) sleep meanwhile if root restores: what
 *   they would forbid is done only if it is one of the calls of these files. A payload is gone
 *   through once without a process (vin/steps) before the first call is made.
 *
 * Limits, each of them refused: System V semaphores to undo that are the
 * machine's, or shared with a parent; filters with a listener, unless
 * the new process has them; filters where we are not root; a root directory that was deleted; threads
 * with directories of their own; keys that can't be read; system calls that the program handles by
 * itself (PR_SET_SYSCALL_USER_DISPATCH); a signal that stops or kills, on its way;
 * limits of memory that leave no room for our pages.
 * Limits that do no harm: a session's keyring is the restorer's, a process's that several threads
 * share becomes one for each; a timer that was set to a point of CLOCK_REALTIME goes on as one set
 * for the time that was left; the missed rounds of a timer whose signal is queued are counted anew.
 * Between capture and replay timers stand still.
 * Sources: prctl(2), proc(5), signal(7), timer_create(2), capabilities(7), credentials(7),
 * getpriority(2), sched(7), seccomp(2), keyrings(7).
 */
#ifndef VIN_TRAITS_H
#define VIN_TRAITS_H

#include "vin/thread.h"
#include "vin/tree.h"

struct vin_trait {
	const char *name;
	/* whether it can be had, by what /proc shows while the program runs; NULL: always */
	int (*check)(pid_t pid, pid_t tid, uint64_t filters, struct fvm_error *err);
	/* add calls that tell; NULL: none */
	int (*ask)(struct vin_steps *s, struct fvm_error *err);
	/* @told: the first of the calls that ask() added */
	int (*put)(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
		   struct fvm_error *err);
	/* add calls that make it so. Return: 0, -EBADMSG (no payload of ours), or a failure */
	int (*replay)(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		      struct fvm_error *err);
};

extern const struct vin_trait vin_actions, vin_timers, vin_itimers, vin_queued, vin_queued_process,
	vin_scheduling, vin_attributes, vin_filters, vin_credentials, vin_keyrings, vin_limits,
	vin_dirs, vin_process_attributes, vin_dumpable, vin_undo, vin_segments, vin_ldt,
	vin_barriers, vin_future;

/** vin_traits_check() - whether all that a running process is can be captured
 *  @filters: how many it has of its world, see vin/capture
 *  Return: 0, -ENOTSUP (process, resource and reason are said), -ESRCH, or another failure */
int vin_traits_check(pid_t pid, uint64_t filters, struct fvm_error *err);

/**
 * vin_traits_capture() - all of a stopped process into a payload
 * @post: of the process; its first thread is there, and is there again afterwards
 * @filters: as above
 * @states: what the threads are besides, as many; freed by the caller, after a failure too. NULL:
 *         they are not asked for
 * @ret:  is added to. NULL: only @states are of interest
 * Return: 0, -ENOTSUP (it can't be captured), or another negative errno; nothing was changed
 */
int vin_traits_capture(struct vin_post *post, struct vin_thread *threads, size_t count,
		       uint64_t filters, struct vin_thread_state *states, struct fvm_buf *ret,
		       struct fvm_error *err);

/**
 * vin_traits_replay() - make a stopped process what a payload says; the last thing before its
 * registers
 * @post: as above; NULL looks through the payload and does nothing else
 * @count: as many as were captured, in the same order
 * @states: of as many, told, too; NULL: what they are besides stays what it is
 * Of a blank all threads but the first are as they were born, hence alike.
 * Afterwards memory may be out of reach (dumpable), and signals are queued: only
 * vin_post_close() and the threads' registers may follow.
 * Return: 0, -EBADMSG (no payload of ours, nothing was done), -EPERM (it may not be what it was),
 *         or another negative errno; the process is half done then, and to be ended
 */
int vin_traits_replay(struct vin_post *post, struct vin_thread *threads, size_t count,
		      const struct vin_thread_state *states, const void *payload, size_t len,
		      struct fvm_error *err);

/** vin_traits_dress() - all of @states but the registers: of threads of whom nothing else is known */
int vin_traits_dress(struct vin_post *post, struct vin_thread *threads, size_t count,
		     const struct vin_thread_state *states, struct fvm_error *err);

#endif
