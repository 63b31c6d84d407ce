/*
 * Sessions: a forked command, its terminal, and the ring that holds the last of its output.
 *
 * Positions in the output are counted from its start and never wrap (64 bits); the ring's byte for
 * position p is at p % RING_BYTES. See init_priv.h for who may hold up whom.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "fvm/init_priv.h"
#include "fvm/seccomp.h"

#define INPUT_MAX 65536 /* typed ahead of a program that does not read */
#define AFTER_END_BYTES                                                                            \
	(1u << 20) /* read of what others write to a terminal whose leader is gone */

struct session *session_by_pid(struct init *init, pid_t pid)
{
	struct session *s = init->sessions;
	while (s && (s->pid != pid || s->ended))
		s = s->next;
	return s;
}

struct session *session_by_id(struct init *init, int id)
{
	struct session *s = init->sessions;
	while (s && (s->dead || s->ended || (id && s->id != id)))
		s = s->next;
	return s;
}

/* The devpts directory was opened before anybody could replace a name. Only where there was none is
 * the name taken: when no terminal is left, somebody may have put a trap there. */
static int open_ptmx(const struct init *init)
{
	int flags = O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC;
	return init->pts >= 0 ? openat(init->pts, "ptmx", flags) : open("/dev/ptmx", flags);
}

#define NUMBERS_MAX 4096 /* as many as a devpts has */

/* The lowest that is free comes first: those before it are given back at the end. */
static int open_number(const struct init *init, int number)
{
	scoped_fd master = open_ptmx(init);
	unsigned int got = 0;
	if (master < 0)
		return -errno;
	if (number < 0)
		return fvm_fd_take(&master);
	if (ioctl(master, TIOCGPTN, &got) < 0)
		return -errno;
	if (got == (unsigned int)number)
		return fvm_fd_take(&master);
	return got > (unsigned int)number || got >= NUMBERS_MAX ? -EEXIST
								: open_number(init, number);
}

int session_terminal(const struct init *init, struct session *s, int number, struct fvm_error *err)
{
	int unlock = 0;
	scoped_fd master = open_number(init, number);
	if (master < 0)
		return fvm_error_set(err, -master, "open the VM's /dev/ptmx for a terminal");
	if (ioctl(master, TIOCSPTLCK, &unlock) < 0)
		return fvm_error_set(err, errno, "unlock a terminal of the VM's /dev/ptmx");
	s->slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (s->slave < 0)
		return fvm_error_set(err, errno, "open the other side of a terminal");
	s->out.fd = fvm_fd_take(&master);
	return 0;
}

static int open_terminal(const struct init *init, struct session *s, const struct winsize *window,
			 struct fvm_error *err)
{
	int r = session_terminal(init, s, -1, err);
	if (r == 0 && (window->ws_row || window->ws_col))
		(void)ioctl(s->out.fd, TIOCSWINSZ, window);
	return r;
}

int session_pipe(struct session *s, uid_t uid, gid_t gid, struct fvm_error *err)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "make a pipe for the output");
	(void)fcntl(ends[0], F_SETFL, O_NONBLOCK);
	(void)!fchown(ends[1], uid, gid); /* for /dev/stdout */
	s->out.fd = ends[0];
	s->slave = ends[1];
	return 0;
}

int session_ring(struct session *s, struct fvm_error *err)
{
	void *ring =
		mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ring == MAP_FAILED)
		return fvm_error_set(err, errno, "keep a session's output");
	s->ring = ring; /* costs nothing until it is written to */
	return 0;
}

static void pass_stdio(const struct session *s, struct child *child)
{
	const struct fvm_command *c = child->command;
	for (int i = 0; i < 3; i++) {
		child->stdio[i] = c->fds[i];
		if (c->fds[i] < 0 && (c->terminal || i > 0))
			child->stdio[i] = s->slave;
	}
	child->tty = c->terminal ? s->slave : -1;
}

