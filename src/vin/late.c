/*
 * What has to wait for the processes: descriptors that lead to them, locks that are theirs, and who
 * gets signals of files.
 *
 * Numbers of processes are the programs' own, and mean others where we are: all are asked for
 * (vin_who_fn). The owner of a file is set by us, as we count. A lease and O_ASYNC keep the number
 * of the descriptor that they were set by, which their signals tell: so they are set by a process
 * that has it.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/kinds.h"
#include "vin/status.h"

/* ---- at the source ---- */

static bool has_table(const struct vin_files *all, pid_t pid)
{
	for (size_t i = 0; i < all->table_count; i++) {
		if (all->tables[i].pid == pid)
			return true;
	}
	return false;
}

/* Zombies have no descriptors, and are their parents' children still. */
static bool is_zombie_of_ours(const struct vin_files *all, pid_t pid)
{
	struct vin_stat st;
	return vin_stat_read(pid, pid, &st, NULL) == 0 && st.state == 'Z' &&
	       (has_table(all, st.parent) || vin_inner_number(st.parent) == 1);
}

static bool is_above(const struct vin_open *o, pid_t pid)
{
	struct vin_stat st;
	pid_t at = o->pid;
	for (int i = 0; i < 1000 && at > 0; i++) {
		if (vin_stat_read(at, at, &st, NULL) < 0)
			return false;
		at = st.parent;
		if (at == pid)
			return true;
	}
	return false;
}

pid_t vin_number_of(const struct vin_files *all, const struct vin_open *o, pid_t task)
{
	scoped_status s = { 0 }, own = { 0 };
	if (task <= 0 || vin_status_read(task, task, &s, NULL) < 0 ||
	    vin_status_read(o->pid, o->pid, &own, NULL) < 0 || s.depth != own.depth)
		return 0;
	const pid_t number = s.pids[s.depth - 1], process = s.leaders[0];
	bool ours = has_table(all, process) || is_zombie_of_ours(all, process) ||
		    (number == 1 && is_above(o, task));
	return ours ? number : 0;
}

/* ---- locks ---- */

static struct flock range_of(const struct vin_lock *l)
{
	return (struct flock){
		.l_type = l->write ? F_WRLCK : F_RDLCK,
		.l_start = l->start,
		.l_len = l->end < 0 ? 0 : l->end - l->start + 1,
	};
}

static int set_lock(const struct vin_file *f, const struct vin_lock *l)
{
	struct flock range = range_of(l);
	switch (l->kind) {
	case VIN_LOCK_OFD:
		return fvm_nerr(fcntl(f->fd, F_OFD_SETLK, &range));
	case VIN_LOCK_FLOCK:
		return fvm_nerr(flock(f->fd, (l->write ? LOCK_EX : LOCK_SH) | LOCK_NB));
	case VIN_LOCK_LEASE:
		return 0;
	case VIN_LOCK_POSIX:
	default:
		return -EBADMSG;
	}
}

int vin_file_lock(const struct vin_file *f, struct fvm_error *err)
{
	for (size_t i = 0; i < f->lock_count; i++) {
		int r = set_lock(f, &f->locks[i]);
		if (r < 0)
			return fvm_error_set(err, -r, "lock file %zu again", f->id);
	}
	if (f->owner_signal && fcntl(f->fd, F_SETSIG, f->owner_signal) < 0)
		return fvm_error_set(err, errno, "set the signal of file %zu", f->id);
	return 0;
}

/* ---- what processes do themselves ---- */

static const struct vin_lock *lease_of(const struct vin_file *f)
{
	for (size_t i = 0; i < f->lock_count; i++) {
		if (f->locks[i].kind == VIN_LOCK_LEASE)
			return &f->locks[i];
	}
	return NULL;
}

/* Whoever has it first, by its lowest number. */
struct vin_table *vin_late_holder(const struct vin_reopen *r, size_t file, int *ret_number)
{
	for (size_t t = 0; t < r->table_count; t++) {
		for (size_t e = 0; e < r->tables[t].count; e++) {
			if (r->tables[t].entries[e].file == file) {
				*ret_number = r->tables[t].entries[e].number;
				return &r->tables[t];
			}
		}
	}
	return NULL;
}

