/*
 * common/fault - failures and sudden death at chosen steps, for tests
 *
 * Theory of operation
 *   Each step that touches the disk asks FVM_FAULT("part.step") first. Built without
 *   -Dfaults=true that is the constant 0 and costs nothing. Built with it, the environment says
 *   what happens at which visit:
 *
 *     FVM_FAULT="commit.swap:3:kill"	the third time at commit.swap: SIGKILL to ourselves
 *     FVM_FAULT="*:17:enospc"		the 17th visit of any point fails with ENOSPC
 *     FVM_FAULT_LIST=FILE		appends the name of each point as it is visited
 *
 *   Actions: kill, enospc, eio, einval, exdev, stop (SIGSTOP: a test looks at what is there).
 *   Several are separated by commas. A test that runs "*:N:kill" for N = 1, 2, .. until nothing
 *   is killed any more has tried each step.
 */
#ifndef FVM_COMMON_FAULT_H
#define FVM_COMMON_FAULT_H

#ifdef FVM_FAULTS
/** fvm_fault() - visit a point. Return: 0, or the negative errno to fail with */
int fvm_fault(const char *point);
#define FVM_FAULT(point) fvm_fault(point)
#else
#define FVM_FAULT(point) 0
#endif

#endif
