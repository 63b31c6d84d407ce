/*
 * What a thread has to give back of System V semaphores when it ends (SEM_UNDO). Threads share it
 * as a rule, and have their leader's.
 *
 * No call tells it. But the kernel checks each step of a semop(2) that would bring it out of its
 * range (ERANGE), before it finds that a later step can't be made (EAGAIN); and then undoes all.
 * So operations that never succeed are tried by the thread itself, and what they fail with tells
 * whether the value is negative, positive or none, and then by halving the range what it is.
 *
 *   -v, +x (undo), 0      fails with ERANGE if x > value + 32768
 *   +m-v, -x (undo), -m   fails with ERANGE if x > 32767 - value      v: the semaphore's; m: 32767
 *
 * It is given back by steps that leave the semaphore as it was: one with undo, one without. A
 * semaphore also tells who was the last to use it; whoever is still there is made to be that again.
 * Those of the namespace that we are in ourselves are the machine's: who has a list is refused.
 */
#include <errno.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/kinds.h"
#include "vin/traits.h"

#define MOST	  32767 /* of a semaphore, and of what is to be given back */
#define CHUNK	  16383 /* at once: there is always room for that, up or down */
#define SETS_MAX  32768
#define AT_ONCE	  256 /* calls, each with some operations */
#define STAT_ANY  20  /* SEM_STAT_ANY */
#define NOWAIT(x) (short)((x) | IPC_NOWAIT)

/* One semaphore, as far as it matters to this thread. */
struct debt {
	uint64_t id, number, value; /* of the semaphore */
	int64_t owed;
	uint64_t last; /* whether it was the last to use it */
};

struct debts {
	struct debt *list;
	size_t count;
};

static bool shares_list(pid_t a, pid_t b)
{
	return syscall(SYS_kcmp, a, b, KCMP_SYSVSEM, 0, 0) == 0;
}

/* One that is not the same nothing that we have. */
static bool has_list(pid_t tid)
{
	return syscall(SYS_kcmp, getpid(), tid, KCMP_SYSVSEM, 0, 0) > 0;
}

static bool in_our_space(pid_t tid)
{
	char path[40];
	struct stat theirs, ours;
	snprintf(path, sizeof(path), "/proc/%d/ns/ipc", tid);
	return stat(path, &theirs) == 0 && stat("/proc/self/ns/ipc", &ours) == 0 &&
	       vin_same_inode(&theirs, &ours);
}

static int refuse(pid_t pid, const char *why, struct fvm_error *err)
{
	return fvm_error_say(err, ENOTSUP,
			     "process %d may have semaphores of System V to undo (SEM_UNDO): %s",
			     pid, why);
}

static bool are_semaphores_here(void)
{
	struct seminfo info = { 0 };
	return syscall(SYS_semctl, 0, 0, SEM_INFO, &info) >= 0 && info.semusz > 0;
}

static int check(pid_t pid, pid_t tid, uint64_t filters, struct fvm_error *err)
{
	(void)filters;
	const bool own = tid == pid || !shares_list(pid, tid);
	return own && has_list(tid) && in_our_space(tid) && are_semaphores_here()
		       ? refuse(pid, "they are the machine's", err)
		       : 0;
}

/* ---- asking ---- */

struct asking {
	struct vin_steps *s;
	struct debts debts;
};

static int call_all(struct vin_steps *s, struct vin_call *calls, size_t count,
		    struct fvm_error *err)
{
	size_t done;
	return count ? vin_batch(s->post, s->t, calls, count, true, &done, err) : 0;
}

