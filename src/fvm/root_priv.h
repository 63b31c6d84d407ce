/*
 * fvm/root_priv - what root_mount.c and root_trees.c share
 */
#ifndef FVM_ROOT_PRIV_H
#define FVM_ROOT_PRIV_H

#include "fvm/build.h"

/** root_mount_overlay() - mount the overlay of b->trees->items[@number], whose number makes its
 *  directories in the scratch tmpfs its own. Several may be mounted at the same time.
 *  Return: 0 or negative errno */
int root_mount_overlay(const struct fvm_build *b, size_t number);

#endif
