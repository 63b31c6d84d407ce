/*
 * Connections of a VM that has gone.
 *
 * An entry in the kernel's table of connections outlives who made it by up to two minutes, and by
 * five days if the VM was killed with the connection open. The VM that gets the slot next has the
 * same address: they would count for it, and packets of theirs would reach it. Looking through the
 * table takes the kernel milliseconds, so that is done only when there is something to find.
 */
#include <fcntl.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "fvm/net_table.h"

#define FILTER_SOURCE 1U /* CTA_FILTER_F_CTA_IP_SRC, which has no header for programs */
#define FEW	      4U /* this part of what a VM may have is not worth looking for */

static void begin(struct fvm_nl_batch *b, uint16_t message, uint16_t flags, uint8_t family)
{
	const uint16_t type = (uint16_t)(NFNL_SUBSYS_CTNETLINK << 8 | message);
	struct nfgenmsg *g = fvm_nl_begin(b, type, flags, sizeof(*g));
	g->nfgen_family = family;
	g->version = NFNETLINK_V0;
}

static int delete_one(const struct nlmsghdr *nlh, void *arg)
{
	const struct nfgenmsg *g = mnl_nlmsg_get_payload(nlh);
	struct fvm_nl_batch *b = arg;
	const struct nlattr *attr;
	begin(b, IPCTNL_MSG_CT_DELETE, 0, g->nfgen_family);
	mnl_attr_for_each(attr, nlh, sizeof(*g))
	{
		const uint16_t type = mnl_attr_get_type(attr);
		if (type == CTA_TUPLE_ORIG)
			mnl_attr_put(b->last, CTA_TUPLE_ORIG | NLA_F_NESTED,
				     mnl_attr_get_payload_len(attr), mnl_attr_get_payload(attr));
		else if (type == CTA_ID || type == CTA_ZONE)
			mnl_attr_put(b->last, type, mnl_attr_get_payload_len(attr),
				     mnl_attr_get_payload(attr));
	}
	fvm_nl_end(b);
	return MNL_CB_OK;
}

static void ask_for(struct fvm_nl_batch *b, const struct fvm_address *source)
{
	begin(b, IPCTNL_MSG_CT_GET, NLM_F_DUMP, source->family);
	struct nlattr *filter = mnl_attr_nest_start(b->last, CTA_FILTER);
	mnl_attr_put_u32(b->last, CTA_FILTER_ORIG_FLAGS, FILTER_SOURCE);
	mnl_attr_nest_end(b->last, filter);
	struct nlattr *tuple = mnl_attr_nest_start(b->last, CTA_TUPLE_ORIG);
	struct nlattr *ip = mnl_attr_nest_start(b->last, CTA_TUPLE_IP);
	mnl_attr_put(b->last, source->family == AF_INET ? CTA_IP_V4_SRC : CTA_IP_V6_SRC,
		     fvm_address_len(source), source->bytes);
	mnl_attr_nest_end(b->last, ip);
	mnl_attr_nest_end(b->last, tuple);
	fvm_nl_end(b);
}

/* What a kernel without ctnetlink keeps, ends by its own timeouts. */
static void remove_from(int sock, const struct fvm_address *source)
{
	scoped_nl_batch ask = { 0 }, deletions = { 0 };
	ask_for(&ask, source);
	if (fvm_nl_ask(sock, &ask, delete_one, &deletions) == 0 && deletions.count > 0)
		(void)fvm_nl_run(sock, &deletions, NULL);
}

static unsigned long entries(void)
{
	scoped_free char *text = NULL;
	(void)fvm_read_file(AT_FDCWD, "/proc/sys/net/netfilter/nf_conntrack_count", 32, &text,
			    NULL);
	return text ? strtoul(text, NULL, 10) : 0;
}

void fvm_net_flows_remove(struct net_work *w, const struct net_owner *owner)
{
	const uint32_t may = owner->connections ? owner->connections : w->state->connections;
	struct fvm_nft_guest guest;
	if (!may || entries() < may / FEW)
		return;
	scoped_fd sock = fvm_nl_open(NETLINK_NETFILTER);
	if (sock < 0)
		return;
	fvm_net_guest(w->state, owner->slot, &guest);
	remove_from(sock, &guest.a4);
	remove_from(sock, &guest.a6);
	/* it is not there if the VM has opened none */
	scoped_nl_batch b = { 0 };
	fvm_nft_begin(&b, 0);
	fvm_nft_opened(&b, NFT_MSG_DELSETELEM, guest.link);
	if (w->owns)
		(void)fvm_nft_run(w->nft, &b, NULL);
}
