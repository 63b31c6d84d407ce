/*
 * PID 1's side of the control socket: one request per connection, then the session's stream.
 *
 * Sockets are non-blocking. What can't be sent waits in the session's ring; what can't be
 * understood, or finds no memory, costs the client its connection and PID 1 nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/init_priv.h"

#define SERVED_MAX_MS 1000 /* we look twice a second while a client is waited for */

struct request { /* one message, as it came */
	const char *payload;
	size_t len;
	int fds[4];
	size_t fd_count;
};

static void client_drop(struct init *init, struct client *c)
{
	if (c->dead)
		return;
	c->dead = true;
	init->many_dead = true;
	source_close(init, &c->conn);
	if (!c->session)
		return;
	if (c->session->out.fd >= 0)
		session_read(init, c->session); /* it may have waited for this one */
	session_check(init, c->session);
}

static void reply_error(struct init *init, struct client *c, const struct fvm_error *err)
{
	(void)fvm_msg_send(c->conn.fd, FVM_MSG_ERROR, err, sizeof(*err));
	client_drop(init, c);
}

static void reply_started(struct init *init, struct client *c)
{
	const struct session *s = c->session;
	struct fvm_msg_started started = { s->id, s->pid, s->terminal };
	if (fvm_msg_send(c->conn.fd, FVM_MSG_STARTED, &started, sizeof(started)) < 0) {
		client_drop(init, c);
		return;
	}
	c->attached = true;
	client_push(init, c);
}

void clients_exec_result(struct init *init, struct session *s, const struct fvm_error *err)
{
	for (struct client *c = init->clients; c; c = c->next) {
		if (c->session != s || c->dead || c->attached)
			continue;
		if (err)
			reply_error(init, c, err);
		else
			reply_started(init, c);
	}
}

size_t client_room(const struct client *c)
{
	uint64_t waiting = c->session->end - c->sent;
	if (c->lagging)
		return RING_BYTES;
	return waiting >= RING_BYTES ? 0 : RING_BYTES - (size_t)waiting;
}

/* Send the next piece. Return: 1 sent, 0 nothing to send, -EAGAIN, or another negative errno */
static int push_piece(struct client *c)
{
	const struct session *s = c->session;
	if (s->end - c->sent > RING_BYTES)
		c->sent = s->end - RING_BYTES; /* it lagged: what was between is gone */
	size_t at = c->sent % RING_BYTES, len = (size_t)(s->end - c->sent);
	if (len == 0)
		return 0;
	if (len > RING_BYTES - at)
		len = RING_BYTES - at;
	if (len > FVM_MSG_OUTPUT_MAX)
		len = FVM_MSG_OUTPUT_MAX;
	bool replay = c->sent < c->replay;
	if (replay && len > c->replay - c->sent)
		len = (size_t)(c->replay - c->sent);
	int r = fvm_msg_send(c->conn.fd, replay ? FVM_MSG_REPLAY : FVM_MSG_OUTPUT, s->ring + at,
			     len);
	if (r < 0)
		return r;
	c->sent += len;
	c->lagging = false;
	c->stalled_ms = 0;
	return 1;
}

static int push_end(struct client *c)
{
	int32_t status = c->session->status;
	if (!c->session->ended || !c->session->drained)
		return 0;
	int r = fvm_msg_send(c->conn.fd, FVM_MSG_EXITED, &status, sizeof(status));
	return r < 0 ? r : 1;
}

void client_push(struct init *init, struct client *c)
{
	int r;
	if (!c->attached)
		return;
	do {
		r = push_piece(c);
	} while (r == 1);
	if (r == 0)
		r = push_end(c);
	if (r == -EAGAIN) {
		if (!c->stalled_ms)
			c->stalled_ms = init->served_ms;
		source_watch(init, &c->conn, c->conn.events | EPOLLOUT);
	} else if (r != 0) {
		client_drop(init, c); /* it is gone, or has got everything */
	} else if (c->conn.events & EPOLLOUT) {
		source_watch(init, &c->conn, c->conn.events & ~(uint32_t)EPOLLOUT);
	}
}

