/*
 * The tracer's loop: see trace.h. Everything it reads of a caller may be hostile and may change
 * while it is read; it is copied once, bounded, and only written down. A dead tracer would make
 * every traced call fail, so no error but the listener's own end stops it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fvm/internal.h"
#include "fvm/notes.h"
#include "fvm/seccomp.h"
#include "fvm/sys.h"

#define PATH_BYTES    4096
#define COMMAND_BYTES 512
#define FLUSH_MS      10000
#define CALLERS	      4096U

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS	   SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif

/* Which argument is what. -1: none. Two names: both are noted. */
static const struct call {
	int nr;
	enum fvm_trace_op op;
	signed char dir, path; /* argument numbers of a directory descriptor and a name */
	signed char dir2, path2;
	signed char flags; /* of open flags: a writing one is FVM_TRACE_WRITE */
} calls[] = {
	{ SYS_open, FVM_TRACE_OPEN, -1, 0, -1, -1, 1 },
	{ SYS_openat, FVM_TRACE_OPEN, 0, 1, -1, -1, 2 },
	{ SYS_openat2, FVM_TRACE_OPEN, 0, 1, -1, -1, -1 },
	{ SYS_creat, FVM_TRACE_WRITE, -1, 0, -1, -1, -1 },
	{ SYS_truncate, FVM_TRACE_WRITE, -1, 0, -1, -1, -1 },
	{ SYS_mkdir, FVM_TRACE_CREATE, -1, 0, -1, -1, -1 },
	{ SYS_mkdirat, FVM_TRACE_CREATE, 0, 1, -1, -1, -1 },
	{ SYS_mknod, FVM_TRACE_CREATE, -1, 0, -1, -1, -1 },
	{ SYS_mknodat, FVM_TRACE_CREATE, 0, 1, -1, -1, -1 },
	{ SYS_symlink, FVM_TRACE_CREATE, -1, 1, -1, -1, -1 },
	{ SYS_symlinkat, FVM_TRACE_CREATE, 1, 2, -1, -1, -1 },
	{ SYS_link, FVM_TRACE_CREATE, -1, 1, -1, -1, -1 },
	{ SYS_linkat, FVM_TRACE_CREATE, 2, 3, -1, -1, -1 },
	{ SYS_unlink, FVM_TRACE_DELETE, -1, 0, -1, -1, -1 },
	{ SYS_unlinkat, FVM_TRACE_DELETE, 0, 1, -1, -1, -1 },
	{ SYS_rmdir, FVM_TRACE_DELETE, -1, 0, -1, -1, -1 },
	{ SYS_rename, FVM_TRACE_RENAME, -1, 0, -1, 1, -1 },
	{ SYS_renameat, FVM_TRACE_RENAME, 0, 1, 2, 3, -1 },
	{ SYS_renameat2, FVM_TRACE_RENAME, 0, 1, 2, 3, -1 },
	{ SYS_chmod, FVM_TRACE_META, -1, 0, -1, -1, -1 },
	{ SYS_fchmodat, FVM_TRACE_META, 0, 1, -1, -1, -1 },
	{ SYS_chown, FVM_TRACE_META, -1, 0, -1, -1, -1 },
	{ SYS_lchown, FVM_TRACE_META, -1, 0, -1, -1, -1 },
	{ SYS_fchownat, FVM_TRACE_META, 0, 1, -1, -1, -1 },
	{ SYS_execve, FVM_TRACE_EXEC, -1, 0, -1, -1, -1 },
	{ SYS_execveat, FVM_TRACE_EXEC, 0, 1, -1, -1, -1 },
	{ SYS_connect, FVM_TRACE_CONNECT, -1, -1, -1, -1, -1 },
	{ SYS_bind, FVM_TRACE_BIND, -1, -1, -1, -1, -1 },
};

struct caller { /* command lines by pid; read again after an execution */
	pid_t pid;
	bool fresh;
	char command[COMMAND_BYTES];
};

struct tracer {
	int listener;
	struct fvm_notes *notes;
	struct caller *callers; /* CALLERS of them, by pid modulo */
};

/* ---- the filter ---- */

