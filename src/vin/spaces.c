/* In which namespaces processes and threads are, and what is set in these. */
#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vin/namespaces.h"
#include "vin/spaces.h"

#define LINK_MAX_ 64

/* The order of sorts. */
enum { PID_FOR_CHILDREN = 5, UTS = 9 };

static const struct {
	const char *file, *title;
	int flag;
	bool of_all; /* threads of a process are in one: who enters another has to be alone */
} sorts[] = {
	{ "cgroup", "a cgroup namespace", CLONE_NEWCGROUP, false },
	{ "ipc", "an IPC namespace", CLONE_NEWIPC, false },
	{ "mnt", "a mount namespace", CLONE_NEWNS, false },
	{ "net", "a network namespace", CLONE_NEWNET, false },
	{ "pid", "a pid namespace", CLONE_NEWPID, true },
	{ "pid_for_children", "a pid namespace for its children", 0, false },
	{ "time", "a time namespace", CLONE_NEWTIME, true },
	{ "time_for_children", "a time namespace for its children", 0, false },
	{ "user", "a user namespace", CLONE_NEWUSER, true },
	{ "uts", "a UTS namespace", CLONE_NEWUTS, false },
};

struct place {
	char names[FVM_COUNT(sorts)][LINK_MAX_]; /* "" if there is none, or nobody any more */
};

/* @rest: what another thread of it did not tell already, whose names are in @ret */
static int place_read(pid_t pid, pid_t tid, bool rest, struct place *ret)
{
	char path[60];
	snprintf(path, sizeof(path), "/proc/%d/task/%d/ns", pid, tid);
	scoped_fd dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return errno == ENOENT || errno == ESRCH ? -ESRCH : -errno;
	for (size_t i = 0; i < FVM_COUNT(sorts); i++) {
		if (rest && sorts[i].of_all)
			continue;
		ssize_t n = readlinkat(dir, sorts[i].file, ret->names[i], LINK_MAX_ - 1);
		ret->names[i][n < 0 ? 0 : n] = '\0';
	}
	/* one that nobody is in yet has no name; nor has anything of who has just ended */
	if (!*ret->names[PID_FOR_CHILDREN] && *ret->names[UTS])
		snprintf(ret->names[PID_FOR_CHILDREN], LINK_MAX_, "empty");
	return 0;
}

struct looking {
	const struct place *all;
	pid_t pid; /* a thread that lives, of the process */
	struct vin_namespaces *own;
};

static int refuse_thread(pid_t pid, pid_t tid, size_t sort, struct fvm_error *err)
{
	if (tid == pid)
		return fvm_error_say(err, EOPNOTSUPP,
				     "process %d can't be captured: it has %s of its own", pid,
				     sorts[sort].title);
	return fvm_error_say(err, EOPNOTSUPP,
			     "process %d can't be captured: its thread %d has %s of its own", pid,
			     tid, sorts[sort].title);
}

/* @last: what a thread of the same process was in, "" if there was none yet */
static int check_one(const struct looking *l, pid_t tid, size_t sort, const char *last,
		     const char *name, struct fvm_error *err)
{
	if (*last)
		return strcmp(last, name) == 0 ? 0 : refuse_thread(l->pid, tid, sort, err);
	if (strcmp(l->all->names[sort], name) == 0)
		return 0;
	return vin_namespaces_held(sorts[sort].flag)
		       ? vin_namespaces_add(l->own, l->pid, sorts[sort].flag, err)
		       : refuse_thread(l->pid, tid, sort, err);
}

/* @last: the names of a thread of the same process; a thread that has ended has none */
static int check_thread(const struct looking *l, pid_t tid, struct place *last,
			struct fvm_error *err)
{
	struct place its = *last;
	int r = place_read(l->pid, tid, *last->names[UTS], &its);
	for (size_t i = 0; r == 0 && i < FVM_COUNT(sorts); i++) {
		if (*its.names[i] && *l->all->names[i] &&
		    sorts[i].flag != CLONE_NEWUSER /* vin/users */)
			r = check_one(l, tid, i, last->names[i], its.names[i], err);
	}
	if (r == 0)
		*last = its;
	if (r < 0 && r != -ESRCH && !(err && err->code))
		fvm_error_set(err, -r, "look at the namespaces of process %d", l->pid);
	return r == -ESRCH ? 0 : r;
}

static int check_process(const struct looking *l, struct fvm_error *err)
{
	char path[40];
	int r = 0;
	struct place last = { 0 };
	snprintf(path, sizeof(path), "/proc/%d/task", l->pid);
	scoped_dir d = opendir(path);
	if (!d && errno != ENOENT && errno != ESRCH)
		return fvm_error_set(err, errno, "read %s", path);
	for (struct dirent *e; r == 0 && d && (e = fvm_dir_next(d));)
		r = check_thread(l, (pid_t)strtol(e->d_name, NULL, 10), &last, err);
	return r;
}

