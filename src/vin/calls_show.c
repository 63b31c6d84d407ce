/* The arguments of system calls, in words. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/nearest.h"
#include "common/quote.h"
#include "syscall_names.h"
#include "vin/calls_priv.h"

#define DATA_SHOWN  48 /* bytes of what is read and written */
#define WORDS_SHOWN 16 /* of a command line */
#define PAGE	    4096UL
#define PRESENT	    (3ULL << 62) /* in memory or in swap, pagemap(5) */
#define X32	    0x40000000ULL

/*
 * What each argument is, one letter each. Of numbers:
 *   d descriptor  i number  u size  x bits  a address  m mode  h process, and those of
 * calls_words.c of addresses, read before the call: p path  s string  b as many bytes as the next
 * argument says  n socket address, its size next v list of strings  Z time  V buffers, their number
 * next and read after it: r as many bytes as were read  N socket address  2 two descriptors  X
 * status of a process
 */
static const struct signature {
	const char *name, *kinds;
} signatures[] = {
	/* sorted */
	{ "accept", "dNa" },
	{ "accept4", "dNat" },
	{ "access", "pA" },
	{ "bind", "dnu" },
	{ "brk", "a" },
	{ "chdir", "p" },
	{ "chmod", "pm" },
	{ "chown", "pii" },
	{ "chroot", "p" },
	{ "clock_getres", "ga" },
	{ "clock_gettime", "ga" },
	{ "clock_nanosleep", "gxZa" },
	{ "clone", "caaaa" },
	{ "clone3", "au" },
	{ "close", "d" },
	{ "close_range", "uux" },
	{ "connect", "dnu" },
	{ "copy_file_range", "dadaux" },
	{ "creat", "pm" },
	{ "dup", "d" },
	{ "dup2", "di" },
	{ "dup3", "diO" },
	{ "epoll_create", "i" },
	{ "epoll_create1", "O" },
	{ "epoll_ctl", "dEda" },
	{ "epoll_pwait", "daiiau" },
	{ "epoll_pwait2", "daiZau" },
	{ "epoll_wait", "daii" },
	{ "eventfd2", "uO" },
	{ "execve", "pva" },
	{ "execveat", "dpvaT" },
	{ "exit", "i" },
	{ "exit_group", "i" },
	{ "faccessat", "dpA" },
	{ "faccessat2", "dpAT" },
	{ "fadvise64", "duui" },
	{ "fallocate", "diuu" },
	{ "fchdir", "d" },
	{ "fchmod", "dm" },
	{ "fchmodat", "dpm" },
	{ "fchown", "dii" },
	{ "fchownat", "dpiiT" },
	{ "fcntl", "dFx" },
	{ "fcntl64", "dFx" },
	{ "fdatasync", "d" },
	{ "fgetxattr", "dsau" },
	{ "flock", "di" },
	{ "fork", "" },
	{ "fstat", "da" },
	{ "fstat64", "da" },
	{ "fstatat64", "dpaT" },
	{ "fstatfs", "da" },
	{ "fsync", "d" },
	{ "ftruncate", "du" },
	{ "futex", "aHuaau" },
	{ "getcwd", "ru" },
	{ "getdents", "dau" },
	{ "getdents64", "dau" },
	{ "getegid", "" },
	{ "geteuid", "" },
	{ "getgid", "" },
	{ "getpeername", "dNa" },
	{ "getpgid", "h" },
	{ "getpgrp", "" },
	{ "getpid", "" },
	{ "getppid", "" },
	{ "getrandom", "aux" },
	{ "getsockname", "dNa" },
	{ "getsockopt", "diiaa" },
	{ "gettid", "" },
	{ "getuid", "" },
	{ "getxattr", "psau" },
	{ "inotify_add_watch", "dpx" },
	{ "ioctl", "dxx" },
	{ "kill", "hS" },
	{ "lchown", "pii" },
	{ "lgetxattr", "psau" },
	{ "link", "pp" },
	{ "linkat", "dpdpT" },
	{ "listen", "di" },
	{ "lseek", "diw" },
	{ "lstat", "pa" },
	{ "lstat64", "pa" },
	{ "madvise", "aui" },
	{ "memfd_create", "sx" },
	{ "mkdir", "pm" },
	{ "mkdirat", "dpm" },
	{ "mknod", "pmx" },
	{ "mknodat", "dpmx" },
	{ "mmap", "auPMdu" },
	{ "mmap2", "auPMdu" },
	{ "mount", "ppsxa" },
	{ "mprotect", "auP" },
	{ "mremap", "auuxa" },
	{ "munmap", "au" },
	{ "nanosleep", "Za" },
	{ "newfstatat", "dpaT" },
	{ "open", "pom" },
	{ "openat", "dpom" },
	{ "openat2", "dpau" },
	{ "pause", "" },
	{ "pidfd_open", "hx" },
	{ "pidfd_send_signal", "dSax" },
	{ "pipe", "2" },
	{ "pipe2", "2O" },
	{ "poll", "aui" },
	{ "ppoll", "auZau" },
	{ "prctl", "ixxxx" },
	{ "pread64", "druu" },
	{ "preadv", "dauu" },
	{ "prlimit64", "hiaa" },
	{ "pselect6", "iaaaZa" },
	{ "pwrite64", "dbuu" },
	{ "pwritev", "dVuu" },
	{ "read", "dru" },
	{ "readlink", "pru" },
	{ "readlinkat", "dpru" },
	{ "readv", "dau" },
	{ "recvfrom", "drukNa" },
	{ "recvmmsg", "daukZ" },
	{ "recvmsg", "dak" },
	{ "removexattr", "ps" },
	{ "rename", "pp" },
	{ "renameat", "dpdp" },
	{ "renameat2", "dpdpx" },
	{ "restart_syscall", "" },
	{ "rmdir", "p" },
	{ "rseq", "auxx" },
	{ "rt_sigaction", "Saau" },
	{ "rt_sigprocmask", "Kaau" },
	{ "rt_sigreturn", "" },
	{ "rt_sigsuspend", "au" },
	{ "rt_sigtimedwait", "aaZu" },
	{ "sched_yield", "" },
	{ "select", "iaaaa" },
	{ "sendfile", "ddau" },
	{ "sendfile64", "ddau" },
	{ "sendmmsg", "dauk" },
	{ "sendmsg", "dak" },
	{ "sendto", "dbuknu" },
	{ "set_tid_address", "a" },
	{ "setgid", "i" },
	{ "setpgid", "hh" },
	{ "setresgid", "iii" },
	{ "setresuid", "iii" },
	{ "setsid", "" },
	{ "setsockopt", "diiau" },
	{ "setuid", "i" },
	{ "setxattr", "psbux" },
	{ "shutdown", "di" },
	{ "socket", "fti" },
	{ "socketpair", "fti2" },
	{ "splice", "dadaux" },
	{ "stat", "pa" },
	{ "stat64", "pa" },
	{ "statfs", "pa" },
	{ "statx", "dpTxa" },
	{ "symlink", "pp" },
	{ "symlinkat", "pdp" },
	{ "sync", "" },
	{ "syncfs", "d" },
	{ "tgkill", "hhS" },
	{ "time", "a" },
	{ "timerfd_create", "gO" },
	{ "timerfd_settime", "dxaa" },
	{ "tkill", "hS" },
	{ "truncate", "pu" },
	{ "umask", "m" },
	{ "umount2", "px" },
	{ "uname", "a" },
	{ "unlink", "p" },
	{ "unlinkat", "dpT" },
	{ "unshare", "c" },
	{ "utimensat", "dpaT" },
	{ "vfork", "" },
	{ "wait4", "hXWa" },
	{ "waitid", "ihaWa" },
	{ "waitpid", "hXW" },
	{ "write", "dbu" },
	{ "writev", "dVu" },
};

