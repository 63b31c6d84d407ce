#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/kernel.h"
#include "fvm/nest.h"
#include "fvm/start.h"
#include "fvm/sys.h"

#define MAX_NESTS 256

struct nest {
	ino_t parent, ino;
	struct nest_ids from, ids;
	int fd;
};

struct nests {
	struct nest items[MAX_NESTS];
	size_t count;
};

struct nests *nests_make(void)
{
	return calloc(1, sizeof(struct nests));
}

bool nest_known(const struct supervisor *sup, ino_t ino, struct nest_ids *ret)
{
	for (size_t i = 0; i < sup->nests->count; i++) {
		if (sup->nests->items[i].ino == ino) {
			*ret = sup->nests->items[i].ids;
			return true;
		}
	}
	return false;
}

/* ---- making one ---- */

struct making {
	const struct supervisor *sup;
	int parent, fd;
	const struct nest_ids *from, *to;
};

/* The ids from @first to @last keep their numbers. */
static void keep_ids(struct fvm_buf *text, uint32_t first, uint32_t last)
{
	if (first <= last)
		fvm_buf_printf(text, "%u %u %u\n", first, first, last - first + 1);
}

/*
 * @outside is called @inside. With ranges of ids (1 to @count beside 0) all others keep their
 * numbers, and the two change places: what is really @inside's is seen as @outside's. No line may
 * span 0 and 1, as none of the maps above does.
 */
static void make_map(struct fvm_buf *text, uint32_t inside, uint32_t outside, uint32_t count)
{
	uint32_t low = inside < outside ? inside : outside, high = inside ^ outside ^ low;
	if (inside != outside || count == 0)
		fvm_buf_printf(text, "%u %u 1\n", inside, outside);
	if (count == 0)
		return;
	if (inside != outside && inside <= count)
		fvm_buf_printf(text, "%u %u 1\n", outside, inside);
	if (low > 0 || inside == outside)
		keep_ids(text, 0, 0);
	if (inside == outside) {
		keep_ids(text, 1, count);
		return;
	}
	keep_ids(text, 1, low ? low - 1 : 0);
	keep_ids(text, low + 1, high <= count ? high - 1 : count);
	keep_ids(text, high + 1, count);
}

/* In a child that shares our memory and descriptors, but not our credentials. */
static int make_in_child(void *arg)
{
	struct making *m = arg;
	const uint32_t count = m->sup->ids->count;
	scoped_buf uids = { 0 }, gids = { 0 };
	make_map(&uids, m->to->uid, m->from->uid, count);
	make_map(&gids, m->to->gid, m->from->gid, count);
	if (uids.failed || gids.failed)
		return 1;
	/* who is chrooted gets no user namespace */
	if (fchdir(m->sup->own_root) < 0 || chroot(".") < 0 || fchdir(m->sup->proc) < 0)
		return 1;
	if (setns(m->parent, CLONE_NEWUSER) < 0)
		return 1;
	/* who writes the maps must be in the namespace above, who owns it only has to be there */
	m->fd = fvm_userns_make(AT_FDCWD, uids.data, gids.data);
	return m->fd < 0;
}

/* @parent: the user namespace it lies in. Return: a descriptor that is kept, or negative errno */
static int make_nest(struct supervisor *sup, int parent, const struct nest_ids *from,
		     const struct nest_ids *to)
{
	struct nests *all = sup->nests;
	struct making m = { sup, parent, -1, from, to };
	struct stat st, made;
	if (all->count == MAX_NESTS)
		return -EMFILE;
	if (fstat(parent, &st) < 0)
		return -errno;
	if (fvm_spawn_shared(make_in_child, &m, -1) != 0 || m.fd < 0 || fstat(m.fd, &made) < 0)
		return -EPERM;
	all->items[all->count++] = (struct nest){ st.st_ino, made.st_ino, *from, *to, m.fd };
	return m.fd;
}

static int get_nest(const struct call *c, const struct nest_ids *from, const struct nest_ids *to)
{
	char path[32];
	struct stat st;
	const struct nests *all = c->sup->nests;
	snprintf(path, sizeof(path), "%u/ns/user", c->req->pid);
	scoped_fd parent = open(path, O_RDONLY | O_CLOEXEC);
	if (parent < 0 || fstat(parent, &st) < 0)
		return -errno;
	for (size_t i = 0; i < all->count; i++) {
		const struct nest *n = &all->items[i];
		if (n->parent == st.st_ino && memcmp(&n->ids, to, sizeof(*to)) == 0 &&
		    memcmp(&n->from, from, sizeof(*from)) == 0)
			return n->fd;
	}
	return make_nest(c->sup, parent, from, to);
}

void nest_prepare(struct supervisor *sup, int userns, const struct nest_ids *to)
{
	static const struct nest_ids root = { 0, 0 };
	(void)make_nest(sup, userns, &root, to);
}

/* ---- the task, made to do system calls ---- */

#if defined(__x86_64__)
#define SYSCALL_BYTES 2
static const unsigned char syscall_text[SYSCALL_BYTES] = { 0x0f, 0x05 };

static bool at_syscall(const struct call *c, const struct user_regs_struct *regs)
{
	unsigned char text[SYSCALL_BYTES];
	return regs->cs == 0x33 &&
	       notify_read(c, regs->rip - SYSCALL_BYTES, text, sizeof(text)) == 0 &&
	       memcmp(text, syscall_text, sizeof(text)) == 0;
}

