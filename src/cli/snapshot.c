#include <stdio.h>

#include "cli/commands.h"
#include "fvm/snapshot.h"

struct snapshot_options {
	bool drop, list;
};

static const struct cli_option options[] = {
	{ 'l', "ls", NULL, "list the snapshots of VM" },
	{ 'd', "drop", NULL, "forget TAG and what only it needs" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct snapshot_options *o = into;
	(void)value, (void)err;
	if (key == 'l')
		o->list = true;
	else
		o->drop = true;
	return 0;
}

static int list(const struct cli *cli, const struct fvm_config *c)
{
	json_t *all = cli->json ? json_array() : NULL;
	for (size_t i = 0; i < c->snapshot_count; i++) {
		const struct fvm_snapshot *s = &c->snapshots[i];
		if (all)
			json_array_append_new(all, json_pack("{s:s, s:I, s:i}", "tag", s->tag,
							     "created", (json_int_t)s->created_ns,
							     "layers", (int)s->layers.count));
		else
			printf("%-24s %s\n", s->tag, cli_time_ago(s->created_ns));
	}
	return all ? cli_print_json(all) : 0;
}

void cli_say_still(const struct cli *cli, const char *name, long long still_ns)
{
	if (still_ns > 0)
		cli_say(cli, "VM '%s' stood still for %.1f ms", name, (double)still_ns / 1e6);
}

static int take(const struct cli *cli, struct fvm_vm *vm, const char *tag)
{
	struct fvm_error err = { 0 };
	struct cli_progress bar;
	int64_t still_ns = 0;
	cli_progress_start(&bar, cli, "copy");
	vm->progress = cli_progress_bytes;
	vm->progress_arg = &bar;
	int r = fvm_vm_snapshot(vm, tag, &still_ns, &err);
	cli_progress_end(&bar);
	if (r < 0)
		return cli_fail(&err);
	cli_say_still(cli, vm->config.name, still_ns);
	return cli->json ? cli_print_json(json_pack("{s:s, s:I}", "tag", tag, "still_ns",
						    (json_int_t)still_ns))
			 : 0;
}

static int snapshot_main(const struct cli *cli, int argc, char **argv)
{
	struct snapshot_options o = { 0 };
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_snapshot, argc, argv, take_option, &o);
	if (first < 0)
		return cli_exit_parse(first);
	if (!o.list && argc - first != 2) {
		fvm_error_set(&err, 0, "snapshot: a TAG is missing: fvm snapshot VM TAG");
		return cli_fail(&err);
	}
	if (fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], o.list ? FVM_NO_LOCK : FVM_LOCK, &vm, &err) < 0)
		return cli_fail(&err);
	if (o.list)
		return list(cli, &vm.config);
	if (!o.drop)
		return take(cli, &vm, argv[first + 1]);
	return fvm_vm_drop_snapshot(&vm, argv[first + 1], &err) < 0 ? cli_fail(&err) : 0;
}

const struct cli_command cli_snapshot = {
	.name = "snapshot",
	.operands = "VM [TAG]",
	.summary = "Tag what a VM is now, to roll back to.",
	.text = "A running VM is held still while its changed files are copied, by reference where "
		"the\nfile system can, and goes on.",
	.options = options,
	.anywhere = true,
	.min_operands = 1,
	.max_operands = 2,
	.main = snapshot_main,
};

static int rollback_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_rollback, argc, argv, NULL, NULL);
	if (first < 0)
		return cli_exit_parse(first);
	if (fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], FVM_LOCK, &vm, &err) < 0 ||
	    fvm_vm_rollback(&vm, argv[first + 1], &err) < 0)
		return cli_fail(&err);
	cli_say(cli, "VM '%s' is as at '%s'; what changed since is gone", vm.config.name,
		argv[first + 1]);
	return 0;
}

const struct cli_command cli_rollback = {
	.name = "rollback",
	.operands = "VM TAG",
	.summary = "Make a VM what it was at a snapshot.",
	.min_operands = 2,
	.max_operands = 2,
	.main = rollback_main,
};
