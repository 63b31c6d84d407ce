/*
 * A VM's stacks, found and opened, and the scan over all of them.
 *
 * Keys come from the workspace and from all frozen layers, so that changes made under a mount that
 * is gone now are not forgotten. A base is opened only after the host's mount table, which asks no
 * file system, has told what lies there:
 *
 *   mounted, local     open it: with privileges a clone of that one mount (open_tree), in which
 *                      the directories below other mounts are seen as the VM sees them
 *   mounted, network   the same, but a child process tries it first: a dead server would hang us
 *                      for ever, so it costs one process and a few seconds instead. Only who
 *                      asks for what is there is refused then; others leave it out ("silent")
 *   no mount, and the VM was built mount by mount (it has the key "root"): the mount is gone, -1
 *   no mount, and the VM was built directory by directory (rootless): that directory
 *
 * A rootless VM's tree is taken apart anew at each start (root_user.h). What a key above held, from
 * where a new key begins, then lies below the new key's own layers, and is not looked for above.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/base.h"
#include "fvm/disk.h"
#include "fvm/hide_record.h"
#include "fvm/native.h"
#include "fvm/owners.h"
#include "fvm/plan.h"
#include "fvm/policy.h"
#include "fvm/scan.h"
#include "fvm/subids.h"

#define PROBE_MS 5000

/* ---- bases ---- */

/* What may be entered but not listed can be asked for the names that layers have. */
static int open_plain(const char *path)
{
	const char *rel = path[1] ? path + 1 : ".";
	scoped_fd root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return -errno;
	int fd = fvm_open_nofollow(root, rel, O_RDONLY | O_DIRECTORY);
	if (fd != -EACCES)
		return fd;
	scoped_fd closed = fvm_open_nofollow(root, rel, O_PATH | O_DIRECTORY);
	if (closed < 0 || faccessat(closed, ".", X_OK, AT_EACCESS) < 0)
		return -EACCES;
	return fvm_fd_take(&closed);
}

/* A clone of the mount at @path alone; without the right to make one, the directory itself. */
static int open_base(const char *path)
{
	long tree = syscall(SYS_open_tree, AT_FDCWD, path,
			    OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW |
				    AT_NO_AUTOMOUNT);
	if (tree < 0)
		return open_plain(path);
	int fd = openat((int)tree, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = fd < 0 ? -errno : fd;
	close((int)tree);
	return r;
}

/* Whether a child can look at @path within PROBE_MS. It may hang for ever: it is not waited for. */
static bool answers(const char *path)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return false;
	pid_t child = fork();
	if (child == 0) {
		/* a grandchild, so that nobody has to wait for one that hangs; it must not keep
		 * our output or the VM's lock open for as long */
		if (fork() == 0 && dup2(ends[1], 0) == 0) {
			fvm_close_range(1, ~0U);
			bool yes = fvm_base_look_at(path) == 0;
			(void)!write(0, &yes, 1);
		}
		_exit(0);
	}
	close(ends[1]);
	bool yes = false;
	struct pollfd p = { .fd = ends[0], .events = POLLIN };
	if (child > 0) {
		(void)waitpid(child, NULL, 0);
		if (poll(&p, 1, PROBE_MS) > 0)
			(void)!read(ends[0], &yes, 1);
	}
	close(ends[0]);
	return yes;
}

/* The mount that @path lies in; mounts are sorted, so the last that fits is the deepest. */
static const struct fvm_mount *mount_of(const struct fvm_plan *plan, const char *path)
{
	const struct fvm_mount *best = NULL;
	for (size_t i = 0; i < plan->count; i++) {
		if (fvm_path_below(path, plan->mounts[i].path))
			best = &plan->mounts[i];
	}
	return best;
}

static bool crosses_network(const struct fvm_plan *plan, const char *path)
{
	for (size_t i = 0; i < plan->count; i++) {
		if (plan->mounts[i].network && fvm_path_below(path, plan->mounts[i].path))
			return true;
	}
	return false;
}

