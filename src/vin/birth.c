/* The processes of a family: born with their numbers, in their sessions and groups. */
#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vin/replay_priv.h"
#include "vin/status.h"

int vin_actor_call(struct actor *a, const char *name, struct vin_call c, struct fvm_error *err)
{
	return vin_call(&a->blank.post, &a->blank.thread, name, &c, NULL, err);
}

/* ---- sessions ---- */

static int bear(struct vin_replay *r, struct vin_blank *from, pid_t session, struct actor *child,
		struct fvm_error *err)
{
	const struct actor *parent = vin_replay_actor(r, child->member->parent);
	const unsigned shares = child->member->shares;
	if (shares && (!parent || from != &parent->blank))
		return fvm_error_say(err, EOPNOTSUPP,
				     "process %d shares with a parent that it was not born by",
				     child->member->number);
	int e = vin_blank_fork(&r->nest, from,
			       (shares & VIN_SHARES_FILES ? CLONE_FILES : 0) |
				       (shares & VIN_SHARES_DIRS ? CLONE_FS : 0),
			       child->member->number, &child->blank, err);
	if (e < 0)
		return e;
	child->session = session;
	child->born = true;
	return 0;
}

/* Those of PID 1 that are neither its session's nor leaders of their own: born in the session by
 * somebody who ends, as the one had that left them. */
static bool is_left_behind(const struct vin_member *m)
{
	return m->parent == 0 && m->session != 0 && m->session != m->number;
}

static int bear_left_behind(struct vin_replay *r, struct vin_blank *from, pid_t session,
			    struct fvm_error *err)
{
	int e = 0;
	for (size_t i = 0; e == 0 && i < r->family.count; i++) {
		struct actor *a = &r->actors[i];
		if (!a->born && is_left_behind(a->member) && a->member->session == session)
			e = bear(r, from, session, a, err);
	}
	return e;
}

static bool leaves_some(const struct vin_replay *r, pid_t session)
{
	for (size_t i = 0; i < r->family.count; i++) {
		const struct actor *a = &r->actors[i];
		if (!a->born && is_left_behind(a->member) && a->member->session == session)
			return true;
	}
	return false;
}

static int reap_ghost(struct actor *parent, pid_t number, struct fvm_error *err)
{
	return vin_actor_call(parent, "wait4",
			      (struct vin_call){ SYS_wait4, { (uint64_t)number, 0, __WALL } }, err);
}

/* By a child of the session's leader. */
static int leave_some(struct vin_replay *r, struct actor *leader, struct fvm_error *err)
{
	const pid_t session = leader->member->number, number = r->spare + 1;
	struct vin_blank ghost;
	if (!leaves_some(r, session))
		return 0;
	int e = vin_blank_ghost(&r->nest, &leader->blank, number, &ghost, err);
	if (e == 0)
		e = bear_left_behind(r, &ghost, session, err);
	if (e == 0)
		e = vin_blank_end(&r->nest, &ghost, err);
	return e < 0 ? e : reap_ghost(leader, number, err);
}

/* A leader is born in the session that its parent is in at last. */
static pid_t first_session(const struct vin_replay *r, const struct vin_member *m)
{
	const struct vin_member *parent = vin_family_find(&r->family, m->parent);
	if (m->session != m->number)
		return m->session;
	return parent ? parent->session : 0;
}

/* Those of a parent that neither is in their session nor began in it: a subreaper's, which adopted
 * them. */
static bool is_stray(const struct vin_replay *r, const struct actor *a)
{
	const struct vin_member *m = a->member;
	const struct vin_member *parent = vin_family_find(&r->family, m->parent);
	return !a->born && parent && m->session && m->session != m->number &&
	       m->session != parent->session && m->session != first_session(r, parent);
}

static bool has_strays(const struct vin_replay *r, pid_t session)
{
	for (size_t i = 0; i < r->family.count; i++) {
		if (r->actors[i].member->session == session && is_stray(r, &r->actors[i]))
			return true;
	}
	return false;
}

/* By a leader that is gone. */
static int bear_session(struct vin_replay *r, pid_t session, struct fvm_error *err)
{
	struct vin_call setsid_call = { SYS_setsid, { 0 } };
	struct vin_blank ghost;
	int e = vin_blank_ghost(&r->nest, &r->nest.init, session, &ghost, err);
	if (e == 0)
		e = vin_call(&ghost.post, &ghost.thread, "setsid", &setsid_call, NULL, err);
	if (e == 0)
		e = bear_left_behind(r, &ghost, session, err);
	return e < 0 ? e : vin_blank_end(&r->nest, &ghost, err);
}

