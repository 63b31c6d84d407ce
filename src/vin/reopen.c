#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/kinds.h"
#include "vin/namespaces.h"
#include "vin/unix.h"

void vin_reopen_share(struct vin_reopen *r, const struct vin_objects *objects)
{
	r->objects = objects;
}

int vin_shared_maker(const struct vin_reopen *r, const struct vin_file *f)
{
	for (size_t i = 0; r->objects && i < r->objects->count; i++) {
		const struct vin_object *o = &r->objects->list[i];
		if (o->file == f->id + 1 && o->fd >= 0 && o->kind != VIN_OBJECT_SEGMENT)
			return fvm_nerr(fcntl(o->fd, F_DUPFD_CLOEXEC, 3));
	}
	return -ENOENT;
}

/* ---- taking records apart ---- */

static int parse_lock(struct vin_payload *p, struct vin_lock *ret)
{
	uint64_t kind = vin_get_u64(p), write = vin_get_u64(p);
	int64_t start = (int64_t)vin_get_u64(p), end = (int64_t)vin_get_u64(p);
	if (p->failed || kind > VIN_LOCK_LEASE || write > 1 || start < 0 ||
	    (end >= 0 && end < start))
		return -EBADMSG;
	*ret = (struct vin_lock){
		.kind = (enum vin_lock_kind)kind, .write = write, .start = start, .end = end
	};
	return 0;
}

/* How many things of at least @size bytes follow; more than the payload holds are none of ours. */
static int parse_count(struct vin_payload *p, size_t size, size_t *ret)
{
	uint64_t count = vin_get_u64(p);
	if (p->failed || count > (size_t)(p->end - p->at) / size)
		return -EBADMSG;
	*ret = (size_t)count;
	return 0;
}

static int parse_locks(struct vin_payload *p, struct vin_file *f)
{
	size_t count;
	int r = parse_count(p, 32, &count);
	f->locks = r == 0 ? calloc(count + 1, sizeof(*f->locks)) : NULL;
	if (r == 0 && !f->locks)
		r = -ENOMEM;
	while (r == 0 && f->lock_count < count)
		r = parse_lock(p, &f->locks[f->lock_count++]);
	return r;
}

static int parse_owner(struct vin_payload *p, struct vin_file *f)
{
	uint64_t type = vin_get_u64(p), pid = vin_get_u64(p), sig = vin_get_u64(p);
	if (p->failed || type > F_OWNER_PGRP + 1 || pid > INT32_MAX || sig > 64 ||
	    (type > 0 && pid == 0))
		return -EBADMSG;
	f->owner_type = (int)type - 1;
	f->owner = (pid_t)pid;
	f->owner_signal = (int)sig;
	return 0;
}

static int parse_its(struct vin_payload *p, struct vin_file *f)
{
	if (!f->kind->parse)
		return vin_get_done(p);
	f->its = calloc(1, f->kind->size);
	if (!f->its)
		return -ENOMEM;
	int r = f->kind->parse(p, f->id == f->twin, f->its);
	return r < 0 ? r : vin_get_done(p);
}

int vin_file_parse(struct vin_payload *p, size_t count, struct vin_file *ret)
{
	struct vin_file f = { .fd = -1, .maker = -1 };
	uint64_t id = vin_get_u64(p);
	const struct vin_kind *kind = vin_kind_number(vin_get_u64(p));
	uint64_t twin = vin_get_u64(p), flags = vin_get_u64(p);
	f.pos = (int64_t)vin_get_u64(p);
	if (p->failed || !kind || id >= count || twin > id || flags > UINT32_MAX)
		return -EBADMSG;
	f.kind = kind;
	f.id = (size_t)id;
	f.twin = (size_t)twin;
	f.flags = (unsigned int)flags;
	int r = parse_owner(p, &f);
	if (r == 0)
		r = parse_locks(p, &f);
	if (r == 0)
		r = parse_its(p, &f);
	if (r < 0)
		vin_file_free(&f);
	else
		*ret = f;
	return r;
}

void vin_file_free(struct vin_file *f)
{
	if (f->its && f->kind->forget)
		f->kind->forget(f->its);
	free(f->its);
	free(f->locks);
	if (f->kind) { /* only then the descriptors are ones */
		fvm_fd_closep(&f->fd);
		fvm_fd_closep(&f->maker);
	}
	*f = (struct vin_file){ .fd = -1, .maker = -1 };
}

