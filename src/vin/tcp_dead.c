/*
 * A connection that has ended, but its program has not read all of it, or was not told why. It is
 * made with a peer of our own making, by whom it is reset; at once, since the next may have had the
 * same port.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "vin/tcp.h"

#define DISCARD 9 /* a port that nobody has to have */

/* ---- at the source ---- */

/* The number of what the peer would say next: 0 if it never said anything. */
static int heard_number(int fd, uint32_t *ret)
{
	const int queue = TCP_RECV_QUEUE, reuse = vin_sock_option(fd, SOL_SOCKET, SO_REUSEADDR);
	socklen_t len = sizeof(*ret);
	int r = vin_repair(fd, TCP_REPAIR_ON);
	if (r < 0)
		return r;
	if (setsockopt(fd, SOL_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)) < 0 ||
	    getsockopt(fd, SOL_TCP, TCP_QUEUE_SEQ, ret, &len) < 0)
		r = -errno;
	(void)vin_repair(fd, TCP_REPAIR_OFF_NO_WP);
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
	return r;
}

/* As far as we read what the kernel tells: the library's header has only the first of it. */
struct told {
	struct tcp_info first;
	uint64_t rates[2], bytes[2];
	uint32_t segments_out, segments_in;
};
_Static_assert(offsetof(struct told, segments_in) == 140, "linux/tcp.h: tcpi_segs_in");

int vin_tcp_untold(int fd)
{
	struct pollfd p = { .fd = fd };
	struct told info = { 0 };
	socklen_t len = sizeof(info);
	uint32_t next = 0;
	if (poll(&p, 1, 0) < 1 || !(p.revents & POLLERR))
		return 0;
	/* whoever heard nothing for long gave up, or was told so by somebody on the way */
	if (getsockopt(fd, SOL_TCP, TCP_INFO, &info, &len) < 0 || info.segments_in == 0 ||
	    info.first.tcpi_retransmits > 0 || info.first.tcpi_probes > 0)
		return -EAGAIN;
	int r = heard_number(fd, &next);
	return r < 0 ? r : next == 0 ? ECONNREFUSED : ECONNRESET;
}

/* ---- anew ---- */

int vin_tcp_refused(int fd, struct fvm_error *err)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	struct sockaddr_in6 at6 = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
	const bool six = vin_sock_option(fd, SOL_SOCKET, SO_DOMAIN) == AF_INET6;
	struct sockaddr *a = six ? (struct sockaddr *)&at6 : (struct sockaddr *)&at;
	socklen_t len = six ? sizeof(at6) : sizeof(at);
	const int flags = fcntl(fd, F_GETFL);
	scoped_fd deaf = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	/* nobody listens there as long as it is ours */
	if (deaf < 0 || bind(deaf, a, len) < 0 || getsockname(deaf, a, &len) < 0 || flags < 0 ||
	    fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
	    (connect(fd, a, len) < 0 && errno != EINPROGRESS) || fcntl(fd, F_SETFL, flags) < 0)
		return fvm_error_set(err, errno, "make a connection that was refused");
	int r = vin_tcp_await(fd, TCP_CLOSE);
	return r < 0 ? fvm_error_set(err, -r, "make a connection that was refused") : 0;
}

/* Another address in a's place, of the same port. */
static void put_loopback(struct sockaddr_storage *a)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)a;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)a;
	const uint32_t loopback = htonl(INADDR_LOOPBACK);
	if (a->ss_family == AF_INET)
		v4->sin_addr.s_addr = loopback;
	else if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
		memcpy(v6->sin6_addr.s6_addr + 12, &loopback, sizeof(loopback));
	else
		v6->sin6_addr = in6addr_loopback;
	if (a->ss_family == AF_INET6)
		v6->sin6_scope_id = 0;
}

static bool is_unspecified(const struct sockaddr_storage *a)
{
	return a->ss_family == AF_INET
		       ? ((const struct sockaddr_in *)a)->sin_addr.s_addr == 0
		       : IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

/* @ret: where its peer is */
static int place(int fd, const struct vin_sock *s, struct sockaddr_storage *ret)
{
	struct sockaddr_storage local = { .ss_family = (sa_family_t)s->family };
	int r = s->local.len > 0 ? vin_address_of(fd, &s->local, &local) : 0;
	if (r < 0)
		return r;
	if (is_unspecified(&local))
		put_loopback(&local);
	if (bind(fd, (struct sockaddr *)&local, vin_sock_len(local.ss_family)) < 0) {
		if (errno != EADDRNOTAVAIL)
			return -errno;
		put_loopback(&local);
		if (bind(fd, (struct sockaddr *)&local, vin_sock_len(local.ss_family)) < 0)
			return -errno;
	}
	vin_sock_set_port(&local, htons(DISCARD));
	*ret = local;
	return 0;
}

static int end(int fd, const struct sockaddr_storage *peer, const struct vin_stream *s, bool fin)
{
	int r = fin ? vin_tcp_hear(fd, peer, VIN_TCP_FIN, s) : 0;
	if (r == 0 && fin)
		r = vin_tcp_await(fd, TCP_CLOSE_WAIT);
	if (r == 0)
		r = vin_tcp_hear(fd, peer, VIN_TCP_RST, s);
	return r < 0 ? r : vin_tcp_await(fd, TCP_CLOSE);
}

int vin_tcp_dead(int fd, const struct vin_sock *sock, const struct vin_stream *left, bool fin,
		 struct fvm_error *err)
{
	/* another number than of one that never heard anything: see vin_tcp_untold() */
	const struct vin_stream s = { .receive_seq = 1, .in = left->in, .in_len = left->in_len };
	struct sockaddr_storage peer;
	int r = vin_stream_begin(fd, &s, err);
	if (r < 0)
		return r;
	r = place(fd, sock, &peer);
	if (r == 0 && connect(fd, (struct sockaddr *)&peer, vin_sock_len(sock->family)) < 0)
		r = -errno;
	if (r < 0)
		return fvm_error_set(err, -r, "make a connection that has ended");
	r = vin_stream_fill(fd, &s, err);
	if (r < 0)
		return r;
	r = end(fd, &peer, &s, fin);
	if (r == 0)
		r = vin_repair(fd, TCP_REPAIR_OFF_NO_WP);
	return r < 0 ? fvm_error_set(err, -r, "end a connection") : 0;
}
