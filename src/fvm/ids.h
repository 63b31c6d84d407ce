/*
 * fvm/ids - the ids a task believes to have, where one id is all there is
 *
 * Theory of operation
 *   The kernel's rules of setuid(2), setreuid(2), setresuid(2), setfsuid(2) and their like for
 *   groups, on plain numbers. Who has effective uid 0 is taken to be privileged.
 *   What the kernel holds for the task is one uid and one gid (0 and 0 at first, later those of a
 *   namespace it was put into). When all that a task believes is what the kernel holds, nothing is
 *   left to remember; when it gave up the kernel's uid for good, it is put into a namespace where
 *   the new one is true; anything between is remembered, and told when asked.
 */
#ifndef FVM_IDS_H
#define FVM_IDS_H

#include <stdbool.h>
#include <stdint.h>

enum fvm_id_kind { FVM_ID_REAL, FVM_ID_EFFECTIVE, FVM_ID_SAVED, FVM_ID_FS, FVM_ID_KINDS };

struct fvm_ids {
	uint32_t uid[FVM_ID_KINDS], gid[FVM_ID_KINDS];
};

enum fvm_id_call { FVM_SET, FVM_SETRE, FVM_SETRES, FVM_SETFS };

enum fvm_id_outcome {
	FVM_IDS_TRUE, /* as the kernel has it */
	FVM_IDS_LIE,  /* to be remembered */
	FVM_IDS_NEST, /* dropped for good: uid[0] and gid[FVM_ID_EFFECTIVE] */
};

/** fvm_ids_init() - what the kernel holds */
void fvm_ids_init(struct fvm_ids *ids, uint32_t uid, uint32_t gid);

/**
 * fvm_ids_set() - apply a call to @ids
 * @a: its arguments; those it does not have are ignored
 * Return: what the call returns: 0, -EPERM, -EINVAL, or for FVM_SETFS the former id
 */
int64_t fvm_ids_set(struct fvm_ids *ids, bool group, enum fvm_id_call call, const uint32_t a[3]);

/** fvm_ids_outcome() - what follows from @ids when the kernel holds @uid and @gid */
enum fvm_id_outcome fvm_ids_outcome(const struct fvm_ids *ids, uint32_t uid, uint32_t gid);

#endif
