/*
 * fvm/checkpoint - a running VM into one file, and out of it again, with its programs
 *
 * Theory of operation
 *   The file is an image as export writes it (fvm/image.h) with one blob more, named by annotation
 *   "org.fvm.programs" of the manifest's descriptor: so export's readers read it, too. The blob:
 *
 *     "fvm programs 3\n", struct fvm_net_wish (addresses that it had), u64 offset of the sessions;
 *     the image stream of vin/capture, which begins with memory while all run (vin/precopy); u32
 *     number of sessions, for each u32 length and struct fvm_msg_live with its last output; u64
 *     length and the tar of fvm/volatile up to the end
 *
 *   PID 1 is not captured but made anew. It holds the ends of its sessions' terminals and pipes:
 *   to vin these are given (vin/files.h), by the name "session N".
 *
 *   checkpoint  look while all run (what can't be captured is said now); stop; write programs, then
 *               layers; let them go or end the VM. Most of their memory was written before, and if
 *               they are to go on, their files were copied before (fvm/early.h), and they go before
 *               layers are written. Until the file has its
 *               name, whatever happens to us lets the programs go on, as they are our tracees.
 *   restore     import the layers, start the VM without a command, have PID 1 take over the
 *               sessions, replay the programs as its children. What needs all of their memory waits
 *               for what is late (vin/lazy) by a lock (fvm/lock.h).
 *   Who restores a file does with it what it says, in a VM that has what this host grants: ports,
 *   binds and such of the image are not granted (fvm/image.h).
 */
#ifndef FVM_CHECKPOINT_H
#define FVM_CHECKPOINT_H

#include "fvm/net.h"
#include "fvm/store.h"

struct fvm_checkpoint_options {
	bool leave_running;
	fvm_progress_fn progress;
	void *arg;
};

/* A TCP connection with somebody outside of the VM. */
struct fvm_connection {
	pid_t pid; /* as the VM counts */
	int number;
	char command[16], peer[64];
};

struct fvm_connections { /* starts as { 0 } */
	struct fvm_connection *list;
	size_t count;
};

void fvm_connections_free(struct fvm_connections *c);
#define scoped_connections __attribute__((cleanup(fvm_connections_free))) struct fvm_connections

struct fvm_checkpoint_told {
	size_t processes, threads;
	int64_t still_ns; /* how long they stood still, if they go on */
};

/**
 * fvm_checkpoint_check() - whether all programs of the running VM can be captured now
 * @ret: connections that go on only where the VM has the address again that it has; on success to be
 *       freed
 * Return: 0, -EOPNOTSUPP (process, resource and reason), -ESRCH (it does not run), ...
 */
int fvm_checkpoint_check(const struct fvm_vm *vm, struct fvm_connections *ret,
			 struct fvm_error *err);

/**
 * fvm_checkpoint() - the running VM, open FVM_LOCK, into @file of directory @dir
 * Return: as fvm_checkpoint_check(), or what writing came to; the VM runs on then
 */
int fvm_checkpoint(const struct fvm_vm *vm, int dir, const char *file,
		   const struct fvm_checkpoint_options *options, struct fvm_checkpoint_told *ret,
		   struct fvm_error *err);

/**
 * fvm_clone_live() - a VM @name with the files and programs of the running VM, open FVM_LOCK, both
 * as of one instant; the programs there are put into @ret_programs, for fvm_restore_programs()
 * The new VM is stopped. Return: as fvm_checkpoint_check(), -EEXIST, or another negative errno
 */
int fvm_clone_live(const struct fvm_vm *vm, const char *name, int *ret_programs,
		   struct fvm_checkpoint_told *ret, struct fvm_error *err);

/** fvm_restore_wish() - what the network of the VM that the blob @live, at its start, is put into
 *  should be like (fvm/net.h). Return: 0, or -EBADMSG (damaged) */
int fvm_restore_wish(int live, struct fvm_net_wish *ret, struct fvm_error *err);

/**
 * fvm_snapshot_live() - a snapshot @tag of the files and programs of the running VM, open FVM_LOCK
 * @vm's configuration is another one afterwards than is known here: open it again.
 * Return: as fvm_checkpoint_check(), -EEXIST, -EINVAL (tag), or another negative errno
 */
int fvm_snapshot_live(const struct fvm_vm *vm, const char *tag, struct fvm_checkpoint_told *ret,
		      struct fvm_error *err);

/**
 * fvm_restore_programs() - into the VM that was just started without a command, as wished for
 * @live: the blob, at its start
 * @ret_lost: connections that can't go on and were reset; on success to be freed
 * @lazy: their memory may come when they run; see fvm_restore_can_be_lazy()
 * This process enters namespaces of the VM and has to end soon.
 * Return: 0, -EBADMSG (damaged), or another negative errno; the VM has to be ended then
 */
int fvm_restore_programs(const struct fvm_vm *vm, int live, bool lazy,
			 struct fvm_connections *ret_lost, struct fvm_error *err);

/** fvm_restore_can_be_lazy() - Return: 0, or -EOPNOTSUPP and why not */
int fvm_restore_can_be_lazy(struct fvm_error *err);

#endif
