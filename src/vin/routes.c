/*
 * Who is up, addresses, neighbours, routes and rules of a network namespace
 *
 * A message is kept with its header and those attributes that can be said back, in their order.
 * Two are of the same thing when the attributes that name it are the same. In the new world what
 * is not there is made, and what is there besides is taken away; so what programs took away is not
 * there again. Addresses that the world's own device has first (one of each family), and the
 * gateways of these, are other ones there: each becomes the one that is in its place.
 */
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "vin/rtnl.h"

#define MESSAGES_MAX 100000
#define ROUNDS	     4 /* of what needs others to be there */
#define FLAGS	     (IFF_UP | IFF_NOARP | IFF_MULTICAST | IFF_ALLMULTI | IFF_PROMISC)
#define BIT(n)	     (1ULL << (n))

/* Of all the values below, those are in images that stand in messages: the kernel's. */
enum sort { LINK, ADDRESS, NEIGHBOUR, ROUTE, RULE, SORTS };

static const struct {
	const char *name;
	uint16_t get, new, del;
	size_t head;
	uint64_t said, named; /* attributes */
	uint64_t places;      /* that are addresses */
} sorts[SORTS] = {
	[LINK] = { "a device", RTM_GETLINK, RTM_NEWLINK, 0, sizeof(struct ifinfomsg), 0, 0, 0 },
	[ADDRESS] = { "an address", RTM_GETADDR, RTM_NEWADDR, RTM_DELADDR, sizeof(struct ifaddrmsg),
		      BIT(IFA_ADDRESS) | BIT(IFA_LOCAL) | BIT(IFA_LABEL) | BIT(IFA_BROADCAST) |
			      BIT(IFA_ANYCAST) | BIT(IFA_CACHEINFO) | BIT(IFA_FLAGS) |
			      BIT(IFA_RT_PRIORITY),
		      BIT(IFA_ADDRESS) | BIT(IFA_LOCAL),
		      BIT(IFA_ADDRESS) | BIT(IFA_LOCAL) | BIT(IFA_BROADCAST) },
	[NEIGHBOUR] = { "a neighbour", RTM_GETNEIGH, RTM_NEWNEIGH, RTM_DELNEIGH,
			sizeof(struct ndmsg), BIT(NDA_DST) | BIT(NDA_LLADDR),
			BIT(NDA_DST) | BIT(NDA_LLADDR), BIT(NDA_DST) },
	[ROUTE] = { "a route", RTM_GETROUTE, RTM_NEWROUTE, RTM_DELROUTE, sizeof(struct rtmsg),
		    BIT(RTA_DST) | BIT(RTA_SRC) | BIT(RTA_IIF) | BIT(RTA_OIF) | BIT(RTA_GATEWAY) |
			    BIT(RTA_PRIORITY) | BIT(RTA_PREFSRC) | BIT(RTA_METRICS) |
			    BIT(RTA_MULTIPATH) | BIT(RTA_FLOW) | BIT(RTA_TABLE) | BIT(RTA_VIA) |
			    BIT(RTA_PREF) | BIT(RTA_ENCAP_TYPE) | BIT(RTA_ENCAP),
		    BIT(RTA_DST) | BIT(RTA_SRC) | BIT(RTA_OIF) | BIT(RTA_GATEWAY) |
			    BIT(RTA_PRIORITY) | BIT(RTA_TABLE) | BIT(RTA_VIA) | BIT(RTA_PREFSRC) |
			    BIT(RTA_METRICS) | BIT(RTA_MULTIPATH),
		    BIT(RTA_DST) | BIT(RTA_GATEWAY) | BIT(RTA_PREFSRC) },
	[RULE] = { "a rule", RTM_GETRULE, RTM_NEWRULE, RTM_DELRULE, sizeof(struct fib_rule_hdr),
		   ~BIT(FRA_PAD), ~(BIT(FRA_PAD) | BIT(FRA_PROTOCOL)),
		   BIT(FRA_SRC) | BIT(FRA_DST) },
};

struct list {
	struct nlmsghdr **messages;
	size_t count;
};

