/*
 * fvm/programs - what ran in a VM, kept with a snapshot of it
 *
 * The blob of fvm/checkpoint.h, whose first line has the number of its format, is the file
 * vms/NAME/programs/DIGEST: named by the SHA-256 of it all, so that one which is damaged is known
 * before anything is done for its sake. A snapshot's record in config.json has that name. A clone's
 * file is the same one, by a hard link. A name that no record has is left over from a command that
 * was killed, and goes with the next one that locks the VM.
 */
#ifndef FVM_PROGRAMS_H
#define FVM_PROGRAMS_H

#include "fvm/digest.h"
#include "fvm/store.h"

/** fvm_programs_keep() - give the file @blob, which has no name yet, its place in the VM
 *  @ret_name: for the snapshot's record. On the disk when this returns. */
int fvm_programs_keep(const struct fvm_vm *vm, int blob, char ret_name[FVM_DIGEST_HEX],
		      struct fvm_error *err);

/** fvm_programs_open() - read what is kept with the snapshot @s
 *  Return: descriptor at its start, -EBADMSG (damaged), -EPROTONOSUPPORT (of a newer fvm), ... */
int fvm_programs_open(const struct fvm_vm *vm, const struct fvm_snapshot *s, struct fvm_error *err);

/** fvm_programs_share() - all that @vm keeps, for its clone in the directory @to */
int fvm_programs_share(const struct fvm_vm *vm, int to);

/** fvm_programs_tidy() - delete what no record of @vm, open FVM_LOCK, names */
void fvm_programs_tidy(const struct fvm_vm *vm);

#endif
