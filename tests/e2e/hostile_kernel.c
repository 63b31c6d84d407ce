/*
 * The doors of the kernel that no name space closes, and the tricks with mounts, attributes and
 * descriptors, one function each: tried by a VM's root, then again in a user namespace inside,
 * where he has all capabilities. Prints what worked; the status is its count.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define DIR "/tmp/hostile-kernel"

static long opened(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	return fd;
}

static long written(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	long n = fd < 0 ? -1 : write(fd, text, strlen(text));
	if (fd >= 0)
		close(fd);
	return n > 0 ? 0 : -1;
}

/* ---- kernel log, kernel code ---- */

static long log_call(void)
{
	char b[64];
	return klogctl(3, b, sizeof(b));
}
static long log_clear(void)
{
	return klogctl(5, NULL, 0);
}
static long log_device(void)
{
	mknod(DIR "/kmsg", S_IFCHR | 0666, 1 << 8 | 11);
	int fd = open(DIR "/kmsg", O_RDONLY | O_NONBLOCK);
	struct stat st;
	return fd >= 0 && fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) ? 0 : -1;
}
static long log_proc(void)
{
	return opened("/proc/kmsg", O_RDONLY | O_NONBLOCK);
}
static long kexec(void)
{
	return syscall(SYS_kexec_load, 0, 0, NULL, 0);
}
static long kexec_file(void)
{
	return syscall(SYS_kexec_file_load, -1, -1, 0, "", 0);
}
static long module_file(void)
{
	return syscall(SYS_finit_module, open("/bin/true", O_RDONLY), "", 0);
}
static long module_del(void)
{
	return syscall(SYS_delete_module, "loop", O_NONBLOCK);
}
static long ports(void)
{
	return syscall(SYS_iopl, 3);
}
static long bpf_map(void)
{
	uint32_t attr[32] = { 2, 4, 4, 1 };
	return syscall(SYS_bpf, 0, attr, sizeof(attr));
}
static long perf(void)
{
	uint32_t attr[32] = { 1, 112 };
	return syscall(SYS_perf_event_open, attr, 0, -1, -1, 0);
}
static long faults(void)
{
	return syscall(SYS_userfaultfd, O_CLOEXEC);
}
static long uring(void)
{
	char p[120] = { 0 };
	return syscall(425, 4, p);
}
static long uring_register(void)
{
	return syscall(427, -1, 8, NULL, 0) < 0 && errno != ENOSYS ? 0 : -1;
}

/* ---- clocks ---- */

static long clock_day(void)
{
	struct timeval now;
	gettimeofday(&now, NULL);
	return settimeofday(&now, NULL);
}
static long clock_zone(void)
{
	struct timezone z = { 0 };
	return settimeofday(NULL, &z);
}
static long clock_set(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return clock_settime(CLOCK_REALTIME, &now);
}
static long clock_tune(void)
{
	struct timex t = { .modes = ADJ_FREQUENCY };
	return adjtimex(&t);
}
static long clock_tune2(void)
{
	struct timex t = { .modes = ADJ_OFFSET };
	return clock_adjtime(CLOCK_REALTIME, &t);
}

/* ---- keys, files by number ---- */

static long key_user(void)
{
	return syscall(SYS_keyctl, 0, -4, 1, 0, 0);
}
static long key_add(void)
{
	return syscall(SYS_add_key, "user", "hostile", "x", 1, -4);
}
static long key_ask(void)
{
	return syscall(SYS_request_key, "user", "hostile", NULL, -4);
}
static long handle(void)
{
	struct {
		struct file_handle h;
		char id[128];
	} f = { .h = { .handle_bytes = 128 } };
	int mount_id, root = open("/", O_RDONLY | O_DIRECTORY);
	if (name_to_handle_at(AT_FDCWD, "/etc/passwd", &f.h, &mount_id, 0) < 0) {
		f.h.handle_bytes = 8;
		f.h.handle_type = 1;
		memcpy(f.id, "\2\0\0\0\0\0\0\0", 8);
	}
	return open_by_handle_at(root, &f.h, O_RDONLY);
}

/* ---- sockets ---- */

