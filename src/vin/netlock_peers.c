/*
 * Ends of connections that no descriptor leads to: their program has closed them and they have
 * still to say what it wrote, and that it closed (FIN_WAIT1, CLOSING, LAST_ACK); or they are half
 * made (SYN_RECV). They can't be captured, and are not there in the new world. Their peer, if it is
 * one of ours, would wait for ever for what they owe it: it has to come before. Who reads slowly
 * has no room for it; so he is given some for a moment, and hears all of it while he stands still.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "vin/netlock.h"
#include "vin/rtnl.h"
#include "vin/tcp.h"
#include "vin/unix.h"

#define HEAR_MS 300 /* longest wait for what comes by way of loopback, when there is room */

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
	bool met;      /* the other end has to come before .. */
	uint32_t owed; /* .. and has so many bytes to say */
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
	struct waiters *all;
};

/* To the end: who asks next reads answers of his own. */
static int look_at(void *arg, const struct nlmsghdr *head, struct fvm_error *err)
{
	struct look *l = arg;
	struct end local, peer;
	const struct inet_diag_msg *m = NLMSG_DATA(head);
	(void)err;
	if (head->nlmsg_len < NLMSG_LENGTH(sizeof(*m)) || m->idiag_inode != 0)
		return 0;
	end_told(m, m->id.idiag_src, m->id.idiag_sport, &local);
	end_told(m, m->id.idiag_dst, m->id.idiag_dport, &peer);
	for (size_t i = 0; i < l->all->count; i++) {
		struct waiter *w = &l->all->list[i];
		if (w->asker != l->asker || !same_end(&w->local, &peer) ||
		    !same_end(&w->peer, &local))
			continue;
		w->met = true;
		w->owed = m->idiag_wqueue;
	}
	return 0;
}

static int ask(int asker, int family, struct waiters *all, struct fvm_error *err)
{
	const struct inet_diag_req_v2 q = { .sdiag_family = (uint8_t)family,
					    .sdiag_protocol = IPPROTO_TCP,
					    .idiag_states =
						    1U << TCP_SYN_RECV | 1U << TCP_FIN_WAIT1 |
						    1U << TCP_CLOSING | 1U << TCP_LAST_ACK };
	struct look l = { .asker = asker, .all = all };
	int r = vin_rtnl_dump(asker, SOCK_DIAG_BY_FAMILY, &q, sizeof(q), look_at, &l, err);
	return r == -ENOENT ? 0 : r;
}

/* Who of them waits for somebody, now. */
static int ask_all(struct waiters *all, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; i < all->count; i++)
		all->list[i].met = false;
	for (size_t i = 0; r == 0 && i < all->count; i++) {
		bool asked = false;
		for (size_t n = 0; n < i && !asked; n++)
			asked = all->list[n].asker == all->list[i].asker;
		if (asked)
			continue;
		r = ask(all->list[i].asker, AF_INET, all, err);
		if (r == 0)
			r = ask(all->list[i].asker, AF_INET6, all, err);
	}
	return r;
}

static const struct waiter *first_met(const struct waiters *all)
{
	for (size_t i = 0; i < all->count; i++) {
		if (all->list[i].met)
			return &all->list[i];
	}
	return NULL;
}

int vin_netlock_peers(struct vin_files *f, struct fvm_error *err)
{
	struct waiters all = { 0 };
	int r = gather(f, &all);
	if (r == 0)
		r = ask_all(&all, err);
	const struct waiter *w = r == 0 ? first_met(&all) : NULL;
	if (w)
		r = fvm_error_say(err, EAGAIN,
				  "process %d: descriptor %d (%s) can't be captured now: "
				  "the other end was closed and still has to say so",
				  w->open->pid, w->open->number, w->open->link);
	free(all.list);
	return r < 0 && r != -EAGAIN ? fvm_error_set(err, -r, "ask for the ends of connections")
				     : r;
}

/* ---- who reads slowly ---- */

struct buffer {
	int fd, size, locks, reuse;
};

/* The end of repair asks the other end for an ACK, and says how much room there is. */
static struct buffer widen(const struct waiter *w)
{
	const int fd = w->open->fd;
	int queued = 0;
	const struct buffer was = { .fd = fd,
				    .size = vin_sock_option(fd, SOL_SOCKET, SO_RCVBUF),
				    .locks = vin_sock_option(fd, SOL_SOCKET, SO_BUF_LOCK),
				    .reuse = vin_sock_option(fd, SOL_SOCKET, SO_REUSEADDR) };
	(void)ioctl(fd, SIOCINQ, &queued);
	(void)vin_sock_room(fd, (size_t)queued + w->owed, 0);
	if (vin_repair(fd, TCP_REPAIR_ON) == 0)
		(void)vin_repair(fd, TCP_REPAIR_OFF);
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &was.reuse, sizeof(was.reuse));
	return was;
}

static void narrow(const struct buffer *was)
{
	const int half = was->size / 2; /* the kernel doubles it */
	/* who may not force it could not before */
	if (setsockopt(was->fd, SOL_SOCKET, SO_RCVBUFFORCE, &half, sizeof(half)) < 0)
		(void)setsockopt(was->fd, SOL_SOCKET, SO_RCVBUF, &half, sizeof(half));
	(void)setsockopt(was->fd, SOL_SOCKET, SO_BUF_LOCK, &was->locks, sizeof(was->locks));
}

static bool owes_some(const struct waiters *all)
{
	for (size_t i = 0; i < all->count; i++) {
		if (all->list[i].met && all->list[i].owed > 0)
			return true;
	}
	return false;
}

void vin_netlock_hear(struct vin_files *f)
{
	struct waiters all = { 0 };
	struct fvm_error none = { 0 };
	size_t count = 0;
	int r = gather(f, &all);
	if (r == 0)
		r = ask_all(&all, &none);
	scoped_free struct buffer *were = calloc(all.count + 1, sizeof(*were));
	for (size_t i = 0; r == 0 && were && i < all.count; i++) {
		if (all.list[i].met && all.list[i].owed > 0 &&
		    all.list[i].owed <= VIN_TCP_QUEUE_MAX)
			were[count++] = widen(&all.list[i]);
	}
	for (int ms = 0; r == 0 && count > 0 && owes_some(&all) && ms < HEAR_MS; ms++) {
		fvm_sleep_ms(1);
		r = ask_all(&all, &none);
	}
	for (size_t i = 0; i < count; i++)
		narrow(&were[i]);
	free(all.list);
}
