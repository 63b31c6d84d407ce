/*
 * fvm/net_table - the table "inet fvm" kept as the state says, and kept from being flushed
 *
 * Theory of operation
 *   The table belongs to a socket (NFT_TABLE_F_OWNER): nobody else can change it, "nft flush
 *   ruleset" passes it by, and the kernel takes it away when the socket's last descriptor closes.
 *   PID 1 of every VM with a network holds one (and can do nothing with it: the kernel asks for
 *   rights over the host's network each time), so that the rules last exactly as long as there is
 *   somebody whom they hold; a crash leaves none.
 *   Who wants to change the table copies the descriptor out of a process that has it
 *   (pidfd_getfd(2)), under the state's lock: the *keeper*, or else a VM's PID 1.
 *
 *   The keeper is one process per host (network namespace), started behind the first VM. It puts
 *   our rules back into others' chains when those were reloaded (firewall.c), passes on which name
 *   servers the host has now, and takes the table away LINGER_MS after the last VM: that waits for
 *   the kernel's RCU and would hold up the next start for 10 to 20 ms, while a start that comes
 *   before finds the table ready. Killed, it leaves rules that hold; the next start makes another.
 *   Limits: with kernel.yama.ptrace_scope=3 nobody can copy a descriptor, and a second VM with a
 *   network is refused.
 */
#ifndef FVM_NET_TABLE_H
#define FVM_NET_TABLE_H

#include "fvm/net_state.h"

/* What one call works on; starts as { .lock.fd = -1, .rtnl = -1, .nft = -1 }. */
struct net_work {
	struct net_lock lock;
	struct net_state *state;
	int rtnl, nft;
	uint32_t slot;
	bool want6;
	bool owns; /* @nft is the table's socket, and the table is there */
};

void fvm_net_work_close(struct net_work *w);
#define scoped_net_work __attribute__((cleanup(fvm_net_work_close))) struct net_work

/**
 * fvm_net_work_open() - lock the state, find the table's socket or have a new one in its place
 * @make: a state if there is none; else -ENOENT
 */
int fvm_net_work_open(struct net_work *w, uint32_t slot, bool make, struct fvm_error *err);

/** fvm_net_install() - bring the table to what the state says of w->slot and all others
 *  @quiet_changed: links were noted */
int fvm_net_install(struct net_work *w, bool quiet_changed, struct fvm_error *err);

/** fvm_net_tend() - the keeper's: name servers of now, our rules in others' chains. Return: 0... */
int fvm_net_tend(struct net_work *w);

/** fvm_net_disown() - @owner's VM is gone, from the table and the state */
void fvm_net_disown(struct net_work *w, struct net_owner *owner);

/** fvm_net_remove_lost() - VMs that were killed and that nobody has tidied up after;
 *  with more than @most VMs that is left to the keeper */
void fvm_net_remove_lost(struct net_work *w, uint32_t most);

/** fvm_net_remove_all() - there is no VM any more: table, rules, forwarding, state file */
void fvm_net_remove_all(struct net_work *w);

uint32_t fvm_net_now_s(void);

/** fvm_net_flows_remove() - @owner's connections from the kernel's table, if they may be many */
void fvm_net_flows_remove(struct net_work *w, const struct net_owner *owner);

/* ---- net_keeper.c ---- */

/** fvm_net_holder_set() - @pid holds the table's socket from now on */
void fvm_net_holder_set(struct net_holder *holder, pid_t pid);

/** fvm_net_holder_signal() - @sig (0: none) to a holder. Return: whether it lives */
bool fvm_net_holder_signal(const struct net_holder *holder, int sig);

/** fvm_net_socket_copy() - the table's socket from whoever holds it
 *  Return: a descriptor above 2, -ENOENT: nobody has it, and so there is no table, or -EPERM */
int fvm_net_socket_copy(const struct net_state *state);

struct net_keep { /* see fvm_net_settle() */
	int (*make)(void *arg);
	void *arg;
};

/** fvm_net_keeper_start() - with the state locked; @socket: the table's. Does not wait for it */
void fvm_net_keeper_start(struct net_lock *lock, int socket, const struct net_keep *keep);

#endif
