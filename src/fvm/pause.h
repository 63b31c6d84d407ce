/*
 * fvm/pause - hold a running VM still, and end it at once
 *
 * The cgroup freezer where there is one, signals where there is none (cgroup.h). That a VM is
 * paused is noted by the file "paused" in its run directory, made after it stands still and taken
 * away before it goes on: who sees the file may rely on it.
 *
 * A command that needs it to stand still for a moment (fvm_vm_while_paused()) may be killed in that
 * moment. A process of ours waits for its end and lets the VM go on; should that be killed too, the
 * next command that locks the VM does, as it finds the file "held".
 */
#ifndef FVM_PAUSE_H
#define FVM_PAUSE_H

#include "fvm/state.h"

/**
 * fvm_vm_pause() - stop all processes of a running VM, open FVM_LOCK
 * @ret_was: whether it was paused before; may be NULL
 * Return: 0, -ESRCH (does not run), -ETIMEDOUT (could not be stopped, runs on), ...
 */
int fvm_vm_pause(const struct fvm_vm *vm, unsigned int timeout_ms, bool *ret_was,
		 struct fvm_error *err);

/** fvm_vm_resume() - let a paused VM, open FVM_LOCK, go on. Return: 0, -ESRCH, ... */
int fvm_vm_resume(const struct fvm_vm *vm, struct fvm_error *err);

/**
 * fvm_vm_while_paused() - run @fn while a VM, open FVM_LOCK, holds still; it goes on in any case
 * One that is paused already stays so, one that does not run is none of our business.
 * @ret_still_ns: how long it was held; 0 when it stood still anyway
 * Return: what @fn returned, or -ETIMEDOUT (could not be stopped), ...
 */
int fvm_vm_while_paused(const struct fvm_vm *vm, int (*fn)(void *arg, struct fvm_error *err),
			void *arg, int64_t *ret_still_ns, struct fvm_error *err);

/** fvm_vm_let_go() - a VM, open FVM_LOCK, that a killed command held goes on */
void fvm_vm_let_go(const struct fvm_vm *vm);

/**
 * fvm_vm_kill() - SIGKILL to all of a VM, paused or not, and wait until it is gone
 * Needs no lock. Left-overs are taken away by whoever opens the VM FVM_LOCK next.
 * Return: 0, -ESRCH, -ETIMEDOUT
 */
int fvm_vm_kill(const struct fvm_vm *vm, unsigned int timeout_ms, struct fvm_error *err);

/** fvm_vm_end() - the same to a VM, open FVM_LOCK, that may have ended; nothing of it is left
 *  Return: 0, -ETIMEDOUT */
int fvm_vm_end(const struct fvm_vm *vm, struct fvm_error *err);

#endif
