/* Sockets, as unix(7), socket(7), socket(2), listen(2), accept(2), shutdown(2), cmsg(3), ip(7),
 * tcp(7), udp(7), ipv6(7), netlink(7), packet(7) and raw(7) have them. All ports are of a network
 * of the world's own; a case has those from its own process number on. */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <linux/icmp.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "small.h"

static int ends[2], fd = -1, other = -1, listener = -1;
static struct sockaddr_un name;
static struct sockaddr_in in4;

static void pair(int type)
{
	CHECK(socketpair(AF_UNIX, type, 0, ends) == 0);
}

static bool says(int to, const char *text)
{
	return send(to, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text);
}

/* The next message, or bytes, are @text; they may take their time. */
static bool hears(int from, const char *text)
{
	struct pollfd p = { .fd = from, .events = POLLIN };
	char got[128];
	if (poll(&p, 1, 30000) != 1)
		return false;
	const ssize_t len = recv(from, got, sizeof(got), 0);
	return len == (ssize_t)strlen(text) && memcmp(got, text, (size_t)len) == 0;
}

static bool silent(int from)
{
	char c;
	return recv(from, &c, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static bool set(int of, int level, int option, int value)
{
	return setsockopt(of, level, option, &value, sizeof(value)) == 0;
}

static int got(int of, int level, int option)
{
	int value = -1;
	socklen_t len = sizeof(value);
	return getsockopt(of, level, option, &value, &len) == 0 ? value : -1;
}

static void path_name(const char *path)
{
	name = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(name.sun_path, sizeof(name.sun_path), "%s", path);
}

static socklen_t abstract_name(void)
{
	name = (struct sockaddr_un){ .sun_family = AF_UNIX };
	const int len =
		snprintf(name.sun_path + 1, sizeof(name.sun_path) - 1, "small-%d", getpid());
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
}

/* ---- unix(7) ---- */

static void stream_make(void)
{
	pair(SOCK_STREAM);
	CHECK(says(ends[0], "some ") && says(ends[0], "bytes") && says(ends[1], "back"));
}

static void stream_check(void)
{
	CHECK(hears(ends[1], "some bytes") && hears(ends[0], "back"));
	CHECK(got(ends[0], SOL_SOCKET, SO_TYPE) == SOCK_STREAM);
	CHECK(says(ends[0], "some ") && says(ends[0], "bytes") && says(ends[1], "back"));
}

static void dgram_make(void)
{
	pair(SOCK_DGRAM);
	CHECK(says(ends[0], "one") && says(ends[0], "") && says(ends[0], "three"));
}

static void dgram_check(void)
{
	CHECK(hears(ends[1], "one") && hears(ends[1], "") && hears(ends[1], "three"));
	CHECK(silent(ends[1]) && says(ends[0], "one") && says(ends[0], "") &&
	      says(ends[0], "three"));
}

static void seqpacket_make(void)
{
	pair(SOCK_SEQPACKET);
	CHECK(says(ends[0], "first") && says(ends[0], "second"));
}

static void seqpacket_check(void)
{
	char text[4];
	struct iovec v = { text, 3 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };
	/* a record that is too long is cut, and the next one begins anew */
	CHECK(recvmsg(ends[1], &m, 0) == 3 && (m.msg_flags & MSG_TRUNC));
	CHECK(hears(ends[1], "second") && silent(ends[1]));
	CHECK(says(ends[0], "first") && says(ends[0], "second"));
}

static void named_make(void)
{
	path_name("socket");
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(bind(listener, (struct sockaddr *)&name, sizeof(name)) == 0 &&
	      listen(listener, 5) == 0);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(connect(fd, (struct sockaddr *)&name, sizeof(name)) == 0);
	other = accept(listener, NULL, NULL);
	CHECK(other >= 0);
}

static void named_check(void)
{
	struct sockaddr_un a = { 0 };
	socklen_t len = sizeof(a);
	CHECK(getsockname(listener, (struct sockaddr *)&a, &len) == 0 &&
	      !strcmp(a.sun_path, "socket"));
	len = sizeof(a);
	CHECK(getpeername(fd, (struct sockaddr *)&a, &len) == 0 && !strcmp(a.sun_path, "socket"));
	CHECK(says(fd, "to") && hears(other, "to") &&
	      got(listener, SOL_SOCKET, SO_ACCEPTCONN) == 1);
	const int late = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(connect(late, (struct sockaddr *)&name, sizeof(name)) == 0);
	const int taken = accept(listener, NULL, NULL);
	CHECK(taken >= 0 && says(taken, "x") && hears(late, "x") && !close(taken) && !close(late));
}

static void backlog_make(void)
{
	path_name("socket");
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(bind(listener, (struct sockaddr *)&name, sizeof(name)) == 0 &&
	      listen(listener, 5) == 0);
	CHECK(connect(fd, (struct sockaddr *)&name, sizeof(name)) == 0);
}

static void backlog_check(void)
{
	other = accept(listener, NULL, NULL);
	CHECK(other >= 0 && says(fd, "hi") && hears(other, "hi") && says(other, "hello") &&
	      hears(fd, "hello"));
	CHECK(close(other) == 0 && close(fd) == 0);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(connect(fd, (struct sockaddr *)&name, sizeof(name)) == 0);
}

static void abstract_make(void)
{
	const socklen_t len = abstract_name();
	listener = socket(AF_UNIX, SOCK_DGRAM, 0);
	CHECK(bind(listener, (struct sockaddr *)&name, len) == 0);
}

static void abstract_check(void)
{
	const socklen_t len = abstract_name();
	fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	CHECK(sendto(fd, "found", 5, 0, (struct sockaddr *)&name, len) == 5);
	CHECK(hears(listener, "found") && bind(fd, (struct sockaddr *)&name, len) < 0);
	CHECK(errno == EADDRINUSE && close(fd) == 0);
}

static struct sockaddr_un autobound;
static socklen_t autobound_len;

static void autobind_make(void)
{
	const sa_family_t family = AF_UNIX;
	fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	CHECK(bind(fd, (const struct sockaddr *)&family, sizeof(family)) == 0);
	autobound_len = sizeof(autobound);
	CHECK(getsockname(fd, (struct sockaddr *)&autobound, &autobound_len) == 0);
}

static void autobind_check(void)
{
	struct sockaddr_un a = { 0 };
	socklen_t len = sizeof(a);
	CHECK(getsockname(fd, (struct sockaddr *)&a, &len) == 0 && len == autobound_len);
	CHECK(memcmp(&a, &autobound, len) == 0 && a.sun_path[0] == '\0' &&
	      len == sizeof(sa_family_t) + 6);
}

/* ---- cmsg(3) ---- */

static union {
	struct cmsghdr head;
	char room[CMSG_SPACE(4 * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
} control;

static void send_fd(int to, int carried)
{
	char text[] = "with";
	struct iovec v = { text, 4 };
	struct msghdr m = { .msg_iov = &v,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    .msg_controllen = CMSG_LEN(sizeof(int)) };
	control.head = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(&control.head), &carried, sizeof(int));
	CHECK(sendmsg(to, &m, 0) == 4);
}

static const struct cmsghdr *receive(int from, int type)
{
	char text[64];
	static struct msghdr m;
	struct iovec v = { text, sizeof(text) };
	m = (struct msghdr){ .msg_iov = &v,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control) };
	CHECK(recvmsg(from, &m, MSG_CMSG_CLOEXEC) == 4 && memcmp(text, "with", 4) == 0);
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == type)
			return c;
	}
	return NULL;
}

