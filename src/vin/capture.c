#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vin/capture.h"
#include "vin/cloexec.h"
#include "vin/dirty.h"
#include "vin/family.h"
#include "vin/files.h"
#include "vin/ipc.h"
#include "vin/kinds.h"
#include "vin/maps.h"
#include "vin/mem.h"
#include "vin/mounts.h"
#include "vin/namespaces.h"
#include "vin/netlock.h"
#include "vin/sharing.h"
#include "vin/spaces.h"
#include "vin/status.h"
#include "vin/stops.h"
#include "vin/thread.h"
#include "vin/traits.h"
#include "vin/users.h"

#define HOLE_FIRST  (4ULL << 30) /* above what programs that are not position independent use */
#define PATIENCE_MS 64		 /* longest pause before another stop */
#define INSTANT_MS  1000
#define VFORK_MS    200 /* longest wait for a child of vfork(2) to execute something */
#define LOOKS	    5	/* at programs that run, until what is seen fits together */
#define HOLE_LAST   0x7f0000000000ULL /* below the kernel's own choices for a blank */
#define LOW_FIRST   (1ULL << 30)      /* where 32-bit programs are, too */
#define LOW_LAST    (3ULL << 30)

/* What we know of a process. */
struct subject {
	pid_t pid;
	pid_t via;	      /* a thread that lives: /proc shows nothing of a leader that ended */
	struct vin_maps maps; /* detailed */
	struct vin_mem mem;
	unsigned shares; /* enum vin_shares */
	bool told;	 /* its parent has waited for its stop */
};

struct vin_capture {
	struct vin_capture_options options;
	pid_t *roots;
	size_t root_count;
	struct subject *subjects;
	size_t count;
	struct vin_objects objects;
	struct vin_files files;
	struct vin_sought_list *names; /* of what is watched, as it was last seen */
	struct vin_tree tree;
	struct vin_family family;
	struct vin_namespaces own;
	bool mounted; /* they have made mounts */
	bool moving;  /* what was refused was a file, by what was seen one after the other */
	size_t depth; /* of the pid namespace that all are in */
};

static void forget_subjects(struct subject *list, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		vin_maps_free(&list[i].maps);
		vin_mem_free(&list[i].mem);
	}
	free(list);
}

static struct subject *find_subject(const struct vin_capture *c, pid_t pid)
{
	for (size_t i = 0; i < c->count; i++) {
		if (c->subjects[i].pid == pid)
			return &c->subjects[i];
	}
	return NULL;
}

/* ---- before the stop ---- */