static bool dir_is_empty(int dir)
{
	char buf[512];
	scoped_fd fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return false;
	/* "." and ".." are 24 bytes each */
	long n = syscall(SYS_getdents64, fd, buf, sizeof(buf));
	return n >= 0 && n <= 48;
}

bool fvm_stack_is_used(const struct fvm_stack *stack)
{
	for (size_t i = 0; i < stack->count; i++) {
		if (stack->layers[i] >= 0 && !dir_is_empty(stack->layers[i]))
			return true;
	}
	return false;
}

int fvm_stack_refuse(const struct fvm_stack *stack, struct fvm_error *err)
{
	fvm_error_set(err, ETIMEDOUT, "look at %s, which does not answer", stack->mount_point);
	fvm_error_hint(err, "bring its server back, or unmount it: umount -l %s",
		       stack->mount_point);
	return -ETIMEDOUT;
}

enum concern { NOT_MEANT, MEANT, NAMED };

/* What @paths, of which NULL is all, have to do with what is mounted at @point. */
static enum concern concern_of(const char *const *paths, const char *point)
{
	enum concern c = paths ? NOT_MEANT : MEANT;
	for (; paths && *paths && c != NAMED; paths++) {
		if (fvm_path_below(*paths, point))
			c = NAMED;
		else if (fvm_path_below(point, *paths))
			c = MEANT;
	}
	return c;
}

/* A hanging server concerns those who ask for what it has, and nobody else waits for it. */
static int network_open(struct fvm_stack *stack, const char *const *paths, struct fvm_error *err)
{
	const char *path = stack->mount_point;
	enum concern concern = concern_of(paths, path);
	stack->silent = concern == NOT_MEANT || !answers(path);
	if (stack->silent && concern == NAMED)
		return fvm_stack_refuse(stack, err);
	if (stack->silent && concern == MEANT)
		log_warn("%s is not looked at: its server does not answer. What the VM changed "
			 "there stays in the VM",
			 path);
	return 0;
}

/* Leaves stack->base at -1 when there is none. */
static int base_open(const struct fvm_plan *plan, struct fvm_stack *stack, bool mounts_only,
		     const char *const *paths, struct fvm_error *err)
{
	const char *path = stack->mount_point;
	const struct fvm_mount *m = mount_of(plan, path);
	if (mounts_only && (!m || strcmp(m->path, path) != 0))
		return 0;
	bool network = crosses_network(plan, path);
	if (network && !fvm_stack_is_used(stack))
		return 0;
	int r = network ? network_open(stack, paths, err) : 0;
	if (r < 0 || stack->silent)
		return r;
	int fd = open_base(path);
	/* what the user can't enter, the VM saw as empty */
	if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP || fd == -EACCES)
		return 0;
	if (fd < 0)
		return fvm_error_set(err, -fd, "open %s of the host", path);
	stack->base = fd;
	return 0;
}

/* ---- layers ---- */

static int stack_compare(const void *a, const void *b)
{
	return strcmp(((const struct fvm_stack *)a)->mount_point,
		      ((const struct fvm_stack *)b)->mount_point);
}

static struct fvm_stack *stack_find(const struct fvm_stacks *s, const char *key)
{
	for (size_t i = 0; i < s->count; i++) {
		if (strcmp(s->items[i].key, key) == 0)
			return &s->items[i];
	}
	return NULL;
}

/* The stack of @key, made with @layers empty places when it is new. NULL: no memory, or no key */
static struct fvm_stack *stack_get(struct fvm_stacks *s, const char *key, size_t layers)
{
	struct fvm_stack *stack = stack_find(s, key);
	if (stack)
		return stack;
	struct fvm_stack *items = realloc(s->items, (s->count + 1) * sizeof(*items));
	if (!items)
		return NULL;
	s->items = items;
	stack = &items[s->count];
	*stack = (struct fvm_stack){ .base = -1, .count = layers };
	if (strlen(key) >= sizeof(stack->key) ||
	    fvm_mount_point(key, stack->mount_point, sizeof(stack->mount_point)) < 0)
		return NULL;
	strcpy(stack->key, key);
	stack->layers = calloc(layers, sizeof(int));
	if (!stack->layers)
		return NULL;
	for (size_t i = 0; i < layers; i++)
		stack->layers[i] = -1;
	s->count++;
	return stack;
}

