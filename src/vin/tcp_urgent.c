/*
 * The byte that TCP calls urgent (MSG_OOB). In the receive queue it is a mark: nobody reads past it
 * in one call, and where SO_OOBINLINE is not set, it is none of the stream's bytes, read or not.
 * Whether there is one is seen by how much SIOCINQ counts with that option and without; what is
 * behind the mark is read by SO_PEEK_OFF (Linux 6.9 and later; before, such a connection is
 * captured when the byte was read). In the new world the queue is filled as far as the mark; the
 * rest comes as segments of the peer's, which we write, the first of them urgent.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vin/tcp.h"

#define PIECE 1200 /* in one segment, whatever the device's longest is */

static int set(int fd, int name, int value)
{
	return fvm_nerr(setsockopt(fd, SOL_SOCKET, name, &value, sizeof(value)));
}

bool vin_urgent_can(int fd)
{
	return set(fd, SO_PEEK_OFF, vin_sock_option(fd, SOL_SOCKET, SO_PEEK_OFF)) == 0;
}

static int count(int fd, int within, int *ret)
{
	int r = set(fd, SO_OOBINLINE, within);
	return r < 0 ? r : fvm_nerr(ioctl(fd, SIOCINQ, ret));
}

int vin_urgent_look(int fd, struct vin_stream *s)
{
	struct pollfd p = { .fd = fd, .events = POLLPRI };
	const int within = vin_sock_option(fd, SOL_SOCKET, SO_OOBINLINE);
	int before = 0, all = 0;
	int r = count(fd, 0, &before);
	if (r >= 0)
		r = count(fd, 1, &all);
	(void)set(fd, SO_OOBINLINE, within);
	if (r < 0 || before < 0 || all < before)
		return r < 0 ? r : -EIO;
	s->in_len = (size_t)all;
	s->urgent = all > before ? (size_t)before + 1 : 0;
	s->urgent_read = s->urgent && !(poll(&p, 1, 0) == 1 && p.revents & POLLPRI);
	return 0;
}

static int peek(int fd, unsigned char *to, size_t len)
{
	const ssize_t n = recv(fd, to, len, MSG_PEEK | MSG_DONTWAIT);
	return n < 0 ? -errno : (size_t)n == len ? 0 : -EIO;
}

int vin_urgent_read(int fd, struct vin_stream *s)
{
	const size_t before = s->urgent - 1;
	const int within = vin_sock_option(fd, SOL_SOCKET, SO_OOBINLINE),
		  from = vin_sock_option(fd, SOL_SOCKET, SO_PEEK_OFF);
	int r = before > 0 ? set(fd, SO_PEEK_OFF, 0) : 0;
	if (r == 0 && before > 0)
		r = peek(fd, s->in, before);
	if (r == 0)
		r = set(fd, SO_OOBINLINE, 1);
	if (r == 0)
		r = peek(fd, s->in + before, s->in_len - before);
	(void)set(fd, SO_OOBINLINE, within);
	if (before > 0)
		(void)set(fd, SO_PEEK_OFF, from);
	return r;
}

/* ---- anew ---- */

void vin_urgent_forget(struct vin_stream *s, bool within)
{
	if (s->urgent && !within) {
		memmove(s->in + s->urgent - 1, s->in + s->urgent, s->in_len - s->urgent);
		s->in_len--;
	}
	s->urgent = 0;
}

/* A host may count as RFC 961 had it. */
static bool counts_from_one(void)
{
	scoped_free char *text = NULL;
	return fvm_read_file(AT_FDCWD, "/proc/sys/net/ipv4/tcp_stdurg", 16, &text, NULL) < 0 ||
	       text[0] != '1';
}

static int await(int fd, uint32_t want)
{
	uint32_t next = 0;
	for (int i = 0; i < 1000; i++) {
		int r = vin_stream_next(fd, &next);
		if (r < 0 || next == want)
			return r;
		fvm_sleep_ms(1);
	}
	return -ETIMEDOUT;
}

int vin_urgent_hear(int fd, const struct sockaddr_storage *peer, const struct vin_stream *s)
{
	char byte;
	int r = 0;
	for (size_t at = s->urgent - 1; r == 0 && at < s->in_len;) {
		const size_t len = s->in_len - at < PIECE ? s->in_len - at : PIECE;
		const struct vin_said said = { .what = VIN_TCP_ACK,
					       .data = s->in + at,
					       .len = len,
					       .urgent = at == s->urgent - 1,
					       .urgent_at = counts_from_one() };
		r = vin_tcp_hear_data(fd, peer, &said, s);
		at += len;
		if (r == 0)
			r = await(fd, s->receive_seq + (uint32_t)at);
	}
	if (r == 0 && s->urgent_read && recv(fd, &byte, 1, MSG_OOB | MSG_DONTWAIT) < 0)
		r = -errno;
	return r;
}
