/* The list of stamps, and writing it again. */
#include <stdint.h>

#include "fvm/stamps.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fvm_stamps *stamps = NULL;
	if (fvm_stamps_parse((const char *)data, size, &stamps, NULL) == 0) {
		(void)fvm_stamps_find(stamps, "/etc/passwd");
		fvm_stamps_drop(stamps, "/etc/passwd");
		fvm_stamps_free(stamps);
	}
	return 0;
}
