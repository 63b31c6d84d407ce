/*
 * Packet sockets. Packets that nobody has read are lost, as packets may be. Rings (memory that the
 * kernel shares) and groups that share a load (PACKET_FANOUT) are refused. Which devices it made
 * promiscuous can't be asked: a limit.
 */
#include <errno.h>
#include <linux/if_packet.h>
#include <string.h>

#include "vin/sock.h"

static bool matches(const struct vin_open *o)
{
	int family, type, protocol;
	return vin_sock_is(o, &family, &type, &protocol) && family == AF_PACKET &&
	       (type == SOCK_RAW || type == SOCK_DGRAM);
}

/* With a ring the version can't be set any more, not even to what it is. */
static bool has_ring(const struct vin_open *o)
{
	const int version = vin_sock_option(o->fd, SOL_PACKET, PACKET_VERSION);
	return setsockopt(o->fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) < 0 &&
	       errno == EBUSY;
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	(void)all;
	if (has_ring(o))
		return fvm_error_say(err, EOPNOTSUPP, "it has a ring of packets");
	if (vin_sock_option(o->fd, SOL_PACKET, PACKET_FANOUT))
		return fvm_error_say(err, EOPNOTSUPP, "it shares its packets with others (fanout)");
	return vin_sock_check(o, err);
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	(void)all;
	int r = vin_sock_ready(o, err);
	return r < 0 ? r : vin_sock_put(o, NULL, 0, to, err);
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct vin_sock *s = ret;
	(void)first;
	int r = vin_sock_get(p, s);
	if (r == 0 && (s->family != AF_PACKET || (s->type != SOCK_RAW && s->type != SOCK_DGRAM) ||
		       s->local.len == 0))
		r = -EBADMSG;
	return r;
}

static void forget(void *its)
{
	vin_sock_forget(its);
}

/* It hears nothing before it is bound, in settle(). */
static int open_packet(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	struct vin_sock deaf = *(const struct vin_sock *)f->its;
	(void)r;
	deaf.protocol = 0;
	return vin_sock_make(&deaf, err);
}

static int settle(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct vin_sock *s = f->its;
	const struct sockaddr_ll *was = (const struct sockaddr_ll *)&s->local.at;
	struct sockaddr_storage at;
	(void)r;
	int ret = vin_sock_finish(f->fd, s, err);
	if (ret < 0 || (was->sll_protocol == 0 && was->sll_ifindex == 0))
		return ret;
	ret = vin_address_of(f->fd, &s->local, &at);
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_protocol = was->sll_protocol };
	to.sll_ifindex = ((const struct sockaddr_ll *)&at)->sll_ifindex;
	if (ret == 0)
		ret = fvm_nerr(bind(f->fd, (struct sockaddr *)&to, sizeof(to)));
	return ret < 0 ? fvm_error_set(err, -ret, "bind a packet socket to %s",
				       s->local.link[0] ? s->local.link : "all devices")
		       : 0;
}

const struct vin_kind vin_kind_packet = {
	.name = "a packet socket",
	.nr = VIN_KIND_PACKET,
	.matches = matches,
	.check = check,
	.capture = capture,
	.size = sizeof(struct vin_sock),
	.parse = parse,
	.forget = forget,
	.open = open_packet,
	.settle = settle,
};
