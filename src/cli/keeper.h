/*
 * cli/keeper - who rolls a VM back when its watchdog wants that (run --watchdog SEC:restore)
 *
 * Theory of operation
 *   PID 1 ends with its VM, so somebody outside does what fvm/watchdog.h says: a child of the run
 *   that started it, in a session of its own. It does so by the commands that a person would use,
 *   fvm snapshot --live and fvm rollback --force, one at a time, each in a process of its own: what
 *   these leave when they are killed the next one finds.
 *   It has to be there as long as the VM is, so it is two processes: a worker, and a guard that
 *   waits for it. If the worker is killed, the guard makes another one; if the guard is, the worker
 *   becomes one. They know nothing that is not on the disk, but when the program was started.
 *   Both have byte 3 of the VM's lock. It ends with the VM, and takes its own snapshots with it.
 *
 *   Its snapshots are called "watchdog.1" to "watchdog.3"; a new one takes the place of the oldest.
 */
#ifndef FVM_CLI_KEEPER_H
#define FVM_CLI_KEEPER_H

#include "fvm/start.h"

/** cli_keeper_hold() - before the VM, open FVM_LOCK, is started: from now on there is a keeper
 *  Return: a descriptor for cli_keeper_begin(), or negative errno */
int cli_keeper_hold(const struct fvm_vm *vm, struct fvm_error *err);

/** cli_keeper_begin() - the VM was started: let a process of its own be the keeper
 *  @held: of cli_keeper_hold(). Return: 0 or negative errno */
int cli_keeper_begin(const struct fvm_vm *vm, const struct fvm_started *started, int held,
		     struct fvm_error *err);

#endif
