/*
 * fvm/commit_priv - what the files of commit and undo share; the whole picture is in commit.h
 */
#ifndef FVM_COMMIT_PRIV_H
#define FVM_COMMIT_PRIV_H

#include "fvm/changes.h"
#include "fvm/commit.h"
#include "fvm/journal.h"
#include "fvm/stamps.h"

#define COMMIT_FORMAT 1
#define COMMIT_NO_TOP UINT32_MAX

/* What happens at a path. */
enum commit_op {
	COMMIT_PUT = 1, /* file, symlink, FIFO, socket: new, or in place of what stood there */
	COMMIT_MKDIR,	/* directory, with all that lies in it */
	COMMIT_DELETE,	/* whatever stands there, a directory with all that lies in it */
	COMMIT_DIR,	/* directory stays, and gets another mode, owner, xattrs, or only times */
};

enum commit_flag {
	COMMIT_HAD = 1,	     /* something stood at the path */
	COMMIT_META = 2,     /* COMMIT_DIR: mode, owner and xattrs, not the times alone */
	COMMIT_TIMES = 4,    /* COMMIT_DIR: the VM has times for it */
	COMMIT_WHOLE = 8,    /* COMMIT_MKDIR: all that the workspace has below it is committed */
	COMMIT_CAPS = 32,    /* it had capabilities when it was checked whether it may */
	COMMIT_DRIFTED = 16, /* the host's had changed, and was replaced all the same, or merged */
};

struct commit_node { /* an inode as it was, or is to be */
	uint64_t ino, size;
	uint32_t mode, uid, gid;
	int64_t atime_ns, mtime_ns, ctime_ns;
};

struct commit_entry {
	enum commit_op op;
	unsigned int flags;
	uint32_t stack, area, layer;
	uint32_t top; /* entry of the new directory in whose tree it is staged, or COMMIT_NO_TOP */
	char *rel;    /* path below the mount; "" is its root */
	struct commit_node was, now, placed;
	uint64_t layer_ino;		       /* of the file in the layer; 0: none */
	uint64_t staged_ino;		       /* of what was made of it in the area */
	struct fvm_buf old_xattrs, new_xattrs; /* COMMIT_DIR with COMMIT_META */
	struct fvm_buf *merged; /* content of a three-way merge, or NULL; not in the journal */
};

struct commit_stack {
	char key[256];
	char *mount_point;
	uint64_t fsid;
	int base; /* the host's directory */
};

/* Where staged files wait and replaced ones are kept: on the mount they belong to. */
struct commit_area {
	uint32_t stack; /* meaningless when in_store */
	bool in_store;	/* it is commits/ID/area */
	char *rel;	/* else its path below the stack's base */
	uint64_t mount; /* id of the mount, while planning only */
	int fd;
};

struct commit_dir { /* the directory opened last: neighbours share it */
	int fd;
	uint64_t tag;
	char *path;
};

struct commit {
	const struct fvm_store *store;
	int host; /* the host's root directory, borrowed */
	int all;  /* STORE/commits */
	int dir;  /* STORE/commits/ID */
	int lock; /* STORE/commits/lock, held */
	uint32_t id;
	char vm_name[FVM_NAME_MAX + 1], vm_id[33];
	int64_t created_ns;
	struct commit_stack *stacks;
	size_t stack_count;
	struct commit_area *areas;
	size_t area_count;
	struct commit_entry *entries;
	size_t count, capacity;
	struct journal journal;
	struct commit_dir host_dir, layer_dir, staged_dir, link_dir;
	bool force; /* also over what the host is changing at this moment */
	fvm_commit_progress_fn progress;
	void *progress_arg;
	uint64_t copied_bytes, copy_bytes; /* of those to be staged */
};

enum commit_state {
	COMMIT_VOID,	 /* the host is untouched or nothing is kept: areas and directory can go */
	COMMIT_APPLYING, /* the host is being changed: back */
	COMMIT_DONE,	 /* it was changed, the layer is to follow: onward */
	COMMIT_KEPT,	 /* all done; waits for undo or drop */
	COMMIT_UNDOING,	 /* the host is being put back: forth again */
	COMMIT_UNDONE,	 /* it was put back, the layer is to follow: onward */
};

/* ---- commit_record.c: the directory of a commit, its state and its journal ---- */

void commit_free(struct commit *c);
#define scoped_commit __attribute__((cleanup(commit_free))) struct commit
#define COMMIT_INIT                                                                                \
	{                                                                                          \
		.host = -1, .all = -1, .dir = -1, .lock = -1, .journal = { .fd = -1 },             \
		.host_dir = { .fd = -1 }, .layer_dir = { .fd = -1 }, .staged_dir = { .fd = -1 },   \
		.link_dir = {                                                                      \
			.fd = -1                                                                   \
		}                                                                                  \
	}