static void forget(struct list *l)
{
	for (size_t i = 0; i < l->count; i++)
		free(l->messages[i]);
	free(l->messages);
	*l = (struct list){ 0 };
}

/* All of a namespace. */
struct state {
	struct list of[SORTS];
};

static void state_forget(struct state *s)
{
	for (size_t i = 0; i < SORTS; i++)
		forget(&s->of[i]);
}
#define scoped_state __attribute__((cleanup(state_forget))) struct state

static int keep(struct list *l, struct nlmsghdr *m)
{
	struct nlmsghdr **more = reallocarray(l->messages, fvm_room(l->count + 1), sizeof(void *));
	if (!more) {
		free(m);
		return -ENOMEM;
	}
	l->messages = more;
	more[l->count++] = m;
	return 0;
}

/* ---- one message ---- */

/* What the kernel makes by itself, and what goes by itself. */
static bool is_passing(enum sort sort, const struct nlmsghdr *m)
{
	const struct rtmsg *route = mnl_nlmsg_get_payload(m);
	const struct ndmsg *neighbour = mnl_nlmsg_get_payload(m);
	if (sort == NEIGHBOUR)
		return !(neighbour->ndm_state & NUD_PERMANENT) ||
		       neighbour->ndm_family == AF_BRIDGE;
	if (sort != ROUTE)
		return false;
	return (route->rtm_flags & RTM_F_CLONED) || route->rtm_protocol == RTPROT_RA ||
	       route->rtm_protocol == RTPROT_REDIRECT ||
	       (route->rtm_protocol == RTPROT_KERNEL && route->rtm_table == RT_TABLE_LOCAL);
}

static void plain_head(enum sort sort, struct nlmsghdr *m)
{
	void *head = mnl_nlmsg_get_payload(m);
	if (sort == LINK) {
		((struct ifinfomsg *)head)->ifi_flags &= FLAGS;
		((struct ifinfomsg *)head)->ifi_change = FLAGS;
	} else if (sort == ADDRESS) {
		((struct ifaddrmsg *)head)->ifa_flags = 0;
	} else if (sort == ROUTE) {
		((struct rtmsg *)head)->rtm_flags &= RTNH_F_ONLINK;
	} else if (sort == RULE) {
		((struct fib_rule_hdr *)head)->flags &= FIB_RULE_INVERT;
	}
}

/* An address is ready at once, as it was. */
static void plain_flags(struct nlattr *a)
{
	uint32_t flags;
	memcpy(&flags, mnl_attr_get_payload(a), sizeof(flags));
	flags &= IFA_F_NODAD | IFA_F_HOMEADDRESS | IFA_F_MANAGETEMPADDR | IFA_F_NOPREFIXROUTE |
		 IFA_F_MCAUTOJOIN;
	flags |= IFA_F_NODAD;
	memcpy(mnl_attr_get_payload(a), &flags, sizeof(flags));
}

/* @m as it can be said back. NULL: no memory */
static struct nlmsghdr *plain(enum sort sort, const struct nlmsghdr *m)
{
	const size_t head = sorts[sort].head;
	struct nlmsghdr *ret = calloc(1, m->nlmsg_len + 64UL);
	if (!ret)
		return NULL;
	(void)mnl_nlmsg_put_header(ret);
	ret->nlmsg_type = sorts[sort].new;
	memcpy(mnl_nlmsg_put_extra_header(ret, head), mnl_nlmsg_get_payload(m), head);
	plain_head(sort, ret);
	for (uint16_t type = 1; type < 64; type++) {
		const struct nlattr *a =
			sorts[sort].said & BIT(type) ? vin_rtnl_attr(m, head, type) : NULL;
		struct nlattr *copy = mnl_nlmsg_get_payload_tail(ret);
		if (!a)
			continue;
		mnl_attr_put(ret, a->nla_type, mnl_attr_get_payload_len(a),
			     mnl_attr_get_payload(a));
		if (sort == ADDRESS && type == IFA_FLAGS && mnl_attr_get_payload_len(a) == 4)
			plain_flags(copy);
	}
	return ret;
}