static int add_subject(struct vin_capture *c, pid_t pid)
{
	struct subject *more = realloc(c->subjects, fvm_room(c->count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	c->subjects = more;
	c->subjects[c->count++] = (struct subject){ .pid = pid, .via = pid };
	return 0;
}

static int add_child(void *arg, pid_t child)
{
	struct vin_capture *c = arg;
	return find_subject(c, child) ? 0 : add_subject(c, child);
}

static int add_children_of(struct vin_capture *c, pid_t pid)
{
	char path[40];
	int r = 0;
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	scoped_dir d = opendir(path);
	for (struct dirent *e; r == 0 && d && (e = fvm_dir_next(d));)
		r = vin_each_child(pid, (pid_t)strtol(e->d_name, NULL, 10), add_child, c);
	return r;
}

static int check_place(struct vin_capture *c, const struct subject *s, struct fvm_error *err)
{
	scoped_status st = { 0 };
	int r = vin_status_read(s->pid, s->pid, &st, err);
	if (r < 0)
		return r;
	if (c->depth == 0)
		c->depth = st.depth;
	if (st.pids[st.depth - 1] == 1)
		return fvm_error_say(err, EOPNOTSUPP,
				     "process %d can't be captured: it is PID 1 of a namespace",
				     s->pid);
	if (st.depth != c->depth)
		return fvm_error_say(err, EOPNOTSUPP,
				     "process %d can't be captured: it has a pid namespace of its "
				     "own",
				     s->pid);
	return 0;
}

static int unless_ended(const struct subject *s, int r, const struct fvm_error *why,
			struct fvm_error *err)
{
	if (r == -ESRCH || (r < 0 && kill(s->pid, 0) < 0 && errno == ESRCH))
		return 0;
	if (r < 0 && err)
		*err = *why;
	return r;
}

/* Who ended meanwhile is not looked at; nor are zombies, who have no memory. */
static int look(struct vin_capture *c, struct subject *s, struct fvm_error *err)
{
	struct fvm_error mine = { 0 };
	s->via = vin_living_thread(s->pid);
	int r = vin_maps_read(s->via, true, &s->maps, &mine);
	vin_precopy_hide(c->options.precopy, s->pid, &s->maps);
	if (r == 0 && s->maps.count == 0)
		return 0;
	if (r == 0)
		r = check_place(c, s, &mine);
	return unless_ended(s, r, &mine, err);
}

/* The kernel tells names from where those of its mount namespace begin. */
static int look_at_memory(struct vin_capture *c, struct subject *s, struct fvm_error *err)
{
	const int root = vin_namespaces_names_of(&c->own, s->via, c->options.root);
	return vin_mem_look(s->via, root, &s->maps, &c->objects, &s->mem, err);
}

static int look_closer(struct vin_capture *c, struct subject *s, struct fvm_error *err)
{
	struct fvm_error mine = { 0 };
	int r = look_at_memory(c, s, &mine);
	if (r == 0 && !c->options.bare)
		r = vin_traits_check(s->pid, c->options.filters, &mine);
	if (r == 0 && !c->options.bare)
		r = vin_users_check(s->pid, &mine);
	return unless_ended(s, r, &mine, err);
}

/* One by whom the world's can be found. */
static pid_t of_the_world(const struct vin_capture *c, int flag)
{
	for (size_t i = 0; i < c->count; i++) {
		if (c->subjects[i].maps.count &&
		    !vin_namespaces_has(&c->own, c->subjects[i].via, flag))
			return c->subjects[i].via;
	}
	return c->options.within;
}

/* Queues are the namespace's, and opened by their names in the world's. */
static int check_own_files(const struct vin_capture *c, struct fvm_error *err)
{
	/* the kernel lets nobody in who shares directories */
	for (size_t i = 0; c->own.count && i < c->count; i++) {
		const struct subject *s = &c->subjects[i];
		if (s->shares & VIN_SHARES_DIRS && vin_namespaces_has(&c->own, s->via, CLONE_NEWNS))
			return fvm_error_say(err, EOPNOTSUPP,
					     "process %d can't be captured: it has a mount "
					     "namespace of its own, and shares its directories "
					     "with its parent",
					     s->pid);
	}
	for (size_t i = 0; c->own.count && i < c->files.count; i++) {
		const struct vin_open *o = &c->files.opens[i];
		const struct subject *s = find_subject(c, o->pid);
		if (o->kind == &vin_kind_mqueue && s &&
		    vin_namespaces_has(&c->own, s->via, CLONE_NEWIPC))
			return fvm_error_say(err, EOPNOTSUPP,
					     "process %d: descriptor %d can't be captured: it is a "
					     "message queue of an IPC namespace of its own",
					     o->pid, o->number);
	}
	return 0;
}

/* Those that have memory have descriptors, too. */
static int look_at_files(struct vin_capture *c, struct fvm_error *err)
{
	size_t count = 0;
	if (c->options.bare)
		return 0;
	scoped_free pid_t *pids = calloc(c->count + 1, sizeof(*pids));
	if (!pids)
		return fvm_error_set(err, ENOMEM, "list processes");
	for (size_t i = 0; i < c->count; i++) {
		if (c->subjects[i].maps.count)
			pids[count++] = c->subjects[i].pid;
	}
	vin_files_free(&c->files);
	c->files.root = c->options.root;
	c->files.own = c->own.count ? &c->own : NULL;
	c->files.before = c->names;
	c->files.stopped = c->tree.count > 0; /* then queues may be looked into */
	c->files.given = c->options.given;
	c->files.given_count = c->options.given_count;
	int r = vin_files_look(pids, count, &c->files, err);
	if (r < 0)
		return r;
	r = vin_files_check(&c->files, NULL, NULL, err);
	c->moving = r < 0;
	if (r == 0)
		r = check_own_files(c, err);
	return r < 0 ? r
		     : vin_namespaces_files(&c->own, &c->files, of_the_world(c, CLONE_NEWNET), err);
}

static pid_t *living_ones(const struct vin_capture *c, size_t *ret_count, struct fvm_error *err)
{
	pid_t *pids = calloc(c->count + 1, sizeof(*pids));
	*ret_count = 0;
	if (!pids)
		fvm_error_set(err, ENOMEM, "list processes");
	for (size_t i = 0; pids && i < c->count; i++) {
		if (c->subjects[i].maps.count)
			pids[(*ret_count)++] = c->subjects[i].via;
	}
	return pids;
}

/* What memory shows of an IPC namespace of their own. */
static int check_own_ipc(const struct vin_capture *c, struct fvm_error *err)
{
	for (size_t i = 0; i < c->objects.count; i++) {
		const struct vin_object *o = &c->objects.list[i];
		for (size_t j = 0; o->kind == VIN_OBJECT_SEGMENT && j < o->sight_count; j++) {
			const pid_t pid = o->sights[j].pid;
			if (vin_namespaces_has(&c->own, pid, CLONE_NEWIPC))
				return fvm_error_say(err, EOPNOTSUPP,
						     "process %d: memory at %llx can't be "
						     "captured: it is a SysV segment of an IPC "
						     "namespace of its own",
						     pid, (unsigned long long)o->sights[j].start);
		}
	}
	return 0;
}

/* Running or stopped: whoever was not seen to enter a namespace would be put into another one. */
static int look_at_spaces(struct vin_capture *c, struct fvm_error *err)
{
	size_t count;
	scoped_free pid_t *pids = living_ones(c, &count, err);
	vin_namespaces_free(&c->own);
	int r = pids ? vin_spaces_check(pids, count, c->options.within, &c->own, err) : -ENOMEM;
	if (r == 0)
		r = vin_namespaces_check(&c->own, of_the_world(c, CLONE_NEWNS), err);
	if (r == 0 && c->options.within)
		r = vin_mounts_check(c->options.within, err);
	c->mounted = r > 0;
	if (r < 0 || count == 0)
		return r < 0 ? r : 0;
	return vin_spaces_settings_check(c->options.within ?: pids[0], c->options.spaces, false,
					 err);
}

static int look_at_ipc(struct vin_capture *c, struct fvm_error *err)
{
	const pid_t pid = of_the_world(c, CLONE_NEWIPC);
	return pid ? vin_ipc_check(pid, &c->objects, err) : 0;
}

static int look_at_sharing(struct vin_capture *c, unsigned int patience_ms, struct fvm_error *err)
{
	scoped_free struct vin_sharer *list = calloc(c->count + 1, sizeof(*list));
	size_t count = 0;
	if (!list)
		return fvm_error_set(err, ENOMEM, "list processes");
	for (size_t i = 0; i < c->count; i++) {
		if (c->subjects[i].maps.count)
			list[count++] =
				(struct vin_sharer){ c->subjects[i].pid, c->subjects[i].via, 0 };
	}
	int r = vin_sharing_look(list, count, patience_ms, err);
	for (size_t i = 0; r == 0 && i < count; i++)
		find_subject(c, list[i].pid)->shares = list[i].shares;
	return r;
}

static int look_at_running(struct vin_capture *c, struct fvm_error *err)
{
	int r = 0;
	forget_subjects(c->subjects, c->count);
	vin_objects_free(&c->objects);
	c->subjects = NULL;
	c->count = 0;
	for (size_t i = 0; r == 0 && i < c->root_count; i++)
		r = find_subject(c, c->roots[i]) ? 0 : add_subject(c, c->roots[i]);
	for (size_t i = 0; r == 0 && i < c->count; i++)
		r = add_children_of(c, c->subjects[i].pid);
	if (r < 0)
		return fvm_error_set(err, -r, "list processes");
	for (size_t i = 0; r == 0 && i < c->count; i++)
		r = look(c, &c->subjects[i], err);
	if (r == 0)
		r = look_at_spaces(c, err);
	for (size_t i = 0; r == 0 && i < c->count; i++) {
		if (c->subjects[i].maps.count)
			r = look_closer(c, &c->subjects[i], err);
	}
	if (r == 0)
		r = check_own_ipc(c, err);
	if (r == 0)
		r = look_at_sharing(c, VFORK_MS, err);
	if (r == 0)
		r = look_at_ipc(c, err);
	if (r == 0)
		r = look_at_files(c, err);
	/* not held until the stop: who ends meanwhile ends what he held. Names of what is watched
	 * are kept: another search would be at the cost of programs that stand still */
	vin_files_sought_free(c->names);
	c->names = vin_files_sought(&c->files);
	vin_files_free(&c->files);
	return r;
}

/* Those who open and close all the time never fit: that they stand still for a moment tells. */
static int look_at_an_instant(struct vin_capture *c, struct fvm_error *err)
{
	int r = vin_capture_stop(c, INSTANT_MS, err);
	if (r == 0)
		vin_capture_resume(c);
	return r;
}

/* Somebody may have ended, a pipe lost or got an end, while we looked at them in turn. */
static int look_until_it_fits(struct vin_capture *c, struct fvm_error *err)
{
	for (int tries = 1;; tries++) {
		struct fvm_error mine = { 0 };
		c->moving = false;
		int r = look_at_running(c, &mine);
		if (r == 0)
			return 0;
		/* an ordinary user is shut out of who executes or ends at this moment */
		const bool shut = r == -EACCES || r == -EPERM;
		if (tries < LOOKS && (r == -EOPNOTSUPP || r == -ESRCH || shut))
			continue;
		if (r == -ESRCH || shut || (r == -EOPNOTSUPP && c->moving))
			return look_at_an_instant(c, err);
		if (err)
			*err = mine;
		return r;
	}
}

int vin_capture_open(const pid_t *roots, size_t count, const struct vin_capture_options *options,
		     struct vin_capture **ret, struct fvm_error *err)
{
	struct vin_capture *c = calloc(1, sizeof(*c));
	int r = c ? 0 : -ENOMEM;
	if (c) {
		c->options = *options;
		c->files.root = -1;
	}
	if (c && !(c->roots = malloc((count + 1) * sizeof(*roots))))
		r = -ENOMEM;
	if (r == 0) {
		memcpy(c->roots, roots, count * sizeof(*roots));
		c->root_count = count;
	} else {
		fvm_error_set(err, -r, "list processes");
	}
	if (r == 0)
		r = look_until_it_fits(c, err);
	if (r < 0)
		vin_capture_close(c);
	else
		*ret = c;
	return r;
}

/* ---- the stop ---- */

/* What was read before is good as long as the areas are the same. */
static int look_again(struct vin_capture *c, struct subject *old, struct subject *s,
		      struct fvm_error *err)
{
	scoped_maps now = { 0 };
	int r = vin_maps_read(s->via, !old, &now, err);
	if (r == 0 && old && vin_maps_same(&now, &old->maps)) {
		s->maps = old->maps;
		old->maps = (struct vin_maps){ 0 };
	} else if (r == 0 && old) {
		r = vin_maps_read(s->via, true, &s->maps, err);
	} else if (r == 0) {
		s->maps = now;
		now = (struct vin_maps){ 0 };
	}
	vin_precopy_hide(c->options.precopy, s->pid, &s->maps);
	return r == 0 ? check_place(c, s, err) : r;
}

static int look_at_stopped(struct vin_capture *c, struct fvm_error *err)
{
	struct vin_capture old = { .subjects = c->subjects, .count = c->count };
	int r = 0;
	c->subjects = NULL;
	c->count = 0;
	vin_objects_free(&c->objects);
	for (size_t i = 0; r == 0 && i < c->tree.count; i++) {
		const struct vin_proc *p = &c->tree.procs[i];
		if (p->zombie)
			continue;
		if (add_subject(c, p->pid) < 0) {
			r = fvm_error_set(err, ENOMEM, "list processes");
			break;
		}
		c->subjects[c->count - 1].via = p->threads[0].tid;
		r = look_again(c, find_subject(&old, p->pid), &c->subjects[c->count - 1], err);
	}
	forget_subjects(old.subjects, old.count);
	if (r == 0)
		r = look_at_spaces(c, err);
	for (size_t i = 0; r == 0 && i < c->count; i++)
		r = look_at_memory(c, &c->subjects[i], err);
	if (r == 0)
		r = check_own_ipc(c, err);
	return r < 0 ? r : look_at_sharing(c, 0, err);
}

/* Whether a session or group is that of who made a root: it is led by somebody else, dead or not.
 */
static bool is_makers(const struct vin_capture *c, pid_t here)
{
	for (size_t i = 0; i < c->root_count; i++) {
		struct vin_stat root, maker;
		if (vin_stat_read(c->roots[i], c->roots[i], &root, NULL) == 0 && root.parent &&
		    !vin_tree_find(&c->tree, root.parent) &&
		    vin_stat_read(root.parent, root.parent, &maker, NULL) == 0 &&
		    (maker.session == here || maker.group == here))
			return true;
	}
	return false;
}

/* The number of a session or group in the programs' own namespace: 0 when its leader lives outside
 * of the tree, or in a namespace around it. */
static pid_t inside(const struct vin_capture *c, const struct vin_status *st, const pid_t *numbers)
{
	const pid_t here = numbers[0];
	if (numbers[st->depth - 1] == 0)
		return 0;
	if (!vin_tree_find(&c->tree, here) &&
	    (kill(here, 0) == 0 || errno == EPERM || is_makers(c, here)))
		return 0;
	return numbers[st->depth - 1];
}

/* Any description of it: which of them the leader has does not matter. */
static int find_terminal(const struct vin_capture *c, pid_t leader, int device, size_t *ret,
			 struct fvm_error *err)
{
	for (size_t i = 0; i < c->files.count; i++) {
		const struct stat *st = &c->files.opens[i].st;
		if (S_ISCHR(st->st_mode) && !(c->files.opens[i].info.flags & O_PATH) &&
		    st->st_rdev == vin_device_of((unsigned int)device)) {
			*ret = i + 1;
			return 0;
		}
	}
	return fvm_error_say(err, EOPNOTSUPP,
			     "process %d can't be captured: none of the programs has the terminal "
			     "of its session open",
			     leader);
}

/* A group is found by who is in it: its leader may be gone. */
static pid_t inner_group(const struct vin_capture *c, pid_t group)
{
	for (size_t i = 0; i < c->tree.count; i++) {
		scoped_status st = { 0 };
		const pid_t pid = c->tree.procs[i].pid;
		if (vin_status_read(pid, pid, &st, NULL) == 0 && st.process_groups[0] == group)
			return st.process_groups[st.depth - 1];
	}
	return 0;
}

static int add_terminal(const struct vin_capture *c, const struct vin_stat *stat,
			struct vin_member *m, pid_t pid, struct fvm_error *err)
{
	if (c->options.bare || m->zombie || m->session != m->number || stat->terminal == 0)
		return 0;
	m->foreground = stat->foreground > 0 ? inner_group(c, stat->foreground) : 0;
	return find_terminal(c, pid, stat->terminal, &m->terminal, err);
}

static int add_member(struct vin_capture *c, const struct vin_proc *p, struct fvm_error *err)
{
	scoped_status st = { 0 }, up = { 0 };
	struct vin_stat stat;
	const struct subject *subject = find_subject(c, p->pid);
	int r = vin_status_read(p->pid, p->pid, &st, err);
	if (r == 0)
		r = vin_stat_read(p->pid, p->pid, &stat, err);
	if (r == 0 && vin_tree_find(&c->tree, stat.parent))
		r = vin_status_read(stat.parent, stat.parent, &up, err);
	if (r < 0)
		return r;
	c->family.members[c->family.count++] = (struct vin_member){
		.number = st.pids[st.depth - 1],
		.parent = up.depth ? up.pids[up.depth - 1] : 0,
		.group = inside(c, &st, st.process_groups),
		.session = inside(c, &st, st.sessions),
		.zombie = p->zombie,
		.leader_gone = p->leader_gone,
		.exit_code = p->zombie ? stat.exit_code & 0xffff : 0,
		.threads = p->thread_count,
		.shares = subject && !c->options.bare ? subject->shares : 0,
	};
	return add_terminal(c, &stat, &c->family.members[c->family.count - 1], p->pid, err);
}

/* Return: where nothing begins below @at + VIN_HOLE_SIZE, at or behind @at, in this process */
static uint64_t behind(const struct vin_maps *maps, uint64_t at)
{
	for (size_t i = 0; i < maps->count; i++) {
		const struct vin_vma *v = &maps->vmas[i];
		if (v->end > at && v->start < at + VIN_HOLE_SIZE)
			at = v->end;
	}
	return at;
}

static int find_hole(struct vin_capture *c, struct fvm_error *err)
{
	bool low = false;
	for (size_t i = 0; i < c->count; i++)
		low |= vin_mem_is_narrow(&c->subjects[i].mem);
	uint64_t at = low ? LOW_FIRST : HOLE_FIRST, before;
	do {
		before = at;
		for (size_t i = 0; i < c->count; i++)
			at = behind(&c->subjects[i].maps, at);
	} while (at != before);
	if (at > (low ? LOW_LAST : HOLE_LAST))
		return fvm_error_say(err, EOPNOTSUPP, "programs leave no place in their memory");
	c->family.hole = at;
	return 0;
}

static void see_number(struct vin_family *f, pid_t number)
{
	f->highest = number > f->highest ? number : f->highest;
}

/* What replay makes besides has numbers above. */
static void find_highest(struct vin_capture *c)
{
	for (size_t i = 0; i < c->family.count; i++) {
		const struct vin_member *m = &c->family.members[i];
		see_number(&c->family, m->number);
		see_number(&c->family, m->session);
		see_number(&c->family, m->group);
	}
	for (size_t i = 0; i < c->tree.count; i++) {
		const struct vin_proc *p = &c->tree.procs[i];
		scoped_fd space = p->thread_count > 1 ? vin_numbers_open(p->threads[1].tid) : -1;
		for (size_t j = 0; j < p->thread_count; j++) {
			if (p->threads[j].tid != p->pid) /* whose number is the member's */
				see_number(&c->family, vin_number_in(space, p->threads[j].tid));
		}
	}
}

static int take_family(struct vin_capture *c, struct fvm_error *err)
{
	vin_family_free(&c->family);
	c->family.members = calloc(c->tree.count + 1, sizeof(struct vin_member));
	if (!c->family.members)
		return fvm_error_set(err, ENOMEM, "list processes");
	int r = 0;
	for (size_t i = 0; r == 0 && i < c->tree.count; i++)
		r = add_member(c, &c->tree.procs[i], err);
	find_highest(c);
	return r < 0 ? r : find_hole(c, err);
}

static int settle_descriptors(struct vin_capture *c, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < c->files.table_count; i++) {
		const struct vin_proc *p = vin_tree_find(&c->tree, c->files.tables[i].pid);
		if (p)
			r = vin_cloexec_settle(&c->files.tables[i], &p->threads[0], err);
	}
	return r;
}

static int settle_rings(struct vin_capture *c, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < c->count; i++) {
		const struct vin_proc *p = vin_tree_find(&c->tree, c->subjects[i].pid);
		if (p)
			r = vin_rings_settle(&c->subjects[i].mem, &p->threads[0], err);
	}
	return r;
}

