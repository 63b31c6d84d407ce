/*
 * Pseudo terminals, both ends. The master has what belongs to the pair (settings, size, lock,
 * packet mode) and comes before its slaves, which are opened by their number; the new pair gets the
 * same, by taking numbers until it is its turn: in a VM's own devpts all that were free are free
 * again.
 *
 * What was written and not yet read belongs to the pair, too: pty.h. Whose terminal it is
 * (sessions, foreground groups) is said by the processes.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "vin/kinds.h"
#include "vin/pty.h"
#include "vin/status.h"

#define NUMBERS_MAX 4096 /* as many as a devpts has */

/* Whether somebody has a master's slave. */
enum slave { SLAVE_NEVER, SLAVE_OPEN, SLAVE_CLOSED };

struct pty {
	char *name; /* of ptmx, or of the slave */
	uint64_t master, number;
	/* of a master */
	uint64_t packets, locked, exclusive, slave;
	struct winsize size;
	struct termios2 settings;
	struct vin_pty_queue *queue; /* NULL: nothing */
};

static bool is_master(dev_t device)
{
	return device == makedev(5, 2);
}

static bool is_slave(dev_t device)
{
	return major(device) >= 136 && major(device) <= 143;
}

/* Of a slave: eight majors of 256 or one of more, as the kernel is old or new. */
static uint64_t slave_number(dev_t device)
{
	return (uint64_t)(major(device) - 136) * 256 + minor(device);
}

static bool matches(const struct vin_open *o)
{
	return S_ISCHR(o->st.st_mode) && (is_master(o->st.st_rdev) || is_slave(o->st.st_rdev));
}

/* All masters are of one inode, and no twins. */
static bool apart(const struct vin_open *o)
{
	return is_master(o->st.st_rdev);
}

static int number_of(const struct vin_open *o, uint64_t *ret)
{
	unsigned int number = 0;
	if (is_master(o->st.st_rdev) && ioctl(o->fd, TIOCGPTN, &number) < 0)
		return -errno;
	*ret = is_master(o->st.st_rdev) ? number : slave_number(o->st.st_rdev);
	return 0;
}

uint64_t vin_pty_number(dev_t device)
{
	return slave_number(device);
}

/* The file system of a master's slaves: the ptmx is in it, or has it beside as "pts". */
static bool is_of_devpts(const struct vin_files *all, const struct vin_open *master, dev_t devpts)
{
	char path[4096];
	struct stat st;
	const char *slash = strrchr(master->link, '/');
	if (master->st.st_dev == devpts || !slash)
		return true;
	snprintf(path, sizeof(path), "%.*s/pts", (int)(slash - master->link), master->link);
	scoped_fd pts = vin_name_look(all, path);
	return pts >= 0 && fstat(pts, &st) == 0 && st.st_dev == devpts;
}

/* @devpts: 0: any. */
static bool has_master(const struct vin_files *all, dev_t device, dev_t devpts)
{
	for (size_t i = 0; is_slave(device) && i < all->count; i++) {
		const struct vin_open *o = &all->opens[i];
		uint64_t number;
		if (o->kind == &vin_kind_pty && is_master(o->st.st_rdev) &&
		    number_of(o, &number) == 0 && number == slave_number(device) &&
		    (devpts == 0 || is_of_devpts(all, o, devpts)))
			return true;
	}
	return false;
}

bool vin_pty_has_master(const struct vin_files *all, dev_t device)
{
	return has_master(all, device, 0);
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	if (!vin_link_leads(all, o))
		return fvm_error_say(err, EOPNOTSUPP, "the terminal is gone");
	if (is_slave(o->st.st_rdev) && !has_master(all, o->st.st_rdev, o->st.st_dev))
		return fvm_error_say(err, EOPNOTSUPP, "whose terminal it is, is another program");
	return 0;
}

static short poll_of(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLPRI };
	return poll(&p, 1, 0) == 1 ? p.revents : 0;
}

