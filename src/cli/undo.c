#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/commit.h"
#include "fvm/subids.h"

enum { OPT_LS = 256, OPT_DROP, OPT_DRY_RUN };

static const struct cli_option options[] = {
	{ OPT_LS, "ls", NULL, "list the commits that can be undone" },
	{ OPT_DROP, "drop", "ID",
	  "forget what commit ID replaced, or all: it can't be undone then" },
	{ OPT_DRY_RUN, "dry-run", NULL,
	  "list what would be done, or say why it can't be, and do nothing" },
	{ 'f', "force", NULL,
	  "also where something changed since; that change is lost. With --drop: also one that is "
	  "damaged" },
	{ 'y', "yes", NULL, "do not ask" },
	{ 0 },
};

struct undo_args {
	struct fvm_commit_options o;
	bool list, yes;
	const char *drop;
};

static int option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct undo_args *args = into;
	(void)err;
	switch (key) {
	case OPT_LS:
		args->list = true;
		break;
	case OPT_DROP:
		args->drop = value;
		break;
	case OPT_DRY_RUN:
		args->o.dry_run = true;
		break;
	case 'f':
		args->o.force = true;
		break;
	default:
		args->yes = true;
		break;
	}
	return 0;
}

static int parse_id(const char *text, uint32_t *ret, struct fvm_error *err)
{
	char *end;
	char quoted[200];
	unsigned long id = strtoul(text, &end, 10);
	if (text[0] >= '1' && text[0] <= '9' && *end == '\0' && id < UINT32_MAX) {
		*ret = (uint32_t)id;
		return 0;
	}
	fvm_error_set(err, EINVAL, "%s is no number of a commit", fvm_quote_error(text, quoted));
	fvm_error_hint(err, "fvm undo --ls lists them");
	return -EINVAL;
}

/* ---- listing ---- */

static int list_json(const struct fvm_commit_info *info, void *arg)
{
	json_t *item = json_pack("{s:I, s:s, s:I, s:I, s:I, s:I, s:b}", "id", (json_int_t)info->id,
				 "vm", info->vm, "created", (json_int_t)info->created_ns, "added",
				 (json_int_t)info->added, "changed", (json_int_t)info->changed,
				 "deleted", (json_int_t)info->deleted, "damaged", info->damaged);
	return json_array_append_new(arg, item) < 0 ? -ENOMEM : 0;
}

static int list_text(const struct fvm_commit_info *info, void *arg)
{
	size_t *count = arg;
	if ((*count)++ == 0)
		printf("%-5s %-24s %-16s %s\n", "ID", "VM", "WHEN", "CHANGES");
	if (info->damaged)
		printf("%-5u %-24s %-16s %s\n", info->id, info->vm, "", "damaged");
	else
		printf("%-5u %-24s %-16s +%zu ~%zu -%zu\n", info->id, info->vm,
		       cli_time_ago(info->created_ns), info->added, info->changed, info->deleted);
	return 0;
}

static int list(const struct cli *cli, const struct fvm_store *store, struct fvm_error *err)
{
	size_t count = 0;
	if (cli->json) {
		json_t *items = json_array();
		if (fvm_commit_list(store, list_json, items, err) == 0)
			return cli_print_json(items);
		json_decref(items);
		return cli_fail(err);
	}
	if (fvm_commit_list(store, list_text, &count, err) < 0)
		return cli_fail(err);
	if (count == 0)
		cli_say(cli, "no commit is kept");
	return 0;
}

/* ---- drop ---- */

static int add_id(const struct fvm_commit_info *info, void *arg)
{
	return fvm_strv_addf(arg, "%u", info->id);
}

static int drop(const struct cli *cli, const struct fvm_store *store, const char *which, bool force,
		struct fvm_error *err)
{
	scoped_strv ids = { 0 };
	uint32_t id;
	int r = strcmp(which, "all") == 0 ? fvm_commit_list(store, add_id, &ids, err)
					  : fvm_strv_add(&ids, which);
	if (r < 0)
		return cli_fail(err);
	fvm_strv_each(&ids, i) {
		if (parse_id(ids.items[i], &id, err) < 0 ||
		    fvm_commit_drop(store, id, force, err) < 0)
			return cli_fail(err);
		cli_say(cli, "commit %u can't be undone any more", id);
	}
	return 0;
}

/* ---- undo ---- */

static bool confirm(void *arg, size_t entries, uint64_t bytes)
{
	char question[100];
	(void)bytes;
	snprintf(question, sizeof(question), "take back %zu changes of this machine?", entries);
	return commit_ask(arg, question);
}

static int undo(const struct cli *cli, const struct fvm_store *store, uint32_t id,
		struct undo_args *args, struct fvm_error *err)
{
	struct fvm_commit_result result = { 0 };
	struct commit_view view = { .cli = cli, .yes = args->yes };
	if (cli->json && args->o.dry_run)
		view.entries = json_array();
	args->o.entry = args->o.dry_run ? commit_list_entry : NULL;
	args->o.confirm = confirm;
	args->o.progress = commit_progress;
	args->o.arg = &view;
	int r = fvm_commit_undo(store, id, &args->o, &result, err);
	cli_progress_end(&view.progress);
	if (!cli->json || r < 0)
		commit_print_problems(&result.problems);
	if (r == -ECANCELED)
		fvm_error_hint(err,
			       "--force takes it back all the same, and these changes are lost");
	int status = r < 0 ? cli_fail(err) : 0;
	if (cli->json && (r == 0 || result.problems.count)) {
		json_t *text = commit_result_json(&result);
		if (view.entries)
			json_object_set(text, "changes", view.entries);
		int printed = cli_print_json(text);
		status = status ? status : printed;
	} else if (r == 0 && result.id) {
		cli_say(cli, "commit %u is undone", result.id);
		commit_print_services(cli, &result.services);
	} else if (r == 0) {
		cli_say(cli, "nothing was done%s", args->o.dry_run ? "; it can be undone" : "");
	}
	json_decref(view.entries);
	fvm_commit_result_free(&result);
	return status;
}

static int undo_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	struct fvm_error err = { 0 };
	struct undo_args args = { 0 };
	uint32_t id = 0;
	int first = cli_parse(&cli_undo, argc, argv, option, &args);
	if (first < 0)
		return cli_exit_parse(first);
	if ((first < argc && parse_id(argv[first], &id, &err) < 0) ||
	    fvm_store_open(&store, &err) < 0)
		return cli_fail(&err);
	if (args.list)
		return list(cli, &store, &err);
	if (args.drop)
		return drop(cli, &store, args.drop, args.o.force, &err);
	if (fvm_subids_enter_any(NULL, &err) < 0)
		return cli_fail(&err);
	return undo(cli, &store, id, &args, &err);
}

const struct cli_command cli_undo = {
	.name = "undo",
	.operands = "[ID]",
	.summary = "Take back a commit: the machine as it was, the changes in the VM again.",
	.text = "Without ID the latest one. Paths that were changed since the commit are "
		"conflicts:\n"
		"they are listed, and nothing is done.",
	.options = options,
	.anywhere = true,
	.max_operands = 1,
	.main = undo_main,
};
