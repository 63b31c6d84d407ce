/* unshare(2): namespaces that a program has to itself. */
#include <mqueue.h>
#include <net/if.h>
#include <netinet/in.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/un.h>
#include <sys/utsname.h>

#include "small.h"

/* ---- the world's: without a PID 1 it is what the first program is in ---- */

static char world[64];

static void world_make(void)
{
	CHECK(gethostname(world, sizeof(world)) == 0);
}

static void world_check(void)
{
	char now[64];
	CHECK(gethostname(now, sizeof(now)) == 0 && strcmp(now, world) == 0);
}

/* ---- uts_namespaces(7) ---- */

static bool is_called(const char *host, const char *domain)
{
	struct utsname u;
	return uname(&u) == 0 && strcmp(u.nodename, host) == 0 && strcmp(u.domainname, domain) == 0;
}

static void name_make(void)
{
	CHECK(unshare(CLONE_NEWUTS) == 0);
	CHECK(sethostname("own", 3) == 0 && setdomainname("ours", 4) == 0);
}

static void name_check(void)
{
	CHECK(is_called("own", "ours"));
	CHECK(sethostname("other", 5) == 0 && is_called("other", "ours"));
	CHECK(sethostname("own", 3) == 0);
}

/* A child that tells its host name for each byte it gets. Return: our end of the line */
static int start_child(const char *name)
{
	int line[2];
	char byte, host[64] = "";
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, line) == 0);
	const pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid > 0) {
		CHECK(close(line[1]) == 0);
		return line[0];
	}
	CHECK(close(line[0]) == 0);
	CHECK(!name || (unshare(CLONE_NEWUTS) == 0 && sethostname(name, strlen(name)) == 0));
	while (read(line[1], &byte, 1) == 1 && gethostname(host, sizeof(host)) == 0 &&
	       write(line[1], host, sizeof(host)) == sizeof(host))
		;
	_exit(0);
}

static bool tells(int line, const char *name)
{
	char host[64];
	CHECK(write(line, "?", 1) == 1 && read(line, host, sizeof(host)) == sizeof(host));
	return strcmp(host, name) == 0;
}

static int stayed, left;

static void children_make(void)
{
	CHECK(unshare(CLONE_NEWUTS) == 0 && sethostname("first", 5) == 0);
	stayed = start_child(NULL);
	left = start_child("left");
	CHECK(tells(stayed, "first") && tells(left, "left"));
}

static void children_check(void)
{
	CHECK(sethostname("second", 6) == 0);
	CHECK(tells(stayed, "second") && tells(left, "left"));
	CHECK(sethostname("first", 5) == 0 && tells(stayed, "first"));
}

/* A child that tells for each name whether it leads to something. Return: our end of the line */
static int start_looker(void)
{
	int line[2];
	char name[32];
	struct stat st;
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, line) == 0);
	const pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid > 0) {
		CHECK(close(line[1]) == 0);
		return line[0];
	}
	CHECK(close(line[0]) == 0);
	while (read(line[1], name, sizeof(name)) > 0 &&
	       write(line[1], stat(name, &st) == 0 ? "y" : "n", 1) == 1)
		;
	_exit(0);
}

static bool sees(int line, const char *name)
{
	char answer = 0;
	CHECK(write(line, name, strlen(name) + 1) > 0 && read(line, &answer, 1) == 1);
	return answer == 'y';
}

/* ---- ipc_namespaces(7) ---- */

static int set, queue, at_first;

static int limit(void)
{
	char text[32] = "";
	const int fd = open("/proc/sys/kernel/msgmni", O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && close(fd) == 0);
	return atoi(text);
}

static void send_both(void)
{
	struct {
		long type;
		char text[4];
	} message = { 5, "own" };
	const mqd_t q = mq_open("/own", O_WRONLY | O_NONBLOCK);
	CHECK(q >= 0 && mq_send(q, "mine", 4, 3) == 0 && mq_close(q) == 0);
	CHECK(msgsnd(queue, &message, sizeof(message.text), IPC_NOWAIT) == 0);
}

static void ipc_make(void)
{
	struct mq_attr attr = { .mq_maxmsg = 4, .mq_msgsize = 16 };
	CHECK(unshare(CLONE_NEWIPC) == 0);
	const mqd_t q = mq_open("/own", O_RDWR | O_CREAT | O_EXCL, 0600, &attr);
	CHECK(q >= 0 && mq_close(q) == 0);
	set = semget(77, 2, IPC_CREAT | IPC_EXCL | 0600);
	queue = msgget(78, IPC_CREAT | IPC_EXCL | 0600);
	CHECK(set >= 0 && queue >= 0 && semctl(set, 1, SETVAL, 9) == 0);
	CHECK(semop(set, &(struct sembuf){ 1, -2, SEM_UNDO }, 1) == 0);
	send_both();
	at_first = limit();
}

