#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vin/family.h"
#include "vin/mem.h"
#include "vin/replay.h"
#include "vin/status.h"
#include "vin/thread.h"

/* One process, as far as it is made. */
struct actor {
	const struct vin_member *member;
	struct vin_blank blank;
	pid_t session; /* that it is in */
	bool born;
	bool mapped;
	struct vin_mem mem;
	struct vin_thread_state *states; /* as many as member->threads, when all have come */
	size_t state_count;
	struct vin_thread *threads; /* but the first */
	size_t thread_count;
};

struct vin_replay {
	struct vin_replay_options options;
	struct vin_nest nest;
	struct vin_objects objects;
	struct vin_family family;
	struct actor *actors; /* as the family's members */
	bool running;
};

static int bad(const char *how, struct fvm_error *err)
{
	return fvm_error_say(err, EBADMSG, "the image is damaged: %s", how);
}

static struct actor *find_actor(struct vin_replay *r, uint64_t number)
{
	for (size_t i = 0; i < r->family.count; i++) {
		if ((uint64_t)r->family.members[i].number == number)
			return &r->actors[i];
	}
	return NULL;
}

/* ---- TREE ---- */

static int call(struct actor *a, const char *name, struct vin_call c, struct fvm_error *err)
{
	return vin_call(&a->blank.post, &a->blank.thread, name, &c, NULL, err);
}

static int bear(struct vin_replay *r, struct actor *parent, struct actor *child,
		struct fvm_error *err)
{
	struct vin_blank *from = parent ? &parent->blank : &r->nest.init;
	int e = vin_blank_fork(&r->nest, from, child->member->number, &child->blank, err);
	if (e < 0)
		return e;
	child->session = parent ? parent->session : 0;
	child->born = true;
	return 0;
}

static int bear_children(struct vin_replay *r, struct actor *parent, struct fvm_error *err)
{
	const pid_t number = parent ? parent->member->number : 0;
	const pid_t session = parent ? parent->session : 0;
	const bool last = !parent || session == parent->member->session;
	int e = 0;
	for (size_t i = 0; e == 0 && i < r->family.count; i++) {
		struct actor *a = &r->actors[i];
		if (a->member->parent != number || a->born)
			continue;
		if (last || (a->member->session == session && a->member->number != session))
			e = bear(r, parent, a, err);
	}
	return e;
}

static int make_actor(struct vin_replay *r, struct actor *a, struct fvm_error *err)
{
	const struct vin_member *m = a->member;
	int e = 0;
	if (m->session != a->session) {
		if (m->session != m->number)
			return fvm_error_say(err, EOPNOTSUPP,
					     "process %d is in session %d, whose leader is neither "
					     "its parent nor before it",
					     m->number, m->session);
		e = bear_children(r, a, err);
		if (e == 0)
			e = call(a, "setsid", (struct vin_call){ SYS_setsid, { 0 } }, err);
		if (e < 0)
			return e;
		a->session = m->number;
	}
	return bear_children(r, a, err);
}

static int take_tree(struct vin_replay *r, struct vin_payload *p, struct fvm_error *err)
{
	if (r->actors)
		return bad("two trees", err);
	int e = vin_family_get(p, &r->family);
	if (e < 0)
		return e == -EBADMSG ? bad("no tree", err) : fvm_error_set(err, -e, "read a tree");
	r->actors = calloc(r->family.count, sizeof(*r->actors));
	if (!r->actors)
		return fvm_error_set(err, ENOMEM, "read a tree");
	for (size_t i = 0; i < r->family.count; i++)
		r->actors[i].member = &r->family.members[i];
	e = vin_nest_open(r->family.hole, r->options.user, &r->nest, err);
	if (e == 0)
		e = bear_children(r, NULL, err);
	for (size_t i = 0; e == 0 && i < r->family.count; i++)
		e = make_actor(r, &r->actors[i], err);
	return e;
}

/* ---- MAPS, THREAD, PAGES, OBJECT ---- */

static int take_maps(struct vin_replay *r, struct vin_payload *p, struct fvm_error *err)
{
	struct actor *a = find_actor(r, vin_get_u64(p));
	if (!a || a->mapped || a->member->zombie)
		return bad("memory of nobody", err);
	int e = vin_mem_get(p, r->family.hole, &a->mem);
	if (e == 0 && vin_get_done(p) < 0)
		e = -EBADMSG;
	if (e < 0)
		return e == -EBADMSG ? bad("no map of memory", err)
				     : fvm_error_set(err, -e, "read a map of memory");
	a->mapped = true;
	return vin_mem_map(&r->nest, &a->blank, &a->mem, &r->objects, r->options.root, err);
}

