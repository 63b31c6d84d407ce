/*
 * Who a thread is: user and group ids of all four sorts, supplementary groups, the five sets of
 * capabilities, securebits; and the signal it gets when its parent ends, which a change of ids
 * clears.
 *
 * Ids are those of the program's own user namespace, and asked of itself. An id that has no number
 * there shows as the overflow id, which nobody can set: refused.
 *
 * The order of replay: groups, while CAP_SETGID is there. Ids, with a securebit that keeps
 * capabilities out of it. The inheritable set before the bounding set, which limits what may be
 * added to it. Ambient ones before a securebit forbids them. Capabilities last.
 * Each change of ids makes the process undumpable, and may shut us out of its memory: it is made
 * dumpable at once, and what it is in the end comes later.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/securebits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "vin/traits.h"

#define GROUPS_MAX   4096
#define OVERFLOW_ID  65534
#define CAP_VERSION  0x20080522 /* _LINUX_CAPABILITY_VERSION_3 */
#define CAPS_OF_NEWS 64

enum { UIDS, GIDS, FSUID, FSGID, GROUPS, SECUREBITS, DEATH };

struct who {
	uint32_t uid[4], gid[4]; /* real, effective, saved, file system */
	uint64_t inheritable, permitted, effective, bounding, ambient;
	uint64_t securebits, death;
};

static int ask(struct vin_steps *s, struct fvm_error *err)
{
	size_t groups = s->status.group_count;
	if (groups > GROUPS_MAX)
		return fvm_error_say(err, ENOTSUP, "process %d has %zu groups, at most %d go over",
				     s->t->pid, groups, GROUPS_MAX);
	uint64_t at = vin_steps_data(s, NULL, 16);
	VIN_STEP(s, "getresuid", SYS_getresuid, at, at + 4, at + 8);
	at = vin_steps_data(s, NULL, 16);
	VIN_STEP(s, "getresgid", SYS_getresgid, at, at + 4, at + 8);
	VIN_STEP(s, "setfsuid", SYS_setfsuid, ~0ULL);
	VIN_STEP(s, "setfsgid", SYS_setfsgid, ~0ULL);
	at = vin_steps_data(s, NULL, groups * sizeof(uint32_t));
	VIN_STEP(s, "getgroups", SYS_getgroups, groups, at);
	VIN_STEP(s, "prctl(PR_GET_SECUREBITS)", SYS_prctl, PR_GET_SECUREBITS);
	at = vin_steps_data(s, NULL, 8);
	VIN_STEP(s, "prctl(PR_GET_PDEATHSIG)", SYS_prctl, PR_GET_PDEATHSIG, at);
	return 0;
}

static struct who who_of(struct vin_steps *s, const struct vin_call *told)
{
	struct who w = {
		.inheritable = s->status.inheritable,
		.permitted = s->status.permitted,
		.effective = s->status.effective,
		.bounding = s->status.bounding,
		.ambient = s->status.ambient,
		.securebits = (uint64_t)told[SECUREBITS].result,
	};
	memcpy(w.uid, vin_steps_told(s, told[UIDS].args[0]), 12);
	memcpy(w.gid, vin_steps_told(s, told[GIDS].args[0]), 12);
	w.uid[3] = (uint32_t)told[FSUID].result;
	w.gid[3] = (uint32_t)told[FSGID].result;
	memcpy(&w.death, vin_steps_told(s, told[DEATH].args[1]), sizeof(int));
	return w;
}

/* ---- ids without a number ---- */

static bool covers(const char *map, uint32_t id)
{
	unsigned int inner, outer, count;
	int len;
	while (sscanf(map, "%u %u %u%n", &inner, &outer, &count, &len) == 3) {
		if (id - inner < count)
			return true;
		map += len;
	}
	return false;
}

static int check_map(pid_t pid, const char *name, const uint32_t *ids, size_t count,
		     struct fvm_error *err)
{
	char path[40];
	scoped_free char *map = NULL;
	size_t i = 0;
	while (i < count && ids[i] != OVERFLOW_ID)
		i++;
	if (i == count)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	int r = fvm_read_file(AT_FDCWD, path, 1 << 16, &map, NULL);
	if (r < 0)
		return fvm_error_set(err, -r, "read %s", path);
	return covers(map, OVERFLOW_ID)
		       ? 0
		       : fvm_error_say(err, ENOTSUP,
				       "process %d has an id that its user namespace has no number "
				       "for (%s)",
				       pid, name);
}

static int put(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
	       struct fvm_error *err)
{
	struct who w = who_of(s, told);
	size_t count = told[GROUPS].result > 0 ? (size_t)told[GROUPS].result : 0;
	const uint32_t *groups = vin_steps_told(s, told[GROUPS].args[1]);
	int r = check_map(s->t->pid, "uid_map", w.uid, 4, err);
	if (r == 0)
		r = check_map(s->t->pid, "gid_map", w.gid, 4, err);
	/* groups may be such strangers: they stay what they are where nobody sets them */
	vin_put_blob(to, &w, sizeof(w));
	vin_put_blob(to, groups, count * sizeof(*groups));
	return r;
}

/* ---- replay ---- */

static void dumpable(struct vin_steps *s)
{
	VIN_STEP(s, "prctl(PR_SET_DUMPABLE)", SYS_prctl, PR_SET_DUMPABLE, 1);
}

