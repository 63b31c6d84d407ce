/*
 * The plan: each change of the scan becomes an entry, or a problem.
 *
 * Entries come parents first, as the scan does. What lies in a directory that is new is staged in
 * its tree ("top") and needs no step of its own on the host. For each entry that has one, the
 * directory it lies in gets an entry too, because its times change and undo has to know them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "fvm/commit_merge.h"
#include "fvm/commit_priv.h"
#include "fvm/inode.h"
#include "fvm/internal.h"
#include "fvm/plan.h"
#include "fvm/subids.h"

struct planner {
	struct commit *c;
	const struct fvm_vm *vm;
	const struct fvm_stacks *stacks;
	const struct fvm_commit_options *options;
	struct fvm_commit_result *result;
	struct fvm_stamps *stamps;
	struct fvm_stamps *dirs; /* "/STACK/REL" of directories that have an entry */
	struct commit_check check;
	bool *named;	/* which of the named paths were met */
	uint32_t top;	/* the new directory met last */
	bool overruled; /* a problem that force does not help with was met */
};

int commit_problem(struct fvm_problems *p, enum fvm_problem_kind kind, const char *path,
		   const char *why)
{
	struct fvm_problem *more = realloc(p->items, (p->count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	p->items = more;
	char *copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	p->items[p->count++] = (struct fvm_problem){ kind, copy, why };
	return 0;
}

/* ---- which changes are meant ---- */

enum choice { CHOICE_NO, CHOICE_YES, CHOICE_PARENT /* of what was named */ };

static enum choice choose(struct planner *p, const struct fvm_change *ch)
{
	const char *const *paths = p->options->paths;
	enum choice choice = CHOICE_NO;
	for (size_t i = 0; paths && paths[i]; i++) {
		if (fvm_path_below(ch->path, paths[i])) {
			p->named[i] = true;
			if (!ch->noise || fvm_path_is_noise(paths[i]))
				return CHOICE_YES;
		} else if (fvm_path_below(paths[i], ch->path)) {
			choice = CHOICE_PARENT;
		}
	}
	return !paths && !ch->noise ? CHOICE_YES : choice;
}

/*
 * Logs and caches stay out, but the directories that a package made for them don't: its daemon
 * would not start without.
 */
static bool is_wanted_dir(const struct fvm_change *ch)
{
	return ch->kind == FVM_ADDED && S_ISDIR(ch->now->st_mode) &&
	       (fvm_path_below(ch->path, "/var/log") || fvm_path_below(ch->path, "/var/cache"));
}

/* Return: 1 to leave the change out, 0 to go on, -ENOMEM */
static int check(struct planner *p, const struct fvm_change *ch, int parent)
{
	enum fvm_problem_kind kind;
	const char *why = commit_check(&p->check, ch, parent, &kind);
	if (!why)
		return 0;
	int r = commit_problem(&p->result->problems, kind, ch->path, why);
	return r < 0 ? r : 1;
}

/* ---- entries ---- */

static uint32_t stack_index(const struct planner *p, const char *key)
{
	size_t i = 0;
	while (i < p->stacks->count && strcmp(p->stacks->items[i].key, key) != 0)
		i++;
	return (uint32_t)i;
}

static bool dir_known(struct planner *p, uint32_t stack, const char *rel, size_t len)
{
	const struct fvm_stamp none = { .kind = 'd' };
	scoped_free char *key = NULL;
	if (asprintf(&key, "%u/%.*s", stack, (int)len, rel) < 0) {
		key = NULL;
		return false;
	}
	if (fvm_stamps_find(p->dirs, key))
		return true;
	(void)fvm_stamps_set(p->dirs, key, &none);
	return false;
}

/* The VM's own times of a directory, from the highest layer that has it. */
static void layer_times(const struct planner *p, struct commit_entry *e)
{
	const struct fvm_stack *stack = &p->stacks->items[e->stack];
	struct stat st;
	for (size_t i = stack->count; i-- > 0;) {
		if (stack->layers[i] < 0)
			continue;
		scoped_fd dir = fvm_open_deep(stack->layers[i], e->rel, O_PATH | O_DIRECTORY);
		if (dir < 0 || fstat(dir, &st) < 0)
			continue;
		commit_node_from(&e->now, &st);
		e->layer_ino = st.st_ino;
		e->layer = (uint32_t)i;
		e->flags |= COMMIT_TIMES;
		return;
	}
}

/* The directory in which @rel lies gets an entry for its times. */
static int add_parent(struct planner *p, uint32_t stack, const char *rel, int parent)
{
	struct stat st;
	const char *slash = strrchr(rel, '/');
	size_t len = slash ? (size_t)(slash - rel) : 0;
	if (dir_known(p, stack, rel, len))
		return 0;
	scoped_free char *path = strndup(rel, len);
	struct commit_entry *e = path ? commit_add(p->c, path) : NULL;
	if (!e)
		return -ENOMEM;
	e->op = COMMIT_DIR;
	e->flags = COMMIT_HAD;
	e->stack = stack;
	if (fvm_subids_fstat(parent, &st) < 0)
		return -errno;
	commit_node_from(&e->was, &st);
	e->now = e->was;
	layer_times(p, e);
	return 0;
}

static int read_dir_xattrs(const struct fvm_change *ch, struct commit_entry *e, int parent)
{
	scoped_fd now = fvm_open_deep(ch->layer_dir, ch->name, O_RDONLY | O_DIRECTORY);
	scoped_fd was =
		parent < 0 ? -1
			   : fvm_open_deep(parent, *e->rel ? ch->name : "", O_RDONLY | O_DIRECTORY);
	if (now < 0 || was < 0)
		return now < 0 ? now : was;
	const struct fvm_xattr_at at_now = { .fd = now }, at_was = { .fd = was };
	int r = fvm_xattrs_read(&at_now, &e->new_xattrs);
	return r < 0 ? r : fvm_xattrs_read(&at_was, &e->old_xattrs);
}

static enum commit_op op_of(const struct fvm_change *ch)
{
	if (!ch->now)
		return COMMIT_DELETE;
	if (!S_ISDIR(ch->now->st_mode))
		return COMMIT_PUT;
	return ch->was && S_ISDIR(ch->was->st_mode) ? COMMIT_DIR : COMMIT_MKDIR;
}

static void count(struct planner *p, const struct fvm_change *ch, const struct commit_entry *e)
{
	struct fvm_commit_result *res = p->result;
	char kind = e->op == COMMIT_DELETE     ? 'D'
		    : !(e->flags & COMMIT_HAD) ? 'A'
		    : ch->kind == FVM_META     ? 'm'
					       : 'M';
	uint64_t size = S_ISREG(e->now.mode) ? e->now.size : 0;
	res->added += kind == 'A';
	res->deleted += kind == 'D';
	res->changed += kind == 'M' || kind == 'm';
	res->bytes += size;
	if (p->options->entry)
		p->options->entry(p->options->arg, kind, ch->path, size, e->merged != NULL);
}

static void set_now(struct commit_entry *e, const struct fvm_change *ch)
{
	commit_node_from(&e->now, ch->now);
	e->layer_ino = ch->now->st_ino;
	e->layer = (uint32_t)ch->layer;
	if (S_ISREG(ch->now->st_mode) && commit_has_caps(ch))
		e->flags |= COMMIT_CAPS;
}

/* Fill @e, whose path and stack are set. @parent: the host's directory, -1 within a new one */
static int fill_entry(struct planner *p, const struct fvm_change *ch, struct commit_entry *e,
		      int parent)
{
	e->op = op_of(ch);
	if (ch->was) {
		e->flags |= COMMIT_HAD;
		commit_node_from(&e->was, ch->was);
	}
	if (ch->now)
		set_now(e, ch);
	if (e->op == COMMIT_DIR) {
		e->flags |= COMMIT_META | COMMIT_TIMES;
		(void)dir_known(p, e->stack, e->rel, strlen(e->rel));
		return read_dir_xattrs(ch, e, parent);
	}
	if (parent < 0) {
		e->top = p->top;
		e->area = p->c->entries[p->top].area;
		return 0;
	}
	return commit_area_find(p->c, e, parent);
}

/* A directory that became something else, or the reverse, comes as deleted and then added. */
static bool replaces_last(const struct planner *p, const struct fvm_change *ch, uint32_t stack,
			  size_t *ret)
{
	for (size_t i = p->c->count; i-- > 0 && p->c->count - i <= 2;) {
		const struct commit_entry *e = &p->c->entries[i];
		if (e->op == COMMIT_DELETE && e->stack == stack && strcmp(e->rel, ch->rel) == 0) {
			*ret = i;
			return ch->kind == FVM_ADDED;
		}
	}
	return false;
}

static int become(struct planner *p, const struct fvm_change *ch, size_t index)
{
	struct commit_entry *e = &p->c->entries[index];
	e->op = op_of(ch);
	set_now(e, ch);
	p->result->deleted--;
	p->result->changed++;
	if (e->op == COMMIT_MKDIR)
		p->top = (uint32_t)index;
	return 0;
}

static bool is_inside_top(const struct planner *p, uint32_t stack, const char *rel)
{
	if (p->top == COMMIT_NO_TOP)
		return false;
	const struct commit_entry *top = &p->c->entries[p->top];
	size_t len = strlen(top->rel);
	return top->stack == stack && strncmp(top->rel, rel, len) == 0 && rel[len] == '/';
}

static int add_entry(struct planner *p, const struct fvm_change *ch, uint32_t stack, int parent,
		     struct fvm_buf *merged)
{
	struct commit_entry *e = commit_add(p->c, ch->rel);
	if (!e)
		return -ENOMEM;
	e->stack = stack;
	uint32_t index = (uint32_t)p->c->count - 1;
	int r = fill_entry(p, ch, e, parent);
	if (r < 0)
		return r;
	e->merged = merged;
	if (merged)
		e->now.size = merged->len;
	count(p, ch, e);
	if (e->op == COMMIT_MKDIR && e->top == COMMIT_NO_TOP)
		p->top = index;
	/* may move the entries */
	return e->op != COMMIT_DIR && parent >= 0 ? add_parent(p, stack, ch->rel, parent) : 0;
}

/* Return: 0 to go on, 1 to leave it out, or -errno; *@ret_merged: what is to be written instead */
static int check_drift(struct planner *p, const struct fvm_change *ch, struct fvm_buf **ret_merged)
{
	const char *why = NULL;
	int r = fvm_stamps_drift(p->stamps, &p->vm->config, ch, &why);
	enum fvm_problem_kind kind = FVM_PROBLEM_CONFLICT;
	if (r <= 0)
		return r == -EACCES || r == -EPERM ? 0 : r;
	if (p->options->merge && ch->was && ch->now && S_ISREG(ch->was->st_mode) &&
	    S_ISREG(ch->now->st_mode)) {
		r = commit_merge(p->vm, p->stamps, ch, ret_merged, &why);
		if (r <= 0)
			return r;
		kind = FVM_PROBLEM_MERGE;
	}
	return commit_problem(&p->result->problems, kind, ch->path, why);
}

static int open_parent(struct planner *p, const struct fvm_change *ch, uint32_t stack)
{
	struct commit_entry e = { .stack = stack, .rel = (char *)(uintptr_t)ch->rel };
	if (p->c->stacks[stack].base < 0)
		return -ENODEV;
	return commit_host_dir(p->c, &e);
}

static int lost_parent(struct planner *p, const struct fvm_change *ch, int why)
{
	const char *text = why == -ENODEV   ? "what was mounted there is not mounted now"
			   : why == -EXDEV  ? "another file system is mounted there now"
			   : why == -ENOENT ? "its directory is not there on the host"
			   : why == -EACCES ? "you may not enter its directory"
					    : "its directory became something else on the host";
	if (why != -ENODEV && why != -EXDEV && why != -ENOENT && why != -ENOTDIR && why != -ELOOP &&
	    why != -EACCES)
		return why;
	p->overruled = true;
	int r = commit_problem(&p->result->problems, FVM_PROBLEM_REFUSED, ch->path, text);
	return r < 0 ? r : 1;
}

static int plan_one(struct planner *p, const struct fvm_change *ch)
{
	uint32_t stack = stack_index(p, ch->key);
	struct fvm_buf *merged = NULL;
	size_t index;
	int parent = -1;
	if (!is_inside_top(p, stack, ch->rel)) {
		parent = open_parent(p, ch, stack);
		if (parent < 0)
			return lost_parent(p, ch, parent);
	}
	int r = check(p, ch, parent);
	if (r != 0)
		return r;
	if (replaces_last(p, ch, stack, &index)) /* whose drift was looked at */
		return become(p, ch, index);
	size_t problems = p->result->problems.count, entry = p->c->count;
	r = check_drift(p, ch, &merged);
	if (r < 0)
		return r;
	bool drifted = merged || p->result->problems.count > problems;
	r = add_entry(p, ch, stack, parent, merged);
	if (r == 0 && drifted)
		p->c->entries[entry].flags |= COMMIT_DRIFTED;
	return r;
}

/* The second half of a change that was refused: what was to stand in a directory's place. */
static bool is_refused_already(const struct planner *p, const struct fvm_change *ch)
{
	const struct fvm_problems *all = &p->result->problems;
	const struct fvm_problem *last = all->count ? &all->items[all->count - 1] : NULL;
	return last && ch->kind == FVM_ADDED && strcmp(last->path, ch->path) == 0 &&
	       last->kind != FVM_PROBLEM_CONFLICT && last->kind != FVM_PROBLEM_MERGE;
}

/* The paths named below it are met by it. */
static void note_above(const struct planner *p, const char *path)
{
	for (size_t i = 0; p->options->paths[i]; i++)
		p->named[i] |= fvm_path_below(p->options->paths[i], path);
}

/* What was left out is no directory that others could be staged in: leave out what is below. */
static int plan_change(const struct fvm_change *ch, void *arg)
{
	struct planner *p = arg;
	enum choice choice = choose(p, ch);
	if (p->c->progress && p->c->count % 64 == 0)
		p->c->progress(p->c->progress_arg, "look", p->c->count, 0);
	if (choice == CHOICE_NO && ch->noise && !p->options->paths) {
		p->result->left_out++;
		if (!is_wanted_dir(ch))
			return 1;
		choice = CHOICE_YES;
	}
	if (choice == CHOICE_NO)
		return 1;
	if (choice == CHOICE_PARENT && ch->kind == FVM_DELETED) {
		note_above(p, ch->path);
		int r = commit_problem(&p->result->problems, FVM_PROBLEM_REFUSED, ch->path,
				       "it was deleted whole: name it, not something in it");
		return r < 0 ? r : 1;
	}
	if (choice == CHOICE_PARENT && op_of(ch) != COMMIT_MKDIR)
		return 0;
	if (is_refused_already(p, ch))
		return 1;
	const char *why = commit_check_hidden(&p->check, ch);
	if (why) {
		int r = commit_problem(&p->result->problems, FVM_PROBLEM_REFUSED, ch->path, why);
		return r < 0 ? r : 1;
	}
	return plan_one(p, ch);
}

/* ---- around it ---- */

static int add_stacks(struct planner *p, struct fvm_error *err)
{
	struct commit *c = p->c;
	c->stacks = calloc(p->stacks->count + 1, sizeof(*c->stacks));
	if (!c->stacks)
		return fvm_error_set(err, ENOMEM, "plan the commit");
	for (size_t i = 0; i < p->stacks->count; i++) {
		const struct fvm_stack *from = &p->stacks->items[i];
		struct commit_stack *to = &c->stacks[c->stack_count++];
		struct statfs fs;
		const char *path = from->mount_point + strspn(from->mount_point, "/");
		strcpy(to->key, from->key);
		to->mount_point = strdup(from->mount_point);
		to->base = -1;
		if (!to->mount_point)
			return fvm_error_set(err, ENOMEM, "plan the commit");
		/* not the scan's descriptor: that is a clone of the mount, and nothing can be
		 * renamed from one mount to another */
		if (from->base >= 0)
			to->base = fvm_open_nofollow(c->host, *path ? path : ".",
						     O_RDONLY | O_DIRECTORY);
		if (to->base >= 0 && fstatfs(to->base, &fs) == 0)
			memcpy(&to->fsid, &fs.f_fsid, sizeof(to->fsid));
	}
	return 0;
}

static int unmet(const struct planner *p, struct fvm_error *err)
{
	const char *const *paths = p->options->paths;
	for (size_t i = 0; paths && paths[i]; i++) {
		if (p->named[i])
			continue;
		fvm_error_say(err, ENOENT, "VM '%s' changed nothing at %s", p->vm->config.name,
			      paths[i]);
		fvm_error_hint(err, "see: fvm diff %s", p->vm->config.name);
		return -ENOENT;
	}
	return 0;
}

static int plan_run(struct planner *p, struct fvm_error *err)
{
	const struct fvm_scan_options options = { .with_noise = true };
	int r = add_stacks(p, err);
	if (r == 0)
		r = commit_check_init(&p->check, p->c->host, p->vm, p->stacks->hide,
				      p->options->allow_setid);
	if (r < 0)
		return err->code ? r : fvm_error_set(err, -r, "read the mount table");
	r = fvm_stacks_scan(p->stacks, &options, plan_change, p, err);
	if (r < 0)
		return err->code ? r : fvm_error_set(err, -r, "plan the commit");
	r = unmet(p, err);
	if (r < 0)
		return r;
	if (p->result->problems.count > 0 && !p->options->force) {
		fvm_error_say(
			err, ECANCELED,
			"commit VM '%s': nothing was done, as %zu of its changes can't be applied",
			p->vm->config.name, p->result->problems.count);
		return -ECANCELED;
	}
	return 0;
}

int commit_plan(struct commit *c, int host, const struct fvm_vm *vm,
		const struct fvm_stacks *stacks, const struct fvm_commit_options *options,
		struct fvm_commit_result *result, struct fvm_error *err)
{
	struct planner p = {
		.c = c,
		.vm = vm,
		.stacks = stacks,
		.options = options,
		.result = result,
		.top = COMMIT_NO_TOP,
	};
	size_t named = 0;
	while (options->paths && options->paths[named])
		named++;
	p.named = calloc(named + 1, sizeof(bool));
	c->host = host;
	strcpy(c->vm_name, vm->config.name);
	strcpy(c->vm_id, vm->config.id);
	c->created_ns = fvm_now_ns();
	int r = p.named ? fvm_stamps_load(vm->dir, &p.stamps, err)
			: fvm_error_set(err, ENOMEM, "plan the commit");
	if (r == 0)
		r = fvm_stamps_parse("", 0, &p.dirs, err);
	if (r == 0)
		r = plan_run(&p, err);
	free(p.named);
	fvm_strv_free(&p.check.mounts);
	fvm_stamps_free(p.stamps);
	fvm_stamps_free(p.dirs);
	return r;
}