static int take_thread(struct vin_replay *r, struct vin_payload *p, struct fvm_error *err)
{
	struct vin_thread_state s;
	int e = vin_thread_get(p, &s);
	if (e < 0)
		return e == -EBADMSG ? bad("no thread", err)
				     : fvm_error_set(err, -e, "read a thread");
	struct actor *a = find_actor(r, (uint64_t)s.pid);
	struct vin_thread_state *more =
		a && a->state_count < a->member->threads
			? realloc(a->states, fvm_room(a->state_count + 1) * sizeof(*more))
			: NULL;
	if (!more) {
		vin_thread_state_free(&s);
		return bad("a thread of nobody", err);
	}
	a->states = more;
	a->states[a->state_count++] = s;
	return 0;
}

/* Those of an object follow it; those of processes have all objects before them. */
static int take_pages(struct vin_replay *r, struct vin_in *in, struct fvm_error *err)
{
	uint64_t number;
	int e = vin_in_piece(in, &number, sizeof(number), err);
	if (e < 0)
		return e;
	if (!r->actors) {
		if (r->objects.count == 0 || number != r->objects.count - 1)
			return bad("pages of nothing", err);
		return vin_object_fill(&r->objects, in, err);
	}
	struct actor *a = find_actor(r, number);
	if (!a || !a->mapped)
		return bad("pages of nobody", err);
	return vin_mem_read_pages(a->blank.post.pid, &a->mem, in, err);
}

static int take_object(struct vin_replay *r, struct vin_payload *p, struct fvm_error *err)
{
	if (r->actors)
		return bad("shared memory behind the tree", err);
	int e = vin_object_get(p, &r->objects);
	if (e < 0)
		return e == -EBADMSG ? bad("no shared memory", err)
				     : fvm_error_set(err, -e, "read shared memory");
	return vin_object_make(&r->objects, err);
}

static const struct {
	enum vin_tag tag;
	int (*take)(struct vin_replay *r, struct vin_payload *p, struct fvm_error *err);
	bool first; /* may stand before the tree */
} records[] = {
	{ VIN_TAG_OBJECT, take_object, true },
	{ VIN_TAG_TREE, take_tree, true },
	{ VIN_TAG_MAPS, take_maps, false },
	{ VIN_TAG_THREAD, take_thread, false },
};

static int take_record(struct vin_replay *r, enum vin_tag tag, struct vin_in *in,
		       struct fvm_error *err)
{
	struct vin_payload p;
	if (tag == VIN_TAG_PAGES)
		return take_pages(r, in, err);
	for (size_t i = 0; i < sizeof(records) / sizeof(*records); i++) {
		if (records[i].tag != tag)
			continue;
		if (!records[i].first && !r->actors)
			return bad("no tree in front", err);
		int e = vin_in_payload(in, &p, err);
		return e < 0 ? e : records[i].take(r, &p, err);
	}
	return fvm_error_say(err, EPROTONOSUPPORT, "the image has a record %d that is not known",
			     (int)tag);
}

/* ---- END ---- */

static int check_whole(const struct vin_replay *r, struct fvm_error *err)
{
	if (!r->actors)
		return bad("no programs", err);
	for (size_t i = 0; i < r->family.count; i++) {
		const struct actor *a = &r->actors[i];
		if (!a->member->zombie &&
		    (!a->mapped || a->state_count != a->member->threads ||
		     (!a->member->leader_gone && a->states[0].tid != a->member->number)))
			return bad("a process is not whole", err);
	}
	return 0;
}

static int make_threads(struct vin_replay *r, struct actor *a, struct fvm_error *err)
{
	const size_t first = a->member->leader_gone ? 0 : 1;
	int e = 0;
	a->threads = calloc(a->state_count + 1, sizeof(*a->threads));
	if (!a->threads)
		return fvm_error_set(err, ENOMEM, "make threads");
	for (size_t i = first; e == 0 && i < a->state_count; i++) {
		struct vin_thread *t = &a->threads[a->thread_count];
		e = vin_blank_thread(&r->nest, &a->blank, a->states[i].tid, t, err);
		if (e < 0)
			return e;
		a->thread_count++;
		e = vin_thread_dress(&a->blank.post, t, &a->states[i], err);
	}
	if (e == 0 && first == 1)
		e = vin_thread_dress(&a->blank.post, &a->blank.thread, &a->states[0], err);
	return e;
}

static int finish_actor(struct vin_replay *r, struct actor *a, struct fvm_error *err)
{
	int e = vin_mem_name(&r->nest, &a->blank, &a->mem, r->options.root, err);
	if (e == 0)
		e = vin_mem_finish(&a->blank, &a->mem, err);
	if (e == 0)
		e = make_threads(r, a, err);
	if (e == 0 && a->blank.line >= 0)
		e = call(a, "close", (struct vin_call){ SYS_close, { (uint64_t)a->blank.line } },
			 err);
	a->blank.line = -1;
	return e;
}

