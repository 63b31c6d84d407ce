#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "fvm/state.h"

struct ls_options {
	bool quiet, running;
};

static const struct cli_option options[] = {
	{ 'n', "names", NULL, "only their names, one per line" },
	{ 'q', "quiet", NULL, "the same" },
	{ 'r', "running", NULL, "only those that run" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct ls_options *o = into;
	(void)value, (void)err;
	if (key == 'n' || key == 'q')
		o->quiet = true;
	else
		o->running = true;
	return 0;
}

static json_t *describe(const struct fvm_vm *vm, enum fvm_state state)
{
	json_t *item =
		json_pack("{s:s, s:s, s:I, s:s, s:i, s:i}", "name", vm->config.name, "state",
			  fvm_state_name(state), "created", (json_int_t)vm->config.created_ns, "id",
			  vm->config.id, "layers", (int)vm->config.layers.count, "snapshots",
			  (int)vm->config.snapshot_count);
	scoped_running running = { 0 };
	if (state == FVM_STOPPED || state == FVM_BROKEN)
		return item;
	if (fvm_running_load(vm, &running, NULL) == 0) {
		json_object_set_new(item, "init_pid", json_integer(running.init_pid));
		json_object_set_new(item, "started", json_integer(running.started_ns));
		json_object_set_new(item, "address", json_string(running.address4));
	}
	return item;
}

static void print_line(const struct fvm_vm *vm, enum fvm_state state, const struct ls_options *o)
{
	if (o->quiet)
		printf("%s\n", vm->config.name);
	else
		printf("%-24s %-8s %-16s %zu\n", vm->config.name, fvm_state_name(state),
		       vm->config.created_ns ? cli_time_ago(vm->config.created_ns) : "?",
		       vm->config.snapshot_count);
}

static int ls_main(const struct cli *cli, int argc, char **argv)
{
	struct ls_options o = { 0 };
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_strv names = { 0 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_ls, argc, argv, take_option, &o);
	if (first < 0)
		return cli_exit_parse(first);
	if (fvm_store_open(&store, &err) < 0 || fvm_store_list(&store, &names, &err) < 0)
		return cli_fail(&err);
	if (o.quiet && !o.running && !cli->json) {
		fvm_strv_each(&names, i)
			printf("%s\n", names.items[i]);
		return 0;
	}
	json_t *all = cli->json ? json_array() : NULL;
	if (!all && !o.quiet && names.count)
		printf("%-24s %-8s %-16s %s\n", "NAME", "STATE", "CREATED", "SNAPSHOTS");
	fvm_strv_each(&names, i) {
		scoped_vm vm = { .dir = -1, .lock = -1 };
		enum fvm_state state = FVM_BROKEN;
		if (fvm_vm_open(&store, names.items[i], FVM_NO_LOCK, &vm, NULL) == 0)
			state = fvm_vm_state(&vm);
		else if (strlen(names.items[i]) < sizeof(vm.config.name))
			strcpy(vm.config.name, names.items[i]);
		if (o.running && state != FVM_RUNNING && state != FVM_PAUSED)
			continue;
		if (all)
			json_array_append_new(all, describe(&vm, state));
		else
			print_line(&vm, state, &o);
	}
	return all ? cli_print_json(all) : 0;
}

const struct cli_command cli_ls = {
	.name = "ls",
	.summary = "List the VMs.",
	.options = options,
	.anywhere = true,
	.main = ls_main,
};