static int receive_fd(int from)
{
	int carried = -1;
	const struct cmsghdr *c = receive(from, SCM_RIGHTS);
	CHECK(c && c->cmsg_len == CMSG_LEN(sizeof(int)));
	memcpy(&carried, CMSG_DATA(c), sizeof(int));
	CHECK(fcntl(carried, F_GETFD) == FD_CLOEXEC);
	return carried;
}

static void rights_make(void)
{
	pair(SOCK_STREAM);
	fd = small_file("letters", "abcdef", O_RDONLY);
	CHECK(lseek(fd, 2, SEEK_SET) == 2);
	send_fd(ends[0], fd);
	CHECK(close(fd) == 0);
}

static void rights_check(void)
{
	char c;
	fd = receive_fd(ends[1]);
	CHECK(read(fd, &c, 1) == 1 && c == 'c' && lseek(fd, 2, SEEK_SET) == 2);
	send_fd(ends[0], fd);
	CHECK(close(fd) == 0);
}

static void rights_shared_make(void)
{
	pair(SOCK_DGRAM);
	fd = small_file("letters", "abcdef", O_RDONLY);
	send_fd(ends[0], fd);
}

static void rights_shared_check(void)
{
	other = receive_fd(ends[1]);
	CHECK(lseek(other, 4, SEEK_SET) == 4 && lseek(fd, 0, SEEK_CUR) == 4);
	CHECK(lseek(fd, 0, SEEK_SET) == 0 && close(other) == 0);
	send_fd(ends[0], fd);
}

static void rights_nested_make(void)
{
	int inner[2];
	pair(SOCK_STREAM);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, inner) == 0 && says(inner[0], "inside"));
	send_fd(ends[0], inner[1]);
	CHECK(close(inner[1]) == 0);
	other = inner[0];
}

static void rights_nested_check(void)
{
	fd = receive_fd(ends[1]);
	CHECK(hears(fd, "inside") && says(fd, "answer") && hears(other, "answer"));
	CHECK(says(other, "inside"));
	send_fd(ends[0], fd);
	CHECK(close(fd) == 0);
}

static void passcred_make(void)
{
	pair(SOCK_STREAM);
	CHECK(set(ends[1], SOL_SOCKET, SO_PASSCRED, 1) && says(ends[0], "with"));
}

static void passcred_check(void)
{
	struct ucred u;
	CHECK(got(ends[1], SOL_SOCKET, SO_PASSCRED) == 1 &&
	      got(ends[0], SOL_SOCKET, SO_PASSCRED) == 0);
	const struct cmsghdr *c = receive(ends[1], SCM_CREDENTIALS);
	CHECK(c);
	memcpy(&u, CMSG_DATA(c), sizeof(u));
	CHECK(u.pid == getpid() && u.uid == getuid() && u.gid == getgid() && says(ends[0], "with"));
}

