/* What was queued in a unix socket, sent to it again: see unix.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vin/unix.h"

#define ROOM (64U << 10) /* beside what is queued, for the kernel's own */

/* Where a message comes from. */
struct sender {
	int fd;
	struct sockaddr_un to;
	socklen_t to_len; /* 0: it is connected */
};

/* Messages of one sender and one person. */
struct run {
	const struct vin_reopen *r;
	const struct unix_socket *s;
	struct vin_payload at;
	size_t carried; /* how many have been sent on */
	struct unix_message first;
	struct sender from;
	uint64_t count;
	bool stream;
};

static size_t put_rights(const struct run *run, const struct unix_message *m, size_t carried,
			 struct cmsghdr *c)
{
	int *fds = (int *)(void *)CMSG_DATA(c);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(m->fds * sizeof(int));
	for (size_t i = 0; i < m->fds; i++)
		fds[i] = vin_reopen_fd(run->r, run->s->carried[carried + i]);
	return CMSG_SPACE(m->fds * sizeof(int));
}

/* We are that person now, or who comes nearest. */
static size_t put_person(struct cmsghdr *c)
{
	const struct ucred me = { getpid(), geteuid(), getegid() };
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_CREDENTIALS;
	c->cmsg_len = CMSG_LEN(sizeof(me));
	memcpy(CMSG_DATA(c), &me, sizeof(me));
	return CMSG_SPACE(sizeof(me));
}

