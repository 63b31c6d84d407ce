#include "tests/vin/net.h"

#include <netinet/udp.h>

static bool says(int fd, const char *text)
{
	char got_text[2000];
	struct pollfd p = { .fd = fd, .events = POLLIN };
	ssize_t n = poll(&p, 1, 30000) == 1 ? recv(fd, got_text, sizeof(got_text), 0) : -1;
	return n == (ssize_t)strlen(text) && memcmp(got_text, text, (size_t)n) == 0;
}

static bool quiet(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	return poll(&p, 1, 20) == 0;
}

static bool tell(int fd, const char *text, const char *ip, int port)
{
	union address a;
	socklen_t len = at(&a, ip, port);
	return sendto(fd, text, strlen(text), 0, &a.any, len) == (ssize_t)strlen(text);
}

static void make_plain(void)
{
	union address a;
	CHECK(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0) == 3 &&
	      socket(AF_INET6, SOCK_DGRAM, 0) == 4);
	CHECK(bind(4, &a.any, at(&a, "::", 5000)) == 0);
	CHECK(socket(AF_INET, SOCK_DGRAM, 0) == 5 && bind(5, &a.any, at(&a, IN4, 5001)) == 0);
	CHECK(connect(5, &a.any, at(&a, IN4, 5000)) == 0);
}

static void check_plain(void)
{
	CHECK(is_at(3, false, "0.0.0.0", 0) && is_at(4, false, "::", 5000));
	CHECK(is_at(5, false, IN4, 5001) && is_at(5, true, IN4, 5000));
	CHECK(send(5, "a", 1, 0) == 1 && says(4, "a") && tell(4, "b", "::ffff:" IN4, 5001) &&
	      says(5, "b"));
	CHECK(tell(3, "c", IN4, 5001) && quiet(5) && tell(3, "d", "127.0.0.1", 5000) &&
	      says(4, "d"));
}

static void names_and_peers_are_kept(void **state)
{
	(void)state;
	moved(make_plain, check_plain);
	stayed(make_plain, check_plain);
}

/* 3 is told by 4, and by 5, which nobody has any more. */
static const char *queue_ip;

static void make_queue(void)
{
	union address a;
	const int family = strchr(queue_ip, ':') ? AF_INET6 : AF_INET;
	CHECK(socket(family, SOCK_DGRAM, 0) == 3 && bind(3, &a.any, at(&a, queue_ip, 5000)) == 0);
	CHECK(socket(family, SOCK_DGRAM, 0) == 4 && bind(4, &a.any, at(&a, queue_ip, 5001)) == 0);
	CHECK(socket(family, SOCK_DGRAM, 0) == 5 && bind(5, &a.any, at(&a, queue_ip, 5002)) == 0);
	CHECK(tell(4, "one", queue_ip, 5000) && tell(5, "two, and more", queue_ip, 5000));
	CHECK(tell(4, "", queue_ip, 5000) && tell(4, "odd", queue_ip, 5000));
	close(5);
}

static bool from(int fd, const char *text, const char *ip, int port)
{
	char got_text[100];
	union address a, want;
	socklen_t len = sizeof(a);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	if (poll(&p, 1, 30000) != 1)
		return false;
	ssize_t n = recvfrom(fd, got_text, sizeof(got_text), 0, &a.any, &len);
	return n == (ssize_t)strlen(text) && memcmp(text, got_text, (size_t)n) == 0 &&
	       len == at(&want, ip, port) && memcmp(&a, &want, len) == 0;
}

static void check_queue(void)
{
	CHECK(from(3, "one", queue_ip, 5001) && from(3, "two, and more", queue_ip, 5002));
	CHECK(from(3, "", queue_ip, 5001) && from(3, "odd", queue_ip, 5001) && quiet(3));
	CHECK(got(3, SOL_SOCKET, SO_PEEK_OFF) == -1 && got(3, SOL_IP, IP_PKTINFO) == 0);
	CHECK(tell(4, "new", queue_ip, 5000) && from(3, "new", queue_ip, 5001));
}

static void datagrams_wait_with_their_senders(void **state)
{
	static const char *const ips[] = { "127.0.0.1", IN4, "::1", IN6 };
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(ips); i++) {
		queue_ip = ips[i];
		moved(make_queue, check_queue);
		stayed(make_queue, check_queue);
	}
}

/* From somebody outside, and to a socket that is connected to him. */
static void make_stranger(void)
{
	union address a;
	CHECK(socket(AF_INET, SOCK_DGRAM, 0) == 3 && bind(3, &a.any, at(&a, IN4, 5000)) == 0);
	CHECK(connect(3, &a.any, at(&a, OUT4, 5009)) == 0 && set(3, SOL_IP, IP_PKTINFO, 1));
}

