/* Raw sockets, and those of ping(8). Packets that nobody has read are lost, as packets may be. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vin/lost.h"

struct raw {
	struct vin_sock sock;
	struct vin_groups groups;
};

static bool is_raw(int family, int type, int protocol)
{
	return (family == AF_INET || family == AF_INET6) &&
	       (type == SOCK_RAW ||
		(type == SOCK_DGRAM && (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6)));
}

static bool matches(const struct vin_open *o)
{
	int family, type, protocol;
	return vin_sock_is(o, &family, &type, &protocol) && is_raw(family, type, protocol);
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	(void)all;
	return vin_sock_check(o, err);
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	struct vin_address peer = { 0 };
	(void)all;
	int r = vin_sock_ready(o, err);
	if (r == 0)
		r = vin_sock_put(o, NULL, 0, to, err);
	if (r < 0)
		return r;
	/* connected to no port, which is the rule here */
	if (vin_sock_option(o->fd, SOL_SOCKET, SO_TYPE) == SOCK_RAW)
		(void)vin_sock_find_peer(o, "raw", &peer);
	vin_put_blob(to, &peer.at, peer.len);
	return vin_groups_put(o, vin_sock_option(o->fd, SOL_SOCKET, SO_DOMAIN), to, err);
}

static int get_peer(struct vin_payload *p, struct raw *raw)
{
	size_t len;
	const void *at = vin_get_blob(p, &len);
	struct vin_address *peer = &raw->sock.peer;
	if (p->failed || len > sizeof(peer->at))
		return -EBADMSG;
	if (peer->len == 0 && len > 0) {
		memcpy(&peer->at, at, len);
		peer->len = (socklen_t)len;
	}
	return peer->len > 0 && peer->at.ss_family != raw->sock.family
		       ? -EBADMSG
		       : vin_groups_get(p, raw->sock.family, &raw->groups);
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct raw *raw = ret;
	(void)first;
	int r = vin_sock_get(p, &raw->sock);
	if (r == 0 && !is_raw(raw->sock.family, raw->sock.type, raw->sock.protocol))
		r = -EBADMSG;
	return r < 0 ? r : get_peer(p, raw);
}

static void forget(void *its)
{
	struct raw *raw = its;
	vin_sock_forget(&raw->sock);
	vin_groups_free(&raw->groups);
}

static int open_raw(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	struct raw *raw = f->its;
	struct sockaddr_storage peer;
	vin_sock_move(r, &raw->sock);
	scoped_fd fd = vin_sock_make(&raw->sock, err);
	int ret = fd < 0 ? fd : vin_sock_name(fd, &raw->sock, err);
	if (ret == 0)
		ret = vin_groups_join(fd, raw->sock.family, &raw->groups, err);
	if (ret < 0)
		return ret;
	if (raw->sock.peer.len > 0) {
		ret = vin_address_of(fd, &raw->sock.peer, &peer);
		if (ret == 0)
			ret = fvm_nerr(connect(fd, (struct sockaddr *)&peer, raw->sock.peer.len));
	}
	return ret < 0 ? fvm_error_set(err, -ret, "connect a socket") : fvm_fd_take(&fd);
}

static int settle(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	(void)r;
	return vin_sock_finish(f->fd, &((const struct raw *)f->its)->sock, err);
}

const struct vin_kind vin_kind_raw = {
	.name = "a raw socket",
	.nr = VIN_KIND_RAW,
	.matches = matches,
	.check = check,
	.capture = capture,
	.size = sizeof(struct raw),
	.parse = parse,
	.forget = forget,
	.open = open_raw,
	.settle = settle,
};