int vin_spaces_check(const pid_t *pids, size_t count, pid_t within, struct vin_namespaces *own,
		     struct fvm_error *err)
{
	struct place all = { 0 };
	struct looking l = { &all, 0, own };
	if (count == 0)
		return 0;
	if (within == 0)
		within = pids[0];
	int r = place_read(within, within, false, &all);
	if (r < 0)
		return r == -ESRCH ? 0
				   : fvm_error_set(err, -r, "look at the namespaces of process %d",
						   within);
	for (size_t i = 0; r == 0 && i < count; i++) {
		l.pid = pids[i];
		r = check_process(&l, err);
	}
	return r;
}

int vin_spaces_apart(pid_t pid, int spaces)
{
	struct place its = { 0 }, ours = { 0 };
	int apart = 0;
	if (place_read(pid, pid, false, &its) < 0 ||
	    place_read(getpid(), getpid(), false, &ours) < 0)
		return 0;
	for (size_t i = 0; i < FVM_COUNT(sorts); i++) {
		if (strcmp(its.names[i], ours.names[i]) != 0)
			apart |= sorts[i].flag & spaces;
	}
	return apart;
}

/* ---- somebody in them ---- */

static int open_space(pid_t pid, size_t sort)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, sorts[sort].file);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Whose the first of them is has the rights, not whom @pid belongs to; one around ours can't be
 * entered, and needs not. All are opened before: from there a process may be out of reach. */
static int enter_as_owner(pid_t pid, int spaces)
{
	int fds[FVM_COUNT(sorts)], flags[FVM_COUNT(sorts)], r = 0;
	size_t count = 0;
	for (size_t i = 0; r == 0 && i < FVM_COUNT(sorts); i++) {
		if (!(sorts[i].flag & spaces))
			continue;
		flags[count] = sorts[i].flag;
		fds[count] = open_space(pid, i);
		r = fds[count] < 0 ? fds[count] : 0;
		count += r == 0;
	}
	scoped_fd owner = count ? ioctl(fds[0], NS_GET_USERNS) : -1;
	if (r == 0 && owner >= 0)
		r = vin_users_enter(owner);
	for (size_t i = 0; i < count; i++) {
		if (r == 0)
			r = fvm_nerr(setns(fds[i], flags[i]));
		close(fds[i]);
	}
	return r;
}

/* An ordinary user has rights in the others only in the user namespace that all are in. */
static int enter(pid_t pid, int spaces)
{
	if (spaces & CLONE_NEWUSER)
		return enter_as_owner(pid, spaces & ~CLONE_NEWUSER);
	scoped_fd pidfd = pidfd_open(pid, 0);
	if (pidfd < 0)
		return -errno;
	return setns(pidfd, spaces) == 0 || setns(pidfd, spaces | CLONE_NEWUSER) == 0 ? 0 : -errno;
}

struct visit {
	pid_t pid;
	int spaces, report;
	vin_space_fn fn;
	void *arg;
};

static _Noreturn void be_visitor(const struct visit *v)
{
	struct fvm_error why = { 0 };
	struct fvm_buf all = { 0 };
	int r = enter(v->pid, v->spaces);
	if (r < 0)
		fvm_error_set(&why, -r, "enter the namespaces of process %d", v->pid);
	else
		r = v->fn(v->arg, &all, &why);
	if (r == 0 && all.failed)
		r = fvm_error_set(&why, ENOMEM, "look at the namespaces of process %d", v->pid);
	if (r < 0 && !why.code)
		why.code = -r;
	_exit(fvm_write_all(v->report, &why, sizeof(why)) < 0 ||
	      (r == 0 && fvm_write_all(v->report, all.data, all.len) < 0));
}

static int take_report(int report, pid_t pid, struct fvm_buf *ret, struct fvm_error *err)
{
	struct fvm_error why;
	off_t end = lseek(report, 0, SEEK_END);
	if (end < (off_t)sizeof(why) || pread(report, &why, sizeof(why), 0) != sizeof(why))
		return fvm_error_say(err, EIO, "who looks at the namespaces of process %d has died",
				     pid);
	if (why.code)
		return fvm_error_take(err, &why, sizeof(why)) ?: -EIO;
	const size_t len = (size_t)end - sizeof(why);
	scoped_free char *all = malloc(len + 1);
	if (!all || pread(report, all, len, sizeof(why)) != (ssize_t)len)
		return fvm_error_set(err, all ? EIO : ENOMEM,
				     "look at the namespaces of process %d", pid);
	if (ret)
		fvm_buf_add(ret, all, len);
	return 0;
}

int vin_space_visit(pid_t pid, int spaces, vin_space_fn fn, void *arg, struct fvm_buf *ret,
		    struct fvm_error *err)
{
	int status;
	scoped_fd report = memfd_create("spaces", MFD_CLOEXEC);
	const struct visit v = { pid, spaces, report, fn, arg };
	pid_t child = report < 0 ? -1 : fork();
	if (child == 0)
		be_visitor(&v);
	if (child < 0 || waitpid(child, &status, 0) != child)
		return fvm_error_set(err, errno, "look at the namespaces of process %d", pid);
	return take_report(report, pid, ret, err);
}

