#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/sockios.h>
#include <unistd.h>

#include "vin/tcp.h"

#define CHUNK                                                                                      \
	(32U << 10) /* at once into the receive queue: the kernel takes no more than 17 pages */

#define MSS_MIN 88 /* the kernel's own least one, and of nothing else */

int vin_repair(int fd, int on)
{
	return fvm_nerr(setsockopt(fd, SOL_TCP, TCP_REPAIR, &on, sizeof(on)));
}

int vin_tcp_state(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);
	return getsockopt(fd, SOL_TCP, TCP_INFO, &info, &len) < 0 ? -errno : info.tcpi_state;
}

static int choose(int fd, int queue)
{
	return fvm_nerr(setsockopt(fd, SOL_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)));
}

static int get_number(int fd, int name, uint32_t *ret)
{
	socklen_t len = sizeof(*ret);
	return fvm_nerr(getsockopt(fd, SOL_TCP, name, ret, &len));
}

/* ---- at the source ---- */

static int begin_queue(int fd, int queue, size_t len, unsigned char **ret, uint32_t *ret_seq)
{
	int r = choose(fd, queue);
	if (r == 0)
		r = get_number(fd, TCP_QUEUE_SEQ, ret_seq);
	*ret = r == 0 ? malloc(len + 1) : NULL;
	return r == 0 && !*ret ? -ENOMEM : r;
}

static int read_queue(int fd, int queue, size_t len, unsigned char **ret, uint32_t *ret_seq)
{
	int r = begin_queue(fd, queue, len, ret, ret_seq);
	if (r < 0)
		return r;
	ssize_t n = len > 0 ? recv(fd, *ret, len, MSG_PEEK | MSG_DONTWAIT) : 0;
	return n < 0 ? -errno : (size_t)n != len ? -EIO : 0;
}

/* A FIN has a number of its own, at the end of what is counted. */
static bool sent_fin(int state)
{
	return state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 || state == TCP_CLOSING ||
	       state == TCP_LAST_ACK;
}

static bool received_fin(int state)
{
	return state == TCP_CLOSE_WAIT || state == TCP_CLOSING || state == TCP_LAST_ACK;
}

static int read_counts(int fd, int state, struct vin_stream *s)
{
	int out = 0, unsent = 0;
	int r = vin_urgent_look(fd, s);
	if (r < 0 || ioctl(fd, SIOCOUTQ, &out) < 0 || ioctl(fd, SIOCOUTQNSD, &unsent) < 0)
		return r < 0 ? r : -errno;
	if (sent_fin(state) && out > 0) {
		out--;
		unsent -= unsent > 0;
	}
	if (out < 0 || unsent < 0 || unsent > out)
		return -EIO;
	if (s->in_len > VIN_TCP_QUEUE_MAX || (unsigned int)out > VIN_TCP_QUEUE_MAX)
		return -EFBIG;
	s->out_len = (size_t)out;
	s->unsent = (size_t)unsent;
	return 0;
}

static int read_agreed(int fd, struct vin_stream *s)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info), window = sizeof(s->window);
	if (getsockopt(fd, SOL_TCP, TCP_INFO, &info, &len) < 0 ||
	    getsockopt(fd, SOL_TCP, TCP_REPAIR_WINDOW, &s->window, &window) < 0)
		return -errno;
	s->options = info.tcpi_options;
	s->send_scale = info.tcpi_snd_wscale;
	s->receive_scale = info.tcpi_rcv_wscale;
	int r = get_number(fd, TCP_TIMESTAMP, &s->timestamp);
	return r < 0 ? r : get_number(fd, TCP_MAXSEG, &s->mss);
}

static int read_all(int fd, int state, struct vin_stream *s)
{
	int r = read_counts(fd, state, s);
	if (r == 0)
		r = read_agreed(fd, s);
	if (r == 0 && s->urgent) {
		r = begin_queue(fd, TCP_RECV_QUEUE, s->in_len, &s->in, &s->receive_seq);
		if (r == 0)
			r = vin_urgent_read(fd, s);
	} else if (r == 0) {
		r = read_queue(fd, TCP_RECV_QUEUE, s->in_len, &s->in, &s->receive_seq);
	}
	if (r == 0)
		r = read_queue(fd, TCP_SEND_QUEUE, s->out_len, &s->out, &s->send_seq);
	/* of what comes next, behind the queue */
	s->receive_seq -= (uint32_t)s->in_len + received_fin(state);
	s->send_seq -= (uint32_t)s->out_len + sent_fin(state);
	return r;
}

