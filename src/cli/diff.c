#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/diff.h"
#include "cli/paths.h"
#include "fvm/native.h"
#include "fvm/stamps.h"
#include "fvm/subids.h"

enum { OPT_STAT = 256, OPT_PATCH, OPT_MEANING, OPT_NAME_ONLY, OPT_ALL };

static const struct cli_option options[] = {
	{ OPT_STAT, "stat", NULL, "lines added and removed in each file" },
	{ 'p', "patch", NULL, "the text that changed, in the form that patch -p1 takes" },
	{ OPT_MEANING, "meaning", NULL, "what it means: packages, users, units, settings.." },
	{ OPT_NAME_ONLY, "name-only", NULL, "only the paths" },
	{ 'M', "renames", NULL, "find what was renamed" },
	{ 'a', "all", NULL, "also /run, /tmp, caches, logs and histories" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct diff *d = into;
	(void)value;
	(void)err;
	switch (key) {
	case OPT_STAT:
		d->view = &diff_stat;
		break;
	case 'p':
		d->view = &diff_patch;
		break;
	case OPT_MEANING:
		d->view = &diff_meaning;
		break;
	case OPT_NAME_ONLY:
		d->names_only = true;
		break;
	case 'M':
		d->renames = true;
		break;
	default:
		d->with_noise = true;
	}
	return 0;
}

/* ---- output ---- */

void diff_quoted(FILE *out, const char *before, const char *name)
{
	scoped_buf text = { 0 };
	if (!fvm_quote_needed(name)) {
		fprintf(out, "%s%s", before, name);
		return;
	}
	fvm_quote(&text, name);
	if (text.failed)
		fprintf(out, "%s?", before);
	else
		fprintf(out, "\"%s%s", before, text.data + 1);
}

void diff_json(struct diff *d, json_t *item)
{
	fputs(d->seen++ ? ",\n  " : "[\n  ", d->out);
	if (item)
		(void)json_dumpf(item, d->out, 0);
	json_decref(item);
}

static const char *type_name(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "file";
	case S_IFDIR:
		return "directory";
	case S_IFLNK:
		return "symlink";
	case S_IFCHR:
	case S_IFBLK:
		return "device";
	case S_IFIFO:
		return "fifo";
	default:
		return "socket";
	}
}

static json_t *describe_stat(const struct stat *st)
{
	char mode[8];
	snprintf(mode, sizeof(mode), "%04o", st->st_mode & 07777);
	return json_pack("{s:s, s:s, s:I, s:I, s:I}", "type", type_name(st->st_mode), "mode", mode,
			 "uid", (json_int_t)st->st_uid, "gid", (json_int_t)st->st_gid, "size",
			 (json_int_t)(S_ISDIR(st->st_mode) ? 0 : st->st_size));
}

static json_t *describe_meta(unsigned int meta)
{
	static const char *const names[] = { "mode", "owner", "xattr", "capabilities", "times" };
	json_t *list = json_array();
	for (size_t i = 0; i < FVM_COUNT(names); i++) {
		if (meta & (1U << i))
			json_array_append_new(list, json_string(names[i]));
	}
	return list;
}

/* JSON holds UTF-8 alone: other names stand there as they are listed, in C quotes. */
json_t *diff_json_name(const char *name)
{
	json_t *text = json_string(name);
	if (text)
		return text;
	scoped_buf quoted = { 0 };
	fvm_quote(&quoted, name);
	return quoted.failed ? NULL : json_string(quoted.data);
}

static const char letters[] = "AMDmTR";
static const char *const kinds[] = { "added", "changed", "deleted", "metadata", "type", "renamed" };

json_t *diff_describe(const struct fvm_change *c)
{
	char letter[2] = { letters[c->kind], '\0' };
	json_t *item = json_pack("{s:s, s:s}", "change", letter, "kind", kinds[c->kind]);
	json_object_set_new(item, "path", diff_json_name(c->path));
	if (c->from)
		json_object_set_new(item, "from", diff_json_name(c->from));
	if (c->meta)
		json_object_set_new(item, "meta", describe_meta(c->meta));
	if (c->was)
		json_object_set_new(item, "was", describe_stat(c->was));
	if (c->now)
		json_object_set_new(item, "now", describe_stat(c->now));
	if (c->noise)
		json_object_set_new(item, "noise", json_true());
	if (c->unreadable)
		json_object_set_new(item, "unreadable", json_true());
	return item;
}

