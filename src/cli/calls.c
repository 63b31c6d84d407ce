#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/calls.h"
#include "cli/commands.h"
#include "fvm/calls.h"

#define NS_PER_S 1000000000LL

struct count {
	char *name;
	unsigned long long calls, errors;
	int64_t ns;
};

struct calls_view {
	const struct cli_calls *options;
	bool json;
	FILE *to;
	struct count *counts;
	size_t count;
};

static void view_free(struct calls_view *v)
{
	for (size_t i = 0; i < v->count; i++)
		free(v->counts[i].name);
	free(v->counts);
	if (v->to && v->to != stdout)
		(void)fclose(v->to);
}
#define scoped_view __attribute__((cleanup(view_free))) struct calls_view

int cli_calls_only(struct cli_calls *c, const char *names, struct fvm_error *err)
{
	scoped_free char *copy = strdup(names);
	if (!copy)
		return fvm_error_set(err, ENOMEM, "understand '%.80s'", names);
	for (char *at = copy, *name; (name = strsep(&at, ","));) {
		const char *near = NULL;
		if (!vin_call_is_name(name, &near)) {
			if (near)
				fvm_error_hint(err, "did you mean %s?", near);
			return fvm_error_say(err, EINVAL, "there is no system call '%.80s'", name);
		}
		if (fvm_strv_add(&c->only, name) < 0)
			return fvm_error_set(err, ENOMEM, "understand '%.80s'", names);
	}
	return 0;
}

static bool wants(void *arg, const char *name)
{
	const struct calls_view *v = arg;
	return v->options->only.count == 0 || fvm_strv_has(&v->options->only, name);
}

/* ---- one after another ---- */

static void print_line(const struct calls_view *v, const struct vin_call_seen *s)
{
	const time_t when = (time_t)(s->began_ns / NS_PER_S);
	struct tm tm;
	char clock[16];
	strftime(clock, sizeof(clock), "%H:%M:%S", localtime_r(&when, &tm));
	fprintf(v->to, "%s.%06lld %5d", clock, (long long)(s->began_ns % NS_PER_S / 1000),
		s->inner_pid);
	if (s->inner_tid != s->inner_pid)
		fprintf(v->to, "/%d", s->inner_tid);
	fprintf(v->to, " %s%s(", s->is_32 ? "[32] " : "", s->name);
	for (size_t i = 0; i < s->arg_count; i++)
		fprintf(v->to, "%s%s", i ? ", " : "", s->args[i]);
	const long long us = s->took_ns / 1000;
	if (!s->ended)
		fprintf(v->to, ") = ?");
	else if (s->failed)
		fprintf(v->to, ") = -1 %s", vin_errno_name(s->result));
	else if (s->result < 0 || s->result > INT32_MAX)
		fprintf(v->to, ") = 0x%llx", (unsigned long long)s->result);
	else
		fprintf(v->to, ") = %lld", (long long)s->result);
	fprintf(v->to, " <%lld.%06lld>\n", us / 1000000, us % 1000000);
}

static json_t *number_or_null(bool is, int64_t n)
{
	return is ? json_integer((json_int_t)n) : json_null();
}

static void print_object(const struct calls_view *v, const struct vin_call_seen *s)
{
	json_t *args = json_array();
	for (size_t i = 0; i < s->arg_count; i++)
		json_array_append_new(args, json_string(s->args[i]));
	json_t *o = json_pack("{s:I, s:i, s:i, s:i, s:i, s:s, s:i, s:o, s:o, s:o, s:I}", "began",
			      (json_int_t)s->began_ns, "pid", s->inner_pid, "tid", s->inner_tid,
			      "host_pid", s->pid, "host_tid", s->tid, "call", s->name, "bits",
			      s->is_32 ? 32 : 64, "args", args, "result",
			      number_or_null(s->ended && !s->failed, s->result), "error",
			      s->failed ? json_string(vin_errno_name(s->result)) : json_null(),
			      "took", (json_int_t)s->took_ns);
	(void)json_dumpf(o, v->to, JSON_COMPACT);
	(void)fputc('\n', v->to);
	json_decref(o);
}

