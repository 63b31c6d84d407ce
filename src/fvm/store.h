/*
 * fvm/store - where VMs lie on disk and at run time, and who holds one
 *
 * Theory of operation
 *   STORE = /var/lib/fvm for root, $XDG_DATA_HOME/fvm for others; where their file systems can't
 *   keep a VM's changes /var/tmp/fvm-UID, /dev/shm/fvm-UID. FVM_HOME overrides.
 *   RUN = /run/fvm, $XDG_RUNTIME_DIR/fvm, or STORE/run, as for the root of a user namespace.
 *
 *     STORE/format            "1": number of the store's layout
 *     STORE/vms/NAME/         config.json  lock  log  status  stamps
 *     STORE/vms/NAME/workspace/fs/KEY/{upper,work}   one pair per overlaid mount
 *     STORE/vms/NAME/programs/DIGEST                 what ran at a snapshot (programs.h)
 *     STORE/vms/NAME/before/                         the workspace while a rollback is tried
 *     STORE/vms/NAME/workspace/fs/+native/at-KEY     a native directory (native.h)
 *     STORE/layers/ID/fs/KEY/upper                   frozen: a snapshot's or a clone's
 *     STORE/layers/ID/refs/VMID                      which VMs stand on it
 *     STORE/commits/ID/       journal and what a commit replaced, for undo
 *     STORE/spare/            directories of thrown-away VMs, for the next ones (spare.h)
 *     STORE/hide/HASH/KEY/    lower layers that hide the store and secrets
 *     STORE/trash/            renamed here first, deleted afterwards
 *     STORE/tmp/              made here first, renamed to their place when whole; the maker holds
 *                             flock(2) on the entry, so that a free one is known to be abandoned
 *     RUN/vms/NAME/control    PID 1's socket;  state.json (state.h);  paused: there while it is
 *     RUN/ended/VMID          run-time directory of a VM that is gone, being tidied
 *     RUN/slots/N             symlink to VMID: numbers of uid ranges and addresses (slot.h)
 *
 *   KEY names a mount point: "root" for /, else its path with "/" as "-" and every byte outside
 *   [A-Za-z0-9_.] as "%XX" (so /home is "home", /var/lib is "var-lib", /root is "%72oot").
 *   A VM directory is made under tmp/ and renamed to vms/; removal renames it to trash/ first. So
 *   what stands under vms/ is whole, and fvm_store_open() clears what a crash left in the others.
 *
 *   vms/NAME/lock carries open-file-description locks: byte 0 is held by a command that
 *   changes the VM (its text names the command and pid), byte 1 by PID 1 of a running VM for as
 *   long as it lives: no pid can be mistaken for it and no crash leaves it held. Byte 2 is held
 *   while memory of its programs is still to come (vin/lazy), byte 3 by who rolls it back when its
 *   watchdog wants that (watchdog.h).
 */
#ifndef FVM_STORE_H
#define FVM_STORE_H

#include "fvm/config.h"

struct fvm_store {
	int dir;	 /* STORE */
	int vms;	 /* STORE/vms */
	int run;	 /* RUN */
	char path[1024]; /* STORE, absolute, symlinks resolved */
	bool rootless; /* the caller has no privileges */
};

enum fvm_state { FVM_STOPPED, FVM_RUNNING, FVM_PAUSED, FVM_BROKEN };

/* Told from time to time; @done and @total in bytes, @total 0 when not known. */
typedef void (*fvm_progress_fn)(unsigned long long done, unsigned long long total, void *arg);

/* An open VM; fvm_vm_close() lets its lock go. */
struct fvm_vm {
	const struct fvm_store *store; /* borrowed */
	int dir;		       /* STORE/vms/NAME */
	int lock;		       /* holds byte 0 when opened FVM_LOCK; else -1 */
	struct fvm_config config;      /* as it is stored */
	struct fvm_config *effective;  /* with policies; NULL until fvm_vm_policies() */
	struct fvm_strv used;	       /* names of those policies */
	fvm_progress_fn progress; /* told of files being copied, in whichever process; or NULL */
	void *progress_arg;
	bool held; /* by the caller, who lets nobody run in it: it need not be paused */
	/* with that, while its files are copied: most of them, copied before; may be NULL */
	struct fvm_early *early;
	void (*copied)(void *arg); /* told then when that need not be any more; or NULL */
	void *copied_arg;
};

/* FVM_LOCK_AS_IT_IS..: like FVM_LOCK.., but what an ended VM left is not tidied, as it is to be
 * deleted */
enum fvm_lock {
	FVM_NO_LOCK,
	FVM_LOCK,
	FVM_LOCK_NOWAIT,
	FVM_LOCK_AS_IT_IS,
	FVM_LOCK_AS_IT_IS_NOWAIT
};

void fvm_store_close(struct fvm_store *store);
#define scoped_store __attribute__((cleanup(fvm_store_close))) struct fvm_store
void fvm_vm_close(struct fvm_vm *vm);
#define scoped_vm __attribute__((cleanup(fvm_vm_close))) struct fvm_vm

