/* fvm: the commands that a start needs, and the way to the others. */
#include "cli/cli.h"
#include "cli/commands.h"

/* clang-format off */
static const struct cli_command *const table[] = {
	&cli_clone,
	&cli_create,
	&cli_inspect,
	&cli_kill,
	&cli_ls,
	&cli_pause,
	&cli_prune,
	&cli_ps,
	&cli_rename,
	&cli_resume,
	&cli_rm,
	&cli_rollback,
	&cli_run,
	&cli_snapshot,
	&cli_start,
	&cli_stats,
	&cli_top,
	&cli_version,
	NULL,
};

/* commands of fvm-changes */
static const char *const elsewhere[] = {
	"export",
	"import",
	"diff",
	NULL,
};
/* clang-format on */

int main(int argc, char **argv)
{
	return cli_main(table, elsewhere, argc, argv);
}
