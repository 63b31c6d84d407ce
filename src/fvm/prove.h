/*
 * fvm/prove - a VM's confinement tried from inside before its program starts
 *
 * Theory of operation
 *   The starter puts up *bait* on the host: a file, a socket and a FIFO with somebody behind them,
 *   an abstract socket, a loopback port, shared memory, a message queue. Once PID 1 has its filter
 *   on, a child of it goes through the table in prove.c, one row a channel, as the VM's root: what
 *   it reaches that it should not is a leak. The child has a copy of the mount namespace, so that a
 *   mount that gives way does no harm. What was found goes up a pipe, one struct fvm_proof each;
 *   with a leak the first command is never started. Afterwards the starter looks at its bait.
 *   The faults build leaves one thing open at confine.filter and confine.ipc, for the test that a
 *   leak is found.
 *   Rows that a VM's own configuration opens (--net host) are told as "open".
 */
#ifndef FVM_PROVE_H
#define FVM_PROVE_H

#include "fvm/config.h"
#include "fvm/hide.h"

enum fvm_proof_result { FVM_PROOF_HOLDS, FVM_PROOF_OPEN, FVM_PROOF_SKIPPED, FVM_PROOF_LEAKS };

struct fvm_proof {
	int result;	/* enum fvm_proof_result */
	char name[40];	/* of the channel */
	char what[140]; /* what was reached, or why it was skipped */
};

struct fvm_bait { /* plain memory but for what it borrows: PID 1 has a copy */
	const struct fvm_config *config;
	const struct fvm_hide *hide;
	char dir[64];	   /* with file, socket, fifo */
	char abstract[40]; /* name without the leading NUL */
	char queue[40];	   /* and shared memory: as the directory is called */
	unsigned short port; /* on 127.0.0.1 */
	int shm_key, shm_id;
	unsigned long namespaces[8]; /* inode numbers of ours */
	unsigned long *inodes;	     /* of the hidden files, in their order; 0: not there */
	int fds[7];		     /* listening sockets, FIFO's end, queue, shared memory, dir */
};

/** fvm_bait_put() - in the starter, before the VM is built; what others that were killed left goes
 *  The directory, and all that can be told by its name, is that of a living one as long as
 *  somebody holds flock(2) on it. */
int fvm_bait_put(const struct fvm_config *config, const struct fvm_hide *hide, struct fvm_bait *ret,
		 struct fvm_error *err);

/** fvm_bait_take() - take it away. Return: 0, or -EBADE when something has touched it */
int fvm_bait_take(struct fvm_bait *bait);

/** fvm_prove_inside() - by PID 1: go through the table in a child, write a struct fvm_proof each
 *  to @out. Return: 0, or -EBADE when something leaks */
int fvm_prove_inside(const struct fvm_bait *bait, int out, struct fvm_error *err);

#endif
