/* The skeleton's list of owners, whose paths are the host's. */
#include <stdint.h>

#include "fvm/skeleton.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *at = (const char *)data, *end = at + size;
	struct fvm_skeleton_owned owned;
	size_t bytes = 0;
	while (fvm_skeleton_owned(&at, end, &owned)) {
		for (size_t i = 0; i < owned.len; i++)
			bytes += owned.path[i] == '/';
	}
	return bytes > size ? -1 : 0;
}
