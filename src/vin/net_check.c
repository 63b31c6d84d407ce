/* What is set in a network namespace and can't be made again. */
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/if_link.h>
#include <linux/nexthop.h>
#include <linux/rtnetlink.h>
#include <linux/xfrm.h>
#include <net/if_arp.h>
#include <string.h>

#include "vin/rtnl.h"

/* A string that ends within its attribute; or "". */
static const char *text_of(const struct nlattr *a)
{
	const char *text = a ? mnl_attr_get_payload(a) : "";
	return a && memchr(text, '\0', mnl_attr_get_payload_len(a)) ? text : "";
}

static int refuse_link(void *arg, const struct nlmsghdr *m, struct fvm_error *err)
{
	const char *name = text_of(vin_rtnl_attr(m, sizeof(struct ifinfomsg), IFLA_IFNAME));
	(void)arg;
	if (m->nlmsg_type != RTM_NEWLINK || vin_link_known(m))
		return 0;
	return fvm_error_say(err, EOPNOTSUPP,
			     "network device %s can't be captured: it was made inside", name);
}

/* Of the world's own the other end is in another namespace, too. */
static int refuse_outside(void *arg, const struct nlmsghdr *m, struct fvm_error *err)
{
	const char *name = text_of(vin_rtnl_attr(m, sizeof(struct ifinfomsg), IFLA_IFNAME));
	(void)arg;
	if (m->nlmsg_type != RTM_NEWLINK ||
	    !vin_rtnl_attr(m, sizeof(struct ifinfomsg), IFLA_LINK_NETNSID))
		return 0;
	return fvm_error_say(err, EOPNOTSUPP,
			     "network device %s can't be captured: its other end is in another "
			     "network namespace",
			     name);
}

static int refuse_queue(void *arg, const struct nlmsghdr *m, struct fvm_error *err)
{
	const struct tcmsg *head = mnl_nlmsg_get_payload(m);
	(void)arg;
	/* what the kernel has put there by itself has no number */
	if (m->nlmsg_type != RTM_NEWQDISC || head->tcm_handle == 0)
		return 0;
	return fvm_error_say(err, EOPNOTSUPP,
			     "the network can't be captured: its device %d has a queueing "
			     "discipline (%s)",
			     head->tcm_ifindex, text_of(vin_rtnl_attr(m, sizeof(*head), TCA_KIND)));
}

static int refuse_any(void *arg, const struct nlmsghdr *m, struct fvm_error *err)
{
	(void)m;
	return fvm_error_say(err, EOPNOTSUPP, "the network can't be captured: it has %s",
			     (const char *)arg);
}

static int ask(int protocol, uint16_t type, size_t head, vin_rtnl_fn fn, const char *what,
	       struct fvm_error *err)
{
	static const char zeros[128];
	scoped_fd sock = vin_rtnl_open(protocol);
	int r = sock < 0 ? sock
			 : vin_rtnl_dump(sock, type, zeros, head, fn, (void *)(uintptr_t)what, err);
	/* a kernel that has no such thing has none of it */
	if (r == -EPROTONOSUPPORT || r == -EINVAL || r == -ENOENT ||
	    (r == -EOPNOTSUPP && !err->code))
		return 0;
	return r < 0 && !err->code ? fvm_error_set(err, -r, "ask for %s", what) : r;
}

static int refuse_iptables(struct fvm_error *err)
{
	static const char *const files[] = { "/proc/self/net/ip_tables_names",
					     "/proc/self/net/ip6_tables_names",
					     "/proc/self/net/arp_tables_names" };
	for (size_t i = 0; i < FVM_COUNT(files); i++) {
		scoped_free char *text = NULL;
		if (fvm_read_file(AT_FDCWD, files[i], 4096, &text, NULL) == 0 && *text)
			return refuse_any((void *)(uintptr_t) "tables of iptables-legacy", NULL,
					  err);
	}
	return 0;
}

int vin_net_check(void *arg, struct fvm_buf *to, struct fvm_error *err)
{
	static const struct {
		int protocol;
		uint16_t type;
		size_t head;
		vin_rtnl_fn fn;
		const char *what;
	} asks[] = {
		{ NETLINK_ROUTE, RTM_GETLINK, sizeof(struct ifinfomsg), refuse_link, "devices" },
		{ NETLINK_ROUTE, RTM_GETQDISC, sizeof(struct tcmsg), refuse_queue, "queues" },
		{ NETLINK_ROUTE, RTM_GETNEXTHOP, sizeof(struct nhmsg), refuse_any,
		  "next hops that are objects" },
		{ NETLINK_XFRM, XFRM_MSG_GETSA, 0, refuse_any, "IPsec associations" },
		{ NETLINK_XFRM, XFRM_MSG_GETPOLICY, 0, refuse_any, "IPsec policies" },
	};
	struct fvm_error mine = { 0 };
	int r = 0;
	(void)to;
	if (arg)
		r = ask(NETLINK_ROUTE, RTM_GETLINK, sizeof(struct ifinfomsg), refuse_outside,
			"devices", &mine);
	for (size_t i = 0; r == 0 && i < FVM_COUNT(asks); i++)
		r = ask(asks[i].protocol, asks[i].type, asks[i].head, asks[i].fn, asks[i].what,
			&mine);
	if (r == 0)
		r = refuse_iptables(&mine);
	if (r < 0 && err)
		*err = mine;
	return r;
}
