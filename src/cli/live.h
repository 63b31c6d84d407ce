/*
 * cli/live - a VM that starts with programs that were captured
 */
#ifndef FVM_CLI_LIVE_H
#define FVM_CLI_LIVE_H

#include "fvm/store.h"

/** cli_live_start() - start the VM, open FVM_LOCK, with @programs (fvm/checkpoint.h); if that can't
 *  be, it is deleted. Return: 0 or negative errno */
int cli_live_start(struct fvm_vm *vm, int programs, struct fvm_error *err);

#endif
