/*
 * How a rootless VM starts: the steps that are others without privileges.
 *
 * The builder is started first of all, by a thread that waits for it, and makes its namespaces
 * while the starter plans: two set-user-id programs map the ids, which take a millisecond. Who
 * knows that he will start a VM lets it begin before there is one (fvm_ahead_begin). It waits for
 * the plan, clones PID 1 and the supervisor, which are copies of our memory, and so the starter
 * waits meanwhile: nobody may hold a lock in them. Then it mounts, while the starter compares the
 * skeleton with the host. All share memory and C library and may allocate.
 *
 * The builder makes a user namespace with the caller as its root, and there a mount namespace,
 * which it furnishes; PID 1 lives in a second user namespace below. So VM root has no say over the
 * mounts, and the supervisor, which stays in the first, is none of its processes but has all
 * rights over them. See supervisor.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/base.h"
#include "fvm/caps.h"
#include "fvm/foreign.h"
#include "fvm/internal.h"
#include "fvm/seccomp.h"
#include "fvm/start_priv.h"
#include "fvm/supervisor.h"
#include "fvm/sys.h"

static int make_sockets(struct start *s, struct fvm_error *err)
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s->supervisor) < 0 ||
	    pipe2(s->guard, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "make a socket");
	s->supervised = true;
	return 0;
}

static bool has_local_unmapped(const struct fvm_plan *plan)
{
	for (size_t i = 0; i < plan->count; i++) {
		const struct fvm_mount *m = &plan->mounts[i];
		if (m->class == FVM_MOUNT_OVERLAY && m->unmapped && !m->network)
			return true;
	}
	return false;
}

int start_unmapped_take(struct start *s, struct fvm_error *err)
{
	char missing[FVM_CAPS_TEXT];
	if (fvm_bases_unmapped(&s->plan) == 0)
		return 0;
	/* the supervisor would end, and the VM with it */
	if (fvm_caps_missing(false, missing))
		return fvm_error_set(err, EPERM, "stand in for files that have no place in the VM");
	int r = has_local_unmapped(&s->plan)
			? fvm_skeleton_take(s->vm->store, &s->plan, s->options->progress,
					    &s->skeleton, err)
			: 0;
	return r < 0 ? r : make_sockets(s, err);
}

int start_standins(struct start *s, struct fvm_error *err)
{
	s->standins = calloc(s->plan.count, sizeof(*s->standins));
	if (!s->standins)
		return fvm_error_set(err, ENOMEM, "show strangers' files");
	for (size_t i = 0; i < s->plan.count; i++) {
		const struct fvm_mount *m = &s->plan.mounts[i];
		struct fvm_standins *to = &s->standins[s->standin_count];
		struct fvm_error mine = { 0 };
		if (m->class != FVM_MOUNT_OVERLAY || !m->unmapped || !m->network)
			continue;
		int r = fvm_standins_start(m->path, &s->map, to, &mine);
		to->mount = i;
		s->standin_count += r == 0;
		/* where the kernel has no FUSE, or a container none of its own */
		if (r == -ENOENT || r == -ENODEV || r == -ENXIO || r == -EPERM || r == -EACCES)
			continue;
		if (r < 0) {
			*err = mine;
			return r;
		}
	}
	return 0;
}

static struct fvm_user_ids ids_ahead(const struct start *s);

int start_user_take(struct start *s, struct fvm_error *err)
{
	const struct fvm_store *store = s->vm->store;
	int r = 0;
	s->guess = s->guess && fvm_skeleton_guess(store, &s->plan, &s->skeleton) == 0;
	if (!s->guess)
		r = fvm_skeleton_take(store, &s->plan, s->options->progress, &s->skeleton, err);
	if (r == 0)
		r = fvm_trees_make(s->vm, &s->plan, s->options->throw_away, &s->trees, err);
	if (r < 0)
		return r;
	/* its own copy is the builder's to make, who may not have come to that yet */
	const struct fvm_user_ids ids = ids_ahead(s);
	fvm_foreign_take(store, &s->skeleton, &s->trees, &ids);
	r = fvm_read_file(store->dir, s->skeleton.owned, 64 << 20, &s->owned, &s->owned_len);
	if (r < 0)
		return fvm_error_set(err, -r, "read %s", s->skeleton.owned);
	if (s->vm->config.net == FVM_NET_NAT && !s->options->prove &&
	    fvm_slirp_may_be_late(&s->vm->config) &&
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s->late) < 0)
		return fvm_error_set(err, errno, "make a socket");
	return make_sockets(s, err);
}

