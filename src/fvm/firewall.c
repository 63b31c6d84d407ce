/*
 * Other people's firewalls. A packet passes every base chain of the forward hook, and one that
 * drops it is enough; so where docker, ufw (policy drop) or firewalld (reject at the end) would, a
 * rule of ours stands at the head of their chain. It is the rule that "iptables -I FORWARD -i fvm+
 * -j ACCEPT" makes, so that iptables-nft can still read its table. It bears a comment, by which it
 * is found again: a handle would be another rule's after a reload. A chain with its own order of
 * things and policy accept is left alone.
 */
#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <string.h>

#include "fvm/nft.h"
#include "fvm/nft_expr.h"

#define CHAINS_MAX 16
#define NAME_BYTES 64
#define RULES_MAX  16

/* Of rules' user data: type, length with NUL, text. What nft and iptables show as a comment. */
static const char mark[] = "\0\024fvm: packets of VMs";
_Static_assert(sizeof(mark) == 2 + 20, "length of the comment");

struct their_chain {
	uint8_t family;
	bool drops; /* what it does not know */
	char table[NAME_BYTES], name[NAME_BYTES];
	uint64_t ours[RULES_MAX]; /* handles of our rules there */
	size_t our_count;
};

struct their_chains {
	struct their_chain items[CHAINS_MAX];
	size_t count;
};

static bool copy_name(const struct nlattr *attr, char *to)
{
	size_t len = mnl_attr_get_payload_len(attr);
	if (len == 0 || len > NAME_BYTES)
		return false;
	memcpy(to, mnl_attr_get_payload(attr), len);
	to[len - 1] = '\0';
	return true;
}

static uint32_t get32(const struct nlattr *attr)
{
	return mnl_attr_get_payload_len(attr) == sizeof(uint32_t) ? ntohl(mnl_attr_get_u32(attr))
								  : UINT32_MAX;
}

static uint32_t hook_number(const struct nlattr *hook)
{
	const struct nlattr *attr;
	mnl_attr_for_each_nested(attr, hook)
	{
		if (mnl_attr_get_type(attr) == NFTA_HOOK_HOOKNUM)
			return get32(attr);
	}
	return UINT32_MAX;
}

static int chain_take(const struct nlmsghdr *nlh, void *arg)
{
	struct their_chains *chains = arg;
	const struct nfgenmsg *g = mnl_nlmsg_get_payload(nlh);
	struct their_chain c = { .family = g->nfgen_family };
	const struct nlattr *attr;
	bool forward = false;
	mnl_attr_for_each(attr, nlh, sizeof(*g))
	{
		const uint16_t type = mnl_attr_get_type(attr);
		if ((type == NFTA_CHAIN_TABLE && !copy_name(attr, c.table)) ||
		    (type == NFTA_CHAIN_NAME && !copy_name(attr, c.name)))
			return MNL_CB_OK;
		if (type == NFTA_CHAIN_HOOK)
			forward = hook_number(attr) == NF_INET_FORWARD;
		if (type == NFTA_CHAIN_POLICY)
			c.drops = get32(attr) == NF_DROP;
	}
	if (strcmp(c.table, "firewalld") == 0 && strncmp(c.name, "filter_", 7) == 0)
		c.drops = true;
	bool ip = c.family == NFPROTO_INET || c.family == NFPROTO_IPV4 || c.family == NFPROTO_IPV6;
	bool own = c.family == NFPROTO_INET && strcmp(c.table, "fvm") == 0;
	if (forward && ip && !own && chains->count < CHAINS_MAX)
		chains->items[chains->count++] = c;
	return MNL_CB_OK;
}

