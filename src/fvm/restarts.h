/*
 * fvm/restarts - which of the host's services run with files that a VM changed
 *
 * Theory of operation
 *   A service wants a restart when one of its processes has a changed or deleted file mapped (its
 *   program, a library), or when its own configuration changed: a unit file or what is added to
 *   one, /etc/default/NAME, /etc/NAME.conf or something below /etc/NAME/. Which service a process
 *   belongs to is told by its cgroup: the first that is no slice. Processes of other users are
 *   looked at as far as we may; of those in VMs the cgroup says that they are none of the host's
 *   services. Asked by diff of what a commit would replace, and by commit and undo of what they
 *   have replaced. Only a hint.
 */
#ifndef FVM_RESTARTS_H
#define FVM_RESTARTS_H

#include "fvm/changes.h"

/** fvm_restarts_concerns() - whether a service may use what was there before this change */
bool fvm_restarts_concerns(const struct fvm_change *change);

/**
 * fvm_restarts_find() - services of the host that use any of @paths
 * @paths:    absolute paths that were changed or deleted; it sorts them
 * @replaced: they are on the host by now
 * @ret:      names such as "nginx.service", sorted
 * Return: 0 or -ENOMEM; without /proc or cgroups the list is empty
 */
int fvm_restarts_find(struct fvm_strv *paths, bool replaced, struct fvm_strv *ret);

#endif
