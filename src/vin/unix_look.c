/* A unix socket at the source: what it is, whom it is connected to, what it is set to. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vin/status.h"
#include "vin/unix.h"

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif
#ifndef SO_RCVPRIORITY
#define SO_RCVPRIORITY 82
#endif
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif
#ifndef SIOCUNIXFILE
#define SIOCUNIXFILE (SIOCPROTOPRIVATE + 0)
#endif

/* TCP_* as sock_diag(7) tells them */
#define STATE_CONNECTED 1
#define STATE_LISTENS	10

/* What is set where it differs, in this order: sizes come before the lock on them, the filter's
 * lock after the filter. */
static const struct {
	int nr;
	size_t len;
} options[] = {
	{ SO_DEBUG, 4 },
	{ SO_REUSEADDR, 4 },
	{ SO_DONTROUTE, 4 },
	{ SO_BROADCAST, 4 },
	{ SO_KEEPALIVE, 4 },
	{ SO_OOBINLINE, 4 },
	{ SO_NO_CHECK, 4 },
	{ SO_PRIORITY, 4 },
	{ SO_LINGER, sizeof(struct linger) },
	{ SO_RCVLOWAT, 4 },
	{ SO_RCVTIMEO, sizeof(struct timeval) },
	{ SO_SNDTIMEO, sizeof(struct timeval) },
	{ SO_TIMESTAMP, 4 },
	{ SO_TIMESTAMPNS, 4 },
	{ SO_PASSSEC, 4 },
	{ SO_MARK, 4 },
	{ SO_RXQ_OVFL, 4 },
	{ SO_WIFI_STATUS, 4 },
	{ SO_NOFCS, 4 },
	{ SO_SELECT_ERR_QUEUE, 4 },
	{ SO_RCVMARK, 4 },
	{ SO_RCVPRIORITY, 4 },
	{ SO_PASSPIDFD, 4 },
	{ SO_PASSRIGHTS, 4 },
	{ SO_PASSCRED, 4 },
	{ SO_SNDBUF, 4 },
	{ SO_RCVBUF, 4 },
	{ SO_BUF_LOCK, 4 },
	{ SO_PEEK_OFF, 4 },
};
_Static_assert(FVM_COUNT(options) <= UNIX_OPTIONS_MAX, "all have a place");

bool unix_known_option(uint64_t nr, size_t len)
{
	for (size_t i = 0; i < FVM_COUNT(options); i++) {
		if ((uint64_t)options[i].nr == nr)
			return options[i].len == len;
	}
	return nr == SO_LOCK_FILTER && len == 4;
}

static void keep_option(int fd, int nr, size_t len, struct unix_socket *s)
{
	struct unix_option *o = &s->options[s->option_count];
	socklen_t got = sizeof(o->value);
	/* what this kernel has not can't have been set */
	if (getsockopt(fd, SOL_SOCKET, nr, o->value, &got) < 0 || got != len)
		return;
	o->nr = (uint64_t)nr;
	o->len = len;
	s->option_count++;
}

/* ---- the filter ---- */

static int look_at_filter(int fd, struct unix_socket *s)
{
	socklen_t count = 0;
	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &count) < 0) {
		if (errno == EACCES)
			s->refusal = "it has a filter of eBPF";
		return errno == EACCES || errno == ENOPROTOOPT ? 0 : -errno;
	}
	if (count == 0 || count > UNIX_FILTER_MAX)
		return 0;
	s->filter_len = count * sizeof(struct sock_filter);
	s->filter = malloc(s->filter_len);
	if (!s->filter)
		return -ENOMEM;
	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, s->filter, &count) < 0)
		return -errno;
	return 0;
}

static void set_filter(int fd, const struct unix_socket *s, int *r)
{
	const struct sock_fprog program = {
		.len = (unsigned short)(s->filter_len / sizeof(struct sock_filter)),
		.filter = (struct sock_filter *)(void *)s->filter,
	};
	if (program.len > 0 &&
	    setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0)
		*r = -errno;
}

/* ---- options anew ---- */

/* Sizes are told as twice what is set; above the limit only some may set them. */
static int set_size(int fd, int nr, const struct unix_option *o)
{
	int size;
	memcpy(&size, o->value, sizeof(size));
	size /= 2;
	const int force = nr == SO_SNDBUF ? SO_SNDBUFFORCE : SO_RCVBUFFORCE;
	if (setsockopt(fd, SOL_SOCKET, force, &size, sizeof(size)) == 0)
		return 0;
	return fvm_nerr(setsockopt(fd, SOL_SOCKET, nr, &size, sizeof(size)));
}

static int set_option(int fd, const struct unix_option *o)
{
	unsigned char now[UNIX_OPTION_SIZE];
	socklen_t len = sizeof(now);
	const int nr = (int)o->nr;
	if (getsockopt(fd, SOL_SOCKET, nr, now, &len) == 0 && len == o->len &&
	    memcmp(now, o->value, len) == 0)
		return 0;
	if (nr == SO_SNDBUF || nr == SO_RCVBUF)
		return set_size(fd, nr, o);
	return fvm_nerr(setsockopt(fd, SOL_SOCKET, nr, o->value, (socklen_t)o->len));
}

