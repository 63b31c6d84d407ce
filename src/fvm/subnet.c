#include <errno.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "fvm/net_state.h"

/*
 * IPv4: a /16 that overlaps no route of any table. Candidates come from all private ranges, for a
 * VPN often routes one of them whole. IPv6: a random /64 of fd00::/8, as RFC 4193 wants it.
 */
static const uint8_t candidates[][2] = {
	{ 10, 213 }, { 10, 87 },  { 10, 151 }, { 10, 39 },  { 172, 27 }, { 172, 30 },
	{ 172, 23 }, { 10, 229 }, { 10, 173 }, { 10, 101 }, { 198, 19 }, { 198, 18 },
	{ 100, 97 }, { 10, 59 },  { 172, 21 }, { 10, 243 }, { 10, 7 },	 { 100, 121 },
};

static bool overlaps(const struct fvm_net_taken *taken, uint32_t address, unsigned int bits)
{
	for (size_t i = 0; i < taken->count; i++) {
		unsigned int common = taken->items[i].bits < bits ? taken->items[i].bits : bits;
		uint32_t mask = common ? ~0U << (32 - common) : 0;
		if (((taken->items[i].address ^ address) & mask) == 0)
			return true;
	}
	return false;
}

int fvm_net_range4_pick(const struct fvm_net_taken *taken, uint8_t ret[2])
{
	for (size_t i = 0; i < FVM_COUNT(candidates); i++) {
		uint32_t address = (uint32_t)candidates[i][0] << 24 | candidates[i][1] << 16;
		if (overlaps(taken, address, 16))
			continue;
		memcpy(ret, candidates[i], sizeof(candidates[i]));
		return 0;
	}
	return -EADDRINUSE;
}

static void taken_add(struct fvm_net_taken *taken, uint32_t address, uint8_t bits)
{
	if ((taken->count & (taken->count - 1)) == 0) {
		size_t cap = taken->count ? taken->count * 2 : 1;
		void *items = realloc(taken->items, cap * sizeof(*taken->items));
		if (!items) {
			taken->failed = true;
			return;
		}
		taken->items = items;
	}
	taken->items[taken->count].address = address;
	taken->items[taken->count].bits = bits;
	taken->count++;
}

static int taken_route(const struct nlmsghdr *nlh, void *arg)
{
	const struct rtmsg *m = mnl_nlmsg_get_payload(nlh);
	const struct nlattr *attr;
	/* the default route is no neighbour's, nor are 127/8 and multicast ours to avoid */
	if (nlh->nlmsg_type != RTM_NEWROUTE || m->rtm_family != AF_INET || m->rtm_dst_len < 2)
		return MNL_CB_OK;
	mnl_attr_for_each(attr, nlh, sizeof(*m))
	{
		uint32_t address;
		if (mnl_attr_get_type(attr) != RTA_DST || mnl_attr_get_payload_len(attr) != 4)
			continue;
		memcpy(&address, mnl_attr_get_payload(attr), sizeof(address));
		taken_add(arg, ntohl(address), m->rtm_dst_len);
	}
	return MNL_CB_OK;
}

static bool is_candidate(const uint8_t base[2])
{
	for (size_t i = 0; i < FVM_COUNT(candidates); i++) {
		if (memcmp(base, candidates[i], sizeof(candidates[i])) == 0)
			return true;
	}
	return false;
}

int fvm_net_wish_range(const struct fvm_net_wish *wish, struct fvm_net_range *ret)
{
	struct fvm_address a4, a6;
	struct fvm_net_range range = { 0 };
	if (fvm_address_parse(wish->address4, &a4) < 0 || a4.family != AF_INET ||
	    !is_candidate(a4.bytes))
		return -EINVAL;
	memcpy(range.base4, a4.bytes, sizeof(range.base4));
	if (fvm_address_parse(wish->address6, &a6) == 0 && a6.family == AF_INET6 &&
	    a6.bytes[0] == 0xfd)
		memcpy(range.base6, a6.bytes, sizeof(range.base6));
	*ret = range;
	return 0;
}

int fvm_net_wish_slot(const struct fvm_net_wish *wish)
{
	struct fvm_address a;
	if (fvm_address_parse(wish->address4, &a) < 0 || a.family != AF_INET)
		return -1;
	const int host = a.bytes[2] << 8 | a.bytes[3];
	return host >= 3 && host % 2 && (host - 3) / 2 < (int)FVM_SLOTS_GIVEN ? (host - 3) / 2 : -1;
}

int fvm_net_range_choose(int rtnl, const struct fvm_net_range *wish, struct fvm_net_range *ret)
{
	struct fvm_net_range range = { .base6 = { 0xfd } };
	struct fvm_net_taken taken = { 0 };
	scoped_nl_batch b = { 0 };
	struct rtmsg *m = fvm_nl_begin(&b, RTM_GETROUTE, NLM_F_DUMP, sizeof(*m));
	m->rtm_family = AF_INET;
	fvm_nl_end(&b);
	int r = fvm_nl_ask(rtnl, &b, taken_route, &taken);
	if (r == 0 && taken.failed)
		r = -ENOMEM;
	if (r == 0 && wish &&
	    !overlaps(&taken, (uint32_t)wish->base4[0] << 24 | wish->base4[1] << 16, 16))
		memcpy(range.base4, wish->base4, sizeof(range.base4));
	else if (r == 0)
		r = fvm_net_range4_pick(&taken, range.base4);
	free(taken.items);
	if (r < 0)
		return r;
	if (wish && wish->base6[0])
		memcpy(range.base6, wish->base6, sizeof(range.base6));
	else if (getrandom(range.base6 + 1, sizeof(range.base6) - 1, 0) < 0)
		return -errno;
	*ret = range;
	return 0;
}

/* ---- where does the kernel send a packet to @a? ---- */

static int route_type(const struct nlmsghdr *nlh, void *arg)
{
	const struct rtmsg *m = mnl_nlmsg_get_payload(nlh);
	*(int *)arg = m->rtm_type;
	return MNL_CB_STOP;
}

static int route_lookup(int rtnl, const struct fvm_address *a)
{
	scoped_nl_batch b = { 0 };
	struct rtmsg *m = fvm_nl_begin(&b, RTM_GETROUTE, 0, sizeof(*m));
	int type = RTN_UNSPEC;
	m->rtm_family = a->family;
	m->rtm_dst_len = (uint8_t)(fvm_address_len(a) * 8);
	mnl_attr_put(b.last, RTA_DST, fvm_address_len(a), a->bytes);
	fvm_nl_end(&b);
	int r = fvm_nl_ask(rtnl, &b, route_type, &type);
	return r < 0 ? r : type;
}

bool fvm_net_has_ipv6(int rtnl)
{
	/* any address of the world; this one names a root server */
	const struct fvm_address world = { AF_INET6, { 0x20, 0x01, 0x05, 0x03, 0x0c, 0x27 } };
	return route_lookup(rtnl, &world) == RTN_UNICAST;
}

bool fvm_net_address_is_local(int rtnl, const struct fvm_address *a)
{
	return route_lookup(rtnl, a) == RTN_LOCAL;
}
