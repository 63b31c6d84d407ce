/* Devices of a network namespace: made with their numbers, and left down. */
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vin/rtnl.h"

#define LINKS_MAX   4096
#define DATA_MAX    2048
#define ADDRESS_MAX 32
#define MESSAGE_MAX 8192

struct link {
	uint32_t index, mtu, queue, master, lower;
	bool outside; /* its other end is in another namespace */
	char name[IFNAMSIZ], kind[IFNAMSIZ];
	unsigned char address[ADDRESS_MAX];
	size_t address_len;
	_Alignas(NLA_ALIGNTO) unsigned char data[DATA_MAX]; /* what its kind has */
	size_t data_len;
	bool there;
};

struct links {
	struct link *list;
	size_t count;
};

static void forget(struct links *l)
{
	free(l->list);
}
#define scoped_links __attribute__((cleanup(forget))) struct links

static struct link *add(struct links *l)
{
	struct link *more = realloc(l->list, fvm_room(l->count + 1) * sizeof(*more));
	if (!more)
		return NULL;
	l->list = more;
	more[l->count] = (struct link){ 0 };
	return &more[l->count++];
}

static struct link *find(const struct links *l, uint32_t index)
{
	for (size_t i = 0; i < l->count; i++) {
		if (l->list[i].index == index)
			return &l->list[i];
	}
	return NULL;
}

/* ---- as the kernel tells it ---- */

static void copy_text(char ret[IFNAMSIZ], const struct nlattr *a)
{
	if (a)
		snprintf(ret, IFNAMSIZ, "%.*s", (int)mnl_attr_get_payload_len(a),
			 (const char *)mnl_attr_get_payload(a));
}

static uint32_t number_of(const struct nlmsghdr *m, uint16_t type)
{
	const struct nlattr *a = vin_rtnl_attr(m, sizeof(struct ifinfomsg), type);
	return a && mnl_attr_get_payload_len(a) >= 4 ? mnl_attr_get_u32(a) : 0;
}

static size_t copy_bytes(unsigned char *ret, size_t room, const struct nlattr *a)
{
	size_t len = a ? mnl_attr_get_payload_len(a) : 0;
	if (len == 0 || len > room)
		return 0;
	memcpy(ret, mnl_attr_get_payload(a), len);
	return len;
}

static void parse(const struct nlmsghdr *m, struct link *ret)
{
	const struct ifinfomsg *head = mnl_nlmsg_get_payload(m);
	const struct nlattr *info = vin_rtnl_attr(m, sizeof(*head), IFLA_LINKINFO), *a;
	ret->index = (uint32_t)head->ifi_index;
	ret->mtu = number_of(m, IFLA_MTU);
	ret->queue = number_of(m, IFLA_TXQLEN);
	ret->master = number_of(m, IFLA_MASTER);
	ret->lower = number_of(m, IFLA_LINK);
	ret->outside = vin_rtnl_attr(m, sizeof(*head), IFLA_LINK_NETNSID) != NULL;
	copy_text(ret->name, vin_rtnl_attr(m, sizeof(*head), IFLA_IFNAME));
	ret->address_len = copy_bytes(ret->address, ADDRESS_MAX,
				      vin_rtnl_attr(m, sizeof(*head), IFLA_ADDRESS));
	if (!info)
		return;
	mnl_attr_for_each_nested(a, info)
	{
		if (mnl_attr_get_type(a) == IFLA_INFO_KIND)
			copy_text(ret->kind, a);
		if (mnl_attr_get_type(a) == IFLA_INFO_DATA)
			ret->data_len = copy_bytes(ret->data, DATA_MAX, a);
	}
}

/* Some kinds have one device in each namespace, which nobody makes. */
static bool is_always_there(const struct link *l)
{
	static const char *const names[] = { "sit0",	"tunl0",   "ip6tnl0",  "gre0",	 "gretap0",
					     "erspan0", "ip_vti0", "ip6_vti0", "ip6gre0" };
	for (size_t i = 0; i < FVM_COUNT(names); i++) {
		if (strcmp(l->name, names[i]) == 0)
			return true;
	}
	return strcmp(l->name, "lo") == 0 && !l->kind[0];
}

static bool is_kind(const struct link *l, const char *kind)
{
	return strcmp(l->kind, kind) == 0;
}

static const struct nlattr *data_of(const struct link *l, uint16_t type)
{
	const struct nlattr *attr;
	mnl_attr_for_each_payload((const void *)l->data, l->data_len)
	{
		if (mnl_attr_get_type(attr) == type)
			return attr;
	}
	return NULL;
}

