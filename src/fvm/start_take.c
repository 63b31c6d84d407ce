/*
 * What a start takes before there is a PID 1: locks, slot, disk, cgroups, files, pipes.
 *
 * Some of it has to be had before the plan of mounts is made, and goes on beside it (the network's
 * thread, a user's builder); some depends on the plan.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fvm/internal.h"
#include "fvm/prove.h"
#include "fvm/recorder.h"
#include "fvm/start_priv.h"

static int listen_control(struct start *s, struct fvm_error *err)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	/* through the descriptor: the path itself may be longer than an address may be */
	snprintf(at.sun_path, sizeof(at.sun_path), "/proc/self/fd/%d/control", s->run_dir);
	(void)unlinkat(s->run_dir, "control", 0);
	s->control = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* the mode that it gets, less the caller's umask */
	if (s->control < 0 || fchmod(s->control, 0600) < 0 ||
	    bind(s->control, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(s->control, 64) < 0)
		return fvm_error_set(err, errno, "make the control socket");
	return 0;
}

static int open_files(struct start *s, struct fvm_error *err)
{
	int r = listen_control(s, err);
	if (r < 0)
		return r;
	s->log = fvm_vm_open_output(s->vm, "log", O_RDWR | O_APPEND | O_CREAT);
	s->status = fvm_vm_open_output(s->vm, "status", O_WRONLY | O_CREAT | O_TRUNC);
	if (s->log < 0 || s->status < 0)
		return fvm_error_set(err, s->log < 0 ? -s->log : -s->status, "open its log");
	s->watchdog = fvm_watchdog_open(s->vm, &s->options->watchdog, s->options->watchdog_goes_on);
	if (s->watchdog < 0 && s->options->watchdog.seconds)
		return fvm_error_set(err, -s->watchdog, "open the record of its watchdog");
	s->spaces = eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
	if (s->spaces < 0 || pipe2(s->go, O_CLOEXEC) < 0 || pipe2(s->report, O_CLOEXEC) < 0 ||
	    pipe2(s->ended, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "make a pipe");
	const struct fvm_command *first = s->options->first;
	if (first && !first->detached && first->terminal &&
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s->client) < 0)
		return fvm_error_set(err, errno, "make a socket");
	return 0;
}

static int prepare_disk(struct start *s, struct fvm_error *err)
{
	const struct fvm_disk_options options = {
		.bytes = s->vm->config.disk_bytes,
		.id = s->vm->config.id,
		.throw_away = s->options->throw_away,
		.rootless = s->vm->config.rootless,
	};
	scoped_fd workspace = fvm_open_nofollow(s->vm->dir, "workspace", O_RDONLY | O_DIRECTORY);
	if (workspace < 0)
		return fvm_error_set(err, -workspace, "open its workspace");
	return fvm_disk_prepare(workspace, &options, &s->disk, err);
}

static int make_cgroups(struct start *s, struct fvm_error *err)
{
	struct fvm_config *c = &s->vm->config;
	int r = fvm_cgroup_plan(c->id, c->rootless, &s->cgroups, err);
	if (r == 0)
		r = fvm_cgroup_make(&s->cgroups, c, err);
	if (r != -EOPNOTSUPP || !c->soft_limits)
		return r;
	log_warn("a policy's limits are left out: %s", err ? err->text : "no cgroups");
	if (err)
		*err = (struct fvm_error){ 0 };
	c->memory_bytes = c->cpu_percent = c->pids = 0;
	c->soft_limits = false;
	return make_cgroups(s, err);
}

static int take_cgroups(struct start *s, struct fvm_error *err)
{
	int r = make_cgroups(s, err);
	s->has_cgroup = r == 0;
	return r;
}

static int take_vm(struct start *s, struct fvm_error *err)
{
	int r = fvm_layers_check(s->vm, err);
	if (r == 0)
		r = fvm_vm_alive_lock(s->vm, &s->alive, err);
	if (r < 0)
		return r;
	/* by this a start that was killed is found, whatever it had taken: fvm_tidy_stopped() */
	s->run_dir = fvm_vm_run_dir(s->vm, true);
	return s->run_dir < 0 ? fvm_error_set(err, -s->run_dir, "make its run-time directory") : 0;
}

static int take_resources(struct start *s, struct fvm_error *err)
{
	int r = take_vm(s, err);
	if (r == 0)
		r = start_take_slot(s, err);
	if (r == 0 && s->vm->config.net == FVM_NET_NAT)
		r = start_net_begin(s, err);
	if (r == 0)
		r = prepare_disk(s, err);
	return r < 0 ? r : take_cgroups(s, err);
}

/* The builder is born in the VM's cgroups, and begins before there is a plan. */
static int begin_user(struct start *s, struct fvm_error *err)
{
	int r = take_vm(s, err);
	if (r == 0)
		r = take_cgroups(s, err);
	return r < 0 ? r : start_user_begin(s, err);
}

static int take_user_resources(struct start *s, struct fvm_error *err)
{
	int r = start_user_take(s, err);
	if (r == 0)
		r = prepare_disk(s, err);
	if (r == 0 && s->vm->config.net == FVM_NET_NAT)
		r = fvm_net_resolv_conf(NULL, &s->resolv, err);
	return r;
}

static int start_tracer(struct start *s, struct fvm_error *err)
{
	if (s->supervised) {
		s->trace_file = fvm_recorder_open(s->vm, err);
		return s->trace_file < 0 ? s->trace_file : 0;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s->trace) < 0)
		return fvm_error_set(err, errno, "make a socket");
	int r = fvm_tracer_start(s->vm, s->trace[0], err);
	/* ours closed, so that it hears of it when PID 1 never comes */
	close(fvm_fd_take(&s->trace[0]));
	return r;
}

static int put_bait(struct start *s, struct fvm_error *err)
{
	struct fvm_bait *bait = calloc(1, sizeof(*bait));
	if (!bait || pipe2(s->prove, O_CLOEXEC) < 0) {
		free(bait);
		return fvm_error_set(err, errno, "make a pipe");
	}
	int r = fvm_bait_put(&s->vm->config, &s->hide, bait, err);
	if (r < 0)
		free(bait);
	else
		s->bait = bait;
	return r;
}

int start_take(struct start *s, struct fvm_error *err)
{
	return s->vm->config.rootless ? begin_user(s, err) : take_resources(s, err);
}

int start_take_planned(struct start *s, struct fvm_error *err)
{
	int r = s->vm->config.rootless ? take_user_resources(s, err) : 0;
	if (r == 0)
		r = open_files(s, err);
	if (r == 0 && s->options->prove)
		r = put_bait(s, err);
	if (r == 0 && s->options->trace)
		r = start_tracer(s, err);
	return r;
}
