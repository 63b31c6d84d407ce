/* What a process does with each signal: rt_sigaction(2), flags and restorer included. */
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

#include "vin/traits.h"

#define SIGNALS 64

/* Nobody may handle these; SIGTRAP's own action is kept by the post while it is there. */
static bool is_asked(int sig)
{
	return sig != SIGKILL && sig != SIGSTOP && sig != SIGTRAP;
}

static int ask(struct vin_steps *s, struct fvm_error *err)
{
	(void)err;
	for (int sig = 1; sig <= SIGNALS; sig++) {
		if (!is_asked(sig))
			continue;
		uint64_t at = vin_steps_data(s, NULL, sizeof(struct vin_sigaction));
		VIN_STEP(s, "rt_sigaction", SYS_rt_sigaction, (uint64_t)sig, 0, at, 8);
	}
	return 0;
}

static struct vin_sigaction now_of(struct vin_steps *s, const struct vin_call **told, int sig)
{
	struct vin_sigaction a = { 0 };
	if (is_asked(sig))
		memcpy(&a, vin_steps_told(s, (*told)++->args[2]), sizeof(a));
	else if (sig == SIGTRAP && s->post)
		a = s->post->action;
	return a;
}

static int put(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
	       struct fvm_error *err)
{
	(void)err;
	for (int sig = 1; sig <= SIGNALS; sig++) {
		struct vin_sigaction a = now_of(s, &told, sig);
		vin_put_u64(to, a.handler);
		vin_put_u64(to, a.flags);
		vin_put_u64(to, a.restorer);
		vin_put_u64(to, a.mask);
	}
	return 0;
}

/* The post puts SIGTRAP's action back when it is closed, or its rescue handler does. */
static int replay_trap(struct vin_steps *s, const struct vin_sigaction *a, struct fvm_error *err)
{
	if (!s->post)
		return 0;
	int r = vin_mem_write(s->post->pid, s->post->place.action, a, sizeof(*a));
	if (r < 0)
		return fvm_error_set(err, -r, "reach the memory of process %d", s->post->pid);
	s->post->action = *a;
	return 0;
}

static int replay(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		  struct fvm_error *err)
{
	for (int sig = 1; sig <= SIGNALS; sig++) {
		struct vin_sigaction now = now_of(s, &told, sig), a;
		a.handler = vin_get_u64(from);
		a.flags = vin_get_u64(from);
		a.restorer = vin_get_u64(from);
		a.mask = vin_get_u64(from);
		if (from->failed)
			return -EBADMSG;
		if (sig == SIGTRAP) {
			int r = replay_trap(s, &a, err);
			if (r < 0)
				return r;
		} else if (is_asked(sig) && memcmp(&a, &now, sizeof(a)) != 0) {
			uint64_t at = vin_steps_data(s, &a, sizeof(a));
			VIN_STEP(s, "rt_sigaction", SYS_rt_sigaction, (uint64_t)sig, at, 0, 8);
		}
	}
	return 0;
}

const struct vin_trait vin_actions = {
	.name = "actions", .ask = ask, .put = put, .replay = replay
};
