/*
 * fvm/foothold - a process of ours in a running VM
 *
 * Theory of operation
 *   Root looks at a VM by its PID 1. An ordinary user may not: PID 1 is a copy of a process of the
 *   host's, and shown to nobody. So he has PID 1 make one more child, which is his own program to
 *   its last instruction, waits (vin/become), and shows him the VM's root and namespaces. It has
 *   the last number but two, and ends when it is closed or its maker ends.
 *   Who made the VM owns its user namespaces, and may enter them; the namespace around the VM's
 *   (start_user.c) owns the network, and gives whoever is in it all rights over both.
 */
#ifndef FVM_FOOTHOLD_H
#define FVM_FOOTHOLD_H

#include "fvm/store.h"

struct fvm_foothold {
	pid_t pid, number; /* here and in the VM; 0: there is none */
	int line;	   /* it ends when this is closed */
	int pidfd, root;
};
#define FVM_FOOTHOLD_NONE ((struct fvm_foothold){ .line = -1, .pidfd = -1, .root = -1 })

/** fvm_foothold_open() - in the running VM of an ordinary user. Return: 0 or negative errno */
int fvm_foothold_open(const struct fvm_vm *vm, struct fvm_foothold *ret, struct fvm_error *err);

/** fvm_foothold_users() - the user namespace in which an ordinary user's VM has sessions with his
 *  own ids (nest.h). Return: descriptor, or negative errno */
int fvm_foothold_users(const struct fvm_vm *vm);

void fvm_foothold_close(struct fvm_foothold *f);

/** fvm_foothold_enter() - this process becomes root of the namespace around the VM's, and enters
 *  the VM's network, IPC objects and host name; it must have one thread. Return: 0 or -errno */
int fvm_foothold_enter(const struct fvm_foothold *f, struct fvm_error *err);

/** fvm_blank_start() - vin_start_fn: a child of PID 1's, in all of the VM's namespaces
 *  @vm: struct fvm_vm */
int fvm_blank_start(void *vm, int line, pid_t number, struct fvm_error *err);

#endif
