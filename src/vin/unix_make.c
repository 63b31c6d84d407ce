/* Sockets that are connected, made by whoever the kernel is to remember: see unix.h. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/unix.h"

/* ---- somebody else ---- */

/* Of ids that are not to be had here ours stay. */
static void become(const struct unix_who *who)
{
	const gid_t gid = (gid_t)who->gid;
	const uid_t uid = (uid_t)who->uid;
	(void)syscall(SYS_setgroups, 0, NULL);
	(void)syscall(SYS_setresgid, gid, gid, gid);
	(void)syscall(SYS_setresuid, uid, uid, uid);
}

static pid_t fork_as(const struct unix_who *who)
{
	pid_t number = (pid_t)who->pid;
	struct clone_args args = {
		.flags = CLONE_FILES,
		.set_tid = (uint64_t)&number,
		.set_tid_size = 1,
	};
	long pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid >= 0)
		return (pid_t)pid;
	/* the number is somebody's, or may not be chosen: any */
	args.set_tid = 0;
	args.set_tid_size = 0;
	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

static int do_as(const struct unix_who *who, int (*fn)(void *arg), void *arg)
{
	pid_t pid = fork_as(who);
	if (pid == 0) {
		become(who);
		_exit(-fn(arg) & 0xff);
	}
	return unix_await(pid);
}

/* Who owns the user namespace may enter it, and the others from there. */
static int enter(int within)
{
	if (setns(within, CLONE_NEWPID) == 0)
		return 0;
	return setns(within, CLONE_NEWUSER) < 0 || setns(within, CLONE_NEWPID) < 0 ? -errno : 0;
}

struct errand {
	const struct vin_reopen *r;
	const struct unix_who *who;
	int (*fn)(void *arg);
	void *arg;
};

static int go_as(void *arg)
{
	const struct errand *e = arg;
	int r = enter(e->r->within);
	return r < 0 ? r : do_as(e->who, e->fn, e->arg);
}

int unix_as(const struct vin_reopen *r, const struct unix_who *who, int (*fn)(void *arg), void *arg)
{
	struct errand e = { r, who, fn, arg };
	if (who->pid == 0)
		return fn(arg);
	return r->within < 0 ? do_as(who, fn, arg) : unix_apart(go_as, &e);
}

int unix_reserve(void)
{
	return fvm_nerr(open("/dev/null", O_RDONLY | O_CLOEXEC));
}

/* ---- pairs ---- */

struct twins {
	int type;
	int places[2];
};

static int make_twins(void *arg)
{
	const struct twins *t = arg;
	int ends[2];
	if (socketpair(AF_UNIX, t->type | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	scoped_fd a = ends[0], b = ends[1];
	if (dup3(a, t->places[0], O_CLOEXEC) < 0 || dup3(b, t->places[1], O_CLOEXEC) < 0)
		return -errno;
	return 0;
}

static int pair_of_one_call(const struct vin_reopen *r, const struct unix_socket *s, int ret[2])
{
	scoped_fd a = unix_reserve(), b = unix_reserve();
	struct twins t = { (int)s->type, { a, b } };
	int e = a < 0 || b < 0 ? -EMFILE : unix_as(r, &s->maker, make_twins, &t);
	if (e < 0)
		return e;
	ret[0] = fvm_fd_take(&a);
	ret[1] = fvm_fd_take(&b);
	return 0;
}

struct meeting {
	int fd;
	struct sockaddr_un to;
	socklen_t to_len;
};

static int do_listen(void *arg)
{
	return fvm_nerr(listen(((const struct meeting *)arg)->fd, 1));
}

static int do_connect(void *arg)
{
	const struct meeting *m = arg;
	return fvm_nerr(connect(m->fd, (const struct sockaddr *)&m->to, m->to_len));
}

/* A listener for one connection: the client is told who listened, the other end who connected. */
static int pair_by_name(const struct vin_reopen *r, uint64_t type, const struct unix_name *name,
			const struct unix_who *makers[2], int ret[2])
{
	const struct unix_place place = {
		.name = name, .path = "", .mode = 0777, .uid = UINT32_MAX, .gid = UINT32_MAX
	};
	scoped_fd listener = fvm_nerr(socket(AF_UNIX, (int)type | SOCK_CLOEXEC, 0));
	scoped_fd client = fvm_nerr(socket(AF_UNIX, (int)type | SOCK_CLOEXEC, 0));
	int node = -1;
	int e = listener < 0 || client < 0 ? -EMFILE : unix_bind(r, listener, &place, &node);
	scoped_fd held = node;
	struct meeting m = { .fd = listener };
	m.to_len = unix_reach(name, held, &m.to);
	if (e == 0)
		e = unix_as(r, makers[1], do_listen, &m);
	m.fd = client;
	if (e == 0)
		e = unix_as(r, makers[0], do_connect, &m);
	if (e < 0)
		return e;
	ret[0] = fvm_nerr(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	ret[1] = fvm_fd_take(&client);
	if (ret[0] < 0)
		close(ret[1]);
	return ret[0] < 0 ? ret[0] : 0;
}

int unix_make_pair(const struct vin_reopen *r, const struct unix_socket *s, int ret[2])
{
	int ends[2];
	if (s->type == SOCK_DGRAM || (!s->accepted && s->peer_name.len == 0))
		return pair_of_one_call(r, s, ret);
	const struct unix_who *mine = &s->maker, *other = &s->peer_maker;
	const struct unix_who *makers[2] = { s->accepted ? mine : other,
					     s->accepted ? other : mine };
	int e = pair_by_name(r, s->type, s->accepted ? &s->name : &s->peer_name, makers, ends);
	if (e == 0) {
		ret[0] = ends[!s->accepted];
		ret[1] = ends[s->accepted];
	}
	return e;
}