static void say_stranger(void)
{
	union address a;
	scoped_fd fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, &a.any, at(&a, OUT4, 5009)), 0);
	assert_true(tell(fd, "stranger", IN4, 5000));
	nap(100);
}

static void check_stranger(void)
{
	char text[10], words[200];
	struct iovec part = { text, sizeof(text) };
	struct msghdr m = { .msg_iov = &part,
			    .msg_iovlen = 1,
			    .msg_control = words,
			    .msg_controllen = sizeof(words) };
	CHECK(recvmsg(3, &m, MSG_DONTWAIT) == 8 && memcmp(text, "stranger", 8) == 0);
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	union address a;
	at(&a, IN4, 0);
	CHECK(c && c->cmsg_type == IP_PKTINFO);
	CHECK(c && memcmp(&((struct in_pktinfo *)CMSG_DATA(c))->ipi_addr, &a.v4.sin_addr, 4) == 0);
	CHECK(is_at(3, true, OUT4, 5009));
}

static void a_stranger_is_heard(void **state)
{
	(void)state;
	meanwhile = say_stranger;
	moved(make_stranger, check_stranger);
	meanwhile = NULL;
}

static const struct {
	int level, name, value;
} plain[] = {
	{ SOL_SOCKET, SO_BROADCAST, 1 },
	{ SOL_SOCKET, SO_REUSEADDR, 1 },
	{ SOL_SOCKET, SO_REUSEPORT, 1 },
	{ SOL_SOCKET, SO_RXQ_OVFL, 1 },
	{ SOL_SOCKET, SO_TIMESTAMPNS, 1 },
	{ SOL_SOCKET, SO_NO_CHECK, 1 },
	{ SOL_SOCKET, SO_PEEK_OFF, 3 },
	{ SOL_IP, IP_PKTINFO, 1 },
	{ SOL_IP, IP_RECVERR, 1 },
	{ SOL_IP, IP_RECVTTL, 1 },
	{ SOL_IP, IP_RECVTOS, 1 },
	{ SOL_IP, IP_MULTICAST_TTL, 5 },
	{ SOL_IP, IP_MULTICAST_LOOP, 0 },
	{ SOL_IP, IP_MULTICAST_ALL, 0 },
	{ SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE },
	{ SOL_IP, IP_FREEBIND, 1 },
	{ SOL_UDP, UDP_SEGMENT, 500 },
	{ SOL_UDP, UDP_GRO, 1 },
	{ SOL_UDP, UDP_CORK, 1 },
	{ SOL_IPV6, IPV6_RECVPKTINFO, 1 },
	{ SOL_IPV6, IPV6_RECVHOPLIMIT, 1 },
	{ SOL_IPV6, IPV6_MULTICAST_HOPS, 9 },
	{ SOL_IPV6, IPV6_RECVERR, 1 },
	{ SOL_IPV6, IPV6_V6ONLY, 1 },
};

static void make_optioned(void)
{
	CHECK(socket(AF_INET, SOCK_DGRAM, 0) == 3 && socket(AF_INET6, SOCK_DGRAM, 0) == 4);
	for (size_t i = 0; i < FVM_COUNT(plain); i++) {
		if (plain[i].level != SOL_IPV6)
			CHECK(set(3, plain[i].level, plain[i].name, plain[i].value));
		if (plain[i].level != SOL_IP)
			CHECK(set(4, plain[i].level, plain[i].name, plain[i].value));
	}
}

static void check_optioned(void)
{
	for (size_t i = 0; i < FVM_COUNT(plain); i++) {
		if (plain[i].level != SOL_IPV6)
			CHECK(got(3, plain[i].level, plain[i].name) == plain[i].value);
		if (plain[i].level != SOL_IP)
			CHECK(got(4, plain[i].level, plain[i].name) == plain[i].value);
	}
}

static void options_are_kept(void **state)
{
	(void)state;
	moved(make_optioned, check_optioned);
	stayed(make_optioned, check_optioned);
}

static bool multicast_route(void)
{
	struct request q;
	struct rtmsg *r = request(&q, RTM_NEWROUTE, sizeof(*r));
	*r = (struct rtmsg){ .rtm_family = AF_INET,
			     .rtm_dst_len = 4,
			     .rtm_table = RT_TABLE_MAIN,
			     .rtm_scope = RT_SCOPE_LINK,
			     .rtm_type = RTN_UNICAST };
	mnl_attr_put_u32(q.m, RTA_DST, htonl(0xe0000000));
	mnl_attr_put_u32(q.m, RTA_OIF, if_nametoindex("in"));
	return ask(&q) == 0;
}