static int stop_once(struct vin_capture *c, unsigned int timeout_ms, struct fvm_error *err)
{
	int r = vin_tree_seize(c->roots, c->root_count, timeout_ms, &c->tree, err);
	if (r == 0)
		r = look_at_stopped(c, err);
	if (r == 0)
		r = look_at_files(c, err);
	if (r == 0)
		r = vin_files_ready(&c->files, err);
	if (r == 0)
		r = settle_descriptors(c, err);
	if (r == 0)
		r = settle_rings(c, err);
	if (r == 0)
		r = take_family(c, err);
	if (r == 0 && !c->options.bare)
		r = vin_netlock_cut(&c->files, err);
	if (r < 0)
		vin_capture_resume(c);
	return r;
}

/* What they are in the middle of they finish meanwhile: a terminal's bytes are read. */
int vin_capture_stop(struct vin_capture *c, unsigned int timeout_ms, struct fvm_error *err)
{
	for (unsigned int wait_ms = 1;; wait_ms *= 2) {
		struct fvm_error mine = { 0 };
		int r = stop_once(c, timeout_ms, &mine);
		if (r < 0 && (r != -EAGAIN || wait_ms > PATIENCE_MS) && err)
			*err = mine;
		if (r != -EAGAIN || wait_ms > PATIENCE_MS)
			return r;
		fvm_sleep_ms(wait_ms);
	}
}

