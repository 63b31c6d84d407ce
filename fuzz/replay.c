/* What a session had printed before somebody attached to it: bytes of programs in the VM. */
#include <stdlib.h>
#include <string.h>

#include "fvm/client_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	scoped_free char *text = malloc(size + 1);
	if (!text)
		return 0;
	memcpy(text, data, size);
	size_t kept = client_drop_questions(text, size);
	if (kept > size)
		abort();
	/* where nothing begins a question, nothing is taken away */
	if (!memchr(data, '\033', size) && (kept != size || memcmp(text, data, size) != 0))
		abort();
	return 0;
}
