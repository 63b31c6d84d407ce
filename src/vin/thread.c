#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vin/status.h"
#include "vin/thread.h"

#define EXTENDED_MAX (64 * 1024)
#define STOPPED	     1U
#define TOLD	     2U

/* The kernel's stack_t. */
struct alternate {
	uint64_t at;
	int32_t flags, zero;
	uint64_t size;
};

void vin_thread_state_free(struct vin_thread_state *s)
{
	free(s->extended);
	*s = (struct vin_thread_state){ 0 };
}

/* ---- capture ---- */

/* As long as it is: those of all threads are there at once. */
static int read_extended(pid_t tid, struct vin_thread_state *s)
{
	unsigned char room[EXTENDED_MAX];
	struct iovec iov = { room, sizeof(room) };
	if (ptrace(PTRACE_GETREGSET, tid, VIN_ARCH_EXTENDED, &iov) < 0)
		return -errno;
	s->extended = malloc(iov.iov_len + 1);
	if (!s->extended)
		return -ENOMEM;
	memcpy(s->extended, room, iov.iov_len);
	s->extended_len = iov.iov_len;
	return 0;
}

/* Since we looked, by somebody who was not stopped yet: a stop would have dropped the signal. */
static bool is_continued(const struct vin_status *st)
{
	return (st->pending | st->process_pending) >> (SIGCONT - 1) & 1;
}

/* A call that was started again before has lost its number. In 32 bits it is made by the vdso,
 * which has put three registers on the stack, above the address that it returns to. */
static void recall(const struct vin_thread *t, struct vin_regs *regs)
{
	unsigned char code[32];
	uint64_t at = *vin_arch_ip(regs) - VIN_ARCH_CALL_SIZE;
	uint32_t stack[4];
	if (!vin_arch_is_nameless(regs))
		return;
	if (vin_mem_read(t->tid, at - sizeof(code), code, sizeof(code)) == 0 &&
	    vin_arch_recall(regs, code, sizeof(code)))
		return;
	if (!vin_arch_is_64bit(regs) &&
	    vin_mem_read(t->tid, vin_arch_sp(regs), stack, sizeof(stack)) == 0 &&
	    vin_mem_read(t->tid, stack[3] - sizeof(code), code, sizeof(code)) == 0 &&
	    vin_arch_recall(regs, code, sizeof(code)))
		return;
	vin_arch_guess(regs);
}

static int read_from_outside(const struct vin_steps *steps, struct vin_thread_state *s)
{
	const struct vin_thread *t = steps->t;
	struct __ptrace_rseq_configuration rseq = { 0 };
	s->regs = t->regs;
	recall(t, &s->regs);
	s->mask = t->mask;
	s->stopped = t->stopped_by_signal && !is_continued(&steps->status);
	snprintf(s->comm, sizeof(s->comm), "%.*s", (int)sizeof(s->comm) - 1, steps->stat.comm);
	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, t->tid, sizeof(rseq), &rseq) ==
	    (long)sizeof(rseq)) {
		s->rseq = rseq.rseq_abi_pointer;
		s->rseq_size = rseq.rseq_abi_size;
		s->rseq_sig = rseq.signature;
	}
	if (syscall(SYS_get_robust_list, t->tid, &s->robust, &s->robust_len) < 0)
		return -errno;
	return read_extended(t->tid, s);
}

static void read_rest(pid_t tid, struct vin_thread_state *s)
{
	size_t width;
	const uint64_t at = vin_arch_rest_at(&s->regs, &width);
	uint64_t rest[2];
	uint32_t narrow[2];
	if (!at || vin_mem_read(tid, at, width == 8 ? (void *)rest : narrow, 2 * width) < 0)
		return;
	for (int i = 0; width != 8 && i < 2; i++)
		rest[i] = narrow[i];
	if (rest[0] < 1000000000 && rest[1] < 1000000000)
		s->rest_ns = rest[0] * 1000000000 + rest[1];
}

void vin_thread_ask(struct vin_steps *s)
{
	const uint64_t tid_address = vin_steps_data(s, NULL, sizeof(uint64_t));
	VIN_STEP(s, NULL, SYS_prctl, PR_GET_TID_ADDRESS, tid_address);
	const uint64_t stack = vin_steps_data(s, NULL, sizeof(struct alternate));
	VIN_STEP(s, "sigaltstack", SYS_sigaltstack, 0, stack);
	if (s->post && s->post->narrow) {
		const uint64_t robust = vin_steps_data(s, NULL, 2 * sizeof(uint32_t));
		VIN_STEP(s, "get_robust_list", VIN_32_ROBUST_GET, 0, robust,
			 robust + sizeof(uint32_t));
	}
}