/* ---- memory before the rest ---- */

/* Of what it has that could be copied early: as smaps told it before the stop. */
static bool has_much(const struct subject *s)
{
	uint64_t kb = 0;
	for (size_t i = 0; i < s->maps.count; i++) {
		const struct vin_vma *v = &s->maps.vmas[i];
		if (vin_dirty_may(v))
			kb += v->present_kb;
	}
	return kb * 1024 >= VIN_PRECOPY_LEAST;
}

bool vin_capture_worth(const struct vin_capture *c)
{
	for (size_t i = 0; i < c->count; i++) {
		if (has_much(&c->subjects[i]))
			return true;
	}
	return false;
}

int vin_capture_track(struct vin_capture *c, struct vin_precopy *ret, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < c->tree.count; i++) {
		struct vin_proc *p = &c->tree.procs[i];
		const struct subject *s = find_subject(c, p->pid);
		if (s && !p->leader_gone && has_much(s))
			r = vin_precopy_add(ret, &p->threads[0]);
	}
	return r < 0 ? fvm_error_set(err, -r, "list processes") : 0;
}

/* ---- the image ---- */

static int write_thread(const struct vin_thread_state *s, struct vin_out *out,
			struct fvm_error *err)
{
	scoped_buf payload = { 0 };
	vin_thread_put(&payload, s);
	return vin_out_record(out, VIN_TAG_THREAD, &payload, err);
}