/** commit_open_all() - open STORE/commits and take its lock. Return: 0, -EBUSY when !@wait, ... */
int commit_open_all(struct commit *c, const struct fvm_store *store, bool wait);
/** commit_ids() - call @fn for each directory of a commit, in no order */
int commit_ids(int all, int (*fn)(uint32_t id, void *arg), void *arg);
/** commit_make() - make the directory of a new commit and name it in "pending" */
int commit_make(struct commit *c, struct fvm_error *err);
/** commit_state_set() - make @state true on disk, with what the journal has by now */
int commit_state_set(struct commit *c, enum commit_state state);
/** commit_state_void() - COMMIT_VOID written over the state there is, which needs no space */
int commit_state_void(struct commit *c);
/** commit_state_get() - Return: enum commit_state, or negative errno (-EBADMSG) */
int commit_state_get(struct commit *c, uint64_t *ret_len);
/** commit_write_plan() - header, stacks, areas and entries into the journal, synced */
int commit_write_plan(struct commit *c);
int commit_write_staged(struct commit *c, uint32_t index);
int commit_write_placed(struct commit *c, uint32_t index);
/**
 * commit_load() - read commit @id back; areas and stacks are not opened yet
 * Return: 0 with *@ret_state, -ENOENT, -EBADMSG (damaged: nothing may be done), ...
 */
int commit_load(struct commit *c, uint32_t id, enum commit_state *ret_state, struct fvm_error *err);
/** commit_parse() - read a journal from memory into *@c. Return: bytes understood, or -errno */
ssize_t commit_parse(struct commit *c, const void *data, size_t len);
/** commit_add() - a new last entry, zeroed but for @rel's copy; NULL when out of memory */
struct commit_entry *commit_add(struct commit *c, const char *rel);
/** commit_pending_clear() - nothing is to be recovered any more */
int commit_pending_clear(struct commit *c);

/* ---- commit_place.c: finding the three places of an entry, and exchanging two of them ---- */

/** commit_dir_open() - open the first @len bytes of @path below @top, unless @cache holds just that
 */
int commit_dir_open(struct commit_dir *cache, uint64_t tag, int top, const char *path, size_t len);
/** commit_host_dir() - the host's directory in which @e lies; borrowed until the next call */
int commit_host_dir(struct commit *c, const struct commit_entry *e);
/** commit_staged_dir() - where @e is staged: directory, borrowed, and name (64 bytes) */
int commit_staged_dir(struct commit *c, uint32_t index, struct commit_dir *cache, const char **name,
		      char number[16]);
const char *commit_name(const char *rel);
/**
 * commit_open_places() - open the bases (of a loaded commit) and its areas
 * @state: in COMMIT_VOID and COMMIT_UNDONE areas may be gone, or not be there yet
 * Return: 0, or negative errno: what was kept is not there, or not what the commit made
 */
int commit_open_places(struct commit *c, enum commit_state state, struct fvm_error *err);
int commit_make_areas(struct commit *c, struct fvm_error *err);
/** commit_remove_areas() - delete staged and kept files, and the commit's directory */
int commit_remove_areas(struct commit *c);
/** commit_swap_all() - all entries, directories' metadata too, in the right order */
int commit_swap_all(struct commit *c, bool forth, bool any, struct fvm_error *err);
int commit_sync(struct commit *c);
void commit_node_from(struct commit_node *node, const struct stat *st);
/** commit_path() - absolute path of @e, for messages; to be freed */
char *commit_path(const struct commit *c, const struct commit_entry *e);

/* ---- commit_plan.c ---- */

/**
 * commit_plan() - fill stacks, areas and entries from the VM's changes
 * @host: the host's root
 * Return: 0, -EEXIST when there are problems that nothing was told to overrule, ...
 */
int commit_plan(struct commit *c, int host, const struct fvm_vm *vm,
		const struct fvm_stacks *stacks, const struct fvm_commit_options *options,
		struct fvm_commit_result *result, struct fvm_error *err);
int commit_problem(struct fvm_problems *problems, enum fvm_problem_kind kind, const char *path,
		   const char *why);

/* ---- commit_area.c ---- */

/** commit_area_find() - @e's area, made up when its mount has none yet; @parent: the host's directory
 *  that it lies in. Return: 0, -EACCES (nowhere there may be one), or another errno */
int commit_area_find(struct commit *c, struct commit_entry *e, int parent);

/* ---- commit_check.c: may it be done at all ---- */

