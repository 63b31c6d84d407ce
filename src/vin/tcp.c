#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/sockios.h>
#include <unistd.h>

#include "vin/lost.h"
#include "vin/netlock.h"
#include "vin/tcp.h"

#define MSS_MIN 88 /* that can be asked for */

struct tcp {
	struct vin_sock sock;
	uint64_t state;
	uint64_t ended;	 /* TCP_CLOSE, and was connected */
	uint64_t untold; /* of what has ended: errno value, or 0 */
	bool lost;	 /* it can't be had in the new world */
	uint64_t deaf;	 /* SHUT_RD */
	uint64_t backlog;
	uint64_t mss; /* that the program asked for */
	struct vin_stream stream;
};

static bool matches(const struct vin_open *o)
{
	int family, type, protocol;
	return vin_sock_is(o, &family, &type, &protocol) && protocol == IPPROTO_TCP &&
	       (family == AF_INET || family == AF_INET6);
}

static bool connected(uint64_t state)
{
	return state != TCP_CLOSE && state != TCP_LISTEN && state != TCP_SYN_SENT;
}

static short poll_of(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };
	return poll(&p, 1, 0) < 0 ? 0 : p.revents;
}

/* ---- check ---- */

static int check_connected(const struct vin_open *o, struct fvm_error *err)
{
	const int odd = 77; /* neither on nor off: refused as such by who may */
	char ulp[16] = "";
	socklen_t len = sizeof(ulp);
	if (setsockopt(o->fd, SOL_TCP, TCP_REPAIR, &odd, sizeof(odd)) < 0 && errno == EPERM)
		return fvm_error_say(err, EOPNOTSUPP,
				     "connections are read with CAP_NET_ADMIN over their network");
	if (getsockopt(o->fd, SOL_TCP, TCP_ULP, ulp, &len) == 0 && len > 0 && ulp[0])
		return fvm_error_say(err, EOPNOTSUPP, "the kernel speaks %.15s in it", ulp);
	if (vin_sock_option(o->fd, SOL_SOCKET, SO_LOCK_FILTER))
		return fvm_error_say(err, EOPNOTSUPP, "its filter is locked");
	return 0;
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	int state = vin_tcp_state(o->fd);
	(void)all;
	int r = vin_sock_check(o, err);
	return r == 0 && state >= 0 && state != TCP_CLOSE && state != TCP_LISTEN
		       ? check_connected(o, err)
		       : r;
}

/* ---- into the image ---- */

/* What passes with time. */
static int check_moment(const struct vin_open *o, int state, struct fvm_error *err)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);
	int r = state == TCP_CLOSE ? 0 : vin_sock_ready(o, err);
	if (r < 0)
		return r;
	if (state == TCP_SYN_RECV)
		return fvm_error_say(err, EAGAIN, "a connection is being made");
	if (connected((uint64_t)state) && poll_of(o->fd, POLLPRI) & POLLPRI &&
	    !vin_urgent_can(o->fd))
		return fvm_error_say(err, EAGAIN, "an urgent byte is not read yet");
	if (state == TCP_LISTEN && getsockopt(o->fd, SOL_TCP, TCP_INFO, &info, &len) == 0 &&
	    info.tcpi_unacked > 0)
		return fvm_error_say(err, EAGAIN, "%u connections wait to be accepted",
				     info.tcpi_unacked);
	return 0;
}

static uint64_t backlog_of(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);
	return getsockopt(fd, SOL_TCP, TCP_INFO, &info, &len) == 0 ? info.tcpi_sacked : 0;
}

static int put_begun(const struct vin_open *o, struct fvm_buf *to, struct fvm_error *err)
{
	struct vin_address peer;
	struct vin_stream s = { 0 };
	int r = vin_sock_find_peer(o, "tcp", &peer);
	if (r < 0)
		return fvm_error_set(err, -r, "find out whom a socket connects to");
	r = vin_stream_read(o->fd, TCP_SYN_SENT, &s, err);
	if (r == 0) {
		/* the SYN has one, too */
		s.send_seq--;
		vin_put_blob(to, &peer.at, peer.len);
		vin_stream_put(to, &s);
	}
	vin_stream_free(&s);
	return r;
}

