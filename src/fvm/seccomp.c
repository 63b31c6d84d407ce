#include <errno.h>
#include <linux/seccomp.h>

#include "fvm/seccomp.h"
#include "fvm/sys.h"

#include "seccomp_table.h" /* made by tools/seccomp-gen.c */

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

const struct fvm_filter *fvm_filter_get(unsigned int flags)
{
	return &filters[flags % FVM_FILTER_VARIANTS];
}

int fvm_filter_install(const struct fvm_filter *filter, int *ret_listener)
{
	const struct sock_fprog program = {
		.len = filter->len,
		.filter = (struct sock_filter *)(uintptr_t)filter->code,
	};
	if (!filter->notify)
		return fvm_nerr(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
	unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
	int fd = fvm_nerr(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
				  flags | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &program));
	if (fd == -EINVAL)
		fd = fvm_nerr(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
	if (fd < 0)
		return fd;
	*ret_listener = fd;
	return 0;
}
