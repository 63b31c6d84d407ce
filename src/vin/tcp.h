/*
 * vin/tcp - TCP sockets: in all their states, with what is queued
 *
 * Theory of operation
 *   At the source a connection is put in repair (TCP_REPAIR) while it is read, and taken out again
 *   without a packet. Its queues are read by MSG_PEEK: what was received and not read, and what was
 *   written and not acknowledged; sequence numbers, window and what both ends agreed on come from
 *   TCP_REPAIR_*. While that happens nothing must come in, or the other end of a loopback would
 *   have what we have, too: vin_netlock_cut() before the first connection is read.
 *
 *   In the new world connect(2) in repair makes an established connection without a packet, with
 *   the numbers that it begins with; its queues are filled, and it hears nothing (a filter) until
 *   all are there. Then, all sockets together (settle):
 *     ends that were closed, and so have no descriptor, and are still needed by the other one
 *     the peer's FIN, its ACK of ours, and a RST come as segments that we write ourselves, from a
 *       raw socket by way of loopback: CLOSE_WAIT, FIN_WAIT2, CLOSING, LAST_ACK, and a connection
 *       that has ended
 *     repair ends, which asks the peer for an ACK; what was never sent is sent; shutdown(2)
 *   Nobody is told a thing that was not so: every segment that leaves could have left before.
 *
 *   A socket of SYN_SENT connects again, with the number that its SYN had. Listening ones listen.
 *   What had ended, and connections that can't be had in the new world (vin/lost), are made with a
 *   peer of our own, who resets them at once (tcp_dead.c).
 * Limits, which are refused: connections that wait to be accepted (they have no descriptor and can
 * be made by nothing but a handshake), before Linux 6.9 urgent data that is not read, an ULP (TLS),
 * MPTCP, errors that are not told yet, unless a RST brought them; all of them pass with time.
 * Limits that do no harm: handshakes under way at a listener begin anew; segments out of order come
 * again; congestion window and round trip time are learnt anew; ECN is not used any more; that a
 * byte was sent as urgent is forgotten if it was not received; SHUT_RD of a socket without a
 * connection; that a RST came behind a FIN (it is told as ECONNRESET, not as EPIPE).
 * Sources: tcp(7), RFC 9293.
 */
#ifndef VIN_TCP_H
#define VIN_TCP_H

#include <netinet/tcp.h>

#include "vin/sock.h"

#define VIN_TCP_QUEUE_MAX (7U << 20) /* one of two has to fit half a record */

/* What the kernel numbers. netinet/tcp.h has names for these, without SYN_RECV's newer sister. */
#define VIN_TCP_STATES 12

/* A connection between its two queues. */
struct vin_stream {
	uint32_t receive_seq, send_seq; /* of the first byte in the queues */
	uint64_t options;		/* TCPI_OPT_* */
	uint32_t mss, send_scale, receive_scale;
	uint32_t timestamp;
	struct tcp_repair_window window;
	unsigned char *in, *out;
	size_t in_len, out_len;
	size_t unsent;	  /* of out */
	size_t urgent;	  /* where in @in an urgent byte is, and 1; 0: there is none */
	bool urgent_read; /* by MSG_OOB: it is a gap in the stream */
};

/** vin_repair() - begin (TCP_REPAIR_ON) or end it. Return: 0 or negative errno */
int vin_repair(int fd, int on);

/** vin_tcp_state() - as of TCP_INFO. Return: state, or negative errno */
int vin_tcp_state(int fd);

/** vin_stream_read() - of a socket that is connected; it is in repair meanwhile
 *  Return: 0, -EPERM (no CAP_NET_ADMIN over its network), -EFBIG (too much is queued), -errno */
int vin_stream_read(int fd, int state, struct vin_stream *ret, struct fvm_error *err);

void vin_stream_put(struct fvm_buf *to, const struct vin_stream *s);
int vin_stream_get(struct vin_payload *p, struct vin_stream *ret);
void vin_stream_free(struct vin_stream *s);

