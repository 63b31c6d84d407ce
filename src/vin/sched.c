/*
 * When and where a thread runs: affinity, nice value, policy with its parameters (deadlines, and
 * utilisation where the kernel has it), priority of input and output, slack of timers, memory
 * nodes. Affinity stands before the policy: deadlines are for threads that may run anywhere.
 */
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/traits.h"

#define CPUS_SIZE  1024 /* bytes: 8192 processors */
#define NODES_SIZE 128
#define UTIL_MAX   1024
#define FLAG_UTIL  0x60ULL /* SCHED_FLAG_UTIL_CLAMP */
#define FLAGS_KEPT 0x07ULL /* reset on fork, reclaim, overrun */
#define IOPRIO_WHO 1	   /* IOPRIO_WHO_PROCESS */

struct attr { /* the kernel's sched_attr */
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
	uint32_t util_min, util_max;
};

#define CORE_GET 0 /* PR_SCHED_CORE_GET */

enum { CPUS, NICE, ATTR, IOPRIO, SLACK, NODES, ASKED };

/* PR_SCHED_CORE: with whom it may share a core. A cookie can't be given, only made and copied. */
static int check(pid_t pid, pid_t tid, uint64_t filters, struct fvm_error *err)
{
	(void)filters;
	uint64_t cookie __attribute__((aligned(8))) = 0;
	if (prctl(PR_SCHED_CORE, CORE_GET, tid, 0, &cookie) < 0 || cookie == 0)
		return 0;
	return fvm_error_say(err, ENOTSUP,
			     "thread %d of process %d may share a core with some only "
			     "(PR_SCHED_CORE)",
			     tid, pid);
}

static int ask(struct vin_steps *s, struct fvm_error *err)
{
	(void)err;
	uint64_t cpus = vin_steps_data(s, NULL, CPUS_SIZE);
	VIN_STEP(s, "sched_getaffinity", SYS_sched_getaffinity, 0, CPUS_SIZE, cpus);
	VIN_STEP(s, "getpriority", SYS_getpriority, PRIO_PROCESS, 0);
	uint64_t attr = vin_steps_data(s, NULL, sizeof(struct attr));
	VIN_STEP(s, "sched_getattr", SYS_sched_getattr, 0, attr, sizeof(struct attr), 0);
	VIN_STEP(s, "ioprio_get", SYS_ioprio_get, IOPRIO_WHO, 0);
	VIN_STEP(s, "prctl(PR_GET_TIMERSLACK)", SYS_prctl, PR_GET_TIMERSLACK);
	/* not in each kernel, and not in each VM: its filter may forbid it */
	uint64_t nodes = vin_steps_data(s, NULL, 8 + NODES_SIZE);
	VIN_STEP(s, NULL, SYS_get_mempolicy, nodes, nodes + 8, NODES_SIZE * 8ULL, 0, 0);
	return 0;
}

/* As long as it has processors; nothing when it may run on all: then it may on another machine
 * too, however many that has. */
static size_t cpus_len(struct vin_steps *s, const struct vin_call *told)
{
	const unsigned char *cpus = vin_steps_told(s, told[CPUS].args[2]);
	size_t len = 0;
	long count = 0;
	for (size_t i = 0; i < CPUS_SIZE; i++) {
		count += __builtin_popcount(cpus[i]);
		if (cpus[i])
			len = i + 1;
	}
	/* from a file, which takes longer than all else here */
	if (s->processors == 0)
		s->processors = sysconf(_SC_NPROCESSORS_ONLN);
	return count >= s->processors ? 0 : len;
}

static int put(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
	       struct fvm_error *err)
{
	(void)err;
	struct attr a;
	bool has_nodes = told[NODES].result == 0;
	memcpy(&a, vin_steps_told(s, told[ATTR].args[1]), sizeof(a));
	vin_put_blob(to, vin_steps_told(s, told[CPUS].args[2]), cpus_len(s, told));
	vin_put_u64(to, (uint64_t)told[NICE].result); /* 20 - nice */
	vin_put_blob(to, &a, sizeof(a));
	vin_put_u64(to, (uint64_t)told[IOPRIO].result);
	vin_put_u64(to, (uint64_t)told[SLACK].result);
	vin_put_blob(to, vin_steps_told(s, told[NODES].args[0]), has_nodes ? 8 + NODES_SIZE : 0);
	return 0;
}

