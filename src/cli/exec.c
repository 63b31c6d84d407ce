#include "cli/command.h"
#include "cli/commands.h"

struct exec_options {
	struct cli_command_options command;
	bool detach;
};

static const struct cli_option exec_options[] = {
	{ 'd', "detach", NULL, "in the background, output to the log; print the session's number" },
	CLI_COMMAND_OPTIONS,
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct exec_options *o = into;
	if (key == 'd') {
		o->detach = true;
		return 0;
	}
	int r = cli_command_option(&o->command, key, value, err);
	return r < 0 ? r : 0;
}

static int exec_in(const struct cli *cli, const struct exec_options *o, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	if (fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[0], FVM_NO_LOCK, &vm, &err) < 0 ||
	    cli_need_awake(&vm, &err) < 0)
		return cli_fail(&err);
	argc--, argv++;
	if (argc > 0 && argv[0][0] == '-' && argv[0][1] == '-' && !argv[0][2])
		argc--, argv++; /* fvm exec VM -- CMD */
	return cli_exec_in(cli, &vm, &o->command,
			   o->detach ? CLI_EXEC_PRINT_SESSION : CLI_EXEC_FOLLOW, argc, argv);
}

static int exec_main(const struct cli *cli, int argc, char **argv)
{
	struct exec_options o = { 0 };
	int first = cli_parse(&cli_exec, argc, argv, take_option, &o);
	int status =
		first < 0 ? cli_exit_parse(first) : exec_in(cli, &o, argc - first, argv + first);
	cli_command_options_free(&o.command);
	return status;
}

const struct cli_command cli_exec = {
	.name = "exec",
	.operands = "VM [--] CMD..",
	.summary = "Run one more command in a running VM.",
	.text = "Its status is the command's. Pipes and files of yours are its input and output; "
		"if\n"
		"both are your terminal it gets one of its own (^P^Q leaves it running).",
	.options = exec_options,
	.min_operands = 2,
	.max_operands = -1,
	.main = exec_main,
};

static const struct cli_option enter_options[] = {
	CLI_COMMAND_OPTIONS,
	{ 0 },
};

static int enter_main(const struct cli *cli, int argc, char **argv)
{
	struct exec_options o = { 0 };
	int first = cli_parse(&cli_enter, argc, argv, take_option, &o);
	int status = first < 0 ? cli_exit_parse(first) : exec_in(cli, &o, 1, argv + first);
	cli_command_options_free(&o.command);
	return status;
}

const struct cli_command cli_enter = {
	.name = "enter",
	.operands = "VM",
	.summary = "Open a shell in a running VM.",
	.text = "The shell is that of the user it runs as. ^P^Q leaves it running: fvm attach.",
	.options = enter_options,
	.anywhere = true,
	.min_operands = 1,
	.max_operands = 1,
	.main = enter_main,
};
