/*
 * Ways out of a VM by /proc, /sys, descriptors, namespaces, chroot, keys and the kernel's own
 * doors, tried as its root. Prints those that worked; the status is their number.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static int bad;

static void worked(const char *what)
{
	printf("worked: %s\n", what);
	bad++;
}

static void must_fail(long r, const char *what)
{
	if (r >= 0)
		worked(what);
}

static void pid_one(void)
{
	static const char *const parts[] = { "root",	"cwd",	  "exe",   "fd",
					     "fd/0",	"fd/3",	  "mem",   "map_files",
					     "environ", "ns/mnt", "ns/net" };
	char path[64], link[256];
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		snprintf(path, sizeof(path), "/proc/1/%s", parts[i]);
		must_fail(open(path, O_RDONLY), path);
		if (strcmp(parts[i], "fd") && strncmp(parts[i], "fd/", 3) == 0)
			must_fail(readlink(path, link, sizeof(link)), path);
	}
	must_fail(ptrace(PTRACE_SEIZE, 1, NULL, NULL), "seize PID 1");
	must_fail(ptrace(PTRACE_ATTACH, 1, NULL, NULL), "attach to PID 1");
	int fd = (int)syscall(SYS_pidfd_open, 1, 0);
	for (int other = 0; fd >= 0 && other < 64; other++)
		must_fail(syscall(438 /* pidfd_getfd */, fd, other, 0),
			  "take a descriptor of PID 1");
	if (fd >= 0)
		must_fail(setns(fd, CLONE_NEWUSER | CLONE_NEWNS), "enter PID 1's namespaces");
	must_fail(syscall(SYS_kcmp, getpid(), 1, 2 /* KCMP_FILES */, 0, 0), "compare with PID 1");
	kill(1, SIGKILL);
	kill(1, SIGSTOP);
	struct rlimit none = { 0, 0 };
	must_fail(prlimit(1, RLIMIT_NOFILE, &none, NULL), "limit PID 1");
}

static void files_of_the_kernel(void)
{
	static const char *const files[] = {
		"/proc/sysrq-trigger",
		"/proc/sys/kernel/core_pattern",
		"/proc/sys/kernel/modprobe",
		"/proc/sys/kernel/hotplug",
		"/proc/sys/kernel/randomize_va_space",
		"/proc/sys/vm/overcommit_memory",
		"/proc/sys/fs/binfmt_misc/register",
		"/proc/sys/kernel/kptr_restrict",
		"/proc/sys/fs/file-max",
		"/proc/acpi/wakeup",
		"/sys/kernel/uevent_helper",
		"/sys/kernel/mm/ksm/run",
		"/sys/power/state",
		"/sys/kernel/debug/x",
		"/sys/fs/cgroup/cgroup.procs",
		"/sys/block/loop0/uevent",
		"/sys/class/net/lo/mtu",
		"/sys/module/kernel/parameters/panic",
	};
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		must_fail(open(files[i], O_WRONLY), files[i]);
	must_fail(open("/proc/kcore", O_RDONLY), "/proc/kcore");
	must_fail(open("/proc/kmsg", O_RDONLY | O_NONBLOCK), "/proc/kmsg");
	must_fail(open("/dev/kmsg", O_RDONLY | O_NONBLOCK), "/dev/kmsg");
	must_fail(open("/dev/mem", O_RDONLY), "/dev/mem");
	FILE *f = fopen("/proc/kallsyms", "r");
	unsigned long long at = 0;
	char line[512];
	if (f && fscanf(f, "%llx", &at) == 1 && at)
		worked("addresses in /proc/kallsyms");
	if (f)
		fclose(f);
	f = fopen("/proc/keys", "r");
	/* its own session's, which is empty, is no secret; a user's VM sees that the user has
	 * keyrings, whose keys are his own (docs/security.md) */
	while (f && fgets(line, sizeof(line), f)) {
		if (!strstr(line, "_ses: empty") && !strstr(line, "keyring   _uid"))
			worked(line);
	}
	if (f)
		fclose(f);
}

/* An ordinary user's VM keeps a record of the wish, in a plain file. */
static void open_node(const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_NONBLOCK);
	if (fd >= 0 && fstat(fd, &st) == 0 && !S_ISREG(st.st_mode))
		worked("a device node");
	if (fd >= 0)
		close(fd);
}

