/*
 * fvm top: two tables, of all running VMs and of the processes of one, drawn from the same rows.
 * A row is found again by its name or pid after each sample, so the chosen one stays chosen while
 * the order changes around it.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/screen.h"
#include "cli/usage.h"
#include "fvm/pause.h"

#define COMMANDS_MS 200
#define FRAME_LINES 4 /* title, keys, heading, message */

enum order { BY_CPU, BY_MEMORY, BY_NAME, ORDERS };

struct row {
	char text[512];
	char name[FVM_NAME_MAX + 1]; /* the VM, or "" in a table of processes */
	struct fvm_proc proc;	     /* command is not ours to use */
	double cpu;		     /* percent, < 0: not known yet */
	uint64_t memory;
};

struct top {
	const struct fvm_store *store;
	struct cli_screen screen;
	int interval_ms;
	enum order order;
	char vm[FVM_NAME_MAX + 1]; /* whose processes are shown; "": the VMs */
	struct cli_usages usages;  /* last sample */
	struct fvm_procs procs;	   /* last sample */
	int64_t procs_ns;
	struct row *rows;
	size_t count, chosen, first;
	char message[200];
};

/* ---- rows ---- */

static void vm_row(const struct cli_usage *u, struct row *row)
{
	const struct fvm_cgroup_stats *s = &u->stats;
	char memory[8], max[8], in[8], out[8], cpu[16] = "-", limit[24] = "-";
	row->cpu = u->cpu_percent;
	row->memory = s->memory_bytes > s->memory_cache_bytes
			      ? s->memory_bytes - s->memory_cache_bytes
			      : 0;
	strcpy(row->name, u->name);
	if (u->cpu_percent >= 0)
		snprintf(cpu, sizeof(cpu), "%.1f", u->cpu_percent);
	if (s->pids_limit)
		snprintf(limit, sizeof(limit), "%" PRIu64, s->pids_limit);
	snprintf(row->text, sizeof(row->text), "%-22.22s %-8s %6s %6s %6s %6" PRIu64 " %6s %6s %6s",
		 u->name, fvm_state_name(u->state), cpu,
		 cli_size_short(s->has_memory, row->memory, memory),
		 cli_size_short(s->memory_limit_bytes, s->memory_limit_bytes, max), s->pids, limit,
		 cli_size_short(s->has_io, s->io_read_bytes, in),
		 cli_size_short(s->has_io, s->io_write_bytes, out));
}

static double proc_cpu(const struct top *t, const struct fvm_proc *p, int64_t at_ns)
{
	for (size_t i = 0; i < t->procs.count; i++) {
		const struct fvm_proc *b = &t->procs.items[i];
		if (b->pid == p->pid && b->start == p->start && at_ns > t->procs_ns &&
		    p->cpu_ns >= b->cpu_ns)
			return 100.0 * (double)(p->cpu_ns - b->cpu_ns) /
			       (double)(at_ns - t->procs_ns);
	}
	return -1;
}

static void proc_row(const struct fvm_users *users, const struct fvm_proc *p, double cpu,
		     struct row *row)
{
	char command[400], user[64], clean[64], memory[8], time[24], rate[16] = "-";
	uid_t uid = fvm_users_inside(users, p->uid);
	const char *name = fvm_users_name(users, uid, user);
	row->proc = *p;
	row->proc.command = NULL;
	row->cpu = cpu;
	row->memory = p->memory_bytes;
	if (cpu >= 0)
		snprintf(rate, sizeof(rate), "%.1f", cpu);
	if (name)
		(void)cli_clean(name, clean, sizeof(clean));
	else
		snprintf(clean, sizeof(clean), uid == (uid_t)-1 ? "?" : "%u", uid);
	snprintf(row->text, sizeof(row->text), "%7d %7d %-10.10s %c %6s %10s %6s %s",
		 (int)p->vm_pid, (int)p->pid, clean, p->state, rate, cli_cpu_time(p->cpu_ns, time),
		 cli_size_short(true, p->memory_bytes, memory),
		 cli_command_line(p, command, sizeof(command)));
}

static int compare(const void *a, const void *b, void *order)
{
	const struct row *x = a, *y = b;
	int r = 0;
	if (*(const enum order *)order == BY_CPU)
		r = (x->cpu < y->cpu) - (x->cpu > y->cpu);
	if (r == 0 && *(const enum order *)order != BY_NAME)
		r = (x->memory < y->memory) - (x->memory > y->memory);
	if (r == 0)
		r = strcmp(x->name, y->name);
	return r ? r : (x->proc.vm_pid > y->proc.vm_pid) - (x->proc.vm_pid < y->proc.vm_pid);
}