static int parse_entries(struct vin_payload *p, size_t files, struct vin_table *t)
{
	size_t count;
	int r = parse_count(p, 24, &count);
	t->entries = r == 0 ? calloc(count + 1, sizeof(*t->entries)) : NULL;
	if (r == 0 && !t->entries)
		return -ENOMEM;
	for (int last = -1; r == 0 && t->count < count;) {
		uint64_t number = vin_get_u64(p), cloexec = vin_get_u64(p), file = vin_get_u64(p);
		if (p->failed || number >= VIN_FILES_MAX || (int)number <= last || cloexec > 1 ||
		    file >= files)
			return -EBADMSG;
		last = (int)number;
		t->entries[t->count++] = (struct vin_entry){ .number = last,
							     .cloexec = cloexec,
							     .file = (size_t)file };
	}
	return r;
}

static bool has_number(const struct vin_table *t, uint64_t number)
{
	for (size_t i = 0; i < t->count; i++) {
		if ((uint64_t)t->entries[i].number == number)
			return true;
	}
	return false;
}

static int parse_posix_locks(struct vin_payload *p, struct vin_table *t)
{
	size_t count;
	int r = parse_count(p, 40, &count);
	t->locks = r == 0 ? calloc(count + 1, sizeof(*t->locks)) : NULL;
	if (r == 0 && !t->locks)
		return -ENOMEM;
	while (r == 0 && t->lock_count < count) {
		struct vin_posix_lock *l = &t->locks[t->lock_count++];
		uint64_t number = vin_get_u64(p);
		r = parse_lock(p, &l->lock);
		if (r == 0 && (!has_number(t, number) || l->lock.kind != VIN_LOCK_POSIX))
			r = -EBADMSG;
		l->number = (int)number;
	}
	return r;
}

int vin_table_parse(struct vin_payload *p, size_t count, struct vin_table *ret)
{
	struct vin_table t = { 0 };
	uint64_t pid = vin_get_u64(p);
	int r = p->failed || pid == 0 || pid > INT32_MAX ? -EBADMSG : 0;
	t.pid = (pid_t)pid;
	if (r == 0)
		r = parse_entries(p, count, &t);
	if (r == 0)
		r = parse_posix_locks(p, &t);
	t.current = (size_t)vin_get_u64(p);
	if (r == 0 && t.current > count)
		r = -EBADMSG;
	if (r == 0)
		r = vin_get_done(p);
	if (r < 0)
		vin_table_free(&t);
	else
		*ret = t;
	return r;
}

/* ---- opening ---- */

static int open_self(struct fvm_error *err)
{
	struct statfs fs;
	scoped_fd self = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (self < 0 || fstatfs(self, &fs) < 0)
		return fvm_error_set(err, errno, "open /proc/self/fd");
	if (fs.f_type != PROC_SUPER_MAGIC)
		return fvm_error_say(err, ENOENT, "/proc is not the kernel's");
	return fvm_fd_take(&self);
}

/* The pool holds a descriptor and a maker for each file; some more are needed on the way. */
static int check_room(uint64_t highest, uint64_t count, struct fvm_error *err)
{
	struct rlimit limit;
	fvm_raise_descriptors(NULL);
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && highest + 2 * count + 64 < limit.rlim_cur)
		return 0;
	fvm_error_say(err, EMFILE,
		      "the programs have descriptors up to %llu, this process may "
		      "have %llu",
		      (unsigned long long)highest, (unsigned long long)limit.rlim_cur);
	fvm_error_hint(err, "raise the limit of open files (ulimit -n)");
	return -EMFILE;
}

int vin_reopen_begin(int root, struct vin_payload *p, struct vin_reopen **ret,
		     struct fvm_error *err)
{
	uint64_t count = vin_get_u64(p), highest = vin_get_u64(p);
	if (vin_get_done(p) < 0 || count > VIN_FILES_MAX || highest >= VIN_FILES_MAX)
		return fvm_error_set(err, EBADMSG, "understand how many files there are");
	int r = check_room(highest, count, err);
	scoped_fd self = r < 0 ? r : open_self(err);
	if (self < 0)
		return self;
	struct vin_reopen *re = calloc(1, sizeof(*re));
	if (re)
		re->files = calloc(count + 1, sizeof(*re->files));
	if (!re || !re->files) {
		free(re);
		return fvm_error_set(err, ENOMEM, "get ready for %zu files", (size_t)count);
	}
	re->root = root;
	re->within = -1;
	re->base = (int)highest + 1;
	re->count = (size_t)count;
	re->self = fcntl(self, F_DUPFD_CLOEXEC, re->base);
	*ret = re;
	return 0;
}