/* Adds what KEY/upper below @fs holds as layer @at of each KEY's stack. */
static int layer_add(struct fvm_stacks *s, int fs, size_t at, size_t layers)
{
	scoped_dir d = fvm_dir_open(fs, ".");
	if (!d)
		return -errno;
	int r = 0;
	for (struct dirent *e; r == 0 && (e = readdir(d));) {
		char path[300];
		if (e->d_name[0] == '.' || e->d_name[0] == '+')
			continue;
		snprintf(path, sizeof(path), "%s/upper", e->d_name);
		int upper = fvm_open_nofollow(fs, path, O_RDONLY | O_DIRECTORY);
		if (upper < 0) {
			r = upper == -ENOENT || upper == -ENOTDIR ? 0 : upper;
			continue;
		}
		struct fvm_stack *stack = stack_get(s, e->d_name, layers);
		if (stack)
			stack->layers[at] = upper;
		else
			close(upper);
		r = stack ? 0 : -ENOMEM;
	}
	return r;
}

/* The directory "fs" of a layer, or of the workspace behind them. */
static int layer_open(const struct fvm_vm *vm, size_t i)
{
	char path[100] = "workspace";
	bool frozen = i < vm->config.layers.count;
	if (frozen && snprintf(path, sizeof(path), "layers/%s", vm->config.layers.items[i]) >=
			      (int)sizeof(path))
		return -ENAMETOOLONG;
	scoped_fd top =
		fvm_open_nofollow(frozen ? vm->store->dir : vm->dir, path, O_RDONLY | O_DIRECTORY);
	return top < 0 ? top : fvm_disk_open(top);
}

static const char *layer_name(const struct fvm_vm *vm, size_t i)
{
	return i == vm->config.layers.count ? "the workspace" : vm->config.layers.items[i];
}

/* Appends a layer, which is taken over; directories that are not there are left out. */
static void append_layer(struct fvm_stack *to, int layer, struct fvm_owners *owners)
{
	if (layer < 0)
		return;
	to->layers[to->count] = layer;
	to->owners[to->count++] = owners;
}

/* The stack at @at with what the keys above it, which come before it, held in its place. */
static int rootless_stack(const struct fvm_stacks *s, size_t at, struct fvm_stack *ret)
{
	const struct fvm_stack *own = &s->items[at];
	size_t most = own->count * (at + 1);
	*ret = *own;
	ret->user_xattr = true;
	ret->count = 0;
	ret->layers = calloc(most, sizeof(int));
	ret->owners = calloc(most, sizeof(void *));
	if (!ret->layers || !ret->owners) {
		free(ret->layers);
		free(ret->owners);
		return -ENOMEM;
	}
	for (size_t i = 0; i < at; i++) {
		const struct fvm_stack *above = &s->items[i];
		const char *rel = own->mount_point + strlen(above->mount_point);
		rel += *rel == '/';
		if (!fvm_path_below(own->mount_point, above->mount_point))
			continue;
		for (size_t j = 0; j < above->count; j++) {
			if (above->layers[j] >= 0)
				append_layer(ret,
					     fvm_open_nofollow(above->layers[j], rel,
							       O_RDONLY | O_DIRECTORY),
					     s->owners[j]);
		}
	}
	/* the workspace stays the last, also where there is none */
	for (size_t j = 0; j < own->count; j++) {
		ret->layers[ret->count] = own->layers[j];
		ret->owners[ret->count++] = s->owners[j];
	}
	return 0;
}

