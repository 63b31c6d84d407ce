#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/calls.h"
#include "cli/commands.h"
#include "cli/paths.h"
#include "common/quote.h"
#include "fvm/plan.h"
#include "fvm/trace.h"

struct trace_options {
	const char *op;
	struct fvm_strv below; /* none, or one */
	bool counts, is_calls;
	struct cli_calls calls;
};

#define OPERATIONS "open, write, create, delete, rename, meta, exec, connect or bind"

enum { OPT_OP = 300, OPT_BELOW, OPT_CALLS };

static const struct cli_option options[] = {
	{ OPT_OP, "op", "NAME", "only " OPERATIONS },
	{ OPT_BELOW, "below", "PATH", "only what is PATH or lies below it" },
	{ 'c', "counts", NULL, "only how many there were of each operation, or call" },
	{ OPT_CALLS, "calls", NULL, "system calls of the running VM, as they are made" },
	{ 'e', "only", "NAME,..", "only calls of these names" },
	{ 'o', "output", "FILE", "write them to FILE" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct trace_options *o = into;
	if (key == OPT_BELOW) {
		char *path = (char *)(uintptr_t)value;
		fvm_strv_free(&o->below);
		return cli_paths_make(1, &path, &o->below, err);
	}
	if (key == 'e')
		return cli_calls_only(&o->calls, value, err);
	if (key == 'o')
		o->calls.output = value;
	o->counts |= key == 'c';
	o->is_calls |= key == OPT_CALLS;
	if (key != OPT_OP)
		return 0;
	o->op = value;
	for (int i = 0; i < FVM_TRACE_OPS; i++) {
		if (strcmp(fvm_trace_op_name((enum fvm_trace_op)i), value) == 0)
			return 0;
	}
	fvm_error_hint(err, "one of " OPERATIONS);
	return fvm_error_set(err, EINVAL, "there is no operation '%s'", value);
}

struct show {
	const struct trace_options *options;
	json_t *json; /* NULL: lines */
	unsigned long long counts[FVM_TRACE_OPS];
};

/* JSON holds UTF-8 only; other names come as they are quoted for a line. */
static json_t *json_name(const char *name)
{
	json_t *text = json_string(name);
	if (text)
		return text;
	scoped_buf quoted = { 0 };
	fvm_quote(&quoted, name);
	return json_string(quoted.data ? quoted.data : "?");
}

static json_t *json_note(const struct fvm_trace_note *note)
{
	return json_pack("{s:s, s:o, s:o, s:I, s:I, s:I, s:i}", "op", fvm_trace_op_name(note->op),
			 "path", json_name(note->path), "command", json_name(note->command),
			 "count", (json_int_t)note->count, "first", (json_int_t)note->first_ns,
			 "last", (json_int_t)note->last_ns, "pid", (int)note->pid);
}

static void print_note(const struct fvm_trace_note *note)
{
	scoped_buf line = { 0 };
	time_t when = (time_t)(note->last_ns / 1000000000);
	struct tm tm;
	char clock[16];
	strftime(clock, sizeof(clock), "%H:%M:%S", localtime_r(&when, &tm));
	fvm_buf_printf(&line, "%s %6llu %-7s ", clock, (unsigned long long)note->count,
		       fvm_trace_op_name(note->op));
	fvm_quote(&line, note->path);
	fvm_buf_puts(&line, "  by ");
	fvm_quote(&line, note->command);
	puts(line.data ? line.data : "?");
}

static int show_note(const struct fvm_trace_note *note, void *arg)
{
	struct show *s = arg;
	const struct trace_options *o = s->options;
	if ((o->op && strcmp(o->op, fvm_trace_op_name(note->op)) != 0) ||
	    (o->below.count && !fvm_path_below(note->path, o->below.items[0])))
		return 0;
	s->counts[note->op] += note->count;
	if (o->counts)
		return 0;
	if (s->json)
		json_array_append_new(s->json, json_note(note));
	else
		print_note(note);
	return 0;
}

static int print_counts(const struct cli *cli, const struct show *s)
{
	json_t *root = cli->json ? json_object() : NULL;
	for (int i = 0; i < FVM_TRACE_OPS; i++) {
		const char *name = fvm_trace_op_name((enum fvm_trace_op)i);
		if (root)
			json_object_set_new(root, name, json_integer((json_int_t)s->counts[i]));
		else if (s->counts[i])
			printf("%-8s %llu\n", name, s->counts[i]);
	}
	return root ? cli_print_json(root) : 0;
}

/* Notes are of a VM's whole life, calls of now: what is for one is not for the other. */
static int check_options(const struct trace_options *o, bool has_pid, struct fvm_error *err)
{
	if (o->is_calls && (o->op || o->below.count))
		return fvm_error_say(err, EINVAL, "--op and --below are not for --calls");
	if (o->is_calls || !(o->calls.only.count || o->calls.output || has_pid))
		return 0;
	fvm_error_hint(err, "add --calls");
	return fvm_error_say(err, EINVAL, "PID, --only and --output are for --calls");
}

static int trace_main(const struct cli *cli, int argc, char **argv)
{
	struct trace_options o = { 0 };
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_trace, argc, argv, take_option, &o);
	if (first < 0)
		return cli_exit_parse(first);
	if (check_options(&o, argc - first > 1, &err) < 0)
		return cli_fail(&err);
	o.calls.counts = o.counts;
	if (o.is_calls)
		return cli_calls_main(cli, &o.calls, argv[first], argv[first + 1]);
	struct show s = { .options = &o, .json = cli->json && !o.counts ? json_array() : NULL };
	if (fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], FVM_NO_LOCK, &vm, &err) < 0 ||
	    fvm_trace_read(&vm, show_note, &s, &err) < 0) {
		json_decref(s.json);
		return cli_fail(&err);
	}
	if (o.counts)
		return print_counts(cli, &s);
	return s.json ? cli_print_json(s.json) : 0;
}

