/* Records of what is set in namespaces: names, parameters, devices, routes. They are read by who
 * has no right to set anything, in namespaces of his own; images may come from anybody. */
#include <linux/capability.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/spaces.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	const struct __user_cap_data_struct none[2] = { 0 };
	(void)argc, (void)argv;
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWUTS) < 0 ||
	    syscall(SYS_capset, &head, none) < 0) {
		perror("vin_spaces needs namespaces of its own");
		_exit(1);
	}
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* a copy of its own, so that a byte behind it is noticed */
	unsigned char *copy = malloc(size + 1);
	if (!copy)
		return 0;
	memcpy(copy, data, size);
	struct vin_payload p = { .at = copy, .end = copy + size };
	struct vin_moved moved = { 0 };
	if (vin_space_take(&p, CLONE_NEWNET | CLONE_NEWUTS, &moved, NULL) == 0 &&
	    (p.failed || p.at != p.end))
		__builtin_trap();
	free(copy);
	return 0;
}
