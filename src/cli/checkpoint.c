#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/image.h"
#include "cli/live.h"
#include "cli/vm_start.h"
#include "fvm/checkpoint.h"
#include "fvm/pause.h"
#include "fvm/prune.h"

enum { LEAVE_RUNNING = 256, CHECK, LAZY };

struct checkpoint_options {
	bool leave_running, check;
};

static const struct cli_option checkpoint_options[] = {
	{ LEAVE_RUNNING, "leave-running", NULL, "the programs go on afterwards" },
	{ CHECK, "check", NULL, "only say whether all that runs in it can be captured" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct checkpoint_options *o = into;
	(void)value, (void)err;
	if (key == LEAVE_RUNNING)
		o->leave_running = true;
	else
		o->check = true;
	return 0;
}

void cli_say_connections(const struct cli *cli, const struct fvm_connections *c,
			 const char *came_to)
{
	if (cli->quiet || cli->json || c->count == 0)
		return;
	fprintf(stderr, "fvm: %zu connection%s with the outside %s:\n", c->count,
		c->count == 1 ? "" : "s", came_to);
	for (size_t i = 0; i < c->count; i++) {
		const struct fvm_connection *one = &c->list[i];
		fprintf(stderr, "fvm:   process %d (%s): descriptor %d, with %s\n", one->pid,
			one->command, one->number, one->peer);
	}
}

json_t *cli_json_connections(const struct fvm_connections *c)
{
	json_t *list = json_array();
	for (size_t i = 0; i < c->count; i++) {
		const struct fvm_connection *one = &c->list[i];
		json_array_append_new(list, json_pack("{s:i, s:s, s:i, s:s}", "pid", one->pid,
						      "command", one->command, "descriptor",
						      one->number, "peer", one->peer));
	}
	return list;
}

static int check(const struct cli *cli, const struct fvm_vm *vm)
{
	struct fvm_error err = { 0 };
	scoped_connections outside = { 0 };
	if (fvm_checkpoint_check(vm, &outside, &err) < 0)
		return cli_fail(&err);
	if (cli->json)
		return cli_print_json(json_pack("{s:s, s:b, s:o}", "name", vm->config.name, "can",
						1, "outside", cli_json_connections(&outside)));
	if (!cli->quiet)
		fprintf(stderr, "fvm: VM '%s' can be captured\n", vm->config.name);
	cli_say_connections(
		cli, &outside,
		vm->config.rootless
			? "will come back reset"
			: "will come back reset where its address is another (in a live clone)");
	return 0;
}

static int tell(const struct cli *cli, const struct fvm_vm *vm, const char *file,
		const struct fvm_checkpoint_options *o, const struct fvm_checkpoint_told *told)
{
	if (cli->json)
		return cli_print_json(
			json_pack("{s:s, s:s, s:I, s:I, s:I, s:b}", "name", vm->config.name, "file",
				  file, "processes", (json_int_t)told->processes, "threads",
				  (json_int_t)told->threads, "still_ns", (json_int_t)told->still_ns,
				  "running", o->leave_running));
	if (cli->quiet)
		return 0;
	fprintf(stderr, "fvm: %zu process%s, %zu thread%s\n", told->processes,
		told->processes == 1 ? "" : "es", told->threads, told->threads == 1 ? "" : "s");
	if (o->leave_running)
		cli_say_still(cli, vm->config.name, told->still_ns);
	return 0;
}

static int checkpoint_to(const struct cli *cli, const struct fvm_vm *vm, const char *file,
			 struct fvm_checkpoint_options *o)
{
	struct fvm_error err = { 0 };
	struct fvm_checkpoint_told told;
	struct cli_progress bar;
	const char *name;
	scoped_fd dir = cli_image_dir(file, &name, &err);
	if (dir < 0)
		return cli_fail(&err);
	cli_progress_start(&bar, cli, "checkpoint");
	o->progress = cli_progress_bytes;
	o->arg = &bar;
	int r = fvm_checkpoint(vm, dir, name, o, &told, &err);
	cli_progress_end(&bar);
	return r < 0 ? cli_fail(&err) : tell(cli, vm, file, o, &told);
}

static int checkpoint_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	struct checkpoint_options o = { 0 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_checkpoint, argc, argv, take_option, &o);
	if (first < 0)
		return cli_exit_parse(first);
	if (!o.check && argc - first < 2) {
		fvm_error_hint(&err, "fvm checkpoint VM FILE, or: fvm checkpoint --check VM");
		fvm_error_say(&err, EINVAL, "checkpoint: a FILE is missing");
		return cli_fail(&err);
	}
	if (fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], FVM_LOCK, &vm, &err) < 0)
		return cli_fail(&err);
	struct fvm_checkpoint_options with = { .leave_running = o.leave_running };
	return o.check ? check(cli, &vm) : checkpoint_to(cli, &vm, argv[first + 1], &with);
}

const struct cli_command cli_checkpoint = {
	.name = "checkpoint",
	.operands = "VM [FILE]",
	.summary = "Write a running VM with its programs to one file, and end it.",
	.text = "fvm restore FILE lets them go on, here or on another machine. Until FILE is\n"
		"whole, whatever goes wrong lets them go on where they are.",
	.options = checkpoint_options,
	.anywhere = true,
	.min_operands = 1,
	.max_operands = 2,
	.main = checkpoint_main,
};

/* ---- restore ---- */

int cli_live_try(struct fvm_vm *vm, int programs, bool lazy, struct fvm_connections *ret_lost,
		 struct fvm_error *err)
{
	struct fvm_net_wish wish;
	int r = fvm_restore_wish(programs, &wish, err);
	if (r < 0)
		return r;
	r = cli_vm_boot(vm, &wish, err);
	if (r == 0)
		r = fvm_restore_programs(vm, programs, lazy, ret_lost, err);
	if (r < 0)
		(void)fvm_vm_end(vm, NULL);
	return r;
}

int cli_live_start(struct fvm_vm *vm, int programs, bool lazy, struct fvm_connections *ret_lost,
		   struct fvm_error *err)
{
	int r = fvm_vm_unfinished(vm, true, err);
	if (r == 0)
		r = cli_live_try(vm, programs, lazy, ret_lost, err);
	if (r == 0)
		r = fvm_vm_unfinished(vm, false, err);
	if (r < 0 && fvm_vm_end(vm, NULL) == 0)
		(void)fvm_vm_remove(vm, false, NULL);
	return r;
}

static const struct cli_option restore_options[] = {
	{ LAZY, "lazy", NULL, "the programs go on before their memory is read" },
	{ 0 },
};

static int restore_main(const struct cli *cli, int argc, char **argv)
{
	return cli_image_import(cli, &cli_restore, true, argc, argv);
}

const struct cli_command cli_restore = {
	.name = "restore",
	.operands = "FILE [NAME]",
	.summary = "Let programs that checkpoint wrote go on, in a new VM.",
	.text = "FILE may be \"-\", the standard input. Without NAME the VM gets the name it had.\n"
		"Terminals and output are there again: fvm attach, fvm logs.\n"
		"With --lazy what a program touches is read first, and all the rest by and by.",
	.options = restore_options,
	.anywhere = true,
	.min_operands = 1,
	.max_operands = 2,
	.main = restore_main,
};
