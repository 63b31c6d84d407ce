#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/commands.h"
#include "fvm/init.h"
#include "fvm/state.h"

#define PIECE 65536

struct logs_options {
	bool follow;
	long tail; /* lines; -1: all */
};

static const struct cli_option options[] = {
	{ 'f', "follow", NULL, "go on until the VM stops" },
	{ 'n', "tail", "N", "only the last N lines" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct logs_options *o = into;
	char *end;
	if (key == 'f') {
		o->follow = true;
		return 0;
	}
	errno = 0;
	o->tail = strtol(value, &end, 10);
	if (strcmp(value, "all") == 0)
		o->tail = -1;
	else if (end == value || *end || o->tail < 0 || errno)
		return fvm_error_set(err, EINVAL, "'%s' is no number of lines", value);
	return 0;
}

/* Where the last @lines begin: read backwards, piece by piece. */
static off_t find_tail(int log, off_t size, long lines)
{
	static char buf[PIECE];
	off_t at = size;
	while (at > 0) {
		size_t n = at < PIECE ? (size_t)at : PIECE;
		if (pread(log, buf, n, at - (off_t)n) != (ssize_t)n)
			break;
		for (size_t i = n; i-- > 0;) {
			off_t here = at - (off_t)n + (off_t)i;
			/* a newline at the very end closes the last line, it does not begin one */
			if (buf[i] == '\n' && here != size - 1 && lines-- == 1)
				return here + 1;
		}
		at -= (off_t)n;
	}
	return 0;
}

/* Return: 0, or negative errno of our stdout */
static int print_new(int log, off_t *at)
{
	static char buf[PIECE];
	struct stat st;
	if (fstat(log, &st) == 0) {
		while (st.st_size < *at)
			*at -= *at < FVM_LOG_CUT ? *at : FVM_LOG_CUT; /* its older half has gone */
	}
	for (;;) {
		ssize_t n = pread(log, buf, sizeof(buf), *at);
		if (n <= 0)
			return 0;
		int r = fvm_write_all(STDOUT_FILENO, buf, (size_t)n);
		if (r < 0)
			return r;
		*at += n;
	}
}

static int follow(const struct fvm_vm *vm, int log, off_t *at)
{
	scoped_running running = { 0 };
	if (fvm_running_load(vm, &running, NULL) < 0)
		return 0;
	scoped_fd pidfd = fvm_running_pidfd(&running);
	scoped_fd watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	char path[32], events[4096];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", log);
	bool watching = watch >= 0 && inotify_add_watch(watch, path, IN_MODIFY) >= 0;
	struct pollfd p[2] = { { .fd = pidfd, .events = POLLIN },
			       { .fd = watch, .events = POLLIN } };
	while (pidfd >= 0) {
		int r = print_new(log, at);
		if (r < 0)
			return r;
		if (poll(p, 2, watching ? -1 : 500) < 0 && errno != EINTR)
			return -errno;
		while (watching && read(watch, events, sizeof(events)) > 0)
			;
		if (p[0].revents)
			break;
	}
	return print_new(log, at);
}

static int show(const struct fvm_vm *vm, const struct logs_options *o, struct fvm_error *err)
{
	struct stat st;
	off_t at = 0;
	scoped_fd log = fvm_vm_open_output(vm, "log", O_RDONLY);
	if (log == -ENOENT)
		return 0; /* it never ran */
	if (log < 0 || fstat(log, &st) < 0)
		return fvm_error_set(err, log < 0 ? -log : errno, "open the log of VM '%s'",
				     vm->config.name);
	if (o->tail == 0)
		at = st.st_size;
	else if (o->tail > 0)
		at = find_tail(log, st.st_size, o->tail);
	int r = print_new(log, &at);
	if (r == 0 && o->follow)
		r = follow(vm, log, &at);
	return r < 0 && r != -EPIPE ? fvm_error_set(err, -r, "print the log") : 0;
}

static int logs_main(const struct cli *cli, int argc, char **argv)
{
	struct logs_options o = { .tail = -1 };
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	(void)cli;
	int first = cli_parse(&cli_logs, argc, argv, take_option, &o);
	if (first < 0)
		return cli_exit_parse(first);
	if (fvm_store_open(&store, &err) < 0 ||
	    fvm_vm_open(&store, argv[first], FVM_NO_LOCK, &vm, &err) < 0 || show(&vm, &o, &err) < 0)
		return cli_fail(&err);
	return 0;
}

const struct cli_command cli_logs = {
	.name = "logs",
	.operands = "VM",
	.summary = "Print what a VM's terminals and detached commands wrote.",
	.text = "The log keeps the last 8 to 16 MiB. What a command wrote to your own pipes and "
		"files\n"
		"is not in it.",
	.options = options,
	.anywhere = true,
	.min_operands = 1,
	.max_operands = 1,
	.main = logs_main,
};
