/*
 * All overlays of a rootless VM (root_user.h).
 *
 * At each mount the kernel makes and deletes half a dozen files in the work directory: half a
 * millisecond, and nearly all of a start. So they are mounted two at a time: the first one by
 * itself, as it has the directories that the others are mounted on; what lies in another tree comes
 * after that, by the same thread. What came of them is noted when all are done.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "fvm/internal.h"
#include "fvm/owners.h"
#include "fvm/root_priv.h"
#include "fvm/start.h"

/* ---- the scratch tmpfs ---- */

/* Of whom the files are, for who reads the layer from outside; once, at the top. */
static int write_maps(const struct fvm_build *b, int fd)
{
	scoped_buf text = { 0 };
	struct stat st;
	if (fstat(fd, &st) < 0 || st.st_size > 0)
		return 0;
	fvm_buf_puts(&text, FVM_OWNERS_HEAD);
	if (b->owned)
		fvm_user_ids_maps(b->ids, &text);
	return text.failed ? -ENOMEM : fvm_write_all(fd, text.data, text.len);
}

/* Where the workspace is mounted, which is why nobody could before. */
static int open_owners(const struct fvm_build *b)
{
	scoped_fd fs = fvm_build_workspace(b);
	if (fs < 0)
		return fs;
	int fd = openat(fs, FVM_OWNERS_FILE, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC,
			0600);
	if (fd < 0)
		return -errno;
	int r = write_maps(b, fd);
	if (r == 0)
		return fd;
	close(fd);
	return r;
}

