/*
 * vin/task - threads of other programs: stopped, looked at, and let go as they were
 *
 * Theory of operation
 *   A thread is seized (PTRACE_SEIZE: it runs on) and interrupted. It stops on its way back to its
 *   program, wherever it was: in its own code, or in a system call that the kernel will start
 *   again. A signal that was just being delivered, or that a fault of its own is about to send, is
 *   let through first, so that at the stop there is nothing half done but an interrupted call, and
 *   that is written in the registers.
 *
 *   parked   stopped with its own registers and mask. When the controller dies now, the kernel
 *            lets the thread go, and it goes on as if nothing had been: this is the state that a
 *            thread is in whenever nobody makes it do something.
 *   moved    it stands on a trampoline (vin/rcall), which brings it back by itself if we die.
 *
 *   A thread inside a restartable sequence never goes on there after a stop: the kernel sends it
 *   to the sequence's abort handler. We write that into the registers at once (vin_thread_seize),
 *   since calls made elsewhere would have the kernel forget the sequence and leave out the abort.
 *
 *   A few system calls (epoll_wait(2) and its like) end with EINTR at any stop. If no signal is there
 *   that could have been the cause, they are made again from their start: in the registers, at once.
 *
 *   Waiting is never endless: a thread in an uninterruptible sleep, or one that waits for its vfork
 *   child, does not stop, and -ETIMEDOUT says so.
 * Limits: one thread of ours traces (ptrace(2) belongs to threads). Sources: ptrace(2), rseq(2).
 */
#ifndef VIN_TASK_H
#define VIN_TASK_H

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

#include "common/common.h"
#include "vin/arch.h"

/* How this process hears of its tracees; one for all of them. */
struct vin_watch {
	sigset_t old;
	struct sigaction old_action;
};

/** vin_watch_begin() - SIGCHLD wakes nobody but us from now on */
void vin_watch_begin(struct vin_watch *w);

/** vin_watch_end() - back to what was */
void vin_watch_end(struct vin_watch *w);

struct vin_thread {
	pid_t pid; /* its program */
	pid_t tid;
	bool stopped_by_signal; /* was stopped (T) before we came, and stays so */
	bool moved;		/* registers and mask are not its own now */
	bool calls;		/* it stands on a post and can make calls */
	bool leaves;		/* it is on its way to where it can be parked */
	/* SIGTRAPs that wait for it (0) and for its program (1), or were sent while it was moved:
	 * the breakpoint's signal can't be blocked meanwhile, so they are kept here */
	bool trap_owed[2];
	siginfo_t traps[2];
	bool stop_owed; /* a SIGSTOP came while it was moved */
	struct vin_regs regs;	/* its own */
	uint64_t mask;		/* its own blocked signals */
};

/**
 * vin_thread_wait() - until the thread stops or is gone
 * @timeout_ms: longest wait in milliseconds
 * @ret_status: as of waitpid(2)
 * Return: 0, -ETIMEDOUT, -ESRCH (it died, or was never ours), or another negative errno
 */
int vin_thread_wait(pid_t tid, unsigned int timeout_ms, int *ret_status);

/** vin_thread_seize() - begin to trace @tid, and ask it to stop; see vin_thread_settle()
 *  Return: 0, -ESRCH (no such thread, or a zombie), -EPERM (traced by another, or not ours) */
int vin_thread_seize(pid_t tid, struct fvm_error *err);

/**
 * vin_thread_settle() - wait until a seized thread is parked, and read what it is
 * Return: 0, -ETIMEDOUT (and it is let go as soon as it can be), -ESRCH (it died), or another
 *         negative errno
 */
int vin_thread_settle(pid_t pid, pid_t tid, unsigned int timeout_ms, struct vin_thread *ret,
		      struct fvm_error *err);

/** vin_thread_leave() - the first half of vin_thread_park(), which has to follow: others can be seen
 *  to while the thread comes to a stop of its own. Return: 0 or negative errno */
int vin_thread_leave(struct vin_thread *t);

/**
 * vin_thread_park() - give the thread its registers and its mask back, and leave it stopped
 * To be called in a stop. Return: 0, or negative errno (-ESRCH: it died)
 */
int vin_thread_park(struct vin_thread *t, struct fvm_error *err);

/** vin_thread_release() - park it if it is not, and let it run. Return: as vin_thread_park() */
int vin_thread_release(struct vin_thread *t, struct fvm_error *err);

/** vin_thread_unforget() - in a stop that was asked for (PTRACE_INTERRUPT): a call that ended with EINTR
 *  for that alone is made again. vin_thread_settle() does so by itself */
void vin_thread_unforget(pid_t pid, pid_t tid);

/** vin_mem_read() - @len bytes at @at of a process, all or nothing. Return: 0 or negative errno */
int vin_mem_read(pid_t pid, uint64_t at, void *ret, size_t len);

/** vin_mem_write() - the reverse; into what the process itself may write */
int vin_mem_write(pid_t pid, uint64_t at, const void *data, size_t len);

#endif
