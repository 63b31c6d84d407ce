#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/commit.h"
#include "cli/paths.h"
#include "fvm/native.h"
#include "fvm/subids.h"

/* ---- what commit and undo share ---- */

void commit_list_entry(void *arg, char kind, const char *path, uint64_t size, bool merged)
{
	struct commit_view *view = arg;
	scoped_buf name = { 0 };
	fvm_quote(&name, path);
	if (view->entries) {
		char letter[2] = { kind, '\0' };
		json_array_append_new(view->entries,
				      json_pack("{s:s, s:s, s:I, s:b}", "kind", letter, "path",
						name.data ? name.data : "", "size",
						(json_int_t)size, "merged", merged));
	} else if (name.data) {
		printf("%c %s%s\n", kind, name.data, merged ? "  (merged with the host's)" : "");
	}
}

void commit_progress(void *arg, const char *what, uint64_t done, uint64_t total)
{
	struct commit_view *view = arg;
	if (!view->progress.what)
		cli_progress_start(&view->progress, view->cli, what);
	else if (view->progress.what != what)
		cli_progress_next(&view->progress, what);
	cli_progress_show(&view->progress, done, total,
			  strcmp(what, "copy") == 0 ? "B" : "changes");
}

bool commit_ask(struct commit_view *view, const char *question)
{
	char line[16];
	cli_progress_end(&view->progress); /* it would stand before the question */
	view->progress.what = NULL;
	if (view->yes || view->cli->json || !isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
		return true;
	fprintf(stderr, "%s [y/N] ", question);
	return fgets(line, sizeof(line), stdin) && (line[0] == 'y' || line[0] == 'Y');
}

#define PROBLEMS_SHOWN 50

void commit_print_problems(const struct fvm_problems *problems)
{
	for (size_t i = 0; i < problems->count; i++) {
		const struct fvm_problem *p = &problems->items[i];
		scoped_buf name = { 0 };
		if (i == PROBLEMS_SHOWN) {
			fprintf(stderr, "fvm: .. and %zu more (--json lists all)\n",
				problems->count - i);
			break;
		}
		fvm_quote(&name, p->path);
		fprintf(stderr, "fvm: %s: %s: %s\n", fvm_problem_name(p->kind),
			name.data ? name.data : "?", p->why);
	}
}

json_t *commit_result_json(const struct fvm_commit_result *r)
{
	json_t *problems = json_array(), *services = json_array();
	for (size_t i = 0; i < r->problems.count; i++) {
		scoped_buf name = { 0 };
		fvm_quote(&name, r->problems.items[i].path);
		json_array_append_new(problems,
				      json_pack("{s:s, s:s, s:s}", "kind",
						fvm_problem_name(r->problems.items[i].kind), "path",
						name.data ? name.data : "", "why",
						r->problems.items[i].why));
	}
	fvm_strv_each(&r->services, i)
		json_array_append_new(services, json_string(r->services.items[i]));
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "id", (json_int_t)r->id,
			 "added", (json_int_t)r->added, "changed", (json_int_t)r->changed,
			 "deleted", (json_int_t)r->deleted, "left_out", (json_int_t)r->left_out,
			 "bytes", (json_int_t)r->bytes, "problems", problems, "restart", services);
}

void commit_print_services(const struct cli *cli, const struct fvm_strv *services)
{
	if (services->count == 0)
		return;
	cli_say(cli, "these services run with what was replaced; restart them when it suits:");
	fvm_strv_each(services, i)
		cli_say(cli, "  systemctl restart %s", services->items[i]);
}

/* ---- commit ---- */

enum { OPT_DRY_RUN = 256, OPT_MERGE, OPT_SETID };

static const struct cli_option options[] = {
	{ OPT_DRY_RUN, "dry-run", NULL, "list what would be done, and do nothing" },
	{ 'f', "force", NULL,
	  "replace what the host changed too; leave out what can't be applied" },
	{ OPT_MERGE, "merge", NULL, "merge texts that both the VM and the host changed" },
	{ OPT_SETID, "allow-setid", NULL, "also files that gain set-id bits or capabilities" },
	{ 'y', "yes", NULL, "do not ask" },
	{ 0 },
};

struct commit_args {
	struct fvm_commit_options o;
	bool yes;
};

static int option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct commit_args *args = into;
	(void)value;
	(void)err;
	switch (key) {
	case OPT_DRY_RUN:
		args->o.dry_run = true;
		break;
	case 'f':
		args->o.force = true;
		break;
	case OPT_MERGE:
		args->o.merge = true;
		break;
	case OPT_SETID:
		args->o.allow_setid = true;
		break;
	default:
		args->yes = true;
		break;
	}
	return 0;
}

