/* fvm: the commands that a start needs, and the way to the others. */
#include "cli/cli.h"
#include "cli/commands.h"

/* clang-format off */
static const struct cli_command *const table[] = {
	&cli_attach,
	&cli_cp,
	&cli_create,
	&cli_enter,
	&cli_exec,
	&cli_inspect,
	&cli_kill,
	&cli_logs,
	&cli_ls,
	&cli_pause,
	&cli_prune,
	&cli_ps,
	&cli_rename,
	&cli_resume,
	&cli_rm,
	&cli_run,
	&cli_start,
	&cli_stats,
	&cli_stop,
	&cli_top,
	&cli_trace,
	&cli_version,
	&cli_wait,
	&cli_who,
	NULL,
};

/* commands of fvm-changes */
static const char *const elsewhere[] = {
	"checkpoint",
	"clone",
	"commit",
	"diff",
	"doctor",
	"export",
	"handles",
	"import",
	"rebind",
	"reset",
	"restore",
	"rollback",
	"snapshot",
	"undo",
	NULL,
};
/* clang-format on */

int main(int argc, char **argv)
{
	return cli_main(table, elsewhere, argc, argv);
}
