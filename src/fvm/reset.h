/*
 * fvm/reset - throw changes of a VM's workspace away, so that what lies below shows again
 *
 * Theory of operation
 *   A change is an entry of the workspace, and so is a deletion (a whiteout): with the entry gone,
 *   the frozen layers and the base shine through. That is not so below a directory that the VM
 *   deleted, or deleted and made again: there nothing shines through until that directory itself is
 *   reset, and the caller is told so.
 *   Each path goes whole, or stays when a crash came before; a mount goes entry by entry.
 *   The VM must be stopped: an overlay does not notice when its layers change under it.
 */
#ifndef FVM_RESET_H
#define FVM_RESET_H

#include "fvm/store.h"

/** fvm_reset_all() - empty the workspace of @vm, open FVM_LOCK. Return: 0, -EBUSY (it runs) */
int fvm_reset_all(struct fvm_vm *vm, struct fvm_error *err);

/**
 * fvm_reset_paths() - reset the absolute @paths of @vm, open FVM_LOCK, and what lies below them
 * @ret_changed: those of them at which there was something to reset
 * Return: 0, -EBUSY (it runs), -EINVAL (shadowed by a directory that has to be reset as a whole,
 *         which the error names; nothing was reset then), or another -errno
 */
int fvm_reset_paths(const struct fvm_vm *vm, const struct fvm_strv *paths,
		    struct fvm_strv *ret_changed, struct fvm_error *err);

#endif