static int rule_take(const struct nlmsghdr *nlh, void *arg)
{
	struct their_chain *chain = arg;
	const struct nlattr *attr;
	uint64_t handle = 0;
	bool ours = false;
	mnl_attr_for_each(attr, nlh, sizeof(struct nfgenmsg))
	{
		if (mnl_attr_get_type(attr) == NFTA_RULE_HANDLE &&
		    mnl_attr_get_payload_len(attr) == sizeof(handle))
			handle = mnl_attr_get_u64(attr); /* big endian, as it goes back */
		if (mnl_attr_get_type(attr) == NFTA_RULE_USERDATA)
			ours = mnl_attr_get_payload_len(attr) == sizeof(mark) &&
			       memcmp(mnl_attr_get_payload(attr), mark, sizeof(mark)) == 0;
	}
	if (ours && chain->our_count < RULES_MAX)
		chain->ours[chain->our_count++] = handle;
	return MNL_CB_OK;
}

static void name_chain(struct fvm_nl_batch *b, const struct their_chain *chain)
{
	mnl_attr_put_strz(b->last, NFTA_RULE_TABLE, chain->table);
	mnl_attr_put_strz(b->last, NFTA_RULE_CHAIN, chain->name);
}

static int chains_find(int sock, struct their_chains *ret)
{
	scoped_nl_batch b = { 0 };
	fvm_nft_message(&b, NFT_MSG_GETCHAIN, NLM_F_DUMP, NFPROTO_UNSPEC);
	fvm_nl_end(&b);
	int r = fvm_nl_ask(sock, &b, chain_take, ret);
	for (size_t i = 0; i < ret->count && r == 0; i++) {
		struct their_chain *chain = &ret->items[i];
		scoped_nl_batch rules = { 0 };
		fvm_nft_message(&rules, NFT_MSG_GETRULE, NLM_F_DUMP, chain->family);
		name_chain(&rules, chain);
		fvm_nl_end(&rules);
		r = fvm_nl_ask(sock, &rules, rule_take, chain);
	}
	return r;
}

static void put_rule(struct fvm_nl_batch *b, const struct their_chain *chain, uint32_t key)
{
	/* without NLM_F_APPEND: at the head */
	fvm_nft_message(b, NFT_MSG_NEWRULE, NLM_F_CREATE, chain->family);
	name_chain(b, chain);
	struct nlattr *list = mnl_attr_nest_start(b->last, NFTA_RULE_EXPRESSIONS);
	fvm_nft_expr_link(b, key, true);
	struct nlattr *data, *counter = fvm_nft_expr_begin(b, "counter", &data);
	fvm_nft_expr_end(b, counter, data);
	fvm_nft_expr_verdict(b, NF_ACCEPT, NULL);
	mnl_attr_nest_end(b->last, list);
	mnl_attr_put(b->last, NFTA_RULE_USERDATA, sizeof(mark), mark);
	fvm_nl_end(b);
}

int fvm_firewall_open(int sock, struct fvm_nl_batch *b)
{
	struct their_chains chains = { .count = 0 };
	int added = 0, r = chains_find(sock, &chains);
	for (size_t i = 0; i < chains.count && r == 0; i++) {
		if (!chains.items[i].drops || chains.items[i].our_count > 0)
			continue;
		put_rule(b, &chains.items[i], NFT_META_OIFNAME);
		put_rule(b, &chains.items[i], NFT_META_IIFNAME);
		added += 2;
	}
	return r < 0 ? r : added;
}

int fvm_firewall_close(int sock, struct fvm_nl_batch *b)
{
	struct their_chains chains = { .count = 0 };
	int removed = 0, r = chains_find(sock, &chains);
	for (size_t i = 0; i < chains.count && r == 0; i++) {
		const struct their_chain *chain = &chains.items[i];
		for (size_t k = 0; k < chain->our_count; k++, removed++) {
			fvm_nft_message(b, NFT_MSG_DELRULE, 0, chain->family);
			name_chain(b, chain);
			mnl_attr_put_u64(b->last, NFTA_RULE_HANDLE, chain->ours[k]);
			fvm_nl_end(b);
		}
	}
	return r < 0 ? r : removed;
}
