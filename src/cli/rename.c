#include "cli/commands.h"
#include "fvm/store.h"

static int rename_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	(void)cli;
	int first = cli_parse(&cli_rename, argc, argv, NULL, NULL);
	if (first < 0)
		return cli_exit_parse(first);
	if (fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], FVM_LOCK, &vm, &err) < 0 ||
	    fvm_vm_rename(&vm, argv[first + 1], &err) < 0)
		return cli_fail(&err);
	return 0;
}

const struct cli_command cli_rename = {
	.name = "rename",
	.operands = "VM NEW",
	.summary = "Give a VM another name.",
	.min_operands = 2,
	.max_operands = 2,
	.main = rename_main,
};
