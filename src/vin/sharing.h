/*
 * vin/sharing - what processes have together that processes usually have each for itself
 *
 * Theory of operation
 *   clone(2) gives a child its parent's table of descriptors, its directories and umask, or its
 *   memory, not a copy. kcmp(2) tells it: processes are sorted by the order that it gives, so that
 *   of n of them n log n pairs are asked about.
 *     descriptors, directories   made again by clone3(2) with the same flag, if each but one of
 *                                those who share has his parent among them
 *     memory                     refused. Who waits for a child of vfork(2) is waited for
 *     a thread apart             refused: descriptors that are not those of its process
 * Limits: where kcmp is refused (a filter) or left out of the kernel, nothing is found.
 * Sources: clone(2), kcmp(2), unshare(2).
 */
#ifndef VIN_SHARING_H
#define VIN_SHARING_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/common.h"

enum vin_shares {
	VIN_SHARES_FILES = 1, /* CLONE_FILES */
	VIN_SHARES_DIRS = 2,  /* CLONE_FS */
	VIN_SHARES_ALL = VIN_SHARES_FILES | VIN_SHARES_DIRS
};

struct vin_sharer {
	pid_t pid, via;	 /* via: a thread of it that lives */
	unsigned shares; /* found: enum vin_shares, what it has together with its parent */
};

/**
 * vin_sharing_look() - what those in @list share with their parents
 * @patience_ms: how long to wait for a child of vfork(2) to execute something
 * Return: 0, -EOPNOTSUPP (it can't be made again), or another negative errno
 */
int vin_sharing_look(struct vin_sharer *list, size_t count, unsigned int patience_ms,
		     struct fvm_error *err);

#endif