int vin_thread_told(struct vin_steps *s, const struct vin_call *told, struct vin_thread_state *ret,
		    struct fvm_error *err)
{
	const size_t inner = s->status.depth - 1;
	struct vin_thread_state state = { .pid = s->status.leaders[inner],
					  .tid = s->status.pids[inner] };
	struct alternate stack;
	int r = read_from_outside(s, &state);
	if (r < 0) {
		vin_thread_state_free(&state);
		return fvm_error_set(err, -r, "read thread %d", s->t->tid);
	}
	if (told[0].result >= 0)
		memcpy(&state.tid_address, vin_steps_told(s, told[0].args[1]), sizeof(uint64_t));
	memcpy(&stack, vin_steps_told(s, told[1].args[1]), sizeof(stack));
	state.stack = stack.at;
	state.stack_flags = (uint32_t)stack.flags;
	state.stack_size = stack.size;
	if (s->post->narrow) {
		uint32_t robust;
		memcpy(&robust, vin_steps_told(s, told[2].args[1]), sizeof(robust));
		state.robust_32 = robust;
	}
	read_rest(s->t->tid, &state);
	*ret = state;
	return 0;
}

/* ---- record ---- */

void vin_thread_put(struct fvm_buf *to, const struct vin_thread_state *s)
{
	const uint64_t stop = (s->stopped ? STOPPED : 0) | (s->stopped && s->told ? TOLD : 0);
	const uint64_t numbers[] = { (uint64_t)s->pid, (uint64_t)s->tid,
				     s->mask,	       s->tid_address,
				     s->robust,	       s->robust_len,
				     s->stack,	       s->stack_flags,
				     s->stack_size,    s->rseq,
				     s->rseq_size,     s->rseq_sig,
				     s->rest_ns,       stop };
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
		vin_put_u64(to, numbers[i]);
	vin_put_string(to, s->comm);
	vin_put_blob(to, &s->regs, sizeof(s->regs));
	vin_put_blob(to, s->extended, s->extended_len);
	if (s->robust_32)
		vin_put_u64(to, s->robust_32);
}

static void get_blobs(struct vin_payload *p, struct vin_thread_state *s)
{
	size_t len;
	char *comm = vin_get_string(p);
	if (comm && strlen(comm) < sizeof(s->comm))
		snprintf(s->comm, sizeof(s->comm), "%s", comm);
	else
		p->failed = true;
	free(comm);
	const void *regs = vin_get_blob(p, &len);
	if (regs && len == sizeof(s->regs))
		memcpy(&s->regs, regs, len);
	else
		p->failed = true;
	const void *extended = vin_get_blob(p, &s->extended_len);
	if (s->extended_len > EXTENDED_MAX)
		p->failed = true;
	else if (extended && (s->extended = malloc(s->extended_len + 1)))
		memcpy(s->extended, extended, s->extended_len);
}

int vin_thread_get(struct vin_payload *p, struct vin_thread_state *ret)
{
	struct vin_thread_state s = { 0 };
	const uint64_t pid = vin_get_u64(p), tid = vin_get_u64(p);
	uint64_t *const numbers[] = { &s.mask,	    &s.tid_address, &s.robust,	   &s.robust_len,
				      &s.stack,	    &s.stack_flags, &s.stack_size, &s.rseq,
				      &s.rseq_size, &s.rseq_sig,    &s.rest_ns };
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
		*numbers[i] = vin_get_u64(p);
	const uint64_t stop = vin_get_u64(p);
	s.stopped = stop != 0;
	s.told = stop & TOLD;
	get_blobs(p, &s);
	if (!p->failed && p->at < p->end)
		s.robust_32 = vin_get_u64(p);
	int r = vin_get_done(p);
	if (r == 0 && (pid < 1 || pid > INT32_MAX || tid < 1 || tid > INT32_MAX))
		r = -EBADMSG;
	if (r == 0 && !s.extended)
		r = -ENOMEM;
	if (r < 0) {
		vin_thread_state_free(&s);
		return r;
	}
	s.pid = (pid_t)pid;
	s.tid = (pid_t)tid;
	*ret = s;
	return 0;
}

/* ---- replay ---- */