void clients_input(struct init *init, struct session *s, bool on)
{
	for (struct client *c = init->clients; c; c = c->next) {
		if (c->session != s || c->dead)
			continue;
		uint32_t others = c->conn.events & ~(uint32_t)EPOLLIN;
		/* never 0: that would also stop telling us that it hung up */
		source_watch(init, &c->conn, others | (on ? EPOLLIN : 0) | EPOLLRDHUP);
	}
}

/* Time in which PID 1 could have served somebody: not what it was stopped for, as in a paused VM,
 * when all clients would seem to have slept. */
static int64_t served_now(struct init *init)
{
	int64_t now = fvm_clock_ms(), passed = now - init->seen_ms;
	init->seen_ms = now;
	init->served_ms += passed < SERVED_MAX_MS ? passed : SERVED_MAX_MS;
	return init->served_ms;
}

bool clients_overdue(struct init *init)
{
	bool waiting = false;
	int64_t now = served_now(init);
	for (struct client *c = init->clients; c; c = c->next) {
		if (c->dead || !c->stalled_ms || c->lagging)
			continue;
		if (now - c->stalled_ms < LAG_MS) {
			waiting = true;
			continue;
		}
		c->lagging = true;
		if (c->session->ended)
			client_drop(init, c);
		else
			session_read(init, c->session);
	}
	return waiting;
}

/* Descriptors handed in must be pipes: a socket, a directory, a file of the host is a way out. Who
 * will be a tracee has its orders from a socket, and keeps it until they are at their end. */
static bool fd_is_harmless(const struct fvm_command *c, int fd)
{
	struct stat st;
	return fstat(fd, &st) == 0 &&
	       (S_ISFIFO(st.st_mode) || (c->helper == FVM_HELPER_BLANK && S_ISSOCK(st.st_mode)));
}

static int place_fds(struct fvm_command *c, struct request *q, size_t first, struct fvm_error *err)
{
	for (int i = 0; i < 3; i++) {
		if (c->fds[i] < 0)
			continue;
		if (first >= q->fd_count)
			return fvm_error_set(err, EBADMSG, "take over descriptor %d: none came", i);
		if (!fd_is_harmless(c, q->fds[first]))
			return fvm_error_set(err, EPERM, "take over descriptor %d: no pipe", i);
		c->fds[i] = q->fds[first++];
	}
	return 0;
}

/* A long command comes in a sealed memfd: nothing else is sure never to block a reader. */
static int read_memfd(int fd, char **ret, size_t *ret_len)
{
	struct stat st;
	if (fcntl(fd, F_GET_SEALS) < 0 || fstat(fd, &st) < 0 || st.st_size > FVM_RUN_MAX)
		return -EBADMSG;
	scoped_free char *data = malloc((size_t)st.st_size + 1);
	if (!data)
		return -ENOMEM;
	ssize_t n = pread(fd, data, (size_t)st.st_size, 0);
	if (n != st.st_size)
		return -EBADMSG;
	*ret = fvm_take_ptr(&data);
	*ret_len = (size_t)n;
	return 0;
}

static int do_run(struct init *init, struct client *c, struct request *q, struct fvm_error *err)
{
	scoped_command command = { 0 };
	scoped_free char *longer = NULL;
	const char *data = q->payload;
	size_t len = q->len, first = 0;
	int r = 0;
	if (init->ending)
		return fvm_error_set(err, ESHUTDOWN, "start a command: the VM is being shut down");
	if (len == 0 && q->fd_count > 0) {
		r = read_memfd(q->fds[0], &longer, &len);
		data = longer;
		first = 1;
	}
	if (r == 0)
		r = fvm_run_parse(data, len, &command);
	if (r < 0)
		return fvm_error_set(err, -r, "understand the command to run");
	r = place_fds(&command, q, first, err);
	if (r < 0)
		return r;
	return session_start(init, &command, -1, &c->session, err);
}