static void ipc_check(void)
{
	struct {
		long type;
		char text[4];
	} message = { 0 };
	char text[16];
	unsigned int priority;
	CHECK(semget(77, 2, 0) == set && msgget(78, 0) == queue && limit() == at_first);
	CHECK(semctl(set, 1, GETVAL) == 7);
	CHECK(msgrcv(queue, &message, sizeof(message.text), 0, IPC_NOWAIT) == 4);
	CHECK(message.type == 5 && strcmp(message.text, "own") == 0);
	const mqd_t q = mq_open("/own", O_RDONLY | O_NONBLOCK);
	CHECK(q >= 0 && mq_receive(q, text, sizeof(text), &priority) == 4 && priority == 3);
	CHECK(memcmp(text, "mine", 4) == 0 && mq_close(q) == 0);
	send_both();
}

/* ---- network_namespaces(7) ---- */

static int tcp[2], udp[2], listening, named;

static int loopback(bool up)
{
	struct ifreq lo = { .ifr_name = "lo" };
	const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0 && ioctl(fd, SIOCGIFFLAGS, &lo) == 0);
	const int was = (lo.ifr_flags & IFF_UP) != 0;
	lo.ifr_flags |= IFF_UP;
	CHECK((!up || ioctl(fd, SIOCSIFFLAGS, &lo) == 0) && close(fd) == 0);
	return was;
}

/* Addresses of other namespaces are the same ones. */
static int bound(int type, uint16_t port)
{
	const struct sockaddr_in here = { .sin_family = AF_INET,
					  .sin_port = htons(port),
					  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	const int fd = socket(AF_INET, type, 0);
	CHECK(fd >= 0 && bind(fd, (const struct sockaddr *)&here, sizeof(here)) == 0);
	return fd;
}

static void connect_to(int fd, int other)
{
	struct sockaddr_in to;
	socklen_t len = sizeof(to);
	CHECK(getsockname(other, (struct sockaddr *)&to, &len) == 0);
	CHECK(connect(fd, (const struct sockaddr *)&to, len) == 0);
}

static void sockets_make(void)
{
	const struct sockaddr_un name = { AF_UNIX, "\0own" };
	loopback(true);
	listening = bound(SOCK_STREAM, 4711);
	tcp[0] = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(listen(listening, 5) == 0 && tcp[0] >= 0);
	connect_to(tcp[0], listening);
	tcp[1] = accept(listening, NULL, NULL);
	CHECK(tcp[1] >= 0 && write(tcp[0], "tcp", 4) == 4);
	udp[0] = bound(SOCK_DGRAM, 4712);
	udp[1] = socket(AF_INET, SOCK_DGRAM, 0);
	connect_to(udp[1], udp[0]);
	named = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(named >= 0 && bind(named, (const struct sockaddr *)&name, sizeof(name)) == 0 &&
	      listen(named, 1) == 0);
}

static void net_make(void)
{
	CHECK(unshare(CLONE_NEWNET) == 0 && !loopback(false));
	sockets_make();
}

static void net_check(void)
{
	const struct sockaddr_un name = { AF_UNIX, "\0own" };
	char text[8];
	const int unix_end = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(loopback(false) == 1);
	CHECK(read(tcp[1], text, sizeof(text)) == 4 && strcmp(text, "tcp") == 0);
	CHECK(write(tcp[1], "back", 5) == 5 && read(tcp[0], text, sizeof(text)) == 5);
	CHECK(write(tcp[0], "tcp", 4) == 4);
	CHECK(write(udp[1], "udp", 4) == 4 && read(udp[0], text, sizeof(text)) == 4);
	const int more = socket(AF_INET, SOCK_STREAM, 0);
	connect_to(more, listening);
	const int accepted = accept(listening, NULL, NULL);
	CHECK(more >= 0 && accepted >= 0 && close(accepted) == 0 && close(more) == 0);
	CHECK(unix_end >= 0 &&
	      connect(unix_end, (const struct sockaddr *)&name, sizeof(name)) == 0);
	const int met = accept(named, NULL, NULL);
	CHECK(met >= 0 && close(met) == 0 && close(unix_end) == 0);
	/* who has just been made is of the same one as who was there */
	CHECK(close(bound(SOCK_DGRAM, 4713)) == 0);
}

/* ---- mount_namespaces(7) ---- */

static int inside, before;
static const char *shown;

static void hide(const char *what)
{
	CHECK(unshare(CLONE_NEWNS) == 0);
	CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
	CHECK(mkdir("tmp", 0755) == 0 && mount("own", "tmp", "tmpfs", 0, what) == 0);
}

/* What is opened, mapped and worked in is seen by nobody else. */
static void mounts_make(void)
{
	before = small_file("before", "world", O_RDWR);
	hide("size=1m");
	CHECK(mkdir("tmp/sub", 0700) == 0 && chdir("tmp/sub") == 0);
	inside = small_file("file", "inside", O_RDWR);
	shown = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, inside, 0);
	CHECK(shown != MAP_FAILED);
	CHECK(mkdir("bound", 0755) == 0 && mount("../..", "bound", NULL, MS_BIND, NULL) == 0);
	CHECK(mount(NULL, "bound", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) == 0);
}