/* Whose ports have numbers of vlans, which are not asked for. */
static bool filters_vlans(const struct link *l)
{
	const struct nlattr *a = data_of(l, IFLA_BR_VLAN_FILTERING);
	return a && mnl_attr_get_payload_len(a) >= 1 && mnl_attr_get_u8(a);
}

static uint32_t data_number(const struct link *l, uint16_t type)
{
	const struct nlattr *a = data_of(l, type);
	const size_t len = a ? mnl_attr_get_payload_len(a) : 0;
	return len >= 4 ? mnl_attr_get_u32(a) : len >= 1 ? mnl_attr_get_u8(a) : 0;
}

static bool has_number(const struct link *l, uint16_t type)
{
	const struct nlattr *a = data_of(l, type);
	return a && mnl_attr_get_payload_len(a) >= 4;
}

bool vin_link_known(const struct nlmsghdr *m)
{
	struct link l = { 0 };
	parse(m, &l);
	if (is_kind(&l, "tun"))
		return !l.outside && data_number(&l, IFLA_TUN_TYPE);
	if (is_always_there(&l) || (is_kind(&l, "veth") && (l.outside || l.lower)))
		return true;
	if (is_kind(&l, "bridge"))
		return l.data_len > 0 && !filters_vlans(&l);
	return !l.outside && (is_kind(&l, "dummy") || is_kind(&l, "vlan"));
}

static int take_link(void *arg, const struct nlmsghdr *m, struct fvm_error *err)
{
	struct link *l = m->nlmsg_type == RTM_NEWLINK ? add(arg) : NULL;
	if (m->nlmsg_type != RTM_NEWLINK)
		return 0;
	if (!l)
		return fvm_error_set(err, ENOMEM, "list network devices");
	parse(m, l);
	return 0;
}

static int list_links(struct links *ret, struct fvm_error *err)
{
	const struct ifinfomsg head = { 0 };
	scoped_fd sock = vin_rtnl_open(NETLINK_ROUTE);
	int r = sock < 0 ? sock
			 : vin_rtnl_dump(sock, RTM_GETLINK, &head, sizeof(head), take_link, ret,
					 err);
	return r < 0 && !err->code ? fvm_error_set(err, -r, "list network devices") : r;
}

static int capture(void *arg, struct fvm_buf *to, struct fvm_error *err)
{
	scoped_links all = { 0 };
	(void)arg;
	int r = list_links(&all, err);
	for (size_t i = 0; r == 0 && i < all.count; i++) {
		const struct link *l = &all.list[i];
		vin_put_string(to, l->name);
		vin_put_string(to, l->kind);
		vin_put_u64(to, l->index);
		vin_put_u64(to, l->mtu);
		vin_put_u64(to, l->queue);
		vin_put_u64(to, l->master);
		vin_put_u64(to, l->lower);
		vin_put_u64(to, l->outside);
		vin_put_blob(to, l->address, l->address_len);
		vin_put_blob(to, l->data, l->data_len);
	}
	return r;
}

/* ---- replay ---- */

static void get_text(struct vin_payload *p, char ret[IFNAMSIZ])
{
	scoped_free char *text = vin_get_string(p);
	if (!text || strlen(text) >= IFNAMSIZ)
		p->failed = true;
	else
		snprintf(ret, IFNAMSIZ, "%s", text);
}

static uint32_t get_number(struct vin_payload *p)
{
	uint64_t n = vin_get_u64(p);
	if (n > UINT32_MAX)
		p->failed = true;
	return (uint32_t)n;
}

static size_t get_bytes(struct vin_payload *p, unsigned char *ret, size_t room)
{
	size_t len = 0;
	const void *data = vin_get_blob(p, &len);
	if (!data || len > room) {
		p->failed = true;
		return 0;
	}
	memcpy(ret, data, len);
	return len;
}

static int take(struct vin_payload *p, struct links *ret)
{
	while (!p->failed && p->at < p->end) {
		struct link *l = ret->count < LINKS_MAX ? add(ret) : NULL;
		if (!l)
			return -ENOMEM;
		get_text(p, l->name);
		get_text(p, l->kind);
		l->index = get_number(p);
		l->mtu = get_number(p);
		l->queue = get_number(p);
		l->master = get_number(p);
		l->lower = get_number(p);
		l->outside = get_number(p) != 0;
		l->address_len = get_bytes(p, l->address, ADDRESS_MAX);
		l->data_len = get_bytes(p, l->data, DATA_MAX);
	}
	return vin_get_done(p);
}

static struct nlmsghdr *begin(char *buf, uint16_t type, uint32_t index)
{
	struct nlmsghdr *m = mnl_nlmsg_put_header(buf);
	m->nlmsg_type = type;
	struct ifinfomsg *head = mnl_nlmsg_put_extra_header(m, sizeof(*head));
	head->ifi_index = (int)index;
	return m;
}

