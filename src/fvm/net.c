#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "fvm/net.h"
#include "fvm/net_table.h"
#include "fvm/resolv.h"
#include "fvm/sys.h"
#include "vin/netlock.h"

#define GUEST_LINK     "eth0"
#define GUEST_INDEX    4096U /* beyond what modules put into a new namespace (tunl0, sit0...) */
#define HOST_INDEX     0x40000000U
#define GUEST_QUEUE    999U /* anything but the default, 1000 */
#define LOOPBACK_INDEX 1U
#define LOST_LOOK_MAX  8U /* with more VMs than that, the table stays anyhow */

void fvm_net_free(struct fvm_net *net)
{
	free(net->ports);
	net->ports = NULL;
	net->port_count = 0;
	if (net->socket > 0)
		close(net->socket);
	if (net->names > 0)
		close(net->names);
	net->socket = net->names = 0;
}

/* Addresses of hardware: of our own making (bit 1), the host's and the VM's end by slot. */
static void mac_of(uint32_t slot, bool guest, uint8_t ret[6])
{
	const uint8_t mac[6] = { guest ? 0x06 : 0x02,  'f',	     'v', 'm',
				 (uint8_t)(slot >> 8), (uint8_t)slot };
	memcpy(ret, mac, sizeof(mac));
}

/* ---- slots and ports in the state ---- */

static bool ports_collide(const struct fvm_nft_port *a, const struct fvm_nft_port *b)
{
	return a->host == b->host && a->protocol == b->protocol && a->to.family == b->to.family &&
	       (a->at.family == 0 || b->at.family == 0 ||
		memcmp(a->at.bytes, b->at.bytes, sizeof(a->at.bytes)) == 0);
}

static int publish_one(struct net_state *state, uint32_t slot, const struct fvm_nft_port *port,
		       const char *vm, struct fvm_error *err)
{
	for (uint32_t i = 0; i < state->published_count; i++) {
		if (!ports_collide(port, &state->published[i].port))
			continue;
		fvm_error_set(err, EADDRINUSE, "publish port %u: VM '%s' has it", port->host,
			      state->published[i].vm);
		fvm_error_hint(err, "choose another port of the host");
		return -EADDRINUSE;
	}
	if (state->published_count == NET_PORTS_MAX)
		return fvm_error_set(err, ENOSPC, "publish more than %d ports", NET_PORTS_MAX);
	struct net_published *p = &state->published[state->published_count];
	*p = (struct net_published){ .slot = slot, .port = *port };
	snprintf(p->vm, sizeof(p->vm), "%s", vm);
	state->published_count++;
	return 0;
}

/* A port of any address is one of each family. */
static int publish(struct net_state *state, const struct fvm_net *net, const char *vm,
		   struct fvm_error *err)
{
	struct fvm_nft_guest guest;
	int r = 0;
	fvm_net_guest(state, net->slot, &guest);
	for (size_t i = 0; i < net->port_count && r == 0; i++) {
		const struct fvm_port *from = &net->ports[i];
		struct fvm_nft_port port = {
			.host = from->host_port,
			.guest = from->guest_port,
			.protocol = from->udp ? IPPROTO_UDP : IPPROTO_TCP,
		};
		if (from->host_address[0])
			(void)fvm_address_parse(from->host_address, &port.at);
		if (port.at.family != AF_INET6) {
			port.to = guest.a4;
			r = publish_one(state, net->slot, &port, vm, err);
		}
		if (r == 0 && port.at.family != AF_INET) {
			port.to = guest.a6;
			r = publish_one(state, net->slot, &port, vm, err);
		}
	}
	return r;
}

/* ---- and back ---- */

static void delete_link(int rtnl, uint32_t slot)
{
	char name[16];
	scoped_nl_batch b = { 0 };
	snprintf(name, sizeof(name), "fvm%u", slot);
	fvm_nl_link_delete(&b, name);
	(void)fvm_nl_run(rtnl, &b, NULL);
}

/* Takes a VM out of the table and the state; after the last one, all goes: by the keeper, as it
 * takes a while, or if there is none, by us. */
static void release(struct net_work *w)
{
	struct net_state *state = w->state;
	struct net_owner *owner = fvm_net_owner(state, w->slot);
	if (owner)
		fvm_net_disown(w, owner);
	fvm_net_remove_lost(w, LOST_LOOK_MAX);
	if (state->owner_count == 0 && !fvm_net_holder_signal(&state->keeper, SIGUSR1))
		fvm_net_remove_all(w);
}