static void group(struct group_source_req *g, const char *ip, const char *source)
{
	union address a, s;
	at(&a, ip, 0);
	at(&s, source, 0);
	memset(g, 0, sizeof(*g));
	g->gsr_interface = if_nametoindex("in");
	g->gsr_group = a.all;
	g->gsr_source = s.all;
}

static void make_member(void)
{
	struct group_source_req g;
	struct group_req q = { 0 };
	union address a;
	CHECK(socket(AF_INET, SOCK_DGRAM, 0) == 3 && bind(3, &a.any, at(&a, "0.0.0.0", 5000)) == 0);
	CHECK(socket(AF_INET6, SOCK_DGRAM, 0) == 4);
	group(&g, "239.1.2.3", OUT4);
	q.gr_interface = g.gsr_interface;
	q.gr_group = g.gsr_group;
	CHECK(setsockopt(3, SOL_IP, MCAST_JOIN_GROUP, &q, sizeof(q)) == 0);
	CHECK(setsockopt(3, SOL_IP, MCAST_BLOCK_SOURCE, &g, sizeof(g)) == 0);
	group(&g, "239.1.2.4", OUT4);
	CHECK(setsockopt(3, SOL_IP, MCAST_JOIN_SOURCE_GROUP, &g, sizeof(g)) == 0);
	group(&g, "ff15::77", OUT6);
	q.gr_group = g.gsr_group;
	CHECK(setsockopt(4, SOL_IPV6, MCAST_JOIN_GROUP, &q, sizeof(q)) == 0);
}

static void check_member(void)
{
	struct group_source_req g;
	struct group_req q = { 0 };
	group(&g, "239.1.2.3", OUT4);
	q.gr_interface = g.gsr_interface;
	q.gr_group = g.gsr_group;
	CHECK(setsockopt(3, SOL_IP, MCAST_JOIN_GROUP, &q, sizeof(q)) == -1 && errno == EADDRINUSE);
	CHECK(setsockopt(3, SOL_IP, MCAST_UNBLOCK_SOURCE, &g, sizeof(g)) == 0);
	CHECK(multicast_route() && socket(AF_INET, SOCK_DGRAM, 0) == 5);
	CHECK(tell(5, "all", "239.1.2.3", 5000) && says(3, "all"));
	group(&g, "239.1.2.4", OUT4);
	CHECK(setsockopt(3, SOL_IP, MCAST_LEAVE_SOURCE_GROUP, &g, sizeof(g)) == 0);
	group(&g, "ff15::77", OUT6);
	q.gr_group = g.gsr_group;
	CHECK(setsockopt(4, SOL_IPV6, MCAST_LEAVE_GROUP, &q, sizeof(q)) == 0);
}

static void members_of_groups_stay_members(void **state)
{
	(void)state;
	moved(make_member, check_member);
	stayed(make_member, check_member);
}

static void make_begun(void)
{
	union address a;
	CHECK(socket(AF_INET, SOCK_DGRAM, 0) == 3 && set(3, SOL_UDP, UDP_CORK, 1));
	CHECK(connect(3, &a.any, at(&a, "127.0.0.1", 5000)) == 0 && send(3, "half", 4, 0) == 4);
}

static void make_error(void)
{
	union address a;
	CHECK(socket(AF_INET, SOCK_DGRAM, 0) == 3);
	CHECK(connect(3, &a.any, at(&a, "127.0.0.1", 5000)) == 0 && send(3, "x", 1, 0) == 1);
	struct pollfd p = { .fd = 3 };
	CHECK(poll(&p, 1, 30000) == 1 && p.revents == POLLERR);
}

static void make_tunnel(void)
{
	CHECK(socket(AF_INET, SOCK_DGRAM, 0) == 3 &&
	      set(3, SOL_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP));
}

static void what_can_not_be_had_now_is_told(void **state)
{
	(void)state;
	not_now(make_begun, "a datagram is not sent yet");
	not_now(make_error, "an error of it is not told to the program yet");
}

static void tunnels_are_refused(void **state)
{
	(void)state;
	scoped_fd fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (!set(fd, SOL_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP))
		skip();
	not_now(make_tunnel, "IPsec");
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		NET(names_and_peers_are_kept),
		NET(datagrams_wait_with_their_senders),
		NET(a_stranger_is_heard),
		NET(options_are_kept),
		NET(members_of_groups_stay_members),
		NET(what_can_not_be_had_now_is_told),
		NET(tunnels_are_refused),
	};
	return cmocka_run_group_tests(tests, net_setup, carry_teardown);
}

int main(void)
{
	return carry_main(run);
}
