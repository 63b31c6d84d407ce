/* Unix sockets in the new world: see unix.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vin/unix.h"

struct unix_socket *unix_of(const struct vin_file *f)
{
	return f->kind == &vin_kind_unix ? f->its : NULL;
}

/* The file of an id of the image, if it is a unix socket; NULL: it is not. */
static struct vin_file *socket_at(const struct vin_reopen *r, uint64_t id)
{
	return id < r->taken && unix_of(&r->files[id]) ? &r->files[id] : NULL;
}

/* ---- open ---- */

/* What was made together with it waits there. */
static int take_other_end(const struct vin_reopen *r, const struct vin_file *f)
{
	const struct unix_socket *s = f->its;
	struct vin_file *first = socket_at(r, s->pair - 1);
	if (!first || unix_of(first)->pair != f->id + 1 || unix_of(first)->type != s->type)
		return -EBADMSG;
	return first->maker < 0 ? -EBADMSG : fvm_fd_take(&first->maker);
}

int unix_open(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct unix_socket *s = f->its;
	int ends[2] = { -1, -1 };
	int fd;
	if (s->pair && s->pair - 1 < f->id) {
		fd = take_other_end(r, f);
	} else if (s->pair || (s->ghost && (s->type != SOCK_DGRAM || s->name.len == 0))) {
		int e = unix_make_pair(r, s, ends);
		fd = e < 0 ? e : ends[0];
		f->maker = e < 0 ? -1 : ends[1];
	} else {
		fd = fvm_nerr(socket(AF_UNIX, (int)s->type | SOCK_CLOEXEC, 0));
	}
	return fd < 0 ? fvm_error_set(err, -fd, "make a socket") : fd;
}

/* ---- steps of fill: each for all sockets ---- */

struct reach {
	int fd;
	int backlog;
	struct sockaddr_un to;
	socklen_t to_len;
};

static int do_connect(void *arg)
{
	const struct reach *c = arg;
	return fvm_nerr(connect(c->fd, (const struct sockaddr *)&c->to, c->to_len));
}

static int do_listen(void *arg)
{
	const struct reach *c = arg;
	return fvm_nerr(listen(c->fd, c->backlog));
}

static int reach_file(int fd, const struct vin_file *to, struct reach *ret)
{
	const struct unix_socket *s = unix_of(to);
	if (s->name.len == 0)
		return -EBADMSG;
	ret->fd = fd;
	ret->to_len = unix_reach(&s->name, s->node - 1, &ret->to);
	return 0;
}

/* Its peer had a name and is gone: one like it comes and goes. One without a name can have got
 * something from its twin only, which had a name in the end. */
static int connect_to_ghost(struct vin_reopen *r, struct vin_file *f)
{
	struct unix_socket *s = f->its;
	if (s->type != SOCK_DGRAM || !s->ghost || (s->peer_name.len == 0 && f->maker >= 0))
		return 0;
	const struct unix_place place = { .name = &s->peer_name,
					  .path = "",
					  .mode = 0777,
					  .uid = UINT32_MAX,
					  .gid = UINT32_MAX };
	scoped_fd own = f->maker < 0 ? fvm_nerr(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) : -1;
	const int ghost = f->maker < 0 ? own : f->maker;
	int node = -1, e = ghost < 0 ? ghost : unix_bind(r, ghost, &place, &node);
	scoped_fd held = node;
	struct reach c = { .fd = f->fd };
	c.to_len = unix_reach(&s->peer_name, held, &c.to);
	return e < 0 || f->maker >= 0 ? e : do_connect(&c);
}

static int give_name(struct vin_reopen *r, struct vin_file *f)
{
	struct unix_socket *s = f->its;
	if (s->name.len == 0 || s->accepted)
		return 0;
	const struct unix_place place = { &s->name, s->path, s->mode, s->uid, s->gid };
	int node = -1, e = unix_bind(r, f->fd, &place, &node);
	s->node = node + 1;
	return e;
}

static int start_listening(struct vin_reopen *r, struct vin_file *f)
{
	const struct unix_socket *s = f->its;
	struct reach l = { .fd = f->fd, .backlog = (int)s->backlog };
	return s->listens ? unix_as(r, &s->maker, do_listen, &l) : 0;
}

static int connect_to_peer(const struct vin_reopen *r, const struct vin_file *f)
{
	const struct unix_socket *s = f->its;
	const struct vin_file *to = socket_at(r, s->peer - 1);
	struct reach c = { 0 };
	int e = to ? reach_file(f->fd, to, &c) : -EBADMSG;
	return e < 0 ? e : do_connect(&c);
}

