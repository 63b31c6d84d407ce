#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "fvm/prove.h"
#include "fvm/sys.h"

extern const char *const fvm_prove_namespaces[8]; /* bait.c */

static void leaks(struct fvm_proof *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void leaks(struct fvm_proof *p, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(p->what, sizeof(p->what), fmt, ap);
	va_end(ap);
	p->result = FVM_PROOF_LEAKS;
}

static void open_by(struct fvm_proof *p, const char *why)
{
	snprintf(p->what, sizeof(p->what), "%s", why);
	p->result = FVM_PROOF_OPEN;
}

/* A call that has to fail. */
static void refused(struct fvm_proof *p, long result, const char *what)
{
	if (result >= 0)
		leaks(p, "%s went through", what);
}

/* ---- files and names ---- */

static void try_file(const struct fvm_bait *b, struct fvm_proof *p)
{
	char path[96];
	(void)p; /* the starter sees what came of it */
	snprintf(path, sizeof(path), "%s/file", b->dir);
	scoped_fd fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	(void)!write(fd, "VM's", 4);
	(void)unlink(path);
}

static long connect_to(const struct sockaddr *at, socklen_t len)
{
	const struct timeval patience = { .tv_sec = 1 };
	scoped_fd fd = socket(at->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	return connect(fd, at, len);
}

static void try_socket(const struct fvm_bait *b, struct fvm_proof *p)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	snprintf(at.sun_path, sizeof(at.sun_path), "%s/socket", b->dir);
	refused(p, connect_to((struct sockaddr *)&at, sizeof(at)), "connect() to a host's socket");
}

static void try_fifo(const struct fvm_bait *b, struct fvm_proof *p)
{
	char path[96];
	snprintf(path, sizeof(path), "%s/fifo", b->dir);
	scoped_fd fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	refused(p, fd, "open() of a FIFO that the host reads");
}

static void try_abstract(const struct fvm_bait *b, struct fvm_proof *p)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	size_t n = strlen(b->abstract);
	memcpy(at.sun_path + 1, b->abstract, n);
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n);
	refused(p, connect_to((struct sockaddr *)&at, len), "connect() to an abstract socket");
}

static void try_loopback(const struct fvm_bait *b, struct fvm_proof *p)
{
	const struct sockaddr_in at = { .sin_family = AF_INET,
					.sin_port = htons(b->port),
					.sin_addr = { htonl(INADDR_LOOPBACK) } };
	if (b->config->net == FVM_NET_HOST) {
		open_by(p, "--net host");
		return;
	}
	refused(p, connect_to((const struct sockaddr *)&at, sizeof(at)),
		"connect() to the host's loopback");
}

/* What the VM made of its own in a hidden place has another inode than the host's file. */
static void try_hidden(const struct fvm_bait *b, struct fvm_proof *p)
{
	for (size_t i = 0; i < b->hide->count; i++) {
		struct stat st;
		if (lstat(b->hide->items[i].path, &st) == 0 && st.st_ino == b->inodes[i])
			leaks(p, "%.100s can be seen", b->hide->items[i].path);
	}
}

/* ---- processes ---- */

static void try_namespaces(const struct fvm_bait *b, struct fvm_proof *p)
{
	for (size_t i = 0; i < FVM_COUNT(fvm_prove_namespaces); i++) {
		char path[64];
		struct stat st;
		const char *name = fvm_prove_namespaces[i];
		if (strcmp(name, "net") == 0 && b->config->net == FVM_NET_HOST)
			continue;
		snprintf(path, sizeof(path), "/proc/self/ns/%s", name);
		if (b->namespaces[i] && stat(path, &st) == 0 && st.st_ino == b->namespaces[i])
			leaks(p, "the %s namespace is the host's", name);
	}
}

static void try_processes(const struct fvm_bait *b, struct fvm_proof *p)
{
	(void)b;
	DIR *d = opendir("/proc");
	for (struct dirent *e; d && (e = readdir(d));) {
		long pid = strtol(e->d_name, NULL, 10);
		if (pid > 1 && pid != getpid() && pid != getppid())
			leaks(p, "/proc shows process %ld", pid);
	}
	if (d)
		closedir(d);
}