static int add(struct debts *d, const struct debt *one)
{
	struct debt *more = realloc(d->list, fvm_room(d->count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	d->list = more;
	d->list[d->count++] = *one;
	return 0;
}

/* The number of each set in use, and how many it has, by all places that there are. */
static int list_sets(struct asking *a, int64_t last,
		     int (*fn)(struct asking *a, int id, size_t n, struct fvm_error *err),
		     struct fvm_error *err)
{
	scoped_free struct semid_ds *ds = malloc(AT_ONCE * sizeof(*ds));
	scoped_free struct vin_call *calls = calloc(AT_ONCE, sizeof(*calls));
	const struct vin_post *post = a->s->post;
	int r = 0;
	if (!ds || !calls)
		return fvm_error_set(err, ENOMEM, "read semaphores");
	for (int64_t from = 0; r == 0 && from <= last; from += AT_ONCE) {
		size_t n = last + 1 - from < AT_ONCE ? (size_t)(last + 1 - from) : AT_ONCE;
		for (size_t i = 0; i < n; i++)
			calls[i] = (struct vin_call){ SYS_semctl,
						      { (uint64_t)from + i, 0, STAT_ANY,
							post->data + i * sizeof(*ds) } };
		r = call_all(a->s, calls, n, err);
		if (r == 0 && vin_mem_read(post->pid, post->data, ds, n * sizeof(*ds)) < 0)
			r = fvm_error_set(err, EIO, "read from process %d", post->pid);
		for (size_t i = 0; r == 0 && i < n; i++) {
			if (calls[i].result >= 0)
				r = fn(a, (int)calls[i].result, ds[i].sem_nsems, err);
		}
	}
	return r;
}

/* All semaphores of a set that this thread was the last to use, or may owe something. */
static int read_set(struct asking *a, int id, size_t count, struct fvm_error *err)
{
	const struct vin_post *post = a->s->post;
	unsigned short values[AT_ONCE];
	struct vin_call calls[AT_ONCE];
	const int64_t me = a->s->status.leaders[a->s->status.depth - 1];
	struct vin_call all = { SYS_semctl, { (uint64_t)id, 0, GETALL, post->data } };
	int64_t got = -E2BIG;
	int r = count * sizeof(*values) <= VIN_DATA_SIZE
			? vin_call(post, a->s->t, "semctl", &all, &got, err)
			: 0;
	if (r < 0)
		return r;
	if (got < 0) /* what it may not read it can't have used, as a rule */
		return has_list(a->s->t->tid) ? refuse(post->pid, "it may not read them", err) : 0;
	scoped_free unsigned short *whole = malloc(count * sizeof(*whole) + 1);
	if (!whole || vin_mem_read(post->pid, post->data, whole, count * sizeof(*whole)) < 0)
		return fvm_error_set(err, EIO, "read semaphores");
	for (size_t from = 0; r == 0 && from < count; from += AT_ONCE) {
		const size_t n = count - from < AT_ONCE ? count - from : AT_ONCE;
		for (size_t i = 0; i < n; i++)
			calls[i] =
				(struct vin_call){ SYS_semctl, { (uint64_t)id, from + i, GETPID } };
		r = call_all(a->s, calls, n, err);
		for (size_t i = 0; r == 0 && i < n; i++) {
			const struct debt d = { (uint64_t)id, from + i, whole[from + i], 0,
						calls[i].result == me };
			if (add(&a->debts, &d) < 0)
				r = fvm_error_set(err, ENOMEM, "read semaphores");
		}
	}
	return r;
}

/* Operations that can't succeed. Return: how many */
static size_t negative(const struct debt *d, int x, struct sembuf *ret)
{
	const unsigned short n = (unsigned short)d->number;
	ret[0] = (struct sembuf){ n, (short)-(int)d->value, NOWAIT(0) };
	ret[1] = (struct sembuf){ n, (short)x, NOWAIT(SEM_UNDO) };
	ret[2] = (struct sembuf){ n, 0, NOWAIT(0) };
	return 3;
}

/* Whether it is at least -1: what one operation is too small for. */
static size_t least(const struct debt *d, int x, struct sembuf *ret)
{
	const unsigned short n = (unsigned short)d->number;
	(void)x;
	ret[0] = (struct sembuf){ n, (short)-(int)d->value, NOWAIT(0) };
	ret[1] = (struct sembuf){ n, MOST, NOWAIT(SEM_UNDO) };
	ret[2] = (struct sembuf){ n, -1, NOWAIT(0) };
	ret[3] = (struct sembuf){ n, 1, NOWAIT(SEM_UNDO) };
	ret[4] = (struct sembuf){ n, 0, NOWAIT(0) };
	return 5;
}

static size_t positive(const struct debt *d, int x, struct sembuf *ret)
{
	const unsigned short n = (unsigned short)d->number;
	size_t count = 0;
	if (d->value < MOST)
		ret[count++] = (struct sembuf){ n, (short)(MOST - (int)d->value), NOWAIT(0) };
	ret[count++] = (struct sembuf){ n, (short)-x, NOWAIT(SEM_UNDO) };
	ret[count++] = (struct sembuf){ n, -MOST, NOWAIT(0) };
	return count;
}

typedef size_t (*tries_fn)(const struct debt *d, int x, struct sembuf *ret);

/* Of each of @n debts whether it is out of range. */
static int try_all(struct asking *a, const struct debt *d, size_t n, tries_fn tries, const int *x,
		   bool *ret_out, struct fvm_error *err)
{
	const struct vin_post *post = a->s->post;
	struct sembuf ops[AT_ONCE][5];
	struct vin_call calls[AT_ONCE];
	for (size_t i = 0; i < n; i++) {
		const size_t count = tries(&d[i], x[i], ops[i]);
		calls[i] = (struct vin_call){ SYS_semop,
					      { d[i].id, post->data + i * sizeof(ops[0]), count } };
	}
	int r = vin_mem_write(post->pid, post->data, ops, n * sizeof(ops[0]));
	r = r < 0 ? fvm_error_set(err, -r, "write to process %d", post->pid)
		  : call_all(a->s, calls, n, err);
	for (size_t i = 0; r == 0 && i < n; i++) {
		const int64_t told = calls[i].result;
		ret_out[i] = told == -ERANGE;
		if (told != -ERANGE && told != -EAGAIN)
			r = refuse(post->pid,
				   told == -EACCES ? "it may not change them any more"
				   : told == -E2BIG
					   ? "kernel.sem allows too few operations to find out"
					   : "a filter forbids it to find out",
				   err);
	}
	return r;
}

/* The least of 1 to MOST that is out of range, if any is: MOST + 1. */
static int halve(struct asking *a, const struct debt *d, tries_fn tries, int *ret,
		 struct fvm_error *err)
{
	int low = 1, high = MOST + 1, r = 0;
	while (r == 0 && low < high) {
		const int x = low + (high - low) / 2;
		bool out = false;
		r = try_all(a, d, 1, tries, &x, &out, err);
		if (out)
			high = x;
		else
			low = x + 1;
	}
	*ret = low;
	return r;
}

static int measure(struct asking *a, struct debt *d, bool below, struct fvm_error *err)
{
	int x = 0;
	int r = halve(a, d, below ? negative : positive, &x, err);
	d->owed = below ? x - (MOST + 2) : MOST + 1 - x;
	return r;
}

static int find_owed(struct asking *a, struct fvm_error *err)
{
	int most[AT_ONCE], r = 0;
	bool below[AT_ONCE], above[AT_ONCE];
	for (size_t i = 0; i < AT_ONCE; i++)
		most[i] = MOST;
	for (size_t from = 0; r == 0 && from < a->debts.count; from += AT_ONCE) {
		struct debt *d = a->debts.list + from;
		const size_t left = a->debts.count - from, n = left < AT_ONCE ? left : AT_ONCE;
		r = try_all(a, d, n, least, most, below, err);
		if (r == 0)
			r = try_all(a, d, n, positive, most, above, err);
		for (size_t i = 0; r == 0 && i < n; i++) {
			if (below[i] || above[i])
				r = measure(a, &d[i], below[i], err);
		}
	}
	return r;
}

static int ask(struct vin_steps *s, struct fvm_error *err)
{
	(void)err;
	uint64_t at = vin_steps_data(s, NULL, sizeof(struct seminfo));
	VIN_STEP(s, NULL, SYS_semctl, 0, 0, SEM_INFO, at);
	return 0;
}

static bool of_parent(const struct vin_steps *s, pid_t tid)
{
	return s->stat.parent > 0 && has_list(tid) && shares_list(tid, s->stat.parent);
}

static void put_debts(struct fvm_buf *to, const struct debts *d, bool own_list)
{
	uint64_t count = 0;
	for (size_t i = 0; i < d->count; i++)
		count += d->list[i].owed || d->list[i].last;
	vin_put_u64(to, own_list);
	vin_put_u64(to, count);
	for (size_t i = 0; i < d->count; i++) {
		const struct debt *one = &d->list[i];
		if (!one->owed && !one->last)
			continue;
		vin_put_u64(to, one->id);
		vin_put_u64(to, one->number);
		vin_put_u64(to, one->value);
		vin_put_u64(to, (uint64_t)one->owed);
		vin_put_u64(to, one->last);
	}
}

static int put(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
	       struct fvm_error *err)
{
	const pid_t tid = s->t->tid, first = s->post->pid;
	const struct seminfo *info = vin_steps_told(s, told->args[3]);
	struct asking a = { .s = s };
	const bool own_list = tid != first && !shares_list(first, tid);
	const bool some = told->result >= 0 && info->semusz > 0 && (tid == first || own_list);
	int r = 0;
	if (some && in_our_space(tid)) {
		r = has_list(tid) ? refuse(s->t->pid, "they are the machine's", err) : 0;
	} else if (some && of_parent(s, tid)) {
		r = refuse(s->t->pid, "it shares them with its parent", err);
	} else if (some && told->result < SETS_MAX) {
		r = list_sets(&a, told->result, read_set, err);
		if (r == 0 && has_list(tid))
			r = find_owed(&a, err);
	}
	if (r == 0)
		put_debts(to, &a.debts, own_list && has_list(tid));
	free(a.debts.list);
	return r;
}

/* ---- giving ---- */

/* Two operations after which the semaphore is what it was; @owed with the thread. */
static void lend(struct vin_steps *s, const struct debt *d, int owed, bool undo)
{
	struct sembuf ops[2] = {
		{ (unsigned short)d->number, (short)-owed, NOWAIT(undo ? SEM_UNDO : 0) },
		{ (unsigned short)d->number, (short)owed, NOWAIT(0) },
	};
	const bool can_go_down = (int)d->value >= abs(owed);
	/* down first if it can, else up first */
	if ((owed > 0) != can_go_down) {
		struct sembuf other = ops[0];
		ops[0] = ops[1];
		ops[1] = other;
	}
	uint64_t at = vin_steps_data(s, ops, sizeof(ops));
	VIN_STEP(s, "semop", SYS_semop, d->id, at, 2);
}

static int get_debt(struct vin_payload *from, struct debt *ret)
{
	ret->id = vin_get_u64(from);
	ret->number = vin_get_u64(from);
	ret->value = vin_get_u64(from);
	ret->owed = (int64_t)vin_get_u64(from);
	ret->last = vin_get_u64(from);
	return from->failed || ret->id > INT32_MAX || ret->number > UINT16_MAX ||
			       ret->value > MOST || ret->owed < -MOST - 1 || ret->owed > MOST ||
			       ret->last > 1
		       ? -EBADMSG
		       : 0;
}

static int replay(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		  struct fvm_error *err)
{
	(void)told;
	(void)err;
	const uint64_t own_list = vin_get_u64(from), count = vin_get_u64(from);
	if (from->failed || own_list > 1)
		return -EBADMSG;
	if (own_list)
		VIN_STEP(s, "unshare", SYS_unshare, CLONE_SYSVSEM);
	for (uint64_t i = 0; i < count; i++) {
		struct debt d;
		if (get_debt(from, &d) < 0)
			return -EBADMSG;
		while (d.owed) {
			const int part = d.owed > CHUNK	   ? CHUNK
					 : d.owed < -CHUNK ? -CHUNK
							   : (int)d.owed;
			lend(s, &d, part, true);
			d.owed -= part;
		}
		if (d.last)
			lend(s, &d, 1, false);
	}
	return 0;
}

const struct vin_trait vin_undo = {
	.name = "semaphores to undo", .check = check, .ask = ask, .put = put, .replay = replay
};
