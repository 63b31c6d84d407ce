/* What is queued in a unix socket, read without taking it away: see unix.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vin/unix.h"

#define SPACE	 (1U << 20) /* for a message, at first */
#define CONTROL	 4096
#define CRED_PID 0x04 /* SCM_PIDFD */

struct peek {
	struct vin_open *o;
	struct unix_socket *s;
	char *space;
	size_t size;
	int at; /* offset of what comes next; -1: the first, whatever has seen it before */
	enum unix_view view; /* of whoever peeks */
	int r;
};

/* What recvmsg() brought along. */
struct news {
	ssize_t len;
	bool cut, has_cred;
	struct ucred cred;
	struct sockaddr_un from;
	socklen_t from_len;
	int fds[UNIX_FDS_MAX];
	size_t fd_count;
};

static void close_fds(struct news *n)
{
	for (size_t i = 0; i < n->fd_count; i++)
		close(n->fds[i]);
	n->fd_count = 0;
}

static void take_control(const struct cmsghdr *c, struct news *n)
{
	const size_t len = c->cmsg_len - CMSG_LEN(0);
	if (c->cmsg_level != SOL_SOCKET)
		return;
	if (c->cmsg_type == SCM_RIGHTS && len / sizeof(int) <= UNIX_FDS_MAX) {
		n->fd_count = len / sizeof(int);
		memcpy(n->fds, CMSG_DATA(c), len);
	} else if (c->cmsg_type == SCM_CREDENTIALS && len == sizeof(n->cred)) {
		memcpy(&n->cred, CMSG_DATA(c), len);
		n->has_cred = true;
	} else if (c->cmsg_type == CRED_PID && len == sizeof(int)) {
		int fd;
		memcpy(&fd, CMSG_DATA(c), len);
		close(fd);
	}
}

