#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/commands.h"
#include "cli/names.h"
#include "fvm/pause.h"
#include "fvm/sys.h"

#define GONE_MS 10000

struct kill_options {
	int signal;
	bool all;
};

static const struct cli_option options[] = {
	{ 'a', "all", NULL, "all VMs of this store that run" },
	{ 's', "signal", "SIG", "send this to its PID 1, which passes it on, instead of SIGKILL" },
	{ 0 },
};

/* "RTMIN", "RTMIN+3", "RTMAX-1": those that systemd and others take */
static int realtime_parse(const char *text)
{
	bool min = strncasecmp(text, "RTMIN", 5) == 0, max = strncasecmp(text, "RTMAX", 5) == 0;
	char *end, sign = min || max ? text[5] : 'x';
	if (sign == '\0')
		return min ? SIGRTMIN : SIGRTMAX;
	if (sign != (min ? '+' : '-') || text[6] < '0' || text[6] > '9')
		return -EINVAL;
	long n = strtol(text + 6, &end, 10);
	if (*end || n > SIGRTMAX - SIGRTMIN)
		return -EINVAL;
	return min ? SIGRTMIN + (int)n : SIGRTMAX - (int)n;
}

/* "9", "KILL", "SIGKILL", "sigkill" */
static int signal_parse(const char *text)
{
	char *end;
	long n = strtol(text, &end, 10);
	if (end != text && !*end)
		return n > 0 && n <= SIGRTMAX ? (int)n : -EINVAL;
	if (strncasecmp(text, "SIG", 3) == 0)
		text += 3;
	for (int i = 1; i < SIGRTMIN; i++) {
		const char *name = sigabbrev_np(i);
		if (name && strcasecmp(name, text) == 0)
			return i;
	}
	return realtime_parse(text);
}

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct kill_options *o = into;
	if (key == 'a') {
		o->all = true;
		return 0;
	}
	o->signal = signal_parse(value);
	if (o->signal == SIGSTOP) { /* it would stop PID 1, and nothing else */
		fvm_error_hint(err, "fvm pause holds all of a VM");
		return fvm_error_say(err, EINVAL, "SIGSTOP can't be passed on");
	}
	if (o->signal == SIGCHLD || o->signal == SIGURG || o->signal == SIGCONT)
		return fvm_error_say(err, EINVAL, "SIG%s is PID 1's own", sigabbrev_np(o->signal));
	if (o->signal > 0)
		return 0;
	fvm_error_hint(err, "kill -l lists the signals");
	return fvm_error_set(err, EINVAL, "there is no signal '%s'", value);
}

static int send_one(const struct fvm_vm *vm, int signal, struct fvm_error *err)
{
	scoped_running running = { 0 };
	int r = fvm_running_load(vm, &running, err);
	if (r < 0)
		return r;
	scoped_fd pidfd = fvm_running_pidfd(&running);
	r = pidfd < 0 ? pidfd : sys_pidfd_send_signal(pidfd, signal);
	return r < 0 ? fvm_error_set(err, -r, "send signal %d to VM '%s'", signal, vm->config.name)
		     : 0;
}

static int kill_one(const struct fvm_store *store, const char *name, int signal,
		    struct fvm_error *err)
{
	{
		/* without its lock: a VM must die also while another command works on it */
		scoped_vm vm = { .dir = -1, .lock = -1 };
		int r = fvm_vm_open(store, name, FVM_NO_LOCK, &vm, err);
		if (r == 0)
			r = signal == SIGKILL ? fvm_vm_kill(&vm, GONE_MS, err)
					      : send_one(&vm, signal, err);
		if (r < 0 || signal != SIGKILL)
			return r;
	}
	/* opening tidies up; if somebody holds it, he will */
	scoped_vm vm = { .dir = -1, .lock = -1 };
	(void)fvm_vm_open(store, name, FVM_LOCK_NOWAIT, &vm, NULL);
	return 0;
}

static int kill_main(const struct cli *cli, int argc, char **argv)
{
	struct kill_options o = { .signal = SIGKILL };
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_strv names = { 0 };
	struct fvm_error err = { 0 };
	(void)cli;
	int first = cli_parse(&cli_kill, argc, argv, take_option, &o);
	if (first < 0)
		return cli_exit_parse(first);
	if (fvm_store_open(&store, &err) < 0 ||
	    cli_names_take(&cli_kill, &store, o.all, 1u << FVM_RUNNING | 1u << FVM_PAUSED,
			   argc - first, argv + first, &names, &err) < 0)
		return cli_fail(&err);
	int status = 0;
	fvm_strv_each(&names, i) {
		err = (struct fvm_error){ 0 };
		if (kill_one(&store, names.items[i], o.signal, &err) < 0)
			status = cli_fail(&err);
	}
	return status;
}

const struct cli_command cli_kill = {
	.name = "kill",
	.operands = "VM..",
	.summary = "End VMs at once, or send them a signal.",
	.text = "fvm stop asks first. What a VM has written so far stays.",
	.options = options,
	.anywhere = true,
	.max_operands = -1,
	.main = kill_main,
};