static int open_stdio(struct init *init, struct session *s, struct child *child,
		      struct fvm_error *err)
{
	const struct fvm_command *c = child->command;
	int r = 0;
	if (c->terminal)
		r = open_terminal(init, s, &c->window, err);
	else if (c->detached && (c->fds[1] < 0 || c->fds[2] < 0))
		r = session_pipe(s, c->uid, c->gid, err);
	if (r < 0)
		return r;
	if (s->out.fd >= 0)
		r = session_ring(s, err);
	if (r < 0)
		return r;
	pass_stdio(s, child);
	return 0;
}

static void exec_ready(struct init *init, struct source *source, uint32_t events)
{
	(void)events;
	struct session *s = (struct session *)((char *)source - offsetof(struct session, exec));
	struct fvm_error err;
	ssize_t n = read(source->fd, &err, sizeof(err));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	source_close(init, source);
	bool failed = n == sizeof(err) && fvm_error_take(&err, &err, sizeof(err)) < 0;
	clients_exec_result(init, s, failed ? &err : NULL);
}

/* A pipe for the child's report, unless the starter waits for it itself. */
static int open_report(struct init *init, struct session *s, int report, int *ret_write,
		       struct fvm_error *err)
{
	int ends[2];
	if (report >= 0) {
		*ret_write = report;
		return 0;
	}
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return fvm_error_set(err, errno, "make a pipe");
	*ret_write = ends[1];
	s->exec.fd = ends[0];
	int r = source_watch(init, &s->exec, EPOLLIN);
	if (r < 0)
		fvm_error_set(err, -r, "watch a command");
	return r;
}

static void out_ready(struct init *init, struct source *source, uint32_t events);

struct session *session_new(struct init *init, const char *command, int id)
{
	struct session *s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->out = (struct source){ .fd = -1, .ready = out_ready };
	s->exec = (struct source){ .fd = -1, .ready = exec_ready };
	s->slave = -1;
	s->id = id ? id : ++init->next_id;
	if (s->id > init->next_id)
		init->next_id = s->id;
	snprintf(s->command, sizeof(s->command), "%s", command);
	return s;
}

static void name_command(const struct fvm_command *c, char *ret, size_t size)
{
	size_t at = 0;
	snprintf(ret, size, "%s", c->argv.count ? "" : "(shell)");
	fvm_strv_each(&c->argv, i) {
		int n = snprintf(ret + at, size - at, "%s%s", i ? " " : "", c->argv.items[i]);
		if (n < 0 || at + (size_t)n >= size)
			break;
		at += (size_t)n;
	}
}

void session_free(struct init *init, struct session *s)
{
	source_close(init, &s->out);
	source_close(init, &s->exec);
	if (s->slave >= 0)
		close(s->slave);
	if (s->ring)
		munmap(s->ring, RING_BYTES);
	free(s->input);
	free(s);
}

void session_append(struct init *init, struct session *s)
{
	struct session **at = &init->sessions;
	while (*at)
		at = &(*at)->next;
	*at = s;
}