static long family(int family, int type, int protocol)
{
	int fd = socket(family, type | SOCK_CLOEXEC, protocol);
	if (fd >= 0)
		close(fd);
	return fd;
}
static long alg(void)
{
	return family(AF_ALG, SOCK_SEQPACKET, 0);
}
static long vsock(void)
{
	return family(40, SOCK_STREAM, 0);
}
static long vsock_upper(void)
{
	return syscall(SYS_socket, 0x100000028ULL, SOCK_STREAM, 0);
}
static long netlink_all(void)
{
	/* route, sock_diag, xfrm, routes' look-up, netfilter, uevent, generic: confined by the
	 * network namespace */
	static const int free_to_use[] = { 0, 2, 4, 6, 10, 12, 15, 16 };
	for (int p = 0; p < 32; p++) {
		int fine = 0;
		for (size_t i = 0; i < sizeof(free_to_use) / sizeof(free_to_use[0]); i++)
			fine |= free_to_use[i] == p;
		if (!fine && family(AF_NETLINK, SOCK_RAW, p) >= 0) {
			printf("netlink %d: ", p);
			return 0;
		}
	}
	return -1;
}
static long families_all(void)
{
	for (int f = 0; f < 64; f++) {
		int fine = f == AF_UNIX || f == AF_INET || f == AF_INET6 || f == AF_NETLINK ||
			   f == AF_PACKET;
		for (int t = 1; !fine && t < 6; t++) {
			if (family(f, t, 0) >= 0) {
				printf("family %d: ", f);
				return 0;
			}
		}
	}
	return -1;
}
/* events of the host's devices go to the first network namespace alone */
static long diag_sockets(void)
{
	struct sockaddr_nl at = { .nl_family = AF_NETLINK };
	struct {
		struct nlmsghdr h;
		char family, protocol;
		uint16_t pad;
		uint32_t states, ino, show, cookie[2];
	} q = { { sizeof(q), 20, NLM_F_REQUEST | NLM_F_DUMP, 1, 0 },
		AF_UNIX,
		0,
		0,
		~0U,
		0,
		1,
		{ ~0U, ~0U } };
	char answer[8192];
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 4);
	if (fd < 0 || sendto(fd, &q, sizeof(q), 0, (struct sockaddr *)&at, sizeof(at)) < 0)
		return -1;
	ssize_t n = recv(fd, answer, sizeof(answer), 0);
	close(fd);
	return memmem(answer, n > 0 ? n : 0, "fvm-e2e-host", 12) ? 0 : -1;
}

/* ---- terminals ---- */

static long on_terminal(unsigned long request)
{
	char byte[2] = { 2, 0 };
	int fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	long r = fd < 0 ? -1 : ioctl(fd, request, byte);
	if (fd >= 0)
		close(fd);
	return r;
}
static long sti(void)
{
	return on_terminal(TIOCSTI);
}
static long sti_upper(void)
{
	return on_terminal(0xff00000000ULL | TIOCSTI);
}
static long linux_ioctl(void)
{
	return on_terminal(TIOCLINUX);
}
static long discipline(void)
{
	return on_terminal(TIOCSETD);
}
static long console(void)
{
	return on_terminal(TIOCCONS);
}

/* ---- mounts ---- */

