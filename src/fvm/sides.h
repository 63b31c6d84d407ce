/*
 * fvm/sides - the text of both sides of a change
 */
#ifndef FVM_SIDES_H
#define FVM_SIDES_H

#include "fvm/changes.h"

struct fvm_sides {
	char *was, *now; /* NULL where there is none; a NUL stands behind the last byte */
	size_t was_len, now_len;
	bool binary; /* holds a NUL, is no file or symlink, can't be read, or is too large */
};

void fvm_sides_free(struct fvm_sides *s);
#define scoped_sides __attribute__((cleanup(fvm_sides_free))) struct fvm_sides

/**
 * fvm_sides_read() - read what changed, from within the call-back that got @change
 * A symlink's text is its target.
 * @max: bytes of a side; more counts as binary
 * Return: 0 or -errno
 */
int fvm_sides_read(const struct fvm_change *change, size_t max, struct fvm_sides *ret);

#endif
