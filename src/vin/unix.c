/* Unix sockets as a kind of files: see unix.h. */
#include "vin/unix.h"

#include <errno.h>
#include <linux/filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vin/status.h"

static bool matches(const struct vin_open *o)
{
	int family = 0;
	socklen_t len = sizeof(family);
	return S_ISSOCK(o->st.st_mode) && strncmp(o->link, "socket:", 7) == 0 &&
	       getsockopt(o->fd, SOL_SOCKET, SO_DOMAIN, &family, &len) == 0 && family == AF_UNIX;
}

void unix_forget(void *its)
{
	struct unix_socket *s = its;
	free(s->path);
	free(s->filter);
	free(s->carried);
	free(s->waiting);
	free(s->waiting_inos);
	fvm_buf_free(&s->queue);
	if (s->node)
		close(s->node - 1);
	s->node = 0;
}

static void unlook(void *its)
{
	unix_forget(its);
	free(its);
}

static const struct unix_socket *seen(const struct vin_open *o)
{
	return o->its;
}

/* ---- check ---- */

/* Who has the socket of inode @ino open: "process 12 (name), descriptor 3"; "another program". */
static void tell_holder(uint32_t ino, char *to, size_t size)
{
	char link[32], path[300], is[64];
	snprintf(link, sizeof(link), "socket:[%u]", ino);
	snprintf(to, size, "another program");
	scoped_dir procs = opendir("/proc");
	for (struct dirent *p; procs && (p = fvm_dir_next(procs));) {
		if (p->d_name[0] < '1' || p->d_name[0] > '9')
			continue;
		snprintf(path, sizeof(path), "/proc/%.20s/fd", p->d_name);
		scoped_dir fds = opendir(path);
		for (struct dirent *e; fds && (e = fvm_dir_next(fds));) {
			snprintf(path, sizeof(path), "/proc/%.20s/fd/%.20s", p->d_name, e->d_name);
			ssize_t n = readlink(path, is, sizeof(is) - 1);
			if (n < 0 || (size_t)n != strlen(link) || memcmp(is, link, (size_t)n) != 0)
				continue;
			struct vin_stat st;
			pid_t pid = (pid_t)strtol(p->d_name, NULL, 10);
			int named = vin_stat_read(pid, pid, &st, NULL);
			snprintf(to, size, "descriptor %.20s of process %d (%.16s)", e->d_name, pid,
				 named == 0 ? st.comm : "?");
			return;
		}
	}
}

/* Of whom it is connected to. Ends outside may be allowed one day: this is the place to ask. */
static int refuse_peer(const struct unix_socket *s, struct fvm_error *err)
{
	char holder[100], name[UNIX_NAME_MAX + 1] = "";
	tell_holder(s->peer_ino, holder, sizeof(holder));
	for (size_t i = 0; i < s->peer_name.len; i++)
		name[i] = s->peer_name.bytes[i] ? s->peer_name.bytes[i] : '@';
	return fvm_error_say(err, EOPNOTSUPP, "its other end is outside: %s%s%s", holder,
			     name[0] ? ", named " : "", name);
}

static const struct vin_open *find_listener(const struct vin_files *all, const struct vin_open *o)
{
	for (size_t i = 0; i < all->count; i++) {
		const struct vin_open *l = &all->opens[i];
		if (l->kind != &vin_kind_unix)
			continue;
		for (size_t n = 0; n < seen(l)->waiting_count; n++) {
			if (seen(l)->waiting_inos[n] == (uint32_t)o->st.st_ino)
				return l;
		}
	}
	return NULL;
}

static int check_waiting(const struct vin_files *all, const struct unix_socket *s,
			 struct fvm_error *err)
{
	for (size_t i = 0; i < s->waiting_count; i++) {
		char holder[100];
		if (s->waiting_inos[i] == 0 || unix_find(all, s->waiting_inos[i]))
			continue;
		tell_holder(s->waiting_inos[i], holder, sizeof(holder));
		return fvm_error_say(err, EOPNOTSUPP, "%s, which is outside, waits to be accepted",
				     holder);
	}
	return 0;
}

