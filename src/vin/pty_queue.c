#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vin/pty.h"

#define PIECE	200  /* of input at once: there are values that none of its bytes has */
#define HOLDS	4095 /* what a line discipline keeps for its readers */
#define WAIT_MS 5000 /* for what the kernel does by itself */

struct ends {
	int master, slave;
	const struct termios2 *t; /* as the programs have set it */
};

static short poll_of(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };
	return poll(&p, 1, 0) == 1 ? p.revents : 0;
}

static bool by_lines(const struct termios2 *t)
{
	return (t->c_lflag & ICANON) && !(t->c_lflag & EXTPROC);
}

static int set(int fd, const struct termios2 *t)
{
	return ioctl(fd, TCSETS2, t) < 0 ? -errno : 0;
}

/* Waits for what the kernel's own threads do, which is soon. */
static void moment(void)
{
	const struct timespec t = { 0, 100000 };
	nanosleep(&t, NULL);
}

/* ---- out of it ---- */

/* What is there to be read; not what comes behind an end. Return: 0, -EFBIG or another errno */
static int drain(int fd, unsigned char *to, uint64_t *len)
{
	while ((poll_of(fd, POLLIN) & (POLLIN | POLLHUP)) == POLLIN) {
		ssize_t n = read(fd, to + *len, VIN_PTY_QUEUE - *len);
		if (n <= 0)
			return n == 0 ? -EFBIG : -errno;
		*len += (uint64_t)n;
	}
	return 0;
}

/* Of a slave whose master is hung up there is nothing more to be had. */
static int take_lines(int slave, struct vin_pty_queue *q)
{
	while ((poll_of(slave, POLLIN) & (POLLIN | POLLHUP)) == POLLIN) {
		if (q->line_count == VIN_PTY_LINES || q->in_len + HOLDS >= VIN_PTY_QUEUE)
			return -EFBIG;
		ssize_t n = read(slave, q->in + q->in_len, HOLDS + 1);
		if (n < 0)
			return -errno;
		q->lines[q->line_count++] = (uint16_t)n;
		q->in_len += (uint64_t)n;
	}
	return 0;
}

static int take_in(const struct ends *e, struct vin_pty_queue *q)
{
	struct termios2 t = *e->t;
	int r = by_lines(e->t) ? take_lines(e->slave, q) : 0;
	if (by_lines(e->t))
		t.c_lflag &= ~(tcflag_t)ICANON;
	t.c_cc[VMIN] = 1;
	t.c_cc[VTIME] = 0;
	if (r == 0)
		r = set(e->slave, &t);
	return r == 0 ? drain(e->slave, q->in, &q->in_len) : r;
}

/* ---- into it ---- */

/* Settings by which bytes stay what they are. */
static struct termios2 plain(const struct termios2 *like)
{
	struct termios2 t = *like;
	t.c_iflag = 0;
	t.c_oflag = 0;
	t.c_lflag &= ICANON | EXTPROC;
	memset(t.c_cc, 0, sizeof(t.c_cc)); /* no character means anything */
	t.c_cc[VMIN] = 1;
	return t;
}