/* Put new rows in the old ones' place, sorted, with the same one chosen. */
static void rows_replace(struct top *t, struct row *rows, size_t count)
{
	struct row chosen = { 0 };
	if (t->chosen < t->count)
		chosen = t->rows[t->chosen];
	if (count)
		qsort_r(rows, count, sizeof(*rows), compare, &t->order);
	free(t->rows);
	t->rows = rows;
	t->count = count;
	for (size_t i = 0; i < count; i++) {
		if (strcmp(rows[i].name, chosen.name) == 0 && rows[i].proc.pid == chosen.proc.pid)
			t->chosen = i;
	}
	if (t->chosen >= count)
		t->chosen = count ? count - 1 : 0;
}

static int sample_vms(struct top *t, struct fvm_error *err)
{
	struct cli_usages now = { 0 };
	int r = cli_usages_take(t->store, NULL, &t->usages, &now, NULL, err);
	if (r < 0)
		return r;
	cli_usages_free(&t->usages);
	t->usages = now;
	struct row *rows = calloc(now.count + 1, sizeof(*rows));
	if (!rows)
		return fvm_error_set(err, ENOMEM, "show the VMs");
	for (size_t i = 0; i < now.count; i++)
		vm_row(&now.items[i], &rows[i]);
	rows_replace(t, rows, now.count);
	return 0;
}

static int sample_procs(struct top *t, struct fvm_error *err)
{
	scoped_vm vm = { .dir = -1, .lock = -1 };
	scoped_running running = { 0 };
	struct fvm_procs now = { 0 };
	struct fvm_cgroups g;
	int r = fvm_vm_open(t->store, t->vm, FVM_NO_LOCK, &vm, err);
	if (r == 0)
		r = fvm_running_load(&vm, &running, err);
	if (r == 0 && (r = fvm_cgroup_named(running.cgroup, &g)) == 0)
		r = fvm_procs_list(&g, running.init_pid, &now);
	if (r < 0)
		return r;
	int64_t at_ns = fvm_clock_ns();
	fvm_procs_commands(&now, COMMANDS_MS);
	struct fvm_users *users = fvm_users_open(running.init_pid, &vm);
	struct row *rows = calloc(now.count + 1, sizeof(*rows));
	if (!users || !rows) {
		fvm_users_free(users);
		free(rows);
		fvm_procs_free(&now);
		return fvm_error_set(err, ENOMEM, "show the processes");
	}
	for (size_t i = 0; i < now.count; i++)
		proc_row(users, &now.items[i], proc_cpu(t, &now.items[i], at_ns), &rows[i]);
	rows_replace(t, rows, now.count);
	fvm_users_free(users);
	fvm_procs_free(&t->procs);
	t->procs = now;
	t->procs_ns = at_ns;
	return 0;
}

static int sample(struct top *t, struct fvm_error *err)
{
	int r = t->vm[0] ? sample_procs(t, err) : sample_vms(t, err);
	if (r != -ESRCH && r != -ENOENT)
		return r;
	/* the VM we look at has ended */
	snprintf(t->message, sizeof(t->message), "%.180s", err->text);
	*err = (struct fvm_error){ 0 };
	t->vm[0] = '\0';
	fvm_procs_free(&t->procs);
	return sample_vms(t, err);
}

/* ---- drawing ---- */