/* One that other processes come from gets a number that none of them needs. */
static pid_t fork_numbered(const struct fvm_command *c)
{
	pid_t number = c->argv.count ? (pid_t)strtol(c->argv.items[0], NULL, 10) : 0;
	struct clone_args args = { .exit_signal = SIGCHLD,
				   .set_tid = (uint64_t)(uintptr_t)&number,
				   .set_tid_size = 1 };
	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

static int session_fork(struct init *init, struct session *s, struct child *child,
			struct fvm_error *err)
{
	s->pid =
		child->command->helper == FVM_HELPER_BLANK ? fork_numbered(child->command) : fork();
	if (s->pid == 0)
		fvm_child_main(child);
	if (s->pid < 0) {
		int r = fvm_error_set(err, errno, "start a process in the VM");
		fvm_error_hint(err, "the VM may have reached its limit of processes");
		return r;
	}
	if (!s->terminal && s->slave >= 0 && !s->again) {
		close(s->slave); /* a pipe's end must come when the last writer is gone */
		s->slave = -1;
	}
	return s->out.fd < 0 ? 0 : source_watch(init, &s->out, EPOLLIN);
}

static struct child child_of(const struct init *init, const struct fvm_command *c)
{
	return (struct child){
		.command = c,
		.tty = -1,
		.report = -1,
		.nofile = init->nofile,
		.supervisor = init->args.supervisor,
		.trace = init->args.session_trace,
		.filter = init->args.session_filter |
			  (c->uid == init->args.plain_uid ? 0 : FVM_FILTER_OWNERS),
	};
}

int session_again(struct init *init, struct session *s, const struct fvm_command *c,
		  struct fvm_error *err)
{
	struct child child = child_of(init, c);
	scoped_fd write_end = -1;
	source_close(init, &s->exec);
	int r = open_report(init, s, -1, &write_end, err);
	if (r < 0)
		return r;
	pass_stdio(s, &child);
	child.report = write_end;
	return session_fork(init, s, &child, err);
}

int session_start(struct init *init, const struct fvm_command *c, int report, struct session **ret,
		  struct fvm_error *err)
{
	struct child child = child_of(init, c);
	char command[sizeof(((struct session *)NULL)->command)];
	name_command(c, command, sizeof(command));
	struct session *s = session_new(init, command, 0);
	if (!s)
		return fvm_error_set(err, ENOMEM, "keep a session");
	s->terminal = c->terminal;
	s->again = report >= 0 && watchdog_keeps(init); /* the first has the starter's report */
	scoped_fd write_end = -1;
	int r = open_report(init, s, report, &write_end, err);
	if (r == 0)
		r = open_stdio(init, s, &child, err);
	child.report = write_end;
	if (r == 0)
		r = session_fork(init, s, &child, err);
	if (r < 0) {
		session_free(init, s);
		return r;
	}
	session_append(init, s);
	*ret = s;
	return 0;
}

static size_t room(struct init *init, const struct session *s)
{
	size_t least = RING_BYTES;
	for (const struct client *c = init->clients; c; c = c->next) {
		if (c->session != s || c->dead)
			continue;
		size_t n = client_room(c);
		if (n < least)
			least = n;
	}
	return least;
}

/* One read into the ring. Return: bytes; 0: nothing there now; -EIO: nothing will come; -ENOSPC */
static ssize_t read_some(struct init *init, struct session *s)
{
	size_t most = room(init, s), at = s->end % RING_BYTES;
	if (most == 0)
		return -ENOSPC;
	if (most > RING_BYTES - at)
		most = RING_BYTES - at;
	ssize_t n = read(s->out.fd, s->ring + at, most);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -EIO;
	if (n == 0)
		return -EIO;
	s->end += (uint64_t)n;
	if (s->ended && s->terminal)
		s->after_end += (size_t)n;
	return n;
}

/* What is new goes to the log, in at most two pieces: it was not yet overwritten. */
static void log_new(const struct init *init, struct session *s)
{
	while (s->logged < s->end) {
		size_t at = s->logged % RING_BYTES, len = (size_t)(s->end - s->logged);
		if (len > RING_BYTES - at)
			len = RING_BYTES - at;
		fvm_logfile_add(init->args.log, s->ring + at, len);
		s->logged += len;
	}
}

static void out_finish(struct init *init, struct session *s)
{
	s->drained = true;
	if (s->slave >= 0)
		close(s->slave);
	s->slave = -1;
	source_close(init, &s->out);
}

static void hand_out(struct init *init, struct session *s)
{
	log_new(init, s);
	for (struct client *c = init->clients; c; c = c->next) {
		if (c->session == s && !c->dead)
			client_push(init, c);
	}
}

/* Nothing more is there: of an ended session that is the end, but a detached command's pipe stays
 * for those it left behind, whose words belong into the log. */
static void drained(struct init *init, struct session *s)
{
	if (s->terminal)
		out_finish(init, s);
	s->drained = true;
}

void session_read(struct init *init, struct session *s)
{
	ssize_t n = 0;
	size_t fresh = 0;
	for (int i = 0; i < 64 && s->out.fd >= 0; i++) {
		n = read_some(init, s);
		if (n <= 0)
			break;
		fresh += (size_t)n;
		if (fresh >= FVM_MSG_OUTPUT_MAX) {
			hand_out(init, s);
			fresh = 0;
		}
	}
	if (n == -EIO || s->after_end > AFTER_END_BYTES)
		out_finish(init, s);
	else if (n == 0 && s->ended && s->out.fd >= 0)
		drained(init, s);
	hand_out(init, s);
	if (s->out.fd >= 0) {
		uint32_t in = room(init, s) == 0 ? 0 : EPOLLIN;
		source_watch(init, &s->out, in | (s->input_len ? EPOLLOUT : 0));
	}
}

static void write_input(struct init *init, struct session *s)
{
	ssize_t n = write(s->out.fd, s->input, s->input_len);
	if (n < 0)
		n = errno == EAGAIN || errno == EINTR ? 0 : (ssize_t)s->input_len;
	s->input_len -= (size_t)n;
	if (s->input_len > 0) {
		memmove(s->input, s->input + n, s->input_len);
		return;
	}
	free(s->input);
	s->input = NULL;
	clients_input(init, s, true);
}

static void out_ready(struct init *init, struct source *source, uint32_t events)
{
	struct session *s = (struct session *)((char *)source - offsetof(struct session, out));
	if (events & EPOLLOUT && s->input)
		write_input(init, s);
	session_read(init, s);
	session_check(init, s);
}

void session_input(struct init *init, struct session *s, const void *data, size_t len)
{
	static const char end_of_file = 4;
	if (!s->terminal || s->out.fd < 0)
		return;
	if (len == 0) {
		data = &end_of_file;
		len = 1;
	}
	ssize_t n = s->input ? 0 : write(s->out.fd, data, len);
	if (n < 0)
		n = 0;
	len -= (size_t)n;
	if (len == 0 || s->input_len + len > INPUT_MAX)
		return;
	char *more = realloc(s->input, s->input_len + len);
	if (!more)
		return;
	memcpy(more + s->input_len, (const char *)data + n, len);
	s->input = more;
	s->input_len += len;
	clients_input(init, s, false);
	source_watch(init, &s->out, s->out.events | EPOLLOUT);
}

void session_signal(const struct session *s, int sig)
{
	pid_t group = 0;
	if (s->ended || s->pid <= 0)
		return;
	if (!s->terminal || ioctl(s->out.fd, TIOCGPGRP, &group) < 0 || group <= 1)
		group = s->pid;
	if (kill(-group, sig) < 0)
		(void)kill(s->pid, sig); /* not yet past its setsid() */
}

void session_resize(struct session *s, const struct winsize *window, bool redraw)
{
	struct winsize old;
	if (!s->terminal || s->out.fd < 0)
		return;
	bool same =
		ioctl(s->out.fd, TIOCGWINSZ, &old) == 0 && memcmp(&old, window, sizeof(old)) == 0;
	(void)ioctl(s->out.fd, TIOCSWINSZ, window);
	if (same && redraw)
		session_signal(s, SIGWINCH);
}

void session_ended(struct init *init, struct session *s, int status)
{
	if (s->exec.fd >= 0)
		exec_ready(init, &s->exec, 0);
	source_close(init, &s->exec);
	s->ended = true;
	s->status = status;
	if (s->out.fd < 0)
		s->drained = true;
	session_read(init, s);
	session_check(init, s);
}

void session_check(struct init *init, struct session *s)
{
	if (!s->ended || s->dead || s->out.fd >= 0)
		return;
	for (const struct client *c = init->clients; c; c = c->next) {
		if (c->session == s && !c->dead)
			return;
	}
	s->dead = true;
	init->many_dead = true;
}