static int write_some(int fd, const unsigned char *data, size_t len)
{
	for (int i = 0; len > 0; i++) {
		ssize_t n = poll_of(fd, POLLOUT) & POLLOUT ? write(fd, data, len) : 0;
		if (n < 0 && errno != EAGAIN)
			return -errno;
		if (n <= 0 && i > WAIT_MS * 10)
			return -ETIMEDOUT;
		if (n <= 0) {
			moment();
			continue;
		}
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Until output stops, by what was written at the master last. */
static int await_stop(int slave)
{
	for (int i = 0; poll_of(slave, POLLOUT) & POLLOUT; i++) {
		if (i > WAIT_MS * 10)
			return -ETIMEDOUT;
		moment();
	}
	return 0;
}

static int await_count(int slave, size_t want)
{
	int count = 0;
	for (int i = 0; ioctl(slave, FIONREAD, &count) == 0 && (size_t)count < want; i++) {
		if (i > WAIT_MS * 10)
			return -ETIMEDOUT;
		moment();
	}
	return 0;
}

/* Values that none of the bytes has. */
static void find_free(const unsigned char *data, size_t len, unsigned char ret[3])
{
	bool used[256] = { true };
	size_t count = 0;
	used['\n'] = true;
	for (size_t i = 0; i < len; i++)
		used[data[i]] = true;
	for (unsigned int c = 0; c < 256 && count < 3; c++) {
		if (!used[c])
			ret[count++] = (unsigned char)c;
	}
}

/* A piece of a line, its end or none of it; what is quoted is no line's end. */
static int put_piece(const struct ends *e, const unsigned char *data, size_t len, bool last)
{
	unsigned char keys[3], all[2 * PIECE + 2];
	size_t n = 0;
	struct termios2 t = plain(e->t), begin = t;
	find_free(data, len, keys);
	t.c_iflag = IXON;
	t.c_lflag |= IEXTEN;
	t.c_cc[VSTOP] = keys[0];
	t.c_cc[VEOF] = keys[1];
	t.c_cc[VLNEXT] = keys[2];
	const bool ended = last && len > 0 && data[len - 1] == '\n';
	for (size_t i = 0; i < len; i++) {
		if (data[i] == '\n' && !(ended && i == len - 1))
			all[n++] = keys[2];
		all[n++] = data[i];
	}
	if (last && !ended)
		all[n++] = keys[1];
	all[n++] = keys[0];
	int r = set(e->slave, &t);
	if (r == 0)
		r = write_some(e->master, all, n);
	if (r == 0)
		r = await_stop(e->slave);
	/* without IXON output goes on */
	int set_back = set(e->slave, &begin);
	return r < 0 ? r : set_back;
}

static int put_line(const struct ends *e, const unsigned char *data, size_t len, bool ends)
{
	int r = 0;
	for (; r == 0 && len > PIECE; data += PIECE, len -= PIECE)
		r = put_piece(e, data, PIECE, false);
	return r == 0 ? put_piece(e, data, len, ends) : r;
}

static int put_in(const struct ends *e, const struct vin_pty_queue *q)
{
	size_t at = 0;
	int r = 0;
	if (!by_lines(e->t)) {
		r = write_some(e->master, q->in, q->in_len);
		return r == 0 ? await_count(e->slave, q->in_len < HOLDS ? q->in_len : HOLDS) : r;
	}
	for (size_t i = 0; r == 0 && i < q->line_count; at += q->lines[i++])
		r = put_line(e, q->in + at, q->lines[i], true);
	return r == 0 && at < q->in_len ? put_line(e, q->in + at, q->in_len - at, false) : r;
}

static int stop_again(const struct ends *e, uint64_t how)
{
	const unsigned char key = 's';
	struct termios2 t = plain(e->t);
	t.c_iflag = IXON;
	t.c_cc[VSTOP] = key;
	if (how == VIN_PTY_GOES)
		return 0;
	if (how == VIN_PTY_STOPPED_BY_CALL)
		return ioctl(e->slave, TCXONC, TCOOFF) < 0 ? -errno : 0;
	int r = set(e->slave, &t);
	if (r == 0)
		r = write_some(e->master, &key, 1);
	return r == 0 ? await_stop(e->slave) : r;
}

static int put_all(const struct ends *e, const struct vin_pty_queue *q)
{
	int r = write_some(e->slave, q->out, q->out_len);
	int also = put_in(e, q);
	return r < 0 ? r : also;
}

int vin_pty_fill(int master, int slave, const struct termios2 *t, const struct vin_pty_queue *q)
{
	const struct ends e = { master, slave, t };
	const struct termios2 begin = plain(t);
	int r = set(slave, &begin);
	if (r == 0)
		r = put_all(&e, q);
	return r == 0 ? stop_again(&e, q->stopped) : r;
}

/* ---- out and in again ---- */

/* Output that is stopped goes on for a moment. */
static int start(const struct ends *e, struct vin_pty_queue *q)
{
	const bool stopped = !(poll_of(e->slave, POLLOUT) & POLLOUT);
	const struct termios2 begin = plain(e->t);
	int r = set(e->slave, &begin);
	q->stopped = stopped ? VIN_PTY_STOPPED_BY_KEY : VIN_PTY_GOES;
	if (r < 0 || !stopped || poll_of(e->slave, POLLOUT) & POLLOUT)
		return r;
	q->stopped = VIN_PTY_STOPPED_BY_CALL;
	return ioctl(e->slave, TCXONC, TCOON) < 0 ? -errno : 0;
}

/* Whatever fails, what was taken is put in again, and the settings stay the programs'. */
static int turn(const struct ends *e, struct vin_pty_queue *q)
{
	int r = take_in(e, q);
	int out = drain(e->master, q->out, &q->out_len);
	if (r == 0)
		r = out;
	int started = start(e, q);
	if (r == 0)
		r = started;
	int put = put_all(e, q);
	if (r == 0)
		r = put;
	int stopped = stop_again(e, q->stopped);
	if (r == 0)
		r = stopped;
	int back = set(e->slave, e->t);
	return r < 0 ? r : back;
}

/* The slave, for us; who had locked it finds it locked. */
static int open_slave(int master)
{
	int locked = 0;
	const int unlock = 0;
	if (ioctl(master, TIOCGPTLCK, &locked) < 0 ||
	    (locked && ioctl(master, TIOCSPTLCK, &unlock) < 0))
		return -errno;
	int fd = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	int r = fd < 0 ? -errno : fd;
	if (locked)
		(void)ioctl(master, TIOCSPTLCK, &locked);
	return r;
}

/* In the child. Packets are bytes meanwhile. */
static int look(int master, struct vin_pty_queue *q)
{
	struct termios2 t;
	int packets = 0;
	const int none = 0;
	scoped_fd slave = open_slave(master);
	const struct ends e = { master, slave, &t };
	if (slave < 0)
		return slave;
	if (ioctl(slave, TCGETS2, &t) < 0 || ioctl(master, TIOCGPKT, &packets) < 0 ||
	    (packets && ioctl(master, TIOCPKT, &none) < 0))
		return -errno;
	int r = turn(&e, q);
	if (packets && ioctl(master, TIOCPKT, &packets) < 0 && r == 0)
		r = -errno;
	return r;
}

int vin_pty_look(int master, struct vin_pty_queue *ret)
{
	sigset_t all, was;
	int status = 0;
	struct vin_pty_queue *q =
		mmap(NULL, sizeof(*q), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (q == MAP_FAILED)
		return -errno;
	sigfillset(&all);
	(void)sigprocmask(SIG_SETMASK, &all, &was);
	pid_t pid = fork();
	if (pid == 0)
		_exit(-look(master, q));
	int r = pid < 0 || waitpid(pid, &status, 0) < 0 ? -errno : 0;
	(void)sigprocmask(SIG_SETMASK, &was, NULL);
	if (r == 0)
		r = WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
	if (r == 0)
		memcpy(ret, q, sizeof(*ret));
	(void)munmap(q, sizeof(*q));
	return r;
}

/* ---- the image ---- */

void vin_pty_put(struct fvm_buf *to, const struct vin_pty_queue *q)
{
	vin_put_u64(to, q->stopped);
	vin_put_blob(to, q->out, q->out_len);
	vin_put_blob(to, q->in, q->in_len);
	vin_put_blob(to, q->lines, q->line_count * sizeof(*q->lines));
}

static uint64_t get_some(struct vin_payload *p, void *to, size_t most)
{
	size_t len;
	const void *data = vin_get_blob(p, &len);
	if (p->failed || len > most) {
		p->failed = true;
		return 0;
	}
	memcpy(to, data, len);
	return len;
}

int vin_pty_get(struct vin_payload *p, struct vin_pty_queue **ret)
{
	uint64_t sum = 0;
	scoped_free struct vin_pty_queue *q = calloc(1, sizeof(*q));
	if (!q)
		return -ENOMEM;
	q->stopped = vin_get_u64(p);
	q->out_len = get_some(p, q->out, sizeof(q->out));
	q->in_len = get_some(p, q->in, sizeof(q->in));
	const uint64_t bytes = get_some(p, q->lines, sizeof(q->lines));
	q->line_count = bytes / sizeof(*q->lines);
	for (size_t i = 0; i < q->line_count; i++)
		sum += q->lines[i];
	if (p->failed || q->stopped > VIN_PTY_STOPPED_BY_CALL || bytes % sizeof(*q->lines) ||
	    sum > q->in_len)
		return -EBADMSG;
	*ret = fvm_take_ptr(&q);
	return 0;
}