static void replay_ids(struct vin_steps *s, const struct who *now, const struct who *want)
{
	if (memcmp(now->gid, want->gid, sizeof(now->gid)) != 0) {
		VIN_STEP(s, "setresgid", SYS_setresgid, want->gid[0], want->gid[1], want->gid[2]);
		dumpable(s);
		VIN_STEP(s, "setfsgid", SYS_setfsgid, want->gid[3]);
		dumpable(s);
	}
	if (memcmp(now->uid, want->uid, sizeof(now->uid)) != 0) {
		VIN_STEP(s, "setresuid", SYS_setresuid, want->uid[0], want->uid[1], want->uid[2]);
		dumpable(s);
		VIN_STEP(s, "setfsuid", SYS_setfsuid, want->uid[3]);
		dumpable(s);
	}
}

static void set_caps(struct vin_steps *s, uint64_t effective, uint64_t permitted,
		     uint64_t inheritable)
{
	struct {
		struct __user_cap_header_struct head;
		struct __user_cap_data_struct sets[2];
	} caps = { .head = { .version = CAP_VERSION } };
	for (int i = 0; i < 2; i++) {
		caps.sets[i].effective = (uint32_t)(effective >> (32 * i));
		caps.sets[i].permitted = (uint32_t)(permitted >> (32 * i));
		caps.sets[i].inheritable = (uint32_t)(inheritable >> (32 * i));
	}
	uint64_t at = vin_steps_data(s, &caps, sizeof(caps));
	VIN_STEP(s, "capset", SYS_capset, at, at + sizeof(caps.head));
	dumpable(s);
}

static void replay_ambient(struct vin_steps *s, uint64_t want)
{
	VIN_STEP(s, "prctl(PR_CAP_AMBIENT)", SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0,
		 0, 0);
	for (uint64_t cap = 0; cap < CAPS_OF_NEWS; cap++) {
		if (want >> cap & 1)
			VIN_STEP(s, "prctl(PR_CAP_AMBIENT)", SYS_prctl, PR_CAP_AMBIENT,
				 PR_CAP_AMBIENT_RAISE, cap, 0, 0);
	}
}

static bool same_caps(const struct who *a, const struct who *b)
{
	return a->permitted == b->permitted && a->effective == b->effective &&
	       a->inheritable == b->inheritable && a->bounding == b->bounding &&
	       a->ambient == b->ambient && a->securebits == b->securebits;
}

static void replay_caps(struct vin_steps *s, const struct who *now, const struct who *want,
			uint64_t securebits)
{
	if (want->inheritable != now->inheritable)
		set_caps(s, now->permitted, now->permitted, want->inheritable);
	for (uint64_t cap = 0; cap < CAPS_OF_NEWS; cap++) {
		if ((now->bounding & ~want->bounding) >> cap & 1)
			VIN_STEP(s, "prctl(PR_CAPBSET_DROP)", SYS_prctl, PR_CAPBSET_DROP, cap);
	}
	if (want->ambient != now->ambient)
		replay_ambient(s, want->ambient);
	if (want->securebits != securebits)
		VIN_STEP(s, "prctl(PR_SET_SECUREBITS)", SYS_prctl, PR_SET_SECUREBITS,
			 want->securebits);
	set_caps(s, want->effective, want->permitted, want->inheritable);
}

/* Nobody gets back a bound that his maker does not have. */
static int check_bounds(const struct who *now, const struct who *want, struct fvm_error *err)
{
	uint64_t missing = want->bounding & ~now->bounding;
	if (missing == 0)
		return 0;
	fvm_error_say(err, EPERM, "its bounding set has capability %d, which it can't have here",
		      __builtin_ctzll(missing));
	fvm_error_hint(err, "give the VM the capabilities that it had");
	return -EPERM;
}

static void replay_groups(struct vin_steps *s, const struct vin_call *told, const void *groups,
			  size_t len)
{
	size_t now = told[GROUPS].result > 0 ? (size_t)told[GROUPS].result : 0;
	const uint64_t there = told[GROUPS].args[1];
	if (now * sizeof(uint32_t) == len && memcmp(vin_steps_told(s, there), groups, len) == 0)
		return;
	uint64_t at = vin_steps_data(s, groups, len);
	VIN_STEP(s, "setgroups", SYS_setgroups, len / sizeof(uint32_t), at);
}

static int replay(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		  struct fvm_error *err)
{
	size_t len, groups_len;
	struct who now = who_of(s, told), want;
	const void *bytes = vin_get_blob(from, &len);
	const void *groups = vin_get_blob(from, &groups_len);
	if (!bytes || len != sizeof(want) || !groups || groups_len % sizeof(uint32_t) != 0 ||
	    groups_len > GROUPS_MAX * sizeof(uint32_t))
		return -EBADMSG;
	memcpy(&want, bytes, sizeof(want));
	int r = s->post ? check_bounds(&now, &want, err) : 0;
	if (r < 0)
		return r;
	bool ids = memcmp(now.uid, want.uid, sizeof(now.uid)) != 0 ||
		   memcmp(now.gid, want.gid, sizeof(now.gid)) != 0;
	uint64_t securebits = now.securebits;
	replay_groups(s, told, groups, groups_len);
	if (ids && now.permitted != 0) {
		securebits |= 1 << SECURE_NO_SETUID_FIXUP | 1 << SECURE_KEEP_CAPS;
		VIN_STEP(s, "prctl(PR_SET_SECUREBITS)", SYS_prctl, PR_SET_SECUREBITS, securebits);
	}
	replay_ids(s, &now, &want);
	if (!same_caps(&now, &want) || securebits != now.securebits)
		replay_caps(s, &now, &want, securebits);
	if (want.death != now.death || ids || !same_caps(&now, &want))
		VIN_STEP(s, "prctl(PR_SET_PDEATHSIG)", SYS_prctl, PR_SET_PDEATHSIG, want.death);
	return 0;
}

const struct vin_trait vin_credentials = {
	.name = "credentials", .ask = ask, .put = put, .replay = replay
};
