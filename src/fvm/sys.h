/*
 * fvm/sys - system calls that the C library of Debian 12 has no wrapper for
 *
 * Each returns what fvm_nerr() makes of it: a value >= 0, or a negative errno.
 */
#ifndef FVM_SYS_H
#define FVM_SYS_H

#include <errno.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/error.h"

#ifndef MOUNT_ATTR_IDMAP
#define MOUNT_ATTR_IDMAP 0x00100000
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

static inline int sys_open_tree(int dir, const char *path, unsigned int flags)
{
	return fvm_nerr(syscall(SYS_open_tree, dir, path, flags));
}

static inline int sys_move_mount(int from, const char *from_path, int to, const char *to_path,
				 unsigned int flags)
{
	return fvm_nerr(syscall(SYS_move_mount, from, from_path, to, to_path, flags));
}

/* struct mount_attr by its layout: linux/mount.h and sys/mount.h fight over the name */
struct sys_mount_attr {
	uint64_t attr_set, attr_clr, propagation, userns_fd;
};

static inline int sys_mount_setattr(int dir, const char *path, unsigned int flags,
				    const struct sys_mount_attr *attr)
{
	return fvm_nerr(syscall(SYS_mount_setattr, dir, path, flags, attr, sizeof(*attr)));
}

static inline int sys_fsopen(const char *type, unsigned int flags)
{
	return fvm_nerr(syscall(SYS_fsopen, type, flags));
}

static inline int sys_fsconfig(int fs, unsigned int command, const char *key, const void *value,
			       int aux)
{
	return fvm_nerr(syscall(SYS_fsconfig, fs, command, key, value, aux));
}

static inline int sys_fsmount(int fs, unsigned int flags, unsigned int attributes)
{
	return fvm_nerr(syscall(SYS_fsmount, fs, flags, attributes));
}

static inline int sys_pivot_root(const char *new_root, const char *put_old)
{
	return fvm_nerr(syscall(SYS_pivot_root, new_root, put_old));
}

/* Without a stack of its own. Filters of containers answer ENOSYS, as they can't look into the
 * structure; what clone() can't say is a time namespace, which is then the caller's. */
static inline int sys_clone3(const struct clone_args *args)
{
	long r = syscall(SYS_clone3, args, sizeof(*args));
#ifndef __s390__ /* which has the first two arguments the other way round */
	if (r == -1 && errno == ENOSYS)
		r = syscall(SYS_clone, (args->flags & ~0xffULL) | args->exit_signal, 0UL,
			    args->pidfd, 0UL, 0UL);
#endif
	return fvm_nerr(r);
}

static inline int sys_pidfd_open(pid_t pid, unsigned int flags)
{
	return fvm_nerr(syscall(SYS_pidfd_open, pid, flags));
}

static inline int sys_pidfd_send_signal(int pidfd, int sig)
{
	return fvm_nerr(syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0));
}

#endif
