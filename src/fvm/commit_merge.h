/*
 * fvm/commit_merge - three-way merge of a text that both the VM and the host changed
 *
 * Theory of operation
 *   The ancestor is the base's content as the stamps kept it (stamps.h). Lines of the ancestor that
 *   are unchanged in both versions cut all three texts into regions. A region that only one side
 *   changed, or both in the same way, is taken from there; one that both changed differently is a
 *   conflict, and then nothing is merged: the host's file never gets conflict marks.
 *   Matching lines are found by the greedy O(ND) algorithm of Myers (1986) on lines.
 */
#ifndef FVM_COMMIT_MERGE_H
#define FVM_COMMIT_MERGE_H

#include "fvm/changes.h"
#include "fvm/stamps.h"

/**
 * fvm_merge_texts() - merge @ours and @theirs, which both come from @base
 * Return: 0 with the text appended to @ret, 1 when they disagree, or -ENOMEM, -E2BIG
 */
int fvm_merge_texts(const struct fvm_buf *base, const struct fvm_buf *ours,
		    const struct fvm_buf *theirs, struct fvm_buf *ret);

/**
 * commit_merge() - the merge for a change whose base has drifted
 * @ret: allocated with malloc(), as its data
 * @ret_why: why it can't be merged
 * Return: 0, 1 when it can't be, or negative errno
 */
int commit_merge(const struct fvm_vm *vm, const struct fvm_stamps *stamps,
		 const struct fvm_change *change, struct fvm_buf **ret, const char **ret_why);

#endif
