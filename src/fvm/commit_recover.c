/*
 * Finishing or taking back what was interrupted. Apart from the rest because every program that
 * opens the store may have to do it, and what is here needs no libcrypto.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/commit_priv.h"

int commit_forget(struct commit *c)
{
	int r = commit_remove_areas(c);
	return r == 0 ? commit_pending_clear(c) : r;
}

/* Only a full disk is waited for: without its stamps the VM is told of a drift that is none. */
static int stamps_back(struct commit *c, const struct fvm_vm *vm)
{
	int r = vm ? commit_stamps_back(c, vm) : 0;
	if (r == 0 || r == -ENOSPC || r == -EDQUOT)
		return r;
	log_warn("VM '%s': its stamps can't be written: %s", c->vm_name, strerror(-r));
	return 0;
}

/* Without it an undo is refused that could be done; --force helps then. */
static void follow(struct commit *c, bool itself)
{
	int r = commit_follow(c, itself);
	if (r < 0)
		log_warn("commit %u: note when its files were moved: %s", c->id, strerror(-r));
}

int commit_redo(struct commit *c, struct fvm_error *err)
{
	int r = commit_swap_all(c, true, true, err);
	if (r == 0)
		r = commit_sync(c);
	if (r == 0)
		follow(c, true);
	if (r == 0)
		r = commit_state_set(c, COMMIT_KEPT);
	return r == 0 ? commit_pending_clear(c) : r;
}

int commit_roll_back(struct commit *c, const struct fvm_vm *vm, struct fvm_error *err)
{
	int r = commit_swap_all(c, false, false, err);
	if (r == 0)
		r = commit_sync(c);
	if (r == 0)
		r = stamps_back(c, vm);
	if (r == 0)
		follow(c, false);
	if (r == 0)
		r = commit_state_set(c, COMMIT_VOID);
	if (r == 0)
		r = commit_forget(c);
	if (r < 0 && err && !err->code)
		fvm_error_set(err, -r, "take back commit %u", c->id);
	return r;
}

int commit_finish(struct commit *c, const struct fvm_vm *vm, const struct fvm_stacks *stacks)
{
	int r = vm ? commit_layer_take(c, vm, stacks) : 0;
	if (r == 0 && vm)
		r = commit_stamps(c, vm, false);
	if (r == 0)
		r = commit_state_set(c, COMMIT_KEPT);
	return r == 0 ? commit_pending_clear(c) : r;
}

int commit_finish_undo(struct commit *c, const struct fvm_vm *vm, const struct fvm_stacks *stacks)
{
	int r = vm ? commit_layer_give(c, stacks) : 0;
	if (r == 0 && vm)
		r = commit_stamps(c, vm, true);
	if (r == 0)
		follow(c, false);
	if (r == 0)
		r = commit_remove_areas(c);
	return r == 0 ? commit_pending_clear(c) : r;
}

bool fvm_commit_pending(const struct fvm_store *store)
{
	return faccessat(store->dir, "commits/pending", F_OK, 0) == 0;
}

int commit_vm_find(const struct commit *c, struct fvm_vm *ret, struct fvm_error *err)
{
	scoped_strv names = { 0 };
	int r = fvm_vm_open(c->store, c->vm_name, FVM_LOCK_NOWAIT, ret, err);
	if (r == 0 && strcmp(ret->config.id, c->vm_id) == 0)
		return 0;
	if (r == 0)
		fvm_vm_close(ret);
	if (r == -EBUSY)
		return r;
	/* renamed since */
	if (err)
		*err = (struct fvm_error){ 0 };
	r = fvm_store_list(c->store, &names, err);
	if (r < 0)
		return r;
	fvm_strv_each(&names, i) {
		if (fvm_vm_open(c->store, names.items[i], FVM_LOCK_NOWAIT, ret, NULL) < 0)
			continue;
		if (strcmp(ret->config.id, c->vm_id) == 0)
			return 0;
		fvm_vm_close(ret);
	}
	return -ENOENT;
}

/* The VM and its stacks, when it can be had; recovery goes on without. */
static bool reopen_vm(const struct commit *c, struct fvm_vm *vm, struct fvm_stacks *stacks)
{
	struct fvm_error err = { 0 };
	if (commit_vm_find(c, vm, &err) < 0)
		return false;
	if (fvm_stacks_open(vm, FVM_STACKS_LAYERS, stacks, &err) == 0)
		return true;
	fvm_vm_close(vm);
	return false;
}

