#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/usage.h"
#include "fvm/disk.h"

void cli_usages_free(struct cli_usages *u)
{
	free(u->items);
	*u = (struct cli_usages){ 0 };
}

/* What no cgroup accounts is added up over those that live. */
static void fill_from_processes(const struct fvm_cgroups *g, struct cli_usage *u)
{
	struct fvm_cgroup_stats *s = &u->stats;
	scoped_procs procs = { 0 };
	if (fvm_procs_list(g, u->init, &procs) < 0)
		return;
	uint64_t cpu_ns = 0, memory = 0, threads = 0;
	for (size_t i = 0; i < procs.count; i++) {
		cpu_ns += procs.items[i].cpu_ns;
		memory += procs.items[i].memory_bytes;
		threads += procs.items[i].threads;
	}
	if (!s->has_cpu)
		s->cpu_ns = cpu_ns;
	if (!s->has_memory)
		s->memory_bytes = memory;
	if (!s->has_pids)
		s->pids = threads; /* cgroups count threads too */
	s->has_cpu = s->has_memory = s->has_pids = true;
}

static int take_one(const struct fvm_vm *vm, const struct fvm_cgroup_host *host,
		    struct cli_usage *u, struct fvm_error *err)
{
	scoped_running running = { 0 };
	struct fvm_cgroups g;
	int r = fvm_running_load(vm, &running, err);
	if (r < 0)
		return r;
	*u = (struct cli_usage){ .cpu_percent = -1 };
	strcpy(u->name, vm->config.name);
	u->state = fvm_vm_state(vm);
	u->init = running.init_pid;
	u->cpu_limit_percent = vm->config.cpu_percent;
	scoped_fd workspace = fvm_open_nofollow(vm->dir, "workspace", O_RDONLY | O_DIRECTORY);
	u->has_disk = workspace >= 0 &&
		      fvm_disk_usage(workspace, &u->disk_bytes, &u->disk_limit_bytes) == 0;
	r = fvm_cgroup_named_on(host, running.cgroup, &g);
	if (r < 0)
		return fvm_error_set(err, -r, "find the cgroups of VM '%s'", vm->config.name);
	(void)fvm_cgroup_stats(&g, &u->stats);
	if (!u->stats.has_cpu || !u->stats.has_memory || !u->stats.has_pids)
		fill_from_processes(&g, u);
	u->at_ns = fvm_clock_ns();
	return 0;
}

static void add_rate(const struct cli_usages *before, struct cli_usage *u)
{
	for (size_t i = 0; before && i < before->count; i++) {
		const struct cli_usage *b = &before->items[i];
		int64_t ns = u->at_ns - b->at_ns;
		if (b->init != u->init || strcmp(b->name, u->name) != 0 || ns <= 0 ||
		    !u->stats.has_cpu)
			continue;
		/* processes that ended take their time away where nobody else accounts it */
		u->cpu_percent =
			u->stats.cpu_ns < b->stats.cpu_ns
				? 0
				: 100.0 * (double)(u->stats.cpu_ns - b->stats.cpu_ns) / (double)ns;
		return;
	}
}

int cli_usages_take(const struct fvm_store *store, const struct fvm_strv *names,
		    const struct cli_usages *before, struct cli_usages *ret, int *ret_status,
		    struct fvm_error *err)
{
	scoped_usages all = { 0 };
	scoped_strv every = { 0 };
	struct fvm_cgroup_host host;
	int r = fvm_cgroup_host(&host);
	if (r < 0)
		return fvm_error_set(err, -r, "find the host's cgroups");
	if (!names)
		r = fvm_store_list(store, &every, err);
	const struct fvm_strv *list = names ?: &every;
	if (r < 0)
		return r;
	all.items = calloc(list->count + 1, sizeof(*all.items));
	if (!all.items)
		return fvm_error_set(err, ENOMEM, "list the VMs");
	fvm_strv_each(list, i) {
		struct fvm_error theirs = { 0 };
		scoped_vm vm = { .dir = -1, .lock = -1 };
		int one = fvm_vm_open(store, list->items[i], FVM_NO_LOCK, &vm, &theirs);
		if (one == 0)
			one = take_one(&vm, &host, &all.items[all.count], &theirs);
		if (one == 0)
			add_rate(before, &all.items[all.count++]);
		else if (names) /* of all, those that can't be asked are passed over */
			*ret_status = cli_fail(&theirs);
	}
	*ret = (struct cli_usages){ fvm_take_ptr(&all.items), all.count };
	return 0;
}

/* Length of the UTF-8 character at @p (no control character), or 0. */
static size_t utf8_length(const unsigned char *p)
{
	size_t n = p[0] < 0x80	 ? 1
		   : p[0] < 0xc2 ? 0
		   : p[0] < 0xe0 ? 2
		   : p[0] < 0xf0 ? 3
		   : p[0] < 0xf5 ? 4
				 : 0;
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	/* what turns the direction of writing around hides as well as an escape sequence does */
	bool bidi = p[0] == 0xe2 && ((p[1] == 0x80 && p[2] >= 0xaa && p[2] <= 0xae) ||
				     (p[1] == 0x81 && p[2] >= 0xa6 && p[2] <= 0xa9));
	bool control = bidi || p[0] < 0x20 || p[0] == 0x7f || (p[0] == 0xc2 && p[1] < 0xa0);
	return control ? 0 : n;
}

const char *cli_clean(const char *text, char *buf, size_t size)
{
	const unsigned char *p = (const unsigned char *)text;
	size_t len = 0;
	while (*p) {
		size_t n = utf8_length(p);
		if (len + (n ? n : 1) >= size)
			break;
		if (n)
			memcpy(buf + len, p, n);
		else
			buf[len] = '?';
		len += n ? n : 1;
		p += n ? n : 1;
	}
	buf[len] = '\0';
	return buf;
}

const char *cli_size_short(bool known, uint64_t bytes, char buf[8])
{
	static const char units[] = "BKMGTP";
	double value = (double)bytes;
	size_t i = 0;
	for (; value >= 1000 && units[i + 1]; i++)
		value /= 1024;
	if (!known)
		strcpy(buf, "-");
	else
		snprintf(buf, 8, i && value < 10 ? "%.1f%c" : "%.0f%c", value, units[i]);
	return buf;
}

const char *cli_command_line(const struct fvm_proc *p, char *buf, size_t size)
{
	char name[sizeof(p->name) + 3];
	if (p->command)
		return cli_clean(p->command, buf, size);
	snprintf(name, sizeof(name), "[%s]", p->name);
	return cli_clean(name, buf, size);
}

const char *cli_cpu_time(uint64_t ns, char buf[24])
{
	unsigned long long s = ns / 1000000000, centis = ns / 10000000 % 100;
	if (s >= 3600)
		snprintf(buf, 24, "%llu:%02llu:%02llu", s / 3600, s / 60 % 60, s % 60);
	else
		snprintf(buf, 24, "%llu:%02llu.%02llu", s / 60, s % 60, centis);
	return buf;
}
