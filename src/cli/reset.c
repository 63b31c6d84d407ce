#include <stdio.h>

#include "cli/commands.h"
#include "cli/paths.h"
#include "fvm/reset.h"
#include "fvm/subids.h"

static int reset_whole(const struct cli *cli, struct fvm_vm *vm, struct fvm_error *err)
{
	if (fvm_reset_all(vm, err) < 0)
		return cli_fail(err);
	if (cli->json)
		return cli_print_json(
			json_pack("{s:s, s:[s]}", "name", vm->config.name, "reset", "/"));
	if (vm->config.layers.count)
		cli_say(cli, "VM '%s' is as in its last snapshot", vm->config.name);
	else
		cli_say(cli, "VM '%s' is as the host is", vm->config.name);
	return 0;
}

static int reset_some(const struct cli *cli, const struct fvm_vm *vm, const struct fvm_strv *paths,
		      struct fvm_error *err)
{
	scoped_strv changed = { 0 };
	if (fvm_reset_paths(vm, paths, &changed, err) < 0)
		return cli_fail(err);
	json_t *list = json_array();
	fvm_strv_each(&changed, i)
		json_array_append_new(list, json_string(changed.items[i]));
	if (cli->json)
		return cli_print_json(
			json_pack("{s:s, s:o}", "name", vm->config.name, "reset", list));
	json_decref(list);
	fvm_strv_each(paths, i) {
		scoped_buf name = { 0 };
		fvm_quote(&name, paths->items[i]);
		if (!fvm_strv_has(&changed, paths->items[i]) && !name.failed)
			cli_say(cli, "%s: nothing to reset", name.data);
	}
	return 0;
}

static int reset_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	scoped_strv paths = { 0 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_reset, argc, argv, NULL, NULL);
	if (first < 0)
		return cli_exit_parse(first);
	if (cli_paths_make(argc - first - 1, argv + first + 1, &paths, &err) < 0 ||
	    fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], FVM_LOCK, &vm, &err) < 0 ||
	    fvm_subids_enter(&vm, &err) < 0)
		return cli_fail(&err);
	return paths.count ? reset_some(cli, &vm, &paths, &err) : reset_whole(cli, &vm, &err);
}

const struct cli_command cli_reset = {
	.name = "reset",
	.operands = "VM [PATH..]",
	.summary = "Throw changes of a VM away, so that the host's files show again.",
	.text = "Without a PATH all of them, back to the last snapshot; with PATHs only what\n"
		"changed there and below. The VM must be stopped. It can't be undone; fvm "
		"snapshot\n"
		"keeps what is there first.",
	.anywhere = true,
	.min_operands = 1,
	.max_operands = -1,
	.main = reset_main,
};
