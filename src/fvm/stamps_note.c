/*
 * Stamps made: what a scan tells, the births and ctimes, and the ancestors of texts. No libcrypto
 * here, so that every stop of a VM can afford it; digests are filled in by who has it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/inode.h"
#include "fvm/internal.h"
#include "fvm/stamps.h"
#include "fvm/subids.h"

#define NAME_SIZE    48	  /* of an ancestor */
#define LOCK_WAIT_MS 2000 /* for an update that another process makes */
#define LOCK_STEP_MS 20

static int64_t ctime_ns(const struct stat *st)
{
	return st->st_ctim.tv_sec * 1000000000LL + st->st_ctim.tv_nsec;
}

static int latest(const struct fvm_change *c, void *arg)
{
	int64_t *most = arg;
	if (ctime_ns(c->was) > *most)
		*most = ctime_ns(c->was);
	return 0;
}

int fvm_stamp_tree_ctime(const struct fvm_change *c, int64_t *ret_ns)
{
	int64_t most = 0; /* its own tells of a rename of the whole, and nothing else */
	int r = fvm_change_deleted(c, latest, &most);
	if (r == 0)
		*ret_ns = most;
	return r;
}

/* Birth of an inode; 0: nobody can tell. */
static int64_t born_ns(int dir, const char *name)
{
	struct statx sx;
	if (dir < 0 || statx(dir, name, AT_SYMLINK_NOFOLLOW, STATX_BTIME, &sx) < 0 ||
	    !(sx.stx_mask & STATX_BTIME))
		return 0;
	return sx.stx_btime.tv_sec * 1000000000LL + sx.stx_btime.tv_nsec;
}

struct below {
	const char *path;
	size_t len;
};

static int is_below(const char *path, const struct fvm_stamp *stamp, void *arg)
{
	const struct below *b = arg;
	(void)stamp;
	return strncmp(path, b->path, b->len) == 0 && path[b->len] == '/';
}

/* From when on the host's changes are none that the VM saw when it deleted the path. What an
 * earlier start changed in a deleted tree has a stamp, and was of what the host had then. */
static int64_t deleted_ns(const struct fvm_stamps *stamps, const struct fvm_config *config,
			  const struct fvm_change *c)
{
	struct below below = { c->path, strlen(c->path) };
	int64_t start = born_ns(c->workspace, "../work/work");
	if (start > config->first_start_ns && !c->noise &&
	    born_ns(c->whiteout_dir, c->name) >= start &&
	    fvm_stamps_each(stamps, is_below, &below) == 0)
		return start;
	return config->first_start_ns;
}

int fvm_stamp_drift_by_time(const struct fvm_stamps *stamps, const struct fvm_config *config,
			    const struct fvm_change *c, const char **ret_why)
{
	*ret_why = "changed on the host since the VM made its own version";
	if (!c->was)
		return 0;
	bool stays = c->now && S_ISDIR(c->now->st_mode) && S_ISDIR(c->was->st_mode);
	if (stays) /* its ctime tells of entries that come and go */
		return 0;
	int64_t made = c->now ? born_ns(c->layer_dir, c->name) : 0, last = ctime_ns(c->was);
	if (S_ISDIR(c->was->st_mode)) {
		*ret_why = "something in it changed on the host since the VM started";
		int r = fvm_stamp_tree_ctime(c, &last);
		if (r < 0)
			return r;
	}
	if (made)
		return last > made;
	/* the stamps are searched only where it matters */
	return last > config->first_start_ns && last > deleted_ns(stamps, config, c);
}

/* ---- ancestors: named by what no other content of the base ever had ---- */

static void ancestor_name(const struct fvm_stamp *stamp, char ret[NAME_SIZE])
{
	snprintf(ret, NAME_SIZE, "%llu-%lld", (unsigned long long)stamp->ino,
		 (long long)stamp->ctime_ns);
}

static int ancestor_keep(int dir, const struct fvm_change *c, const char *name)
{
	scoped_free char *text = malloc(FVM_ANCESTOR_MAX);
	if (!text)
		return -ENOMEM;
	scoped_fd fd = fvm_open_file(c->base_dir, c->name);
	ssize_t n = fd < 0 ? fd : fvm_read_full(fd, text, FVM_ANCESTOR_MAX);
	if (n < 0)
		return n == -EACCES ? 0 : (int)n;
	if (n == FVM_ANCESTOR_MAX || memchr(text, '\0', (size_t)n))
		return 0;
	return fvm_write_file_atomic(dir, name, text, (size_t)n, false);
}

int fvm_ancestor_read(int vm_dir, const struct fvm_stamp *stamp, char **ret, size_t *ret_len)
{
	char path[NAME_SIZE + 16] = "ancestors/";
	ancestor_name(stamp, path + strlen(path));
	return fvm_read_file(vm_dir, path, FVM_ANCESTOR_MAX, ret, ret_len);
}

