#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/helper.h"

struct report {
	pid_t pid;
	struct fvm_error err;
};

void fvm_helper_close(const int *keep, size_t count)
{
	unsigned int from = 0;
	for (;;) {
		unsigned int next = ~0U; /* the lowest of those to keep that is left */
		for (size_t i = 0; i < count; i++) {
			if (keep[i] >= (int)from && (unsigned int)keep[i] < next)
				next = (unsigned int)keep[i];
		}
		if (next == ~0U)
			break;
		if (next > from)
			fvm_close_range(from, next - 1);
		from = next + 1;
	}
	fvm_close_range(from, ~0U);
}

void fvm_helper_report(int report, const struct fvm_error *err)
{
	const struct report r = { .pid = getpid(), .err = *err };
	(void)!write(report, &r, sizeof(r));
	close(report);
}

static int spawn(int (*main)(void *arg, int report), void *arg, int report)
{
	int status;
	pid_t child = fork();
	if (child < 0)
		return -errno;
	if (child == 0) {
		pid_t helper = fork();
		if (helper == 0) {
			(void)setsid();
			signal(SIGPIPE, SIG_IGN);
			_exit(main(arg, report));
		}
		_exit(helper < 0);
	}
	while (waitpid(child, &status, 0) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EAGAIN;
}

pid_t fvm_helper_start(int (*main)(void *arg, int report), void *arg, struct fvm_error *err)
{
	struct report report;
	int fds[2];
	if (pipe2(fds, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "make a pipe");
	scoped_fd from = fds[0];
	scoped_fd to = fds[1];
	int r = spawn(main, arg, to);
	if (r < 0)
		return fvm_error_set(err, -r, "start a process for the VM's network");
	close(fvm_fd_take(&to));
	if (fvm_read_full(from, &report, sizeof(report)) != sizeof(report))
		return fvm_error_set(err, EPROTO, "hear from the VM's network process");
	if (report.err.code == 0)
		return report.pid;
	if (err)
		*err = report.err;
	return -report.err.code;
}