void start_user_free(struct start *s)
{
	fvm_ahead_free(s->builder.own);
	fvm_trees_free(&s->trees);
	free(s->owned);
	fvm_skeleton_close(&s->skeleton);
	fvm_slirp_close(&s->slirp);
	fvm_fd_closep(&s->builder.net);
	fvm_fd_closep(&s->owners);
	fvm_fd_closep(&s->trace_file);
	for (size_t i = 0; i < s->standin_count; i++) {
		close(s->standins[i].fuse);
		close(s->standins[i].go);
	}
	free(s->standins);
	for (int i = 0; i < 2; i++) {
		fvm_fd_closep(&s->supervisor[i]);
		fvm_fd_closep(&s->guard[i]);
		fvm_fd_closep(&s->late[i]);
	}
}

int start_user_hand_over(struct start *s, struct fvm_error *err)
{
	int r = fvm_send_fds(s->supervisor[1], "o", 1, &s->owners, s->owners < 0 ? 0 : 1);
	return r < 0 ? fvm_error_set(err, -r, "reach the supervisor") : 0;
}

/* ---- PID 1 ---- */

unsigned int start_user_filter(const struct start *s)
{
	return FVM_FILTER_ROOTLESS | (s->vm->config.rootless ? FVM_FILTER_ONE_UID : 0) |
	       (s->late[0] < 0 ? 0 : FVM_FILTER_LATE_NET);
}

/* ---- the builder ---- */

static _Noreturn void be_supervisor(const struct start *s, int proc)
{
	struct stat st = { 0 };
	const struct fvm_command *first = s->options->first;
	bool rootless = s->vm->config.rootless;
	(void)FVM_FAULT("start.supervisor");
	(void)fstat(s->userns, &st);
	const struct fvm_supervisor_args args = {
		.socket = s->supervisor[0],
		.guard = s->guard[1],
		.init_pidfd = s->pidfd,
		.proc = proc,
		.log = s->log,
		.userns = st.st_ino,
		.userns_fd = s->userns,
		/* who is not the user himself drops to ids that the kernel has */
		.first_uid = rootless && first && first->uid == s->ids.uid ? first->uid : 0,
		.first_gid = first ? first->gid : 0,
		.lock = s->skeleton.lock,
		.trace = s->trace_file,
		.net = s->late[0],
		.plan = rootless ? NULL : &s->plan,
		.map = rootless ? NULL : &s->map,
		.trees = &s->trees,
		.ids = &s->ids,
		.owned = s->owned,
		.owned_len = s->owned_len,
	};
	fvm_supervisor_main(&args);
}

int start_supervisor(struct start *s, int proc)
{
	const struct clone_args args = { .flags = CLONE_PARENT };
	int pid = sys_clone3(&args);
	if (pid == 0)
		be_supervisor(s, proc);
	if (pid < 0)
		return fvm_error_set(&s->err, -pid, "start the supervisor");
	s->supervisor_pid = pid;
	return 0;
}

static void sem_await(sem_t *sem)
{
	while (sem_wait(sem) < 0 && errno == EINTR)
		;
}

static int build_planned(struct start *s, int proc)
{
	int r = start_make_init(s);
	if (r == 0)
		r = start_map_ids(s);
	/* before the world is built: its proc makes all our later children the VM's */
	if (r == 0)
		r = start_supervisor(s, proc);
	sem_post(&s->builder.cloned);
	return r < 0 ? r : start_build_world(s);
}

static int make_net(struct start *s)
{
	int r = fvm_net_user_make(&s->net_user, &s->err);
	if (r == 0 && (s->builder.net = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)) < 0)
		r = fvm_error_set(&s->err, errno, "open the VM's network namespace");
	return r;
}

/* ---- the builder, which may begin before there is a start ---- */

struct fvm_ahead {
	pthread_t thread;
	sem_t wanted;	     /* by the starter: there is a start, or none will come */
	struct start *start; /* NULL: none */
	bool woken;	     /* has heard of that */
	bool joined;
	int cgroup; /* to be born in, or -1 */
	struct fvm_user_ids ids;
	struct fvm_error err;
	int result; /* of fvm_spawn_shared() */
};

static struct fvm_user_ids ids_ahead(const struct start *s)
{
	return s->builder.ahead->ids;
}

static int own_mounts(struct fvm_error *err)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return fvm_error_set(err, errno, "make a mount namespace");
	return 0;
}

/* The helpers that map the ids take as long as the other namespaces, which need none. */
static int enter_namespaces(struct fvm_ahead *a)
{
	struct fvm_user_mapping mapping;
	int r = fvm_user_ids_begin(&a->ids, &mapping, &a->err);
	if (r == 0)
		r = own_mounts(&a->err);
	sem_await(&a->wanted);
	a->woken = true;
	bool nat = a->start && a->start->vm->config.net == FVM_NET_NAT;
	if (r == 0 && nat && (r = make_net(a->start)) < 0)
		a->err = a->start->err;
	int end = fvm_user_ids_end(&a->ids, &mapping, r < 0 ? NULL : &a->err);
	if (r == 0 && end == 0 && nat)
		fvm_net_user_give_back(a->ids.count);
	return r < 0 ? r : end;
}

