#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/nearest.h"
#include "fvm/disk.h"
#include "fvm/helper.h"
#include "fvm/internal.h"
#include "fvm/lock.h"
#include "fvm/pause.h"
#include "fvm/snapshot.h"
#include "fvm/spare.h"
#include "fvm/store.h"
#include "fvm/subids.h"

#define LATER_STACK (256 * 1024)
#define END_WAIT_MS 60000 /* for namespaces of a VM that has ended; a dead server may hold them */

void fvm_random_hex(char *to, size_t digits)
{
	static const char hex[] = "0123456789abcdef";
	unsigned char bytes[64];
	if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
		abort(); /* can't fail once the kernel has booted */
	for (size_t i = 0; i < digits; i++)
		to[i] = hex[bytes[i % sizeof(bytes)] & 15];
	to[digits] = '\0';
}

/* A part of the store for who makes or moves something there: root may be in a user's, who makes
 * the part a link just now. */
static int open_part(const struct fvm_store *store, const char *part)
{
	return fvm_open_nofollow(store->dir, part, O_RDONLY | O_DIRECTORY);
}

static int try_tmp_make(const struct fvm_store *store, const char *id)
{
	int r = FVM_FAULT("store.tmp");
	if (r < 0)
		return r;
	scoped_fd tmp = open_part(store, "tmp");
	if (tmp < 0)
		return tmp;
	if (mkdirat(tmp, id, 0700) < 0)
		return -errno;
	scoped_fd fd = openat(tmp, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	r = fd < 0 ? -errno : fvm_lock_named(fd, tmp, id, LOCK_EX);
	return r == 0 ? fvm_fd_take(&fd) : r == -ENOENT ? -EAGAIN : r;
}

/* Whoever tidies at this moment takes a directory without a lock for a left-over. */
int fvm_tmp_make(const struct fvm_store *store, char *ret_name)
{
	char id[33];
	int fd = -EAGAIN;
	for (int i = 0; i < 100 && fd == -EAGAIN; i++) {
		fvm_random_hex(id, 32);
		snprintf(ret_name, 40, "tmp/%s", id);
		fd = try_tmp_make(store, id);
	}
	return fd;
}

void fvm_later(void (*fn)(void *arg), void *arg)
{
	pid_t pid = fork();
	if (pid > 0)
		return;
	if (pid < 0) {
		fn(arg);
		return;
	}
	(void)setsid();
	fvm_null_stdio();
	fn(arg);
	_exit(0);
}

struct later {
	void (*fn)(void *arg);
	void *arg;
};

static int later_main(void *p)
{
	const struct later *l = p;
	(void)setsid();
	fvm_null_stdio();
	l->fn(l->arg);
	return 0;
}

/* Exit with @status at once, while @fn runs in a process like fvm_later()'s. It takes our memory
 * over as it is: nothing is copied for it, and nothing given back by us. */
static _Noreturn void later_exit(void (*fn)(void *arg), void *arg, int status)
{
	struct later l = { fn, arg };
	char *stack = mmap(NULL, LATER_STACK, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	(void)fflush(NULL);
	if (stack == MAP_FAILED ||
	    clone(later_main, stack + LATER_STACK, CLONE_VM | SIGCHLD, &l) < 0)
		fn(arg);
	_exit(status); /* nothing else: it has our memory, this frame and errno, too */
}

/* Move it to trash/ under a random name, and hold flock(2) on it while we have it. */
static int trash_take(const struct fvm_store *store, int dir, const char *name, char to[48],
		      int *ret_held)
{
	char id[33];
	fvm_random_hex(id, 32);
	snprintf(to, 48, "trash/%s", id);
	int held = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (held >= 0)
		(void)flock(held, LOCK_EX | LOCK_NB);
	*ret_held = held;
	int r = FVM_FAULT("store.trash");
	if (r < 0)
		return r;
	scoped_fd trash = open_part(store, "trash");
	if (trash < 0)
		return trash;
	return renameat(dir, name, trash, id) < 0 ? -errno : 0;
}

struct trash {
	const struct fvm_store *store;
	char path[48];
	int held;
	pid_t caller;
};

static void trash_delete(void *arg)
{
	const struct trash *t = arg;
	const int keep[] = { 0, 1, 2, t->store->dir, t->held };
	/* whatever locks the caller holds, of a VM that he starts perhaps, are not to last as long
	 * as we do */
	if (getpid() != t->caller)
		fvm_helper_close(keep, FVM_COUNT(keep));
	(void)FVM_FAULT("store.delete");
	(void)fvm_subids_remove_tree(t->store->dir, t->path);
}

int fvm_trash(const struct fvm_store *store, int dir, const char *name, bool later)
{
	struct trash t = { .store = store, .caller = getpid() };
	scoped_fd held = -1;
	int r = trash_take(store, dir, name, t.path, &held);
	t.held = held;
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	if (!later) {
		(void)FVM_FAULT("store.delete");
		return fvm_subids_remove_tree(store->dir, t.path);
	}
	fvm_later(trash_delete, &t);
	return 0;
}

static int no_such_vm(const struct fvm_store *store, const char *name, struct fvm_error *err)
{
	fvm_error_say(err, ENOENT, "there is no VM '%s'", name);
	scoped_strv names = { 0 };
	struct fvm_nearest near = { 0 };
	if (fvm_store_list(store, &names, NULL) == 0) {
		fvm_strv_each(&names, i)
			fvm_nearest_try(&near, name, strlen(name), names.items[i]);
	}
	if (near.word)
		fvm_error_hint(err, "did you mean '%s'?", near.word);
	else
		fvm_error_hint(err, "fvm ls shows those there are");
	return -ENOENT;
}

/* Whether the directory that we have is still the VM @name. */
static bool is_named(const struct fvm_vm *vm, const char *name)
{
	struct stat here, there;
	return fstat(vm->dir, &here) == 0 &&
	       fstatat(vm->store->vms, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	       here.st_ino == there.st_ino;
}

int fvm_vm_open(const struct fvm_store *store, const char *name, enum fvm_lock lock,
		struct fvm_vm *ret, struct fvm_error *err)
{
	int r = fvm_name_check(name, err);
	if (r < 0)
		return r;
	scoped_vm vm = { .store = store, .dir = -1, .lock = -1 };
	vm.dir = openat(store->vms, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (vm.dir < 0)
		return errno == ENOENT ? no_such_vm(store, name, err)
				       : fvm_error_set(err, errno, "open VM '%s'", name);
	if (lock != FVM_NO_LOCK) {
		bool wait = lock != FVM_LOCK_NOWAIT && lock != FVM_LOCK_AS_IT_IS_NOWAIT;
		r = fvm_lock_take(vm.dir, name, wait, &vm.lock, err);
		if (r < 0)
			return r;
		/* it may have been removed or renamed while we waited */
		if (!is_named(&vm, name))
			return no_such_vm(store, name, err);
	}
	r = fvm_config_load(vm.dir, &vm.config, err);
	if (r == -ENOENT && !is_named(&vm, name))
		return no_such_vm(store, name, err);
	if (r == -ENOENT)
		r = -EBADMSG; /* there is a VM, but nobody knows what it is */
	if (r < 0) {
		fvm_error_hint(err, "restore it, or remove the VM: fvm rm --force %s", name);
		return fvm_error_wrap(err, r, "open VM '%s'", name);
	}
	/* the directory's name counts: a crash may have come between rename and rewrite */
	strcpy(vm.config.name, name);
	if (lock == FVM_LOCK || lock == FVM_LOCK_NOWAIT) {
		fvm_tidy_stopped(&vm);
		fvm_vm_let_go(&vm);
		fvm_remove_leftovers(vm.dir);
		r = vm.config.pending ? fvm_layers_finish(&vm, err) : 0;
		if (r < 0)
			return r;
		fvm_layers_tidy(&vm);
	}
	*ret = vm;
	vm = (struct fvm_vm){ .dir = -1, .lock = -1 };
	return 0;
}

void fvm_vm_close(struct fvm_vm *vm)
{
	fvm_fd_closep(&vm->dir);
	fvm_fd_closep(&vm->lock);
	fvm_config_free(&vm->config);
	if (vm->effective)
		fvm_config_free(vm->effective);
	free(vm->effective);
	vm->effective = NULL;
	fvm_strv_free(&vm->used);
	vm->dir = vm->lock = -1;
}

void fvm_vm_unref_layers(const struct fvm_store *store, const struct fvm_config *config, bool later)
{
	scoped_strv layers = { 0 };
	if (fvm_config_layers(config, &layers) < 0)
		return; /* prune finds them */
	fvm_strv_each(&layers, i)
		(void)fvm_layer_unref(store, layers.items[i], config->id, later);
}

static int stand_on_layers(const struct fvm_vm *vm, struct fvm_error *err)
{
	scoped_strv layers = { 0 };
	if (fvm_config_layers(&vm->config, &layers) < 0)
		return fvm_error_set(err, ENOMEM, "list its layers");
	fvm_strv_each(&layers, i) {
		int r = FVM_FAULT("vm.ref");
		if (r == 0)
			r = fvm_layer_ref(vm->store, layers.items[i], vm->config.id);
		if (r < 0)
			return fvm_error_set(err, -r, "stand on layer %s", layers.items[i]);
	}
	return 0;
}

/* The configuration comes first: who tidies up after us lets go of the layers it names. */
static int fill_new(struct fvm_vm *vm, bool used, const struct fvm_making *making,
		    struct fvm_error *err)
{
	/* who looked for a spare's last VM by its name may hold it until he sees that it is gone */
	int r = fvm_lock_take(vm->dir, vm->config.name, used, &vm->lock, err);
	if (r < 0)
		return r;
	if (used)
		return fvm_config_overwrite(vm->dir, &vm->config, err);
	r = FVM_FAULT("vm.workspace");
	if (r < 0)
		return fvm_error_set(err, -r, "make its workspace");
	if (mkdirat(vm->dir, "workspace", 0700) < 0 || mkdirat(vm->dir, "workspace/fs", 0700) < 0)
		return fvm_error_set(err, errno, "make its workspace");
	r = fvm_config_save(vm->dir, &vm->config, making->sync, err);
	if (r == 0 && making->place)
		r = making->place(making->arg, vm->dir, err);
	return r < 0 ? r : stand_on_layers(vm, err);
}

static int put_in_place(const struct fvm_store *store, const char *tmp, struct fvm_vm *vm,
			bool sync, struct fvm_error *err)
{
	const char *name = vm->config.name;
	int r = FVM_FAULT("vm.place");
	if (r < 0)
		return fvm_error_set(err, -r, "name it '%s'", name);
	if (renameat2(store->dir, tmp, store->vms, name, RENAME_NOREPLACE) < 0) {
		if (errno != EEXIST)
			return fvm_error_set(err, errno, "name it '%s'", name);
		fvm_error_hint(err, "choose another name, or: fvm rm %s", name);
		return fvm_error_say(err, EEXIST, "there is one of that name already");
	}
	if (sync && fsync(store->vms) < 0)
		return fvm_error_set(err, errno, "sync %s/vms", store->path);
	(void)flock(vm->dir, LOCK_UN);
	return 0;
}

/* Not if it is another VM's: then it is not empty. */
static void drop_run_dir(const struct fvm_vm *vm)
{
	char path[FVM_NAME_MAX + 8];
	snprintf(path, sizeof(path), "vms/%s", vm->config.name);
	(void)unlinkat(vm->store->run, path, AT_REMOVEDIR);
}

static bool may_be_spare(const struct fvm_config *c)
{
	return c->throw_away && c->layers.count == 0 && c->disk_bytes == 0;
}

static void hint_unwritable(int r, struct fvm_error *err)
{
	if (r == -EROFS || r == -EACCES)
		fvm_error_hint(err, "set FVM_HOME to a directory that you can write");
}

/* Its owner could neither use nor delete a VM of somebody else's in there. */
static int check_store(const struct fvm_store *store, struct fvm_error *err)
{
	uid_t owner = (uid_t)-1;
	if (fvm_is_callers(store->dir, &owner))
		return 0;
	fvm_error_hint(err, "do it as that user: sudo -u '#%u' fvm ..; or set FVM_HOME", owner);
	return fvm_error_say(err, EPERM, "the store %.200s is of the user with uid %u", store->path,
			     owner);
}

int fvm_vm_create(const struct fvm_store *store, const struct fvm_config *config, bool sync,
		  struct fvm_vm *ret, struct fvm_error *err)
{
	const struct fvm_making making = { .sync = sync };
	return fvm_vm_make(store, config, &making, ret, err);
}

int fvm_vm_make(const struct fvm_store *store, const struct fvm_config *config,
		const struct fvm_making *making, struct fvm_vm *ret, struct fvm_error *err)
{
	struct fvm_error mine = { 0 };
	char tmp[40];
	int r = fvm_name_check(config->name, err);
	if (r == 0)
		r = check_store(store, err);
	if (r < 0)
		return r;
	scoped_vm vm = { .store = store, .dir = -1, .lock = -1 };
	r = fvm_config_copy(&vm.config, config);
	if (r < 0)
		return fvm_error_set(err, -r, "make VM '%s'", config->name);
	bool used = false;
	vm.dir =
		may_be_spare(config) ? fvm_spare_take(store, tmp, &used) : fvm_tmp_make(store, tmp);
	if (vm.dir < 0) {
		hint_unwritable(vm.dir, err);
		return fvm_error_set(err, -vm.dir, "make VM '%s' in %s", config->name, store->path);
	}
	r = FVM_FAULT("vm.make");
	if (r < 0)
		fvm_error_set(&mine, -r, "fill it");
	else
		r = fill_new(&vm, used, making, &mine);
	/* by this a VM is found whose starter was killed before it could run */
	if (r == 0 && config->throw_away)
		close(fvm_vm_run_dir(&vm, true));
	if (r == 0)
		r = put_in_place(store, tmp, &vm, making->sync, &mine);
	if (r < 0) {
		fvm_vm_unref_layers(store, &vm.config, false);
		if (config->throw_away)
			drop_run_dir(&vm);
		(void)fvm_remove_tree(store->dir, tmp);
		hint_unwritable(r, &mine);
		if (err)
			*err = mine;
		return fvm_error_wrap(err, r, "make VM '%s'", config->name);
	}
	*ret = vm;
	vm = (struct fvm_vm){ .dir = -1, .lock = -1 };
	return 0;
}

int fvm_vm_save(struct fvm_vm *vm, struct fvm_error *err)
{
	int r = fvm_config_save(vm->dir, &vm->config, true, err);
	return r < 0 ? fvm_error_wrap(err, r, "VM '%s'", vm->config.name) : 0;
}

/* Something mounted below the VM's directory would be deleted along with it. */
static int check_no_mounts(const struct fvm_store *store, const char *path, struct fvm_error *err)
{
	char prefix[sizeof(store->path) + FVM_NAME_MAX + 16];
	snprintf(prefix, sizeof(prefix), " %s/%s/", store->path, path);
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t room = 0;
	int r = 0;
	while (f && r == 0 && getline(&line, &room, f) > 0) {
		const char *at = strstr(line, prefix);
		if (at) {
			fvm_error_set(err, EBUSY, "%.*s is mounted below the VM's directory",
				      (int)strcspn(at + 1, " "), at + 1);
			fvm_error_hint(err, "unmount it first");
			r = -EBUSY;
		}
	}
	free(line);
	if (f)
		fclose(f);
	return r;
}

struct removal {
	struct fvm_vm *vm;
	fvm_remove_fn fn;
	void *arg;
	int held, run_held; /* its two directories, locked */
	int pidfd;	    /* PID 1's, when it may not be gone yet */
	char path[48];
};

static void remove_files(const struct removal *r)
{
	const struct fvm_vm *vm = r->vm;
	if (may_be_spare(&vm->config)) {
		/* the starter, who is about to end, has a copy: the next VM is not to meet it */
		fvm_lock_drop(vm->lock);
		if (fvm_running_helper_gone(r->run_held, 1000) &&
		    fvm_spare_keep(vm->store, r->path, r->held))
			return;
	}
	scoped_fd workspace = fvm_open_nofollow(vm->dir, "workspace", O_RDONLY | O_DIRECTORY);
	if (workspace >= 0)
		fvm_disk_release(workspace);
	/* before its configuration goes, which names them: see fvm_store_open() */
	fvm_vm_unref_layers(vm->store, &vm->config, false);
	(void)FVM_FAULT("vm.delete");
	int left = fvm_subids_remove_tree_told(vm->store->dir, r->path, r->fn, r->arg);
	if (left < 0)
		log_warn("VM '%s': not all of it could be deleted: %s; fvm prune tries again",
			 vm->config.name, strerror(-left));
}

static void remove_rest(void *arg)
{
	const struct removal *r = arg;
	remove_files(r);
	fvm_tidy_ended_dir(r->vm->store, r->vm->config.id, r->run_held);
}

/* Now that nothing holds on to its files. */
static void remove_ended(void *arg)
{
	const struct removal *r = arg;
	struct pollfd p = { .fd = r->pidfd, .events = POLLIN };
	if (poll(&p, 1, END_WAIT_MS) != 1 || check_no_mounts(r->vm->store, r->path, NULL) < 0)
		return; /* prune tries again */
	remove_rest(arg);
}

int fvm_vm_remove_exit(struct fvm_vm *vm, int pidfd, int status, struct fvm_error *err)
{
	struct removal removal = { .vm = vm, .pidfd = pidfd, .held = -1 };
	const char *name = vm->config.name;
	removal.run_held = fvm_tidy_later(vm);
	int r = trash_take(vm->store, vm->store->vms, name, removal.path, &removal.held);
	if (r < 0)
		return fvm_error_set(err, -r, "delete VM '%s'", name);
	later_exit(remove_ended, &removal, status);
}

static int vm_remove(struct removal *removal, bool later, struct fvm_error *err)
{
	struct fvm_vm *vm = removal->vm;
	const char *name = vm->config.name;
	scoped_fd held = -1, run_held = -1;
	if (!fvm_vm_has_ended(vm)) {
		fvm_error_say(err, EBUSY, "VM '%s' is running", name);
		fvm_error_hint(err, "fvm stop %s first, or fvm rm --force %s", name, name);
		return -EBUSY;
	}
	char path[FVM_NAME_MAX + 8];
	snprintf(path, sizeof(path), "vms/%s", name);
	int r = check_no_mounts(vm->store, path, err);
	if (r < 0)
		return fvm_error_wrap(err, r, "delete VM '%s'", name);
	run_held = fvm_tidy_later(vm);
	r = trash_take(vm->store, vm->store->vms, name, removal->path, &held);
	if (r < 0 && vm->config.throw_away)
		fvm_tidy_again(vm);
	if (r < 0)
		return fvm_error_set(err, -r, "delete VM '%s'", name);
	removal->held = held;
	removal->run_held = run_held;
	if (later)
		fvm_later(remove_rest, removal);
	else
		remove_rest(removal);
	return 0;
}

int fvm_vm_remove(struct fvm_vm *vm, bool later, struct fvm_error *err)
{
	struct removal removal = { .vm = vm, .held = -1, .run_held = -1 };
	return vm_remove(&removal, later, err);
}

int fvm_vm_remove_told(struct fvm_vm *vm, fvm_remove_fn fn, void *arg, struct fvm_error *err)
{
	struct removal removal = { .vm = vm, .fn = fn, .arg = arg, .held = -1, .run_held = -1 };
	return vm_remove(&removal, false, err);
}

int fvm_store_discard(const struct fvm_store *store, const char *name)
{
	scoped_fd dir = openat(store->vms, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return -errno;
	if (fvm_lock_alive(dir))
		return -EBUSY;
	return fvm_trash(store, store->vms, name, false);
}

int fvm_vm_rename(struct fvm_vm *vm, const char *name, struct fvm_error *err)
{
	const struct fvm_store *store = vm->store;
	int r = fvm_name_check(name, err);
	if (r < 0)
		return r;
	char from[FVM_NAME_MAX + 8], to[FVM_NAME_MAX + 8];
	snprintf(from, sizeof(from), "vms/%s", vm->config.name);
	snprintf(to, sizeof(to), "vms/%s", name);
	r = FVM_FAULT("vm.rename");
	if (r < 0)
		return fvm_error_set(err, -r, "rename VM '%s'", vm->config.name);
	if (renameat2(store->vms, vm->config.name, store->vms, name, RENAME_NOREPLACE) < 0)
		return errno == EEXIST
			       ? fvm_error_say(err, EEXIST, "there is a VM '%s' already", name)
			       : fvm_error_set(err, errno, "rename VM '%s' to '%s'",
					       vm->config.name, name);
	if (renameat(store->run, from, store->run, to) < 0 && errno != ENOENT)
		log_warn("VM '%s': its run-time directory kept its name: %s", name,
			 strerror(errno));
	strcpy(vm->config.name, name);
	return fvm_vm_save(vm, err);
}

bool fvm_is_callers(int dir, uid_t *ret_owner)
{
	struct stat st;
	if (fstat(dir, &st) < 0)
		return false;
	if (ret_owner)
		*ret_owner = st.st_uid;
	return st.st_uid == geteuid();
}

int fvm_vm_check_owner(const struct fvm_vm *vm, struct fvm_error *err)
{
	uid_t owner = (uid_t)-1;
	if (fvm_is_callers(vm->dir, &owner))
		return 0;
	fvm_error_hint(err, "do it as that user: sudo -u '#%u' fvm ..", owner);
	return fvm_error_say(err, EPERM,
			     "VM '%s' is of the user with uid %u, who says in its "
			     "configuration what it shares",
			     vm->config.name, owner);
}

/* State names processes to be signalled and cgroups to be ended: root, who looks into a user's
 * store, believes none of it. */
int fvm_vm_run_dir(const struct fvm_vm *vm, bool make)
{
	char path[FVM_NAME_MAX + 8];
	snprintf(path, sizeof(path), "vms/%s", vm->config.name);
	if (make && mkdirat(vm->store->run, path, 0700) < 0 && errno != EEXIST)
		return -errno;
	scoped_fd fd =
		openat(vm->store->run, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return fvm_is_callers(fd, NULL) ? fvm_fd_take(&fd) : -EPERM;
}

int fvm_vm_open_output(const struct fvm_vm *vm, const char *name, int flags)
{
	scoped_fd run = vm->config.throw_away ? fvm_vm_run_dir(vm, false) : -1;
	int fd = openat(run >= 0 ? run : vm->dir, name,
			flags | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

enum fvm_state fvm_vm_state(const struct fvm_vm *vm)
{
	if (!fvm_lock_alive(vm->dir))
		return FVM_STOPPED;
	scoped_fd run = fvm_vm_run_dir(vm, false);
	if (run >= 0 && faccessat(run, "paused", F_OK, 0) == 0)
		return FVM_PAUSED;
	return FVM_RUNNING;
}

int fvm_vm_alive_lock(const struct fvm_vm *vm, int *ret_fd, struct fvm_error *err)
{
	int r = fvm_lock_take_alive(vm->dir, ret_fd);
	if (r == -EBUSY && fvm_vm_has_ended(vm))
		r = fvm_lock_take_alive(vm->dir, ret_fd);
	if (r == -EBUSY)
		return fvm_error_say(err, EBUSY, "VM '%s' is running already", vm->config.name);
	return r < 0 ? fvm_error_set(err, -r, "lock VM '%s'", vm->config.name) : 0;
}

const char *fvm_state_name(enum fvm_state state)
{
	static const char *const names[] = { "stopped", "running", "paused", "broken" };
	return names[state];
}
