/* Processes go into namespaces of their own. */
#include <errno.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "vin/replay_priv.h"

static int enter(struct vin_replay *r, struct actor *a, int fd, int flag, struct fvm_error *err)
{
	int theirs;
	int e = vin_blank_give(&r->nest, &a->blank, &fd, 1, &theirs, err);
	struct vin_call go = { SYS_setns, { (uint64_t)theirs, (uint64_t)flag } };
	struct vin_call end = { SYS_close, { (uint64_t)theirs } };
	if (e == 0)
		e = vin_actor_call(a, "setns", go, err);
	return e < 0 ? e : vin_actor_call(a, "close", end, err);
}

static int enter_all(struct vin_replay *r, struct actor *a, struct fvm_error *err)
{
	const struct vin_namespaces *own = &r->own;
	const pid_t number = a->member->number;
	int e = 0;
	for (size_t i = vin_namespaces_of(own, number, 0); e == 0 && i < own->member_count;
	     i = vin_namespaces_of(own, number, i + 1)) {
		const struct vin_namespace *n = &own->list[own->members[i].which];
		e = enter(r, a, n->fd, vin_namespace_flag(n), err);
	}
	return e;
}

int vin_actors_enter(struct vin_replay *r, struct fvm_error *err)
{
	int e = 0;
	for (size_t i = 0; e == 0 && r->own.count && i < r->family.count; i++) {
		if (!r->actors[i].member->zombie)
			e = enter_all(r, &r->actors[i], err);
	}
	return e;
}

int vin_actor_enter_users(struct vin_replay *r, struct actor *a, struct fvm_error *err)
{
	const int fd = vin_users_find(&r->users, a->member->number);
	struct vin_call dumpable = { SYS_prctl, { PR_SET_DUMPABLE, 1 } };
	if (fd < 0)
		return 0;
	int e = enter(r, a, fd, CLONE_NEWUSER, err);
	return e < 0 ? e : vin_actor_call(a, "prctl(PR_SET_DUMPABLE)", dumpable, err);
}
