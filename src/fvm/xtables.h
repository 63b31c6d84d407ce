/*
 * fvm/xtables - VMs' packets through the rules of iptables-legacy
 *
 * Theory of operation
 *   The kernel has two filters, and a packet has to pass both. What iptables-legacy (and a docker
 *   that uses it) puts up is in tables that nftables does not see: with a forward chain that drops
 *   what it does not know, no VM would have a network. So where the table "filter" is there, "-i
 *   fvm+" and "-o fvm+" are accepted at the head of FORWARD, as firewall.c does for nftables. What
 *   VMs may do is still decided by our own table.
 *
 *   Such a table is read and replaced as a whole: entries of variable length one after the other,
 *   whose jumps and chain heads are offsets from the table's start. What comes behind the new
 *   entries moves by their length, and with it every offset that points there. The counters of the
 *   old table are given to the new one. The lock of iptables(8) is held meanwhile; a table that
 *   changed nevertheless is refused with EAGAIN.
 *   /proc/net/ip_tables_names is asked first, as asking for a table makes the kernel load it.
 *   Nobody tells of changes: the keeper looks every few seconds where such a table is.
 *   Sources: linux/netfilter_ipv4/ip_tables.h, iptables-extensions(8) "comment".
 */
#ifndef FVM_XTABLES_H
#define FVM_XTABLES_H

#include "common/common.h"

/** fvm_xtables_used() - whether this network namespace has such a table "filter" */
bool fvm_xtables_used(void);

/** fvm_xtables_open() - see to it that our entries are there. Return: entries added, or -errno */
int fvm_xtables_open(void);

/** fvm_xtables_close() - take them out. Return: entries removed, or -errno */
int fvm_xtables_close(void);

#endif
