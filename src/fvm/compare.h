/*
 * fvm/compare - whether two files of known names are the same (internal to the scan)
 *
 * Theory of operation
 *   Both names are single components below held directories. Regular files are opened without
 *   following, waiting or touching their access time, and read side by side in blocks; where one of
 *   them is sparse, ranges that are holes in both are stepped over. Lists of xattrs are read
 *   through /proc/self/fd, which works for every type of file and holds nothing open.
 */
#ifndef FVM_COMPARE_H
#define FVM_COMPARE_H

#include <stdbool.h>
#include <sys/stat.h>

#include "common/common.h"

/* Buffers that are used again for each file; starts as { 0 }. */
struct fvm_compare {
	char *blocks; /* two of 256 KiB */
	char *lists;  /* four of 64 KiB: names and values of both */
};

void fvm_compare_free(struct fvm_compare *c);
#define scoped_compare __attribute__((cleanup(fvm_compare_free))) struct fvm_compare

/* A name below a directory, with what is known of it. */
struct fvm_entry {
	int dir;
	const char *name;
	const struct stat *st;
};

/** fvm_compare_files() - content of two regular files of equal size. Return: 1 equal, 0 not,
 *  -EACCES (@b can't be read), -errno */
int fvm_compare_files(struct fvm_compare *c, const struct fvm_entry *a, const struct fvm_entry *b);

/** fvm_compare_fds() - the same of two open files of @size bytes */
int fvm_compare_fds(struct fvm_compare *c, int a, int b, off_t size, bool sparse);

/** fvm_compare_links() - targets of two symlinks. Return: 1 equal, 0 not, -errno */
int fvm_compare_links(struct fvm_compare *c, const struct fvm_entry *a, const struct fvm_entry *b);

/**
 * fvm_compare_xattrs() - extended attributes of new @a and base's @b
 * @lenient: @a was made without privileges: what it could not carry over is no change
 * Return: bits FVM_META_XATTR and FVM_META_CAPS for those that differ, or -errno
 */
int fvm_compare_xattrs(struct fvm_compare *c, const struct fvm_entry *a, const struct fvm_entry *b,
		       bool lenient);

/** fvm_open_regular() - open a name for reading: no symlink, no waiting, no access time.
 *  Return: descriptor or -errno; what is opened may still be of another type */
int fvm_open_regular(int dir, const char *name);

/** fvm_open_dir() - open a name that is a directory, by openat2(): no symlink, no mount crossed.
 *  @path_only: O_PATH. Return: descriptor or -errno */
int fvm_open_dir(int dir, const char *name, bool path_only);

/** fvm_stat_at() - fstatat() without following or mounting anything. Return: 0 or -errno */
int fvm_stat_at(int dir, const char *name, struct stat *ret);

#endif
