#include <errno.h>
#include <linux/sched.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vin/netlock.h"
#include "vin/tcp.h"

enum { SAY_DONE = 'd', SAY_SILENT = 's' };

struct held {
	pid_t pid; /* somebody who has it */
	int fd;
	bool listens;
	int reuse;
	unsigned char *filter; /* its own; never NULL */
	size_t len;
};

struct vin_netlock {
	struct held *list; /* by descriptor */
	size_t count;
	int line; /* to the guard */
	pid_t guard;
	bool silent;
};

static void forget(struct vin_netlock *l)
{
	for (size_t i = 0; i < l->count; i++)
		free(l->list[i].filter);
	free(l->list);
	free(l);
}

static void resume(const struct held *h)
{
	if (!h->listens) {
		(void)vin_repair(h->fd, TCP_REPAIR_OFF_NO_WP);
		(void)setsockopt(h->fd, SOL_SOCKET, SO_REUSEADDR, &h->reuse, sizeof(h->reuse));
	}
	(void)vin_filter_set(h->fd, h->filter, h->len);
}

/* ---- who sees to it if we die ---- */

static bool lives(pid_t pid)
{
	scoped_fd pidfd = pidfd_open(pid, 0);
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	return pidfd >= 0 && poll(&p, 1, 0) == 0;
}

/* Nothing else of ours stays open in it. */
static void keep_only(const struct vin_netlock *l, int line)
{
	unsigned int from = 0;
	bool kept = false;
	for (size_t i = 0; i < l->count; i++) {
		unsigned int fd = (unsigned int)l->list[i].fd;
		if (!kept && (unsigned int)line < fd) {
			if ((unsigned int)line > from)
				fvm_close_range(from, (unsigned int)line - 1);
			from = (unsigned int)line + 1;
			kept = true;
		}
		if (fd > from)
			fvm_close_range(from, fd - 1);
		from = fd + 1;
	}
	if (!kept && (unsigned int)line > from)
		fvm_close_range(from, (unsigned int)line - 1);
	fvm_close_range(kept ? from : (unsigned int)line + 1, ~0U);
}

static void guard(const struct vin_netlock *l, int line)
{
	static const int deaf_to[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE };
	bool silent = false;
	char said = 0;
	for (size_t i = 0; i < FVM_COUNT(deaf_to); i++)
		signal(deaf_to[i], SIG_IGN);
	keep_only(l, line);
	for (;;) {
		ssize_t n = read(line, &said, 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		if (said == SAY_DONE)
			_exit(0);
		silent = true;
	}
	for (size_t i = 0; i < l->count; i++) {
		if (!silent || lives(l->list[i].pid))
			resume(&l->list[i]);
	}
	_exit(0);
}

/* Its end is nobody's business: no signal tells of it. */
static int start_guard(struct vin_netlock *l)
{
	struct clone_args args = { 0 };
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	scoped_fd theirs = ends[0], ours = ends[1];
	l->guard = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (l->guard < 0)
		return -errno;
	if (l->guard == 0) {
		close(ours);
		guard(l, theirs);
	}
	l->line = fvm_fd_take(&ours);
	return 0;
}

static void say(const struct vin_netlock *l, char what)
{
	(void)fvm_write_all(l->line, &what, 1);
}

static void end_guard(struct vin_netlock *l)
{
	if (l->guard <= 0)
		return;
	say(l, SAY_DONE);
	close(l->line);
	while (waitpid(l->guard, NULL, __WCLONE) < 0 && errno == EINTR)
		;
}

/* ---- cut ---- */

static int add(struct vin_netlock *l, const struct vin_open *o, int state)
{
	struct held h = {
		.pid = o->pid,
		.fd = o->fd,
		.listens = state == TCP_LISTEN,
		.reuse = vin_sock_option(o->fd, SOL_SOCKET, SO_REUSEADDR),
	};
	ssize_t len = vin_filter_read(o->fd, &h.filter);
	if (len < 0)
		return (int)len;
	h.len = (size_t)len;
	if (!h.filter)
		h.filter = malloc(1);
	struct held *more = realloc(l->list, fvm_room(l->count + 1) * sizeof(*more));
	if (more)
		l->list = more;
	if (!h.filter || !more) {
		free(h.filter);
		return -ENOMEM;
	}
	l->list[l->count++] = h;
	return 0;
}

static int by_fd(const void *a, const void *b)
{
	return ((const struct held *)a)->fd - ((const struct held *)b)->fd;
}

static int gather(const struct vin_files *f, struct vin_netlock *l)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < f->count; i++) {
		const struct vin_open *o = &f->opens[i];
		int state = o->kind == &vin_kind_tcp ? vin_tcp_state(o->fd) : TCP_CLOSE;
		if (state != TCP_CLOSE)
			r = state < 0 ? state : add(l, o, state);
	}
	if (r == 0 && l->count > 0)
		qsort(l->list, l->count, sizeof(*l->list), by_fd);
	return r;
}

int vin_netlock_cut(struct vin_files *f, struct fvm_error *err)
{
	struct vin_netlock *l = calloc(1, sizeof(*l));
	if (!l)
		return fvm_error_set(err, ENOMEM, "cut the network");
	int r = gather(f, l);
	if (r == 0 && l->count > 0)
		r = start_guard(l);
	if (r < 0) {
		forget(l);
		return fvm_error_set(err, -r, "cut the network");
	}
	f->netlock = l;
	if (l->count > 0) {
		vin_netlock_hear(f);
		vin_netlock_drain();
	}
	for (size_t i = 0; r == 0 && i < l->count; i++)
		r = vin_filter_deaf(l->list[i].fd);
	if (r < 0)
		fvm_error_set(err, -r, "cut the network of a connection");
	if (r == 0 && l->count > 0)
		r = vin_netlock_peers(f, err);
	if (r < 0)
		vin_netlock_resume(f);
	return r;
}

void vin_netlock_resume(struct vin_files *f)
{
	struct vin_netlock *l = f->netlock;
	if (!l)
		return;
	for (size_t i = 0; !l->silent && i < l->count; i++)
		resume(&l->list[i]);
	end_guard(l);
	forget(l);
	f->netlock = NULL;
}

int vin_netlock_silence(struct vin_files *f, struct fvm_error *err)
{
	struct vin_netlock *l = f->netlock;
	int r = 0;
	if (!l || l->count == 0)
		return 0;
	say(l, SAY_SILENT);
	for (size_t i = 0; r == 0 && i < l->count; i++)
		r = l->list[i].listens ? 0 : vin_repair(l->list[i].fd, TCP_REPAIR_ON);
	l->silent = r == 0;
	return r < 0 ? fvm_error_set(err, -r, "silence a connection") : 0;
}

const void *vin_netlock_filter(const struct vin_netlock *l, int fd, size_t *ret_len)
{
	const struct held key = { .fd = fd };
	const struct held *h =
		l && l->count > 0 ? bsearch(&key, l->list, l->count, sizeof(key), by_fd) : NULL;
	if (!h)
		return NULL;
	*ret_len = h->len;
	return h->filter;
}
