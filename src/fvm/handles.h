/*
 * fvm/handles - what a VM's programs hold, by their numbers for it and by what it is on this host
 *
 * Theory of operation
 *   A program knows numbers and names that its namespaces give it: process 7, descriptor 3, /etc/x,
 *   port 80, segment 0. Here stands behind each what the host has for it: another number, a file of
 *   a layer or of the host, an inode, a socket of a network namespace. All is read from /proc on the
 *   host's side, and nobody is stopped: who changes things meanwhile is seen as he was at one moment
 *   or another, and who ends is left out.
 *
 *   origin   the process that had it first, as far as can be told: of descriptors that are one
 *            description (kcmp(2)) the one of the process that began first; of a process its parent;
 *            of a segment who made it
 *   since    when a process, thread or IPC object began. The kernel does not keep when a
 *            description was made: then it is not before its origin began, and not exact
 *   real     a file of an overlay is looked for in the VM's layers, from the top; if it is in none
 *            it is the host's own. No file is opened, nor asked for anything: a file system of the
 *            VM's own can hold nobody up.
 * Limits: what is queued in a socket is not looked at. Sources: proc(5), kcmp(2), sysvipc(7).
 */
#ifndef FVM_HANDLES_H
#define FVM_HANDLES_H

#include <stdbool.h>
#include <stdint.h>

#include "fvm/procs.h"
#include "fvm/store.h"

enum fvm_handle_type {
	FVM_HANDLE_PROCESS,
	FVM_HANDLE_THREAD,
	FVM_HANDLE_DESCRIPTOR,
	FVM_HANDLE_MAP,
	FVM_HANDLE_IPC,
	FVM_HANDLE_TYPES
};

struct fvm_handle { /* strings last until the function that is told of it returns */
	enum fvm_handle_type type;
	pid_t vm_pid, pid; /* who has it, as the VM and as this host count; 0: nobody has to */
	const char *number; /* as the program has it: "3", "7f01000-7f02000", "0" */
	const char *kind;   /* "file", "pipe", "tcp", .. */
	const char *name;   /* as the program sees it: any bytes */
	const char *real;   /* on this host: any bytes; "" if that is not known */
	pid_t origin_vm_pid, origin_pid; /* 0: not known */
	int64_t since_ns;		 /* 0: not known */
	bool exact;			 /* since then; else: not before */
};

const char *fvm_handle_type_name(enum fvm_handle_type type);

/**
 * fvm_handles() - call @fn for each handle of the running VM, until it returns other than 0
 * @pid:   only those of this process, as the VM counts; 0: of all, and the VM's IPC objects
 * @types: bit 1 << enum fvm_handle_type for each that is wanted
 * Return: 0, what @fn returned, -ESRCH (it does not run; it has no such process), or -errno
 */
int fvm_handles(const struct fvm_vm *vm, pid_t pid, unsigned int types,
		int (*fn)(const struct fvm_handle *h, void *arg), void *arg,
		struct fvm_error *err);

/** fvm_vm_processes() - the processes of the running VM, PID 1 among them, with vm_pid as its PID 1
 *  counts them. Return: 0, -ESRCH, or another negative errno */
int fvm_vm_processes(const struct fvm_vm *vm, struct fvm_procs *ret, pid_t *ret_init,
		     struct fvm_error *err);

/** fvm_vm_process() - of those, number @pid. Return: it, or NULL and why */
const struct fvm_proc *fvm_vm_process(const struct fvm_vm *vm, const struct fvm_procs *all,
				      pid_t pid, struct fvm_error *err);

/* ---- of handles_real.c ---- */

struct fvm_reals; /* mounts and sockets of one process after another */

struct fvm_reals *fvm_reals_open(const struct fvm_vm *vm); /* NULL: out of memory */
void fvm_reals_free(struct fvm_reals *r);

/** fvm_reals_process() - what follows is of @pid. Return: 0 or -ENOMEM */
int fvm_reals_process(struct fvm_reals *r, pid_t pid);

/** fvm_reals_file() - what @path is, of mount @mnt_id (0: of the mount that it lies in) */
void fvm_reals_file(struct fvm_reals *r, int mnt_id, const char *path, struct fvm_buf *ret);

/** fvm_reals_socket() - the kind of socket @inode, and what the program sees of it */
const char *fvm_reals_socket(struct fvm_reals *r, uint64_t inode, struct fvm_buf *ret);

/** fvm_reals_forget() - what is known of sockets: fvm_reals_process() reads it anew */
void fvm_reals_forget(struct fvm_reals *r);

/** fvm_sockets_parse() - a line of /proc/net/@table about a socket. @ret_inode: its number; @to: what
 *  it is. Return: whether it is one */
bool fvm_sockets_parse(const char *table, const char *line, uint64_t *ret_inode,
		       struct fvm_buf *to);

#endif