/* ---- all together ---- */

static int count_call(struct calls_view *v, const struct vin_call_seen *s)
{
	size_t i = 0;
	while (i < v->count && strcmp(v->counts[i].name, s->name) != 0)
		i++;
	if (i == v->count) {
		struct count *more = realloc(v->counts, fvm_room(i + 1) * sizeof(*more));
		if (!more)
			return -ENOMEM;
		v->counts = more;
		v->counts[i] = (struct count){ .name = strdup(s->name) };
		if (!v->counts[i].name)
			return -ENOMEM;
		v->count++;
	}
	v->counts[i].calls++;
	v->counts[i].errors += s->failed;
	v->counts[i].ns += s->took_ns;
	return 0;
}

static int by_time(const void *a, const void *b)
{
	const struct count *x = a, *y = b;
	return x->ns != y->ns ? (x->ns < y->ns) - (x->ns > y->ns) : strcmp(x->name, y->name);
}

static void print_counts(struct calls_view *v)
{
	json_t *all = v->json ? json_array() : NULL;
	if (v->count)
		qsort(v->counts, v->count, sizeof(*v->counts), by_time);
	if (!all)
		fprintf(v->to, "%12s %12s %10s %10s  %s\n", "SECONDS", "US/CALL", "CALLS", "ERRORS",
			"NAME");
	for (size_t i = 0; i < v->count; i++) {
		const struct count *c = &v->counts[i];
		if (all)
			json_array_append_new(all, json_pack("{s:s, s:I, s:I, s:I}", "call",
							     c->name, "count", (json_int_t)c->calls,
							     "errors", (json_int_t)c->errors,
							     "took", (json_int_t)c->ns));
		else
			fprintf(v->to, "%12.6f %12.3f %10llu %10llu  %s\n", (double)c->ns / 1e9,
				(double)c->ns / 1e3 / (double)c->calls, c->calls, c->errors,
				c->name);
	}
	if (all) {
		(void)json_dumpf(all, v->to, JSON_INDENT(2));
		(void)fputc('\n', v->to);
	}
	json_decref(all);
}

/* ---- the command ---- */

static int seen(void *arg, const struct vin_call_seen *s)
{
	struct calls_view *v = arg;
	if (v->options->counts)
		return count_call(v, s);
	if (v->json)
		print_object(v, s);
	else
		print_line(v, s);
	return ferror(v->to) ? -EIO : 0;
}

/* Who reads us by a pipe sees lines soon. */
static void tick(void *arg)
{
	const struct calls_view *v = arg;
	(void)fflush(v->to);
}

static int open_output(struct calls_view *v, struct fvm_error *err)
{
	v->to = stdout;
	if (!v->options->output)
		return 0;
	v->to = fopen(v->options->output, "we");
	return v->to ? 0 : fvm_error_set(err, errno, "write '%.200s'", v->options->output);
}

static int finish(struct calls_view *v, int r, struct fvm_error *err)
{
	if (r == 0 && v->options->counts)
		print_counts(v);
	if (v->to && (fflush(v->to) != 0 || ferror(v->to)) && r == 0)
		r = -EIO;
	return r == -EIO && !err->text[0] ? fvm_error_set(err, EIO, "write what was seen") : r;
}

int cli_calls_main(const struct cli *cli, const struct cli_calls *calls, const char *name,
		   const char *pid)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	scoped_view v = { .options = calls, .json = cli->json };
	struct fvm_calls_options o = {
		.no_args = calls->counts, .wants = wants, .seen = seen, .tick = tick, .arg = &v
	};
	struct fvm_error err = { 0 };
	if ((pid && cli_parse_number(pid, "process", 1, &o.pid, &err) < 0) ||
	    fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, name, FVM_LOCK, &vm, &err) < 0 || open_output(&v, &err) < 0)
		return cli_fail(&err);
	int r = fvm_calls(&vm, &o, &err);
	return finish(&v, r, &err) < 0 ? cli_fail(&err) : 0;
}