static void peercred_make(void)
{
	pair(SOCK_STREAM);
}

static void peercred_check(void)
{
	struct ucred u;
	socklen_t len = sizeof(u);
	CHECK(getsockopt(ends[0], SOL_SOCKET, SO_PEERCRED, &u, &len) == 0);
	CHECK(u.pid == getpid() && u.uid == geteuid() && u.gid == getegid());
}

static void half_closed_make(void)
{
	pair(SOCK_STREAM);
	CHECK(says(ends[0], "last") && shutdown(ends[0], SHUT_WR) == 0);
}

static void half_closed_check(void)
{
	char c;
	CHECK(hears(ends[1], "last") && recv(ends[1], &c, 1, 0) == 0);
	CHECK(send(ends[0], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
	CHECK(says(ends[1], "still") && hears(ends[0], "still") && !close(ends[0]) &&
	      !close(ends[1]));
	half_closed_make();
}

static void peer_gone_make(void)
{
	pair(SOCK_STREAM);
	CHECK(says(ends[0], "testament") && close(ends[0]) == 0);
}

static void peer_gone_check(void)
{
	struct pollfd p = { .fd = ends[1], .events = POLLIN };
	char c;
	CHECK(poll(&p, 1, 0) == 1 && (p.revents & POLLHUP) && hears(ends[1], "testament"));
	CHECK(recv(ends[1], &c, 1, 0) == 0 && close(ends[1]) == 0);
	peer_gone_make();
}

static void peek_offset_make(void)
{
	pair(SOCK_STREAM);
	CHECK(set(ends[1], SOL_SOCKET, SO_PEEK_OFF, 2) && says(ends[0], "abcdef"));
}

static void peek_offset_check(void)
{
	char text[2];
	CHECK(got(ends[1], SOL_SOCKET, SO_PEEK_OFF) == 2);
	CHECK(recv(ends[1], text, 2, MSG_PEEK) == 2 && memcmp(text, "cd", 2) == 0);
	CHECK(set(ends[1], SOL_SOCKET, SO_PEEK_OFF, 2));
}

static void unconnected_make(void)
{
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	CHECK(fd >= 0);
}

static void unconnected_check(void)
{
	char c;
	CHECK(recv(fd, &c, 1, 0) < 0 && errno == EINVAL && (fcntl(fd, F_GETFL) & O_NONBLOCK));
	CHECK(send(fd, "x", 1, MSG_NOSIGNAL) < 0 && errno == ENOTCONN);
}

/* ---- socket(7) ---- */

static void options_make(void)
{
	const struct timeval two = { 2, 500000 };
	const struct linger l = { 1, 7 };
	fd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(set(fd, SOL_SOCKET, SO_KEEPALIVE, 1) && set(fd, SOL_SOCKET, SO_REUSEADDR, 1));
	CHECK(set(fd, SOL_SOCKET, SO_SNDBUF, 20000) && set(fd, SOL_SOCKET, SO_RCVBUF, 30000));
	CHECK(set(fd, SOL_SOCKET, SO_PRIORITY, 4) && set(fd, SOL_SOCKET, SO_OOBINLINE, 1));
	CHECK(set(fd, SOL_SOCKET, SO_RCVLOWAT, 17) && set(fd, SOL_SOCKET, SO_REUSEPORT, 1));
	CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &two, sizeof(two)) == 0);
	CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)) == 0);
}

static void options_check(void)
{
	struct timeval two = { 0 };
	struct linger l = { 0 };
	socklen_t len = sizeof(two);
	CHECK(got(fd, SOL_SOCKET, SO_KEEPALIVE) == 1 && got(fd, SOL_SOCKET, SO_REUSEADDR) == 1);
	CHECK(got(fd, SOL_SOCKET, SO_SNDBUF) == 40000 && got(fd, SOL_SOCKET, SO_RCVBUF) == 60000);
	CHECK(got(fd, SOL_SOCKET, SO_PRIORITY) == 4 && got(fd, SOL_SOCKET, SO_OOBINLINE) == 1);
	CHECK(got(fd, SOL_SOCKET, SO_RCVLOWAT) == 17 && got(fd, SOL_SOCKET, SO_REUSEPORT) == 1);
	CHECK(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &two, &len) == 0 && two.tv_sec == 2);
	CHECK(two.tv_usec == 500000);
	len = sizeof(l);
	CHECK(getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &len) == 0 && l.l_onoff && l.l_linger == 7);
}

static void device_make(void)
{
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) < 0)
		small_skip("this kernel lets root alone bind to devices");
}

static void device_check(void)
{
	char text[IFNAMSIZ] = "";
	socklen_t len = sizeof(text);
	CHECK(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, text, &len) == 0 && !strcmp(text, "lo"));
}

/* ---- udp(7), ip(7), ipv6(7) ---- */

static void udp_bind(void)
{
	socklen_t len = sizeof(in4);
	in4 = (struct sockaddr_in){ .sin_family = AF_INET };
	in4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(bind(listener, (struct sockaddr *)&in4, sizeof(in4)) == 0);
	CHECK(getsockname(listener, (struct sockaddr *)&in4, &len) == 0 && in4.sin_port);
}

