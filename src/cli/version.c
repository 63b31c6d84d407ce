#include <stdio.h>

#include "cli/cli.h"
#include "cli/commands.h"

static int version_main(const struct cli *cli, int argc, char **argv)
{
	int first = cli_parse(&cli_version, argc, argv, NULL, NULL);
	if (first < 0)
		return cli_exit_parse(first);
	if (cli->json)
		return cli_print_json(json_pack("{s:s}", "version", FVM_VERSION));
	printf("fvm %s\n", FVM_VERSION);
	return 0;
}

const struct cli_command cli_version = {
	.name = "version",
	.summary = "Print the version of fvm.",
	.main = version_main,
};
