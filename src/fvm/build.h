/*
 * fvm/build - the world of a privileged VM, mounted by a process that is gone before it starts
 *
 * Theory of operation
 *   The *builder* shares the starter's memory (CLONE_VM | CLONE_VFORK: a copy of page tables would
 *   cost more than its work) but not its mount namespace, working directory and credentials:
 *     1 unshare(NEWNS), all private; join v1 cgroups (it was born in the v2 one)
 *     2 clone3 of PID 1 into all namespaces but NEWNS; PID 1 waits on a pipe; write its id maps
 *     3 workspaces: an upper and a work directory per overlaid mount, by the host's ids
 *     4 a scratch tmpfs; the host's trees and the store cloned, idmapped, attached below it
 *     5 with the VM root's fsuid (an idmapped upper refuses others, and overlay would silently be
 *       read-only): one overlay per mount, onto the new root; /dev and /run on the scratch tmpfs
 *     6 in the VM's pid, net, ipc and cgroup namespace, still with host's credentials: proc, sysfs,
 *       cgroup2, so that no "fully visible" rule stands in the way
 *     7 pivot_root, old root detached; let PID 1 go, which takes a copy of this mount namespace
 *       into its own user namespace. That copy is what *locks* every mount and its flags.
 *   Nothing is mounted from inside the VM, ever: such mounts would be unlocked.
 *   Paths below the new root are looked up by openat2() without symlinks: its layers may have been
 *   written by somebody hostile, and a symlink would lead into the host's tree.
 *   Sources: mount_setattr(2), overlayfs.rst, mount_namespaces(7) "restrictions".
 */
#ifndef FVM_BUILD_H
#define FVM_BUILD_H

#include "fvm/accounts.h"
#include "fvm/bind.h"
#include "fvm/disk.h"
#include "fvm/hide.h"
#include "fvm/idmap.h"
#include "fvm/idmap_user.h"
#include "fvm/native.h"
#include "fvm/plan.h"
#include "fvm/root_user.h"
#include "fvm/state.h"

struct fvm_build {
	/* in */
	const struct fvm_vm *vm;
	const struct fvm_plan *plan;
	const struct fvm_idmap *map;
	const struct fvm_hide *hide;
	int hide_shared; /* of fvm_hide_shared(), or .. */
	int hide_kept;	 /* .. of fvm_hide_detached(); both negative: layers are made here */
	const struct fvm_binds *binds;
	const struct fvm_natives *natives;
	const struct fvm_trees *trees;	     /* rootless: mounted as root_user.h says; else NULL */
	const struct fvm_standins *standins; /* of the network's mounts */
	size_t standin_count;
	const struct fvm_skeleton *skeleton;
	const char *owned; /* with ranges of ids: text of skeleton->owned, else NULL */
	size_t owned_len;
	const struct fvm_user_ids *ids;		 /* rootless */
	enum fvm_disk disk;			 /* what keeps the workspace */
	const struct fvm_copy_progress *copying; /* of native directories; may be NULL */
	bool throw_away;  /* overlay "volatile": nothing needs to reach the disk */
	bool systemd;	  /* /run/systemd/system */
	bool own_cgroups; /* cgroup2 writable */
	int init_pidfd;
	int userns;	    /* the VM's */
	const char *resolv; /* contents for /etc/resolv.conf; NULL: as it is */
	/* called before step 6: until PID 1 has all its namespaces. Return: 0 or negative errno */
	int (*await_spaces)(void *await_arg);
	void *await_arg;
	const struct fvm_accounts *accounts; /* whom only a name service knows */
	uid_t user_uid;			     /* for /run/user/UID; VM's id */
	gid_t user_gid;
	/* out */
	struct fvm_running *running; /* keys and left_out are added to */

	int owners; /* rootless: the list of owners.h, to append to; else untouched */

	/* between the steps */
	int store, scratch, root;
	size_t overlays;
	int hide_tree;	    /* clone of hide_shared's layers, or negative */
	bool hide_attached; /* it is scratch/hide */
};

/** fvm_build_world() - steps 3 to 7 but for the letting go. Return: 0 or negative errno */
int fvm_build_world(struct fvm_build *b, struct fvm_error *err);

/** fvm_build_workspace() - open the VM's workspace/fs by b->store, where its disk is mounted
 *  Return: descriptor or negative errno */
int fvm_build_workspace(const struct fvm_build *b);

/** fvm_build_leave_out() - note that the VM does not see the host's mount at @path, and why */
int fvm_build_leave_out(struct fvm_build *b, const char *path, const char *why);

/* bind_mount.c */
/** fvm_build_target() - open @path below @dir, to mount upon, making what is missing: directories,
 *  and the last one as @file says. Return: descriptor (O_PATH) or negative errno */
int fvm_build_target(int dir, const char *path, bool file);
/** fvm_binds_mount() - attach b->binds to the new root */
int fvm_binds_mount(const struct fvm_build *b, struct fvm_error *err);
/** fvm_build_disks() - mount sized workspaces and layers where they belong in the store */
int fvm_build_disks(const struct fvm_build *b, struct fvm_error *err);

/* dev.c */
/** fvm_dev_make() - fill directory "dev" of @scratch: six devices, links, pts, shm; @devices: more
 *  host devices by path */
int fvm_dev_make(const struct fvm_build *b, struct fvm_error *err);

/* names.c */
/** fvm_names_make() - let the VM's /etc/resolv.conf say b->resolv; after /run was made */
int fvm_names_make(const struct fvm_build *b, struct fvm_error *err);

/* run_dir.c */
/** fvm_run_dir_make() - fill directory "run" of @scratch as tmpfiles.d says, and for the user */
int fvm_run_dir_make(const struct fvm_build *b, struct fvm_error *err);

#endif