static void udp_make(void)
{
	udp_bind();
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(connect(fd, (struct sockaddr *)&in4, sizeof(in4)) == 0 && says(fd, "queued"));
	CHECK(says(fd, ""));
}

static void udp_check(void)
{
	struct sockaddr_in a, from;
	socklen_t len = sizeof(a);
	char text[16];
	CHECK(getsockname(listener, (struct sockaddr *)&a, &len) == 0 &&
	      a.sin_port == in4.sin_port);
	len = sizeof(a);
	CHECK(getsockname(fd, (struct sockaddr *)&a, &len) == 0);
	len = sizeof(from);
	CHECK(recvfrom(listener, text, 16, 0, (struct sockaddr *)&from, &len) == 6);
	CHECK(memcmp(text, "queued", 6) == 0 && from.sin_port == a.sin_port && hears(listener, ""));
	CHECK(says(fd, "queued") && says(fd, ""));
}

static void udp_options_make(void)
{
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(set(fd, IPPROTO_IP, IP_TTL, 33) && set(fd, IPPROTO_IP, IP_TOS, 0x10));
	CHECK(set(fd, IPPROTO_IP, IP_PKTINFO, 1) && set(fd, IPPROTO_IP, IP_RECVERR, 1));
	CHECK(set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO));
	CHECK(set(fd, IPPROTO_IP, IP_MULTICAST_TTL, 9) &&
	      set(fd, IPPROTO_IP, IP_MULTICAST_LOOP, 0));
	CHECK(set(fd, SOL_SOCKET, SO_BROADCAST, 1));
}

static void udp_options_check(void)
{
	CHECK(got(fd, IPPROTO_IP, IP_TTL) == 33 && got(fd, IPPROTO_IP, IP_TOS) == 0x10);
	CHECK(got(fd, IPPROTO_IP, IP_PKTINFO) == 1 && got(fd, IPPROTO_IP, IP_RECVERR) == 1);
	CHECK(got(fd, IPPROTO_IP, IP_MTU_DISCOVER) == IP_PMTUDISC_DO);
	CHECK(got(fd, IPPROTO_IP, IP_MULTICAST_TTL) == 9 && got(fd, SOL_SOCKET, SO_BROADCAST) == 1);
	CHECK(got(fd, IPPROTO_IP, IP_MULTICAST_LOOP) == 0);
}

static void multicast_make(void)
{
	struct ip_mreqn m = { .imr_ifindex = (int)if_nametoindex("lo") };
	udp_bind();
	CHECK(close(listener) == 0);
	listener = socket(AF_INET, SOCK_DGRAM, 0);
	inet_pton(AF_INET, "239.1.2.3", &m.imr_multiaddr);
	in4.sin_addr = m.imr_multiaddr;
	CHECK(bind(listener, (struct sockaddr *)&in4, sizeof(in4)) == 0);
	CHECK(setsockopt(listener, IPPROTO_IP, IP_ADD_MEMBERSHIP, &m, sizeof(m)) == 0);
}

static void multicast_check(void)
{
	struct ip_mreqn m = { .imr_ifindex = (int)if_nametoindex("lo") };
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &m, sizeof(m)) == 0);
	CHECK(sendto(fd, "to all", 6, 0, (struct sockaddr *)&in4, sizeof(in4)) == 6);
	CHECK(hears(listener, "to all") && close(fd) == 0);
	m.imr_multiaddr = in4.sin_addr;
	CHECK(setsockopt(listener, IPPROTO_IP, IP_ADD_MEMBERSHIP, &m, sizeof(m)) < 0);
	CHECK(errno == EADDRINUSE);
}

static struct sockaddr_in6 in6;

static void udp6_make(void)
{
	socklen_t len = sizeof(in6);
	listener = socket(AF_INET6, SOCK_DGRAM, 0);
	in6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
	if (listener < 0 || bind(listener, (struct sockaddr *)&in6, sizeof(in6)) < 0)
		small_skip("there is no IPv6 here");
	CHECK(getsockname(listener, (struct sockaddr *)&in6, &len) == 0);
	CHECK(set(listener, IPPROTO_IPV6, IPV6_V6ONLY, 1) || errno == EINVAL);
	CHECK(set(listener, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1));
	CHECK(set(listener, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 17));
}

static void udp6_check(void)
{
	fd = socket(AF_INET6, SOCK_DGRAM, 0);
	CHECK(sendto(fd, "six", 3, 0, (struct sockaddr *)&in6, sizeof(in6)) == 3);
	CHECK(hears(listener, "six") && close(fd) == 0);
	CHECK(got(listener, IPPROTO_IPV6, IPV6_RECVPKTINFO) == 1);
	CHECK(got(listener, IPPROTO_IPV6, IPV6_UNICAST_HOPS) == 17);
}

/* ---- tuntap.rst ---- */

static int device_ask(unsigned long what, struct ifreq *device)
{
	const int by = socket(AF_INET, SOCK_DGRAM, 0);
	const int r = ioctl(by, what, device);
	CHECK(by >= 0 && close(by) == 0);
	return r;
}

