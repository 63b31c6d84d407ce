/* Reading vms/NAME/trace. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/quote.h"
#include "fvm/lock.h"
#include "fvm/recorder.h"

static const char *const op_names[FVM_TRACE_OPS] = {
	[FVM_TRACE_OPEN] = "open",     [FVM_TRACE_WRITE] = "write",
	[FVM_TRACE_CREATE] = "create", [FVM_TRACE_DELETE] = "delete",
	[FVM_TRACE_RENAME] = "rename", [FVM_TRACE_META] = "meta",
	[FVM_TRACE_EXEC] = "exec",     [FVM_TRACE_CONNECT] = "connect",
	[FVM_TRACE_BIND] = "bind",
};

const char *fvm_trace_op_name(enum fvm_trace_op op)
{
	return op_names[op];
}

static int parse_number(char **at, uint64_t *ret)
{
	char *end;
	if (**at < '0' || **at > '9')
		return -EBADMSG;
	*ret = strtoull(*at, &end, 10);
	if (*end != '\t')
		return -EBADMSG;
	*at = end + 1;
	return 0;
}

static int parse_op(char **at, enum fvm_trace_op *ret)
{
	char *tab = strchr(*at, '\t');
	if (!tab)
		return -EBADMSG;
	*tab = '\0';
	for (int i = 0; i < FVM_TRACE_OPS; i++) {
		if (strcmp(op_names[i], *at) == 0) {
			*ret = (enum fvm_trace_op)i;
			*at = tab + 1;
			return 0;
		}
	}
	return -EBADMSG;
}

int fvm_trace_parse(char *line, struct fvm_trace_note *ret)
{
	uint64_t first, last, count, pid;
	enum fvm_trace_op op;
	char *at = line;
	line[strcspn(line, "\n")] = '\0';
	if (parse_number(&at, &first) < 0 || parse_number(&at, &last) < 0 ||
	    parse_number(&at, &count) < 0 || parse_number(&at, &pid) < 0 || parse_op(&at, &op) < 0)
		return -EBADMSG;
	char *tab = strchr(at, '\t');
	if (!tab)
		return -EBADMSG;
	*tab = '\0';
	/* a tab inside would have been quoted */
	if (fvm_unquote(at) < 0 || fvm_unquote(tab + 1) < 0)
		return -EBADMSG;
	*ret = (struct fvm_trace_note){
		.first_ns = (int64_t)first,
		.last_ns = (int64_t)last,
		.count = count,
		.pid = (pid_t)pid,
		.op = op,
		.command = at,
		.path = tab + 1,
	};
	return 0;
}

static int no_trace(const struct fvm_vm *vm, int r, struct fvm_error *err)
{
	if (r != -ENOENT)
		return fvm_error_set(err, -r, "read the trace of VM '%s'", vm->config.name);
	fvm_error_set(err, ENOENT, "VM '%s' has no trace", vm->config.name);
	fvm_error_hint(err, "it is written by: fvm run --trace --name %s CMD", vm->config.name);
	return r;
}

int fvm_trace_read(const struct fvm_vm *vm, int (*fn)(const struct fvm_trace_note *note, void *arg),
		   void *arg, struct fvm_error *err)
{
	struct stat st;
	/* a FIFO in its place is a mistake, and nobody to wait for */
	int fd = fvm_open_nofollow(vm->dir, "trace", O_RDONLY | O_NONBLOCK | O_NOCTTY);
	if (fd >= 0 && fstat(fd, &st) == 0 && !S_ISREG(st.st_mode)) {
		fvm_fd_closep(&fd);
		fvm_error_say(err, EBADMSG, "the trace of VM '%s' is no file", vm->config.name);
		fvm_error_hint(err, "delete it");
		return fvm_error_wrap_at(err, -EBADMSG, vm->dir, "trace");
	}
	FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
	if (!f) {
		int r = fd < 0 ? fd : -errno;
		fvm_fd_closep(&fd);
		return no_trace(vm, r, err);
	}
	if (!fvm_lock_alive(vm->dir))
		fvm_recorder_await(fileno(f));
	char *line = NULL;
	size_t room = 0;
	unsigned long number = 0;
	int r = 0;
	while (r == 0 && getline(&line, &room, f) > 0) {
		struct fvm_trace_note note;
		number++;
		if (number == 1 && strcmp(line, FVM_TRACE_HEAD) == 0)
			continue;
		r = number == 1 && strncmp(line, "fvm-trace ", 10) == 0
			    ? -EPROTONOSUPPORT
			    : fvm_trace_parse(line, &note);
		if (r == -EPROTONOSUPPORT)
			fvm_error_hint(err, "a newer fvm wrote it: use that one");
		if (r == -EBADMSG)
			fvm_error_hint(err, "delete that line, or the file");
		if (r < 0)
			fvm_error_set(err, -r, "line %lu of the trace of VM '%s'", number,
				      vm->config.name);
		if (r < 0)
			fvm_error_wrap_at(err, r, vm->dir, "trace");
		else
			r = fn(&note, arg);
	}
	free(line);
	fclose(f);
	return r;
}
