/*
 * fvm/root_priv - what root_mount.c, root_owned.c and root_trees.c share
 */
#ifndef FVM_ROOT_PRIV_H
#define FVM_ROOT_PRIV_H

#include "fvm/build.h"

/** root_mount_overlay() - mount the overlay of b->trees->items[@number], whose number makes its
 *  directories in the scratch tmpfs its own. Several may be mounted at the same time.
 *  Return: 0 or negative errno */
int root_mount_overlay(const struct fvm_build *b, size_t number);

/** root_scratch_dir() - a directory of the scratch tmpfs. Return: descriptor or negative errno */
int root_scratch_dir(const struct fvm_build *b, const char *prefix, size_t number, mode_t mode);

/** root_owned_layer() - the layer of services' directories of the tree @t, see root_owned.c
 *  Return: descriptor, -ENOENT when it has none, or another negative errno */
int root_owned_layer(const struct fvm_build *b, const struct fvm_tree *t);

/** root_owned_drop() - delete the layers kept in @gen, which is gN, that are not of @owned's text;
 *  while no VM runs on gN */
void root_owned_drop(int gen, const char *owned, size_t owned_len);

#endif
