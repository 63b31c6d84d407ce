/*
 * fvm/hide_record - what was hidden from a VM at each of its starts
 *
 * Theory of operation
 *   Diff and commit have to know whether the VM could see the host's file when it made its own:
 *   if not, its file is something new, and the host's must be neither shown nor replaced. Policies
 *   change, and other programs have other ones, so those of today don't tell. Each start that hides
 *   something else than the one before it appends what it hides to vms/NAME/hidden:
 *
 *     fvm-hide 1
 *     @NS                 from then on (the clock that inodes' times are taken from) ..
 *     /PATH               .. these, as sorted in struct fvm_hide
 *     ..
 *   Bytes of PATH up to space, '%' and 0x7f stand as %XX. The file is replaced whole.
 *
 *   An inode of a layer was made while its path was hidden when its birth, or a file's last change,
 *   falls into such a time; nobody can set either. The time before the first start belongs to the
 *   first start: an import is born then. Whatever is in doubt counts as hidden: that costs a
 *   message, the other way would cost a secret. So more than 16 starts that differ, or a clock that
 *   was set back, or copied layers, make one of several, in which all is hidden that was in any.
 *   A VM that never started with this has no such file, and is taken to hide what it would today.
 */
#ifndef FVM_HIDE_RECORD_H
#define FVM_HIDE_RECORD_H

#include "fvm/hide.h"

struct fvm_hide_record;

/** fvm_hide_record_note() - a start that hides @now begins, of the VM whose directory is @vm_dir
 *  @sync: must survive a power cut. Return: 0 or negative errno (-EBADMSG: the file is damaged) */
int fvm_hide_record_note(int vm_dir, const struct fvm_hide *now, bool sync, struct fvm_error *err);

/** fvm_hide_record_load() - read it. Return: 0, -ENOENT (there is none), or negative errno */
int fvm_hide_record_load(int vm_dir, struct fvm_hide_record **ret, struct fvm_error *err);

/** fvm_hide_record_parse() - the same from memory */
int fvm_hide_record_parse(const char *text, size_t len, struct fvm_hide_record **ret);

/** fvm_hide_record_make() - one that hides @now at all times */
int fvm_hide_record_make(const struct fvm_hide *now, struct fvm_hide_record **ret);

void fvm_hide_record_free(struct fvm_hide_record *record);

/** fvm_hide_record_copy() - for a clone, from one VM's directory to another's
 *  @flat: its files are copies, whose times tell nothing */
int fvm_hide_record_copy(int from, int to, bool flat);

/** fvm_hide_record_flatten() - the VM itself gets copied files, too: see above */
int fvm_hide_record_flatten(int vm_dir);

/** fvm_hide_record_ever() - whether absolute @path was, or lay below something, hidden at any time
 */
bool fvm_hide_record_ever(const struct fvm_hide_record *record, const char *path);

/** fvm_hide_record_always() - .. at all times */
bool fvm_hide_record_always(const struct fvm_hide_record *record, const char *path);

/** fvm_hide_record_at() - .. at @ns */
bool fvm_hide_record_at(const struct fvm_hide_record *record, const char *path, int64_t ns);

/** fvm_hide_record_below() - the next path after index *@at that was hidden at any time and lies
 *  below the directory @path; NULL: no more. *@at starts as 0 */
const char *fvm_hide_record_below(const struct fvm_hide_record *record, const char *path,
				  size_t *at);

#endif
