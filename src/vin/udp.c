/*
 * UDP and UDP-Lite. Datagrams that are queued are read by MSG_PEEK with an offset (SO_PEEK_OFF); in
 * the new world they come once more, from a raw socket, with the address that they came from. What
 * told of their way is new then: device (loopback), time, TTL and type of service. Those that were
 * sent to many (multicast, broadcast) are lost, as datagrams may be; so are all when we may not
 * open a raw socket. A datagram that the program has begun (UDP_CORK, MSG_MORE) can't be read:
 * -EAGAIN.
 */
#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vin/lost.h"

#define DATAGRAM_MAX 65536
#define QUEUE_MAX    (8U << 20)

struct udp {
	struct vin_sock sock;
	struct vin_groups groups;
	unsigned char *queue; /* records of get_datagram() */
	size_t queue_len;
};

struct datagram {
	struct sockaddr_storage from, to; /* to: without a port */
	const unsigned char *data;
	size_t len,
		piece; /* piece: of how many bytes each was that lie in this one; 0: it is one */
};

static bool matches(const struct vin_open *o)
{
	int family, type, protocol;
	return vin_sock_is(o, &family, &type, &protocol) && type == SOCK_DGRAM &&
	       (protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE) &&
	       (family == AF_INET || family == AF_INET6);
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	(void)all;
	if (vin_sock_option(o->fd, SOL_UDP, UDP_ENCAP))
		return fvm_error_say(err, EOPNOTSUPP, "the kernel takes IPsec or tunnels from it");
	return vin_sock_check(o, err);
}

/* ---- what is queued ---- */

/* Switched on while we look: where each was sent to. Return: what it was */
static int tell(int fd, int level, int name, int value)
{
	int was = vin_sock_option(fd, level, name);
	(void)setsockopt(fd, level, name, &value, sizeof(value));
	return was;
}

static void take_word(const struct cmsghdr *c, struct datagram *d)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&d->to;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&d->to;
	if (c->cmsg_level == SOL_IP && c->cmsg_type == IP_PKTINFO) {
		v4->sin_family = AF_INET;
		v4->sin_addr = ((const struct in_pktinfo *)CMSG_DATA(c))->ipi_addr;
	} else if (c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
		v6->sin6_family = AF_INET6;
		v6->sin6_addr = ((const struct in6_pktinfo *)CMSG_DATA(c))->ipi6_addr;
	} else if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
		int size;
		memcpy(&size, CMSG_DATA(c), sizeof(size));
		d->piece = size > 0 ? (size_t)size : 0;
	}
}

