#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/commands.h"
#include "cli/vm_start.h"
#include "fvm/copy.h"
#include "fvm/stamps.h"
#include "fvm/sys.h"

#define PIPE_BYTES (1 << 20)

struct cp_options {
	struct cli_command_options command;
	bool owners;
};

static const struct cli_option options[] = {
	{ 'a', "archive", NULL, "keep owners (as root, on both sides)" },
	{ OPT_ROOT, "root", NULL, "with the rights of the VM's root (default for root)" },
	{ OPT_USER, "user", "USER|UID[:GID]", "with the rights of USER of the VM" },
	{ 0 },
};

static int take_option(void *into, int key, const char *value, struct fvm_error *err)
{
	struct cp_options *o = into;
	if (key == 'a') {
		o->owners = true;
		return 0;
	}
	int r = cli_command_option(&o->command, key, value, err);
	return r < 0 ? r : 0;
}

/* One end of the copy. */
struct side {
	char vm_name[FVM_NAME_MAX + 1]; /* "": here */
	const char *path;
	struct fvm_vm vm;
	int sock, notes;
	struct fvm_started started; /* by us, for this copy alone */
};

struct cp {
	const struct cli *cli;
	const struct cp_options *options;
	struct cli_progress progress;
	bool failed;
};

/* "VM:PATH"; a slash before the colon makes it a path of this machine. */
static void side_parse(const char *text, struct side *s)
{
	size_t len = strcspn(text, ":/");
	*s = (struct side){
		.path = text,
		.vm = { .dir = -1, .lock = -1 },
		.sock = -1,
		.notes = -1,
		.started = FVM_STARTED_NONE,
	};
	if (text[len] != ':' || len == 0 || len > FVM_NAME_MAX)
		return;
	memcpy(s->vm_name, text, len);
	s->path = text + len + 1;
}

static void side_close(struct side *s)
{
	fvm_fd_closep(&s->sock);
	fvm_fd_closep(&s->notes);
	if (s->started.pidfd >= 0) { /* it runs nothing but its PID 1 */
		(void)sys_pidfd_send_signal(s->started.pidfd, SIGKILL);
		(void)waitpid(s->started.init, NULL, 0);
		fvm_stamps_update_later(&s->vm);
	}
	fvm_started_close(&s->started);
	fvm_vm_close(&s->vm);
}

static void tell(void *arg, const struct fvm_error *err)
{
	struct cp *cp = arg;
	struct fvm_error e = *err;
	cli_progress_end(&cp->progress);
	if (e.code)
		cp->failed = true;
	fvm_error_print("fvm", &e);
}

static void progress(void *arg, uint64_t bytes)
{
	struct cp *cp = arg;
	cli_progress_show(&cp->progress, bytes, 0, "B");
}

/* The VM's side: a session of PID 1 that has @end of the pipe, and one for what it has to tell. */
static int side_start(struct cp *cp, struct side *s, enum fvm_helper helper, int end,
		      struct fvm_error *err)
{
	char flags[12];
	char *argv[] = { (char *)(uintptr_t)(*s->path ? s->path : "."), flags, NULL };
	scoped_command command = { .fds = { -1, -1, -1 } };
	int notes[2];
	snprintf(flags, sizeof(flags), "%d", cp->options->owners ? FVM_COPY_OWNERS : 0);
	int r = cli_command_make(&s->vm, &cp->options->command, true, 2, argv, &command, err);
	if (r < 0)
		return r;
	if (pipe2(notes, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "make a pipe");
	s->notes = notes[0];
	command.detached = false;
	command.helper = helper;
	command.fds[helper == FVM_HELPER_SEND ? STDOUT_FILENO : STDIN_FILENO] = end;
	command.fds[STDERR_FILENO] = notes[1];
	s->sock = fvm_control_connect(&s->vm, err);
	r = s->sock < 0 ? s->sock : fvm_control_run(s->sock, &command, NULL, err);
	close(notes[1]);
	if (r < 0)
		fvm_fd_closep(&s->sock); /* nothing to wait for */
	return r;
}

/* What the VM's side has to tell, and that it is done. */
static void side_finish(struct cp *cp, struct side *s)
{
	struct fvm_error err;
	int status = 0;
	while (fvm_read_full(s->notes, &err, sizeof(err)) == sizeof(err)) {
		fvm_error_mend(&err); /* what was only left out comes with no code */
		tell(cp, &err);
	}
	err = (struct fvm_error){ 0 };
	if (fvm_client_stream(s->sock, -1, -1, false, &status, &err) < 0)
		tell(cp, &err);
	if (status != 0)
		cp->failed = true;
}

/* @source: what is received; NULL: @s is sent */
static int here(struct cp *cp, const struct side *s, const char *source, int *end,
		struct fvm_error *err)
{
	const bool send = !source;
	struct fvm_copy copy = {
		.fd = fvm_fd_take(end),
		.flags = (cp->options->owners ? FVM_COPY_OWNERS : 0) |
			 (strcmp(s->path, "-") == 0 ? FVM_COPY_STDIO : 0),
		.note = tell,
		.progress = progress,
		.arg = cp,
		.source = source,
	};
	cli_progress_start(&cp->progress, cp->cli, send ? "to the VM" : "from the VM");
	int r = send ? fvm_copy_send(&copy, s->path, err) : fvm_copy_receive(&copy, s->path, err);
	cli_progress_end(&cp->progress);
	return r;
}

static int copy(struct cp *cp, struct side *from, struct side *to, struct fvm_error *err)
{
	int ends[2], r = 0;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "make a pipe");
	(void)fcntl(ends[0], F_SETPIPE_SZ, PIPE_BYTES);
	if (to->vm_name[0]) {
		r = side_start(cp, to, FVM_HELPER_RECEIVE, ends[0], err);
		close(fvm_fd_take(&ends[0]));
	}
	if (r == 0 && from->vm_name[0]) {
		r = side_start(cp, from, FVM_HELPER_SEND, ends[1], err);
		close(fvm_fd_take(&ends[1]));
	}
	if (r == 0 && !from->vm_name[0])
		r = here(cp, from, NULL, &ends[1], err);
	if (r == 0 && !to->vm_name[0])
		r = here(cp, to, *from->path ? from->path : ".", &ends[0], err);
	fvm_fd_closep(&ends[0]);
	fvm_fd_closep(&ends[1]);
	if (r == -EPIPE && !err->code)
		cp->failed = true, r = 0; /* the other side tells why */
	if (from->sock >= 0)
		side_finish(cp, from);
	if (to->sock >= 0)
		side_finish(cp, to);
	return r;
}

