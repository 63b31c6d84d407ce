#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "fvm/liars.h"
#include "fvm/sys.h"

#define MAX_LIARS 1024

struct liar {
	pid_t pid;
	int pidfd;
	bool truth; /* no longer lied to, but its parent is */
	struct fvm_ids ids;
};

struct liars {
	struct liar items[MAX_LIARS];
	size_t count;
};

struct liars *liars_make(void)
{
	return calloc(1, sizeof(struct liars));
}

static bool has_any(const struct supervisor *sup)
{
	return sup->liars->count > 0;
}

/* Tgid and PPid of a task. Return: 0 or negative errno */
static int family(pid_t task, pid_t *ret_process, pid_t *ret_parent)
{
	char path[32];
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "%d/status", (int)task);
	int r = fvm_read_file(AT_FDCWD, path, 65536, &text, NULL);
	if (r < 0)
		return r;
	const char *process = strstr(text, "\nTgid:"), *parent = strstr(text, "\nPPid:");
	if (!process || !parent)
		return -EBADMSG;
	*ret_process = (pid_t)strtol(process + 6, NULL, 10);
	*ret_parent = (pid_t)strtol(parent + 6, NULL, 10);
	return 0;
}

static struct liar *find(const struct supervisor *sup, pid_t pid)
{
	for (size_t i = 0; i < sup->liars->count; i++) {
		if (sup->liars->items[i].pid == pid)
			return &sup->liars->items[i];
	}
	return NULL;
}

static int add(struct supervisor *sup, pid_t pid, const struct fvm_ids *ids, bool truth)
{
	struct epoll_event event = { .events = EPOLLIN };
	struct liars *all = sup->liars;
	if (all->count == MAX_LIARS)
		return -EMFILE;
	int fd = sys_pidfd_open(pid, 0);
	if (fd < 0)
		return fd;
	event.data.fd = fd;
	if (epoll_ctl(sup->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
		int r = -errno;
		close(fd);
		return r;
	}
	all->items[all->count++] = (struct liar){ pid, fd, truth, *ids };
	return 0;
}

bool liars_find(const struct call *c, struct fvm_ids *ret)
{
	pid_t pid, parent;
	if (!has_any(c->sup) || family((pid_t)c->req->pid, &pid, &parent) < 0)
		return false;
	const struct liar *known = find(c->sup, pid);
	if (!known) {
		known = find(c->sup, parent);
		if (known && !known->truth && add(c->sup, pid, &known->ids, false) == 0)
			known = find(c->sup, pid);
	}
	if (!known || known->truth)
		return false;
	*ret = known->ids;
	return true;
}

int liars_set(const struct call *c, const struct fvm_ids *ids)
{
	pid_t pid, parent;
	int r = family((pid_t)c->req->pid, &pid, &parent);
	if (r < 0)
		return r;
	struct liar *known = find(c->sup, pid);
	if (!known)
		return add(c->sup, pid, ids, false);
	known->ids = *ids;
	known->truth = false;
	return 0;
}

static void forget(struct supervisor *sup, struct liar *l)
{
	close(l->pidfd);
	*l = sup->liars->items[--sup->liars->count];
}

void liars_forget(const struct call *c)
{
	pid_t pid, parent;
	if (!has_any(c->sup) || family((pid_t)c->req->pid, &pid, &parent) < 0)
		return;
	struct liar *known = find(c->sup, pid);
	const struct liar *above = find(c->sup, parent);
	const struct fvm_ids none = { 0 };
	if (above && !above->truth && !known)
		(void)add(c->sup, pid, &none, true);
	else if (above && !above->truth)
		known->truth = true;
	else if (known)
		forget(c->sup, known);
}

bool liars_ended(struct supervisor *sup, int pidfd)
{
	for (size_t i = 0; i < sup->liars->count; i++) {
		if (sup->liars->items[i].pidfd == pidfd) {
			forget(sup, &sup->liars->items[i]);
			return true;
		}
	}
	return false;
}
