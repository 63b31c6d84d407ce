/*
 * fvm/base - what the file systems below a VM's overlays can do, found out before any is mounted
 *
 * Theory of operation
 *   Servers that may hang (NFS, FUSE) are asked first, each by a process of its own: who has not
 *   answered after a second is left out, and nothing of ours ever waits for him. The process is
 *   nobody's child, holds nothing of the caller's, and ends with its alarm, or when the server
 * does.
 *
 *   A privileged VM then wants every base idmapped. Where the kernel can't (overlay, as in Docker;
 *   NFS, most FUSE, tmpfs before 6.3) the mount is *unmapped*: its overlay has the host's tree as
 * it is for its lowest layer, in which all owners are strangers to the VM, and so
 *
 *     stand-ins    a layer above it (skeleton.h, made by root) has each directory with its owner,
 *                  and copies of the files that a stranger may not read or execute, or that lose
 *                  their meaning with their owner: set-id programs, configuration
 *     adoption     other files are readable, and become the VM's own when first written: PID 1's
 *                  filter tells a supervisor (supervisor.h), which copies and renames over
 *     network      is not walked through: a server of ours shows what strangers miss, when it is
 *                  looked for (standins.h)
 *
 *   All else, layers and identities included, is as in any privileged VM: its root is nobody on the
 *   host, what it writes is stored with the host's ids, and diff and commit see no difference.
 *   One unmapped mount among mapped ones is treated so for itself; only the filter is the whole
 * VM's.
 */
#ifndef FVM_BASE_H
#define FVM_BASE_H

#include "fvm/plan.h"

/** fvm_bases_ask() - leave out the network's mounts that do not answer, or not us */
int fvm_bases_ask(struct fvm_plan *plan, struct fvm_error *err);

/** fvm_base_look_at() - ask a file system what only its server can answer, as attributes may be
 *  cached; hangs when it does. Return: 0 or positive errno */
int fvm_base_look_at(const char *path);

/** fvm_bases_map() - find out which mounts are unmapped; for privileged VMs */
int fvm_bases_map(struct fvm_plan *plan, struct fvm_error *err);

/** fvm_bases_unmapped() - how many overlaid mounts are */
size_t fvm_bases_unmapped(const struct fvm_plan *plan);

#endif
