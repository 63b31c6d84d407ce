#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vin/guard.h"
#include "vin/tree.h"

#define DEPTH 64

static void end_family(pid_t pid, int depth);

static int end_child(void *arg, pid_t child)
{
	const int *depth = arg;
	end_family(child, *depth + 1);
	return 0;
}

/* Who is stopped has no more children. */
static void end_family(pid_t pid, int depth)
{
	char path[40];
	if (depth == DEPTH || kill(pid, SIGSTOP) < 0)
		return;
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	scoped_dir d = opendir(path);
	for (struct dirent *e; d && (e = fvm_dir_next(d));)
		(void)vin_each_child(pid, (pid_t)strtol(e->d_name, NULL, 10), end_child, &depth);
	(void)kill(pid, SIGKILL);
}

/* A number is still that of whom we mean as long as he can be signalled. */
static void end_all(const pid_t *pids, const int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (pidfd_send_signal(fds[i], 0, NULL, 0) == 0)
			end_family(pids[i], 0);
	}
}

static _Noreturn void be_guard(const pid_t *pids, size_t count, int line, int ready)
{
	sigset_t all;
	char byte = 0;
	int *fds = calloc(count + 1, sizeof(*fds));
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	for (size_t i = 0; fds && i < count; i++) {
		fds[i] = pidfd_open(pids[i], 0);
		if (fds[i] < 0)
			_exit(1);
	}
	if (!fds || fvm_write_all(ready, "r", 1) < 0)
		_exit(1);
	if (fvm_read_full(line, &byte, 1) != 1)
		end_all(pids, fds, count);
	_exit(0);
}

int vin_guard_begin(const pid_t *pids, size_t count, struct vin_guard *ret, struct fvm_error *err)
{
	int line[2], ready[2];
	char byte;
	if (pipe2(line, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "make a pipe");
	scoped_fd theirs = line[0], ours = line[1];
	if (pipe2(ready, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "make a pipe");
	scoped_fd hear = ready[0], say = ready[1];
	pid_t pid = fork();
	if (pid == 0) {
		close(ours);
		close(hear);
		be_guard(pids, count, theirs, say);
	}
	fvm_fd_closep(&say);
	struct vin_guard g = { .pid = pid, .line = fvm_fd_take(&ours) };
	if (pid < 0 || fvm_read_full(hear, &byte, 1) != 1) {
		int e = pid < 0 ? errno : EAGAIN;
		vin_guard_end(&g);
		return fvm_error_set(err, e, "guard the programs");
	}
	*ret = g;
	return 0;
}

void vin_guard_end(struct vin_guard *g)
{
	if (g->line < 0)
		return;
	/* if it is gone, nobody is harmed: they run */
	if (g->pid > 0)
		(void)!write(g->line, "g", 1);
	close(g->line);
	if (g->pid > 0)
		(void)waitpid(g->pid, NULL, 0);
	*g = (struct vin_guard){ .line = -1 };
}