int fvm_trace_filter_install(void)
{
	struct sock_filter code[FVM_COUNT(calls) + 6];
	unsigned short n = 0;
	const size_t count = FVM_COUNT(calls);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						 offsetof(struct seccomp_data, arch));
	code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0,
						 (unsigned char)(count + 1));
	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						 offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < count; i++)
		code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
							 (unsigned int)calls[i].nr,
							 (unsigned char)(count - i), 0);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
	const struct fvm_filter filter = { .code = code, .len = n, .notify = true };
	int listener = -1;
	int r = fvm_filter_install(&filter, &listener);
	return r < 0 ? r : listener;
}

/* ---- reading a stopped caller ---- */

/* A string of its memory, page by page, as the next page may not be there. */
static bool read_string(pid_t pid, uint64_t at, char *to, size_t size)
{
	size_t done = 0;
	while (done < size) {
		size_t part = 4096 - (at & 4095);
		part = part < size - done ? part : size - done;
		struct iovec here = { to + done, part };
		struct iovec there = { (void *)(uintptr_t)at, part };
		ssize_t n = process_vm_readv(pid, &here, 1, &there, 1, 0);
		if (n <= 0)
			return false;
		if (memchr(to + done, '\0', (size_t)n))
			return true;
		done += (size_t)n;
		at += (uint64_t)n;
	}
	return false;
}

static void read_command(pid_t pid, char to[COMMAND_BYTES])
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	scoped_fd fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : fvm_read_full(fd, to, COMMAND_BYTES - 1);
	n = n < 0 ? 0 : n;
	while (n > 0 && to[n - 1] == '\0')
		n--;
	for (ssize_t i = 0; i < n; i++) {
		if (to[i] == '\0')
			to[i] = ' ';
	}
	to[n] = '\0';
}

static const char *command_of(const struct tracer *t, pid_t pid)
{
	struct caller *c = &t->callers[(unsigned int)pid % CALLERS];
	if (c->pid != pid || !c->fresh) {
		c->pid = pid;
		c->fresh = true;
		read_command(pid, c->command);
	}
	return c->command;
}

static void forget_command(const struct tracer *t, pid_t pid)
{
	struct caller *c = &t->callers[(unsigned int)pid % CALLERS];
	if (c->pid == pid)
		c->fresh = false;
}

/* ---- names ---- */

/* The directory that a relative name begins at. Return: false when there is none */
static bool base_of(pid_t pid, int dir, char *to, size_t size)
{
	char link[64];
	if (dir == AT_FDCWD)
		snprintf(link, sizeof(link), "/proc/%d/cwd", (int)pid);
	else
		snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)pid, dir);
	ssize_t n = readlink(link, to, size - 1);
	if (n <= 0 || to[0] != '/')
		return false;
	to[n] = '\0';
	return true;
}

/* Take "//", "." and ".." out of an absolute path, by its letters. */
static void tidy_path(char *path)
{
	char *to = path;
	for (const char *p = path; *p;) {
		size_t n;
		while (*p == '/')
			p++;
		n = strcspn(p, "/");
		if (n == 2 && p[0] == '.' && p[1] == '.') {
			while (to > path && *--to != '/')
				;
		} else if (n > 0 && !(n == 1 && p[0] == '.')) {
			*to++ = '/';
			memmove(to, p, n);
			to += n;
		}
		p += n;
	}
	if (to == path)
		*to++ = '/';
	*to = '\0';
}

/* The name it really has: its directory as the caller's root resolves it. */
static void resolve(pid_t pid, char path[2 * PATH_BYTES])
{
	char link[64], dir[2 * PATH_BYTES], real[PATH_BYTES];
	char *slash = strrchr(path, '/');
	if (!slash || slash == path)
		return;
	snprintf(dir, sizeof(dir), "%.*s", (int)(slash - path), path);
	snprintf(link, sizeof(link), "/proc/%d/root", (int)pid);
	scoped_fd root = open(link, O_PATH | O_DIRECTORY | O_CLOEXEC);
	const struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
				      .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	scoped_fd at = root < 0 ? -1 : fvm_nerr(syscall(SYS_openat2, root, dir, &how, sizeof(how)));
	if (at < 0)
		return;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", at);
	ssize_t n = readlink(link, real, sizeof(real) - 1);
	if (n <= 0 || real[0] != '/')
		return;
	real[n] = '\0';
	char name[PATH_BYTES];
	snprintf(name, sizeof(name), "%s", slash + 1);
	snprintf(path, 2 * PATH_BYTES, "%s/%s", n > 1 ? real : "", name);
}

