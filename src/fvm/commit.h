/*
 * fvm/commit - a VM's changes applied to the host as one transaction that can be undone
 *
 * Theory of operation
 *   plan     the scan's changes become entries, parents first; drift (stamps.h), devices, set-id
 *            bits, missing rights are problems. With any problem nothing is done. Only then
 *   journal  STORE/commits/ID/journal gets header, mounts, areas, entries, and is synced
 *   stage    each new inode is made whole in an *area*, a hidden directory on the mount it is for:
 *            STORE/commits/ID/area where that is the same mount, else .fvm-commit-* as high up as
 *            we may write. A new directory is staged with all it holds. All of it is synced.
 *   apply    one rename per entry: RENAME_EXCHANGE puts the new inode in place and the old one
 *            into the area, in one step; then directories' modes, owners and times. Synced.
 *   finish   what was committed leaves the workspace for commits/ID/layer, its stamps go
 *   undo     the same exchanges again, the same way back into the workspace, and all is gone
 *
 *   Between these steps STORE/commits/ID/state says which one holds, replaced whole and synced,
 *   with the length that the journal had by then (a journal that is shorter is damaged, and then
 *   nothing is touched):
 *
 *     void -> applying -> done -> kept -> undoing -> undone -> (removed)
 *
 *   Whoever opens the store and finds commits/pending goes on (fvm_commit_recover): back from
 *   applying, onward from done; from undoing back to kept, onward from undone. Each step looks at
 *   inode numbers before it acts, so it can be done twice. The old inodes themselves are kept, so
 *   undo is equal to the last byte, whatever belongs to a file: hard links, ACLs, holes, flags,
 *   times; only ctime can't be. Directories' times are put back too. (Until undo or drop such an
 *   inode has one link more than its names on the host.)
 *
 *   Moving an inode there and back gives it another ctime. After a roll back the VM's stamps follow,
 *   and so does what other commits know of it: else the next commit or undo would take that for
 *   drift (commit_stamps_back, commit_follow).
 *
 *   A paused VM keeps its copies in the workspace: its programs may have them open. They equal the
 *   host's then, which is no change. The same holds for frozen layers, and for a directory of
 *   which only a part was committed.
 *
 * Who is trusted
 *   The layers are a tree made by somebody hostile (commit_stage.c); on the host's side too no
 *   symlink is followed, no mount crossed, so that a parent that became a symlink meanwhile is an
 *   error and not a way out. No device, no overlay.* xattr, no set-id bit or capability gained
 * unless asked. Everything is done with the caller's rights; root's are never borrowed.
 */
#ifndef FVM_COMMIT_H
#define FVM_COMMIT_H

#include "fvm/store.h"

enum fvm_problem_kind {
	FVM_PROBLEM_CONFLICT, /* the host's side changed too; force: replaced */
	FVM_PROBLEM_MERGE,    /* merge was asked for, and the texts disagree; force: replaced */
	FVM_PROBLEM_SETID,    /* set-id bits or capabilities; force: left out */
	FVM_PROBLEM_REFUSED,  /* device, stand-in, no mount; force: left out */
	FVM_PROBLEM_RIGHTS,   /* the caller may not; force: left out */
};

struct fvm_problem {
	enum fvm_problem_kind kind;
	char *path;
	const char *why; /* a phrase, static */
};

struct fvm_problems { /* starts as { 0 } */
	struct fvm_problem *items;
	size_t count;
};

void fvm_problems_free(struct fvm_problems *problems);
#define scoped_problems __attribute__((cleanup(fvm_problems_free))) struct fvm_problems
/** fvm_problem_name() - "conflict", "merge", "set-id", "refused", "rights" */
const char *fvm_problem_name(enum fvm_problem_kind kind);

/* What is going on: "look", "copy", "apply", "put back", "write to the disk"; @done of @total
 * changes, or bytes of "copy"; @total 0: not known */
typedef void (*fvm_commit_progress_fn)(void *arg, const char *what, uint64_t done, uint64_t total);
/* One planned change of the host, by a commit or an undo: 'A' 'M' 'D' 'm', its absolute path, the
 * bytes of the file that is to come; merged by text */
typedef void (*fvm_commit_entry_fn)(void *arg, char kind, const char *path, uint64_t size,
				    bool merged);

struct fvm_commit_options {
	const char *const *paths; /* NULL-terminated, absolute, no trailing slash; NULL: all */
	bool dry_run;		  /* plan only */
	bool force;
	bool merge;
	bool allow_setid;
	fvm_commit_entry_fn entry; /* called for each planned change; may be NULL */
	/* called between plan and journal; false: the person said no. May be NULL */
	bool (*confirm)(void *arg, size_t entries, uint64_t bytes);
	fvm_commit_progress_fn progress;
	void *arg;
};

struct fvm_commit_result {
	uint32_t id; /* 0: nothing was to be done, or a dry run, or not confirmed */
	size_t added, changed, deleted, left_out; /* left_out: noise that was not named */
	uint64_t bytes;
	struct fvm_problems problems;
	struct fvm_strv services; /* units that run with what was replaced */
};

void fvm_commit_result_free(struct fvm_commit_result *result);

/**
 * fvm_commit() - apply a VM's changes to the host
 * @vm: stopped or paused, opened FVM_LOCK
 * Return: 0; -EBUSY (it runs); -ECANCELED (problems: nothing was done, @ret->problems has them);
 *         -ENOENT (nothing changed at a path that was named); or another errno: the host is as it
 *         was, or the next command that opens the store puts it back
 */
int fvm_commit(const struct fvm_vm *vm, const struct fvm_commit_options *options,
	       struct fvm_commit_result *ret, struct fvm_error *err);

/**
 * fvm_commit_undo() - put back what commit @id replaced, and give its changes back to the VM
 * @id: 0: the latest
 * @force: also where something was changed since, which is lost then
 * Return: 0; -ECANCELED (problems); -ENOENT; -EBUSY (the VM runs); or another errno
 */
int fvm_commit_undo(const struct fvm_store *store, uint32_t id,
		    const struct fvm_commit_options *options, struct fvm_commit_result *ret,
		    struct fvm_error *err);

struct fvm_commit_info {
	uint32_t id;
	char vm[FVM_NAME_MAX + 1];
	int64_t created_ns;
	size_t added, changed, deleted;
	bool damaged; /* the rest is unknown */
};

typedef int (*fvm_commit_info_fn)(const struct fvm_commit_info *info, void *arg);

/** fvm_commit_list() - all commits that can be undone, oldest first */
int fvm_commit_list(const struct fvm_store *store, fvm_commit_info_fn fn, void *arg,
		    struct fvm_error *err);

/** fvm_commit_drop() - forget what commit @id replaced: it can't be undone any more
 *  @force: also one that is damaged, and may have been interrupted */
int fvm_commit_drop(const struct fvm_store *store, uint32_t id, bool force, struct fvm_error *err);

/** fvm_commit_pending() - whether a commit or undo was interrupted, or is under way; cheap */
bool fvm_commit_pending(const struct fvm_store *store);

/**
 * fvm_commit_recover() - finish or take back what was interrupted; needs no libcrypto
 * Return: 0 (also when another process is at it), or negative errno: the commit stays pending
 */
int fvm_commit_recover(const struct fvm_store *store, struct fvm_error *err);

#endif
