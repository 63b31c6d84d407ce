/*
 * fvm/net - a VM's network: nat, none or host; published ports; names
 *
 * Theory of operation (nat, privileged)
 *   A veth pair without a bridge: the host's end "fvmN" (N: slot) has the gateway's address and a
 *   /32 (/128) route to the VM; the VM's end eth0 has its address and a default route "onlink".
 *   The pair goes with the VM's namespace. Both ends know the other's hardware
 *   address for good: nothing is asked, flooded, or waited for (no ARP, no DAD), no bridge's 1023
 *   ports or neighbour table's 1024 entries limit, and VMs can not see each other.
 *   One nft table "inet fvm" (nft.h), installed with the first VM and taken away after the last,
 *   and which nobody else can flush (net_table.h), holds everything: masquerade of VMs' addresses,
 * what they may not reach (each other, the host, link-local, metadata, and private networks unless
 * a policy says so), and DNAT for published ports, also from the host itself. What other firewalls
 * drop is let through by a rule of ours in their chain (firewall.c). ip_forward is put back with
 * the last VM (forward.c). What is shared stands in /run/fvm/net-COOKIE, one file per network
 * namespace (net_state.h). All of it is netlink (libmnl); nothing is run.
 *
 *   Order at start: fvm_net_prepare() in the starter: addresses, table, ports; then
 *   fvm_net_attach() once PID 1's network namespace exists (one RTM_NEWLINK with the peer put
 *   into it; what is set inside is set by a socket of the host's root, opened there),
 *   fvm_net_serve() at any time after, and fvm_net_settle() once the VM runs.
 *   Whatever was prepared is detached, also when the start fails. For a lab and for tests,
 *   everything happens in the caller's network namespace.
 */
#ifndef FVM_NET_H
#define FVM_NET_H

#include "fvm/config.h"

struct fvm_port {
	char host_address[46]; /* "" any */
	uint16_t host_port, guest_port;
	bool udp;
};

/* What a VM that goes on should have again, because its connections have it: as text; "" none. */
struct fvm_net_wish {
	char address4[16];
	char address6[48];
};

struct fvm_net { /* what one VM got */
	uint32_t slot;
	char id[33]; /* the VM's: a slot that another VM has by now is left alone */
	char interface[16];
	char address4[16], gateway4[16];
	char address6[46], gateway6[46]; /* "" when the host has no IPv6 */
	struct fvm_port *ports;
	size_t port_count;
	bool private_networks; /* policy: RFC 1918 and ULA destinations allowed */
	uint32_t connections;  /* a limit of its own; 0: as most VMs */
	bool shut; /* nothing comes in until vin_netlock_open() */
	/* for PID 1 to hold; 0: none */
	int socket; /* the table's: net_table.h */
	int names;  /* resolv.conf as it should be, when it has changed: resolv.h */
	pid_t keeper; /* see net_table.h; it may have ended since */
	uint64_t keeper_start;
};

void fvm_net_free(struct fvm_net *net);

/** fvm_port_parse() - "[ADDR:]HOST:GUEST[/tcp|udp]". Return: 0 or -EINVAL with an example */
int fvm_port_parse(const char *text, struct fvm_port *ret, struct fvm_error *err);

/** fvm_ports_check() - nobody on the host listens there. Return: 0 or -EADDRINUSE (who does) */
int fvm_ports_check(const struct fvm_port *ports, size_t count, struct fvm_error *err);

/** fvm_net_prepare() - choose addresses for @slot, open its ports, make the host ready
 *  @wish: addresses to have again, of which the slot was made (fvm_net_wish_slot()), if they are free;
 *         the VM's network is shut then (vin/netlock), until its programs are there; may be NULL
 *  A few hundred microseconds for the first VM, less for others. fvm_net_detach() undoes it.
 *  Return: 0, -EADDRINUSE (port taken: by whom if known), -EOPNOTSUPP (no nft, no veth: which) */
int fvm_net_prepare(uint32_t slot, const struct fvm_config *config, const struct fvm_net_wish *wish,
		    struct fvm_net *ret, struct fvm_error *err);

/** fvm_net_wish_slot() - whose addresses they were. Return: slot, or -1: of none */
int fvm_net_wish_slot(const struct fvm_net_wish *wish);

/** fvm_net_attach() - make the pair, put one end into @netns, and give both addresses and routes
 *  @netns: descriptor of the VM's network namespace, or with @pid > 0 that process' */
int fvm_net_attach(const struct fvm_net *net, int netns, pid_t pid, struct fvm_error *err);