const struct cli_command cli_trace = {
	.name = "trace",
	.operands = "VM [PID]",
	.summary = "Show what the programs of a VM do: their system calls, or notes of --trace.",
	.text = "Of a VM that is run with --trace: what was opened, written, executed and "
		"connected "
		"to;\nwhat it has not written yet comes up to ten seconds late. With --calls: of "
		"any "
		"running VM,\nor of its process PID and what that starts, till ^C. They stop for a "
		"moment at each call.",
	.options = options,
	.anywhere = true,
	.min_operands = 1,
	.max_operands = 2,
	.main = trace_main,
};

/* ---- who ---- */

struct who {
	const char *path;
	json_t *json;
	unsigned int found;
};

static int who_note(const struct fvm_trace_note *note, void *arg)
{
	struct who *w = arg;
	bool changes = note->op == FVM_TRACE_WRITE || note->op == FVM_TRACE_CREATE ||
		       note->op == FVM_TRACE_DELETE || note->op == FVM_TRACE_RENAME ||
		       note->op == FVM_TRACE_META;
	if (!changes || strcmp(note->path, w->path) != 0)
		return 0;
	w->found++;
	if (w->json)
		json_array_append_new(w->json, json_note(note));
	else
		print_note(note);
	return 0;
}

static int who_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	scoped_strv paths = { 0 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_who, argc, argv, NULL, NULL);
	if (first < 0)
		return cli_exit_parse(first);
	if (cli_paths_make(1, argv + first + 1, &paths, &err) < 0)
		return cli_fail(&err);
	struct who w = { .path = paths.items[0], .json = cli->json ? json_array() : NULL };
	if (fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], FVM_NO_LOCK, &vm, &err) < 0 ||
	    fvm_trace_read(&vm, who_note, &w, &err) < 0) {
		json_decref(w.json);
		return cli_fail(&err);
	}
	if (w.json)
		return cli_print_json(w.json);
	if (w.found)
		return 0;
	fvm_error_set(&err, 0, "who: nobody was seen to change %.200s in VM '%s'", w.path,
		      vm.config.name);
	return cli_fail(&err);
}

const struct cli_command cli_who = {
	.name = "who",
	.operands = "VM PATH",
	.summary = "Name the commands that wrote PATH in a VM run with --trace.",
	.anywhere = true,
	.min_operands = 2,
	.max_operands = 2,
	.main = who_main,
};