static int bear_children(struct vin_replay *r, struct actor *parent, struct fvm_error *err)
{
	const pid_t number = parent->member->number, session = parent->session;
	const bool last = session == parent->member->session;
	int e = 0;
	for (size_t i = 0; e == 0 && i < r->family.count; i++) {
		struct actor *a = &r->actors[i];
		if (a->member->parent != number || a->born)
			continue;
		if (last ? !is_stray(r, a)
			 : a->member->session == session && a->member->number != session)
			e = bear(r, &parent->blank, session, a, err);
	}
	return e;
}

static int bear_roots(struct vin_replay *r, struct fvm_error *err)
{
	int e = 0;
	for (size_t i = 0; e == 0 && i < r->family.count; i++) {
		struct actor *a = &r->actors[i];
		const struct vin_member *m = a->member;
		if (m->parent || a->born)
			continue;
		if (!is_left_behind(m))
			e = bear(r, &r->nest.init, 0, a, err);
		else if (!vin_family_find(&r->family, m->session) && !has_strays(r, m->session))
			e = bear_session(r, m->session, err);
	}
	return e;
}

static int take_terminal(struct vin_replay *r, struct actor *a, struct fvm_error *err)
{
	int fd = a->member->terminal && r->files ? vin_reopen_fd(r->files, a->member->terminal - 1)
						 : -1;
	if (a->member->terminal == 0)
		return 0;
	if (fd < 0)
		return fvm_error_say(err, EBADMSG, "the image is damaged: no terminal");
	return vin_actor_call(a, "ioctl(TIOCSCTTY)",
			      (struct vin_call){ SYS_ioctl, { (uint64_t)fd, TIOCSCTTY, 0 } }, err);
}

static int lead_session(struct vin_replay *r, struct actor *a, struct fvm_error *err)
{
	const struct vin_member *m = a->member;
	if (m->session != m->number)
		return fvm_error_say(err, EOPNOTSUPP,
				     "process %d is in session %d, whose leader is neither its "
				     "parent nor before it",
				     m->number, m->session);
	int e = bear_children(r, a, err);
	if (e == 0)
		e = vin_actor_call(a, "setsid", (struct vin_call){ SYS_setsid, { 0 } }, err);
	if (e < 0)
		return e;
	a->session = m->number;
	e = take_terminal(r, a, err);
	return e < 0 ? e : leave_some(r, a, err);
}

static int make_actor(struct vin_replay *r, struct actor *a, struct fvm_error *err)
{
	int e = a->member->session != a->session ? lead_session(r, a, err) : 0;
	if (e == 0)
		e = bear_children(r, a, err);
	a->made = true;
	return e;
}

/* ---- the adopted ---- */

/* How far below PID 1; parents come before their children, so it ends. */
static size_t depth_of(const struct vin_family *f, pid_t number)
{
	size_t depth = 0;
	for (const struct vin_member *m; (m = vin_family_find(f, number)); number = m->parent)
		depth++;
	return depth;
}

static bool is_below(const struct vin_family *f, pid_t number, pid_t above)
{
	const struct vin_member *m;
	while (number != above && (m = vin_family_find(f, number)))
		number = m->parent;
	return number == above;
}

static bool waits_in(const struct vin_replay *r, const struct actor *a, pid_t session)
{
	return a->member->session == session &&
	       (is_stray(r, a) || (!a->born && is_left_behind(a->member)));
}

static int set_reaper(struct actor *a, bool on, struct fvm_error *err)
{
	return vin_actor_call(a, "prctl(PR_SET_CHILD_SUBREAPER)",
			      (struct vin_call){ SYS_prctl, { PR_SET_CHILD_SUBREAPER, on } }, err);
}

/* One of a session, by somebody in it who ends at once: the nearest subreaper above him adopts it,
 * and there is one at a time (PID 1 if none). */
static int adopt(struct vin_replay *r, struct vin_blank *leader, struct actor *child,
		 struct fvm_error *err)
{
	const pid_t number = r->spare + 1;
	struct actor *parent = vin_replay_actor(r, child->member->parent);
	struct vin_call reap = { SYS_wait4, { (uint64_t)number, 0, __WALL } };
	struct vin_blank ghost;
	int e = parent ? set_reaper(parent, true, err) : 0;
	if (e == 0)
		e = vin_blank_ghost(&r->nest, leader, number, &ghost, err);
	if (e == 0)
		e = bear(r, &ghost, child->member->session, child, err);
	if (e == 0)
		e = vin_blank_end(&r->nest, &ghost, err);
	if (e == 0)
		e = vin_call(&leader->post, &leader->thread, "wait4", &reap, NULL, err);
	return e == 0 && parent ? set_reaper(parent, false, err) : e;
}

