/*
 * fvm/calls - the system calls of a VM's programs, while they run
 *
 * Theory of operation
 *   vin/calls traces the processes below the VM's PID 1, or one of them and its descendants. PID 1
 *   itself is left alone, as the VM's commands wait for it: what it starts later (fvm exec) is found
 *   by a look at its children, some twenty times a second. Sockets are told by what /proc/net has of
 *   them, read again when one is not there, or may have another address by now.
 *   A supervisor or tracer of run --trace is asked as ever: ptrace stops before and after that.
 *
 *   The command's lock is held until all are seized, so that a checkpoint that is being made is
 *   waited for, and let go then; from there on a checkpoint is refused, naming this process.
 * Limits: vin/calls'. What a process does between its start by PID 1 and our look is not seen.
 */
#ifndef FVM_CALLS_H
#define FVM_CALLS_H

#include "fvm/store.h"
#include "vin/calls.h"

struct fvm_calls_options {
	pid_t pid;    /* as the VM counts; 0: all */
	bool no_args; /* only names, results and times are wanted */
	bool (*wants)(void *arg, const char *name);		  /* as in vin/calls.h */
	int (*seen)(void *arg, const struct vin_call_seen *call); /* the same */
	/* some twenty times a second, unless NULL */
	void (*tick)(void *arg);
	void *arg;
};

/**
 * fvm_calls() - tell of calls until a signal (INT, TERM, HUP) says so, nobody is left, or @seen
 * @vm: open FVM_LOCK, which is let go; this process must end soon afterwards
 * Return: 0, what @seen returned, -ESRCH (it does not run; no such process), -EBUSY (paused, or traced
 *         by another), or another negative errno
 */
int fvm_calls(struct fvm_vm *vm, const struct fvm_calls_options *options, struct fvm_error *err);

#endif
