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
