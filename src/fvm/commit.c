/* Commit, from the plan to the finish. The picture is in commit.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/commit_priv.h"
#include "fvm/native.h"
#include "fvm/restarts.h"
#include "fvm/subids.h"

void fvm_problems_free(struct fvm_problems *p)
{
	for (size_t i = 0; i < p->count; i++)
		free(p->items[i].path);
	free(p->items);
	*p = (struct fvm_problems){ 0 };
}

const char *fvm_problem_name(enum fvm_problem_kind kind)
{
	static const char *const names[] = {
		[FVM_PROBLEM_CONFLICT] = "conflict", [FVM_PROBLEM_MERGE] = "merge",
		[FVM_PROBLEM_SETID] = "set-id",	     [FVM_PROBLEM_REFUSED] = "refused",
		[FVM_PROBLEM_RIGHTS] = "rights",
	};
	return names[kind];
}

void fvm_commit_result_free(struct fvm_commit_result *result)
{
	fvm_problems_free(&result->problems);
	fvm_strv_free(&result->services);
	*result = (struct fvm_commit_result){ 0 };
}

static int record_placed(struct commit *c)
{
	struct stat st;
	int r = 0;
	for (uint32_t i = 0; r == 0 && i < c->count; i++) {
		struct commit_entry *e = &c->entries[i];
		if (e->op == COMMIT_DELETE)
			continue;
		int dir = commit_host_dir(c, e);
		if (dir < 0)
			return dir;
		if (fstatat(dir, *e->rel ? commit_name(e->rel) : "", &st,
			    AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0)
			return -errno;
		fvm_subids_stat(dir, *e->rel ? commit_name(e->rel) : "", &st);
		commit_node_from(&e->placed, &st);
		r = commit_write_placed(c, i);
	}
	return r == 0 ? journal_sync(&c->journal) : r;
}

static int apply(struct commit *c, struct fvm_error *err)
{
	int r = commit_state_set(c, COMMIT_APPLYING);
	if (r < 0)
		return fvm_error_set(err, -r, "write the state of commit %u", c->id);
	r = commit_swap_all(c, true, false, err);
	if (r < 0)
		return r;
	r = commit_sync(c);
	if (r == 0)
		r = record_placed(c);
	if (r == 0)
		r = commit_state_set(c, COMMIT_DONE);
	return r < 0 ? fvm_error_set(err, -r, "bring commit %u to the disk", c->id) : 0;
}

/* Before the host was touched: areas and directory only. */
static void give_up(struct commit *c)
{
	int r = commit_forget(c);
	if (r < 0)
		log_warn("commit %u: its files are not all removed: %s; the next command will",
			 c->id, strerror(-r));
}

static int transact(struct commit *c, const struct fvm_vm *vm, const struct fvm_stacks *stacks,
		    struct fvm_error *err)
{
	struct fvm_error back = { 0 };
	int r = commit_write_plan(c);
	if (r < 0)
		fvm_error_set(err, -r, "write the journal of commit %u", c->id);
	if (r == 0)
		r = commit_make_areas(c, err);
	if (r == 0)
		r = commit_stage(c, stacks, err);
	if (r < 0) {
		give_up(c);
		return r;
	}
	r = apply(c, err);
	if (r < 0) {
		if (commit_roll_back(c, vm, &back) < 0)
			log_warn("commit %u: %s; the next command tries again", c->id, back.text);
		return r;
	}
	r = commit_finish(c, vm, stacks);
	if (r < 0) /* the host is complete, and whoever opens the store next goes on */
		log_warn("commit %u: clear the workspace: %s; the next command will", c->id,
			 strerror(-r));
	return 0;
}

int commit_services_of(const struct commit *c, struct fvm_strv *ret)
{
	scoped_strv paths = { 0 };
	int r = 0;
	for (size_t i = 0; r == 0 && i < c->count; i++) {
		if (c->entries[i].op == COMMIT_DIR)
			continue;
		scoped_free char *path = commit_path(c, &c->entries[i]);
		r = path ? fvm_strv_add(&paths, path) : -ENOMEM;
	}
	return r == 0 ? fvm_restarts_find(&paths, true, ret) : r;
}

int commit_run(int host, const struct fvm_vm *vm, const struct fvm_stacks *stacks,
	       const struct fvm_commit_options *o, struct fvm_commit_result *result,
	       struct fvm_error *err)
{
	scoped_commit c = COMMIT_INIT;
	c.force = o->force;
	c.progress = o->progress;
	c.progress_arg = o->arg;
	int r = fvm_commit_pending(vm->store) ? commit_recover_at(host, vm->store, vm, stacks, err)
					      : 0;
	if (r < 0)
		return r;
	r = commit_open_all(&c, vm->store, true);
	if (r < 0)
		return fvm_error_set(err, -r, "open the store's commits");
	r = commit_plan(&c, host, vm, stacks, o, result, err);
	size_t changes = result->added + result->changed + result->deleted;
	if (r < 0 || o->dry_run || changes == 0)
		return r;
	if (o->confirm && !o->confirm(o->arg, changes, result->bytes))
		return 0;
	if (fvm_commit_pending(vm->store))
		return fvm_error_set(err, EBUSY, "an interrupted commit is not finished yet");
	r = commit_make(&c, err);
	if (r < 0) {
		if (c.dir >= 0)
			give_up(&c);
		return r;
	}
	r = transact(&c, vm, stacks, err);
	if (r < 0)
		return r;
	result->id = c.id;
	(void)commit_services_of(&c, &result->services); /* a hint, and no more */
	return 0;
}

int fvm_commit(const struct fvm_vm *vm, const struct fvm_commit_options *options,
	       struct fvm_commit_result *ret, struct fvm_error *err)
{
	struct fvm_stacks stacks;
	enum fvm_state state = fvm_vm_state(vm);
	if (state == FVM_RUNNING) {
		fvm_error_set(err, EBUSY, "commit VM '%s': it runs", vm->config.name);
		fvm_error_hint(err, "fvm pause %s, or fvm stop %s", vm->config.name,
			       vm->config.name);
		return -EBUSY;
	}
	scoped_fd host = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (host < 0)
		return fvm_error_set(err, errno, "open /");
	int r = fvm_stacks_open(vm, options->paths, &stacks, err);
	if (r < 0)
		return r;
	r = fvm_natives_refuse(&stacks.natives, options->paths, err);
	if (r == 0)
		r = commit_run(host, vm, &stacks, options, ret, err);
	fvm_stacks_close(&stacks);
	return r;
}
