/* Records of an IPC namespace: limits, semaphores, queues of messages of both sorts. Nothing is
 * made; images may come from anybody. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vin/ipc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vin_ipc_new n = { .look = true };
	/* a copy of its own, so that a byte behind it is noticed */
	unsigned char *copy = malloc(size + 1);
	if (!copy)
		return 0;
	memcpy(copy, data, size);
	/* with limits in front, and without */
	for (int begun = 0; begun < 2; begun++) {
		struct vin_payload p = { .at = copy, .end = copy + size };
		n.begun = begun;
		if (vin_ipc_take(&n, &p, NULL) == 0 && (p.failed || p.at != p.end))
			__builtin_trap();
	}
	free(copy);
	return 0;
}