static bool is_ghosts(const struct unix_socket *s)
{
	return s->has_peer && s->peer_ino == 0 && !s->waits;
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	const struct unix_socket *s = seen(o);
	if (s->refusal)
		return fvm_error_say(err, EOPNOTSUPP, "%s", s->refusal);
	if (s->peer_ino && !unix_find(all, s->peer_ino))
		return refuse_peer(s, err);
	if (s->waits && !find_listener(all, o))
		return fvm_error_say(err, EOPNOTSUPP, "it waits to be accepted by another program");
	if (s->error && (!is_ghosts(s) || s->type == SOCK_DGRAM))
		return fvm_error_say(err, EOPNOTSUPP, "an error waits there to be told");
	return check_waiting(all, s, err);
}

/* ---- capture ---- */

/* What passes as soon as the listener accepts. */
static int ready(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	(void)all;
	return seen(o)->not_now ? fvm_error_say(err, EAGAIN, "%s", seen(o)->not_now) : 0;
}

static bool same_name(const struct unix_name *a, const struct unix_name *b)
{
	return a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

static bool is_listeners(const struct vin_files *all, const struct unix_name *name)
{
	for (size_t i = 0; i < all->count; i++) {
		const struct vin_open *o = &all->opens[i];
		if (o->kind == &vin_kind_unix && seen(o)->listens &&
		    same_name(&seen(o)->name, name))
			return true;
	}
	return false;
}

/* A connected one with a name has it from a listener, or from bind(2) before it connected. */
static bool was_accepted(const struct vin_files *all, const struct vin_open *o,
			 const struct vin_open *peer)
{
	const struct unix_socket *s = seen(o);
	if (s->type == SOCK_DGRAM || !s->has_peer || s->waits || s->name.len == 0)
		return false;
	if (s->peer_name.len == 0 || is_listeners(all, &s->name))
		return true;
	return !is_listeners(all, &s->peer_name) && peer && o->id < peer->id;
}

/* What it is made together with. A datagram socket without a name can be sent to by its twin of
 * socketpair(2) only. */
static const struct vin_open *find_pair(const struct vin_files *all, const struct vin_open *o,
					const struct vin_open *peer)
{
	const struct unix_socket *s = seen(o);
	if (peer && (s->type != SOCK_DGRAM || seen(peer)->name.len == 0))
		return peer;
	for (size_t i = 0; s->type == SOCK_DGRAM && s->name.len == 0 && i < all->count; i++) {
		const struct vin_open *x = &all->opens[i];
		if (x->kind == &vin_kind_unix && x != o &&
		    seen(x)->peer_ino == (uint32_t)o->st.st_ino)
			return x;
	}
	return NULL;
}

static void put_who(const struct unix_who *who, struct fvm_buf *to)
{
	vin_put_u64(to, who->pid);
	vin_put_u64(to, who->uid);
	vin_put_u64(to, who->gid);
}

/* Who holds it makes it wait again. */
static void holder(const struct vin_open *o, struct unix_who *ret)
{
	scoped_status st = { 0 };
	struct ucred c = { .pid = o->pid };
	if (vin_status_read(o->pid, o->pid, &st, NULL) < 0)
		return;
	c.uid = st.uid.effective;
	c.gid = st.gid.effective;
	unix_who_inside(o->pid, &c, UNIX_NOTHING, ret);
}

static void put_options(const struct unix_socket *s, struct fvm_buf *to)
{
	vin_put_u64(to, s->option_count);
	for (size_t i = 0; i < s->option_count; i++) {
		vin_put_u64(to, s->options[i].nr);
		vin_put_blob(to, s->options[i].value, s->options[i].len);
	}
	vin_put_blob(to, s->filter ? s->filter : (const void *)"", s->filter_len);
}

static void put_ids(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to)
{
	const struct unix_socket *s = seen(o);
	vin_put_u64(to, s->message_count);
	vin_put_blob(to, s->queue.data ? s->queue.data : "", s->queue.len);
	vin_put_u64(to, o->carried_count);
	for (size_t i = 0; i < o->carried_count; i++)
		vin_put_u64(to, o->carried[i].file);
	vin_put_u64(to, s->waiting_count);
	for (size_t i = 0; i < s->waiting_count; i++)
		vin_put_u64(to, unix_find(all, s->waiting_inos[i])->id);
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	const struct unix_socket *s = seen(o);
	const struct vin_open *peer = unix_find(all, s->peer_ino), *pair = find_pair(all, o, peer);
	struct unix_who other = { 0 };
	if (!s->looked)
		return fvm_error_say(err, EBUSY, "its queue was not looked into (%s)", o->link);
	if (s->waits)
		holder(o, &other);
	else if (peer)
		other = seen(peer)->maker;
	vin_put_u64(to, s->type);
	vin_put_u64(to, s->listens);
	vin_put_u64(to, s->backlog);
	vin_put_u64(to, s->down);
	vin_put_u64(to, s->error);
	vin_put_u64(to, was_accepted(all, o, peer));
	vin_put_u64(to, pair ? pair->id + 1 : 0);
	vin_put_u64(to, peer && s->type == SOCK_DGRAM ? peer->id + 1 : 0);
	vin_put_u64(to, is_ghosts(s));
	vin_put_blob(to, s->name.bytes, s->name.len);
	vin_put_blob(to, s->peer_name.bytes, s->peer_name.len);
	vin_put_string(to, s->path);
	vin_put_u64(to, s->mode);
	vin_put_u64(to, s->uid);
	vin_put_u64(to, s->gid);
	put_who(&s->maker, to);
	put_who(&other, to);
	put_options(s, to);
	put_ids(all, o, to);
	return 0;
}

/* ---- from the image ---- */

static void get_name(struct vin_payload *p, struct unix_name *ret)
{
	const void *bytes = vin_get_blob(p, &ret->len);
	if (p->failed || ret->len > UNIX_NAME_MAX) {
		p->failed = true;
		ret->len = 0;
		return;
	}
	memcpy(ret->bytes, bytes, ret->len);
	/* one that begins with NUL is abstract; in others there is none */
	if (ret->len && ret->bytes[0] && strnlen(ret->bytes, ret->len) != ret->len)
		p->failed = true;
}

static void get_who(struct vin_payload *p, struct unix_who *ret)
{
	ret->pid = vin_get_u64(p);
	ret->uid = vin_get_u64(p);
	ret->gid = vin_get_u64(p);
	p->failed |= ret->pid > INT32_MAX || ret->uid > UINT32_MAX || ret->gid > UINT32_MAX;
}

static void get_options(struct vin_payload *p, struct unix_socket *s)
{
	const uint64_t count = vin_get_u64(p);
	if (count > UNIX_OPTIONS_MAX) {
		p->failed = true;
		return;
	}
	while (!p->failed && s->option_count < count) {
		struct unix_option *o = &s->options[s->option_count];
		o->nr = vin_get_u64(p);
		const void *value = vin_get_blob(p, &o->len);
		if (p->failed || !unix_known_option(o->nr, o->len)) {
			p->failed = true;
			return;
		}
		memcpy(o->value, value, o->len);
		s->option_count++;
	}
}

static int get_copy(struct vin_payload *p, size_t max, unsigned char **ret, size_t *ret_len)
{
	size_t len;
	const void *data = vin_get_blob(p, &len);
	if (p->failed || len > max)
		return -EBADMSG;
	*ret = malloc(len + 1);
	if (!*ret)
		return -ENOMEM;
	memcpy(*ret, data, len);
	*ret_len = len;
	return 0;
}

static int get_list(struct vin_payload *p, uint64_t **ret, size_t *ret_count)
{
	const uint64_t count = vin_get_u64(p);
	if (p->failed || count > (size_t)(p->end - p->at) / 8)
		return -EBADMSG;
	*ret = calloc(count + 1, sizeof(**ret));
	if (!*ret)
		return -ENOMEM;
	while (*ret_count < count)
		(*ret)[(*ret_count)++] = vin_get_u64(p);
	return p->failed ? -EBADMSG : 0;
}

/* The messages are as many as told, and carry as many as are listed. */
static int get_queue(struct vin_payload *p, struct unix_socket *s)
{
	struct unix_message m;
	uint64_t count = 0, fds = 0;
	size_t len;
	s->message_count = vin_get_u64(p);
	const void *data = vin_get_blob(p, &len);
	if (p->failed)
		return -EBADMSG;
	struct vin_payload q = { .at = data, .end = (const unsigned char *)data + len };
	while (unix_next_message(&q, &m)) {
		count++;
		fds += m.fds;
	}
	if (q.failed || count != s->message_count)
		return -EBADMSG;
	fvm_buf_add(&s->queue, data, len);
	int r = s->queue.failed ? -ENOMEM : get_list(p, &s->carried, &s->carried_count);
	return r == 0 && s->carried_count != fds ? -EBADMSG : r;
}

static bool makes_sense(const struct unix_socket *s)
{
	const bool stream = s->type == SOCK_STREAM || s->type == SOCK_SEQPACKET;
	return (stream || s->type == SOCK_DGRAM) && (s->listens | s->error | s->accepted) <= 1 &&
	       s->ghost <= 1 && s->down <= 3 && s->backlog <= UINT32_MAX && s->mode <= 07777 &&
	       s->uid <= UINT32_MAX && s->gid <= UINT32_MAX && (!s->path[0] || s->path[0] == '/') &&
	       (!s->listens || (stream && !s->pair && !s->ghost)) && !(s->pair && s->ghost) &&
	       (!s->accepted || (s->name.len && stream && (s->pair || s->ghost))) &&
	       (!s->path[0] || (s->name.len && s->name.bytes[0])) && (!s->error || s->ghost) &&
	       (!s->peer || s->type == SOCK_DGRAM) && (s->listens || s->waiting_count == 0) &&
	       s->filter_len % sizeof(struct sock_filter) == 0;
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct unix_socket *s = ret;
	s->type = vin_get_u64(p);
	s->listens = vin_get_u64(p);
	s->backlog = vin_get_u64(p);
	s->down = vin_get_u64(p);
	s->error = vin_get_u64(p);
	s->accepted = vin_get_u64(p);
	s->pair = vin_get_u64(p);
	s->peer = vin_get_u64(p);
	s->ghost = vin_get_u64(p);
	get_name(p, &s->name);
	get_name(p, &s->peer_name);
	s->path = vin_get_string(p);
	s->mode = vin_get_u64(p);
	s->uid = vin_get_u64(p);
	s->gid = vin_get_u64(p);
	get_who(p, &s->maker);
	get_who(p, &s->peer_maker);
	get_options(p, s);
	if (p->failed || !first || !s->path)
		return -EBADMSG;
	int r = get_copy(p, UNIX_FILTER_MAX * sizeof(struct sock_filter), &s->filter,
			 &s->filter_len);
	if (r == 0)
		r = get_queue(p, s);
	if (r == 0)
		r = get_list(p, &s->waiting, &s->waiting_count);
	return r == 0 && !makes_sense(s) ? -EBADMSG : r;
}

const struct vin_kind vin_kind_unix = {
	.name = "a unix socket",
	.nr = VIN_KIND_UNIX,
	.matches = matches,
	.look = unix_look,
	.unlook = unlook,
	.check = check,
	.ready = ready,
	.capture = capture,
	.size = sizeof(struct unix_socket),
	.parse = parse,
	.forget = unix_forget,
	.open = unix_open,
	.fill = unix_fill,
};
