/*
 * fvm/supervisor - what the kernel refuses a rootless VM, made possible from outside
 *
 * Theory of operation
 *   The first process of each session installs a filter with notifications (seccomp.def, part
 *   "rootless") and sends its listener here. A task that makes one of those calls waits until we
 * have answered:
 *
 *     about files   if what is named belongs to nobody, adopt it (adopt.h), then let the kernel go
 *                   on with the call. Owners and devices that can't be had are recorded (owners.h)
 *                   and answered with success.     notify_file.c, notify_path.c
 *     about owners  in sessions of others than the user, who wants speed: what a file was meant
 *                   to have is told.               notify_stat.c
 *     about sockets until the network is there, which comes up when it is asked for. notify_net.c
 *     about ids     with one mapped id no other can be taken on: a task that drops to another for
 *                   good gets a user namespace below its own in which the one id has the wished
 *                   number; one that may come back is lied to.     notify_ids.c, ids.h, nest.c
 *
 *   The supervisor lives in the first user namespace of the VM (start_user.c), outside its pid
 *   namespace: no program of the VM can see, signal or trace it. On files it has no right that the
 *   VM's root lacks, so a race on a path or a pid costs correctness, not safety. But it holds the
 *   host's /proc: what it reads from tasks is hostile, and paths are looked up from the VM's root,
 *   to which it has chrooted. Its working directory is the host's /proc, so that "PID/cwd" and
 *   "self/fd/N" name what they did outside.
 *
 *   Root's VMs have one where a base is unmapped (base.h). It stays root on the host, as only there
 *   the owners of the base's files can be seen; so it keeps only the capabilities to look up, read,
 *   copy and give away files, takes nothing but what lies in the VM's overlays of such bases (known
 *   by device), and what it makes belongs to the VM's ids. Ids and owners are real there: it
 * adopts, and the kernel does the rest.
 *
 *   Of a VM that is traced it is also told of the trace's calls, and notes them (recorder.h).
 *
 *   One thread, one loop. Copies of more than 1 MiB are made by child processes, one per file;
 *   others that ask for the same file wait for it. When the supervisor dies, PID 1 ends the VM.
 *   It ends itself when PID 1 does.
 */
#ifndef FVM_SUPERVISOR_H
#define FVM_SUPERVISOR_H

#include "fvm/idmap_user.h"
#include "fvm/root_user.h"

struct fvm_supervisor_args {
	int socket; /* brings the list of owners ("o"; none for root), the VM's root ("r"), then the
		     * listener of each session ("f"; none inside a VM that has a supervisor) */
	int guard;  /* only to be kept open */
	int init_pidfd;
	int proc;		       /* the host's /proc, O_PATH */
	int log;		       /* the VM's log, or -1 */
	ino_t userns;		       /* of PID 1 */
	int userns_fd;		       /* the same, or -1; closed once it has been used */
	uid_t first_uid;	       /* which the first session will drop to; 0: to none */
	gid_t first_gid;
	int lock;		       /* only to be kept open, or -1 */
	int trace;		       /* of fvm_recorder_open(), or -1 */
	int net;		       /* to slirp.c's process where the network is late, or -1 */
	const struct fvm_plan *plan;   /* root's: mounts; else NULL */
	const struct fvm_idmap *map;   /* root's; else NULL */
	const struct fvm_trees *trees; /* a user's */
	const struct fvm_user_ids *ids;
	const char *owned; /* text of the skeleton's list; root's: NULL */
	size_t owned_len;
};

/** fvm_supervisor_main() - closes every descriptor that @args does not name */
_Noreturn void fvm_supervisor_main(const struct fvm_supervisor_args *args);

#endif
