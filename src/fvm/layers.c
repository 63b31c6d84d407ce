/*
 * Frozen layers: directories of STORE/layers that several VMs may stand on. Each VM that does has a
 * file in refs/; who removes the last one deletes the layer. rmdir(refs) decides the race: it
 * succeeds for one only, and a newcomer's ref fails from then on.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/disk.h"
#include "fvm/internal.h"

static int open_layer(const struct fvm_store *store, const char *id)
{
	char path[80];
	if (snprintf(path, sizeof(path), "layers/%s", id) >= (int)sizeof(path))
		return -EINVAL;
	return fvm_open_nofollow(store->dir, path, O_RDONLY | O_DIRECTORY);
}

int fvm_layer_place(const struct fvm_store *store, const char *tmp, const char *id)
{
	int r = FVM_FAULT("layer.place");
	if (r < 0)
		return r;
	scoped_fd layers = fvm_open_nofollow(store->dir, "layers", O_RDONLY | O_DIRECTORY);
	if (layers < 0)
		return layers;
	if (renameat2(store->dir, tmp, layers, id, RENAME_NOREPLACE) < 0 || fsync(layers) < 0)
		return -errno;
	return 0;
}

int fvm_layers_check(const struct fvm_vm *vm, struct fvm_error *err)
{
	const struct fvm_strv *layers = &vm->config.layers;
	fvm_strv_each(layers, i) {
		char path[80];
		snprintf(path, sizeof(path), "layers/%.60s/fs", layers->items[i]);
		if (faccessat(vm->store->dir, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			continue;
		fvm_error_hint(err,
			       "bring %s/layers/%.60s back from a copy of the store, or: fvm rm %s",
			       vm->store->path, layers->items[i], vm->config.name);
		return fvm_error_set(err, errno, "open layer %.60s of VM '%s'", layers->items[i],
				     vm->config.name);
	}
	return 0;
}

int fvm_layer_ref(const struct fvm_store *store, const char *id, const char *vm_id)
{
	char ref[48];
	scoped_fd layer = open_layer(store, id);
	if (layer < 0)
		return layer;
	snprintf(ref, sizeof(ref), "refs/%s", vm_id);
	scoped_fd fd = fvm_create_beneath(layer, ref, O_WRONLY, 0600);
	return fd < 0 ? fd : 0;
}

int fvm_layer_unref(const struct fvm_store *store, const char *id, const char *vm_id, bool later)
{
	char ref[48], path[80];
	scoped_fd layer = open_layer(store, id);
	if (layer < 0)
		return layer == -ENOENT ? 0 : layer;
	snprintf(ref, sizeof(ref), "refs/%s", vm_id);
	(void)FVM_FAULT("layer.unref");
	if (unlinkat(layer, ref, 0) < 0 && errno != ENOENT)
		return -errno;
	if (unlinkat(layer, "refs", AT_REMOVEDIR) < 0)
		return errno == ENOTEMPTY || errno == EEXIST || errno == ENOENT ? 0 : -errno;
	(void)FVM_FAULT("layer.delete");
	fvm_disk_release(layer);
	snprintf(path, sizeof(path), "layers/%s", id);
	return fvm_trash(store, store->dir, path, later);
}
