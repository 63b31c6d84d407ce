#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/internal.h"
#include "fvm/lock.h"
#include "fvm/pause.h"
#include "fvm/prune.h"
#include "fvm/skeleton.h"
#include "fvm/spare.h"
#include "fvm/subids.h"

#define HIDE_AGE_S (7 * 86400)
#define REF_AGE_S  3600

/* Call @fn for each entry of @path below @dir that does not begin with a dot. */
static void each_entry(int dir, const char *path, void (*fn)(int dir, const char *name, void *arg),
		       void *arg)
{
	scoped_dir d = fvm_dir_open(dir, path);
	struct dirent *e;
	while (d && (e = readdir(d))) {
		if (e->d_name[0] != '.')
			fn(dirfd(d), e->d_name, arg);
	}
}

struct walk {
	const struct fvm_store *store;
	bool dry_run;
	struct fvm_pruned *pruned;
	struct fvm_strv named; /* "VM LAYER" of each layer that a configuration names */
	const char *layer;     /* the one being looked at */
	unsigned int users;    /* of it */
};

static int drop(struct walk *w, struct fvm_vm *vm, bool force)
{
	w->pruned->vms++;
	return w->dry_run ? 0 : fvm_vm_remove(vm, force, NULL);
}

int fvm_vm_unfinished(const struct fvm_vm *vm, bool is, struct fvm_error *err)
{
	scoped_fd run = fvm_vm_run_dir(vm, is);
	int r = run < 0 ? run : 0;
	if (r == 0 && is) {
		scoped_fd fd =
			openat(run, FVM_UNFINISHED,
			       O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
		r = fd < 0 ? -errno : FVM_FAULT("unfinished.mark");
	} else if (r == 0) {
		r = FVM_FAULT("unfinished.clear");
		if (r == 0 && unlinkat(run, FVM_UNFINISHED, 0) < 0)
			r = -errno;
	}
	return r < 0 ? fvm_error_set(err, -r, "%s VM '%s'", is ? "mark" : "take the mark off",
				     vm->config.name)
		     : 0;
}

static bool is_unfinished(int dir, const char *name)
{
	char mark[FVM_NAME_MAX + 16];
	snprintf(mark, sizeof(mark), "%.*s/" FVM_UNFINISHED, FVM_NAME_MAX, name);
	return faccessat(dir, mark, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Its maker holds its lock as long as he lives, and takes the mark back when he is done. */
static void drop_unfinished(struct walk *w, int dir, const char *name)
{
	scoped_vm vm = { .dir = -1, .lock = -1 };
	if (w->dry_run || fvm_vm_open(w->store, name, FVM_LOCK_AS_IT_IS_NOWAIT, &vm, NULL) < 0 ||
	    !is_unfinished(dir, name))
		return;
	log_warn("VM '%s' is deleted: the command that made it was killed before its programs ran",
		 name);
	if (fvm_vm_end(&vm, NULL) == 0)
		(void)drop(w, &vm, true);
}

static void tidy_run(int dir, const char *name, void *arg)
{
	struct walk *w = arg;
	scoped_fd vm_dir =
		openat(w->store->vms, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (vm_dir < 0) {
		w->pruned->runs++;
		if (!w->dry_run)
			(void)fvm_subids_remove_tree(dir, name);
		return;
	}
	if (is_unfinished(dir, name)) {
		drop_unfinished(w, dir, name);
		return;
	}
	if (fvm_lock_alive(vm_dir))
		return;
	/* opening it under its lock is what tidies it; who holds the lock will do so himself */
	scoped_vm vm = { .dir = -1, .lock = -1 };
	if (fvm_vm_open(w->store, name, FVM_NO_LOCK, &vm, NULL) < 0)
		return;
	bool thrown_away = vm.config.throw_away;
	fvm_vm_close(&vm);
	enum fvm_lock lock = w->dry_run	   ? FVM_NO_LOCK
			     : thrown_away ? FVM_LOCK_AS_IT_IS_NOWAIT
					   : FVM_LOCK_NOWAIT;
	if (fvm_vm_open(w->store, name, lock, &vm, NULL) < 0)
		return;
	w->pruned->runs++;
	if (thrown_away)
		(void)drop(w, &vm, true);
}

/* One of "run --rm" whose starter died; if he lives, he holds its lock. */
static int drop_ended(struct walk *w, const char *name)
{
	scoped_vm vm = { .dir = -1, .lock = -1 };
	int r = fvm_vm_open(w->store, name, FVM_LOCK_AS_IT_IS_NOWAIT, &vm, NULL);
	return r < 0 ? r : drop(w, &vm, false);
}

/*
 * A command was killed half-way through the end of a VM. If that was to be thrown away, and the
 * command came as far as its run-time directory only, it goes now: nothing else leads to it.
 * Return: 0, or why it is there yet
 */
static int drop_by_id(struct walk *w, const char *id)
{
	int r = 0;
	scoped_strv names = { 0 };
	(void)fvm_store_list(w->store, &names, NULL);
	fvm_strv_each(&names, i) {
		scoped_vm vm = { .dir = -1, .lock = -1 };
		if (fvm_vm_open(w->store, names.items[i], FVM_NO_LOCK, &vm, NULL) == 0 &&
		    strcmp(vm.config.id, id) == 0 && vm.config.throw_away &&
		    !fvm_lock_alive(vm.dir))
			r = drop_ended(w, names.items[i]);
	}
	return r;
}

static void tidy_gone(int dir, const char *name, void *arg)
{
	struct walk *w = arg;
	if (w->dry_run)
		return;
	scoped_fd held = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (held < 0 || flock(held, LOCK_EX | LOCK_NB) < 0)
		return; /* somebody is at it */
	if (drop_by_id(w, name) < 0)
		return;
	fvm_tidy_ended_dir(w->store, name, held);
}

unsigned int fvm_store_tidy_ended(const struct fvm_store *store, bool dry_run)
{
	struct fvm_pruned pruned = { 0 };
	struct walk w = { .store = store, .dry_run = dry_run, .pruned = &pruned };
	each_entry(store->run, "vms", tidy_run, &w);
	each_entry(store->run, "ended", tidy_gone, &w);
	return pruned.runs;
}

/* A young ref may belong to a VM that is just being made, or to a layer that is. */
static bool is_user(const struct walk *w, int dir, const char *id)
{
	char pair[100];
	struct stat st;
	snprintf(pair, sizeof(pair), "%.40s %.40s", id, w->layer);
	return fvm_strv_has(&w->named, pair) ||
	       (fstatat(dir, id, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		st.st_mtime + REF_AGE_S > fvm_now_ns() / 1000000000);
}

static void check_ref(int dir, const char *id, void *arg)
{
	struct walk *w = arg;
	if (is_user(w, dir, id))
		w->users++;
	else if (!w->dry_run)
		(void)unlinkat(dir, id, 0);
}

/* Whichever VM names it: one whose own id was damaged has refs that seem to be another's. */
static bool is_named(const struct walk *w, const char *id)
{
	fvm_strv_each(&w->named, i) {
		const char *layer = strchr(w->named.items[i], ' ');
		if (layer && strcmp(layer + 1, id) == 0)
			return true;
	}
	return false;
}

static void prune_layer(int dir, const char *id, void *arg)
{
	struct walk *w = arg;
	char refs[80];
	if (is_named(w, id))
		return;
	snprintf(refs, sizeof(refs), "%.60s/refs", id);
	w->users = 0;
	w->layer = id;
	each_entry(dir, refs, check_ref, w);
	if (w->users)
		return;
	w->pruned->layers++;
	if (w->dry_run)
		return;
	if (unlinkat(dir, refs, AT_REMOVEDIR) == 0 || errno == ENOENT)
		(void)fvm_trash(w->store, dir, id, false);
}

static void prune_hide(int dir, const char *name, void *arg)
{
	struct walk *w = arg;
	struct stat st;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    st.st_mtime + HIDE_AGE_S > fvm_now_ns() / 1000000000)
		return;
	w->pruned->hides++;
	if (!w->dry_run)
		(void)fvm_trash(w->store, dir, name, false);
}

static int list_layers(struct walk *w, const struct fvm_config *c)
{
	scoped_strv layers = { 0 };
	int r = fvm_config_layers(c, &layers);
	const char *pending = c->pending ? strchr(c->pending, ' ') : NULL;
	if (r == 0 && pending)
		r = fvm_strv_add(&layers, pending + 1);
	for (size_t i = 0; r == 0 && i < layers.count; i++)
		r = fvm_strv_addf(&w->named, "%s %.40s", c->id, layers.items[i]);
	return r;
}

/* A VM whose configuration can't be read may stand on any layer: then nothing is pruned. */
static int list_ids(struct walk *w, struct fvm_error *err)
{
	scoped_strv names = { 0 };
	int r = fvm_store_list(w->store, &names, err);
	if (r < 0)
		return r;
	fvm_strv_each(&names, i) {
		scoped_vm vm = { .dir = -1, .lock = -1 };
		r = fvm_vm_open(w->store, names.items[i], FVM_NO_LOCK, &vm, err);
		if (r == -ENOENT)
			continue;
		if (r == 0 && vm.config.throw_away && !fvm_lock_alive(vm.dir))
			(void)drop_ended(w, names.items[i]);
		if (r == 0 && list_layers(w, &vm.config) < 0)
			r = fvm_error_set(err, ENOMEM, "list the VMs");
		if (r < 0)
			return fvm_error_wrap(err, r, "prune");
	}
	return 0;
}

int fvm_store_prune(const struct fvm_store *store, const struct fvm_prune_how *how,
		    struct fvm_pruned *ret, struct fvm_error *err)
{
	*ret = (struct fvm_pruned){ 0 };
	struct walk w = { .store = store, .dry_run = how->dry_run, .pruned = ret };
	each_entry(store->run, "vms", tidy_run, &w);
	int r = list_ids(&w, err);
	if (r == 0) {
		each_entry(store->dir, "layers", prune_layer, &w);
		each_entry(store->dir, "hide", prune_hide, &w);
	}
	fvm_strv_free(&w.named);
	if (!how->dry_run)
		fvm_spare_prune(store);
	if (r == 0 && how->all)
		ret->skeletons = fvm_skeleton_drop(store, how->dry_run);
	return r;
}
