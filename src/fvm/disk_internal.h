/*
 * fvm/disk_internal - the two ways to limit a workspace: disk_quota.c and disk_image.c
 */
#ifndef FVM_DISK_INTERNAL_H
#define FVM_DISK_INTERNAL_H

#include "fvm/disk.h"

#define FVM_DISK_IMAGE_NAME "+image"

/** disk_quota_possible() - whether project limits are in force on @fd's file system */
bool disk_quota_possible(int fd);

/** disk_quota_set() - give directory @fs a project (its own if it has one) and that a limit.
 *  @id: hexadecimal; a project number is made of it. Return: 0 or -errno */
int disk_quota_set(int fs, const char *id, uint64_t bytes);

/** disk_quota_get() - what @fs' project uses and may. Return: 0, or -ENODATA: has no project */
int disk_quota_get(int fs, uint64_t *ret_bytes, uint64_t *ret_limit);

/** disk_quota_clear() - no limit any more */
void disk_quota_clear(int fs);

/** disk_image_make() - make a file system of @bytes in @fs; whole or not at all
 *  @journal: must survive a crash */
int disk_image_make(int fs, uint64_t bytes, bool journal, struct fvm_error *err);

/** disk_image_mount() - a detached mount of the image in @fs. Return: descriptor or -errno */
int disk_image_mount(int fs, struct fvm_error *err);

#endif