static void devices(void)
{
	static const struct {
		mode_t type;
		int major, minor;
	} kinds[] = { { S_IFBLK, 8, 0 },   { S_IFBLK, 254, 0 }, { S_IFBLK, 259, 0 },
		      { S_IFBLK, 7, 0 },   { S_IFCHR, 1, 1 },	{ S_IFCHR, 1, 11 },
		      { S_IFCHR, 10, 229 } };
	static const char *const dirs[] = { "/tmp", "/dev", "/dev/shm", "/run", "/" };
	char path[64];
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		for (size_t d = 0; d < 5; d++) {
			snprintf(path, sizeof(path), "%s/hostile-node", dirs[d]);
			if (mknod(path, kinds[i].type | 0666,
				  makedev(kinds[i].major, kinds[i].minor)) == 0)
				open_node(path);
			unlink(path);
		}
	}
	must_fail(mount("devtmpfs", "/mnt", "devtmpfs", 0, NULL), "mount devtmpfs");
	must_fail(mount("debugfs", "/mnt", "debugfs", 0, NULL), "mount debugfs");
	must_fail(mount("tracefs", "/mnt", "tracefs", 0, NULL), "mount tracefs");
	must_fail(mount("bpf", "/mnt", "securityfs", 0, NULL), "mount securityfs");
	must_fail(mount("/dev/vda", "/mnt", "ext4", MS_RDONLY, NULL), "mount a disk");
}

static void calls(void)
{
	char room[256] = { 0 };
	must_fail(syscall(SYS_keyctl, 1, 0, 0, 0, 0), "keyctl");
	must_fail(syscall(SYS_bpf, 5, room, 128), "bpf");
	must_fail(syscall(SYS_perf_event_open, room, -1, 0, -1, 0), "perf_event_open");
	must_fail(syscall(SYS_userfaultfd, 0), "userfaultfd");
	must_fail(syscall(SYS_init_module, room, 10, ""), "init_module");
	must_fail(syscall(SYS_reboot, 0xfee1dead, 672274793, 0x1234567, NULL), "reboot");
	must_fail(syscall(SYS_swapon, "/tmp/x", 0), "swapon");
	must_fail(syscall(SYS_acct, "/tmp/x"), "acct");
	must_fail(syscall(425, 8, room), "io_uring_setup");
	must_fail(syscall(SYS_settimeofday, room, NULL), "settimeofday");
	must_fail(syscall(0x40000000 | SYS_getpid), "an x32 call");
	must_fail(setpriority(PRIO_PROCESS, 0, -20), "more than the usual share of the processor");
	must_fail(syscall(SYS_quotactl, 0x800002, "/dev/vda", 0, room), "quotactl");
}

/* The classic: a directory held from before, outside of a new root. */
static void chroots(void)
{
	struct stat root, now;
	int fd = open("/", O_RDONLY | O_DIRECTORY);
	stat("/", &root);
	mkdir("/tmp/hostile-root", 0755);
	if (fork() == 0) {
		if (chroot("/tmp/hostile-root") == 0 && fchdir(fd) == 0) {
			for (int i = 0; i < 100; i++)
				(void)!chdir("..");
			(void)!chroot(".");
		}
		_exit(stat("/", &now) == 0 &&
		      (now.st_dev != root.st_dev || now.st_ino != root.st_ino));
	}
	int status;
	if (wait(&status) > 0 && status)
		worked("chroot and ..");
	rmdir("/tmp/hostile-root");
	close(fd);
}

/* In a user namespace inside one has all capabilities again: over what is inside. */
static void nested(void)
{
	int status;
	fflush(stdout);
	if (fork() == 0) {
		bad = 0;
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID) == 0) {
			pid_one();
			files_of_the_kernel();
			devices();
			calls();
		}
		fflush(stdout);
		_exit(bad > 100 ? 100 : bad);
	}
	if (wait(&status) > 0)
		bad += WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/* Descriptors that came along from the host. */
static void inherited(void)
{
	char path[64], link[256];
	for (int fd = 3; fd < 1024; fd++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		ssize_t n = readlink(path, link, sizeof(link) - 1);
		if (n < 0)
			continue;
		link[n] = '\0';
		printf("descriptor %d is %s\n", fd, link);
		bad++;
	}
}

int main(void)
{
	inherited();
	pid_one();
	files_of_the_kernel();
	devices();
	calls();
	chroots();
	nested();
	return bad > 100 ? 100 : bad;
}
