#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vin/lost.h"
#include "vin/tcp.h"

bool vin_moved_place(const struct vin_moved *m, struct sockaddr_storage *a)
{
	unsigned char *bytes = NULL;
	const size_t len = vin_sock_ip(a, &bytes);
	for (size_t i = 0; m && len > 0 && i < FVM_COUNT(m->of); i++) {
		if (m->of[i].len != len || memcmp(bytes, m->of[i].was, len) != 0 ||
		    memcmp(bytes, m->of[i].is, len) == 0)
			continue;
		memcpy(bytes, m->of[i].is, len);
		return true;
	}
	return false;
}

void vin_sock_move(const struct vin_reopen *r, struct vin_sock *s)
{
	if (s->local.len > 0)
		(void)vin_moved_place(r->moved, &s->local.at);
}

bool vin_sock_lost(const struct vin_reopen *r, const struct vin_sock *s)
{
	struct sockaddr_storage local = s->local.at;
	return vin_moved_place(r->moved, &local) ||
	       (r->outside_gone && !vin_sock_is_here(&s->peer.at));
}

void vin_peer_print(const struct sockaddr_storage *a, char ret[VIN_PEER_MAX])
{
	struct sockaddr_storage copy = *a;
	char text[INET6_ADDRSTRLEN] = "";
	unsigned char *bytes = NULL;
	const size_t len = vin_sock_ip(&copy, &bytes);
	if (len > 0)
		(void)inet_ntop(len == 4 ? AF_INET : AF_INET6, bytes, text, sizeof(text));
	snprintf(ret, VIN_PEER_MAX, len == 4 ? "%s:%u" : "[%s]:%u", text, ntohs(vin_sock_port(a)));
}

/* ---- at the source ---- */

static bool peer_is(const struct vin_open *o, bool local, const struct sockaddr_storage *wanted)
{
	struct sockaddr_storage a = { 0 };
	socklen_t len = sizeof(a);
	unsigned char *x = NULL, *y = NULL;
	struct sockaddr_storage b = *wanted;
	if ((local ? getsockname(o->fd, (struct sockaddr *)&a, &len)
		   : getpeername(o->fd, (struct sockaddr *)&a, &len)) < 0)
		return false;
	const size_t size = vin_sock_ip(&a, &x);
	return size > 0 && size == vin_sock_ip(&b, &y) && memcmp(x, y, size) == 0;
}

static bool is_loopback(const struct sockaddr_storage *a)
{
	struct sockaddr_storage copy = *a;
	unsigned char *bytes = NULL;
	const size_t len = vin_sock_ip(&copy, &bytes);
	return len == 4 ? bytes[0] == 127 : len == 16 && memcmp(bytes, &in6addr_loopback, len) == 0;
}

/* Somebody of the tree talks from where the peer is. */
static bool is_inside(const struct vin_files *f, const struct sockaddr_storage *peer)
{
	if (is_loopback(peer))
		return true;
	for (size_t i = 0; i < f->count; i++) {
		if (f->opens[i].kind == &vin_kind_tcp && peer_is(&f->opens[i], true, peer))
			return true;
	}
	return false;
}

void vin_files_outside(const struct vin_files *f, vin_outside_fn fn, void *arg)
{
	for (size_t i = 0; i < f->count; i++) {
		const struct vin_open *o = &f->opens[i];
		struct sockaddr_storage peer = { 0 };
		socklen_t len = sizeof(peer);
		char text[VIN_PEER_MAX];
		if (o->kind != &vin_kind_tcp ||
		    getpeername(o->fd, (struct sockaddr *)&peer, &len) < 0 || is_inside(f, &peer))
			continue;
		vin_peer_print(&peer, text);
		fn(arg, o->pid, o->number, text);
	}
}
