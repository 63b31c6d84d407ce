#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fvm/foreign.h"
#include "fvm/internal.h"
#include "fvm/root_priv.h"
#include "fvm/skeleton_priv.h"
#include "fvm/subids.h"

#define LIST_LIMIT    (512U << 20)
#define CHECK_EVERY_S 10
#define CHECK_MAX_S   30 /* it takes 30 ms, if no server hangs */
#define QUICK_DEPTH   3	 /* "/var/lib/dpkg" is renewed by whatever dpkg does */

struct refresh {
	const struct fvm_store *store;
	const struct fvm_skeleton_progress *progress;
	struct fvm_strv outs, tops; /* see skeleton_priv.h */
	int top;		    /* STORE/skeleton/HOST */
	char host[65];
	char gen[24]; /* name of the current generation, or "" */
	int dir, tree, lock;
	char *list; /* of the current generation, NULL: none */
	size_t list_len;
	struct fvm_buf header;
	bool check_later;
};

void fvm_skeleton_close(struct fvm_skeleton *s)
{
	fvm_fd_closep(&s->tree);
	fvm_fd_closep(&s->lock);
}

/* ---- where it lies ---- */

static void host_name(char ret[65])
{
	scoped_free char *id = NULL;
	size_t n = 0;
	if (fvm_read_file(AT_FDCWD, "/etc/machine-id", 64, &id, NULL) == 0)
		n = strspn(id, "0123456789abcdef");
	if (n == 32) {
		memcpy(ret, id, n);
		ret[n] = '\0';
		return;
	}
	if (gethostname(ret, 64) < 0 || !ret[0] || ret[0] == '.' || strchr(ret, '/'))
		strcpy(ret, "host");
	ret[64] = '\0';
}

static int open_top(struct refresh *r)
{
	char path[80];
	host_name(r->host);
	snprintf(path, sizeof(path), "skeleton/%s", r->host);
	int e = fvm_mkdir_p(r->store->dir, path, 0700);
	return e < 0 ? e : fvm_open_nofollow(r->store->dir, path, O_RDONLY | O_DIRECTORY);
}

