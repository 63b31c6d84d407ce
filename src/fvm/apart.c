#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/apart.h"

struct report {
	struct fvm_error err;
	int code;
	char told[FVM_APART_TOLD_MAX];
};
static_assert(sizeof(struct report) <= PIPE_BUF, "a report is one atomic write");

int fvm_apart_begin(struct fvm_apart *ret, struct fvm_error *err)
{
	int ends[2];
	const pid_t parent = getpid();
	if (pipe2(ends, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "make a pipe");
	pid_t pid = fork();
	if (pid < 0) {
		int r = fvm_error_set(err, errno, "have a process do it");
		close(ends[0]);
		close(ends[1]);
		return r;
	}
	close(ends[pid ? 1 : 0]);
	*ret = (struct fvm_apart){ .pid = pid, .parent = parent, .report = ends[pid ? 0 : 1] };
	return 0;
}

void fvm_apart_tell(const struct fvm_apart *a, int code, const struct fvm_error *why,
		    const void *told, size_t len)
{
	struct report report = { .err = *why, .code = code };
	assert(a->pid == 0 && len <= sizeof(report.told));
	if (len)
		memcpy(report.told, told, len);
	(void)!write(a->report, &report, sizeof(report));
	_exit(0);
}

int fvm_apart_end(struct fvm_apart *a, void *told, size_t len, struct fvm_error *err)
{
	struct report report;
	assert(a->pid > 0 && len <= sizeof(report.told));
	ssize_t n = fvm_read_full(a->report, &report, sizeof(report));
	close(a->report);
	if (waitpid(a->pid, NULL, 0) != a->pid || n != sizeof(report))
		return fvm_error_set(err, n < 0 ? (int)-n : EPIPE, "have a process do it");
	if (len)
		memcpy(told, report.told, len);
	if (report.code < 0)
		(void)fvm_error_take(err, &report.err, sizeof(report.err));
	return report.code;
}