/* @w->slot is the VM's from now on. */
static int claim(struct net_work *w, const struct fvm_net *net, struct fvm_error *err)
{
	struct net_state *state = w->state;
	struct net_owner *owner = fvm_net_owner(state, w->slot);
	/* of a VM that had the slot and was not tidied up after */
	if (owner)
		fvm_net_disown(w, owner);
	if (state->owner_count == FVM_SLOTS)
		return fvm_error_set(err, ENOSPC, "find room for another VM");
	owner = &state->owners[state->owner_count++];
	*owner = (struct net_owner){
		.slot = w->slot,
		.since_s = fvm_net_now_s(),
		.private_networks = net->private_networks,
		.connections = net->connections,
	};
	fvm_net_holder_set(&owner->holder, getpid());
	memcpy(owner->id, net->id, sizeof(owner->id));
	return 0;
}

/* ---- the contract ---- */

static int parse_ports(const struct fvm_config *config, struct fvm_net *net, struct fvm_error *err)
{
	if (config->ports.count == 0)
		return 0;
	net->ports = calloc(config->ports.count, sizeof(*net->ports));
	if (!net->ports)
		return fvm_error_set(err, ENOMEM, "read the ports");
	fvm_strv_each(&config->ports, i) {
		int r = fvm_port_parse(config->ports.items[i], &net->ports[i], err);
		if (r < 0)
			return r;
		net->port_count++;
	}
	return 0;
}

static void tell(const struct net_work *w, struct fvm_net *net)
{
	struct fvm_nft_guest guest;
	struct fvm_address gateway;
	fvm_net_guest(w->state, w->slot, &guest);
	strcpy(net->interface, guest.link);
	fvm_address_print(&guest.a4, net->address4, sizeof(net->address4));
	fvm_net_gateway(&w->state->range, AF_INET, w->slot, &gateway);
	fvm_address_print(&gateway, net->gateway4, sizeof(net->gateway4));
	if (!w->want6)
		return;
	fvm_address_print(&guest.a6, net->address6, sizeof(net->address6));
	fvm_net_gateway(&w->state->range, AF_INET6, w->slot, &gateway);
	fvm_address_print(&gateway, net->gateway6, sizeof(net->gateway6));
}

static int prepare_locked(struct net_work *w, const struct fvm_net *net, const char *vm,
			  const struct fvm_net_wish *wish, struct fvm_error *err)
{
	struct net_state *state = w->state;
	struct fvm_net_range range;
	const bool wished = wish && fvm_net_wish_range(wish, &range) == 0;
	int r = 0;
	/* a table that waits for its end has the addresses already */
	if (state->owner_count == 0 && !w->owns)
		r = fvm_net_range_choose(w->rtnl, wished ? &range : NULL, &state->range);
	if (r < 0)
		return fvm_error_set(err, -r,
				     "find a network of 65536 addresses for VMs that "
				     "none of the host's routes leads to");
	w->want6 = fvm_net_has_ipv6(w->rtnl);
	r = claim(w, net, err);
	if (r < 0)
		return r;
	r = publish(state, net, vm, err);
	if (r == 0)
		r = fvm_ports_check(net->ports, net->port_count, err);
	if (r == 0) {
		bool quiet4 = fvm_net_forward_note(state, AF_INET);
		bool quiet6 = w->want6 && fvm_net_forward_note(state, AF_INET6);
		r = fvm_net_install(w, quiet4 || quiet6, err);
	}
	if (r == 0)
		r = fvm_net_forward_on(state, AF_INET, err);
	/* a host that can't forward IPv6 has VMs without it */
	if (r == 0 && w->want6 && fvm_net_forward_on(state, AF_INET6, NULL) < 0)
		w->want6 = false;
	if (r < 0)
		release(w);
	return r;
}

