#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/base.h"
#include "fvm/caps.h"
#include "fvm/hide_record.h"
#include "fvm/internal.h"
#include "fvm/kernel.h"
#include "fvm/prove.h"
#include "fvm/slot.h"
#include "fvm/start_priv.h"
#include "fvm/sys.h"

#define SLIRP_TIMEOUT_MS 3000

static void start_init(struct start *s, struct fvm_vm *vm, const struct fvm_start_options *options)
{
	*s = (struct start){ .vm = vm, .options = options };
	s->alive = s->slot = s->run_dir = s->control = s->log = s->status = s->pidfd = s->watchdog =
		-1;
	s->spaces = s->hide_shared = s->hide_kept = s->trace_file = s->userns = -1;
	s->owners = s->world = s->skeleton.tree = s->skeleton.lock = -1;
	s->builder.net = s->slirp.vm = s->slirp.ready = -1;
	for (int i = 0; i < 2; i++) {
		s->go[i] = s->report[i] = s->prove[i] = s->client[i] = s->trace[i] = -1;
		s->supervisor[i] = s->guard[i] = s->ended[i] = s->late[i] = -1;
	}
}

static void start_free(struct start *s)
{
	start_user_free(s);
	fvm_plan_free(&s->plan);
	fvm_accounts_free(&s->accounts);
	fvm_hide_free(&s->hide);
	fvm_binds_free(&s->binds);
	fvm_natives_free(&s->natives);
	fvm_running_free(&s->running);
	fvm_net_free(&s->net);
	free(s->resolv);
	if (s->bait)
		(void)fvm_bait_take(s->bait);
	free(s->bait);
	int fds[] = { s->alive,	    s->slot,	 s->run_dir,   s->control,     s->log,
		      s->status,    s->pidfd,	 s->spaces,    s->hide_shared, s->hide_kept,
		      s->go[0],	    s->go[1],	 s->report[0], s->report[1],   s->client[0],
		      s->client[1], s->trace[0], s->trace[1],  s->prove[0],    s->prove[1],
		      s->ended[0],  s->ended[1], s->world,     s->userns,      s->watchdog };
	for (size_t i = 0; i < FVM_COUNT(fds); i++)
		fvm_fd_closep(&fds[i]);
}

/* What a failed start has made so far. */
static void start_undo(struct start *s)
{
	int status;
	start_net_abandon(s);
	start_user_abandon(s);
	if (s->init > 0) {
		(void)sys_pidfd_send_signal(s->pidfd, SIGKILL);
		while (waitpid(s->init, &status, 0) < 0 && errno == EINTR)
			;
	}
	if (s->supervisor_pid > 0) { /* it holds the skeleton, which may have to be renewed */
		(void)kill(s->supervisor_pid, SIGKILL);
		while (waitpid(s->supervisor_pid, &status, 0) < 0 && errno == EINTR)
			;
	}
	if (s->has_net)
		fvm_net_detach(&s->net);
	if (s->has_cgroup)
		(void)fvm_cgroup_remove(&s->cgroups, 2000);
	if (s->slot >= 0) {
		close(s->slot);
		s->slot = -1;
		fvm_slot_drop(s->running.slot);
	}
	fvm_fd_closep(&s->alive);
	fvm_tidy_stopped(s->vm);
}

/* When PID 1 died while others waited for it, it knows why. Return: whether it has said so */
static bool told_by_init(const struct start *s, struct fvm_error *err)
{
	struct pollfd p = { .fd = s->report[0], .events = POLLIN };
	struct fvm_error theirs;
	return err && poll(&p, 1, 0) == 1 && (p.revents & POLLIN) &&
	       read(s->report[0], &theirs, sizeof(theirs)) == sizeof(theirs) &&
	       fvm_error_take(err, &theirs, sizeof(theirs)) < 0;
}

