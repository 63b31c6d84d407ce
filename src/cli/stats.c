#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/commands.h"
#include "cli/usage.h"

#define SAMPLE_MS 250

struct stats_options {
	int watch_s;
};

static const struct cli_option options[] = {
	{ 'w', "watch", "SECONDS", "again and again, until interrupted" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct stats_options *o = into;
	char *end;
	long s = strtol(value, &end, 10);
	(void)key;
	if (*end || s < 1 || s > 86400)
		return fvm_error_set(err, EINVAL, "'%s' is no number of seconds from 1 to 86400",
				     value);
	o->watch_s = (int)s;
	return 0;
}

static json_t *limit(uint64_t value)
{
	return value ? json_integer((json_int_t)value) : json_null();
}

static json_t *known(bool has, uint64_t value)
{
	return has ? json_integer((json_int_t)value) : json_null();
}

static json_t *describe(const struct cli_usage *u)
{
	const struct fvm_cgroup_stats *s = &u->stats;
	return json_pack(
		"{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
		"name", u->name, "state", fvm_state_name(u->state), "cpu_percent",
		u->cpu_percent < 0 ? json_null() : json_real(u->cpu_percent), "cpu_ns",
		known(s->has_cpu, s->cpu_ns), "cpu_limit_percent", limit(u->cpu_limit_percent),
		"memory_bytes", known(s->has_memory, s->memory_bytes), "memory_cache_bytes",
		known(s->has_memory, s->memory_cache_bytes), "memory_peak_bytes",
		limit(s->memory_peak_bytes), "memory_limit_bytes", limit(s->memory_limit_bytes),
		"pids", known(s->has_pids, s->pids), "pids_limit", limit(s->pids_limit),
		"io_read_bytes", known(s->has_io, s->io_read_bytes), "io_write_bytes",
		known(s->has_io, s->io_write_bytes), "disk_bytes",
		known(u->has_disk, u->disk_bytes), "disk_limit_bytes",
		known(u->has_disk, u->disk_limit_bytes));
}

static bool any_disk(const struct cli_usages *u)
{
	for (size_t i = 0; i < u->count; i++) {
		if (u->items[i].has_disk)
			return true;
	}
	return false;
}

/* What a VM has written, and may: for those with --disk alone, so that others' lines stay short. */
static void print_disk(const struct cli_usage *u)
{
	char used[8], max[8];
	printf(" %6s %5s", cli_size_short(u->has_disk, u->disk_bytes, used),
	       cli_size_short(u->has_disk, u->disk_limit_bytes, max));
}

static void print_line(const struct cli_usage *u, bool disks)
{
	const struct fvm_cgroup_stats *s = &u->stats;
	char memory[8], peak[8], max[8], in[8], out[8], cpu[16] = "-", pids[24] = "-",
							pids_max[24] = "-";
	uint64_t used =
		s->memory_bytes -
		(s->memory_cache_bytes < s->memory_bytes ? s->memory_cache_bytes : s->memory_bytes);
	if (u->cpu_percent >= 0)
		snprintf(cpu, sizeof(cpu), "%.1f", u->cpu_percent);
	if (s->has_pids)
		snprintf(pids, sizeof(pids), "%" PRIu64, s->pids);
	if (s->pids_limit)
		snprintf(pids_max, sizeof(pids_max), "%" PRIu64, s->pids_limit);
	printf("%-18s %-7s %6s %6s %5s %5s %6s %6s %5s %5s", u->name, fvm_state_name(u->state), cpu,
	       cli_size_short(s->has_memory, used, memory),
	       cli_size_short(s->memory_peak_bytes, s->memory_peak_bytes, peak),
	       cli_size_short(s->memory_limit_bytes, s->memory_limit_bytes, max), pids, pids_max,
	       cli_size_short(s->has_io, s->io_read_bytes, in),
	       cli_size_short(s->has_io, s->io_write_bytes, out));
	if (disks)
		print_disk(u);
	putchar('\n');
}

static int print(const struct cli *cli, const struct cli_usages *u)
{
	json_t *all = cli->json ? json_array() : NULL;
	bool disks = any_disk(u);
	if (!all)
		printf("%-18s %-7s %6s %6s %5s %5s %6s %6s %5s %5s%s\n", "NAME", "STATE", "CPU%",
		       "MEMORY", "PEAK", "MAX", "PIDS", "MAX", "READ", "WRITE",
		       disks ? "   DISK   MAX" : "");
	for (size_t i = 0; i < u->count; i++) {
		if (all)
			json_array_append_new(all, describe(&u->items[i]));
		else
			print_line(&u->items[i], disks);
	}
	if (all)
		return cli_print_json(all);
	return fflush(stdout) == 0 ? 0 : CLI_FAILED;
}

/* Whom the next sample asks: who has told his trouble in this one does not tell it again. */
static int names_of(const struct cli_usages *u, struct fvm_strv *names)
{
	fvm_strv_free(names);
	for (size_t i = 0; i < u->count; i++) {
		if (fvm_strv_add(names, u->items[i].name) < 0)
			return -ENOMEM;
	}
	return 0;
}

/* @names: of whom, or NULL: of all that run */
static int watch(const struct cli *cli, const struct fvm_store *store, struct fvm_strv *names,
		 int watch_s)
{
	scoped_usages before = { 0 };
	struct fvm_error err = { 0 };
	int wait_ms = SAMPLE_MS, status = 0;
	if (cli_usages_take(store, names, NULL, &before, &status, &err) < 0)
		return cli_fail(&err);
	do {
		struct cli_usages now = { 0 };
		if (names && names_of(&before, names) < 0)
			return CLI_FAILED;
		(void)poll(NULL, 0, before.count ? wait_ms : 0);
		if (cli_usages_take(store, names, &before, &now, &status, &err) < 0)
			return cli_fail(&err);
		cli_usages_free(&before);
		before = now;
		if (print(cli, &now) != 0)
			return CLI_FAILED;
		wait_ms = watch_s * 1000;
	} while (watch_s && (!names || before.count));
	return status;
}

static int stats_main(const struct cli *cli, int argc, char **argv)
{
	struct stats_options o = { 0 };
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_strv names = { 0 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_stats, argc, argv, take_option, &o);
	if (first < 0)
		return cli_exit_parse(first);
	const bool every = first == argc;
	for (; first < argc; first++) {
		if (fvm_strv_add(&names, argv[first]) < 0)
			return CLI_FAILED;
	}
	if (fvm_store_open(&store, &err) < 0)
		return cli_fail(&err);
	return watch(cli, &store, every ? NULL : &names, o.watch_s);
}

const struct cli_command cli_stats = {
	.name = "stats",
	.operands = "[VM..]",
	.summary = "Show what running VMs use: CPU, memory, processes, disk traffic.",
	.text = "CPU% is of one CPU. MEMORY leaves out cache that is given back when needed; with "
		"a\n"
		"limit, PEAK and MAX count it. READ and WRITE are - where nobody accounts them. "
		"DISK "
		"is\n"
		"what VMs with --disk have written.",
	.options = options,
	.anywhere = true,
	.max_operands = -1,
	.main = stats_main,
};
