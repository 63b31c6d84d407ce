#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vin/users.h"

#define DEPTH_MAX 32	/* the kernel's own limit */
#define TEXT_MAX  16384 /* 340 lines as the kernel shows them */
#define LIST_MAX  1024

enum { UIDS, GIDS, SETGROUPS, MAPS };

static const char *const files[MAPS] = { "uid_map", "gid_map", "setgroups" };

/* ---- a child that is in another user namespace for a moment ---- */

struct errand {
	int within; /* user namespace, or -1: ours */
	int (*fn)(void *arg);
	void *arg;
};

/* What changes rights makes undumpable, and /proc/self is then somebody else's. */
int vin_users_enter(int userns)
{
	struct stat ours, its;
	if (userns < 0 || (fstat(userns, &its) == 0 && stat("/proc/self/ns/user", &ours) == 0 &&
			   its.st_ino == ours.st_ino))
		return 0;
	if (setns(userns, CLONE_NEWUSER) < 0)
		return -errno;
	(void)prctl(PR_SET_DUMPABLE, 1);
	return 0;
}

/* @keep_out: a descriptor that is not to be the child's, or -1. Return: child, or negative errno */
static pid_t start(const struct errand *e, int keep_out)
{
	pid_t pid = fork();
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		fvm_fd_closep(&keep_out);
		int r = vin_users_enter(e->within);
		_exit(-(r < 0 ? r : e->fn(e->arg)) & 0xff);
	}
	return (pid_t)fvm_nerr(pid);
}

/* What the child @pid ends with: 0 or a small negative errno. A negative @pid is passed on. */
static int outcome(pid_t pid)
{
	int status;
	if (pid < 0)
		return pid;
	if (waitpid(pid, &status, 0) != pid)
		return -errno;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}

/* Return: what @e->fn did, which is 0 or a small negative errno */
static int send_out(const struct errand *e)
{
	return outcome(start(e, -1));
}

/* ---- capture ---- */

static int open_ns(pid_t pid, const char *name)
{
	char path[48];
	snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 && errno == ENOENT ? -ESRCH : fd < 0 ? -errno : fd;
}

int vin_users_open(pid_t pid)
{
	return open_ns(pid, "user");
}

static ino_t ino_of(int fd)
{
	struct stat st;
	return fstat(fd, &st) < 0 ? 0 : st.st_ino;
}

/* Whose the numbers of processes are; our own where that is above us, and nothing to look at. */
static int open_world(pid_t pid)
{
	scoped_fd pids = open_ns(pid, "pid");
	int r = pids < 0 ? pids : fvm_nerr(ioctl(pids, NS_GET_USERNS));
	return r == -EPERM && pids >= 0 ? open_ns(getpid(), "user") : r;
}

static void close_levels(int *levels, size_t count)
{
	for (size_t i = 0; i < count; i++)
		close(levels[i]);
}

/* The namespaces from @lowest up to the world of @pid, without it. Return: how many, or -errno */
static int open_levels_from(int lowest, pid_t pid, int levels[DEPTH_MAX])
{
	size_t count = 0;
	scoped_fd world = open_world(pid);
	scoped_fd at = world < 0 ? world : fvm_nerr(fcntl(lowest, F_DUPFD_CLOEXEC, 0));
	int r = at < 0 ? at : 0;
	while (r == 0 && ino_of(at) != ino_of(world)) {
		int up = count < DEPTH_MAX ? fvm_nerr(ioctl(at, NS_GET_PARENT)) : -ELOOP;
		if (up < 0) {
			r = up;
			break;
		}
		levels[count++] = fvm_fd_take(&at);
		at = up;
	}
	if (r < 0)
		close_levels(levels, count);
	return r < 0 ? r : (int)count;
}

static int open_levels(pid_t pid, int levels[DEPTH_MAX])
{
	scoped_fd own = open_ns(pid, "user");
	return own < 0 ? own : open_levels_from(own, pid, levels);
}

