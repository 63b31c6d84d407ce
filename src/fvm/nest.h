/*
 * fvm/nest - a task moved into a user namespace in which its one id has another number
 *
 * Theory of operation
 *   A namespace below the task's own, with "U 0 1" as its map, makes everything true that a
 *   program checks after it dropped to U: getuid, owners in stat, no way back. It is made by a
 * child of ours, and kept for the next task that drops to the same ids, so that the processes of
 * one user share one. Its descriptor is put into the task (SECCOMP_IOCTL_NOTIF_ADDFD), and the
 * task, seized by ptrace on its way out of the call that we answer, is made to setns() into it.
 *   Entering gives all capabilities in the namespace: they are dropped again, as setuid(2) would,
 *   unless the task had asked to keep them, or only its group changes.
 *   Not possible: a task with threads (setns(2) refuses), one under a debugger, one whose last
 *   instruction was no "syscall". Those are lied to.
 */
#ifndef FVM_NEST_H
#define FVM_NEST_H

#include "fvm/notify.h"

struct nest_ids {
	uint32_t uid, gid;
};

/** nests_make() - Return: NULL when out of memory */
struct nests *nests_make(void);

/** nest_known() - whether user namespace @ino is one of ours, and with which ids */
bool nest_known(const struct supervisor *sup, ino_t ino, struct nest_ids *ret);

/** nest_prepare() - make the one that a task of root's in @userns, which is the VM's, will drop to
 *  @userns: descriptor. What fails here is tried again then */
void nest_prepare(struct supervisor *sup, int userns, const struct nest_ids *to);

/**
 * nest_enter() - answer the call with 0, and move its task
 * @from: what the kernel holds for the task now; @to: what it shall
 * Return: 0 (answered), or negative errno: not answered, nothing has happened;
 *         -ECANCELED: answered with 0, but the task could not be moved
 */
int nest_enter(const struct call *c, const struct nest_ids *from, const struct nest_ids *to);

#endif
