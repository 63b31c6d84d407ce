/*
 * fvm/resolv - which name servers a VM can ask
 *
 * Theory of operation
 *   A VM reaches what its host's /etc/resolv.conf names, unless that is the host itself: a stub
 *   on loopback (systemd-resolved, dnsmasq) or on an address of the host's own. Stubs leave a
 *   file with the servers they ask themselves; those are taken then. Where no such file is, the
 *   VM asks FVM_DNS_ADDRESS on its own loopback, where a relay (relay.h) listens that passes
 *   questions on to the host's resolver: nothing has to be opened between VM and host, and
 *   route_localnet, which would show the host's loopback to VMs, stays off.
 *   Hosts travel: the keeper (net_table.h) watches these files, lets VMs reach the new servers,
 *   writes them into FVM_NAMES_FILE and signals each VM's PID 1, which has that file open and puts
 *   it where the VM's programs look, unless the VM has made a file of its own there (renew.c).
 */
#ifndef FVM_RESOLV_H
#define FVM_RESOLV_H

#include "fvm/netlink.h"

#define FVM_DNS_ADDRESS	   "127.0.66.53"
#define FVM_NAMES_SIGNAL   SIGURG /* ignored by who does not know of it */
#define FVM_NAMES_BYTES	   4096
#define FVM_RESOLV_SERVERS 3 /* what the C library looks at */

struct fvm_resolv {
	struct fvm_address servers[FVM_RESOLV_SERVERS]; /* that a VM reaches by itself */
	size_t count;
	struct fvm_address host; /* else: the host's resolver, for the relay */
	char *rest;		 /* search and options lines */
};

void fvm_resolv_free(struct fvm_resolv *r);
#define scoped_resolv __attribute__((cleanup(fvm_resolv_free))) struct fvm_resolv

/**
 * fvm_resolv_read() - from the files of the host below @root ("" for /)
 * Without any file, or with an empty one, the host's resolver is 127.0.0.1, as resolv.conf(5) says.
 */
int fvm_resolv_read(const char *root, struct fvm_resolv *ret);

/** fvm_resolv_watch() - have @inotify tell when any of these files changes; may be repeated */
void fvm_resolv_watch(int inotify);

/** fvm_resolv_needs_relay() - does a VM, with or without IPv6, reach none of the servers? */
bool fvm_resolv_needs_relay(const struct fvm_resolv *r, bool has6);

#endif