int vin_late_add(struct vin_table *t, const struct vin_inside *call)
{
	struct vin_inside *more = realloc(t->late, fvm_room(t->late_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	t->late = more;
	t->late[t->late_count++] = *call;
	return 0;
}

/* One that nobody has a number of yet (it is on its way in a socket) is ours to set. */
static int plan_call(struct vin_reopen *r, const struct vin_file *f, int command, int arg)
{
	int number = f->fd;
	struct vin_table *t = vin_late_holder(r, f->id, &number);
	if (!t)
		return fvm_nerr(fcntl(f->fd, command, arg));
	const struct vin_inside call = {
		.nr = SYS_fcntl,
		.args = { (uint64_t)number, (uint64_t)command, (uint64_t)arg },
	};
	return vin_late_add(t, &call);
}

int vin_late_plan(struct vin_reopen *r, struct fvm_error *err)
{
	for (size_t i = 0; i < r->count; i++) {
		const struct vin_file *f = &r->files[i];
		const struct vin_lock *lease = lease_of(f);
		int e = 0;
		if (lease)
			e = plan_call(r, f, F_SETLEASE, lease->write ? F_WRLCK : F_RDLCK);
		if (e == 0 && f->flags & O_ASYNC)
			e = plan_call(r, f, F_SETFL, (int)f->flags & VIN_SETTABLE);
		if (e == 0 && f->kind->plan)
			e = f->kind->plan(r, f);
		if (e < 0)
			return fvm_error_set(err, -e, "have file %zu send signals", f->id);
	}
	return 0;
}

static struct vin_inside posix_lock(const struct vin_posix_lock *l)
{
	const struct flock range = range_of(&l->lock);
	struct vin_inside call = {
		.nr = SYS_fcntl,
		.args = { (uint64_t)l->number, F_SETLK },
		.data_arg = 2,
		.data_len = sizeof(range),
	};
	memcpy(call.data, &range, sizeof(range));
	return call;
}

ssize_t vin_reopen_inside(const struct vin_table *t, struct vin_inside **ret)
{
	struct vin_inside *calls = calloc(t->lock_count + t->late_count + 1, sizeof(*calls));
	if (!calls)
		return -ENOMEM;
	for (size_t i = 0; i < t->lock_count; i++)
		calls[i] = posix_lock(&t->locks[i]);
	for (size_t i = 0; i < t->late_count; i++)
		calls[t->lock_count + i] = t->late[i];
	*ret = calls;
	return (ssize_t)(t->lock_count + t->late_count);
}

/* ---- people ---- */

int vin_late_open(struct vin_file *f, struct fvm_error *err)
{
	f->late = true;
	int fd = eventfd(0, EFD_CLOEXEC);
	return fd < 0 ? fvm_error_set(err, errno, "keep a place for a descriptor") : fd;
}

static int meet_one(struct vin_reopen *r, struct vin_file *f, const struct vin_who *who,
		    struct fvm_error *err)
{
	scoped_fd fd = f->kind->meet(r, f, who, err);
	if (fd < 0)
		return fd;
	if (dup3(fd, f->fd, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "put a descriptor in its place");
	f->met = true;
	int e = vin_file_set(f);
	return e < 0 ? fvm_error_set(err, -e, "set what it is like") : 0;
}

int vin_reopen_people(struct vin_reopen *r, vin_who_fn fn, void *arg, struct fvm_error *err)
{
	const struct vin_who who = { fn, arg };
	for (size_t i = 0; i < r->taken; i++) {
		struct vin_file *f = &r->files[i];
		int e = f->late && !f->met ? meet_one(r, f, &who, err) : 0;
		if (e < 0)
			return fvm_error_wrap(err, e, "open %s (file %zu)", f->kind->name, f->id);
	}
	return 0;
}

ssize_t vin_reopen_late(const struct vin_reopen *r, int **ret)
{
	ssize_t count = 0;
	int *numbers = calloc(r->taken + 1, sizeof(*numbers));
	if (!numbers)
		return -ENOMEM;
	for (size_t i = 0; i < r->taken; i++) {
		if (r->files[i].met)
			numbers[count++] = r->files[i].fd;
	}
	*ret = numbers;
	return count;
}

/* A lease makes its setter the owner, where there was none. */
static int set_owner(const struct vin_file *f, const struct vin_who *who)
{
	struct f_owner_ex owner = { .type = F_OWNER_PID };
	if (f->owner_type < 0 && !lease_of(f))
		return 0;
	if (f->owner_type >= 0) {
		owner.type = f->owner_type;
		owner.pid = who->fn(who->arg, f->owner);
		if (owner.pid <= 0)
			return -ESRCH;
	}
	return fvm_nerr(fcntl(f->fd, F_SETOWN_EX, &owner));
}

int vin_reopen_owners(const struct vin_reopen *r, vin_who_fn fn, void *arg, struct fvm_error *err)
{
	const struct vin_who who = { fn, arg };
	for (size_t i = 0; i < r->taken; i++) {
		const struct vin_file *f = &r->files[i];
		int e = f->flags & O_PATH ? 0 : set_owner(f, &who);
		if (e < 0)
			return fvm_error_set(err, -e, "make %d the owner of file %zu", f->owner,
					     f->id);
	}
	return 0;
}