static int adopt_all(struct vin_replay *r, struct vin_blank *leader, pid_t above, pid_t session,
		     struct fvm_error *err)
{
	int e = 0;
	for (size_t i = 0; e == 0 && i < r->family.count; i++) {
		struct actor *a = &r->actors[i];
		if (!waits_in(r, a, session))
			continue;
		if (!is_below(&r->family, above, a->member->parent))
			return fvm_error_say(err, EOPNOTSUPP,
					     "process %d is in session %d, whose leader is neither "
					     "its parent nor below it",
					     a->member->number, session);
		e = adopt(r, leader, a, err);
	}
	return e;
}

/* Of a session without its leader: below all who adopt somebody of it. */
static struct actor *deepest_parent(struct vin_replay *r, pid_t session)
{
	struct actor *deepest = NULL;
	for (size_t i = 0; i < r->family.count; i++) {
		const struct vin_member *m = r->actors[i].member;
		if (!waits_in(r, &r->actors[i], session) || m->parent == 0)
			continue;
		if (!deepest ||
		    depth_of(&r->family, m->parent) > depth_of(&r->family, deepest->member->number))
			deepest = vin_replay_actor(r, m->parent);
	}
	return deepest;
}

static int adopt_leaderless(struct vin_replay *r, pid_t session, struct fvm_error *err)
{
	struct vin_call setsid_call = { SYS_setsid, { 0 } };
	struct actor *parent = deepest_parent(r, session);
	struct vin_blank ghost;
	if (!parent || !parent->made)
		return 0;
	int e = vin_blank_ghost(&r->nest, &parent->blank, session, &ghost, err);
	if (e == 0)
		e = vin_call(&ghost.post, &ghost.thread, "setsid", &setsid_call, NULL, err);
	if (e == 0)
		e = adopt_all(r, &ghost, parent->member->number, session, err);
	if (e == 0)
		e = vin_blank_end(&r->nest, &ghost, err);
	return e < 0 ? e : reap_ghost(parent, session, err);
}

/* Whose leader is not made yet comes later. */
static int adopt_strays(struct vin_replay *r, struct fvm_error *err)
{
	int e = 0;
	for (size_t i = 0; e == 0 && i < r->family.count; i++) {
		struct actor *a = &r->actors[i];
		const pid_t session = a->member->session;
		struct actor *leader = vin_replay_actor(r, session);
		if (!is_stray(r, a))
			continue;
		if (!leader)
			e = adopt_leaderless(r, session, err);
		else if (leader->made)
			e = adopt_all(r, &leader->blank, session, session, err);
	}
	return e;
}

/* Those who are born already. Who was left behind may come before the leader who gives birth to
 * it. */
static int make_actors(struct vin_replay *r, size_t *made, struct fvm_error *err)
{
	size_t before;
	int e = 0;
	do {
		before = *made;
		for (size_t i = 0; e == 0 && i < r->family.count; i++) {
			if (!r->actors[i].born || r->actors[i].made)
				continue;
			e = make_actor(r, &r->actors[i], err);
			(*made)++;
		}
	} while (e == 0 && *made != before);
	return e;
}

int vin_birth_all(struct vin_replay *r, struct fvm_error *err)
{
	size_t made = 0, before;
	int e = bear_roots(r, err);
	do {
		before = made;
		if (e == 0)
			e = make_actors(r, &made, err);
		if (e == 0 && made != r->family.count)
			e = adopt_strays(r, err);
	} while (e == 0 && made != before);
	for (size_t i = 0; e == 0 && i < r->family.count; i++) {
		const struct vin_member *m = r->actors[i].member;
		if (!r->actors[i].made)
			e = fvm_error_say(err, EOPNOTSUPP,
					  "process %d is in session %d, which can't be made for it",
					  m->number, m->session);
	}
	return e;
}

/* ---- groups ---- */

static int join(struct actor *a, pid_t group, struct fvm_error *err)
{
	return vin_actor_call(a, "setpgid",
			      (struct vin_call){ SYS_setpgid, { 0, (uint64_t)group } }, err);
}

/* A leader that is gone leads until the others are in the group. A session's is there already: all
 * were born in it. */
static int lead_group(struct vin_replay *r, struct actor *first, struct fvm_error *err)
{
	const pid_t group = first->member->group;
	struct vin_call setpgid_call = { SYS_setpgid, { 0 } };
	struct vin_blank ghost;
	int e = vin_blank_ghost(&r->nest, &first->blank, group, &ghost, err);
	if (e == 0)
		e = vin_call(&ghost.post, &ghost.thread, "setpgid", &setpgid_call, NULL, err);
	for (size_t i = 0; e == 0 && i < r->family.count; i++) {
		if (r->actors[i].member->group == group)
			e = join(&r->actors[i], group, err);
	}
	if (e == 0)
		e = vin_blank_end(&r->nest, &ghost, err);
	return e < 0 ? e : reap_ghost(first, group, err);
}