static int make_scratch(struct fvm_build *b, struct fvm_error *err)
{
	char path[sizeof(b->vm->store->path) + 8];
	int r = fvm_build_disks(b, err);
	if (r < 0)
		return r;
	b->store = open(b->vm->store->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (b->store < 0)
		return fvm_error_set(err, errno, "open %s", b->vm->store->path);
	b->owners = open_owners(b);
	if (b->owners < 0)
		return fvm_error_set(err, -b->owners, "open the list of owners");
	/* what others are building there can't be seen from here any more, and need not */
	snprintf(path, sizeof(path), "%s/tmp", b->vm->store->path);
	if (mount("fvm", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755") < 0)
		return fvm_error_set(err, errno, "mount a tmpfs");
	b->scratch = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (b->scratch < 0 || fchdir(b->scratch) < 0 || mkdirat(b->scratch, "root", 0755) < 0)
		return fvm_error_set(err, errno, "enter the tmpfs");
	return 0;
}

/* ---- what came of it ---- */

#define NOT_TRIED 1

/* One of many file systems, and not all are fit to be below an overlay. */
static bool is_mount(const struct fvm_plan *plan, const char *path)
{
	for (size_t i = 0; i < plan->count; i++) {
		if (strcmp(plan->mounts[i].path, path) == 0)
			return true;
	}
	return false;
}

/* @r: of root_mount_overlay(), or NOT_TRIED */
static int note(struct fvm_build *b, const struct fvm_tree *t, int r, struct fvm_error *err)
{
	bool top = t == b->trees->items;
	if (r == NOT_TRIED)
		return 0;
	if (!top && (r == -ENOENT || r == -ENOTDIR || r == -ELOOP))
		return 0; /* the VM has put something else in its place */
	if (r < 0 && !top && is_mount(b->plan, t->path))
		return fvm_build_leave_out(b, t->path, strerror(-r));
	if (r < 0) {
		fvm_error_set(err, -r, "mount the overlay of %s", t->path);
		fvm_error_hint(err, "see what this host permits: fvm doctor");
		return r;
	}
	if (t->kind == FVM_TREE_READ_ONLY)
		return 0;
	return fvm_strv_add(&b->running->keys, t->key) < 0
		       ? fvm_error_set(err, ENOMEM, "list the overlays")
		       : 0;
}

/* ---- two at a time ---- */

struct queue {
	const struct fvm_build *build;
	size_t *heads;	    /* of each tree: the one it lies in right below the first, or itself */
	atomic_size_t next; /* to be looked at, from behind: /var and /usr have most work */
	int *results;
};

static void mount_one(const struct queue *q, size_t i)
{
	if (!fvm_hide_has(q->build->hide, q->build->trees->items[i].path))
		q->results[i] = root_mount_overlay(q->build, i);
}

/* A tree, and what lies in it after that. */
static void *mount_queue(void *arg)
{
	struct queue *q = arg;
	const size_t count = q->build->trees->count;
	for (size_t n; (n = atomic_fetch_add(&q->next, 1)) < count;) {
		size_t i = count - n;
		for (size_t j = i; q->heads[i] == i && j < count; j++) {
			if (q->heads[j] == i)
				mount_one(q, j);
		}
	}
	return NULL;
}

static void find_heads(const struct fvm_trees *t, size_t *heads)
{
	for (size_t i = 1; i < t->count; i++) {
		size_t above = i - 1;
		while (above > 0 && !fvm_path_below(t->items[i].path, t->items[above].path))
			above--;
		heads[i] = above > 0 ? heads[above] : i;
	}
}

static bool has_two_processors(void)
{
	cpu_set_t set;
	return sched_getaffinity(0, sizeof(set), &set) < 0 || CPU_COUNT(&set) > 1;
}

static int mount_rest(const struct fvm_build *b, int *results)
{
	const struct fvm_trees *t = b->trees;
	scoped_free size_t *heads = calloc(t->count, sizeof(*heads));
	struct queue q = { .build = b, .heads = heads, .next = 1, .results = results };
	pthread_t thread;
	if (!heads)
		return -ENOMEM;
	find_heads(t, heads);
	bool helped = t->count > 2 && has_two_processors() &&
		      fvm_thread_start_apart(&thread, mount_queue, &q) == 0;
	(void)mount_queue(&q);
	if (helped)
		pthread_join(thread, NULL);
	return 0;
}

static int mount_first(struct fvm_build *b, struct fvm_error *err)
{
	int r = note(b, b->trees->items, root_mount_overlay(b, 0), err);
	if (r < 0)
		return r;
	b->root = openat(b->scratch, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return b->root < 0 ? fvm_error_set(err, errno, "open the new root") : 0;
}

static int mount_all(struct fvm_build *b, struct fvm_error *err)
{
	const struct fvm_trees *t = b->trees;
	scoped_free int *results = calloc(t->count, sizeof(*results));
	if (!results)
		return fvm_error_set(err, ENOMEM, "mount the overlays");
	for (size_t i = 0; i < t->count; i++)
		results[i] = NOT_TRIED;
	int r = mount_first(b, err);
	if (r == 0 && mount_rest(b, results) < 0)
		r = fvm_error_set(err, ENOMEM, "mount the overlays");
	for (size_t i = 1; r == 0 && i < t->count; i++)
		r = note(b, &t->items[i], results[i], err);
	return r;
}

/* Where others have made more directories than we make once more. */
static int note_left(struct fvm_build *b)
{
	scoped_free char *left = NULL;
	size_t len = 0;
	int r = fvm_read_file(b->store, b->skeleton->left, 1 << 20, &left, &len);
	if (r < 0 && r != -ENOENT)
		return r;
	r = 0;
	for (size_t at = 0; r == 0 && at < len; at += strlen(left + at) + 1)
		r = fvm_build_leave_out(b, left + at, FVM_SKELETON_LEFT);
	for (size_t i = 0; r == 0 && i < b->trees->count; i++) {
		if (b->trees->items[i].full)
			r = fvm_build_leave_out(b, b->trees->items[i].path, FVM_SKELETON_LEFT);
	}
	return r;
}

int fvm_trees_mount(struct fvm_build *b, struct fvm_error *err)
{
	int r = make_scratch(b, err);
	if (r == 0)
		r = mount_all(b, err);
	for (size_t i = 0; r == 0 && i < b->plan->count; i++) {
		const struct fvm_mount *m = &b->plan->mounts[i];
		if (m->class == FVM_MOUNT_LEFT_OUT)
			r = fvm_build_leave_out(b, m->path, m->why);
	}
	return r == 0 ? note_left(b) : r;
}