int unix_set_options(int fd, const struct unix_socket *s, struct fvm_error *err)
{
	int r = 0;
	set_filter(fd, s, &r);
	if (r < 0)
		return fvm_error_set(err, -r, "set the filter of a socket");
	for (size_t i = 0; r == 0 && i < s->option_count; i++) {
		r = set_option(fd, &s->options[i]);
		if (r < 0)
			fvm_error_set(err, -r, "set option %d of a socket", (int)s->options[i].nr);
	}
	return r;
}

/* ---- who ---- */

void unix_who_inside(pid_t pid, const struct ucred *c, enum unix_view view, struct unix_who *ret)
{
	scoped_status there = { 0 }, here = { 0 };
	*ret = (struct unix_who){ (uint64_t)c->pid, c->uid, c->gid };
	if (view != UNIX_ALL)
		vin_inner_pair(pid, c->uid, c->gid, &ret->uid, &ret->gid);
	if (view != UNIX_NOTHING || c->pid <= 0)
		return;
	/* of a namespace as deep: most likely the same; who has ended can't be asked */
	ret->pid = 0;
	if (vin_status_read(c->pid, c->pid, &there, NULL) == 0 &&
	    vin_status_read(pid, pid, &here, NULL) == 0 && there.depth == here.depth)
		ret->pid = (uint64_t)there.pids[there.depth - 1];
}

struct maker {
	int fd;
	struct ucred cred;
};

static int ask_maker(void *arg)
{
	struct maker *m = arg;
	socklen_t len = sizeof(m->cred);
	if (getsockopt(m->fd, SOL_SOCKET, SO_PEERCRED, &m->cred, &len) < 0)
		m->cred.pid = 0;
	return 0;
}

static int look_at_maker(const struct vin_open *o, struct unix_socket *s)
{
	enum unix_view view;
	struct maker m = { .fd = o->fd };
	/* nobody, of most datagram sockets: -1 are the ids then */
	(void)ask_maker(&m);
	if (m.cred.pid == 0 && m.cred.uid == (uid_t)-1)
		return 0;
	int r = unix_among(o->pid, ask_maker, &m, &view);
	if (r == 0 && m.cred.pid > 0)
		unix_who_inside(o->pid, &m.cred, view, &s->maker);
	return r;
}

/* ---- names ---- */

static void take_name(const struct sockaddr_un *a, socklen_t len, struct unix_name *ret)
{
	const size_t head = offsetof(struct sockaddr_un, sun_path);
	*ret = (struct unix_name){ 0 };
	if (len <= head || len > sizeof(*a) + 1)
		return;
	ret->len = len - head;
	/* one of full length has no NUL of its own, but is told with one */
	if (ret->len > UNIX_NAME_MAX)
		ret->len = UNIX_NAME_MAX;
	memcpy(ret->bytes, a->sun_path, ret->len);
	if (ret->bytes[0])
		ret->len = strnlen(ret->bytes, ret->len);
}

static void look_at_names(const struct vin_open *o, struct unix_socket *s)
{
	struct sockaddr_un a = { 0 };
	socklen_t len = sizeof(a);
	if (getsockname(o->fd, (struct sockaddr *)&a, &len) == 0)
		take_name(&a, len, &s->name);
	len = sizeof(a);
	if (getpeername(o->fd, (struct sockaddr *)&a, &len) == 0)
		take_name(&a, len, &s->peer_name);
}

/* Where the kernel says that its file is, or is called if we may not ask. */
static char *place_of(const struct vin_open *o, const struct unix_socket *s, struct stat *ret)
{
	char from[64], to[4096 + 16] = "", *path = NULL;
	scoped_fd file = fvm_nerr(ioctl(o->fd, SIOCUNIXFILE));
	*ret = (struct stat){ 0 };
	snprintf(from, sizeof(from), "/proc/self/fd/%d", file);
	if (file >= 0 && fstat(file, ret) == 0 && readlink(from, to, sizeof(to) - 1) > 0)
		return strdup(to);
	if (s->name.bytes[0] == '/')
		return strdup(s->name.bytes);
	snprintf(from, sizeof(from), "/proc/%d/cwd", o->pid);
	if (readlink(from, to, sizeof(to) - 1) < 0 ||
	    asprintf(&path, "%s/%s", to, s->name.bytes) < 0)
		return NULL;
	return path;
}

static int look_at_path(struct vin_files *all, const struct vin_open *o, uint32_t ino,
			struct unix_socket *s)
{
	struct stat is, st;
	scoped_free char *path = place_of(o, s, &is);
	if (!path)
		return -ENOMEM;
	scoped_fd there = vin_name_look(all, path);
	bool leads = there >= 0 && fstat(there, &st) == 0 && S_ISSOCK(st.st_mode);
	if (leads)
		leads = is.st_ino ? vin_same_inode(&is, &st) : (uint32_t)st.st_ino == ino;
	if (!leads)
		return 0;
	free(s->path);
	s->path = fvm_take_ptr(&path);
	s->mode = st.st_mode & 07777;
	vin_inner_pair(o->pid, st.st_uid, st.st_gid, &s->uid, &s->gid);
	return 0;
}

