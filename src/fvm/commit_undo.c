/* Undo: what was replaced comes back, and the VM gets its changes again. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/commit_priv.h"
#include "fvm/inode.h"
#include "fvm/internal.h"
#include "fvm/plan.h"
#include "fvm/subids.h"

/* ---- what was changed since the commit ---- */

static bool same_node(const struct commit_node *a, const struct commit_node *b)
{
	return a->ino == b->ino && a->size == b->size && a->mode == b->mode && a->uid == b->uid &&
	       a->gid == b->gid && a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns;
}

static const char *changed_dir(struct commit *c, size_t index, const struct commit_node *now)
{
	const struct commit_entry *e = &c->entries[index];
	const struct commit_node *then = &e->placed;
	size_t count = 0;
	if (!S_ISDIR(now->mode))
		return "it is no directory any more";
	if (then->mode != now->mode || then->uid != now->uid || then->gid != now->gid)
		return e->op == COMMIT_DIR && !(e->flags & COMMIT_META)
			       ? NULL
			       : "its mode or owner changed since";
	if (e->op == COMMIT_DIR || e->top != COMMIT_NO_TOP)
		return NULL;
	if (commit_count_tree(c->stacks[e->stack].base, e->rel, &count) < 0)
		return "it can't be looked through";
	return count != commit_count_inside(c, index) ? "entries in it came or went since" : NULL;
}

/* Why what stands at an entry's path is not what the commit put there, or NULL. */
static const char *changed_since(struct commit *c, size_t index)
{
	const struct commit_entry *e = &c->entries[index];
	struct commit_node now;
	struct stat st;
	int dir = commit_host_dir(c, e);
	if (dir < 0)
		return "its directory is gone";
	if (fstatat(dir, *e->rel ? commit_name(e->rel) : "", &st,
		    AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0)
		return e->op == COMMIT_DELETE ? NULL : "deleted since";
	if (e->op == COMMIT_DELETE)
		return "made again since";
	fvm_subids_stat(dir, *e->rel ? commit_name(e->rel) : "", &st);
	commit_node_from(&now, &st);
	if (S_ISDIR(e->placed.mode))
		return changed_dir(c, index, &now);
	return same_node(&now, &e->placed) ? NULL : "changed since";
}

static int find_problems(struct commit *c, struct fvm_problems *problems)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < c->count; i++) {
		const char *why = changed_since(c, i);
		if (!why)
			continue;
		scoped_free char *path = commit_path(c, &c->entries[i]);
		r = path ? commit_problem(problems, FVM_PROBLEM_CONFLICT, path, why) : -ENOMEM;
	}
	return r;
}

/* ---- whether it was a later commit ---- */

struct later {
	const struct commit *c;
	const struct fvm_problems *problems;
	uint32_t latest; /* that changed one of the problems' paths */
};

/* A directory is a problem when entries in it came or went, a file when its directory is gone. */
static bool has_path(const struct commit *c, const struct fvm_problems *problems)
{
	for (size_t i = 0; i < c->count; i++) {
		const struct commit_entry *e = &c->entries[i];
		scoped_free char *path =
			e->op == COMMIT_DIR && !(e->flags & COMMIT_META) ? NULL : commit_path(c, e);
		for (size_t j = 0; path && j < problems->count && j < 100; j++) {
			const char *problem = problems->items[j].path;
			if (fvm_path_below(path, problem) ||
			    (e->op != COMMIT_DIR && fvm_path_below(problem, path)))
				return true;
		}
	}
	return false;
}

static int look_at_later(uint32_t id, void *arg)
{
	struct later *l = arg;
	scoped_commit c = COMMIT_INIT;
	enum commit_state state;
	if (id <= l->c->id || id <= l->latest)
		return 0;
	c.store = l->c->store;
	c.all = fcntl(l->c->all, F_DUPFD_CLOEXEC, 0);
	/* one that is damaged is told of when it is its turn */
	if (c.all >= 0 && commit_load(&c, id, &state, NULL) == 0 && state == COMMIT_KEPT &&
	    has_path(&c, l->problems))
		l->latest = id;
	return 0;
}

static int refuse(const struct commit *c, const struct fvm_problems *problems,
		  struct fvm_error *err)
{
	struct later l = { c, problems, 0 };
	if (commit_ids(c->all, look_at_later, &l) == 0 && l.latest)
		fvm_error_hint(err,
			       "commit %u changed the same: fvm undo %u first; with --force what "
			       "changed since is lost",
			       l.latest, l.latest);
	return fvm_error_say(err, ECANCELED,
			     "undo commit %u: nothing was done, as %zu paths were changed since",
			     c->id, problems->count);
}

