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

/* The kernel tells nobody by which gate a handler was set. Without a restorer it is no program's of
 * 64 bits, to whom the kernel would never deliver the signal. */
static bool is_narrow(const struct vin_steps *s, const struct vin_sigaction *a)
{
	return s->post && a->handler > (uint64_t)(uintptr_t)SIG_IGN && a->handler <= UINT32_MAX &&
	       (s->post->narrow || !(a->flags & VIN_SA_RESTORER));
}

static struct vin_sigaction now_of(struct vin_steps *s, const struct vin_call **told, int sig)
{
	struct vin_sigaction a = { 0 };
	if (is_asked(sig))
		memcpy(&a, vin_steps_told(s, (*told)++->args[2]), sizeof(a));
	else if (sig == SIGTRAP && s->post)
		a = s->post->action;
	if (is_narrow(s, &a))
		a.flags |= VIN_SA_32;
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
	int r = vin_post_keep_action(s->post, a);
	return r < 0 ? fvm_error_set(err, -r, "reach the memory of process %d", s->post->pid) : 0;
}

static void replay_one(struct vin_steps *s, uint64_t sig, const struct vin_sigaction *a)
{
	const struct vin_sigaction_32 narrow = vin_arch_action_32(a);
	if (a->flags & VIN_SA_32) {
		uint64_t at = vin_steps_data(s, &narrow, sizeof(narrow));
		VIN_STEP(s, "rt_sigaction", VIN_32_SIGACTION, sig, at, 0, 8);
	} else {
		uint64_t at = vin_steps_data(s, a, sizeof(*a));
		VIN_STEP(s, "rt_sigaction", SYS_rt_sigaction, sig, at, 0, 8);
	}
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
			replay_one(s, (uint64_t)sig, &a);
		}
	}
	return 0;
}

const struct vin_trait vin_actions = {
	.name = "actions", .ask = ask, .put = put, .replay = replay
};
