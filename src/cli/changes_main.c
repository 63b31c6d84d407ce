/* fvm-changes: the commands that read and write whole layers. */
#include "cli/cli.h"
#include "cli/commands.h"

/* clang-format off */
static const struct cli_command *const table[] = {
	&cli_checkpoint,
	&cli_clone,
	&cli_commit,
	&cli_diff,
	&cli_doctor,
	&cli_export,
	&cli_handles,
	&cli_import,
	&cli_rebind,
	&cli_reset,
	&cli_restore,
	&cli_rollback,
	&cli_snapshot,
	&cli_undo,
	NULL,
};
/* clang-format on */

int main(int argc, char **argv)
{
	return cli_main(table, NULL, argc, argv);
}
