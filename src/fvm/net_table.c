#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fvm/net_table.h"
#include "fvm/resolv.h"
#include "fvm/xtables.h"

#define TRIES	     16
#define LOST_AFTER_S 60

/* What a VM may have by default, whatever the host has room for. */
#define CONNECTIONS_MIN 1024
#define CONNECTIONS_MAX 4096

/* A table whose last holder has just ended stands in the way until the kernel has taken it. */
#define DYING_TRIES    200
#define DYING_PAUSE_MS 10

void fvm_net_work_close(struct net_work *w)
{
	/* before the lock: who has it next must not find a descriptor that is about to close */
	fvm_fd_closep(&w->nft);
	fvm_net_unlock(&w->lock);
	fvm_fd_closep(&w->rtnl);
}

/* Above 2, where it is inherited. */
static int socket_new(struct net_work *w)
{
	scoped_fd sock = fvm_nl_open(NETLINK_NETFILTER);
	if (sock < 0)
		return sock;
	w->nft = fcntl(sock, F_DUPFD_CLOEXEC, 3);
	return w->nft < 0 ? -errno : 0;
}

/*
 * From now on the table's is known by its inode: only once the table is ours. Somebody who can't
 * find it where it is (in a pid namespace of his own, or with system calls refused) has a new one
 * too, and if the state named that, nobody would find the table's again.
 */
static int socket_note(struct net_work *w)
{
	struct stat st;
	if (fstat(w->nft, &st) < 0)
		return -errno;
	w->state->socket = st.st_ino;
	return 0;
}

static int socket_find(struct net_work *w, struct fvm_error *err)
{
	int r = w->state->socket ? fvm_net_socket_copy(w->state) : -ENOENT;
	if (r >= 0) {
		w->nft = r;
		w->owns = true;
		return 0;
	}
	if (r != -ENOENT) {
		fvm_error_set(err, -r, "reach the rules of the VMs that run already");
		fvm_error_hint(err, "kernel.yama.ptrace_scope must be below 3, or use --net none");
		return r;
	}
	r = socket_new(w);
	if (r == 0)
		return 0;
	fvm_error_set(err, EOPNOTSUPP, "open nftables");
	fvm_error_hint(err, "load the module nf_tables, or use --net none");
	return -EOPNOTSUPP;
}

/* The table is an older fvm's, and so is its keeper, who leaves when he finds that he is none. */
static void take_over(struct net_work *w)
{
	if (!w->owns || w->state->rules >= NET_RULES)
		return;
	w->state->stale = 1;
	w->state->keeper = (struct net_holder){ 0 };
}

/* What is there is a newer fvm's: nothing but elements is ours to change. */
static bool is_newer(const struct net_work *w)
{
	return w->owns && w->state->rules > NET_RULES;
}

int fvm_net_work_open(struct net_work *w, uint32_t slot, bool make, struct fvm_error *err)
{
	*w = (struct net_work){ .lock.fd = -1, .rtnl = -1, .nft = -1, .slot = slot };
	w->rtnl = fvm_nl_open(NETLINK_ROUTE);
	if (w->rtnl < 0) {
		fvm_error_set(err, -w->rtnl, "open rtnetlink");
		return w->rtnl;
	}
	if (slot >= FVM_SLOTS) {
		fvm_error_set(err, EINVAL, "find an address for slot %u", slot);
		return -EINVAL;
	}
	int r = fvm_net_lock(make, &w->lock, err);
	if (r < 0)
		return r;
	w->state = w->lock.state;
	assert(w->state);
	r = socket_find(w, err);
	if (r == 0 && make)
		take_over(w);
	return r;
}

/* ---- contents ---- */

static bool is_known(const struct net_state *state, uint32_t slot)
{
	return state->known[slot / 8] & 1U << (slot % 8);
}

static void put_addresses(struct net_state *state, struct fvm_nl_batch *b, uint32_t slot)
{
	struct fvm_nft_guest guest;
	fvm_net_guest(state, slot, &guest);
	fvm_nft_guest(b, NFT_MSG_NEWSETELEM, &guest);
	state->known[slot / 8] |= (uint8_t)(1U << (slot % 8));
}

/* What only some VMs have. */
static void put_extras(const struct net_state *state, struct fvm_nl_batch *b, uint16_t type,
		       const struct net_owner *owner)
{
	struct fvm_nft_guest guest;
	fvm_net_guest(state, owner->slot, &guest);
	if (owner->private_networks)
		fvm_nft_private(b, type, guest.link);
	if (owner->connections && !state->uncounted)
		fvm_nft_limit(b, type, guest.link, owner->connections);
	for (uint32_t i = 0; i < state->published_count; i++) {
		if (state->published[i].slot == owner->slot)
			fvm_nft_port(b, type, &state->published[i].port);
	}
}

static void put_quiet(const struct net_state *state, struct fvm_nl_batch *b)
{
	for (uint32_t i = 0; i < state->link_count; i++) {
		if (state->forward4)
			fvm_nft_quiet(b, NFT_MSG_NEWSETELEM, AF_INET, state->links[i].name);
		if (state->forward6)
			fvm_nft_quiet(b, NFT_MSG_NEWSETELEM, AF_INET6, state->links[i].name);
	}
}