static bool name_of(const struct seccomp_notif *q, int dir, int path, char to[2 * PATH_BYTES])
{
	char name[PATH_BYTES];
	if (!read_string((pid_t)q->pid, q->data.args[path], name, sizeof(name)))
		return false;
	if (name[0] == '/') {
		snprintf(to, 2 * PATH_BYTES, "%s", name);
	} else {
		char base[PATH_BYTES];
		int at = dir < 0 ? AT_FDCWD : (int)q->data.args[dir];
		if (!base_of((pid_t)q->pid, at, base, sizeof(base)))
			return false;
		snprintf(to, 2 * PATH_BYTES, "%s/%s", base, name);
	}
	tidy_path(to);
	return true;
}

static void note_name(const struct tracer *t, const struct seccomp_notif *q, enum fvm_trace_op op,
		      int dir, int path)
{
	char name[2 * PATH_BYTES];
	if (!name_of(q, dir, path, name))
		return;
	if (op != FVM_TRACE_OPEN)
		resolve((pid_t)q->pid, name);
	(void)fvm_notes_add(t->notes, op, (pid_t)q->pid, command_of(t, (pid_t)q->pid), name);
}

/* ---- addresses ---- */

static bool print_address(const struct sockaddr_storage *a, size_t len, char *to, size_t size)
{
	char text[INET6_ADDRSTRLEN];
	const struct sockaddr_in *in = (const struct sockaddr_in *)a;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)a;
	const struct sockaddr_un *un = (const struct sockaddr_un *)a;
	if (a->ss_family == AF_INET && len >= sizeof(*in)) {
		inet_ntop(AF_INET, &in->sin_addr, text, sizeof(text));
		snprintf(to, size, "%s:%u", text, ntohs(in->sin_port));
		return true;
	}
	if (a->ss_family == AF_INET6 && len >= sizeof(*in6)) {
		inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof(text));
		snprintf(to, size, "[%s]:%u", text, ntohs(in6->sin6_port));
		return true;
	}
	if (a->ss_family != AF_UNIX || len <= offsetof(struct sockaddr_un, sun_path))
		return false;
	size_t n = len - offsetof(struct sockaddr_un, sun_path);
	bool abstract = un->sun_path[0] == '\0';
	snprintf(to, size, "unix:%s%.*s", abstract ? "@" : "", (int)(n - abstract),
		 un->sun_path + abstract);
	return true;
}

static void note_address(const struct tracer *t, const struct seccomp_notif *q,
			 enum fvm_trace_op op)
{
	struct sockaddr_storage address = { 0 };
	char text[160];
	size_t len = q->data.args[2] < sizeof(address) ? (size_t)q->data.args[2] : sizeof(address);
	struct iovec here = { &address, len };
	struct iovec there = { (void *)(uintptr_t)q->data.args[1], len };
	if (process_vm_readv((pid_t)q->pid, &here, 1, &there, 1, 0) != (ssize_t)len ||
	    !print_address(&address, len, text, sizeof(text)))
		return;
	(void)fvm_notes_add(t->notes, op, (pid_t)q->pid, command_of(t, (pid_t)q->pid), text);
}

/* ---- one call ---- */

static bool writes(const struct seccomp_notif *q, const struct call *c)
{
	uint64_t flags = 0;
	if (c->flags >= 0) {
		flags = q->data.args[(int)c->flags];
	} else if (c->nr == SYS_openat2) {
		struct iovec here = { &flags, sizeof(flags) };
		struct iovec there = { (void *)(uintptr_t)q->data.args[2], sizeof(flags) };
		(void)process_vm_readv((pid_t)q->pid, &here, 1, &there, 1, 0);
	}
	return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
}

