#include <errno.h>
#include <grp.h>
#include <jansson.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/commands.h"
#include "cli/keeper.h"
#include "cli/vm_options.h"
#include "cli/vm_start.h"
#include "fvm/changes.h"
#include "fvm/orphans.h"
#include "fvm/prove.h"
#include "fvm/sys.h"
#include "fvm/stamps.h"

#define ORPHANS_MS 1000 /* they end with the VM, more or less */

enum { OPT_NAME = 400, OPT_RM, OPT_KEEP, OPT_COMMIT, OPT_TRACE, OPT_PROVE, OPT_WATCHDOG };

struct run_options {
	struct fvm_config config;
	struct cli_command_options command;
	const char *name;
	bool rm, keep, commit, detach, trace, prove;
	struct fvm_watchdog watchdog;
	/* options that say what the VM is, for one that exists already */
	struct {
		int key;
		const char *value;
	} given[64];
	size_t given_count;
};

static const struct cli_option options[] = {
	{ OPT_NAME, "name", "NAME", "run in the VM NAME, made if there is none" },
	{ OPT_RM, "rm", NULL, "delete the VM afterwards" },
	{ OPT_KEEP, "keep", NULL, "keep the VM afterwards, whatever happened" },
	{ OPT_COMMIT, "commit", NULL, "apply its changes to the host when CMD succeeds" },
	{ OPT_PROVE, "prove", NULL, "try from inside that it is confined before CMD starts" },
	{ OPT_TRACE, "trace", NULL, "note what its programs open, write, execute, connect to" },
	{ OPT_WATCHDOG, "watchdog", "SEC[:DO]",
	  "notice when CMD crashes or hangs for SEC s; DO: log (default), restart, restore" },
	{ 'd', "detach", NULL, "in the background; print the VM's name" },
	CLI_COMMAND_OPTIONS,
	VM_OPTIONS,
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct run_options *o = into;
	switch (key) {
	case OPT_NAME:
		o->name = value;
		return fvm_name_check(value, err);
	case OPT_RM:
		o->rm = true;
		return 0;
	case OPT_KEEP:
		o->keep = true;
		return 0;
	case OPT_COMMIT:
		o->commit = true;
		return 0;
	case OPT_PROVE:
		o->prove = true;
		return 0;
	case OPT_TRACE:
		o->trace = true;
		return 0;
	case OPT_WATCHDOG:
		return fvm_watchdog_parse(value, &o->watchdog, err);
	case 'd':
		o->detach = true;
		return 0;
	default:
		break;
	}
	int r = cli_command_option(&o->command, key, value, err);
	if (r != 0)
		return r < 0 ? r : 0;
	r = cli_vm_option(&o->config, key, value, err);
	if (r > 0 && o->given_count == FVM_COUNT(o->given))
		return fvm_error_say(err, E2BIG, "too many options");
	if (r > 0) {
		o->given[o->given_count].key = key;
		o->given[o->given_count++].value = value;
	}
	return r < 0 ? r : 0;
}

/* There has to be something to go back to, and nobody who follows what is no more then. */
static int check_restore(const struct run_options *o, struct fvm_error *err)
{
	if (o->watchdog.action != FVM_WATCHDOG_RESTORE || (o->detach && !o->rm))
		return 0;
	fvm_error_hint(err, "fvm run -d --watchdog .., then fvm attach or fvm logs -f");
	return fvm_error_say(err, EINVAL, "--watchdog SEC:restore takes --detach, and no --rm");
}

static int check_options(const struct run_options *o, struct fvm_error *err)
{
	if (o->rm + o->keep + o->commit > 1)
		return fvm_error_say(err, EINVAL, "--rm, --keep and --commit exclude each other");
	if (o->commit && o->detach)
		return fvm_error_say(err, EINVAL, "--commit and --detach exclude each other");
	return check_restore(o, err);
}