struct commit_check { /* what a change is judged by */
	const struct fvm_vm *vm;
	const struct fvm_hide_record *hide; /* or NULL */
	int host;
	bool allow_setid;
	uid_t owner;		/* of the store */
	gid_t group;
	struct fvm_strv mounts; /* the host's mount points; freed by the caller */
};

/** commit_check_init() - @host: the host's root. Return: 0 or negative errno */
int commit_check_init(struct commit_check *k, int host, const struct fvm_vm *vm,
		      const struct fvm_hide_record *hide, bool allow_setid);
/** commit_check() - why a change can't be committed, or NULL
 *  @parent: the host's directory that it lies in, -1: a new one */
const char *commit_check(const struct commit_check *k, const struct fvm_change *ch, int parent,
			 enum fvm_problem_kind *ret_kind);
/** commit_check_hidden() - the same of what the host has and the VM could not see */
const char *commit_check_hidden(const struct commit_check *k, const struct fvm_change *ch);
/** commit_has_caps() - whether its new file has capabilities; true when that can't be told */
bool commit_has_caps(const struct fvm_change *ch);

/* ---- commit.c, commit_undo.c, commit_recover.c ---- */

/** commit_run() - fvm_commit() with opened stacks, on the host whose root is @host */
int commit_run(int host, const struct fvm_vm *vm, const struct fvm_stacks *stacks,
	       const struct fvm_commit_options *options, struct fvm_commit_result *result,
	       struct fvm_error *err);
/** commit_services_of() - units that run with what @c replaced or put back */
int commit_services_of(const struct commit *c, struct fvm_strv *ret);
/** commit_undo_stacks() - fvm_commit_undo() on the host whose root is @host, giving the changes back
 *  to @vm with its @stacks */
int commit_undo_stacks(int host, const struct fvm_store *store, uint32_t id,
		       const struct fvm_commit_options *options, const struct fvm_vm *vm,
		       const struct fvm_stacks *stacks, struct fvm_commit_result *result,
		       struct fvm_error *err);
/** commit_recover_at() - @own: a VM that the caller has locked, and its stacks; may be NULL */
int commit_recover_at(int host, const struct fvm_store *store, const struct fvm_vm *own,
		      const struct fvm_stacks *own_stacks, struct fvm_error *err);

/* ---- commit_stage.c ---- */
int commit_stage(struct commit *c, const struct fvm_stacks *stacks, struct fvm_error *err);

/* ---- commit_layer.c: what was committed leaves the workspace, and comes back ---- */
int commit_layer_take(struct commit *c, const struct fvm_vm *vm, const struct fvm_stacks *stacks);
int commit_layer_give(struct commit *c, const struct fvm_stacks *stacks);
/** commit_count_tree() - entries below the directory @rel of @top, all levels */
int commit_count_tree(int top, const char *rel, size_t *ret);
/** commit_count_inside() - entries that are staged in the new directory @top */
size_t commit_count_inside(const struct commit *c, size_t top);
/** commit_stamps() - after a commit or an undo: the VM's stamps say what the host has now */
int commit_stamps(struct commit *c, const struct fvm_vm *vm, bool undone);
/**
 * commit_stamps_back() - after a roll back: it is no drift that inodes were moved there and back
 * Moving gives an inode another ctime; one that changed in nothing else has the VM's stamp follow.
 */
int commit_stamps_back(struct commit *c, const struct fvm_vm *vm);
/**
 * commit_follow() - after @c's inodes were moved there and back: no commit below takes their new
 * ctimes for a change of the host's
 * @itself: @c stays, too
 */
int commit_follow(struct commit *c, bool itself);
/** commit_vm_find() - open the VM it came from, locked. Return: 0, -ENOENT, -EBUSY */
int commit_vm_find(const struct commit *c, struct fvm_vm *ret, struct fvm_error *err);

/* ---- commit_recover.c ---- */
/** commit_forget() - areas and directory go, and with them the memory of it: COMMIT_VOID only */
int commit_forget(struct commit *c);
/** commit_roll_back() - from COMMIT_APPLYING to nothing; @vm may be NULL: it can't be had */
int commit_roll_back(struct commit *c, const struct fvm_vm *vm, struct fvm_error *err);
/** commit_redo() - from COMMIT_UNDOING to COMMIT_KEPT */
int commit_redo(struct commit *c, struct fvm_error *err);
/** commit_finish() - from COMMIT_DONE to COMMIT_KEPT; @vm may be NULL: it is looked for */
int commit_finish(struct commit *c, const struct fvm_vm *vm, const struct fvm_stacks *stacks);
/** commit_finish_undo() - from COMMIT_UNDONE to nothing */
int commit_finish_undo(struct commit *c, const struct fvm_vm *vm, const struct fvm_stacks *stacks);

#endif
