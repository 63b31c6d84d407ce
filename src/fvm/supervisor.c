#include <errno.h>
#include <fcntl.h>
#include <linux/securebits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fvm/caps.h"
#include "fvm/copies.h"
#include "fvm/helper.h"
#include "fvm/liars.h"
#include "fvm/nest.h"
#include "fvm/recorder.h"
#include "fvm/supervisor.h"

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS	   SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif

#define MAX_SAID 64 /* lines that one VM may make us write */

void notify_log(struct supervisor *sup, const char *fmt, ...)
{
	va_list args;
	if (sup->log < 0 || sup->said++ >= MAX_SAID)
		return;
	va_start(args, fmt);
	dprintf(sup->log, "fvm: ");
	vdprintf(sup->log, fmt, args);
	dprintf(sup->log, "\n");
	va_end(args);
}

/* ---- one call ---- */

bool notify_valid(const struct call *c)
{
	uint64_t id = c->req->id;
	return ioctl(c->listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0;
}

int notify_send(const struct call *c, enum verdict v)
{
	struct seccomp_notif_resp resp = { .id = c->req->id };
	if (v == ANSWER) {
		resp.val = c->value;
		resp.error = -c->error;
	} else {
		resp.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	}
	/* ENOENT: the task was killed meanwhile */
	return ioctl(c->listener, SECCOMP_IOCTL_NOTIF_SEND, &resp) < 0 ? -errno : 0;
}

static void handle(struct supervisor *sup, int listener, const struct seccomp_notif *req,
		   bool no_adopt)
{
	struct call c = { .sup = sup, .listener = listener, .req = req, .no_adopt = no_adopt };
	enum verdict v = GO_ON;
	const struct notify_entry *entry = notify_find(req->data.arch, req->data.nr);
	for (int i = 0; i < 6; i++)
		c.args[i] = req->data.args[i];
	if (entry)
		v = entry->handle(&c, &entry->file);
	if (v == GO_ON || v == ANSWER)
		(void)notify_send(&c, v);
}

static void take_call(struct supervisor *sup, int listener)
{
	struct seccomp_notif req;
	memset(&req, 0, sizeof(req));
	/* ENOENT: the task was killed meanwhile */
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &req) < 0)
		return;
	if (sup->recorder)
		fvm_recorder_note(sup->recorder, &req);
	handle(sup, listener, &req, false);
}

/* ---- sessions ---- */

static int watch(const struct supervisor *sup, int fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };
	return epoll_ctl(sup->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* One that can't be kept is closed: then the session's calls fail, and no other's. */
static void add_listener(struct supervisor *sup, int fd)
{
	scoped_fd listener = fd;
	uint64_t flags = SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP;
	int *more = realloc(sup->listeners, (sup->listener_count + 1) * sizeof(*more));
	if (!more)
		return;
	sup->listeners = more;
	/* 12 us a call instead of 58; older kernels don't know it */
	(void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags);
	if (watch(sup, listener) == 0)
		more[sup->listener_count++] = fvm_fd_take(&listener);
}

static bool is_listener(const struct supervisor *sup, int fd, size_t *ret_at)
{
	for (size_t i = 0; i < sup->listener_count; i++) {
		if (sup->listeners[i] == fd) {
			*ret_at = i;
			return true;
		}
	}
	return false;
}

static void listener_ready(struct supervisor *sup, size_t at, uint32_t events)
{
	if (events & EPOLLIN) {
		take_call(sup, sup->listeners[at]);
	} else {
		/* all of the session's processes have ended */
		close(sup->listeners[at]);
		sup->listeners[at] = sup->listeners[--sup->listener_count];
	}
}

static void socket_ready(struct supervisor *sup)
{
	char byte;
	int fd = -1;
	size_t n = 0;
	if (fvm_recv_fds(sup->socket, &byte, 1, &fd, 1, &n) != 1) {
		close(sup->socket);
		sup->socket = -1;
	} else if (n == 1) {
		add_listener(sup, fd);
	}
}

/* ---- becoming the supervisor ---- */

static int receive_owners(struct supervisor *sup, int sock)
{
	char byte;
	size_t n = 0;
	sup->owners = -1;
	if (fvm_recv_fds(sock, &byte, 1, &sup->owners, 1, &n) != 1 || (n != 1 && !sup->map))
		return -EPIPE; /* the start has failed */
	return 0;
}

/* While PID 1 takes the mounts over and makes its first session. */
static void prepare_nest(struct supervisor *sup, const struct fvm_supervisor_args *args)
{
	const struct nest_ids to = { args->first_uid, args->first_gid };
	if (args->userns_fd >= 0 && args->first_uid != 0)
		nest_prepare(sup, args->userns_fd, &to);
	if (args->userns_fd >= 0)
		close(args->userns_fd);
}

static int receive_root(struct supervisor *sup, int sock)
{
	char byte;
	size_t n = 0;
	if (fvm_recv_fds(sock, &byte, 1, &sup->root, 1, &n) != 1 || n != 1)
		return -EPIPE;
	sup->socket = sock;
	return 0;
}

/* Root: the VM's. Working directory: the host's /proc. */
static int take_places(struct supervisor *sup, const struct fvm_supervisor_args *args)
{
	struct stat st;
	struct statx x;
	if (statx(sup->root, "", AT_EMPTY_PATH, STATX_INO | STATX_MNT_ID, &x) < 0 ||
	    fchdir(sup->root) < 0 || chroot(".") < 0 || fchdir(args->proc) < 0)
		return -errno;
	sup->root_ino = x.stx_ino;
	sup->root_mnt = x.stx_mnt_id;
	sup->userns = args->userns;
	return stat("self", &st) < 0 ? -errno : 0;
}

/* ---- root's ---- */

void notify_take_owner(const struct supervisor *sup, const struct stat *st)
{
	if (!sup->map)
		return;
	uint32_t uid = fvm_idmap_uid(sup->map, st->st_uid);
	uint32_t gid = fvm_idmap_gid(sup->map, st->st_gid);
	syscall(SYS_setfsgid, gid == UINT32_MAX ? sup->map->base : gid);
	syscall(SYS_setfsuid, uid == UINT32_MAX ? sup->map->base : uid);
}

void notify_be_root(const struct supervisor *sup)
{
	if (!sup->map)
		return;
	syscall(SYS_setfsgid, 0);
	syscall(SYS_setfsuid, 0);
}

static int find_devices(struct supervisor *sup, const struct fvm_plan *plan)
{
	dev_t *devs = calloc(plan->count, sizeof(*devs));
	if (!devs)
		return -ENOMEM;
	for (size_t i = 0; i < plan->count; i++) {
		const struct fvm_mount *m = &plan->mounts[i];
		struct stat st;
		if (m->class != FVM_MOUNT_OVERLAY || !m->unmapped)
			continue;
		scoped_fd fd = fvm_open_nofollow(sup->root, m->path[1] ? m->path + 1 : ".",
						 O_PATH | O_DIRECTORY);
		if (fd >= 0 && fstat(fd, &st) == 0)
			devs[sup->dev_count++] = st.st_dev;
	}
	sup->devs = devs;
	return 0;
}

/* What it takes to see, read and copy files, and to give the copies away. */
static int drop_capabilities(void)
{
	const unsigned int kept = FVM_CAP(CHOWN) | FVM_CAP(DAC_OVERRIDE) |
				  FVM_CAP(DAC_READ_SEARCH) | FVM_CAP(FOWNER) | FVM_CAP(FSETID) |
				  FVM_CAP(SETGID) | FVM_CAP(SETUID) | FVM_CAP(SETFCAP) |
				  FVM_CAP(SYS_CHROOT) | FVM_CAP(SYS_PTRACE);
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) < 0)
		return -errno;
	return fvm_caps_keep(kept);
}

