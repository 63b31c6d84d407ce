/*
 * cli/vm_start - start a VM the way run and start both do
 */
#ifndef FVM_CLI_VM_START_H
#define FVM_CLI_VM_START_H

#include "cli/cli.h"
#include "fvm/start.h"

/** cli_vm_start() - fvm_vm_start() with the time of the first start noted */
int cli_vm_start(struct fvm_vm *vm, const struct fvm_start_options *options,
		 struct fvm_started *ret, struct fvm_error *err);

/** cli_vm_boot() - start the VM, open FVM_LOCK, without a command; @wish (fvm/start.h) may be NULL
 *  Return: 0 or negative errno */
int cli_vm_boot(struct fvm_vm *vm, const struct fvm_net_wish *wish, struct fvm_error *err);

#endif