static bool same_attr(const struct nlattr *a, const struct nlattr *b)
{
	if (!a || !b)
		return !a && !b;
	return mnl_attr_get_payload_len(a) == mnl_attr_get_payload_len(b) &&
	       memcmp(mnl_attr_get_payload(a), mnl_attr_get_payload(b),
		      mnl_attr_get_payload_len(a)) == 0;
}

static bool same(enum sort sort, const struct nlmsghdr *a, const struct nlmsghdr *b)
{
	const size_t head = sorts[sort].head;
	if (memcmp(mnl_nlmsg_get_payload(a), mnl_nlmsg_get_payload(b), head) != 0)
		return false;
	for (uint16_t type = 1; type < 64; type++) {
		if ((sorts[sort].named & BIT(type)) &&
		    !same_attr(vin_rtnl_attr(a, head, type), vin_rtnl_attr(b, head, type)))
			return false;
	}
	return true;
}

static bool has(enum sort sort, const struct list *l, const struct nlmsghdr *m)
{
	for (size_t i = 0; i < l->count; i++) {
		if (same(sort, l->messages[i], m))
			return true;
	}
	return false;
}

/* ---- all of a namespace ---- */

struct listing {
	enum sort sort;
	struct list *to;
	uint32_t outside; /* number of the world's own device; 0: none */
};

static int take_message(void *arg, const struct nlmsghdr *m, struct fvm_error *err)
{
	struct listing *l = arg;
	const struct ndmsg *neighbour = mnl_nlmsg_get_payload(m);
	if (m->nlmsg_type != sorts[l->sort].new || is_passing(l->sort, m))
		return 0;
	if (l->sort == LINK && vin_rtnl_attr(m, sorts[LINK].head, IFLA_LINK_NETNSID))
		l->outside =
			(uint32_t)((const struct ifinfomsg *)mnl_nlmsg_get_payload(m))->ifi_index;
	/* whom it leads to is the world's own */
	if (l->sort == NEIGHBOUR && (uint32_t)neighbour->ndm_ifindex == l->outside)
		return 0;
	struct nlmsghdr *its = plain(l->sort, m);
	if (!its || keep(l->to, its) < 0)
		return fvm_error_set(err, ENOMEM, "list a network");
	return 0;
}

static int list_all(struct state *ret, uint32_t *ret_outside, struct fvm_error *err)
{
	static const uint8_t families[] = { AF_INET, AF_INET6 };
	scoped_fd sock = vin_rtnl_open(NETLINK_ROUTE);
	struct listing l = { 0 };
	int r = sock < 0 ? sock : 0;
	for (enum sort s = 0; r == 0 && s < SORTS; s++) {
		l.sort = s;
		l.to = &ret->of[s];
		for (size_t i = 0; r == 0 && i < (s == LINK ? 1 : FVM_COUNT(families)); i++) {
			/* the family comes first in all of them */
			const unsigned char head[64] = { s == LINK ? AF_UNSPEC : families[i] };
			r = vin_rtnl_dump(sock, sorts[s].get, head, sorts[s].head, take_message, &l,
					  err);
			if (r == -EAFNOSUPPORT || r == -EOPNOTSUPP)
				r = 0;
		}
	}
	*ret_outside = l.outside;
	return r < 0 && !err->code ? fvm_error_set(err, -r, "list a network") : r;
}

/* ---- the world's own addresses ---- */

/* Of each family: address and gateway; len 0: none. */
struct own {
	struct {
		size_t len;
		unsigned char bytes[16];
	} address[2], gateway[2];
};

static void copy_place(const struct nlmsghdr *m, size_t head, uint16_t type, size_t *ret_len,
		       unsigned char ret[16])
{
	const struct nlattr *a = vin_rtnl_attr(m, head, type);
	size_t len = a ? mnl_attr_get_payload_len(a) : 0;
	if (*ret_len || (len != 4 && len != 16))
		return;
	*ret_len = len;
	memcpy(ret, mnl_attr_get_payload(a), len);
}