static int put_stream(const struct vin_open *o, int state, struct fvm_buf *to,
		      struct fvm_error *err)
{
	struct vin_stream s = { 0 };
	int r = vin_stream_read(o->fd, state, &s, err);
	if (r == 0) {
		vin_put_u64(to, !(state == TCP_CLOSE_WAIT || state == TCP_CLOSING ||
				  state == TCP_LAST_ACK) &&
					poll_of(o->fd, POLLRDHUP) & POLLRDHUP);
		vin_stream_put(to, &s);
	}
	vin_stream_free(&s);
	return r;
}

/* What was received before it ended is still to be read. Nobody looks behind that: an error is told
 * once, and not to us. */
static int put_ended(const struct vin_open *o, struct fvm_buf *to, struct fvm_error *err)
{
	int queued = 0;
	const int untold = vin_tcp_untold(o->fd);
	if (untold == -EAGAIN)
		return fvm_error_say(err, EAGAIN, "an error of it is not told to the program yet");
	if (untold < 0 || ioctl(o->fd, SIOCINQ, &queued) < 0 || queued < 0)
		return fvm_error_set(err, untold < 0 ? -untold : EIO, "ask what a connection has");
	if ((unsigned int)queued > VIN_TCP_QUEUE_MAX)
		return fvm_error_set(err, EFBIG, "read what is queued in a connection");
	scoped_free char *in = malloc((size_t)queued + 1);
	if (!in)
		return fvm_error_set(err, ENOMEM, "read what is queued in a connection");
	ssize_t n = 0;
	if (queued > 0 || !untold)
		n = recv(o->fd, in, queued > 0 ? (size_t)queued : 1, MSG_PEEK | MSG_DONTWAIT);
	vin_put_u64(to, n >= 0);
	vin_put_u64(to, (uint64_t)untold);
	vin_put_blob(to, in, n > 0 ? (size_t)n : 0);
	return 0;
}

static int put_state(const struct vin_open *o, int state, struct fvm_buf *to, struct fvm_error *err)
{
	vin_put_u64(to, (uint64_t)state);
	vin_put_u64(to, state == TCP_LISTEN ? backlog_of(o->fd) : 0);
	vin_put_u64(to, connected((uint64_t)state) || state == TCP_SYN_SENT
				? 0
				: (uint64_t)vin_sock_option(o->fd, SOL_TCP, TCP_MAXSEG));
	if (state == TCP_SYN_SENT)
		return put_begun(o, to, err);
	if (connected((uint64_t)state))
		return put_stream(o, state, to, err);
	return state == TCP_CLOSE ? put_ended(o, to, err) : 0;
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	int state = vin_tcp_state(o->fd);
	if (state < 0)
		return fvm_error_set(err, -state, "ask for the state of a connection");
	int r = check_moment(o, state, err);
	if (r < 0)
		return r;
	size_t len = 0;
	const void *filter = vin_netlock_filter(all->netlock, o->fd, &len);
	r = vin_sock_put(o, filter, len, to, err);
	return r < 0 ? r : put_state(o, state, to, err);
}

/* ---- out of the image ---- */

static int get_ended(struct vin_payload *p, struct tcp *t)
{
	t->ended = vin_get_u64(p);
	t->untold = vin_get_u64(p);
	size_t len;
	const void *in = vin_get_blob(p, &len);
	if (p->failed || t->ended > 1 || len > VIN_TCP_QUEUE_MAX ||
	    (t->untold != 0 && t->untold != ECONNRESET && (t->untold != ECONNREFUSED || len > 0)))
		return -EBADMSG;
	t->stream.in = malloc(len + 1);
	if (!t->stream.in)
		return -ENOMEM;
	memcpy(t->stream.in, in, len);
	t->stream.in_len = len;
	return 0;
}