/** fvm_store_open() - find, make if need be, and tidy the caller's store */
int fvm_store_open(struct fvm_store *ret, struct fvm_error *err);

/**
 * fvm_vm_open() - open an existing VM by name
 * @lock: FVM_LOCK waits up to 60 s for another command, telling who holds it after one second
 * Return: 0, -ENOENT (with the nearest name as a hint), -EBUSY (held: by whom), -EBADMSG...
 */
int fvm_vm_open(const struct fvm_store *store, const char *name, enum fvm_lock lock,
		struct fvm_vm *ret, struct fvm_error *err);

/**
 * fvm_vm_create() - make a VM's directory from @config, whole or not at all, and open it locked
 * @sync: false for a VM that is thrown away in the end
 * Return: 0, or -EEXIST...
 */
int fvm_vm_create(const struct fvm_store *store, const struct fvm_config *config, bool sync,
		  struct fvm_vm *ret, struct fvm_error *err);

/** fvm_vm_policies() - fill vm->effective: what holds for a start with @program (NULL: none), or,
 *  when it was filled before, nothing */
int fvm_vm_policies(struct fvm_vm *vm, const char *program, struct fvm_error *err);

/** fvm_vm_save() - write vm->config back */
int fvm_vm_save(struct fvm_vm *vm, struct fvm_error *err);

/** fvm_vm_remove() - let go of layers and delete a stopped VM that is open FVM_LOCK.
 *  Refuses (-EBUSY) while it runs or anything is mounted below its directory.
 *  @later: rename to trash/ now, delete in a child process */
int fvm_vm_remove(struct fvm_vm *vm, bool later, struct fvm_error *err);

/**
 * fvm_vm_remove_exit() - the same for a VM to be thrown away whose PID 1 is about to be gone, and
 * then exit with @status
 * Its name is free from here on. @pidfd: PID 1's, which a process left behind waits for first.
 * Return: only when that failed, negative errno
 */
int fvm_vm_remove_exit(struct fvm_vm *vm, int pidfd, int status, struct fvm_error *err);

/** fvm_vm_remove_told() - the same at once, with progress: see fvm_remove_tree_told() */
int fvm_vm_remove_told(struct fvm_vm *vm, fvm_remove_fn fn, void *arg, struct fvm_error *err);

/** fvm_vm_rename() - give a VM, open FVM_LOCK, another name. Return: 0, -EEXIST... */
int fvm_vm_rename(struct fvm_vm *vm, const char *name, struct fvm_error *err);

/** fvm_vm_state() - stopped, running or paused; looks at byte 1 of the lock */
enum fvm_state fvm_vm_state(const struct fvm_vm *vm);

/** fvm_vm_has_ended() - whether PID 1 is no more; waits a moment for others to let go of what they
 *  had from it */
bool fvm_vm_has_ended(const struct fvm_vm *vm);

/** fvm_vm_alive_lock() - take byte 1; @ret_fd is handed to PID 1. Return: 0 or -EBUSY */
int fvm_vm_alive_lock(const struct fvm_vm *vm, int *ret_fd, struct fvm_error *err);

/** fvm_is_callers() - does this directory belong to the caller? @ret_owner: whose it is, or NULL */
bool fvm_is_callers(int dir, uid_t *ret_owner);

/**
 * fvm_vm_check_owner() - whether the caller made this VM, so that its configuration is his own
 * Who is root may read and commit users' VMs, but starts none: what it binds would be root's.
 * Return: 0, or -EPERM with @err
 */
int fvm_vm_check_owner(const struct fvm_vm *vm, struct fvm_error *err);

/** fvm_vm_run_dir() - open (with @make: and make) RUN/vms/NAME
 *  Return: descriptor, -EPERM (it is another user's, and not to be believed) or -errno */
int fvm_vm_run_dir(const struct fvm_vm *vm, bool make);

/** fvm_vm_open_output() - open its "log" or "status"
 *  They stand in STORE/vms/NAME, those of a VM that is thrown away in RUN/vms/NAME, and go with it.
 *  @flags: as open(2). Return: descriptor or negative errno */
int fvm_vm_open_output(const struct fvm_vm *vm, const char *name, int flags);

/** fvm_store_discard() - delete a VM whose configuration can't be read, by its directory alone
 *  Return: 0, or -EBUSY when it runs */
int fvm_store_discard(const struct fvm_store *store, const char *name);

/** fvm_store_list() - names of all VMs, sorted */
int fvm_store_list(const struct fvm_store *store, struct fvm_strv *ret, struct fvm_error *err);

/** fvm_mount_key() - "root", "home", "var-lib": see above. Return: 0 or -ENAMETOOLONG */
int fvm_mount_key(const char *mount_point, char *ret, size_t size);
/** fvm_mount_point() - the inverse. Return: 0 or -EINVAL */
int fvm_mount_point(const char *key, char *ret, size_t size);

const char *fvm_state_name(enum fvm_state state);

#endif
