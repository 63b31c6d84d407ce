/*
 * fvm/trace - what the programs of a VM opened, wrote, executed and connected to, and which did
 *
 * Theory of operation
 *   With run --trace PID 1's filter also notifies of the calls in the table of recorder.c: opens,
 *   executions, everything that changes names, connections. Who is notified is a process of the
 *   host outside the VM's namespaces: the *tracer*, or the supervisor where the VM has one. It
 *   reads the call's arguments from the stopped caller, notes them and lets the call go on. So
 *   nothing is loaded into programs, static ones are seen too, and a VM without --trace pays
 *   nothing. Inside a VM with a supervisor, or that is traced, a VM can't be: there is one
 * listener. Notes are gathered by (command line, operation, path): a count, the first and the last
 * time. They go to vms/NAME/trace when the VM ends, every ten seconds, and when there are many: one
 *   line each below a first one "fvm-trace 1", tab-separated, names quoted as by fvm_quote() where
 * needed:
 *
 *     FIRST_NS LAST_NS COUNT PID OPERATION COMMAND PATH
 *
 *   A path is absolute and, for what changes names, resolved in the caller's root up to its last
 *   component, so that "who" finds it by the name it has. A hostile program can change its
 *   arguments between our look and the call's (the kernel offers no way to prevent that): a trace
 *   tells what honest programs did.
 *   Limits: calls by io_uring and of 32-bit programs are not seen, nor addresses that sendmsg() is
 *   given, nor what is done to a descriptor after it was opened; opens beyond 200,000 different
 *   notes between two flushes are counted together.
 */
#ifndef FVM_TRACE_H
#define FVM_TRACE_H

#include "fvm/store.h"

#define FVM_TRACE_HEAD "fvm-trace 1\n"

enum fvm_trace_op {
	FVM_TRACE_OPEN,	  /* to read */
	FVM_TRACE_WRITE,  /* opened to write, or cut */
	FVM_TRACE_CREATE, /* a file, directory, link or node */
	FVM_TRACE_DELETE,
	FVM_TRACE_RENAME, /* noted for both names */
	FVM_TRACE_META,	  /* mode, owner or attributes */
	FVM_TRACE_EXEC,
	FVM_TRACE_CONNECT, /* also by a sendto() with an address */
	FVM_TRACE_BIND,
	FVM_TRACE_OPS
};

/* One line of vms/NAME/trace; strings belong to the reader and last until the next one. */
struct fvm_trace_note {
	int64_t first_ns, last_ns;
	uint64_t count;
	pid_t pid; /* as the host saw it */
	enum fvm_trace_op op;
	const char *command;
	const char *path;
};

const char *fvm_trace_op_name(enum fvm_trace_op op);

/**
 * fvm_tracer_start() - start the tracer of @vm
 * @sock: the tracer receives the listener over it (one message with one descriptor) and reads
 *        nothing else; it is closed in the child that remains
 * Return: 0 or negative errno. The tracer is nobody's child and ends with the VM.
 */
int fvm_tracer_start(const struct fvm_vm *vm, int sock, struct fvm_error *err);

/**
 * fvm_trace_read() - call @fn for each note of @vm, in the order they were written
 * Return: 0, what @fn returned if not 0, -ENOENT (never traced), -EBADMSG (line)
 */
int fvm_trace_read(const struct fvm_vm *vm, int (*fn)(const struct fvm_trace_note *note, void *arg),
		   void *arg, struct fvm_error *err);

/** fvm_trace_parse() - one line, which is taken apart in place. Return: 0 or -EBADMSG */
int fvm_trace_parse(char *line, struct fvm_trace_note *ret);

#endif