/**
 * fvm_net_settle() - @init has net->socket, too: note that, and see that there is a keeper
 * @keep: called in a new keeper, with the starter's rights: makes what it keeps for other starts.
 *        Return: descriptor, or negative errno; may be NULL
 * Not urgent: until then the starter is known to have it, who must stay so long.
 */
void fvm_net_settle(const struct fvm_net *net, pid_t init, int (*keep)(void *arg), void *arg);

/** fvm_net_kept() - what the keeper keeps, if @fits() says so
 *  Return: a descriptor of one's own, -ENOENT, or another negative errno */
int fvm_net_kept(const struct fvm_net *net, bool (*fits)(int fd, const void *arg), const void *arg);

/**
 * fvm_net_serve() - start the process that some VMs need: see relay.h
 * For published ports on the host's loopback, and for names when the host's resolver listens on
 * loopback only. After fvm_net_attach(). It ends with @init by itself and is no child of the caller's.
 * Return: its pid, 0 when none is needed, or -EADDRINUSE...
 */
pid_t fvm_net_serve(const struct fvm_net *net, pid_t init, struct fvm_error *err);
/** fvm_net_needs_relay() - whether it is needed: 1, 0, or negative errno, which is told by then */
int fvm_net_needs_relay(const struct fvm_net *net);

/** fvm_net_connections() - how many the VM of @slot may have; 0: this kernel can't count them
 *  Return: 0, or -ENOENT: it has no such network */
int fvm_net_connections(uint32_t slot, uint32_t *ret);

/** fvm_net_lo_up() - net=none: only lo */
int fvm_net_lo_up(struct fvm_error *err);

/** fvm_net_detach() - close ports, forget the addresses; the table goes soon after the last VM
 *  The pair is left to the end of the namespace (deleting it takes 10 ms); from here on it leads
 *  nowhere, and who gets the slot next removes what is left of it. */
void fvm_net_detach(const struct fvm_net *net);

/** fvm_net_detach_slot() - the same for a VM of which only slot and id are known (crash) */
void fvm_net_detach_slot(uint32_t slot, const char *id);

/** fvm_net_resolv_conf() - contents for the VM's /etc/resolv.conf, to be freed
 *  On hosts whose resolver listens on loopback the VM gets the upstream servers if they can be
 *  known, else the address of its relay (see resolv.h). @net: NULL for a rootless VM */
int fvm_net_resolv_conf(const struct fvm_net *net, char **ret, struct fvm_error *err);

/* ---- rootless: slirp.c ---- */

#define FVM_SLIRP_DNS_ADDRESS "10.0.2.3"

/* One start of it. */
struct fvm_slirp {
	pid_t pid; /* of the process that watches over it; 0: none */
	int vm;	   /* takes the pid of the VM's PID 1; when it closes before that, all ends */
	int ready; /* slirp4netns tells when it is */
};

/**
 * fvm_slirp_start() - start slirp4netns or pasta for network namespace @net
 * slirp4netns is taken when no port is published, else pasta, which can do that; neither is let
 * near the host's loopback (see slirp.c). Does not wait until it is ready.
 * @ret: on success to be told of the VM, and closed
 * Return: 0, or -ENOENT (none is installed), -EACCES (no /dev/net/tun)...
 */
int fvm_slirp_start(int net, const struct fvm_config *config, struct fvm_slirp *ret,
		    struct fvm_error *err);

/** fvm_slirp_may_be_late() - whether it can be started when somebody asks for it, see below. False
 *  too where it can't be started at all, which fvm_slirp_start() tells */
bool fvm_slirp_may_be_late(const struct fvm_config *config);

/**
 * fvm_slirp_start_late() - slirp4netns for @net when a byte comes over @ask, or in a moment
 * A byte comes back when it is ready; @ask hangs up when it never will be.
 * @init: pidfd of the VM's PID 1, with which it ends
 * Return: pid of the process that does it, or negative errno
 */
pid_t fvm_slirp_start_late(int net, int init, int ask, struct fvm_error *err);

/** fvm_slirp_tell() - it shall end with @init. Return: 0 or negative errno */
int fvm_slirp_tell(struct fvm_slirp *s, pid_t init);

/** fvm_slirp_wait() - until @init's network works. Return: 0, -ETIMEDOUT, or -ECHILD: it has ended
 */
int fvm_slirp_wait(const struct fvm_slirp *s, pid_t init, unsigned int timeout_ms);

void fvm_slirp_close(struct fvm_slirp *s);

#endif
