/*
 * What a command without terminal gets as 0, 1 and 2.
 *
 * Pipes and files go in as they are: no copying, and a file's offset moves as it would without a
 * VM; only output of root's VMs to a file is copied. What would be a way out (a directory, a
 * socket), or belongs to the host (a terminal, a device), is copied through a pipe by us while we
 * wait for the session. A process has one set of those three, so their state stands here.
 *
 * A terminal as stdin of a command whose output goes elsewhere ("fvm run CMD | less") is read only
 * while it edits lines: a pager sets it raw, and the keys are the pager's then.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
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

enum way { PASS, RELAY, NULL_DEVICE, SHARED };

/* An anonymous pipe of ours may be opened again by name in the VM (/dev/stderr), whose users are
 * others than we; who may reach it there is decided by /proc. A FIFO in a directory is not ours. */
static void open_to_all(int fd)
{
	struct statfs fs;
	if (fstatfs(fd, &fs) == 0 && fs.f_type == PIPEFS_MAGIC)
		(void)fchmod(fd, 0666);
}

static enum way way_of(int fd)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return NULL_DEVICE; /* closed: as if it were /dev/null */
	/* root's VMs have ids of their own, for which a file of ours is not to be opened again, as
	 * "echo >/dev/stderr" does */
	if (S_ISREG(st.st_mode) && fd > 0 && geteuid() == 0)
		return RELAY;
	if (S_ISFIFO(st.st_mode) || S_ISREG(st.st_mode))
		return PASS;
	if (S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3))
		return NULL_DEVICE;
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
	open_to_all(ends[0]);
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
		open_to_all(i);
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

static void relay_close(int i)
{
	struct relay *r = &relays[i];
	if (r->from >= 3)
		close(r->from);
	if (r->to >= 3)
		close(r->to);
	r->from = r->to = -1;
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
			continue;
		}
		/* reading before there is room would swallow what nobody may ever want */
		struct pollfd to = { .fd = relays[0].to, .events = POLLOUT };
		if (poll(&to, 1, 0) >= 0 && to.revents & POLLERR)
			relay_close(0);
		if (relays[0].to >= 0 && !(to.revents & POLLOUT))
			wait = COOKED_MS;
		if (relays[0].to < 0 || !(to.revents & POLLOUT))
			pfd[0].fd = -1;
	}
	return wait;
}

/* Return: bytes copied; 0: nothing there; -1: the end */
static ssize_t copy(struct relay *r)
{
	char buf[PIECE];
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
		if (pfd[i].fd < 0 || !pfd[i].revents || relays[i].from < 0)
			continue;
		if (copy(&relays[i]) < 0)
			relay_close(i);
	}
}

void relays_finish(void)
{
	relay_close(0);
	for (int i = 1; i < RELAYS; i++) {
		int pieces = 0;
		while (relays[i].from >= 0 && pieces++ < FINISH_PIECES && copy(&relays[i]) > 0)
			;
		relay_close(i);
	}
	relays_passed();
}
