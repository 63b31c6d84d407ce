/*
 * cli/image - files that commands write VMs to, and make VMs of
 */
#ifndef FVM_CLI_IMAGE_H
#define FVM_CLI_IMAGE_H

#include "cli/cli.h"

/** cli_image_dir() - directory and last component of @file; "-" is the standard output, no name
 *  Return: descriptor or negative errno */
int cli_image_dir(const char *file, const char **ret_name, struct fvm_error *err);

/** cli_image_import() - all that @command with operands FILE [NAME] does: a VM from FILE
 *  @live: its programs go on. Return: exit status */
int cli_image_import(const struct cli *cli, const struct cli_command *command, bool live, int argc,
		     char **argv);

#endif
