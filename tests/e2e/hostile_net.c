/*
 * Both ends of a network path: hostile_net serve tcp|udp ADDRESS PORT says "ready" and answers each
 * who asks with his address as seen from there; hostile_net reach tcp|udp ADDRESS PORT prints that
 * and exits with 0, or with 1 when no answer came within a second. hostile_net flood tcp|udp
 * ADDRESS PORT COUNT opens that many connections, one after the other, and prints how many it got:
 * by TCP to that port, and closes them; by UDP to the ports from there on, waiting for nobody.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union endpoint {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static socklen_t endpoint_make(union endpoint *e, const char *address, int port)
{
	memset(e, 0, sizeof(*e));
	if (inet_pton(AF_INET, address, &e->v4.sin_addr) == 1) {
		e->v4.sin_family = AF_INET;
		e->v4.sin_port = htons(port);
		return sizeof(e->v4);
	}
	if (inet_pton(AF_INET6, address, &e->v6.sin6_addr) != 1)
		exit(2);
	e->v6.sin6_family = AF_INET6;
	e->v6.sin6_port = htons(port);
	return sizeof(e->v6);
}

static const char *name_of(const union endpoint *e)
{
	static char name[INET6_ADDRSTRLEN];
	if (e->any.sa_family == AF_INET)
		return inet_ntop(AF_INET, &e->v4.sin_addr, name, sizeof(name));
	return inet_ntop(AF_INET6, &e->v6.sin6_addr, name, sizeof(name));
}

static int serve(int type, const union endpoint *at, socklen_t size)
{
	const int on = 1;
	char bytes[64];
	int fd = socket(at->any.sa_family, type, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (bind(fd, &at->any, size) < 0 || (type == SOCK_STREAM && listen(fd, 8) < 0)) {
		perror("serve");
		return 2;
	}
	puts("ready");
	fflush(stdout);
	for (;;) {
		union endpoint who;
		socklen_t len = sizeof(who);
		int conn = type == SOCK_STREAM ? accept(fd, &who.any, &len) : fd;
		ssize_t n = recvfrom(conn, bytes, sizeof(bytes), 0,
				     type == SOCK_STREAM ? NULL : &who.any,
				     type == SOCK_STREAM ? NULL : &len);
		if (n > 0)
			sendto(conn, name_of(&who), strlen(name_of(&who)), MSG_NOSIGNAL,
			       type == SOCK_STREAM ? NULL : &who.any,
			       type == SOCK_STREAM ? 0 : len);
		if (conn != fd)
			close(conn);
	}
}

static int reach(int type, const union endpoint *to, socklen_t size)
{
	char bytes[64] = { 0 };
	int error = 0;
	socklen_t len = sizeof(error);
	int fd = socket(to->any.sa_family, type | SOCK_NONBLOCK, 0);
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	(void)connect(fd, &to->any, size);
	if (poll(&p, 1, 1000) != 1 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 ||
	    error || send(fd, "ask", 3, MSG_NOSIGNAL) != 3)
		return 1;
	p.events = POLLIN;
	if (poll(&p, 1, 1000) != 1 || recv(fd, bytes, sizeof(bytes) - 1, 0) <= 0)
		return 1;
	puts(bytes);
	return 0;
}

static int is_there(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	int error = 0;
	socklen_t len = sizeof(error);
	return poll(&p, 1, 20) == 1 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 &&
	       !error;
}

static int flood(int type, union endpoint *to, socklen_t size, int count)
{
	int fd = -1, got = 0, first = ntohs(to->v4.sin_port);
	for (int i = 0; i < count; i++) {
		if (type == SOCK_STREAM || i % 50000 == 0) {
			close(fd);
			fd = socket(to->any.sa_family, type | SOCK_NONBLOCK, 0);
		}
		if (type == SOCK_DGRAM) {
			to->v4.sin_port = htons(first + i % 50000);
			got += sendto(fd, "flood", 5, 0, &to->any, size) == 5;
		} else {
			(void)connect(fd, &to->any, size);
			got += is_there(fd);
		}
	}
	printf("%d\n", got);
	return 0;
}

int main(int argc, char **argv)
{
	union endpoint e;
	if (argc != 5 + (argc > 1 && argv[1][0] == 'f'))
		return 2;
	socklen_t size = endpoint_make(&e, argv[3], atoi(argv[4]));
	int type = strcmp(argv[2], "udp") == 0 ? SOCK_DGRAM : SOCK_STREAM;
	if (argv[1][0] == 'f')
		return flood(type, &e, size, atoi(argv[5]));
	return argv[1][0] == 's' ? serve(type, &e, size) : reach(type, &e, size);
}
