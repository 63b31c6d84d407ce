/*
 * Ends of connections that no descriptor leads to: their program has closed them and they have
 * still to say what it wrote, and that it closed (FIN_WAIT1, CLOSING, LAST_ACK); or they are half
 * made (SYN_RECV). They can't be captured, and are not there in the new world. Their peer, if it is
 * one of ours, would wait for ever for what they owe it: it has to come before.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "vin/netlock.h"
#include "vin/rtnl.h"
#include "vin/tcp.h"
#include "vin/unix.h"

/* IPv4 as it looks in IPv6. */
struct end {
	unsigned char ip[16];
	uint16_t port; /* as on the line */
};

/* A connection of ours that would wait. */
struct waiter {
	int asker; /* of its namespace */
	int state;
	struct end local, peer;
	const struct vin_open *open;
};

struct waiters {
	struct waiter *list;
	size_t count;
};

static void put_v4(const void *ip, struct end *ret)
{
	memset(ret->ip, 0, 10);
	memset(ret->ip + 10, 0xff, 2);
	memcpy(ret->ip + 12, ip, 4);
}

static void end_of(const struct sockaddr_storage *a, struct end *ret)
{
	*ret = (struct end){ .port = vin_sock_port(a) };
	if (a->ss_family == AF_INET)
		put_v4(&((const struct sockaddr_in *)a)->sin_addr, ret);
	else
		memcpy(ret->ip, &((const struct sockaddr_in6 *)a)->sin6_addr, 16);
}

static void end_told(const struct inet_diag_msg *m, const void *ip, uint16_t port, struct end *ret)
{
	*ret = (struct end){ .port = port };
	if (m->idiag_family == AF_INET)
		put_v4(ip, ret);
	else
		memcpy(ret->ip, ip, 16);
}

static bool same_end(const struct end *a, const struct end *b)
{
	return a->port == b->port && memcmp(a->ip, b->ip, sizeof(a->ip)) == 0;
}

/* Who has heard a FIN waits for nothing more. */
static bool waits(int state)
{
	return state == TCP_ESTABLISHED || state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2;
}

static int gather(struct vin_files *f, struct waiters *ret)
{
	ret->list = calloc(f->count + 1, sizeof(*ret->list));
	if (!ret->list)
		return -ENOMEM;
	for (size_t i = 0; i < f->count; i++) {
		const struct vin_open *o = &f->opens[i];
		struct sockaddr_storage local = { 0 }, peer = { 0 };
		socklen_t local_len = sizeof(local), peer_len = sizeof(peer);
		int state = o->kind == &vin_kind_tcp ? vin_tcp_state(o->fd) : TCP_CLOSE;
		if (!waits(state) ||
		    getsockname(o->fd, (struct sockaddr *)&local, &local_len) < 0 ||
		    getpeername(o->fd, (struct sockaddr *)&peer, &peer_len) < 0)
			continue;
		struct waiter *w = &ret->list[ret->count];
		*w = (struct waiter){ .asker = vin_asker_find(f, o->fd),
				      .state = state,
				      .open = o };
		end_of(&local, &w->local);
		end_of(&peer, &w->peer);
		if (w->asker < 0)
			return w->asker;
		ret->count++;
	}
	return 0;
}

struct look {
	int asker;
	const struct waiters *all;
	bool met; /* somebody who has to come before */
};

/* To the end, also of what is of no use any more: who asks next reads answers of his own. */
static int look_at(void *arg, const struct nlmsghdr *head, struct fvm_error *err)
{
	struct look *l = arg;
	struct end local, peer;
	const struct inet_diag_msg *m = NLMSG_DATA(head);
	if (head->nlmsg_len < NLMSG_LENGTH(sizeof(*m)) || m->idiag_inode != 0 || l->met)
		return 0;
	end_told(m, m->id.idiag_src, m->id.idiag_sport, &local);
	end_told(m, m->id.idiag_dst, m->id.idiag_dport, &peer);
	for (size_t i = 0; !l->met && i < l->all->count; i++) {
		const struct waiter *w = &l->all->list[i];
		l->met = w->asker == l->asker && same_end(&w->local, &peer) &&
			 same_end(&w->peer, &local);
		if (l->met)
			fvm_error_say(err, EAGAIN,
				      "process %d: descriptor %d (%s) can't be captured now: "
				      "the other end was closed and still has to say so",
				      w->open->pid, w->open->number, w->open->link);
	}
	return 0;
}

static int ask(int asker, int family, const struct waiters *all, struct fvm_error *err)
{
	const struct inet_diag_req_v2 q = { .sdiag_family = (uint8_t)family,
					    .sdiag_protocol = IPPROTO_TCP,
					    .idiag_states =
						    1U << TCP_SYN_RECV | 1U << TCP_FIN_WAIT1 |
						    1U << TCP_CLOSING | 1U << TCP_LAST_ACK };
	struct look l = { .asker = asker, .all = all };
	int r = vin_rtnl_dump(asker, SOCK_DIAG_BY_FAMILY, &q, sizeof(q), look_at, &l, err);
	return l.met ? -EAGAIN : r == -ENOENT ? 0 : r;
}

int vin_netlock_peers(struct vin_files *f, struct fvm_error *err)
{
	struct waiters all = { 0 };
	int r = gather(f, &all);
	for (size_t i = 0; r == 0 && i < all.count; i++) {
		bool asked = false;
		for (size_t n = 0; n < i && !asked; n++)
			asked = all.list[n].asker == all.list[i].asker;
		if (asked)
			continue;
		r = ask(all.list[i].asker, AF_INET, &all, err);
		if (r == 0)
			r = ask(all.list[i].asker, AF_INET6, &all, err);
	}
	free(all.list);
	return r < 0 && r != -EAGAIN ? fvm_error_set(err, -r, "ask for the ends of connections")
				     : r;
}
