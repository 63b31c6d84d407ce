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
#include "fvm/disk.h"
#include "fvm/early.h"
#include "fvm/hide_record.h"
#include "fvm/internal.h"
#include "fvm/layer_copy.h"
#include "fvm/lock.h"
#include "fvm/native.h"
#include "fvm/pause.h"
#include "fvm/programs.h"
#include "fvm/snapshot.h"
#include "fvm/stamps.h"
#include "fvm/subids.h"

#define BEFORE "before"	  /* the workspace, while a rollback is tried */
#define TRIED  "rollback" /* .. which config.json calls so */

static int check_stopped(const struct fvm_vm *vm, struct fvm_error *err)
{
	if (!fvm_lock_alive(vm->dir))
		return 0;
	fvm_error_set(err, EBUSY, "VM '%s' is running", vm->config.name);
	fvm_error_hint(err, "fvm stop %s first", vm->config.name);
	return -EBUSY;
}

static int set_pending(struct fvm_vm *vm, const char *what, struct fvm_error *err)
{
	free(vm->config.pending);
	vm->config.pending = what ? strdup(what) : NULL;
	if (what && !vm->config.pending)
		return fvm_error_set(err, ENOMEM, "remember what is under way");
	return fvm_vm_save(vm, err);
}

/* An upper directory for each mount, and in none of them anything? */
static bool workspace_is_empty(const struct fvm_vm *vm)
{
	scoped_fd workspace = fvm_open_nofollow(vm->dir, "workspace", O_RDONLY | O_DIRECTORY);
	int top = workspace < 0 ? workspace : fvm_disk_open(workspace);
	scoped_dir d = fvm_dir_take(top);
	bool empty = !d || faccessat(top, FVM_NATIVE_DIR, F_OK, AT_SYMLINK_NOFOLLOW) < 0;
	struct dirent *e;
	while (d && empty && (e = readdir(d))) {
		char path[300];
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/upper", e->d_name);
		scoped_dir upper = fvm_dir_open(top, path);
		/* EACCES: the VM gave it to one of its services */
		empty = upper ? !fvm_dir_next(upper) : errno != EACCES;
	}
	return empty;
}

/* An empty layer in tmp/, which VM @vm_id stands on already. Return: its locked descriptor */
static int make_layer_tmp(const struct fvm_store *store, const char *vm_id, char tmp[40])
{
	char ref[48];
	scoped_fd dir = fvm_tmp_make(store, tmp);
	if (dir < 0)
		return dir;
	snprintf(ref, sizeof(ref), "refs/%s", vm_id);
	int r = FVM_FAULT("layer.make");
	if (r == 0 && mkdirat(dir, "refs", 0700) < 0)
		r = -errno;
	scoped_fd file = r < 0 ? r : fvm_create_beneath(dir, ref, O_WRONLY, 0600);
	if (file >= 0)
		return fvm_fd_take(&dir);
	(void)fvm_remove_tree(store->dir, tmp);
	return file;
}

/* A layer without contents yet, which the VM stands on already. */
static int make_layer(const struct fvm_vm *vm, const char *id)
{
	char tmp[40];
	scoped_fd dir = make_layer_tmp(vm->store, vm->config.id, tmp);
	if (dir < 0)
		return dir;
	int r = fvm_layer_place(vm->store, tmp, id);
	if (r < 0)
		(void)fvm_remove_tree(vm->store->dir, tmp);
	return r;
}

