#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "vin/status.h"
#include "vin/task.h"

void vin_watch_begin(struct vin_watch *w)
{
	/* an ignored SIGCHLD, or one without stops, would leave us to poll */
	struct sigaction plain = { .sa_handler = SIG_DFL };
	sigset_t child;
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, &w->old);
	sigaction(SIGCHLD, &plain, &w->old_action);
}

void vin_watch_end(struct vin_watch *w)
{
	sigaction(SIGCHLD, &w->old_action, NULL);
	sigprocmask(SIG_SETMASK, &w->old, NULL);
}

/* Signals merge: one that came while we looked may stand for several stops, hence the short sleeps.
 */
static void sleep_a_little(int64_t left_ns)
{
	const int64_t longest = 20 * 1000000LL;
	struct timespec t = { .tv_nsec = left_ns < longest ? left_ns : longest };
	sigset_t child;
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	(void)sigtimedwait(&child, NULL, &t);
}

int vin_thread_wait(pid_t tid, unsigned int timeout_ms, int *ret_status)
{
	int64_t end = fvm_clock_ns() + timeout_ms * 1000000LL;
	for (;;) {
		int status;
		pid_t r = waitpid(tid, &status, __WALL | WNOHANG);
		if (r < 0 && errno != EINTR)
			return errno == ECHILD ? -ESRCH : -errno;
		if (r == tid && !WIFSTOPPED(status))
			return -ESRCH;
		if (r == tid) {
			*ret_status = status;
			return 0;
		}
		int64_t left = end - fvm_clock_ns();
		if (left <= 0)
			return -ETIMEDOUT;
		sleep_a_little(left);
	}
}

int vin_mem_read(pid_t pid, uint64_t at, void *ret, size_t len)
{
	struct iovec here = { ret, len }, there = { (void *)at, len };
	ssize_t r = process_vm_readv(pid, &here, 1, &there, 1, 0);
	return r < 0 ? -errno : (size_t)r == len ? 0 : -EFAULT;
}

int vin_mem_write(pid_t pid, uint64_t at, const void *data, size_t len)
{
	struct iovec here = { (void *)(uintptr_t)data, len }, there = { (void *)at, len };
	ssize_t r = process_vm_writev(pid, &here, 1, &there, 1, 0);
	return r < 0 ? -errno : (size_t)r == len ? 0 : -EFAULT;
}

static int event_of(int status)
{
	return status >> 16;
}

/* The sequence that the thread is in, if any; what struct rseq and struct rseq_cs say, rseq(2). */
static void leave_sequence(struct vin_thread *t)
{
	struct __ptrace_rseq_configuration conf;
	struct {
		uint32_t version, flags;
		uint64_t start, length, abort;
	} section;
	uint64_t at;
	long r = ptrace(PTRACE_GET_RSEQ_CONFIGURATION, t->tid, sizeof(conf), &conf);
	if (r != (long)sizeof(conf) || !conf.rseq_abi_pointer ||
	    vin_mem_read(t->tid, conf.rseq_abi_pointer + 8, &at, sizeof(at)) < 0 || !at ||
	    vin_mem_read(t->tid, at, &section, sizeof(section)) < 0)
		return;
	uint64_t *ip = vin_arch_ip(&t->regs);
	if (*ip - section.start < section.length)
		*ip = section.abort;
}

/* A call that ends with EINTR at any stop is made again from its start, unless a signal has ended
 * it. */
static void unforget(struct vin_thread *t)
{
	scoped_status st = { 0 };
	if (!vin_arch_forgets(&t->regs) || vin_status_read(t->pid, t->tid, &st, NULL) < 0 ||
	    (st.pending | st.process_pending) & ~t->mask)
		return;
	vin_arch_again(&t->regs);
	(void)vin_arch_set(t->tid, &t->regs);
}

void vin_thread_unforget(pid_t pid, pid_t tid)
{
	struct vin_thread t = { .pid = pid, .tid = tid };
	if (vin_arch_get(tid, &t.regs) == 0 &&
	    ptrace(PTRACE_GETSIGMASK, tid, sizeof(t.mask), &t.mask) == 0)
		unforget(&t);
}

int vin_thread_seize(pid_t tid, struct fvm_error *err)
{
	/* suspended filters are root's only; whoever may not have that goes without */
	unsigned long options = PTRACE_O_TRACESYSGOOD;
	if (ptrace(PTRACE_SEIZE, tid, 0, options | PTRACE_O_SUSPEND_SECCOMP) < 0 &&
	    ptrace(PTRACE_SEIZE, tid, 0, options) < 0)
		return fvm_error_set(err, errno, "seize thread %d", tid);
	if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) < 0) {
		int code = errno;
		(void)ptrace(PTRACE_DETACH, tid, 0, 0);
		return fvm_error_set(err, code, "interrupt thread %d", tid);
	}
	return 0;
}

/* Until the stop that we asked for; other stops on the way end with what they would have led to. */
static int wait_parked(pid_t tid, unsigned int timeout_ms, bool *ret_signal)
{
	for (;;) {
		int status;
		int r = vin_thread_wait(tid, timeout_ms, &status);
		if (r < 0)
			return r;
		int sig = WSTOPSIG(status);
		if (event_of(status) == PTRACE_EVENT_STOP) {
			*ret_signal = sig != SIGTRAP;
			return 0;
		}
		/* a stop of a signal: it is for the program */
		if (ptrace(PTRACE_CONT, tid, 0, event_of(status) ? 0 : sig) < 0)
			return -errno;
	}
}