static int get_begun(struct vin_payload *p, struct tcp *t)
{
	struct vin_address *peer = &t->sock.peer;
	size_t len;
	const void *at = vin_get_blob(p, &len);
	if (p->failed || len != vin_sock_len(t->sock.family))
		return -EBADMSG;
	*peer = (struct vin_address){ .len = (socklen_t)len };
	memcpy(&peer->at, at, len);
	return peer->at.ss_family == t->sock.family ? vin_stream_get(p, &t->stream) : -EBADMSG;
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct tcp *t = ret;
	(void)first;
	int r = vin_sock_get(p, &t->sock);
	if (r < 0)
		return r;
	t->state = vin_get_u64(p);
	t->backlog = vin_get_u64(p);
	t->mss = vin_get_u64(p);
	if (p->failed || t->state == 0 || t->state >= VIN_TCP_STATES || t->state == TCP_SYN_RECV ||
	    t->state == TCP_TIME_WAIT || t->backlog > INT32_MAX || t->mss > UINT16_MAX ||
	    t->sock.protocol != IPPROTO_TCP || t->sock.type != SOCK_STREAM ||
	    (t->sock.family != AF_INET && t->sock.family != AF_INET6))
		return -EBADMSG;
	if (t->state == TCP_LISTEN)
		return 0;
	if (t->state == TCP_CLOSE)
		return get_ended(p, t);
	if (t->state == TCP_SYN_SENT)
		return get_begun(p, t);
	t->deaf = vin_get_u64(p);
	if (t->deaf > 1 || t->sock.peer.len == 0 || t->sock.local.len == 0)
		return -EBADMSG;
	return vin_stream_get(p, &t->stream);
}

static void forget(void *its)
{
	struct tcp *t = its;
	vin_sock_forget(&t->sock);
	vin_stream_free(&t->stream);
}

/* ---- anew ---- */