static void draw(struct top *t)
{
	static const char *const orders[ORDERS] = { "CPU", "memory", "name" };
	struct cli_screen *s = &t->screen;
	double load[3] = { 0 };
	size_t room = s->rows > FRAME_LINES ? (size_t)(s->rows - FRAME_LINES) : 0;
	if (t->chosen < t->first)
		t->first = t->chosen;
	if (room && t->chosen >= t->first + room)
		t->first = t->chosen - room + 1;
	if (t->first + room > t->count)
		t->first = t->count > room ? t->count - room : 0;
	(void)getloadavg(load, 3);
	if (t->vm[0])
		cli_screen_line(s, "1", "fvm top: VM %s, %zu processes", t->vm, t->count);
	else
		cli_screen_line(s, "1", "fvm top: %zu VMs running, load of the host %.2f of %ld",
				t->count, load[0], sysconf(_SC_NPROCESSORS_ONLN));
	cli_screen_line(s, "", "q quit  arrows choose  %s  k kill  p pause/resume  s sort (%s)",
			t->vm[0] ? "escape back" : "enter processes", orders[t->order]);
	if (t->vm[0])
		cli_screen_line(s, "7", "%7s %7s %-10s %c %6s %10s %6s %s", "PID", "HOSTPID",
				"USER", 'S', "CPU%", "TIME", "MEMORY", "COMMAND");
	else
		cli_screen_line(s, "7", "%-22s %-8s %6s %6s %6s %6s %6s %6s %6s", "NAME", "STATE",
				"CPU%", "MEMORY", "MAX", "PIDS", "MAX", "READ", "WRITE");
	for (size_t i = 0; i < room; i++) {
		size_t at = t->first + i;
		if (at < t->count)
			cli_screen_line(s, at == t->chosen ? "7" : "", "%s", t->rows[at].text);
		else
			cli_screen_line(s, "", "%s", "");
	}
	cli_screen_line(s, "", "%s", t->message);
	cli_screen_show(s);
}

/* ---- what keys do ---- */

/* "VERB 'WHAT'CHOICES" in the last line. Return: the key that was given as an answer */
static int ask(struct top *t, const char *verb, const char *what, const char *choices)
{
	int key;
	char clean[120];
	snprintf(t->message, sizeof(t->message), "%s '%s'%s", verb,
		 cli_clean(what, clean, sizeof(clean)), choices);
	do {
		draw(t);
		key = cli_screen_key(&t->screen, 30000);
	} while (key == CLI_KEY_REDRAW);
	t->message[0] = '\0';
	return key;
}

static void say(struct top *t, int r, const struct fvm_error *err, const char *done)
{
	if (r < 0)
		snprintf(t->message, sizeof(t->message), "%.140s: %.50s", err->text, strerror(-r));
	else
		snprintf(t->message, sizeof(t->message), "%s", done);
}

static const char *chosen_vm(const struct top *t)
{
	if (t->vm[0])
		return t->vm;
	return t->chosen < t->count ? t->rows[t->chosen].name : NULL;
}

static void kill_vm(struct top *t, const char *name)
{
	scoped_vm vm = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	if (ask(t, "kill VM", name, ", all its processes, now? y/n") != 'y')
		return;
	int r = fvm_vm_open(t->store, name, FVM_NO_LOCK, &vm, &err);
	if (r == 0)
		r = fvm_vm_kill(&vm, 3000, &err);
	say(t, r, &err, "killed");
	scoped_vm tidy = { .dir = -1, .lock = -1 };
	if (r == 0) /* who opens it takes away what is left of the run */
		(void)fvm_vm_open(t->store, name, FVM_LOCK_NOWAIT, &tidy, NULL);
}

static void kill_process(struct top *t)
{
	if (t->chosen >= t->count)
		return;
	const struct fvm_proc p = t->rows[t->chosen].proc;
	int key = ask(t, "end process", p.name, "? t: SIGTERM, k: SIGKILL, n: no");
	if (key != 't' && key != 'k')
		return;
	struct fvm_error err = { 0 };
	int r = fvm_proc_signal(&p, key == 't' ? SIGTERM : SIGKILL);
	if (r < 0)
		fvm_error_set(&err, -r, "signal process %d", (int)p.vm_pid);
	say(t, r, &err, "sent");
}

static void toggle_pause(struct top *t, const char *name)
{
	scoped_vm vm = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	int r = fvm_vm_open(t->store, name, FVM_LOCK_NOWAIT, &vm, &err);
	bool paused = r == 0 && fvm_vm_state(&vm) == FVM_PAUSED;
	if (r == 0)
		r = paused ? fvm_vm_resume(&vm, &err) : fvm_vm_pause(&vm, 2000, NULL, &err);
	say(t, r, &err, paused ? "goes on" : "paused");
}

static void choose(struct top *t, int key)
{
	size_t page = t->screen.rows > FRAME_LINES ? (size_t)(t->screen.rows - FRAME_LINES) : 1;
	size_t last = t->count ? t->count - 1 : 0, at = t->chosen;
	switch (key) {
	case CLI_KEY_UP:
		at -= at > 0;
		break;
	case CLI_KEY_DOWN:
		at++;
		break;
	case CLI_KEY_PAGE_UP:
		at = at > page ? at - page : 0;
		break;
	case CLI_KEY_PAGE_DOWN:
		at += page;
		break;
	case CLI_KEY_HOME:
		at = 0;
		break;
	case CLI_KEY_END:
		at = last;
		break;
	}
	t->chosen = at > last ? last : at;
}

