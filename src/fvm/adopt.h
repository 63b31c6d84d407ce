/*
 * fvm/adopt - a file of the host's made the VM's own, so that the kernel lets programs write it
 *
 * Theory of operation
 *   overlayfs refuses to copy up a file whose owner has no place in the VM. So the copy is made by
 *   an ordinary program: beside the file, under a name of our own, then renamed over it, all of it
 *   inside the overlay. Data goes by reflink, else from hole to hole; mode, times, user.* xattrs
 *   and file capabilities go along; the directory's mtime is put back.
 *   A descriptor that was opened before keeps the old file, as with the kernel's copy-up, and hard
 *   links part.
 */
#ifndef FVM_ADOPT_H
#define FVM_ADOPT_H

#include <sys/stat.h>

#include "common/common.h"

#define FVM_NOBODY 65534U /* what the kernel shows for an id that has no place in a namespace */

/** fvm_adoptable() - whether the kernel refuses to copy this up, and we can: by its type and owner
 */
bool fvm_adoptable(const struct stat *st);

/**
 * fvm_copy_entry() - copy a regular file or a symlink to a name that is not there yet
 * @st: what @name is; not followed, and refused (-ESTALE) if it is no longer that file
 * Owner aside, the copy has everything. On failure nothing is left. Return: 0 or negative errno
 */
int fvm_copy_entry(int from_dir, const char *name, int to_dir, const char *to_name,
		   const struct stat *st);

/**
 * fvm_adopt() - replace @name in @dir by a copy that belongs to us
 * @empty: do not copy data, it is about to be truncated
 * Return: 0, -ESTALE (it is no longer the file of @st), or negative errno
 */
int fvm_adopt(int dir, const char *name, const struct stat *st, bool empty);

/** fvm_adopt_leftover() - whether @name is what a crash in the midst of fvm_adopt() leaves behind
 */
bool fvm_adopt_leftover(const char *name);

#endif
