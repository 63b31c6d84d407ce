/* A table of our own in the packet filter of our network namespace: one chain in front of all
 * others, which drops what did not come by way of loopback. */
#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vin/netlock.h"

#define TABLE	 "vin-netlock"
#define CHAIN	 "shut"
#define PRIORITY (-400) /* before connections are tracked, and before anybody's rules */
#define LOOPBACK 1	/* in every namespace */
#define ROOM	 4096

struct batch {
	char data[ROOM];
	size_t len;
	uint32_t count;
	struct nlmsghdr *last;
};

static struct nlmsghdr *begin(struct batch *b, uint16_t type, uint16_t flags, uint8_t family)
{
	const bool table = type != NFNL_MSG_BATCH_BEGIN && type != NFNL_MSG_BATCH_END;
	struct nlmsghdr *m = mnl_nlmsg_put_header(b->data + b->len);
	m->nlmsg_type = table ? (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | type) : type;
	m->nlmsg_flags = NLM_F_REQUEST | flags | (table ? NLM_F_ACK : 0);
	m->nlmsg_seq = ++b->count;
	struct nfgenmsg *head = mnl_nlmsg_put_extra_header(m, sizeof(*head));
	head->nfgen_family = family;
	head->version = NFNETLINK_V0;
	head->res_id = htons(table ? 0 : NFNL_SUBSYS_NFTABLES);
	b->last = m;
	return m;
}

static void end(struct batch *b)
{
	b->len += MNL_ALIGN(b->last->nlmsg_len);
}

/* Each has an ACK or an error; the kernel has answered when it has taken the batch. */
static int run(struct batch *b)
{
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	char answer[8192];
	int r = 0;
	scoped_fd nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	if (nl < 0)
		return errno == EPROTONOSUPPORT ? -EOPNOTSUPP : -errno;
	begin(b, NFNL_MSG_BATCH_END, 0, AF_UNSPEC);
	end(b);
	if (sendto(nl, b->data, b->len, 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0)
		return -errno;
	for (ssize_t n; (n = recv(nl, answer, sizeof(answer), MSG_DONTWAIT)) > 0;) {
		int left = (int)n;
		for (struct nlmsghdr *m = (struct nlmsghdr *)answer; mnl_nlmsg_ok(m, left);
		     m = mnl_nlmsg_next(m, &left)) {
			const struct nlmsgerr *e = mnl_nlmsg_get_payload(m);
			if (m->nlmsg_type == NLMSG_ERROR && r == 0)
				r = e->error;
		}
	}
	return r;
}

static void put_table(struct batch *b, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *m = begin(b, type, flags, NFPROTO_INET);
	mnl_attr_put_strz(m, NFTA_TABLE_NAME, TABLE);
	end(b);
}

static void put_chain(struct batch *b)
{
	struct nlmsghdr *m = begin(b, NFT_MSG_NEWCHAIN, NLM_F_CREATE, NFPROTO_INET);
	mnl_attr_put_strz(m, NFTA_CHAIN_TABLE, TABLE);
	mnl_attr_put_strz(m, NFTA_CHAIN_NAME, CHAIN);
	struct nlattr *hook = mnl_attr_nest_start(m, NFTA_CHAIN_HOOK);
	mnl_attr_put_u32(m, NFTA_HOOK_HOOKNUM, htonl(NF_INET_PRE_ROUTING));
	mnl_attr_put_u32(m, NFTA_HOOK_PRIORITY, htonl((uint32_t)PRIORITY));
	mnl_attr_nest_end(m, hook);
	mnl_attr_put_strz(m, NFTA_CHAIN_TYPE, "filter");
	mnl_attr_put_u32(m, NFTA_CHAIN_POLICY, htonl(NF_DROP));
	end(b);
}

static struct nlattr *begin_expr(struct nlmsghdr *m, const char *name, struct nlattr **ret_data)
{
	struct nlattr *whole = mnl_attr_nest_start(m, NFTA_LIST_ELEM);
	mnl_attr_put_strz(m, NFTA_EXPR_NAME, name);
	*ret_data = mnl_attr_nest_start(m, NFTA_EXPR_DATA);
	return whole;
}

static void end_expr(struct nlmsghdr *m, struct nlattr *whole, struct nlattr *data)
{
	mnl_attr_nest_end(m, data);
	mnl_attr_nest_end(m, whole);
}

/* iif 1 accept */
static void put_rule(struct batch *b)
{
	const uint32_t loopback = LOOPBACK;
	struct nlattr *data, *whole;
	struct nlmsghdr *m = begin(b, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, NFPROTO_INET);
	mnl_attr_put_strz(m, NFTA_RULE_TABLE, TABLE);
	mnl_attr_put_strz(m, NFTA_RULE_CHAIN, CHAIN);
	struct nlattr *all = mnl_attr_nest_start(m, NFTA_RULE_EXPRESSIONS);
	whole = begin_expr(m, "meta", &data);
	mnl_attr_put_u32(m, NFTA_META_KEY, htonl(NFT_META_IIF));
	mnl_attr_put_u32(m, NFTA_META_DREG, htonl(NFT_REG_1));
	end_expr(m, whole, data);
	whole = begin_expr(m, "cmp", &data);
	mnl_attr_put_u32(m, NFTA_CMP_SREG, htonl(NFT_REG_1));
	mnl_attr_put_u32(m, NFTA_CMP_OP, htonl(NFT_CMP_EQ));
	struct nlattr *value = mnl_attr_nest_start(m, NFTA_CMP_DATA);
	mnl_attr_put(m, NFTA_DATA_VALUE, sizeof(loopback), &loopback);
	mnl_attr_nest_end(m, value);
	end_expr(m, whole, data);
	whole = begin_expr(m, "immediate", &data);
	mnl_attr_put_u32(m, NFTA_IMMEDIATE_DREG, htonl(NFT_REG_VERDICT));
	value = mnl_attr_nest_start(m, NFTA_IMMEDIATE_DATA);
	struct nlattr *verdict = mnl_attr_nest_start(m, NFTA_DATA_VERDICT);
	mnl_attr_put_u32(m, NFTA_VERDICT_CODE, htonl(NF_ACCEPT));
	mnl_attr_nest_end(m, verdict);
	mnl_attr_nest_end(m, value);
	end_expr(m, whole, data);
	mnl_attr_nest_end(m, all);
	end(b);
}

int vin_netlock_shut(struct fvm_error *err)
{
	struct batch b = { 0 };
	begin(&b, NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC);
	end(&b);
	put_table(&b, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL);
	put_chain(&b);
	put_rule(&b);
	int r = run(&b);
	return r < 0 && r != -EEXIST ? fvm_error_set(err, -r, "shut the network off") : 0;
}

int vin_netlock_open(struct fvm_error *err)
{
	struct batch b = { 0 };
	begin(&b, NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC);
	end(&b);
	put_table(&b, NFT_MSG_DELTABLE, 0);
	int r = run(&b);
	return r < 0 && r != -ENOENT ? fvm_error_set(err, -r, "open the network again") : 0;
}
