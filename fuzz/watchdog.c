/* What a watched program says of itself, what the kernel says of its threads, and the record of PID
 * 1: one after the other of the same bytes. */
#include <stdint.h>
#include <string.h>

#include "fvm/watchdog.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fvm_watchdog_record record, again;
	char line[FVM_WATCHDOG_RECORD_SZ + 1] = { 0 };
	uint64_t switches;
	scoped_free char *text = strndup((const char *)data, size);
	if (!text)
		return 0;
	if (fvm_watchdog_word(text) != FVM_WATCHDOG_OTHER && !strstr(text, "WATCHDOG="))
		__builtin_trap();
	if (fvm_watchdog_thread(text, &switches) && !strstr(text, "State:\t"))
		__builtin_trap();
	if (fvm_watchdog_scan(text, &record) < 0)
		return 0;
	fvm_watchdog_print(&record, line);
	if (fvm_watchdog_scan(line, &again) < 0 || again.event != record.event ||
	    again.at_ns != record.at_ns || again.restarts != record.restarts)
		__builtin_trap();
	return 0;
}
