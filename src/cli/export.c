#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/image.h"
#include "cli/live.h"
#include "fvm/image.h"
#include "fvm/subids.h"

int cli_image_dir(const char *file, const char **ret_name, struct fvm_error *err)
{
	char dir[PATH_MAX];
	const char *slash = strrchr(file, '/');
	if (strcmp(file, "-") == 0) {
		*ret_name = NULL;
		if (!isatty(STDOUT_FILENO))
			return dup(STDOUT_FILENO);
		fvm_error_hint(err, "name a file, or pipe it: fvm export VM - | ..");
		return fvm_error_say(err, EINVAL, "an image is nothing for a terminal");
	}
	*ret_name = slash ? slash + 1 : file;
	if (!**ret_name)
		return fvm_error_set(err, EISDIR, "write '%s'", file);
	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - file + 1) : 1, slash ? file : ".");
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? fvm_error_set(err, errno, "open the directory of '%s'", file) : fd;
}

static int export_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	struct cli_progress bar;
	const char *name;
	int first = cli_parse(&cli_export, argc, argv, NULL, NULL);
	if (first < 0)
		return cli_exit_parse(first);
	scoped_fd dir = cli_image_dir(argv[first + 1], &name, &err);
	if (dir < 0 || fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], FVM_LOCK, &vm, &err) < 0 ||
	    fvm_subids_enter(&vm, &err) < 0)
		return cli_fail(&err);
	cli_progress_start(&bar, cli, "export");
	int r = fvm_vm_export(&vm, dir, name, cli_progress_bytes, &bar, &err);
	cli_progress_end(&bar);
	if (r < 0)
		return cli_fail(&err);
	cli_say_natives(cli, &vm, "what is in it is not in the file (fvm cp)");
	return 0;
}

const struct cli_command cli_export = {
	.name = "export",
	.operands = "VM FILE",
	.summary = "Write a VM to one file, an OCI image archive.",
	.text = "FILE may be \"-\", the standard output.",
	.min_operands = 2,
	.max_operands = 2,
	.main = export_main,
};

static int take_lazy(void *into, int key, const char *value, struct fvm_error *err)
{
	(void)key, (void)value, (void)err;
	*(bool *)into = true;
	return 0;
}

/* Where it can't be had the programs go on all the same, later. */
static bool can_be_lazy(const struct cli *cli)
{
	struct fvm_error why = { 0 };
	if (fvm_restore_can_be_lazy(&why) == 0)
		return true;
	cli_say(cli, "%s; the programs go on when all of it is there", why.text);
	return false;
}

int cli_image_import(const struct cli *cli, const struct cli_command *command, bool live, int argc,
		     char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	struct cli_progress bar;
	scoped_fd programs = -1;
	scoped_connections lost = { 0 };
	bool lazy = false;
	int first = cli_parse(command, argc, argv, take_lazy, &lazy);
	if (first < 0)
		return cli_exit_parse(first);
	const char *file = argv[first], *name = argc - first > 1 ? argv[first + 1] : NULL;
	scoped_fd fd = strcmp(file, "-") == 0 ? dup(0) : open(file, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		fvm_error_set(&err, errno, "open '%s'", file);
		return cli_fail(&err);
	}
	if (fvm_store_open(&store, &err) < 0)
		return cli_fail(&err);
	cli_progress_start(&bar, cli, command->name);
	int r = fvm_vm_import_live(&store, fd, name, cli_progress_bytes, &bar, &vm,
				   live ? &programs : NULL, &err);
	cli_progress_end(&bar);
	lazy = r == 0 && lazy && can_be_lazy(cli);
	if (r == 0 && live)
		r = cli_live_start(&vm, programs, lazy, &lost, &err);
	if (r < 0)
		return cli_fail(&err);
	if (cli->json && live)
		return cli_print_json(json_pack("{s:s, s:s, s:b, s:o}", "name", vm.config.name,
						"id", vm.config.id, "lazy", lazy, "reset",
						cli_json_connections(&lost)));
	if (cli->json)
		return cli_print_json(
			json_pack("{s:s, s:s}", "name", vm.config.name, "id", vm.config.id));
	cli_say_connections(cli, &lost, "came back reset");
	printf("%s\n", vm.config.name);
	return 0;
}

static int import_main(const struct cli *cli, int argc, char **argv)
{
	return cli_image_import(cli, &cli_import, false, argc, argv);
}

const struct cli_command cli_import = {
	.name = "import",
	.operands = "FILE [NAME]",
	.summary = "Make a VM from a file that export wrote.",
	.text = "FILE may be \"-\", the standard input. Without NAME it gets the name it had.",
	.min_operands = 1,
	.max_operands = 2,
	.main = import_main,
};
