/*
 * fvm/net - a VM's network: nat, none or host; published ports; names
 *
 * Theory of operation (nat, privileged)
 *   A veth pair without a bridge: the host's end "fvmN" (N: slot) has the gateway's address and a
 *   /32 (/128) route to the VM; the VM's end eth0 has its address and a default route "onlink".
 *   So nothing is flooded, no bridge's 1023 ports limit, and VMs can not see each other. One nft
 *   table "inet fvm", installed once and taken away with the last VM, holds everything: masquerade
 *   of the VMs' addresses, and a forward and an input chain which drop VM to VM, VM to host
 *   (except DNS to the forwarder), link-local and metadata addresses, and, unless a policy says
 *   so, nothing of private networks. Verdict maps and sets by interface name make a VM two set
 *   elements, so that a thousand VMs cost what one does. Published ports are DNAT map elements,
 *   also for connections from the host itself.
 *   ip_forward is remembered in RUN when we turn it on and put back with the last VM.
 *   All of it is netlink (libmnl); nothing is run.
 *
 *   Order at start: fvm_net_prepare() in the starter (table there? addresses free?), then
 *   fvm_net_attach() once PID 1's network namespace exists (one RTM_NEWLINK with the peer put
 *   into it), then fvm_net_inside() called in that namespace.  For a lab and for tests, everything
 *   happens in the caller's network namespace.
 */
#ifndef FVM_NET_H
#define FVM_NET_H

#include "fvm/config.h"

struct fvm_port {
	char host_address[46];	/* "" any */
	uint16_t host_port, guest_port;
	bool udp;
};

struct fvm_net {	/* what one VM got */
	uint32_t slot;
	char interface[16];
	char address4[16], gateway4[16];
	char address6[46], gateway6[46]; /* "" when the host has no IPv6 */
	struct fvm_port *ports;
	size_t port_count;
	bool private_networks;	/* policy: RFC 1918 and ULA destinations allowed */
};

void fvm_net_free(struct fvm_net *net);

/** fvm_port_parse() - "[ADDR:]HOST:GUEST[/tcp|udp]". Return: 0 or -EINVAL with an example */
int fvm_port_parse(const char *text, struct fvm_port *ret, struct fvm_error *err);

/** fvm_net_prepare() - choose addresses for @slot and see that the host is ready; may be slow once
 *  Return: 0, -EADDRINUSE (port taken: by whom if known), -EOPNOTSUPP (no nft, no veth: which) */
int fvm_net_prepare(uint32_t slot, const struct fvm_config *config, struct fvm_net *ret,
		    struct fvm_error *err);

/** fvm_net_attach() - make the pair, put one end into @netns, route, open the ports
 *  @netns: descriptor of the VM's network namespace, or with @pid > 0 that process' */
int fvm_net_attach(const struct fvm_net *net, int netns, pid_t pid, struct fvm_error *err);

/** fvm_net_inside() - called inside the VM's namespace: lo, eth0, addresses, routes. */
int fvm_net_inside(const struct fvm_net *net, struct fvm_error *err);

/** fvm_net_lo_up() - net=none: only lo */
int fvm_net_lo_up(struct fvm_error *err);

/** fvm_net_detach() - close ports, delete the pair if it is still there; table with the last VM */
void fvm_net_detach(const struct fvm_net *net);

/** fvm_net_detach_slot() - the same for a VM of which only the slot is known (crash) */
void fvm_net_detach_slot(uint32_t slot);

/** fvm_net_resolv_conf() - contents for the VM's /etc/resolv.conf, to be freed
 *  On hosts whose resolver listens on loopback the VM gets the upstream servers if they can be
 *  known, else the gateway's forwarder (see resolv.c). */
int fvm_net_resolv_conf(const struct fvm_net *net, char **ret, struct fvm_error *err);

/* ---- rootless: slirp.c ---- */

/**
 * fvm_slirp_start() - start pasta or slirp4netns for the namespaces of @init
 * Started with CAP-free options only (pasta: -t none -u none -T none -U none --no-map-gw;
 * slirp4netns: --disable-host-loopback), dies with @init's pidfd. Does not wait for it to be ready.
 * Return: its pid, or -ENOENT (neither is installed)
 */
pid_t fvm_slirp_start(pid_t init, const struct fvm_config *config, struct fvm_error *err);

#endif