static void tun_set(unsigned long what, struct ifreq *device, const char *address)
{
	struct sockaddr_in *a = (struct sockaddr_in *)&device->ifr_addr;
	device->ifr_addr = (struct sockaddr){ .sa_family = AF_INET };
	CHECK(inet_pton(AF_INET, address, &a->sin_addr) == 1 && device_ask(what, device) == 0);
}

static void tun_open(int flags, const char *as, const char *address, const char *peer)
{
	struct ifreq device = { .ifr_flags = (short)flags };
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
	if (fd < 0)
		small_skip("there is no /dev/net/tun");
	strcpy(device.ifr_name, as);
	CHECK(ioctl(fd, TUNSETIFF, &device) == 0);
	tun_set(SIOCSIFADDR, &device, address);
	if (peer)
		tun_set(SIOCSIFDSTADDR, &device, peer);
	device.ifr_flags = IFF_UP;
	CHECK(device_ask(SIOCSIFFLAGS, &device) == 0);
}

/* What is sent to the other end of the tunnel comes to us, behind so many bytes. */
static bool tunnels(const char *to, size_t before)
{
	unsigned char packet[2048];
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(9) };
	const int by = socket(AF_INET, SOCK_DGRAM, 0);
	ssize_t len = 0;
	CHECK(inet_pton(AF_INET, to, &at.sin_addr) == 1);
	CHECK(sendto(by, "through", 7, 0, (struct sockaddr *)&at, sizeof(at)) == 7);
	/* the kernel says things of its own there, too */
	for (struct pollfd p = { .fd = fd, .events = POLLIN }; poll(&p, 1, 30000) == 1;) {
		len = read(fd, packet, sizeof(packet));
		if (len == (ssize_t)before + 20 + 8 + 7 && packet[before] == 0x45)
			break;
	}
	CHECK(close(by) == 0);
	return len == (ssize_t)before + 35 && memcmp(packet + before + 28, "through", 7) == 0;
}

static void tun_make(void)
{
	tun_open(IFF_TUN, "small0", "198.18.1.1", "198.18.1.2");
	struct ifreq device = { .ifr_name = "small0", .ifr_mtu = 1234 };
	CHECK(device_ask(SIOCSIFMTU, &device) == 0);
}

static void tun_check(void)
{
	struct ifreq device = { 0 };
	CHECK(ioctl(fd, TUNGETIFF, &device) == 0 && strcmp(device.ifr_name, "small0") == 0);
	CHECK(!(device.ifr_flags & IFF_PERSIST) && device.ifr_flags & IFF_TUN);
	CHECK(device_ask(SIOCGIFMTU, &device) == 0 && device.ifr_mtu == 1234);
	CHECK(tunnels("198.18.1.2", 4)); /* with the protocol before the packet */
	CHECK(close(fd) == 0 && device_ask(SIOCGIFMTU, &device) < 0 && errno == ENODEV);
	tun_make();
}

static void tun_queues_make(void)
{
	const int head = 12;
	struct ifreq device = { .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE,
				.ifr_name = "small1" };
	tun_open(device.ifr_flags, "small1", "198.18.2.1", "198.18.2.2");
	other = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
	CHECK(ioctl(other, TUNSETIFF, &device) == 0 && ioctl(other, TUNSETPERSIST, 1) == 0);
	CHECK(ioctl(fd, TUNSETVNETHDRSZ, &head) == 0);
	device.ifr_flags = IFF_DETACH_QUEUE;
	CHECK(ioctl(other, TUNSETQUEUE, &device) == 0);
}

static void tun_queues_check(void)
{
	int head = 0;
	struct ifreq device = { 0 };
	CHECK(ioctl(other, TUNGETIFF, &device) == 0 && device.ifr_flags & IFF_DETACH_QUEUE);
	CHECK(device.ifr_flags & IFF_PERSIST && device.ifr_flags & IFF_MULTI_QUEUE);
	CHECK(ioctl(fd, TUNGETVNETHDRSZ, &head) == 0 && head == 12 && tunnels("198.18.2.2", 12));
}

static void tap_make(void)
{
	struct ifreq device = { .ifr_name = "small2" };
	tun_open(IFF_TAP | IFF_NO_PI, "small2", "198.18.3.1", NULL);
	CHECK(device_ask(SIOCGIFHWADDR, &device) == 0);
	memcpy(device.ifr_hwaddr.sa_data, "\2small", 6);
	CHECK(device_ask(SIOCSIFHWADDR, &device) == 0);
	CHECK(ioctl(fd, TUNSETOWNER, 1) == 0);
}

static void tap_check(void)
{
	struct ifreq device = { .ifr_name = "small2" };
	unsigned char frame[60] = "\2small\2other\x88\xb5";
	CHECK(device_ask(SIOCGIFHWADDR, &device) == 0);
	CHECK(memcmp(device.ifr_hwaddr.sa_data, "\2small", 6) == 0);
	CHECK(write(fd, frame, sizeof(frame)) == sizeof(frame));
	CHECK(ioctl(fd, TUNGETIFF, &device) == 0 && device.ifr_flags & IFF_TAP);
}