static long pivot(void)
{
	mkdir(DIR "/root", 0755);
	/* allowed over what is our own; the mounts that came with the VM must not come off by it */
	if (mount("x", DIR "/root", "tmpfs", 0, NULL) < 0)
		return -1;
	mkdir(DIR "/root/old", 0755);
	if (syscall(SYS_pivot_root, DIR "/root", DIR "/root/old") < 0) {
		umount2(DIR "/root", MNT_DETACH);
		return -1;
	}
	return opened("/old/proc/kcore", O_RDONLY) >= 0 || umount2("/old/dev", 0) == 0 ? 0 : -1;
}
static long move_mask(void)
{
	return syscall(SYS_move_mount, AT_FDCWD, "/proc", AT_FDCWD, "/mnt", 0);
}
static long umount_proc(void)
{
	return umount2("/proc", MNT_DETACH);
}
static long clone_bare(void)
{
	/* /dev without what lies over it would be the base's, with all nodes */
	long fd = syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */);
	if (fd < 0)
		return -1;
	return openat((int)fd, "dev/mem", O_RDONLY);
}
static long sysfs_write(void)
{
	mkdir(DIR "/sys", 0755);
	if (mount("sysfs", DIR "/sys", "sysfs", 0, NULL) < 0)
		return -1;
	long r = opened(DIR "/sys/kernel/uevent_helper", O_WRONLY) >= 0 ||
				 opened(DIR "/sys/power/state", O_WRONLY) >= 0
			 ? 0
			 : -1;
	umount2(DIR "/sys", MNT_DETACH);
	return r;
}
static long proc_write(void)
{
	mkdir(DIR "/proc", 0755);
	if (mount("proc", DIR "/proc", "proc", 0, NULL) < 0)
		return -1;
	long r = opened(DIR "/proc/sys/kernel/core_pattern", O_WRONLY) >= 0 ||
				 opened(DIR "/proc/sysrq-trigger", O_WRONLY) >= 0
			 ? 0
			 : -1;
	umount2(DIR "/proc", MNT_DETACH);
	return r;
}
static long fuse(void)
{
	/* without the device there is no server; a mount by another descriptor must fail */
	return mount("x", DIR, "fuse", 0, "fd=0,rootmode=40000,user_id=0,group_id=0");
}
static long binfmt(void)
{
	mkdir(DIR "/binfmt", 0755);
	if (mount("x", DIR "/binfmt", "binfmt_misc", 0, NULL) < 0)
		return -1;
	/* since Linux 6.7 a user namespace has one of its own */
	long r = access("/proc/sys/fs/binfmt_misc/register", W_OK);
	umount2(DIR "/binfmt", MNT_DETACH);
	return r;
}
static long modprobe(void)
{
	return written("/proc/sys/kernel/modprobe", "/tmp/x");
}
static long core(void)
{
	return written("/proc/sys/kernel/core_pattern", "|/tmp/x");
}
static long uevent(void)
{
	return written("/sys/kernel/uevent_helper", "/tmp/x");
}
static long sysrq(void)
{
	return written("/proc/sysrq-trigger", "h");
}
static long oom(void)
{
	return written("/proc/1/oom_score_adj", "1000");
}
static long own_oom(void)
{
	return written("/proc/self/oom_score_adj", "-1000");
}
static long panic_on(void)
{
	return written("/proc/sys/kernel/panic_on_warn", "1");
}
static long pids_max(void)
{
	return written("/proc/sys/kernel/threads-max", "100");
}

/* ---- cgroups ---- */

static long cgroup_agent(void)
{
	static const char *const kinds[] = { "rdma", "memory", "cpu", "pids", "none,name=hostile" };
	long r = -1;
	mkdir(DIR "/cg", 0755);
	unshare(CLONE_NEWCGROUP);
	for (size_t i = 0; r < 0 && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (mount("cgroup", DIR "/cg", "cgroup", 0, kinds[i]) < 0)
			continue;
		if (written(DIR "/cg/release_agent", "/tmp/x") == 0 ||
		    written(DIR "/cg/memory.limit_in_bytes", "-1") == 0 ||
		    written(DIR "/cg/pids.max", "max") == 0 || mkdir(DIR "/cg/hostile", 0755) == 0)
			r = 0;
		umount2(DIR "/cg", MNT_DETACH);
	}
	return r;
}
static long cgroup_two(void)
{
	mkdir(DIR "/cg2", 0755);
	if (mount("cgroup2", DIR "/cg2", "cgroup2", 0, NULL) < 0)
		return -1;
	long r = written(DIR "/cg2/memory.max", "max") == 0 ||
				 written(DIR "/cg2/pids.max", "max") == 0 ||
				 mkdir(DIR "/cg2/hostile", 0755) == 0
			 ? 0
			 : -1;
	umount2(DIR "/cg2", MNT_DETACH);
	return r;
}

/* ---- attributes by which overlays tell their layers apart ---- */

static long xattr(const char *name, const char *value)
{
	mkdir(DIR "/attribute", 0755);
	if (setxattr(DIR "/attribute", name, value, strlen(value), 0) < 0)
		return -1;
	/* kept, it must be the VM's own, and not be read as the overlay's */
	return access(DIR "/attribute/passwd", F_OK);
}
static long redirect_trusted(void)
{
	return setxattr(DIR, "trusted.overlay.redirect", "/etc", 4, 0);
}
static long redirect_user(void)
{
	return xattr("user.overlay.redirect", "/etc");
}
static long opaque_user(void)
{
	long r = setxattr("/etc", "user.overlay.opaque", "y", 1, 0);
	return r == 0 && access("/etc/passwd", F_OK) < 0 ? 0 : -1;
}
static long metacopy_user(void)
{
	return setxattr(DIR, "trusted.overlay.metacopy", "", 0, 0);
}

/* ---- descriptors ---- */

