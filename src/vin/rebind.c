#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/rcall.h"
#include "vin/rebind.h"

/* A process whose calls we make. */
struct hand {
	struct vin_thread *thread;
	struct vin_post post;
	bool ready;
	int pidfd;
};

/* A watch of the descriptor, by one of its process's epolls. */
struct watched {
	int epoll;
	struct epoll_event event;
	bool out; /* taken out of it */
};

struct end {
	struct hand *hand;
	int number;
	uint64_t flags;	 /* for dup3(2) */
	int fresh, kept; /* spare numbers; -1: none */
	struct watched *watched;
	size_t watched_count;
	bool done;
};

struct rebinding {
	struct hand *hands;
	struct end *ends;
	size_t hand_count, count;
};

static void rebinding_free(struct rebinding *r)
{
	for (size_t i = 0; i < r->hand_count; i++)
		fvm_fd_closep(&r->hands[i].pidfd);
	for (size_t i = 0; i < r->count; i++)
		free(r->ends[i].watched);
	free(r->hands);
	free(r->ends);
}

bool vin_leads_to(pid_t pid, int number, int fd)
{
	return syscall(SYS_kcmp, getpid(), pid, KCMP_FILE, fd, number) == 0;
}

/* ---- calls ---- */

/* What the call returned; a failure of it is said if @err is there. */
static int64_t make(struct hand *h, const char *name, const struct vin_call *call,
		    struct fvm_error *err)
{
	int64_t result = 0;
	int r = vin_call(&h->post, h->thread, name, call, &result, err);
	if (r < 0)
		return r;
	if (result < 0 && result > -4096)
		return fvm_error_set(err, (int)-result, "have process %d call %s", h->thread->pid,
				     name);
	return result;
}

static void shut(struct hand *h, int number)
{
	const struct vin_call call = { SYS_close, { (uint64_t)number } };
	if (number >= 0)
		(void)make(h, "close", &call, NULL);
}

/* What recvmsg(2) is given, in the program's memory. */
struct inbox {
	struct msghdr head;
	struct iovec piece;
	char byte;
	_Alignas(8) char control[CMSG_SPACE(sizeof(int))];
};

static int receive(struct hand *h, int number, int *ret, struct fvm_error *err)
{
	const uint64_t at = h->post.data;
	struct inbox in = {
		.head = { .msg_iov = (void *)(at + offsetof(struct inbox, piece)),
			  .msg_iovlen = 1,
			  .msg_control = (void *)(at + offsetof(struct inbox, control)),
			  .msg_controllen = CMSG_LEN(sizeof(int)) },
		.piece = { (void *)(at + offsetof(struct inbox, byte)), 1 },
	};
	const struct vin_call call = { SYS_recvmsg,
				       { (uint64_t)number, at, MSG_CMSG_CLOEXEC | MSG_DONTWAIT } };
	struct cmsghdr head;
	int r = vin_mem_write(h->thread->pid, at, &in, sizeof(in));
	if (r < 0)
		return fvm_error_set(err, -r, "write to process %d", h->thread->pid);
	int64_t n = make(h, "recvmsg", &call, err);
	if (n < 0)
		return (int)n;
	r = vin_mem_read(h->thread->pid, at, &in, sizeof(in));
	if (r < 0)
		return fvm_error_set(err, -r, "read from process %d", h->thread->pid);
	memcpy(&head, in.control, sizeof(head));
	if (head.cmsg_len != CMSG_LEN(sizeof(int)) || head.cmsg_type != SCM_RIGHTS)
		return fvm_error_set(err, EMFILE, "give process %d a descriptor", h->thread->pid);
	memcpy(ret, in.control + CMSG_LEN(0), sizeof(int));
	return 0;
}

