/*
 * A commit's journal. It is ours, but may be damaged, and what it says is done with root's rights.
 * Checksums would keep every guess out: the input is cut into payloads, which are framed here.
 */
#include <stdint.h>
#include <string.h>

#include "fvm/commit_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse(const void *data, size_t size)
{
	scoped_commit c = COMMIT_INIT;
	(void)commit_parse(&c, data, size);
}

/* u8 type, u8 length, payload, and so on; a length of 255 is all that is left. */
static void frame(const uint8_t *data, size_t size)
{
	struct journal j = { .fd = -1 };
	while (size >= 2) {
		size_t len = data[1] == 255 || data[1] > size - 2 ? size - 2 : data[1];
		journal_begin(&j, data[0] % 8);
		fvm_buf_add(&j.out, data + 2, len);
		if (journal_end(&j) < 0)
			break;
		data += 2 + len;
		size -= 2 + len;
	}
	if (j.out.len > 0)
		parse(j.out.data, j.out.len);
	journal_close(&j);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	parse(data, size);
	frame(data, size);
	return 0;
}
