/*
 * fvm/notes - the tracer's memory: notes by (command, operation, path), counted
 */
#ifndef FVM_NOTES_H
#define FVM_NOTES_H

#include "fvm/trace.h"

struct fvm_notes; /* starts as NULL inside a struct fvm_notes * */

/** fvm_notes_new() - a table that is flushed to @fd (append-only, owned by the caller) */
struct fvm_notes *fvm_notes_new(int fd);
void fvm_notes_free(struct fvm_notes *n);

/** fvm_notes_add() - count one; flushes when there are many. Return: 0, or negative errno */
int fvm_notes_add(struct fvm_notes *n, enum fvm_trace_op op, pid_t pid, const char *command,
		  const char *path);

/** fvm_notes_flush() - write all to the file and forget them */
int fvm_notes_flush(struct fvm_notes *n);

#endif