/* Each piece as it comes: its length, then its bytes. Return: 0 at the end */
static int take_pieces(int line, vin_space_piece_fn take, void *arg, struct fvm_error *err)
{
	scoped_buf piece = { 0 };
	char block[65536];
	uint64_t left;
	int r = 0;
	while (r == 0 && fvm_read_full(line, &left, sizeof(left)) == sizeof(left)) {
		piece.len = 0;
		for (size_t some; r == 0 && left; left -= some) {
			some = left < sizeof(block) ? (size_t)left : sizeof(block);
			if (fvm_read_full(line, block, some) != (ssize_t)some)
				return fvm_error_set(err, EIO, "hear who looks at namespaces");
			fvm_buf_add(&piece, block, some);
		}
		r = piece.failed ? fvm_error_set(err, ENOMEM, "hear who looks at namespaces")
				 : take(arg, &piece, err);
	}
	return r;
}

int vin_space_send(int line, const struct fvm_buf *piece)
{
	const uint64_t len = piece->len;
	if (piece->failed)
		return -ENOMEM;
	int r = fvm_write_all(line, &len, sizeof(len));
	return r < 0 ? r : fvm_write_all(line, piece->data, piece->len);
}

int vin_space_stream(pid_t pid, int spaces, const struct vin_space_teller *t, struct fvm_error *err)
{
	int status, line[2];
	scoped_fd report = memfd_create("spaces", MFD_CLOEXEC);
	if (report < 0 || pipe2(line, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "look at the namespaces of process %d", pid);
	*t->line = line[1];
	const struct visit v = { pid, spaces, report, t->tell, t->arg };
	pid_t child = fork();
	if (child == 0) {
		close(line[0]);
		be_visitor(&v);
	}
	int r = child < 0 ? -errno : 0;
	close(line[1]);
	if (child > 0)
		r = take_pieces(line[0], t->take, t->take_arg, err);
	close(line[0]); /* who has more to tell is not heard any more */
	if (child > 0 && waitpid(child, &status, 0) != child)
		r = r < 0 ? r : -errno;
	if (child < 0 || (r < 0 && !(err && err->code)))
		return fvm_error_set(err, -r, "look at the namespaces of process %d", pid);
	return r < 0 ? r : take_report(report, pid, NULL, err);
}

/* ---- what is set in them ---- */

/* Numbers stand in images. */
static const struct vin_space_kind *const kinds[] = {
	NULL,
	&vin_space_uts,
	&vin_space_sysctls,
	&vin_space_links,
	&vin_space_routes,
	&vin_space_tables,
	&vin_space_ipc,
};

/* A device has parameters when it is there, which say how it comes up. */
static const uint8_t order[] = { 1, 3, 2, 4, 5, 6 };

int vin_spaces_settings_check(pid_t within, int spaces, bool own, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 1; r == 0 && i < FVM_COUNT(kinds); i++) {
		if (kinds[i]->check && (kinds[i]->space & spaces))
			r = vin_space_visit(within, kinds[i]->space, kinds[i]->check,
					    own ? &own : NULL, NULL, err);
	}
	return r;
}

int vin_spaces_tell(pid_t within, int spaces, vin_space_piece_fn fn, void *arg,
		    struct fvm_error *err)
{
	int r = 0;
	for (size_t n = 0; r == 0 && n < FVM_COUNT(order); n++) {
		scoped_buf payload = { 0 };
		const uint8_t i = order[n];
		if (!(kinds[i]->space & spaces))
			continue;
		vin_put_u64(&payload, i);
		/* ids are told as the reader's user namespace counts */
		r = vin_space_visit(within, CLONE_NEWUSER | kinds[i]->space, kinds[i]->capture,
				    NULL, &payload, err);
		if (r == 0)
			r = fn(arg, &payload, err);
	}
	return r;
}

static int write_record(void *arg, const struct fvm_buf *payload, struct fvm_error *err)
{
	return vin_out_record(arg, VIN_TAG_SPACE, payload, err);
}

int vin_spaces_capture(pid_t within, int spaces, struct vin_out *out, struct fvm_error *err)
{
	return vin_spaces_tell(within, spaces, write_record, out, err);
}

int vin_space_take(struct vin_payload *p, int spaces, struct vin_moved *moved,
		   struct fvm_error *err)
{
	const uint64_t nr = vin_get_u64(p);
	if (p->failed || nr == 0 || nr >= FVM_COUNT(kinds))
		return fvm_error_say(err, EBADMSG, "the image is damaged: no namespace");
	if (!(kinds[nr]->space & spaces))
		return fvm_error_say(err, EOPNOTSUPP,
				     "programs had namespaces, and there are none for them");
	int r = kinds[nr]->make(p, moved, err);
	return r == -EBADMSG ? fvm_error_say(err, EBADMSG, "the image is damaged: no namespace")
			     : r;
}