void vin_reopen_given(struct vin_reopen *r, const struct vin_given *given, size_t count)
{
	r->given = given;
	r->given_count = count;
}

void vin_reopen_moved(struct vin_reopen *r, const struct vin_moved *m, bool outside_gone)
{
	r->moved = m;
	r->outside_gone = outside_gone;
}

int vin_reopen_within(struct vin_reopen *r, pid_t first, struct fvm_error *err)
{
	scoped_fd pidfd = pidfd_open(first, 0);
	r->within = pidfd < 0 ? -1 : fcntl(pidfd, F_DUPFD_CLOEXEC, r->base);
	return r->within < 0 ? fvm_error_set(err, errno, "hold process %d", first) : 0;
}

/* Into the pool, where no number of the programs is. */
static int to_pool(const struct vin_reopen *r, int *fd)
{
	if (*fd < 0 || *fd >= r->base)
		return 0;
	int moved = fcntl(*fd, F_DUPFD_CLOEXEC, r->base);
	if (moved < 0)
		return -errno;
	close(*fd);
	*fd = moved;
	return 0;
}

int vin_file_set(const struct vin_file *f)
{
	int now = fcntl(f->fd, F_GETFL);
	int want = (now & ~VIN_SETTABLE) | ((int)f->flags & VIN_SETTABLE & ~O_ASYNC);
	if (f->flags & O_PATH)
		return 0;
	if (now < 0 || (want != now && fcntl(f->fd, F_SETFL, want) < 0))
		return -errno;
	if (f->kind->seeks && lseek(f->fd, f->pos, SEEK_SET) < 0)
		return -errno;
	return 0;
}

/* ---- files of namespaces that only some programs are in ---- */

void vin_reopen_own(struct vin_reopen *r, const struct vin_namespaces *own)
{
	r->own = own;
}

typedef int (*file_fn)(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err);

struct errand {
	struct vin_reopen *r;
	struct vin_file *f;
	file_fn fn;
	int net, ret;
	struct fvm_error *err;
};

static int go_and_do(void *arg)
{
	struct errand *e = arg;
	e->ret = setns(e->net, CLONE_NEWNET) < 0
			 ? fvm_error_set(e->err, errno, "enter its network namespace")
			 : e->fn(e->r, e->f, e->err);
	return 0;
}

/* What is done with a file, where it is to be. */
static int have_done(struct vin_reopen *r, struct vin_file *f, file_fn fn, struct fvm_error *err)
{
	const struct vin_namespace *of = r->own && fn ? vin_namespaces_file(r->own, f->id) : NULL;
	struct errand e = { r, f, fn, of ? of->fd : -1, -EIO, err };
	if (!of)
		return fn ? fn(r, f, err) : 0;
	if (of->root >= 0) {
		const int root = r->root;
		r->root = of->root;
		const int there = fn(r, f, err);
		r->root = root;
		return there;
	}
	int ret = unix_beside(go_and_do, &e);
	return ret < 0 ? fvm_error_set(err, -ret, "enter its network namespace") : e.ret;
}

/* ---- one after the other ---- */

static int take_file(struct vin_reopen *r, struct vin_payload *p, struct fvm_error *err)
{
	struct vin_file f;
	int ret = vin_file_parse(p, r->count, &f);
	if (ret < 0)
		return fvm_error_set(err, -ret, "understand a file of the image");
	/* one after the other, and twins are of one kind */
	if (f.id != r->taken || (f.twin != f.id && (r->files[f.twin].kind != f.kind ||
						    r->files[f.twin].twin != f.twin))) {
		vin_file_free(&f);
		return fvm_error_set(err, EBADMSG, "understand a file of the image");
	}
	struct vin_file *to = &r->files[r->taken++];
	*to = f;
	to->fd = have_done(r, to, f.kind->open, err);
	ret = to->fd < 0 ? to->fd : to_pool(r, &to->fd);
	if (ret == 0)
		ret = to_pool(r, &to->maker);
	if (ret == 0 && !to->late && (ret = vin_file_set(to)) < 0)
		fvm_error_set(err, -ret, "set what it is like");
	return ret < 0 ? fvm_error_wrap(err, ret, "open %s (file %zu)", f.kind->name, f.id) : 0;
}

