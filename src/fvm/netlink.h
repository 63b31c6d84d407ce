/*
 * fvm/netlink - batches of netlink messages, and the few links, addresses and routes we make
 *
 * Theory of operation
 *   A batch grows in memory and goes to the kernel in one sendmsg(2), which has answered when it
 *   returns: reading the answers never waits. fvm_nl_run() gives the first error and the number of
 *   the message that had it. libmnl builds the attributes; every message has NL_ROOM bytes free.
 */
#ifndef FVM_NETLINK_H
#define FVM_NETLINK_H

#include <libmnl/libmnl.h>
#include <stdint.h>

#include "common/common.h"

#define NL_ROOM 4096

struct fvm_nl_batch { /* starts as { 0 } */
	char *buf;
	size_t len, cap;
	uint32_t count;	       /* messages so far; number i has sequence number i + 1 */
	struct nlmsghdr *last; /* being built, or the last that was */
	bool failed;	       /* out of memory: everything goes to @scrap */
	char scrap[NL_ROOM];
};

void fvm_nl_batch_free(struct fvm_nl_batch *b);
#define scoped_nl_batch __attribute__((cleanup(fvm_nl_batch_free))) struct fvm_nl_batch

/** fvm_nl_open() - a socket of @protocol in this thread's network namespace. Return: fd or -errno
 */
int fvm_nl_open(int protocol);

/** fvm_nl_begin() - a new message with @extra_bytes of family header, zeroed and returned */
void *fvm_nl_begin(struct fvm_nl_batch *b, uint16_t type, uint16_t flags, size_t extra_bytes);
/** fvm_nl_end() - the message is whole */
void fvm_nl_end(struct fvm_nl_batch *b);

/**
 * fvm_nl_run() - send the batch and gather what the kernel says
 * @ret_failed: number of the first message that failed; may be NULL
 * Return: 0 if all succeeded, or the negative errno of the first that did not
 */
int fvm_nl_run(int sock, struct fvm_nl_batch *b, uint32_t *ret_failed);

/** fvm_nl_ask() - send a batch of one request or dump, and pass each answer to @each (mnl_cb_t) */
int fvm_nl_ask(int sock, struct fvm_nl_batch *b, mnl_cb_t each, void *arg);

/* ---- rtnetlink: add one message to a batch ---- */

/** struct fvm_address - IPv4 or IPv6 */
struct fvm_address {
	uint8_t family; /* AF_INET, AF_INET6 */
	uint8_t bytes[16];
};

static inline size_t fvm_address_len(const struct fvm_address *a)
{
	return a->family == 2 ? 4 : 16;
}

struct fvm_veth {
	const char *name, *peer;	/* names of the ends, here and in the other namespace */
	unsigned int index, peer_index; /* their numbers in their namespaces */
	uint8_t mac[6], peer_mac[6];
	int netns; /* where the peer goes; or, when < 0, to @pid's */
	pid_t pid;
};

void fvm_nl_veth(struct fvm_nl_batch *b, const struct fvm_veth *veth);
/** fvm_nl_link_quiet6() - no IPv6 address of its own making; before it is up. Fails without IPv6 */
void fvm_nl_link_quiet6(struct fvm_nl_batch *b, unsigned int index);
void fvm_nl_link_up(struct fvm_nl_batch *b, unsigned int index);
void fvm_nl_link_delete(struct fvm_nl_batch *b, const char *name);
/** fvm_nl_addr() - one address of ours, ready at once (no DAD) */
void fvm_nl_addr(struct fvm_nl_batch *b, unsigned int index, const struct fvm_address *a,
		 uint8_t scope);
/** fvm_nl_route_host() - @to is on the link @index; @from (may be NULL) is our address for it */
void fvm_nl_route_host(struct fvm_nl_batch *b, unsigned int index, const struct fvm_address *to,
		       const struct fvm_address *from);
/** fvm_nl_route_default() - everything goes to @via, which need not be in a network of ours */
void fvm_nl_route_default(struct fvm_nl_batch *b, unsigned int index,
			  const struct fvm_address *via);
/** fvm_nl_neighbour() - @who has @mac for ever: nobody asks, and no table can overflow */
void fvm_nl_neighbour(struct fvm_nl_batch *b, unsigned int index, const struct fvm_address *who,
		      const uint8_t mac[6]);

/** fvm_nl_index() - number of the link @name. Return: > 0, or -ENODEV... */
int fvm_nl_index(const char *name);

/** fvm_address_parse() - from text. Return: 0 or -EINVAL */
int fvm_address_parse(const char *text, struct fvm_address *ret);
/** fvm_address_print() - @size at least 46 */
void fvm_address_print(const struct fvm_address *a, char *ret, size_t size);

#endif
