/*
 * fvm/whiteout - the overlay's marks, for those who have looked at the directory once already
 *
 * fvm_whiteout_is() and fvm_opaque_is() in changes.h answer for one entry; a walk asks the
 * directory once with fvm_opaque_get() and then its entries.
 */
#ifndef FVM_WHITEOUT_H
#define FVM_WHITEOUT_H

#include <stdbool.h>
#include <sys/stat.h>

enum fvm_opaque {
	FVM_TRANSPARENT, /* what lies in the directories below shines through */
	FVM_OPAQUE,	 /* nothing does */
	FVM_XWHITEOUTS,	 /* transparent, and may hold whiteouts in the form of xattrs */
};

/** fvm_opaque_get() - what the directory @dir says of itself */
enum fvm_opaque fvm_opaque_get(int dir, bool user_xattr);

/** fvm_xwhiteout_is() - whether @name below a directory of FVM_XWHITEOUTS is one of them */
bool fvm_xwhiteout_is(int dir, const char *name, const struct stat *st, bool user_xattr);

#endif
