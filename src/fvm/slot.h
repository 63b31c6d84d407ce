/*
 * fvm/slot - the number that makes a running VM's uid range and network address its own
 *
 * Theory of operation
 *   Slots belong to the host, not to a store: /run/fvm/slots/N, one file each. A slot is taken as
 *   long as somebody holds flock(2) on its file, and PID 1 of the VM does: no crash can leave one
 *   taken. Nothing on disk depends on a slot (layers hold the host's own ids), so a VM gets
 *   another one at each start. The search begins at a hash of the VM's id.
 *   Uid range of slot N: FVM_UID_FIRST + N * FVM_UID_SPAN; outside what subuid(5) hands out, and
 *   below 0x7ffe0000: there ranges of systemd's begin, and from 2^31 on file systems of older
 *   kernels (devpts of 6.1) refuse a number as an option.
 */
#ifndef FVM_SLOT_H
#define FVM_SLOT_H

#include "common/common.h"

#define FVM_SLOTS	16384U /* tables have room for so many */
#define FVM_SLOTS_GIVEN 8184U  /* ids of those beyond are too large, see above */
#define FVM_UID_FIRST	0x40000000U
#define FVM_UID_SPAN	0x20000U /* 65536 for the ids below, as many for the larger ones in use */

static inline uint32_t fvm_slot_uid(uint32_t slot)
{
	return FVM_UID_FIRST + slot * FVM_UID_SPAN;
}

/** fvm_slot_take() - @ret_fd keeps it while open (in whichever process)
 *  @wish: the slot to be had if it is free; < 0: none
 *  Return: 0, or -EBUSY when all are taken */
int fvm_slot_take(const char *vm_id, int wish, uint32_t *ret_slot, int *ret_fd,
		  struct fvm_error *err);

/** fvm_slot_drop() - remove the file of a slot that nobody holds any more */
void fvm_slot_drop(uint32_t slot);

#endif