static int run_builder(struct start *s, struct fvm_error *err)
{
	scoped_fd cgroup = s->vm->config.rootless ? -1 : fvm_cgroup_open_v2(&s->cgroups);
	int r = s->vm->config.rootless ? start_user_build(s)
				       : fvm_spawn_shared(start_build, s, cgroup);
	if (r == 0)
		return 0;
	if (r == -ESTALE)
		return fvm_error_set(err, ESTALE, "mount the skeleton of the host's directories");
	if (r < 0)
		return fvm_error_set(err, -r, "start the builder");
	if (told_by_init(s, err))
		return -err->code;
	start_net_abandon(s);
	bool by_net = s->net_thread.ended_init || !s->err.code;
	const struct fvm_error *first = by_net ? &s->net_thread.err : &s->err;
	if (err)
		*err = *first;
	return first->code ? -first->code : -EIO;
}

static int end_net(struct start *s, struct fvm_error *err)
{
	int r = start_net_end(s, err);
	return r < 0 && told_by_init(s, err) ? -err->code : r;
}

static int start_relay(struct start *s, struct fvm_error *err)
{
	if (!s->has_net || !s->net_thread.needs_relay)
		return 0;
	pid_t relay = fvm_net_serve(&s->net, s->init, err);
	if (relay < 0)
		return relay;
	s->running.net_pid = relay;
	return 0;
}

int start_note_running(struct start *s, struct fvm_error *err)
{
	struct fvm_running *r = &s->running;
	r->init_pid = s->init;
	r->init_start = fvm_process_start(s->init);
	r->started_ns = fvm_now_ns();
	strcpy(r->address4, s->net.address4);
	strcpy(r->address6, s->net.address6);
	strcpy(r->interface, s->net.interface);
	strcpy(r->cgroup, s->cgroups.name);
	if (fvm_strv_copy(&r->policies, &s->vm->used) < 0)
		return fvm_error_set(err, ENOMEM, "note its policies");
	r->helper_pid = s->supervisor_pid;
	if (s->slirp.pid)
		r->net_pid = s->slirp.pid;
	return fvm_running_save(s->vm, r, err);
}

/* A program's first connection would fail without it. */
static int await_slirp(const struct start *s, struct fvm_error *err)
{
	if (!s->slirp.pid)
		return 0;
	int r = fvm_slirp_wait(&s->slirp, s->init, SLIRP_TIMEOUT_MS);
	if (r == -ETIMEDOUT) {
		log_warn("the VM's network takes long to come up: going on without waiting");
		return 0;
	}
	if (r < 0) {
		fvm_error_hint(err, "fvm doctor tells what it needs; --net none needs nothing");
		return r == -ECHILD ? fvm_error_set(err, EIO,
						    "bring up the VM's network: its helper ended")
				    : fvm_error_set(err, -r, "bring up the VM's network");
	}
	return 0;
}

static void hand_over(struct start *s, struct fvm_started *ret)
{
	close(fvm_fd_take(&s->go[1]));
	close(fvm_fd_take(&s->report[1]));
	close(fvm_fd_take(&s->ended[1]));
	fvm_fd_closep(&s->prove[1]);
	*ret = (struct fvm_started){
		.init = s->init,
		.pidfd = fvm_fd_take(&s->pidfd),
		.report = fvm_fd_take(&s->report[0]),
		.ended = fvm_fd_take(&s->ended[0]),
		.prove = fvm_fd_take(&s->prove[0]),
		.bait = fvm_take_ptr(&s->bait),
		.client = fvm_fd_take(&s->client[0]),
		.world = fvm_fd_take(&s->world),
	};
}

/* In the host's network namespace only Landlock stands before the abstract sockets. */
static int check_net(const struct fvm_config *c, struct fvm_error *err)
{
	if (c->net != FVM_NET_HOST || fvm_landlock_abi() >= FVM_LANDLOCK_SCOPES)
		return 0;
	fvm_error_set(err, EOPNOTSUPP, "use --net host: this kernel can't guard abstract sockets");
	fvm_error_hint(err, "leave --net host out, or see 'Landlock' in fvm doctor");
	return -EOPNOTSUPP;
}

int start_look(const struct fvm_config *c, const char *store, struct fvm_plan *ret_plan,
	       struct fvm_hide *ret_hide, struct fvm_error *err)
{
	int r = fvm_plan_make(ret_plan, err);
	if (r == 0)
		r = fvm_bases_ask(ret_plan, err);
	if (r == 0 && !c->rootless)
		r = fvm_bases_map(ret_plan, err);
	return r < 0 ? r : fvm_hide_plan(c, store, ret_plan, ret_hide, err);
}

