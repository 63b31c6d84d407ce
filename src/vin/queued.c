/*
 * Signals that wait for a thread or for its process, with what came along: PTRACE_PEEKSIGINFO
 * shows both queues and takes nothing. A program may send itself any siginfo; others may not
 * pretend to be the kernel, so the thread queues what is its own (rt_tgsigqueueinfo(2)).
 *
 * SIGTRAP is the breakpoint's: while calls are made it isn't blocked, and would come at once. Those
 * that wait are kept by the thread (vin/task) until it leaves the post. SIGSTOP can't be blocked:
 * one that is still on its way is let through before we come again.
 */
#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "vin/traits.h"

#define AT_ONCE	     32
#define SIGINFO_SIZE 128
#define QUEUED_MAX   65536 /* of one queue; RLIMIT_SIGPENDING is less as a rule */

/* Where a siginfo_t of a timer holds the kernel's own number, which no program sees. */
#define TIMER_PRIVATE_AT 32

static int refuse(const struct vin_thread *t, int sig, struct fvm_error *err)
{
	return fvm_error_say(err, EAGAIN, "process %d is just being %s", t->pid,
			     sig == SIGKILL ? "killed" : "stopped by a signal");
}

static int put_one(const struct vin_thread *t, siginfo_t *info, struct fvm_buf *to,
		   struct fvm_error *err)
{
	_Static_assert(sizeof(*info) == SIGINFO_SIZE, "the kernel's size");
	if (info->si_signo == SIGKILL || info->si_signo == SIGSTOP)
		return refuse(t, info->si_signo, err);
	if (info->si_code == SI_TIMER)
		memset((char *)info + TIMER_PRIVATE_AT, 0, sizeof(int));
	vin_put_blob(to, info, sizeof(*info));
	return 0;
}

static int put_queue(struct vin_steps *s, bool shared, struct fvm_buf *to, struct fvm_error *err)
{
	siginfo_t infos[AT_ONCE];
	scoped_buf all = { 0 };
	struct __ptrace_peeksiginfo_args args = { .flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0,
						  .nr = AT_ONCE };
	if (s->t->stop_owed)
		return refuse(s->t, SIGSTOP, err);
	const bool owed = s->t->trap_owed[shared];
	uint64_t count = owed;
	if (owed)
		vin_put_blob(&all, &s->t->traps[shared], sizeof(infos[0]));
	for (;;) {
		long n = ptrace(PTRACE_PEEKSIGINFO, s->t->tid, &args, infos);
		if (n < 0)
			return fvm_error_set(err, errno, "read the queued signals of thread %d",
					     s->t->tid);
		for (long i = 0; i < n; i++) {
			if (owed && infos[i].si_signo == SIGTRAP)
				continue;
			int r = put_one(s->t, &infos[i], &all, err);
			if (r < 0)
				return r;
			count++;
		}
		args.off += (uint64_t)n;
		if (n < AT_ONCE || count > QUEUED_MAX)
			break;
	}
	vin_put_u64(to, count);
	fvm_buf_add(to, all.data, all.len);
	to->failed |= all.failed;
	return 0;
}

static int put_thread(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
		      struct fvm_error *err)
{
	(void)told;
	return put_queue(s, false, to, err);
}

static int put_process(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
		       struct fvm_error *err)
{
	(void)told;
	return put_queue(s, true, to, err);
}

/* As if it had waited when we came. */
static int keep_trap(struct vin_steps *s, const siginfo_t *info, bool shared)
{
	if (s->post) {
		s->t->trap_owed[shared] = true;
		s->t->traps[shared] = *info;
	}
	return 0;
}

static int send_one(struct vin_steps *s, const void *bytes, bool shared)
{
	siginfo_t info;
	memcpy(&info, bytes, sizeof(info));
	if (info.si_signo < 1 || info.si_signo > 64 || info.si_signo == SIGKILL ||
	    info.si_signo == SIGSTOP)
		return -EBADMSG;
	if (info.si_signo == SIGTRAP)
		return keep_trap(s, &info, shared);
	uint64_t pid = (uint64_t)s->status.leaders[s->status.depth - 1];
	uint64_t tid = (uint64_t)s->status.pids[s->status.depth - 1];
	uint64_t sig = (uint64_t)info.si_signo, at = vin_steps_data(s, bytes, sizeof(info));
	if (shared)
		VIN_STEP(s, "rt_sigqueueinfo", SYS_rt_sigqueueinfo, pid, sig, at);
	else
		VIN_STEP(s, "rt_tgsigqueueinfo", SYS_rt_tgsigqueueinfo, pid, tid, sig, at);
	return 0;
}

static int replay_queue(struct vin_steps *s, struct vin_payload *from, bool shared)
{
	uint64_t count = vin_get_u64(from);
	int r = 0;
	for (uint64_t i = 0; r == 0 && i < count && !from->failed; i++) {
		size_t len;
		const void *info = vin_get_blob(from, &len);
		r = info && len == SIGINFO_SIZE ? send_one(s, info, shared) : -EBADMSG;
	}
	return r;
}

static int replay_thread(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
			 struct fvm_error *err)
{
	(void)told;
	(void)err;
	return replay_queue(s, from, false);
}

static int replay_process(struct vin_steps *s, const struct vin_call *told,
			  struct vin_payload *from, struct fvm_error *err)
{
	(void)told;
	(void)err;
	return replay_queue(s, from, true);
}

const struct vin_trait vin_queued = { .name = "queued signals",
				      .put = put_thread,
				      .replay = replay_thread };

const struct vin_trait vin_queued_process = { .name = "signals to the process",
					      .put = put_process,
					      .replay = replay_process };