static void try_ptrace(const struct fvm_bait *b, struct fvm_proof *p)
{
	(void)b;
	refused(p, ptrace(PTRACE_ATTACH, 1, NULL, NULL), "ptrace() of PID 1");
	scoped_fd memory = open("/proc/1/mem", O_RDONLY | O_CLOEXEC);
	refused(p, memory, "open() of /proc/1/mem");
	scoped_fd root = open("/proc/1/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	refused(p, root, "open() of /proc/1/fd");
}

static void try_setns(const struct fvm_bait *b, struct fvm_proof *p)
{
	(void)b;
	scoped_fd ns = open("/proc/1/ns/user", O_RDONLY | O_CLOEXEC);
	refused(p, ns < 0 ? -1 : setns(ns, CLONE_NEWUSER), "setns() to PID 1's user namespace");
}

/* ---- messages ---- */

static void try_sysv(const struct fvm_bait *b, struct fvm_proof *p)
{
	refused(p, b->shm_id < 0 ? -1 : shmget(b->shm_key, 0, 0), "shmget() of a host's segment");
}

static void try_queue(const struct fvm_bait *b, struct fvm_proof *p)
{
	scoped_fd fd = mq_open(b->queue, O_RDONLY | O_CLOEXEC);
	refused(p, fd, "mq_open() of a host's queue");
}

static void try_shm(const struct fvm_bait *b, struct fvm_proof *p)
{
	scoped_fd fd = shm_open(b->queue, O_RDONLY | O_CLOEXEC, 0);
	refused(p, fd, "shm_open() of what is the host's");
}

static void try_netlink(const struct fvm_bait *b, struct fvm_proof *p)
{
	static const int others[] = { NETLINK_SELINUX,	     NETLINK_ISCSI, NETLINK_CONNECTOR,
				      NETLINK_SCSITRANSPORT, NETLINK_RDMA,  NETLINK_CRYPTO };
	(void)b;
	for (size_t i = 0; i < FVM_COUNT(others); i++) {
		scoped_fd fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, others[i]);
		if (fd >= 0)
			leaks(p, "socket(AF_NETLINK, %d) went through", others[i]);
	}
}

static void try_families(const struct fvm_bait *b, struct fvm_proof *p)
{
	(void)b;
	scoped_fd vsock = socket(40 /* AF_VSOCK */, SOCK_STREAM | SOCK_CLOEXEC, 0);
	refused(p, vsock, "socket(AF_VSOCK)");
	scoped_fd alg = socket(AF_ALG, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	refused(p, alg, "socket(AF_ALG)");
	scoped_fd audit = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_AUDIT);
	refused(p, audit, "socket(NETLINK_AUDIT)");
}

#if defined(__x86_64__)
static void try_families32(const struct fvm_bait *b, struct fvm_proof *p)
{
	long fd;
	void *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (b->config->i386_sockets) {
		open_by(p, "i386-sockets = yes");
		return;
	}
	if (low == MAP_FAILED)
		return;
	const uint32_t args[3] = { 40, SOCK_STREAM, 0 };
	memcpy(low, args, sizeof(args));
	__asm__ volatile("int $0x80"
			 : "=a"(fd)
			 : "a"(102), "b"(1), "c"(low)
			 : "memory", "r8", "r9", "r10", "r11");
	refused(p, (int)fd, "socketcall(AF_VSOCK) by int 0x80");
	munmap(low, 4096);
}
#endif

static void try_terminal(const struct fvm_bait *b, struct fvm_proof *p)
{
	(void)b;
	char byte = 'x';
	scoped_fd master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (master < 0)
		return;
	refused(p, ioctl(master, TIOCSTI, &byte), "ioctl(TIOCSTI)");
	/* bits that the kernel does not look at must not fool the filter */
	refused(p, syscall(SYS_ioctl, master, 0xf00000000UL | TIOCSTI, &byte),
		"ioctl(TIOCSTI) with rubbish above it");
	DIR *d = opendir("/dev/pts");
	for (struct dirent *e; d && (e = readdir(d));) {
		if (e->d_name[0] != '.' && strcmp(e->d_name, "ptmx") != 0 &&
		    strcmp(e->d_name, "0") != 0)
			leaks(p, "/dev/pts/%.20s is there", e->d_name);
	}
	if (d)
		closedir(d);
}

