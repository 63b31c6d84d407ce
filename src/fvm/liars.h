/*
 * fvm/liars - tasks that believe to have other ids than the kernel holds for them
 *
 * Kept by process; forgotten when it ends (pidfd) or when belief and kernel agree again. A child
 * that is not known asks its parent's entry, once. While nobody is lied to, which is most of the
 * time, nothing has to be looked up at all.
 */
#ifndef FVM_LIARS_H
#define FVM_LIARS_H

#include "fvm/notify.h"

struct liars *liars_make(void);
/** liars_find() - what the calling task believes; false: what the kernel holds */
bool liars_find(const struct call *c, struct fvm_ids *ret);

/** liars_set() - remember. Return: 0, or negative errno: too many */
int liars_set(const struct call *c, const struct fvm_ids *ids);

/** liars_forget() - it believes what the kernel holds */
void liars_forget(const struct call *c);

/** liars_ended() - the process of @pidfd has ended. Return: whether it was one of these */
bool liars_ended(struct supervisor *sup, int pidfd);

#endif