/* ---- tcp(7) ---- */

static void tcp_listen(int family)
{
	listener = socket(family, SOCK_STREAM, 0);
	CHECK(listener >= 0 && listen(listener, 8) == 0); /* any address, a free port */
}

static void tcp_connect(void)
{
	socklen_t len = sizeof(in4);
	CHECK(getsockname(listener, (struct sockaddr *)&in4, &len) == 0);
	in4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(connect(fd, (struct sockaddr *)&in4, sizeof(in4)) == 0);
}

static void tcp_make(void)
{
	tcp_listen(AF_INET);
	tcp_connect();
	other = accept(listener, NULL, NULL);
	CHECK(other >= 0);
}

static void tcp_check(void)
{
	struct sockaddr_in a, b;
	socklen_t len = sizeof(a);
	CHECK(says(fd, "there") && hears(other, "there") && says(other, "back") &&
	      hears(fd, "back"));
	CHECK(getpeername(fd, (struct sockaddr *)&a, &len) == 0 && a.sin_port == in4.sin_port);
	len = sizeof(a);
	CHECK(getsockname(fd, (struct sockaddr *)&a, &len) == 0);
	len = sizeof(b);
	CHECK(getpeername(other, (struct sockaddr *)&b, &len) == 0 && a.sin_port == b.sin_port);
}

static bool hears_all(int from, size_t len)
{
	char bytes[4096];
	for (size_t at = 0; at < len;) {
		struct pollfd p = { .fd = from, .events = POLLIN };
		if (poll(&p, 1, 30000) != 1)
			return false;
		const ssize_t n = recv(from, bytes, len - at < 4096 ? len - at : 4096, 0);
		if (n <= 0)
			return false;
		for (ssize_t i = 0; i < n; i++, at++) {
			if (bytes[i] != (char)(at * 7 >> 3))
				return false;
		}
	}
	return true;
}

static void say_much(int to, size_t len)
{
	static char bytes[65536];
	for (size_t i = 0; i < len; i++)
		bytes[i] = (char)(i * 7 >> 3);
	CHECK(send(to, bytes, len, MSG_NOSIGNAL) == (ssize_t)len);
}

static void tcp_queue_make(void)
{
	tcp_make();
	say_much(fd, 60000);
	say_much(other, 50000);
}

static void tcp_queue_check(void)
{
	CHECK(hears_all(other, 60000) && hears_all(fd, 50000));
	say_much(fd, 60000);
	say_much(other, 50000);
}

/* Others than Linux 6.9 and later do not show what is behind it. */
static void tcp_urgent_make(void)
{
	const int none = -1;
	tcp_make();
	if (setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &none, sizeof(none)) < 0)
		small_skip("this kernel does not show what is behind an urgent byte");
	CHECK(says(fd, "ab") && send(fd, "u", 1, MSG_OOB) == 1 && says(fd, "cd"));
}

static void tcp_urgent_check(void)
{
	char c;
	struct pollfd p = { .fd = other, .events = POLLPRI };
	CHECK(poll(&p, 1, 30000) == 1 && p.revents & POLLPRI);
	CHECK(recv(other, &c, 1, MSG_OOB) == 1 && c == 'u' && sockatmark(other) == 0);
	CHECK(hears(other, "ab") && sockatmark(other) == 1 && hears(other, "cd"));
	CHECK(says(fd, "ab") && send(fd, "u", 1, MSG_OOB) == 1 && says(fd, "cd"));
}

static void tcp_half_make(void)
{
	tcp_make();
	CHECK(says(fd, "last") && shutdown(fd, SHUT_WR) == 0);
}

static void tcp_half_check(void)
{
	CHECK(hears(other, "last") && hears(other, "") && says(other, "on") && hears(fd, "on"));
	CHECK(send(fd, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
	CHECK(close(fd) == 0 && close(other) == 0);
	tcp_connect();
	other = accept(listener, NULL, NULL);
	CHECK(other >= 0 && says(fd, "last") && shutdown(fd, SHUT_WR) == 0);
}

static void tcp_options_make(void)
{
	tcp_make();
	CHECK(set(fd, IPPROTO_TCP, TCP_NODELAY, 1) && set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 77));
	CHECK(set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 11) && set(fd, IPPROTO_TCP, TCP_KEEPCNT, 5));
	CHECK(set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 12345));
	CHECK(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4) == 0);
}

static void tcp_options_check(void)
{
	char text[16] = "";
	socklen_t len = sizeof(text);
	CHECK(got(fd, IPPROTO_TCP, TCP_NODELAY) == 1 && got(fd, IPPROTO_TCP, TCP_KEEPIDLE) == 77);
	CHECK(got(fd, IPPROTO_TCP, TCP_KEEPINTVL) == 11 && got(fd, IPPROTO_TCP, TCP_KEEPCNT) == 5);
	CHECK(got(fd, IPPROTO_TCP, TCP_USER_TIMEOUT) == 12345);
	CHECK(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, text, &len) == 0 &&
	      !strcmp(text, "reno"));
	tcp_check();
}