/* ---- the list ---- */

static void list_line(struct diff *d, const struct fvm_change *c)
{
	static const char *const colors[] = { "32", "33", "31", "36", "35", "34" };
	if (!d->names_only && d->color)
		fprintf(d->out, "\033[%sm%c\033[m ", colors[c->kind], letters[c->kind]);
	else if (!d->names_only)
		fprintf(d->out, "%c ", letters[c->kind]);
	if (c->from && !d->names_only) {
		diff_quoted(d->out, "", c->from);
		fputs(" -> ", d->out);
	}
	diff_quoted(d->out, "", c->path);
	putc('\n', d->out);
}

static int list_change(struct diff *d, const struct fvm_change *c)
{
	if (d->cli->json)
		diff_json(d, diff_describe(c));
	else
		list_line(d, c);
	return ferror(d->out) ? -EIO : 0;
}

const struct diff_view diff_list = { .change = list_change };

/* ---- running a view ---- */

static int take_change(const struct fvm_change *c, void *arg)
{
	struct diff *d = arg;
	d->counts[c->kind]++;
	cli_progress_show(&d->progress, ++d->progress_count, 0, "changes");
	return d->view->change(d, c);
}

/* Runs the pager of the user's choice when we print to a terminal. Return: its pid, 0 without */
static pid_t start_pager(struct diff *d)
{
	int ends[2];
	const char *pager = getenv("FVM_PAGER") ?: getenv("PAGER");
	if (d->cli->quiet || d->cli->json || !pager || !*pager || strcmp(pager, "cat") == 0 ||
	    !isatty(STDOUT_FILENO) || pipe2(ends, O_CLOEXEC) < 0)
		return 0;
	pid_t pid = fork();
	if (pid == 0) {
		setenv("LESS", "FRX", 0);
		dup2(ends[0], STDIN_FILENO);
		execl("/bin/sh", "sh", "-c", pager, (char *)NULL);
		_exit(127);
	}
	close(ends[0]);
	FILE *out = pid > 0 ? fdopen(ends[1], "w") : NULL;
	if (!out) {
		close(ends[1]);
		return 0;
	}
	d->out = out;
	return pid;
}