/* What a run holds from opening the VM to its end. */
struct run {
	const struct cli *cli;
	const struct run_options *options;
	struct fvm_store store;
	struct fvm_vm vm;
	bool made;  /* by us: there was none of that name */
	bool alone; /* nobody but us reaps what the VM leaves */
	struct fvm_ahead *ahead;
	struct fvm_lookout *lookout;
	struct fvm_started started;
	int keeper; /* of cli_keeper_hold(), or -1 */
};

/* A VM that exists and is stopped takes the options given as its own, from now on. */
static int change_config(struct run *run, const struct run_options *o, struct fvm_error *err)
{
	struct fvm_vm *vm = &run->vm;
	const char *name = vm->config.name;
	if (o->given_count == 0)
		return 0;
	if (fvm_vm_state(vm) != FVM_STOPPED) {
		fvm_error_hint(err, "fvm stop %s first, or run it without these options", name);
		return fvm_error_say(err, EBUSY, "VM '%s' is running: what it is can't be changed",
				     name);
	}
	for (size_t i = 0; i < o->given_count; i++) {
		if (o->given[i].key == OPT_DISK || o->given[i].key == OPT_INIT)
			return fvm_error_say(err, EINVAL,
					     "VM '%s' exists: --disk and --init are for new ones",
					     name);
		cli_vm_option_clear(&vm->config, o->given[i].key);
	}
	for (size_t i = 0; i < o->given_count; i++) {
		int r = cli_vm_option(&vm->config, o->given[i].key, o->given[i].value, err);
		if (r < 0)
			return r;
	}
	if (!o->rm)
		cli_say(run->cli, "VM %s keeps these options from now on", name);
	return fvm_vm_save(vm, err);
}

static int open_or_make(struct run *run, struct run_options *o, struct fvm_error *err)
{
	if (o->name) {
		int r = fvm_vm_open(&run->store, o->name, FVM_LOCK, &run->vm, err);
		if (r != -ENOENT)
			return r < 0 ? r : change_config(run, o, err);
		*err = (struct fvm_error){ 0 };
	}
	int r = cli_vm_new(&run->store, &o->config, o->name, err);
	if (r < 0)
		return r;
	o->config.throw_away = o->rm;
	o->config.first_start_ns = fvm_now_ns(); /* it starts at once: one write for both */
	run->made = true;
	return fvm_vm_create(&run->store, &o->config, !o->rm, &run->vm, err);
}