static void look_into(struct top *t, const char *name)
{
	fvm_procs_free(&t->procs);
	snprintf(t->vm, sizeof(t->vm), "%s", name);
	t->chosen = t->first = t->count = 0;
}

/* Return: whether to sample again at once */
static bool press(struct top *t, int key)
{
	const char *vm = chosen_vm(t);
	char name[FVM_NAME_MAX + 1] = "";
	if (vm)
		strcpy(name, vm);
	t->message[0] = '\0';
	if (key == 's' || key == CLI_KEY_LEFT || key == CLI_KEY_RIGHT)
		t->order = (t->order + (key == CLI_KEY_LEFT ? ORDERS - 1 : 1)) % ORDERS;
	else if ((key == '\n' || key == '\r') && !t->vm[0] && name[0])
		look_into(t, name);
	else if (key == CLI_KEY_ESCAPE && t->vm[0])
		look_into(t, "");
	else if (key == 'k' && t->vm[0])
		kill_process(t);
	else if (key == 'k' && name[0])
		kill_vm(t, name);
	else if (key == 'p' && name[0])
		toggle_pause(t, name);
	else {
		choose(t, key);
		return false;
	}
	return true;
}

static int loop(struct top *t, struct fvm_error *err)
{
	int64_t due_ns = 0;
	for (;;) {
		int64_t left_ms = (due_ns - fvm_clock_ns()) / 1000000;
		if (left_ms <= 0) {
			int r = sample(t, err);
			if (r < 0)
				return r;
			/* the first rates soon */
			left_ms = due_ns ? t->interval_ms : 300;
			due_ns = fvm_clock_ns() + left_ms * 1000000;
		}
		draw(t);
		int key = cli_screen_key(&t->screen, (int)left_ms);
		if (key == 'q' || key == CLI_KEY_QUIT)
			return 0;
		if (key != CLI_KEY_NONE && key != CLI_KEY_REDRAW && press(t, key))
			due_ns = 1;
	}
}

static const struct cli_option options[] = {
	{ 'd', "delay", "SECONDS", "between samples (2)" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct top *t = into;
	char *end;
	double s = strtod(value, &end);
	(void)key;
	if (*end || end == value || !(s >= 0.1 && s <= 3600))
		return fvm_error_set(err, EINVAL, "'%s' is no number of seconds from 0.1 to 3600",
				     value);
	t->interval_ms = (int)(s * 1000);
	return 0;
}

static int check_vm(struct top *t, const char *name, struct fvm_error *err)
{
	scoped_vm vm = { .dir = -1, .lock = -1 };
	scoped_running running = { 0 };
	int r = fvm_vm_open(t->store, name, FVM_NO_LOCK, &vm, err);
	if (r == 0)
		r = fvm_running_load(&vm, &running, err);
	if (r == 0)
		strcpy(t->vm, vm.config.name);
	return r;
}

static int top_main(const struct cli *cli, int argc, char **argv)
{
	struct top t = { .interval_ms = 2000 };
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_top, argc, argv, take_option, &t);
	if (first < 0)
		return cli_exit_parse(first);
	t.store = &store;
	if (cli->json || !isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO)) {
		fvm_error_set(&err, 0, "top needs a terminal");
		fvm_error_hint(&err, "for a program: fvm --json stats, fvm --json ps");
		return cli_fail(&err);
	}
	int r = fvm_store_open(&store, &err);
	if (r == 0 && first < argc)
		r = check_vm(&t, argv[first], &err);
	if (r == 0)
		r = cli_screen_open(&t.screen, &err);
	if (r < 0)
		return cli_fail(&err);
	r = loop(&t, &err);
	cli_screen_close(&t.screen);
	free(t.rows);
	cli_usages_free(&t.usages);
	fvm_procs_free(&t.procs);
	return r < 0 ? cli_fail(&err) : 0;
}

const struct cli_command cli_top = {
	.name = "top",
	.operands = "[VM]",
	.summary = "Watch running VMs, or the processes of one, on the whole screen.",
	.text = "Keys: arrows, page keys: choose; enter: the processes of a VM; escape: back;\n"
		"k: kill a VM or process; p: pause or resume the VM; s: sort; q: quit.",
	.options = options,
	.anywhere = true,
	.max_operands = 1,
	.main = top_main,
};