/* Of a master. What has no name for its slave (/dev/tty) tells its device. */
static bool has_slave(const struct vin_files *all, const struct vin_open *master)
{
	uint64_t number;
	unsigned int device = 0;
	if (number_of(master, &number) < 0)
		return false;
	for (size_t i = 0; i < all->count; i++) {
		const struct vin_open *o = &all->opens[i];
		if (o->kind == &vin_kind_pty && is_slave(o->st.st_rdev) &&
		    slave_number(o->st.st_rdev) == number &&
		    is_of_devpts(all, master, o->st.st_dev))
			return true;
		if (o->kind == &vin_kind_tty && ioctl(o->fd, TIOCGDEV, &device) == 0 &&
		    slave_number(vin_device_of(device)) == number)
			return true;
	}
	return false;
}

static enum slave slave_of(const struct vin_files *all, const struct vin_open *master)
{
	return poll_of(master->fd) & POLLHUP ? SLAVE_CLOSED
	       : has_slave(all, master)	     ? SLAVE_OPEN
					     : SLAVE_NEVER;
}

static int put_queue(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to)
{
	const enum slave slave = slave_of(all, o);
	scoped_free struct vin_pty_queue *q = calloc(1, sizeof(*q));
	int r = !q ? -ENOMEM : slave == SLAVE_NEVER ? 0 : vin_pty_look(o->fd, q);
	vin_put_u64(to, slave);
	if (r == 0)
		vin_pty_put(to, q);
	return r;
}

static int put_settings(const struct vin_open *o, struct fvm_buf *to)
{
	int packets = 0, locked = 0, exclusive = 0;
	struct winsize size;
	struct termios2 settings;
	if (ioctl(o->fd, TIOCGPKT, &packets) < 0 || ioctl(o->fd, TIOCGPTLCK, &locked) < 0 ||
	    ioctl(o->fd, TIOCGEXCL, &exclusive) < 0 || ioctl(o->fd, TIOCGWINSZ, &size) < 0 ||
	    ioctl(o->fd, TCGETS2, &settings) < 0)
		return -errno;
	vin_put_u64(to, packets != 0);
	vin_put_u64(to, locked != 0);
	vin_put_u64(to, exclusive != 0);
	vin_put_blob(to, &size, sizeof(size));
	vin_put_blob(to, &settings, sizeof(settings));
	return 0;
}

/* Who is told of it in packets is told once. */
static int ready(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	(void)all;
	return is_master(o->st.st_rdev) && poll_of(o->fd) & POLLPRI
		       ? fvm_error_say(err, EAGAIN, "what happened to a terminal is not told yet")
		       : 0;
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	const bool master = is_master(o->st.st_rdev);
	uint64_t number = 0;
	int r = number_of(o, &number);
	vin_put_string(to, o->link);
	vin_put_u64(to, master);
	vin_put_u64(to, number);
	if (r == 0 && master)
		r = put_settings(o, to);
	if (r == 0 && master)
		r = put_queue(all, o, to);
	if (r == -EBUSY)
		return fvm_error_say(err, EOPNOTSUPP, "it is for one program only (TIOCEXCL)");
	return r < 0 ? fvm_error_set(err, -r, "look at the terminal %s", o->link) : 0;
}

static void get_exact(struct vin_payload *p, void *ret, size_t want)
{
	size_t len;
	const void *data = vin_get_blob(p, &len);
	if (data && len == want)
		memcpy(ret, data, len);
	else
		p->failed = true;
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct pty *its = ret;
	its->name = vin_get_string(p);
	its->master = vin_get_u64(p);
	its->number = vin_get_u64(p);
	if (p->failed || its->name[0] != '/' || its->master > 1 || its->number >= NUMBERS_MAX ||
	    (its->master && !first))
		return -EBADMSG;
	if (!its->master)
		return 0;
	its->packets = vin_get_u64(p);
	its->locked = vin_get_u64(p);
	its->exclusive = vin_get_u64(p);
	get_exact(p, &its->size, sizeof(its->size));
	get_exact(p, &its->settings, sizeof(its->settings));
	if (p->failed || (its->packets | its->locked | its->exclusive) > 1)
		return -EBADMSG;
	if (p->at == p->end) /* an older image */
		return 0;
	its->slave = vin_get_u64(p);
	return p->failed || its->slave > SLAVE_CLOSED ? -EBADMSG : vin_pty_get(p, &its->queue);
}