static int do_attach(struct init *init, struct client *c, struct request *q, struct fvm_error *err)
{
	int32_t id;
	if (q->len != sizeof(id))
		return fvm_error_set(err, EBADMSG, "understand which session to attach to");
	memcpy(&id, q->payload, sizeof(id));
	struct session *s = session_by_id(init, id);
	if (!s && id)
		return fvm_error_set(err, ENOENT, "attach to session %d: there is none", id);
	if (!s)
		return fvm_error_set(err, ENOENT, "attach to a session: there is none");
	c->session = s;
	c->sent = s->end > RING_BYTES ? s->end - RING_BYTES : 0;
	c->replay = s->end;
	c->fresh = c->joined = true;
	reply_started(init, c);
	return 0;
}

static int do_list(struct init *init, struct client *c, struct fvm_error *err)
{
	scoped_buf b = { 0 };
	for (const struct session *s = init->sessions; s; s = s->next) {
		struct fvm_msg_session record = { .id = s->id,
						  .pid = s->pid,
						  .terminal = s->terminal };
		if (s->ended || s->dead || b.len + sizeof(record) > FVM_MSG_MAX)
			continue;
		for (const struct client *k = init->clients; k; k = k->next)
			record.clients += k->session == s && !k->dead;
		memcpy(record.command, s->command, sizeof(record.command));
		fvm_buf_add(&b, &record, sizeof(record));
	}
	if (b.failed)
		return fvm_error_set(err, ENOMEM, "list the sessions");
	(void)fvm_msg_send(c->conn.fd, FVM_MSG_SESSIONS, b.data, b.len);
	client_drop(init, c);
	return 0;
}

static int do_shutdown(struct init *init, struct client *c, struct request *q,
		       struct fvm_error *err)
{
	uint32_t grace_ms;
	if (q->len != sizeof(grace_ms))
		return fvm_error_set(err, EBADMSG, "understand how long to wait at shutdown");
	memcpy(&grace_ms, q->payload, sizeof(grace_ms));
	init_shutdown(init, grace_ms);
	client_drop(init, c);
	return 0;
}

static void request(struct init *init, struct client *c, const struct fvm_msg *head,
		    struct request *q)
{
	struct fvm_error err = { 0 };
	int r;
	switch (head->type) {
	case FVM_MSG_RUN:
		r = do_run(init, c, q, &err);
		malloc_trim(0); /* an idle VM's memory counts */
		break;
	case FVM_MSG_ATTACH:
		r = do_attach(init, c, q, &err);
		break;
	case FVM_MSG_LIST:
		r = do_list(init, c, &err);
		break;
	case FVM_MSG_HOLD:
		r = session_hold(init, c->conn.fd, q->payload, q->len, &err);
		break;
	case FVM_MSG_ADOPT:
		r = session_adopt(init, c->conn.fd, q->payload, q->len, &err);
		break;
	case FVM_MSG_SHUTDOWN:
		r = do_shutdown(init, c, q, &err);
		break;
	default:
		r = fvm_error_set(&err, EBADMSG, "understand a request of type %u", head->type);
	}
	if (r < 0)
		reply_error(init, c, &err);
}

/* What a client says to the session it has. */
static void stream(struct init *init, struct client *c, const struct fvm_msg *head,
		   const struct request *q)
{
	struct winsize window;
	int32_t sig;
	if (head->type == FVM_MSG_STDIN && q->len == 0 && c->joined) {
		return; /* who came to look does not end the input of the others */
	}
	if (head->type == FVM_MSG_STDIN) {
		session_input(init, c->session, q->payload, q->len);
	} else if (head->type == FVM_MSG_WINCH && q->len == sizeof(window)) {
		memcpy(&window, q->payload, sizeof(window));
		session_resize(c->session, &window, c->fresh);
		c->fresh = false;
	} else if (head->type == FVM_MSG_SIGNAL && q->len == sizeof(sig)) {
		memcpy(&sig, q->payload, sizeof(sig));
		if (sig > 0 && sig < 65)
			watchdog_signal(init, c->session, sig);
	} else {
		client_drop(init, c);
	}
}

