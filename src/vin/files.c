#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/kinds.h"
#include "vin/netlock.h"
#include "vin/search.h"
#include "vin/status.h"

/* What looking needs; opens[] is in the order of identity until all are there. */
struct look {
	struct vin_files *to;
	bool no_kcmp;
};

static void open_free(struct vin_open *o)
{
	if (o->its && o->kind && o->kind->unlook)
		o->kind->unlook(o->its);
	for (size_t i = 0; i < o->carried_count; i++)
		fvm_fd_closep(&o->carried[i].fd);
	free(o->carried);
	free(o->link);
	vin_fdinfo_free(&o->info);
	fvm_fd_closep(&o->fd);
}

void vin_table_free(struct vin_table *t)
{
	free(t->entries);
	free(t->locks);
	free(t->late);
	*t = (struct vin_table){ 0 };
}

void vin_files_sought_free(struct vin_sought_list *s)
{
	if (s)
		vin_sought_free(s);
	free(s);
}

struct vin_sought_list *vin_files_sought(struct vin_files *f)
{
	struct vin_sought_list *s = f->sought;
	f->sought = NULL;
	return s;
}

void vin_files_free(struct vin_files *f)
{
	vin_netlock_resume(f);
	for (size_t i = 0; i < f->count; i++)
		open_free(&f->opens[i]);
	for (size_t i = 0; i < f->table_count; i++)
		vin_table_free(&f->tables[i]);
	vin_files_sought_free(f->sought);
	for (size_t i = 0; i < f->asker_count; i++)
		fvm_fd_closep(&f->askers[i].fd);
	free(f->askers);
	free(f->opens);
	free(f->tables);
	*f = (struct vin_files){ .root = -1 };
}

/* ---- which are the same ---- */

/* The order that kcmp gives two descriptors of ours: -1, 0, 1; or -2: it does not tell. */
static int kcmp_order(int a, int b)
{
	pid_t self = getpid();
	long r = syscall(SYS_kcmp, self, self, KCMP_FILE, (unsigned long)a, (unsigned long)b);
	return r == 0 ? 0 : r == 1 ? -1 : r == 2 ? 1 : -2;
}

/* F_SETSIG belongs to the description and does nothing without O_ASYNC. What has O_PATH has no such
 * thing, nor anything else that could be told to be shared. */
static bool same_by_mark(const struct vin_open *a, const struct vin_open *b)
{
	if (a->info.flags & O_PATH)
		return b->info.flags & O_PATH && strcmp(a->link, b->link) == 0;
	int was = fcntl(a->fd, F_GETSIG), mark = was == SIGURG ? SIGWINCH : SIGURG;
	if (was < 0 || fcntl(b->fd, F_GETSIG) != was || fcntl(a->fd, F_SETSIG, mark) < 0)
		return false;
	bool same = fcntl(b->fd, F_GETSIG) == mark;
	(void)fcntl(a->fd, F_SETSIG, was);
	return same;
}

static int inode_order(const struct stat *a, const struct stat *b)
{
	if (a->st_dev != b->st_dev)
		return a->st_dev < b->st_dev ? -1 : 1;
	return a->st_ino < b->st_ino ? -1 : a->st_ino > b->st_ino;
}

/* Where @o belongs in the order, or is; @whole asks kcmp about those of one inode, too. */
static size_t search(struct look *l, const struct vin_open *o, bool whole, bool *ret_there)
{
	const struct vin_files *f = l->to;
	size_t from = 0, to = f->count;
	while (from < to) {
		size_t at = from + (to - from) / 2;
		int order = inode_order(&o->st, &f->opens[at].st);
		if (order == 0 && whole)
			order = kcmp_order(o->fd, f->opens[at].fd);
		if (order == 0 && whole) {
			*ret_there = true;
			return at;
		}
		if (order == -2) {
			l->no_kcmp = true;
			break;
		}
		if (order > 0)
			from = at + 1;
		else
			to = at;
	}
	return from;
}