/* Delete kept files that no stamp speaks of; @used has their names as paths. */
static int ancestors_prune(int dir, const struct fvm_stamps *used)
{
	scoped_dir d = fvm_dir_open(dir, ".");
	if (!d)
		return -errno;
	fvm_remove_leftovers(dir);
	for (struct dirent *e; (e = readdir(d));) {
		if (e->d_name[0] != '.' && !fvm_stamps_find(used, e->d_name))
			(void)unlinkat(dir, e->d_name, 0);
	}
	return 0;
}

/* ---- update ---- */

struct update {
	const struct fvm_stacks *stacks;
	const struct fvm_config *config;
	fvm_stamp_digest_fn digest;
	struct fvm_stamps *old, *fresh, *used; /* used: names of ancestors */
	int ancestors;
	size_t kept;
};

/* The base is still what the stamp says, so a digest of it can be added later too. */
static bool is_same_base(const struct fvm_change *c, const struct fvm_stamp *t)
{
	struct fvm_stamp now;
	fvm_stamp_of(c->was, &now);
	return now.ino == t->ino && (t->kind == 't' || now.ctime_ns == t->ctime_ns);
}

static int note_ancestor(struct update *u, const struct fvm_change *c, const struct fvm_stamp *t)
{
	char name[NAME_SIZE];
	if (t->kind != 'f' || t->drifted || t->size >= FVM_ANCESTOR_MAX ||
	    u->kept >= FVM_ANCESTOR_COUNT)
		return 0;
	ancestor_name(t, name);
	int r = 0;
	/* else it was kept then, and may be newer now; or the stamp is a commit's or an undo's */
	if (!fvm_stamps_find(u->old, c->path) ||
	    (faccessat(u->ancestors, name, F_OK, 0) < 0 && is_same_base(c, t)))
		r = ancestor_keep(u->ancestors, c, name);
	u->kept++;
	return r < 0 ? r : fvm_stamps_set(u->used, name, t);
}

static void note_new(const struct update *u, const struct fvm_change *c, struct fvm_stamp *t)
{
	const char *why;
	fvm_stamp_of(c->was, t);
	if (!c->now && t->kind == 'd')
		t->kind = 't';
	t->drifted = fvm_stamp_drift_by_time(u->old, u->config, c, &why) > 0;
	if (t->kind == 't' && fvm_stamp_tree_ctime(c, &t->ctime_ns) < 0)
		t->drifted = true;
}

static int note_change(const struct fvm_change *c, void *arg)
{
	struct update *u = arg;
	struct fvm_stamp t;
	const struct fvm_stamp *known = fvm_stamps_find(u->old, c->path);
	if (fvm_stamps_find(u->fresh, c->path))
		return 0; /* deleted and added again: two changes of one path */
	if (known)
		t = *known;
	else
		note_new(u, c, &t);
	/* a base that can't be read has no digest, and no drift that could be missed */
	if (u->digest && !t.drifted && !t.has_digest && t.kind != 'a' && is_same_base(c, &t))
		t.has_digest = u->digest(c, t.kind, t.digest) == 0;
	int r = note_ancestor(u, c, &t);
	return r < 0 ? r : fvm_stamps_set(u->fresh, c->path, &t);
}

static const struct fvm_stack *stack_of(const struct fvm_stacks *stacks, const char *path,
					const char **ret_rel)
{
	for (size_t i = stacks->count; i-- > 0;) { /* the longest mount points come last */
		const char *mount = stacks->items[i].mount_point;
		size_t len = strcmp(mount, "/") == 0 ? 0 : strlen(mount);
		if (strncmp(path, mount, len) == 0 && path[len] == '/') {
			*ret_rel = path + len + 1;
			return &stacks->items[i];
		}
	}
	return NULL;
}

static int stat_deep(int top, const char *rel, struct stat *ret)
{
	scoped_fd fd = top < 0 ? -ENOENT : fvm_open_deep(top, rel, O_PATH);
	if (fd < 0)
		return fd;
	return fstat(fd, ret) < 0 ? -errno : 0;
}

/* What can't be compared today stays known. */
static int note_unseen(struct update *u, const char *path, const struct fvm_stamp *old)
{
	char name[NAME_SIZE];
	ancestor_name(old, name);
	int r = old->kind == 'f' ? fvm_stamps_set(u->used, name, old) : 0;
	return r < 0 ? r : fvm_stamps_set(u->fresh, path, old);
}

