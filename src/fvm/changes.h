/*
 * fvm/changes - what a VM changed, compared with its base
 *
 * Theory of operation
 *   A VM's view of one mount is a stack of directories in overlay format: base (the host's, read
 *   only by us), frozen layers, workspace. The scan merges the upper ones by the overlay's rules
 *   (whiteouts in both forms, opaque directories, trusted.overlay.* or user.overlay.*) and compares
 *   the result with the base, path by path, in order of the path's components: parents come before
 *   children, and a directory that was replaced by a file comes as two changes.
 *   The scan works on descriptors only, follows no symlink, opens no device, and sorts names so
 *   that its output is the same each time. It streams: a million changes need no million structs.
 *   A file whose content, mode, owner, times of interest and xattrs equal the base's is no change
 *   (copied up and put back). mtime alone is no change; ctime and atime never are.
 *   A directory in the place of something else, or the reverse, is FVM_DELETED followed by
 *   FVM_ADDED; any other change of type is FVM_TYPE.
 *   What was hidden from the VM (hide_record.h) was not there for it: what it made in that place is
 *   added, and nothing of the base's is ever shown as deleted. What it could see when it made its
 *   own is compared, whatever policies hide today.
 *   Owners: what the rootless record says (owners.h) wins over the inode.
 *   xattrs of the overlay itself (*.overlay.*) are never compared; security.capability is compared
 *   without the root id of version 3, which only says in whose user namespace it was set.
 *
 * Hostile trees
 *   Whoever controls the VM controls every name, type, size and depth in the layers. Directories
 *   are opened by openat2() one component at a time (no symlink, no mount crossed), files only when
 *   they are regular, and at most a fixed number of descriptors is held however deep a tree is: a
 *   directory that was closed meanwhile is opened again and must be the same inode (-ESTALE).
 */
#ifndef FVM_CHANGES_H
#define FVM_CHANGES_H

#include <sys/stat.h>

#include "fvm/store.h"

struct fvm_hide_record;

enum fvm_change_kind {
	FVM_ADDED,    /* 'A' */
	FVM_CHANGED,  /* 'M': content, or a symlink's target */
	FVM_DELETED,  /* 'D': one entry for a whole tree; see fvm_change_deleted() */
	FVM_META,     /* 'm': mode, owner, xattr, capability, ACL */
	FVM_TYPE,     /* 'T': another file type */
	FVM_RENAMED,  /* 'R': only of fvm_stacks_renames() */
};

enum fvm_meta {	/* bits of fvm_change.meta */
	FVM_META_MODE = 1,
	FVM_META_OWNER = 2,
	FVM_META_XATTR = 4,	/* user.*, security.* without capability, ACLs */
	FVM_META_CAPS = 8,	/* security.capability */
	FVM_META_TIMES = 16,	/* never alone */
};

/* One change. Everything belongs to the scan and is valid only within the call-back. */
struct fvm_change {
	enum fvm_change_kind kind;
	unsigned int meta;
	const char *path;	/* absolute, as seen in the VM; any bytes but NUL */
	const char *from;	/* renames: where it was; else NULL */
	const char *key;	/* which mount, see fvm_mount_key() */
	const char *rel;	/* path below that mount, without leading slash; "" for its root */
	int layer_dir;		/* directory descriptor that holds the new entry; -1 if deleted */
	int base_dir;		/* directory descriptor that holds the base's entry; -1 if none */
	int whiteout_dir;	/* deleted by a whiteout in this directory; else -1 */
	int workspace;		/* then also the mount's uppermost layer */
	const char *name;	/* last component: valid below both */
	const struct stat *now;	/* new; with the wished owner; NULL if deleted */
	const struct stat *was;	/* base; NULL if added */
	size_t layer;		/* index into the stack: 0 is the lowest frozen layer */
	bool opaque;		/* directory: nothing of the base shines through */
	bool noise;		/* /run, /tmp, caches, histories, logs: see fvm_path_is_noise() */
	bool hidden;		/* the VM could not see what the base has there, if anything */
	bool unreadable;	/* a side's content can't be read by us (rootless: a stand-in was used):
				 * reported as changed, and not to be committed */
};

/* Return: 0 to go on, 1 to leave out what lies below this directory, negative errno to stop. */
typedef int (*fvm_change_fn)(const struct fvm_change *change, void *arg);

struct fvm_scan_options {
	const char *const *paths; /* NULL-terminated absolute paths to look below; NULL: all */
	bool with_noise;	  /* also what counts as no change */
	bool skip_content;	  /* compare size and mtime only: fast, may report too much */
	bool whole_trees;	  /* also everything below a deleted directory */
	bool must_see;		  /* -EACCES at what can't be looked into, instead of a warning */
	bool meta_only_dirs;	  /* also directories that were only copied up: 'm' with meta 0 */
};