static size_t find(struct look *l, const struct vin_open *o, bool *ret_there)
{
	const struct vin_files *f = l->to;
	*ret_there = false;
	size_t at = l->no_kcmp ? 0 : search(l, o, true, ret_there);
	if (!l->no_kcmp)
		return at;
	for (at = search(l, o, false, ret_there);
	     at < f->count && vin_same_inode(&o->st, &f->opens[at].st); at++) {
		if (same_by_mark(o, &f->opens[at])) {
			*ret_there = true;
			return at;
		}
	}
	return at;
}

/* ---- looking ---- */

/* What it is, as told of the descriptor @number of @pid. */
static int describe(struct vin_open *o, pid_t pid, int number, struct fvm_error *err)
{
	char path[64], link[4096 + 16];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", o->fd);
	ssize_t len = readlink(path, link, sizeof(link) - 1);
	if (len < 0 || fstat(o->fd, &o->st) < 0)
		return fvm_error_set(err, errno, "look at descriptor %d of process %d", o->number,
				     o->pid);
	link[len] = '\0';
	o->link = strdup(link);
	if (!o->link)
		return fvm_error_set(err, ENOMEM, "look at process %d", o->pid);
	return vin_fdinfo_read(pid, number, &o->info, err);
}

/* Whose descriptor went away while we looked is left out: -ENOENT. */
static int pull(int pidfd, struct vin_open *o, struct fvm_error *err)
{
	o->fd = pidfd_getfd(pidfd, o->number, 0);
	if (o->fd < 0)
		return errno == EBADF
			       ? -ENOENT
			       : fvm_error_set(err, errno, "take descriptor %d of process %d",
					       o->number, o->pid);
	return describe(o, o->pid, o->number, err);
}

