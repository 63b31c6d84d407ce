#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/family.h"
#include "vin/files.h"
#include "vin/guard.h"
#include "vin/mem.h"
#include "vin/replay_priv.h"
#include "vin/spaces.h"
#include "vin/status.h"
#include "vin/stops.h"
#include "vin/thread.h"
#include "vin/traits.h"

static int bad(const char *how, struct fvm_error *err)
{
	return fvm_error_say(err, EBADMSG, "the image is damaged: %s", how);
}

struct actor *vin_replay_actor(struct vin_replay *r, pid_t number)
{
	for (size_t i = 0; i < r->family.count; i++) {
		if (r->family.members[i].number == number)
			return &r->actors[i];
	}
	return NULL;
}

static struct actor *find_actor(struct vin_replay *r, uint64_t number)
{
	return number > INT32_MAX ? NULL : vin_replay_actor(r, (pid_t)number);
}

/* ---- FILES, FILE, DATA, FDS ---- */

/* The programs' numbers are not known yet: a guest takes the last there is. A pid namespace may
 * have more than ours (since Linux 6.14 each has a limit of its own); what is beyond it, is
 * refused. */
#define LAST_OF_ALL 4194303

static pid_t last_number(void)
{
	scoped_free char *text = NULL;
	int r = fvm_read_file(AT_FDCWD, "/proc/sys/kernel/pid_max", 32, &text, NULL);
	return r < 0 ? 32767 : (pid_t)strtol(text, NULL, 10) - 1;
}

static struct vin_nest_options nest_options(const struct vin_replay *r, pid_t number)
{
	return (struct vin_nest_options){ .user = r->options.user,
					  .start = r->options.start,
					  .arg = r->options.arg,
					  .number = number };
}

/* What is made for the programs to have is made by the opener. */
struct job {
	struct vin_replay *r;
	enum vin_tag tag;
	struct vin_payload *p;
	struct fvm_error *err;
};

static int have_opened(struct vin_replay *r, int (*fn)(void *arg), enum vin_tag tag,
		       struct vin_payload *p, struct fvm_error *err)
{
	struct job j = { r, tag, p, err };
	int e = vin_opener_do(r->opener, fn, &j);
	return e == -EPIPE && err && !err->code ? fvm_error_set(err, EPIPE, "open files") : e;
}

/* The first process, which waits while its files are opened; ids are those of its namespace. */
static int begin(struct vin_replay *r, struct fvm_error *err)
{
	if (r->begun)
		return 0;
	struct fvm_error mine = { 0 };
	struct vin_nest_options options = nest_options(r, LAST_OF_ALL);
	int e = vin_nest_begin(&options, &r->nest, &mine);
	if (e == -EINVAL && options.start) {
		vin_nest_kill(&r->nest);
		options.number = last_number();
		mine = (struct fvm_error){ 0 };
		e = vin_nest_begin(&options, &r->nest, &mine);
	}
	if (e < 0 && err)
		*err = mine;
	r->begun = e == 0;
	r->last = options.number;
	if (e == 0 && r->nest.guest)
		e = vin_opener_start(r->nest.init.thread.pid, &r->opener, err);
	return e;
}

static int begin_files(void *arg)
{
	const struct job *j = arg;
	struct vin_replay *r = j->r;
	int e = vin_reopen_begin(r->options.root, j->p, &r->files, j->err);
	if (e < 0)
		return e;
	vin_reopen_share(r->files, &r->objects);
	if (r->own.file_count)
		vin_reopen_own(r->files, &r->own);
	vin_reopen_given(r->files, r->options.given, r->options.given_count);
	vin_reopen_moved(r->files, &r->moved, r->options.outside_gone);
	if (r->opener && r->options.outer_net)
		vin_reopen_apart(r->files);
	return vin_reopen_within(r->files, r->nest.init.thread.pid, j->err);
}

static int take_files(struct vin_replay *r, struct vin_payload *p, struct fvm_error *err)
{
	if (r->actors || r->files)
		return bad("files behind the tree", err);
	int e = begin(r, err);
	return e < 0 ? e : have_opened(r, begin_files, VIN_TAG_FILES, p, err);
}

static int open_file(void *arg)
{
	const struct job *j = arg;
	return vin_reopen_take(j->r->files, j->tag, j->p, j->err);
}

