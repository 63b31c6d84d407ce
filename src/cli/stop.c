#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/names.h"
#include "fvm/init.h"
#include "fvm/pause.h"
#include "fvm/stamps.h"

#define GRACE_S	    10
#define SLACK_MS    2000 /* for the kernel to end what is left, after the grace period */
#define KILL_MS	    10000
#define GRACE_MAX_S (30 * 86400)

struct stop_options {
	unsigned int grace_s;
	bool all;
};

static const struct cli_option options[] = {
	{ 'a', "all", NULL, "all VMs of this store that run" },
	{ 't', "time", "SECONDS", "what is left of it is killed after this long (default: 10)" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct stop_options *o = into;
	char *end;
	if (key == 'a') {
		o->all = true;
		return 0;
	}
	errno = 0;
	unsigned long n = strtoul(value, &end, 10);
	if (end == value || *end || value[0] == '-' || errno || n > GRACE_MAX_S)
		return fvm_error_set(err, EINVAL, "'%s' is no number of seconds", value);
	o->grace_s = (unsigned int)n;
	return 0;
}

/* One VM on its way down. */
struct stopping {
	struct fvm_vm vm;
	int pidfd; /* -1: nothing to wait for */
	bool ask_failed;
};

static int wake(const struct fvm_store *store, const char *name, struct fvm_error *err)
{
	scoped_vm locked = { .dir = -1, .lock = -1 };
	int r = fvm_vm_open(store, name, FVM_LOCK, &locked, err);
	return r < 0 ? r : fvm_vm_resume(&locked, err);
}

/* Ask PID 1. One that can't answer any more (out of descriptors, say) is killed later. */
static int ask(const struct fvm_store *store, const char *name, unsigned int grace_s,
	       struct stopping *s, struct fvm_error *err)
{
	int r = fvm_vm_open(store, name, FVM_NO_LOCK, &s->vm, err);
	if (r < 0)
		return r;
	scoped_running running = { 0 };
	(void)fvm_vm_has_ended(&s->vm); /* as one does, soon, whose starter was killed */
	r = fvm_running_load(&s->vm, &running, err);
	if (r < 0)
		return r;
	if (fvm_vm_state(&s->vm) == FVM_PAUSED)
		r = wake(store, name, err);
	if (r < 0)
		return r;
	s->pidfd = fvm_running_pidfd(&running);
	if (s->pidfd < 0)
		return 0;
	scoped_fd sock = fvm_control_connect(&s->vm, NULL);
	s->ask_failed = sock < 0 || fvm_control_shutdown(sock, grace_s * 1000, NULL) < 0;
	return 0;
}

static bool gone_by(int pidfd, long long deadline_ms)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	for (;;) {
		long long left = deadline_ms - fvm_clock_ms();
		int n = poll(&p, 1, left > 0 ? (int)left : 0);
		if (n > 0)
			return true;
		if (n == 0 || errno != EINTR)
			return false;
	}
}

static int finish(const struct fvm_store *store, struct stopping *s, long long deadline_ms,
		  struct fvm_error *err)
{
	if (s->pidfd < 0)
		return 0;
	if (s->ask_failed || !gone_by(s->pidfd, deadline_ms)) {
		int r = fvm_vm_kill(&s->vm, KILL_MS, err);
		if (r < 0 && r != -ESRCH)
			return r;
	}
	/* opening takes away what it left behind; if somebody else has it, he does */
	scoped_vm again = { .dir = -1, .lock = -1 };
	if (fvm_vm_open(store, s->vm.config.name, FVM_LOCK_NOWAIT, &again, NULL) == 0)
		fvm_stamps_update_later(&again);
	return 0;
}

static int stop_all(const struct cli *cli, const struct fvm_store *store, unsigned int grace_s,
		    const struct fvm_strv *names)
{
	struct stopping *all = calloc(names->count + 1, sizeof(*all));
	struct fvm_error err = { 0 };
	int status = 0;
	if (!all)
		return CLI_FAILED;
	fvm_strv_each(names, i) {
		all[i] = (struct stopping){ .vm = { .dir = -1, .lock = -1 }, .pidfd = -1 };
		err = (struct fvm_error){ 0 };
		int r = ask(store, names->items[i], grace_s, &all[i], &err);
		if (r == -ESRCH)
			cli_say(cli, "VM '%s' is not running", names->items[i]);
		else if (r < 0)
			status = cli_fail(&err);
	}
	long long deadline = fvm_clock_ms() + grace_s * 1000LL + SLACK_MS;
	fvm_strv_each(names, i) {
		err = (struct fvm_error){ 0 };
		if (finish(store, &all[i], deadline, &err) < 0)
			status = cli_fail(&err);
		fvm_fd_closep(&all[i].pidfd);
		fvm_vm_close(&all[i].vm);
	}
	free(all);
	return status;
}

static int stop_main(const struct cli *cli, int argc, char **argv)
{
	struct stop_options o = { .grace_s = GRACE_S };
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_strv names = { 0 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_stop, argc, argv, take_option, &o);
	if (first < 0)
		return cli_exit_parse(first);
	if (fvm_store_open(&store, &err) < 0 ||
	    cli_names_take(&cli_stop, &store, o.all, 1u << FVM_RUNNING | 1u << FVM_PAUSED,
			   argc - first, argv + first, &names, &err) < 0)
		return cli_fail(&err);
	return stop_all(cli, &store, o.grace_s, &names);
}

const struct cli_command cli_stop = {
	.name = "stop",
	.operands = "VM..",
	.summary = "Shut VMs down: ask their programs to end, then end them.",
	.text = "All programs get SIGTERM. What they changed stays in the VM.",
	.options = options,
	.anywhere = true,
	.max_operands = -1,
	.main = stop_main,
};