static int plan_world(struct start *s, struct fvm_error *err)
{
	const struct fvm_config *c = &s->vm->config;
	const char *store = s->vm->store->path;
	bool looked = start_take_lookout(s);
	int r = looked ? 0 : start_look(c, store, &s->plan, &s->hide, err);
	if (r == 0)
		r = fvm_binds_list(c, store, &s->binds, err);
	if (r == 0)
		r = fvm_binds_check(&s->binds, &s->hide, err);
	/* nobody commits what is thrown away */
	if (r == 0 && !s->options->throw_away)
		r = fvm_hide_record_note(s->vm->dir, &s->hide, true, err);
	if (r == 0)
		r = fvm_natives_list(c, &s->hide, &s->natives, err);
	if (r == 0 && !c->rootless)
		r = start_unmapped_take(s, err);
	if (r == 0 && !c->rootless && !looked) /* without it the builder makes the VM's own */
		s->hide_shared = fvm_hide_shared(s->vm->store->run, &s->hide, &s->plan);
	return r;
}

struct hide_wanted {
	const struct fvm_plan *plan;
	const struct fvm_hide_key *key;
};

static bool hide_fits(int fd, const void *arg)
{
	const struct hide_wanted *w = arg;
	return fvm_hide_fits(fd, w->plan, w->key);
}

/* What the keeper has is only looked at: in vain, layers are made as if there were none. */
static void find_hide(struct start *s)
{
	scoped_hide_key key = { 0 };
	const struct hide_wanted wanted = { &s->plan, &key };
	if (s->has_net && s->hide_shared < 0 && fvm_hide_key(&s->hide, &s->plan, &key) == 0)
		s->hide_kept = fvm_net_kept(&s->net, hide_fits, &wanted);
}

/* The keeper's, which has a copy of our memory. */
static int make_kept(void *arg)
{
	const struct start *s = arg;
	return s->hide_shared < 0 ? fvm_hide_detached(&s->hide, &s->plan) : -EOPNOTSUPP;
}

/* What has to be looked at again, and no look is taken for granted. Numbers of mounts are used
 * again: even the same list may be another one. */
static bool worth_another(const struct start *s, int r)
{
	return r == -ESTALE || (s->init && ((r == -EINVAL && s->vm->config.rootless) ||
					    fvm_plan_changed(&s->plan)));
}

static int prepare(struct start *s, struct fvm_error *err)
{
	int r = check_net(&s->vm->config, err);
	if (r == 0)
		r = start_take(s, err);
	if (r == 0)
		r = plan_world(s, err);
	if (r == 0)
		r = start_take_planned(s, err);
	/* the builder waits for that when it has a namespace of its own; but other processes, and
	 * what the keeper has, come before */
	if (r == 0 && (s->supervised || s->hide_shared < 0))
		r = start_net_prepared(s, err);
	return r;
}

/* Up to where PID 1 needs nobody any more. */
static int start_world(struct start *s, struct fvm_error *err)
{
	int r = 0;
	if (!s->vm->config.rootless)
		find_hide(s);
	if (s->supervised && !s->vm->config.rootless)
		r = start_standins(s, err);
	if (r == 0)
		r = run_builder(s, err);
	if (r == 0)
		r = end_net(s, err);
	if (r == 0)
		r = start_relay(s, err);
	if (r == 0 && !s->net_thread.noted)
		r = start_note_running(s, err);
	if (r == 0)
		r = await_slirp(s, err);
	if (r == 0 && s->supervised)
		r = start_user_hand_over(s, err);
	if (r == 0 && start_let(s, START_GO) < 0)
		r = fvm_error_set(err, errno, "let PID 1 go");
	return r;
}

/* @guess: see start_priv.h. Return: 0, negative errno, or 1: failed, and the host has changed
 * meanwhile */
