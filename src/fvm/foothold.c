#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "fvm/foothold.h"
#include "fvm/init.h"
#include "fvm/internal.h"
#include "vin/blank.h"

static int start_as(const struct fvm_vm *vm, uid_t uid, gid_t gid, int line, pid_t number,
		    struct fvm_error *err)
{
	char text[16];
	struct fvm_command c = {
		.helper = FVM_HELPER_BLANK, .fds = { line, -1, -1 }, .uid = uid, .gid = gid
	};
	snprintf(text, sizeof(text), "%d", number);
	int r = fvm_strv_add(&c.argv, text);
	scoped_fd sock = r < 0 ? -1 : fvm_control_connect(vm, err);
	if (r == 0)
		r = sock < 0 ? sock : fvm_control_run(sock, &c, NULL, err);
	fvm_command_free(&c);
	return r;
}

int fvm_blank_start(void *vm, int line, pid_t number, struct fvm_error *err)
{
	return start_as(vm, 0, 0, line, number, err);
}

static int start_as_user(void *vm, int line, pid_t number, struct fvm_error *err)
{
	return start_as(vm, geteuid(), getegid(), line, number, err);
}

/* Numbers that neither programs have, soon, nor who replays takes: of the most there may be, or, if
 * that is beyond the VM's limit, of ours. */
#define NUMBER_OF_ALL 4194301

static pid_t free_number(void)
{
	scoped_free char *text = NULL;
	int r = fvm_read_file(AT_FDCWD, "/proc/sys/kernel/pid_max", 32, &text, NULL);
	return r < 0 ? 32765 : (pid_t)strtol(text, NULL, 10) - 3;
}

void fvm_foothold_close(struct fvm_foothold *f)
{
	fvm_fd_closep(&f->line);
	fvm_fd_closep(&f->pidfd);
	fvm_fd_closep(&f->root);
	*f = FVM_FOOTHOLD_NONE;
}

/* @below: 0 for the first, 1 for the second of those that may be there at once */
static int begin(const struct fvm_vm *vm, vin_start_fn start, pid_t below, struct vin_nest *nest,
		 pid_t *ret, struct fvm_error *err)
{
	struct vin_nest_options options = { .start = start,
					    .arg = (void *)(uintptr_t)vm,
					    .number = NUMBER_OF_ALL - below };
	struct fvm_error mine = { 0 };
	int r = vin_nest_begin(&options, nest, &mine);
	if (r == -EINVAL) {
		fvm_fd_closep(&nest->line);
		mine = (struct fvm_error){ 0 };
		options.number = free_number() - below;
		r = vin_nest_begin(&options, nest, &mine);
	}
	if (r < 0 && err)
		*err = mine;
	*ret = options.number;
	return r;
}

int fvm_foothold_open(const struct fvm_vm *vm, struct fvm_foothold *ret, struct fvm_error *err)
{
	struct fvm_foothold f = FVM_FOOTHOLD_NONE;
	struct vin_nest nest = { .line = -1 };
	char path[40];
	int r = begin(vm, fvm_blank_start, 0, &nest, &f.number, err);
	f.line = nest.line;
	if (r == 0) {
		f.pid = nest.init.thread.pid;
		f.pidfd = pidfd_open(f.pid, 0);
		snprintf(path, sizeof(path), "/proc/%d/root", f.pid);
		f.root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (f.pidfd < 0 || f.root < 0)
			r = fvm_error_set(err, errno, "open the root of VM '%s'", vm->config.name);
	}
	if (r < 0)
		fvm_foothold_close(&f);
	else
		*ret = f;
	return r;
}

int fvm_foothold_users(const struct fvm_vm *vm)
{
	struct vin_nest nest = { .line = -1 };
	char path[40];
	pid_t number;
	int fd = begin(vm, start_as_user, 1, &nest, &number, NULL);
	if (fd == 0) {
		snprintf(path, sizeof(path), "/proc/%d/ns/user", nest.init.thread.pid);
		fd = fvm_nerr(open(path, O_RDONLY | O_CLOEXEC));
	}
	fvm_fd_closep(&nest.line);
	return fd;
}

int fvm_foothold_enter(const struct fvm_foothold *f, struct fvm_error *err)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/ns/user", f->pid);
	scoped_fd own = open(path, O_RDONLY | O_CLOEXEC);
	scoped_fd around = own < 0 ? -1 : ioctl(own, NS_GET_PARENT);
	if (around < 0 || setns(around, CLONE_NEWUSER) < 0 ||
	    setns(f->pidfd, CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUTS) < 0)
		return fvm_error_set(err, errno, "enter the VM's namespaces");
	return 0;
}
