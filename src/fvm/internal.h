/*
 * fvm/internal - what the files of this folder share
 */
#ifndef FVM_INTERNAL_H
#define FVM_INTERNAL_H

#include "fvm/state.h"
#include "fvm/store.h"

/**
 * fvm_store_place() - choose STORE and RUN: $FVM_HOME, or the first place that can keep VMs
 * @store, @run: PATH_MAX bytes each. Makes the directory that it chooses.
 * Return: 0, -EOPNOTSUPP (its file system is not fit), -EROFS, -EACCES...
 */
int fvm_store_place(char *store, char *run, struct fvm_error *err);

/** fvm_random_hex() - @digits random hexadecimal digits and a NUL */
void fvm_random_hex(char *to, size_t digits);

/** fvm_process_start() - start time of @pid (field 22 of /proc/PID/stat), 0 when it is gone */
uint64_t fvm_process_start(pid_t pid);

/**
 * fvm_tmp_make() - make STORE/tmp/NAME for something that is being built
 * @ret_name: at least 40 bytes
 * Return: its descriptor, which holds flock(2) so that nobody tidies it away; or negative errno
 */
int fvm_tmp_make(const struct fvm_store *store, char *ret_name);

/**
 * fvm_later() - run @fn in a child process of its own session, without our stdio
 * Whoever waits for our output does not wait for it. Runs @fn here when there can be no child.
 */
void fvm_later(void (*fn)(void *arg), void *arg);

/** fvm_trash() - rename @name below @dir to STORE/trash and delete it, now or in a child process */
int fvm_trash(const struct fvm_store *store, int dir, const char *name, bool later);

/* How a VM is made; see fvm_vm_make(). */
struct fvm_making {
	bool sync;
	/* put layers that the configuration names, and that are not there yet, to their places;
	 * @dir: the new VM's directory, which nobody sees yet */
	int (*place)(void *arg, int dir, struct fvm_error *err);
	void *arg;
};

/**
 * fvm_vm_make() - fvm_vm_create() together with new layers: all of it appears, or nothing
 * Until the VM stands in its place its configuration in tmp/ tells who tidies up which layers
 * nobody needs. A layer that place() moves has its ref of the new VM already.
 */
int fvm_vm_make(const struct fvm_store *store, const struct fvm_config *config,
		const struct fvm_making *making, struct fvm_vm *ret, struct fvm_error *err);

/** fvm_vm_unref_layers() - a VM that is no more stands on none of its layers */
void fvm_vm_unref_layers(const struct fvm_store *store, const struct fvm_config *config,
			 bool later);

/** fvm_layers_check() - whether all layers of @vm are there: without one it would be another VM */
int fvm_layers_check(const struct fvm_vm *vm, struct fvm_error *err);

/** fvm_layer_place() - move a layer, made in tmp/, to STORE/layers/@id. Return: 0 or -errno */
int fvm_layer_place(const struct fvm_store *store, const char *tmp, const char *id);
/** fvm_layer_unref() - @vm_id no longer stands on layer @id; the last one to leave deletes it */
int fvm_layer_unref(const struct fvm_store *store, const char *id, const char *vm_id, bool later);
/** fvm_layer_ref() - @vm_id stands on layer @id */
int fvm_layer_ref(const struct fvm_store *store, const char *id, const char *vm_id);

#endif