static int replay_cpus(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from)
{
	size_t len, now_len = cpus_len(s, told);
	unsigned char all[CPUS_SIZE];
	const unsigned char *cpus = vin_get_blob(from, &len);
	if (!cpus || len > CPUS_SIZE)
		return -EBADMSG;
	if (len == now_len &&
	    (len == 0 || memcmp(cpus, vin_steps_told(s, told[CPUS].args[2]), len) == 0))
		return 0;
	memset(all, len == 0 ? 0xff : 0, sizeof(all));
	memcpy(all, cpus, len);
	uint64_t at = vin_steps_data(s, all, sizeof(all));
	VIN_STEP(s, "sched_setaffinity", SYS_sched_setaffinity, 0, sizeof(all), at);
	return 0;
}

static void replay_attr(struct vin_steps *s, const struct attr *now, struct attr *want)
{
	bool util = now->size >= sizeof(*now) && want->util_max != 0 &&
		    want->util_max <= UTIL_MAX &&
		    (want->util_min != now->util_min || want->util_max != now->util_max);
	want->flags &= FLAGS_KEPT;
	want->size = sizeof(*want);
	if (want->policy == now->policy && want->flags == (now->flags & FLAGS_KEPT) &&
	    want->priority == now->priority && want->runtime == now->runtime &&
	    want->deadline == now->deadline && want->period == now->period &&
	    want->nice == now->nice && !util)
		return;
	/* a slice that nobody has asked for is told like one that somebody has */
	if (want->policy != 6 /* SCHED_DEADLINE */ && want->runtime == now->runtime)
		want->runtime = 0;
	if (util)
		want->flags |= FLAG_UTIL;
	else
		want->util_min = want->util_max = 0;
	uint64_t at = vin_steps_data(s, want, sizeof(*want));
	VIN_STEP(s, "sched_setattr", SYS_sched_setattr, 0, at, 0);
}

static int replay_nodes(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from)
{
	size_t len;
	const unsigned char *nodes = vin_get_blob(from, &len);
	uint32_t mode;
	if (!nodes || (len != 0 && len != 8 + NODES_SIZE))
		return -EBADMSG;
	if (len == 0 || memcmp(nodes, vin_steps_told(s, told[NODES].args[0]), len) == 0)
		return 0;
	memcpy(&mode, nodes, sizeof(mode));
	uint64_t at = vin_steps_data(s, nodes + 8, NODES_SIZE);
	VIN_STEP(s, "set_mempolicy", SYS_set_mempolicy, mode, at, NODES_SIZE * 8ULL);
	return 0;
}

static int replay(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		  struct fvm_error *err)
{
	(void)err;
	size_t len;
	struct attr now, want;
	int r = replay_cpus(s, told, from);
	uint64_t nice = vin_get_u64(from);
	const void *attr = vin_get_blob(from, &len);
	if (r < 0 || !attr || len != sizeof(want) || nice < 1 || nice > 40)
		return -EBADMSG;
	memcpy(&want, attr, sizeof(want));
	memcpy(&now, vin_steps_told(s, told[ATTR].args[1]), sizeof(now));
	if (nice != (uint64_t)told[NICE].result) {
		VIN_STEP(s, "setpriority", SYS_setpriority, PRIO_PROCESS, 0, 20 - nice);
		if (now.policy == 0 ||
		    now.policy == 3) /* SCHED_OTHER, SCHED_BATCH: it is in there */
			now.nice = 20 - (int32_t)nice;
	}
	replay_attr(s, &now, &want);
	uint64_t ioprio = vin_get_u64(from), slack = vin_get_u64(from);
	if (ioprio != (uint64_t)told[IOPRIO].result)
		VIN_STEP(s, "ioprio_set", SYS_ioprio_set, IOPRIO_WHO, 0, ioprio);
	/* 0 is a real-time thread's; to set it would mean something else */
	if (slack != (uint64_t)told[SLACK].result && slack != 0)
		VIN_STEP(s, "prctl(PR_SET_TIMERSLACK)", SYS_prctl, PR_SET_TIMERSLACK, slack);
	return replay_nodes(s, told, from);
}

const struct vin_trait vin_scheduling = {
	.name = "scheduling", .check = check, .ask = ask, .put = put, .replay = replay
};
