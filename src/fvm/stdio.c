/*
 * What a command without terminal gets as 0, 1 and 2.
 *
 * Pipes without a name go in as they are. All else is a way out (a directory, a socket), or the
 * host's (a terminal, a device, a file: in an ordinary user's VM, /proc/self/fd/0 could be opened
 * again to write it, and its mode changed), and is copied through a pipe by us while we wait for
 * the session. A process has one set of those three, so their state stands here.
 *
 * A file's offset afterwards is where it would be without a VM: "while read" loops need that. What
 * the command left in the pipe is taken back, for which we keep hold of it beyond the file's end.
 *
 * A terminal as stdin of a command whose output goes elsewhere ("fvm run CMD | less") is read only
 * while it edits lines: a pager sets it raw, and the keys are the pager's then.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fvm/client_priv.h"

#define PIECE	      32768
#define COOKED_MS     250
#define FINISH_PIECES 4096 /* of what the session's heirs write after its end */

static struct relay {
	int from, to; /* -1: not in use */
	int passed;   /* the VM's end */
} relays[RELAYS] = { { -1, -1, -1 }, { -1, -1, -1 }, { -1, -1, -1 } };

static bool is_file;	/* our stdin: it can be wound back */
static int unread = -1; /* the pipe of a file that has been read to its end */

enum way { PASS, RELAY, NULL_DEVICE };

/* Of no directory: nobody else has it, and nothing of the host's is reached by it. */
static bool is_nameless(int fd)
{
	struct statfs fs;
	return fstatfs(fd, &fs) == 0 && fs.f_type == PIPEFS_MAGIC;
}

static enum way way_of(int fd)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return NULL_DEVICE; /* closed: as if it were /dev/null */
	if (S_ISFIFO(st.st_mode) && is_nameless(fd))
		return PASS;
	if (S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3))
		return NULL_DEVICE;
	if (fd == 0)
		is_file = S_ISREG(st.st_mode);
	return RELAY;
}

static bool same_file(int a, int b)
{
	struct stat x, y;
	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino && x.st_rdev == y.st_rdev;
}

static int relay_start(int i)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	(void)fchmod(ends[0], 0666); /* see PASS */
	struct relay *r = &relays[i];
	r->from = i == 0 ? 0 : ends[0];
	r->to = i == 0 ? ends[1] : i;
	r->passed = i == 0 ? ends[0] : ends[1];
	(void)fcntl(i == 0 ? ends[1] : ends[0], F_SETFL, O_NONBLOCK);
	return r->passed;
}

static int place(struct fvm_command *c, int i, struct fvm_error *err)
{
	if (i == 2 && relays[1].passed >= 0 && same_file(1, 2)) {
		c->fds[2] = relays[1].passed; /* one pipe keeps their order */
		return 0;
	}
	switch (way_of(i)) {
	case PASS:
		/* it may be opened again by name in the VM (/dev/stderr), whose users are others
		 * than we; who may reach it there is decided by /proc */
		(void)fchmod(i, 0666);
		c->fds[i] = i;
		return 0;
	case RELAY:
		c->fds[i] = relay_start(i);
		if (c->fds[i] < 0)
			return fvm_error_set(err, -c->fds[i], "make a pipe for descriptor %d", i);
		return 0;
	default:
		c->fds[i] = -1;
		return 0;
	}
}

int fvm_client_stdio(struct fvm_command *command, enum fvm_tty tty, struct fvm_error *err)
{
	int r = 0;
	for (int i = 0; i < 3; i++)
		command->fds[i] = -1;
	command->terminal = tty == FVM_TTY_FORCE ||
			    (tty == FVM_TTY_AUTO && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO));
	if (command->terminal) {
		(void)terminal_window(&command->window);
		/* errors that were sent elsewhere go there also from a terminal */
		if (tty == FVM_TTY_AUTO && !isatty(STDERR_FILENO))
			r = place(command, 2, err);
		return r;
	}
	if (command->detached)
		return 0;
	for (int i = 0; i < 3 && r == 0; i++)
		r = place(command, i, err);
	return r;
}

