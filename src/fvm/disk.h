/*
 * fvm/disk - how much a VM may write, and where its layers lie when that is limited
 *
 * Theory of operation
 *   A workspace, and a frozen layer, keep their files in the directory "fs" (store.h). Without a
 *   limit that is all. With one, what the store's file system offers decides:
 *
 *     quota   "fs" gets a project of its own and the project a hard limit (ext4, xfs mounted with
 *             prjquota). All that is made below inherits the project; a frozen layer keeps its own.
 *     image   "fs/+image" holds an ext4 of that size, sparse; mounted by loop over "fs", only in
 *             the builder's mount namespace, or as a detached mount for who reads the layer. No
 *             mount key begins with "+". Renaming "fs" freezes an image like any other workspace;
 *             the next start makes the new workspace an image of its own.
 *     tmpfs   an ordinary user's VM that is thrown away afterwards
 *
 *   So nobody opens "fs" by name: fvm_disk_open() does. One image may be mounted for several at
 *   once (a start and a diff, clones that share a layer), but a second loop device on the same file
 *   would be a second page cache and the end of it: the image is locked while a device is looked
 *   for, made and mounted; the kernel then shares one super block. Autoclear gives the device back
 *   with the last mount, also when we are killed.
 *   A VM sees ENOSPC (EDQUOT with ext4's quota) and df tells the limit.
 *   The builder must not have CAP_SYS_RESOURCE when it mounts the overlay: the kernel writes with
 *   its credentials, and that capability ignores quotas and takes the host's reserved blocks.
 *   Limits: an image that is sparse can run into the end of the file system below it, which is then
 *   an I/O error inside; each layer has an image of its own.
 *   Sources: quotactl(2), loop(4), fsopen(2), linux/fs.h (FS_IOC_FSSETXATTR).
 */
#ifndef FVM_DISK_H
#define FVM_DISK_H

#include "fvm/config.h"

#define FVM_DISK_MIN (8U << 20) /* smaller ones hold no file system worth it */

enum fvm_disk { FVM_DISK_PLAIN, FVM_DISK_QUOTA, FVM_DISK_IMAGE, FVM_DISK_TMPFS };

struct fvm_disk_options {
	uint64_t bytes;	 /* 0: no limit */
	const char *id;	 /* the VM's */
	bool throw_away; /* needs to survive nothing */
	bool rootless;
};

/**
 * fvm_disk_prepare() - see to it that a workspace is limited; before each start
 * @workspace: directory that holds "fs"
 * Return: 0; -EINVAL (limit too small), -EOPNOTSUPP (can't be had, with the reason), -EBUSY (has
 *         files already and no limit), -ENOSPC, ...
 */
int fvm_disk_prepare(int workspace, const struct fvm_disk_options *options, enum fvm_disk *ret,
		     struct fvm_error *err);

/**
 * fvm_disk_open() - the directory "fs" of a workspace or layer, whatever keeps it
 * An image is mounted for as long as the descriptor, or one opened through it, is there.
 * Return: descriptor, or -ENOENT (there is no "fs"), ...
 */
int fvm_disk_open(int parent);

/** fvm_disk_mount() - mount what keeps "fs" of @parent at @path, in our own mount namespace
 *  @bytes: size of a tmpfs. Return: 0 (also when it is a plain directory) */
int fvm_disk_mount(int parent, enum fvm_disk kind, uint64_t bytes, const char *path,
		   struct fvm_error *err);

/** fvm_disk_has_image() - whether "fs" of @parent is kept in an image */
bool fvm_disk_has_image(int parent);

/** fvm_disk_usage() - bytes written and the limit. Return: 0, or -ENODATA: nobody counts */
int fvm_disk_usage(int workspace, uint64_t *ret_bytes, uint64_t *ret_limit);

/** fvm_disk_release() - give the project's limit back before a workspace is deleted */
void fvm_disk_release(int workspace);

#endif
