/*
 * cli/live - a VM that starts with programs that were captured
 */
#ifndef FVM_CLI_LIVE_H
#define FVM_CLI_LIVE_H

#include "cli/cli.h"
#include "fvm/checkpoint.h"

/** cli_live_try() - start the VM, open FVM_LOCK, with @programs (fvm/checkpoint.h); if that can't
 *  be, it is stopped again. @lazy, @ret_lost: see fvm_restore_programs(). Return: 0 or negative errno */
int cli_live_try(struct fvm_vm *vm, int programs, bool lazy, struct fvm_connections *ret_lost,
		 struct fvm_error *err);

/** cli_live_start() - the same, and a VM of which that can't be is deleted */
int cli_live_start(struct fvm_vm *vm, int programs, bool lazy, struct fvm_connections *ret_lost,
		   struct fvm_error *err);

/** cli_say_connections() - that they @came_to what is said, one line each, unless we are to be quiet */
void cli_say_connections(const struct cli *cli, const struct fvm_connections *c,
			 const char *came_to);
/** cli_json_connections() - a new reference */
json_t *cli_json_connections(const struct fvm_connections *c);

#endif
