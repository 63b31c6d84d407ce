/*
 * fvm/nft - the table "inet fvm": what VMs may reach, and who may reach them
 *
 * Theory of operation
 *   The rules are fixed (nft.c has them as a table); what differs between VMs are elements of sets
 *   and maps, keyed by the host's end of the VM's link or by address:
 *
 *     guests4 guests6    link . address    a packet from a link must have its VM's address
 *     private            link              may reach private networks
 *     names4 names6      address . 53      name servers, wherever they are
 *     never4 never6      prefix            metadata, link-local, multicast: nobody
 *     private4 private6  prefix            not without "private"
 *     quiet4 quiet6      link              the host did not forward between these before us
 *     opened open        link              filled by packets: connections made of late, and open
 *     limits             link              -> chain with the VM's own limit of these
 *     ports4 ports6      protocol . port           -> VM's address . port
 *     at4 at6            address . protocol . port -> VM's address . port
 *
 *   So a thousand VMs cost a packet what one does, and a VM's coming is one small transaction of
 *   elements. Addresses of VMs that are gone stay in guests4 and guests6 until the table goes: they
 *   let nobody do anything, and a deletion makes the next to close a netfilter socket wait 10 ms,
 *   with the lock of all transactions held (nft_rcv_nl_event() flushes what was deleted). A
 * transaction that names a generation fails with -ERESTART when anybody else has changed the host's
 * rules since that was read.
 */
#ifndef FVM_NFT_H
#define FVM_NFT_H

#include "fvm/net.h"
#include "fvm/netlink.h"

/* The addresses of this host's VMs. */
struct fvm_net_range {
	uint8_t base4[2]; /* a /16 */
	uint8_t base6[8]; /* a /64 */
};

/* One VM, as the table sees it. */
struct fvm_nft_guest {
	char link[16];
	struct fvm_address a4, a6;
};

/* One published port. */
struct fvm_nft_port {
	struct fvm_address to; /* VM's address */
	struct fvm_address at; /* host's address; family 0: any */
	uint16_t host, guest;
	uint8_t protocol; /* IPPROTO_TCP, IPPROTO_UDP */
};

/** fvm_nft_generation() - number of the last change to the host's rules. Return: 0 or -errno */
int fvm_nft_generation(int sock, uint32_t *ret);

/** fvm_nft_begin() - start a transaction; @generation: see above, 0 for any */
void fvm_nft_begin(struct fvm_nl_batch *b, uint32_t generation);
/** fvm_nft_run() - end it and have it done, whole or not at all. As fvm_nl_run(). */
int fvm_nft_run(int sock, struct fvm_nl_batch *b, uint32_t *ret_failed);

struct fvm_nft_table {
	const struct fvm_net_range *range;
	bool reject;	      /* refuse audibly, else drop */
	uint32_t connections; /* that a VM without a limit of its own may have; 0: nobody counts */
};

/** fvm_nft_table_add() - the whole empty table, owned by the socket that sends it */
void fvm_nft_table_add(struct fvm_nl_batch *b, const struct fvm_nft_table *table);
void fvm_nft_table_delete(struct fvm_nl_batch *b);
/** fvm_nft_table_find() - Return: 1 it is there, 0 it is not, or -errno */
int fvm_nft_table_find(int sock);

/* What no VM may reach, or only by policy. */
struct fvm_nft_prefix {
	const char *address;
	unsigned int bits;
	bool is_private;
};

/** fvm_nft_prefix() - the one with number @i, from 0. Return: false: there are no more */
bool fvm_nft_prefix(size_t i, struct fvm_nft_prefix *ret);

/* ---- elements: @type is NFT_MSG_NEWSETELEM or NFT_MSG_DELSETELEM; one message each ---- */

void fvm_nft_guest(struct fvm_nl_batch *b, uint16_t type, const struct fvm_nft_guest *guest);
void fvm_nft_private(struct fvm_nl_batch *b, uint16_t type, const char *link);
/** fvm_nft_opened() - what is remembered of how many connections a VM made of late */
void fvm_nft_opened(struct fvm_nl_batch *b, uint16_t type, const char *link);
/** fvm_nft_limit() - a VM's own limit of connections; several messages */
void fvm_nft_limit(struct fvm_nl_batch *b, uint16_t type, const char *link, uint32_t connections);
void fvm_nft_port(struct fvm_nl_batch *b, uint16_t type, const struct fvm_nft_port *port);
void fvm_nft_name_server(struct fvm_nl_batch *b, uint16_t type, const struct fvm_address *a);
void fvm_nft_quiet(struct fvm_nl_batch *b, uint16_t type, uint8_t family, const char *link);

/* ---- other people's tables: firewall.c ---- */

/**
 * fvm_firewall_open() - add to a transaction what lets VMs' packets through others' rules
 *
 * Accepting in our table does not help where another's forward chain drops what it does not know
 * (docker, ufw, firewalld). There, "-i fvm+" and "-o fvm+" are accepted at the chain's head, once,
 * encoded as iptables-nft would. What VMs may do is still decided by our own table.
 * Return: number of rules added, or -errno
 */
int fvm_firewall_open(int sock, struct fvm_nl_batch *b);

/** fvm_firewall_close() - add to a transaction the removal of these rules. Return: as above */
int fvm_firewall_close(int sock, struct fvm_nl_batch *b);

#endif
