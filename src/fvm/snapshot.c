#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/disk.h"
#include "fvm/internal.h"
#include "fvm/lock.h"
#include "fvm/snapshot.h"
#include "fvm/stamps.h"
#include "fvm/subids.h"

static int check_stopped(const struct fvm_vm *vm, struct fvm_error *err)
{
	if (!fvm_lock_alive(vm->dir))
		return 0;
	fvm_error_set(err, EBUSY, "VM '%s' is running", vm->config.name);
	fvm_error_hint(err, "fvm stop %s first", vm->config.name);
	return -EBUSY;
}

static int sync_dir(int dir, const char *path)
{
	scoped_fd fd = openat(dir, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
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
	DIR *d = top < 0 ? NULL : fdopendir(top);
	bool empty = true;
	struct dirent *e, *inner;
	while (d && empty && (e = readdir(d))) {
		char path[300];
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/upper", e->d_name);
		int upper = fvm_open_nofollow(top, path, O_RDONLY | O_DIRECTORY);
		DIR *u = upper < 0 ? NULL : fdopendir(upper);
		if (upper == -EACCES) /* the VM gave it to one of its services */
			empty = false;
		while (u && empty && (inner = readdir(u)))
			empty = strcmp(inner->d_name, ".") == 0 || strcmp(inner->d_name, "..") == 0;
		if (u)
			closedir(u);
	}
	if (d)
		closedir(d);
	return empty;
}

/* A layer without contents yet, which the VM stands on already. */
static int make_layer(const struct fvm_vm *vm, char id[33])
{
	char tmp[40], ref[48], path[48];
	scoped_fd dir = fvm_tmp_make(vm->store, tmp);
	if (dir < 0)
		return dir;
	snprintf(ref, sizeof(ref), "refs/%s", vm->config.id);
	if (mkdirat(dir, "refs", 0700) < 0)
		return -errno;
	scoped_fd file = fvm_create_beneath(dir, ref, O_WRONLY, 0600);
	if (file < 0)
		return file;
	fvm_random_hex(id, 32);
	snprintf(path, sizeof(path), "layers/%s", id);
	if (renameat2(vm->store->dir, tmp, vm->store->dir, path, RENAME_NOREPLACE) < 0)
		return -errno;
	return sync_dir(vm->store->dir, "layers");
}

/* Overlay's work directories are of no use in a frozen layer. */
static void drop_work(int layer)
{
	int fs = fvm_disk_open(layer);
	DIR *d = fs < 0 ? NULL : fdopendir(fs);
	struct dirent *e;
	while (d && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		scoped_fd key =
			openat(fs, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (key >= 0)
			(void)fvm_subids_remove_tree(key, "work");
	}
	if (d)
		closedir(d);
}

/* The second half of a freeze: everything is in STORE/layers/ID, the configuration has to know. */
static int freeze_finish(struct fvm_vm *vm, const char *id, struct fvm_error *err)
{
	char path[64];
	snprintf(path, sizeof(path), "layers/%s", id);
	scoped_fd layer = fvm_open_nofollow(vm->store->dir, path, O_RDONLY | O_DIRECTORY);
	if (layer >= 0)
		drop_work(layer);
	if (mkdirat(vm->dir, "workspace/fs", 0700) < 0 && errno != EEXIST)
		return fvm_error_set(err, errno, "make an empty workspace");
	int r = fvm_strv_add(&vm->config.layers, id);
	return r < 0 ? fvm_error_set(err, -r, "add the layer") : set_pending(vm, NULL, err);
}

int fvm_vm_freeze(struct fvm_vm *vm, struct fvm_error *err)
{
	char id[33], what[48], to[48];
	int r = check_stopped(vm, err);
	if (r < 0 || workspace_is_empty(vm))
		return r;
	r = make_layer(vm, id);
	if (r < 0)
		return fvm_error_set(err, -r, "make a layer in %s", vm->store->path);
	snprintf(what, sizeof(what), "freeze %s", id);
	r = set_pending(vm, what, err);
	if (r < 0) {
		(void)fvm_layer_unref(vm->store, id, vm->config.id, false);
		return r;
	}
	snprintf(to, sizeof(to), "layers/%s/fs", id);
	if (renameat2(vm->dir, "workspace/fs", vm->store->dir, to, RENAME_NOREPLACE) < 0)
		return fvm_error_set(err, errno, "freeze the workspace");
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
	return r < 0 ? r : empty_finish(vm, err);
}

int fvm_layers_finish(struct fvm_vm *vm, struct fvm_error *err)
{
	char id[33], path[48];
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

int fvm_vm_snapshot(struct fvm_vm *vm, const char *tag, struct fvm_error *err)
{
	if (fvm_name_check(tag, NULL) < 0)
		return fvm_error_set(err, EINVAL, "'%.80s' can't be a tag", tag);
	if (fvm_config_find_snapshot(&vm->config, tag) >= 0) {
		fvm_error_say(err, EEXIST, "VM '%s' has a snapshot '%s' already", vm->config.name,
			      tag);
		fvm_error_hint(err, "choose another tag, or: fvm snapshot --drop %s %s",
			       vm->config.name, tag);
		return -EEXIST;
	}
	int r = fvm_vm_freeze(vm, err);
	if (r < 0)
		return fvm_error_wrap(err, r, "snapshot VM '%s'", vm->config.name);
	r = fvm_config_add_snapshot(&vm->config, tag, fvm_now_ns(), &vm->config.layers);
	return r < 0 ? fvm_error_set(err, -r, "add the tag") : fvm_vm_save(vm, err);
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

int fvm_vm_rollback(struct fvm_vm *vm, const char *tag, struct fvm_error *err)
{
	scoped_strv before = { 0 };
	int r = check_stopped(vm, err);
	int at = r < 0 ? r : find_tag(vm, tag, err);
	if (at < 0)
		return at;
	if (fvm_config_layers(&vm->config, &before) < 0)
		return fvm_error_set(err, ENOMEM, "list the layers");
	fvm_strv_free(&vm->config.layers);
	r = fvm_strv_copy(&vm->config.layers, &vm->config.snapshots[at].layers);
	if (r < 0)
		return fvm_error_set(err, -r, "list the layers");
	r = fvm_vm_empty(vm, err);
	if (r < 0)
		return fvm_error_wrap(err, r, "roll VM '%s' back", vm->config.name);
	drop_unused(vm, &before);
	return 0;
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
	memmove(c->snapshots + at, c->snapshots + at + 1,
		(c->snapshot_count - (size_t)at - 1) * sizeof(*c->snapshots));
	c->snapshot_count--;
	int r = fvm_vm_save(vm, err);
	if (r == 0)
		drop_unused(vm, &before);
	return r;
}

int fvm_vm_clone(struct fvm_vm *vm, const char *name, struct fvm_vm *ret, struct fvm_error *err)
{
	scoped_config config = { 0 };
	int r = fvm_name_check(name, err);
	if (r == 0)
		r = fvm_vm_freeze(vm, err);
	if (r < 0)
		return fvm_error_wrap(err, r, "clone VM '%s'", vm->config.name);
	r = fvm_config_copy(&config, &vm->config);
	if (r < 0)
		return fvm_error_set(err, -r, "copy the configuration of VM '%s'", vm->config.name);
	strcpy(config.name, name);
	fvm_random_hex(config.id, 32);
	config.created_ns = fvm_now_ns();
	r = fvm_vm_create(vm->store, &config, true, ret, err);
	/* without its stamps births count alone, which is no reason to fail */
	if (r == 0 && fvm_stamps_copy(vm->dir, ret->dir) < 0)
		log_warn("clone of VM '%s': its stamps are not copied", vm->config.name);
	return r;
}