static void tcp_cork_make(void)
{
	tcp_make();
	CHECK(set(fd, IPPROTO_TCP, TCP_CORK, 1));
}

static void tcp_cork_check(void)
{
	CHECK(got(fd, IPPROTO_TCP, TCP_CORK) == 1 && says(fd, "part"));
	CHECK(set(fd, IPPROTO_TCP, TCP_CORK, 0) && hears(other, "part"));
	CHECK(set(fd, IPPROTO_TCP, TCP_CORK, 1));
}

static void tcp_reset_make(void)
{
	const struct linger now = { 1, 0 };
	tcp_make();
	CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0 && close(fd) == 0);
}

static void tcp_reset_check(void)
{
	char c;
	struct pollfd p = { .fd = other, .events = POLLIN };
	CHECK(poll(&p, 1, 30000) == 1 && (p.revents & POLLERR));
	CHECK(recv(other, &c, 1, 0) < 0 && errno == ECONNRESET);
	CHECK(recv(other, &c, 1, 0) == 0 && close(other) == 0 && close(listener) == 0);
	tcp_reset_make();
}

static void tcp_refused_make(void)
{
	tcp_listen(AF_INET);
	tcp_connect();
	CHECK(close(listener) == 0 && close(fd) == 0);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(connect(fd, (struct sockaddr *)&in4, sizeof(in4)) < 0 && errno == ECONNREFUSED);
}

static void tcp_refused_check(void)
{
	CHECK(send(fd, "x", 1, MSG_NOSIGNAL) < 0 && (errno == EPIPE || errno == ENOTCONN));
	tcp_listen(AF_INET);
	tcp_connect();
	CHECK(close(fd) == 0 && close(listener) == 0);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(connect(fd, (struct sockaddr *)&in4, sizeof(in4)) < 0 && errno == ECONNREFUSED);
}

static void tcp_bound_make(void)
{
	in4 = (struct sockaddr_in){ .sin_family = AF_INET };
	in4.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
	in4.sin_port = htons((uint16_t)(20000 + getpid() % 10000));
	fd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(bind(fd, (struct sockaddr *)&in4, sizeof(in4)) == 0);
}

static void tcp_bound_check(void)
{
	struct sockaddr_in a;
	socklen_t len = sizeof(a);
	CHECK(getsockname(fd, (struct sockaddr *)&a, &len) == 0 && a.sin_port == in4.sin_port);
	CHECK(a.sin_addr.s_addr == htonl(INADDR_LOOPBACK + 1));
	other = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(bind(other, (struct sockaddr *)&in4, sizeof(in4)) < 0 && errno == EADDRINUSE);
	CHECK(close(other) == 0);
}

/* ---- netlink(7), packet(7), raw(7) ---- */

static void netlink_make(void)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK };
	fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	CHECK(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	CHECK(set(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, 1));
	socklen_t len = sizeof(a);
	CHECK(getsockname(fd, (struct sockaddr *)&a, &len) == 0);
	other = (int)a.nl_pid;
}

static void netlink_check(void)
{
	struct {
		struct nlmsghdr head;
		struct ifinfomsg info;
	} ask = { { sizeof(ask), RTM_GETLINK, NLM_F_REQUEST, 5, 0 }, { .ifi_index = 1 } };
	char answer[8192];
	struct sockaddr_nl a = { 0 };
	socklen_t len = sizeof(a);
	CHECK(getsockname(fd, (struct sockaddr *)&a, &len) == 0 && a.nl_pid == (uint32_t)other);
	CHECK(a.nl_groups == RTMGRP_LINK && got(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS) == 1);
	CHECK(send(fd, &ask, sizeof(ask), 0) == sizeof(ask));
	const struct nlmsghdr *head = (const struct nlmsghdr *)answer;
	do
		CHECK(recv(fd, answer, sizeof(answer), 0) > 0);
	while (head->nlmsg_seq != 5);
	CHECK(head->nlmsg_type == RTM_NEWLINK);
}

static void packet_make(void)
{
	struct sockaddr_ll a = { .sll_family = AF_PACKET,
				 .sll_protocol = htons(ETH_P_ARP),
				 .sll_ifindex = (int)if_nametoindex("lo") };
	fd = socket(AF_PACKET, SOCK_DGRAM, 0);
	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	CHECK(set(fd, SOL_PACKET, PACKET_AUXDATA, 1));
}

static void packet_check(void)
{
	struct sockaddr_ll a = { 0 };
	socklen_t len = sizeof(a);
	CHECK(getsockname(fd, (struct sockaddr *)&a, &len) == 0);
	CHECK(a.sll_protocol == htons(ETH_P_ARP) && a.sll_ifindex == (int)if_nametoindex("lo"));
	CHECK(got(fd, SOL_PACKET, PACKET_AUXDATA) == 1 &&
	      got(fd, SOL_SOCKET, SO_TYPE) == SOCK_DGRAM);
}

static void raw_make(void)
{
	struct icmp_filter none_but_echo = { ~(1U << ICMP_ECHO) };
	fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	CHECK(fd >= 0 &&
	      setsockopt(fd, SOL_RAW, ICMP_FILTER, &none_but_echo, sizeof(none_but_echo)) == 0);
}

