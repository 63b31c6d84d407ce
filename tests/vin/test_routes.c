/* Devices, addresses and routes that were made in a network namespace. */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <libmnl/libmnl.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include "vin/rtnl.h"
#include "worlds.h"

static char buf[4096] __attribute__((aligned(8)));

static void *begin(uint16_t type, size_t head)
{
	struct nlmsghdr *m = mnl_nlmsg_put_header(buf);
	m->nlmsg_type = type;
	return mnl_nlmsg_put_extra_header(m, head);
}

static int say(void)
{
	scoped_fd sock = vin_rtnl_open(NETLINK_ROUTE);
	return vin_rtnl_send(sock, (struct nlmsghdr *)buf, NLM_F_CREATE | NLM_F_EXCL);
}

static bool try_link(const char *name, const char *kind, const char *peer)
{
	struct nlmsghdr *m = (struct nlmsghdr *)buf;
	begin(RTM_NEWLINK, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(m, IFLA_IFNAME, name);
	struct nlattr *info = mnl_attr_nest_start(m, IFLA_LINKINFO);
	mnl_attr_put_strz(m, IFLA_INFO_KIND, kind);
	if (peer) {
		struct nlattr *data = mnl_attr_nest_start(m, IFLA_INFO_DATA);
		struct nlattr *nest = mnl_attr_nest_start(m, VETH_INFO_PEER);
		mnl_nlmsg_put_extra_header(m, sizeof(struct ifinfomsg));
		mnl_attr_put_strz(m, IFLA_IFNAME, peer);
		mnl_attr_nest_end(m, nest);
		mnl_attr_nest_end(m, data);
	}
	mnl_attr_nest_end(m, info);
	return say() == 0;
}

static void make_link(const char *name, const char *kind, const char *peer)
{
	CHECK(try_link(name, kind, peer));
}

static void set_link(const char *name, uint16_t attr, uint32_t value)
{
	struct ifinfomsg *head = begin(RTM_NEWLINK, sizeof(*head));
	head->ifi_index = (int)if_nametoindex(name);
	if (attr)
		mnl_attr_put_u32((struct nlmsghdr *)buf, attr, value);
	else
		head->ifi_flags = head->ifi_change = IFF_UP;
	scoped_fd sock = vin_rtnl_open(NETLINK_ROUTE);
	CHECK(vin_rtnl_send(sock, (struct nlmsghdr *)buf, 0) == 0);
}

static void add_address(const char *name, const char *address)
{
	struct in_addr a;
	struct ifaddrmsg *head = begin(RTM_NEWADDR, sizeof(*head));
	head->ifa_family = AF_INET;
	head->ifa_prefixlen = 24;
	head->ifa_index = if_nametoindex(name);
	inet_pton(AF_INET, address, &a);
	mnl_attr_put((struct nlmsghdr *)buf, IFA_LOCAL, 4, &a);
	CHECK(say() == 0);
}

static void add_route(const char *to, const char *via)
{
	struct in_addr a;
	struct rtmsg *head = begin(RTM_NEWROUTE, sizeof(*head));
	head->rtm_family = AF_INET;
	head->rtm_dst_len = 16;
	head->rtm_table = RT_TABLE_MAIN;
	head->rtm_protocol = RTPROT_BOOT;
	head->rtm_type = RTN_UNICAST;
	inet_pton(AF_INET, to, &a);
	mnl_attr_put((struct nlmsghdr *)buf, RTA_DST, 4, &a);
	inet_pton(AF_INET, via, &a);
	mnl_attr_put((struct nlmsghdr *)buf, RTA_GATEWAY, 4, &a);
	CHECK(say() == 0);
}

static bool has_address(const char *name, const char *address)
{
	struct ifaddrs *all, *i;
	struct in_addr a;
	bool found = false;
	CHECK(getifaddrs(&all) == 0);
	inet_pton(AF_INET, address, &a);
	for (i = all; i; i = i->ifa_next)
		found |= i->ifa_addr && i->ifa_addr->sa_family == AF_INET &&
			 strcmp(i->ifa_name, name) == 0 &&
			 ((struct sockaddr_in *)i->ifa_addr)->sin_addr.s_addr == a.s_addr;
	freeifaddrs(all);
	return found;
}

static bool says(const char *path, const char *word)
{
	scoped_free char *text = NULL;
	return fvm_read_file(AT_FDCWD, path, 1 << 20, &text, NULL) == 0 && strstr(text, word);
}

static int mtu_of(const char *name)
{
	struct ifreq request = { 0 };
	scoped_fd any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	CHECK(ioctl(any, SIOCGIFMTU, &request) == 0);
	return request.ifr_mtu;
}

/* ---- what is made ---- */

static void make_pair(void)
{
	make_link("one", "veth", "two");
	set_link("lo", 0, 0);
	set_link("one", IFLA_MTU, 1234);
	set_link("one", 0, 0);
	set_link("two", 0, 0);
	add_address("one", "10.7.0.1");
	add_address("one", "10.7.0.2");
	add_route("10.8.0.0", "10.7.0.9");
	board->seen[0] = if_nametoindex("one");
	board->seen[1] = if_nametoindex("two");
}

static void pair_is_there(void)
{
	CHECK(if_nametoindex("one") == board->seen[0] && if_nametoindex("two") == board->seen[1]);
	CHECK(has_address("one", "10.7.0.1") && has_address("one", "10.7.0.2"));
	CHECK(has_address("lo", "127.0.0.1"));
	CHECK(mtu_of("one") == 1234);
	/* 10.8.0.0 by 10.7.0.9, as the file has it */
	CHECK(says("/proc/self/net/route", "one\t0000080A\t0900070A"));
}

static void a_pair_its_addresses_and_routes_come_back(void **state)
{
	(void)state;
	goes_on(make_pair, pair_is_there, CLONE_NEWNET);
}

static void make_bridge(void)
{
	make_link("bridge", "bridge", NULL);
	make_link("one", "veth", "two");
	set_link("one", IFLA_MASTER, if_nametoindex("bridge"));
	set_link("one", 0, 0);
	set_link("two", 0, 0);
	set_link("bridge", 0, 0);
	add_address("bridge", "10.9.0.1");
	add_address("two", "10.9.0.2");
}

static void bridge_is_there(void)
{
	CHECK(has_address("bridge", "10.9.0.1") && has_address("two", "10.9.0.2"));
	CHECK(says("/proc/self/net/route", "bridge\t"));
	CHECK(if_nametoindex("one") > 0 && !has_address("one", "10.9.0.1"));
}

static void a_bridge_and_its_ports_come_back(void **state)
{
	(void)state;
	goes_on(make_bridge, bridge_is_there, CLONE_NEWNET);
}

static void down(void)
{
}

static void nothing_is_up(void)
{
	CHECK(!has_address("lo", "127.0.0.1"));
}

static void a_loopback_that_is_down_stays_down(void **state)
{
	(void)state;
	goes_on(down, nothing_is_up, CLONE_NEWNET);
}

static void make_strange(void)
{
	/* a kernel has one or another */
	CHECK(try_link("strange", "ifb", NULL) || try_link("strange", "nlmon", NULL) ||
	      try_link("strange", "bond", NULL));
}

static void a_device_of_another_kind_is_refused(void **state)
{
	(void)state;
	world_refused(make_strange, "device strange", CLONE_NEWNET);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		WORLD(a_pair_its_addresses_and_routes_come_back),
		WORLD(a_bridge_and_its_ports_come_back),
		WORLD(a_loopback_that_is_down_stays_down),
		WORLD(a_device_of_another_kind_is_refused),
	};
	world_spaces = CLONE_NEWNET;
	return cmocka_run_group_tests(tests, worlds_setup, worlds_teardown);
}

int main(void)
{
	return worlds_main(run);
}
