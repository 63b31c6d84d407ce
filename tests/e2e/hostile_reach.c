/*
 * From outside into a VM: hostile_reach PID [PATH..] tries all that one process can do to another
 * one that it knows by number, then to connect to or open each PATH. Prints what worked; the status
 * is its count.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

static int bad;

static void must_fail(long r, const char *what, const char *on)
{
	if (r < 0)
		return;
	printf("worked: %s %s\n", what, on);
	bad++;
}

static void proc_files(const char *pid)
{
	static const char *const to_read[] = {
		"root/etc/passwd", "cwd/.",   "exe",	   "mem",
		"environ",	   "maps",    "fd",	   "fdinfo",
		"ns/user",	   "ns/mnt",  "io",	   "auxv",
		"stack",	   "syscall", "map_files", "root/dev/pts/0",
		"root/dev/shm",	   "pagemap"
	};
	static const char *const to_write[] = { "mem",	      "oom_score_adj",	 "comm",
						"clear_refs", "coredump_filter", "uid_map",
						"root/tmp/x" };
	char path[96], link[256];
	for (size_t i = 0; i < sizeof(to_read) / sizeof(to_read[0]); i++) {
		snprintf(path, sizeof(path), "/proc/%s/%s", pid, to_read[i]);
		int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		/* some open for everybody and answer nothing */
		if (fd >= 0 && read(fd, link, 1) <= 0 && errno != EISDIR)
			continue;
		must_fail(fd, "open", path);
	}
	for (size_t i = 0; i < sizeof(to_write) / sizeof(to_write[0]); i++) {
		snprintf(path, sizeof(path), "/proc/%s/%s", pid, to_write[i]);
		int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		must_fail(fd < 0 ? -1 : write(fd, "0", 1), "write", path);
	}
	static const char *const links[] = { "exe", "cwd", "root", "fd/0", "ns/net" };
	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++) {
		snprintf(path, sizeof(path), "/proc/%s/%s", pid, links[i]);
		must_fail(readlink(path, link, sizeof(link)), "readlink", path);
	}
}

static void calls(pid_t pid, const char *name)
{
	char byte;
	struct iovec here = { &byte, 1 }, there = { (void *)calls, 1 };
	struct rlimit none = { 0, 0 };
	cpu_set_t cpus;
	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	must_fail(kill(pid, 0), "kill", name);
	must_fail(kill(pid, SIGCONT), "continue", name);
	must_fail(ptrace(PTRACE_SEIZE, pid, NULL, NULL), "seize", name);
	must_fail(ptrace(PTRACE_ATTACH, pid, NULL, NULL), "attach to", name);
	must_fail(process_vm_readv(pid, &here, 1, &there, 1, 0), "read memory of", name);
	must_fail(process_vm_writev(pid, &here, 1, &there, 1, 0), "write memory of", name);
	must_fail(prlimit(pid, RLIMIT_NOFILE, NULL, &none), "limits of", name);
	must_fail(setpriority(PRIO_PROCESS, pid, 19), "priority of", name);
	must_fail(sched_setaffinity(pid, sizeof(cpus), &cpus), "processors of", name);
	must_fail(syscall(SYS_kcmp, getpid(), pid, 2, 0, 0), "compare with", name);
	must_fail(syscall(SYS_move_pages, pid, 0, NULL, NULL, NULL, 0), "pages of", name);
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	must_fail(fd < 0 ? -1 : syscall(SYS_pidfd_send_signal, fd, SIGCONT, NULL, 0),
		  "signal by fd", name);
	must_fail(fd < 0 ? -1 : setns(fd, CLONE_NEWUSER | CLONE_NEWNS), "enter", name);
	must_fail(fd < 0 ? -1 : setns(fd, CLONE_NEWNET), "enter the network of", name);
	for (int i = 0; fd >= 0 && i < 16; i++)
		must_fail(syscall(SYS_pidfd_getfd, fd, i, 0), "take a descriptor of", name);
}

static void path(const char *name)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	static const int types[] = { SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM };
	strncpy(at.sun_path, name, sizeof(at.sun_path) - 1);
	for (size_t i = 0; i < 3; i++) {
		int fd = socket(AF_UNIX, types[i], 0);
		must_fail(connect(fd, (struct sockaddr *)&at, sizeof(at)), "connect to", name);
		close(fd);
	}
	must_fail(open(name, O_RDONLY | O_NONBLOCK), "open", name);
	must_fail(open(name, O_WRONLY | O_NONBLOCK), "open to write", name);
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	if (atoi(argv[1]) > 0) {
		proc_files(argv[1]);
		calls(atoi(argv[1]), argv[1]);
	}
	for (int i = 2; i < argc; i++)
		path(argv[i]);
	return bad > 100 ? 100 : bad;
}
