#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/rtnetlink.h>

#include "fvm/nft_expr.h"
#include "fvm/nft_words.h"

enum { SOURCE4 = 12, DEST_4 = 16, SOURCE6 = 8, DEST_6 = 24 }; /* offsets in the IP header */

static void expr_lookup(struct fvm_nl_batch *b, const char *set, uint32_t map_to, bool is_map)
{
	struct nlattr *data, *expr = fvm_nft_expr_begin(b, "lookup", &data);
	mnl_attr_put_strz(b->last, NFTA_LOOKUP_SET, set);
	fvm_nft_put32(b, NFTA_LOOKUP_SREG, FVM_NFT_REG(0));
	if (is_map)
		fvm_nft_put32(b, NFTA_LOOKUP_DREG, map_to);
	fvm_nft_expr_end(b, expr, data);
}

/* Is the destination an address of this host? */
static void expr_local(struct fvm_nl_batch *b)
{
	const uint32_t local = RTN_LOCAL;
	struct nlattr *data, *expr = fvm_nft_expr_begin(b, "fib", &data);
	fvm_nft_put32(b, NFTA_FIB_DREG, FVM_NFT_REG(0));
	fvm_nft_put32(b, NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
	fvm_nft_put32(b, NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
	fvm_nft_expr_end(b, expr, data);
	fvm_nft_expr_compare(b, NFT_CMP_EQ, &local, sizeof(local));
}

static void expr_dnat(struct fvm_nl_batch *b, uint32_t family, uint32_t address, uint32_t port)
{
	struct nlattr *data, *expr = fvm_nft_expr_begin(b, "nat", &data);
	fvm_nft_put32(b, NFTA_NAT_TYPE, NFT_NAT_DNAT);
	fvm_nft_put32(b, NFTA_NAT_FAMILY, family);
	fvm_nft_put32(b, NFTA_NAT_REG_ADDR_MIN, address);
	fvm_nft_put32(b, NFTA_NAT_REG_PROTO_MIN, port);
	fvm_nft_expr_end(b, expr, data);
}

static void expr_masquerade(struct fvm_nl_batch *b)
{
	struct nlattr *data, *expr = fvm_nft_expr_begin(b, "masq", &data);
	fvm_nft_expr_end(b, expr, data);
}

/* Some words share a function, and differ in what these say to it. */
struct meaning {
	void (*write)(struct fvm_nl_batch *b, const struct meaning *m,
		      const struct fvm_nft_context *c);
	uint32_t what, value;
};

static void load_ip(struct fvm_nl_batch *b, uint32_t offset, uint32_t len, uint32_t reg)
{
	fvm_nft_expr_payload(b, NFT_PAYLOAD_NETWORK_HEADER, offset, len, FVM_NFT_REG(reg));
}

static void load_l4(struct fvm_nl_batch *b, uint32_t reg)
{
	fvm_nft_expr_load(b, "meta", NFT_META_L4PROTO, FVM_NFT_REG(reg));
	fvm_nft_expr_payload(b, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, FVM_NFT_REG(reg + 1));
}

static void load_dest(struct fvm_nl_batch *b, bool is6, bool with_l4)
{
	load_ip(b, is6 ? DEST_6 : DEST_4, is6 ? 16 : 4, 0);
	if (with_l4)
		load_l4(b, is6 ? 4 : 1);
}

static void compare_ip(struct fvm_nl_batch *b, uint32_t offset, uint32_t op, const void *value,
		       uint32_t len)
{
	load_ip(b, offset, len, 0);
	fvm_nft_expr_compare(b, op, value, len);
}

/* @what: which link, @value: whether it is a VM's */
static void link_is(struct fvm_nl_batch *b, const struct meaning *m,
		    const struct fvm_nft_context *c)
{
	(void)c;
	fvm_nft_expr_link(b, m->what, m->value);
}

static void link_in_set(struct fvm_nl_batch *b, const struct meaning *m,
			const struct fvm_nft_context *c)
{
	fvm_nft_expr_load(b, "meta", m->what, FVM_NFT_REG(0));
	expr_lookup(b, c->arg, 0, false);
}

static void family_is(struct fvm_nl_batch *b, const struct meaning *m,
		      const struct fvm_nft_context *c)
{
	const uint8_t family = (uint8_t)m->value;
	(void)c;
	fvm_nft_expr_load(b, "meta", NFT_META_NFPROTO, FVM_NFT_REG(0));
	fvm_nft_expr_compare(b, NFT_CMP_EQ, &family, sizeof(family));
}

/* @what: of the connection, @value: any of these bits */
static void connection_has(struct fvm_nl_batch *b, const struct meaning *m,
			   const struct fvm_nft_context *c)
{
	(void)c;
	fvm_nft_expr_bits(b, "ct", m->what, m->value);
}

/* @what: of the connection, @value: none of these bits */
static void connection_lacks(struct fvm_nl_batch *b, const struct meaning *m,
			     const struct fvm_nft_context *c)
{
	(void)c;
	fvm_nft_expr_lacks(b, "ct", m->what, m->value);
}

/* @what: which measure */
static void link_is_over(struct fvm_nl_batch *b, const struct meaning *m,
			 const struct fvm_nft_context *c)
{
	fvm_nft_expr_load(b, "meta", NFT_META_IIFNAME, FVM_NFT_REG(0));
	fvm_nft_expr_over_each(b, (enum fvm_nft_measure)m->what, c->connections, c->arg);
}

static void own_chain(struct fvm_nl_batch *b, const struct meaning *m,
		      const struct fvm_nft_context *c)
{
	(void)m;
	fvm_nft_expr_load(b, "meta", NFT_META_IIFNAME, FVM_NFT_REG(0));
	expr_lookup(b, c->arg, NFT_REG_VERDICT, true);
}

/* @what: where the source's address is, @value: how long */
static void guest_in_set(struct fvm_nl_batch *b, const struct meaning *m,
			 const struct fvm_nft_context *c)
{
	fvm_nft_expr_load(b, "meta", NFT_META_IIFNAME, FVM_NFT_REG(0));
	load_ip(b, m->what, m->value, 4);
	expr_lookup(b, c->arg, 0, false);
}

/* @what: IPv6, @value: protocol and port, too */
static void dest_in_set(struct fvm_nl_batch *b, const struct meaning *m,
			const struct fvm_nft_context *c)
{
	load_dest(b, m->what, m->value);
	expr_lookup(b, c->arg, 0, false);
}

/* @what: IPv6 */
static void source_is_ours(struct fvm_nl_batch *b, const struct meaning *m,
			   const struct fvm_nft_context *c)
{
	if (m->what)
		compare_ip(b, SOURCE6, NFT_CMP_EQ, c->range->base6, sizeof(c->range->base6));
	else
		compare_ip(b, SOURCE4, NFT_CMP_EQ, c->range->base4, sizeof(c->range->base4));
}

static void dest_is_local(struct fvm_nl_batch *b, const struct meaning *m,
			  const struct fvm_nft_context *c)
{
	(void)m;
	(void)c;
	expr_local(b);
}

/* @what: IPv6 */
static void dest_is_not_loop(struct fvm_nl_batch *b, const struct meaning *m,
			     const struct fvm_nft_context *c)
{
	static const uint8_t loop4 = 127, loop6[16] = { [15] = 1 };
	(void)c;
	if (m->what)
		compare_ip(b, DEST_6, NFT_CMP_NEQ, loop6, sizeof(loop6));
	else
		compare_ip(b, DEST_4, NFT_CMP_NEQ, &loop4, sizeof(loop4));
}

/* @what: IPv6, @value: by address, too */
static void map_port(struct fvm_nl_batch *b, const struct meaning *m,
		     const struct fvm_nft_context *c)
{
	bool is6 = m->what;
	if (m->value)
		load_dest(b, is6, true);
	else
		load_l4(b, 0);
	expr_lookup(b, c->arg, FVM_NFT_REG(8), true);
	expr_dnat(b, is6 ? NFPROTO_IPV6 : NFPROTO_IPV4, FVM_NFT_REG(8),
		  is6 ? FVM_NFT_REG(12) : FVM_NFT_REG(9));
}

static void masquerade(struct fvm_nl_batch *b, const struct meaning *m,
		       const struct fvm_nft_context *c)
{
	(void)m;
	(void)c;
	expr_masquerade(b);
}

static void verdict(struct fvm_nl_batch *b, const struct meaning *m,
		    const struct fvm_nft_context *c)
{
	fvm_nft_expr_verdict(b, (int)m->what, (int)m->what == NFT_JUMP ? c->arg : NULL);
}

static void reject(struct fvm_nl_batch *b, const struct meaning *m, const struct fvm_nft_context *c)
{
	(void)m;
	if (c->reject)
		fvm_nft_expr_reject(b);
	else
		fvm_nft_expr_verdict(b, NF_DROP, NULL);
}

#define TRACKED (NF_CT_STATE_BIT(IP_CT_ESTABLISHED) | NF_CT_STATE_BIT(IP_CT_RELATED))

/* clang-format off */
static const struct meaning meanings[] = {
	[FROM_VM]	= { link_is, NFT_META_IIFNAME, true },
	[FROM_OTHER]	= { link_is, NFT_META_IIFNAME, false },
	[TO_VM]		= { link_is, NFT_META_OIFNAME, true },
	[TO_OTHER]	= { link_is, NFT_META_OIFNAME, false },
	[IS4]		= { family_is, .value = NFPROTO_IPV4 },
	[IS6]		= { family_is, .value = NFPROTO_IPV6 },
	[ESTABLISHED]	= { connection_has, NFT_CT_STATE, TRACKED },
	[PUBLISHED]	= { connection_has, NFT_CT_STATUS, IPS_DST_NAT },
	[FIRST]		= { connection_lacks, NFT_CT_STATUS, IPS_CONFIRMED },
	[IN_SET]	= { link_in_set, NFT_META_IIFNAME },
	[FROM_SET]	= { link_in_set, NFT_META_IIFNAME },
	[TO_SET]	= { link_in_set, NFT_META_OIFNAME },
	[GUEST4]	= { guest_in_set, SOURCE4, 4 },
	[GUEST6]	= { guest_in_set, SOURCE6, 16 },
	[NAME4]		= { dest_in_set, false, true },
	[NAME6]		= { dest_in_set, true, true },
	[DEST4]		= { dest_in_set, false, false },
	[DEST6]		= { dest_in_set, true, false },
	[RANGE4]	= { source_is_ours, false },
	[RANGE6]	= { source_is_ours, true },
	[LOCAL]		= { dest_is_local },
	[NOT_LOOP4]	= { dest_is_not_loop, false },
	[NOT_LOOP6]	= { dest_is_not_loop, true },
	[MAP4]		= { map_port, false, false },
	[MAP6]		= { map_port, true, false },
	[MAP_AT4]	= { map_port, false, true },
	[MAP_AT6]	= { map_port, true, true },
	[OPENED]	= { link_is_over, FVM_NFT_OPENED },
	[OPEN]		= { link_is_over, FVM_NFT_OPEN },
	[OWN]		= { own_chain },
	[MASQUERADE]	= { masquerade },
	[JUMP]		= { verdict, (uint32_t)NFT_JUMP },
	[RETURN]	= { verdict, (uint32_t)NFT_RETURN },
	[ACCEPT]	= { verdict, NF_ACCEPT },
	[REJECT]	= { reject },
	[DROP]		= { verdict, NF_DROP },
};
/* clang-format on */

void fvm_nft_word(struct fvm_nl_batch *b, enum fvm_nft_word word, const struct fvm_nft_context *c)
{
	const struct meaning *m = &meanings[word];
	m->write(b, m, c);
}