/* Through a socket of the program's own, since it sees nobody but itself. */
static int give(struct hand *h, int fd, int *ret, struct fvm_error *err)
{
	int ends[2];
	const struct vin_call pair = { SYS_socketpair,
				       { AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, h->post.data } };
	int64_t made = make(h, "socketpair", &pair, err);
	if (made < 0)
		return (int)made;
	int r = vin_mem_read(h->thread->pid, h->post.data, ends, sizeof(ends));
	if (r < 0)
		return fvm_error_set(err, -r, "read from process %d", h->thread->pid);
	scoped_fd far = pidfd_getfd(h->pidfd, ends[1], 0);
	r = far < 0 ? -errno : fvm_send_fds(far, "x", 1, &fd, 1);
	if (r < 0)
		r = fvm_error_set(err, -r, "send process %d a descriptor", h->thread->pid);
	else
		r = receive(h, ends[0], ret, err);
	shut(h, ends[0]);
	shut(h, ends[1]);
	return r;
}

/* ---- epolls ---- */

int vin_polled_each(pid_t pid, int number, vin_polled_fn fn, void *arg, struct fvm_error *err)
{
	char path[40], link[32];
	int r = 0;
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	scoped_dir d = opendir(path);
	for (struct dirent *entry; r == 0 && d && (entry = fvm_dir_next(d));) {
		scoped_fdinfo info = { 0 };
		const int epoll = atoi(entry->d_name);
		ssize_t n = readlinkat(dirfd(d), entry->d_name, link, sizeof(link) - 1);
		link[n < 0 ? 0 : n] = '\0';
		if (strcmp(link, "anon_inode:[eventpoll]") != 0)
			continue;
		r = vin_fdinfo_read(pid, epoll, &info, err);
		for (size_t i = 0; r == 0 && i < info.item_count; i++) {
			if (info.items[i].fd == number)
				r = fn(arg, epoll, &info.items[i]);
		}
		if (r == -ENOENT)
			r = 0; /* closed meanwhile */
	}
	return r;
}