/* All that threads are asked for at once: each stands on the post in its turn. */
static int write_threads(const struct vin_capture *c, const struct vin_proc *p, bool told,
			 struct vin_post *post, struct vin_out *out, struct fvm_error *err)
{
	scoped_buf payload = { 0 };
	struct vin_thread_state *states = calloc(p->thread_count + 1, sizeof(*states));
	if (!states)
		return fvm_error_set(err, ENOMEM, "capture process %d", p->pid);
	vin_put_u64(&payload, (uint64_t)vin_inner_number(p->pid));
	int r = vin_traits_capture(post, p->threads, p->thread_count, c->options.filters, states,
				   c->options.bare ? NULL : &payload, err);
	states[0].told = told;
	if (r == 0 && !c->options.bare)
		r = vin_out_record(out, VIN_TAG_PROCESS, &payload, err);
	for (size_t i = 0; i < p->thread_count; i++) {
		if (r == 0)
			r = write_thread(&states[i], out, err);
		vin_thread_state_free(&states[i]);
	}
	free(states);
	return r;
}

/* They are written after it. */
static int ask_of_children(const struct vin_capture *c, pid_t number, const struct vin_post *post,
			   struct vin_thread *t, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r >= 0 && i < c->tree.count; i++) {
		const struct vin_proc *p = &c->tree.procs[i];
		const struct vin_member *m = &c->family.members[i];
		if (m->parent != number || p->zombie || !p->threads[0].stopped_by_signal)
			continue;
		r = vin_stop_told(post, t, m->number, err);
		find_subject(c, p->pid)->told = r == 1;
	}
	return r < 0 ? r : 0;
}

