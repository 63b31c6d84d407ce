/*
 * fvm/plan - what becomes of each of the host's mounts in a VM
 *
 * Theory of operation
 *   /proc/self/mountinfo is read anew at each start. Mounts that are covered by others are left
 *   aside; every visible one is put into a class by its place, type and flags alone: nothing is
 *   stat'ed, so a dead network server can't hang a start.
 *
 *     overlay    writable, local: an overlay of its own
 *     read-only  the same without a workspace, or a locked bind where overlay can't have it
 *     fresh      made anew by us: /proc /sys /dev /run and what lies below
 *     left out   of no use or harm in a VM; named in inspect with the reason
 *
 *   A FUSE file system that is root's is of the network's kind; a user's is left out, but for one
 *   that his home is on. Who may hang is asked in time before anything else touches it: base.h.
 */
#ifndef FVM_PLAN_H
#define FVM_PLAN_H

#include <stdbool.h>
#include <stddef.h>

#include "common/common.h"

enum fvm_mount_class {
	FVM_MOUNT_OVERLAY,
	FVM_MOUNT_READ_ONLY,
	FVM_MOUNT_FRESH,
	FVM_MOUNT_LEFT_OUT
};

struct fvm_mount {
	int id, parent;
	char *path; /* mount point */
	char *fstype;
	unsigned long flags; /* MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_RDONLY of the mount */
	bool super_read_only;
	bool ours;    /* mounted by a VM around us */
	bool systems; /* FUSE of root that we may look into */
	bool network;
	bool unmapped; /* its ids can't be mapped, which root's VMs want: see base.h */
	enum fvm_mount_class class;
	const char *why; /* left out: static text */
	bool covered;
};

struct fvm_plan {
	struct fvm_mount *mounts; /* parents before children; the root first */
	size_t count;
};

void fvm_plan_free(struct fvm_plan *plan);
#define scoped_plan __attribute__((cleanup(fvm_plan_free))) struct fvm_plan

/** fvm_plan_parse() - make a plan from the text of mountinfo (parser of outside bytes)
 *  Return: 0, -ENOMEM, or -EBADMSG with the line */
int fvm_plan_parse(const char *mountinfo, struct fvm_plan *ret, struct fvm_error *err);

/** fvm_plan_want_home() - keep the FUSE mount that @home lies on, as of an encrypted home: who has
 *  got as far as calling us does not hang on it */
void fvm_plan_want_home(struct fvm_plan *plan, const char *home);

/** fvm_plan_make() - the plan for this host, now */
int fvm_plan_make(struct fvm_plan *ret, struct fvm_error *err);

/** fvm_plan_changed() - whether the mounts of the host are others now than those of @plan */
bool fvm_plan_changed(const struct fvm_plan *plan);

/** fvm_path_below() - whether @path is @top or lies below it */
bool fvm_path_below(const char *path, const char *top);

#endif