/* Overlay's work directories are of no use in a frozen layer. */
static void drop_work(int layer)
{
	int fs = fvm_disk_open(layer);
	scoped_dir d = fvm_dir_take(fs);
	struct dirent *e;
	while (d && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		scoped_fd key =
			openat(fs, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (key >= 0)
			(void)fvm_subids_remove_tree(key, "work");
	}
}

/* The second half of a freeze: everything is in STORE/layers/ID, the configuration has to know. */
static int freeze_finish(struct fvm_vm *vm, const char *id, struct fvm_error *err)
{
	char path[64];
	snprintf(path, sizeof(path), "layers/%s", id);
	scoped_fd layer = fvm_open_nofollow(vm->store->dir, path, O_RDONLY | O_DIRECTORY);
	if (layer >= 0)
		drop_work(layer);
	int r = FVM_FAULT("layer.workspace");
	if (r < 0)
		return fvm_error_set(err, -r, "make an empty workspace");
	if (mkdirat(vm->dir, "workspace/fs", 0700) < 0 && errno != EEXIST)
		return fvm_error_set(err, errno, "make an empty workspace");
	if (fvm_strv_has(&vm->config.layers, id))
		return set_pending(vm, NULL, err);
	r = fvm_strv_add(&vm->config.layers, id);
	return r < 0 ? fvm_error_set(err, -r, "add the layer") : set_pending(vm, NULL, err);
}

/* Rename the workspace to a new layer on top of vm->config.layers, and save the configuration.
 * Nothing happens when it is empty. */
static int freeze(struct fvm_vm *vm, struct fvm_error *err)
{
	char id[33], what[48], path[48];
	int r = check_stopped(vm, err);
	if (r < 0 || workspace_is_empty(vm))
		return r;
	fvm_random_hex(id, 32);
	snprintf(what, sizeof(what), "freeze %s", id);
	r = set_pending(vm, what, err);
	if (r < 0)
		return r;
	r = make_layer(vm, id);
	if (r < 0) {
		(void)set_pending(vm, NULL, NULL);
		return fvm_error_set(err, -r, "make a layer in %s", vm->store->path);
	}
	snprintf(path, sizeof(path), "layers/%s", id);
	scoped_fd workspace = fvm_open_nofollow(vm->dir, "workspace", O_RDONLY | O_DIRECTORY);
	scoped_fd layer = fvm_open_nofollow(vm->store->dir, path, O_RDONLY | O_DIRECTORY);
	r = workspace < 0 ? workspace : layer < 0 ? layer : FVM_FAULT("layer.freeze");
	if (r == 0 && renameat2(workspace, "fs", layer, "fs", RENAME_NOREPLACE) < 0)
		r = -errno;
	if (r < 0)
		return fvm_error_set(err, -r, "freeze the workspace");
	return freeze_finish(vm, id, err);
}

static int empty_finish(struct fvm_vm *vm, struct fvm_error *err)
{
	scoped_fd workspace = fvm_open_nofollow(vm->dir, "workspace", O_RDONLY | O_DIRECTORY);
	if (workspace >= 0)
		fvm_disk_release(workspace);
	int r = fvm_trash(vm->store, vm->dir, "workspace", true);
	if (r < 0)
		return fvm_error_set(err, -r, "throw the workspace away");
	r = FVM_FAULT("layer.empty");
	if (r < 0)
		return fvm_error_set(err, -r, "make an empty workspace");
	if ((mkdirat(vm->dir, "workspace", 0700) < 0 && errno != EEXIST) ||
	    (mkdirat(vm->dir, "workspace/fs", 0700) < 0 && errno != EEXIST))
		return fvm_error_set(err, errno, "make an empty workspace");
	return set_pending(vm, NULL, err);
}

int fvm_vm_empty(struct fvm_vm *vm, struct fvm_error *err)
{
	int r = check_stopped(vm, err);
	if (r == 0)
		r = set_pending(vm, "empty", err);
	if (r < 0)
		return r;
	r = empty_finish(vm, err);
	if (r < 0) /* it is noted, and can't be taken back */
		fvm_error_hint(err, "it is begun: the next command of this VM goes on with it");
	return r;
}

/* A copied layer counts when a snapshot names it, which is written together with the end of it. */
static int copy_finish(struct fvm_vm *vm, const char *id, struct fvm_error *err)
{
	(void)fvm_layer_unref(vm->store, id, vm->config.id, false);
	return set_pending(vm, NULL, err);
}

static int undo_tried(struct fvm_vm *vm, struct fvm_error *err);

void fvm_layers_tidy(const struct fvm_vm *vm)
{
	fvm_programs_tidy(vm);
	if (!vm->config.pending && faccessat(vm->dir, BEFORE, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		(void)fvm_trash(vm->store, vm->dir, BEFORE, true);
}

int fvm_layers_finish(struct fvm_vm *vm, struct fvm_error *err)
{
	char id[33], path[48];
	if (sscanf(vm->config.pending, "copy %32[0-9a-f]", id) == 1)
		return copy_finish(vm, id, err);
	if (strcmp(vm->config.pending, TRIED) == 0)
		return undo_tried(vm, err);
	if (fvm_lock_alive(vm->dir))
		return 0; /* nobody starts a VM with something pending */
	if (strcmp(vm->config.pending, "empty") == 0)
		return empty_finish(vm, err);
	if (sscanf(vm->config.pending, "freeze %32[0-9a-f]", id) != 1)
		return fvm_error_set(err, EBADMSG,
				     "config.json: key \"pending\" has a wrong value");
	snprintf(path, sizeof(path), "layers/%s/fs", id);
	if (faccessat(vm->store->dir, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return freeze_finish(vm, id, err);
	(void)fvm_layer_unref(vm->store, id, vm->config.id, false);
	return set_pending(vm, NULL, err);
}

/* ---- a workspace that is in use ---- */

struct copying {
	const struct fvm_vm *vm;
	int layer; /* in tmp/ */
};

static int copy_workspace(void *arg, struct fvm_error *err)
{
	const struct copying *c = arg;
	scoped_fd workspace = fvm_open_nofollow(c->vm->dir, "workspace", O_RDONLY | O_DIRECTORY);
	scoped_fd from = workspace < 0 ? workspace : fvm_disk_open(workspace);
	scoped_fd to = fvm_open_nofollow(c->layer, "fs", O_RDONLY | O_DIRECTORY);
	if (from < 0 || to < 0)
		return fvm_error_set(err, from < 0 ? -from : -to, "open the workspace");
	/* copies are born now; what the originals' births tell of the base is written down */
	int r = fvm_stamps_update(c->vm, err);
	return r < 0 ? r : fvm_layer_copy(from, to, c->vm->progress, c->vm->progress_arg, err);
}

/* Copies made early have births from before, and programs wait for who makes them: the stamps are
 * written when they go on. */
static int update_stamps(void *arg, struct fvm_error *err)
{
	return fvm_stamps_update(arg, err);
}

/* Ids of the VM's services, and what the user may do with his own files, take a namespace. */
static int copy_in_namespace(void *arg, struct fvm_error *err)
{
	return fvm_subids_call_always(copy_workspace, arg, err);
}

/* Into the empty @layer. */
static int copy_files(struct fvm_vm *vm, int layer, int64_t *ret_still_ns, struct fvm_error *err)
{
	struct copying c = { vm, layer };
	if (mkdirat(layer, "fs", 0700) < 0)
		return fvm_error_set(err, errno, "make a layer in %s", vm->store->path);
	int r = fvm_vm_while_paused(vm, copy_in_namespace, &c, ret_still_ns, err);
	if (r == 0 && vm->copied)
		vm->copied(vm->copied_arg);
	return r;
}

static int finish_files(struct fvm_vm *vm, int layer, struct fvm_error *err)
{
	int r = fvm_early_finish(vm->early, err);
	if (r == 0 && vm->copied)
		vm->copied(vm->copied_arg);
	if (r == 0 && renameat(vm->early->dir, "fs", layer, "fs") < 0)
		r = fvm_error_set(err, errno, "make a layer in %s", vm->store->path);
	return r < 0 ? r : fvm_subids_call_always(update_stamps, vm, err);
}

static int check_on_disk(const struct fvm_vm *vm, struct fvm_error *err)
{
	if (!vm->config.rootless || !vm->config.throw_away || !vm->config.disk_bytes)
		return 0;
	fvm_error_hint(err, "copy them out: fvm cp, or start one without --rm");
	return fvm_error_set(err, EOPNOTSUPP, "its files are in memory (--rm with --disk)");
}

/* The workspace as a layer in tmp/ of the VM @vm_id. Return: its descriptor, or negative errno */
static int copy_to_tmp(struct fvm_vm *vm, const char *vm_id, char tmp[40], int64_t *ret_still_ns,
		       struct fvm_error *err)
{
	struct fvm_error mine = { 0 };
	int r = check_on_disk(vm, err);
	if (r < 0)
		return r;
	scoped_fd layer = make_layer_tmp(vm->store, vm_id, tmp);
	if (layer < 0)
		return fvm_error_set(err, -layer, "make a layer in %s", vm->store->path);
	r = vm->early ? finish_files(vm, layer, &mine) : copy_files(vm, layer, ret_still_ns, &mine);
	if (r == 0)
		r = FVM_FAULT("layer.sync");
	/* the configuration will tell that it is there, also after a power cut */
	if (r == 0 && syncfs(layer) < 0)
		r = fvm_error_set(&mine, errno, "write the layer");
	if (r == 0)
		return fvm_fd_take(&layer);
	(void)fvm_subids_remove_tree(vm->store->dir, tmp);
	if (err)
		*err = mine;
	return r;
}

/* Returns 0 with @id empty when there is nothing in the workspace. */
static int copy_to_layer(struct fvm_vm *vm, char id[33], int64_t *ret_still_ns,
			 struct fvm_error *err)
{
	char tmp[40], what[48];
	id[0] = '\0';
	if (workspace_is_empty(vm))
		return 0;
	scoped_fd layer = copy_to_tmp(vm, vm->config.id, tmp, ret_still_ns, err);
	if (layer < 0)
		return layer;
	fvm_random_hex(id, 32);
	snprintf(what, sizeof(what), "copy %s", id);
	int r = fvm_hide_record_flatten(vm->dir);
	r = r < 0 ? fvm_error_set(err, -r, "note what was hidden from the copied files")
		  : set_pending(vm, what, err);
	if (r == 0) {
		r = fvm_layer_place(vm->store, tmp, id);
		if (r < 0)
			fvm_error_set(err, -r, "add the layer");
	}
	if (r < 0) {
		(void)fvm_subids_remove_tree(vm->store->dir, tmp);
		(void)set_pending(vm, NULL, NULL);
	}
	return r;
}

/* The record of what is the VM's layers, and layer @id above them if there is one. */
static int add_tag(struct fvm_vm *vm, const char *tag, const char *id, const char *programs)
{
	scoped_strv layers = { 0 };
	int r = fvm_strv_copy(&layers, &vm->config.layers);
	if (r == 0 && id[0])
		r = fvm_strv_add(&layers, id);
	if (r == 0)
		r = fvm_config_add_snapshot(&vm->config, tag, fvm_now_ns(), &layers);
	if (r == 0)
		r = fvm_config_set_programs(&vm->config, vm->config.snapshot_count - 1, programs);
	return r;
}

/* @blob: what its programs are, or negative */
static int tag_running(struct fvm_vm *vm, const char *tag, int blob, int64_t *ret_still_ns,
		       struct fvm_error *err)
{
	char id[33], programs[FVM_DIGEST_HEX];
	int r = copy_to_layer(vm, id, ret_still_ns, err);
	if (r < 0)
		return r;
	if (!id[0] && vm->copied)
		vm->copied(vm->copied_arg);
	if (blob >= 0)
		r = fvm_programs_keep(vm, blob, programs, err);
	if (r < 0) {
		if (id[0])
			(void)copy_finish(vm, id, NULL);
		return r;
	}
	r = add_tag(vm, tag, id, blob >= 0 ? programs : NULL);
	return r < 0 ? fvm_error_set(err, -r, "add the tag") : set_pending(vm, NULL, err);
}

static int tag_stopped(struct fvm_vm *vm, const char *tag, struct fvm_error *err)
{
	int r = freeze(vm, err);
	if (r < 0)
		return r;
	r = fvm_config_add_snapshot(&vm->config, tag, fvm_now_ns(), &vm->config.layers);
	return r < 0 ? fvm_error_set(err, -r, "add the tag") : fvm_vm_save(vm, err);
}

int fvm_vm_check_tag(const struct fvm_vm *vm, const char *tag, struct fvm_error *err)
{
	if (fvm_name_check(tag, NULL) < 0) {
		fvm_error_hint(err, "use up to %d letters, digits, '.', '_', '-'", FVM_NAME_MAX);
		return fvm_error_say(err, EINVAL, "'%.80s' can't be a tag", tag);
	}
	if (fvm_config_find_snapshot(&vm->config, tag) < 0)
		return 0;
	fvm_error_say(err, EEXIST, "VM '%s' has a snapshot '%s' already", vm->config.name, tag);
	fvm_error_hint(err, "choose another tag, or: fvm snapshot --drop %s %s", vm->config.name,
		       tag);
	return -EEXIST;
}

int fvm_vm_snapshot(struct fvm_vm *vm, const char *tag, int64_t *ret_still_ns,
		    struct fvm_error *err)
{
	int64_t still_ns = 0;
	int r = fvm_vm_check_tag(vm, tag, err);
	if (r < 0)
		return r;
	r = fvm_lock_alive(vm->dir) ? tag_running(vm, tag, -1, &still_ns, err)
				    : tag_stopped(vm, tag, err);
	if (ret_still_ns)
		*ret_still_ns = still_ns;
	return r < 0 ? fvm_error_wrap(err, r, "snapshot VM '%s'", vm->config.name) : 0;
}

int fvm_vm_snapshot_live(struct fvm_vm *vm, const char *tag, int blob, struct fvm_error *err)
{
	int64_t still_ns = 0;
	int r = fvm_vm_check_tag(vm, tag, err);
	return r < 0 ? r : tag_running(vm, tag, blob, &still_ns, err);
}

static int find_tag(const struct fvm_vm *vm, const char *tag, struct fvm_error *err)
{
	int at = fvm_config_find_snapshot(&vm->config, tag);
	if (at >= 0)
		return at;
	fvm_error_set(err, ENOENT, "VM '%s' has no snapshot '%.80s'", vm->config.name, tag);
	scoped_buf tags = { 0 };
	for (size_t i = 0; i < vm->config.snapshot_count; i++)
		fvm_buf_printf(&tags, "%s%s", i ? ", " : "", vm->config.snapshots[i].tag);
	fvm_error_hint(err, "it has: %s", tags.data ? tags.data : "none");
	return -ENOENT;
}

/* Let go of the layers in @before that nothing in the configuration names any more. */
static void drop_unused(const struct fvm_vm *vm, const struct fvm_strv *before)
{
	scoped_strv now = { 0 };
	if (fvm_config_layers(&vm->config, &now) < 0)
		return;
	fvm_strv_each(before, i) {
		if (!fvm_strv_has(&now, before->items[i]))
			(void)fvm_layer_unref(vm->store, before->items[i], vm->config.id, true);
	}
}

/* Take the layers of snapshot @tag for the VM's own. */
static int take_layers(struct fvm_vm *vm, const char *tag, struct fvm_error *err)
{
	int at = find_tag(vm, tag, err);
	if (at < 0)
		return at;
	if (fvm_lock_alive(vm->dir)) {
		fvm_error_hint(err,
			       "fvm stop %s first, or rollback --force, or try the state out "
			       "beside it: fvm clone",
			       vm->config.name);
		return fvm_error_set(err, EBUSY, "VM '%s' is running", vm->config.name);
	}
	fvm_strv_free(&vm->config.layers);
	int r = fvm_strv_copy(&vm->config.layers, &vm->config.snapshots[at].layers);
	return r < 0 ? fvm_error_set(err, -r, "list the layers") : 0;
}

int fvm_vm_rollback(struct fvm_vm *vm, const char *tag, struct fvm_error *err)
{
	scoped_strv before = { 0 };
	if (fvm_config_layers(&vm->config, &before) < 0)
		return fvm_error_set(err, ENOMEM, "list the layers");
	int r = take_layers(vm, tag, err);
	if (r < 0)
		return r;
	r = fvm_vm_empty(vm, err);
	if (r < 0)
		return fvm_error_wrap(err, r, "roll VM '%s' back", vm->config.name);
	drop_unused(vm, &before);
	return 0;
}

int fvm_vm_snapshot_programs(const struct fvm_vm *vm, const char *tag, int *ret_fd,
			     struct fvm_error *err)
{
	int at = find_tag(vm, tag, err);
	if (at < 0)
		return at;
	if (!vm->config.snapshots[at].programs) {
		*ret_fd = -1;
		return 0;
	}
	int fd = fvm_programs_open(vm, &vm->config.snapshots[at], err);
	if (fd >= 0)
		*ret_fd = fd;
	return fd < 0 ? fd : 0;
}

/* ---- a rollback that may be taken back ---- */

static int set_aside(struct fvm_vm *vm)
{
	int r = FVM_FAULT("rollback.aside");
	if (r == 0 && renameat2(vm->dir, "workspace", vm->dir, BEFORE, RENAME_NOREPLACE) < 0)
		r = -errno;
	if (r == 0)
		r = FVM_FAULT("rollback.workspace");
	if (r == 0 &&
	    (mkdirat(vm->dir, "workspace", 0700) < 0 || mkdirat(vm->dir, "workspace/fs", 0700) < 0))
		r = -errno;
	return r;
}

int fvm_vm_rollback_try(struct fvm_vm *vm, const char *tag, struct fvm_error *err)
{
	scoped_strv before = { 0 };
	/* of a crash right at the end of one before */
	int r = fvm_trash(vm->store, vm->dir, BEFORE, false);
	if (r == 0)
		r = fvm_strv_copy(&before, &vm->config.layers);
	if (r < 0)
		return fvm_error_set(err, -r, "roll VM '%s' back", vm->config.name);
	r = take_layers(vm, tag, err);
	if (r < 0)
		return r;
	fvm_strv_free(&vm->config.before);
	vm->config.before = before;
	before = (struct fvm_strv){ 0 };
	r = set_pending(vm, TRIED, err);
	if (r < 0)
		return r;
	r = set_aside(vm);
	if (r == 0)
		return 0;
	(void)fvm_vm_rollback_undo(vm, NULL);
	return fvm_error_set(err, -r, "roll VM '%s' back", vm->config.name);
}

int fvm_vm_rollback_undo(struct fvm_vm *vm, struct fvm_error *err)
{
	int r = FVM_FAULT("rollback.undo");
	if (r == 0 && faccessat(vm->dir, BEFORE, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
		scoped_fd workspace =
			fvm_open_nofollow(vm->dir, "workspace", O_RDONLY | O_DIRECTORY);
		if (workspace >= 0)
			fvm_disk_release(workspace);
		r = fvm_trash(vm->store, vm->dir, "workspace", true);
		if (r == 0)
			r = FVM_FAULT("rollback.back");
		if (r == 0 && renameat(vm->dir, BEFORE, vm->dir, "workspace") < 0)
			r = -errno;
	}
	if (r < 0)
		return fvm_error_set(err, -r, "take the rollback of VM '%s' back", vm->config.name);
	fvm_strv_free(&vm->config.layers);
	vm->config.layers = vm->config.before;
	vm->config.before = (struct fvm_strv){ 0 };
	return set_pending(vm, NULL, err);
}

int fvm_vm_rollback_settle(struct fvm_vm *vm, struct fvm_error *err)
{
	scoped_strv before = vm->config.before;
	vm->config.before = (struct fvm_strv){ 0 };
	int r = set_pending(vm, NULL, err);
	if (r < 0)
		return r;
	drop_unused(vm, &before);
	scoped_fd workspace = fvm_open_nofollow(vm->dir, BEFORE, O_RDONLY | O_DIRECTORY);
	if (workspace >= 0)
		fvm_disk_release(workspace);
	(void)fvm_trash(vm->store, vm->dir, BEFORE, true);
	return 0;
}

/* Nobody knows how far its programs came. */
static int undo_tried(struct fvm_vm *vm, struct fvm_error *err)
{
	if (fvm_lock_alive(vm->dir)) {
		log_warn("VM '%s': a command that rolled it back was killed: it is as before, "
			 "stopped",
			 vm->config.name);
		int r = fvm_vm_end(vm, err);
		if (r < 0)
			return r;
	}
	return fvm_vm_rollback_undo(vm, err);
}

int fvm_vm_drop_snapshot(struct fvm_vm *vm, const char *tag, struct fvm_error *err)
{
	scoped_strv before = { 0 };
	int at = find_tag(vm, tag, err);
	if (at < 0)
		return at;
	if (fvm_config_layers(&vm->config, &before) < 0)
		return fvm_error_set(err, ENOMEM, "list the layers");
	struct fvm_config *c = &vm->config;
	free(c->snapshots[at].tag);
	fvm_strv_free(&c->snapshots[at].layers);
	free(c->snapshots[at].programs);
	memmove(c->snapshots + at, c->snapshots + at + 1,
		(c->snapshot_count - (size_t)at - 1) * sizeof(*c->snapshots));
	c->snapshot_count--;
	int r = fvm_vm_save(vm, err);
	if (r == 0)
		drop_unused(vm, &before);
	if (r == 0)
		fvm_programs_tidy(vm);
	return r;
}

/* ---- clones ---- */

static int clone_config(const struct fvm_vm *vm, const char *name, struct fvm_config *ret,
			struct fvm_error *err)
{
	int r = fvm_config_copy(ret, &vm->config);
	if (r < 0)
		return fvm_error_set(err, -r, "copy the configuration");
	strcpy(ret->name, name);
	fvm_random_hex(ret->id, 32);
	ret->created_ns = fvm_now_ns();
	ret->throw_away = false; /* who clones it wants to keep it */
	free(ret->pending);
	ret->pending = NULL;
	return 0;
}

struct placing {
	const struct fvm_vm *origin;
	char tmp[40], id[33]; /* of the layer that is a copy, or empty */
};

/* What the origin knew of its files, while nobody sees the clone yet. */
static int place_clone(void *arg, int dir, struct fvm_error *err)
{
	const struct placing *p = arg;
	bool copied = p->id[0];
	int r = fvm_hide_record_copy(p->origin->dir, dir, copied);
	if (r < 0)
		return fvm_error_set(err, -r, "copy what was hidden from it");
	/* without its stamps births count alone, which is no reason to fail */
	if (fvm_stamps_copy(p->origin->dir, dir) < 0)
		log_warn("clone of VM '%s': its stamps are not copied", p->origin->config.name);
	r = fvm_programs_share(p->origin, dir);
	if (r < 0)
		return fvm_error_set(err, -r, "take its snapshots' programs along");
	r = copied ? fvm_layer_place(p->origin->store, p->tmp, p->id) : 0;
	return r < 0 ? fvm_error_set(err, -r, "add the layer") : 0;
}

static int clone_stopped(const struct fvm_vm *vm, const struct fvm_config *config,
			 struct fvm_vm *ret, struct fvm_error *err)
{
	struct placing p = { .origin = vm };
	const struct fvm_making making = { .sync = true, .place = place_clone, .arg = &p };
	return fvm_vm_make(vm->store, config, &making, ret, err);
}

static int clone_running(struct fvm_vm *vm, struct fvm_config *config, struct fvm_vm *ret,
			 int64_t *ret_still_ns, struct fvm_error *err)
{
	struct placing p = { .origin = vm };
	const struct fvm_making making = { .sync = true, .place = place_clone, .arg = &p };
	scoped_fd layer = copy_to_tmp(vm, config->id, p.tmp, ret_still_ns, err);
	if (layer < 0)
		return layer;
	fvm_random_hex(p.id, 32);
	int r = fvm_strv_add(&config->layers, p.id);
	r = r < 0 ? fvm_error_set(err, -r, "add the layer")
		  : fvm_vm_make(vm->store, config, &making, ret, err);
	if (r < 0)
		(void)fvm_subids_remove_tree(vm->store->dir, p.tmp);
	return r;
}

int fvm_vm_check_clone(const struct fvm_vm *vm, const char *name, struct fvm_error *err)
{
	int r = fvm_vm_check_owner(vm, err);
	if (r == 0)
		r = fvm_name_check(name, err);
	if (r == 0 && faccessat(vm->store->vms, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
		fvm_error_hint(err, "choose another name, or: fvm rm %s", name);
		r = fvm_error_say(err, EEXIST, "there is a VM '%s' already", name);
	}
	return r;
}

int fvm_vm_clone(struct fvm_vm *vm, const char *name, struct fvm_vm *ret, int64_t *ret_still_ns,
		 struct fvm_error *err)
{
	scoped_config config = { 0 };
	int64_t still_ns = 0;
	bool alive = fvm_lock_alive(vm->dir);
	int r = fvm_vm_check_clone(vm, name, err);
	if (r == 0 && !alive)
		r = freeze(vm, err);
	if (r == 0)
		r = clone_config(vm, name, &config, err);
	if (r == 0 && alive && !workspace_is_empty(vm))
		r = clone_running(vm, &config, ret, &still_ns, err);
	else if (r == 0)
		r = clone_stopped(vm, &config, ret, err);
	if (ret_still_ns)
		*ret_still_ns = still_ns;
	return r < 0 ? fvm_error_wrap(err, r, "clone VM '%s'", vm->config.name) : 0;
}
