/* Two texts, the first as long as the first two bytes say. */
#include <stdint.h>
#include <stdlib.h>

#include "fvm/textdiff.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take_line(char mark, const char *line, size_t len, void *arg)
{
	size_t *counts = arg;
	(void)line;
	(void)len;
	counts[mark == '-' ? 0 : mark == '+' ? 1 : 2]++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	scoped_textdiff d = { 0 };
	size_t counts[3] = { 0 };
	if (size < 2)
		return 0;
	const char *text = (const char *)data + 2;
	size_t len = (size_t)(data[0] << 8 | data[1]) % (size - 1);
	if (fvm_textdiff_make(text, len, text + len, size - 2 - len, &d) < 0)
		return 0;
	fvm_textdiff_hunks(&d, take_line, counts);
	if (counts[0] != d.removed || counts[1] != d.added)
		abort();
	return 0;
}
