/* What an image says of a process: gone through as replay does it, without a process. */
#include <stdint.h>

#include "vin/traits.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	(void)vin_traits_replay(NULL, NULL, 0, NULL, data, size, NULL);
	return 0;
}