/* One of a pair that has turned to somebody else: what it has queued by then would be lost. */
static int turn_away(struct vin_reopen *r, struct vin_file *f)
{
	const struct unix_socket *s = f->its;
	if (s->type != SOCK_DGRAM || !s->pair || s->peer == s->pair)
		return 0;
	if (s->peer)
		return connect_to_peer(r, f);
	const struct sockaddr none = { .sa_family = AF_UNSPEC };
	return fvm_nerr(connect(f->fd, &none, sizeof(none)));
}

static int meet_peer(struct vin_reopen *r, struct vin_file *f)
{
	const struct unix_socket *s = f->its;
	return s->peer && !s->pair ? connect_to_peer(r, f) : 0;
}

static int wait_at(const struct vin_reopen *r, const struct vin_file *listener,
		   const struct vin_file *client)
{
	struct reach c = { 0 };
	const int flags = fcntl(client->fd, F_GETFL);
	int e = reach_file(client->fd, listener, &c);
	if (e < 0 || flags < 0 || fcntl(client->fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return e < 0 ? e : -errno;
	e = unix_as(r, &unix_of(client)->peer_maker, do_connect, &c);
	if (e == -EACCES) /* that one may no longer do it */
		e = do_connect(&c);
	(void)fcntl(client->fd, F_SETFL, flags);
	return e;
}

static int have_wait(struct vin_reopen *r, struct vin_file *f)
{
	const struct unix_socket *s = f->its;
	int e = 0;
	for (size_t i = 0; e == 0 && i < s->waiting_count; i++) {
		const struct vin_file *client = socket_at(r, s->waiting[i]);
		e = client && client != f ? wait_at(r, f, client) : -EBADMSG;
	}
	return e;
}

static int shut_down(struct vin_reopen *r, struct vin_file *f)
{
	const struct unix_socket *s = f->its;
	static const int how[] = { 0, SHUT_RD, SHUT_WR, SHUT_RDWR };
	(void)r;
	if (s->down == 0 || (s->ghost && s->type != SOCK_DGRAM))
		return 0;
	/* of a socket without a peer this is an error, too, and does it nevertheless */
	return shutdown(f->fd, how[s->down]) < 0 && errno != ENOTCONN ? -errno : 0;
}

/* What it has sent and nobody has read becomes an error when the other end goes. */
static int end_ghost(struct vin_reopen *r, struct vin_file *f)
{
	const struct unix_socket *s = f->its;
	(void)r;
	if (!s->ghost || f->maker < 0)
		return 0;
	int e = s->error && send(f->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
	fvm_fd_closep(&f->maker);
	return e;
}

static const struct {
	int (*take)(struct vin_reopen *r, struct vin_file *f);
	const char *what;
} before[] = {
	{ connect_to_ghost, "connect a socket to one that is gone" },
	{ give_name, "give a socket its name" },
	{ start_listening, "have a socket listen" },
	{ turn_away, "connect a socket" },
}, after[] = {
	{ meet_peer, "connect a socket" },
	{ have_wait, "have connections wait to be accepted" },
	{ shut_down, "shut down a socket" },
	{ end_ghost, "close a socket's other end" },
};

#define EACH(r, f)                                                                                 \
	for (struct vin_file *f = (r)->files; f < (r)->files + (r)->taken; f++)                    \
		if (unix_of(f))

static int say(const struct vin_file *f, int e, const char *what, struct fvm_error *err)
{
	const struct unix_socket *s = f->its;
	const char *name = s->name.bytes[0] ? s->name.bytes : s->name.len ? s->name.bytes + 1 : "";
	return e < 0 ? fvm_error_set(err, -e, "%s (file %zu %.107s)", what, f->id, name) : 0;
}

int unix_fill(struct vin_reopen *r, struct vin_file *file, struct fvm_error *err)
{
	int e = 0;
	if (unix_of(file)->joined)
		return 0;
	for (size_t i = 0; i < FVM_COUNT(before); i++) {
		EACH(r, f)
		e = e < 0 ? e : say(f, before[i].take(r, f), before[i].what, err);
	}
	EACH(r, f)
	e = e < 0 ? e : unix_refill(r, f, err);
	for (size_t i = 0; i < FVM_COUNT(after); i++) {
		EACH(r, f)
		e = e < 0 ? e : say(f, after[i].take(r, f), after[i].what, err);
	}
	EACH(r, f)
	{
		struct unix_socket *s = f->its;
		e = e < 0 ? e : unix_set_options(f->fd, s, err);
		s->joined = true;
		/* of a number that the programs may have */
		if (s->node)
			close(s->node - 1);
		s->node = 0;
	}
	return e;
}
