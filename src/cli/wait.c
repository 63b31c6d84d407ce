#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "fvm/state.h"

/* "exit N" or "signal N", written by PID 1 as it ends; nothing if it was killed. */
static int read_status(int fd)
{
	char text[32] = "";
	int n;
	ssize_t len = pread(fd, text, sizeof(text) - 1, 0);
	if (len > 0 && sscanf(text, "exit %d", &n) == 1)
		return n & 255;
	if (len > 0 && sscanf(text, "signal %d", &n) == 1)
		return 128 + (n & 127);
	return 128 + SIGKILL;
}

static int wait_end(const struct fvm_vm *vm, struct fvm_error *err)
{
	scoped_running running = { 0 };
	int r = fvm_running_load(vm, &running, err);
	if (r == -ESRCH) {
		*err = (struct fvm_error){ 0 };
		return 0;
	}
	if (r < 0)
		return r;
	scoped_fd pidfd = fvm_running_pidfd(&running);
	if (pidfd == -ESRCH)
		return 0;
	if (pidfd < 0)
		return fvm_error_set(err, -pidfd, "watch VM '%s'", vm->config.name);
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	while (poll(&p, 1, -1) < 0) {
		if (errno != EINTR)
			return fvm_error_set(err, errno, "wait for VM '%s'", vm->config.name);
	}
	return 0;
}

static int wait_one(const struct fvm_store *store, const char *name, int *ret_status,
		    struct fvm_error *err)
{
	scoped_vm vm = { .dir = -1, .lock = -1 };
	int r = fvm_vm_open(store, name, FVM_NO_LOCK, &vm, err);
	if (r < 0)
		return r;
	/* opened first: with --rm the VM is deleted at its end, and this stays readable */
	scoped_fd status = fvm_vm_open_output(&vm, "status", O_RDONLY);
	if (status < 0) {
		r = fvm_error_set(err, status == -ENOENT ? ESRCH : -status,
				  "wait for VM '%s': it was never started", name);
		fvm_error_hint(err, "fvm start %s", name);
		return r;
	}
	r = wait_end(&vm, err);
	if (r == 0)
		*ret_status = read_status(status);
	return r;
}

static int wait_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_wait, argc, argv, NULL, NULL), status = 0;
	bool failed = false;
	if (first < 0)
		return cli_exit_parse(first);
	if (fvm_store_open(&store, &err) < 0)
		return cli_fail(&err);
	json_t *list = json_array();
	for (; first < argc; first++) {
		int one = CLI_FAILED;
		err = (struct fvm_error){ 0 };
		if (wait_one(&store, argv[first], &one, &err) < 0)
			failed = cli_fail(&err) != 0;
		else if (cli->json)
			json_array_append_new(list, json_pack("{s:s, s:i}", "name", argv[first],
							      "status", one));
		else
			printf("%d\n", one);
		(void)fflush(stdout);
		status = failed ? CLI_FAILED : one;
	}
	if (cli->json)
		return cli_print_json(list) ? CLI_FAILED : status;
	json_decref(list);
	return status;
}

const struct cli_command cli_wait = {
	.name = "wait",
	.operands = "VM..",
	.summary = "Wait until VMs have ended; print and return how.",
	.text = "The status is that of the VM's first command: 128+N when signal N ended it, 0 for "
		"a VM\n"
		"without one that was shut down. Of several, each has a line, and the last one "
		"counts,\n"
		"or 125 when one could not be waited for.",
	.anywhere = true,
	.min_operands = 1,
	.max_operands = -1,
	.main = wait_main,
};
