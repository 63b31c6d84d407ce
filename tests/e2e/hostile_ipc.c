/*
 * Both ends of a channel: hostile_ipc serve KIND NAME puts somebody there, says "ready" and waits
 * for its end; hostile_ipc reach KIND NAME exits with 0 when it got through, 1 when it did not.
 * kinds: named, abstract, fifo, tcp, sysv-shm, sysv-msg, sysv-sem, queue, shm, lock, pid, vsock
 */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

static int unix_socket(const char *name, int abstract, int serve)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	strncpy(at.sun_path + abstract, name, sizeof(at.sun_path) - 2);
	socklen_t len = offsetof(struct sockaddr_un, sun_path) + abstract + strlen(name);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (!serve)
		return connect(fd, (struct sockaddr *)&at, len);
	return bind(fd, (struct sockaddr *)&at, len) < 0 ? -1 : listen(fd, 8);
}

static int named(const char *name, int serve)
{
	return unix_socket(name, 0, serve);
}

static int abstract(const char *name, int serve)
{
	return unix_socket(name, 1, serve);
}

static int fifo(const char *name, int serve)
{
	if (serve && mkfifo(name, 0666) < 0)
		return -1;
	return open(name, serve ? O_RDONLY | O_NONBLOCK : O_WRONLY | O_NONBLOCK);
}

static int tcp(const char *name, int serve)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_port = htons((unsigned short)atoi(name)),
				  .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (!serve)
		return connect(fd, (struct sockaddr *)&at, sizeof(at));
	return bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 ? -1 : listen(fd, 8);
}

static int sysv_shm(const char *name, int serve)
{
	return shmget(atoi(name), serve ? 4096 : 0, serve ? IPC_CREAT | IPC_EXCL | 0666 : 0);
}

static int sysv_msg(const char *name, int serve)
{
	return msgget(atoi(name), serve ? IPC_CREAT | IPC_EXCL | 0666 : 0);
}

static int sysv_sem(const char *name, int serve)
{
	return semget(atoi(name), serve, serve ? IPC_CREAT | IPC_EXCL | 0666 : 0);
}

static int queue(const char *name, int serve)
{
	return mq_open(name, serve ? O_RDWR | O_CREAT | O_EXCL : O_RDWR, 0666, NULL);
}

static int shm(const char *name, int serve)
{
	return shm_open(name, serve ? O_RDWR | O_CREAT | O_EXCL : O_RDWR, 0666);
}

/* A lock that is held tells one bit to whoever tries it. The file is there on both sides. */
static int lock(const char *name, int serve)
{
	int fd = open(name, O_RDONLY);
	if (fd < 0)
		return -1;
	int r = flock(fd, LOCK_EX | LOCK_NB);
	if (serve)
		return r;
	return r < 0 ? 0 : -1;
}

/* @name: the number that the process has where we are */
static int pid(const char *name, int serve)
{
	pid_t other = atoi(name);
	char byte;
	struct iovec here = { &byte, 1 }, there = { (void *)pid, 1 };
	if (serve)
		return 0;
	if (kill(other, 0) == 0 || ptrace(PTRACE_SEIZE, other, NULL, NULL) == 0)
		return 0;
	return process_vm_readv(other, &here, 1, &there, 1, 0) == 1 ? 0 : -1;
}

struct vsock_address {
	unsigned short family, reserved;
	unsigned int port, cid;
	unsigned char zero[4];
};

static int vsock(const char *name, int serve)
{
	struct vsock_address at = { 40, 0, (unsigned int)atoi(name), serve ? ~0U : 1, { 0 } };
	int fd = socket(40, SOCK_STREAM, 0);
	if (!serve)
		return connect(fd, (struct sockaddr *)&at, sizeof(at));
	return bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 ? -1 : listen(fd, 8);
}

static void take_away(const char *kind, const char *name)
{
	if (strcmp(kind, "named") == 0 || strcmp(kind, "fifo") == 0)
		unlink(name);
	else if (strcmp(kind, "sysv-shm") == 0)
		shmctl(sysv_shm(name, 0), IPC_RMID, NULL);
	else if (strcmp(kind, "sysv-msg") == 0)
		msgctl(sysv_msg(name, 0), IPC_RMID, NULL);
	else if (strcmp(kind, "sysv-sem") == 0)
		semctl(sysv_sem(name, 0), 0, IPC_RMID);
	else if (strcmp(kind, "queue") == 0)
		mq_unlink(name);
	else if (strcmp(kind, "shm") == 0)
		shm_unlink(name);
}

static const struct {
	const char *name;
	int (*fn)(const char *name, int serve);
} kinds[] = {
	{ "named", named },	  { "abstract", abstract }, { "fifo", fifo },
	{ "tcp", tcp },		  { "sysv-shm", sysv_shm }, { "sysv-msg", sysv_msg },
	{ "sysv-sem", sysv_sem }, { "queue", queue },	    { "shm", shm },
	{ "lock", lock },	  { "pid", pid },	    { "vsock", vsock },
};

int main(int argc, char **argv)
{
	int serve = argc == 4 && strcmp(argv[1], "serve") == 0;
	for (size_t i = 0; argc == 4 && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(kinds[i].name, argv[2]) != 0)
			continue;
		int r = kinds[i].fn(argv[3], serve);
		if (!serve)
			return r < 0;
		if (r < 0) {
			perror(argv[2]);
			return 2;
		}
		sigset_t end;
		int sig;
		sigemptyset(&end);
		sigaddset(&end, SIGTERM);
		sigprocmask(SIG_BLOCK, &end, NULL);
		printf("ready %d\n", (int)getpid());
		fflush(stdout);
		sigwait(&end, &sig);
		take_away(argv[2], argv[3]);
		return 0;
	}
	fprintf(stderr, "usage: hostile_ipc serve|reach KIND NAME\n");
	return 2;
}
