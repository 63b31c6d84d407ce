/*
 * fvm/pause - hold a running VM still, and end it at once
 *
 * The cgroup freezer where there is one, signals where there is none (cgroup.h). That a VM is
 * paused is noted by the file "paused" in its run directory, made after it stands still and taken
 * away before it goes on: who sees the file may rely on it.
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
 * fvm_vm_kill() - SIGKILL to all of a VM, paused or not, and wait until it is gone
 * Needs no lock. Left-overs are taken away by whoever opens the VM FVM_LOCK next.
 * Return: 0, -ESRCH, -ETIMEDOUT
 */
int fvm_vm_kill(const struct fvm_vm *vm, unsigned int timeout_ms, struct fvm_error *err);

#endif
