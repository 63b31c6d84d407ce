/* fvm-changes: the commands that read and write whole layers. */
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "fvm/accounts.h"

/* clang-format off */
static const struct cli_command *const table[] = {
	&cli_commit,
	&cli_diff,
	&cli_doctor,
	&cli_export,
	&cli_import,
	&cli_reset,
	&cli_undo,
	NULL,
};
/* clang-format on */

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], FVM_ACCOUNT_ANSWER) == 0)
		return fvm_account_answer(argv[2]);
	return cli_main(table, NULL, argc, argv);
}
