/*
 * fvm/copies - large files adopted by child processes, so that nobody else waits for them
 *
 * A copy is known by the file it is made of. Calls that wait for it are kept, and looked at again
 * from their beginning once the child has ended: then the file is theirs, or they go on unhelped.
 */
#ifndef FVM_COPIES_H
#define FVM_COPIES_H

#include "fvm/notify.h"

/** copies_find() - whether a copy of this file is under way */
bool copies_find(const struct supervisor *sup, const struct stat *st);

/** copies_add() - start a copy of @name in @dir, or join the one under way, and keep @c for later
 *  Return: -EINPROGRESS, or another negative errno */
int copies_add(struct call *c, int dir, const char *name, const struct stat *st,
	       const struct fvm_host_owner *owner);

/** copies_ended() - the child whose pidfd is @pidfd has ended: look at what waited for it */
void copies_ended(struct supervisor *sup, int pidfd,
		  void (*handle)(struct supervisor *sup, int listener,
				 const struct seccomp_notif *req, bool no_adopt));

#endif
