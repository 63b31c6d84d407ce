/* cli/calls - fvm trace --calls: a line for each system call, or a table of them all */
#ifndef FVM_CLI_CALLS_H
#define FVM_CLI_CALLS_H

#include "cli/cli.h"

struct cli_calls { /* starts as { 0 } */
	struct fvm_strv only; /* names; none: all */
	const char *output;   /* a file, or NULL: stdout */
	bool counts;
};

/** cli_calls_only() - add the names of "open,connect". Return: 0, -EINVAL (there is no such call) */
int cli_calls_only(struct cli_calls *c, const char *names, struct fvm_error *err);

/** cli_calls_main() - @pid: NULL for all processes of @vm. Return: exit status */
int cli_calls_main(const struct cli *cli, const struct cli_calls *calls, const char *vm,
		   const char *pid);

#endif
