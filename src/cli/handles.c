#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "common/quote.h"
#include "fvm/handles.h"

enum { OPT_TYPE = 300 };

#define TYPES "process|thread|descriptor|map|ipc"

static const struct cli_option options[] = {
	{ OPT_TYPE, "type", TYPES, "only these; again for several" },
	{ 0 },
};

#define MAPS (1U << FVM_HANDLE_MAP)

struct handles_view {
	unsigned int types;
	bool headed;
	char host[65];
	json_t *json;
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct handles_view *v = into;
	(void)key;
	for (int i = 0; i < FVM_HANDLE_TYPES; i++) {
		if (strcmp(value, fvm_handle_type_name((enum fvm_handle_type)i)) != 0)
			continue;
		v->types |= 1U << i;
		return 0;
	}
	fvm_error_hint(err, "process, thread, descriptor, map or ipc");
	return fvm_error_say(err, EINVAL, "'%.80s' is no type of handle", value);
}

/* Names are a program's to choose: JSON has no bytes that are not UTF-8. */
static json_t *text_of(const char *text)
{
	scoped_buf quoted = { 0 };
	json_t *plain = json_string(text);
	if (plain)
		return plain;
	fvm_quote(&quoted, text);
	return json_string(quoted.data ?: "");
}

static json_t *number_of(long long n)
{
	return n > 0 ? json_integer(n) : json_null();
}

static json_t *describe(const struct handles_view *v, const struct fvm_handle *h)
{
	json_t *origin =
		json_pack("{s:s, s:o, s:o, s:o, s:b}", "host", v->host, "pid",
			  number_of(h->origin_vm_pid), "host_pid", number_of(h->origin_pid),
			  "since", number_of(h->since_ns), "exact", h->exact);
	return json_pack("{s:s, s:o, s:o, s:s, s:s, s:o, s:o, s:o}", "type",
			 fvm_handle_type_name(h->type), "pid", number_of(h->vm_pid), "host_pid",
			 number_of(h->pid), "handle", h->number, "kind", h->kind, "name",
			 text_of(h->name), "real", text_of(h->real), "origin", origin);
}

/* A map's number are two addresses. */
static int room_for_number(const struct handles_view *v)
{
	return v->types & MAPS ? 25 : 11;
}

static void print_head(struct handles_view *v)
{
	if (!v->headed)
		printf("%7s %-10s %-*s %-12s %7s %-18s %-30s %s\n", "PID", "TYPE",
		       room_for_number(v), "HANDLE", "KIND", "FROM", "SINCE", "FOR THE PROGRAM",
		       "ON THIS HOST");
	v->headed = true;
}

static void print_line(const struct handles_view *v, const struct fvm_handle *h)
{
	scoped_buf name = { 0 }, real = { 0 };
	char from[16] = "-", pid[16] = "-", since[48];
	if (h->vm_pid)
		snprintf(pid, sizeof(pid), "%d", h->vm_pid);
	fvm_quote(&name, h->name);
	fvm_quote(&real, h->real);
	if (h->origin_vm_pid)
		snprintf(from, sizeof(from), "%d", h->origin_vm_pid);
	snprintf(since, sizeof(since), "%s%s",
		 h->exact ? "" : "<= ", h->since_ns ? cli_time_ago(h->since_ns) : "-");
	printf("%7s %-10s %-*s %-12s %7s %-18s %-30s %s\n", pid, fvm_handle_type_name(h->type),
	       room_for_number(v), h->number, h->kind, from, since, name.data ?: "",
	       real.data ?: "");
}

static int show(const struct fvm_handle *h, void *arg)
{
	struct handles_view *v = arg;
	if (v->json)
		return json_array_append_new(v->json, describe(v, h)) < 0 ? -ENOMEM : 0;
	print_head(v);
	print_line(v, h);
	return ferror(stdout) ? 1 : 0;
}

static int handles_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	struct handles_view v = { 0 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_handles, argc, argv, take_option, &v);
	if (first < 0)
		return cli_exit_parse(first);
	pid_t pid = 0;
	if ((argc - first > 1 && cli_parse_number(argv[first + 1], "process", 1, &pid, &err) < 0) ||
	    fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], FVM_NO_LOCK, &vm, &err) < 0)
		return cli_fail(&err);
	(void)gethostname(v.host, sizeof(v.host) - 1);
	v.json = cli->json ? json_array() : NULL;
	if (!v.types) /* for a reader, maps of all would be a hundred lines each */
		v.types = pid || v.json ? ~0U : ~MAPS;
	if (fvm_handles(&vm, pid, v.types, show, &v, &err) < 0) {
		json_decref(v.json);
		return cli_fail(&err);
	}
	if (v.json)
		return cli_print_json(v.json);
	return fflush(stdout) == 0 ? 0 : CLI_FAILED;
}

const struct cli_command cli_handles = {
	.name = "handles",
	.operands = "VM [PID]",
	.summary = "Show what a VM's programs hold, and what that is on this host.",
	.text = "PID is the VM's, as ps shows it. FROM is the process that had it first. SINCE is "
		"not\n"
		"exact for descriptors and maps: \"<=\" says no longer than that. Nothing is "
		"stopped.",
	.options = options,
	.anywhere = true,
	.min_operands = 1,
	.max_operands = 2,
	.main = handles_main,
};
