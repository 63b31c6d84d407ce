/*
 * What a notified call did, noted: see recorder.h. Everything that is read of a caller may be
 * hostile and may change while it is read; it is copied once, bounded, and only written down.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "fvm/internal.h"
#include "fvm/notes.h"
#include "fvm/recorder.h"
#include "fvm/sys.h"

#define PATH_BYTES    4096
#define COMMAND_BYTES 512
#define CALLERS	      4096U

#define SYS_FCHMODAT2 452 /* Linux 6.6 */

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
	{ SYS_FCHMODAT2, FVM_TRACE_META, 0, 1, -1, -1, -1 },
	{ SYS_setxattr, FVM_TRACE_META, -1, 0, -1, -1, -1 },
	{ SYS_lsetxattr, FVM_TRACE_META, -1, 0, -1, -1, -1 },
	{ SYS_removexattr, FVM_TRACE_META, -1, 0, -1, -1, -1 },
	{ SYS_lremovexattr, FVM_TRACE_META, -1, 0, -1, -1, -1 },
	{ SYS_execve, FVM_TRACE_EXEC, -1, 0, -1, -1, -1 },
	{ SYS_execveat, FVM_TRACE_EXEC, 0, 1, -1, -1, -1 },
	{ SYS_connect, FVM_TRACE_CONNECT, -1, -1, -1, -1, -1 },
	{ SYS_bind, FVM_TRACE_BIND, -1, -1, -1, -1, -1 },
	{ SYS_sendto, FVM_TRACE_CONNECT, -1, -1, -1, -1, -1 }, /* with an address: filter_head() */
};

struct caller { /* command lines by pid; read again after an execution */
	pid_t pid;
	bool fresh;
	bool executes; /* something that could not be seen: who ran it was PID 1's child */
	char command[COMMAND_BYTES];
};

struct fvm_recorder {
	int file;
	struct fvm_notes *notes;
	int64_t flushed_ms;
	struct caller *callers; /* CALLERS of them, by pid modulo */
};

/* ---- the filter ---- */

static struct sock_filter load(size_t offset)
{
	return (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned int)offset);
}

static struct sock_filter if_equal(unsigned int value, size_t then, size_t otherwise)
{
	return (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, (unsigned char)then,
					    (unsigned char)otherwise);
}

#define HEAD_EXTRA 10 /* instructions beside those for each call */

/*
 * All other calls fall through to what follows, and so does a sendto() without an address, as its
 * socket is connected.
 */
static unsigned short filter_head(struct sock_filter *code)
{
	const size_t count = FVM_COUNT(calls), address = offsetof(struct seccomp_data, args[4]);
	unsigned short n = 0;
	code[n++] = load(offsetof(struct seccomp_data, arch));
	code[n++] = if_equal(AUDIT_ARCH_X86_64, 0, count + HEAD_EXTRA - 2);
	code[n++] = load(offsetof(struct seccomp_data, nr));
	code[n++] = if_equal(SYS_sendto, count + 1, 0);
	for (size_t i = 0; i < count; i++)
		code[n++] = if_equal((unsigned int)calls[i].nr, count - i + 4, 0);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, 5);
	code[n++] = load(address);
	code[n++] = if_equal(0, 0, 2);
	code[n++] = load(address + 4);
	code[n++] = if_equal(0, 1, 0);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
	return n;
}

