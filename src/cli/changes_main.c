/* fvm-changes: the commands that read and write whole layers. */
#include "cli/cli.h"
#include "cli/commands.h"

static const struct cli_command *const table[] = {
	NULL,
};

int main(int argc, char **argv)
{
	return cli_main(table, NULL, argc, argv);
}