static void handle(struct init *init, struct client *c, const char *packet, size_t len,
		   struct request *q)
{
	struct fvm_error err = { 0 };
	struct fvm_msg head;
	q->payload = fvm_msg_check(packet, len, &head, &err);
	if (!q->payload) {
		reply_error(init, c, &err);
		return;
	}
	q->len = head.len;
	if (c->session)
		stream(init, c, &head, q);
	else
		request(init, c, &head, q);
}

static void client_ready(struct init *init, struct source *source, uint32_t events)
{
	struct client *c = (struct client *)source;
	if (events & EPOLLOUT)
		client_push(init, c);
	if (!c->dead && c->session && c->session->out.fd >= 0 && events & EPOLLOUT)
		session_read(init, c->session);
	if (c->dead || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)))
		return;
	struct request q = { 0 };
	scoped_free char *packet = malloc(sizeof(struct fvm_msg) + FVM_MSG_MAX);
	ssize_t n = !packet ? -ENOMEM
			    : fvm_recv_fds(c->conn.fd, packet, sizeof(struct fvm_msg) + FVM_MSG_MAX,
					   q.fds, FVM_COUNT(q.fds), &q.fd_count);
	if (n == -EAGAIN)
		return;
	if (n <= 0)
		client_drop(init, c);
	else
		handle(init, c, packet, (size_t)n, &q);
	for (size_t i = 0; i < q.fd_count; i++)
		close(q.fds[i]);
}

static struct client *client_add(struct init *init, int fd, struct session *s)
{
	struct client *c = calloc(1, sizeof(*c));
	if (!c) {
		close(fd);
		return NULL;
	}
	c->conn = (struct source){ .fd = fd, .ready = client_ready };
	c->session = s;
	if (source_watch(init, &c->conn, EPOLLIN | EPOLLRDHUP) < 0) {
		close(fd);
		free(c);
		return NULL;
	}
	c->next = init->clients;
	init->clients = c;
	return c;
}

void client_first(struct init *init, int fd)
{
	int flags = fcntl(fd, F_GETFL);
	(void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	struct client *c = client_add(init, fd, init->first);
	/* with a report of its own the starter knows of exec's success; else exec_ready() tells */
	if (c && init->first && init->first->exec.fd < 0)
		reply_started(init, c);
}

/* Out of descriptors: answer with the spare one, so that nobody waits in the queue for ever. */
static void refuse(struct init *init)
{
	struct fvm_error err = { 0 };
	fvm_error_set(&err, EMFILE, "take another connection to the VM");
	if (init->spare >= 0)
		close(init->spare);
	int fd = accept4(init->control.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0) {
		(void)fvm_msg_send(fd, FVM_MSG_ERROR, &err, sizeof(err));
		close(fd);
	}
	init->spare = fcntl(init->epoll, F_DUPFD_CLOEXEC, 3);
	if (fd < 0) {
		init->control_off = true;
		source_watch(init, &init->control, 0);
	}
}

static void control_ready(struct init *init, struct source *source, uint32_t events)
{
	(void)events;
	int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0)
		(void)client_add(init, fd, NULL);
	else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
		refuse(init);
}

int serve_start(struct init *init)
{
	init->spare = fcntl(init->epoll, F_DUPFD_CLOEXEC, 3);
	init->control = (struct source){ .fd = init->args.control, .ready = control_ready };
	if (init->control.fd < 0)
		return 0;
	int flags = fcntl(init->control.fd, F_GETFL);
	(void)fcntl(init->control.fd, F_SETFL, flags | O_NONBLOCK);
	return source_watch(init, &init->control, EPOLLIN);
}
