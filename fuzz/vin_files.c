/* Open files of a program: fdinfo, which the kernel writes, and records of an image, which anybody
 * may have made. The first byte says which; a record is taken apart, and nothing opened. */
#include <stdint.h>
#include <string.h>

#include "vin/kinds.h"

#define COUNT 8

static void try_fdinfo(const char *data, size_t size)
{
	scoped_fdinfo info = { 0 };
	scoped_free char *text = strndup(data, size);
	if (!text || vin_fdinfo_parse(text, &info) < 0)
		return;
	for (size_t i = 0; i < info.lock_count; i++) {
		const struct vin_lock *l = &info.locks[i];
		if (l->start < 0 || (l->end >= 0 && l->end < l->start))
			__builtin_trap();
	}
	for (size_t i = 0; i < info.item_count; i++) {
		if (info.items[i].fd < 0)
			__builtin_trap();
	}
}

static void try_file(struct vin_payload *p)
{
	struct vin_file f;
	if (vin_file_parse(p, COUNT, &f) < 0)
		return;
	if (!f.kind || f.id >= COUNT || f.twin > f.id || f.fd != -1 || f.maker != -1)
		__builtin_trap();
	vin_file_free(&f);
}

static void try_table(struct vin_payload *p)
{
	struct vin_table t;
	if (vin_table_parse(p, COUNT, &t) < 0)
		return;
	for (size_t i = 0; i < t.count; i++) {
		if (t.entries[i].file >= COUNT || t.entries[i].number < 0)
			__builtin_trap();
	}
	vin_table_free(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	struct vin_payload p = { .at = data + 1, .end = data + size };
	if (data[0] == 'p')
		try_fdinfo((const char *)data, size);
	else if (data[0] == 'F')
		try_file(&p);
	else
		try_table(&p);
	return 0;
}