static void put_common(struct nlmsghdr *m, const struct link *l)
{
	mnl_attr_put_strz(m, IFLA_IFNAME, l->name);
	mnl_attr_put_u32(m, IFLA_MTU, l->mtu);
	mnl_attr_put_u32(m, IFLA_TXQLEN, l->queue);
	if (l->address_len)
		mnl_attr_put(m, IFLA_ADDRESS, l->address_len, l->address);
}

/* What can be set of a bridge; it tells much besides. */
static void put_bridge(struct nlmsghdr *m, const struct link *l)
{
	const struct nlattr *attr;
	mnl_attr_for_each_payload((const void *)l->data, l->data_len)
	{
		const uint16_t type = mnl_attr_get_type(attr);
		if ((type >= IFLA_BR_FORWARD_DELAY && type <= IFLA_BR_PRIORITY) ||
		    type == IFLA_BR_GROUP_FWD_MASK || type == IFLA_BR_MCAST_SNOOPING ||
		    type == IFLA_BR_MCAST_QUERIER || type == IFLA_BR_NF_CALL_IPTABLES ||
		    type == IFLA_BR_NF_CALL_IP6TABLES || type == IFLA_BR_NF_CALL_ARPTABLES)
			mnl_attr_put(m, type, mnl_attr_get_payload_len(attr),
				     mnl_attr_get_payload(attr));
	}
}

static void put_peer(struct nlmsghdr *m, const struct link *peer)
{
	struct nlattr *nest = mnl_attr_nest_start(m, VETH_INFO_PEER);
	struct ifinfomsg *head = mnl_nlmsg_put_extra_header(m, sizeof(*head));
	head->ifi_index = (int)peer->index;
	put_common(m, peer);
	mnl_attr_nest_end(m, nest);
}

static int create(int sock, struct links *all, struct link *l)
{
	char buf[MESSAGE_MAX] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct link *peer = is_kind(l, "veth") ? find(all, l->lower) : NULL;
	struct nlmsghdr *m = begin(buf, RTM_NEWLINK, l->index);
	put_common(m, l);
	if (is_kind(l, "vlan"))
		mnl_attr_put_u32(m, IFLA_LINK, l->lower);
	struct nlattr *info = mnl_attr_nest_start(m, IFLA_LINKINFO);
	mnl_attr_put_strz(m, IFLA_INFO_KIND, l->kind);
	struct nlattr *data = mnl_attr_nest_start(m, IFLA_INFO_DATA);
	if (peer) {
		put_peer(m, peer);
	} else if (is_kind(l, "bridge")) {
		put_bridge(m, l);
	} else if (is_kind(l, "vlan")) {
		memcpy(mnl_nlmsg_get_payload_tail(m), l->data, l->data_len);
		m->nlmsg_len += MNL_ALIGN((uint32_t)l->data_len);
	}
	mnl_attr_nest_end(m, data);
	mnl_attr_nest_end(m, info);
	int r = vin_rtnl_send(sock, m, NLM_F_CREATE | NLM_F_EXCL);
	l->there = r == 0;
	if (peer)
		peer->there = l->there;
	return r;
}

/* As TUNSETIFF takes them. */
static int tun_flags(const struct link *l)
{
	int flags = (int)data_number(l, IFLA_TUN_TYPE); /* IFF_TUN or IFF_TAP */
	flags |= data_number(l, IFLA_TUN_PI) ? 0 : IFF_NO_PI;
	flags |= data_number(l, IFLA_TUN_VNET_HDR) ? IFF_VNET_HDR : 0;
	return flags | (data_number(l, IFLA_TUN_MULTI_QUEUE) ? IFF_MULTI_QUEUE : 0);
}

int vin_link_tun_flags(const char *name)
{
	scoped_links all = { 0 };
	struct fvm_error none = { 0 };
	int r = list_links(&all, &none);
	for (size_t i = 0; r == 0 && i < all.count; i++) {
		if (is_kind(&all.list[i], "tun") && strcmp(all.list[i].name, name) == 0)
			return tun_flags(&all.list[i]);
	}
	return r < 0 ? r : -ENODEV;
}

/* As a program would; who has a queue of it takes it again, and may let it go with that (tun.c).
 * Until then it stays. */
