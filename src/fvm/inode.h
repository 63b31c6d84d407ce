/*
 * fvm/inode - one file, directory or link copied whole: data, holes, owner, mode, xattrs, times
 *
 * Theory of operation
 *   Used where a layer's file becomes the host's (commit). The data travels by FICLONE where the
 *   file system has it, else by copy_file_range() from hole to hole, else by read and write.
 *   What stands in a layer was written by whoever controls the VM, so
 *     - a file is opened for reading only after O_PATH and fstat said that it is regular: opening
 *       a device or a FIFO can have effects;
 *     - no *.overlay.* and no user.fvm.* xattr is ever copied, and no trusted.* either: inside a VM
 *       nobody can have set one;
 *     - security.capability of version 3 names the VM's user namespace by its root's id; on the
 *       host it becomes version 2, which means the host's root.
 *   Order matters: chown() drops set-id bits and capabilities, an ACL changes the mode's group
 *   bits, and everything changes the times. So: data, owner, mode, xattrs, times.
 */
#ifndef FVM_INODE_H
#define FVM_INODE_H

#include <sys/stat.h>

#include "common/common.h"

/* Where xattrs are read or written: an open file, or a name that must not be followed. */
struct fvm_xattr_at {
	int fd;		  /* a real descriptor (not O_PATH), or a directory when name is set */
	const char *name; /* entry of the directory fd; NULL: fd itself */
};

/**
 * fvm_xattr_names() - the names of all xattrs of @link (not followed) or, when that is NULL, of @fd
 * Return: bytes of names in *@ret, each with its NUL, to free(); 0: none; or negative errno
 */
ssize_t fvm_xattr_names(int fd, const char *link, char **ret);

/**
 * fvm_xattrs_read() - all xattrs that may travel, packed for fvm_xattrs_write()
 * Return: 0 (also where the file system has none), or negative errno
 */
int fvm_xattrs_read(const struct fvm_xattr_at *at, struct fvm_buf *ret);

/**
 * fvm_xattrs_write() - make @at's xattrs those of @packed, whatever may travel; others stay
 * A label of a security module that refuses it (security.selinux and the like) is left out.
 * Return: 0 or negative errno
 */
int fvm_xattrs_write(const struct fvm_xattr_at *at, const char *packed, size_t len);

/**
 * fvm_copy_data() - fill the empty file @to with @from's @size bytes and holes
 * Blocks that were set aside for @from, and hold nothing yet, are set aside again.
 * Return: 0 or negative errno
 */
int fvm_copy_data(int from, int to, uint64_t size);

/** fvm_copy_data_told() - the same, calling @fn from time to time with the bytes copied since */
typedef void (*fvm_copied_fn)(uint64_t bytes, void *arg);
int fvm_copy_data_told(int from, int to, uint64_t size, fvm_copied_fn fn, void *arg);

/**
 * fvm_dig_holes() - make holes of @to's zeros where @like has holes
 * The overlay's copy-up fills small holes; what was sparse on the host is to stay so.
 * Return: 0 (also where the file system has no holes), or negative errno
 */
int fvm_dig_holes(int to, int like, uint64_t size);

/**
 * fvm_open_file() - open a regular file for reading without touching anything else
 * Return: descriptor, -EINVAL when it is no regular file, or negative errno
 */
int fvm_open_file(int dir, const char *name);

/**
 * fvm_open_deep() - as fvm_open_nofollow(), for paths of any length, crossing no mount
 * @path: relative; "" is @dir itself
 */
int fvm_open_deep(int dir, const char *path, int flags);

#endif