/** fvm_changes_any() - whether there is a change that counts; stops at the first. 0, 1 or -errno */
int fvm_changes_any(const struct fvm_vm *vm, struct fvm_error *err);

/** fvm_path_is_noise() - whether a change of @path counts for nothing unless it is named:
 *  /run /tmp /var/tmp /var/cache /var/log, ~/.cache, shells' histories, what a crash left of our
 *  own (adopt.h), and the directories' own mtime. Absolute path as seen in the VM. */
bool fvm_path_is_noise(const char *path);

/*
 * One mount's stack, for those who need to read the layers themselves (commit, export, who).
 */
struct fvm_stack {
	char key[256];
	char mount_point[4096];
	int base;	/* host's directory, O_RDONLY|O_DIRECTORY; -1: mount point is gone */
	int *layers;	/* upper directories, lowest frozen first, workspace last; -1: has none */
	size_t count;
	bool user_xattr; /* user.overlay.* instead of trusted.overlay.* */
	struct fvm_owners **owners; /* rootless: the record of each of layers; else NULL */
	bool silent; /* used, and its server does not answer, or nobody asked for it: base is -1 */
	const struct fvm_hide_record *hide; /* what it did not see of the base; may be NULL */
};

struct fvm_stacks {
	struct fvm_stack *items; /* sorted by mount point: parents first */
	size_t count;
	struct fvm_strv natives;    /* paths of native directories (native.h), not looked into */
	struct fvm_owners **owners; /* rootless: one per layer of the VM, lent to the items */
	size_t owner_count;
	struct fvm_hide_record *hide;
};

#define FVM_STACKS_LAYERS ((const char *const[]){ NULL })

/**
 * fvm_stacks_open() - open all layers of a VM and the host's directories under them
 * @paths: what is to be looked at, as in fvm_scan_options; NULL: all; FVM_STACKS_LAYERS: layers
 *         alone count, and no server is asked
 * A base that is not mounted now is -1: what lies in such a stack can't be compared, and shows as
 * added. So is one of a network file system when no layer holds anything for it.
 * What has changes in it and does not answer is "silent", warned of, and no scan looks there.
 * Return: 0, -ETIMEDOUT (one of @paths is in what does not answer), or another -errno
 */
int fvm_stacks_open(const struct fvm_vm *vm, const char *const *paths, struct fvm_stacks *ret,
		    struct fvm_error *err);

/** fvm_stack_refuse() - say that @stack, which is silent, is needed. Return: -ETIMEDOUT */
int fvm_stack_refuse(const struct fvm_stack *stack, struct fvm_error *err);

/**
 * fvm_stacks_scan() - call @fn for each change of a VM against the host
 * The VM should be stopped or paused; of a running one the result may be torn.
 * Return: 0, what @fn returned if negative, or negative errno
 */
int fvm_stacks_scan(const struct fvm_stacks *stacks, const struct fvm_scan_options *options,
		    fvm_change_fn fn, void *arg, struct fvm_error *err);

/**
 * fvm_stacks_renames() - as fvm_stacks_scan(), with renames found
 *
 * A deleted and an added file of equal type, size and content become one FVM_RENAMED, and so does a
 * directory with all it holds. Scans twice, needs memory for every added and deleted name, and
 * reads the files whose sizes agree. @was of a rename is the old file's; its base_dir is -1.
 */
int fvm_stacks_renames(const struct fvm_stacks *stacks, const struct fvm_scan_options *options,
		       fvm_change_fn fn, void *arg, struct fvm_error *err);

/** fvm_stack_is_used() - whether any layer holds anything at all */
bool fvm_stack_is_used(const struct fvm_stack *stack);

void fvm_stacks_close(struct fvm_stacks *stacks);

/**
 * fvm_stack_scan() - as fvm_stacks_scan(), for one stack alone
 * Return: 0, what @fn returned if negative, or negative errno
 */
int fvm_stack_scan(const struct fvm_stack *stack, const struct fvm_scan_options *options,
		   fvm_change_fn fn, void *arg, struct fvm_error *err);

/**
 * fvm_change_deleted() - list what lay below a deleted directory
 * Calls @fn with FVM_DELETED for everything below @change (not for itself), in the scan's order.
 * To be called from within the call-back that got @change.
 * Return: 0, what @fn returned if negative, or negative errno
 */
int fvm_change_deleted(const struct fvm_change *change, fvm_change_fn fn, void *arg);

/** fvm_whiteout_is() - whether @name below @dir is a whiteout, in either form */
bool fvm_whiteout_is(int dir, const char *name, const struct stat *st, bool user_xattr);
/** fvm_opaque_is() - whether the directory @dir is opaque */
bool fvm_opaque_is(int dir, bool user_xattr);

#endif