static void set_up_process(void)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL); /* only SIGKILL ends us before our time */
	fvm_raise_descriptors(NULL);
	umask(0);
	setsid();
	prctl(PR_SET_NAME, "fvm-supervisor");
}

static int set_up(struct supervisor *sup, const struct fvm_supervisor_args *args)
{
	int r = receive_owners(sup, args->socket);
	if (r < 0)
		return r;
	/* the builder has pivoted meanwhile, and us with it */
	sup->own_root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	sup->nests = nests_make();
	sup->liars = liars_make();
	if (sup->own_root < 0 || !sup->nests || !sup->liars)
		return sup->own_root < 0 ? -errno : -ENOMEM;
	prepare_nest(sup, args);
	r = receive_root(sup, args->socket);
	if (r == 0)
		r = take_places(sup, args);
	if (r < 0)
		return r;
	if (sup->map) {
		r = find_devices(sup, args->plan);
		if (r == 0)
			r = drop_capabilities();
		if (r < 0)
			return r;
	}
	r = notify_records_make(sup);
	if (r < 0)
		return r;
	sup->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (sup->epoll < 0)
		return -errno;
	r = watch(sup, sup->socket);
	if (r == 0 && sup->net >= 0)
		r = watch(sup, sup->net);
	return r < 0 ? r : watch(sup, args->init_pidfd);
}

static void loop(struct supervisor *sup, int init_pidfd)
{
	const int rest = sup->recorder ? FVM_RECORDER_FLUSH_MS : -1;
	for (;;) {
		struct epoll_event events[8];
		int n = epoll_wait(sup->epoll, events, FVM_COUNT(events), rest);
		if (sup->recorder)
			fvm_recorder_tick(sup->recorder);
		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;
			size_t at;
			if (fd == init_pidfd)
				return;
			if (fd == sup->socket)
				socket_ready(sup);
			else if (fd == sup->net)
				notify_net_ready(sup);
			else if (is_listener(sup, fd, &at))
				listener_ready(sup, at, events[i].events);
			else if (!liars_ended(sup, fd))
				copies_ended(sup, fd, handle);
		}
	}
}

_Noreturn void fvm_supervisor_main(const struct fvm_supervisor_args *args)
{
	struct supervisor sup = {
		.root = -1,
		.guard = args->guard,
		.proc = args->proc,
		.log = args->log,
		.trees = args->trees,
		.map = args->map,
		.ids = args->ids,
		.owned = args->owned,
		.owned_len = args->owned_len,
		.net = args->net,
		.one_id = !args->map && args->ids->count == 0,
	};
	set_up_process();
	const int keep[] = { args->socket, args->guard, args->init_pidfd, args->proc,	  args->log,
			     args->lock,   args->trace, args->net,	  args->userns_fd };
	fvm_helper_close(keep, FVM_COUNT(keep));
	int r = set_up(&sup, args);
	if (r == 0 && args->trace >= 0 && !(sup.recorder = fvm_recorder_new(args->trace)))
		r = -ENOMEM;
	if (r < 0) {
		notify_log(&sup, "supervisor: %s", strerror(-r));
		_exit(1);
	}
	loop(&sup, args->init_pidfd);
	fvm_recorder_free(sup.recorder);
	_exit(0);
}