/* @own: the caller's VM, which may be another one, or NULL */
static int go_on(struct commit *c, enum commit_state state, const struct fvm_vm *own,
		 const struct fvm_stacks *own_stacks, struct fvm_error *err)
{
	struct fvm_vm vm;
	struct fvm_stacks stacks;
	int r = 0;
	switch (state) {
	case COMMIT_VOID:
		return commit_forget(c);
	case COMMIT_APPLYING:
		break;
	case COMMIT_UNDOING:
		return commit_redo(c, err);
	case COMMIT_KEPT:
		return commit_pending_clear(c);
	case COMMIT_DONE:
	case COMMIT_UNDONE:
		break;
	}
	bool same = own && strcmp(own->config.id, c->vm_id) == 0;
	bool have = !same && reopen_vm(c, &vm, &stacks);
	const struct fvm_vm *of = same ? own : have ? &vm : NULL;
	if (state == COMMIT_APPLYING)
		r = commit_roll_back(c, of, err);
	else if (state == COMMIT_DONE)
		r = commit_finish(c, of, same ? own_stacks : &stacks);
	else
		r = commit_finish_undo(c, of, same ? own_stacks : &stacks);
	if (have) {
		fvm_stacks_close(&stacks);
		fvm_vm_close(&vm);
	}
	return r;
}

struct interrupted {
	int all;
	uint32_t id; /* 0: none */
};

static int is_interrupted(uint32_t id, void *arg)
{
	struct interrupted *i = arg;
	scoped_commit c = COMMIT_INIT;
	char name[16];
	uint64_t len;
	snprintf(name, sizeof(name), "%u", id);
	c.dir = fvm_open_nofollow(i->all, name, O_RDONLY | O_DIRECTORY);
	int state = c.dir < 0 ? c.dir : commit_state_get(&c, &len);
	if (state > COMMIT_VOID && state != COMMIT_KEPT)
		i->id = id;
	return 0;
}

/* Which one "pending" names; should it be damaged, the one that says so of itself. */
static int pending_id(const struct commit *c, const char *text, uint32_t *ret)
{
	char name[16];
	unsigned long id = strtoul(text, NULL, 10);
	struct interrupted found = { c->all, 0 };
	snprintf(name, sizeof(name), "%lu", id);
	*ret = (uint32_t)id;
	if (id > 0 && id < UINT32_MAX && faccessat(c->all, name, F_OK, 0) == 0)
		return 0;
	int r = commit_ids(c->all, is_interrupted, &found);
	*ret = found.id;
	return r;
}

static int recover(struct commit *c, const struct fvm_vm *own, const struct fvm_stacks *own_stacks,
		   struct fvm_error *err)
{
	scoped_free char *text = NULL;
	uint32_t id = 0;
	enum commit_state state;
	int r = fvm_read_file(c->all, "pending", 4096, &text, NULL);
	if (r == -ENOENT) /* somebody else was faster */
		return 0;
	if (r == 0)
		r = pending_id(c, text, &id);
	if (r < 0)
		return r;
	if (id == 0)
		return commit_pending_clear(c); /* it was not even begun, or is gone */
	r = commit_load(c, id, &state, err);
	if (r < 0)
		return r;
	r = commit_open_places(c, state, err);
	/* nothing of the host was touched in that state: what can't be opened holds nothing */
	if (r < 0 && state != COMMIT_VOID)
		return r;
	return go_on(c, state, own, own_stacks, err);
}

int commit_recover_at(int host, const struct fvm_store *store, const struct fvm_vm *own,
		      const struct fvm_stacks *own_stacks, struct fvm_error *err)
{
	scoped_commit c = COMMIT_INIT;
	int r = commit_open_all(&c, store, false);
	if (r == -EBUSY)
		return 0; /* it is under way, not interrupted */
	if (r < 0)
		return fvm_error_set(err, -r, "open the store's commits");
	c.host = host;
	r = recover(&c, own, own_stacks, err);
	if (r < 0 && err && !err->code)
		fvm_error_set(err, -r, "finish commit %u, which was interrupted", c.id);
	return r;
}

int fvm_commit_recover(const struct fvm_store *store, struct fvm_error *err)
{
	scoped_fd host = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (host < 0)
		return fvm_error_set(err, errno, "open /");
	return commit_recover_at(host, store, NULL, NULL, err);
}