static int write_process(const struct vin_capture *c, const struct vin_proc *p, struct subject *s,
			 struct vin_out *out, struct fvm_error *err)
{
	struct vin_post post;
	scoped_buf maps = { 0 };
	const pid_t number = vin_inner_number(p->pid);
	int r = vin_post_open(&post, &p->threads[0], err);
	if (r < 0)
		return r;
	r = vin_mem_ask(&post, &p->threads[0], &s->mem, err);
	if (r == 0) {
		vin_put_u64(&maps, (uint64_t)number);
		vin_mem_put(&maps, &s->mem);
		r = vin_out_record(out, VIN_TAG_MAPS, &maps, err);
	}
	if (r == 0)
		r = ask_of_children(c, number, &post, &p->threads[0], err);
	if (r == 0)
		r = write_threads(c, p, s->told, &post, out, err);
	int closed = vin_post_close(&post, &p->threads[0], r < 0 ? NULL : err);
	if (r == 0)
		r = closed;
	if (c->options.late)
		vin_mem_mark_late(&s->mem, &s->maps);
	return r < 0 ? r : vin_precopy_write(c->options.precopy, p->pid, s->via, &s->mem, out, err);
}

/* Who owns namespaces is told before these, and otherwise where older readers want it. */
static int write_users(struct vin_capture *c, struct vin_out *out, struct fvm_error *err)
{
	struct vin_users users = { 0 };
	scoped_buf payload = { 0 };
	int r = vin_namespaces_owners(&c->own, &users, err);
	for (size_t i = 0; r == 0 && !c->options.bare && i < c->tree.count; i++) {
		const struct vin_proc *p = &c->tree.procs[i];
		if (!p->zombie)
			r = vin_users_add(&users, p->threads[0].tid, vin_inner_number(p->pid), err);
	}
	if (r == 0 && users.count) {
		vin_users_put(&payload, &users);
		r = vin_out_record(out, VIN_TAG_USERS, &payload, err);
	}
	vin_users_free(&users);
	return r;
}

