/*
 * fvm/lock - who may change a VM, and whether it lives: the locks of vms/NAME/lock (store.h)
 */
#ifndef FVM_LOCK_H
#define FVM_LOCK_H

#include "common/common.h"

/** fvm_lock_take() - take the command's lock (byte 0) of the VM in @dir
 *  @wait: up to 60 s, and say who holds it after one. Return: 0, or -EBUSY and who holds it */
int fvm_lock_take(int dir, const char *name, bool wait, int *ret_fd, struct fvm_error *err);

/** fvm_lock_alive() - whether PID 1 of the VM in @dir lives (byte 1 is held) */
bool fvm_lock_alive(int dir);

/** fvm_lock_take_alive() - take byte 1. Return: 0 or -EBUSY */
int fvm_lock_take_alive(int dir, int *ret_fd);

/** fvm_lock_take_late() - take byte 2 of the VM in @dir: memory of its programs is still to come, for
 *  as long as the last copy of @ret_fd is open. Return: 0, -EBUSY, ... */
int fvm_lock_take_late(int dir, int *ret_fd);

/** fvm_lock_await_late() - until nobody holds byte 2, without limit. Return: 0 or negative errno */
int fvm_lock_await_late(int dir);

/** fvm_lock_take_watched() - take byte 3: as long as the last copy of @ret_fd is open, somebody outside
 *  of the VM rolls it back when its PID 1 wants that (watchdog.h). Return: 0, -EBUSY, ... */
int fvm_lock_take_watched(int dir, int *ret_fd);

/** fvm_lock_watched() - whether anybody holds byte 3 of the VM in @dir */
bool fvm_lock_watched(int dir);

/** fvm_lock_watched_by() - the same, asked by who has another of its bytes by @fd */
bool fvm_lock_watched_by(int fd);

/** fvm_lock_any() - whether anybody holds either of the first two locks of the VM in @dir */
bool fvm_lock_any(int dir);

/** fvm_lock_named() - flock(2) what @fd holds, if it still has the name @path below @dir: between
 *  open and flock somebody may have given that name to another file, or to none
 *  @how: LOCK_SH or LOCK_EX; never waits. Return: 0, -EAGAIN (in use, or no longer that), -errno */
int fvm_lock_named(int fd, int dir, const char *path, int how);

/** fvm_lock_drop() - let go of byte 0 in every copy of @fd, also other processes' */
void fvm_lock_drop(int fd);

#endif