#define AFTER "rN2X"

/* What 32-bit programs pass otherwise. */
static const struct signature signatures_32[] = {
	{ "mmap", "a" },	  { "pread64", "druuu" },   { "pwrite64", "dbuuu" },
	{ "select", "a" },	  { "fadvise64", "duuui" }, { "truncate64", "puu" },
	{ "ftruncate64", "duu" },
};

static int by_name(const void *a, const void *b)
{
	const struct signature *x = a, *y = b;
	return strcmp(x->name, y->name);
}

static const char *kinds_of(const char *name, bool is_32)
{
	const struct signature key = { .name = name };
	for (size_t i = 0; is_32 && i < FVM_COUNT(signatures_32); i++) {
		if (strcmp(signatures_32[i].name, name) == 0)
			return signatures_32[i].kinds;
	}
	const struct signature *s =
		bsearch(&key, signatures, FVM_COUNT(signatures), sizeof(key), by_name);
	return s ? s->kinds : "xxxxxx";
}

void vin_call_name(struct vin_call_entry *e)
{
	const bool x32 = !e->is_32 && (e->number & X32);
	const uint64_t number = x32 ? e->number & ~X32 : e->number;
	const size_t count = e->is_32 ? FVM_COUNT(names_32) : FVM_COUNT(names_64);
	e->name = number >= count ? NULL : e->is_32 ? names_32[number] : names_64[number];
	e->kinds = kinds_of(e->name ?: "", e->is_32);
	if (e->name && !x32)
		return;
	snprintf(e->unnamed, sizeof(e->unnamed), "%s%" PRId64, x32 ? "x32_" : "call_",
		 (int64_t)number);
	e->name = e->unnamed;
}

