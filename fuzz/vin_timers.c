/* /proc/PID/timers: the kernel's, but of values that a program has chosen. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vin/timers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	scoped_free char *text = strndup((const char *)data, size);
	scoped_free struct vin_timer *timers = NULL;
	size_t count = 0;
	if (!text || vin_timers_parse(text, &timers, &count) < 0)
		return 0;
	for (size_t i = 1; i < count; i++) {
		if (timers[i].id < timers[i - 1].id)
			abort();
	}
	return 0;
}