static int write_own(struct vin_capture *c, struct vin_out *out, struct fvm_error *err)
{
	for (size_t i = 0; i < c->own.member_count; i++) {
		struct vin_namespace_member *m = &c->own.members[i];
		for (size_t j = 0; j < c->count; j++) {
			if (c->subjects[j].via == m->pid)
				m->number = vin_inner_number(c->subjects[j].pid);
		}
	}
	int r = write_users(c, out, err);
	return r < 0 ? r : vin_namespaces_capture(&c->own, of_the_world(c, CLONE_NEWNS), out, err);
}

int vin_capture_write(struct vin_capture *c, struct vin_out *out, struct fvm_error *err)
{
	scoped_buf tree = { 0 };
	vin_files_share(&c->files, &c->objects);
	int r = c->count ? vin_spaces_capture(c->options.within ?: c->subjects[0].via,
					      c->options.spaces, out, err)
			 : 0;
	if (r == 0 && c->count && c->mounted)
		r = vin_mounts_capture(c->options.within, out, err);
	if (r == 0 && c->own.count)
		r = write_own(c, out, err);
	if (r == 0 && of_the_world(c, CLONE_NEWIPC))
		r = vin_ipc_capture(of_the_world(c, CLONE_NEWIPC), &c->objects, out, err);
	if (r == 0)
		r = vin_objects_write(&c->objects, out, err);
	if (r == 0 && !c->options.bare)
		r = vin_files_capture(&c->files, out, err);
	if (r == 0) {
		vin_family_put(&tree, &c->family);
		r = vin_out_record(out, VIN_TAG_TREE, &tree, err);
	}
	if (r == 0 && c->own.count == 0)
		r = write_users(c, out, err);
	for (size_t i = 0; r == 0 && i < c->tree.count; i++) {
		const struct vin_proc *p = &c->tree.procs[i];
		if (!p->zombie)
			r = write_process(c, p, find_subject(c, p->pid), out, err);
	}
	return r;
}

