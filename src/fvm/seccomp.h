/*
 * fvm/seccomp - system calls that programs in a VM are refused
 *
 * Theory of operation
 *   The list of refusals, each with its reason, is src/fvm/seccomp.def. A generator run at build
 *   time (tools/seccomp-gen, libseccomp) turns it into BPF for x86-64 with i386 and x32 handled,
 *   so that starting a VM costs one system call and no library. Everything else is allowed, which
 *   the kernel's per-call bitmap makes free.
 *   The rootless variant adds the calls that the supervisor is notified of (notes in adopt.h).
 */
#ifndef FVM_SECCOMP_H
#define FVM_SECCOMP_H

#include <stdbool.h>
#include <linux/filter.h>

struct fvm_filter {
	const struct sock_filter *code; /* static */
	unsigned short len;
	bool notify; /* to be installed with SECCOMP_FILTER_FLAG_NEW_LISTENER */
};

/** fvm_filter_get() - the program for a VM
 *  @rootless: with notifications;  @io_uring: io_uring allowed */
const struct fvm_filter *fvm_filter_get(bool rootless, bool io_uring);

/** fvm_filter_install() - put it on the calling thread. @ret_listener may be NULL when !notify.
 *  Needs CAP_SYS_ADMIN in the caller's user namespace (no NO_NEW_PRIVS: sudo must work inside).
 *  Return: 0 or negative errno */
int fvm_filter_install(const struct fvm_filter *filter, int *ret_listener);

#endif
