#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vin/lost.h"
#include "vin/tcp.h"

/* The bytes of an address, IPv4 as such in either family. Return: how many */
static size_t place_of(struct sockaddr_storage *a, unsigned char **ret)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)a;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)a;
	if (a->ss_family == AF_INET) {
		*ret = (unsigned char *)&v4->sin_addr;
		return sizeof(v4->sin_addr);
	}
	if (a->ss_family != AF_INET6)
		return 0;
	const size_t skip = IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr) ? 12 : 0;
	*ret = v6->sin6_addr.s6_addr + skip;
	return sizeof(v6->sin6_addr) - skip;
}

bool vin_moved_place(const struct vin_moved *m, struct sockaddr_storage *a)
{
	unsigned char *bytes = NULL;
	const size_t len = place_of(a, &bytes);
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

/* Whether it is an address of this world. */
static bool is_here(const struct sockaddr_storage *a)
{
	struct sockaddr_storage any = *a;
	scoped_fd fd = socket(a->ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (a->ss_family == AF_INET)
		((struct sockaddr_in *)&any)->sin_port = 0;
	else
		((struct sockaddr_in6 *)&any)->sin6_port = 0;
	return fd >= 0 && bind(fd, (struct sockaddr *)&any,
			       a->ss_family == AF_INET ? sizeof(struct sockaddr_in)
						       : sizeof(struct sockaddr_in6)) == 0;
}

bool vin_sock_lost(const struct vin_reopen *r, const struct vin_sock *s)
{
	struct sockaddr_storage local = s->local.at;
	return vin_moved_place(r->moved, &local) || (r->outside_gone && !is_here(&s->peer.at));
}

void vin_peer_print(const struct sockaddr_storage *a, char ret[VIN_PEER_MAX])
{
	struct sockaddr_storage copy = *a;
	char text[INET6_ADDRSTRLEN] = "";
	unsigned char *bytes = NULL;
	const size_t len = place_of(&copy, &bytes);
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
	const size_t size = place_of(&a, &x);
	return size > 0 && size == place_of(&b, &y) && memcmp(x, y, size) == 0;
}

static bool is_loopback(const struct sockaddr_storage *a)
{
	struct sockaddr_storage copy = *a;
	unsigned char *bytes = NULL;
	const size_t len = place_of(&copy, &bytes);
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