static int user_builder(void *arg)
{
	struct fvm_ahead *a = arg;
	/* the host's own, as the VM's shows no process of ours */
	scoped_fd proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	/* nobody else would end us, should the starter be killed while we wait for him */
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	int r = enter_namespaces(a);
	struct start *s = a->start;
	if (!s)
		return 0;
	if (r == 0 && proc < 0)
		r = fvm_error_set(&a->err, -proc, "open /proc");
	if (r < 0)
		s->err = a->err;
	s->ids = a->ids;
	s->map = (struct fvm_idmap){ .same = 1 + a->ids.count };
	sem_post(&s->builder.spaced);
	sem_await(&s->builder.planned);
	if (r == 0 && !s->builder.abandoned)
		r = build_planned(s, proc);
	return r < 0;
}

static void *builder_main(void *arg)
{
	struct fvm_ahead *a = arg;
	a->result = fvm_spawn_shared(user_builder, a, a->cgroup);
	if (!a->woken)
		sem_await(&a->wanted);
	if (a->start) {
		sem_post(&a->start->builder.spaced);
		sem_post(&a->start->builder.cloned);
	}
	return NULL;
}

static struct fvm_ahead *ahead_begin(int cgroup)
{
	struct fvm_ahead *a = calloc(1, sizeof(*a));
	if (!a)
		return NULL;
	a->cgroup = cgroup;
	fvm_user_ids_find(&a->ids);
	if (sem_init(&a->wanted, 0, 0) == 0 && fvm_thread_start(&a->thread, builder_main, a) == 0) {
		/* it lies behind us on the same processor, and sleeps as soon as its child runs */
		(void)sched_yield();
		return a;
	}
	free(a);
	return NULL;
}

struct fvm_ahead *fvm_ahead_begin(void)
{
	return ahead_begin(-1);
}

static void ahead_join(struct fvm_ahead *a)
{
	if (!a->joined)
		pthread_join(a->thread, NULL);
	a->joined = true;
}

void fvm_ahead_free(struct fvm_ahead *a)
{
	if (!a)
		return;
	if (!a->start)
		sem_post(&a->wanted);
	ahead_join(a);
	fvm_fd_closep(&a->cgroup);
	free(a);
}

/* ---- the starter ---- */

/* Who began ahead is of no cgroup. */
static struct fvm_ahead *take_ahead(struct start *s)
{
	struct fvm_ahead *a = s->options->ahead;
	int cgroup = fvm_cgroup_open_v2(&s->cgroups);
	if (a && !a->start && cgroup < 0)
		return a;
	if (a && !a->start)
		sem_post(&a->wanted); /* it may end */
	return s->builder.own = ahead_begin(cgroup);
}

int start_user_begin(struct start *s, struct fvm_error *err)
{
	struct start_builder *b = &s->builder;
	if (s->vm->config.net == FVM_NET_NAT)
		fvm_net_user_prepare(&s->vm->config, &s->net_user);
	if (sem_init(&b->spaced, 0, 0) < 0 || sem_init(&b->planned, 0, 0) < 0 ||
	    sem_init(&b->cloned, 0, 0) < 0)
		return fvm_error_set(err, errno, "make a thread");
	b->ahead = take_ahead(s);
	if (!b->ahead)
		return fvm_error_set(err, EAGAIN, "make a thread");
	b->running = true;
	s->running.uid_base = b->ahead->ids.uid;
	b->ahead->start = s;
	sem_post(&b->ahead->wanted);
	return 0;
}

static int builder_end(struct start *s)
{
	ahead_join(s->builder.ahead);
	s->builder.running = false;
	return s->builder.ahead->result;
}

void start_user_abandon(struct start *s)
{
	if (!s->builder.running)
		return;
	s->builder.abandoned = true;
	sem_post(&s->builder.planned);
	(void)builder_end(s);
}

/* Where it can't be late: as early as can be, as it takes as long as all the rest. */
static int start_slirp(struct start *s)
{
	sem_await(&s->builder.spaced);
	if (s->builder.net < 0)
		return 0;
	return fvm_slirp_start(s->builder.net, &s->vm->config, &s->slirp, &s->err);
}

void start_user_go(const struct start *s)
{
	struct fvm_error err = { 0 };
	if (s->late[1] >= 0 && fvm_slirp_start_late(s->builder.net, s->pidfd, s->late[1], &err) < 0)
		log_warn("the VM has no network: %s: %s", err.text, strerror(err.code));
}

int start_user_build(struct start *s)
{
	if (s->late[0] < 0 && start_slirp(s) < 0) {
		start_user_abandon(s);
		return 1;
	}
	sem_post(&s->builder.planned);
	sem_await(&s->builder.cloned);
	if (s->slirp.pid && s->init)
		(void)fvm_slirp_tell(&s->slirp, s->init);
	bool fresh = !s->guess || fvm_skeleton_fresh(s->vm->store, &s->plan, &s->skeleton);
	int r = builder_end(s);
	return r == 0 && !fresh ? -ESTALE : r;
}