int vin_stream_read(int fd, int state, struct vin_stream *ret, struct fvm_error *err)
{
	/* the end of repair forgets it */
	const int reuse = vin_sock_option(fd, SOL_SOCKET, SO_REUSEADDR);
	int r = vin_repair(fd, TCP_REPAIR_ON);
	if (r < 0)
		return fvm_error_set(err, -r, "put a connection in repair");
	r = read_all(fd, state, ret);
	int end = vin_repair(fd, TCP_REPAIR_OFF_NO_WP);
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
	if (r == 0)
		r = end;
	if (r < 0)
		vin_stream_free(ret);
	return r < 0 ? fvm_error_set(err, -r, "read what is queued in a connection") : 0;
}

void vin_stream_free(struct vin_stream *s)
{
	free(s->in);
	free(s->out);
	*s = (struct vin_stream){ 0 };
}

/* ---- the image ---- */

void vin_stream_put(struct fvm_buf *to, const struct vin_stream *s)
{
	vin_put_u64(to, s->receive_seq);
	vin_put_u64(to, s->send_seq);
	vin_put_u64(to, s->options);
	vin_put_u64(to, s->mss);
	vin_put_u64(to, s->send_scale);
	vin_put_u64(to, s->receive_scale);
	vin_put_u64(to, s->timestamp);
	vin_put_blob(to, &s->window, sizeof(s->window));
	vin_put_blob(to, s->in ? s->in : (const void *)"", s->in_len);
	vin_put_blob(to, s->out ? s->out : (const void *)"", s->out_len);
	vin_put_u64(to, s->unsent);
	if (s->urgent) {
		vin_put_u64(to, s->urgent);
		vin_put_u64(to, s->urgent_read);
	}
}

static unsigned char *get_queue(struct vin_payload *p, size_t *ret_len)
{
	size_t len;
	const void *data = vin_get_blob(p, &len);
	unsigned char *copy = p->failed || len > VIN_TCP_QUEUE_MAX ? NULL : malloc(len + 1);
	if (copy)
		memcpy(copy, data, len);
	*ret_len = copy ? len : 0;
	return copy;
}

int vin_stream_get(struct vin_payload *p, struct vin_stream *ret)
{
	const uint64_t receive = vin_get_u64(p), send = vin_get_u64(p);
	ret->options = vin_get_u64(p);
	const uint64_t mss = vin_get_u64(p), send_scale = vin_get_u64(p),
		       receive_scale = vin_get_u64(p), timestamp = vin_get_u64(p);
	size_t window_len;
	const void *window = vin_get_blob(p, &window_len);
	if (p->failed || (receive | send | timestamp) > UINT32_MAX || mss > UINT16_MAX ||
	    send_scale > 14 || receive_scale > 14 || window_len != sizeof(ret->window))
		return -EBADMSG;
	ret->receive_seq = (uint32_t)receive;
	ret->send_seq = (uint32_t)send;
	ret->mss = (uint32_t)mss;
	ret->send_scale = (uint32_t)send_scale;
	ret->receive_scale = (uint32_t)receive_scale;
	ret->timestamp = (uint32_t)timestamp;
	memcpy(&ret->window, window, sizeof(ret->window));
	ret->in = get_queue(p, &ret->in_len);
	ret->out = get_queue(p, &ret->out_len);
	const uint64_t unsent = vin_get_u64(p);
	if (p->failed || !ret->in || !ret->out || unsent > ret->out_len)
		return -EBADMSG;
	ret->unsent = (size_t)unsent;
	if (p->at == p->end) /* as of most, and all of an older image */
		return 0;
	const uint64_t urgent = vin_get_u64(p), was_read = vin_get_u64(p);
	ret->urgent = (size_t)urgent;
	ret->urgent_read = was_read;
	return p->failed || urgent == 0 || urgent > ret->in_len || was_read > 1 ? -EBADMSG : 0;
}