static int fill_files(void *arg)
{
	const struct job *j = arg;
	return vin_reopen_fill(j->r->files, j->err);
}

static int finish_files(void *arg)
{
	const struct job *j = arg;
	return vin_reopen_finish(j->r->files, j->err);
}

int vin_replay_finish_files(struct vin_replay *r, struct fvm_error *err)
{
	int e = have_opened(r, finish_files, VIN_TAG_TREE, NULL, err);
	return e == 0 && r->opener && r->options.outer_net ? vin_reopen_settle(r->files, err) : e;
}

static int set_space(void *arg)
{
	const struct job *j = arg;
	return vin_space_take(j->p, j->r->options.spaces, &j->r->moved, j->err);
}

static int make_mounts(void *arg)
{
	const struct job *j = arg;
	struct vin_replay *r = j->r;
	return vin_mounts_take(&r->mounts, r->nest.init.thread.pid, r->options.root, j->p, j->err);
}

static int make_ipc(void *arg)
{
	const struct job *j = arg;
	return vin_ipc_take(&j->r->ipc, j->p, j->err);
}

static int finish_ipc(void *arg)
{
	const struct job *j = arg;
	return vin_ipc_finish(&j->r->ipc, &j->r->objects, j->err);
}

static int make_object(void *arg)
{
	const struct job *j = arg;
	return vin_object_make(&j->r->objects, j->err);
}

static int take_file(struct vin_replay *r, enum vin_tag tag, struct vin_in *in,
		     struct fvm_error *err)
{
	struct vin_payload p;
	if (r->actors || !r->files)
		return bad("a file out of its place", err);
	int e = vin_in_payload(in, &p, err);
	if (e == 0 && tag == VIN_TAG_FILE && r->options.outer_net && vin_reopen_ours(&p))
		return vin_reopen_take(r->files, tag, &p, err);
	return e < 0 ? e : have_opened(r, open_file, tag, &p, err);
}

/* ---- TREE ---- */

static int open_nest(struct vin_replay *r, struct fvm_error *err)
{
	scoped_free int *fds = NULL;
	r->spare = r->family.highest + 1;
	struct vin_nest_options options = nest_options(r, r->spare);
	if (r->files) {
		if (r->nest.guest && r->spare >= r->last)
			return fvm_error_say(err, EOPNOTSUPP, "no number is left for a guest");
		int e = have_opened(r, fill_files, VIN_TAG_TREE, NULL, err);
		if (e < 0)
			return e;
		r->pool = vin_reopen_pool(r->files, &fds, &options.kept.count);
		if (r->pool < 0)
			return fvm_error_set(err, ENOMEM, "list open files");
		options.kept.fds = fds;
	}
	return vin_nest_open(r->family.hole, &options, &r->nest, err);
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
	e = open_nest(r, err);
	if (e == 0)
		e = vin_birth_all(r, err);
	return e < 0 ? e : vin_actors_enter(r, err);
}

/* ---- MAPS, PROCESS, THREAD, PAGES, OBJECT ---- */

static int take_process(struct vin_replay *r, struct vin_payload *p, struct fvm_error *err)
{
	struct actor *a = find_actor(r, vin_get_u64(p));
	if (p->failed || !a || a->traits || a->member->zombie)
		return bad("traits of nobody", err);
	a->traits_len = (size_t)(p->end - p->at);
	a->traits = malloc(a->traits_len + 1);
	if (!a->traits)
		return fvm_error_set(err, ENOMEM, "read a process");
	memcpy(a->traits, p->at, a->traits_len);
	return 0;
}

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
	return vin_mem_map(&r->nest, &a->blank, &a->mem, &r->objects,
			   vin_namespaces_names(&r->own, a->member->number, r->options.root), err);
}

static int take_late(struct vin_replay *r, struct vin_payload *p, struct fvm_error *err)
{
	struct actor *a = find_actor(r, vin_get_u64(p));
	if (p->failed || !a || !a->mapped)
		return bad("pages of nobody", err);
	if (!r->lazy)
		return fvm_error_say(err, EOPNOTSUPP, "its memory is not in the image");
	return vin_lazy_expect(r->lazy, a->member->number, &a->mem, r->options.lazy, p, err);
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
	if (r->lazy && vin_in_file(in) >= 0)
		return vin_lazy_take(r->lazy, a->member->number, &a->mem, in, err);
	return vin_mem_read_pages(a->blank.post.pid, &a->mem, in, err);
}