/* A stamp whose path is no change now: equal to the base, or gone from the layers. */
static int note_equal(const char *path, const struct fvm_stamp *old, void *arg)
{
	struct update *u = arg;
	const char *rel = NULL;
	struct fvm_stamp stamp = *old;
	struct stat st;
	bool there = false;
	if (fvm_stamps_find(u->fresh, path))
		return 0;
	const struct fvm_stack *stack = stack_of(u->stacks, path, &rel);
	if (stack && stack->silent)
		return note_unseen(u, path, old);
	for (size_t i = 0; stack && !there && i < stack->count; i++)
		there = stat_deep(stack->layers[i], rel, &st) == 0 && !S_ISCHR(st.st_mode);
	if (!there)
		return 0;
	if (!fvm_path_is_noise(path)) /* of which the scan told nothing */
		fvm_stamp_of(stat_deep(stack->base, rel, &st) == 0 ? &st : NULL, &stamp);
	return fvm_stamps_set(u->fresh, path, &stamp);
}

static int update_run(struct update *u, const struct fvm_vm *vm, const struct fvm_stacks *stacks,
		      struct fvm_error *err)
{
	const struct fvm_scan_options options = { .skip_content = true };
	fvm_remove_leftovers(vm->dir);
	int r = fvm_stacks_scan(stacks, &options, note_change, u, err);
	if (r < 0)
		return err && err->code ? r : fvm_error_set(err, -r, "note the base files");
	r = fvm_stamps_each(u->old, note_equal, u);
	if (r == 0 && fvm_stamps_count(u->fresh) > 0)
		r = fvm_stamps_save(u->fresh, vm->dir);
	else if (r == 0 && unlinkat(vm->dir, "stamps", 0) < 0 && errno != ENOENT)
		r = -errno;
	if (r == 0)
		r = ancestors_prune(u->ancestors, u->used);
	return r < 0 ? fvm_error_set(err, -r, "write the list of stamps") : 0;
}

/*
 * One update after the other: who comes later looks at what is there later, and must write last.
 * Who is in it may stand before a server that hangs, so that his has to do.
 * Return: descriptor, -EAGAIN, or -errno
 */
static int open_ancestors(const struct fvm_vm *vm, struct fvm_error *err)
{
	if (mkdirat(vm->dir, "ancestors", 0700) < 0 && errno != EEXIST)
		return fvm_error_set(err, errno, "make a directory for the base's text files");
	scoped_fd dir = fvm_open_nofollow(vm->dir, "ancestors", O_RDONLY | O_DIRECTORY);
	if (dir < 0)
		return fvm_error_set(err, -dir, "open the base's text files");
	for (int ms = 0; flock(dir, LOCK_EX | LOCK_NB) < 0; ms += LOCK_STEP_MS) {
		if ((errno != EWOULDBLOCK && errno != EINTR) || ms >= LOCK_WAIT_MS)
			return -EAGAIN;
		fvm_sleep_ms(LOCK_STEP_MS);
	}
	return fvm_fd_take(&dir);
}

int fvm_stamps_update_with(const struct fvm_vm *vm, const struct fvm_stacks *stacks,
			   fvm_stamp_digest_fn digest, struct fvm_error *err)
{
	scoped_fd ancestors = open_ancestors(vm, err);
	if (ancestors < 0)
		return ancestors == -EAGAIN ? 0 : ancestors;
	struct update u = {
		.stacks = stacks, .config = &vm->config, .digest = digest, .ancestors = ancestors
	};
	int r = fvm_stamps_load(vm->dir, &u.old, err);
	if (r == 0)
		r = fvm_stamps_parse("", 0, &u.fresh, err);
	if (r == 0)
		r = fvm_stamps_parse("", 0, &u.used, err);
	if (r == 0)
		r = update_run(&u, vm, stacks, err);
	fvm_stamps_free(u.old);
	fvm_stamps_free(u.fresh);
	fvm_stamps_free(u.used);
	return r;
}

int fvm_stamps_update(const struct fvm_vm *vm, struct fvm_error *err)
{
	struct fvm_stacks stacks;
	int r = fvm_stacks_open(vm, NULL, &stacks, err);
	if (r < 0)
		return r;
	r = fvm_stamps_update_with(vm, &stacks, NULL, err);
	fvm_stacks_close(&stacks);
	return r;
}

/* Whoever locks the VM next shall not wait for us: of a VM that runs again nothing is written. */
static void update_alone(void *arg)
{
	const struct fvm_vm *vm = arg;
	struct fvm_error err = { 0 };
	if (vm->lock >= 0)
		close(vm->lock);
	if (fvm_vm_state(vm) != FVM_RUNNING && fvm_subids_enter(vm, &err) == 0)
		(void)fvm_stamps_update(vm, &err);
}

void fvm_stamps_update_later(struct fvm_vm *vm)
{
	pid_t self = getpid();
	fvm_later(update_alone, vm);
	if (getpid() == self && vm->lock >= 0 && fcntl(vm->lock, F_GETFD) < 0)
		vm->lock = -1; /* there could be no child, and it was done here */
}