/* A directory in which something else changed too keeps its new time. */
static void keep_newer_times(struct commit *c)
{
	for (size_t i = 0; i < c->count; i++) {
		struct commit_entry *e = &c->entries[i];
		struct stat st;
		struct commit_node now;
		if (e->op != COMMIT_DIR)
			continue;
		scoped_fd dir =
			fvm_open_deep(c->stacks[e->stack].base, e->rel, O_PATH | O_DIRECTORY);
		if (dir < 0 || fstat(dir, &st) < 0)
			continue;
		commit_node_from(&now, &st);
		if (now.mtime_ns != e->placed.mtime_ns) {
			e->was.mtime_ns = now.mtime_ns;
			e->was.atime_ns = now.atime_ns;
		}
	}
}

/* ---- the steps ---- */

static int swap_back(struct commit *c, bool force, struct fvm_error *err)
{
	char name[16];
	int len = snprintf(name, sizeof(name), "%u", c->id);
	int r = fvm_write_file_atomic(c->all, "pending", name, (size_t)len, true);
	if (r == 0)
		r = commit_state_set(c, COMMIT_UNDOING);
	if (r < 0)
		return fvm_error_set(err, -r, "write the state of commit %u", c->id);
	r = commit_swap_all(c, false, force, err);
	if (r < 0)
		return r;
	r = commit_sync(c);
	if (r == 0)
		r = commit_state_set(c, COMMIT_UNDONE);
	return r < 0 ? fvm_error_set(err, -r, "bring the undo of commit %u to the disk", c->id) : 0;
}

static void redo(struct commit *c)
{
	struct fvm_error err = { 0 };
	int r = commit_redo(c, &err);
	if (r < 0)
		log_warn("undo of commit %u: %s; the next command tries again", c->id,
			 err.code ? err.text : strerror(-r));
}

static void count_changes(const struct commit *c, struct fvm_commit_result *result)
{
	for (size_t i = 0; i < c->count; i++) {
		const struct commit_entry *e = &c->entries[i];
		if (e->op == COMMIT_DIR && !(e->flags & COMMIT_META))
			continue;
		result->deleted += e->op == COMMIT_DELETE;
		result->added += e->op != COMMIT_DELETE && !(e->flags & COMMIT_HAD);
		result->changed += e->op != COMMIT_DELETE && (e->flags & COMMIT_HAD) != 0;
	}
}

/* What would happen to the host: the reverse of what the commit did. */
static void tell_entries(const struct commit *c, const struct fvm_commit_options *o)
{
	for (size_t i = 0; o->entry && i < c->count; i++) {
		const struct commit_entry *e = &c->entries[i];
		if (e->op == COMMIT_DIR && !(e->flags & COMMIT_META))
			continue;
		scoped_free char *path = commit_path(c, e);
		char kind = e->op == COMMIT_DELETE     ? 'A'
			    : !(e->flags & COMMIT_HAD) ? 'D'
			    : e->op == COMMIT_DIR      ? 'm'
						       : 'M';
		if (path)
			o->entry(o->arg, kind, path, S_ISREG(e->was.mode) ? e->was.size : 0, false);
	}
}

static int latest_id(uint32_t id, void *arg)
{
	uint32_t *latest = arg;
	if (id > *latest)
		*latest = id;
	return 0;
}

/* @void_too: one whose drop was interrupted */
static int load_kept(struct commit *c, uint32_t id, bool void_too, struct fvm_error *err)
{
	enum commit_state state;
	char name[16];
	int r = id == 0 ? commit_ids(c->all, latest_id, &id) : 0;
	if (r < 0)
		return fvm_error_set(err, -r, "list the store's commits");
	if (id == 0)
		return fvm_error_say(err, ENOENT, "there is no commit to be undone");
	snprintf(name, sizeof(name), "%u", id);
	if (faccessat(c->all, name, F_OK, 0) < 0) {
		fvm_error_say(err, ENOENT, "there is no commit %u", id);
		fvm_error_hint(err, "fvm undo --ls lists them");
		return -ENOENT;
	}
	r = commit_load(c, id, &state, err);
	if (r == 0 && state != COMMIT_KEPT && !(void_too && state == COMMIT_VOID))
		r = fvm_error_set(err, EBUSY, "commit %u is not finished", id);
	return r;
}

