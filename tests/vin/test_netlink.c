/* Netlink, packet and raw sockets. */
#include "tests/vin/net.h"

#include <linux/filter.h>
#include <linux/icmp.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <net/ethernet.h>

static uint32_t port_of(int fd)
{
	struct sockaddr_nl a;
	socklen_t len = sizeof(a);
	return getsockname(fd, (struct sockaddr *)&a, &len) == 0 ? a.nl_pid : 0;
}

static bool hears_of_address(int fd, const char *ip)
{
	char message[4096];
	struct pollfd p = { .fd = fd, .events = POLLIN };
	if (add_address("lo", AF_INET, ip, 32) < 0)
		return false;
	ssize_t n = poll(&p, 1, 30000) == 1 ? recv(fd, message, sizeof(message), 0) : 0;
	return n > 0 && ((struct nlmsghdr *)message)->nlmsg_type == RTM_NEWADDR;
}

static void make_monitor(void)
{
	const struct sockaddr_nl a = { .nl_family = AF_NETLINK, .nl_pid = 4321 };
	CHECK(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE) == 3);
	CHECK(bind(3, (const struct sockaddr *)&a, sizeof(a)) == 0);
	CHECK(set(3, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_IPV4_IFADDR));
	CHECK(set(3, SOL_NETLINK, NETLINK_EXT_ACK, 1) &&
	      set(3, SOL_NETLINK, NETLINK_NO_ENOBUFS, 1));
	CHECK(socket(AF_NETLINK, SOCK_DGRAM, NETLINK_KOBJECT_UEVENT) == 4);
	CHECK(socket(AF_NETLINK, SOCK_DGRAM, NETLINK_SOCK_DIAG) == 5);
}

static void check_monitor(void)
{
	CHECK(port_of(3) == 4321 && port_of(4) == 0);
	CHECK(got(3, SOL_NETLINK, NETLINK_EXT_ACK) == 1);
	CHECK(got(3, SOL_NETLINK, NETLINK_NO_ENOBUFS) == 1 &&
	      got(3, SOL_NETLINK, NETLINK_CAP_ACK) == 0);
	CHECK(got(4, SOL_SOCKET, SO_PROTOCOL) == NETLINK_KOBJECT_UEVENT);
	CHECK(hears_of_address(3, "192.0.2.1"));
}

static void a_monitor_goes_on_hearing(void **state)
{
	(void)state;
	moved(make_monitor, check_monitor);
	stayed(make_monitor, check_monitor);
}

static void make_unread(void)
{
	const struct sockaddr_nl a = { .nl_family = AF_NETLINK };
	CHECK(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE) == 3);
	CHECK(bind(3, (const struct sockaddr *)&a, sizeof(a)) == 0);
	CHECK(set(3, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_IPV4_IFADDR));
	CHECK(add_address("lo", AF_INET, "192.0.2.2", 32) == 0);
	struct pollfd p = { .fd = 3, .events = POLLIN };
	CHECK(poll(&p, 1, 30000) == 1);
}

static void messages_of_the_kernel_are_waited_for(void **state)
{
	(void)state;
	not_now(make_unread, "a message of the kernel is not read yet");
}

static void make_netfilter(void)
{
	CHECK(socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER) == 3);
}

static void what_the_kernel_keeps_things_for_is_refused(void **state)
{
	(void)state;
	scoped_fd fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	if (fd < 0)
		skip();
	not_now(make_netfilter, "netlink socket of protocol 12");
}

/* ---- packets ---- */

static void make_packet(void)
{
	struct sock_filter code[] = { BPF_STMT(BPF_RET | BPF_K, 20) };
	const struct sock_fprog filter = { 1, code };
	struct sockaddr_ll a = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP) };
	a.sll_ifindex = (int)if_nametoindex("in");
	CHECK(socket(AF_PACKET, SOCK_DGRAM, 0) == 3);
	CHECK(bind(3, (struct sockaddr *)&a, sizeof(a)) == 0 &&
	      set(3, SOL_PACKET, PACKET_AUXDATA, 1));
	CHECK(setsockopt(3, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) == 0);
	CHECK(socket(AF_PACKET, SOCK_RAW, 0) == 4);
}

static void check_packet(void)
{
	struct sockaddr_ll a = { 0 };
	socklen_t len = sizeof(a);
	union address to;
	char packet[2000];
	struct pollfd p = { .fd = 3, .events = POLLIN };
	CHECK(getsockname(3, (struct sockaddr *)&a, &len) == 0 &&
	      a.sll_protocol == htons(ETH_P_IP));
	CHECK(a.sll_ifindex == (int)if_nametoindex("in"));
	CHECK(got(3, SOL_PACKET, PACKET_AUXDATA) == 1 && got(4, SOL_SOCKET, SO_TYPE) == SOCK_RAW);
	while (recv(3, packet, sizeof(packet), MSG_DONTWAIT) > 0)
		;
	CHECK(socket(AF_INET, SOCK_DGRAM, 0) == 5);
	CHECK(sendto(5, "many more bytes", 15, 0, &to.any, at(&to, OUT4, 9)) == 15);
	/* what goes out passes it, too, and the filter cuts it short */
	CHECK(poll(&p, 1, 30000) == 1 && recv(3, packet, sizeof(packet), 0) == 20);
	len = sizeof(a);
	CHECK(getsockname(4, (struct sockaddr *)&a, &len) == 0 && a.sll_protocol == 0);
}