static void find_own(const struct state *s, uint32_t outside, struct own *ret)
{
	*ret = (struct own){ 0 };
	for (size_t i = 0; outside && i < s->of[ADDRESS].count; i++) {
		const struct nlmsghdr *m = s->of[ADDRESS].messages[i];
		const struct ifaddrmsg *head = mnl_nlmsg_get_payload(m);
		const int six = head->ifa_family == AF_INET6;
		if (head->ifa_index == outside && head->ifa_scope == RT_SCOPE_UNIVERSE)
			copy_place(m, sizeof(*head), IFA_ADDRESS, &ret->address[six].len,
				   ret->address[six].bytes);
	}
	for (size_t i = 0; outside && i < s->of[ROUTE].count; i++) {
		const struct nlmsghdr *m = s->of[ROUTE].messages[i];
		const struct rtmsg *head = mnl_nlmsg_get_payload(m);
		const struct nlattr *oif = vin_rtnl_attr(m, sizeof(*head), RTA_OIF);
		const int six = head->rtm_family == AF_INET6;
		if (head->rtm_dst_len == 0 && oif && mnl_attr_get_u32(oif) == outside)
			copy_place(m, sizeof(*head), RTA_GATEWAY, &ret->gateway[six].len,
				   ret->gateway[six].bytes);
	}
}

/* Return: false: it has no place in the new world */
static bool move_place(struct nlattr *a, const struct own *from, const struct own *to)
{
	const size_t len = mnl_attr_get_payload_len(a);
	void *bytes = mnl_attr_get_payload(a);
	for (int six = 0; six < 2; six++) {
		if (len == from->address[six].len &&
		    memcmp(bytes, from->address[six].bytes, len) == 0) {
			memcpy(bytes, to->address[six].bytes, len);
			return to->address[six].len > 0;
		}
		if (len == from->gateway[six].len &&
		    memcmp(bytes, from->gateway[six].bytes, len) == 0) {
			memcpy(bytes, to->gateway[six].bytes, len);
			return to->gateway[six].len > 0;
		}
	}
	return true;
}

static bool move(enum sort sort, const struct nlmsghdr *m, const struct own *from,
		 const struct own *to)
{
	for (uint16_t type = 1; type < 64; type++) {
		const struct nlattr *a = sorts[sort].places & BIT(type)
						 ? vin_rtnl_attr(m, sorts[sort].head, type)
						 : NULL;
		if (a && !move_place((struct nlattr *)(uintptr_t)a, from, to))
			return false;
	}
	return true;
}

/* ---- capture ---- */

static int capture(void *arg, struct fvm_buf *to, struct fvm_error *err)
{
	scoped_state s = { 0 };
	uint32_t outside = 0;
	(void)arg;
	int r = list_all(&s, &outside, err);
	vin_put_u64(to, outside);
	for (enum sort i = 0; r == 0 && i < SORTS; i++) {
		vin_put_u64(to, s.of[i].count);
		for (size_t j = 0; j < s.of[i].count; j++)
			vin_put_blob(to, s.of[i].messages[j], s.of[i].messages[j]->nlmsg_len);
	}
	return r;
}

/* ---- replay ---- */

/* Made plain once more: nothing but what we would have written. */
static int take_one(struct vin_payload *p, enum sort sort, struct list *to)
{
	struct nlmsghdr *copy = NULL;
	int r = vin_rtnl_message(p, sorts[sort].head, &copy);
	if (r < 0)
		return r;
	const bool fits = copy->nlmsg_type == sorts[sort].new;
	struct nlmsghdr *its = fits ? plain(sort, copy) : NULL;
	free(copy);
	return !fits ? -EBADMSG : !its ? -ENOMEM : keep(to, its);
}

static int take(struct vin_payload *p, struct state *ret, uint32_t *ret_outside)
{
	int r = 0;
	*ret_outside = (uint32_t)vin_get_u64(p);
	for (enum sort s = 0; r == 0 && s < SORTS; s++) {
		const uint64_t count = vin_get_u64(p);
		if (count > MESSAGES_MAX)
			return -EBADMSG;
		for (uint64_t i = 0; r == 0 && i < count; i++)
			r = take_one(p, s, &ret->of[s]);
	}
	return r < 0 ? r : vin_get_done(p);
}

