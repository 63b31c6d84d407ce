/* Landlock's scopes: the one guard of abstract sockets that needs no network namespace. */
#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fvm/kernel.h"

/* linux/landlock.h of 6.12; Debian 12's headers end before scopes */
#define RULESET_VERSION	      1U
#define SCOPE_ABSTRACT_SOCKET 1U
#define SCOPE_SIGNAL	      2U

struct ruleset {
	uint64_t handled_access_fs, handled_access_net, scoped;
};

int fvm_landlock_abi(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, RULESET_VERSION);
	return abi < 0 ? 0 : (int)abi;
}

int fvm_landlock_guard(void)
{
	const struct ruleset rules = { .scoped = SCOPE_ABSTRACT_SOCKET | SCOPE_SIGNAL };
	if (fvm_landlock_abi() < FVM_LANDLOCK_SCOPES)
		return -EOPNOTSUPP;
	scoped_fd set = (int)syscall(SYS_landlock_create_ruleset, &rules, sizeof(rules), 0);
	if (set < 0 || syscall(SYS_landlock_restrict_self, set, 0) < 0)
		return -errno;
	return 0;
}
