#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/base.h"
#include "fvm/kernel.h"
#include "fvm/sys.h"

#define ANSWER_MS 1000

/* ---- who answers ---- */

struct answer {
	uint32_t mount; /* index into the plan */
	int32_t error;	/* 0 or positive errno */
};

int fvm_base_look_at(const char *path)
{
	struct statfs fs;
	scoped_fd fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstatfs(fd, &fs) < 0)
		return errno;
	scoped_dir d = fvm_dir_take(fvm_fd_take(&fd));
	if (!d)
		return errno;
	errno = 0;
	(void)readdir(d);
	return errno;
}

static _Noreturn void ask(const char *path, uint32_t index, int to)
{
	struct answer a = { .mount = index };
	/* nobody may wait for what a hanging process holds open */
	if (dup2(to, 0) < 0)
		_exit(1);
	(void)syscall(SYS_close_range, 1U, ~0U, 0U);
	sigset_t none;
	sigemptyset(&none);
	signal(SIGALRM, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	(void)alarm(2 * ANSWER_MS / 1000);
	a.error = fvm_base_look_at(path);
	_exit(write(0, &a, sizeof(a)) != sizeof(a));
}

static bool is_asked(const struct fvm_mount *m)
{
	return m->network && (m->class == FVM_MOUNT_OVERLAY || m->class == FVM_MOUNT_READ_ONLY);
}

/* In a child, so that those who ask are nobody's children. */
static _Noreturn void ask_all(const struct fvm_plan *plan, int to)
{
	for (size_t i = 0; i < plan->count; i++) {
		if (is_asked(&plan->mounts[i]) && fork() == 0)
			ask(plan->mounts[i].path, (uint32_t)i, to);
	}
	_exit(0);
}

static void leave_out(struct fvm_mount *m, int error)
{
	m->class = FVM_MOUNT_LEFT_OUT;
	m->why = error == EACCES || error == EPERM ? "its server does not admit us"
						   : "its server reports an error";
}

/* Takes answers until all are there, or the time is over. */
static void hear(struct fvm_plan *plan, int from, bool *answered)
{
	int64_t end = fvm_clock_ms() + ANSWER_MS;
	struct pollfd p = { .fd = from, .events = POLLIN };
	for (int64_t left; (left = end - fvm_clock_ms()) > 0;) {
		struct answer a;
		if (poll(&p, 1, (int)left) <= 0)
			continue;
		if (read(from, &a, sizeof(a)) != sizeof(a) || a.mount >= plan->count)
			return; /* no one is left who could */
		answered[a.mount] = true;
		if (a.error)
			leave_out(&plan->mounts[a.mount], a.error);
	}
}

int fvm_bases_ask(struct fvm_plan *plan, struct fvm_error *err)
{
	size_t count = 0;
	int pipe_fds[2];
	for (size_t i = 0; i < plan->count; i++)
		count += is_asked(&plan->mounts[i]);
	if (!count)
		return 0;
	scoped_free bool *answered = calloc(plan->count, sizeof(bool));
	if (!answered || pipe2(pipe_fds, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "ask the network's file systems");
	pid_t pid = fork();
	if (pid == 0)
		ask_all(plan, pipe_fds[1]);
	close(pipe_fds[1]);
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	if (pid > 0)
		hear(plan, pipe_fds[0], answered);
	close(pipe_fds[0]);
	for (size_t i = 0; i < plan->count; i++) {
		struct fvm_mount *m = &plan->mounts[i];
		if (!is_asked(m) || answered[i])
			continue;
		m->class = FVM_MOUNT_LEFT_OUT;
		m->why = "its server does not answer";
	}
	return 0;
}

/* ---- whose ids can be mapped ---- */

/* Those of which every kernel from 6.1 on can; others are tried. */
static bool surely_maps(const char *fstype)
{
	static const char *const types[] = { "ext4", "xfs", "btrfs", "vfat", "f2fs", "erofs" };
	for (size_t i = 0; i < FVM_COUNT(types); i++) {
		if (strcmp(types[i], fstype) == 0)
			return true;
	}
	return false;
}

int fvm_bases_map(struct fvm_plan *plan, struct fvm_error *err)
{
	scoped_fd userns = -1;
	for (size_t i = 0; i < plan->count; i++) {
		struct fvm_mount *m = &plan->mounts[i];
		if (m->class != FVM_MOUNT_OVERLAY || surely_maps(m->fstype))
			continue;
		if (userns < 0)
			userns = fvm_try_userns();
		if (userns < 0)
			return fvm_error_set(err, -userns, "make a user namespace");
		int r = fvm_try_idmap(userns, m->path);
		m->unmapped = r == -EINVAL || r == -EPERM || r == -EOPNOTSUPP;
	}
	return 0;
}

size_t fvm_bases_unmapped(const struct fvm_plan *plan)
{
	size_t count = 0;
	for (size_t i = 0; i < plan->count; i++)
		count += plan->mounts[i].class == FVM_MOUNT_OVERLAY && plan->mounts[i].unmapped;
	return count;
}