/* Leaders of groups first: a group is there when somebody is in it. */
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
			e = call(a, "setpgid",
				 (struct vin_call){ SYS_setpgid, { 0, (uint64_t)m->group } }, err);
		}
	}
	return e;
}

static int become_zombie(struct actor *a, struct fvm_error *err)
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

/* The registers: everybody stands where his program was. */
static int place_actor(struct actor *a, struct fvm_error *err)
{
	const bool gone = a->member->leader_gone;
	int e = 0;
	for (size_t i = 0; e == 0 && i < a->thread_count; i++) {
		e = vin_thread_ready(&a->blank.post, &a->threads[i], &a->states[i + !gone], err);
		if (e == 0 && (!gone || i > 0))
			e = vin_thread_park(&a->threads[i], err);
	}
	if (e == 0 && !gone)
		e = vin_thread_ready(&a->blank.post, &a->blank.thread, &a->states[0], err);
	struct vin_thread *last = gone ? &a->threads[0] : &a->blank.thread;
	return e < 0 ? e : vin_post_close(&a->blank.post, last, err);
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
static int lose_leader(struct actor *a, struct fvm_error *err)
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

static int finish(struct vin_replay *r, struct fvm_error *err)
{
	int e = check_whole(r, err);
	for (size_t i = 0; e == 0 && i < r->family.count; i++) {
		if (!r->actors[i].member->zombie)
			e = finish_actor(r, &r->actors[i], err);
	}
	if (e == 0)
		e = vin_objects_seal(&r->objects, err);
	if (e == 0)
		e = set_groups(r, err);
	for (size_t i = 0; e == 0 && i < r->family.count; i++) {
		if (r->actors[i].member->zombie)
			e = become_zombie(&r->actors[i], err);
		else if (r->actors[i].member->leader_gone)
			e = lose_leader(&r->actors[i], err);
	}
	for (size_t i = 0; e == 0 && i < r->family.count; i++) {
		if (!r->actors[i].member->zombie)
			e = place_actor(&r->actors[i], err);
	}
	return e;
}

int vin_replay_build(struct vin_in *in, const struct vin_replay_options *options,
		     struct vin_replay **ret, struct fvm_error *err)
{
	struct vin_replay *r = calloc(1, sizeof(*r));
	if (!r)
		return fvm_error_set(err, ENOMEM, "replay programs");
	r->options = *options;
	r->nest.line = -1;
	enum vin_tag tag = VIN_TAG_HEAD;
	int e = 0;
	while (e == 0 && tag != VIN_TAG_END) {
		uint64_t len;
		e = vin_in_next(in, &tag, &len, err);
		if (e == 0 && tag != VIN_TAG_END)
			e = take_record(r, tag, in, err);
	}
	if (e == 0)
		e = finish(r, err);
	if (e < 0)
		vin_replay_close(r);
	else
		*ret = r;
	return e;
}

/* ---- after that ---- */

pid_t vin_replay_init(const struct vin_replay *r)
{
	return r->nest.init.thread.pid;
}

static int release(struct vin_thread *t, const struct vin_thread_state *s, struct fvm_error *err)
{
	if (s->stopped)
		(void)syscall(SYS_tgkill, t->pid, t->tid, SIGSTOP);
	return vin_thread_release(t, err);
}

static int release_actor(struct actor *a, struct fvm_error *err)
{
	const bool gone = a->member->leader_gone;
	int e = 0;
	for (size_t i = 0; e == 0 && i < a->thread_count; i++)
		e = release(&a->threads[i], &a->states[i + !gone], err);
	if (e == 0 && !gone)
		e = release(&a->blank.thread, &a->states[0], err);
	return e;
}

int vin_replay_go(struct vin_replay *r, struct fvm_error *err)
{
	int e = 0;
	/* children first: a parent that goes on may look at them */
	for (size_t i = r->family.count; e == 0 && i-- > 0;) {
		if (!r->actors[i].member->zombie)
			e = release_actor(&r->actors[i], err);
	}
	if (e == 0)
		e = vin_nest_release(&r->nest, err);
	if (e < 0)
		vin_nest_kill(&r->nest);
	r->running = e == 0;
	return e;
}

void vin_replay_close(struct vin_replay *r)
{
	if (!r)
		return;
	if (!r->running)
		vin_nest_kill(&r->nest);
	for (size_t i = 0; r->actors && i < r->family.count; i++) {
		struct actor *a = &r->actors[i];
		vin_mem_free(&a->mem);
		for (size_t j = 0; j < a->state_count; j++)
			vin_thread_state_free(&a->states[j]);
		free(a->states);
		free(a->threads);
	}
	free(r->actors);
	vin_objects_free(&r->objects);
	vin_family_free(&r->family);
	free(r);
}
