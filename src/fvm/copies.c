#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/adopt.h"
#include "fvm/copies.h"
#include "fvm/sys.h"

#define MAX_WAITING 4096 /* a VM that asks for more is its own enemy */

struct waiting {
	struct waiting *next;
	struct seccomp_notif req;
	int listener;
};

struct copy {
	struct copy *next;
	dev_t dev;
	ino_t ino;
	pid_t pid;
	int pidfd;
	size_t count;
	struct waiting *waiting;
};

static struct copy *find(const struct supervisor *sup, const struct stat *st)
{
	struct copy *p = sup->copies;
	while (p && (p->dev != st->st_dev || p->ino != st->st_ino))
		p = p->next;
	return p;
}

bool copies_find(const struct supervisor *sup, const struct stat *st)
{
	return find(sup, st);
}

static int keep(struct copy *p, const struct call *c)
{
	struct waiting *w = p->count < MAX_WAITING ? malloc(sizeof(*w)) : NULL;
	if (!w)
		return -ENOMEM;
	w->req = *c->req;
	w->listener = c->listener;
	w->next = p->waiting;
	p->waiting = w;
	p->count++;
	return -EINPROGRESS;
}

static _Noreturn void copy_child(struct supervisor *sup, int dir, const char *name,
				 const struct stat *st, const struct fvm_host_owner *owner)
{
	/* neither may live on in us when the supervisor dies */
	for (size_t i = 0; i < sup->listener_count; i++)
		close(sup->listeners[i]);
	close(sup->guard);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	notify_take_owner(sup, st);
	if (fvm_adopt(dir, name, st, false) < 0)
		_exit(1);
	struct target t = { .fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC) };
	if (!sup->map && t.fd >= 0 && fstat(t.fd, &t.st) == 0)
		notify_give_back(sup, &t, owner);
	_exit(0);
}

static struct copy *start(struct supervisor *sup, int dir, const char *name, const struct stat *st,
			  const struct fvm_host_owner *owner)
{
	struct epoll_event event = { .events = EPOLLIN };
	struct copy *p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->dev = st->st_dev;
	p->ino = st->st_ino;
	const struct clone_args args = { .flags = CLONE_PIDFD,
					 .pidfd = (uintptr_t)&p->pidfd,
					 .exit_signal = SIGCHLD };
	p->pid = sys_clone3(&args);
	if (p->pid == 0)
		copy_child(sup, dir, name, st, owner);
	event.data.fd = p->pidfd;
	if (p->pid > 0 && epoll_ctl(sup->epoll, EPOLL_CTL_ADD, p->pidfd, &event) == 0) {
		p->next = sup->copies;
		sup->copies = p;
		return p;
	}
	if (p->pid > 0) {
		(void)sys_pidfd_send_signal(p->pidfd, SIGKILL);
		(void)waitpid(p->pid, NULL, 0);
		close(p->pidfd);
	}
	free(p);
	return NULL;
}

int copies_add(struct call *c, int dir, const char *name, const struct stat *st,
	       const struct fvm_host_owner *owner)
{
	struct copy *p = find(c->sup, st);
	if (!p)
		p = start(c->sup, dir, name, st, owner);
	return p ? keep(p, c) : -EAGAIN;
}

void copies_ended(struct supervisor *sup, int pidfd,
		  void (*handle)(struct supervisor *sup, int listener,
				 const struct seccomp_notif *req, bool no_adopt))
{
	struct copy **at = &sup->copies;
	int status = 1;
	while (*at && (*at)->pidfd != pidfd)
		at = &(*at)->next;
	struct copy *p = *at;
	if (!p)
		return;
	*at = p->next;
	(void)waitpid(p->pid, &status, 0);
	close(pidfd);
	while (p->waiting) {
		struct waiting *w = p->waiting;
		p->waiting = w->next;
		handle(sup, w->listener, &w->req, status != 0);
		free(w);
	}
	free(p);
}
