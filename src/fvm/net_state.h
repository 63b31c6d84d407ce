/*
 * fvm/net_state - what all VMs of one host (network namespace) share, in /run/fvm/net-COOKIE
 *
 * Theory of operation
 *   One file per network namespace, named after its cookie, which is never used twice between two
 *   boots; so a lab's hosts do not meet each other's. It is mapped while flock(2) on it is held,
 *   and written before what it describes is done: whoever is killed in between leaves something
 *   that the next one finds and puts right. It is sparse: only what is used takes memory. The last
 *   VM's end removes it.
 *
 * Versions
 *   A package is upgraded while VMs run. The file outlives that, as do the keeper and PID 1s, so it
 *   has numbers of its own, which the version of fvm says nothing about:
 *     format  NET_FORMAT: this file, and what its processes tell each other (signals). Who finds
 *             another one refuses, unless there is no table, and so no VM, any more. What is added
 * later goes into a spare, where 0 means "as before"; only what can't be said so is a new format.
 *     rules   NET_RULES: what the table consists of (nft.c) and who keeps it. To be raised with
 *             every change of the rules. A start that finds older ones makes the table anew, for
 *             all VMs, in one transaction, and a keeper of its own takes the old one's place. Who
 *             finds newer ones uses them: it puts its VM's elements in, and changes nothing else.
 */
#ifndef FVM_NET_STATE_H
#define FVM_NET_STATE_H

#include "fvm/nft.h"
#include "fvm/slot.h"

#define NET_FORMAT    3
#define NET_RULES     2

#define NET_PORTS_MAX 4096 /* published on one host */
#define NET_LINKS_MAX 128
#define NET_NAMES_MAX 16 /* name servers seen since the first VM */

struct net_holder { /* a process with the table's socket: net_table.h */
	int32_t pid;
	uint32_t zero;
	uint64_t start;
};

struct net_owner { /* who has a slot */
	struct net_holder holder;
	uint32_t slot;
	uint32_t since_s; /* CLOCK_BOOTTIME */
	char id[16];	  /* first half of the VM's id */
	uint8_t private_networks;
	uint8_t zero[3];
	uint32_t connections; /* a limit of its own, or 0 */
	uint8_t spare[16];
};

struct net_published {
	uint32_t slot;
	struct fvm_nft_port port;
	char vm[FVM_NAME_MAX + 1];
};

struct net_link {
	char name[16];
	uint8_t accept_ra; /* we have set it to 2, and it was this */
};

struct net_state {
	char magic[6];
	uint8_t format, rules; /* see "Versions" */
	uint32_t owner_count;  /* VMs */
	uint32_t generation;   /* of the host's rules after our last transaction */
	uint64_t socket;       /* inode of the table's */
	struct net_holder keeper;
	struct fvm_net_range range;
	uint8_t forward4, forward6; /* turned on by us */
	uint8_t drop_only;	    /* this kernel can not reject */
	uint8_t stale;		    /* the table is not as we want it */
	uint32_t link_count;	    /* links there were when we turned it on */
	struct net_link links[NET_LINKS_MAX];
	uint32_t name_count;
	struct fvm_address names[NET_NAMES_MAX];
	uint8_t known[FVM_SLOTS / 8]; /* slots whose addresses are in the table */
	uint32_t connections; /* that most VMs may have */
	uint8_t uncounted;    /* this kernel can not count them */
	uint8_t spare[507];
	uint32_t published_count;
	struct net_published published[NET_PORTS_MAX]; /* dense, as is: */
	struct net_owner owners[FVM_SLOTS];
};

struct net_lock { /* starts as { .fd = -1 } */
	int fd;
	struct net_state *state;
	char path[48], names[48]; /* of the state; of the name servers, for PID 1 of each VM */
};

void fvm_net_unlock(struct net_lock *lock);
#define scoped_net_lock __attribute__((cleanup(fvm_net_unlock))) struct net_lock

/**
 * fvm_net_lock() - lock and map this network namespace's state
 * @make: make an empty one if there is none; else -ENOENT
 * Return: 0, or -EPROTONOSUPPORT (it has another format, and VMs that use it run)...
 */
int fvm_net_lock(bool make, struct net_lock *ret, struct fvm_error *err);

/** fvm_net_forget() - the last VM is gone: remove the file (and unlock) */
void fvm_net_forget(struct net_lock *lock);

/** fvm_net_owner() - who has @slot. Return: NULL: nobody */
struct net_owner *fvm_net_owner(struct net_state *state, uint32_t slot);

/** fvm_net_guest() - how the table sees the VM of @slot; addresses follow from the slot */
void fvm_net_guest(const struct net_state *state, uint32_t slot, struct fvm_nft_guest *ret);

/** fvm_net_gateway() - the host's address towards the VM of @slot */
void fvm_net_gateway(const struct fvm_net_range *range, uint8_t family, uint32_t slot,
		     struct fvm_address *ret);

/* ---- subnet.c ---- */

/** fvm_net_range_choose() - addresses that nothing here routes to; @wish, if it is of those and ours
 *  to choose; may be NULL. Return: 0 or -errno */
int fvm_net_range_choose(int rtnl, const struct fvm_net_range *wish, struct fvm_net_range *ret);

/** fvm_net_wish_range() - the range in which the addresses are. Return: 0, or -EINVAL: none of ours */
int fvm_net_wish_range(const struct fvm_net_wish *wish, struct fvm_net_range *ret);

/** fvm_net_has_ipv6() - does this host have a way to the IPv6 world? */
bool fvm_net_has_ipv6(int rtnl);

/** fvm_net_address_is_local() - is it an address of this host? */
bool fvm_net_address_is_local(int rtnl, const struct fvm_address *a);

/* A set of IPv4 prefixes, to choose beside; split from the choice for its test. */
struct fvm_net_taken {
	struct {
		uint32_t address; /* host byte order */
		uint8_t bits;
	} * items;
	size_t count;
	bool failed;
};
/** fvm_net_range4_pick() - the first of our candidates that overlaps none; -EADDRINUSE when all do
 */
int fvm_net_range4_pick(const struct fvm_net_taken *taken, uint8_t ret[2]);

/* ---- forward.c ---- */

/** fvm_net_forward_note() - write down what will be turned on. Return: whether anything will be */
bool fvm_net_forward_note(struct net_state *state, uint8_t family);

/** fvm_net_forward_on() - let the kernel forward for @family (noted before) */
int fvm_net_forward_on(struct net_state *state, uint8_t family, struct fvm_error *err);

/** fvm_net_forward_back() - as it was, unless somebody who came later seems to rely on it */
void fvm_net_forward_back(struct net_state *state);

#endif
