/* Notes of a trace: commands and paths are what programs of a VM made up. */
#include <stdint.h>
#include <string.h>

#include "fvm/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fvm_trace_note note;
	scoped_free char *line = strndup((const char *)data, size);
	if (line && fvm_trace_parse(line, &note) == 0)
		return (int)(strlen(note.command) + strlen(note.path)) < 0;
	return 0;
}