bool vin_call_is_name(const char *name, const char **ret_near)
{
	struct fvm_nearest near = { 0 };
	for (size_t i = 0; i < FVM_COUNT(names_64) + FVM_COUNT(names_32); i++) {
		const char *one =
			i < FVM_COUNT(names_64) ? names_64[i] : names_32[i - FVM_COUNT(names_64)];
		if (one && strcmp(one, name) == 0)
			return true;
		if (one)
			fvm_nearest_try(&near, name, strlen(name), one);
	}
	*ret_near = near.word;
	return false;
}

const char *vin_errno_name(int64_t result)
{
	static const char *const own[] = { "ERESTARTSYS", "ERESTARTNOINTR", "ERESTARTNOHAND",
					   "ENOIOCTLCMD", "ERESTART_RESTARTBLOCK" };
	if (result <= -512 && result > -512 - (int64_t)FVM_COUNT(own))
		return own[-512 - result];
	return strerrorname_np((int)-result) ?: "?";
}

/* ---- memory ---- */

void vin_call_forget(struct vin_call_reader *r, pid_t tid)
{
	const size_t slot = (size_t)tid % FVM_COUNT(r->maps);
	if (r->maps[slot].tid != tid)
		return;
	close(r->maps[slot].fd);
	r->maps[slot].tid = 0;
}

