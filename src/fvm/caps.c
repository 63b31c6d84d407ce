#include <errno.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fvm/caps.h"

static const struct {
	unsigned int bit;
	const char *name;
} needed[] = {
	{ CAP_CHOWN, "CHOWN" },
	{ CAP_DAC_OVERRIDE, "DAC_OVERRIDE" },
	{ CAP_DAC_READ_SEARCH, "DAC_READ_SEARCH" },
	{ CAP_FOWNER, "FOWNER" },
	{ CAP_FSETID, "FSETID" },
	{ CAP_KILL, "KILL" },
	{ CAP_MKNOD, "MKNOD" },
	{ CAP_NET_ADMIN, "NET_ADMIN" },
	{ CAP_SETFCAP, "SETFCAP" },
	{ CAP_SETGID, "SETGID" },
	{ CAP_SETPCAP, "SETPCAP" },
	{ CAP_SETUID, "SETUID" },
	{ CAP_SYS_ADMIN, "SYS_ADMIN" },
	{ CAP_SYS_CHROOT, "SYS_CHROOT" },
	{ CAP_SYS_PTRACE, "SYS_PTRACE" },
};

bool fvm_caps_missing(bool nat, char ret[FVM_CAPS_TEXT])
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };
	size_t n = 0;
	ret[0] = '\0';
	if (syscall(SYS_capget, &head, data) < 0)
		return false;
	for (size_t i = 0; i < FVM_COUNT(needed); i++) {
		if (needed[i].bit == CAP_NET_ADMIN && !nat)
			continue;
		if (!(data[0].effective & 1U << needed[i].bit))
			n += (size_t)snprintf(ret + n, FVM_CAPS_TEXT - n, "%s--cap-add %s",
					      n ? " " : "", needed[i].name);
	}
	return n > 0;
}

int fvm_caps_keep(unsigned int kept)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	const struct __user_cap_data_struct data[2] = { { .effective = kept, .permitted = kept } };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_capset, &head, data) < 0)
		return -errno;
	return 0;
}

int fvm_caps_lower(unsigned int lowered)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	if (syscall(SYS_capget, &head, data) < 0)
		return -errno;
	data[0].effective &= ~lowered;
	return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}
