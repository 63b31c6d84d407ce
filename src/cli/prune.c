#include <stdio.h>

#include "cli/commands.h"
#include "fvm/prune.h"

static const struct cli_option options[] = {
	{ 'a', "all", NULL, "also what the next start would make anew" },
	{ 'n', "dry-run", NULL, "only tell what would be removed" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct fvm_prune_how *how = into;
	(void)value, (void)err;
	if (key == 'a')
		how->all = true;
	else
		how->dry_run = true;
	return 0;
}

static int prune_main(const struct cli *cli, int argc, char **argv)
{
	struct fvm_prune_how how = { 0 };
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	struct fvm_error err = { 0 };
	struct fvm_pruned p;
	int first = cli_parse(&cli_prune, argc, argv, take_option, &how);
	if (first < 0)
		return cli_exit_parse(first);
	if (fvm_store_open(&store, &err) < 0 || fvm_store_prune(&store, &how, &p, &err) < 0)
		return cli_fail(&err);
	if (cli->json)
		return cli_print_json(json_pack("{s:b, s:i, s:i, s:i, s:i, s:i}", "dry_run",
						how.dry_run, "vms", (int)p.vms, "layers",
						(int)p.layers, "hide_layers", (int)p.hides, "ended",
						(int)p.runs, "skeletons", (int)p.skeletons));
	printf("%s%u ended VM%s tidied, %u thrown away, %u layer%s and %u hiding layer%s removed",
	       how.dry_run ? "would be: " : "", p.runs, p.runs == 1 ? "" : "s", p.vms, p.layers,
	       p.layers == 1 ? "" : "s", p.hides, p.hides == 1 ? "" : "s");
	if (how.all)
		printf(", %u skeleton%s", p.skeletons, p.skeletons == 1 ? "" : "s");
	puts("");
	return 0;
}

const struct cli_command cli_prune = {
	.name = "prune",
	.summary = "Remove what crashes left and nobody needs.",
	.options = options,
	.main = prune_main,
};