static long own_init(void)
{
	return opened("/proc/1/exe", O_RDONLY);
}
static long own_program(void)
{
	/* what runs may not be written, and what ran first is none of the VM's files */
	return opened("/proc/self/exe", O_WRONLY);
}
static long enter_by_fd(void)
{
	int own = open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC);
	int above = own < 0 ? -1 : ioctl(own, 0xb701 /* NS_GET_USERNS */);
	if (above < 0)
		return -1;
	return setns(above, CLONE_NEWUSER);
}
static long parent_of(int which)
{
	static const char *const names[] = { "pid", "mnt", "net", "ipc", "uts", "cgroup" };
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/ns/%s", names[which]);
	int ns = open(path, O_RDONLY | O_CLOEXEC), owner = ns < 0 ? -1 : ioctl(ns, 0xb701);
	/* whose it is may be told only if that is us or below us */
	long r = owner < 0 ? -1 : ioctl(owner, 0xb702 /* NS_GET_PARENT */);
	return r;
}
static long parent_user(void)
{
	for (int i = 0; i < 6; i++) {
		if (parent_of(i) >= 0)
			return 0;
	}
	return -1;
}
static long parent_pid(void)
{
	int ns = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	return ns < 0 ? -1 : ioctl(ns, 0xb702);
}
static long forged_sender(void)
{
	/* who says he is another process, and one that the VM does not know */
	struct {
		struct cmsghdr h;
		struct ucred who;
	} c = { { sizeof(c), SOL_SOCKET, SCM_CREDENTIALS }, { 4194000, 0, 0 } };
	char byte = 0;
	struct iovec v = { &byte, 1 };
	struct msghdr m = {
		.msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c)
	};
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) < 0)
		return -1;
	return sendmsg(pair[0], &m, 0);
}

#define ROW(fn)                                                                                    \
	{                                                                                          \
#fn, fn                                                                            \
	}
static const struct {
	const char *name;
	long (*fn)(void);
} rows[] = {
	ROW(log_call),	    ROW(log_clear),
	ROW(log_device),    ROW(log_proc),
	ROW(kexec),	    ROW(kexec_file),
	ROW(module_file),   ROW(module_del),
	ROW(ports),	    ROW(bpf_map),
	ROW(perf),	    ROW(faults),
	ROW(uring),	    ROW(uring_register),
	ROW(clock_day),	    ROW(clock_zone),
	ROW(clock_set),	    ROW(clock_tune),
	ROW(clock_tune2),   ROW(key_user),
	ROW(key_add),	    ROW(key_ask),
	ROW(handle),	    ROW(alg),
	ROW(vsock),	    ROW(vsock_upper),
	ROW(netlink_all),   ROW(families_all),
	ROW(diag_sockets),  ROW(sti),
	ROW(sti_upper),	    ROW(linux_ioctl),
	ROW(discipline),    ROW(console),
	ROW(move_mask),	    ROW(umount_proc),
	ROW(clone_bare),    ROW(sysfs_write),
	ROW(proc_write),    ROW(fuse),
	ROW(binfmt),	    ROW(modprobe),
	ROW(core),	    ROW(uevent),
	ROW(sysrq),	    ROW(oom),
	ROW(own_oom),	    ROW(panic_on),
	ROW(pids_max),	    ROW(cgroup_agent),
	ROW(cgroup_two),    ROW(redirect_trusted),
	ROW(redirect_user), ROW(opaque_user),
	ROW(metacopy_user), ROW(own_init),
	ROW(own_program),   ROW(enter_by_fd),
	ROW(parent_user),   ROW(parent_pid),
	ROW(forged_sender), ROW(pivot),
};

/* Each in a process of its own, so that none helps or hinders the next. */
static int try_all(const char *where, int spaces)
{
	int bad = 0, status;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		fflush(stdout);
		pid_t pid = fork();
		if (pid == 0) {
			if (spaces && unshare(spaces) < 0)
				_exit(0);
			long r = rows[i].fn();
			if (r >= 0)
				printf("%s: %s worked\n", where, rows[i].name);
			fflush(stdout);
			_exit(r >= 0);
		}
		if (waitpid(pid, &status, 0) == pid)
			bad += !WIFEXITED(status) || WEXITSTATUS(status);
	}
	return bad;
}

int main(void)
{
	mkdir(DIR, 0777);
	int bad = try_all("the VM", 0);
	bad += try_all("a copy of its mounts", CLONE_NEWNS);
	bad += try_all("a namespace inside", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWCGROUP);
	return bad > 100 ? 100 : bad;
}
