#include <stdio.h>

#include "cli/commands.h"
#include "cli/live.h"
#include "fvm/checkpoint.h"
#include "fvm/snapshot.h"

static const struct cli_option options[] = {
	{ 'l', "live", NULL, "with its programs: both go on from the same instant" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	(void)key, (void)value, (void)err;
	*(bool *)into = true;
	return 0;
}

static int tell(const struct cli *cli, const struct fvm_vm *vm, const struct fvm_vm *copy,
		int64_t still_ns, const struct fvm_connections *lost)
{
	cli_say_still(cli, vm->config.name, still_ns);
	if (cli->json)
		return cli_print_json(json_pack("{s:s, s:s, s:I, s:o}", "name", copy->config.name,
						"id", copy->config.id, "still_ns",
						(json_int_t)still_ns, "reset",
						cli_json_connections(lost)));
	cli_say_connections(cli, lost, "came back reset in the clone");
	return 0;
}

static int clone_live(const struct cli *cli, const struct fvm_vm *vm, const char *name)
{
	scoped_vm copy = { .dir = -1, .lock = -1 };
	struct fvm_checkpoint_told told;
	scoped_connections lost = { 0 };
	struct fvm_error err = { 0 };
	int programs = -1;
	int r = fvm_clone_live(vm, name, &programs, &told, &err);
	scoped_fd live = programs;
	if (r == 0)
		r = fvm_vm_open(vm->store, name, FVM_LOCK, &copy, &err);
	if (r == 0)
		r = cli_live_start(&copy, live, false, &lost, &err);
	return r < 0 ? cli_fail(&err) : tell(cli, vm, &copy, told.still_ns, &lost);
}

static int clone_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 }, copy = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	int64_t still_ns = 0;
	bool live = false;
	int first = cli_parse(&cli_clone, argc, argv, take_option, &live);
	if (first < 0)
		return cli_exit_parse(first);
	if (fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], FVM_LOCK, &vm, &err) < 0)
		return cli_fail(&err);
	if (live)
		return clone_live(cli, &vm, argv[first + 1]);
	struct cli_progress bar;
	cli_progress_start(&bar, cli, "copy");
	vm.progress = cli_progress_bytes;
	vm.progress_arg = &bar;
	int r = fvm_vm_clone(&vm, argv[first + 1], &copy, &still_ns, &err);
	cli_progress_end(&bar);
	if (r < 0)
		return cli_fail(&err);
	return tell(cli, &vm, &copy, still_ns, &(const struct fvm_connections){ 0 });
}

const struct cli_command cli_clone = {
	.name = "clone",
	.operands = "VM NEW",
	.summary = "Make a VM that starts as another one is now.",
	.text = "Of a running VM the files are copied, as by snapshot; its processes with --live.",
	.options = options,
	.anywhere = true,
	.min_operands = 2,
	.max_operands = 2,
	.main = clone_main,
};
