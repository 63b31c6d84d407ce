/*
 * fvm/scan - what the scan of one stack and that of a whole VM share (internal)
 */
#ifndef FVM_SCAN_H
#define FVM_SCAN_H

#include "fvm/changes.h"

/** fvm_stack_scan_uncovered() - fvm_stack_scan(), leaving out what lies under other mounts
 *  @covered: absolute paths that the VM sees from another stack; may be NULL */
int fvm_stack_scan_uncovered(const struct fvm_stack *stack, const struct fvm_strv *covered,
			     const struct fvm_scan_options *options, fvm_change_fn fn, void *arg,
			     struct fvm_error *err);

#endif
