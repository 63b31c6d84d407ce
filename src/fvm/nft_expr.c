#include <arpa/inet.h>
#include <endian.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <string.h>

#include "fvm/nft_expr.h"

#define LINK_PREFIX   "fvm"
#define MESSAGE(type) ((uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | (type)))

struct nlmsghdr *fvm_nft_message(struct fvm_nl_batch *b, uint16_t type, uint16_t flags,
				 uint8_t family)
{
	struct nfgenmsg *g = fvm_nl_begin(b, MESSAGE(type), flags, sizeof(*g));
	g->nfgen_family = family;
	g->version = NFNETLINK_V0;
	return b->last;
}

void fvm_nft_put32(struct fvm_nl_batch *b, uint16_t attr, uint32_t value)
{
	mnl_attr_put_u32(b->last, attr, htonl(value));
}

void fvm_nft_put_data(struct fvm_nl_batch *b, uint16_t attr, const void *data, size_t len)
{
	struct nlattr *nest = mnl_attr_nest_start(b->last, attr);
	mnl_attr_put(b->last, NFTA_DATA_VALUE, len, data);
	mnl_attr_nest_end(b->last, nest);
}

void fvm_nft_put_verdict(struct fvm_nl_batch *b, uint16_t attr, int code, const char *chain)
{
	struct nlattr *value = mnl_attr_nest_start(b->last, attr);
	struct nlattr *verdict = mnl_attr_nest_start(b->last, NFTA_DATA_VERDICT);
	fvm_nft_put32(b, NFTA_VERDICT_CODE, (uint32_t)code);
	if (chain)
		mnl_attr_put_strz(b->last, NFTA_VERDICT_CHAIN, chain);
	mnl_attr_nest_end(b->last, verdict);
	mnl_attr_nest_end(b->last, value);
}

struct nlattr *fvm_nft_rule_begin(struct fvm_nl_batch *b, const char *table, const char *chain)
{
	fvm_nft_message(b, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, NFPROTO_INET);
	mnl_attr_put_strz(b->last, NFTA_RULE_TABLE, table);
	mnl_attr_put_strz(b->last, NFTA_RULE_CHAIN, chain);
	return mnl_attr_nest_start(b->last, NFTA_RULE_EXPRESSIONS);
}

void fvm_nft_rule_end(struct fvm_nl_batch *b, struct nlattr *list)
{
	mnl_attr_nest_end(b->last, list);
	fvm_nl_end(b);
}

/* ---- expressions ---- */

struct nlattr *fvm_nft_expr_begin(struct fvm_nl_batch *b, const char *name,
				  struct nlattr **ret_data)
{
	struct nlattr *expr = mnl_attr_nest_start(b->last, NFTA_LIST_ELEM);
	mnl_attr_put_strz(b->last, NFTA_EXPR_NAME, name);
	*ret_data = mnl_attr_nest_start(b->last, NFTA_EXPR_DATA);
	return expr;
}

void fvm_nft_expr_end(struct fvm_nl_batch *b, struct nlattr *expr, struct nlattr *data)
{
	mnl_attr_nest_end(b->last, data);
	mnl_attr_nest_end(b->last, expr);
}

void fvm_nft_expr_load(struct fvm_nl_batch *b, const char *what, uint32_t key, uint32_t reg)
{
	struct nlattr *data, *expr = fvm_nft_expr_begin(b, what, &data);
	/* meta and ct number their attributes alike: 1 register, 2 key */
	_Static_assert((int)NFTA_META_DREG == (int)NFTA_CT_DREG, "");
	_Static_assert((int)NFTA_META_KEY == (int)NFTA_CT_KEY, "");
	fvm_nft_put32(b, NFTA_META_KEY, key);
	fvm_nft_put32(b, NFTA_META_DREG, reg);
	fvm_nft_expr_end(b, expr, data);
}

void fvm_nft_expr_compare(struct fvm_nl_batch *b, uint32_t op, const void *value, size_t len)
{
	struct nlattr *data, *expr = fvm_nft_expr_begin(b, "cmp", &data);
	fvm_nft_put32(b, NFTA_CMP_SREG, FVM_NFT_REG(0));
	fvm_nft_put32(b, NFTA_CMP_OP, op);
	fvm_nft_put_data(b, NFTA_CMP_DATA, value, len);
	fvm_nft_expr_end(b, expr, data);
}

void fvm_nft_expr_link(struct fvm_nl_batch *b, uint32_t key, bool is_vm)
{
	fvm_nft_expr_load(b, "meta", key, FVM_NFT_REG(0));
	/* without the terminating NUL: a prefix, "fvm*" */
	fvm_nft_expr_compare(b, is_vm ? NFT_CMP_EQ : NFT_CMP_NEQ, LINK_PREFIX, strlen(LINK_PREFIX));
}

void fvm_nft_expr_payload(struct fvm_nl_batch *b, uint32_t base, uint32_t offset, uint32_t len,
			  uint32_t reg)
{
	struct nlattr *data, *expr = fvm_nft_expr_begin(b, "payload", &data);
	fvm_nft_put32(b, NFTA_PAYLOAD_DREG, reg);
	fvm_nft_put32(b, NFTA_PAYLOAD_BASE, base);
	fvm_nft_put32(b, NFTA_PAYLOAD_OFFSET, offset);
	fvm_nft_put32(b, NFTA_PAYLOAD_LEN, len);
	fvm_nft_expr_end(b, expr, data);
}