struct target { /* the VM that gets its changes back, if it is there */
	const struct fvm_vm *vm;
	const struct fvm_stacks *stacks;
	bool have;
	struct fvm_vm own_vm;
	struct fvm_stacks own_stacks;
};

static int find_target(const struct commit *c, bool force, struct target *t, struct fvm_error *err)
{
	int r = commit_vm_find(c, &t->own_vm, err);
	/* whoever has it may be about to end; not without limit: a commit waits for our lock */
	for (int tries = 0; r == -EBUSY && tries < 100; tries++) {
		fvm_sleep_ms(20);
		*err = (struct fvm_error){ 0 };
		r = commit_vm_find(c, &t->own_vm, err);
	}
	if (r == -ENOENT) { /* removed since: nobody misses its changes */
		*err = (struct fvm_error){ 0 };
		return 0;
	}
	if (r < 0)
		return r;
	t->have = true;
	bool stopped = fvm_vm_state(&t->own_vm) == FVM_STOPPED;
	bool gave = faccessat(c->dir, "layer", F_OK, 0) == 0;
	if (!stopped && gave && !force) {
		fvm_error_set(err, EBUSY,
			      "undo commit %u: VM '%s', which is to get its changes back, runs",
			      c->id, t->own_vm.config.name);
		fvm_error_hint(err, "fvm stop %s; or --force to leave them out of it",
			       t->own_vm.config.name);
		fvm_vm_close(&t->own_vm);
		t->have = false;
		return -EBUSY;
	}
	r = !stopped && gave ? -EBUSY
			     : fvm_stacks_open(&t->own_vm, FVM_STACKS_LAYERS, &t->own_stacks, err);
	t->vm = &t->own_vm;
	t->stacks = &t->own_stacks;
	if (r < 0) { /* forced, or its layers are broken: the host counts more */
		fvm_vm_close(&t->own_vm);
		t->have = false;
	}
	return 0;
}

/* @given: the VM and its stacks when the caller has them; else they are looked for */
static int undo(struct commit *c, const struct fvm_commit_options *o, const struct target *given,
		struct fvm_commit_result *result, struct fvm_error *err)
{
	struct target found = { .have = false };
	int r = commit_open_places(c, COMMIT_KEPT, err);
	if (r == 0)
		r = find_problems(c, &result->problems);
	if (r == 0 && result->problems.count > 0 && !o->force)
		return refuse(c, &result->problems, err);
	if (r < 0)
		return err->code
			       ? r
			       : fvm_error_set(err, -r, "look for changes since commit %u", c->id);
	count_changes(c, result);
	tell_entries(c, o);
	size_t changes = result->added + result->changed + result->deleted;
	if (o->dry_run || (o->confirm && !o->confirm(o->arg, changes, 0)))
		return 0;
	r = given ? 0 : find_target(c, o->force, &found, err);
	if (r < 0)
		return r;
	const struct target *t = given ? given : &found;
	keep_newer_times(c);
	r = swap_back(c, o->force, err);
	/* while the files that go are still known by where they lie */
	if (r == 0)
		(void)commit_services_of(c, &result->services);
	if (r < 0)
		redo(c);
	else if (commit_finish_undo(c, t->have ? t->vm : NULL, t->stacks) < 0)
		log_warn("undo of commit %u: the host is as it was; the next command does the rest",
			 c->id);
	result->id = r < 0 ? 0 : c->id;
	if (found.have) {
		fvm_stacks_close(&found.own_stacks);
		fvm_vm_close(&found.own_vm);
	}
	return r;
}

static int undo_at(int host, const struct fvm_store *store, uint32_t id,
		   const struct fvm_commit_options *o, const struct target *given,
		   struct fvm_commit_result *result, struct fvm_error *err)
{
	scoped_commit c = COMMIT_INIT;
	int r = fvm_commit_pending(store) ? commit_recover_at(host, store, given ? given->vm : NULL,
							      given ? given->stacks : NULL, err)
					  : 0;
	if (r < 0)
		return r;
	r = commit_open_all(&c, store, true);
	if (r < 0)
		return fvm_error_set(err, -r, "open the store's commits");
	c.host = host;
	c.progress = o->progress;
	c.progress_arg = o->arg;
	r = load_kept(&c, id, false, err);
	return r < 0 ? r : undo(&c, o, given, result, err);
}

