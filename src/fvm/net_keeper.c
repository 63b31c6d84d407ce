/*
 * The keeper of the table, and who else has its socket: see net_table.h.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fvm/caps.h"
#include "fvm/helper.h"
#include "fvm/net.h"
#include "fvm/net_table.h"
#include "fvm/resolv.h"
#include "fvm/xtables.h"
#include "fvm/internal.h"
#include "fvm/sys.h"

#define LINGER_MS 500	/* how long the table waits for another VM */
#define SETTLE_MS 50	/* after a change of others' rules: there will be more */
#define LOOK_MS	  60000 /* for VMs that were lost */
#define KEPT	  100	/* number of the descriptor that is kept for starts */
#define LEGACY_MS 3000	/* for rules that were loaded anew: xtables.h */

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif

/* ---- holders ---- */

void fvm_net_holder_set(struct net_holder *holder, pid_t pid)
{
	*holder = (struct net_holder){ .pid = pid, .start = fvm_process_start(pid) };
}

/* Return: its pidfd, or -ESRCH: a pid that was given away has another start time */
static int holder_open(const struct net_holder *holder)
{
	if (holder->pid <= 0)
		return -ESRCH;
	scoped_fd pidfd = sys_pidfd_open(holder->pid, 0);
	if (pidfd < 0 || fvm_process_start(holder->pid) != holder->start)
		return -ESRCH;
	return fvm_fd_take(&pidfd);
}

bool fvm_net_holder_signal(const struct net_holder *holder, int sig)
{
	scoped_fd pidfd = holder_open(holder);
	/* a zombie still takes signals */
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	return pidfd >= 0 && poll(&p, 1, 0) == 0 && sys_pidfd_send_signal(pidfd, sig) == 0;
}

/* Number of the socket @inode among a process' descriptors. */
static int socket_number(pid_t pid, uint64_t inode)
{
	char path[64], want[64], link[64];
	int number = -ENOENT;
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	snprintf(want, sizeof(want), "socket:[%llu]", (unsigned long long)inode);
	DIR *dir = opendir(path);
	if (!dir)
		return errno == EACCES ? -EPERM : -errno;
	for (const struct dirent *e = readdir(dir); e && number < 0; e = readdir(dir)) {
		ssize_t n = readlinkat(dirfd(dir), e->d_name, link, sizeof(link) - 1);
		link[n > 0 ? n : 0] = '\0';
		if (n > 0 && strcmp(link, want) == 0)
			number = atoi(e->d_name);
	}
	closedir(dir);
	return number;
}

/* Answers to somebody who was killed before he had read them are not ours. */
static void drain(int sock)
{
	char byte;
	while (recv(sock, &byte, 1, MSG_DONTWAIT | MSG_TRUNC) >= 0)
		;
}

static int copy_from(const struct net_holder *holder, uint64_t inode)
{
	struct stat st;
	scoped_fd pidfd = holder_open(holder);
	if (pidfd < 0)
		return -ENOENT;
	int number = socket_number(holder->pid, inode);
	if (number < 0)
		return number == -EPERM ? number : -ENOENT;
	scoped_fd got = fvm_nerr(syscall(SYS_pidfd_getfd, pidfd, number, 0));
	if (got < 0)
		return got == -EPERM ? got : -ENOENT;
	if (fstat(got, &st) < 0 || (uint64_t)st.st_ino != inode || !S_ISSOCK(st.st_mode))
		return -ENOENT;
	drain(got);
	int r = fcntl(got, F_DUPFD_CLOEXEC, 3);
	return r < 0 ? -errno : r;
}

int fvm_net_socket_copy(const struct net_state *state)
{
	int r = copy_from(&state->keeper, state->socket);
	for (uint32_t i = 0; i < state->owner_count && r == -ENOENT; i++)
		r = copy_from(&state->owners[i].holder, state->socket);
	return r;
}