/* Name servers of the host that the table does not know yet. */
static void put_names(struct net_state *state, struct fvm_nl_batch *b)
{
	scoped_resolv resolv = { 0 };
	if (fvm_resolv_read("", &resolv) < 0)
		return;
	for (size_t i = 0; i < resolv.count; i++) {
		uint32_t k = 0;
		while (k < state->name_count &&
		       memcmp(&state->names[k], &resolv.servers[i], sizeof(state->names[k])) != 0)
			k++;
		if (k < state->name_count)
			continue;
		if (k == NET_NAMES_MAX) { /* a laptop that travels: the oldest goes */
			fvm_nft_name_server(b, NFT_MSG_DELSETELEM, &state->names[0]);
			memmove(state->names, state->names + 1,
				sizeof(state->names[0]) * (NET_NAMES_MAX - 1));
		} else {
			state->name_count++;
		}
		state->names[state->name_count - 1] = resolv.servers[i];
		fvm_nft_name_server(b, NFT_MSG_NEWSETELEM, &resolv.servers[i]);
	}
}

/* With what they have closed, VMs have nine times as much in the host's table, if it is large. */
static uint32_t connections_of(const struct net_state *state)
{
	scoped_free char *text = NULL;
	if (state->uncounted)
		return 0;
	(void)fvm_read_file(AT_FDCWD, "/proc/sys/net/netfilter/nf_conntrack_max", 32, &text, NULL);
	const unsigned long part = text ? strtoul(text, NULL, 10) / 64 : 0;
	return part < CONNECTIONS_MIN	? CONNECTIONS_MIN
	       : part > CONNECTIONS_MAX ? CONNECTIONS_MAX
					: (uint32_t)part;
}

/* Everything, for the first VM, or when it is not as we thought. */
static int put_all(struct net_work *w, struct fvm_nl_batch *b)
{
	struct net_state *state = w->state;
	int r = fvm_nft_table_find(w->nft);
	if (r < 0)
		return r;
	if (r > 0)
		fvm_nft_table_delete(b);
	state->connections = connections_of(state);
	const struct fvm_nft_table table = { &state->range, !state->drop_only, state->connections };
	fvm_nft_table_add(b, &table);
	put_quiet(state, b);
	for (uint32_t i = 0; i < state->name_count; i++)
		fvm_nft_name_server(b, NFT_MSG_NEWSETELEM, &state->names[i]);
	memset(state->known, 0, sizeof(state->known));
	for (uint32_t i = 0; i < state->owner_count; i++) {
		put_addresses(state, b, state->owners[i].slot);
		put_extras(state, b, NFT_MSG_NEWSETELEM, &state->owners[i]);
	}
	r = fvm_firewall_open(w->nft, b);
	return r < 0 ? r : 0;
}

static int put_changes(struct net_work *w, struct fvm_nl_batch *b, bool quiet_changed, bool others)
{
	struct net_state *state = w->state;
	const struct net_owner *owner = fvm_net_owner(state, w->slot);
	if (owner && !is_known(state, w->slot))
		put_addresses(state, b, w->slot);
	if (owner)
		put_extras(state, b, NFT_MSG_NEWSETELEM, owner);
	if (quiet_changed)
		put_quiet(state, b);
	int r = others ? fvm_firewall_open(w->nft, b) : 0;
	return r < 0 ? r : 0;
}

/* ---- transactions ---- */

/* One that brings the table to what the state says. */
static int transact(struct net_work *w, bool quiet_changed, bool whole)
{
	scoped_nl_batch b = { 0 };
	struct net_state *state = w->state;
	uint32_t generation = 0;
	int r = fvm_nft_generation(w->nft, &generation);
	if (r < 0) /* not that of a table which is somebody's */
		return r == -EPERM ? -EACCES : r;
	fvm_nft_begin(&b, generation);
	put_names(state, &b);
	if (whole) {
		fvm_nl_batch_free(&b);
		b = (struct fvm_nl_batch){ 0 };
		fvm_nft_begin(&b, generation);
		r = put_all(w, &b);
	} else {
		/* somebody else was there: are our rules in others' chains still? */
		r = put_changes(w, &b, quiet_changed, generation != state->generation);
	}
	if (r == 0 && b.count == 1) { /* it is all there */
		state->generation = generation;
		return 0;
	}
	if (r == 0)
		r = fvm_nft_run(w->nft, &b, NULL);
	if (r == 0)
		state->generation = generation + 1;
	return r;
}

/* An expression is unknown to this kernel: those that we can do without are reject, and the counts
 * of connections. Return: whether there is one left to try it without */
static bool do_without(struct net_state *state)
{
	const unsigned int lacks = (state->drop_only | state->uncounted << 1) + 1U;
	if (lacks > 3)
		return false;
	state->drop_only = lacks & 1;
	state->uncounted = lacks >> 1 & 1;
	return true;
}

