/*
 * What a thread has by prctl(2) and its like: name, personality, whether it may read the time
 * stamp counter and ask what the processor is, machine checks, speculation, and whether it helps
 * to write memory out.
 */
#include <asm/prctl.h>
#include <errno.h>
#include <linux/prctl.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "vin/traits.h"

#define NAME_SIZE     16
#define IO_FLUSHER    0x00180000ULL /* PF_MEMALLOC_NOIO, PF_LOCAL_THROTTLE of /proc/PID/stat */
#define ASK_CPUID     0x1011	    /* ARCH_GET_CPUID */
#define SET_CPUID     0x1012
#define SPECULATIONS  3 /* store bypass, indirect branch, L1D flush */
#define FLUSHER_SHOWN 1
#define GET_DISPATCH  0x4210 /* PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG */

enum { NAME, PERSONALITY, TSC, MCE, CPUID, SPECULATION, ASKED = SPECULATION + SPECULATIONS };

static int ask(struct vin_steps *s, struct fvm_error *err)
{
	(void)err;
	uint64_t name = vin_steps_data(s, NULL, NAME_SIZE);
	VIN_STEP(s, "prctl(PR_GET_NAME)", SYS_prctl, PR_GET_NAME, name);
	VIN_STEP(s, "personality", SYS_personality, 0xffffffff);
	uint64_t tsc = vin_steps_data(s, NULL, 8);
	VIN_STEP(s, "prctl(PR_GET_TSC)", SYS_prctl, PR_GET_TSC, tsc);
	VIN_STEP(s, NULL, SYS_prctl, PR_MCE_KILL_GET);
	VIN_STEP(s, NULL, SYS_arch_prctl, ASK_CPUID);
	for (uint64_t which = 0; which < SPECULATIONS; which++)
		VIN_STEP(s, NULL, SYS_prctl, PR_GET_SPECULATION_CTRL, which);
	return 0;
}

/* Numbers behind the name; those that the kernel does not have are told as failures. */
static void numbers(struct vin_steps *s, const struct vin_call *told, uint64_t to[ASKED])
{
	uint32_t tsc;
	memcpy(&tsc, vin_steps_told(s, told[TSC].args[1]), sizeof(tsc));
	for (int i = PERSONALITY; i < ASKED; i++)
		to[i] = (uint64_t)told[i].result;
	to[TSC] = tsc;
	to[NAME] = (s->stat.flags & IO_FLUSHER) == IO_FLUSHER ? FLUSHER_SHOWN : 0;
}

/* PR_SET_SYSCALL_USER_DISPATCH: its calls may become signals, ours too. From Linux 6.4 on one is
 * shown whether it is so. */
static int check_dispatch(const struct vin_thread *t, struct fvm_error *err)
{
	struct {
		uint64_t mode, selector, offset, len;
	} conf = { 0 };
	if (ptrace(GET_DISPATCH, t->tid, sizeof(conf), &conf) < 0 || conf.mode == 0)
		return 0;
	return fvm_error_say(err, ENOTSUP,
			     "thread %d of process %d has its system calls handled by itself "
			     "(PR_SET_SYSCALL_USER_DISPATCH)",
			     t->tid, t->pid);
}

static int put(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
	       struct fvm_error *err)
{
	uint64_t n[ASKED];
	int r = check_dispatch(s->t, err);
	if (r < 0)
		return r;
	numbers(s, told, n);
	vin_put_blob(to, vin_steps_told(s, told[NAME].args[1]), NAME_SIZE);
	for (int i = 0; i < ASKED; i++)
		vin_put_u64(to, n[i]);
	return 0;
}

static void replay_speculation(struct vin_steps *s, uint64_t which, uint64_t want)
{
	/* only what prctl() has set; the rest is the machine's */
	if (!(want & PR_SPEC_PRCTL) || want & ~0x1fULL)
		return;
	VIN_STEP(s, "prctl(PR_SET_SPECULATION_CTRL)", SYS_prctl, PR_SET_SPECULATION_CTRL, which,
		 want & ~(uint64_t)PR_SPEC_PRCTL);
}

static void set(struct vin_steps *s, int what, uint64_t want)
{
	switch (what) {
	case NAME:
		VIN_STEP(s, "prctl(PR_SET_IO_FLUSHER)", SYS_prctl, PR_SET_IO_FLUSHER, want);
		break;
	case PERSONALITY:
		VIN_STEP(s, "personality", SYS_personality, want);
		break;
	case TSC:
		VIN_STEP(s, "prctl(PR_SET_TSC)", SYS_prctl, PR_SET_TSC, want);
		break;
	case MCE:
		VIN_STEP(s, "prctl(PR_MCE_KILL)", SYS_prctl, PR_MCE_KILL, PR_MCE_KILL_SET, want);
		break;
	case CPUID:
		VIN_STEP(s, "arch_prctl(ARCH_SET_CPUID)", SYS_arch_prctl, SET_CPUID, want);
		break;
	default:
		replay_speculation(s, (uint64_t)(what - SPECULATION), want);
	}
}

static int replay(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		  struct fvm_error *err)
{
	(void)err;
	uint64_t now[ASKED];
	size_t len;
	const void *name = vin_get_blob(from, &len);
	if (!name || len != NAME_SIZE)
		return -EBADMSG;
	numbers(s, told, now);
	if (memcmp(name, vin_steps_told(s, told[NAME].args[1]), len) != 0) {
		uint64_t at = vin_steps_data(s, name, len);
		VIN_STEP(s, "prctl(PR_SET_NAME)", SYS_prctl, PR_SET_NAME, at);
	}
	for (int i = 0; i < ASKED; i++) {
		uint64_t want = vin_get_u64(from);
		if (want != now[i] && (int64_t)want >= 0 && !from->failed)
			set(s, i, want);
	}
	return 0;
}

const struct vin_trait vin_attributes = {
	.name = "attributes", .ask = ask, .put = put, .replay = replay
};