/* ---- the kernel ---- */

static void try_keyring(const struct fvm_bait *b, struct fvm_proof *p)
{
	(void)b;
	refused(p, syscall(SYS_keyctl, 0, -3, 0, 0, 0), "keyctl()");
	refused(p, syscall(SYS_add_key, "user", "fvm", "x", 1, -3), "add_key()");
	refused(p, syscall(SYS_request_key, "user", "fvm", NULL, 0), "request_key()");
}

static void try_kernel(const struct fvm_bait *b, struct fvm_proof *p)
{
	char attr[128] = { 0 };
	(void)b;
	refused(p, syscall(SYS_bpf, 0, attr, sizeof(attr)), "bpf()");
	refused(p, syscall(SYS_perf_event_open, attr, 0, -1, -1, 0), "perf_event_open()");
	refused(p, syscall(SYS_userfaultfd, O_CLOEXEC), "userfaultfd() for the kernel's faults");
	refused(p, syscall(SYS_syslog, 10, NULL, 0), "syslog()");
	refused(p, syscall(SYS_kexec_load, 0, 0, NULL, 0), "kexec_load()");
	refused(p, syscall(SYS_delete_module, "fvm", 0), "delete_module()");
}

static void try_io_uring(const struct fvm_bait *b, struct fvm_proof *p)
{
	char params[120] = { 0 };
	if (b->config->io_uring)
		open_by(p, "--io-uring");
	else
		refused(p, syscall(425 /* io_uring_setup */, 1, params), "io_uring_setup()");
}

static void try_clock(const struct fvm_bait *b, struct fvm_proof *p)
{
	struct timespec now;
	(void)b;
	clock_gettime(CLOCK_REALTIME, &now);
	refused(p, clock_settime(CLOCK_REALTIME, &now), "clock_settime()");
	struct timeval day = { .tv_sec = now.tv_sec };
	refused(p, settimeofday(&day, NULL), "settimeofday()");
	struct timex tune = { .modes = ADJ_FREQUENCY };
	refused(p, adjtimex(&tune), "adjtimex()");
}

