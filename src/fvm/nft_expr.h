/*
 * fvm/nft_expr - messages and expressions of nf_tables, as all our rules need them
 *
 * Theory of operation
 *   A rule is a list of expressions that work on registers; a match leaves the rule when it does
 *   not hold. All functions append to the last message of a batch (fvm/netlink). Where no register
 *   is named, the first is used. Numbers are given in host order, data as they are in packets. What
 *   does not fit is noticed by fvm_nft_run().
 *
 * Source: uapi/linux/netfilter/nf_tables.h, and what nft(8) sends
 */
#ifndef FVM_NFT_EXPR_H
#define FVM_NFT_EXPR_H

#include "fvm/netlink.h"

/* Register @n of 4 bytes; with linux/netfilter/nf_tables.h. */
#define FVM_NFT_REG(n) ((uint32_t)NFT_REG32_00 + (n))

/** fvm_nft_message() - begin a message of nf_tables; fvm_nl_end() ends it. Return: its header */
struct nlmsghdr *fvm_nft_message(struct fvm_nl_batch *b, uint16_t type, uint16_t flags,
				 uint8_t family);
/** fvm_nft_put32() - an attribute that is a number */
void fvm_nft_put32(struct fvm_nl_batch *b, uint16_t attr, uint32_t value);
/** fvm_nft_put_data() - an attribute that is data: a key, a value, a mask */
void fvm_nft_put_data(struct fvm_nl_batch *b, uint16_t attr, const void *data, size_t len);

/** fvm_nft_put_verdict() - an attribute that is a verdict; @chain: NULL, or where to */
void fvm_nft_put_verdict(struct fvm_nl_batch *b, uint16_t attr, int code, const char *chain);

/** fvm_nft_rule_begin() - a rule at the end of that chain of a table of family inet.
 *  Return: for fvm_nft_rule_end() */
struct nlattr *fvm_nft_rule_begin(struct fvm_nl_batch *b, const char *table, const char *chain);
void fvm_nft_rule_end(struct fvm_nl_batch *b, struct nlattr *list);

/** fvm_nft_expr_begin() - any expression. Return, and in *@ret_data: for fvm_nft_expr_end() */
struct nlattr *fvm_nft_expr_begin(struct fvm_nl_batch *b, const char *name,
				  struct nlattr **ret_data);
void fvm_nft_expr_end(struct fvm_nl_batch *b, struct nlattr *expr, struct nlattr *data);

/** fvm_nft_expr_load() - into register @reg; @what: "meta" or "ct", @key: one of its keys */
void fvm_nft_expr_load(struct fvm_nl_batch *b, const char *what, uint32_t key, uint32_t reg);
/** fvm_nft_expr_payload() - @len bytes of the packet; @base: NFT_PAYLOAD_* */
void fvm_nft_expr_payload(struct fvm_nl_batch *b, uint32_t base, uint32_t offset, uint32_t len,
			  uint32_t reg);
/** fvm_nft_expr_mask() - keep only these bits; @len: at most 16 */
void fvm_nft_expr_mask(struct fvm_nl_batch *b, const void *bits, size_t len);
/** fvm_nft_expr_compare() - @op: NFT_CMP_* */
void fvm_nft_expr_compare(struct fvm_nl_batch *b, uint32_t op, const void *value, size_t len);
/** fvm_nft_expr_bits() - is any of @bits set in what "meta" or "ct" has under @key? */
void fvm_nft_expr_bits(struct fvm_nl_batch *b, const char *what, uint32_t key, uint32_t bits);
/** fvm_nft_expr_link() - is it a VM's link, or (@is_vm false) not? @key: NFT_META_IIFNAME .. */
void fvm_nft_expr_link(struct fvm_nl_batch *b, uint32_t key, bool is_vm);
/** fvm_nft_expr_lacks() - the contrary: none of them is set */
void fvm_nft_expr_lacks(struct fvm_nl_batch *b, const char *what, uint32_t key, uint32_t bits);

/*
 * How many connections somebody has. Those that are closed but still in the kernel's table (two
 * minutes at most) are not in its count, and so the second measure is how quickly they are made:
 * what is in the table is at most nine times the number.
 */
enum fvm_nft_measure {
	FVM_NFT_OPENED, /* more than four times as many at once, then twice as many a minute */
	FVM_NFT_OPEN,	/* more than so many; the kernel looks at each of them for a new one */
};
/** fvm_nft_expr_over() - is it more than @number? For packets that open a connection */
void fvm_nft_expr_over(struct fvm_nl_batch *b, enum fvm_nft_measure measure, uint32_t number);
/** fvm_nft_expr_over_each() - the same, counted for each value of the first register, in the
 *  dynamic set @set */
void fvm_nft_expr_over_each(struct fvm_nl_batch *b, enum fvm_nft_measure measure, uint32_t number,
			    const char *set);

/** fvm_nft_expr_verdict() - @code: NF_ACCEPT, NFT_JUMP ..; @chain: NULL, or where to */
void fvm_nft_expr_verdict(struct fvm_nl_batch *b, int code, const char *chain);
/** fvm_nft_expr_reject() - refuse, and tell the sender that it is prohibited */
void fvm_nft_expr_reject(struct fvm_nl_batch *b);

#endif
