/*
 * What a rootless VM may reach. slirp4netns and pasta know no destinations that are forbidden, so
 * the VM's own network namespace says so: it belongs to the user namespace around the VM's, in
 * which the builder is root and the VM's root is nobody. He may neither see these rules nor
 * change them, nor add an address, a route, or a packet socket.
 *
 * What he loses by that is given back as far as it goes: low ports may be bound by anybody, and
 * ping needs no raw socket.
 *
 * The host's own addresses are those it has at the start of the VM; one that it gets later is kept
 * from a VM only if it is private.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "fvm/net_user.h"
#include "fvm/nft.h"
#include "fvm/nft_expr.h"

#define TABLE	   "fvm"
#define CHAIN	   "out"
#define LOOPBACK   1
#define OFFSET4	   16 /* of the destination in the IP header */
#define OFFSET6	   24
#define DNS_PORT   53
#define REG	   FVM_NFT_REG(0)
#define CT_ANSWERS (NF_CT_STATE_BIT(IP_CT_ESTABLISHED) | NF_CT_STATE_BIT(IP_CT_RELATED))

/* ---- rules ---- */

static struct nlattr *rule_begin(struct fvm_nl_batch *b)
{
	return fvm_nft_rule_begin(b, TABLE, CHAIN);
}

/* meta @key is @value */
static void match_meta(struct fvm_nl_batch *b, uint32_t key, const void *value, size_t len)
{
	fvm_nft_expr_load(b, "meta", key, REG);
	fvm_nft_expr_compare(b, NFT_CMP_EQ, value, len);
}

static void accept_meta(struct fvm_nl_batch *b, uint32_t key, const void *value, size_t len)
{
	struct nlattr *list = rule_begin(b);
	match_meta(b, key, value, len);
	fvm_nft_expr_verdict(b, NF_ACCEPT, NULL);
	fvm_nft_rule_end(b, list);
}

/* To whoever came by a published port. */
static void accept_answers(struct fvm_nl_batch *b)
{
	struct nlattr *list = rule_begin(b);
	fvm_nft_expr_bits(b, "ct", NFT_CT_STATE, CT_ANSWERS);
	fvm_nft_expr_verdict(b, NF_ACCEPT, NULL);
	fvm_nft_rule_end(b, list);
}

/* The host counts these as the user's own: the limit is for who wants one. */
static void limit_connections(struct fvm_nl_batch *b, uint32_t connections)
{
	static const enum fvm_nft_measure measures[] = { FVM_NFT_OPENED, FVM_NFT_OPEN };
	for (size_t i = 0; i < FVM_COUNT(measures); i++) {
		struct nlattr *list = rule_begin(b);
		fvm_nft_expr_lacks(b, "ct", NFT_CT_STATUS, IPS_CONFIRMED);
		fvm_nft_expr_over(b, measures[i], connections);
		fvm_nft_expr_verdict(b, NF_DROP, NULL);
		fvm_nft_rule_end(b, list);
	}
}

static void match_destination(struct fvm_nl_batch *b, const struct fvm_address *to,
			      unsigned int bits)
{
	bool is6 = to->family == AF_INET6;
	const uint8_t family = is6 ? NFPROTO_IPV6 : NFPROTO_IPV4;
	const uint32_t len = (bits + 7) / 8;
	uint8_t ones[16];
	memset(ones, 0xff, sizeof(ones));
	match_meta(b, NFT_META_NFPROTO, &family, sizeof(family));
	fvm_nft_expr_payload(b, NFT_PAYLOAD_NETWORK_HEADER, is6 ? OFFSET6 : OFFSET4, len, REG);
	if (bits % 8) {
		ones[len - 1] = (uint8_t)(0xff << (8 - bits % 8));
		fvm_nft_expr_mask(b, ones, len);
	}
	fvm_nft_expr_compare(b, NFT_CMP_EQ, to->bytes, len);
}

/* slirp's own; other ports there might be somebody's */
static void accept_names(struct fvm_nl_batch *b)
{
	static const uint8_t protocols[] = { IPPROTO_UDP, IPPROTO_TCP };
	const uint16_t port = htons(DNS_PORT);
	struct fvm_address dns;
	(void)fvm_address_parse(FVM_SLIRP_DNS_ADDRESS, &dns);
	for (size_t i = 0; i < FVM_COUNT(protocols); i++) {
		struct nlattr *list = rule_begin(b);
		match_destination(b, &dns, 32);
		match_meta(b, NFT_META_L4PROTO, &protocols[i], 1);
		fvm_nft_expr_payload(b, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, REG);
		fvm_nft_expr_compare(b, NFT_CMP_EQ, &port, sizeof(port));
		fvm_nft_expr_verdict(b, NF_ACCEPT, NULL);
		fvm_nft_rule_end(b, list);
	}
}