int fvm_net_kept(const struct fvm_net *net, bool (*fits)(int fd, const void *arg), const void *arg)
{
	const struct net_holder keeper = { .pid = net->keeper, .start = net->keeper_start };
	scoped_fd pidfd = holder_open(&keeper);
	if (pidfd < 0)
		return -ENOENT;
	scoped_fd fd = fvm_nerr(syscall(SYS_pidfd_getfd, pidfd, KEPT, 0));
	return fd >= 0 && fits(fd, arg) ? fvm_fd_take(&fd) : -ENOENT;
}

/* ---- the keeper ---- */

struct keeper {
	int table; /* the socket; only ever held */
	int signals, changes, names;
	char resolv[FVM_NAMES_BYTES]; /* what VMs were told last, or would have been */
	int64_t idle_ms;	      /* since when there is no VM; 0: there is */
	int64_t look_ms;	      /* when to look for lost VMs */
	bool legacy;		      /* there are rules of whose changes nobody tells */
	int64_t tend_ms;	      /* when to look after things; 0: nothing has happened */
};

/* What it needs: the host's network, and to signal PID 1 of VMs. Its files are root's. */
static int drop_rights(void)
{
	return fvm_caps_keep(FVM_CAP(NET_ADMIN) | FVM_CAP(KILL));
}

/* Tells when anybody has changed the host's rules. */
static int watch_rules(void)
{
	const int group = NFNLGRP_NFTABLES;
	scoped_fd sock = fvm_nl_open(NETLINK_NETFILTER);
	if (sock < 0 ||
	    setsockopt(sock, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) < 0)
		return -errno;
	return fvm_fd_take(&sock);
}

/* ---- name servers ---- */

/* Return: whether VMs should be told: new servers, and they can be reached */
static bool names_differ(struct keeper *k)
{
	scoped_resolv resolv = { 0 };
	scoped_buf text = { 0 };
	char address[46];
	scoped_fd rtnl = fvm_nl_open(NETLINK_ROUTE);
	bool has6 = rtnl >= 0 && fvm_net_has_ipv6(rtnl);
	if (fvm_resolv_read("", &resolv) < 0 || fvm_resolv_needs_relay(&resolv, has6))
		return false;
	for (size_t i = 0; i < resolv.count; i++) {
		fvm_address_print(&resolv.servers[i], address, sizeof(address));
		if (resolv.servers[i].family == AF_INET || has6)
			fvm_buf_printf(&text, "nameserver %s\n", address);
	}
	fvm_buf_puts(&text, resolv.rest);
	if (text.failed || text.len >= sizeof(k->resolv) || strcmp(text.data, k->resolv) == 0)
		return false;
	strcpy(k->resolv, text.data);
	return true;
}

static void names_tell(const struct keeper *k, const struct net_work *w)
{
	scoped_fd fd = open(w->lock.names, O_WRONLY | O_TRUNC | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fvm_write_all(fd, k->resolv, strlen(k->resolv)) < 0)
		return;
	for (uint32_t i = 0; i < w->state->owner_count; i++)
		(void)fvm_net_holder_signal(&w->state->owners[i].holder, FVM_NAMES_SIGNAL);
}

/* Events of /etc are many; which it was is seen from the files. */
static void names_drain(int inotify)
{
	char events[4096] __attribute__((aligned(8)));
	while (read(inotify, events, sizeof(events)) > 0)
		;
}

/* After @table, which is found by what it is; before the rights go that it takes to make it. */
static void keep_more(const struct net_keep *keep)
{
	scoped_fd fd = keep->make ? keep->make(keep->arg) : -1;
	if (fd >= 0)
		(void)dup3(fd, KEPT, O_CLOEXEC);
}

static int keeper_open(struct keeper *k, int table, const struct net_keep *keep)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	*k = (struct keeper){ .table = table, .changes = -1, .names = -1 };
	const int kept[] = { table };
	fvm_helper_close(kept, FVM_COUNT(kept));
	k->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	k->changes = watch_rules();
	k->names = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (k->signals < 0 || k->changes < 0 || k->names < 0)
		return -EIO;
	fvm_resolv_watch(k->names);
	(void)names_differ(k);
	if (table != KEPT)
		keep_more(keep);
	return drop_rights();
}

