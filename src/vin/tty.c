/*
 * /dev/tty: the terminal that a process had when it opened it, under another name. Which one that
 * is the kernel tells; in the new world a child of ours gets that terminal for a moment, and opens
 * /dev/tty into our table of descriptors.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vin/kinds.h"
#include "vin/status.h"

struct tty {
	char *name;
	uint64_t number;
	char *given; /* its name, when somebody outside has the master: given.c; or "" */
};

static bool is_tty(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(5, 0);
}

static bool matches(const struct vin_open *o)
{
	return is_tty(&o->st) && !(o->info.flags & O_PATH);
}

static int device_of(const struct vin_open *o, dev_t *ret)
{
	unsigned int device = 0;
	if (ioctl(o->fd, TIOCGDEV, &device) < 0)
		return -errno;
	*ret = vin_device_of(device);
	return 0;
}

/* Of a terminal that is given to the programs. */
static const struct vin_given *find_given(const struct vin_files *all, dev_t device)
{
	for (size_t i = 0; i < all->given_count; i++) {
		struct stat st;
		if (fstat(all->given[i].fd, &st) == 0 && S_ISCHR(st.st_mode) &&
		    st.st_rdev == device)
			return &all->given[i];
	}
	return NULL;
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	dev_t device = 0;
	int queued = 0;
	if (device_of(o, &device) < 0 || ioctl(o->fd, FIONREAD, &queued) < 0)
		return fvm_error_say(err, EOPNOTSUPP, "the terminal is gone");
	if (!vin_link_leads(all, o))
		return fvm_error_say(err, EOPNOTSUPP, "its name does not lead to it");
	if (!vin_pty_has_master(all, device) && !find_given(all, device))
		return fvm_error_say(err, EOPNOTSUPP, "whose terminal it is, is another program");
	return 0;
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	dev_t device = 0;
	int r = device_of(o, &device);
	if (r < 0)
		return fvm_error_set(err, -r, "look at the terminal %s", o->link);
	const struct vin_given *given = find_given(all, device);
	vin_put_string(to, o->link);
	vin_put_u64(to, vin_pty_number(device));
	vin_put_string(to, given ? given->name : "");
	return 0;
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct tty *t = ret;
	(void)first;
	t->name = vin_get_string(p);
	t->number = vin_get_u64(p);
	t->given = vin_get_string(p);
	return p->failed || t->name[0] != '/' || t->number > INT32_MAX ? -EBADMSG : 0;
}

static void forget(void *its)
{
	struct tty *t = its;
	free(t->name);
	free(t->given);
}

/* In the child. When it ends it gives the terminal back, which the signal of that is not for. */
static int borrow(const struct vin_reopen *r, int slave, int place, unsigned int flags, int to)
{
	if (setsid() < 0 || ioctl(slave, TIOCSCTTY, 0) < 0)
		return errno;
	int fd = vin_again(r, place, flags);
	if (fd < 0)
		return -fd;
	int error = dup3(fd, to, O_CLOEXEC) < 0 ? errno : 0;
	close(fd);
	signal(SIGHUP, SIG_IGN);
	return error == 0 && ioctl(slave, TIOCNOTTY) < 0 ? errno : error;
}

static int open_borrowed(struct vin_reopen *r, int slave, int place, unsigned int flags)
{
	struct clone_args args = { .flags = CLONE_FILES, .exit_signal = SIGCHLD };
	int status;
	scoped_fd fd = fcntl(slave, F_DUPFD_CLOEXEC, r->base);
	pid_t pid = fd < 0 ? -1 : (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (pid == 0)
		_exit(borrow(r, slave, place, flags, fd));
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return -errno;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
	return fvm_fd_take(&fd);
}

static int open_tty(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct tty *its = f->its;
	struct stat st;
	scoped_fd place = vin_name_open(r, its->name);
	if (place < 0 || fstat(place, &st) < 0)
		return fvm_error_set(err, place < 0 ? -place : errno, "find %s", its->name);
	if (!is_tty(&st))
		return fvm_error_say(err, ENXIO, "%s is another device", its->name);
	const int from = its->given[0] ? vin_given_fd(r, its->given) : -1;
	scoped_fd slave =
		from >= 0 ? vin_again(r, from, O_RDWR) : vin_pty_open_slave(r, its->number);
	int fd = slave < 0 ? slave : open_borrowed(r, slave, place, f->flags);
	return fd < 0 ? fvm_error_set(err, -fd, "open terminal %d as %s", (int)its->number,
				      its->name)
		      : fd;
}

const struct vin_kind vin_kind_tty = {
	.name = "a terminal",
	.nr = VIN_KIND_TTY,
	.matches = matches,
	.check = check,
	.capture = capture,
	.size = sizeof(struct tty),
	.parse = parse,
	.forget = forget,
	.open = open_tty,
};
