/*
 * Descriptors of programs that are made again: what leads to processes is opened when all of these
 * are there and given to each, then everybody brings what lies in the pool to his own numbers.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/files.h"
#include "vin/replay_priv.h"

#ifndef NS_GET_PID_FROM_PIDNS
#define NS_GET_PID_FROM_PIDNS _IOR(0xb7, 0x6, int) /* Linux 6.11 */
#endif

/* ---- who is who ---- */

/* PID 1: the nest's first, or whose guest that is. */
static pid_t find_init(const struct vin_replay *r)
{
	char path[40];
	const pid_t first = r->nest.init.thread.pid;
	if (!r->nest.guest)
		return first;
	snprintf(path, sizeof(path), "/proc/%d/ns/pid", first);
	scoped_fd space = open(path, O_RDONLY | O_CLOEXEC);
	int pid = space < 0 ? -1 : ioctl(space, NS_GET_PID_FROM_PIDNS, 1);
	return pid > 0 ? pid : 0;
}

static pid_t who(void *arg, pid_t number)
{
	const struct vin_replay *r = arg;
	if (number == 1)
		return find_init(r);
	for (size_t i = 0; i < r->family.count; i++) {
		const struct actor *a = &r->actors[i];
		const size_t first = a->member->leader_gone ? 0 : 1;
		if (a->member->number == number)
			return a->blank.thread.pid;
		for (size_t t = 0; t < a->thread_count; t++) {
			if (a->states[t + first].tid == number)
				return a->threads[t].tid;
		}
	}
	return 0;
}

/* ---- what is new in the pool ---- */

/* What is done to its descriptors is done to its parent's, once. */
static bool has_parents(const struct actor *a)
{
	return a->member->shares & VIN_SHARES_FILES;
}

static int take_in(const struct vin_replay *r, struct actor *a, const int *fds, size_t count,
		   struct fvm_error *err)
{
	int theirs[VIN_GIVE_MAX];
	int e = vin_blank_give(&r->nest, &a->blank, fds, count, theirs, err);
	for (size_t i = 0; e == 0 && i < count; i++) {
		e = vin_actor_call(a, "dup3",
				   (struct vin_call){
					   SYS_dup3,
					   { (uint64_t)theirs[i], (uint64_t)fds[i], O_CLOEXEC } },
				   err);
		if (e == 0)
			e = vin_actor_call(a, "close",
					   (struct vin_call){ SYS_close, { (uint64_t)theirs[i] } },
					   err);
	}
	return e;
}

static int take_all_in(const struct vin_replay *r, struct actor *a, const int *fds, size_t count,
		       struct fvm_error *err)
{
	int e = 0;
	for (size_t i = 0; e == 0 && i < count; i += VIN_GIVE_MAX) {
		const size_t some = count - i < VIN_GIVE_MAX ? count - i : VIN_GIVE_MAX;
		e = take_in(r, a, fds + i, some, err);
	}
	return e;
}

/* The line is not needed any more, and its number may be somebody's. */
static int close_line(struct actor *a, struct fvm_error *err)
{
	const int line = a->blank.line;
	a->blank.line = -1;
	return line < 0 ? 0
			: vin_actor_call(a, "close",
					 (struct vin_call){ SYS_close, { (uint64_t)line } }, err);
}

int vin_actors_meet(struct vin_replay *r, struct fvm_error *err)
{
	scoped_free int *late = NULL;
	ssize_t count = 0;
	int e = 0;
	if (r->files) {
		e = vin_reopen_people(r->files, who, r, err);
		if (e == 0)
			e = vin_replay_finish_files(r, err);
		if (e == 0 && (count = vin_reopen_late(r->files, &late)) < 0)
			e = fvm_error_set(err, ENOMEM, "list open files");
	}
	for (size_t i = 0; e == 0 && i < r->family.count; i++) {
		struct actor *a = &r->actors[i];
		if (a->member->zombie)
			continue;
		if (has_parents(a)) { /* who comes before it did that */
			a->blank.line = -1;
			continue;
		}
		e = take_all_in(r, a, late, (size_t)count, err);
		if (e == 0)
			e = close_line(a, err);
	}
	return e;
}

/* ---- their own numbers ---- */

static int batch(struct actor *a, struct vin_call *calls, size_t count, struct fvm_error *err)
{
	size_t done;
	return count ? vin_batch(&a->blank.post, &a->blank.thread, calls, count, false, &done, err)
		     : 0;
}

static int call_inside(struct actor *a, const struct vin_table *t, struct fvm_error *err)
{
	scoped_free struct vin_inside *all = NULL;
	ssize_t count = vin_reopen_inside(t, &all);
	int e = count < 0 ? fvm_error_set(err, ENOMEM, "lock files again") : 0;
	for (ssize_t i = 0; e == 0 && i < count; i++) {
		struct vin_call c = { .nr = all[i].nr };
		memcpy(c.args, all[i].args, sizeof(c.args));
		if (all[i].data_len)
			c.args[all[i].data_arg] = a->blank.post.data;
		e = vin_mem_write(a->blank.post.pid, a->blank.post.data, all[i].data,
				  all[i].data_len);
		e = e < 0 ? fvm_error_set(err, -e, "write to process %d", a->member->number)
			  : vin_actor_call(a, "fcntl", c, err);
	}
	return e;
}

static int place_files(const struct vin_replay *r, struct actor *a, struct fvm_error *err)
{
	const struct vin_table *t = vin_reopen_table(r->files, a->member->number);
	scoped_free struct vin_call *calls = calloc(VIN_BATCH_MAX, sizeof(*calls));
	size_t count = 0;
	int e = 0;
	if (!calls)
		return fvm_error_set(err, ENOMEM, "give process %d its descriptors",
				     a->member->number);
	for (size_t i = 0; e == 0 && i < t->count; i++) {
		const struct vin_entry *f = &t->entries[i];
		calls[count++] =
			(struct vin_call){ SYS_dup3,
					   { (uint64_t)vin_reopen_fd(r->files, f->file),
					     (uint64_t)f->number, f->cloexec ? O_CLOEXEC : 0 } };
		if (count == VIN_BATCH_MAX) {
			e = batch(a, calls, count, err);
			count = 0;
		}
	}
	if (e == 0)
		e = batch(a, calls, count, err);
	if (e == 0)
		e = vin_actor_call(a, "close_range",
				   (struct vin_call){ SYS_close_range,
						      { (uint64_t)r->pool, ~0U, 0 } },
				   err);
	return e < 0 ? e : call_inside(a, t, err);
}

/* A directory that no name leads to, while all have the pool; others are entered by their names. */
static int enter_directory(const struct vin_replay *r, struct actor *a, struct fvm_error *err)
{
	const struct vin_table *t = vin_reopen_table(r->files, a->member->number);
	struct vin_call enter = { .nr = SYS_fchdir };
	if (t->current == 0)
		return 0;
	enter.args[0] = (uint64_t)vin_reopen_fd(r->files, t->current - 1);
	return vin_actor_call(a, "fchdir", enter, err);
}

int vin_actors_place(struct vin_replay *r, struct fvm_error *err)
{
	int e = 0;
	for (size_t i = 0; e == 0 && i < r->family.count; i++) {
		if (!r->actors[i].member->zombie)
			e = enter_directory(r, &r->actors[i], err);
	}
	for (size_t i = 0; e == 0 && i < r->family.count; i++) {
		if (!r->actors[i].member->zombie && !has_parents(&r->actors[i]))
			e = place_files(r, &r->actors[i], err);
	}
	return e == 0 ? vin_reopen_owners(r->files, who, r, err) : e;
}
