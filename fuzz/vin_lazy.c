/* Pages of an image that may come from anybody, as a lazy restore lists them and an eager one reads
 * them: which they are, where their bytes lie, and the bytes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sums.h"
#include "vin/early.h"
#include "vin/lazy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MIB    (1ULL << 20)
#define NUMBER 7
#define READ   (4 * VIN_BLOCK) /* of what an image says that it has */

/* What a program may have: late, of a file, locked, shared. */
static struct vin_area areas[] = {
	{ .kind = VIN_AREA_ANON, .start = MIB, .end = 3 * MIB, .prot = 3 },
	{ .kind = VIN_AREA_FILE, .start = 3 * MIB, .end = 4 * MIB, .prot = 3 },
	{ .kind = VIN_AREA_ANON,
	  .start = 8 * MIB,
	  .end = 9 * MIB,
	  .prot = 1,
	  .flags = 1ULL << VIN_VMA_LOCKED },
	{ .kind = VIN_AREA_OBJECT, .start = 9 * MIB, .end = 10 * MIB, .prot = 3, .shared = true },
};
static const struct vin_mem mem = { .areas = areas, .area_count = sizeof(areas) / sizeof(*areas) };

struct target {
	struct vin_in *in;
	struct vin_lazy *lazy; /* NULL: at once */
	struct vin_blocks blocks;
	struct vin_early early;
	int to;
};

static pid_t source(void *arg, pid_t number)
{
	(void)arg;
	return number;
}

static bool own_pages(const void *arg, uint64_t start, uint64_t end)
{
	(void)arg;
	return start >= MIB && start < end && end <= 4 * MIB;
}

static int take_pages(struct target *t)
{
	const struct vin_bytes s = { .fd = t->to, .zeros = own_pages };
	uint64_t number;
	int r = vin_in_piece(t->in, &number, sizeof(number), NULL);
	if (r < 0)
		return r;
	return t->lazy ? vin_lazy_take(t->lazy, NUMBER, &mem, t->in, NULL)
		       : vin_stream_in(&s, own_pages, NULL, t->in, NULL);
}

static int take_kept(struct target *t, struct vin_payload *p)
{
	scoped_runs kept = { 0 };
	struct vin_pieces pieces = { 0 };
	const uint64_t number = vin_get_u64(p);
	int r = vin_mem_get_kept(p, &mem, &kept);
	if (r == 0)
		r = vin_early_find(&t->early, number, &kept, &pieces, NULL);
	if (r == 0 && t->lazy)
		r = vin_lazy_keep(t->lazy, NUMBER, &pieces, NULL);
	vin_pieces_free(&pieces);
	return r;
}

static int take_late(struct target *t, struct vin_payload *p)
{
	const struct vin_lazy_options options = { .source = source };
	(void)vin_get_u64(p);
	return t->lazy ? vin_lazy_expect(t->lazy, NUMBER, &mem, &options, p, NULL) : -1;
}

static int take(struct target *t, bool late)
{
	enum vin_tag tag;
	uint64_t len;
	struct vin_payload p;
	int r = vin_in_next(t->in, &tag, &len, NULL);
	if (r < 0 || tag == VIN_TAG_END)
		return -1;
	if (tag == VIN_TAG_PAGES)
		return take_pages(t);
	if (tag == VIN_TAG_EARLY)
		return vin_early_take(&t->early, &t->blocks, late, t->in, NULL);
	r = vin_in_payload(t->in, &p, NULL);
	if (r < 0)
		return r;
	return tag == VIN_TAG_KEPT ? take_kept(t, &p) : tag == VIN_TAG_LATE ? take_late(t, &p) : 0;
}

/* What the helper does, for whoever touches a page. */
static void read_some(struct vin_blocks *blocks)
{
	static unsigned char page[VIN_BLOCK_PAGE];
	for (uint64_t at = 0; at < READ; at += 5 * VIN_BLOCK_PAGE)
		(void)vin_blocks_read(blocks, at, page, sizeof(page));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	scoped_fd fd = -1, to = memfd_create("fuzz-to", MFD_CLOEXEC);
	struct target t = { .in = open_mended(data, size, &fd), .blocks = VIN_NO_BLOCKS, .to = to };
	const bool late = size % 2;
	t.lazy = t.in && late ? vin_lazy_new(&t.blocks) : NULL;
	while (t.in && take(&t, late) == 0)
		;
	read_some(&t.blocks);
	vin_lazy_free(t.lazy);
	vin_early_free(&t.early);
	vin_blocks_free(&t.blocks);
	vin_in_close(t.in);
	return 0;
}
