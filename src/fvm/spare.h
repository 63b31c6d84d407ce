/*
 * fvm/spare - directories of thrown-away VMs that changed nothing, kept for the next ones
 *
 * Theory of operation
 *   A VM's directory is a dozen inodes, each of which costs to make and to delete; most of all on
 *   ext4 without a journal, where a new inode is never one that was freed in the last minutes and
 *   each search walks over all of those. So a thrown-away VM whose upper directories are empty
 *   leaves its directory in STORE/spare, and the next one takes it from there, by one rename each
 *   way. Each lies in a block group of its own (the "top directory" flag), so that what overlay
 *   makes and deletes in it at each mount is spread, too; the next one is chosen by lot. For a
 *   rootless VM, whose dozen overlays make and delete six inodes each, more are made than are used
 *   at once, and each overlay's directory has such a group.
 *   A spare holds nothing of its last VM but names: config.json is overwritten, log and status of
 *   such a VM stand in RUN, a directory with any file or attribute left over is deleted instead.
 *   Whoever makes, takes or keeps one holds flock(2) on it. fvm prune deletes them.
 *   Sources: fs/ext4/ialloc.c (recently_deleted, find_group_orlov), chattr(1) "T".
 */
#ifndef FVM_SPARE_H
#define FVM_SPARE_H

#include "fvm/store.h"

#define FVM_SPARES_MAX 32

/**
 * fvm_spare_take() - a VM's directory to be filled and renamed to its place
 * @ret_name: its path below STORE, at least 40 bytes
 * @ret_used: it holds workspace/fs, a lock and a config.json already
 * Return: its descriptor, which holds flock(2), or negative errno
 */
int fvm_spare_take(const struct fvm_store *store, char *ret_name, bool *ret_used);

/** fvm_spare_keep() - move @path below STORE to the spares if there is nothing in it
 *  @held: its descriptor, which holds flock(2). Return: whether it is there now; if not, it is to
 *  be deleted */
bool fvm_spare_keep(const struct fvm_store *store, const char *path, int held);

/** fvm_spread() - directories made in @dir are to lie far from each other; see above */
void fvm_spread(int dir);

/** fvm_spare_prune() - delete all but those just being taken */
void fvm_spare_prune(const struct fvm_store *store);

#endif