/* What has no place in the new world is left out. */
static void move_all(struct state *s, const struct own *from, const struct own *to)
{
	for (enum sort i = 0; i < SORTS; i++) {
		struct list *l = &s->of[i];
		size_t kept = 0;
		for (size_t j = 0; j < l->count; j++) {
			if (move(i, l->messages[j], from, to))
				l->messages[kept++] = l->messages[j];
			else
				free(l->messages[j]);
		}
		l->count = kept;
	}
}

/* One may need another that comes later: a vlan its device, a route its gateway's. */
static int add_missing(int sock, enum sort sort, const struct list *want, const struct list *now,
		       struct fvm_error *err)
{
	const uint16_t flags = sort == LINK ? 0 : NLM_F_CREATE | NLM_F_EXCL | NLM_F_APPEND;
	int r = 0;
	for (int round = 0; round < ROUNDS; round++) {
		int failed = 0;
		for (size_t i = 0; i < want->count; i++) {
			if (has(sort, now, want->messages[i]))
				continue;
			r = vin_rtnl_send(sock, want->messages[i],
					  sort == ROUTE ? NLM_F_CREATE | NLM_F_APPEND : flags);
			if (r < 0 && r != -EEXIST)
				failed = r;
		}
		r = failed;
		if (r == 0)
			return 0;
	}
	return fvm_error_set(err, -r, "make %s of the network", sorts[sort].name);
}

static int remove_others(int sock, enum sort sort, const struct list *want, const struct list *now,
			 struct fvm_error *err)
{
	for (size_t i = 0; sorts[sort].del && i < now->count; i++) {
		struct nlmsghdr *m = now->messages[i];
		if (has(sort, want, m))
			continue;
		m->nlmsg_type = sorts[sort].del;
		int r = vin_rtnl_send(sock, m, 0);
		m->nlmsg_type = sorts[sort].new;
		/* it may have gone with another */
		if (r < 0 && r != -ENOENT && r != -ESRCH && r != -EADDRNOTAVAIL)
			return fvm_error_set(err, -r, "take %s of the network away",
					     sorts[sort].name);
	}
	return 0;
}

static int change(int sock, enum sort sort, const struct state *want, struct fvm_error *err)
{
	scoped_state now = { 0 };
	uint32_t outside;
	int r = list_all(&now, &outside, err);
	if (r == 0)
		r = remove_others(sort == LINK ? -1 : sock, sort, &want->of[sort], &now.of[sort],
				  err);
	return r < 0 ? r : add_missing(sock, sort, &want->of[sort], &now.of[sort], err);
}

static void tell_moved(const struct own *from, const struct own *to, struct vin_moved *ret)
{
	for (int six = 0; six < 2; six++) {
		const size_t len = from->address[six].len;
		if (len == 0 || len != to->address[six].len)
			continue;
		ret->of[six].len = len;
		memcpy(ret->of[six].was, from->address[six].bytes, len);
		memcpy(ret->of[six].is, to->address[six].bytes, len);
	}
}

static int make(struct vin_payload *p, struct vin_moved *moved, struct fvm_error *err)
{
	scoped_state want = { 0 }, now = { 0 };
	struct fvm_error mine = { 0 };
	struct own theirs, ours;
	uint32_t outside, here;
	int r = take(p, &want, &outside);
	if (r < 0)
		return r;
	r = list_all(&now, &here, &mine);
	find_own(&want, outside, &theirs);
	find_own(&now, here, &ours);
	move_all(&want, &theirs, &ours);
	tell_moved(&theirs, &ours, moved);
	scoped_fd sock = vin_rtnl_open(NETLINK_ROUTE);
	if (r == 0 && sock < 0)
		r = fvm_error_set(&mine, -sock, "open netlink");
	for (enum sort s = 0; r == 0 && s < SORTS; s++)
		r = change(sock, s, &want, &mine);
	if (err && mine.code)
		*err = mine;
	return r;
}

const struct vin_space_kind vin_space_routes = { .space = CLONE_NEWNET,
						 .capture = capture,
						 .make = make };