/* Without it the VM keeps the servers it was started with. */
static int names_open(const struct net_work *w)
{
	scoped_fd fd = open(w->lock.names, O_RDONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return r < 0 ? 0 : r;
}

int fvm_net_prepare(uint32_t slot, const struct fvm_config *config, const struct fvm_net_wish *wish,
		    struct fvm_net *ret, struct fvm_error *err)
{
	struct fvm_net net = {
		.slot = slot,
		.private_networks = config->private_networks,
		.connections = config->connections,
		.shut = wish != NULL,
	};
	scoped_net_work w = { .rtnl = -1, .nft = -1, .lock.fd = -1 };
	strcpy(net.id, config->id);
	int r = parse_ports(config, &net, err);
	if (r == 0)
		r = fvm_net_work_open(&w, slot, true, err);
	if (r == 0)
		r = prepare_locked(&w, &net, config->name, wish, err);
	if (r < 0) {
		fvm_net_free(&net);
		return fvm_error_wrap(err, r, "set up its network");
	}
	tell(&w, &net);
	if (w.state) { /* always, when the work was opened */
		net.keeper = w.state->keeper.pid;
		net.keeper_start = w.state->keeper.start;
	}
	net.names = names_open(&w);
	net.socket = fvm_fd_take(&w.nft);
	*ret = net;
	return 0;
}

static int make_link(int rtnl, const struct fvm_net *net, int netns, pid_t pid)
{
	scoped_nl_batch b = { 0 };
	struct fvm_veth veth = {
		.name = net->interface,
		.peer = GUEST_LINK,
		.index = HOST_INDEX + net->slot,
		.peer_index = GUEST_INDEX,
		.netns = pid > 0 ? -1 : netns,
		.pid = pid,
	};
	mac_of(net->slot, false, veth.mac);
	mac_of(net->slot, true, veth.peer_mac);
	fvm_nl_veth(&b, &veth);
	return fvm_nl_run(rtnl, &b, NULL);
}

static void put_route(struct fvm_nl_batch *b, unsigned int index, const struct fvm_net *net,
		      const char *address, const char *gateway)
{
	struct fvm_address guest, host;
	uint8_t mac[6];
	if (fvm_address_parse(address, &guest) < 0 || fvm_address_parse(gateway, &host) < 0)
		return;
	mac_of(net->slot, true, mac);
	fvm_nl_addr(b, index, &host, RT_SCOPE_LINK);
	fvm_nl_route_host(b, index, &guest, &host);
	fvm_nl_neighbour(b, index, &guest, mac);
}

static int lead_packets(int rtnl, unsigned int index, const struct fvm_net *net, bool quiet6)
{
	scoped_nl_batch b = { 0 };
	if (quiet6)
		fvm_nl_link_quiet6(&b, index);
	fvm_nl_link_up(&b, index);
	put_route(&b, index, net, net->address4, net->gateway4);
	put_route(&b, index, net, net->address6, net->gateway6);
	return fvm_nl_run(rtnl, &b, NULL);
}

/* A socket of the VM's namespace, for us who stay in the host's. */
static int open_inside(const struct fvm_net *net, int netns, pid_t pid)
{
	scoped_fd home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	scoped_fd pidfd = pid > 0 ? sys_pidfd_open(pid, 0) : -1;
	if (home < 0 || (pid > 0 && pidfd < 0))
		return home < 0 ? -errno : pidfd;
	if (setns(pid > 0 ? pidfd : netns, CLONE_NEWNET) < 0)
		return -errno;
	const int shut = net->shut ? vin_netlock_shut(NULL) : 0;
	int sock = shut < 0 ? shut : fvm_nl_open(NETLINK_ROUTE);
	if (setns(home, CLONE_NEWNET) < 0) {
		fvm_fd_closep(&sock);
		return -errno;
	}
	return sock;
}

/*
 * The end that is turned on last works at once. The other one has its queue only when the kernel
 * has noticed that there is a cable now, in a worker that waits for rtnl: until then its packets
 * are lost, and a lost SYN is a second. So the VM's end goes first, and configure_guest() sees to
 * it that it was noticed.
 */
static int turn_on_guest(int inside)
{
	scoped_nl_batch b = { 0 }, again = { 0 };
	fvm_nl_link_up(&b, LOOPBACK_INDEX);
	fvm_nl_link_quiet6(&b, GUEST_INDEX);
	fvm_nl_link_up(&b, GUEST_INDEX);
	if (fvm_nl_run(inside, &b, NULL) == 0)
		return 0;
	fvm_nl_link_up(&again, LOOPBACK_INDEX);
	fvm_nl_link_up(&again, GUEST_INDEX); /* a kernel without IPv6 can't keep it quiet */
	return fvm_nl_run(inside, &again, NULL);
}

static void put_inside(struct fvm_nl_batch *b, unsigned int index, const struct fvm_net *net,
		       const char *address, const char *gateway)
{
	struct fvm_address guest, host;
	uint8_t mac[6];
	if (fvm_address_parse(address, &guest) < 0 || fvm_address_parse(gateway, &host) < 0)
		return;
	mac_of(net->slot, false, mac);
	fvm_nl_addr(b, index, &guest, RT_SCOPE_UNIVERSE);
	fvm_nl_neighbour(b, index, &host, mac);
	fvm_nl_route_default(b, index, &host);
}

static int take_state(const struct nlmsghdr *nlh, void *arg)
{
	const struct nlattr *attr;
	mnl_attr_for_each(attr, nlh, sizeof(struct ifinfomsg))
	{
		if (mnl_attr_get_type(attr) == IFLA_OPERSTATE)
			*(int *)arg = mnl_attr_get_u8(attr);
	}
	return MNL_CB_STOP;
}

/* See turn_on_guest(). Since Linux 6.8 asking for a link's state makes the kernel look. */
static int notice_cable(int rtnl, unsigned int index)
{
	scoped_nl_batch ask = { 0 }, b = { 0 };
	int state = 0;
	struct ifinfomsg *link = fvm_nl_begin(&ask, RTM_GETLINK, 0, sizeof(*link));
	link->ifi_index = (int)index;
	fvm_nl_end(&ask);
	int r = fvm_nl_ask(rtnl, &ask, take_state, &state);
	if (r < 0 || state == IF_OPER_UP)
		return r;
	/* before, a new length makes it set the queue up anew */
	link = fvm_nl_begin(&b, RTM_NEWLINK, 0, sizeof(*link));
	link->ifi_index = (int)index;
	mnl_attr_put_u32(b.last, IFLA_TXQLEN, GUEST_QUEUE);
	fvm_nl_end(&b);
	return fvm_nl_run(rtnl, &b, NULL);
}

static int configure_guest(int inside, const struct fvm_net *net)
{
	scoped_nl_batch b = { 0 };
	put_inside(&b, GUEST_INDEX, net, net->address4, net->gateway4);
	put_inside(&b, GUEST_INDEX, net, net->address6, net->gateway6);
	int r = fvm_nl_run(inside, &b, NULL);
	return r < 0 ? r : notice_cable(inside, GUEST_INDEX);
}

int fvm_net_attach(const struct fvm_net *net, int netns, pid_t pid, struct fvm_error *err)
{
	scoped_fd rtnl = fvm_nl_open(NETLINK_ROUTE);
	int r = rtnl < 0 ? rtnl : make_link(rtnl, net, netns, pid);
	if (r == -EEXIST) { /* of the slot's last VM, whose namespace is not gone yet */
		delete_link(rtnl, net->slot);
		r = make_link(rtnl, net, netns, pid);
	}
	if (r == -EOPNOTSUPP)
		fvm_error_hint(err, "load the module veth, or use --net none");
	if (r < 0)
		return fvm_error_set(err, -r, "make the link %s", net->interface);
	const unsigned int index = HOST_INDEX + net->slot;
	scoped_fd inside = open_inside(net, netns, pid);
	r = inside < 0 ? inside : turn_on_guest(inside);
	if (r < 0)
		return fvm_error_set(err, -r, "turn on the VM's end of %s", net->interface);
	r = lead_packets(rtnl, index, net, true);
	if (r < 0)
		r = lead_packets(rtnl, index, net, false);
	if (r < 0)
		return fvm_error_set(err, -r, "lead packets to the VM");
	r = configure_guest(inside, net);
	return r < 0 ? fvm_error_set(err, -r, "give the VM its address") : 0;
}

void fvm_net_settle(const struct fvm_net *net, pid_t init, int (*keep)(void *arg), void *arg)
{
	const struct net_keep kept = { keep, arg };
	scoped_net_lock lock = { .fd = -1 };
	if (fvm_net_lock(false, &lock, NULL) < 0)
		return;
	struct net_owner *owner = fvm_net_owner(lock.state, net->slot);
	if (owner && strncmp(owner->id, net->id, sizeof(owner->id)) == 0)
		fvm_net_holder_set(&owner->holder, init);
	if (!fvm_net_holder_signal(&lock.state->keeper, 0))
		fvm_net_keeper_start(&lock, net->socket, &kept);
}

int fvm_net_connections(uint32_t slot, uint32_t *ret)
{
	scoped_net_lock lock = { .fd = -1 };
	int r = fvm_net_lock(false, &lock, NULL);
	if (r < 0)
		return r;
	const struct net_owner *owner = fvm_net_owner(lock.state, slot);
	if (!owner)
		return -ENOENT;
	*ret = owner->connections ? owner->connections : lock.state->connections;
	if (lock.state->uncounted || lock.state->rules < NET_RULES)
		*ret = 0;
	return 0;
}

int fvm_net_lo_up(struct fvm_error *err)
{
	scoped_nl_batch b = { 0 };
	scoped_fd rtnl = fvm_nl_open(NETLINK_ROUTE);
	if (rtnl < 0)
		return fvm_error_set(err, -rtnl, "open rtnetlink in the VM");
	fvm_nl_link_up(&b, LOOPBACK_INDEX);
	int r = fvm_nl_run(rtnl, &b, NULL);
	return r < 0 ? fvm_error_set(err, -r, "turn the VM's loopback on") : 0;
}

void fvm_net_detach_slot(uint32_t slot, const char *id)
{
	scoped_net_work w = { .rtnl = -1, .nft = -1, .lock.fd = -1 };
	if (fvm_net_work_open(&w, slot, false, NULL) < 0)
		return;
	struct net_owner *owner = fvm_net_owner(w.state, slot);
	/* another VM may have got the slot since */
	if (owner && strncmp(owner->id, id, sizeof(owner->id)) == 0)
		release(&w);
}

void fvm_net_detach(const struct fvm_net *net)
{
	fvm_net_detach_slot(net->slot, net->id);
}