/** vin_stream_begin() - numbers of a socket in repair that is to be connected */
int vin_stream_begin(int fd, const struct vin_stream *s, struct fvm_error *err);

/** vin_stream_fill() - the rest, when it is connected: all but what was never sent */
int vin_stream_fill(int fd, const struct vin_stream *s, struct fvm_error *err);

/** vin_stream_next() - of a socket in repair: the number of the byte that it hears next */
int vin_stream_next(int fd, uint32_t *ret);

/* ---- the urgent byte (tcp_urgent.c) ---- */

/** vin_urgent_can() - whether this kernel shows what is behind one */
bool vin_urgent_can(int fd);

/** vin_urgent_look() - of a socket that may be in repair: in_len and urgent */
int vin_urgent_look(int fd, struct vin_stream *s);

/** vin_urgent_read() - of a socket in repair whose receive queue is chosen: all of @s->in
 *  Return: 0, -EOPNOTSUPP (see vin_urgent_can()), or another negative errno */
int vin_urgent_read(int fd, struct vin_stream *s);

/** vin_urgent_forget() - as what a stream without a peer is; @within: SO_OOBINLINE */
void vin_urgent_forget(struct vin_stream *s, bool within);

/** vin_urgent_hear() - a connected socket in repair hears the byte and what came behind it
 *  Return: as vin_tcp_hear() */
int vin_urgent_hear(int fd, const struct sockaddr_storage *peer, const struct vin_stream *s);

/* What a peer says. */
enum vin_tcp_says { VIN_TCP_ACK, VIN_TCP_FIN, VIN_TCP_RST };

struct vin_said {
	enum vin_tcp_says what;
	const unsigned char *data; /* that follows */
	size_t len;
	bool urgent;
	uint16_t urgent_at;
};

/**
 * vin_tcp_hear() - a connected socket in repair hears one segment from its peer
 * @peer: as it was connected to
 * Return: 0, -EPERM (no CAP_NET_RAW), or another negative errno
 */
int vin_tcp_hear(int fd, const struct sockaddr_storage *peer, enum vin_tcp_says what,
		 const struct vin_stream *s);

/** vin_tcp_hear_data() - the same of one with data; what it is next to hear */
int vin_tcp_hear_data(int fd, const struct sockaddr_storage *peer, const struct vin_said *said,
		      const struct vin_stream *s);

/** vin_tcp_await() - wait a second for a state. Return: 0, -ETIMEDOUT */
int vin_tcp_await(int fd, int state);

/** vin_tcp_say_fin() - of a socket in repair: as if it had been sent. Return: 0 or negative errno
 */
int vin_tcp_say_fin(int fd);

/**
 * vin_tcp_dead() - a connection that has ended by a RST, with what is still to be read
 * @fd:   a new socket in repair, without a name; its error is ECONNRESET afterwards
 * @sock: where it was; where that can't be, it is at an address of loopback
 * @fin:  its peer had said FIN before, so that the error is EPIPE and the end is read without one
 * Return: 0 or negative errno
 */
int vin_tcp_dead(int fd, const struct vin_sock *sock, const struct vin_stream *left, bool fin,
		 struct fvm_error *err);

/** vin_tcp_refused() - a new socket whose connect(2) was refused, which is not told yet */
int vin_tcp_refused(int fd, struct fvm_error *err);

/**
 * vin_tcp_untold() - which error the program of a socket in TCP_CLOSE is still to be told
 * To ask the kernel would be to be told in its place, so it is found by what the connection heard.
 * Return: 0 (none), ECONNRESET, ECONNREFUSED, -EAGAIN (another one), or another negative errno
 */
int vin_tcp_untold(int fd);

/**
 * vin_tcp_gone() - the other end of a connection, which was closed, if it is of this network
 * namespace and not there
 * @left_fd: the end that is left, which has heard a FIN, or will
 * @left:    as it was in the image
 * Return: 0, also if there is nothing to do, or negative errno
 */
int vin_tcp_gone(int left_fd, const struct sockaddr_storage *peer, const struct vin_stream *left);

#endif