static int try_start(struct fvm_vm *vm, const struct fvm_start_options *options, bool guess,
		     struct fvm_started *ret, struct fvm_error *err)
{
	struct start s;
	start_init(&s, vm, options);
	s.guess = guess;
	start_find_account(&s);
	int r = prepare(&s, err);
	if (r == 0)
		r = start_world(&s, err);
	if (r == 0) {
		start_user_go(&s);
		hand_over(&s, ret);
		if (s.has_net)
			fvm_net_settle(&s.net, s.init, make_kept, &s);
		if (s.skeleton.check_later)
			fvm_skeleton_check(vm->store, &s.plan, &s.trees, &s.ids);
	} else {
		start_undo(&s);
		if (worth_another(&s, r))
			r = 1;
	}
	start_free(&s);
	return r;
}

/* Overlay refuses what was mounted upon since the plan was made; with a new one it is no matter. */
static int start_effective(struct fvm_vm *vm, const struct fvm_start_options *options,
			   struct fvm_started *ret, struct fvm_error *err)
{
	struct fvm_error mine = { 0 };
	int r = 1;
	for (int tries = 0; r == 1 && tries < 5; tries++) {
		mine = (struct fvm_error){ 0 };
		r = try_start(vm, options, tries == 0, ret, &mine);
	}
	if (r && err)
		*err = mine;
	return r > 0 ? -mine.code : r;
}

/* Root without all capabilities is refused something somewhere. */
static void hint_rights(int r, struct fvm_error *err)
{
	char missing[FVM_CAPS_TEXT];
	if ((r == -EPERM || r == -EACCES) && fvm_caps_missing(true, missing))
		fvm_error_hint(err, "root lacks capabilities here; a container needs: %s", missing);
}

int fvm_vm_start(struct fvm_vm *vm, const struct fvm_start_options *options,
		 struct fvm_started *ret, struct fvm_error *err)
{
	const struct fvm_command *first = options->first;
	const char *program = first && first->argv.count ? first->argv.items[0] : NULL;
	int r = fvm_vm_check_owner(vm, err);
	if (r == 0)
		r = fvm_vm_policies(vm, program, err);
	if (r == 0 && vm->effective->init == FVM_INIT_SYSTEMD) {
		fvm_error_hint(err, "this fvm starts VMs with its own init only: --init fvm");
		r = fvm_error_set(err, EOPNOTSUPP, "have systemd as PID 1");
	}
	if (r == 0) {
		/* what is stored comes back afterwards: policies are never saved with it */
		struct fvm_config stored = vm->config;
		vm->config = *vm->effective;
		r = start_effective(vm, options, ret, err);
		vm->config = stored;
	}
	if (r < 0 && !vm->config.rootless)
		hint_rights(r, err);
	return r < 0 ? fvm_error_wrap(err, r, "start VM '%s'", vm->config.name) : 0;
}

void fvm_started_close(struct fvm_started *s)
{
	fvm_fd_closep(&s->pidfd);
	fvm_fd_closep(&s->report);
	fvm_fd_closep(&s->client);
	fvm_fd_closep(&s->prove);
	fvm_fd_closep(&s->ended);
	fvm_fd_closep(&s->world);
	if (s->bait)
		(void)fvm_bait_take(s->bait);
	free(s->bait);
	s->bait = NULL;
}

int fvm_start_proof(struct fvm_started *s, struct fvm_proof *ret)
{
	if (s->bait && fvm_read_full(s->prove, ret, sizeof(*ret)) == sizeof(*ret)) {
		ret->name[sizeof(ret->name) - 1] = ret->what[sizeof(ret->what) - 1] = '\0';
		return 1;
	}
	int r = s->bait ? fvm_bait_take(s->bait) : 0;
	free(s->bait);
	s->bait = NULL;
	return r;
}

int fvm_start_wait_exec(struct fvm_started *s, struct fvm_error *err)
{
	struct fvm_error theirs;
	ssize_t n = fvm_read_full(s->report, &theirs, sizeof(theirs));
	close(fvm_fd_take(&s->report));
	fvm_fd_closep(&s->world);
	if (n == 0)
		return 0;
	int r = n < 0 ? 0 : fvm_error_take(err, &theirs, (size_t)n);
	return r ?: fvm_error_set(err, EPROTO, "hear from PID 1");
}
