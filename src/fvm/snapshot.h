/*
 * fvm/snapshot - snapshots, rollback and clones by stacking layers
 *
 * Theory of operation
 *   A stopped VM's workspace is *frozen*: its directory is renamed to STORE/layers/ID, and an empty
 *   workspace takes its place above. Nothing is copied, so it takes the same time for a byte as
 *   for a terabyte. A snapshot is a tag on a list of layers; rollback takes such a list as the VM's
 *   own and empties the workspace; a clone is a new VM on the same list.
 *   A running VM's workspace can't be renamed under its programs' feet without being seen to
 *   change: it is paused, the workspace is copied (layer_copy.h), and the copy is the frozen layer.
 *   The VM itself goes on with its layers as they are; the snapshot has the copy above them.
 *
 *   config.json is what counts. "pending" in it says what is under way, so that after a crash the
 *   next command which locks the VM finishes or takes back:
 *     "freeze ID"  STORE/layers/ID/fs is there: add ID to the layers; else forget it
 *     "empty"      the workspace is to be replaced by an empty one
 *     "copy ID"    a copied layer was put there for a snapshot that is not noted: delete it
 *     "rollback"   to a snapshot with programs, which are not there yet: it is to be as before
 *
 *   A snapshot may keep the programs of the running VM, too (programs.h). A rollback to it is tried
 *   first: the workspace is set aside (vms/NAME/before, and "before" in config.json, the layers it
 *   lay on), the VM is started, its programs are made again. Only then what was set aside goes; if
 *   it can't be, all is as it was, the VM stopped.
 *
 *   A clone's layer is named by the configuration of a VM that is still in tmp/ (internal.h).
 */
#ifndef FVM_SNAPSHOT_H
#define FVM_SNAPSHOT_H

#include "fvm/store.h"

/** fvm_vm_check_tag() - whether @tag can be one more of the VM. Return: 0, -EEXIST, -EINVAL */
int fvm_vm_check_tag(const struct fvm_vm *vm, const char *tag, struct fvm_error *err);

/** fvm_vm_snapshot() - tag what the VM, open FVM_LOCK, is now
 *  @ret_still_ns: how long a running VM was held for it, else 0; may be NULL
 *  Return: 0, -EEXIST (tag taken), -EINVAL (tag), -ETIMEDOUT (it does not hold still), ... */
int fvm_vm_snapshot(struct fvm_vm *vm, const char *tag, int64_t *ret_still_ns,
		    struct fvm_error *err);

/** fvm_vm_snapshot_live() - the same of a running VM, whose programs, held by the caller (vm->held),
 *  are in the file @blob (checkpoint.h) */
int fvm_vm_snapshot_live(struct fvm_vm *vm, const char *tag, int blob, struct fvm_error *err);

/** fvm_vm_snapshot_programs() - what is kept of the programs with snapshot @tag
 *  @ret_fd: it, at its start; -1: of its files only
 *  Return: 0, -ENOENT with the tags there are, -EBADMSG (damaged), -EPROTONOSUPPORT */
int fvm_vm_snapshot_programs(const struct fvm_vm *vm, const char *tag, int *ret_fd,
			     struct fvm_error *err);

/** fvm_vm_rollback() - make the VM, open FVM_LOCK and stopped, what it was at @tag
 *  Changes since then are lost. Return: 0, -ENOENT with the tags there are, -EBUSY */
int fvm_vm_rollback(struct fvm_vm *vm, const char *tag, struct fvm_error *err);

/** fvm_vm_rollback_try() - the same, so that it can be taken back; to be followed by either
 *  fvm_vm_rollback_settle() or fvm_vm_rollback_undo(), which the stopped VM's next command does
 *  should we be killed */
int fvm_vm_rollback_try(struct fvm_vm *vm, const char *tag, struct fvm_error *err);
int fvm_vm_rollback_settle(struct fvm_vm *vm, struct fvm_error *err);
int fvm_vm_rollback_undo(struct fvm_vm *vm, struct fvm_error *err);

/** fvm_vm_drop_snapshot() - forget @tag and what only it needs */
int fvm_vm_drop_snapshot(struct fvm_vm *vm, const char *tag, struct fvm_error *err);

/** fvm_vm_clone() - a new VM @name that starts as @vm is now; @ret is open FVM_LOCK
 *  @ret_still_ns: as above. Its memory and processes are not copied, only its files. */
int fvm_vm_clone(struct fvm_vm *vm, const char *name, struct fvm_vm *ret, int64_t *ret_still_ns,
		 struct fvm_error *err);

/** fvm_vm_check_clone() - whether there can be a clone @name. Return: 0, -EEXIST, -EINVAL, ... */
int fvm_vm_check_clone(const struct fvm_vm *vm, const char *name, struct fvm_error *err);

/** fvm_vm_empty() - throw the workspace away, with the configuration as it is in @vm */
int fvm_vm_empty(struct fvm_vm *vm, struct fvm_error *err);

/** fvm_layers_finish() - finish what vm->config.pending says a crash interrupted */
int fvm_layers_finish(struct fvm_vm *vm, struct fvm_error *err);

/** fvm_layers_tidy() - delete what a command that was killed had no use for any more */
void fvm_layers_tidy(const struct fvm_vm *vm);

#endif