static int take_flock(int dir, const char *name, int how, int *ret_fd)
{
	int fd = openat(dir, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	while (flock(fd, how) < 0) {
		int r = -errno;
		if (r == -EINTR)
			continue;
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

static void forget_generation(struct refresh *r)
{
	fvm_fd_closep(&r->dir);
	fvm_fd_closep(&r->tree);
	fvm_fd_closep(&r->lock);
	free(r->list);
	r->list = NULL;
	r->gen[0] = '\0';
}

/* Opens the generation named @name and keeps its lock shared. */
static int open_generation(struct refresh *r, const char *name)
{
	forget_generation(r);
	r->dir = fvm_open_nofollow(r->top, name, O_RDONLY | O_DIRECTORY);
	if (r->dir < 0)
		return r->dir;
	int e = take_flock(r->dir, "lock", LOCK_SH, &r->lock);
	if (e < 0)
		return e;
	r->tree = fvm_open_nofollow(r->dir, "tree", O_RDONLY | O_DIRECTORY);
	if (r->tree < 0)
		return r->tree;
	snprintf(r->gen, sizeof(r->gen), "%s", name);
	return 0;
}

static int open_current(struct refresh *r)
{
	char name[24];
	ssize_t n = readlinkat(r->top, "current", name, sizeof(name) - 1);
	if (n < 0)
		return -errno;
	name[n] = '\0';
	if (name[0] != 'g' || strchr(name, '/'))
		return -EBADMSG;
	return open_generation(r, name);
}

static void read_list(struct refresh *r)
{
	free(r->list);
	if (fvm_read_file(r->dir, "list", LIST_LIMIT, &r->list, &r->list_len) < 0)
		r->list = NULL;
}

/* ---- is it what the host has? ---- */

static bool header_fits(const struct refresh *r)
{
	return r->list && r->list_len >= r->header.len &&
	       memcmp(r->list, r->header.data, r->header.len) == 0;
}

static bool records_are_fresh(const struct refresh *r, const char *list, size_t len)
{
	struct skel_record record;
	if (!list || len < r->header.len || memcmp(list, r->header.data, r->header.len) != 0)
		return false;
	const char *at = list + r->header.len, *end = list + len;
	while (at < end) {
		if (!skel_next(&at, end, &record) || !skel_fresh(&record, &r->outs))
			return false;
	}
	return true;
}

/* Sets the stamp when the whole list is right. */
static bool list_is_fresh(const struct refresh *r)
{
	if (!header_fits(r) || !records_are_fresh(r, r->list, r->list_len)) {
		(void)unlinkat(r->dir, "checked", 0);
		return false;
	}
	scoped_fd stamp =
		openat(r->dir, "checked", O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (stamp >= 0)
		(void)futimens(stamp, NULL);
	return true;
}

static bool is_old(const struct stat *stamp)
{
	return llabs(fvm_now_ns() / 1000000000 - stamp->st_mtim.tv_sec) >= CHECK_EVERY_S;
}

/* Whether what is compared at each start is right, and the rest was when somebody looked last. */
static bool quick_is_fresh(const struct refresh *r, bool *ret_check_later)
{
	scoped_free char *list = NULL;
	struct stat st;
	size_t len;
	if (fstatat(r->dir, "checked", &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    fvm_read_file(r->dir, "quick", LIST_LIMIT, &list, &len) < 0)
		return false;
	*ret_check_later = is_old(&st);
	/* a list that is renewed with the host is never old, and says nothing of foreign.h's */
	if (fstatat(r->dir, "foreign", &st, AT_SYMLINK_NOFOLLOW) == 0 && is_old(&st))
		*ret_check_later = true;
	return records_are_fresh(r, list, len);
}

/* ---- making it so ---- */

static uint64_t count_dirs(const struct refresh *r, size_t *ret_shared)
{
	struct skel_record record;
	uint64_t n = 0, shared = 0;
	const char *at = r->list + r->header.len, *end = r->list + r->list_len;
	while (header_fits(r) && skel_next(&at, end, &record)) {
		n += record.kind == SKEL_DIR;
		shared += record.kind == SKEL_SHARED;
	}
	*ret_shared = shared;
	return n + shared;
}

/* A link can't be changed without its directory. */
static bool is_link(const struct skel_record *record)
{
	char path[PATH_MAX];
	struct stat st;
	memcpy(path, record->path, record->len);
	path[record->len] = '\0';
	return record->kind == SKEL_COPY && lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
}

static bool is_quick(const struct skel_record *record)
{
	size_t slashes = 0;
	if (record->kind == SKEL_OWNED_DIR || record->kind == SKEL_OWNED_FILE || is_link(record))
		return false;
	for (size_t i = 0; i < record->len; i++)
		slashes += record->path[i] == '/';
	return slashes <= QUICK_DEPTH || (record->len > 5 && memcmp(record->path, "/etc/", 5) == 0);
}

/* Where not all directories were taken; nearly always nowhere, and then there is no such file. */
static int write_left(const struct refresh *r, const struct fvm_buf *records)
{
	scoped_buf left = { 0 };
	struct skel_record record;
	char text[200];
	const char *at = records->data, *end = at + records->len;
	while (at < end && skel_next(&at, end, &record)) {
		if (record.kind != SKEL_LEFT_OUT || !record.ctime_ns)
			continue;
		fvm_buf_add(&left, record.path, record.len);
		fvm_buf_add(&left, "", 1);
		log_warn("%s: %s",
			 fvm_quote_error(left.failed ? "" : left.data + left.len - record.len - 1,
					 text),
			 FVM_SKELETON_LEFT);
	}
	if (left.failed)
		return -ENOMEM;
	if (left.len)
		return fvm_write_file_atomic(r->dir, "left", left.data, left.len, false);
	return unlinkat(r->dir, "left", 0) < 0 && errno != ENOENT ? -errno : 0;
}

static int write_owned(const struct refresh *r, const struct fvm_buf *records)
{
	scoped_buf owned = { 0 };
	struct skel_record record;
	const char *at = records->data, *end = at + records->len;
	while (at < end) {
		const char *start = at;
		if (!skel_next(&at, end, &record))
			break;
		if (record.kind == SKEL_OWNED_DIR || record.kind == SKEL_OWNED_FILE)
			fvm_buf_add(&owned, start, (size_t)(at - start));
	}
	if (owned.failed)
		return -ENOMEM;
	return fvm_write_file_atomic(r->dir, "owned", owned.data ? owned.data : "", owned.len,
				     false);
}

static int write_quick(const struct refresh *r, const struct fvm_buf *records)
{
	scoped_buf quick = { 0 };
	struct skel_record record;
	const char *at = records->data, *end = at + records->len;
	fvm_buf_add(&quick, r->header.data, r->header.len);
	while (at < end) {
		const char *start = at;
		if (!skel_next(&at, end, &record))
			break;
		if (is_quick(&record))
			fvm_buf_add(&quick, start, (size_t)(at - start));
	}
	int e = quick.failed ? -ENOMEM
			     : fvm_write_file_atomic(r->dir, "quick", quick.data, quick.len, false);
	scoped_fd stamp =
		openat(r->dir, "checked", O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (e == 0 && (stamp < 0 || futimens(stamp, NULL) < 0))
		e = -errno;
	return e;
}

static int write_list(const struct refresh *r, const struct fvm_buf *records, struct fvm_error *err)
{
	scoped_buf all = { 0 };
	fvm_buf_add(&all, r->header.data, r->header.len);
	if (records->len)
		fvm_buf_add(&all, records->data, records->len);
	if (all.failed)
		return fvm_error_set(err, ENOMEM, "list the host's directories");
	int e = fvm_write_file_atomic(r->dir, "list", all.data, all.len, false);
	if (e == 0)
		e = write_owned(r, records);
	if (e == 0)
		e = write_left(r, records);
	if (e == 0)
		e = write_quick(r, records);
	return e < 0 ? fvm_error_set(err, -e, "write the skeleton's list") : 0;
}

static int sync_group(struct skel_walk *w, const struct skel_record *dir, struct fvm_error *err)
{
	char path[PATH_MAX];
	memcpy(path, dir->path, dir->len);
	path[dir->len] = '\0';
	w->shared = dir->kind == SKEL_SHARED;
	int r = skel_sync_path(w, path, err);
	w->shared = false;
	return r;
}

/* Goes through the list; a directory that is as it was keeps its records. */
static int sync_changed(const struct refresh *r, struct skel_walk *w, struct fvm_error *err)
{
	const char *at = r->list + r->header.len, *end = r->list + r->list_len;
	struct skel_record dir = { 0 }, next;
	bool more = at < end;
	if (more && !skel_next(&at, end, &dir))
		return -EBADMSG;
	while (more) {
		const char *start = dir.path - 11, *stop;
		bool fresh = skel_fresh(&dir, &r->outs);
		for (;;) {
			stop = at;
			more = at < end;
			if (more && !skel_next(&at, end, &next))
				return -EBADMSG;
			if (!more || skel_is_dir(next.kind))
				break;
			fresh = fresh && skel_fresh(&next, &r->outs);
		}
		int e = 0;
		if (fresh)
			fvm_buf_add(&w->list, start, (size_t)(stop - start));
		else
			e = sync_group(w, &dir, err);
		if (e < 0)
			return e;
		dir = next;
	}
	return w->list.failed ? -ENOMEM : 0;
}

static struct skel_walk make_walk(const struct refresh *r)
{
	struct stat st = { 0 };
	(void)fstat(r->store->dir, &st);
	return (struct skel_walk){
		.store_st = st,
		.outs = &r->outs,
		.tops = r->tops.count ? &r->tops : NULL,
		.store = r->store->path,
		.tree = r->tree,
		.progress = r->progress,
	};
}

/* Whether only the list is old. Return: 1 and it was written, 0, -EBADMSG when it is torn, ... */
static int only_the_list(const struct refresh *r, struct fvm_error *err)
{
	struct skel_walk w = make_walk(r);
	w.dry = true;
	(void)count_dirs(r, &w.shared_count);
	int e = sync_changed(r, &w, NULL);
	if (e == 0 && !w.differs)
		e = write_list(r, &w.list, err);
	fvm_buf_free(&w.list);
	return e < 0 ? e : !w.differs;
}

/* In place, with no VM on it. Without a list, everything is gone through. */
static int change(struct refresh *r, bool all, struct fvm_error *err)
{
	struct skel_walk w = make_walk(r);
	w.total = count_dirs(r, &w.shared_count);
	/* where the ids in it can't be had any more, it stays in the trash until they can */
	int e = fvm_trash(r->store, r->dir, "own", false);
	if (e < 0 && e != -EACCES && e != -EPERM)
		return fvm_error_set(err, -e, "renew the skeleton's layers");
	e = 0;
	if ((unlinkat(r->dir, "checked", 0) < 0 && errno != ENOENT) ||
	    (unlinkat(r->dir, "list", 0) < 0 && errno != ENOENT))
		e = fvm_error_set(err, errno, "renew the skeleton");
	if (e == 0 && !all)
		e = sync_changed(r, &w, err);
	if (e == 0 && all) {
		w.deep = true;
		w.shared_count = 0;
		e = skel_sync_tops(&w, err);
	}
	if (e == 0)
		e = write_list(r, &w.list, err);
	fvm_buf_free(&w.list);
	return e;
}

static int make_generation(struct refresh *r, struct fvm_error *err)
{
	char name[24] = "g", path[40];
	fvm_random_hex(name + 1, 16);
	snprintf(path, sizeof(path), "%s/tree", name);
	int e = fvm_mkdir_p(r->top, path, 0700);
	if (e == 0)
		e = open_generation(r, name);
	if (e < 0)
		return fvm_error_set(err, -e, "make a skeleton");
	e = change(r, true, err);
	if (e < 0) {
		(void)fvm_remove_tree(r->top, name);
		return e;
	}
	(void)unlinkat(r->top, "next", 0);
	if (symlinkat(name, r->top, "next") < 0 || renameat(r->top, "next", r->top, "current") < 0)
		return fvm_error_set(err, errno, "make a skeleton");
	return 0;
}

/* Deletes generations that no VM runs on any more. */
static void drop_old(const struct refresh *r)
{
	scoped_dir d = fvm_dir_open(r->top, ".");
	for (struct dirent *e; d && (e = readdir(d));) {
		scoped_fd lock = -1;
		if (e->d_name[0] != 'g' || strcmp(e->d_name, r->gen) == 0)
			continue;
		scoped_fd dir = fvm_open_nofollow(r->top, e->d_name, O_RDONLY | O_DIRECTORY);
		if (dir >= 0 && take_flock(dir, "lock", LOCK_EX | LOCK_NB, &lock) == 0)
			(void)fvm_trash(r->store, r->top, e->d_name, true);
	}
}

/* Under the exclusive lock of the skeleton. */
static int renew(struct refresh *r, struct fvm_error *err)
{
	bool usable = open_current(r) == 0;
	if (usable)
		read_list(r);
	if (usable && list_is_fresh(r))
		return 0; /* somebody else was faster */
	bool listed = usable && header_fits(r);
	if (listed) {
		int only = only_the_list(r, err);
		if (only != 0 && only != -EBADMSG)
			return only < 0 ? only : 0;
		listed = only == 0;
	}
	int e;
	if (usable && flock(r->lock, LOCK_EX | LOCK_NB) == 0) {
		e = change(r, !listed, err);
		(void)flock(r->lock, LOCK_SH);
	} else {
		e = make_generation(r, err);
	}
	if (e == 0)
		drop_old(r);
	return e;
}

static int refresh(struct refresh *r, struct fvm_error *err)
{
	scoped_fd lock = -1;
	r->top = open_top(r);
	if (r->top < 0)
		return fvm_error_set(err, -r->top, "make the skeleton's directory");
	skel_header(r->tops.count ? &r->tops : NULL, &r->header);
	if (r->header.failed)
		return fvm_error_set(err, ENOMEM, "make a skeleton");
	int e = take_flock(r->top, "lock", LOCK_SH, &lock);
	if (e < 0)
		return fvm_error_set(err, -e, "lock the skeleton");
	if (open_current(r) == 0 && quick_is_fresh(r, &r->check_later))
		return 0;
	r->check_later = false;
	while (flock(lock, LOCK_EX) < 0) {
		if (errno != EINTR)
			return fvm_error_set(err, errno, "lock the skeleton");
	}
	e = renew(r, err);
	return e < 0 ? fvm_error_wrap(err, e, "skeleton of the host's directories") : 0;
}

static void refresh_init(struct refresh *r, const struct fvm_store *store)
{
	*r = (struct refresh){ .store = store, .top = -1, .dir = -1, .tree = -1, .lock = -1 };
}

static void refresh_free(struct refresh *r)
{
	forget_generation(r);
	fvm_fd_closep(&r->top);
	fvm_buf_free(&r->header);
	fvm_strv_free(&r->outs);
	fvm_strv_free(&r->tops);
}

static int list_mounts(struct refresh *r, const struct fvm_plan *plan)
{
	int e = skel_tops(plan, &r->tops);
	return e < 0 ? e : skel_outs(plan, r->tops.count, &r->outs);
}

/* What is open and locked goes over to the caller. */
static void give(struct refresh *r, struct fvm_skeleton *ret)
{
	ret->tree = fvm_fd_take(&r->tree);
	ret->lock = fvm_fd_take(&r->lock);
	ret->check_later = r->check_later;
	snprintf(ret->path, sizeof(ret->path), "skeleton/%s/%s/tree", r->host, r->gen);
	snprintf(ret->owned, sizeof(ret->owned), "skeleton/%s/%s/owned", r->host, r->gen);
	snprintf(ret->left, sizeof(ret->left), "skeleton/%s/%s/left", r->host, r->gen);
}

int fvm_skeleton_take(const struct fvm_store *store, const struct fvm_plan *plan,
		      const struct fvm_skeleton_progress *progress, struct fvm_skeleton *ret,
		      struct fvm_error *err)
{
	struct refresh r;
	refresh_init(&r, store);
	r.progress = progress;
	int e = list_mounts(&r, plan);
	e = e < 0 ? fvm_error_set(err, -e, "list the mounts") : refresh(&r, err);
	if (e == 0)
		give(&r, ret);
	refresh_free(&r);
	return e;
}

int fvm_skeleton_guess(const struct fvm_store *store, const struct fvm_plan *plan,
		       struct fvm_skeleton *ret)
{
	struct refresh r;
	scoped_fd lock = -1;
	refresh_init(&r, store);
	int e = list_mounts(&r, plan);
	if (e == 0)
		e = r.top = open_top(&r);
	if (e >= 0)
		e = take_flock(r.top, "lock", LOCK_SH | LOCK_NB, &lock);
	if (e == 0)
		e = open_current(&r);
	if (e == 0)
		give(&r, ret);
	refresh_free(&r);
	return e;
}

bool fvm_skeleton_fresh(const struct fvm_store *store, const struct fvm_plan *plan,
			struct fvm_skeleton *s)
{
	struct refresh r;
	char path[sizeof(s->path)];
	bool later = false;
	refresh_init(&r, store);
	snprintf(path, sizeof(path), "%.*s", (int)(strlen(s->path) - strlen("/tree")), s->path);
	r.dir = fvm_open_nofollow(store->dir, path, O_RDONLY | O_DIRECTORY);
	bool fresh = r.dir >= 0 && list_mounts(&r, plan) == 0;
	skel_header(r.tops.count ? &r.tops : NULL, &r.header);
	fresh = fresh && !r.header.failed && quick_is_fresh(&r, &later);
	s->check_later |= later;
	refresh_free(&r);
	return fresh;
}

/* Layers of services' directories that are no longer those of the list. */
static void drop_owned(const struct refresh *r)
{
	scoped_free char *text = NULL;
	size_t len;
	if (flock(r->lock, LOCK_EX | LOCK_NB) == 0 &&
	    fvm_read_file(r->dir, "owned", LIST_LIMIT, &text, &len) == 0)
		root_owned_drop(r->dir, text, len);
}

/* Whoever removes the store meanwhile is not to find it made again, nor to wait long for us. */
static int open_checked(struct refresh *r)
{
	char path[80];
	host_name(r->host);
	snprintf(path, sizeof(path), "skeleton/%s", r->host);
	r->top = fvm_open_nofollow(r->store->dir, path, O_RDONLY | O_DIRECTORY);
	return r->top < 0 ? r->top : open_current(r);
}

static void end_by_alarm(void)
{
	sigset_t none;
	sigemptyset(&none);
	signal(SIGALRM, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	(void)alarm(CHECK_MAX_S);
}

void fvm_skeleton_check(const struct fvm_store *store, const struct fvm_plan *plan,
			const struct fvm_trees *trees, const struct fvm_user_ids *ids)
{
	struct refresh r;
	if (fork() != 0)
		return;
	/* nothing of the starter's may stay open in us, least of all its output */
	(void)syscall(SYS_close_range, 0U, ~0U, 0U);
	setsid();
	(void)!nice(19);
	end_by_alarm();
	struct fvm_store own = *store;
	own.dir = open(store->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	refresh_init(&r, &own);
	bool listed = list_mounts(&r, plan) == 0;
	skel_header(r.tops.count ? &r.tops : NULL, &r.header);
	if (own.dir >= 0 && listed && open_checked(&r) == 0) {
		if (!r.tops.count)
			fvm_foreign_renew(r.dir, trees, ids);
		read_list(&r);
		(void)list_is_fresh(&r);
		fvm_foreign_drop(r.dir, r.lock);
		drop_owned(&r);
	}
	_exit(0);
}

/* ---- all of them ---- */

/* A check in the background takes some hundredths of a second; a VM takes longer. */
static int take_soon(int dir, int *ret_fd)
{
	int r = -EAGAIN;
	for (int i = 0; i < 60 && r == -EAGAIN; i++) {
		if (i > 0)
			fvm_sleep_ms(50);
		r = take_flock(dir, "lock", LOCK_EX | LOCK_NB, ret_fd);
	}
	return r;
}

static bool drop_generation(const struct fvm_store *store, int top, const char *gen, bool dry_run)
{
	char current[32];
	scoped_fd lock = -1;
	scoped_fd dir = fvm_open_nofollow(top, gen, O_RDONLY | O_DIRECTORY);
	if (dir < 0 || take_soon(dir, &lock) < 0)
		return false;
	if (dry_run)
		return true;
	ssize_t n = readlinkat(top, "current", current, sizeof(current) - 1);
	if (n > 0 && strncmp(current, gen, (size_t)n) == 0)
		(void)unlinkat(top, "current", 0);
	return fvm_trash(store, top, gen, false) == 0;
}

unsigned int fvm_skeleton_drop(const struct fvm_store *store, bool dry_run)
{
	unsigned int dropped = 0;
	scoped_fd all = fvm_open_nofollow(store->dir, "skeleton", O_RDONLY | O_DIRECTORY);
	scoped_dir hosts = all < 0 ? NULL : fvm_dir_open(all, ".");
	for (struct dirent *host; hosts && (host = fvm_dir_next(hosts));) {
		scoped_fd lock = -1;
		scoped_fd top = fvm_open_nofollow(all, host->d_name, O_RDONLY | O_DIRECTORY);
		scoped_dir d = top < 0 || take_soon(top, &lock) < 0 ? NULL : fvm_dir_open(top, ".");
		for (struct dirent *e; d && (e = fvm_dir_next(d));) {
			if (e->d_name[0] == 'g')
				dropped += drop_generation(store, top, e->d_name, dry_run);
		}
	}
	return dropped;
}
