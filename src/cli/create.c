#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/vm_options.h"
#include "fvm/store.h"

enum { OPT_NAME = 400 };

struct create_options {
	struct fvm_config config;
	const char *name;
};

static const struct cli_option options[] = {
	{ OPT_NAME, "name", "NAME", "the same as NAME alone" },
	VM_OPTIONS,
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct create_options *o = into;
	if (key == OPT_NAME) {
		o->name = value;
		return 0;
	}
	int r = cli_vm_option(&o->config, key, value, err);
	return r < 0 ? r : 0;
}

static int create_main(const struct cli *cli, int argc, char **argv)
{
	struct create_options o = { 0 };
	scoped_config config = { 0 };
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_create, argc, argv, take_option, &o);
	config = o.config;
	if (first < 0)
		return cli_exit_parse(first);
	const char *name = first < argc ? argv[first] : o.name;
	if (o.name && strcmp(name, o.name) != 0) {
		fvm_error_say(&err, EINVAL, "create: is it '%s' or '%s'? one name is enough",
			      o.name, name);
		return cli_fail(&err);
	}
	if (fvm_store_open(&store, &err) < 0 || cli_vm_new(&store, &config, name, &err) < 0 ||
	    fvm_vm_create(&store, &config, true, &vm, &err) < 0)
		return cli_fail(&err);
	if (cli->json)
		return cli_print_json(
			json_pack("{s:s, s:s}", "name", config.name, "id", config.id));
	printf("%s\n", config.name);
	return 0;
}

const struct cli_command cli_create = {
	.name = "create",
	.operands = "[NAME]",
	.summary = "Make a VM without starting it, and print its name.",
	.options = options,
	.anywhere = true,
	.max_operands = 1,
	.main = create_main,
};
