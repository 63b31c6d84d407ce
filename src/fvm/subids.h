/*
 * fvm/subids - a command at work on layers that hold files of the user's subordinate ids
 *
 * Theory of operation
 *   Services in a VM with ranges of ids (idmap_user.h) leave directories that only they may enter,
 *   and the user who owns the VM is not they. So a command that walks, compares, reads, deletes or
 *   makes such files first enters a user namespace of its own, in which the user's own id and his
 *   subordinate ids are mapped, each to itself, and in which it has all capabilities: over
 *   files of these ids, and over nothing else. Numbers of the layer's files read as before.
 *
 *   Files of all others show as nobody's there. Who compares with the host's files has to know
 *   whose they are; that is asked of a process of ours which stayed outside, one question for
 *   each such file (10 us). It ends with us.
 *
 *   Only where it is needed: for root, without ranges, or for a VM that never ran with any, nothing
 *   happens. Entering can't be undone, and programs executed from there have no rights but the
 *   user's: fvm_subids_call() does it in a child for those who have to go on. Where the helpers
 *   refuse, the command goes on with what the user may read, and says so.
 */
#ifndef FVM_SUBIDS_H
#define FVM_SUBIDS_H

#include <sys/stat.h>

#include "fvm/idmap_user.h"
#include "fvm/store.h"

/** fvm_subids_enter() - from here on this process gets at them, if @vm has any. Return: 0 or
 *  negative errno with @err (only when it can't go on at all) */
int fvm_subids_enter(const struct fvm_vm *vm, struct fvm_error *err);

/**
 * fvm_subids_enter_any() - the same whatever the VM: where files of such ids are made anew
 * @ret: what there is; may be NULL. count 0: none
 */
int fvm_subids_enter_any(struct fvm_user_ids *ret, struct fvm_error *err);

/** fvm_subids_call() - run @fn in a child that has entered. Return: what @fn returned, 0 or more or
 *  negative errno, with its @err */
int fvm_subids_call(int (*fn)(void *arg, struct fvm_error *err), void *arg, struct fvm_error *err);

/** fvm_subids_call_always() - the same, also where the user has no ranges: in a namespace he may read
 *  and make again whatever is his, whatever its mode and capabilities */
int fvm_subids_call_always(int (*fn)(void *arg, struct fvm_error *err), void *arg,
			   struct fvm_error *err);

/** fvm_subids_stat() - put the host's true ids into @st, got by fstatat(@dir, @name) without
 *  following links; "" is @dir itself */
void fvm_subids_stat(int dir, const char *name, struct stat *st);

/** fvm_subids_fstat() - fstat(2) with the host's true ids. Return: 0, or -1 and errno */
int fvm_subids_fstat(int fd, struct stat *ret);

/** fvm_subids_remove_tree() - fvm_remove_tree() that also removes what belongs to such ids */
int fvm_subids_remove_tree(int dir, const char *name);

/** fvm_subids_remove_tree_told() - the same with progress, see fvm_remove_tree_told() */
int fvm_subids_remove_tree_told(int dir, const char *name, fvm_remove_fn fn, void *arg);

#endif