/* What comes next, at most @max bytes of it. */
static int take_news(const struct peek *p, size_t max, struct news *n)
{
	_Alignas(struct cmsghdr) char control[CONTROL];
	struct iovec to = { p->space, max };
	*n = (struct news){ 0 };
	struct msghdr msg = {
		.msg_name = &n->from,
		.msg_namelen = sizeof(n->from),
		.msg_iov = &to,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	n->len = recvmsg(p->o->fd, &msg, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n->len < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
		take_control(c, n);
	n->cut = msg.msg_flags & MSG_TRUNC;
	n->from_len = p->s->type == SOCK_STREAM ? 0 : msg.msg_namelen;
	if (msg.msg_flags & MSG_CTRUNC && n->fd_count == 0)
		return -EMFILE;
	return 0;
}

static int peek_once(const struct peek *p, size_t max, struct news *n)
{
	if (setsockopt(p->o->fd, SOL_SOCKET, SO_PEEK_OFF, &p->at, sizeof(p->at)) < 0)
		return -errno;
	return take_news(p, max, n);
}

/*
 * Where what carries something begins in a piece of a stream that ends with it. The kernel copies
 * whole buffers, of which one that does not fit because memory ends is left out; the last one is
 * that which we look for. (A piece that is short by size has what the next one carries, too.)
 */
static int find_limit(const struct peek *p, size_t len, size_t *ret)
{
	struct iovec to[2] = { { p->space, len - 1 }, { (void *)4096, 4096 } };
	struct msghdr msg = { .msg_iov = to, .msg_iovlen = 2 };
	ssize_t n = recvmsg(p->o->fd, &msg, MSG_PEEK | MSG_DONTWAIT);
	if (n < 0 && errno != EFAULT)
		return -errno;
	*ret = n < 0 ? 0 : (size_t)n;
	return 0;
}

static void set_who(const struct peek *p, const struct news *n, struct unix_who *ret)
{
	*ret = (struct unix_who){ 0 };
	if (!n->has_cred || n->cred.pid <= 0)
		return;
	unix_who_inside(p->o->pid, &n->cred, p->view, ret);
}

static int keep(const struct peek *p, struct news *n)
{
	struct unix_message m = { .fds = n->fd_count, .data = p->space, .len = (size_t)n->len };
	const size_t head = offsetof(struct sockaddr_un, sun_path);
	set_who(p, n, &m.who);
	m.name = n->from.sun_path;
	m.name_len = n->from_len > head ? n->from_len - head : 0;
	struct vin_carried *more =
		realloc(p->o->carried,
			fvm_room(p->o->carried_count + n->fd_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	p->o->carried = more;
	for (size_t i = 0; i < n->fd_count; i++)
		more[p->o->carried_count++] = (struct vin_carried){ .fd = n->fds[i] };
	n->fd_count = 0;
	unix_put_message(&p->s->queue, &m);
	p->s->message_count++;
	return p->s->queue.failed ? -ENOMEM : p->s->queue.len > UNIX_QUEUE_MAX ? -E2BIG : 0;
}

/* A stream's piece may begin before what carries something: two pieces then. */
static int split(struct peek *p, struct news *n)
{
	size_t limit = 0;
	const int at = p->at;
	int r = setsockopt(p->o->fd, SOL_SOCKET, SO_PEEK_OFF, &at, sizeof(at)) < 0
			? -errno
			: find_limit(p, (size_t)n->len, &limit);
	if (r < 0 || limit == 0)
		return r;
	struct news first = *n;
	first.fd_count = 0;
	first.len = (ssize_t)limit;
	r = keep(p, &first);
	memmove(p->space, p->space + limit, (size_t)n->len - limit);
	n->len -= (ssize_t)limit;
	return r;
}

static int grow(struct peek *p)
{
	char *more = p->size < UNIX_QUEUE_MAX ? realloc(p->space, p->size * 4) : NULL;
	if (!more)
		return -EMSGSIZE;
	p->space = more;
	p->size *= 4;
	return 0;
}

/* Return: 1, 0 at the end of the queue, or negative errno */
static int peek_next(struct peek *p, int left)
{
	const bool stream = p->s->type == SOCK_STREAM;
	struct news n;
	size_t len;
	if (stream && left == 0)
		return 0;
	int r = peek_once(p, stream && (size_t)left < p->size ? (size_t)left : p->size, &n);
	if (r == -EAGAIN)
		return 0;
	/* the end of a connection comes without a sender */
	if (r < 0 || (n.len == 0 && (stream || !n.has_cred)))
		return r < 0 ? r : 0;
	len = (size_t)n.len;
	if (n.cut) {
		close_fds(&n);
		r = grow(p);
		return r < 0 ? r : 1;
	}
	if (stream && n.fd_count > 0 && len > 1)
		r = split(p, &n);
	if (r == 0)
		r = keep(p, &n);
	close_fds(&n);
	p->at = (p->at < 0 ? 0 : p->at) + (int)len;
	return r < 0 ? r : 1;
}

static int peek_all(struct peek *p)
{
	int bytes = 0, r = 1;
	if (ioctl(p->o->fd, FIONREAD, &bytes) < 0)
		return -errno;
	while (r == 1)
		r = peek_next(p, bytes - (p->at < 0 ? 0 : p->at));
	return r;
}

/* Runs in a child with our memory, which our end does not end. */
static int peek_and_put_back(void *arg)
{
	struct peek *p = arg;
	const int on = 1;
	int at = -1, cred = 0;
	socklen_t len = sizeof(int);
	if (getsockopt(p->o->fd, SOL_SOCKET, SO_PEEK_OFF, &at, &len) < 0 ||
	    getsockopt(p->o->fd, SOL_SOCKET, SO_PASSCRED, &cred, &len) < 0 ||
	    (!cred && setsockopt(p->o->fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0))
		p->r = -errno;
	else
		p->r = peek_all(p);
	(void)setsockopt(p->o->fd, SOL_SOCKET, SO_PASSCRED, &cred, sizeof(cred));
	(void)setsockopt(p->o->fd, SOL_SOCKET, SO_PEEK_OFF, &at, sizeof(at));
	return 0;
}

int unix_peek_first(struct vin_open *o, const struct unix_socket *s, struct fvm_error *err)
{
	struct unix_socket none = { .type = s->type };
	char space[1];
	struct peek p = { .o = o, .s = &none, .space = space, .size = 1, .at = -1 };
	struct news n = { 0 };
	int at = 0;
	socklen_t len = sizeof(at);
	/* at an offset even this would be noticed */
	if (getsockopt(o->fd, SOL_SOCKET, SO_PEEK_OFF, &at, &len) < 0 || at >= 0)
		return 0;
	int r = take_news(&p, p.size, &n) < 0 ? 0 : keep(&p, &n);
	close_fds(&n);
	fvm_buf_free(&none.queue);
	return r < 0 ? fvm_error_set(err, -r, "look at what is queued in %s", o->link) : 0;
}

int unix_peek(struct vin_open *o, struct unix_socket *s, struct fvm_error *err)
{
	struct peek p = { .o = o, .s = s, .size = SPACE, .at = -1 };
	p.space = malloc(p.size);
	p.r = -ECANCELED;
	int r = p.space ? unix_among(o->pid, peek_and_put_back, &p, &p.view) : -ENOMEM;
	if (r == 0)
		r = p.r;
	free(p.space);
	s->looked = r == 0;
	return r < 0 ? fvm_error_set(err, -r, "look at what is queued in %s", o->link) : 0;
}

/* ---- in the image ---- */

void unix_put_message(struct fvm_buf *to, const struct unix_message *m)
{
	vin_put_u64(to, m->who.pid);
	vin_put_u64(to, m->who.uid);
	vin_put_u64(to, m->who.gid);
	vin_put_u64(to, m->fds);
	vin_put_blob(to, m->name, m->name_len);
	vin_put_blob(to, m->data, m->len);
}

bool unix_next_message(struct vin_payload *p, struct unix_message *ret)
{
	if (p->failed || p->at >= p->end)
		return false;
	ret->who.pid = vin_get_u64(p);
	ret->who.uid = vin_get_u64(p);
	ret->who.gid = vin_get_u64(p);
	ret->fds = vin_get_u64(p);
	ret->name = vin_get_blob(p, &ret->name_len);
	ret->data = vin_get_blob(p, &ret->len);
	if (ret->fds > UNIX_FDS_MAX || ret->name_len > UNIX_NAME_MAX || ret->who.pid > INT32_MAX ||
	    ret->who.uid > UINT32_MAX || ret->who.gid > UINT32_MAX)
		p->failed = true;
	return !p->failed;
}
