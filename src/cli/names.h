/* cli/names - the VMs that a command is for: those named, or with --all every one it can do it to */
#ifndef FVM_CLI_NAMES_H
#define FVM_CLI_NAMES_H

#include "cli/cli.h"
#include "fvm/store.h"

/**
 * cli_names_take() - the VMs that @command is for
 * @all:    --all was given
 * @states: with @all those that are in one of these, as 1 << FVM_RUNNING | ..; 0: in any
 * @names:  @count operands
 * @ret:    empty only with @all
 * Return: 0, or -EINVAL (none and not @all, or both), -ENOMEM...
 */
int cli_names_take(const struct cli_command *command, const struct fvm_store *store, bool all,
		   unsigned int states, int count, char **names, struct fvm_strv *ret,
		   struct fvm_error *err);

#endif
