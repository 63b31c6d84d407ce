/*
 * fvm/helper - a process that outlives the command that started it and ends with its VM
 *
 * It is made by two forks, so that it is nobody's to wait for, in a session of its own. It says
 * once whether it could start (fvm_helper_report()); until then its starter waits.
 */
#ifndef FVM_HELPER_H
#define FVM_HELPER_H

#include <sys/types.h>

#include "common/common.h"

/**
 * fvm_helper_start() - run @main in a process of its own
 * @main: calls fvm_helper_report() once; what it returns is its exit status
 * Return: its pid, or the negative errno it has reported
 */
pid_t fvm_helper_start(int (*main)(void *arg, int report), void *arg, struct fvm_error *err);

/** fvm_helper_report() - tell the starter, @err: code 0 is success; closes @report */
void fvm_helper_report(int report, const struct fvm_error *err);

/** fvm_helper_close() - close every descriptor but those @count */
void fvm_helper_close(const int *keep, size_t count);

#endif