static int insert(struct vin_files *f, size_t at, struct vin_open *o)
{
	struct vin_open *more = realloc(f->opens, fvm_room(f->count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	f->opens = more;
	memmove(more + at + 1, more + at, (f->count - at) * sizeof(*more));
	/* a table's entry names its description by id, which moves with it */
	o->id = f->count++;
	more[at] = *o;
	return 0;
}

static int add_entry(struct vin_table *t, const struct vin_entry *e)
{
	struct vin_entry *more = realloc(t->entries, fvm_room(t->count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	t->entries = more;
	t->entries[t->count++] = *e;
	return 0;
}

static bool has_lock(const struct vin_table *t, size_t file, const struct vin_lock *lock)
{
	for (size_t i = 0; i < t->lock_count; i++) {
		const struct vin_posix_lock *there = &t->locks[i];
		for (size_t e = 0; e < t->count; e++) {
			if (t->entries[e].number == there->number && t->entries[e].file == file &&
			    there->lock.start == lock->start)
				return true;
		}
	}
	return false;
}

/* Those of the process: shown with each of its descriptors that leads to the same description. */
static int add_posix_locks(struct vin_table *t, size_t file, int fd, const struct vin_fdinfo *info)
{
	for (size_t i = 0; i < info->lock_count; i++) {
		const struct vin_lock *lock = &info->locks[i];
		if (lock->kind != VIN_LOCK_POSIX || has_lock(t, file, lock))
			continue;
		struct vin_posix_lock *more =
			realloc(t->locks, fvm_room(t->lock_count + 1) * sizeof(*more));
		if (!more)
			return -ENOMEM;
		t->locks = more;
		t->locks[t->lock_count++] = (struct vin_posix_lock){ fd, *lock };
	}
	return 0;
}

static int look_at(struct look *l, int pidfd, struct vin_table *t, int number,
		   struct fvm_error *err)
{
	struct vin_open o = { .pid = t->via, .number = number, .fd = -1 };
	struct vin_entry e = { .number = number };
	bool there;
	int r = pull(pidfd, &o, err);
	if (r < 0) {
		open_free(&o);
		return r == -ENOENT ? 0 : r;
	}
	size_t at = find(l, &o, &there);
	e.file = there ? l->to->opens[at].id : l->to->count;
	e.cloexec = o.info.flags & O_CLOEXEC;
	e.unsure = e.cloexec && fcntl(o.fd, F_GETFL) & O_CLOEXEC;
	r = add_posix_locks(t, e.file, number, &o.info);
	if (r == 0)
		r = add_entry(t, &e);
	if (r == 0 && !there) {
		o.kind = vin_given_find(l->to, &o) ? &vin_kind_given : vin_kind_find(&o);
		r = insert(l->to, at, &o);
	}
	if (there || r < 0)
		open_free(&o);
	return r < 0 ? fvm_error_set(err, -r, "look at process %d", t->pid) : 0;
}

static int by_number(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;
	return x < y ? -1 : x > y;
}

/* The numbers that /proc/PID/fd names, in order. */
static int list_numbers(pid_t pid, int **ret, size_t *ret_count, struct fvm_error *err)
{
	char path[40];
	scoped_free int *numbers = NULL;
	size_t count = 0;
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	scoped_dir dir = opendir(path);
	if (!dir)
		return fvm_error_set(err, errno == ENOENT ? ESRCH : errno, "open %s", path);
	for (struct dirent *e; (e = readdir(dir));) {
		char *after;
		long n = strtol(e->d_name, &after, 10);
		if (*after || after == e->d_name || n < 0 || n >= VIN_FILES_MAX)
			continue;
		int *more = realloc(numbers, fvm_room(count + 1) * sizeof(*more));
		if (!more)
			return fvm_error_set(err, ENOMEM, "read %s", path);
		numbers = more;
		numbers[count++] = (int)n;
	}
	if (count > 0)
		qsort(numbers, count, sizeof(*numbers), by_number);
	*ret = fvm_take_ptr(&numbers);
	*ret_count = count;
	return 0;
}

/* A current directory that was deleted is held here as if it were open. */
static int look_at_directory(struct look *l, struct vin_table *t, struct fvm_error *err)
{
	struct vin_open o = { .pid = t->via, .number = -1 };
	char path[40];
	bool there;
	if (!vin_dir_nameless(t->via))
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/cwd", t->via);
	o.fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (o.fd < 0)
		return fvm_error_set(err, errno == ENOENT ? ESRCH : errno, "open %s", path);
	int r = describe(&o, getpid(), o.fd, err);
	if (r < 0) {
		open_free(&o);
		return r;
	}
	const size_t at = find(l, &o, &there);
	o.kind = vin_kind_find(&o);
	t->current = l->to->count + 1;
	r = insert(l->to, at, &o);
	if (r < 0)
		open_free(&o);
	return r < 0 ? fvm_error_set(err, -r, "look at process %d", t->pid) : 0;
}

static int look_at_process(struct look *l, struct vin_table *t, struct fvm_error *err)
{
	scoped_free int *numbers = NULL;
	size_t count = 0;
	t->via = vin_living_thread(t->pid);
	/* only a thread that has not ended has files */
	scoped_fd pidfd = pidfd_open(t->via, t->via == t->pid ? 0 : PIDFD_THREAD);
	if (pidfd < 0 && errno == EINVAL)
		return fvm_error_say(
			err, EOPNOTSUPP,
			"process %d can't be captured: its first thread has ended, and "
			"this kernel gives files of first threads only",
			t->pid);
	if (pidfd < 0)
		return fvm_error_set(err, errno, "find process %d", t->pid);
	int r = list_numbers(t->via, &numbers, &count, err);
	for (size_t i = 0; r == 0 && i < count; i++)
		r = look_at(l, pidfd, t, numbers[i], err);
	return r == 0 ? look_at_directory(l, t, err) : r;
}

/* ---- what is on its way ---- */

/* Where it stands changes when others are added; its id does not, so far. */
static struct vin_open *by_id(const struct vin_files *f, size_t id)
{
	size_t at = 0;
	while (f->opens[at].id != id)
		at++;
	return &f->opens[at];
}

/* What a queue carries is a description like others, which may be open elsewhere, too. */
static int find_carried(struct look *l, size_t carrier, size_t n, struct fvm_error *err)
{
	struct vin_open *by = by_id(l->to, carrier);
	struct vin_open o = { .pid = by->pid, .number = by->number, .in_flight = true };
	bool there;
	o.fd = fvm_fd_take(&by->carried[n].fd);
	int r = describe(&o, getpid(), o.fd, err);
	if (r < 0) {
		open_free(&o);
		return r;
	}
	size_t at = find(l, &o, &there);
	by->carried[n].file = there ? l->to->opens[at].id : l->to->count;
	if (!there) {
		o.kind = vin_given_find(l->to, &o) ? &vin_kind_given : vin_kind_find(&o);
		r = insert(l->to, at, &o);
	}
	if (there || r < 0)
		open_free(&o);
	return r < 0 ? fvm_error_set(err, -r, "look into queues") : 0;
}

static int look_closer(struct look *l, size_t id, struct fvm_error *err)
{
	struct vin_open *o = by_id(l->to, id);
	int r = o->kind && o->kind->look ? o->kind->look(l->to, o, err) : 0;
	if (r < 0)
		return fvm_error_wrap(err, r, "process %d, descriptor %d", o->pid, o->number);
	const size_t count = o->carried_count;
	for (size_t n = 0; r == 0 && n < count; n++)
		r = find_carried(l, id, n, err);
	return r;
}

/* A queue may carry what has a queue: those come behind, until there is none that is new. */
static int look_inside(struct look *l, struct fvm_error *err)
{
	const size_t first = l->to->count;
	scoped_free size_t *ids = malloc((first + 1) * sizeof(*ids));
	size_t count = 0;
	int r = 0;
	if (!ids)
		return fvm_error_set(err, ENOMEM, "look into queues");
	for (size_t i = 0; i < first; i++) {
		const struct vin_open *o = &l->to->opens[i];
		if (o->kind && o->kind->look)
			ids[count++] = o->id;
	}
	for (size_t i = 0; r == 0 && i < count; i++)
		r = look_closer(l, ids[i], err);
	for (size_t id = first; r == 0 && id < l->to->count; id++)
		r = look_closer(l, id, err);
	return r;
}

/* ---- the order of the image ---- */

/* Inodes in the order in which they were found, so that an image of the same programs is the same;
 * of one inode, readers first. */
struct place {
	size_t old, first;
	int mode;
	bool late; /* not before all others */
};

static int by_place(const void *a, const void *b)
{
	const struct place *x = a, *y = b;
	if (x->late != y->late)
		return x->late - y->late;
	if (x->first != y->first)
		return x->first < y->first ? -1 : 1;
	if (x->mode != y->mode)
		return x->mode < y->mode ? -1 : 1;
	return x->old < y->old ? -1 : x->old > y->old;
}

/* Those of one inode stand together in the order of identity. All anonymous ones (eventfds and
 * such) share one, and are nobody's twins. */
static void find_places(const struct vin_files *f, struct place *places)
{
	for (size_t from = 0, to; from < f->count; from = to) {
		const struct vin_open *o = &f->opens[from];
		size_t first = o->id;
		bool early = o->kind && o->kind->apart && o->kind->apart(o);
		bool alone = early || strncmp(o->link, "anon_inode:", 11) == 0;
		for (to = from; to < f->count && (to == from || !alone) &&
				vin_same_inode(&o->st, &f->opens[to].st);
		     to++)
			first = f->opens[to].id < first ? f->opens[to].id : first;
		for (size_t i = from; i < to; i++)
			places[i] =
				(struct place){ f->opens[i].id, first,
						(int)(f->opens[i].info.flags & O_ACCMODE), !early };
	}
}

static int renumber(struct vin_files *f)
{
	scoped_free struct place *places = calloc(f->count + 1, sizeof(*places));
	scoped_free size_t *to = calloc(f->count + 1, sizeof(*to));
	struct vin_open *sorted = calloc(f->count + 1, sizeof(*sorted));
	if (!places || !to || !sorted) {
		free(sorted);
		return -ENOMEM;
	}
	find_places(f, places);
	qsort(places, f->count, sizeof(*places), by_place);
	for (size_t i = 0; i < f->count; i++)
		to[places[i].old] = i;
	for (size_t i = 0; i < f->count; i++)
		sorted[to[f->opens[i].id]] = f->opens[i];
	for (size_t i = 0; i < f->count; i++) {
		bool twin = i > 0 && places[i].first == places[i - 1].first;
		sorted[i].id = i;
		sorted[i].twin = twin ? sorted[i - 1].twin : i;
	}
	free(f->opens);
	f->opens = sorted;
	for (size_t t = 0; t < f->table_count; t++) {
		for (size_t e = 0; e < f->tables[t].count; e++)
			f->tables[t].entries[e].file = to[f->tables[t].entries[e].file];
		if (f->tables[t].current)
			f->tables[t].current = to[f->tables[t].current - 1] + 1;
	}
	for (size_t i = 0; i < f->count; i++) {
		for (size_t n = 0; n < f->opens[i].carried_count; n++)
			f->opens[i].carried[n].file = to[f->opens[i].carried[n].file];
	}
	return 0;
}

/* Names of what is watched, and of what has lost the one it was opened by. */
static int look_for_names(struct vin_files *f)
{
	bool any = false;
	for (size_t i = 0; !any && i < f->count; i++)
		any = vin_sought_any(f, &f->opens[i]);
	if (!any)
		return 0;
	f->sought = calloc(1, sizeof(*f->sought));
	return f->sought ? vin_search(f, f->before, f->sought) : -ENOMEM;
}

int vin_files_look(const pid_t *pids, size_t count, struct vin_files *ret, struct fvm_error *err)
{
	scoped_files f = {
		.root = ret->root,
		.own = ret->own,
		.before = ret->before,
		.stopped = ret->stopped,
		.given = ret->given,
		.given_count = ret->given_count,
	};
	struct look l = { .to = &f, .no_kcmp = ret->no_kcmp };
	fvm_raise_descriptors(NULL);
	f.tables = calloc(count + 1, sizeof(*f.tables));
	if (!f.tables)
		return fvm_error_set(err, ENOMEM, "look at open files");
	int r = 0;
	for (size_t i = 0; r == 0 && i < count; i++) {
		f.tables[f.table_count++].pid = pids[i];
		r = look_at_process(&l, &f.tables[i], err);
	}
	if (r == 0)
		r = look_inside(&l, err);
	if (r == 0 && renumber(&f) < 0)
		r = fvm_error_set(err, ENOMEM, "look at open files");
	if (r == 0 && (r = look_for_names(&f)) < 0)
		fvm_error_set(err, -r, "find the names of what is watched");
	if (r == 0) {
		*ret = f;
		f = (struct vin_files){ .root = -1 };
	}
	return r;
}

/* ---- check ---- */

/* Whether it is somebody's descriptor. */
static bool has_number(const struct vin_files *f, size_t id)
{
	for (size_t t = 0; t < f->table_count; t++) {
		for (size_t e = 0; e < f->tables[t].count; e++) {
			if (f->tables[t].entries[e].file == id)
				return true;
		}
	}
	return false;
}

static int check_one(const struct vin_files *f, const struct vin_open *o, struct fvm_error *err)
{
	struct fvm_error why = { 0 };
	int r = 0;
	if (!o->kind)
		r = vin_unknown_say(o, &why);
	else if (o->kind->meet && !has_number(f, o->id))
		r = fvm_error_say(&why, EOPNOTSUPP,
				  "it leads to a process and is on its way through a socket");
	else if (o->kind->check)
		r = o->kind->check(f, o, &why);
	if (r == 0)
		return 0;
	if (o->number < 0)
		return fvm_error_say(err, EOPNOTSUPP, "process %d, current directory (%.100s): %s",
				     o->pid, o->link, why.text);
	return fvm_error_say(err, EOPNOTSUPP, "process %d, descriptor %d%s (%.100s): %s", o->pid,
			     o->number, o->in_flight ? " carries another one" : "", o->link,
			     why.text);
}

int vin_files_check(const struct vin_files *f, vin_refusal_fn fn, void *arg, struct fvm_error *err)
{
	int result = 0;
	for (size_t i = 0; i < f->count; i++) {
		struct fvm_error why = { 0 };
		if (check_one(f, &f->opens[i], &why) == 0)
			continue;
		if (fn)
			fn(arg, &f->opens[i], &why);
		if (result == 0 && err)
			*err = why;
		result = -EOPNOTSUPP;
	}
	return result;
}