static int take_early(struct vin_replay *r, struct vin_in *in, struct fvm_error *err)
{
	return r->actors ? bad("early pages behind the tree", err)
			 : vin_early_take(&r->early, &r->blocks, r->lazy != NULL, in, err);
}

static int take_kept(struct vin_replay *r, struct vin_payload *p, struct fvm_error *err)
{
	const uint64_t number = vin_get_u64(p);
	struct actor *a = find_actor(r, number);
	scoped_runs kept = { 0 };
	struct vin_pieces pieces = { 0 };
	if (!a || !a->mapped)
		return bad("pages of nobody", err);
	int e = vin_mem_get_kept(p, &a->mem, &kept);
	if (e < 0)
		return e == -EBADMSG ? bad("pages where there is no memory", err)
				     : fvm_error_set(err, -e, "list pages");
	e = vin_early_find(&r->early, number, &kept, &pieces, err);
	if (e == 0)
		e = r->lazy ? vin_lazy_keep(r->lazy, a->member->number, &pieces, err)
			    : vin_mem_fetch_pages(a->blank.post.pid, &a->mem, &kept, &r->blocks,
						  &pieces, err);
	vin_pieces_free(&pieces);
	return e;
}

static int take_object(struct vin_replay *r, struct vin_payload *p, struct fvm_error *err)
{
	if (r->actors)
		return bad("shared memory behind the tree", err);
	int e = vin_object_get(p, &r->objects);
	if (e < 0)
		return e == -EBADMSG ? bad("no shared memory", err)
				     : fvm_error_set(err, -e, "read shared memory");
	if (r->objects.list[r->objects.count - 1].kind == VIN_OBJECT_SEGMENT && !r->ipc.begun)
		return bad("a segment of no IPC namespace", err);
	return have_opened(r, make_object, VIN_TAG_OBJECT, NULL, err);
}

static int take_ipc(struct vin_replay *r, struct vin_payload *p, struct fvm_error *err)
{
	if (r->actors)
		return bad("an IPC namespace behind the tree", err);
	if (!r->options.ipc)
		return fvm_error_say(err, EOPNOTSUPP,
				     "programs had an IPC namespace, and there is none for them");
	int e = r->options.start ? begin(r, err) : 0;
	return e < 0 ? e : have_opened(r, make_ipc, VIN_TAG_IPC, p, err);
}

static int take_space(struct vin_replay *r, struct vin_payload *p, struct fvm_error *err)
{
	if (r->actors)
		return bad("a namespace behind the tree", err);
	int e = r->options.start ? begin(r, err) : 0;
	return e < 0 ? e : have_opened(r, set_space, VIN_TAG_SPACE, p, err);
}

static int take_mount(struct vin_replay *r, struct vin_payload *p, struct fvm_error *err)
{
	if (r->actors || r->files)
		return bad("mounts behind files", err);
	/* their own, not ours */
	if (!r->options.start)
		return fvm_error_say(err, EOPNOTSUPP,
				     "programs had mounts, and there is no place for them");
	int e = begin(r, err);
	return e < 0 ? e : have_opened(r, make_mounts, VIN_TAG_MOUNT, p, err);
}

static int take_users(struct vin_replay *r, struct vin_payload *p, struct fvm_error *err)
{
	if (r->users.count)
		return bad("user namespaces twice", err);
	int e = begin(r, err);
	if (e < 0)
		return e;
	e = vin_users_get(p, &r->users);
	if (e < 0)
		return e == -EBADMSG ? bad("no user namespaces", err)
				     : fvm_error_set(err, -e, "read user namespaces");
	return vin_users_make(&r->users, r->nest.init.thread.pid, r->options.users,
			      r->options.user_count, err);
}

static int take_namespace(struct vin_replay *r, struct vin_payload *p, struct fvm_error *err)
{
	if (r->actors || r->files)
		return bad("a namespace behind files", err);
	int e = begin(r, err);
	return e < 0 ? e
		     : vin_namespaces_take(&r->own, r->nest.init.thread.pid, &r->users, r->opener,
					   p, err);
}

