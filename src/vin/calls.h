/*
 * vin/calls - the system calls of running programs, as they make them
 *
 * Theory of operation
 *   Every thread is seized (PTRACE_SEIZE) and runs on; asked to stop once, it is from then on
 *   stopped by the kernel before and after each call (PTRACE_SYSCALL). Before it, number and
 *   arguments are read and put into words; after it, what it wrote to its caller, its result and
 *   how long it took. Children and threads are traced from their first instruction, by ptrace's own
 *   options.
 *
 *   Nothing in a program changes: no call is made in its name, no register is written but in the
 *   first stop, where a call that only this stop ended is made again (vin/task). So nothing has to
 *   be put back. To end means to exit: the kernel lets everybody go from wherever he is, be it by ^C
 *   or by SIGKILL. One thing would be lost that way: a signal that was taken from its thread to be
 *   shown to us. So a stop for a signal is only looked at (WNOWAIT), and let go on with it.
 *
 *   A call that any stop and continue ends with EINTR (epoll_wait(2) and its like, signal(7)) may
 *   end so once: when we end while it stands at its beginning, as the kernel then has it look for
 *   signals, and when we are killed while all are asked to stop for the first time.
 *
 *   All stops that there are are collected before one is dealt with: who makes calls faster than we
 *   look would keep all others waiting.
 *
 *   Memory is read where it is in the program's page table already (pagemap): anywhere else a fault
 *   could be for a handler (userfaultfd, FUSE) that itself waits for us. What is not there yet is
 *   read after the call, for which the kernel has fetched it.
 * Limits: arguments are read while other threads run, who may change them before the kernel reads
 * them: a record of what honest programs do. Who is traced already (a debugger's) is left out.
 * Children by CLONE_UNTRACED are not followed. Sources: ptrace(2), syscalls(2), pagemap(5).
 */
#ifndef VIN_CALLS_H
#define VIN_CALLS_H

#include "vin/task.h"

#define VIN_CALL_ARGS 6

/* One call; what is pointed to lasts until the function that is told of it returns. */
struct vin_call_seen {
	pid_t pid, tid;		/* here */
	pid_t inner_pid, inner_tid; /* as the namespace counts that was asked for */
	const char *name;
	bool is_32;	/* by the entry for 32-bit programs */
	bool ended;	/* else: it had not, when the thread or the trace did */
	size_t arg_count; /* 0, if arguments are not wanted */
	const char *args[VIN_CALL_ARGS]; /* safe for a line */
	int64_t result; /* a value, or a negative errno, when it has ended */
	bool failed;
	int64_t began_ns; /* since 1970 */
	int64_t took_ns;
};

struct vin_calls_options {
	size_t depth; /* which of a thread's pid namespaces counts, from ours (1) inwards */
	bool no_args;
	/* whether calls of this name are wanted; NULL: all are */
	bool (*wants)(void *arg, const char *name);
	/* what socket @inode is, which @tid has; appended to @to */
	void (*socket)(void *arg, pid_t tid, uint64_t inode, struct fvm_buf *to);
	/* other than 0 ends it */
	int (*seen)(void *arg, const struct vin_call_seen *call);
	void *arg;
};

struct vin_calls;

/** vin_calls_open() - nobody is traced yet; signals INT, TERM and HUP end vin_calls_run() from now on,
 *  till this process ends. @options must last. Return: it, or NULL: out of memory */
struct vin_calls *vin_calls_open(const struct vin_calls_options *options);

/**
 * vin_calls_add() - trace process @pid and its descendants, with all their threads
 * Those who are traced already stay so.
 * Return: 0, -ESRCH (there is no such process), -EBUSY (another one traces it, or one of the
 *         descendants; the rest is), or another negative errno
 */
int vin_calls_add(struct vin_calls *c, pid_t pid, struct fvm_error *err);

/** vin_calls_has() - whether @pid is one of those that are traced */
bool vin_calls_has(const struct vin_calls *c, pid_t pid);

/**
 * vin_calls_run() - tell of calls, for @ms milliseconds
 * Return: 0, 1 (a signal told us to end), -ECHILD (nobody is left), or what @seen returned
 */
int vin_calls_run(struct vin_calls *c, unsigned int ms);

/** vin_calls_close() - tell of the calls that have not ended, and forget all; who is traced is let go
 *  when this process ends, which should be now */
void vin_calls_close(struct vin_calls *c);

/** vin_call_is_name() - whether there is a call of that name
 *  @ret_near: when there is none, one of a name that is near, or NULL */
bool vin_call_is_name(const char *name, const char **ret_near);

/** vin_errno_name() - "ENOENT" for a negative errno, the kernel's own included; "?": not known */
const char *vin_errno_name(int64_t result);

#endif