static int create_tun(int sock, struct link *l)
{
	char buf[MESSAGE_MAX] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct ifreq want = { 0 };
	const int index = (int)l->index;
	scoped_fd fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	memcpy(want.ifr_name, l->name, sizeof(want.ifr_name));
	want.ifr_flags = (short)tun_flags(l);
	if (ioctl(fd, TUNSETIFINDEX, &index) < 0 || ioctl(fd, TUNSETIFF, &want) < 0 ||
	    (has_number(l, IFLA_TUN_OWNER) &&
	     ioctl(fd, TUNSETOWNER, data_number(l, IFLA_TUN_OWNER)) < 0) ||
	    (has_number(l, IFLA_TUN_GROUP) &&
	     ioctl(fd, TUNSETGROUP, data_number(l, IFLA_TUN_GROUP)) < 0) ||
	    ioctl(fd, TUNSETPERSIST, 1) < 0)
		return -errno;
	struct nlmsghdr *m = begin(buf, RTM_NEWLINK, l->index);
	put_common(m, l);
	int r = vin_rtnl_send(sock, m, 0);
	l->there = r == 0;
	return r;
}

static bool can_be_made(const struct links *all, const struct link *l)
{
	const struct link *lower = l->lower ? find(all, l->lower) : NULL;
	if (is_kind(l, "veth"))
		return lower && is_kind(lower, "veth") && lower != l && !lower->there;
	if (is_kind(l, "vlan"))
		return lower && lower->there;
	return is_kind(l, "dummy") || is_kind(l, "bridge") || is_kind(l, "tun");
}

static int create_all(int sock, struct links *all, struct fvm_error *err)
{
	bool more = true;
	while (more) {
		more = false;
		for (size_t i = 0; i < all->count; i++) {
			struct link *l = &all->list[i];
			int r = l->there || !can_be_made(all, l) ? 1
				: is_kind(l, "tun")		 ? create_tun(sock, l)
								 : create(sock, all, l);
			if (r < 0)
				return fvm_error_set(err, -r, "make network device %s", l->name);
			more |= r == 0;
		}
	}
	for (size_t i = 0; i < all->count; i++) {
		if (!all->list[i].there && !is_always_there(&all->list[i]))
			return fvm_error_say(err, EOPNOTSUPP, "network device %s can't be made",
					     all->list[i].name);
	}
	return 0;
}

/* Of those that were there, and to which bridge each belongs. */
static int settle(int sock, const struct links *all, const struct link *now, const struct link *l)
{
	char buf[MESSAGE_MAX] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct nlmsghdr *m = begin(buf, RTM_NEWLINK, l->index);
	const uint32_t before = m->nlmsg_len;
	if (now && now->mtu != l->mtu)
		mnl_attr_put_u32(m, IFLA_MTU, l->mtu);
	if (now && now->queue != l->queue)
		mnl_attr_put_u32(m, IFLA_TXQLEN, l->queue);
	if (l->master && find(all, l->master))
		mnl_attr_put_u32(m, IFLA_MASTER, l->master);
	return m->nlmsg_len == before ? 0 : vin_rtnl_send(sock, m, 0);
}

/* The new world's own way out has the old one's number; if programs had taken theirs away, it goes.
 */
static int meet(int sock, const struct links *now, struct links *all, struct fvm_error *err)
{
	char buf[MESSAGE_MAX] __attribute__((aligned(NLMSG_ALIGNTO)));
	for (size_t i = 0; i < now->count; i++) {
		const struct link *n = &now->list[i];
		struct link *l = find(all, n->index);
		if (l && strcmp(l->name, n->name) == 0 && l->outside == n->outside) {
			l->there = true;
			continue;
		}
		int r = n->outside ? vin_rtnl_send(sock, begin(buf, RTM_DELLINK, n->index), 0) : 0;
		if (r < 0)
			return fvm_error_set(err, -r, "take network device %s away", n->name);
	}
	return 0;
}

static int make(struct vin_payload *p, struct vin_moved *moved, struct fvm_error *err)
{
	(void)moved;
	scoped_links all = { 0 }, now = { 0 };
	struct fvm_error mine = { 0 };
	int r = take(p, &all);
	scoped_fd sock = r < 0 ? -1 : vin_rtnl_open(NETLINK_ROUTE);
	if (r == 0 && sock < 0)
		r = fvm_error_set(&mine, -sock, "open netlink");
	if (r == 0)
		r = list_links(&now, &mine);
	if (r == 0)
		r = meet(sock, &now, &all, &mine);
	if (r == 0)
		r = create_all(sock, &all, &mine);
	for (size_t i = 0; r == 0 && i < all.count; i++) {
		const struct link *l = &all.list[i];
		r = l->there ? settle(sock, &all, find(&now, l->index), l) : 0;
		if (r < 0)
			fvm_error_set(&mine, -r, "set up network device %s", l->name);
	}
	if (err && mine.code)
		*err = mine;
	return r;
}

const struct vin_space_kind vin_space_links = {
	.space = CLONE_NEWNET, .check = vin_net_check, .capture = capture, .make = make
};