/* Until all are there nobody is in the way of another that has the same port. */
static int share(int fd)
{
	const int one = 1;
	return fvm_nerr(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
}

static int set_mss(int fd, const struct tcp *t, struct fvm_error *err)
{
	const int mss = (int)t->mss;
	if (mss < MSS_MIN || vin_sock_option(fd, SOL_TCP, TCP_MAXSEG) == mss)
		return 0;
	return setsockopt(fd, SOL_TCP, TCP_MAXSEG, &mss, sizeof(mss)) < 0
		       ? fvm_error_set(err, errno, "set TCP_MAXSEG of a socket")
		       : 0;
}

/* In repair it may have any port; without the right for that, as others. */
static int name_idle(int fd, const struct tcp *t, struct fvm_error *err)
{
	const bool repair = vin_repair(fd, TCP_REPAIR_ON) == 0;
	int r = vin_sock_name(fd, &t->sock, err);
	if (repair)
		(void)vin_repair(fd, TCP_REPAIR_OFF_NO_WP);
	(void)share(fd);
	return r == 0 ? set_mss(fd, t, err) : r;
}

static int open_listening(int fd, const struct tcp *t, struct fvm_error *err)
{
	int r = name_idle(fd, t, err);
	if (r == 0 && listen(fd, (int)t->backlog) < 0)
		r = fvm_error_set(err, errno, "listen on a socket");
	return r;
}

static int begin_repair(int fd, const struct tcp *t, struct fvm_error *err)
{
	int r = vin_repair(fd, TCP_REPAIR_ON);
	if (r < 0) {
		fvm_error_set(err, -r, "put a connection in repair");
		fvm_error_hint(err, "this asks for CAP_NET_ADMIN over its network");
		return r;
	}
	return vin_stream_begin(fd, &t->stream, err);
}

static bool is_dead(const struct tcp *t)
{
	return t->ended || t->lost;
}

static bool heard_fin(const struct tcp *t)
{
	return t->state == TCP_CLOSE_WAIT || t->state == TCP_LAST_ACK || t->state == TCP_CLOSING;
}

/* Of what had ended the program was told, perhaps. */
static int open_dead(int fd, const struct tcp *t, struct fvm_error *err)
{
	if (t->untold == ECONNREFUSED)
		return vin_tcp_refused(fd, err);
	int r = vin_repair(fd, TCP_REPAIR_ON);
	if (r < 0)
		return fvm_error_set(err, -r, "put a connection in repair");
	r = vin_tcp_dead(fd, &t->sock, &t->stream, t->lost && heard_fin(t), err);
	if (r == 0 && !t->lost && !t->untold)
		(void)vin_sock_option(fd, SOL_SOCKET, SO_ERROR);
	return r;
}

static int open_connected(int fd, const struct tcp *t, struct fvm_error *err)
{
	struct sockaddr_storage peer;
	int r = begin_repair(fd, t, err);
	if (r == 0)
		r = vin_sock_name(fd, &t->sock, err);
	if (r < 0)
		return r;
	r = vin_address_of(fd, &t->sock.peer, &peer);
	if (r == 0)
		r = vin_filter_deaf(fd);
	if (r == 0 && connect(fd, (struct sockaddr *)&peer, vin_sock_len(t->sock.family)) < 0)
		r = -errno;
	return r < 0 ? fvm_error_set(err, -r, "make a connection again")
		     : vin_stream_fill(fd, &t->stream, err);
}

static int open_begun(int fd, const struct tcp *t, struct fvm_error *err)
{
	int r = begin_repair(fd, t, err);
	if (r == 0)
		r = vin_sock_name(fd, &t->sock, err);
	(void)vin_repair(fd, TCP_REPAIR_OFF_NO_WP);
	(void)share(fd);
	return r;
}

/* A new socket has the middle of three numbers, which who may rule the network may set. */
static int make_wide(const struct tcp *t, struct fvm_error *err)
{
	static const char path[] = "/proc/sys/net/ipv4/tcp_wmem";
	scoped_free char *was = NULL;
	char wide[60];
	const size_t need = t->stream.out_len * 2 + (128 << 10);
	int r = fvm_read_file(AT_FDCWD, path, 200, &was, NULL);
	snprintf(wide, sizeof(wide), "4096 %zu %zu", need, need);
	if (r == 0)
		r = fvm_write_file(AT_FDCWD, path, wide);
	if (r < 0) {
		fvm_error_set(err, -r, "make room for the %zu bytes that a program has sent",
			      t->stream.out_len);
		fvm_error_hint(err, "net.core.wmem_max may be raised, or %s written to", path);
		return r;
	}
	int fd = vin_sock_make(&t->sock, err);
	(void)fvm_write_file(AT_FDCWD, path, was);
	return fd;
}

static int make(const struct tcp *t, struct fvm_error *err)
{
	scoped_fd fd = vin_sock_make(&t->sock, err);
	if (fd < 0 || vin_sock_room(fd, t->stream.in_len, t->stream.out_len) ||
	    t->stream.out_len == 0)
		return fvm_fd_take(&fd);
	return make_wide(t, err);
}

static int open_one(const struct tcp *t, struct fvm_error *err)
{
	scoped_fd fd = make(t, err);
	if (fd < 0)
		return fd;
	int ret = share(fd);
	if (ret < 0)
		return fvm_error_set(err, -ret, "set SO_REUSEADDR of a socket");
	if (t->state == TCP_LISTEN)
		ret = open_listening(fd, t, err);
	else if (t->state == TCP_SYN_SENT)
		ret = open_begun(fd, t, err);
	else if (is_dead(t))
		ret = open_dead(fd, t, err);
	else if (connected(t->state))
		ret = open_connected(fd, t, err);
	else
		ret = name_idle(fd, t, err);
	return ret < 0 ? ret : fvm_fd_take(&fd);
}

/* What is sent to nobody needs no room. */
static void lose(struct tcp *t)
{
	t->lost = true;
	t->stream.out_len = t->stream.unsent = 0;
	vin_urgent_forget(&t->stream, vin_sock_value(&t->sock, SOL_SOCKET, SO_OOBINLINE) > 0);
}

static int open_tcp(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	struct tcp *t = f->its;
	struct fvm_error mine = { 0 };
	if (!connected(t->state))
		vin_sock_move(r, &t->sock);
	else if (vin_sock_lost(r, &t->sock))
		lose(t);
	int fd = open_one(t, &mine);
	/* its address is not here, or somebody else has the very connection */
	if (fd == -EADDRNOTAVAIL && connected(t->state) && !t->lost) {
		lose(t);
		mine = (struct fvm_error){ 0 };
		fd = open_one(t, &mine);
	}
	if (fd < 0 && err)
		*err = mine;
	return fd;
}

/* ---- when all are there ---- */

static int hear(int fd, const struct tcp *t, enum vin_tcp_says what, int state)
{
	struct sockaddr_storage peer;
	int r = vin_address_of(fd, &t->sock.peer, &peer);
	if (r == 0)
		r = vin_tcp_hear(fd, &peer, what, &t->stream);
	return r < 0 ? r : vin_tcp_await(fd, state);
}

static int hear_urgent(int fd, const struct tcp *t)
{
	struct sockaddr_storage peer;
	int r = t->stream.urgent ? vin_address_of(fd, &t->sock.peer, &peer) : 0;
	return r < 0 || !t->stream.urgent ? r : vin_urgent_hear(fd, &peer, &t->stream);
}

static int hear_again(int fd, const struct tcp *t)
{
	int r = hear_urgent(fd, t);
	if (r < 0)
		return r;
	switch (t->state) {
	case TCP_FIN_WAIT2:
		r = vin_tcp_say_fin(fd);
		return r < 0 ? r : hear(fd, t, VIN_TCP_ACK, TCP_FIN_WAIT2);
	case TCP_CLOSING:
		r = t->stream.unsent == 0 ? vin_tcp_say_fin(fd) : 0;
		return r < 0 ? r
			     : hear(fd, t, VIN_TCP_FIN,
				    t->stream.unsent == 0 ? TCP_CLOSING : TCP_CLOSE_WAIT);
	case TCP_CLOSE_WAIT:
	case TCP_LAST_ACK:
		return hear(fd, t, VIN_TCP_FIN, TCP_CLOSE_WAIT);
	default:
		return 0;
	}
}

static int say_rest(int fd, const struct tcp *t)
{
	const unsigned char *at = t->stream.out + (t->stream.out_len - t->stream.unsent);
	size_t left = t->stream.unsent;
	while (left > 0) {
		ssize_t n = send(fd, at, left, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		at += n;
		left -= (size_t)n;
	}
	if ((t->state == TCP_FIN_WAIT1 || t->state == TCP_LAST_ACK ||
	     (t->state == TCP_CLOSING && t->stream.unsent > 0)) &&
	    shutdown(fd, SHUT_WR) < 0)
		return -errno;
	return t->deaf ? fvm_nerr(shutdown(fd, SHUT_RD)) : 0;
}

static int connect_begun(int fd, const struct tcp *t)
{
	struct sockaddr_storage peer;
	const int flags = fcntl(fd, F_GETFL);
	int r = vin_address_of(fd, &t->sock.peer, &peer);
	if (r < 0 || flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return r < 0 ? r : -errno;
	if (connect(fd, (struct sockaddr *)&peer, t->sock.peer.len) < 0 && errno != EINPROGRESS)
		r = -errno;
	return fcntl(fd, F_SETFL, flags) < 0 ? -errno : r;
}

/* Whose FIN was heard may have been closed since. */
static int bring_peer(struct vin_file *f, struct fvm_error *err)
{
	const struct tcp *t = f->its;
	struct sockaddr_storage peer;
	if (t->lost || !heard_fin(t))
		return 0;
	int r = vin_address_of(f->fd, &t->sock.peer, &peer);
	if (r == 0)
		r = vin_tcp_gone(f->fd, &peer, &t->stream);
	return r < 0 ? fvm_error_set(err, -r, "make the closed end of the connection of file %zu",
				     f->id)
		     : 0;
}

static int listen_to_peer(struct vin_file *f, struct fvm_error *err)
{
	const struct tcp *t = f->its;
	const bool lives = connected(t->state) && !t->lost;
	int r = lives ? vin_filter_set(f->fd, NULL, 0) : 0;
	if (r == 0 && lives)
		r = hear_again(f->fd, t);
	return r < 0 ? fvm_error_set(err, -r, "bring the connection of file %zu to its state",
				     f->id)
		     : 0;
}

static int go_on(struct vin_file *f, struct fvm_error *err)
{
	const struct tcp *t = f->its;
	int r = vin_filter_set(f->fd, t->sock.filter, t->sock.filter_len);
	if (is_dead(t))
		return vin_sock_finish(f->fd, &t->sock, err);
	/* which forgets SO_REUSEADDR */
	if (r == 0 && connected(t->state))
		r = vin_repair(f->fd, TCP_REPAIR_OFF);
	if (r == 0)
		r = t->state == TCP_SYN_SENT ? connect_begun(f->fd, t) : say_rest(f->fd, t);
	return r < 0 ? fvm_error_set(err, -r, "let the connection of file %zu go on", f->id)
		     : vin_sock_finish(f->fd, &t->sock, err);
}

/* All of them at once, by the first: no end of a loopback talks to another that is not there. */
static int settle(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	int ret = 0;
	for (size_t i = 0; i < f->id; i++) {
		if (r->files[i].kind == &vin_kind_tcp)
			return 0;
	}
	for (size_t i = f->id; ret == 0 && i < r->count; i++) {
		if (r->files[i].kind == &vin_kind_tcp)
			ret = bring_peer(&r->files[i], err);
	}
	for (size_t i = f->id; ret == 0 && i < r->count; i++) {
		if (r->files[i].kind == &vin_kind_tcp)
			ret = listen_to_peer(&r->files[i], err);
	}
	for (size_t i = f->id; ret == 0 && i < r->count; i++) {
		if (r->files[i].kind == &vin_kind_tcp)
			ret = go_on(&r->files[i], err);
	}
	return ret;
}

/* Return: the number of a descriptor that leads to it; -1: it is on its way through another */
static int find_owner(const struct vin_reopen *r, size_t file, pid_t *ret)
{
	for (size_t i = 0; i < r->table_count; i++) {
		for (size_t j = 0; j < r->tables[i].count; j++) {
			if (r->tables[i].entries[j].file == file) {
				*ret = r->tables[i].pid;
				return r->tables[i].entries[j].number;
			}
		}
	}
	return -1;
}

void vin_reopen_lost(const struct vin_reopen *r, vin_outside_fn fn, void *arg)
{
	for (size_t i = 0; i < r->taken; i++) {
		const struct vin_file *f = &r->files[i];
		const struct tcp *t = f->kind == &vin_kind_tcp ? f->its : NULL;
		char peer[VIN_PEER_MAX];
		pid_t pid = 0;
		if (!t || !t->lost)
			continue;
		const int number = find_owner(r, f->id, &pid);
		vin_peer_print(&t->sock.peer.at, peer);
		fn(arg, pid, number, peer);
	}
}

const struct vin_kind vin_kind_tcp = {
	.name = "a TCP socket",
	.nr = VIN_KIND_TCP,
	.matches = matches,
	.check = check,
	.capture = capture,
	.size = sizeof(struct tcp),
	.parse = parse,
	.forget = forget,
	.open = open_tcp,
	.settle = settle,
};
