/*
 * fvm/seccomp - system calls that programs in a VM are refused
 *
 * Theory of operation
 *   The list of refusals, each with its reason, is src/fvm/seccomp.def. A generator run at build
 *   time (tools/seccomp-gen.c) turns it into BPF for the machine's native and its 32-bit
 *   architecture, so that starting a VM costs one system call and no library. Everything else is
 *   allowed, which the kernel's per-call bitmap makes free.
 *   The rootless variant adds the calls that the supervisor is notified of (notes in adopt.h).
 *   Every program of a VM descends from PID 1, which has the filter on: who enters a VM otherwise
 *   (setns) has none, so nobody may.
 */
#ifndef FVM_SECCOMP_H
#define FVM_SECCOMP_H

#include <stdbool.h>
#include <linux/filter.h>

enum fvm_filter_flags {
	FVM_FILTER_IO_URING = 1,     /* io_uring is allowed, and all that it can do unseen */
	FVM_FILTER_I386_SOCKETS = 2, /* 32-bit programs may make sockets, of any family */
	FVM_FILTER_ROOTLESS = 4,     /* with notifications for files */
	FVM_FILTER_ONE_UID = 8,	     /* and for ids; only with ROOTLESS */
	FVM_FILTER_OWNERS = 16,	     /* and for who owns a file; only with ONE_UID */
	FVM_FILTER_LATE_NET = 32,    /* and for sockets; only with ROOTLESS */
	FVM_FILTER_VARIANTS = 64,    /* their number */
};

struct fvm_filter {
	const struct sock_filter *code; /* static */
	unsigned short len;
	bool notify; /* to be installed with SECCOMP_FILTER_FLAG_NEW_LISTENER */
};

/** fvm_filter_get() - the program for a VM. @flags: of enum fvm_filter_flags */
const struct fvm_filter *fvm_filter_get(unsigned int flags);

/**
 * fvm_filter_install() - put it on the calling thread
 * @ret_listener: the supervisor's end; may be NULL when !filter->notify
 * Needs CAP_SYS_ADMIN in the caller's user namespace (no NO_NEW_PRIVS: sudo must work inside).
 * WAIT_KILLABLE_RECV is used where there is one (>= 5.19): signals then don't restart a call that
 * the supervisor is at work on.
 * Return: 0 or negative errno (-EBUSY: a listener is on already, in a VM inside a VM)
 */
int fvm_filter_install(const struct fvm_filter *filter, int *ret_listener);

#endif