int fvm_trace_filter_install(const struct fvm_filter *also)
{
	static const struct sock_filter allow[] = { BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
	const struct sock_filter *rest = also ? also->code : allow;
	size_t rest_len = also ? also->len : FVM_COUNT(allow);
	scoped_free struct sock_filter *code =
		calloc(FVM_COUNT(calls) + HEAD_EXTRA + rest_len, sizeof(*code));
	if (!code)
		return -ENOMEM;
	unsigned short n = filter_head(code);
	memcpy(code + n, rest, rest_len * sizeof(*code));
	const struct fvm_filter filter = {
		.code = code,
		.len = (unsigned short)(n + rest_len),
		.notify = true,
	};
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
	snprintf(path, sizeof(path), "%d/cmdline", (int)pid);
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

static const char *command_of(const struct fvm_recorder *t, pid_t pid)
{
	struct caller *c = &t->callers[(unsigned int)pid % CALLERS];
	if (c->pid != pid || !c->fresh) {
		c->pid = pid;
		c->fresh = true;
		c->executes = false;
		read_command(pid, c->command);
	}
	return c->command;
}

/* PID 1's children may not be looked into by a supervisor until they have executed something: that
 * is told by what they are then. */
static void note_executed(const struct fvm_recorder *t, pid_t pid)
{
	struct caller *c = &t->callers[(unsigned int)pid % CALLERS];
	char link[64], path[PATH_BYTES];
	if (c->pid != pid || !c->executes)
		return;
	c->executes = c->fresh = false;
	snprintf(link, sizeof(link), "%d/exe", (int)pid);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	if (n <= 0)
		return;
	path[n] = '\0';
	(void)fvm_notes_add(t->notes, FVM_TRACE_EXEC, pid, c->command, path);
}

static void expect_execution(const struct fvm_recorder *t, pid_t pid)
{
	(void)command_of(t, pid);
	t->callers[(unsigned int)pid % CALLERS].executes = true;
}

static void forget_command(const struct fvm_recorder *t, pid_t pid)
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
		snprintf(link, sizeof(link), "%d/cwd", (int)pid);
	else
		snprintf(link, sizeof(link), "%d/fd/%d", (int)pid, dir);
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
	snprintf(link, sizeof(link), "%d/root", (int)pid);
	scoped_fd root = open(link, O_PATH | O_DIRECTORY | O_CLOEXEC);
	const struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
				      .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	scoped_fd at = root < 0 ? -1 : fvm_nerr(syscall(SYS_openat2, root, dir, &how, sizeof(how)));
	if (at < 0)
		return;
	snprintf(link, sizeof(link), "self/fd/%d", at);
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

static void note_name(const struct fvm_recorder *t, const struct seccomp_notif *q,
		      enum fvm_trace_op op, int dir, int path)
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

static void note_address(const struct fvm_recorder *t, const struct seccomp_notif *q,
			 enum fvm_trace_op op)
{
	struct sockaddr_storage address = { 0 };
	char text[160];
	const __u64 *args = q->data.args + (q->data.nr == SYS_sendto ? 4 : 1); /* and its length */
	size_t len = args[1] < sizeof(address) ? (size_t)args[1] : sizeof(address);
	struct iovec here = { &address, len };
	struct iovec there = { (void *)(uintptr_t)args[0], len };
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
static bool is_there(const struct seccomp_notif *q, const char *name)
{
	char link[64];
	snprintf(link, sizeof(link), "%d/root", (int)q->pid);
	scoped_fd root = open(link, O_PATH | O_DIRECTORY | O_CLOEXEC);
	const struct open_how how = { .flags = O_PATH | O_CLOEXEC,
				      .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	scoped_fd at =
		root < 0 ? -1 : fvm_nerr(syscall(SYS_openat2, root, name, &how, sizeof(how)));
	return at >= 0;
}

void fvm_recorder_note(struct fvm_recorder *t, const struct seccomp_notif *q)
{
	char name[2 * PATH_BYTES];
	const struct call *c = NULL;
	if (q->data.arch != AUDIT_ARCH_X86_64)
		return;
	note_executed(t, (pid_t)q->pid);
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
	if (op == FVM_TRACE_EXEC && !name_of(q, c->dir, c->path, name)) {
		expect_execution(t, (pid_t)q->pid);
		return;
	}
	if (op == FVM_TRACE_EXEC && !is_there(q, name))
		return;
	note_name(t, q, op, c->dir, c->path);
	if (c->path2 >= 0)
		note_name(t, q, op, c->dir2, c->path2);
	if (op == FVM_TRACE_EXEC)
		forget_command(t, (pid_t)q->pid);
}

/* ---- what is kept ---- */

struct fvm_recorder *fvm_recorder_new(int file)
{
	struct fvm_recorder *t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->file = file;
	t->notes = fvm_notes_new(file);
	t->callers = calloc(CALLERS, sizeof(*t->callers));
	t->flushed_ms = fvm_clock_ms();
	if (t->notes && t->callers)
		return t;
	fvm_recorder_free(t);
	return NULL;
}

void fvm_recorder_free(struct fvm_recorder *t)
{
	if (!t)
		return;
	if (t->notes)
		(void)fvm_notes_flush(t->notes);
	fvm_notes_free(t->notes);
	free(t->callers);
	free(t);
}

void fvm_recorder_tick(struct fvm_recorder *t)
{
	if (fvm_clock_ms() - t->flushed_ms < FVM_RECORDER_FLUSH_MS)
		return;
	(void)fvm_notes_flush(t->notes);
	t->flushed_ms = fvm_clock_ms();
}

/* ---- its file ---- */

static struct flock whole_file(short type)
{
	return (struct flock){ .l_type = type, .l_whence = SEEK_SET };
}

int fvm_recorder_open(const struct fvm_vm *vm, struct fvm_error *err)
{
	struct flock lock = whole_file(F_WRLCK);
	struct stat st;
	scoped_fd file =
		openat(vm->dir, "trace",
		       O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	if (file < 0 || fstat(file, &st) < 0)
		return fvm_error_set(err, errno, "open the trace of VM '%s'", vm->config.name);
	/* those of the VM's last run may be at their last notes: both append whole lines */
	(void)fcntl(file, F_OFD_SETLK, &lock);
	int r = st.st_size > 0 ? 0 : fvm_write_all(file, FVM_TRACE_HEAD, strlen(FVM_TRACE_HEAD));
	if (r < 0)
		return fvm_error_set(err, -r, "write the trace of VM '%s'", vm->config.name);
	return fvm_fd_take(&file);
}

void fvm_recorder_await(int file)
{
	for (int64_t end = fvm_clock_ms() + FVM_RECORDER_END_MS; fvm_clock_ms() < end;) {
		struct flock lock = whole_file(F_RDLCK);
		if (fcntl(file, F_OFD_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
			return;
		fvm_sleep_ms(10);
	}
}
