/*
 * fvm/early - the copy of a running VM's files, most of it made before its programs stand still
 *
 * Theory of operation
 *   fvm_early_open()   a place in the store's tmp/
 *   fvm_early_mark()   while all stand still for a moment: nobody is in the middle of a write. Then
 *                      they go on.
 *   fvm_early_copy()   writes back what is dirty, so that a store through a shared mapping faults
 *                      and is given a time as a write is; copies what is there (layer_copy.h)
 *   fvm_early_finish() while they stand still again: copies what has changed since the mark
 *   fvm_early_close()  deletes it
 *   So programs stand still for what changed during the copying, and a look at every name: 3 us.
 *   That a later change has a later ctime is what it rests on. tmpfs gives stores through mappings
 *   no time, and others may be no better: only file systems that are known to (fvm_early_can())
 *   are copied early. When the clock was set meanwhile all is copied again.
 *   It takes the room of the files in the store for as long as it lasts, where there are no
 * reflinks.
 */
#ifndef FVM_EARLY_H
#define FVM_EARLY_H

#include "fvm/store.h"

struct fvm_early {
	const struct fvm_vm *vm;
	int dir;      /* in tmp/, with the copy in "fs"; -1: none */
	int origins;  /* see layer_copy.h */
	char tmp[40]; /* its name */
	bool native, copied;
	fvm_progress_fn progress; /* of the first copy; may be NULL */
	void *arg;
	int64_t marked_ns, offset_ns; /* the clock of files' times, and that less one nobody sets */
};

#define FVM_NO_EARLY                                                                               \
	{                                                                                          \
		.dir = -1, .origins = -1                                                           \
	}

/** fvm_early_can() - whether the VM's files lie where a first copy can be made while it runs */
bool fvm_early_can(const struct fvm_vm *vm);

/** fvm_early_open() - @native: native directories (native.h) are wanted, too. Return: 0 or -errno
 */
int fvm_early_open(const struct fvm_vm *vm, bool native, struct fvm_early *ret,
		   struct fvm_error *err);

/** fvm_early_mark() - all of the VM stand still now */
void fvm_early_mark(struct fvm_early *e);

/** fvm_early_copy() - while they run. Return: 0 or negative errno (-ENOSPC, ...) */
int fvm_early_copy(struct fvm_early *e, struct fvm_error *err);

/** fvm_early_finish() - while they stand still; also without mark and copy. Return: as before */
int fvm_early_finish(struct fvm_early *e, struct fvm_error *err);

/** fvm_early_close() - delete what is left in tmp/ */
void fvm_early_close(struct fvm_early *e);
#define scoped_early __attribute__((cleanup(fvm_early_close))) struct fvm_early

#endif