static int send_one(const struct run *run, const struct unix_message *m, size_t carried)
{
	_Alignas(struct cmsghdr) char
		control[CMSG_SPACE(UNIX_FDS_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
	struct iovec data = { (void *)(uintptr_t)m->data, m->len };
	struct sockaddr_un to = run->from.to;
	struct msghdr msg = { .msg_iov = &data, .msg_iovlen = 1 };
	memset(control, 0, sizeof(control));
	if (run->from.to_len) {
		msg.msg_name = &to;
		msg.msg_namelen = run->from.to_len;
	}
	if (m->fds)
		msg.msg_controllen += put_rights(run, m, carried, (void *)control);
	if (m->who.pid)
		msg.msg_controllen += put_person((void *)(control + msg.msg_controllen));
	msg.msg_control = msg.msg_controllen ? control : NULL;
	do {
		ssize_t n = sendmsg(run->from.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0)
			return -errno;
		if (!run->stream)
			return (size_t)n == m->len ? 0 : -EMSGSIZE;
		/* of a stream the kernel may take less; the rest carries nothing */
		data.iov_base = (char *)data.iov_base + n;
		data.iov_len -= (size_t)n;
		msg.msg_control = NULL;
		msg.msg_controllen = 0;
	} while (data.iov_len > 0);
	return 0;
}

static bool same_sender(const struct unix_message *a, const struct unix_message *b)
{
	return a->who.pid == b->who.pid && a->who.uid == b->who.uid && a->who.gid == b->who.gid &&
	       a->name_len == b->name_len && memcmp(a->name, b->name, a->name_len) == 0;
}

static int send_run(void *arg)
{
	const struct run *run = arg;
	struct vin_payload p = run->at;
	struct unix_message m;
	size_t carried = run->carried;
	int e = 0;
	for (uint64_t i = 0; e == 0 && i < run->count && unix_next_message(&p, &m); i++) {
		e = send_one(run, &m, carried);
		carried += m.fds;
	}
	return e;
}

/* ---- from whom ---- */

static const struct vin_file *named(const struct vin_reopen *r, const struct unix_message *m)
{
	for (size_t i = 0; m->name_len && i < r->taken; i++) {
		const struct unix_socket *s = unix_of(&r->files[i]);
		if (s && s->type == SOCK_DGRAM && s->name.len == m->name_len &&
		    memcmp(s->name.bytes, m->name, m->name_len) == 0)
			return &r->files[i];
	}
	return NULL;
}

/* Nobody has it any more: one of that name comes and goes. */
static int make_sender(const struct vin_reopen *r, const struct unix_message *m)
{
	struct unix_name name = { .len = m->name_len };
	memcpy(name.bytes, m->name, m->name_len);
	const struct unix_place place = {
		.name = &name, .path = "", .mode = 0777, .uid = UINT32_MAX, .gid = UINT32_MAX
	};
	scoped_fd fd = fvm_nerr(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	int node = -1, e = fd < 0 ? fd : name.len ? unix_bind(r, fd, &place, &node) : 0;
	fvm_fd_closep(&node);
	return e < 0 ? e : fvm_fd_take(&fd);
}

/* Whether what @from sends goes to @f without being told. */
static bool is_connected(const struct vin_file *from, const struct vin_file *f)
{
	const struct unix_socket *s = unix_of(from);
	return s->pair == f->id + 1 && (s->type != SOCK_DGRAM || s->peer == s->pair);
}

/* @ret_own: a sender that is to be closed behind it, or -1 */
static int find_sender(const struct vin_reopen *r, const struct vin_file *f,
		       const struct unix_message *m, struct sender *ret, int *ret_own)
{
	const struct unix_socket *s = unix_of(f);
	const struct vin_file *pair =
		s->pair && s->pair <= r->taken ? &r->files[s->pair - 1] : NULL;
	const struct vin_file *from = s->type == SOCK_DGRAM ? named(r, m) : NULL;
	*ret = (struct sender){ 0 };
	if (!from && (s->type != SOCK_DGRAM || m->name_len == 0) && pair && unix_of(pair) &&
	    is_connected(pair, f))
		from = pair;
	if (from && is_connected(from, f)) {
		ret->fd = from->fd;
		return 0;
	}
	if (!from && f->maker >= 0) { /* the other end is a ghost, whatever its name was */
		ret->fd = f->maker;
		return 0;
	}
	if (s->type != SOCK_DGRAM || s->name.len == 0)
		return -EBADMSG;
	ret->fd = from ? from->fd : make_sender(r, m);
	*ret_own = from ? -1 : ret->fd;
	ret->to_len = unix_reach(&s->name, s->node - 1, &ret->to);
	return ret->fd < 0 ? ret->fd : 0;
}

/* Room for all of it: the size that the sender had is set at the end. Who may not have that much
 * finds out when there is not enough. */
static void make_room(int fd, size_t bytes)
{
	const int size = (int)(bytes * 2 + ROOM);
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

static int refill_run(struct run *run, const struct vin_file *f)
{
	int own = -1;
	int e = find_sender(run->r, f, &run->first, &run->from, &own);
	scoped_fd held = own;
	(void)held;
	if (e < 0)
		return e;
	make_room(run->from.fd, run->s->queue.len);
	return unix_as(run->r, &run->first.who, send_run, run);
}

int unix_refill(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct unix_socket *s = unix_of(f);
	const unsigned char *data = (const unsigned char *)s->queue.data;
	struct vin_payload p = { .at = data, .end = data ? data + s->queue.len : NULL };
	struct run run = { .r = r, .s = s, .stream = s->type == SOCK_STREAM };
	int e = 0;
	for (size_t i = 0; i < s->carried_count; i++) {
		/* what waits for processes is a placeholder still, and would be sent as that */
		if (vin_reopen_fd(r, s->carried[i]) < 0 || r->files[s->carried[i]].late)
			return fvm_error_set(err, EBADMSG, "find what a socket carries");
	}
	for (struct vin_payload from = p; e == 0 && unix_next_message(&p, &run.first); from = p) {
		struct vin_payload next = p;
		struct unix_message m;
		size_t carried = run.first.fds;
		run.at = from;
		for (run.count = 1; unix_next_message(&next, &m) && same_sender(&m, &run.first);
		     run.count++) {
			carried += m.fds;
			p = next;
		}
		e = refill_run(&run, f);
		run.carried += carried;
	}
	if (e == -EAGAIN)
		fvm_error_hint(err, "allow larger queues: net.core.wmem_max, "
				    "net.unix.max_dgram_qlen");
	return e < 0 ? fvm_error_set(err, -e, "queue %zu messages in a socket (file %zu)",
				     (size_t)s->message_count, f->id)
		     : 0;
}