static int pagemap_of(struct vin_call_reader *r, pid_t tid)
{
	const size_t slot = (size_t)tid % FVM_COUNT(r->maps);
	char path[40];
	if (r->maps[slot].tid == tid)
		return r->maps[slot].fd;
	if (r->maps[slot].tid)
		vin_call_forget(r, r->maps[slot].tid);
	snprintf(path, sizeof(path), "/proc/%d/pagemap", tid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	r->maps[slot].tid = tid;
	r->maps[slot].fd = fd;
	return fd;
}

static bool is_there(struct vin_call_reader *r, pid_t tid, uint64_t at)
{
	uint64_t entry;
	const off_t where = (off_t)(at / PAGE * sizeof(entry));
	return pread(pagemap_of(r, tid), &entry, sizeof(entry), where) == sizeof(entry) &&
	       (entry & PRESENT);
}

/* As much of the @len bytes at @at as is there. */
static size_t fetch(struct vin_call_reader *r, pid_t tid, uint64_t at, void *to, size_t len)
{
	size_t done = 0;
	while (done < len && at + done < VIN_ARCH_END && is_there(r, tid, at + done)) {
		size_t part = PAGE - (at + done) % PAGE;
		if (part > len - done)
			part = len - done;
		if (vin_mem_read(tid, at + done, (char *)to + done, part) < 0)
			break;
		done += part;
	}
	return done;
}

/* Bytes in C quotes, whatever they are. */
static void add_bytes(const char *data, size_t len, bool more, struct fvm_buf *to)
{
	static const char letters[] = "abtnvfr";
	fvm_buf_puts(to, "\"");
	for (size_t i = 0; i < len; i++) {
		const unsigned char c = (unsigned char)data[i];
		if (c == '"' || c == '\\')
			fvm_buf_printf(to, "\\%c", c);
		else if (c >= 7 && c <= 13)
			fvm_buf_printf(to, "\\%c", letters[c - 7]);
		else if (c < ' ' || c > '~')
			fvm_buf_printf(to, "\\%03o", c);
		else
			fvm_buf_add(to, &data[i], 1);
	}
	fvm_buf_puts(to, more ? "\"..." : "\"");
}

/* Names are most often text: UTF-8 that is safe stays as it is. Return: false, if it is not there
 */
static bool add_string(struct vin_call_reader *r, pid_t tid, uint64_t at, struct fvm_buf *to)
{
	char text[PATH_MAX + 1];
	size_t len = 0;
	while (len < PATH_MAX && !memchr(text, '\0', len)) {
		/* to the page's end at most: what is behind may not be there */
		size_t part = PAGE - (at + len) % PAGE, most = len ? PATH_MAX - len : 128;
		part = fetch(r, tid, at + len, text + len, part < most ? part : most);
		if (part == 0)
			break;
		len += part;
		if (memchr(text + len - part, '\0', part))
			break;
	}
	if (len == 0)
		return false;
	text[len] = '\0';
	const size_t end = strlen(text);
	if (end < len && !fvm_quote_needed(text))
		fvm_buf_printf(to, "\"%s\"", text);
	else
		add_bytes(text, end, end == len, to);
	return true;
}

static bool add_data(struct vin_call_reader *r, pid_t tid, uint64_t at, uint64_t len,
		     struct fvm_buf *to)
{
	char data[DATA_SHOWN];
	size_t want = len < sizeof(data) ? (size_t)len : sizeof(data);
	size_t got = fetch(r, tid, at, data, want);
	if (got == 0 && want)
		return false;
	add_bytes(data, got, got < len, to);
	return true;
}

/* A list of addresses, as wide as the program's. */
static bool add_list(struct vin_call_reader *r, pid_t tid, const struct vin_call_entry *e,
		     uint64_t at, struct fvm_buf *to)
{
	const size_t width = e->is_32 ? 4 : 8;
	uint64_t one = 0;
	if (fetch(r, tid, at, &one, width) != width)
		return false;
	fvm_buf_puts(to, "[");
	for (size_t i = 0; one; i++) {
		if (i)
			fvm_buf_puts(to, ", ");
		if (i == WORDS_SHOWN || !add_string(r, tid, one, to)) {
			fvm_buf_puts(to, "...");
			break;
		}
		one = 0;
		if (fetch(r, tid, at + (i + 1) * width, &one, width) != width)
			break;
	}
	fvm_buf_puts(to, "]");
	return true;
}

/* The first of the buffers. */
static bool add_buffers(struct vin_call_reader *r, pid_t tid, const struct vin_call_entry *e,
			uint64_t at, struct fvm_buf *to)
{
	uint64_t wide[2] = { 0 };
	uint32_t narrow[2] = { 0 };
	if (e->is_32 && fetch(r, tid, at, narrow, sizeof(narrow)) == sizeof(narrow)) {
		wide[0] = narrow[0];
		wide[1] = narrow[1];
	} else if (e->is_32 || fetch(r, tid, at, wide, sizeof(wide)) != sizeof(wide)) {
		return false;
	}
	size_t before = to->len;
	fvm_buf_puts(to, "[");
	if (!add_data(r, tid, wide[0], wide[1], to)) {
		to->len = before;
		return false;
	}
	fvm_buf_puts(to, "..]");
	return true;
}

static bool add_time(struct vin_call_reader *r, pid_t tid, const struct vin_call_entry *e,
		     uint64_t at, struct fvm_buf *to)
{
	int64_t t[2];
	if (!at || e->is_32 || fetch(r, tid, at, t, sizeof(t)) != sizeof(t))
		return false;
	fvm_buf_printf(to, "%" PRId64 ".%09" PRId64 "s", t[0], t[1]);
	return true;
}

static bool add_address(struct vin_call_reader *r, pid_t tid, uint64_t at, uint64_t len,
			struct fvm_buf *to)
{
	union {
		struct sockaddr any;
		struct sockaddr_un un;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		char bytes[sizeof(struct sockaddr_un) + 1];
	} a = { 0 };
	char text[INET6_ADDRSTRLEN];
	const size_t path = offsetof(struct sockaddr_un, sun_path);
	size_t want = len < sizeof(a.un) ? (size_t)len : sizeof(a.un);
	if (want < sizeof(a.any.sa_family) || fetch(r, tid, at, &a, want) != want)
		return false;
	if (a.any.sa_family == AF_UNIX && want > path) {
		if (!a.un.sun_path[0])
			fvm_buf_puts(to, "@");
		const size_t from = a.un.sun_path[0] ? path : path + 1;
		size_t end = a.un.sun_path[0] ? strnlen(a.un.sun_path, want - path) : want - from;
		add_bytes(a.bytes + from, end, false, to);
	} else if (a.any.sa_family == AF_INET && want >= sizeof(a.in)) {
		fvm_buf_printf(to, "%s:%u", inet_ntop(AF_INET, &a.in.sin_addr, text, sizeof(text)),
			       ntohs(a.in.sin_port));
	} else if (a.any.sa_family == AF_INET6 && want >= sizeof(a.in6)) {
		fvm_buf_printf(to, "[%s]:%u",
			       inet_ntop(AF_INET6, &a.in6.sin6_addr, text, sizeof(text)),
			       ntohs(a.in6.sin6_port));
	} else {
		(void)vin_call_word('f', a.any.sa_family, to);
	}
	return true;
}

/* ---- one argument ---- */

static void add_descriptor(const struct vin_call_reader *r, pid_t tid, int fd, struct fvm_buf *to)
{
	char path[48], link[PATH_MAX];
	uint64_t inode;
	if (fd == AT_FDCWD) {
		fvm_buf_puts(to, "AT_FDCWD");
		return;
	}
	fvm_buf_printf(to, "%d", fd);
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", tid, fd);
	ssize_t n = fd < 0 ? -1 : readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		return;
	link[n] = '\0';
	fvm_buf_puts(to, "<");
	if (r->options->socket && sscanf(link, "socket:[%" SCNu64 "]", &inode) == 1)
		r->options->socket(r->options->arg, tid, inode, to);
	else
		fvm_quote(to, link);
	fvm_buf_puts(to, ">");
}

static void add_number(const struct vin_call_reader *r, pid_t tid, char kind, uint64_t value,
		       struct fvm_buf *to)
{
	if (kind == 'd')
		add_descriptor(r, tid, (int)value, to);
	else if (kind == 'i' || kind == 'h')
		fvm_buf_printf(to, "%d", (int)value);
	else if (kind == 'u')
		fvm_buf_printf(to, "%" PRIu64, value);
	else if (kind == 'm')
		fvm_buf_printf(to, "%#o", (unsigned int)value);
	else if (!vin_call_word(kind, value, to))
		fvm_buf_printf(to, value || kind == 'x' ? "0x%" PRIx64 : "NULL", value);
}

/* What is at an address, before the call. Return: false, if that can't be told */
static bool add_pointed(struct vin_call_reader *r, pid_t tid, const struct vin_call_entry *e,
			size_t i, char kind, struct fvm_buf *to)
{
	const uint64_t at = e->args[i], next = i + 1 < VIN_CALL_ARGS ? e->args[i + 1] : 0;
	switch (kind) {
	case 'p':
	case 's':
		return add_string(r, tid, at, to);
	case 'b':
		return add_data(r, tid, at, next, to);
	case 'n':
		return add_address(r, tid, at, next, to);
	case 'v':
		return add_list(r, tid, e, at, to);
	case 'V':
		return add_buffers(r, tid, e, at, to);
	case 'Z':
		return add_time(r, tid, e, at, to);
	default:
		return false;
	}
}

#define POINTED "psbnvVZ"

size_t vin_call_before(struct vin_call_reader *r, pid_t tid, const struct vin_call_entry *e,
		       struct fvm_buf args[VIN_CALL_ARGS])
{
	const char *kinds = e->kinds;
	const bool makes = strncmp(e->name, "open", 4) == 0 &&
			   !(e->args[e->name[4] ? 2 : 1] & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)));
	size_t count = strlen(kinds);
	if (makes && kinds[count - 1] == 'm')
		count--; /* the mode of what is not made */
	for (size_t i = 0; i < count; i++) {
		args[i].len = 0;
		if (strchr(POINTED AFTER, kinds[i]) && e->args[i])
			(void)add_pointed(r, tid, e, i, kinds[i], &args[i]);
		else if (strchr(POINTED AFTER, kinds[i]))
			fvm_buf_puts(&args[i], "NULL");
		else
			add_number(r, tid, kinds[i], e->args[i], &args[i]);
	}
	return count;
}

