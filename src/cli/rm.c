#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/names.h"
#include "fvm/state.h"
#include "fvm/sys.h"

enum { OPT_FORCE = 'f', OPT_ALL = 'a', OPT_YES = 'y' };

struct rm_options {
	bool force, all, yes;
};

static const struct cli_option options[] = {
	{ OPT_FORCE, "force", NULL,
	  "also when it is running or can't be read: it is killed first" },
	{ OPT_ALL, "all", NULL, "all VMs of this store" },
	{ OPT_YES, "yes", NULL, "do not ask" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct rm_options *o = into;
	(void)value, (void)err;
	if (key == OPT_FORCE)
		o->force = true;
	else if (key == OPT_ALL)
		o->all = true;
	else
		o->yes = true;
	return 0;
}

static int kill_it(const struct fvm_vm *vm, struct fvm_error *err)
{
	scoped_running running = { 0 };
	/* one whose starter was killed is about to end, and has no state yet */
	if (fvm_vm_has_ended(vm))
		return 0;
	int r = fvm_running_load(vm, &running, err);
	if (r == -ESRCH)
		return 0;
	if (r < 0)
		return r;
	scoped_fd pidfd = fvm_running_pidfd(&running);
	if (pidfd < 0)
		return 0;
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	r = sys_pidfd_send_signal(pidfd, SIGKILL);
	if (r < 0 && r != -ESRCH)
		return fvm_error_set(err, -r, "kill VM '%s'", vm->config.name);
	if (poll(&p, 1, 10000) <= 0)
		return fvm_error_set(err, ETIMEDOUT, "wait for VM '%s' to end", vm->config.name);
	/* its descriptors, the alive lock with them, are closed a moment before the pidfd tells */
	return 0;
}

/* What has no readable configuration can only be thrown away by its directory. */
static int remove_broken(const struct fvm_store *store, const char *name, struct fvm_error *err)
{
	int r = fvm_store_discard(store, name);
	return r < 0 ? fvm_error_set(err, -r, "delete VM '%s'", name) : 0;
}

static void show(void *arg, unsigned long long done)
{
	cli_progress_show(arg, done, 0, "names");
}

static int remove_vm(const struct cli *cli, struct fvm_vm *vm, struct fvm_error *err)
{
	struct cli_progress bar;
	cli_progress_start(&bar, cli, "delete");
	int r = fvm_vm_remove_told(vm, show, &bar, err);
	cli_progress_end(&bar);
	return r;
}

static int remove_one(const struct cli *cli, const struct fvm_store *store, const char *name,
		      bool force, struct fvm_error *err)
{
	scoped_vm vm = { .dir = -1, .lock = -1 };
	int r = fvm_vm_open(store, name, FVM_LOCK, &vm, err);
	if (r == -EBADMSG && force) {
		*err = (struct fvm_error){ 0 };
		return remove_broken(store, name, err);
	}
	if (r < 0)
		return r;
	if (force)
		r = kill_it(&vm, err);
	return r < 0 ? r : remove_vm(cli, &vm, err);
}

/* All of them, by a person at a terminal: that is much to lose by a slip. */
static bool agreed(const struct cli *cli, const struct rm_options *o, size_t count)
{
	char line[16];
	if (!o->all || o->yes || o->force || count == 0 || cli->json || !isatty(STDIN_FILENO) ||
	    !isatty(STDERR_FILENO))
		return true;
	fprintf(stderr, "delete all %zu VMs with all they changed? [y/N] ", count);
	return fgets(line, sizeof(line), stdin) && (line[0] == 'y' || line[0] == 'Y');
}

static int rm_main(const struct cli *cli, int argc, char **argv)
{
	struct rm_options o = { 0 };
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_strv names = { 0 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_rm, argc, argv, take_option, &o);
	if (first < 0)
		return cli_exit_parse(first);
	if (fvm_store_open(&store, &err) < 0 ||
	    cli_names_take(&cli_rm, &store, o.all, 0, argc - first, argv + first, &names, &err) < 0)
		return cli_fail(&err);
	if (!agreed(cli, &o, names.count))
		return 0;
	int status = 0;
	fvm_strv_each(&names, i) {
		err = (struct fvm_error){ 0 };
		if (remove_one(cli, &store, names.items[i], o.force, &err) < 0)
			status = cli_fail(&err);
	}
	return status;
}

const struct cli_command cli_rm = {
	.name = "rm",
	.operands = "VM..",
	.summary = "Delete VMs with all they changed.",
	.options = options,
	.anywhere = true,
	.max_operands = -1,
	.main = rm_main,
};