/* What is only tried along PATH is no execution: the file has to be there. */
static bool is_there(const struct seccomp_notif *q, const struct call *c)
{
	char name[2 * PATH_BYTES], link[64];
	if (!name_of(q, c->dir, c->path, name))
		return false;
	snprintf(link, sizeof(link), "/proc/%d/root", (int)q->pid);
	scoped_fd root = open(link, O_PATH | O_DIRECTORY | O_CLOEXEC);
	const struct open_how how = { .flags = O_PATH | O_CLOEXEC,
				      .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	scoped_fd at =
		root < 0 ? -1 : fvm_nerr(syscall(SYS_openat2, root, name, &how, sizeof(how)));
	return at >= 0;
}

static void note_call(const struct tracer *t, const struct seccomp_notif *q)
{
	const struct call *c = NULL;
	for (size_t i = 0; i < FVM_COUNT(calls) && !c; i++) {
		if (calls[i].nr == q->data.nr)
			c = &calls[i];
	}
	if (!c)
		return;
	if (c->op == FVM_TRACE_CONNECT || c->op == FVM_TRACE_BIND) {
		note_address(t, q, c->op);
		return;
	}
	enum fvm_trace_op op = c->op;
	if (op == FVM_TRACE_OPEN && writes(q, c))
		op = FVM_TRACE_WRITE;
	if (op == FVM_TRACE_EXEC && !is_there(q, c))
		return;
	note_name(t, q, op, c->dir, c->path);
	if (c->path2 >= 0)
		note_name(t, q, op, c->dir2, c->path2);
	if (op == FVM_TRACE_EXEC)
		forget_command(t, (pid_t)q->pid);
}

/* ---- the process ---- */

static void serve(struct tracer *t, struct seccomp_notif *q, size_t size)
{
	memset(q, 0, size);
	if (ioctl(t->listener, SECCOMP_IOCTL_NOTIF_RECV, q) < 0)
		return; /* the caller was killed meanwhile */
	note_call(t, q);
	struct seccomp_notif_resp answer = {
		.id = q->id,
		.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE,
	};
	(void)ioctl(t->listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
}

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void loop(struct tracer *t)
{
	struct seccomp_notif_sizes sizes = { .seccomp_notif = sizeof(struct seccomp_notif) };
	(void)syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes);
	size_t size = sizes.seccomp_notif > sizeof(struct seccomp_notif)
			      ? sizes.seccomp_notif
			      : sizeof(struct seccomp_notif);
	scoped_free struct seccomp_notif *q = calloc(1, size);
	int64_t flushed = now_ms();
	(void)ioctl(t->listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
	while (q) {
		struct pollfd p = { .fd = t->listener, .events = POLLIN };
		int n = poll(&p, 1, FLUSH_MS);
		if (n > 0 && (p.revents & POLLIN))
			serve(t, q, size);
		else if (n > 0 && (p.revents & (POLLHUP | POLLERR)))
			break;
		if (now_ms() - flushed >= FLUSH_MS) {
			(void)fvm_notes_flush(t->notes);
			flushed = now_ms();
		}
	}
	(void)fvm_notes_flush(t->notes);
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
	(void)chdir("/");
	drop_descriptors(&file, &sock);
	t.notes = fvm_notes_new(file);
	t.callers = calloc(CALLERS, sizeof(*t.callers));
	ssize_t got = fvm_recv_fds(sock, &byte, 1, &t.listener, 1, &n);
	close(sock);
	if (t.notes && t.callers && got == 1 && n == 1)
		loop(&t);
	_exit(0);
}

int fvm_tracer_start(const struct fvm_vm *vm, int sock, struct fvm_error *err)
{
	int file = openat(vm->dir, "trace", O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC,
			  0600);
	struct stat st;
	if (file >= 0 && fstat(file, &st) == 0 && st.st_size == 0)
		(void)fvm_write_all(file, FVM_TRACE_HEAD, strlen(FVM_TRACE_HEAD));
	pid_t pid = file < 0 ? -1 : fork();
	if (pid < 0) {
		int r = fvm_error_set(err, errno, "start the tracer");
		fvm_fd_closep(&file);
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
