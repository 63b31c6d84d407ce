/*
 * fvm/prune - what a crash left, and what nobody needs any more
 *
 * Theory of operation
 *   Most of it tidies itself: tmp/ and trash/ at each opening of the store, a VM's run-time things
 *   at its next use. What remains for prune: run-time directories of VMs that ended and of such as
 *   are gone, VMs of "run --rm" whose watcher was killed, layers on which no VM stands (their refs
 *   name VMs that are gone), hiding layers that no start has used for a week. And, when all is to
 *   go that can be made anew, the skeletons of ordinary users' VMs.
 *
 *   A new VM that is started for captured programs has a mark in its run-time directory until they
 *   go. Its maker holds its lock all the time: one with that mark whose lock is free, running or not,
 *   has lost its maker, would never have programs, and goes as those of "run --rm" do.
 */
#ifndef FVM_PRUNE_H
#define FVM_PRUNE_H

#include "fvm/store.h"

struct fvm_pruned {
	unsigned int vms, layers, hides, runs, skeletons;
};

struct fvm_prune_how {
	bool dry_run; /* only count */
	bool all;     /* also what the next start makes anew */
};

/** fvm_store_prune() - take it away. Return: 0 or negative errno */
int fvm_store_prune(const struct fvm_store *store, const struct fvm_prune_how *how,
		    struct fvm_pruned *ret, struct fvm_error *err);

/** fvm_vm_unfinished() - @is: mark the VM, open FVM_LOCK, as one whose programs are yet to come, till
 *  that is taken back: also over starts that fail and are tried again. Return: 0 or negative errno */
#define FVM_UNFINISHED "unfinished" /* in a VM's run-time directory */
int fvm_vm_unfinished(const struct fvm_vm *vm, bool is, struct fvm_error *err);

/** fvm_store_tidy_ended() - tidy the VMs that ended by themselves, and delete those of "run --rm".
 *  Looks at RUN/vms only, so its cost goes with the VMs that run. */
unsigned int fvm_store_tidy_ended(const struct fvm_store *store, bool dry_run);

#endif