#define FAULTS                                                                                     \
	(1ULL << (SIGSEGV - 1) | 1ULL << (SIGBUS - 1) | 1ULL << (SIGILL - 1) |                     \
	 1ULL << (SIGTRAP - 1) | 1ULL << (SIGFPE - 1) | 1ULL << (SIGSYS - 1))
#define AT_ONCE 32

/* Whether the thread has stopped between a fault and its signal. */
static bool has_fault(pid_t tid)
{
	uint64_t mask;
	siginfo_t queued[AT_ONCE];
	struct __ptrace_peeksiginfo_args which = { .nr = AT_ONCE };
	long n = AT_ONCE;
	if (ptrace(PTRACE_GETSIGMASK, tid, sizeof(mask), &mask) < 0)
		return false;
	for (; n == AT_ONCE; which.off += AT_ONCE) {
		n = ptrace(PTRACE_PEEKSIGINFO, tid, &which, queued);
		for (long i = 0; i < n; i++) {
			const uint64_t bit = 1ULL << (queued[i].si_signo - 1);
			if ((bit & FAULTS & ~mask) && queued[i].si_code > 0)
				return true;
		}
	}
	return false;
}

/* The kernel gives such a signal before any other, even when it has been blocked since: instead of
 * the one of our breakpoint, which would be the program's end. So it is let through first. */
static int let_faults_through(pid_t tid, unsigned int timeout_ms, bool *ret_signal)
{
	int r = 0, status;
	while (r == 0 && !*ret_signal && has_fault(tid)) {
		/* asked to stop, it would stop before it takes the signal */
		if (ptrace(PTRACE_CONT, tid, 0, 0) < 0)
			return -errno;
		r = vin_thread_wait(tid, timeout_ms, &status);
		if (r < 0)
			return r;
		if (event_of(status) == PTRACE_EVENT_STOP) {
			*ret_signal = WSTOPSIG(status) != SIGTRAP;
			continue;
		}
		if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) < 0 ||
		    ptrace(PTRACE_CONT, tid, 0, event_of(status) ? 0 : WSTOPSIG(status)) < 0)
			return -errno;
		r = wait_parked(tid, timeout_ms, ret_signal);
	}
	return r;
}

int vin_thread_settle(pid_t pid, pid_t tid, unsigned int timeout_ms, struct vin_thread *ret,
		      struct fvm_error *err)
{
	struct vin_thread t = { .pid = pid, .tid = tid };
	int r = wait_parked(tid, timeout_ms, &t.stopped_by_signal);
	if (r == 0)
		r = let_faults_through(tid, timeout_ms, &t.stopped_by_signal);
	if (r < 0)
		return fvm_error_set(err, -r, "wait for thread %d to stop", tid);
	r = vin_arch_get(tid, &t.regs);
	if (r == 0 && ptrace(PTRACE_GETSIGMASK, tid, sizeof(t.mask), &t.mask) < 0)
		r = -errno;
	if (r < 0) {
		(void)ptrace(PTRACE_DETACH, tid, 0, 0);
		return fvm_error_set(err, -r, "read the registers of thread %d", tid);
	}
	leave_sequence(&t);
	unforget(&t);
	*ret = t;
	return 0;
}

int vin_thread_leave(struct vin_thread *t)
{
	t->calls = false;
	if (!t->moved || t->leaves)
		return 0;
	/* from the stop of a call to one of its own, while it still has a way back: only from there
	 * the kernel starts interrupted calls again
	 */
	if (ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) < 0 || ptrace(PTRACE_CONT, t->tid, 0, 0) < 0)
		return -errno;
	t->leaves = true;
	return 0;
}

int vin_thread_park(struct vin_thread *t, struct fvm_error *err)
{
	bool by_signal;
	int r = vin_thread_leave(t);
	if (!t->moved)
		return 0;
	if (r == 0)
		r = wait_parked(t->tid, 10000, &by_signal);
	t->leaves = false;
	/* in this order: whose registers are back while his signals are blocked is lost if we die
	 */
	if (r == 0 && ptrace(PTRACE_SETSIGMASK, t->tid, sizeof(t->mask), &t->mask) < 0)
		r = -errno;
	if (r == 0)
		r = vin_arch_set(t->tid, &t->regs);
	if (r == 0 && t->stop_owed) {
		(void)tgkill(t->pid, t->tid, SIGSTOP);
		t->stop_owed = false;
	}
	/* better than nothing: vin_post_leave() gives it back as it was */
	if (r == 0 && (t->trap_owed[0] || t->trap_owed[1])) {
		(void)tgkill(t->pid, t->tid, SIGTRAP);
		t->trap_owed[0] = t->trap_owed[1] = false;
	}
	if (r < 0)
		return fvm_error_set(err, -r, "bring thread %d back to its program", t->tid);
	t->moved = false;
	return 0;
}

int vin_thread_release(struct vin_thread *t, struct fvm_error *err)
{
	int r = vin_thread_park(t, err);
	if (r == 0 && ptrace(PTRACE_DETACH, t->tid, 0, 0) < 0)
		r = fvm_error_set(err, errno, "let thread %d go", t->tid);
	return r;
}