static void end_pager(struct diff *d, pid_t pid)
{
	if (pid == 0)
		return;
	fclose(d->out);
	d->out = stdout;
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

static void say_summary(const struct diff *d)
{
	static const char *const words[] = { "added",	       "changed", "deleted",
					     "metadata alone", "of type", "renamed" };
	scoped_buf text = { 0 };
	for (size_t i = 0; i < FVM_COUNT(words); i++) {
		if (d->counts[i])
			fvm_buf_printf(&text, "%s%llu %s", text.len ? ", " : "", d->counts[i],
				       words[i]);
	}
	cli_say(d->cli, "%s%s", text.len ? text.data : "no changes",
		d->natives ? "; what is in native directories (N) is not compared" : "");
}

static void say_gone_bases(const struct diff *d)
{
	for (size_t i = 0; i < d->stacks->count; i++) {
		const struct fvm_stack *s = &d->stacks->items[i];
		if (s->base < 0 && !s->silent && fvm_stack_is_used(s))
			cli_say(d->cli,
				"%s is not mounted now: all that the VM has there is shown "
				"as added",
				s->mount_point);
	}
}

/* One line for each, whatever is in it: it is compared with nothing. */
static void list_native(struct diff *d, const char *path)
{
	if (d->cli->json) {
		diff_json(d, json_pack("{s:s, s:s, s:o}", "change", "N", "kind", "native", "path",
				       diff_json_name(path)));
		return;
	}
	if (!d->names_only)
		fputs(d->color ? "\033[35mN\033[m " : "N ", d->out);
	diff_quoted(d->out, "", path);
	putc('\n', d->out);
}

static bool is_wanted(const struct fvm_strv *paths, const char *native)
{
	fvm_strv_each(paths, i) {
		if (fvm_path_below(native, paths->items[i]) ||
		    fvm_path_below(paths->items[i], native))
			return true;
	}
	return paths->count == 0;
}

static void show_natives(struct diff *d, const struct fvm_strv *natives,
			 const struct fvm_strv *paths)
{
	fvm_strv_each(natives, i) {
		if (!is_wanted(paths, natives->items[i]))
			continue;
		d->natives++;
		if (d->view == &diff_list)
			list_native(d, natives->items[i]);
		else
			cli_say(d->cli, "%s is native: what is in it is compared with nothing",
				natives->items[i]);
	}
}

/* What the base is now, so that a commit sees what the host changes from here on. */
static void note_base(const struct diff *d)
{
	struct fvm_error err = { 0 };
	if (fvm_vm_state(d->vm) != FVM_RUNNING &&
	    fvm_stamps_update_digests(d->vm, d->stacks, &err) < 0)
		log_debug("%s", err.text);
}

static int show(struct diff *d, const struct fvm_strv *paths, struct fvm_error *err)
{
	struct fvm_stacks stacks = { 0 };
	const struct fvm_scan_options options_ = {
		.paths = paths->count ? (const char *const *)paths->items : NULL,
		.with_noise = d->with_noise,
		.whole_trees = d->view->whole_trees,
	};
	int r = fvm_stacks_open(d->vm, options_.paths, &stacks, err);
	if (r < 0)
		return r;
	d->stacks = &stacks;
	d->err = err;
	say_gone_bases(d);
	show_natives(d, &stacks.natives, paths);
	r = d->renames ? fvm_stacks_renames(&stacks, &options_, take_change, d, err)
		       : fvm_stacks_scan(&stacks, &options_, take_change, d, err);
	cli_progress_end(&d->progress);
	if (r >= 0 && d->view->end)
		r = d->view->end(d);
	if (d->cli->json)
		fputs(d->seen ? "\n]\n" : "[]\n", d->out);
	if (r >= 0)
		note_base(d);
	fvm_stacks_close(&stacks);
	if (r >= 0 && fflush(d->out) != 0)
		r = -EIO;
	return r < 0 && !err->code ? fvm_error_set(err, -r, "print the changes") : r;
}

static int diff_main(const struct cli *cli, int argc, char **argv)
{
	struct diff d = { .cli = cli, .view = &diff_list, .out = stdout };
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	scoped_strv paths = { 0 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_diff, argc, argv, take_option, &d);
	if (first < 0)
		return cli_exit_parse(first);
	if (cli_paths_make(argc - first - 1, argv + first + 1, &paths, &err) < 0 ||
	    fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], FVM_NO_LOCK, &vm, &err) < 0)
		return cli_fail(&err);
	if (fvm_vm_state(&vm) == FVM_RUNNING)
		cli_say(cli,
			"VM '%s' is running: what it writes meanwhile may be shown half "
			"(fvm pause %s)",
			vm.config.name, vm.config.name);
	d.vm = &vm;
	d.terminal = isatty(STDOUT_FILENO);
	d.color = d.terminal && !getenv("NO_COLOR") && !cli->json;
	if (d.view->waits || d.renames || !isatty(STDOUT_FILENO))
		cli_progress_start(&d.progress, cli, "diff");
	pid_t pager = start_pager(&d);
	int r = fvm_subids_enter(&vm, &err);
	if (r == 0)
		r = show(&d, &paths, &err);
	end_pager(&d, pager);
	if (r < 0)
		return cli_fail(&err);
	if (d.view == &diff_list && !cli->json)
		say_summary(&d);
	return 0;
}

const struct cli_command cli_diff = {
	.name = "diff",
	.operands = "VM [PATH..]",
	.summary = "Show what a VM changed, compared with the host as it is now.",
	.text = "One line each: A added, M changed, D deleted, T of another type, R renamed,\n"
		"m mode, owner, extended attributes or capabilities, N a native directory. A "
		"deleted\n"
		"directory is one line. What changed under /run, /tmp, caches, logs and histories "
		"is left out\n"
		"unless a PATH names it, or with --all.",
	.options = options,
	.anywhere = true,
	.min_operands = 1,
	.max_operands = -1,
	.main = diff_main,
};
