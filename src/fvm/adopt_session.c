/*
 * Sessions from one PID 1 to another: what one tells of a session (HOLD), the other makes again
 * (ADOPT) for programs that vin/replay will bring back. Its terminal has the number it had; its
 * last output comes with it, so that who attaches sees the same.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "fvm/init_priv.h"

_Static_assert(sizeof(struct fvm_msg_live) + FVM_LIVE_OUTPUT <= FVM_MSG_MAX, "fits a message");

static void add_output(const struct session *s, uint32_t len, struct fvm_buf *to)
{
	for (uint64_t at = s->end - len; at < s->end;) {
		size_t from = at % RING_BYTES, piece = (size_t)(s->end - at);
		if (piece > RING_BYTES - from)
			piece = RING_BYTES - from;
		fvm_buf_add(to, s->ring + from, piece);
		at += piece;
	}
}

int session_hold(struct init *init, int sock, const void *payload, size_t len,
		 struct fvm_error *err)
{
	int32_t id;
	struct stat st = { 0 };
	unsigned int number = 0;
	scoped_buf told = { 0 };
	if (len != sizeof(id))
		return fvm_error_set(err, EBADMSG, "understand which session to hold");
	memcpy(&id, payload, sizeof(id));
	struct session *s = session_by_id(init, id);
	if (!s)
		return fvm_error_set(err, ENOENT, "hold session %d: there is none", id);
	if (s->pid <= 0)
		return fvm_error_set(err, EAGAIN, "hold session %d: its watchdog has it go on soon",
				     id);
	if (s->out.fd >= 0)
		session_read(init, s);
	if (s->terminal && ioctl(s->out.fd, TIOCGPTN, &number) < 0)
		return fvm_error_set(err, errno, "ask for the number of a terminal");
	const int fd = s->terminal ? s->slave : s->out.fd;
	if (fd >= 0 && fstat(fd, &st) < 0)
		return fvm_error_set(err, errno, "look at a session's output");
	struct fvm_msg_live live = {
		.id = s->id,
		.pid = s->pid,
		.first = s == init->first && init->args.until_first_ends,
		.way = s->terminal ? FVM_LIVE_TERMINAL
		       : fd >= 0   ? FVM_LIVE_PIPE
				   : FVM_LIVE_NONE,
		.number = number,
		.uid = st.st_uid,
		.gid = st.st_gid,
		.output = s->end < FVM_LIVE_OUTPUT ? (uint32_t)s->end : FVM_LIVE_OUTPUT,
	};
	memcpy(live.command, s->command, sizeof(live.command));
	fvm_buf_add(&told, &live, sizeof(live));
	add_output(s, live.output, &told);
	int r = told.failed
			? -ENOMEM
			: fvm_msg_send_fds(sock, FVM_MSG_HELD, told.data, told.len, &fd, fd >= 0);
	return r < 0 ? fvm_error_set(err, -r, "tell of session %d", id) : 0;
}

/* ---- the other PID 1 ---- */

static int open_way(const struct init *init, struct session *s, const struct fvm_msg_live *live,
		    struct fvm_error *err)
{
	if (live->way != FVM_LIVE_TERMINAL)
		return session_pipe(s, live->uid, live->gid, err);
	s->terminal = true;
	int r = session_terminal(init, s, (int)live->number, err);
	if (r == 0 && fchown(s->slave, live->uid, live->gid) == 0)
		(void)fchmod(s->slave, 0620);
	return r;
}

static int fill(struct init *init, struct session *s, const struct fvm_msg_live *live,
		const void *output, struct fvm_error *err)
{
	int r = session_ring(s, err);
	if (r < 0)
		return r;
	memcpy(s->ring, output, live->output);
	s->end = live->output;
	/* who has closed its output has written some before */
	return live->way == FVM_LIVE_NONE ? 0 : source_watch(init, &s->out, EPOLLIN);
}

static int adopt(struct init *init, int sock, const struct fvm_msg_live *live, const void *output,
		 struct session *s, struct fvm_error *err)
{
	int r = live->way == FVM_LIVE_NONE ? 0 : open_way(init, s, live, err);
	if (r == 0 && (live->way != FVM_LIVE_NONE || live->output > 0))
		r = fill(init, s, live, output, err);
	if (r < 0)
		return r;
	r = fvm_msg_send_fds(sock, FVM_MSG_ADOPTED, NULL, 0, &s->slave, s->slave >= 0);
	if (r < 0)
		return fvm_error_set(err, -r, "hand out session %d", s->id);
	/* a pipe's end must come when the last writer is gone */
	if (!s->terminal)
		fvm_fd_closep(&s->slave);
	return 0;
}

const void *fvm_live_parse(const void *payload, size_t len, struct fvm_msg_live *ret)
{
	if (len < sizeof(*ret))
		return NULL;
	memcpy(ret, payload, sizeof(*ret));
	ret->command[sizeof(ret->command) - 1] = '\0';
	/* sessions that are new later count on from the highest */
	if (ret->id <= 0 || ret->id > INT32_MAX / 2 || ret->pid <= 1 || ret->way > FVM_LIVE_PIPE ||
	    ret->number > INT32_MAX || ret->output > FVM_LIVE_OUTPUT ||
	    len != sizeof(*ret) + ret->output)
		return NULL;
	return (const char *)payload + sizeof(*ret);
}

int session_adopt(struct init *init, int sock, const void *payload, size_t len,
		  struct fvm_error *err)
{
	struct fvm_msg_live live;
	const void *output = fvm_live_parse(payload, len, &live);
	if (!output)
		return fvm_error_set(err, EBADMSG, "understand which session to take over");
	if (session_by_id(init, live.id) || session_by_pid(init, live.pid))
		return fvm_error_set(err, EEXIST, "take over session %d: there is one", live.id);
	struct session *s = session_new(init, live.command, live.id);
	if (!s)
		return fvm_error_set(err, ENOMEM, "keep a session");
	int r = live.first ? watchdog_adopt(init, live.uid, err) : 0;
	if (r == 0)
		r = adopt(init, sock, &live, output, s, err);
	if (r < 0) {
		session_free(init, s);
		return r;
	}
	s->pid = live.pid;
	session_append(init, s);
	if (live.first) {
		init->first = s;
		init->args.until_first_ends = true;
	}
	return 0;
}