int commit_undo_stacks(int host, const struct fvm_store *store, uint32_t id,
		       const struct fvm_commit_options *o, const struct fvm_vm *vm,
		       const struct fvm_stacks *stacks, struct fvm_commit_result *result,
		       struct fvm_error *err)
{
	const struct target given = { .vm = vm, .stacks = stacks, .have = true };
	return undo_at(host, store, id, o, &given, result, err);
}

int fvm_commit_undo(const struct fvm_store *store, uint32_t id, const struct fvm_commit_options *o,
		    struct fvm_commit_result *ret, struct fvm_error *err)
{
	scoped_fd host = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (host < 0)
		return fvm_error_set(err, errno, "open /");
	return undo_at(host, store, id, o, NULL, ret, err);
}

/* ---- list and drop ---- */

struct ids {
	uint32_t *items;
	size_t count;
};

static int collect(uint32_t id, void *arg)
{
	struct ids *ids = arg;
	uint32_t *more = realloc(ids->items, (ids->count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	ids->items = more;
	ids->items[ids->count++] = id;
	return 0;
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static int tell(const struct fvm_store *store, int all, uint32_t id, fvm_commit_info_fn fn,
		void *arg)
{
	scoped_commit c = COMMIT_INIT;
	struct fvm_commit_result counts = { 0 };
	struct fvm_commit_info info = { .id = id };
	enum commit_state state = COMMIT_VOID;
	c.store = store;
	c.all = dup(all);
	int r = commit_load(&c, id, &state, NULL);
	/* EACCES, EPERM: another user's, who may undo it */
	if (r == -ENOENT || r == -EACCES || r == -EPERM || (r == 0 && state != COMMIT_KEPT))
		return 0;
	info.damaged = r < 0;
	strcpy(info.vm, c.vm_name);
	info.created_ns = c.created_ns;
	count_changes(&c, &counts);
	info.added = counts.added;
	info.changed = counts.changed;
	info.deleted = counts.deleted;
	return fn(&info, arg);
}

int fvm_commit_list(const struct fvm_store *store, fvm_commit_info_fn fn, void *arg,
		    struct fvm_error *err)
{
	struct ids ids = { 0 };
	scoped_fd all = fvm_open_nofollow(store->dir, "commits", O_RDONLY | O_DIRECTORY);
	if (all == -ENOENT)
		return 0;
	int r = all < 0 ? all : commit_ids(all, collect, &ids);
	if (r < 0)
		fvm_error_set(err, -r, "list the store's commits");
	if (ids.count > 0)
		qsort(ids.items, ids.count, sizeof(*ids.items), by_number);
	for (size_t i = 0; r == 0 && i < ids.count; i++)
		r = tell(store, all, ids.items[i], fn, arg);
	free(ids.items);
	return r;
}

/* What it replaced on other mounts than the store's stays there: its journal named the places. */
static int drop_damaged(struct commit *c, const char *name, struct fvm_error *err)
{
	log_warn("commit %s: of what it replaced, directories .fvm-commit-* may be left on other "
		 "file systems than the store's",
		 name);
	int r = fvm_trash(c->store, c->all, name, true);
	if (r == 0)
		r = commit_pending_clear(c);
	return r < 0 ? fvm_error_set(err, -r, "drop commit %s", name) : 0;
}

int fvm_commit_drop(const struct fvm_store *store, uint32_t id, bool force, struct fvm_error *err)
{
	scoped_commit c = COMMIT_INIT;
	char name[16];
	int len = snprintf(name, sizeof(name), "%u", id);
	scoped_fd host = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = commit_open_all(&c, store, true);
	if (host < 0 || r < 0)
		return fvm_error_set(err, host < 0 ? errno : -r, "open the store's commits");
	c.host = host;
	r = load_kept(&c, id, true, err);
	if (r == -EBADMSG && force) {
		*err = (struct fvm_error){ 0 };
		return drop_damaged(&c, name, err);
	}
	if (r == 0)
		r = commit_open_places(&c, COMMIT_VOID, err);
	if (r < 0)
		return r;
	r = fvm_write_file_atomic(c.all, "pending", name, (size_t)len, true);
	if (r == 0)
		r = commit_state_set(&c, COMMIT_VOID);
	/* what makes room must do without; after a crash the next drop goes on, if no command does
	 */
	if (r == -ENOSPC || r == -EDQUOT)
		r = commit_state_void(&c);
	if (r == 0)
		r = commit_remove_areas(&c);
	if (r == 0)
		r = commit_pending_clear(&c);
	return r < 0 ? fvm_error_set(err, -r, "drop commit %u", id) : 0;
}