static int transact_until_done(struct net_work *w, bool quiet_changed)
{
	struct net_state *state = w->state;
	bool whole = (!w->owns || state->stale) && !is_newer(w);
	int r = -EAGAIN, dying = 0;
	for (int i = 0; i < TRIES && r < 0;) {
		r = transact(w, quiet_changed, whole);
		if (r == -EPERM && dying++ < DYING_TRIES) {
			fvm_sleep_ms(DYING_PAUSE_MS);
			continue;
		}
		i++;
		if (r == 0 || r == -ERESTART || r == -EINTR)
			continue;
		if (whole && r == -ENOENT && do_without(state))
			;
		else if (whole || is_newer(w))
			break;
		whole = true; /* an element is not as we thought: make it all anew */
	}
	if (r == 0 && !w->owns)
		r = socket_note(w);
	if (r == 0 && whole)
		state->rules = NET_RULES;
	state->stale = r < 0;
	w->owns = r == 0;
	return r;
}

int fvm_net_install(struct net_work *w, bool quiet_changed, struct fvm_error *err)
{
	int r = transact_until_done(w, quiet_changed);
	if (r == 0) {
		r = fvm_xtables_open();
		if (r < 0)
			log_warn("rules of iptables-legacy may keep VMs from their network: %s",
				 strerror(-r));
		return 0;
	}
	if (is_newer(w)) {
		fvm_error_hint(err, "VMs of a newer fvm run, whose rules this one can't use: start "
				    "it with that one");
		return fvm_error_set(err, -r, "add the VM to rules of a newer fvm");
	}
	fvm_error_set(err, r == -ENOENT || r == -EPROTONOSUPPORT ? EOPNOTSUPP : -r,
		      "install the rules of VMs (nftables table inet fvm)");
	if (r == -EACCES || r == -EPERM)
		fvm_error_hint(err, "root needs CAP_NET_ADMIN (docker run --cap-add NET_ADMIN); "
				    "--net none needs nothing");
	else
		fvm_error_hint(err, "fvm doctor tells what this kernel lacks; --net none needs "
				    "nothing");
	return err ? -err->code : r;
}

int fvm_net_tend(struct net_work *w)
{
	(void)fvm_xtables_open();
	return transact_until_done(w, false);
}

/* ---- and back ---- */

uint32_t fvm_net_now_s(void)
{
	struct timespec t;
	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint32_t)t.tv_sec;
}

static void unpublish(struct net_state *state, uint32_t slot)
{
	for (uint32_t i = 0; i < state->published_count;) {
		if (state->published[i].slot == slot)
			state->published[i] = state->published[--state->published_count];
		else
			i++;
	}
}

static void remove_extras(struct net_work *w, const struct net_owner *owner)
{
	scoped_nl_batch b = { 0 };
	struct net_state *state = w->state;
	uint32_t generation = 0;
	if (!w->owns)
		return;
	(void)fvm_nft_generation(w->nft, &generation);
	fvm_nft_begin(&b, 0);
	put_extras(state, &b, NFT_MSG_DELSETELEM, owner);
	if (b.count == 1)
		return;
	if (fvm_nft_run(w->nft, &b, NULL) < 0)
		state->stale = 1; /* the next start makes the table anew, without this VM */
	else if (generation == state->generation)
		state->generation++;
}

void fvm_net_disown(struct net_work *w, struct net_owner *owner)
{
	struct net_state *state = w->state;
	remove_extras(w, owner);
	fvm_net_flows_remove(w, owner);
	unpublish(state, owner->slot);
	*owner = state->owners[--state->owner_count];
}

/* A VM whom nobody tidied up after: its starter or its PID 1 is gone, whoever was noted last, and
 * so is its link. */
static bool is_lost(const struct net_state *state, const struct net_owner *owner)
{
	struct fvm_nft_guest guest;
	fvm_net_guest(state, owner->slot, &guest);
	return (fvm_net_now_s() - owner->since_s > LOST_AFTER_S ||
		!fvm_net_holder_signal(&owner->holder, 0)) &&
	       fvm_nl_index(guest.link) < 0;
}

void fvm_net_remove_lost(struct net_work *w, uint32_t most)
{
	struct net_state *state = w->state;
	for (uint32_t i = state->owner_count; i-- > 0 && state->owner_count <= most;) {
		if (is_lost(state, &state->owners[i]))
			fvm_net_disown(w, &state->owners[i]);
	}
}

static void remove_table(struct net_work *w)
{
	scoped_nl_batch b = { 0 };
	fvm_nft_begin(&b, 0);
	/* that of others' who have just ended goes by itself */
	if (w->owns && fvm_nft_table_find(w->nft) > 0)
		fvm_nft_table_delete(&b);
	if (fvm_firewall_close(w->nft, &b) >= 0 && b.count > 1)
		(void)fvm_nft_run(w->nft, &b, NULL);
}

void fvm_net_remove_all(struct net_work *w)
{
	remove_table(w);
	(void)fvm_xtables_close();
	fvm_net_forward_back(w->state);
	fvm_net_forget(&w->lock);
}