void fvm_nft_expr_mask(struct fvm_nl_batch *b, const void *bits, size_t len)
{
	static const uint8_t none[16];
	struct nlattr *data, *expr = fvm_nft_expr_begin(b, "bitwise", &data);
	fvm_nft_put32(b, NFTA_BITWISE_SREG, FVM_NFT_REG(0));
	fvm_nft_put32(b, NFTA_BITWISE_DREG, FVM_NFT_REG(0));
	fvm_nft_put32(b, NFTA_BITWISE_LEN, (uint32_t)len);
	fvm_nft_put_data(b, NFTA_BITWISE_MASK, bits, len);
	fvm_nft_put_data(b, NFTA_BITWISE_XOR, none, len);
	fvm_nft_expr_end(b, expr, data);
}

static void expr_bits(struct fvm_nl_batch *b, const char *what, uint32_t key, uint32_t bits,
		      uint32_t op)
{
	const uint32_t none = 0;
	fvm_nft_expr_load(b, what, key, FVM_NFT_REG(0));
	fvm_nft_expr_mask(b, &bits, sizeof(bits));
	fvm_nft_expr_compare(b, op, &none, sizeof(none));
}

void fvm_nft_expr_bits(struct fvm_nl_batch *b, const char *what, uint32_t key, uint32_t bits)
{
	expr_bits(b, what, key, bits, NFT_CMP_NEQ);
}

void fvm_nft_expr_lacks(struct fvm_nl_batch *b, const char *what, uint32_t key, uint32_t bits)
{
	expr_bits(b, what, key, bits, NFT_CMP_EQ);
}

static void put64(struct fvm_nl_batch *b, uint16_t attr, uint64_t value)
{
	mnl_attr_put_u64(b->last, attr, htobe64(value));
}

/* Into @attr, where an expression belongs. */
static void put_over(struct fvm_nl_batch *b, uint16_t attr, enum fvm_nft_measure measure,
		     uint32_t number)
{
	struct nlattr *expr = mnl_attr_nest_start(b->last, attr);
	const bool open = measure == FVM_NFT_OPEN;
	mnl_attr_put_strz(b->last, NFTA_EXPR_NAME, open ? "connlimit" : "limit");
	struct nlattr *data = mnl_attr_nest_start(b->last, NFTA_EXPR_DATA);
	if (open) {
		fvm_nft_put32(b, NFTA_CONNLIMIT_COUNT, number);
		fvm_nft_put32(b, NFTA_CONNLIMIT_FLAGS, NFT_CONNLIMIT_F_INV);
	} else {
		put64(b, NFTA_LIMIT_RATE, (uint64_t)number * 2);
		put64(b, NFTA_LIMIT_UNIT, 60);
		fvm_nft_put32(b, NFTA_LIMIT_BURST, number * 4);
		fvm_nft_put32(b, NFTA_LIMIT_TYPE, NFT_LIMIT_PKTS);
		fvm_nft_put32(b, NFTA_LIMIT_FLAGS, NFT_LIMIT_F_INV);
	}
	fvm_nft_expr_end(b, expr, data);
}

void fvm_nft_expr_over(struct fvm_nl_batch *b, enum fvm_nft_measure measure, uint32_t number)
{
	put_over(b, NFTA_LIST_ELEM, measure, number);
}

void fvm_nft_expr_over_each(struct fvm_nl_batch *b, enum fvm_nft_measure measure, uint32_t number,
			    const char *set)
{
	struct nlattr *data, *expr = fvm_nft_expr_begin(b, "dynset", &data);
	mnl_attr_put_strz(b->last, NFTA_DYNSET_SET_NAME, set);
	fvm_nft_put32(b, NFTA_DYNSET_OP, NFT_DYNSET_OP_ADD);
	fvm_nft_put32(b, NFTA_DYNSET_SREG_KEY, FVM_NFT_REG(0));
	put_over(b, NFTA_DYNSET_EXPR, measure, number);
	fvm_nft_expr_end(b, expr, data);
}

void fvm_nft_expr_verdict(struct fvm_nl_batch *b, int code, const char *chain)
{
	struct nlattr *data, *expr = fvm_nft_expr_begin(b, "immediate", &data);
	fvm_nft_put32(b, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
	fvm_nft_put_verdict(b, NFTA_IMMEDIATE_DATA, code, chain);
	fvm_nft_expr_end(b, expr, data);
}

void fvm_nft_expr_reject(struct fvm_nl_batch *b)
{
	struct nlattr *data, *expr = fvm_nft_expr_begin(b, "reject", &data);
	fvm_nft_put32(b, NFTA_REJECT_TYPE, NFT_REJECT_ICMPX_UNREACH);
	mnl_attr_put_u8(b->last, NFTA_REJECT_ICMP_CODE, NFT_REJECT_ICMPX_ADMIN_PROHIBITED);
	fvm_nft_expr_end(b, expr, data);
}
