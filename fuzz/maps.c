/* The memory map of a process: the kernel writes it, but a recorded one comes with an image. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vin/maps.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	scoped_maps m = { 0 };
	scoped_free char *text = malloc(size + 1);
	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (vin_maps_parse(text, size, &m, NULL) < 0)
		return 0;
	for (size_t i = 0; i < m.count; i++) {
		if (vin_maps_find(&m, m.vmas[i].start) != &m.vmas[i] ||
		    vin_maps_find(&m, m.vmas[i].end - 1) != &m.vmas[i])
			abort();
	}
	if (!vin_maps_same(&m, &m))
		abort();
	return 0;
}
