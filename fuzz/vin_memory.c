/* Payloads of an image that replay makes programs of: the family, memory, threads, shared memory.
 * The first byte says which. Images may come from anybody. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vin/family.h"
#include "vin/mem.h"
#include "vin/thread.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HOLE (4ULL << 30)

static void family(struct vin_payload *p)
{
	struct vin_family f = { 0 };
	if (vin_family_get(p, &f) < 0)
		return;
	for (size_t i = 0; i < f.count; i++) {
		if (f.members[i].number <= 1 ||
		    vin_family_find(&f, f.members[i].number) != &f.members[i])
			__builtin_trap();
	}
	vin_family_free(&f);
}

static void memory(struct vin_payload *p)
{
	struct vin_mem m = { 0 };
	if (vin_mem_get(p, HOLE, &m) < 0)
		return;
	for (size_t i = 0; i < m.area_count; i++) {
		const struct vin_area *a = &m.areas[i];
		if (a->start < HOLE + VIN_HOLE_SIZE && a->end > HOLE)
			__builtin_trap();
		if (a->kind != VIN_AREA_ANON && a->kind != VIN_AREA_RING &&
		    a->source >= m.source_count)
			__builtin_trap();
	}
	vin_mem_free(&m);
}

/* To a machine that marks all there is as its own, and has room for some. */
static void fit(const struct vin_thread_state *s)
{
	const size_t len = 2432, marks = 464;
	const char *what;
	unsigned char *own = calloc(1, len);
	if (!own)
		return;
	memset(own + marks, 0xff, 8);
	(void)vin_arch_fit(s->extended, s->extended_len, own, len, &what);
	free(own);
}

static void thread(struct vin_payload *p)
{
	struct vin_thread_state s = { 0 };
	if (vin_thread_get(p, &s) != 0)
		return;
	fit(&s);
	vin_thread_state_free(&s);
}

static void object(struct vin_payload *p)
{
	struct vin_objects o = { 0 };
	(void)vin_object_get(p, &o);
	vin_objects_free(&o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const parsers[])(struct vin_payload * p) = { family, memory, thread, object };
	if (size == 0)
		return 0;
	/* a copy of its own, so that a byte behind it is noticed */
	unsigned char *copy = malloc(size > 1 ? size - 1 : 1);
	if (!copy)
		return 0;
	memcpy(copy, data + 1, size - 1);
	struct vin_payload p = { .at = copy, .end = copy + size - 1 };
	parsers[data[0] % 4](&p);
	free(copy);
	return 0;
}