void vin_thread_dress(struct vin_steps *s, const struct vin_thread_state *state)
{
	const struct alternate stack = { state->stack, (int32_t)state->stack_flags, 0,
					 state->stack_size };
	uint64_t at = vin_steps_data(s, state->comm, sizeof(state->comm));
	VIN_STEP(s, "prctl(PR_SET_NAME)", SYS_prctl, PR_SET_NAME, at);
	VIN_STEP(s, "set_tid_address", SYS_set_tid_address, state->tid_address);
	at = vin_steps_data(s, &stack, sizeof(stack));
	VIN_STEP(s, "sigaltstack", SYS_sigaltstack, at, 0);
	if (state->robust)
		VIN_STEP(s, "set_robust_list", SYS_set_robust_list, state->robust,
			 state->robust_len);
	if (state->robust_32)
		VIN_STEP(s, "set_robust_list", VIN_32_ROBUST_SET, state->robust_32,
			 VIN_32_ROBUST_SIZE);
	if (state->rseq)
		VIN_STEP(s, "rseq", SYS_rseq, state->rseq, state->rseq_size, 0, state->rseq_sig);
}

/* Return: whether it sleeps, within some milliseconds */
static bool falls_asleep(const struct vin_thread *t)
{
	struct vin_stat st;
	for (int i = 0; i < 1000; i++) {
		if (vin_stat_read(t->pid, t->tid, &st, NULL) < 0)
			return false;
		if (st.state == 'S')
			return true;
		usleep(20);
	}
	return false;
}

/* The kernel keeps the end of an interrupted sleep for the thread: have it keep one. */
static int sleep_for(const struct vin_post *post, struct vin_thread *t,
		     const struct vin_thread_state *s)
{
	const uint64_t rest[] = { s->rest_ns / 1000000000, s->rest_ns % 1000000000 };
	const uint32_t narrow[] = { (uint32_t)rest[0], (uint32_t)rest[1] };
	struct vin_call sleep = vin_arch_sleep(&s->regs, post->data);
	struct vin_regs regs = t->regs;
	size_t width;
	int status;
	(void)vin_arch_rest_at(&s->regs, &width);
	vin_arch_single(&regs, &sleep, &post->place);
	int r = vin_mem_write(post->pid, post->data, width == 8 ? (const void *)rest : narrow,
			      2 * width);
	if (r == 0)
		r = vin_arch_set(t->tid, &regs);
	if (r == 0 && ptrace(PTRACE_CONT, t->tid, 0, 0) < 0)
		r = -errno;
	if (r < 0)
		return r;
	(void)falls_asleep(t);
	if (ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) < 0)
		return -errno;
	r = vin_thread_wait(t->tid, 10000, &status);
	return r < 0 ? r : vin_arch_get(t->tid, &regs) < 0 ? -EIO : vin_arch_kept(&regs);
}

/* Of another processor: the kernel takes only as many bytes as it has itself. */
static int set_foreign(const struct vin_thread *t, const struct vin_thread_state *s,
		       struct fvm_error *err)
{
	unsigned char own[EXTENDED_MAX];
	struct iovec iov = { own, sizeof(own) };
	const char *what = NULL;
	int r = ptrace(PTRACE_GETREGSET, t->tid, VIN_ARCH_EXTENDED, &iov) < 0 ? -errno : 0;
	if (r == 0)
		r = vin_arch_fit(s->extended, s->extended_len, own, iov.iov_len, &what);
	if (what)
		return fvm_error_say(err, EOPNOTSUPP,
				     "thread %d uses what this processor has not: %s", s->tid,
				     what);
	if (r == 0 && ptrace(PTRACE_SETREGSET, t->tid, VIN_ARCH_EXTENDED, &iov) < 0)
		r = -errno;
	return r < 0 ? fvm_error_set(err, -r, "set the registers of thread %d", s->tid) : 0;
}

int vin_thread_ready(struct vin_post *post, struct vin_thread *t, const struct vin_thread_state *s,
		     struct fvm_error *err)
{
	struct iovec iov = { s->extended, s->extended_len };
	size_t width;
	int r = t->moved ? 0 : vin_post_move(post, t, err);
	if (r < 0)
		return r;
	if (s->rest_ns && vin_arch_rest_at(&s->regs, &width))
		r = sleep_for(post, t, s);
	if (r < 0)
		return fvm_error_set(err, -r, "set the registers of thread %d", s->tid);
	int set = ptrace(PTRACE_SETREGSET, t->tid, VIN_ARCH_EXTENDED, &iov) < 0
			  ? set_foreign(t, s, err)
			  : 0;
	if (set < 0)
		return set;
	t->regs = s->regs;
	t->mask = s->mask;
	/* without a rest of time, that kernel would not know where to go on */
	if (r == 0)
		vin_arch_restart_anew(&t->regs);
	return 0;
}