static void mounts_check(void)
{
	struct statfs fs;
	struct stat st, now;
	char text[8] = "";
	CHECK(fstatfs(inside, &fs) == 0 && fs.f_type == TMPFS_MAGIC && fs.f_blocks == 256);
	CHECK(pread(inside, text, 6, 0) == 6 && strcmp(text, "inside") == 0);
	CHECK(memcmp(shown, "inside", 6) == 0 && pwrite(inside, "I", 1, 0) == 1);
	CHECK(shown[0] == 'I' && pwrite(inside, "i", 1, 0) == 1);
	CHECK(fstat(inside, &st) == 0 && stat("file", &now) == 0 && st.st_ino == now.st_ino);
	CHECK(fstat(before, &st) == 0 && stat("../../before", &now) == 0);
	CHECK(st.st_ino == now.st_ino && st.st_dev == now.st_dev);
	CHECK(stat("bound/before", &now) == 0 && st.st_ino == now.st_ino);
	CHECK(open("bound/more", O_WRONLY | O_CREAT, 0600) < 0 && errno == EROFS);
}

/* Nobody in the world's sees it; a child does. */
static void unseen_make(void)
{
	struct stat st;
	CHECK(mkdir("outer", 0755) == 0);
	stayed = start_looker();
	hide("mode=700");
	left = start_looker();
	CHECK(close(small_file("tmp/mark", "m", O_RDWR)) == 0 && stat("tmp/mark", &st) == 0);
}

static void unseen_check(void)
{
	CHECK(!sees(stayed, "tmp/mark") && sees(left, "tmp/mark"));
	CHECK(mount("late", "outer", "tmpfs", 0, NULL) == 0);
	CHECK(close(small_file("outer/late", "l", O_RDWR)) == 0);
	CHECK(!sees(stayed, "outer/late") && sees(left, "outer/late") && umount("outer") == 0);
}

/* ---- user_namespaces(7): who has no rights has some below ---- */

static void put(const char *path, const char *text)
{
	const int fd = open(path, O_WRONLY | O_CLOEXEC);
	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

static void become_root_below(int spaces)
{
	char line[40];
	const uid_t uid = geteuid();
	const gid_t gid = getegid();
	if (unshare(CLONE_NEWUSER | spaces) < 0)
		small_skip("a user may make no namespaces");
	put("/proc/self/setgroups", "deny");
	snprintf(line, sizeof(line), "0 %u 1", uid);
	put("/proc/self/uid_map", line);
	snprintf(line, sizeof(line), "0 %u 1", gid);
	put("/proc/self/gid_map", line);
	CHECK(geteuid() == 0 && getegid() == 0);
}

static void ipc_below_make(void)
{
	become_root_below(0);
	ipc_make();
}

static void net_below_make(void)
{
	become_root_below(CLONE_NEWNET);
	sockets_make();
}

static void name_below_make(void)
{
	become_root_below(CLONE_NEWUTS);
	CHECK(sethostname("own", 3) == 0 && setdomainname("ours", 4) == 0);
}

const struct small_case namespace_cases[] = {
	{ "namespaces(7): who has none of his own", world_make, world_check },
	{ "uts_namespaces(7): a host name of its own", name_make, name_check, SMALL_ROOT },
	{ "unshare(2): who is in which", children_make, children_check, SMALL_ROOT },
	{ "uts_namespaces(7): one that a user namespace below owns", name_below_make, name_check },
	{ "ipc_namespaces(7): semaphores and messages of its own", ipc_make, ipc_check,
	  SMALL_ROOT },
	{ "ipc_namespaces(7): one that a user namespace below owns", ipc_below_make, ipc_check },
	{ "mount_namespaces(7): files, maps and directories of its own mounts", mounts_make,
	  mounts_check, SMALL_ROOT },
	{ "mount_namespaces(7): who sees them", unseen_make, unseen_check, SMALL_ROOT },
	{ "network_namespaces(7): sockets of its own", net_make, net_check, SMALL_ROOT },
	{ "network_namespaces(7): another one with the same addresses", net_make, net_check,
	  SMALL_ROOT },
	{ "network_namespaces(7): one that a user namespace below owns", net_below_make,
	  net_check },
	{ NULL },
};