static void set_call(struct user_regs_struct *regs, long nr, const uint64_t a[4])
{
	regs->rax = (unsigned long long)nr;
	regs->orig_rax = ~0ULL;
	regs->rip -= SYSCALL_BYTES;
	regs->rdi = a[0];
	regs->rsi = a[1];
	regs->rdx = a[2];
	regs->r10 = a[3];
}

#define RESULT(regs) ((int64_t)(regs).rax)
#define STACK(regs)  ((regs).rsp)
#else
#error "nest.c: say how a system call is made on this architecture"
#endif

struct puppet {
	const struct call *call;
	pid_t pid;
	struct user_regs_struct regs; /* as it was stopped */
	int signals[8];		      /* that came meanwhile */
	size_t count;
};

/* Return: 0 stopped by us, or negative errno: it is gone */
static int wait_stop(struct puppet *p)
{
	for (;;) {
		int status;
		if (waitpid(p->pid, &status, __WALL) < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (!WIFSTOPPED(status))
			return -ESRCH;
		int sig = WSTOPSIG(status);
		if (status >> 16 == PTRACE_EVENT_STOP || sig == SIGTRAP)
			return 0;
		/* a page that another thread took away would fault anew at each step */
		if (p->count == FVM_COUNT(p->signals))
			return -EFAULT;
		p->signals[p->count++] = sig;
		if (ptrace(PTRACE_SINGLESTEP, p->pid, NULL, NULL) < 0)
			return -errno;
	}
}

static int64_t remote_call(struct puppet *p, long nr, uint64_t a, uint64_t b)
{
	struct user_regs_struct regs = p->regs;
	const uint64_t args[4] = { a, b };
	set_call(&regs, nr, args);
	if (ptrace(PTRACE_SETREGS, p->pid, NULL, &regs) < 0 ||
	    ptrace(PTRACE_SINGLESTEP, p->pid, NULL, NULL) < 0)
		return -errno;
	int r = wait_stop(p);
	if (r < 0)
		return r;
	if (ptrace(PTRACE_GETREGS, p->pid, NULL, &regs) < 0)
		return -errno;
	return RESULT(regs);
}

/* What setuid(2) from 0 to another id does to capabilities. */
static void drop_caps(struct puppet *p, bool keep)
{
	struct {
		struct __user_cap_header_struct head;
		struct __user_cap_data_struct data[2];
	} caps = { .head = { .version = _LINUX_CAPABILITY_VERSION_3 } };
	if (keep)
		caps.data[0].permitted = caps.data[1].permitted = ~0U;
	/* well below the red zone */
	uint64_t at = (STACK(p->regs) - 1024) & ~15ULL;
	if (notify_write(p->call, at, &caps, sizeof(caps)) == 0)
		(void)remote_call(p, SYS_capset, at, at + sizeof(struct __user_cap_header_struct));
}

static int move_in(struct puppet *p, int fd_inside, bool drop)
{
	if (ptrace(PTRACE_GETREGS, p->pid, NULL, &p->regs) < 0)
		return -errno;
	if (!at_syscall(p->call, &p->regs))
		return -ENOEXEC;
	int64_t bits = remote_call(p, SYS_prctl, PR_GET_SECUREBITS, 0);
	int64_t r = remote_call(p, SYS_setns, (uint64_t)fd_inside, CLONE_NEWUSER);
	(void)remote_call(p, SYS_close, (uint64_t)fd_inside, 0);
	if (r == 0 && drop)
		drop_caps(p, bits > 0 && (bits & (SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP)));
	(void)ptrace(PTRACE_SETREGS, p->pid, NULL, &p->regs);
	return (int)r;
}

static void let_go(const struct puppet *p)
{
	uintptr_t sig = p->count ? (uintptr_t)p->signals[0] : 0;
	(void)ptrace(PTRACE_DETACH, p->pid, NULL, (void *)sig);
	for (size_t i = 1; i < p->count; i++)
		(void)syscall(SYS_tkill, p->pid, p->signals[i]);
}

static int put_fd(const struct call *c, int fd)
{
	struct seccomp_notif_addfd add = {
		.id = c->req->id,
		.srcfd = (uint32_t)fd,
		.newfd_flags = O_CLOEXEC,
	};
	int r = ioctl(c->listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
	return r < 0 ? -errno : r;
}

int nest_enter(const struct call *c, const struct nest_ids *from, const struct nest_ids *to)
{
	struct call done = *c;
	struct puppet p = { .call = c, .pid = (pid_t)c->req->pid };
	int fd = get_nest(c, from, to);
	if (fd < 0)
		return fd;
	if (ptrace(PTRACE_SEIZE, p.pid, NULL, NULL) < 0)
		return -errno;
	int inside = put_fd(c, fd);
	if (inside < 0) {
		(void)ptrace(PTRACE_INTERRUPT, p.pid, NULL, NULL);
		(void)wait_stop(&p);
		let_go(&p);
		return inside;
	}
	/* first the stop, then the answer: it must not run a single instruction in between */
	(void)ptrace(PTRACE_INTERRUPT, p.pid, NULL, NULL);
	done.value = 0;
	done.error = 0;
	(void)notify_send(&done, ANSWER);
	if (wait_stop(&p) < 0)
		return 0; /* killed */
	int r = move_in(&p, inside, from->uid != to->uid);
	let_go(&p);
	return r < 0 ? -ECANCELED : 0;
}
