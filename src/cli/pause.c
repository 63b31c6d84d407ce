/* fvm pause and fvm resume. */
#include <errno.h>
#include <stdlib.h>

#include "cli/commands.h"
#include "cli/names.h"
#include "fvm/pause.h"

struct pause_options {
	unsigned int timeout_ms;
	bool all;
};

static const struct cli_option options[] = {
	{ 'a', "all", NULL, "all VMs of this store that run" },
	{ 't', "timeout", "SECONDS", "give up, and let it run on, when it does not stand still" },
	{ 0 },
};

static const struct cli_option resume_options[] = {
	{ 'a', "all", NULL, "all VMs of this store that are paused" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct pause_options *o = into;
	if (key == 'a') {
		o->all = true;
		return 0;
	}
	char *end;
	double s = strtod(value, &end);
	if (*end || end == value || !(s > 0 && s <= 3600))
		return fvm_error_set(err, EINVAL, "'%s' is no number of seconds up to 3600", value);
	o->timeout_ms = (unsigned int)(s * 1000);
	return 0;
}

static int pause_one(const struct fvm_vm *vm, const struct pause_options *o, struct fvm_error *err)
{
	return fvm_vm_pause(vm, o->timeout_ms, NULL, err);
}

static int resume_one(const struct fvm_vm *vm, const struct pause_options *o, struct fvm_error *err)
{
	(void)o;
	return fvm_vm_resume(vm, err);
}

/* What both do: each VM named, or all in that @state, under its lock. */
static int for_each(const struct cli_command *command, enum fvm_state state, int argc, char **argv,
		    int (*fn)(const struct fvm_vm *, const struct pause_options *,
			      struct fvm_error *))
{
	struct pause_options o = { .timeout_ms = 10000 };
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_strv names = { 0 };
	struct fvm_error err = { 0 };
	int first = cli_parse(command, argc, argv, take_option, &o);
	if (first < 0)
		return cli_exit_parse(first);
	if (fvm_store_open(&store, &err) < 0 ||
	    cli_names_take(command, &store, o.all, 1u << state, argc - first, argv + first, &names,
			   &err) < 0)
		return cli_fail(&err);
	int status = 0;
	fvm_strv_each(&names, i) {
		scoped_vm vm = { .dir = -1, .lock = -1 };
		err = (struct fvm_error){ 0 };
		int r = fvm_vm_open(&store, names.items[i], FVM_LOCK, &vm, &err);
		if (r == 0)
			r = fn(&vm, &o, &err);
		if (r < 0)
			status = cli_fail(&err);
	}
	return status;
}

static int pause_main(const struct cli *cli, int argc, char **argv)
{
	(void)cli;
	return for_each(&cli_pause, FVM_RUNNING, argc, argv, pause_one);
}

static int resume_main(const struct cli *cli, int argc, char **argv)
{
	(void)cli;
	return for_each(&cli_resume, FVM_PAUSED, argc, argv, resume_one);
}

const struct cli_command cli_pause = {
	.name = "pause",
	.operands = "VM..",
	.summary = "Hold all processes of VMs where they are.",
	.text = "By the cgroup freezer, of which its programs see nothing; where the host has "
		"none, by\n"
		"SIGSTOP. A paused VM keeps its memory and its network connections.",
	.options = options,
	.anywhere = true,
	.max_operands = -1,
	.main = pause_main,
};

const struct cli_command cli_resume = {
	.name = "resume",
	.operands = "VM..",
	.summary = "Let paused VMs go on.",
	.options = resume_options,
	.anywhere = true,
	.max_operands = -1,
	.main = resume_main,
};