static const struct {
	enum vin_tag tag;
	int (*take)(struct vin_replay *r, struct vin_payload *p, struct fvm_error *err);
	bool first; /* may stand before the tree */
} records[] = {
	{ VIN_TAG_SPACE, take_space, true },	     { VIN_TAG_IPC, take_ipc, true },
	{ VIN_TAG_OBJECT, take_object, true },	     { VIN_TAG_FILES, take_files, true },
	{ VIN_TAG_TREE, take_tree, true },	     { VIN_TAG_MAPS, take_maps, false },
	{ VIN_TAG_PROCESS, take_process, false },    { VIN_TAG_THREAD, take_thread, false },
	{ VIN_TAG_USERS, take_users, true },	     { VIN_TAG_MOUNT, take_mount, true },
	{ VIN_TAG_LATE, take_late, false },	     { VIN_TAG_KEPT, take_kept, false },
	{ VIN_TAG_NAMESPACE, take_namespace, true },
};

static int take_record(struct vin_replay *r, enum vin_tag tag, struct vin_in *in,
		       struct fvm_error *err)
{
	struct vin_payload p;
	if (tag == VIN_TAG_PAGES)
		return take_pages(r, in, err);
	if (tag == VIN_TAG_EARLY)
		return take_early(r, in, err);
	if (tag == VIN_TAG_FILE || tag == VIN_TAG_DATA || tag == VIN_TAG_FDS)
		return take_file(r, tag, in, err);
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
	if (r->mounts.begun && !r->mounts.done)
		return bad("mounts that are not whole", err);
	for (size_t i = 0; i < r->family.count; i++) {
		const struct actor *a = &r->actors[i];
		if (!a->member->zombie &&
		    (!a->mapped || a->state_count != a->member->threads ||
		     (!a->member->leader_gone && a->states[0].tid != a->member->number)))
			return bad("a process is not whole", err);
		if (r->files && !a->member->zombie &&
		    (!a->traits || !vin_reopen_table(r->files, a->member->number)))
			return bad("a process has no descriptors or traits", err);
	}
	return 0;
}

/* ---- what the kernel remembers ---- */

/* The first thread among the others, as they were captured. */
static int give_traits(struct actor *a, struct fvm_error *err)
{
	const size_t first = a->member->leader_gone ? 0 : 1;
	const size_t count = a->thread_count + first;
	scoped_free struct vin_thread *all = calloc(count + 1, sizeof(*all));
	if (!all)
		return fvm_error_set(err, ENOMEM, "restore process %d", a->member->number);
	if (first)
		all[0] = a->blank.thread;
	if (a->thread_count)
		memcpy(all + first, a->threads, a->thread_count * sizeof(*all));
	int e = a->traits ? vin_traits_replay(&a->blank.post, all, count, a->states, a->traits,
					      a->traits_len, err)
			  : vin_traits_dress(&a->blank.post, all, count, a->states, err);
	if (first)
		a->blank.thread = all[0];
	if (a->thread_count)
		memcpy(a->threads, all + first, a->thread_count * sizeof(*all));
	return e < 0 ? fvm_error_wrap(err, e, "process %d", a->member->number) : 0;
}

/* Where a process has no right to choose, the number is made the next one. */
static int make_thread(struct vin_replay *r, struct actor *a, pid_t number, struct vin_thread *t,
		       struct fvm_error *err)
{
	if (vin_users_find(&r->users, a->member->number) < 0)
		return vin_blank_thread(&r->nest, &a->blank, number, t, err);
	int e = vin_users_next(&r->users, number, err);
	if (e == 0)
		e = vin_blank_thread(&r->nest, &a->blank, 0, t, err);
	if (e == 0 && vin_inner_number(t->tid) != number)
		e = fvm_error_say(err, EAGAIN, "somebody else took number %d", number);
	return e;
}

/* All by one batch, where the process may choose and the kernel tells who is who. */
static int make_at_once(struct vin_replay *r, struct actor *a, size_t first, struct fvm_error *err)
{
	const size_t count = a->state_count - first;
	if (count < 2 || vin_users_find(&r->users, a->member->number) >= 0)
		return -ENOTTY;
	scoped_free pid_t *numbers = calloc(count, sizeof(*numbers));
	if (!numbers)
		return fvm_error_set(err, ENOMEM, "make threads");
	for (size_t i = 0; i < count; i++)
		numbers[i] = a->states[first + i].tid;
	int e = vin_blank_threads(&r->nest, &a->blank, numbers, count, a->threads, err);
	a->thread_count = e == 0 ? count : 0;
	return e;
}

