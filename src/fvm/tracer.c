/*
 * The tracer, a process: see trace.h. A dead tracer would make every traced call fail, so no error
 * but the listener's own end stops it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/internal.h"
#include "fvm/recorder.h"
#include "fvm/sys.h"

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS	   SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif

struct tracer {
	int listener;
	struct fvm_recorder *recorder;
};

static void serve(struct tracer *t, struct seccomp_notif *q, size_t size)
{
	memset(q, 0, size);
	if (ioctl(t->listener, SECCOMP_IOCTL_NOTIF_RECV, q) < 0)
		return; /* the caller was killed meanwhile */
	fvm_recorder_note(t->recorder, q);
	struct seccomp_notif_resp answer = {
		.id = q->id,
		.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE,
	};
	(void)ioctl(t->listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
}

static void loop(struct tracer *t)
{
	struct seccomp_notif_sizes sizes = { .seccomp_notif = sizeof(struct seccomp_notif) };
	(void)syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes);
	size_t size = sizes.seccomp_notif > sizeof(struct seccomp_notif)
			      ? sizes.seccomp_notif
			      : sizeof(struct seccomp_notif);
	scoped_free struct seccomp_notif *q = calloc(1, size);
	(void)ioctl(t->listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
	while (q) {
		struct pollfd p = { .fd = t->listener, .events = POLLIN };
		int n = poll(&p, 1, FVM_RECORDER_FLUSH_MS);
		if (n > 0 && (p.revents & POLLIN))
			serve(t, q, size);
		else if (n > 0 && (p.revents & (POLLHUP | POLLERR)))
			break;
		fvm_recorder_tick(t->recorder);
	}
}

/* Keep only the trace file and the socket, at 3 and 4. */
static void drop_descriptors(int *file, int *sock)
{
	int a = fcntl(*file, F_DUPFD_CLOEXEC, 64), b = fcntl(*sock, F_DUPFD_CLOEXEC, 64);
	fvm_null_stdio();
	*file = dup3(a, 3, O_CLOEXEC);
	*sock = dup3(b, 4, O_CLOEXEC);
	(void)syscall(SYS_close_range, 5U, ~0U, 0);
}

static _Noreturn void tracer_main(int file, int sock)
{
	struct tracer t = { .listener = -1 };
	size_t n;
	char byte;
	(void)setsid();
	(void)prctl(PR_SET_NAME, "fvm-trace");
	(void)!chdir("/proc");
	drop_descriptors(&file, &sock);
	t.recorder = fvm_recorder_new(file);
	ssize_t got = fvm_recv_fds(sock, &byte, 1, &t.listener, 1, &n);
	close(sock);
	if (t.recorder && got == 1 && n == 1)
		loop(&t);
	fvm_recorder_free(t.recorder);
	_exit(0);
}

int fvm_tracer_start(const struct fvm_vm *vm, int sock, struct fvm_error *err)
{
	int file = fvm_recorder_open(vm, err);
	if (file < 0)
		return file;
	pid_t pid = fork();
	if (pid < 0) {
		int r = fvm_error_set(err, errno, "start the tracer");
		close(file);
		return r;
	}
	if (pid == 0) {
		/* twice, so that it is nobody's child */
		if (fork() != 0)
			_exit(0);
		tracer_main(file, sock);
	}
	close(file);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return 0;
}