/* ---- anew ---- */

static int set_seq(int fd, int queue, uint32_t seq)
{
	int r = choose(fd, queue);
	return r < 0 ? r : fvm_nerr(setsockopt(fd, SOL_TCP, TCP_QUEUE_SEQ, &seq, sizeof(seq)));
}

int vin_stream_begin(int fd, const struct vin_stream *s, struct fvm_error *err)
{
	int r = set_seq(fd, TCP_RECV_QUEUE, s->receive_seq);
	if (r == 0)
		r = set_seq(fd, TCP_SEND_QUEUE, s->send_seq);
	return r < 0 ? fvm_error_set(err, -r, "set the numbers of a connection") : 0;
}

static int set_agreed(int fd, const struct vin_stream *s)
{
	enum { MSS = 2, SCALE = 3, SACK = 4, TIMESTAMP = 8 }; /* kinds, RFC 9293, 7323, 2018 */
	struct tcp_repair_opt options[4];
	size_t count = 0;
	if (s->mss >= MSS_MIN)
		options[count++] = (struct tcp_repair_opt){ MSS, s->mss };
	if (s->options & TCPI_OPT_WSCALE)
		options[count++] =
			(struct tcp_repair_opt){ SCALE, s->send_scale | s->receive_scale << 16 };
	if (s->options & TCPI_OPT_SACK)
		options[count++] = (struct tcp_repair_opt){ SACK, 0 };
	if (s->options & TCPI_OPT_TIMESTAMPS)
		options[count++] = (struct tcp_repair_opt){ TIMESTAMP, 0 };
	if (count > 0 && setsockopt(fd, SOL_TCP, TCP_REPAIR_OPTIONS, options,
				    (socklen_t)(count * sizeof(*options))) < 0)
		return -errno;
	return fvm_nerr(
		setsockopt(fd, SOL_TCP, TCP_TIMESTAMP, &s->timestamp, sizeof(s->timestamp)));
}

/* Room for it: this one asks no right, and takes back what it asked for. */
static void make_room(int fd, size_t len)
{
	const int low = (int)len, one = 1;
	if (len == 0)
		return;
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof(low));
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof(one));
}

static int fill_queue(int fd, int queue, const unsigned char *data, size_t len, size_t most)
{
	int r = choose(fd, queue);
	while (r == 0 && len > 0) {
		ssize_t n = send(fd, data, len < most ? len : most, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		data += n;
		len -= (size_t)n;
	}
	return r;
}

/* It was read behind the peer's FIN, which is still to come here. */
static int set_window(int fd, const struct vin_stream *s, size_t in_len)
{
	const uint32_t next = s->receive_seq + (uint32_t)in_len;
	struct tcp_repair_window w = s->window;
	/* it ends where it ended */
	if ((int32_t)(w.rcv_wup - next) > 0) {
		w.rcv_wnd += s->urgent ? w.rcv_wup - next : 0;
		w.rcv_wup = next;
	}
	if ((int32_t)(w.snd_wl1 - next) > 0)
		w.snd_wl1 = next;
	return w.max_window == 0
		       ? 0
		       : fvm_nerr(setsockopt(fd, SOL_TCP, TCP_REPAIR_WINDOW, &w, sizeof(w)));
}

int vin_stream_fill(int fd, const struct vin_stream *s, struct fvm_error *err)
{
	const size_t in_len = s->urgent ? s->urgent - 1 : s->in_len;
	int r = set_agreed(fd, s);
	if (r < 0)
		return fvm_error_set(err, -r, "set what both ends of a connection agreed on");
	make_room(fd, s->in_len);
	r = fill_queue(fd, TCP_RECV_QUEUE, s->in, in_len, CHUNK);
	if (r < 0)
		return fvm_error_set(err, -r, "fill the receive queue with %zu bytes", in_len);
	r = fill_queue(fd, TCP_SEND_QUEUE, s->out, s->out_len - s->unsent, SIZE_MAX);
	if (r < 0)
		return fvm_error_set(err, -r, "fill the send queue with %zu bytes",
				     s->out_len - s->unsent);
	r = set_window(fd, s, in_len);
	return r < 0 ? fvm_error_set(err, -r, "set the window of a connection") : 0;
}
