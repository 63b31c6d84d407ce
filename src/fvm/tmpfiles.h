/*
 * fvm/tmpfiles - what belongs into an empty /run, by tmpfiles.d(5)
 *
 * Theory of operation
 *   The lines of type d, D, f, F, L (and their "+" forms) whose path is below /run or /var/run are
 *   taken; a file in /etc/tmpfiles.d hides one of the same name in /usr/lib/tmpfiles.d. The text is
 *   the VM's own and may be hostile: paths are taken apart and made by descriptor below the new
 *   /run, no link is followed, sizes are bounded, anything odd is skipped. Specifiers (%) are not
 *   needed below /run and skipped too. Names of users come from the same view's /etc/passwd.
 */
#ifndef FVM_TMPFILES_H
#define FVM_TMPFILES_H

#include "common/common.h"

/** fvm_tmpfiles_collect() - the lines that matter, as "TYPE MODE UID GID PATH[ ARG]\n" with a path
 *  relative to /run, from the tree at @root. Return: 0 or -ENOMEM */
int fvm_tmpfiles_collect(int root, struct fvm_buf *ret);

/** fvm_tmpfiles_apply() - make what @list says below directory @run, owners offset by the ids
 *  that @uid and @gid give. Bad lines are skipped. */
void fvm_tmpfiles_apply(int run, const char *list, uint32_t (*uid)(const void *arg, uint32_t id),
			uint32_t (*gid)(const void *arg, uint32_t id), const void *arg);

#endif