static int exit_status(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* PID 1 ends with the status of its first session. */
static int reap(const struct run *run, int *ret_status)
{
	while (waitpid(run->started.init, ret_status, 0) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

static void say_next_steps(const struct run *run)
{
	const char *name = run->vm.config.name;
	cli_say(run->cli,
		"VM %s is kept, with what it changed. See:  fvm diff %s\n"
		"Keep it on the host:  fvm commit %s     Go on in it:  fvm run --name %s\n"
		"Throw it away:        fvm rm %s",
		name, name, name, name, name);
}

static _Noreturn void become_commit(const struct run *run)
{
	char *argv[8], quiet[] = "--quiet", json[] = "--json";
	size_t n = 0;
	argv[n++] = (char *)(uintptr_t) "fvm";
	if (run->cli->quiet)
		argv[n++] = quiet;
	if (run->cli->json)
		argv[n++] = json;
	argv[n++] = (char *)(uintptr_t) "commit";
	argv[n++] = (char *)(uintptr_t)run->vm.config.name;
	argv[n] = NULL;
	_exit(cli_exec_changes(argv));
}

/* fvm-changes does it; a VM of ours in which nothing is left then goes, as others do. */
static int commit(struct run *run)
{
	struct fvm_error err = { 0 };
	const char *name = run->vm.config.name;
	scoped_vm vm = { .dir = -1, .lock = -1 };
	int status = 0;
	pid_t pid = fork();
	if (pid == 0)
		become_commit(run);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (pid < 0) {
		fvm_error_set(&err, errno, "start the commit");
		return cli_fail(&err);
	}
	if (status != 0)
		return exit_status(status);
	if (run->made && fvm_vm_open(&run->store, name, FVM_LOCK, &vm, &err) == 0 &&
	    fvm_changes_any(&vm, &err) == 0)
		(void)fvm_vm_remove(&vm, false, NULL);
	return 0;
}

/* After the end: what becomes of the VM. Return: exit status */
static int dispose(struct run *run, int status, struct fvm_error *err)
{
	const struct run_options *o = run->options;
	const char *name = run->vm.config.name;
	scoped_vm vm = { .dir = -1, .lock = -1 };
	enum fvm_lock lock = o->rm ? FVM_LOCK_AS_IT_IS : FVM_LOCK;
	int r = fvm_vm_open(&run->store, name, lock, &vm, err);
	if (r == -ENOENT)
		return status; /* somebody removed it while it ran */
	if (r < 0)
		return cli_fail(err);
	int any = o->rm || o->keep || !(run->made || o->commit) ? 0 : fvm_changes_any(&vm, err);
	if (any < 0) { /* as where a file server has died meanwhile: then nothing is thrown away */
		(void)cli_fail(err);
		*err = (struct fvm_error){ 0 };
	}
	if (o->rm || (run->made && !o->keep && any == 0)) {
		r = fvm_vm_remove(&vm, o->rm, err);
		return r < 0 ? cli_fail(err) : status;
	}
	if (o->commit && status == 0 && any) {
		fvm_vm_close(&vm);
		return commit(run);
	}
	fvm_stamps_update_later(&vm);
	if (run->made && any)
		say_next_steps(run);
	return status;
}

/* --detach --rm: somebody has to stay for the end. */
static void keep_watch(struct run *run)
{
	struct fvm_error err = { 0 };
	pid_t pid = fork();
	if (pid != 0)
		return;
	setsid();
	for (int fd = 0; fd < 3; fd++)
		close(fd);
	struct pollfd p = { .fd = run->started.pidfd, .events = POLLIN };
	while (poll(&p, 1, -1) < 0 && errno == EINTR)
		;
	(void)dispose(run, 0, &err);
	_exit(0);
}

static int finish_detached(struct run *run)
{
	struct fvm_error err = { 0 };
	if (run->options->rm)
		keep_watch(run);
	if (run->keeper >= 0 && cli_keeper_begin(&run->vm, &run->started, run->keeper, &err) < 0)
		fvm_error_print("fvm", &err); /* PID 1 sees that there is none */
	fvm_fd_closep(&run->keeper);
	if (run->cli->json)
		return cli_print_json(json_pack("{s:s, s:i}", "name", run->vm.config.name,
						"init_pid", (int)run->started.init));
	printf("%s\n", run->vm.config.name);
	return 0;
}

/* PID 1 tells its status when there is nothing of the VM but itself; its namespaces take the kernel
 * half a millisecond more. For what is thrown away nobody has to wait for that. Returns only if it
 * died without a word, the VM is somebody else's by now, or has something of the host's. */
static void leave_early(struct run *run)
{
	const struct fvm_config *c = &run->vm.config;
	struct fvm_error err = { 0 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	int status;
	/* what the host lent to it is the host's again when we say so */
	if (c->binds.count || c->direct.count || c->devices.count || c->ports.count)
		return;
	if (!run->made || read(run->started.ended, &status, sizeof(status)) != sizeof(status))
		return;
	if (fvm_vm_open(&run->store, run->vm.config.name, FVM_LOCK_AS_IT_IS, &vm, &err) == 0 &&
	    strcmp(vm.config.id, run->vm.config.id) == 0)
		(void)fvm_vm_remove_exit(&vm, run->started.pidfd, status, &err);
}

static int follow(struct run *run, bool terminal, struct fvm_error *err)
{
	int status = 0;
	int r = fvm_client_stream(run->started.client, run->started.pidfd, run->started.ended,
				  terminal, &status, err);
	if (r < 0)
		return cli_fail(err);
	if (r == 1) {
		cli_say(run->cli, "\r\nDetached; VM %s goes on:  fvm attach %s",
			run->vm.config.name, run->vm.config.name);
		return 0;
	}
	if (run->options->rm && !run->alone)
		leave_early(run);
	r = reap(run, &status);
	if (r < 0)
		return cli_fail(err);
	return dispose(run, exit_status(status), err);
}

static int start(struct run *run, const struct fvm_command *command, struct fvm_error *err)
{
	const struct fvm_start_options so = {
		.first = command,
		.until_first_ends = true,
		.throw_away = run->options->rm && run->made,
		.prove = run->options->prove,
		.trace = run->options->trace,
		.watchdog = run->options->watchdog,
		.user_uid = command->uid,
		.user_gid = command->gid,
		.ahead = run->ahead,
		.lookout = run->lookout,
	};
	return cli_vm_start(&run->vm, &so, &run->started, err);
}

/* It was started for one command; a VM of ours that could not start is no use to anybody. */
static int start_failed(struct run *run, const struct fvm_error *err)
{
	if (run->made)
		(void)fvm_vm_remove(&run->vm, false, NULL);
	return cli_fail(err);
}

/* On stderr: stdout is the program's. */
static void tell_proof(const struct run *run, const struct fvm_proof *p)
{
	static const char *const words[] = { "holds", "open", "skipped", "leaks" };
	if (run->cli->json) {
		json_t *row = json_pack("{s:s, s:s, s:s}", "channel", p->name, "result",
					words[p->result], "what", p->what);
		scoped_free char *text = row ? json_dumps(row, JSON_COMPACT) : NULL;
		json_decref(row);
		if (text)
			fprintf(stderr, "%s\n", text);
	} else if (p->result == FVM_PROOF_LEAKS) {
		fprintf(stderr, "fvm: LEAK: %s: %s\n", p->name, p->what);
	} else if (p->result != FVM_PROOF_HOLDS) {
		cli_say(run->cli, "fvm: open: %s: %s", p->name, p->what);
	}
}

/* The rows of the self-test. Return: whether all hold */
static bool proof(struct run *run)
{
	struct fvm_proof p;
	unsigned int count[FVM_PROOF_LEAKS + 1] = { 0 };
	int r;
	while ((r = fvm_start_proof(&run->started, &p)) > 0) {
		if (p.result < 0 || p.result > FVM_PROOF_LEAKS)
			p.result = FVM_PROOF_LEAKS;
		count[p.result]++;
		tell_proof(run, &p);
	}
	if (r < 0)
		fprintf(stderr, "fvm: LEAK: files: the VM changed a file of the host\n");
	bool held = r == 0 && count[FVM_PROOF_LEAKS] == 0 && count[FVM_PROOF_HOLDS] > 0;
	cli_say(run->cli, "fvm: %u channels hold, %u are open by choice, %u leak",
		count[FVM_PROOF_HOLDS], count[FVM_PROOF_OPEN], count[FVM_PROOF_LEAKS]);
	return held;
}

/* PID 1 has seen it, too, or the host's side has: either way nothing of it goes on. */
static int leaked(struct run *run)
{
	struct fvm_error err = { 0 };
	int ignored;
	(void)sys_pidfd_send_signal(run->started.pidfd, SIGKILL);
	(void)reap(run, &ignored);
	fvm_error_set(&err, EBADE, "prove that VM '%s' is confined", run->vm.config.name);
	(void)cli_fail(&err);
	return dispose(run, CLI_FAILED, &err);
}

static int run_new(struct run *run, struct fvm_command *command)
{
	struct fvm_error err = { 0 };
	const struct run_options *o = run->options;
	run->alone = !o->detach && fvm_orphans_adopt();
	run->keeper =
		o->watchdog.action == FVM_WATCHDOG_RESTORE ? cli_keeper_hold(&run->vm, &err) : -1;
	if (err.code)
		return start_failed(run, &err);
	if (start(run, command, &err) < 0)
		return start_failed(run, &err);
	/* others may now use it */
	fvm_fd_closep(&run->vm.lock);
	if (o->prove && !proof(run))
		return leaked(run);
	int r = fvm_start_wait_exec(&run->started, &err);
	if (r < 0) {
		int status = cli_exec_failure(&err), ignored;
		err = (struct fvm_error){ 0 };
		(void)reap(run, &ignored);
		return dispose(run, status, &err);
	}
	return o->detach ? finish_detached(run) : follow(run, command->terminal, &err);
}

/* What is done at a start or an end can't be had of a VM that runs already, for somebody else. */
static int check_running(const struct run *run, struct fvm_error *err)
{
	const struct run_options *o = run->options;
	const char *what = o->prove		 ? "--prove"
			   : o->trace		 ? "--trace"
			   : o->watchdog.seconds ? "--watchdog"
			   : o->commit		 ? "--commit"
			   : o->rm		 ? "--rm"
						 : NULL;
	if (!what)
		return 0;
	fvm_error_hint(err, "fvm stop %s first, or run it without %s", run->vm.config.name, what);
	return fvm_error_say(err, EBUSY, "VM '%s' runs already: %s has to be there from its start",
			     run->vm.config.name, what);
}

static int run_beside(struct run *run, const struct run_options *o, int argc, char **argv)
{
	struct fvm_error err = { 0 };
	if (check_running(run, &err) < 0 || cli_need_awake(&run->vm, &err) < 0)
		return cli_fail(&err);
	fvm_fd_closep(&run->vm.lock);
	return cli_exec_in(run->cli, &run->vm, &o->command,
			   o->detach ? CLI_EXEC_PRINT_NAME : CLI_EXEC_FOLLOW, argc, argv);
}

static int run_with(struct run *run, struct run_options *o, int argc, char **argv)
{
	scoped_command command = { 0 };
	struct fvm_error err = { 0 };
	if (check_options(o, &err) < 0)
		return cli_fail(&err);
	if (!o->name && geteuid() != 0)
		run->ahead = fvm_ahead_begin();
	if (fvm_store_open(&run->store, &err) < 0)
		return cli_fail(&err);
	if (!o->name && !run->store.rootless)
		run->lookout = fvm_lookout_begin(&run->store, &o->config);
	if (open_or_make(run, o, &err) < 0)
		return cli_fail(&err);
	if (!run->made && fvm_vm_state(&run->vm) != FVM_STOPPED)
		return run_beside(run, o, argc, argv);
	if (fvm_vm_policies(&run->vm, argc > 0 ? argv[0] : NULL, &err) < 0)
		return start_failed(run, &err);
	if (cli_command_make(&run->vm, &o->command, o->detach, argc, argv, &command, &err) < 0)
		return start_failed(run, &err);
	if (o->watchdog.seconds && fvm_watchdog_env(&o->watchdog, &command.env) < 0) {
		fvm_error_set(&err, ENOMEM, "tell the program of its watchdog");
		return start_failed(run, &err);
	}
	return run_new(run, &command);
}

static int run_main(const struct cli *cli, int argc, char **argv)
{
	struct run_options o = { 0 };
	struct run run = {
		.cli = cli,
		.options = &o,
		.store = { .dir = -1, .vms = -1, .run = -1 },
		.vm = { .dir = -1, .lock = -1 },
		.started = FVM_STARTED_NONE,
		.keeper = -1,
	};
	int first = cli_parse(&cli_run, argc, argv, take_option, &o);
	int status =
		first < 0 ? cli_exit_parse(first) : run_with(&run, &o, argc - first, argv + first);
	fvm_ahead_free(run.ahead);
	fvm_lookout_free(run.lookout);
	fvm_started_close(&run.started);
	fvm_fd_closep(&run.keeper);
	fvm_vm_close(&run.vm);
	fvm_store_close(&run.store);
	if (run.alone)
		fvm_orphans_reap(ORPHANS_MS);
	cli_command_options_free(&o.command);
	fvm_config_free(&o.config);
	return status;
}

const struct cli_command cli_run = {
	.name = "run",
	.operands = "[--] [CMD..]",
	.summary = "Run a command in a VM, new or named; without CMD the user's shell.",
	.text = "The VM starts from what this machine is now and keeps what it changes to itself.\n"
		"Afterwards it is deleted if it changed nothing, and kept otherwise.",
	.options = options,
	.max_operands = -1,
	.main = run_main,
};
