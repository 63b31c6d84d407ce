#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fvm/relay.h"

#define BUFFER_BYTES   (16UL * 1024)
#define DATAGRAM_BYTES 65536

enum kind { VM, LISTENER, FLOW, CONNECTION };

struct source { /* what an epoll event points to */
	enum kind kind;
	size_t index; /* of the listener; for a connection: which end */
	struct connection *connection;
	struct flow *flow;
};

/* One direction of a connection. */
struct stream {
	char bytes[BUFFER_BYTES];
	size_t start, end;
	bool eof;  /* nothing more will come */
	bool shut; /* and the other end knows */
};

struct connection {
	int fd[2]; /* client, target */
	uint32_t events[2];
	struct source ends[2];
	struct stream streams[2]; /* from end 0, from end 1 */
	bool connecting, dead;
	struct connection *next;
};

struct flow {
	int fd; /* towards the target; -1: unused */
	size_t listener;
	union relay_address client;
	uint64_t used; /* when, counted in datagrams */
	struct source source;
};

struct loop {
	struct relay *relay;
	int epoll;
	int spare; /* given up to take, and refuse, who comes when descriptors are out */
	struct source vm, listeners[RELAY_LISTENERS];
	struct flow flows[RELAY_FLOWS];
	struct connection *connections;
	size_t connection_count;
	uint64_t datagrams;
	char datagram[DATAGRAM_BYTES];
};

static socklen_t address_size(const union relay_address *a)
{
	return a->any.sa_family == AF_INET ? sizeof(a->v4) : sizeof(a->v6);
}

static union relay_address address_of(const struct fvm_address *a, uint16_t port)
{
	union relay_address ret;
	memset(&ret, 0, sizeof(ret));
	ret.any.sa_family = a->family;
	if (a->family == AF_INET) {
		ret.v4.sin_port = htons(port);
		memcpy(&ret.v4.sin_addr, a->bytes, 4);
	} else {
		ret.v6.sin6_port = htons(port);
		memcpy(&ret.v6.sin6_addr, a->bytes, 16);
	}
	return ret;
}

