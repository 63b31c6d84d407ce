#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vin/tcp.h"

static int number_of(int fd, int queue, uint32_t *ret)
{
	socklen_t len = sizeof(*ret);
	if (setsockopt(fd, SOL_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)) < 0)
		return -errno;
	return fvm_nerr(getsockopt(fd, SOL_TCP, TCP_QUEUE_SEQ, ret, &len));
}

/* An ACK is of all that we have sent, others of nothing new. */
static int build(int fd, const struct vin_said *said, const struct vin_stream *s,
		 struct tcphdr *ret)
{
	const enum vin_tcp_says what = said->what;
	uint32_t next = 0, sent = 0;
	int r = number_of(fd, TCP_RECV_QUEUE, &next);
	if (r == 0)
		r = number_of(fd, TCP_SEND_QUEUE, &sent);
	if (r < 0)
		return r;
	const uint32_t window = s->window.snd_wnd >> s->send_scale;
	*ret = (struct tcphdr){ .seq = htonl(next), .doff = sizeof(*ret) / 4, .ack = 1 };
	ret->ack_seq = htonl(what == VIN_TCP_ACK ? sent : s->send_seq);
	ret->window = htons((uint16_t)(window < UINT16_MAX ? window : UINT16_MAX));
	ret->fin = what == VIN_TCP_FIN;
	ret->rst = what == VIN_TCP_RST;
	ret->urg = said->urgent;
	ret->urg_ptr = htons(said->urgent ? said->urgent_at : 0);
	return 0;
}

int vin_stream_next(int fd, uint32_t *ret)
{
	return number_of(fd, TCP_RECV_QUEUE, ret);
}

int vin_tcp_hear_data(int fd, const struct sockaddr_storage *peer, const struct vin_said *said,
		      const struct vin_stream *s)
{
	struct sockaddr_storage own = { 0 };
	socklen_t len = sizeof(own);
	struct tcphdr tcp;
	int r = build(fd, said, s, &tcp);
	if (r < 0 || getsockname(fd, (struct sockaddr *)&own, &len) < 0)
		return r < 0 ? r : -errno;
	tcp.source = vin_sock_port(peer);
	tcp.dest = vin_sock_port(&own);
	scoped_free unsigned char *packet = malloc(sizeof(tcp) + said->len);
	if (!packet)
		return -ENOMEM;
	memcpy(packet, &tcp, sizeof(tcp));
	if (said->len)
		memcpy(packet + sizeof(tcp), said->data, said->len);
	const struct vin_segment segment = {
		.protocol = IPPROTO_TCP,
		.data = packet,
		.len = sizeof(tcp) + said->len,
		.sum_at = offsetof(struct tcphdr, check),
	};
	return vin_sock_say(fd, peer, &own, &segment);
}

int vin_tcp_hear(int fd, const struct sockaddr_storage *peer, enum vin_tcp_says what,
		 const struct vin_stream *s)
{
	const struct vin_said said = { .what = what };
	return vin_tcp_hear_data(fd, peer, &said, s);
}

int vin_tcp_await(int fd, int state)
{
	for (int i = 0; i < 1000; i++) {
		if (vin_tcp_state(fd) == state)
			return 0;
		fvm_sleep_ms(1);
	}
	return -ETIMEDOUT;
}

int vin_tcp_say_fin(int fd)
{
	const int queue = TCP_SEND_QUEUE;
	if (setsockopt(fd, SOL_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)) < 0)
		return -errno;
	return fvm_nerr(shutdown(fd, SHUT_WR));
}