/* ---- the whole ---- */

static int take_waiting(const struct unix_diag *d, struct unix_socket *s)
{
	s->waiting_inos = calloc(d->waiting_count + 1U, sizeof(*s->waiting_inos));
	if (!s->waiting_inos)
		return -ENOMEM;
	memcpy(s->waiting_inos, d->waiting, d->waiting_count * sizeof(*d->waiting));
	s->waiting_count = d->waiting_count;
	for (size_t i = 0; i < s->waiting_count; i++) {
		if (s->waiting_inos[i] == 0)
			s->not_now = "somebody waits to be accepted who has left since";
	}
	if (d->waiting_count != d->queued)
		s->refusal = "too many wait there to be accepted";
	return 0;
}

static int take_diag(struct vin_files *all, const struct vin_open *o, const struct unix_diag *d,
		     struct unix_socket *s)
{
	int sending = 0;
	s->listens = d->state == STATE_LISTENS;
	s->has_peer = d->has_peer;
	s->peer_ino = d->peer;
	struct pollfd p = { .fd = o->fd, .events = POLLPRI };
	int r = poll(&p, 1, 0) < 0 ? -errno : 0;
	s->error = (p.revents & POLLERR) != 0;
	if (p.revents & POLLPRI)
		s->refusal = "a byte out of band waits there";
	s->down = d->down;
	if (s->listens) {
		s->backlog = d->backlog;
		r = r < 0 ? r : take_waiting(d, s);
	}
	/* of one that is connected to nobody's socket and not shut down: nobody has accepted it */
	s->waits = s->type != SOCK_DGRAM && d->state == STATE_CONNECTED && d->has_peer &&
		   d->peer == 0 && d->down != 3;
	if (s->waits && ioctl(o->fd, TIOCOUTQ, &sending) == 0 && sending > 0)
		s->not_now = "it has sent to somebody who has not accepted it yet";
	if (r == 0 && s->name.len > 0 && s->name.bytes[0] && d->has_file)
		r = look_at_path(all, o, d->file_ino, s);
	return r;
}

static int look_at_queue(const struct vin_files *all, struct vin_open *o, struct unix_socket *s,
			 struct fvm_error *err)
{
	struct pollfd p = { .fd = o->fd, .events = POLLIN };
	if (s->listens || (s->type != SOCK_DGRAM && !s->has_peer) || poll(&p, 1, 0) == 0) {
		s->looked = true;
		return 0;
	}
	int bytes = 0;
	(void)ioctl(o->fd, FIONREAD, &bytes);
	if (s->error && s->type != SOCK_STREAM) {
		/* looking would take the error away */
		if (bytes > 0)
			s->refusal = "an error and messages wait there together";
		s->looked = true;
		return 0;
	}
	if (s->refusal)
		return 0;
	if (all->stopped)
		return unix_peek(o, s, err);
	/* of a stream that is not at its end, which takes no error away */
	return s->type == SOCK_STREAM && !s->error && bytes > 0 ? unix_peek_first(o, s, err) : 0;
}

static int look_at(struct vin_files *all, struct vin_open *o, struct unix_socket *s,
		   struct fvm_error *err)
{
	struct unix_diag d;
	int type = 0;
	socklen_t len = sizeof(type);
	if (getsockopt(o->fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
		return fvm_error_set(err, errno, "look at %s", o->link);
	s->type = (uint64_t)type;
	look_at_names(o, s);
	for (size_t i = 0; i < FVM_COUNT(options); i++)
		keep_option(o->fd, options[i].nr, options[i].len, s);
	int r = unix_ask(all, o, &d, err);
	if (r < 0)
		return r;
	r = look_at_filter(o->fd, s);
	if (r == 0 && s->filter)
		keep_option(o->fd, SO_LOCK_FILTER, 4, s);
	if (r == 0 && all->stopped)
		r = look_at_maker(o, s);
	if (r == 0)
		r = take_diag(all, o, &d, s);
	return r < 0 ? fvm_error_set(err, -r, "look at %s", o->link)
		     : look_at_queue(all, o, s, err);
}

int unix_look(struct vin_files *all, struct vin_open *o, struct fvm_error *err)
{
	struct unix_socket *s = calloc(1, sizeof(*s));
	if (s)
		s->path = strdup("");
	o->its = s;
	if (!s || !s->path)
		return fvm_error_set(err, ENOMEM, "look at %s", o->link);
	return look_at(all, o, s, err);
}

const struct vin_open *unix_find(const struct vin_files *all, uint32_t ino)
{
	for (size_t i = 0; ino && i < all->count; i++) {
		const struct vin_open *o = &all->opens[i];
		if (o->kind == &vin_kind_unix && (uint32_t)o->st.st_ino == ino)
			return o;
	}
	return NULL;
}
