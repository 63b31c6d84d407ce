#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fvm/netlink.h"

#define ANSWER_BYTES 32768 /* as much as the kernel puts into one part of a dump */

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif

void fvm_nl_batch_free(struct fvm_nl_batch *b)
{
	free(b->buf);
	b->buf = NULL;
}

int fvm_nl_open(int protocol)
{
	scoped_fd sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
	if (sock < 0)
		return -errno;
	const struct sockaddr_nl us = { .nl_family = AF_NETLINK };
	if (bind(sock, (const struct sockaddr *)&us, sizeof(us)) < 0)
		return -errno;
	/* an error comes back with the header only of what caused it */
	const int on = 1;
	(void)setsockopt(sock, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
	return fvm_fd_take(&sock);
}

static bool batch_room(struct fvm_nl_batch *b)
{
	if (b->cap - b->len >= NL_ROOM)
		return true;
	size_t cap = b->cap ? b->cap * 2 : 4UL * NL_ROOM;
	char *buf = realloc(b->buf, cap);
	if (!buf) {
		b->failed = true;
		return false;
	}
	b->buf = buf;
	b->cap = cap;
	return true;
}

void *fvm_nl_begin(struct fvm_nl_batch *b, uint16_t type, uint16_t flags, size_t extra_bytes)
{
	char *at = !b->failed && batch_room(b) ? b->buf + b->len : b->scrap;
	b->last = mnl_nlmsg_put_header(at);
	b->last->nlmsg_type = type;
	b->last->nlmsg_flags = NLM_F_REQUEST | flags;
	b->last->nlmsg_seq = ++b->count;
	return mnl_nlmsg_put_extra_header(b->last, extra_bytes);
}

void fvm_nl_end(struct fvm_nl_batch *b)
{
	if (!b->failed)
		b->len += MNL_ALIGN(b->last->nlmsg_len);
}

static int batch_send(int sock, const struct fvm_nl_batch *b)
{
	if (b->failed)
		return -ENOMEM;
	/* the kernel takes a batch whole, and counts it against the send buffer */
	int size = (int)b->len * 2;
	if (b->len > 64UL * 1024 &&
	    setsockopt(sock, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
		(void)setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	ssize_t n =
		sendto(sock, b->buf, b->len, 0, (const struct sockaddr *)&kernel, sizeof(kernel));
	if (n < 0)
		return -errno;
	return (size_t)n == b->len ? 0 : -EMSGSIZE;
}

struct answers {
	uint32_t last, failed;
	int error;
	bool acknowledged;
};

static void answers_take(struct answers *a, const struct nlmsghdr *nlh, ssize_t len)
{
	for (int left = (int)len; mnl_nlmsg_ok(nlh, left); nlh = mnl_nlmsg_next(nlh, &left)) {
		const struct nlmsgerr *e = mnl_nlmsg_get_payload(nlh);
		if (nlh->nlmsg_type != NLMSG_ERROR || mnl_nlmsg_get_payload_len(nlh) < sizeof(*e))
			continue;
		if (e->error < 0 && a->error == 0) {
			a->error = e->error;
			a->failed = nlh->nlmsg_seq - 1;
		}
		if (e->error == 0 && nlh->nlmsg_seq == a->last)
			a->acknowledged = true;
	}
}

/* libmnl takes a length beyond 2 GiB for a negative one, which fits everywhere. */
static bool are_whole(const char *at, size_t left)
{
	while (left > 0) {
		struct nlmsghdr head;
		if (left < sizeof(head))
			return false;
		memcpy(&head, at, sizeof(head));
		if (head.nlmsg_len < sizeof(head) || head.nlmsg_len > left)
			return false;
		size_t step = MNL_ALIGN(head.nlmsg_len);
		step = step < left ? step : left;
		at += step;
		left -= step;
	}
	return true;
}

/* As recv(2), of what the kernel has sent: who has rights over a network may send as well. */
static ssize_t receive(int sock, void *buf, size_t size, int flags)
{
	struct sockaddr_nl from = { .nl_pid = ~0U };
	for (;;) {
		socklen_t len = sizeof(from);
		ssize_t n = recvfrom(sock, buf, size, flags, (struct sockaddr *)&from, &len);
		if (n < 0)
			return n;
		if (len != sizeof(from) || from.nl_pid != 0)
			continue;
		if (are_whole(buf, (size_t)n))
			return n;
		errno = EBADMSG;
		return -1;
	}
}

int fvm_nl_run(int sock, struct fvm_nl_batch *b, uint32_t *ret_failed)
{
	char buf[8192] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct answers a = { .last = b->last->nlmsg_seq };
	b->last->nlmsg_flags |= NLM_F_ACK;
	int r = batch_send(sock, b);
	if (r < 0)
		return r;
	for (;;) {
		ssize_t n = receive(sock, buf, sizeof(buf), MSG_DONTWAIT);
		/* ENOBUFS: there were more errors than could be kept; the first are there */
		if (n < 0 && (errno == EINTR || errno == ENOBUFS))
			continue;
		if (n <= 0)
			break;
		answers_take(&a, (const struct nlmsghdr *)buf, n);
	}
	if (ret_failed)
		*ret_failed = a.failed;
	if (a.error < 0)
		return a.error;
	return a.acknowledged ? 0 : -EPROTO;
}

int fvm_nl_ask(int sock, struct fvm_nl_batch *b, mnl_cb_t each, void *arg)
{
	scoped_free char *buf = malloc(ANSWER_BYTES);
	const uint32_t seq = b->last->nlmsg_seq;
	const bool dump = b->last->nlmsg_flags & NLM_F_DUMP;
	int r = buf ? batch_send(sock, b) : -ENOMEM;
	while (r == 0) {
		ssize_t n = receive(sock, buf, ANSWER_BYTES, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		int more = mnl_cb_run(buf, (size_t)n, seq, 0, each, arg);
		if (more < 0)
			return -errno;
		if (more == 0 || !dump)
			break;
	}
	return r;
}

/* ---- rtnetlink ---- */

static void put_address(struct fvm_nl_batch *b, uint16_t type, const struct fvm_address *a)
{
	mnl_attr_put(b->last, type, fvm_address_len(a), a->bytes);
}

void fvm_nl_veth(struct fvm_nl_batch *b, const struct fvm_veth *veth)
{
	struct ifinfomsg *here =
		fvm_nl_begin(b, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof(*here));
	here->ifi_index = (int)veth->index;
	struct nlmsghdr *nlh = b->last;
	mnl_attr_put_strz(nlh, IFLA_IFNAME, veth->name);
	mnl_attr_put(nlh, IFLA_ADDRESS, 6, veth->mac);
	mnl_attr_put_u32(nlh, IFLA_NUM_TX_QUEUES, 1);
	mnl_attr_put_u32(nlh, IFLA_NUM_RX_QUEUES, 1);
	struct nlattr *info = mnl_attr_nest_start(nlh, IFLA_LINKINFO);
	mnl_attr_put_strz(nlh, IFLA_INFO_KIND, "veth");
	struct nlattr *data = mnl_attr_nest_start(nlh, IFLA_INFO_DATA);
	struct nlattr *peer = mnl_attr_nest_start(nlh, VETH_INFO_PEER);
	struct ifinfomsg *there = mnl_nlmsg_put_extra_header(nlh, sizeof(*there));
	there->ifi_index = (int)veth->peer_index;
	mnl_attr_put_strz(nlh, IFLA_IFNAME, veth->peer);
	mnl_attr_put(nlh, IFLA_ADDRESS, 6, veth->peer_mac);
	mnl_attr_put_u32(nlh, IFLA_NUM_TX_QUEUES, 1);
	mnl_attr_put_u32(nlh, IFLA_NUM_RX_QUEUES, 1);
	if (veth->netns >= 0)
		mnl_attr_put_u32(nlh, IFLA_NET_NS_FD, (uint32_t)veth->netns);
	else
		mnl_attr_put_u32(nlh, IFLA_NET_NS_PID, (uint32_t)veth->pid);
	mnl_attr_nest_end(nlh, peer);
	mnl_attr_nest_end(nlh, data);
	mnl_attr_nest_end(nlh, info);
	fvm_nl_end(b);
}

void fvm_nl_link_quiet6(struct fvm_nl_batch *b, unsigned int index)
{
	struct ifinfomsg *link = fvm_nl_begin(b, RTM_NEWLINK, 0, sizeof(*link));
	link->ifi_index = (int)index;
	struct nlattr *spec = mnl_attr_nest_start(b->last, IFLA_AF_SPEC);
	struct nlattr *inet6 = mnl_attr_nest_start(b->last, AF_INET6);
	mnl_attr_put_u8(b->last, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
	mnl_attr_nest_end(b->last, inet6);
	mnl_attr_nest_end(b->last, spec);
	fvm_nl_end(b);
}

void fvm_nl_link_up(struct fvm_nl_batch *b, unsigned int index)
{
	struct ifinfomsg *link = fvm_nl_begin(b, RTM_NEWLINK, 0, sizeof(*link));
	link->ifi_index = (int)index;
	link->ifi_flags = link->ifi_change = IFF_UP;
	fvm_nl_end(b);
}

void fvm_nl_link_delete(struct fvm_nl_batch *b, const char *name)
{
	fvm_nl_begin(b, RTM_DELLINK, 0, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(b->last, IFLA_IFNAME, name);
	fvm_nl_end(b);
}

static struct rtmsg *route_begin(struct fvm_nl_batch *b, unsigned int index, uint8_t family)
{
	struct rtmsg *m = fvm_nl_begin(b, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, sizeof(*m));
	m->rtm_family = family;
	m->rtm_table = RT_TABLE_MAIN;
	m->rtm_protocol = RTPROT_STATIC;
	m->rtm_type = RTN_UNICAST;
	mnl_attr_put_u32(b->last, RTA_OIF, index);
	return m;
}

static void route_local(struct fvm_nl_batch *b, unsigned int index, const struct fvm_address *a)
{
	struct rtmsg *m = route_begin(b, index, a->family);
	m->rtm_dst_len = (uint8_t)(fvm_address_len(a) * 8);
	m->rtm_table = RT_TABLE_LOCAL;
	m->rtm_type = RTN_LOCAL;
	m->rtm_scope = RT_SCOPE_HOST;
	put_address(b, RTA_DST, a);
	fvm_nl_end(b);
}

void fvm_nl_addr(struct fvm_nl_batch *b, unsigned int index, const struct fvm_address *a,
		 uint8_t scope)
{
	struct ifaddrmsg *m =
		fvm_nl_begin(b, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, sizeof(*m));
	m->ifa_family = a->family;
	m->ifa_prefixlen = (uint8_t)(fvm_address_len(a) * 8);
	m->ifa_scope = scope;
	m->ifa_index = index;
	if (a->family == AF_INET6)
		m->ifa_flags = IFA_F_NODAD;
	else
		put_address(b, IFA_LOCAL, a);
	put_address(b, IFA_ADDRESS, a);
	fvm_nl_end(b);
	/* the kernel leaves this to a worker that waits for rtnl; answers are lost until then */
	if (a->family == AF_INET6)
		route_local(b, index, a);
}

void fvm_nl_route_host(struct fvm_nl_batch *b, unsigned int index, const struct fvm_address *to,
		       const struct fvm_address *from)
{
	struct rtmsg *m = route_begin(b, index, to->family);
	m->rtm_dst_len = (uint8_t)(fvm_address_len(to) * 8);
	m->rtm_scope = RT_SCOPE_LINK;
	put_address(b, RTA_DST, to);
	if (from)
		put_address(b, RTA_PREFSRC, from);
	fvm_nl_end(b);
}

void fvm_nl_route_default(struct fvm_nl_batch *b, unsigned int index, const struct fvm_address *via)
{
	struct rtmsg *m = route_begin(b, index, via->family);
	m->rtm_scope = RT_SCOPE_UNIVERSE;
	m->rtm_flags = RTNH_F_ONLINK;
	put_address(b, RTA_GATEWAY, via);
	fvm_nl_end(b);
}

void fvm_nl_neighbour(struct fvm_nl_batch *b, unsigned int index, const struct fvm_address *who,
		      const uint8_t mac[6])
{
	struct ndmsg *m = fvm_nl_begin(b, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, sizeof(*m));
	m->ndm_family = who->family;
	m->ndm_ifindex = (int)index;
	m->ndm_state = NUD_PERMANENT;
	put_address(b, NDA_DST, who);
	mnl_attr_put(b->last, NDA_LLADDR, 6, mac);
	fvm_nl_end(b);
}

int fvm_nl_index(const char *name)
{
	struct ifreq req = { 0 };
	scoped_fd sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return -errno;
	if (strlen(name) >= sizeof(req.ifr_name))
		return -ENODEV;
	strcpy(req.ifr_name, name);
	return ioctl(sock, SIOCGIFINDEX, &req) < 0 ? -errno : req.ifr_ifindex;
}

/* ---- addresses ---- */

int fvm_address_parse(const char *text, struct fvm_address *ret)
{
	struct fvm_address a = { .family = AF_INET };
	if (inet_pton(AF_INET, text, a.bytes) != 1) {
		a.family = AF_INET6;
		if (inet_pton(AF_INET6, text, a.bytes) != 1)
			return -EINVAL;
	}
	*ret = a;
	return 0;
}

void fvm_address_print(const struct fvm_address *a, char *ret, size_t size)
{
	if (!inet_ntop(a->family, a->bytes, ret, (socklen_t)size))
		ret[0] = '\0';
}