static void try_log(const struct fvm_bait *b, struct fvm_proof *p)
{
	char text[16];
	(void)b;
	refused(p, syscall(SYS_syslog, 3, text, sizeof(text)), "syslog()");
	scoped_fd proc = open("/proc/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	refused(p, proc, "open() of /proc/kmsg");
}

/* A pipe for dumps is the host's program; see keep_dumps() in init.c. */
static void try_dumps(const struct fvm_bait *b, struct fvm_proof *p)
{
	struct rlimit core;
	char first = 0;
	(void)b;
	scoped_fd pattern = open("/proc/sys/kernel/core_pattern", O_RDONLY | O_CLOEXEC);
	if (read(pattern, &first, 1) == 1 && first == '|' && getrlimit(RLIMIT_CORE, &core) == 0 &&
	    core.rlim_max != 1)
		leaks(p, "a crash starts the host's dump handler");
}

static void try_handle(const struct fvm_bait *b, struct fvm_proof *p)
{
	struct {
		struct file_handle head;
		char id[8];
	} handle = { .head = { .handle_bytes = 8, .handle_type = 1 } };
	(void)b;
	memcpy(handle.id, "\2\0\0\0\0\0\0\0", 8); /* the root of an ext file system */
	scoped_fd root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	scoped_fd fd = open_by_handle_at(root, &handle.head, O_RDONLY | O_CLOEXEC);
	refused(p, fd, "open_by_handle_at()");
}

/* By these overlay tells what lies below: to forge one would show what is hidden. */
static void try_attributes(const struct fvm_bait *b, struct fvm_proof *p)
{
	static const char *const names[] = { "trusted.overlay.redirect", "trusted.overlay.opaque",
					     "trusted.overlay.metacopy" };
	(void)b;
	for (size_t i = 0; i < FVM_COUNT(names); i++) {
		if (setxattr("/tmp", names[i], "/etc", 4, 0) == 0)
			leaks(p, "setxattr() of %s went through", names[i]);
	}
}

static void try_cgroups(const struct fvm_bait *b, struct fvm_proof *p)
{
	static const char *const files[] = {
		"/sys/fs/cgroup/memory.max",
		"/sys/fs/cgroup/pids.max",
		"/sys/fs/cgroup/cpu.max",
		"/sys/fs/cgroup/release_agent",
	};
	(void)b;
	for (size_t i = 0; i < FVM_COUNT(files); i++) {
		scoped_fd fd = open(files[i], O_WRONLY | O_CLOEXEC);
		if (fd >= 0)
			leaks(p, "%s can be written", files[i]);
	}
}

static void try_proc(const struct fvm_bait *b, struct fvm_proof *p)
{
	static const char *const files[] = {
		"/proc/sysrq-trigger",		 "/proc/sys/vm/drop_caches",
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/panic",
		"/sys/kernel/uevent_helper",	 "/sys/power/state",
	};
	(void)b;
	for (size_t i = 0; i < FVM_COUNT(files); i++) {
		scoped_fd fd = open(files[i], O_WRONLY | O_CLOEXEC);
		if (fd >= 0)
			leaks(p, "%s can be written", files[i]);
	}
	scoped_fd memory = open("/proc/kcore", O_RDONLY | O_CLOEXEC);
	refused(p, memory, "open() of the kernel's memory");
}

/* ---- devices and mounts ---- */

static void try_devices(const struct fvm_bait *b, struct fvm_proof *p)
{
	static const char *const names[] = { "/dev/mem", "/dev/kmsg",	    "/dev/sda",
					     "/dev/vda", "/dev/nvme0n1",    "/dev/fuse",
					     "/dev/kvm", "/dev/vhost-vsock" };
	for (size_t i = 0; i < FVM_COUNT(names); i++) {
		scoped_fd fd = open(names[i], O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0 && !fvm_strv_has(&b->config->devices, names[i]))
			leaks(p, "%s can be opened", names[i]);
	}
	char path[96];
	snprintf(path, sizeof(path), "%s/disk", b->dir);
	scoped_fd disk = mknod(path, S_IFBLK | 0600, makedev(8, 0)) < 0 ? -1 : open(path, O_RDONLY);
	refused(p, disk, "open() of a disk made with mknod()");
}

/* Every mount of the VM, in a copy of its mount namespace. */
static void try_mount(struct fvm_proof *p, const char *path, const char *options)
{
	static const struct {
		const char *word;
		uint64_t attr;
	} flags[] = {
		{ "ro", MOUNT_ATTR_RDONLY },
		{ "nodev", MOUNT_ATTR_NODEV },
		{ "nosuid", MOUNT_ATTR_NOSUID },
		{ "noexec", MOUNT_ATTR_NOEXEC },
	};
	for (size_t i = 0; i < FVM_COUNT(flags); i++) {
		const char *at = strstr(options, flags[i].word);
		size_t n = strlen(flags[i].word);
		if (!at || (at != options && at[-1] != ',') || (at[n] && at[n] != ','))
			continue;
		const struct sys_mount_attr attr = { .attr_clr = flags[i].attr };
		if (sys_mount_setattr(AT_FDCWD, path, 0, &attr) == 0)
			leaks(p, "%.80s lost its %s", path, flags[i].word);
	}
	if (strcmp(path, "/") != 0 && umount2(path, MNT_DETACH) == 0)
		leaks(p, "%.80s could be unmounted", path);
}

static void try_mounts(const struct fvm_bait *b, struct fvm_proof *p)
{
	scoped_free char *text = NULL;
	char path[512], options[256];
	(void)b;
	if (fvm_read_file(AT_FDCWD, "/proc/self/mountinfo", 16 << 20, &text, NULL) < 0)
		return;
	for (char *line = text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (sscanf(line, "%*s %*s %*s %*s %511s %255s", path, options) == 2)
			try_mount(p, path, options);
	}
}

/* Who makes a user namespace has all capabilities in it: over nothing that was there before. */
static void try_inside(const struct fvm_bait *b, struct fvm_proof *p)
{
	static void (*const again[])(const struct fvm_bait *b, struct fvm_proof *p) = {
		try_kernel, try_log,	  try_clock,   try_keyring, try_handle,	 try_proc,
		try_ptrace, try_families, try_netlink, try_devices, try_cgroups, try_mounts,
	};
	int status = 0;
	pid_t pid = fork();
	if (pid == 0) {
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
			_exit(0); /* none to be had: nothing to be gained */
		for (size_t i = 0; i < FVM_COUNT(again); i++)
			again[i](b, p);
		_exit(p->result == FVM_PROOF_LEAKS);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0)
		leaks(p, "in a user namespace inside a refused call went through");
}

static const struct row {
	const char *name;
	void (*fn)(const struct fvm_bait *b, struct fvm_proof *p);
} rows[] = {
	{ "files", try_file },
	{ "hidden files", try_hidden },
	{ "named sockets", try_socket },
	{ "FIFOs", try_fifo },
	{ "abstract sockets", try_abstract },
	{ "loopback", try_loopback },
	{ "socket families", try_families },
#if defined(__x86_64__)
	{ "socket families, 32-bit", try_families32 },
#endif
	{ "other netlink", try_netlink },
	{ "SysV IPC", try_sysv },
	{ "POSIX shared memory", try_shm },
	{ "POSIX queues", try_queue },
	{ "namespaces", try_namespaces },
	{ "processes", try_processes },
	{ "ptrace and PID 1", try_ptrace },
	{ "setns", try_setns },
	{ "terminals", try_terminal },
	{ "keyrings", try_keyring },
	{ "the kernel", try_kernel },
	{ "kernel log", try_log },
	{ "crash dumps", try_dumps },
	{ "io_uring", try_io_uring },
	{ "clocks", try_clock },
	{ "file handles", try_handle },
	{ "proc and sys", try_proc },
	{ "cgroups", try_cgroups },
	{ "overlay attributes", try_attributes },
	{ "devices", try_devices },
	{ "user namespaces inside", try_inside },
	{ "mounts", try_mounts }, /* last: it may take the tree apart */
};

static void prove_row(const struct fvm_bait *bait, size_t row, struct fvm_proof *ret)
{
	*ret = (struct fvm_proof){ .result = FVM_PROOF_HOLDS };
	snprintf(ret->name, sizeof(ret->name), "%s", rows[row].name);
	rows[row].fn(bait, ret);
}

/* A failed test that kills its process is no proof, so the parent counts. */
static _Noreturn void prove(const struct fvm_bait *bait, int out)
{
	struct fvm_proof p = { .result = FVM_PROOF_LEAKS };
	int bad = 0;
	(void)alarm(20);
	if (unshare(CLONE_NEWNS) < 0)
		_exit(1);
	for (size_t i = 0; i < FVM_COUNT(rows); i++) {
		prove_row(bait, i, &p);
		bad |= p.result == FVM_PROOF_LEAKS;
		if (write(out, &p, sizeof(p)) != sizeof(p))
			bad = 1;
	}
	_exit(bad);
}

int fvm_prove_inside(const struct fvm_bait *bait, int out, struct fvm_error *err)
{
	int status;
	sigset_t none;
	pid_t pid = fork();
	if (pid == 0) {
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		/* its descriptors are those of PID 1: close_range() would be missed in a leak */
		prove(bait, out);
	}
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (pid < 0)
		return fvm_error_set(err, errno, "start the self-test");
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return fvm_error_set(err, EBADE, "prove this VM's confinement");
	return 0;
}
