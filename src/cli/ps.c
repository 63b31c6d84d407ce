#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/usage.h"

#define COMMANDS_MS 800 /* for reading command lines; a hostile process may hold that up */

struct vm_view {
	const char *name;
	const struct fvm_users *users;
};

static json_t *describe(const struct vm_view *view, const struct fvm_proc *p)
{
	char command[8192], user[64], state[2] = { p->state, '\0' };
	uid_t uid = fvm_users_inside(view->users, p->uid);
	const char *name = fvm_users_name(view->users, uid, user);
	char clean[64];
	return json_pack("{s:s, s:i, s:i, s:o, s:o, s:s, s:i, s:I, s:I, s:s}", "vm", view->name,
			 "pid", (int)p->vm_pid, "host_pid", (int)p->pid, "user",
			 name ? json_string(cli_clean(name, clean, sizeof(clean))) : json_null(),
			 "uid", uid == (uid_t)-1 ? json_null() : json_integer(uid), "state", state,
			 "threads", (int)p->threads, "cpu_ns", (json_int_t)p->cpu_ns,
			 "memory_bytes", (json_int_t)p->memory_bytes, "command",
			 cli_command_line(p, command, sizeof(command)));
}

static void print_line(const struct vm_view *view, const struct fvm_proc *p, bool with_vm)
{
	char command[8192], user[64], clean[64], memory[8], time[24];
	uid_t uid = fvm_users_inside(view->users, p->uid);
	const char *name = fvm_users_name(view->users, uid, user);
	if (name)
		(void)cli_clean(name, clean, sizeof(clean));
	else
		snprintf(clean, sizeof(clean), uid == (uid_t)-1 ? "?" : "%u", uid);
	if (with_vm)
		printf("%-16s ", view->name);
	printf("%7d %7d %-12.12s %c %10s %6s %s\n", (int)p->vm_pid, (int)p->pid, clean, p->state,
	       cli_cpu_time(p->cpu_ns, time), cli_size_short(true, p->memory_bytes, memory),
	       cli_command_line(p, command, sizeof(command)));
}

static void show(const struct vm_view *view, const struct fvm_procs *procs, bool with_vm,
		 json_t *all)
{
	for (size_t i = 0; i < procs->count; i++) {
		if (all)
			json_array_append_new(all, describe(view, &procs->items[i]));
		else
			print_line(view, &procs->items[i], with_vm);
	}
}

static int show_vm(const struct fvm_store *store, const char *name, bool with_vm, json_t *all,
		   struct fvm_error *err)
{
	scoped_vm vm = { .dir = -1, .lock = -1 };
	scoped_running running = { 0 };
	scoped_procs procs = { 0 };
	struct fvm_cgroups g;
	int r = fvm_vm_open(store, name, FVM_NO_LOCK, &vm, err);
	if (r == 0)
		r = fvm_running_load(&vm, &running, err);
	if (r < 0)
		return r;
	r = fvm_cgroup_named(running.cgroup, &g);
	if (r == 0)
		r = fvm_procs_list(&g, running.init_pid, &procs);
	if (r < 0)
		return fvm_error_set(err, -r, "list the processes of VM '%s'", name);
	fvm_procs_commands(&procs, COMMANDS_MS);
	struct fvm_users *users = fvm_users_open(running.init_pid, &vm);
	if (!users)
		return fvm_error_set(err, ENOMEM, "list the processes of VM '%s'", name);
	const struct vm_view view = { vm.config.name, users };
	show(&view, &procs, with_vm, all);
	fvm_users_free(users);
	return 0;
}

static int ps_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_strv names = { 0 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_ps, argc, argv, NULL, NULL);
	if (first < 0)
		return cli_exit_parse(first);
	bool every = first == argc, with_vm = argc - first != 1;
	if (fvm_store_open(&store, &err) < 0 || (every && fvm_store_list(&store, &names, &err) < 0))
		return cli_fail(&err);
	for (; first < argc; first++) {
		if (fvm_strv_add(&names, argv[first]) < 0)
			return CLI_FAILED;
	}
	json_t *all = cli->json ? json_array() : NULL;
	if (!all)
		printf("%s%7s %7s %-12s %c %10s %6s %s\n", with_vm ? "VM               " : "",
		       "PID", "HOSTPID", "USER", 'S', "TIME", "MEMORY", "COMMAND");
	int status = 0;
	fvm_strv_each(&names, i) {
		struct fvm_error theirs = { 0 };
		int r = show_vm(&store, names.items[i], with_vm, all, &theirs);
		if (r < 0 && !every)
			status = cli_fail(&theirs);
	}
	if (all)
		return cli_print_json(all) ? CLI_FAILED : status;
	return fflush(stdout) == 0 ? status : CLI_FAILED;
}

const struct cli_command cli_ps = {
	.name = "ps",
	.operands = "[VM..]",
	.summary = "List the processes of running VMs.",
	.text = "PID and USER are the VM's, HOSTPID is the host's. [NAME] instead of a command "
		"line:\n"
		"a process that does not tell it, or not in time.",
	.anywhere = true,
	.max_operands = -1,
	.main = ps_main,
};