static int add_watched(void *arg, int epoll, const struct vin_epoll_item *item)
{
	struct end *e = arg;
	struct watched *more = realloc(e->watched, fvm_room(e->watched_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	e->watched = more;
	more[e->watched_count++] = (struct watched){
		.epoll = epoll,
		.event = { .events = item->events, .data.u64 = item->data },
	};
	return 0;
}

/* Items by this number; whether one is of our description, epoll_ctl(2) will tell. */
static int find_watched(struct end *e, struct fvm_error *err)
{
	const pid_t pid = e->hand->thread->pid;
	int r = vin_polled_each(pid, e->number, add_watched, e, err);
	return r < 0 ? fvm_error_set(err, -r, "look at the epolls of process %d", pid) : 0;
}

static void unwatch(struct end *e)
{
	for (size_t i = 0; i < e->watched_count; i++) {
		struct watched *w = &e->watched[i];
		const struct vin_call del = {
			SYS_epoll_ctl, { (uint64_t)w->epoll, EPOLL_CTL_DEL, (uint64_t)e->number, 0 }
		};
		/* on the way back it may be out already */
		w->out |= make(e->hand, "epoll_ctl", &del, NULL) == 0;
	}
}

static int watch_again(struct end *e, struct fvm_error *err)
{
	struct hand *h = e->hand;
	int64_t r = 0;
	for (size_t i = 0; r >= 0 && i < e->watched_count; i++) {
		struct watched *w = &e->watched[i];
		const struct vin_call add = { SYS_epoll_ctl,
					      { (uint64_t)w->epoll, EPOLL_CTL_ADD,
						(uint64_t)e->number, h->post.data } };
		if (!w->out)
			continue;
		r = vin_mem_write(h->thread->pid, h->post.data, &w->event, sizeof(w->event));
		if (r == 0)
			r = make(h, "epoll_ctl", &add, err);
	}
	return r < 0 ? (int)r : 0;
}

/* ---- one end ---- */

static int prepare(struct end *e, int old, int fresh, struct fvm_error *err)
{
	struct hand *h = e->hand;
	const struct vin_call ask = { SYS_fcntl, { (uint64_t)e->number, F_GETFD } };
	const struct vin_call keep = { SYS_fcntl, { (uint64_t)e->number, F_DUPFD_CLOEXEC, 0 } };
	if (!vin_leads_to(h->thread->pid, e->number, old))
		return fvm_error_say(err, ESTALE,
				     "process %d has changed its descriptor %d meanwhile",
				     h->thread->pid, e->number);
	int64_t r = make(h, "fcntl", &ask, err);
	if (r < 0)
		return (int)r;
	e->flags = r & FD_CLOEXEC ? O_CLOEXEC : 0;
	r = give(h, fresh, &e->fresh, err);
	if (r == 0)
		r = make(h, "fcntl", &keep, err);
	if (r < 0)
		return (int)r;
	e->kept = (int)r;
	return find_watched(e, err);
}

static int swap(struct end *e, int from, struct fvm_error *err)
{
	const struct vin_call dup = { SYS_dup3, { (uint64_t)from, (uint64_t)e->number, e->flags } };
	unwatch(e);
	int64_t r = make(e->hand, "dup3", &dup, err);
	int again = watch_again(e, r < 0 ? NULL : err);
	e->done = r >= 0;
	return r < 0 ? (int)r : again;
}

static int swap_all(struct rebinding *all, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < all->count; i++)
		r = swap(&all->ends[i], all->ends[i].fresh, err);
	for (size_t i = all->count; r < 0 && i-- > 0;) {
		if (all->ends[i].done)
			(void)swap(&all->ends[i], all->ends[i].kept, NULL);
	}
	return r;
}

/* ---- all of them ---- */

static int begin(const struct vin_tree *tree, pid_t pid, struct hand *h, struct fvm_error *err)
{
	struct vin_proc *p = vin_tree_find(tree, pid);
	if (!p || p->thread_count == 0) {
		fvm_error_say(err, ESRCH, "process %d has ended", pid);
		return -ESRCH;
	}
	h->thread = &p->threads[0];
	h->pidfd = pidfd_open(pid, 0);
	if (h->pidfd < 0)
		return fvm_error_set(err, errno, "find process %d", pid);
	int r = vin_post_open(&h->post, h->thread, err);
	h->ready = r == 0;
	return r;
}

static int begin_all(struct rebinding *all, const struct vin_tree *tree, const struct vin_end *ends,
		     size_t count, struct fvm_error *err)
{
	int r = 0;
	all->hands = calloc(count + 1, sizeof(*all->hands));
	all->ends = calloc(count + 1, sizeof(*all->ends));
	if (!all->hands || !all->ends)
		return fvm_error_set(err, ENOMEM, "rebind %zu descriptors", count);
	for (size_t i = 0; r == 0 && i < count; i++) {
		if (i == 0 || ends[i].pid != ends[i - 1].pid) {
			all->hands[all->hand_count] = (struct hand){ .pidfd = -1 };
			r = begin(tree, ends[i].pid, &all->hands[all->hand_count++], err);
		}
		all->ends[all->count++] = (struct end){ .hand = &all->hands[all->hand_count - 1],
							.number = ends[i].number,
							.fresh = -1,
							.kept = -1 };
	}
	return r;
}

static void finish(struct rebinding *all)
{
	for (size_t i = 0; i < all->count; i++) {
		struct end *e = &all->ends[i];
		if (!e->hand->ready)
			continue;
		shut(e->hand, e->fresh);
		shut(e->hand, e->kept);
	}
	for (size_t i = 0; i < all->hand_count; i++) {
		struct hand *h = &all->hands[i];
		if (h->ready)
			(void)vin_post_close(&h->post, h->thread, NULL);
	}
}

int vin_rebind(const struct vin_tree *tree, const struct vin_end *ends, size_t count, int old,
	       int fresh, struct fvm_error *err)
{
	__attribute__((cleanup(rebinding_free))) struct rebinding all = { 0 };
	int r = begin_all(&all, tree, ends, count, err);
	for (size_t i = 0; r == 0 && i < all.count; i++)
		r = prepare(&all.ends[i], old, fresh, err);
	if (r == 0)
		r = swap_all(&all, err);
	finish(&all);
	return r;
}
