/* stat and status of a thread: the kernel writes them, with a name that the thread has chosen. */
#include <stdint.h>
#include <string.h>

#include "vin/status.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vin_stat stat;
	scoped_status status = { 0 };
	scoped_free char *text = strndup((const char *)data, size);
	if (text && vin_stat_parse(text, &stat) == 0 && strlen(stat.comm) >= sizeof(stat.comm))
		__builtin_trap();
	if (text && vin_status_parse(text, &status) == 0 &&
	    (status.depth == 0 || status.depth > VIN_NAMESPACES_MAX))
		__builtin_trap();
	return 0;
}
