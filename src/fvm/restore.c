#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/apart.h"
#include "fvm/checkpoint_priv.h"
#include "fvm/internal.h"
#include "fvm/lock.h"
#include "fvm/volatile.h"
#include "vin/image.h"
#include "vin/netlock.h"
#include "vin/replay.h"
#include "vin/status.h"
#include "vin/task.h"

struct restoring {
	int live; /* the blob */
	int lost; /* gets each connection that can't go on */
	bool lazy;
};

static int damaged(struct fvm_error *err)
{
	return fvm_error_say(err, EBADMSG, "the image is damaged: its sessions");
}

static int read_exact(int fd, void *to, size_t len)
{
	ssize_t n = fvm_read_full(fd, to, len);
	return n < 0 ? (int)n : (size_t)n == len ? 0 : -EBADMSG;
}

/* PID 1 looks at what it is told as closely as at anything. */
static int adopt_one(struct fvm_world *w, int live, int sock, struct fvm_error *err)
{
	struct fvm_msg_live head;
	uint32_t len = 0;
	scoped_free char *told = malloc(FVM_MSG_MAX);
	if (!told)
		return fvm_error_set(err, ENOMEM, "read the sessions");
	if (read_exact(live, &len, sizeof(len)) < 0 || len < sizeof(head) || len > FVM_MSG_MAX ||
	    read_exact(live, told, len) < 0)
		return damaged(err);
	memcpy(&head, told, sizeof(head));
	struct fvm_held *h = &w->held[w->count];
	h->fd = -1;
	int r = fvm_world_ask(sock, FVM_MSG_ADOPT, told, len, FVM_MSG_ADOPTED, h, err);
	if (r < 0)
		return r;
	w->count++;
	fvm_world_give(w, h, head.id);
	return 0;
}

/* @ret_rest: where the sessions begin */
static int read_head(int live, struct fvm_net_wish *ret, uint64_t *ret_rest, struct fvm_error *err)
{
	char magic[sizeof(FVM_PROGRAMS_MAGIC)] = "";
	if (read_exact(live, magic, strlen(FVM_PROGRAMS_MAGIC)) < 0 ||
	    strcmp(magic, FVM_PROGRAMS_MAGIC) != 0 || read_exact(live, ret, sizeof(*ret)) < 0 ||
	    read_exact(live, ret_rest, sizeof(*ret_rest)) < 0 || *ret_rest > INT64_MAX)
		return damaged(err);
	ret->address4[sizeof(ret->address4) - 1] = '\0';
	ret->address6[sizeof(ret->address6) - 1] = '\0';
	return 0;
}

int fvm_restore_wish(int live, struct fvm_net_wish *ret, struct fvm_error *err)
{
	uint64_t rest = 0;
	int r = read_head(live, ret, &rest, err);
	if (lseek(live, 0, SEEK_SET) < 0 && r == 0)
		r = fvm_error_set(err, errno, "read the programs");
	return r;
}

/* @ret_at: where the programs begin */
static int adopt_sessions(struct fvm_world *w, int live, off_t *ret_at, struct fvm_error *err)
{
	struct fvm_net_wish had;
	uint64_t rest = 0;
	uint32_t sessions = 0;
	if (read_head(live, &had, &rest, err) < 0)
		return -EBADMSG;
	*ret_at = lseek(live, 0, SEEK_CUR);
	if (*ret_at < 0 || lseek(live, (off_t)rest, SEEK_SET) < 0)
		return fvm_error_set(err, errno, "read the programs");
	if (read_exact(live, &sessions, sizeof(sessions)) < 0 || sessions > FVM_SESSIONS_MAX)
		return damaged(err);
	scoped_fd sock = fvm_control_connect(w->vm, err);
	int r = sock < 0 ? sock : fvm_world_room(w, sessions, err);
	for (uint32_t i = 0; r == 0 && i < sessions; i++)
		r = adopt_one(w, live, sock, err);
	return r;
}

/* Sockets and IPC objects are made by us, where the programs will have them. */
static int enter(const struct fvm_world *w, struct fvm_error *err)
{
	if (w->vm->config.rootless)
		return fvm_foothold_enter(&w->foothold, err);
	if (setns(w->pidfd, CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUTS) < 0)
		return fvm_error_set(err, errno, "enter the VM's namespaces");
	return 0;
}

static int put_volatile_back(const struct fvm_world *w, int live, struct fvm_error *err)
{
	uint64_t len = 0;
	if (read_exact(live, &len, sizeof(len)) < 0 || len > INT64_MAX / 2)
		return damaged(err);
	return fvm_volatile_read(w->pidfd, w->root, live, len, err);
}

struct lost {
	int to; /* gets each of them */
	int result;
};

static void write_lost(void *arg, pid_t pid, int number, const char *peer)
{
	struct lost *l = arg;
	struct fvm_connection one = { .pid = vin_inner_number(pid), .number = number };
	scoped_connections named = { 0 };
	snprintf(one.peer, sizeof(one.peer), "%s", peer);
	if (l->result == 0)
		l->result = fvm_connections_add(&named, pid, &one);
	if (l->result == 0)
		l->result = fvm_write_all(l->to, named.list, sizeof(*named.list));
}

