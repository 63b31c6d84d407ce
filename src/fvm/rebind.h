/*
 * fvm/rebind - a descriptor of a VM's running program, connected to something else
 *
 * Theory of operation
 *   A target is a path, as the program itself would open it, or a descriptor of a process of the same
 *   VM. A path is opened by a child of ours that takes on the program's user namespace, root, working
 *   directory, ids and umask, and has a few seconds for it: so no more can be opened than the program
 *   could, nothing of the host's, and who serves a file system in the VM holds nobody up. Position and
 *   flags of the old one are given to it; of a target that others have, too, they are left alone.
 *   Only when the new one is there are programs stopped, by a tracer that no ^C reaches, and
 *   vin/rebind does the rest: all, or nothing.
 * Limits: nothing of the host is handed in: a descriptor would be a way out (docs/security.md). In a
 * user's VM, files of other owners that nobody there has opened yet can't be opened for writing.
 */
#ifndef FVM_REBIND_H
#define FVM_REBIND_H

#include "fvm/store.h"

struct fvm_rebind {
	pid_t pid; /* as the VM counts */
	int number;
	const char *target; /* "PID:FD", or a path */
	bool all; /* every descriptor of the VM that leads to the same open file */
};

struct fvm_rebound {
	size_t descriptors, processes;
	int64_t still_ns; /* how long they stood still */
};

/**
 * fvm_rebind() - in the running VM, open FVM_LOCK
 * Return: 0; -ESRCH, -EBADF (no such process, descriptor), -EOPNOTSUPP (not of this kind), what
 *         opening the target came to, or another negative errno; nothing has changed then
 */
int fvm_rebind(const struct fvm_vm *vm, const struct fvm_rebind *what, struct fvm_rebound *ret,
	       struct fvm_error *err);

#endif