static int rootless_fit(struct fvm_stacks *s)
{
	for (size_t at = s->count; at-- > 0;) {
		struct fvm_stack fit;
		int r = rootless_stack(s, at, &fit);
		if (r < 0)
			return r;
		free(s->items[at].layers);
		s->items[at] = fit;
	}
	return 0;
}

static int layers_open(const struct fvm_vm *vm, struct fvm_stacks *s, struct fvm_error *err)
{
	size_t count = vm->config.layers.count + 1;
	s->owners = calloc(count, sizeof(void *));
	if (!s->owners)
		return fvm_error_set(err, ENOMEM, "open the layers");
	s->owner_count = count;
	for (size_t i = 0; i < count; i++) {
		scoped_fd fs = layer_open(vm, i);
		/* a VM that never started has no workspace */
		if (fs == -ENOENT && i + 1 == count)
			continue;
		int r = fs < 0 ? fs : layer_add(s, fs, i, count);
		if (r < 0) {
			fvm_error_set(err, -r, "open layer %s of VM '%s'", layer_name(vm, i),
				      vm->config.name);
			fvm_error_hint(err, "a lost layer can't be made again; see fvm inspect %s",
				       vm->config.name);
			return r;
		}
		if (!vm->config.rootless)
			continue;
		r = fvm_owners_load(fs, &s->owners[i], err);
		if (r < 0)
			return fvm_error_wrap(err, r, "layer %s", layer_name(vm, i));
	}
	if (fvm_natives_find(vm, &s->natives) < 0)
		return fvm_error_set(err, ENOMEM, "list the native directories");
	if (s->count)
		qsort(s->items, s->count, sizeof(*s->items), stack_compare);
	return vm->config.rootless ? rootless_fit(s) : 0;
}

/* What would be hidden today: of a VM that has no record of its starts. */
static int hide_today(const struct fvm_vm *vm, const struct fvm_plan *plan,
		      struct fvm_hide_record **ret, struct fvm_error *err)
{
	scoped_config config = { 0 };
	scoped_hide hide = { 0 };
	/* a policy that is gone or wrong hinders a start, not a look at what is there */
	bool policies = fvm_policy_apply(&vm->config, NULL, &config, NULL, NULL) == 0;
	int r = fvm_hide_plan(policies ? &config : &vm->config, vm->store->path, plan, &hide, err);
	if (r < 0)
		return r;
	r = fvm_hide_record_make(&hide, ret);
	return r < 0 ? fvm_error_set(err, -r, "list what is hidden") : 0;
}

static int hide_load(const struct fvm_vm *vm, const struct fvm_plan *plan, struct fvm_stacks *s,
		     struct fvm_error *err)
{
	int r = fvm_hide_record_load(vm->dir, &s->hide, err);
	if (r == -ENOENT)
		r = hide_today(vm, plan, &s->hide, err);
	for (size_t i = 0; i < s->count; i++)
		s->items[i].hide = s->hide;
	return r;
}

static int bases_open(const struct fvm_vm *vm, const char *const *paths, struct fvm_stacks *s,
		      struct fvm_error *err)
{
	scoped_plan plan = { 0 };
	int r = fvm_plan_make(&plan, err);
	if (r == 0)
		r = hide_load(vm, &plan, s, err);
	bool mounts_only = !vm->config.rootless && stack_find(s, "root") != NULL;
	for (size_t i = 0; i < s->count && r == 0; i++)
		r = base_open(&plan, &s->items[i], mounts_only, paths, err);
	return r;
}

int fvm_stacks_open(const struct fvm_vm *vm, const char *const *paths, struct fvm_stacks *ret,
		    struct fvm_error *err)
{
	struct fvm_stacks s = { 0 };
	int r = layers_open(vm, &s, err);
	if (r == 0 && s.count > 0)
		r = bases_open(vm, paths, &s, err);
	if (r < 0)
		fvm_stacks_close(&s);
	else
		*ret = s;
	return r;
}

