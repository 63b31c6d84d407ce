/*
 * fvm/idmap - which host ids the ids of a privileged VM are
 *
 * Theory of operation
 *   Ids 0 to 65535 of the VM are the first 65536 of its slot's range. Larger ids that are in use
 *   here (accounts; owners in /home, /srv and the working directory; the caller) get an extent of
 * one each from the upper half, so that LDAP's users keep their numbers inside. The kernel takes up
 * to 340 extents. The same map serves the user namespace and, through it, the idmapped mounts: on
 * disk lie the host's own ids.
 */
#ifndef FVM_IDMAP_H
#define FVM_IDMAP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/common.h"

#define FVM_IDMAP_EXTRAS 300

struct fvm_idmap {
	uint32_t base;			 /* host id of 0 */
	uint32_t uids[FVM_IDMAP_EXTRAS]; /* larger ids, sorted, each once */
	uint32_t gids[FVM_IDMAP_EXTRAS];
	size_t uid_count, gid_count;
	uint32_t same; /* rootless: ids below this are the same for the builder; others are 0 */
};

/** fvm_idmap_plan() - the map for a slot's @base, with every larger id found in use */
void fvm_idmap_plan(uint32_t base, struct fvm_idmap *ret);

/** fvm_idmap_add() - one more of each; ids below 65536 are there */
void fvm_idmap_add(struct fvm_idmap *map, uid_t uid, gid_t gid);

/** fvm_idmap_collides() - whether one of the larger ids lies in the range of @span ids itself: then
 *  a process of the VM would be somebody of this host's */
bool fvm_idmap_collides(const struct fvm_idmap *map, uint32_t span);

/** fvm_idmap_write() - write uid_map and gid_map of process @pid. Async-signal-safe but for the
 *  stack. Return: 0 or negative errno */
int fvm_idmap_write(const struct fvm_idmap *map, pid_t pid);

/** fvm_idmap_uid() - host id of VM id @id, or (uint32_t)-1 */
uint32_t fvm_idmap_uid(const struct fvm_idmap *map, uint32_t id);
uint32_t fvm_idmap_gid(const struct fvm_idmap *map, uint32_t id);

/** fvm_idmap_is_stranger() - whether host ids have no place in the VM (privileged) */
bool fvm_idmap_is_stranger(const struct fvm_idmap *map, uint32_t uid, uint32_t gid);

#endif