void relays_passed(void)
{
	for (int i = 0; i < RELAYS; i++) {
		if (relays[i].passed >= 0)
			close(relays[i].passed);
		relays[i].passed = -1;
	}
}

/* The file's offset goes back to what the command has read. */
static void take_back(int pipe)
{
	int left = 0;
	if (is_file && ioctl(pipe, FIONREAD, &left) == 0 && left > 0)
		(void)lseek(0, -left, SEEK_CUR);
}

/* Its reader sees the end, and what he does not read is not lost. */
static void file_ended(const struct relay *r)
{
	char link[32];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", r->to);
	unread = open(link, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
}

static void relay_close(int i)
{
	struct relay *r = &relays[i];
	if (i == 0 && r->to >= 0 && unread < 0)
		take_back(r->to);
	if (r->from >= 3)
		close(r->from);
	if (r->to >= 3)
		close(r->to);
	r->from = r->to = -1;
}

/* Reading before there is room would swallow what nobody may ever want. */
static void poll_input(struct pollfd *pfd)
{
	struct pollfd to = { .fd = relays[0].to, .events = POLLOUT };
	if (poll(&to, 1, 0) >= 0 && to.revents & POLLERR) {
		relay_close(0);
		pfd->fd = -1;
	} else if (!(to.revents & POLLOUT)) {
		*pfd = to;
	}
}

int relays_poll(struct pollfd *pfd)
{
	int wait = -1;
	for (int i = 0; i < RELAYS; i++) {
		pfd[i] = (struct pollfd){ .fd = relays[i].from, .events = POLLIN };
		if (i > 0 || relays[0].from < 0)
			continue;
		if (isatty(0) && !terminal_is_cooked(0)) {
			pfd[0].fd = -1;
			wait = COOKED_MS;
		} else {
			poll_input(&pfd[0]);
		}
	}
	return wait;
}

/* Return: as copy() */
static ssize_t copy_file(const struct relay *r)
{
	char buf[PIECE];
	ssize_t n = read(0, buf, sizeof(buf));
	if (n == 0)
		file_ended(r);
	if (n <= 0)
		return -1;
	ssize_t w = write(r->to, buf, (size_t)n);
	if (w < n)
		(void)lseek(0, (w < 0 ? 0 : w) - n, SEEK_CUR);
	if (w < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	return w;
}

/* Return: bytes copied; 0: nothing there; -1: the end */
static ssize_t copy(const struct relay *r)
{
	char buf[PIECE];
	if (r->from == 0 && is_file)
		return copy_file(r);
	/* POLLOUT of a pipe promises a page: more could be taken in part, and the rest be lost */
	ssize_t n = read(r->from, buf, r->from == 0 ? 4096 : sizeof(buf));
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	if (n == 0)
		return -1;
	int w = fvm_write_all(r->to, buf, (size_t)n);
	if (w < 0 && w != -EPIPE && r->from > 0)
		log_error("write the command's output: %s", strerror(-w));
	return w < 0 ? -1 : n;
}

void relays_ready(const struct pollfd *pfd)
{
	for (int i = 0; i < RELAYS; i++) {
		if (pfd[i].fd < 0 || !pfd[i].revents || pfd[i].fd != relays[i].from)
			continue;
		if (copy(&relays[i]) < 0)
			relay_close(i);
	}
}

void relays_finish(void)
{
	if (unread >= 0)
		take_back(unread);
	relay_close(0);
	for (int i = 1; i < RELAYS; i++) {
		int pieces = 0;
		while (relays[i].from >= 0 && pieces++ < FINISH_PIECES && copy(&relays[i]) > 0)
			;
		relay_close(i);
	}
	relays_passed();
}