static void forget(void *its)
{
	struct pty *p = its;
	free(p->name);
	free(p->queue);
}

/* ---- anew ---- */

/* Opens ptmx until it gives @want; numbers before it are given back at the end. */
static int open_number(const struct vin_reopen *r, int ptmx, uint64_t want)
{
	scoped_fd fd = vin_again(r, ptmx, O_RDWR);
	unsigned int number = 0;
	if (fd < 0)
		return fd;
	if (ioctl(fd, TIOCGPTN, &number) < 0)
		return -errno;
	if (number == want)
		return fvm_fd_take(&fd);
	/* the lowest that is free comes first */
	return number > want ? -EEXIST : open_number(r, ptmx, want);
}

static int open_end(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct pty *its = f->its;
	const int unlock = 0;
	struct stat st;
	scoped_fd there = vin_name_open(r, its->name);
	if (there < 0 || fstat(there, &st) < 0)
		return fvm_error_set(err, there < 0 ? -there : errno, "find %s", its->name);
	if (!S_ISCHR(st.st_mode) ||
	    (its->master ? !is_master(st.st_rdev)
			 : !is_slave(st.st_rdev) || slave_number(st.st_rdev) != its->number))
		return fvm_error_say(err, ENXIO, "%s is no such terminal", its->name);
	scoped_fd fd =
		its->master ? open_number(r, there, its->number) : vin_again(r, there, f->flags);
	if (fd >= 0 && its->master && ioctl(fd, TIOCSPTLCK, &unlock) < 0)
		return fvm_error_set(err, errno, "unlock a terminal");
	if (fd == -EEXIST)
		fvm_error_hint(err,
			       "programs have their terminals' numbers in a devpts of their own");
	return fd < 0 ? fvm_error_set(err, -fd, "open terminal %d", (int)its->number)
		      : fvm_fd_take(&fd);
}

/* By its master, which comes before all others, and is not locked yet. */
int vin_pty_open_slave(const struct vin_reopen *r, uint64_t number)
{
	for (size_t i = 0; i < r->taken; i++) {
		const struct pty *its = r->files[i].its;
		if (r->files[i].kind == &vin_kind_pty && r->files[i].fd >= 0 && its->master &&
		    its->number == number)
			return fvm_nerr(
				ioctl(r->files[i].fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
	}
	return -ENXIO;
}

/* When the last who has it closes a slave, its master is told. */
static int fill(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct pty *its = f->its;
	(void)r;
	if (its->slave == SLAVE_NEVER)
		return 0;
	scoped_fd slave = ioctl(f->fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	int e = slave < 0 ? -errno : vin_pty_fill(f->fd, slave, &its->settings, its->queue);
	return e < 0 ? fvm_error_set(err, -e, "fill terminal %d", (int)its->number) : 0;
}

/* When the slaves are open: what they are opened in makes no difference then. */
static int finish(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct pty *its = f->its;
	const int packets = (int)its->packets, locked = (int)its->locked;
	(void)r;
	if (its->master &&
	    (ioctl(f->fd, TCSETS2, &its->settings) < 0 ||
	     ioctl(f->fd, TIOCSWINSZ, &its->size) < 0 || ioctl(f->fd, TIOCPKT, &packets) < 0 ||
	     ioctl(f->fd, TIOCSPTLCK, &locked) < 0 ||
	     (its->exclusive && ioctl(f->fd, TIOCEXCL) < 0)))
		return fvm_error_set(err, errno, "set terminal %d", (int)its->number);
	return 0;
}

const struct vin_kind vin_kind_pty = {
	.name = "a terminal",
	.nr = VIN_KIND_PTY,
	.matches = matches,
	.apart = apart,
	.check = check,
	.ready = ready,
	.capture = capture,
	.size = sizeof(struct pty),
	.parse = parse,
	.forget = forget,
	.open = open_end,
	.fill = fill,
	.finish = finish,
};