/* Return: 1, 0 (there is none), or negative errno */
static int peek(int fd, unsigned char *room, struct datagram *ret)
{
	char words[1024];
	struct iovec part = { room, DATAGRAM_MAX };
	struct msghdr m = {
		.msg_name = &ret->from,
		.msg_namelen = sizeof(ret->from),
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = words,
		.msg_controllen = sizeof(words),
	};
	ssize_t n = recvmsg(fd, &m, MSG_PEEK | MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	ret->data = room;
	ret->len = (size_t)n;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
		take_word(c, ret);
	return 1;
}

static int peek_all(int fd, struct fvm_buf *to)
{
	scoped_free unsigned char *room = malloc(DATAGRAM_MAX);
	if (!room)
		return -ENOMEM;
	for (;;) {
		struct datagram d = { 0 };
		int r = peek(fd, room, &d);
		if (r <= 0)
			return r;
		vin_put_blob(to, &d.from, sizeof(d.from));
		vin_put_blob(to, &d.to, sizeof(d.to));
		vin_put_u64(to, d.piece);
		vin_put_blob(to, d.data, d.len);
		if (to->len > QUEUE_MAX)
			return -EFBIG;
	}
}

static int put_queue(const struct vin_open *o, struct fvm_buf *to)
{
	const bool is6 = vin_sock_option(o->fd, SOL_SOCKET, SO_DOMAIN) == AF_INET6;
	scoped_buf queue = { 0 };
	const int offset = tell(o->fd, SOL_SOCKET, SO_PEEK_OFF, 0),
		  v4 = tell(o->fd, SOL_IP, IP_PKTINFO, 1),
		  v6 = is6 ? tell(o->fd, SOL_IPV6, IPV6_RECVPKTINFO, 1) : 0;
	int r = peek_all(o->fd, &queue);
	(void)tell(o->fd, SOL_SOCKET, SO_PEEK_OFF, offset);
	(void)tell(o->fd, SOL_IP, IP_PKTINFO, v4);
	if (is6)
		(void)tell(o->fd, SOL_IPV6, IPV6_RECVPKTINFO, v6);
	vin_put_blob(to, queue.data ? queue.data : "", queue.len);
	to->failed |= queue.failed;
	return r;
}

/* What is on its way leaves soon; what was begun stays. */
static bool has_begun(int fd)
{
	int out = 0;
	for (int i = 0; i < 100; i++) {
		if (ioctl(fd, TIOCOUTQ, &out) < 0 || out == 0)
			return false;
		usleep(500);
	}
	return true;
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	(void)all;
	int r = vin_sock_ready(o, err);
	if (r == 0 && has_begun(o->fd))
		r = fvm_error_say(err, EAGAIN, "a datagram is not sent yet");
	if (r == 0)
		r = vin_sock_put(o, NULL, 0, to, err);
	if (r == 0)
		r = vin_groups_put(o, vin_sock_option(o->fd, SOL_SOCKET, SO_DOMAIN), to, err);
	if (r < 0)
		return r;
	r = put_queue(o, to);
	return r < 0 ? fvm_error_set(err, -r, "read the datagrams of a socket") : 0;
}

/* ---- anew ---- */

static bool get_address(struct vin_payload *p, int family, struct sockaddr_storage *ret)
{
	size_t len;
	const void *at = vin_get_blob(p, &len);
	if (p->failed || len != sizeof(*ret))
		return false;
	memcpy(ret, at, len);
	/* a socket for IPv6 may hear IPv4 */
	return ret->ss_family == family || ret->ss_family == AF_UNSPEC ||
	       (family == AF_INET6 && ret->ss_family == AF_INET);
}

static int get_datagram(struct vin_payload *p, int family, struct datagram *ret)
{
	if (!get_address(p, family, &ret->from) || !get_address(p, family, &ret->to))
		return -EBADMSG;
	ret->piece = (size_t)vin_get_u64(p);
	ret->data = vin_get_blob(p, &ret->len);
	return p->failed || ret->len > DATAGRAM_MAX ? -EBADMSG : 0;
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct udp *u = ret;
	(void)first;
	int r = vin_sock_get(p, &u->sock);
	if (r < 0)
		return r;
	if ((u->sock.family != AF_INET && u->sock.family != AF_INET6) ||
	    u->sock.type != SOCK_DGRAM ||
	    (u->sock.protocol != IPPROTO_UDP && u->sock.protocol != IPPROTO_UDPLITE))
		return -EBADMSG;
	r = vin_groups_get(p, u->sock.family, &u->groups);
	const void *queue = r == 0 ? vin_get_blob(p, &u->queue_len) : NULL;
	if (r < 0 || p->failed || u->queue_len > QUEUE_MAX + DATAGRAM_MAX * 2)
		return r < 0 ? r : -EBADMSG;
	u->queue = malloc(u->queue_len + 1);
	if (!u->queue)
		return -ENOMEM;
	memcpy(u->queue, queue, u->queue_len);
	struct vin_payload q = { .at = u->queue, .end = u->queue + u->queue_len };
	while (r == 0 && q.at < q.end) {
		struct datagram d;
		r = get_datagram(&q, u->sock.family, &d);
	}
	return r;
}

static void forget(void *its)
{
	struct udp *u = its;
	vin_sock_forget(&u->sock);
	vin_groups_free(&u->groups);
	free(u->queue);
}

static int open_udp(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	struct udp *u = f->its;
	struct sockaddr_storage peer;
	vin_sock_move(r, &u->sock);
	scoped_fd fd = vin_sock_make(&u->sock, err);
	int ret = fd < 0 ? fd : vin_sock_name(fd, &u->sock, err);
	if (ret == 0)
		ret = vin_groups_join(fd, u->sock.family, &u->groups, err);
	if (ret < 0)
		return ret;
	if (u->sock.peer.len > 0) {
		ret = vin_address_of(fd, &u->sock.peer, &peer);
		if (ret == 0)
			ret = fvm_nerr(connect(fd, (struct sockaddr *)&peer, u->sock.peer.len));
	}
	return ret < 0 ? fvm_error_set(err, -ret, "connect a socket") : fvm_fd_take(&fd);
}

static void send_piece(int fd, const struct udp *u, const struct datagram *d, size_t at, size_t len)
{
	unsigned char room[VIN_SEGMENT_MAX];
	struct udphdr head = {
		.source = vin_sock_port(&d->from),
		.dest = vin_sock_port(&u->sock.local.at),
		.len = htons((uint16_t)(sizeof(head) + len)),
	};
	if (sizeof(head) + len > sizeof(room))
		return;
	memcpy(room, &head, sizeof(head));
	memcpy(room + sizeof(head), d->data + at, len);
	const struct vin_segment s = {
		.protocol = u->sock.protocol,
		.data = room,
		.len = sizeof(head) + len,
		.sum_at = offsetof(struct udphdr, check),
	};
	(void)vin_sock_say(fd, &d->from, &d->to, &s);
}

static bool to_one(const struct sockaddr_storage *a)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)a;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
	if (a->ss_family == AF_INET)
		return !IN_MULTICAST(ntohl(v4->sin_addr.s_addr)) &&
		       v4->sin_addr.s_addr != INADDR_BROADCAST;
	return a->ss_family == AF_INET6 && !IN6_IS_ADDR_MULTICAST(&v6->sin6_addr);
}

/* Datagrams come before the filter: it had let them in. */
static int settle(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct udp *u = f->its;
	struct vin_payload q = { .at = u->queue, .end = u->queue + u->queue_len };
	(void)vin_sock_room(f->fd, u->queue_len, 0);
	while (q.at < q.end) {
		struct datagram d;
		if (get_datagram(&q, u->sock.family, &d) < 0)
			return fvm_error_set(err, EBADMSG, "read datagrams");
		(void)vin_moved_place(r->moved, &d.to);
		const size_t piece = d.piece ? d.piece : d.len;
		for (size_t at = 0; to_one(&d.to) && (at < d.len || at == 0); at += piece) {
			send_piece(f->fd, u, &d, at, d.len - at < piece ? d.len - at : piece);
			if (piece == 0)
				break;
		}
	}
	return vin_sock_finish(f->fd, &u->sock, err);
}

const struct vin_kind vin_kind_udp = {
	.name = "a UDP socket",
	.nr = VIN_KIND_UDP,
	.matches = matches,
	.check = check,
	.capture = capture,
	.size = sizeof(struct udp),
	.parse = parse,
	.forget = forget,
	.open = open_udp,
	.settle = settle,
};