/* ---- the end ---- */

void vin_capture_resume(struct vin_capture *c)
{
	vin_netlock_resume(&c->files);
	vin_tree_release(&c->tree);
}

/* Threads are reaped before their leaders, and what is our child anyway is left to who made it. */
static void reap(const struct vin_proc *p)
{
	for (size_t i = p->thread_count; i-- > 0;) {
		siginfo_t info;
		const pid_t tid = p->threads[i].tid;
		if (tid == p->pid)
			(void)waitid(P_PID, (id_t)tid, &info, WEXITED | WNOWAIT | __WALL);
		else
			(void)waitpid(tid, NULL, __WALL);
	}
}

static bool ours(const struct vin_proc *p)
{
	struct vin_stat st;
	return vin_stat_read(p->pid, p->pid, &st, NULL) == 0 && st.parent == getpid();
}

void vin_capture_kill(struct vin_capture *c)
{
	(void)vin_netlock_silence(&c->files, NULL);
	for (size_t i = 0; i < c->tree.count; i++) {
		if (!c->tree.procs[i].zombie)
			(void)kill(c->tree.procs[i].pid, SIGKILL);
	}
	for (size_t i = c->tree.count; i-- > 0;) {
		struct vin_proc *p = &c->tree.procs[i];
		reap(p);
		if (!p->zombie && !ours(p))
			(void)waitpid(p->pid, NULL, __WALL);
		free(p->threads);
	}
	free(c->tree.procs);
	c->tree = (struct vin_tree){ 0 };
}

int vin_capture_outside(struct vin_capture *c, vin_outside_fn fn, void *arg, struct fvm_error *err)
{
	int r = look_at_files(c, err);
	if (r == 0)
		vin_files_outside(&c->files, fn, arg);
	vin_files_free(&c->files);
	return r;
}

bool vin_capture_mounted(const struct vin_capture *c)
{
	return c->mounted;
}

const struct vin_tree *vin_capture_tree(const struct vin_capture *c)
{
	return &c->tree;
}

void vin_capture_close(struct vin_capture *c)
{
	if (!c)
		return;
	vin_capture_resume(c);
	forget_subjects(c->subjects, c->count);
	vin_objects_free(&c->objects);
	vin_files_free(&c->files);
	vin_files_sought_free(c->names);
	vin_family_free(&c->family);
	vin_namespaces_free(&c->own);
	free(c->roots);
	free(c);
}