static bool add_result(struct vin_call_reader *r, pid_t tid, const struct vin_call_entry *e,
		       size_t i, char kind, int64_t result, struct fvm_buf *to)
{
	const uint64_t at = e->args[i], next = i + 1 < VIN_CALL_ARGS ? e->args[i + 1] : 0;
	uint32_t size;
	int two[2];
	if (kind == 'r')
		return add_data(r, tid, at, result > 0 ? (uint64_t)result : 0, to);
	if (kind == 'N')
		return fetch(r, tid, next, &size, sizeof(size)) == sizeof(size) &&
		       add_address(r, tid, at, size, to);
	if (fetch(r, tid, at, two, kind == '2' ? 8 : 4) != (kind == '2' ? 8 : 4))
		return false;
	if (kind == '2')
		fvm_buf_printf(to, "[%d, %d]", two[0], two[1]);
	else if (result > 0)
		fvm_buf_printf(to, "[0x%x]", (unsigned int)two[0]);
	return to->len > 0;
}

void vin_call_after(struct vin_call_reader *r, pid_t tid, const struct vin_call_entry *e,
		    int64_t result, bool failed, struct fvm_buf args[VIN_CALL_ARGS])
{
	const char *kinds = e->kinds;
	for (size_t i = 0; kinds[i]; i++) {
		if (args[i].len || args[i].failed)
			continue;
		const bool after = strchr(AFTER, kinds[i]);
		if ((after && failed) ||
		    (after && !add_result(r, tid, e, i, kinds[i], result, &args[i])) ||
		    (!after && !add_pointed(r, tid, e, i, kinds[i], &args[i])))
			fvm_buf_printf(&args[i], "0x%" PRIx64, e->args[i]);
	}
}
