/*
 * fvm/foreign - directories of other people in trees that have no skeleton
 *
 * Theory of operation
 *   In /home, /tmp, /data and the like a rootless VM's root could not write in directories that are
 *   not the user's, nor the user in what he owns below them. So those that he can read are made
 *   once more as his own, from the top of a tree down, at most 512 of them: a layer right above the
 *   host's. When there are more, that is told (inspect's left_out), and they can only be read.
 *
 *   Making a layer takes 10 us a directory. So one that has many is kept beside the skeleton:
 *
 *     gN/foreign/KEY      the name of its layer, then ctimes of all that was looked at
 *     gN/foreign/KEY+HEX  a layer; deleted when no VM runs on gN and KEY names another
 *
 *   and is used as long as all of these ctimes are the host's: 1 us a directory. A directory that
 *   was given to somebody else changes no directory's ctime; that is seen when all is looked at
 *   again in the background, as with the skeleton. Where nothing fits, the layer is made in
 *   the VM's scratch tmpfs.
 *
 *   The first ones of a generation are made by the start that made it, which takes its time anyway:
 *   so after the first command in a new store nothing goes on writing there. Its own time of change
 *   tells when all was looked at last.
 */
#ifndef FVM_FOREIGN_H
#define FVM_FOREIGN_H

#include "fvm/idmap_user.h"
#include "fvm/root_user.h"
#include "fvm/skeleton.h"

/** fvm_foreign_take() - note in each of @trees where its layer is, if one is kept and fits; in a
 *  generation that is new they are made first */
void fvm_foreign_take(const struct fvm_store *store, const struct fvm_skeleton *skeleton,
		      struct fvm_trees *trees, const struct fvm_user_ids *ids);

/**
 * fvm_foreign_make() - make the layer of the tree in @top (the host's directory), seen from within
 * the user's namespace
 * @open: makes the empty layer when there is something to put in it. Return: descriptor or -errno
 * @ret_layer: that descriptor; -1: nothing is needed
 */
int fvm_foreign_make(int top, int (*open)(void *arg), void *arg, int *ret_layer);

/** fvm_foreign_drop() - delete layers that no list names, if no VM runs on @gen
 *  @lock: the caller's shared lock of gN, which is lost */
void fvm_foreign_drop(int gen, int lock);

/** fvm_foreign_renew() - look at all trees again and keep what is worth it in @gen, which is gN;
 *  from outside, with @ids */
void fvm_foreign_renew(int gen, const struct fvm_trees *trees, const struct fvm_user_ids *ids);

#endif