static void packets_are_heard(void **state)
{
	(void)state;
	moved(make_packet, check_packet);
	stayed(make_packet, check_packet);
}

static void make_ring(void)
{
	const struct tpacket_req q = { 4096, 1, 2048, 2 };
	CHECK(socket(AF_PACKET, SOCK_RAW, 0) == 3);
	CHECK(setsockopt(3, SOL_PACKET, PACKET_RX_RING, &q, sizeof(q)) == 0);
}

static void make_fanout(void)
{
	struct sockaddr_ll a = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
	a.sll_ifindex = (int)if_nametoindex("in");
	CHECK(socket(AF_PACKET, SOCK_RAW, 0) == 3 &&
	      bind(3, (struct sockaddr *)&a, sizeof(a)) == 0);
	CHECK(set(3, SOL_PACKET, PACKET_FANOUT, 7 | PACKET_FANOUT_HASH << 16));
}

static void rings_and_fanouts_are_refused(void **state)
{
	(void)state;
	not_now(make_ring, "it has a ring of packets");
	not_now(make_fanout, "fanout");
}

/* ---- raw ---- */

static void make_raw(void)
{
	const struct icmp_filter f = { 1U << ICMP_ECHO };
	union address a;
	CHECK(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) == 3);
	CHECK(setsockopt(3, SOL_RAW, ICMP_FILTER, &f, sizeof(f)) == 0);
	CHECK(bind(3, &a.any, at(&a, "127.0.0.1", 0)) == 0);
	CHECK(connect(3, &a.any, at(&a, "127.0.0.1", 0)) == 0);
	CHECK(socket(AF_INET, SOCK_RAW, IPPROTO_RAW) == 4);
	CHECK(socket(AF_INET6, SOCK_RAW, IPPROTO_UDP) == 5 && set(5, SOL_IPV6, IPV6_CHECKSUM, 6));
	CHECK(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6) == 6);
}

static bool echoes(int fd)
{
	struct icmphdr h = { .type = ICMP_ECHO, .checksum = (uint16_t)~htons(ICMP_ECHO << 8) };
	char packet[200];
	struct pollfd p = { .fd = fd, .events = POLLIN };
	return send(fd, &h, sizeof(h), 0) == sizeof(h) && poll(&p, 1, 30000) == 1 &&
	       recv(fd, packet, sizeof(packet), 0) == 28 && packet[20] == ICMP_ECHOREPLY;
}

static void check_raw(void)
{
	struct icmp_filter f = { 0 };
	socklen_t len = sizeof(f);
	CHECK(got(3, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_ICMP && got(4, SOL_IP, IP_HDRINCL) == 1);
	CHECK(getsockopt(3, SOL_RAW, ICMP_FILTER, &f, &len) == 0 && f.data == 1U << ICMP_ECHO);
	CHECK(got(5, SOL_IPV6, IPV6_CHECKSUM) == 6);
	CHECK(got(6, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_ICMPV6 && echoes(3));
}

static void raw_sockets_are_as_they_were(void **state)
{
	(void)state;
	moved(make_raw, check_raw);
	stayed(make_raw, check_raw);
}

static bool allow_ping(void)
{
	return put("/proc/sys/net/ipv4/ping_group_range", "0 0") == 0;
}

static void make_ping(void)
{
	union address a;
	CHECK(allow_ping() && socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP) == 3);
	CHECK(bind(3, &a.any, at(&a, "127.0.0.1", 777)) == 0);
}

static void check_ping(void)
{
	struct icmphdr h = { .type = ICMP_ECHO };
	union address a;
	struct pollfd p = { .fd = 3, .events = POLLIN };
	CHECK(is_at(3, false, "127.0.0.1", 777));
	CHECK(sendto(3, &h, sizeof(h), 0, &a.any, at(&a, "127.0.0.1", 0)) == sizeof(h));
	CHECK(poll(&p, 1, 30000) == 1 && recv(3, &h, sizeof(h), 0) == sizeof(h));
	CHECK(h.type == ICMP_ECHOREPLY && h.un.echo.id == htons(777));
}

static void pings_keep_their_number(void **state)
{
	(void)state;
	if (!allow_ping())
		skip();
	assert_int_equal(link_setup(NULL), 0);
	new_world_ready = allow_ping;
	moved(make_ping, check_ping);
	new_world_ready = NULL;
	stayed(make_ping, check_ping);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		NET(a_monitor_goes_on_hearing),
		NET(messages_of_the_kernel_are_waited_for),
		NET(what_the_kernel_keeps_things_for_is_refused),
		NET(packets_are_heard),
		NET(rings_and_fanouts_are_refused),
		NET(raw_sockets_are_as_they_were),
		NET(pings_keep_their_number),
	};
	return cmocka_run_group_tests(tests, net_setup, carry_teardown);
}

int main(void)
{
	return carry_main(run);
}
