/*
 * fvm/orphans - processes that outlive the command that made them, where nobody reaps them
 *
 * PID 1 of a VM, its supervisor and helpers end after a command that answered early, or were made
 * by two forks; whoever is PID 1 around us then waits for them. In a container that may be a
 * program that never does: each VM would leave zombies there. Such a command takes the orphans
 * itself (PR_SET_CHILD_SUBREAPER), and stays until they have ended.
 */
#ifndef FVM_ORPHANS_H
#define FVM_ORPHANS_H

#include <stdbool.h>

/** fvm_orphans_are_reaped() - whether PID 1 around us looks after orphans: the host's does, and one
 *  that catches, blocks or ignores SIGCHLD; @status: text of its /proc/1/status */
bool fvm_orphans_are_reaped(const char *status);

/** fvm_orphans_adopt() - become parent of what would be an orphan, unless PID 1 reaps it
 *  Return: whether we did */
bool fvm_orphans_adopt(void);

/** fvm_orphans_reap() - wait for all of them to end, at most @timeout_ms; not for who lives on for
 *  other VMs */
void fvm_orphans_reap(unsigned int timeout_ms);

#endif
