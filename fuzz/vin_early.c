/* Pages that come before the processes that they are of: where each of them lies, of an image that
 * may come from anybody. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sums.h"
#include "vin/early.h"
#include "vin/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As replay does: whatever is asked for, nothing that did not come is given. */
static int take_kept(const struct vin_early *e, struct vin_payload *p)
{
	scoped_runs kept = { 0 };
	size_t len;
	const uint64_t number = vin_get_u64(p);
	const unsigned char *blob = vin_get_blob(p, &len);
	struct vin_pieces found = { 0 };
	uint64_t last = 0;
	for (size_t at = 0; at + sizeof(struct vin_run) <= len; at += sizeof(struct vin_run)) {
		struct vin_run run;
		memcpy(&run, blob + at, sizeof(run));
		if (run.start < last || run.start >= run.end || run.end > VIN_ARCH_END ||
		    (run.start | run.end) % 4096)
			return -1;
		last = run.end;
		if (vin_runs_add(&kept, run.start, run.end) < 0)
			return -1;
	}
	int r = vin_early_find(e, number, &kept, &found, NULL);
	if (r == 0 && vin_pieces_bytes(&found, 0, UINT64_MAX) != vin_runs_bytes(&kept))
		__builtin_trap();
	vin_pieces_free(&found);
	return r;
}

static int take(struct vin_early *e, struct vin_blocks *blocks, bool late, struct vin_in *in)
{
	enum vin_tag tag;
	uint64_t len;
	struct vin_payload p;
	int r = vin_in_next(in, &tag, &len, NULL);
	if (r < 0 || tag == VIN_TAG_END)
		return -1;
	if (tag == VIN_TAG_EARLY)
		return vin_early_take(e, blocks, late, in, NULL);
	r = vin_in_payload(in, &p, NULL);
	return r < 0 || tag != VIN_TAG_KEPT ? r : take_kept(e, &p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	scoped_fd fd = -1;
	struct vin_in *in = open_mended(data, size, &fd);
	struct vin_early e = { 0 };
	struct vin_blocks blocks = VIN_NO_BLOCKS;
	if (!in)
		return 0;
	while (take(&e, &blocks, size % 2, in) == 0)
		;
	vin_early_free(&e);
	vin_blocks_free(&blocks);
	vin_in_close(in);
	return 0;
}
