#include <errno.h>
#include <stdio.h>

#include "cli/commands.h"
#include "cli/live.h"
#include "fvm/checkpoint.h"
#include "fvm/pause.h"
#include "fvm/snapshot.h"

enum { LIVE = 256 };

struct snapshot_options {
	bool drop, list, live;
};

static const struct cli_option options[] = {
	{ 'l', "ls", NULL, "list the snapshots of VM" },
	{ 'd', "drop", NULL, "forget TAG and what only it needs" },
	{ LIVE, "live", NULL, "with its programs, which go on: rollback brings them back" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct snapshot_options *o = into;
	(void)value, (void)err;
	if (key == 'l')
		o->list = true;
	else if (key == LIVE)
		o->live = true;
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
			json_array_append_new(all, json_pack("{s:s, s:I, s:i, s:b}", "tag", s->tag,
							     "created", (json_int_t)s->created_ns,
							     "layers", (int)s->layers.count,
							     "programs", s->programs != NULL));
		else
			printf("%-24s %-16s%s\n", s->tag, cli_time_ago(s->created_ns),
			       s->programs ? " with its programs" : "");
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

static int take_live(const struct cli *cli, const struct fvm_vm *vm, const char *tag)
{
	struct fvm_error err = { 0 };
	struct fvm_checkpoint_told told;
	if (fvm_snapshot_live(vm, tag, &told, &err) < 0)
		return cli_fail(&err);
	cli_say_still(cli, vm->config.name, told.still_ns);
	return cli->json ? cli_print_json(json_pack("{s:s, s:I, s:I, s:I}", "tag", tag, "still_ns",
						    (json_int_t)told.still_ns, "processes",
						    (json_int_t)told.processes, "threads",
						    (json_int_t)told.threads))
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
	if (o.live && (o.list || o.drop)) {
		fvm_error_say(&err, EINVAL, "snapshot: --live goes with neither --ls nor --drop");
		return cli_fail(&err);
	}
	if (!o.list && argc - first != 2) {
		fvm_error_set(&err, 0, "snapshot: a TAG is missing: fvm snapshot VM TAG");
		return cli_fail(&err);
	}
	if (fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], o.list ? FVM_NO_LOCK : FVM_LOCK, &vm, &err) < 0)
		return cli_fail(&err);
	if (o.list)
		return list(cli, &vm.config);
	if (o.live)
		return take_live(cli, &vm, argv[first + 1]);
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

/* ---- rollback ---- */

static const struct cli_option rollback_options[] = {
	{ 'f', "force", NULL, "also when it is running: it is killed first" },
	{ 0 },
};

static int take_force(void *into, int key, const char *value, struct fvm_error *err)
{
	(void)key, (void)value, (void)err;
	*(bool *)into = true;
	return 0;
}

/* Its files as they were, and on from there. If that can't be, it is as it was before. */
static int roll_live(const struct cli *cli, struct fvm_vm *vm, const char *tag, int programs,
		     struct fvm_error *err)
{
	struct fvm_error failed = { 0 };
	scoped_connections lost = { 0 };
	int r = fvm_vm_rollback_try(vm, tag, err);
	if (r < 0)
		return r;
	r = cli_live_try(vm, programs, false, &lost, err);
	if (r == 0) {
		cli_say_connections(cli, &lost, "came back reset");
		return fvm_vm_rollback_settle(vm, err);
	}
	if (fvm_vm_rollback_undo(vm, &failed) < 0) {
		cli_fail(err);
		*err = failed;
		fvm_error_hint(err, "the next command of this VM goes on with it");
		return -failed.code;
	}
	return fvm_error_wrap(err, r, "roll VM '%s' back, which is stopped and as it was before",
			      vm->config.name);
}

static int rollback_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	bool force = false;
	int programs = -1;
	int first = cli_parse(&cli_rollback, argc, argv, take_force, &force);
	if (first < 0)
		return cli_exit_parse(first);
	const char *tag = argv[first + 1];
	if (fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], FVM_LOCK, &vm, &err) < 0 ||
	    fvm_vm_snapshot_programs(&vm, tag, &programs, &err) < 0)
		return cli_fail(&err);
	scoped_fd live = programs;
	int r = force ? fvm_vm_end(&vm, &err) : 0;
	if (r == 0)
		r = live < 0 ? fvm_vm_rollback(&vm, tag, &err)
			     : roll_live(cli, &vm, tag, live, &err);
	if (r < 0)
		return cli_fail(&err);
	cli_say(cli, "VM '%s' is as at '%s'%s; what changed since is gone", vm.config.name, tag,
		live < 0 ? "" : ", its programs go on");
	return 0;
}

const struct cli_command cli_rollback = {
	.name = "rollback",
	.operands = "VM TAG",
	.summary = "Make a VM what it was at a snapshot.",
	.text = "Programs that the snapshot has (snapshot --live) go on from there.",
	.options = rollback_options,
	.anywhere = true,
	.min_operands = 2,
	.max_operands = 2,
	.main = rollback_main,
};