static int make_threads(struct vin_replay *r, struct actor *a, struct fvm_error *err)
{
	const size_t first = a->member->leader_gone ? 0 : 1;
	a->threads = calloc(a->state_count + 1, sizeof(*a->threads));
	if (!a->threads)
		return fvm_error_set(err, ENOMEM, "make threads");
	int e = make_at_once(r, a, first, err);
	if (e != -ENOTTY)
		return e;
	e = 0;
	for (size_t i = first; e == 0 && i < a->state_count; i++) {
		e = make_thread(r, a, a->states[i].tid, &a->threads[a->thread_count], err);
		a->thread_count += e == 0;
	}
	return e;
}

static int finish_actor(struct vin_replay *r, struct actor *a, struct fvm_error *err)
{
	int e = vin_mem_name(&r->nest, &a->blank, &a->mem,
			     vin_namespaces_names(&r->own, a->member->number, r->options.root),
			     err);
	if (e == 0)
		e = vin_mem_finish(&a->blank, &a->mem, err);
	if (e == 0)
		e = vin_actor_enter_users(r, a, err);
	return e == 0 ? make_threads(r, a, err) : e;
}

/* The registers: everybody stands where his program was. */
static int place_actor(struct actor *a, struct fvm_error *err)
{
	const bool gone = a->member->leader_gone;
	int e = 0;
	for (size_t i = 0; e == 0 && i < a->thread_count; i++) {
		e = vin_thread_ready(&a->blank.post, &a->threads[i], &a->states[i + !gone], err);
		if (e == 0 && (!gone || i > 0))
			e = vin_post_leave(&a->blank.post, &a->threads[i], err);
	}
	/* they have come to their stops meanwhile; one without a leader leaves with the post */
	for (size_t i = gone; e == 0 && i < a->thread_count; i++)
		e = vin_thread_park(&a->threads[i], err);
	if (e == 0 && !gone)
		e = vin_thread_ready(&a->blank.post, &a->blank.thread, &a->states[0], err);
	struct vin_thread *last = gone ? &a->threads[0] : &a->blank.thread;
	return e < 0 ? e : vin_post_close(&a->blank.post, last, err);
}

static void tell_lost(void *arg, pid_t number, int fd, const char *peer)
{
	struct vin_replay *r = arg;
	const struct actor *a = vin_replay_actor(r, number);
	r->options.lost(r->options.lost_arg, a ? a->blank.thread.pid : 0, fd, peer);
}

/* From here on pages may be touched. */
static int begin_lazy(struct vin_replay *r, struct fvm_error *err)
{
	int e = 0;
	for (size_t i = 0; r->lazy && e == 0 && i < r->family.count; i++) {
		struct actor *a = &r->actors[i];
		if (a->mapped)
			e = vin_lazy_fill(r->lazy, &r->nest, a->member->number, &a->blank, &a->mem,
					  err);
	}
	return r->lazy && e == 0
		       ? vin_lazy_begin(r->lazy, r->nest.init.thread.pid, r->options.lazy, err)
		       : e;
}