/* Who talks to us meanwhile is not answered as if nobody were there: fvm/net had shut it. */
static int go(const struct fvm_world *w, struct vin_replay *r, struct fvm_error *err)
{
	const bool shut = !w->vm->config.rootless && w->vm->config.net == FVM_NET_NAT;
	int e = shut ? vin_netlock_open(err) : 0;
	if (e == 0 && FVM_FAULT("restore.go") < 0)
		e = fvm_error_set(err, EIO, "let them go");
	return e < 0 ? e : vin_replay_go(r, err);
}

/* What is opened here is the helper's, too. */
static int take_late(const struct fvm_world *w, struct vin_lazy_options *ret, struct fvm_error *err)
{
	int r = fvm_lock_take_late(w->vm->dir, &ret->held);
	return r < 0 ? fvm_error_set(err, -r, "hold the VM until its memory has come") : 0;
}

static int replay(struct fvm_world *w, const struct restoring *what, struct fvm_error *err)
{
	/* its network is that of the namespace around the VM's, and what carried it has ended */
	const bool users_nat = w->vm->config.rootless && w->vm->config.net == FVM_NET_NAT;
	struct vin_lazy_options late = {
		.ends = w->pidfd, .held = -1, .after = -1, .entered = true
	};
	struct lost lost = { .to = what->lost };
	const struct vin_replay_options options = { .root = w->root,
						    .spaces = w->spaces,
						    .outer_net = users_nat,
						    .outside_gone = users_nat,
						    .lost = write_lost,
						    .lost_arg = &lost,
						    .ipc = true,
						    .start = fvm_blank_start,
						    .arg = (void *)(uintptr_t)w->vm,
						    .given = w->given,
						    .given_count = w->given_count,
						    .lazy = what->lazy ? &late : NULL,
						    .users = &w->users,
						    .user_count = w->users >= 0 };
	struct vin_replay *r = NULL;
	struct vin_in *in = NULL;
	int e = what->lazy ? take_late(w, &late, err) : 0;
	if (e == 0)
		e = vin_in_open(what->live, &in, err);
	if (e == 0)
		e = vin_replay_build(in, &options, &r, err);
	if (e == 0)
		e = lost.result < 0 ? fvm_error_set(err, -lost.result, "list connections")
				    : go(w, r, err);
	vin_in_close(in);
	vin_replay_close(r);
	fvm_fd_closep(&late.held);
	return e;
}

static int restore(const struct fvm_vm *vm, const struct restoring *what, struct fvm_error *err)
{
	struct vin_watch watch;
	scoped_world w = FVM_NO_WORLD;
	off_t programs = 0;
	int r = fvm_world_open(vm, &w, err);
	if (r == 0)
		r = adopt_sessions(&w, what->live, &programs, err);
	if (r == 0 && vm->config.rootless)
		w.users = fvm_foothold_users(vm);
	if (r == 0)
		r = fvm_world_enter(&w, err);
	if (r == 0)
		r = put_volatile_back(&w, what->live, err);
	if (r == 0 && lseek(what->live, programs, SEEK_SET) < 0)
		r = fvm_error_set(err, errno, "read the programs");
	if (r == 0)
		r = enter(&w, err);
	if (r < 0)
		return r;
	vin_watch_begin(&watch);
	r = replay(&w, what, err);
	vin_watch_end(&watch);
	return r;
}

/* Who has become root of a namespace of the VM's is no longer the user. */
static int restore_apart(const struct fvm_vm *vm, const struct restoring *what,
			 struct fvm_error *err)
{
	struct fvm_apart a;
	struct fvm_error why = { 0 };
	int r = fvm_apart_begin(&a, err);
	if (r < 0)
		return r;
	if (a.pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		r = getppid() == a.parent ? restore(vm, what, &why) : -ECANCELED;
		fvm_apart_tell(&a, r, &why, NULL, 0);
	}
	return fvm_apart_end(&a, NULL, 0, err);
}

static int read_lost(int lost, struct fvm_connections *ret, struct fvm_error *err)
{
	const off_t len = lseek(lost, 0, SEEK_END);
	struct fvm_connection *list = len < 0 ? NULL : malloc((size_t)len + 1);
	if (!list || pread(lost, list, (size_t)len, 0) != len) {
		free(list);
		return fvm_error_set(err, ENOMEM, "list connections");
	}
	*ret = (struct fvm_connections){ list, (size_t)len / sizeof(*list) };
	return 0;
}

int fvm_restore_can_be_lazy(struct fvm_error *err)
{
	return vin_lazy_can(err);
}

int fvm_restore_programs(const struct fvm_vm *vm, int live, bool lazy,
			 struct fvm_connections *ret_lost, struct fvm_error *err)
{
	scoped_fd lost = FVM_FAULT("restore.begin") < 0 ? -1 : memfd_create("lost", MFD_CLOEXEC);
	/* the kernel tells only root of children whose memory has not come */
	const struct restoring what = { live, lost, lazy && !vm->config.rootless };
	int r = lost < 0	      ? fvm_error_set(err, errno, "list connections")
		: vm->config.rootless ? restore_apart(vm, &what, err)
				      : restore(vm, &what, err);
	if (r == 0)
		r = read_lost(lost, ret_lost, err);
	return r < 0 ? fvm_error_wrap(err, r, "restore VM '%s'", vm->config.name) : 0;
}
