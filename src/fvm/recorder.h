/*
 * fvm/recorder - calls that were notified, noted for the trace (trace.h)
 *
 * Theory of operation
 *   A task can have one filter with a listener. Where a VM needs none for itself, the trace's own
 *   is it, and the tracer (tracer.c) hears of calls. Where a supervisor hears of them
 * (supervisor.h) one filter has both lists of calls, and the supervisor notes each before it
 * handles it. Either holds a write lock on the file as long as it may write, so that who reads the
 * trace of a VM that has just ended can wait for the last notes. Who notes has the host's /proc for
 * its working directory.
 */
#ifndef FVM_RECORDER_H
#define FVM_RECORDER_H

#include <linux/seccomp.h>

#include "fvm/seccomp.h"
#include "fvm/trace.h"

#define FVM_RECORDER_FLUSH_MS 10000
#define FVM_RECORDER_END_MS   5000 /* longest wait for the last notes */

struct fvm_recorder;

/**
 * fvm_trace_filter_install() - on the calling process, which has CAP_SYS_ADMIN in its user
 * namespace
 * @also: a filter whose notifications the same listener gets; or NULL
 * Return: the listener, or negative errno (-EBUSY: there is one already, of a VM around this one)
 */
int fvm_trace_filter_install(const struct fvm_filter *also);

/** fvm_recorder_open() - vms/NAME/trace to append to, locked. Return: descriptor or errno */
int fvm_recorder_open(const struct fvm_vm *vm, struct fvm_error *err);

/** fvm_recorder_await() - until nobody writes to the trace that @file is, for a while at most */
void fvm_recorder_await(int file);

/** fvm_recorder_new() - @file: of fvm_recorder_open(), stays the caller's. Return: NULL: no memory
 */
struct fvm_recorder *fvm_recorder_new(int file);

/** fvm_recorder_note() - note the call if it is one of the trace's; its task still waits */
void fvm_recorder_note(struct fvm_recorder *t, const struct seccomp_notif *q);

/** fvm_recorder_tick() - write notes out if it is time to; to be called at least that often */
void fvm_recorder_tick(struct fvm_recorder *t);

/** fvm_recorder_free() - write the last notes out */
void fvm_recorder_free(struct fvm_recorder *t);

#endif
