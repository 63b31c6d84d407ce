/*
 * Descriptors over a socket that both sides see:
 *
 *   hostile_pass give SOCKET PATH     listen there, pass PATH's descriptor to who connects
 *   hostile_pass take SOCKET NAME ..  connect, take a directory's descriptor, and try from there
 * each NAME: prints "NAME: r" or "w" or "rw" or what went wrong
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

union room {
	struct cmsghdr head;
	char bytes[CMSG_SPACE(sizeof(int))];
};

static int give(int sock, const char *path)
{
	union room control = { 0 };
	char byte = 'x';
	struct iovec v = { &byte, 1 };
	struct msghdr m = { .msg_iov = &v,
			    .msg_iovlen = 1,
			    .msg_control = control.bytes,
			    .msg_controllen = sizeof(control.bytes) };
	int fd = open(path, O_RDONLY | O_CLOEXEC), client;
	if (fd < 0 || listen(sock, 1) < 0)
		return 2;
	puts("ready");
	fflush(stdout);
	control.head = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	while ((client = accept(sock, NULL, NULL)) >= 0) {
		(void)!sendmsg(client, &m, 0);
		close(client);
	}
	return 0;
}

static int take(int sock)
{
	union room control = { 0 };
	char byte;
	struct iovec v = { &byte, 1 };
	struct msghdr m = { .msg_iov = &v,
			    .msg_iovlen = 1,
			    .msg_control = control.bytes,
			    .msg_controllen = sizeof(control.bytes) };
	int fd = -1;
	if (recvmsg(sock, &m, 0) > 0 && m.msg_controllen)
		memcpy(&fd, CMSG_DATA(&control.head), sizeof(fd));
	return fd;
}

static void try(int dir, const char *name)
{
	int in = openat(dir, name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	int why = errno;
	int out = openat(dir, name, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	printf("%s: %s%s%s\n", name, in >= 0 ? "r" : "", out >= 0 ? "w" : "",
	       in < 0 && out < 0 ? strerror(why) : "");
}

int main(int argc, char **argv)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), dir;
	if (argc < 4 || sock < 0)
		return 2;
	snprintf(at.sun_path, sizeof(at.sun_path), "%s", argv[2]);
	if (strcmp(argv[1], "give") == 0)
		return bind(sock, (struct sockaddr *)&at, sizeof(at)) < 0 ||
				       chmod(at.sun_path, 0666) < 0
			       ? 2
			       : give(sock, argv[3]);
	if (connect(sock, (struct sockaddr *)&at, sizeof(at)) < 0 || (dir = take(sock)) < 0) {
		perror("take");
		return 1;
	}
	for (int i = 3; i < argc; i++)
		try(dir, argv[i]);
	return 0;
}
