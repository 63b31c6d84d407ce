/*
 * fvm/layer_copy - the files of a workspace made again, as they are on the disk
 *
 * Theory of operation
 *   A stopped VM's workspace becomes a layer by a rename. That of a VM which holds still, and goes
 *   on afterwards, is copied: every mount's "upper" with all that the overlay needs of it. So here,
 *   unlike in a commit, whiteouts, opaque marks and trusted.* and user.* attributes are copied as
 *   they are, capabilities keep whose namespace they are of, hard links stay links, holes holes.
 *   Data goes by reflink where the file system has it (inode.h), so that it costs next to nothing.
 *   Links are found by a directory "+links" of the copy, which names what has several names by its
 *   old inode number; it is gone in the end. Owners that are kept in a list (owners.h) go by inode
 *   numbers, which are others in the copy: their lines are written anew.
 *   Attributes of a directory come when all in it is there: a default ACL, a set-group-id bit and
 *   the times would be another's otherwise.
 *   The tree may be as deep as it likes: descriptors are held for the lowest levels only.
 *
 *   To hold a VM for as long as its files take to copy is to hold it for seconds. So they can be
 *   copied while it runs, and once more when it holds still: that last pass walks all, but copies
 *   only what has changed since. An inode of the original whose ctime is older than the first pass
 *   is what it was then: its data, attributes, number of names. By "origins" a pass knows which
 *   inode each one of the copy was made from; so what stands at the place of another one, as a
 *   directory that was moved there with all its unchanged files, is not taken for it.
 *   While programs run, names vanish and files shrink under our hands: what can't be copied then,
 *   or has changed already, is left to the last pass. Every directory is entered once.
 */
#ifndef FVM_LAYER_COPY_H
#define FVM_LAYER_COPY_H

#include "fvm/store.h"

/**
 * fvm_layer_copy() - fill the empty directory @to with what @from, a directory "fs", holds
 * Nobody may write to @from meanwhile. Of a rootless VM the caller must be in a namespace that has
 * its ids (fvm_subids_call_always()).
 * @progress: told of the bytes copied; may be NULL
 * Return: 0, or negative errno with the path in @err (-ENOSPC: @to is to be deleted)
 */
int fvm_layer_copy(int from, int to, fvm_progress_fn progress, void *arg, struct fvm_error *err);

/* One of the passes that copy a layer while programs write to it, and the last, when they don't. */
struct fvm_layer_pass {
	int origins; /* a file, empty at first: of which inode each of the copy was made */
	/* Inodes changed (ctime) since then are copied anew; those before it are as an earlier pass
	 * copied them. INT64_MIN: all are copied */
	int64_t copied_ns;
	int64_t now_ns; /* what changes from then on is left to the next pass, by which it is
			 * "copied" */
	bool still;	/* the last pass */
	bool native;	/* native directories, too (native.h) */
};

/**
 * fvm_layer_copy_pass() - make @to, empty or as the pass before left it, like @from
 * At both moments nobody was in the middle of a write, and no page of a file was dirty in a shared
 * mapping when they went on and the copying began: then all that changes later has a later ctime.
 * Return: as fvm_layer_copy()
 */
int fvm_layer_copy_pass(int from, int to, const struct fvm_layer_pass *pass,
			fvm_progress_fn progress, void *arg, struct fvm_error *err);

/* Called after each entry that was copied. */
struct fvm_copy_progress {
	void (*fn)(void *arg, const char *name, uint64_t entries);
	void *arg;
};

struct fvm_tree_copying {
	const char *name; /* of what is copied, for messages */
	int links;	  /* empty directory on the copy's file system; to be deleted afterwards */
	/* @from is seen as a VM sees it, not as it lies in a layer: owners without an id,
	 * attributes and entries that can't be had are passed over, and counted in @ret_skipped */
	bool seen;
	size_t *ret_skipped;			  /* may be NULL */
	const struct fvm_copy_progress *progress; /* may be NULL */
};

/**
 * fvm_tree_copy() - fill the empty directory @to with what @from holds, and make it like @from
 * Crosses no mount. Return: 0; -EXDEV: something is mounted below @from; or another negative errno
 */
int fvm_tree_copy(int from, int to, const struct fvm_tree_copying *how, struct fvm_error *err);

#endif
