#include "cli/commands.h"
#include "cli/names.h"
#include "cli/vm_start.h"

static const struct cli_option start_options[] = {
	{ 'a', "all", NULL, "all VMs of this store that are stopped" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	(void)key, (void)value, (void)err;
	*(bool *)into = true;
	return 0;
}

static int start_one(const struct fvm_store *store, const char *name, struct fvm_error *err)
{
	scoped_vm vm = { .dir = -1, .lock = -1 };
	int r = fvm_vm_open(store, name, FVM_LOCK, &vm, err);
	return r < 0 ? r : cli_vm_boot(&vm, NULL, err);
}

static int start_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_strv names = { 0 };
	struct fvm_error err = { 0 };
	bool all = false;
	int status = 0;
	(void)cli;
	int first = cli_parse(&cli_start, argc, argv, take_option, &all);
	if (first < 0)
		return cli_exit_parse(first);
	if (fvm_store_open(&store, &err) < 0 ||
	    cli_names_take(&cli_start, &store, all, 1u << FVM_STOPPED, argc - first, argv + first,
			   &names, &err) < 0)
		return cli_fail(&err);
	fvm_strv_each(&names, i) {
		err = (struct fvm_error){ 0 };
		if (start_one(&store, names.items[i], &err) < 0)
			status = cli_fail(&err);
	}
	return status;
}

const struct cli_command cli_start = {
	.name = "start",
	.operands = "VM..",
	.summary = "Start VMs without a command; they run until stopped.",
	.options = start_options,
	.anywhere = true,
	.max_operands = -1,
	.main = start_main,
};