int fvm_relay_listen(struct relay *relay, bool udp, const struct fvm_address *at, uint16_t port,
		     const struct fvm_address *to, uint16_t to_port)
{
	const int on = 1;
	const union relay_address here = address_of(at, port);
	if (relay->count == RELAY_LISTENERS)
		return -ENOSPC;
	scoped_fd fd = socket(at->family,
			      (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (!udp)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	/* a VM's loopback has no address yet when its relay is started */
	(void)setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof(on));
	if (bind(fd, &here.any, address_size(&here)) < 0 || (!udp && listen(fd, 128) < 0))
		return -errno;
	relay->listeners[relay->count++] = (struct relay_listener){
		.fd = fvm_fd_take(&fd),
		.udp = udp,
		.target = address_of(to, to_port),
	};
	return 0;
}

static int watch(const struct loop *l, int fd, int op, uint32_t events, struct source *source)
{
	struct epoll_event e = { .events = events, .data.ptr = source };
	return epoll_ctl(l->epoll, op, fd, &e) < 0 ? -errno : 0;
}

/* A socket on its way to @target; it may have arrived already. */
static int connect_to(const union relay_address *target, int type)
{
	scoped_fd fd = socket(target->any.sa_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || (connect(fd, &target->any, address_size(target)) < 0 && errno != EINPROGRESS))
		return -errno;
	return fvm_fd_take(&fd);
}

/* ---- UDP ---- */

static bool same_client(const union relay_address *a, const union relay_address *b)
{
	if (a->any.sa_family != b->any.sa_family)
		return false;
	if (a->any.sa_family == AF_INET)
		return a->v4.sin_port == b->v4.sin_port &&
		       a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr;
	return a->v6.sin6_port == b->v6.sin6_port &&
	       IN6_ARE_ADDR_EQUAL(&a->v6.sin6_addr, &b->v6.sin6_addr);
}

static struct flow *flow_find(struct loop *l, size_t listener, const union relay_address *client)
{
	struct flow *oldest = &l->flows[0];
	for (size_t i = 0; i < RELAY_FLOWS; i++) {
		struct flow *f = &l->flows[i];
		if (f->fd >= 0 && f->listener == listener && same_client(&f->client, client))
			return f;
		if (f->fd < 0 || (oldest->fd >= 0 && f->used < oldest->used))
			oldest = f;
	}
	if (oldest->fd >= 0)
		close(fvm_fd_take(&oldest->fd));
	oldest->fd = connect_to(&l->relay->listeners[listener].target, SOCK_DGRAM);
	oldest->listener = listener;
	oldest->client = *client;
	oldest->source = (struct source){ .kind = FLOW, .flow = oldest };
	if (oldest->fd >= 0 && watch(l, oldest->fd, EPOLL_CTL_ADD, EPOLLIN, &oldest->source) < 0)
		close(fvm_fd_take(&oldest->fd));
	return oldest;
}

static void question(struct loop *l, size_t listener)
{
	union relay_address client;
	memset(&client, 0, sizeof(client));
	socklen_t size = sizeof(client);
	ssize_t n = recvfrom(l->relay->listeners[listener].fd, l->datagram, sizeof(l->datagram), 0,
			     &client.any, &size);
	if (n < 0)
		return;
	struct flow *flow = flow_find(l, listener, &client);
	flow->used = ++l->datagrams;
	if (flow->fd >= 0)
		(void)send(flow->fd, l->datagram, (size_t)n, 0);
}

static void answer(struct loop *l, struct flow *flow)
{
	if (flow->fd < 0)
		return;
	ssize_t n = recv(flow->fd, l->datagram, sizeof(l->datagram), 0);
	if (n >= 0)
		(void)sendto(l->relay->listeners[flow->listener].fd, l->datagram, (size_t)n, 0,
			     &flow->client.any, address_size(&flow->client));
}

/* ---- TCP ---- */

static void connection_free(struct loop *l, struct connection *c)
{
	fvm_fd_closep(&c->fd[0]);
	fvm_fd_closep(&c->fd[1]);
	free(c);
	l->connection_count--;
}

/* Which events would let one of the streams move on? */
static uint32_t wanted(const struct connection *c, int end)
{
	const struct stream *from = &c->streams[end], *to = &c->streams[!end];
	uint32_t events = 0;
	if (c->connecting)
		return end == 1 ? EPOLLOUT : 0;
	if (!from->eof && from->end < BUFFER_BYTES)
		events |= EPOLLIN;
	if (to->start < to->end)
		events |= EPOLLOUT;
	return events;
}

static void connection_watch(struct loop *l, struct connection *c)
{
	for (int end = 0; end < 2; end++) {
		uint32_t events = wanted(c, end);
		if (events == c->events[end])
			continue;
		/* an end of which nothing is wanted would still report errors, for ever */
		int op = c->events[end] == 0 ? EPOLL_CTL_ADD
			 : events == 0	     ? EPOLL_CTL_DEL
					     : EPOLL_CTL_MOD;
		if (watch(l, c->fd[end], op, events, &c->ends[end]) < 0)
			c->dead = true;
		c->events[end] = events;
	}
}

/* Return: false when the connection is broken */
static bool stream_move(struct stream *s, int from, int to)
{
	if (!s->eof && s->end < BUFFER_BYTES) {
		ssize_t n = recv(from, s->bytes + s->end, BUFFER_BYTES - s->end, 0);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return false;
		s->eof = n == 0;
		s->end += n > 0 ? (size_t)n : 0;
	}
	if (s->start < s->end) {
		ssize_t n = send(to, s->bytes + s->start, s->end - s->start, MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return false;
		s->start += n > 0 ? (size_t)n : 0;
	}
	if (s->start == s->end)
		s->start = s->end = 0;
	if (s->eof && s->end == 0 && !s->shut) {
		s->shut = true;
		return shutdown(to, SHUT_WR) == 0;
	}
	return true;
}

static void connection_step(struct loop *l, struct connection *c)
{
	if (c->connecting) {
		int error = 0;
		socklen_t size = sizeof(error);
		if (getsockopt(c->fd[1], SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error != 0) {
			c->dead = true;
			return;
		}
		c->connecting = false;
	}
	for (int end = 0; end < 2 && !c->dead; end++)
		c->dead = !stream_move(&c->streams[end], c->fd[end], c->fd[!end]);
	if (c->streams[0].shut && c->streams[1].shut)
		c->dead = true;
	if (!c->dead)
		connection_watch(l, c);
}

/* Left in the queue, he would make the loop turn without end. */
static void connection_refuse(struct loop *l, const struct relay_listener *listener)
{
	fvm_fd_closep(&l->spare);
	int client = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (client >= 0)
		close(client);
	else
		fvm_sleep_ms(10);
	l->spare = fcntl(l->epoll, F_DUPFD_CLOEXEC, 3);
}

static void connection_make(struct loop *l, const struct relay_listener *listener)
{
	scoped_fd client = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (client < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
		connection_refuse(l, listener);
	if (client < 0 || l->connection_count == RELAY_CONNECTIONS)
		return;
	struct connection *c = malloc(sizeof(*c));
	if (!c)
		return;
	/* not the buffers: memory that is not touched is not used */
	for (int end = 0; end < 2; end++) {
		c->ends[end] = (struct source){ .kind = CONNECTION, .connection = c };
		c->events[end] = 0;
		c->streams[end].start = c->streams[end].end = 0;
		c->streams[end].eof = c->streams[end].shut = false;
	}
	c->dead = false;
	c->connecting = true;
	c->fd[0] = fvm_fd_take(&client);
	c->fd[1] = connect_to(&listener->target, SOCK_STREAM);
	l->connection_count++;
	if (c->fd[1] < 0) {
		connection_free(l, c);
		return;
	}
	c->next = l->connections;
	l->connections = c;
	connection_watch(l, c);
}

/* Only between two rounds: events of this round may still point to a dead one. */
static void connections_bury(struct loop *l)
{
	for (struct connection **at = &l->connections; *at;) {
		struct connection *c = *at;
		if (!c->dead) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		connection_free(l, c);
	}
}

/* ---- the loop ---- */

static void dispatch(struct loop *l, const struct source *source)
{
	switch (source->kind) {
	case VM:
		break;
	case LISTENER:
		if (l->relay->listeners[source->index].udp)
			question(l, source->index);
		else
			connection_make(l, &l->relay->listeners[source->index]);
		break;
	case FLOW:
		answer(l, source->flow);
		break;
	case CONNECTION:
		if (!source->connection->dead)
			connection_step(l, source->connection);
		break;
	}
}

static int loop_init(struct loop *l, struct relay *relay)
{
	l->relay = relay;
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll < 0)
		return -errno;
	l->spare = fcntl(l->epoll, F_DUPFD_CLOEXEC, 3);
	for (size_t i = 0; i < RELAY_FLOWS; i++)
		l->flows[i].fd = -1;
	l->vm = (struct source){ .kind = VM };
	int r = watch(l, relay->vm, EPOLL_CTL_ADD, EPOLLIN, &l->vm);
	for (size_t i = 0; i < relay->count && r == 0; i++) {
		l->listeners[i] = (struct source){ .kind = LISTENER, .index = i };
		r = watch(l, relay->listeners[i].fd, EPOLL_CTL_ADD, EPOLLIN, &l->listeners[i]);
	}
	return r;
}

int fvm_relay_loop(struct relay *relay)
{
	struct epoll_event events[64];
	scoped_free struct loop *l = calloc(1, sizeof(*l));
	int r = l ? loop_init(l, relay) : -ENOMEM;
	if (r < 0)
		return r;
	for (;;) {
		int n = epoll_wait(l->epoll, events, FVM_COUNT(events), -1);
		if (n < 0 && errno != EINTR)
			return -errno;
		for (int i = 0; i < n; i++) {
			const struct source *source = events[i].data.ptr;
			if (source->kind == VM)
				return 0;
			dispatch(l, source);
		}
		connections_bury(l);
	}
}
