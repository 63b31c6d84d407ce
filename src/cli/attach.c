#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "cli/command.h"
#include "cli/commands.h"

struct attach_options {
	bool list;
};

static const struct cli_option options[] = {
	{ 'l', "list", NULL, "list the sessions that one can attach to" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct attach_options *o = into;
	(void)key, (void)value, (void)err;
	o->list = true;
	return 0;
}

static int print_json(const struct fvm_session_info *list, size_t count)
{
	json_t *array = json_array();
	for (size_t i = 0; i < count; i++)
		json_array_append_new(array,
				      json_pack("{s:i, s:i, s:b, s:i, s:s}", "session", list[i].id,
						"pid", (int)list[i].pid, "terminal",
						list[i].terminal, "clients", (int)list[i].clients,
						"command", list[i].command));
	return cli_print_json(array);
}

static int list_sessions(const struct cli *cli, int sock)
{
	struct fvm_error err = { 0 };
	scoped_free struct fvm_session_info *list = NULL;
	size_t count = 0;
	if (fvm_control_list(sock, &list, &count, &err) < 0)
		return cli_fail(&err);
	if (cli->json)
		return print_json(list, count);
	if (count > 0)
		printf("%-8s %-8s %-9s %-8s %s\n", "SESSION", "PID", "TERMINAL", "CLIENTS",
		       "COMMAND");
	char quoted[200];
	for (size_t i = 0; i < count; i++)
		printf("%-8d %-8d %-9s %-8u %s\n", list[i].id, (int)list[i].pid,
		       list[i].terminal ? "yes" : "no", list[i].clients,
		       fvm_quote_error(list[i].command, quoted));
	return 0;
}

static int session_number(const char *text, struct fvm_error *err)
{
	char *end;
	long n = text ? strtol(text, &end, 10) : 0;
	if (text && (end == text || *end || n <= 0 || n > INT_MAX)) {
		fvm_error_set(err, EINVAL, "'%s' is no number of a session", text);
		fvm_error_hint(err, "fvm attach --list VM shows them");
		return -EINVAL;
	}
	return (int)n;
}

static int attach(const struct cli *cli, const struct fvm_vm *vm, int sock, const char *which)
{
	struct fvm_error err = { 0 };
	bool terminal = false;
	int session = session_number(which, &err);
	if (session < 0 || fvm_control_attach(sock, session, &terminal, &err) < 0)
		return cli_fail(&err);
	return cli_follow(cli, vm, sock, terminal, session);
}

static int attach_main(const struct cli *cli, int argc, char **argv)
{
	struct attach_options o = { 0 };
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_attach, argc, argv, take_option, &o);
	if (first < 0)
		return cli_exit_parse(first);
	if (fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], FVM_NO_LOCK, &vm, &err) < 0 ||
	    cli_need_awake(&vm, &err) < 0)
		return cli_fail(&err);
	scoped_fd sock = fvm_control_connect(&vm, &err);
	if (sock < 0)
		return cli_fail(&err);
	return o.list ? list_sessions(cli, sock)
		      : attach(cli, &vm, sock, argc - first > 1 ? argv[first + 1] : NULL);
}

const struct cli_command cli_attach = {
	.name = "attach",
	.operands = "VM [SESSION]",
	.summary = "Go back to a command that runs in a VM: its oldest session, or SESSION.",
	.text = "What it has written lately (64 KiB) is shown first. ^P^Q leaves it running; "
		"several\n"
		"may be attached at once. The status is the command's.",
	.options = options,
	.anywhere = true,
	.min_operands = 1,
	.max_operands = 2,
	.main = attach_main,
};