/* Does the state still name us? Else another has taken over, or all is gone. */
static bool is_ours(const struct net_state *state)
{
	return state->keeper.pid == getpid();
}

/* Return: false when there is nothing left to keep */
static bool look_after(struct keeper *k)
{
	scoped_net_work w = { .lock.fd = -1, .rtnl = -1, .nft = -1 };
	if (fvm_net_work_open(&w, 0, false, NULL) < 0 || !is_ours(w.state))
		return false;
	if (fvm_clock_ms() >= k->look_ms) {
		fvm_net_remove_lost(&w, UINT32_MAX);
		k->look_ms = fvm_clock_ms() + LOOK_MS;
	}
	if (w.state->owner_count > 0) {
		k->idle_ms = 0;
		if (k->tend_ms)
			(void)fvm_net_tend(&w);
		else if (k->legacy)
			(void)fvm_xtables_open();
		k->legacy = fvm_xtables_used();
		if (k->tend_ms && names_differ(k))
			names_tell(k, &w);
		if (k->tend_ms) /* what is new among them */
			fvm_resolv_watch(k->names);
		k->tend_ms = 0;
		return true;
	}
	k->tend_ms = 0;
	if (!k->idle_ms)
		k->idle_ms = fvm_clock_ms();
	if (fvm_clock_ms() - k->idle_ms < LINGER_MS)
		return true;
	fvm_net_remove_all(&w);
	return false;
}

static int next_wait(const struct keeper *k)
{
	int64_t wait = k->idle_ms ? k->idle_ms + LINGER_MS - fvm_clock_ms() : LOOK_MS;
	if (k->legacy && wait > LEGACY_MS)
		wait = LEGACY_MS;
	if (k->tend_ms && k->tend_ms - fvm_clock_ms() < wait)
		wait = k->tend_ms - fvm_clock_ms();
	return wait < 0 ? 0 : (int)wait;
}

static void keeper_loop(struct keeper *k)
{
	struct signalfd_siginfo info;
	bool due = true;
	while (!due || look_after(k)) {
		struct pollfd p[] = { { .fd = k->signals, .events = POLLIN },
				      { .fd = k->changes, .events = POLLIN },
				      { .fd = k->names, .events = POLLIN } };
		due = poll(p, FVM_COUNT(p), next_wait(k)) <= 0;
		if (p[0].revents && read(k->signals, &info, sizeof(info)) > 0) {
			k->idle_ms = 0;
			due = true;
		}
		/* whatever it was, and also when there was more than the socket could hold */
		if (p[1].revents)
			drain(k->changes);
		if (p[2].revents)
			names_drain(k->names);
		if ((p[1].revents || p[2].revents) && !k->tend_ms)
			k->tend_ms = fvm_clock_ms() + SETTLE_MS;
	}
}

void fvm_net_keeper_start(struct net_lock *lock, int socket, const struct net_keep *keep)
{
	struct keeper k;
	sigset_t usr1, old;
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	/* it may be told before it listens */
	sigprocmask(SIG_BLOCK, &usr1, &old);
	pid_t pid = fork();
	sigprocmask(SIG_SETMASK, pid == 0 ? &usr1 : &old, NULL);
	if (pid > 0)
		fvm_net_holder_set(&lock->state->keeper, pid);
	if (pid != 0)
		return;
	/* a lock that we share would last as long as we do */
	fvm_net_unlock(lock);
	(void)setsid();
	(void)prctl(PR_SET_NAME, "fvm-keeper", 0, 0, 0);
	(void)!chdir("/");
	if (keeper_open(&k, socket, keep) == 0)
		keeper_loop(&k);
	_exit(0);
}
