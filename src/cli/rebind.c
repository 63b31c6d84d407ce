#include <stdio.h>

#include "cli/commands.h"
#include "fvm/rebind.h"

static const struct cli_option options[] = {
	{ 'a', "all", NULL, "whatever leads to the same open file, in all processes of VM" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct fvm_rebind *what = into;
	(void)key, (void)value, (void)err;
	what->all = true;
	return 0;
}

static int tell(const struct cli *cli, const struct fvm_vm *vm, const struct fvm_rebound *told)
{
	if (cli->json)
		return cli_print_json(json_pack("{s:s, s:I, s:I, s:I}", "name", vm->config.name,
						"descriptors", (json_int_t)told->descriptors,
						"processes", (json_int_t)told->processes,
						"still_ns", (json_int_t)told->still_ns));
	cli_say(cli, "%zu descriptor%s of %zu process%s", told->descriptors,
		told->descriptors == 1 ? "" : "s", told->processes,
		told->processes == 1 ? "" : "es");
	return 0;
}

static int rebind_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	struct fvm_rebind what = { 0 };
	struct fvm_rebound told = { 0 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_rebind, argc, argv, take_option, &what);
	if (first < 0)
		return cli_exit_parse(first);
	what.target = argv[first + 3];
	if (cli_parse_number(argv[first + 1], "process", 1, &what.pid, &err) < 0 ||
	    cli_parse_number(argv[first + 2], "descriptor", 0, &what.number, &err) < 0 ||
	    fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], FVM_LOCK, &vm, &err) < 0 ||
	    fvm_rebind(&vm, &what, &told, &err) < 0)
		return cli_fail(&err);
	return tell(cli, &vm, &told);
}

const struct cli_command cli_rebind = {
	.name = "rebind",
	.operands = "VM PID FD TARGET",
	.summary = "Connect a descriptor of a running program to something else.",
	.text = "PID and FD are the VM's: fvm handles shows them. TARGET is a path in the VM, as "
		"the "
		"program\nwould open it, or PID:FD, a descriptor of another process of the VM. A "
		"path "
		"is made if\nneed be, where FD is written to. The program goes on and knows "
		"nothing "
		"of it.",
	.options = options,
	.anywhere = true,
	.min_operands = 4,
	.max_operands = 4,
	.main = rebind_main,
};