static int finish(struct vin_replay *r, struct fvm_error *err)
{
	int e = check_whole(r, err);
	if (e == 0)
		e = begin_lazy(r, err);
	for (size_t i = 0; e == 0 && i < r->family.count; i++) {
		if (!r->actors[i].member->zombie)
			e = finish_actor(r, &r->actors[i], err);
	}
	if (e == 0)
		e = vin_actors_meet(r, err);
	if (e == 0)
		e = vin_objects_seal(&r->objects, err);
	if (e == 0)
		e = have_opened(r, finish_ipc, VIN_TAG_END, NULL, err);
	if (e == 0)
		e = vin_birth_groups(r, err);
	if (e == 0 && r->files)
		e = vin_actors_place(r, err);
	for (size_t i = 0; e == 0 && i < r->family.count; i++) {
		if (r->actors[i].member->zombie)
			e = vin_birth_zombie(&r->actors[i], err);
		else if (r->actors[i].member->leader_gone)
			e = vin_birth_lose_leader(&r->actors[i], err);
	}
	/* before anybody has asked to be told of a parent's end */
	if (e == 0)
		e = vin_nest_leave(&r->nest, err);
	for (size_t i = 0; e == 0 && i < r->family.count; i++) {
		if (r->actors[i].member->zombie)
			continue;
		e = give_traits(&r->actors[i], err);
		if (e == 0)
			e = place_actor(&r->actors[i], err);
	}
	if (e == 0 && r->files && r->options.lost)
		vin_reopen_lost(r->files, tell_lost, r);
	vin_reopen_close(r->files);
	r->files = NULL;
	vin_namespaces_free(&r->own);
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
	r->blocks = (struct vin_blocks)VIN_NO_BLOCKS;
	enum vin_tag tag = VIN_TAG_HEAD;
	int e = 0;
	if (options->lazy) {
		r->lazy = vin_lazy_new(&r->blocks);
		e = r->lazy ? 0 : fvm_error_set(err, ENOMEM, "replay programs");
	}
	while (e == 0 && tag != VIN_TAG_END) {
		uint64_t len;
		e = vin_in_next(in, &tag, &len, err);
		if (e == 0 && tag != VIN_TAG_END)
			e = take_record(r, tag, in, err);
	}
	if (e == 0)
		e = finish(r, err);
	r->first = r->nest.init.thread.pid;
	if (e < 0)
		vin_replay_close(r);
	else
		*ret = r;
	return e;
}

/* ---- after that ---- */

/* The nest forgets it when it lives alone. */
pid_t vin_replay_init(const struct vin_replay *r)
{
	assert(!r->nest.guest && r->first > 0);
	return r->first;
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

/* With a PID 1 of ours goes its namespace; of guests each has to end. */
static int guard(const struct vin_replay *r, struct vin_guard *ret, struct fvm_error *err)
{
	size_t count = 0;
	scoped_free pid_t *pids = calloc(r->family.count + 1, sizeof(*pids));
	if (!pids)
		return fvm_error_set(err, ENOMEM, "guard the programs");
	for (size_t i = 0; i < r->family.count; i++) {
		if (!r->actors[i].member->zombie)
			pids[count++] = r->actors[i].blank.thread.pid;
	}
	return r->nest.guest ? vin_guard_begin(pids, count, ret, err) : 0;
}

static struct vin_thread *first_living(struct actor *a)
{
	return a->member->leader_gone ? &a->threads[0] : &a->blank.thread;
}

static bool was_told(const struct actor *child, const struct actor *parent)
{
	const struct vin_member *m = child->member;
	return !m->zombie && m->parent == parent->member->number && child->states[0].stopped &&
	       child->states[0].told;
}

/* Before any of them goes, and so stops. */
static void see_signals(struct vin_replay *r)
{
	for (size_t i = 0; i < r->family.count; i++) {
		struct actor *a = &r->actors[i];
		for (size_t j = i + 1; j < r->family.count && !a->member->zombie; j++) {
			if (!was_told(&r->actors[j], a))
				continue;
			a->signalled = vin_stop_signalled(first_living(a));
			break;
		}
	}
}

/* What it knows of its children, who were let go. */
static void take_stops(struct vin_replay *r, struct actor *a)
{
	for (size_t j = 0; j < r->family.count; j++) {
		if (was_told(&r->actors[j], a))
			vin_stop_take(first_living(a), r->actors[j].member->number, a->signalled);
	}
}

int vin_replay_go(struct vin_replay *r, struct fvm_error *err)
{
	struct vin_guard g = { .line = -1 };
	int e = guard(r, &g, err);
	see_signals(r);
	/* children first: a parent that goes on may look at them */
	for (size_t i = r->family.count; e == 0 && i-- > 0;) {
		if (r->actors[i].member->zombie)
			continue;
		take_stops(r, &r->actors[i]);
		e = release_actor(&r->actors[i], err);
	}
	if (e == 0)
		e = vin_nest_release(&r->nest, err);
	if (e < 0)
		vin_nest_kill(&r->nest);
	vin_guard_end(&g);
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
		free(a->traits);
	}
	free(r->actors);
	vin_lazy_free(r->lazy);
	vin_opener_end(r->opener);
	vin_reopen_close(r->files);
	vin_objects_free(&r->objects);
	vin_early_free(&r->early);
	vin_blocks_free(&r->blocks);
	vin_family_free(&r->family);
	vin_users_free(&r->users);
	vin_namespaces_free(&r->own);
	vin_mounts_forget(&r->mounts);
	free(r);
}
