/*
 * fvm/doctor_fix - what to do about something that this host refuses, by the cause
 *
 * Theory of operation
 *   The same thing can be missing for several reasons, each with its own remedy: a device file that
 *   is not there wants a module, one that may not be opened wants other rights, one that a
 *   container was not given wants an option. So the errno decides, and where we are; doctor and the
 *   errors of a start say the same. A remedy is a command for an administrator of the host, or a
 *   sentence where there is no such command.
 */
#ifndef FVM_DOCTOR_FIX_H
#define FVM_DOCTOR_FIX_H

#include <sys/stat.h>

#include "fvm/kernel.h"

/** fvm_fix_userns() - why a user namespace was refused with @error, and what helps against it
 *  @k: at least what fvm_kernel_rules() finds */
const char *fvm_fix_userns(const struct fvm_kernel *k, int error);

/** fvm_fix_of() - the remedy for finding @id when it was refused with @error; "" for an unknown */
const char *fvm_fix_of(const char *id, int error, bool container);

/**
 * fvm_fix_device() - the same for opening the device file @path
 * @module: that makes it
 * @st: of the file; NULL: it is not there
 */
void fvm_fix_device(const char *path, const char *module, const struct stat *st, int error,
		    bool container, char *ret, size_t size);

/** fvm_userns_hint() - put the remedy for a user namespace refused with @error into @err */
void fvm_userns_hint(int error, struct fvm_error *err);

#endif
