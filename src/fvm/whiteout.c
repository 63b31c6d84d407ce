/*
 * The overlay's own marks on an upper directory's entries.
 *
 * A whiteout is a character device 0:0. Where none can be made, it is an empty regular file with
 * the xattr overlay.whiteout inside a directory with overlay.opaque = "x" (Linux 6.7); the
 * directory's mark is what saves looking for xattrs on each empty file. overlay.opaque = "y" hides
 * all that lies in the directories below. Source: filesystems/overlayfs.rst.
 */
#include <stdio.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "fvm/changes.h"
#include "fvm/whiteout.h"

static char opaque_value(int dir, bool user_xattr)
{
	char value = '\0';
	ssize_t n = fgetxattr(dir, user_xattr ? "user.overlay.opaque" : "trusted.overlay.opaque",
			      &value, 1);
	if (n != 1)
		return '\0';
	return value;
}

bool fvm_opaque_is(int dir, bool user_xattr)
{
	return opaque_value(dir, user_xattr) == 'y';
}

enum fvm_opaque fvm_opaque_get(int dir, bool user_xattr)
{
	char value = opaque_value(dir, user_xattr);
	if (value == 'y')
		return FVM_OPAQUE;
	return value == 'x' ? FVM_XWHITEOUTS : FVM_TRANSPARENT;
}

bool fvm_xwhiteout_is(int dir, const char *name, const struct stat *st, bool user_xattr)
{
	char path[320];
	if (!S_ISREG(st->st_mode) || st->st_size != 0)
		return false;
	if (snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dir, name) >= (int)sizeof(path))
		return false;
	return lgetxattr(path, user_xattr ? "user.overlay.whiteout" : "trusted.overlay.whiteout",
			 NULL, 0) >= 0;
}

bool fvm_whiteout_is(int dir, const char *name, const struct stat *st, bool user_xattr)
{
	if (S_ISCHR(st->st_mode))
		return st->st_rdev == makedev(0, 0);
	return S_ISREG(st->st_mode) && st->st_size == 0 && opaque_value(dir, user_xattr) == 'x' &&
	       fvm_xwhiteout_is(dir, name, st, user_xattr);
}
