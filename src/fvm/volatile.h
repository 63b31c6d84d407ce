/*
 * fvm/volatile - what lies in a running VM's own memory file systems, /run and /dev/shm, as a tar
 *
 * Theory of operation
 *   These are made afresh at every start and are part of no layer. Programs that are captured have
 *   files there: so they are written before the programs, and put back before those are replayed.
 *   Both ends run in a child that has entered the VM's user namespace as its root, by descriptors
 *   below the VM's root: owners are the VM's ids, and a hostile tar can do no more than the VM's
 *   root. What a start has put there already is replaced; sockets are made by who listens to them.
 *   Other mounts below are not entered; what programs have covered by mounts of theirs (vin/mounts) is
 *   read in a copy of the mount namespace that has none of these. Extended attributes are not kept.
 */
#ifndef FVM_VOLATILE_H
#define FVM_VOLATILE_H

#include <sys/types.h>

#include "common/common.h"

/**
 * fvm_volatile_write() - a tar of it to @to
 * @pidfd:   of a process in the VM
 * @root:    directory that the VM's paths begin at
 * @covered: that process, when programs have made mounts; 0: they have made none
 * Return: 0 or negative errno
 */
int fvm_volatile_write(int pidfd, int root, pid_t covered, int to, struct fvm_error *err);

/** fvm_volatile_read() - put @len bytes of tar from @from back. Return: 0, -EBADMSG, or -errno */
int fvm_volatile_read(int pidfd, int root, int from, uint64_t len, struct fvm_error *err);

/** fvm_volatile_unpack() - what it does in the VM's user namespace, as which this process acts.
 *  Return: 0, -EBADMSG, or another negative errno */
int fvm_volatile_unpack(int root, int from, uint64_t len, struct fvm_error *err);

#endif