/* A stopped VM is started for the copy, so that its files are looked up as its programs do. */
static int side_start_vm(const struct fvm_store *store, struct side *s, struct fvm_error *err)
{
	const struct fvm_start_options so = { .user_uid = geteuid(), .user_gid = getegid() };
	fvm_vm_close(&s->vm);
	int r = fvm_vm_open(store, s->vm_name, FVM_LOCK, &s->vm, err);
	if (r == 0)
		r = cli_vm_start(&s->vm, &so, &s->started, err);
	return r < 0 ? r : fvm_start_wait_exec(&s->started, err);
}

static int side_open(const struct fvm_store *store, struct side *s, struct fvm_error *err)
{
	if (!s->vm_name[0])
		return 0;
	int r = fvm_vm_open(store, s->vm_name, FVM_NO_LOCK, &s->vm, err);
	if (r == 0 && fvm_vm_state(&s->vm) == FVM_STOPPED)
		return side_start_vm(store, s, err);
	return r < 0 ? r : cli_need_awake(&s->vm, err);
}

static int copy_sides(struct cp *cp, struct side *from, struct side *to)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	struct fvm_error err = { 0 };
	const struct side *empty = from->vm_name[0] && !from->path[0] ? from
				   : to->vm_name[0] && !to->path[0]   ? to
								      : NULL;
	if (empty) {
		fvm_error_say(&err, EINVAL, "cp: a path is missing after '%s:'", empty->vm_name);
		fvm_error_hint(&err, "%s:. is your working directory there", empty->vm_name);
		return cli_fail(&err);
	}
	if (!from->vm_name[0] && !to->vm_name[0]) {
		fvm_error_set(&err, 0, "cp: neither side is in a VM");
		fvm_error_hint(&err, "one of them reads VM:PATH");
		return cli_fail(&err);
	}
	signal(SIGPIPE, SIG_IGN);
	if (fvm_store_open(&store, &err) < 0 || side_open(&store, from, &err) < 0 ||
	    side_open(&store, to, &err) < 0 || copy(cp, from, to, &err) < 0)
		return cli_fail(&err);
	return cp->failed ? CLI_FAILED : 0;
}

static int cp_main(const struct cli *cli, int argc, char **argv)
{
	struct cp_options o = { 0 };
	struct cp cp = { .cli = cli, .options = &o };
	struct side from, to;
	int first = cli_parse(&cli_cp, argc, argv, take_option, &o);
	if (first < 0)
		return cli_exit_parse(first);
	side_parse(argv[first], &from);
	side_parse(argv[first + 1], &to);
	int status = copy_sides(&cp, &from, &to);
	side_close(&from);
	side_close(&to);
	cli_command_options_free(&o.command);
	return status;
}

const struct cli_command cli_cp = {
	.name = "cp",
	.operands = "[VM:]SRC [VM:]DST",
	.summary = "Copy files into a VM, out of it, or between two.",
	.text = "Directories are copied whole; SRC/. means what is in it. Relative paths in a VM "
		"start\n"
		"at your working directory, as they do for exec. Files get your rights, or with "
		"--root\n"
		"or --user that user's; their mode without set-id bits, and their time, are kept.\n"
		"On this side \"-\" is the standard input or output, for one file.",
	.options = options,
	.anywhere = true,
	.min_operands = 2,
	.max_operands = 2,
	.main = cp_main,
};