static bool is_led_before(const struct vin_replay *r, size_t number)
{
	for (size_t i = 0; i < number; i++) {
		if (r->actors[i].member->group == r->actors[number].member->group)
			return true;
	}
	return false;
}

/* Leaders first: a group is there when somebody is in it. */
static int set_groups(struct vin_replay *r, struct fvm_error *err)
{
	int e = 0;
	for (int leaders = 1; e == 0 && leaders >= 0; leaders--) {
		for (size_t i = 0; e == 0 && i < r->family.count; i++) {
			struct actor *a = &r->actors[i];
			const struct vin_member *m = a->member;
			/* setsid() has made a group, too */
			if (m->group == 0 || (m->group == m->number) != leaders ||
			    m->session == m->number)
				continue;
			if (m->group == m->session || vin_family_find(&r->family, m->group))
				e = join(a, m->group, err);
			else if (!is_led_before(r, i))
				e = lead_group(r, a, err);
		}
	}
	return e;
}

static int give_foreground(struct vin_replay *r, struct actor *a, struct fvm_error *err)
{
	const struct vin_member *m = a->member;
	const int fd = vin_reopen_fd(r->files, m->terminal - 1);
	int e = vin_mem_write(a->blank.post.pid, a->blank.post.data, &m->foreground,
			      sizeof(m->foreground));
	if (e < 0)
		return fvm_error_set(err, -e, "write to process %d", m->number);
	return vin_actor_call(a, "ioctl(TIOCSPGRP)",
			      (struct vin_call){ SYS_ioctl,
						 { (uint64_t)fd, TIOCSPGRP, a->blank.post.data } },
			      err);
}

int vin_birth_groups(struct vin_replay *r, struct fvm_error *err)
{
	int e = set_groups(r, err);
	for (size_t i = 0; e == 0 && r->files && i < r->family.count; i++) {
		const struct vin_member *m = r->actors[i].member;
		if (m->terminal && m->foreground && m->foreground != m->group)
			e = give_foreground(r, &r->actors[i], err);
	}
	return e;
}

/* ---- who has ended ---- */

int vin_birth_zombie(struct actor *a, struct fvm_error *err)
{
	const int code = a->member->exit_code, sig = code & 0x7f;
	const pid_t pid = a->blank.post.pid;
	int e = 0;
	if (sig) {
		(void)kill(pid, sig == SIGTRAP || sig > 31 ? SIGKILL : sig);
		(void)ptrace(PTRACE_CONT, pid, 0, sig);
	}
	struct vin_regs regs = a->blank.thread.regs;
	struct vin_call end = { SYS_exit_group, { (uint64_t)(code >> 8) } };
	vin_arch_single(&regs, &end, &a->blank.post.place);
	if (!sig)
		e = vin_arch_set(pid, &regs);
	if (e == 0 && !sig && ptrace(PTRACE_CONT, pid, 0, 0) < 0)
		e = -errno;
	/* ours to hear of it first, then its parent's */
	if (e == 0 && waitpid(pid, NULL, __WALL) < 0)
		e = -errno;
	return e < 0 ? fvm_error_set(err, -e, "end process %d again", a->member->number) : 0;
}

/* Not before it has made its last call may the post be taken away from under it. Who traces hears
 * of its end only when all threads have come to theirs. */
static int await_leader(pid_t pid)
{
	struct vin_stat st;
	for (int i = 0; i < 10000; i++) {
		if (vin_stat_read(pid, pid, &st, NULL) < 0 || st.state == 'Z')
			return 0;
		usleep(100 + (useconds_t)i);
	}
	return -ETIMEDOUT;
}

/* The first thread ends as it had before. */
int vin_birth_lose_leader(struct actor *a, struct fvm_error *err)
{
	struct vin_regs regs = a->blank.thread.regs;
	struct vin_call end = { SYS_exit, { 0 } };
	vin_arch_single(&regs, &end, &a->blank.post.place);
	int e = vin_arch_set(a->blank.thread.tid, &regs);
	if (e == 0 && ptrace(PTRACE_DETACH, a->blank.thread.tid, 0, 0) < 0)
		e = -errno;
	if (e == 0)
		e = await_leader(a->blank.thread.tid);
	/* its memory is to be had through another from now on */
	a->blank.post.pid = a->threads[0].tid;
	return e < 0 ? fvm_error_set(err, -e, "end the first thread of process %d",
				     a->member->number)
		     : 0;
}
