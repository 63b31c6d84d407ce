/*
 * fvm/kernel - what the kernel under us can do, tried once
 *
 * Theory of operation
 *   A version number says little: distributions leave out and take over. So each feature is tried,
 *   where it can be without a trace; what needs namespaces is tried by a child that ends with them
 *   (fvm_kernel_probe() as a whole takes some 20 ms, which is why a start does not call it: it
 *   tries what it needs and falls back). doctor shows it all.
 */
#ifndef FVM_KERNEL_H
#define FVM_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/common.h"

/* What came of trying: 0 it works, else the positive errno with which it failed. */
typedef int fvm_tried;

struct fvm_kernel {
	char release[65];
	bool full_root;	 /* uid 0 with CAP_SYS_ADMIN in the first user namespace */
	bool container;	 /* we are inside one; which: */
	char inside[32]; /* "docker", "podman", "lxc", "fvm", ..., or "" */

	fvm_tried userns;	  /* an ordinary user's namespace with a map */
	fvm_tried userns_mount;	  /* a mount in it: security modules refuse that half */
	fvm_tried overlay;	  /* overlay for root */
	fvm_tried overlay_userns; /* overlay in a user namespace, over the store's file system */
	fvm_tried overlay_fds;	  /* layers given as descriptors */
	fvm_tried idmap;	  /* mount_setattr() with a user namespace, on / */
	fvm_tried idmap_store;	  /* on the store */
	const char *missing_call; /* the first that no VM can do without; NULL: all are there */
	fvm_tried missing;	  /* what it answered */
	const char *slower_call;  /* the first for which there is another way; or NULL */
	fvm_tried netns, veth, nft, tun, fuse, kvm;
	fvm_tried counts; /* nf_tables counts connections, so that no VM takes all there can be */

	int landlock_abi; /* 0: none; 6 and up guard abstract sockets */
	fvm_tried seccomp, seccomp_notify, seccomp_killable, seccomp_sync;

	long max_user_namespaces; /* -1: unknown */
	bool apparmor_restricts;  /* Ubuntu's rule that user namespaces need a profile */
	bool debian_restricts;	  /* kernel.unprivileged_userns_clone = 0 */
	bool selinux;
};

/** fvm_kernel_probe() - try everything. @store: directory of the store, or of where it will be */
void fvm_kernel_probe(const char *store, struct fvm_kernel *ret);

/** fvm_kernel_rules() - only where we are, and the host's settings: some files are read */
void fvm_kernel_rules(struct fvm_kernel *k);

/** fvm_try_overlay() - whether an overlay's changes can be kept below @dir; some milliseconds */
fvm_tried fvm_try_overlay(const char *dir);
/**
 * fvm_userns_make() - a new user namespace in ours, which nobody is in
 * @proc: a /proc that shows our children, or AT_FDCWD when we are there
 * @uids, @gids: as in uid_map and gid_map
 * Return: a descriptor, which keeps it, or negative errno
 */
int fvm_userns_make(int proc, const char *uids, const char *gids);
/** fvm_try_userns() - descriptor of a new user namespace that maps some ids, or negative errno */
int fvm_try_userns(void);

/** fvm_try_idmap() - whether the mount at @path can be idmapped. Return: 0, -EINVAL, ... */
int fvm_try_idmap(int userns, const char *path);

#define FVM_LANDLOCK_SCOPES 6 /* the first version that guards abstract sockets */

/** fvm_landlock_abi() - version of Landlock, 0 without */
int fvm_landlock_abi(void);

/**
 * fvm_landlock_guard() - cut the caller and all it starts off from abstract sockets and processes
 * outside; for VMs in the host's network namespace
 * Needs CAP_SYS_ADMIN in the caller's user namespace. Return: 0, or -EOPNOTSUPP (ABI below 6)
 */
int fvm_landlock_guard(void);

#endif