static void reject(struct fvm_nl_batch *b, const struct fvm_address *to, unsigned int bits)
{
	struct nlattr *list = rule_begin(b);
	match_destination(b, to, bits);
	fvm_nft_expr_reject(b);
	fvm_nft_rule_end(b, list);
}

static void add_chain(struct fvm_nl_batch *b)
{
	fvm_nft_message(b, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, NFPROTO_INET);
	mnl_attr_put_strz(b->last, NFTA_TABLE_NAME, TABLE);
	fvm_nl_end(b);
	fvm_nft_message(b, NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL, NFPROTO_INET);
	mnl_attr_put_strz(b->last, NFTA_CHAIN_TABLE, TABLE);
	mnl_attr_put_strz(b->last, NFTA_CHAIN_NAME, CHAIN);
	struct nlattr *hook = mnl_attr_nest_start(b->last, NFTA_CHAIN_HOOK);
	fvm_nft_put32(b, NFTA_HOOK_HOOKNUM, NF_INET_LOCAL_OUT);
	fvm_nft_put32(b, NFTA_HOOK_PRIORITY, 0);
	mnl_attr_nest_end(b->last, hook);
	fvm_nft_put32(b, NFTA_CHAIN_POLICY, NF_ACCEPT);
	mnl_attr_put_strz(b->last, NFTA_CHAIN_TYPE, "filter");
	fvm_nl_end(b);
}

static void reject_all(struct fvm_nl_batch *b, const struct fvm_net_user *n)
{
	struct fvm_nft_prefix prefix;
	struct fvm_address to;
	for (size_t i = 0; i < n->count; i++)
		reject(b, &n->host[i], (unsigned int)fvm_address_len(&n->host[i]) * 8);
	for (size_t i = 0; fvm_nft_prefix(i, &prefix); i++) {
		if (!(prefix.is_private && n->private_networks) &&
		    fvm_address_parse(prefix.address, &to) == 0)
			reject(b, &to, prefix.bits);
	}
}

/* ---- before and in the namespace ---- */

void fvm_net_user_prepare(const struct fvm_config *config, struct fvm_net_user *ret)
{
	struct ifaddrs *all = NULL;
	*ret = (struct fvm_net_user){ .private_networks = config->private_networks,
				      .connections = config->connections };
	if (getifaddrs(&all) < 0)
		return;
	for (const struct ifaddrs *i = all; i && ret->count < FVM_COUNT(ret->host);
	     i = i->ifa_next) {
		struct fvm_address *a = &ret->host[ret->count];
		if (!i->ifa_addr || (i->ifa_flags & IFF_LOOPBACK))
			continue;
		if (i->ifa_addr->sa_family == AF_INET)
			memcpy(a->bytes, &((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr, 4);
		else if (i->ifa_addr->sa_family == AF_INET6)
			memcpy(a->bytes, &((struct sockaddr_in6 *)(void *)i->ifa_addr)->sin6_addr,
			       16);
		else
			continue;
		a->family = (uint8_t)i->ifa_addr->sa_family;
		ret->count++;
	}
	freeifaddrs(all);
}

/* Whatever is not there is missed later. */
void fvm_net_user_give_back(uint32_t ids)
{
	char text[32];
	(void)fvm_write_file(AT_FDCWD, "/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
	snprintf(text, sizeof(text), "0 %u", ids);
	(void)fvm_write_file(AT_FDCWD, "/proc/sys/net/ipv4/ping_group_range", text);
}

int fvm_net_user_make(const struct fvm_net_user *n, struct fvm_error *err)
{
	const uint32_t lo = LOOPBACK;
	const uint8_t icmp6 = IPPROTO_ICMPV6;
	scoped_nl_batch b = { 0 };
	if (unshare(CLONE_NEWNET) < 0)
		return fvm_error_set(err, errno, "make a network namespace");
	int r = fvm_net_lo_up(err);
	if (r < 0)
		return r;
	scoped_fd sock = fvm_nl_open(NETLINK_NETFILTER);
	if (sock < 0)
		r = sock;
	fvm_nft_begin(&b, 0);
	add_chain(&b);
	accept_meta(&b, NFT_META_OIF, &lo, sizeof(lo));
	accept_answers(&b);
	/* without it there are no neighbours */
	accept_meta(&b, NFT_META_L4PROTO, &icmp6, sizeof(icmp6));
	if (n->connections)
		limit_connections(&b, n->connections);
	accept_names(&b);
	reject_all(&b, n);
	if (r == 0)
		r = fvm_nft_run(sock, &b, NULL);
	if (r < 0) {
		fvm_error_set(err, -r, "keep the VM from metadata and private networks");
		fvm_error_hint(err, "this kernel has no nf_tables: modprobe nf_tables nft_ct "
				    "nft_reject_inet, or use --net none");
	}
	return r;
}