static int take_table(struct vin_reopen *r, struct vin_payload *p, struct fvm_error *err)
{
	struct vin_table t;
	int ret = vin_table_parse(p, r->count, &t);
	if (ret == 0 && t.count > 0 && t.entries[t.count - 1].number >= r->base) {
		vin_table_free(&t);
		ret = -EBADMSG;
	}
	if (ret < 0)
		return fvm_error_set(err, -ret, "understand the descriptors of a process");
	struct vin_table *more = realloc(r->tables, fvm_room(r->table_count + 1) * sizeof(*more));
	if (!more) {
		vin_table_free(&t);
		return fvm_error_set(err, ENOMEM, "keep the descriptors of a process");
	}
	r->tables = more;
	r->tables[r->table_count++] = t;
	return 0;
}

int vin_reopen_take(struct vin_reopen *r, enum vin_tag tag, struct vin_payload *p,
		    struct fvm_error *err)
{
	if (tag == VIN_TAG_FILE && r->taken < r->count)
		return take_file(r, p, err);
	if (tag == VIN_TAG_DATA)
		return vin_content_take(r, p, err);
	if (tag == VIN_TAG_FDS)
		return take_table(r, p, err);
	return fvm_error_set(err, EBADMSG, "understand a record of the image");
}

/* ---- the end ---- */

int vin_reopen_fill(struct vin_reopen *r, struct fvm_error *err)
{
	int ret = 0;
	if (r->taken < r->count)
		return fvm_error_set(err, EBADMSG, "find all files in the image");
	for (size_t i = 0; ret == 0 && !r->filled && i < r->count; i++) {
		ret = have_done(r, &r->files[i], r->files[i].kind->fill, err);
	}
	r->filled = true;
	return ret;
}

bool vin_reopen_ours(const struct vin_payload *p)
{
	struct vin_payload head = *p;
	(void)vin_get_u64(&head); /* its number */
	return vin_get_u64(&head) == VIN_KIND_TCP && !head.failed;
}

void vin_reopen_apart(struct vin_reopen *r)
{
	r->apart = true;
}

int vin_reopen_settle(struct vin_reopen *r, struct fvm_error *err)
{
	int ret = 0;
	for (size_t i = 0; ret == 0 && i < r->count; i++) {
		if (r->files[i].kind == &vin_kind_tcp)
			ret = have_done(r, &r->files[i], vin_kind_tcp.settle, err);
	}
	return ret;
}

int vin_reopen_finish(struct vin_reopen *r, struct fvm_error *err)
{
	int ret = vin_reopen_fill(r, err);
	for (size_t i = 0; ret == 0 && i < r->count; i++) {
		if (r->files[i].late && !r->files[i].met)
			ret = fvm_error_set(err, ESRCH, "open %s before there are processes",
					    r->files[i].kind->name);
	}
	for (size_t i = 0; ret == 0 && i < r->count; i++) {
		ret = have_done(r, &r->files[i], r->files[i].kind->finish, err);
	}
	/* a lease for writing is given only when nobody else has the file open */
	for (size_t i = 0; i < r->count; i++)
		fvm_fd_closep(&r->files[i].maker);
	for (size_t i = 0; ret == 0 && i < r->count; i++) {
		if (!(r->apart && r->files[i].kind == &vin_kind_tcp))
			ret = have_done(r, &r->files[i], r->files[i].kind->settle, err);
	}
	for (size_t i = 0; ret == 0 && i < r->count; i++)
		ret = vin_file_lock(&r->files[i], err);
	return ret < 0 ? ret : vin_late_plan(r, err);
}

void vin_reopen_close(struct vin_reopen *r)
{
	if (!r)
		return;
	for (size_t i = 0; i < r->taken; i++)
		vin_file_free(&r->files[i]);
	for (size_t i = 0; i < r->table_count; i++)
		vin_table_free(&r->tables[i]);
	fvm_fd_closep(&r->self);
	fvm_fd_closep(&r->within);
	free(r->files);
	free(r->tables);
	free(r);
}

const struct vin_table *vin_reopen_table(const struct vin_reopen *r, pid_t pid)
{
	for (size_t i = 0; i < r->table_count; i++) {
		if (r->tables[i].pid == pid)
			return &r->tables[i];
	}
	return NULL;
}

int vin_reopen_fd(const struct vin_reopen *r, size_t id)
{
	return id < r->taken ? r->files[id].fd : -1;
}

int vin_reopen_pool(const struct vin_reopen *r, int **ret, size_t *ret_count)
{
	int *fds = calloc(r->taken + 1, sizeof(*fds));
	if (!fds)
		return -ENOMEM;
	for (size_t i = 0; i < r->taken; i++)
		fds[i] = r->files[i].fd;
	*ret = fds;
	*ret_count = r->taken;
	return r->base;
}
