/* All commands, one per line and file; main.c and changes_main.c list which program has which. */
#ifndef FVM_CLI_COMMANDS_H
#define FVM_CLI_COMMANDS_H

#include "cli/cli.h"

extern const struct cli_command cli_version;

#endif