static int refuse(pid_t pid, int r, struct fvm_error *err)
{
	if (r == -ESRCH)
		return fvm_error_set(err, ESRCH, "look at process %d", pid);
	return fvm_error_say(err, EOPNOTSUPP,
			     "process %d can't be captured: its user namespace is not below that "
			     "of its pid namespace (%s)",
			     pid, strerror(-r));
}

int vin_users_check(pid_t pid, struct fvm_error *err)
{
	int levels[DEPTH_MAX];
	int r = open_levels(pid, levels);
	if (r < 0)
		return refuse(pid, r, err);
	close_levels(levels, (size_t)r);
	return 0;
}

/* What the kernel shows who is inside: numbers of the namespace above. */
static int read_maps(void *arg)
{
	char(*text)[TEXT_MAX] = arg;
	for (int i = 0; i < MAPS; i++) {
		char path[40];
		scoped_free char *got = NULL;
		snprintf(path, sizeof(path), "/proc/self/%s", files[i]);
		int r = fvm_read_file(AT_FDCWD, path, TEXT_MAX - 1, &got, NULL);
		if (r < 0)
			return r;
		strcpy(text[i], got);
	}
	return 0;
}

static int tell(int fd, struct vin_userns *ret)
{
	char(*text)[TEXT_MAX] = mmap(NULL, sizeof(*text) * MAPS, PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (text == MAP_FAILED)
		return -errno;
	const struct errand e = { fd, read_maps, text };
	int r = send_out(&e);
	for (int i = 0; r == 0 && i < MAPS; i++) {
		ret->maps[i] = strdup(text[i]);
		r = ret->maps[i] ? 0 : -ENOMEM;
	}
	(void)munmap(text, sizeof(*text) * MAPS);
	return r;
}

static size_t find_ino(const struct vin_users *u, ino_t ino)
{
	size_t i = 0;
	while (i < u->count && u->list[i].ino != ino)
		i++;
	return i;
}

/* @parent: 1 + its place. Return: 1 + the place of this one, or negative errno */
static int add_level(struct vin_users *u, int fd, int parent)
{
	const ino_t ino = ino_of(fd);
	const size_t at = find_ino(u, ino);
	if (at < u->count)
		return (int)at + 1;
	struct vin_userns *more = u->count < LIST_MAX
					  ? realloc(u->list, fvm_room(u->count + 1) * sizeof(*more))
					  : NULL;
	if (!more)
		return -ENOMEM;
	u->list = more;
	more[u->count++] = (struct vin_userns){ .ino = ino, .parent = (uint64_t)parent, .fd = -1 };
	int r = tell(fd, &more[u->count - 1]);
	return r < 0 ? r : (int)u->count;
}

static int add_user(struct vin_users *u, pid_t number, size_t which)
{
	struct vin_userns_user *more =
		realloc(u->users, fvm_room(u->user_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	u->users = more;
	more[u->user_count++] = (struct vin_userns_user){ number, which };
	return 0;
}

/* Return: 1 + the place of the lowest; 0: it is the world's; or negative errno */
static int add_levels(struct vin_users *u, const int *levels, int count)
{
	int at = 0;
	for (int i = count; at >= 0 && i-- > 0;)
		at = add_level(u, levels[i], at);
	return at;
}

int vin_users_owner(struct vin_users *u, pid_t pid, int fd)
{
	int levels[DEPTH_MAX];
	scoped_fd owner = fvm_nerr(ioctl(fd, NS_GET_USERNS));
	const int count = owner < 0 ? owner : open_levels_from(owner, pid, levels);
	if (count < 0)
		return count;
	const int at = u ? add_levels(u, levels, count) : 0;
	close_levels(levels, (size_t)count);
	return at;
}

int vin_users_add(struct vin_users *u, pid_t pid, pid_t number, struct fvm_error *err)
{
	int levels[DEPTH_MAX];
	int count = open_levels(pid, levels);
	if (count < 0)
		return refuse(pid, count, err);
	int at = add_levels(u, levels, count);
	close_levels(levels, (size_t)count);
	if (at > 0)
		at = add_user(u, number, (size_t)at - 1);
	return at < 0 ? fvm_error_set(err, -at, "look at the user namespace of process %d", pid)
		      : 0;
}

void vin_users_put(struct fvm_buf *to, const struct vin_users *u)
{
	vin_put_u64(to, u->count);
	for (size_t i = 0; i < u->count; i++) {
		vin_put_u64(to, u->list[i].parent);
		for (int j = 0; j < MAPS; j++)
			vin_put_string(to, u->list[i].maps[j]);
	}
	vin_put_u64(to, u->user_count);
	for (size_t i = 0; i < u->user_count; i++) {
		vin_put_u64(to, (uint64_t)u->users[i].number);
		vin_put_u64(to, u->users[i].which);
	}
}

/* ---- replay ---- */

static int get_list(struct vin_payload *p, struct vin_users *u)
{
	const uint64_t count = vin_get_u64(p);
	if (p->failed || count == 0 || count > LIST_MAX)
		return -EBADMSG;
	u->list = calloc(count, sizeof(*u->list));
	if (!u->list)
		return -ENOMEM;
	while (u->count < count) {
		struct vin_userns *n = &u->list[u->count++];
		n->fd = -1;
		n->parent = vin_get_u64(p);
		for (int j = 0; j < MAPS; j++)
			n->maps[j] = vin_get_string(p);
		if (p->failed || n->parent >= u->count)
			return -EBADMSG;
	}
	return 0;
}

static int get_users(struct vin_payload *p, struct vin_users *u)
{
	const uint64_t count = vin_get_u64(p);
	for (uint64_t i = 0; i < count; i++) {
		const uint64_t number = vin_get_u64(p), which = vin_get_u64(p);
		if (p->failed || number == 0 || number > INT32_MAX || which >= u->count)
			return -EBADMSG;
		int r = add_user(u, (pid_t)number, (size_t)which);
		if (r < 0)
			return r;
	}
	return vin_get_done(p);
}

int vin_users_get(struct vin_payload *p, struct vin_users *ret)
{
	struct vin_users u = { .world = -1, .pids = -1 };
	int r = get_list(p, &u);
	if (r == 0)
		r = get_users(p, &u);
	if (r < 0)
		vin_users_free(&u);
	else
		*ret = u;
	return r;
}

struct making {
	const struct vin_userns *n;
	int tell; /* gets the number of who is in it */
	int end;  /* hangs up when he is not needed any more */
};

static int write_maps(pid_t pid, const struct vin_userns *n)
{
	char path[40];
	int r = 0;
	snprintf(path, sizeof(path), "/proc/%d/setgroups", pid);
	if (strncmp(n->maps[SETGROUPS], "deny", 4) == 0)
		r = fvm_write_file(AT_FDCWD, path, "deny");
	for (int i = UIDS; r >= 0 && i <= GIDS; i++) {
		snprintf(path, sizeof(path), "/proc/%d/%s", pid, files[i]);
		/* one in which nobody has a number */
		if (n->maps[i][0])
			r = fvm_write_file(AT_FDCWD, path, n->maps[i]);
	}
	return r;
}

static _Noreturn void be_inside(int ready, int end)
{
	char byte = 0;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	int r = unshare(CLONE_NEWUSER) < 0 ? errno : 0;
	(void)prctl(PR_SET_DUMPABLE, 1);
	byte = (char)r;
	(void)!write(ready, &byte, 1);
	(void)!read(end, &byte, 1);
	_exit(0);
}

/* In the namespace above: a child makes the one that is wanted, and we say who is who in it. */
static int make_inside(void *arg)
{
	const struct making *m = arg;
	int ready[2];
	char byte = 0;
	if (pipe2(ready, O_CLOEXEC) < 0)
		return -errno;
	pid_t pid = fork();
	if (pid == 0)
		be_inside(ready[1], m->end);
	close(ready[1]);
	int r = pid < 0 ? -errno : fvm_read_full(ready[0], &byte, 1) == 1 ? -byte : -EIO;
	if (r == 0)
		r = write_maps(pid, m->n);
	if (r == 0)
		r = fvm_write_all(m->tell, &pid, sizeof(pid));
	close(m->tell);
	if (r < 0 && pid > 0)
		(void)kill(pid, SIGKILL);
	if (pid > 0)
		(void)waitpid(pid, NULL, 0);
	return r;
}

/* The namespace is held by a descriptor of ours, when the one who is in it ends. */
static int make_one(struct vin_userns *n, int parent)
{
	int told[2], end[2];
	pid_t inside = 0;
	if (pipe2(told, O_CLOEXEC) < 0)
		return -errno;
	if (pipe2(end, O_CLOEXEC) < 0) {
		close(told[0]);
		close(told[1]);
		return -ENFILE;
	}
	struct making m = { n, told[1], end[0] };
	const struct errand e = { parent, make_inside, &m };
	pid_t pid = start(&e, end[1]);
	close(told[1]);
	close(end[0]);
	if (pid > 0 && fvm_read_full(told[0], &inside, sizeof(inside)) == sizeof(inside))
		n->fd = open_ns(inside, "user");
	close(told[0]);
	close(end[1]);
	int r = outcome(pid);
	return r < 0 ? r : n->fd < 0 ? n->fd : 0;
}

static bool has_maps(int fd, const struct vin_userns *n)
{
	struct vin_userns there = { .fd = -1 };
	bool same = tell(fd, &there) == 0;
	for (int i = 0; i < MAPS; i++) {
		same = same && strcmp(there.maps[i], n->maps[i]) == 0;
		free(there.maps[i]);
	}
	return same;
}

/* Who comes into the world later, too, is to be in the same one. */
static int find_there(const struct vin_userns *n, const int *there, size_t count)
{
	for (size_t i = 0; n->parent == 0 && i < count; i++) {
		if (has_maps(there[i], n))
			return fcntl(there[i], F_DUPFD_CLOEXEC, 0);
	}
	return -1;
}

int vin_users_make(struct vin_users *u, pid_t first, const int *there, size_t count,
		   struct fvm_error *err)
{
	u->world = open_ns(first, "user");
	u->pids = open_ns(first, "pid");
	int r = u->world < 0 ? u->world : u->pids < 0 ? u->pids : 0;
	for (size_t i = 0; r == 0 && i < u->count; i++) {
		struct vin_userns *n = &u->list[i];
		n->fd = find_there(n, there, count);
		if (n->fd < 0)
			r = make_one(n, n->parent ? u->list[n->parent - 1].fd : u->world);
	}
	return r < 0 ? fvm_error_set(err, -r, "make a user namespace of the programs") : 0;
}

int vin_users_find(const struct vin_users *u, pid_t number)
{
	for (size_t i = 0; i < u->user_count; i++) {
		if (u->users[i].number == number)
			return u->list[u->users[i].which].fd;
	}
	return -1;
}

/* ---- numbers that can't be chosen ---- */

struct number {
	int pids;
	pid_t next;
};

static int set_last(const struct number *n)
{
	char text[16];
	snprintf(text, sizeof(text), "%d", n->next - 1);
	return fvm_write_file(AT_FDCWD, "/proc/sys/kernel/ns_last_pid", text);
}

/* The file is about the pid namespace of who writes it, which only a child is in. */
static int set_last_inside(void *arg)
{
	const struct number *n = arg;
	if (setns(n->pids, CLONE_NEWPID) < 0)
		return -errno;
	pid_t pid = fork();
	if (pid == 0)
		_exit(-set_last(n) & 0xff);
	return outcome((pid_t)fvm_nerr(pid));
}

int vin_users_next(const struct vin_users *u, pid_t number, struct fvm_error *err)
{
	struct number n = { u->pids, number };
	const struct errand e = { u->world, set_last_inside, &n };
	int r = send_out(&e);
	return r < 0 ? fvm_error_set(err, -r, "choose the number of thread %d", number) : 0;
}

void vin_users_free(struct vin_users *u)
{
	for (size_t i = 0; i < u->count; i++) {
		for (int j = 0; j < MAPS; j++)
			free(u->list[i].maps[j]);
		fvm_fd_closep(&u->list[i].fd);
	}
	if (u->count) {
		fvm_fd_closep(&u->world);
		fvm_fd_closep(&u->pids);
	}
	free(u->list);
	free(u->users);
	*u = (struct vin_users){ .world = -1, .pids = -1 };
}
