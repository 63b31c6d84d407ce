/*
 * Tables, chains, sets and rules of nftables, asked over netlink: nft(8) need not be there.
 * A rule is told by its handle and length, as counters in it change by themselves.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <stdio.h>

#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include "tests/tools/inventory.h"

struct kind {
	const char *name;
	int get;
	int table, object; /* attributes that name the table and the thing itself */
	int handle;
};

static const struct kind kinds[] = {
	{ "table", NFT_MSG_GETTABLE, NFTA_TABLE_NAME, 0, NFTA_TABLE_HANDLE },
	{ "chain", NFT_MSG_GETCHAIN, NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HANDLE },
	{ "set", NFT_MSG_GETSET, NFTA_SET_TABLE, NFTA_SET_NAME, NFTA_SET_HANDLE },
	{ "rule", NFT_MSG_GETRULE, NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_HANDLE },
};

static int print_object(const struct nlmsghdr *nlh, void *data)
{
	const struct kind *kind = data;
	const struct nfgenmsg *nfg = mnl_nlmsg_get_payload(nlh);
	const char *table = "", *object = "";
	uint64_t handle = 0;
	const struct nlattr *attr;
	mnl_attr_for_each(attr, nlh, sizeof(*nfg))
	{
		int type = mnl_attr_get_type(attr);
		if (type == kind->table)
			table = mnl_attr_get_str(attr);
		else if (kind->object && type == kind->object)
			object = mnl_attr_get_str(attr);
		else if (type == kind->handle)
			handle = be64toh(mnl_attr_get_u64(attr));
	}
	printf("nft %s %u %s %s #%llu\n", kind->name, nfg->nfgen_family, table, object,
	       (unsigned long long)handle);
	return MNL_CB_OK;
}

static void dump(struct mnl_socket *nl, const struct kind *kind)
{
	char buf[65536];
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	nlh->nlmsg_type = (uint16_t)((NFNL_SUBSYS_NFTABLES << 8) | kind->get);
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	nlh->nlmsg_seq = (uint32_t)kind->get + 1;
	struct nfgenmsg *nfg = mnl_nlmsg_put_extra_header(nlh, sizeof(*nfg));
	nfg->nfgen_family = NFPROTO_UNSPEC;
	nfg->version = NFNETLINK_V0;
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		return;
	uint32_t seq = (uint32_t)kind->get + 1;
	for (;;) {
		ssize_t n = mnl_socket_recvfrom(nl, buf, sizeof(buf));
		if (n <= 0 || mnl_cb_run(buf, (size_t)n, seq, mnl_socket_get_portid(nl),
					 print_object, (void *)kind) <= MNL_CB_STOP)
			return;
	}
}

int inventory_nft(void)
{
	struct mnl_socket *nl = mnl_socket_open(NETLINK_NETFILTER);
	if (!nl)
		return 0;
	if (mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) == 0) {
		for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
			dump(nl, &kinds[i]);
	}
	mnl_socket_close(nl);
	return 0;
}