static bool confirm(void *arg, size_t entries, uint64_t bytes)
{
	struct commit_view *view = arg;
	char question[200], size[24];
	snprintf(question, sizeof(question), "commit %zu changes (%s) of VM '%s' to this machine?",
		 entries, cli_size(bytes, size), view->name);
	return commit_ask(view, question);
}

void cli_say_natives(const struct cli *cli, const struct fvm_vm *vm, const char *what)
{
	scoped_strv natives = { 0 };
	if (fvm_natives_find(vm, &natives) < 0)
		return;
	fvm_strv_each(&natives, i)
		cli_say(cli, "%s is native: %s", natives.items[i], what);
}

static void say_result(const struct cli *cli, const struct commit_args *args, const char *vm,
		       const struct fvm_commit_result *r)
{
	size_t changes = r->added + r->changed + r->deleted;
	if (r->left_out)
		cli_say(cli, "caches, logs and the like stay in the VM; name a path to commit it");
	if (changes == 0)
		cli_say(cli, "VM '%s' has nothing to commit", vm);
	else if (args->o.dry_run)
		cli_say(cli, "%zu to be added, %zu changed, %zu deleted; nothing was done",
			r->added, r->changed, r->deleted);
	else if (r->id == 0)
		cli_say(cli, "nothing was done");
	else
		cli_say(cli,
			"commit %u: %zu added, %zu changed, %zu deleted; to take it back: fvm undo "
			"%u",
			r->id, r->added, r->changed, r->deleted, r->id);
	commit_print_services(cli, &r->services);
}

static void hint_problems(const struct fvm_problems *problems, struct fvm_error *err)
{
	bool has[FVM_PROBLEM_RIGHTS + 1] = { false };
	for (size_t i = 0; i < problems->count; i++)
		has[problems->items[i].kind] = true;
	fvm_error_hint(err, "%s%s; or name the paths you want",
		       has[FVM_PROBLEM_SETID] ? "--allow-setid, if you trust these programs; " : "",
		       has[FVM_PROBLEM_MERGE] ? "settle texts in the VM, then --force for its side"
		       : has[FVM_PROBLEM_CONFLICT]
			       ? "--merge for texts, --force to replace the host's"
			       : "--force to leave them out");
}

static int run(const struct cli *cli, struct commit_args *args, const struct fvm_vm *vm,
	       struct fvm_error *err)
{
	struct fvm_commit_result result = { 0 };
	struct commit_view view = { .cli = cli, .yes = args->yes, .name = vm->config.name };
	if (cli->json && args->o.dry_run)
		view.entries = json_array();
	args->o.entry = args->o.dry_run ? commit_list_entry : NULL;
	args->o.confirm = confirm;
	args->o.progress = commit_progress;
	args->o.arg = &view;
	int r = fvm_commit(vm, &args->o, &result, err);
	cli_progress_end(&view.progress);
	if (!cli->json || r < 0)
		commit_print_problems(&result.problems);
	if (r == -ECANCELED && result.problems.count)
		hint_problems(&result.problems, err);
	int status = r < 0 ? cli_fail(err) : 0;
	if (cli->json && (r == 0 || result.problems.count)) {
		json_t *text = commit_result_json(&result);
		if (view.entries)
			json_object_set(text, "changes", view.entries);
		int printed = cli_print_json(text);
		status = status ? status : printed;
	} else if (r == 0) {
		cli_say_natives(cli, vm, "what is in it stays in the VM");
		say_result(cli, args, vm->config.name, &result);
	}
	json_decref(view.entries);
	fvm_commit_result_free(&result);
	return status;
}

static int commit_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	scoped_strv paths = { 0 };
	struct fvm_error err = { 0 };
	struct commit_args args = { 0 };
	int first = cli_parse(&cli_commit, argc, argv, option, &args);
	if (first < 0)
		return cli_exit_parse(first);
	if (cli_paths_make(argc - first - 1, argv + first + 1, &paths, &err) < 0 ||
	    fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], FVM_LOCK, &vm, &err) < 0 ||
	    fvm_subids_enter(&vm, &err) < 0)
		return cli_fail(&err);
	args.o.paths = paths.count ? (const char *const *)paths.items : NULL;
	return run(cli, &args, &vm, &err);
}

const struct cli_command cli_commit = {
	.name = "commit",
	.operands = "VM [PATH..]",
	.summary = "Apply a VM's changes to this machine, all or none; undo takes them back.",
	.text = "The VM must be stopped or paused. What the host changed too since the VM made "
		"its\n"
		"version is a conflict: they are listed, and nothing is done. Devices are never\n"
		"committed. /run, /tmp, caches, histories and logs stay in the VM unless named.",
	.options = options,
	.anywhere = true,
	.min_operands = 1,
	.max_operands = -1,
	.main = commit_main,
};
