/* A controller that is killed at its Nth touch of other programs, for every N: vin's own ptrace(2),
 * process_vm_writev(2), setsockopt(2), ioctl(2), kill(2) and tgkill(2) go through here, and just
 * before and just after each of them is a point at which it may end. */
#ifndef FVM_TESTS_VIN_POINTS_H
#define FVM_TESTS_VIN_POINTS_H

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Shared with the controllers. */
static struct points {
	unsigned long seen; /* by the one that runs */
	unsigned long end;  /* which of them is the last; 0: none */
	pid_t controller;   /* whose points are counted */
} *points;

static void point(void)
{
	int code = errno;
	if (points && points->controller == getpid() && ++points->seen == points->end)
		(void)syscall(SYS_kill, getpid(), SIGKILL);
	errno = code;
}

/* SIGNATURE as libc has it, where arguments are machine words. */
static long between_points(long nr, const unsigned long a[6])
{
	point();
	long r = syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
	point();
	return r;
}

#define WORD(x) ((unsigned long)(uintptr_t)(x))

long ptrace(enum __ptrace_request request, ...)
{
	va_list list;
	va_start(list, request);
	const pid_t pid = va_arg(list, pid_t);
	void *at = va_arg(list, void *), *data = va_arg(list, void *);
	va_end(list);
	/* libc returns by value what the kernel stores */
	long word = 0;
	const bool peeks = request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA ||
			   request == PTRACE_PEEKUSER;
	long r = between_points(SYS_ptrace,
				(unsigned long[6]){ WORD(request), WORD(pid), WORD(at),
						    peeks ? WORD(&word) : WORD(data) });
	return r < 0 || !peeks ? r : word;
}

ssize_t process_vm_writev(pid_t pid, const struct iovec *here, unsigned long here_count,
			  const struct iovec *there, unsigned long there_count, unsigned long flags)
{
	return between_points(SYS_process_vm_writev,
			      (unsigned long[6]){ WORD(pid), WORD(here), here_count, WORD(there),
						  there_count, flags });
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	return (int)between_points(SYS_setsockopt,
				   (unsigned long[6]){ WORD(fd), WORD(level), WORD(name),
						       WORD(value), len });
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list list;
	va_start(list, request);
	void *data = va_arg(list, void *);
	va_end(list);
	return (int)between_points(SYS_ioctl,
				   (unsigned long[6]){ WORD(fd), request, WORD(data) });
}

int kill(pid_t pid, int sig)
{
	return (int)between_points(SYS_kill, (unsigned long[6]){ WORD(pid), WORD(sig) });
}

int tgkill(pid_t pid, pid_t tid, int sig)
{
	return (int)between_points(SYS_tgkill,
				   (unsigned long[6]){ WORD(pid), WORD(tid), WORD(sig) });
}

static int points_setup(void)
{
	points = mmap(NULL, sizeof(*points), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	return points == MAP_FAILED ? -1 : 0;
}

/* A controller that ends at point @end of @fn. Return: whether it got there */
static bool ends_at(unsigned long end, int (*fn)(void *arg), void *arg)
{
	int status = 0;
	points->seen = 0;
	points->end = end;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		points->controller = getpid();
		_exit(fn(arg) < 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status))
		print_error("the controller failed at %lu of its points\n", points->seen);
	assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
	return WIFSIGNALED(status);
}

#endif
