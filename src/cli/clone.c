#include <stdio.h>

#include "cli/commands.h"
#include "fvm/snapshot.h"

static int clone_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 }, copy = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	int64_t still_ns = 0;
	int first = cli_parse(&cli_clone, argc, argv, NULL, NULL);
	if (first < 0)
		return cli_exit_parse(first);
	if (fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], FVM_LOCK, &vm, &err) < 0)
		return cli_fail(&err);
	struct cli_progress bar;
	cli_progress_start(&bar, cli, "copy");
	vm.progress = cli_progress_bytes;
	vm.progress_arg = &bar;
	int r = fvm_vm_clone(&vm, argv[first + 1], &copy, &still_ns, &err);
	cli_progress_end(&bar);
	if (r < 0)
		return cli_fail(&err);
	cli_say_still(cli, vm.config.name, still_ns);
	if (cli->json)
		return cli_print_json(json_pack("{s:s, s:s, s:I}", "name", copy.config.name, "id",
						copy.config.id, "still_ns", (json_int_t)still_ns));
	return 0;
}

const struct cli_command cli_clone = {
	.name = "clone",
	.operands = "VM NEW",
	.summary = "Make a VM that starts as another one is now.",
	.text = "Of a running VM the files are copied, as by snapshot; its processes are not.",
	.min_operands = 2,
	.max_operands = 2,
	.main = clone_main,
};