void fvm_stacks_close(struct fvm_stacks *s)
{
	for (size_t i = 0; i < s->count; i++) {
		for (size_t j = 0; j < s->items[i].count; j++)
			fvm_fd_closep(&s->items[i].layers[j]);
		free(s->items[i].layers);
		free(s->items[i].owners);
		fvm_fd_closep(&s->items[i].base);
	}
	for (size_t i = 0; i < s->owner_count; i++)
		fvm_owners_free(s->owners[i]);
	fvm_hide_record_free(s->hide);
	fvm_strv_free(&s->natives);
	free(s->items);
	free(s->owners);
	*s = (struct fvm_stacks){ 0 };
}

/* ---- the scan over all stacks ---- */

int fvm_stacks_scan(const struct fvm_stacks *s, const struct fvm_scan_options *options,
		    fvm_change_fn fn, void *arg, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; i < s->count && r == 0; i++) {
		scoped_strv covered = { 0 };
		if (s->items[i].silent || fvm_natives_above(&s->natives, s->items[i].mount_point))
			continue;
		if (fvm_strv_copy(&covered, &s->natives) < 0)
			return fvm_error_set(err, ENOMEM, "list the mounts");
		for (size_t j = i + 1; j < s->count; j++) {
			if ((s->items[j].base >= 0 || s->items[j].silent) &&
			    fvm_strv_add(&covered, s->items[j].mount_point) < 0)
				return fvm_error_set(err, ENOMEM, "list the mounts");
		}
		r = fvm_stack_scan_uncovered(&s->items[i], &covered, options, fn, arg, err);
	}
	return r;
}

struct looking {	    /* for a change that counts */
	struct fvm_buf dir; /* a new directory of which nothing is known yet but that; or empty */
	bool any;
};

static int found_change(struct looking *l)
{
	l->any = true;
	return -ECANCELED;
}

/* A new directory in which there is noise and nothing else was made for that: ~/.local/share for a
 * shell's history. An empty one is a change. */
static int stop_at_first(const struct fvm_change *c, void *arg)
{
	struct looking *l = arg;
	if (l->dir.len > 0 && !fvm_path_below(c->path, l->dir.data))
		return found_change(l);
	fvm_buf_free(&l->dir);
	if (c->noise)
		return 1;
	if (c->kind != FVM_ADDED || !S_ISDIR(c->now->st_mode))
		return found_change(l);
	fvm_buf_puts(&l->dir, c->path);
	return l->dir.failed ? -ENOMEM : 0;
}

static int any_change(const struct fvm_vm *vm, bool must_see, struct fvm_error *err)
{
	const struct fvm_scan_options options = { .must_see = must_see, .with_noise = true };
	struct fvm_stacks s = { 0 };
	struct looking l = { .any = fvm_natives_used(vm) };
	bool empty = true;
	int r = l.any ? 0 : layers_open(vm, &s, err);
	for (size_t i = 0; i < s.count && r == 0 && empty; i++)
		empty = !fvm_stack_is_used(&s.items[i]);
	/* the host is looked at only when there is something to compare */
	if (r == 0 && !empty)
		r = bases_open(vm, NULL, &s, err);
	/* something is there, and nobody can say that it is none */
	for (size_t i = 0; i < s.count; i++)
		l.any |= s.items[i].silent;
	if (r == 0 && !empty && !l.any)
		r = fvm_stacks_scan(&s, &options, stop_at_first, &l, err);
	bool any = l.any || (r == 0 && l.dir.len > 0);
	fvm_buf_free(&l.dir);
	fvm_stacks_close(&s);
	return any ? 1 : r;
}

static int any_with_ids(void *arg, struct fvm_error *err)
{
	return any_change(arg, false, err);
}

int fvm_changes_any(const struct fvm_vm *vm, struct fvm_error *err)
{
	struct fvm_error mine = { 0 };
	int r = any_change(vm, true, &mine);
	if (r == -EACCES && vm->config.rootless)
		return fvm_subids_call(any_with_ids, (void *)(uintptr_t)vm, err);
	if (r < 0 && err)
		*err = mine;
	return r;
}
