/*
 * fvm/standins - what strangers miss on a network's file system, shown by a server of ours
 *
 * Theory of operation
 *   On a base that can't be idmapped (base.h) all owners are strangers to the VM: directories and
 *   files that only they may enter or read are closed to it. Local bases have a layer for that,
 *   which is made once. A network's file system may be of any size and change at any moment, so it
 *   is not walked through: above it lies a FUSE file system of ours that is empty but to who looks
 *   for a name. Then it has
 *
 *     each directory of the base, with its owner as the VM knows him; the overlay merges both
 *     files that strangers may not read or execute, set-id programs, and what lies in sticky
 *     directories, with their owners and contents
 *
 *   and nothing else: all other files are the base's own, read without us, adopted when written.
 *   So a start takes no time for it, and a directory is looked at when somebody enters it.
 *
 *   One process per mount, started before the VM's mounts are made and outside their namespace,
 *   which it would keep alive. It only reads, below the base, following nothing; it has one
 *   capability, CAP_DAC_READ_SEARCH. It ends when the overlay does. When the base's server hangs,
 * it hangs with it, and what the VM asks of this mount waits, as it would without us. Limits: no
 * extended attributes; names longer than a path can be have no stand-in. Source: fuse(4),
 * linux/fuse.h.
 */
#ifndef FVM_STANDINS_H
#define FVM_STANDINS_H

#include <sys/types.h>

#include "fvm/idmap.h"

struct fvm_standins { /* one mount's; owned by the starter, closed with the start */
	size_t mount; /* index into the plan */
	int fuse, go;
};

/**
 * fvm_standins_start() - start the server of the base at @path
 * @ret: on success two descriptors, which the caller closes when all is mounted: the server ends
 *       when they were not used
 * Return: 0, -ENODEV (no FUSE here), or negative errno
 */
int fvm_standins_start(const char *path, const struct fvm_idmap *map, struct fvm_standins *ret,
		       struct fvm_error *err);

/** fvm_standins_mount() - on directory @name of @scratch, which is made. Return: 0 or errno */
int fvm_standins_mount(const struct fvm_standins *s, int scratch, const char *name);

#endif