static void raw_check(void)
{
	struct icmp_filter f = { 0 };
	socklen_t len = sizeof(f);
	CHECK(getsockopt(fd, SOL_RAW, ICMP_FILTER, &f, &len) == 0 && f.data == ~(1U << ICMP_ECHO));
	CHECK(got(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_ICMP);
}

static void interfaces_make(void)
{
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(if_nametoindex("lo") == 1);
}

static void interfaces_check(void)
{
	struct ifreq i = { .ifr_name = "lo" };
	CHECK(ioctl(fd, SIOCGIFFLAGS, &i) == 0 && (i.ifr_flags & IFF_UP));
	CHECK(ioctl(fd, SIOCGIFADDR, &i) == 0 && if_nametoindex("lo") == 1);
}

/* In a world of their own: who listens to what becomes of devices would hear of these. */
const struct small_case tunnel_cases[] = {
	{ "tuntap.rst: a tunnel, which goes with its end", tun_make, tun_check, SMALL_ROOT },
	{ "tuntap.rst: a tunnel that stays, with two queues, one of them detached", tun_queues_make,
	  tun_queues_check, SMALL_ROOT },
	{ "tuntap.rst: a line with an address of its own", tap_make, tap_check, SMALL_ROOT },
	{ NULL },
};

const struct small_case socket_cases[] = {
	{ "unix(7): SOCK_STREAM: bytes queued both ways", stream_make, stream_check },
	{ "unix(7): SOCK_DGRAM: messages keep their bounds, an empty one too", dgram_make,
	  dgram_check },
	{ "unix(7): SOCK_SEQPACKET: a long record is truncated", seqpacket_make, seqpacket_check },
	{ "unix(7): a pathname socket: its name, and who connects to it", named_make, named_check },
	{ "listen(2): a connection that waits to be accepted", backlog_make, backlog_check },
	{ "unix(7): an abstract address is bound and found", abstract_make, abstract_check },
	{ "unix(7): autobind: the name that the kernel chose", autobind_make, autobind_check },
	{ "unix(7): SCM_RIGHTS: a file on its way through a stream", rights_make, rights_check },
	{ "unix(7): SCM_RIGHTS: it is the same open file description", rights_shared_make,
	  rights_shared_check },
	{ "unix(7): SCM_RIGHTS: a socket with data on its way through another", rights_nested_make,
	  rights_nested_check },
	{ "unix(7): SO_PASSCRED: queued data has its sender's credentials", passcred_make,
	  passcred_check },
	{ "unix(7): SO_PEERCRED of a socketpair(2)", peercred_make, peercred_check },
	{ "shutdown(2): SHUT_WR: end of file behind the last bytes", half_closed_make,
	  half_closed_check },
	{ "unix(7): a peer that has closed: its last bytes, POLLHUP", peer_gone_make,
	  peer_gone_check },
	{ "socket(7): SO_PEEK_OFF", peek_offset_make, peek_offset_check },
	{ "unix(7): a socket that is not connected", unconnected_make, unconnected_check },
	{ "socket(7): options: buffers, linger, timeouts, priority and others", options_make,
	  options_check },
	{ "socket(7): SO_BINDTODEVICE", device_make, device_check },
	{ "udp(7): datagrams queued, an empty one too, with their sender's port", udp_make,
	  udp_check },
	{ "ip(7): IP_TTL, IP_TOS, IP_PKTINFO, IP_RECVERR, IP_MTU_DISCOVER, multicast's",
	  udp_options_make, udp_options_check },
	{ "ip(7): IP_ADD_MEMBERSHIP: what is sent to the group comes", multicast_make,
	  multicast_check },
	{ "ipv6(7): a datagram socket on ::1, its options", udp6_make, udp6_check },
	{ "tcp(7): an established connection, both its ends", tcp_make, tcp_check },
	{ "tcp(7): much data queued both ways", tcp_queue_make, tcp_queue_check },
	{ "tcp(7): urgent data that is not read, and what is before and behind it", tcp_urgent_make,
	  tcp_urgent_check },
	{ "tcp(7): half closed: the other direction goes on", tcp_half_make, tcp_half_check },
	{ "tcp(7): TCP_NODELAY, keepalive's, TCP_USER_TIMEOUT, TCP_CONGESTION", tcp_options_make,
	  tcp_options_check },
	{ "tcp(7): TCP_CORK", tcp_cork_make, tcp_cork_check },
	{ "tcp(7): reset by the peer: ECONNRESET once", tcp_reset_make, tcp_reset_check },
	{ "connect(2): a socket whose connection was refused", tcp_refused_make,
	  tcp_refused_check },
	{ "bind(2): a port that is taken and not listened on", tcp_bound_make, tcp_bound_check },
	{ "netlink(7): port id, groups and options; it is answered", netlink_make, netlink_check },
	{ "packet(7): protocol, device and options", packet_make, packet_check, SMALL_ROOT },
	{ "raw(7): ICMP_FILTER", raw_make, raw_check, SMALL_ROOT },
	{ "netdevice(7): the loopback device is up, with its index", interfaces_make,
	  interfaces_check },
	{ NULL },
};
