/* A record of namespaces that only some programs are in. A list is read, and nothing made; images
 * may come from anybody. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vin/namespaces.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct vin_namespaces *n)
{
	for (size_t i = 0; i < n->count; i++) {
		if (n->list[i].fd != -1 || n->list[i].via || !vin_namespace_flag(&n->list[i]))
			__builtin_trap();
	}
	for (size_t i = 0; i < n->member_count; i++) {
		if (n->members[i].which >= n->count || n->members[i].number <= 0 ||
		    vin_namespaces_of(n, n->members[i].number, 0) > i)
			__builtin_trap();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vin_namespaces n = { 0 };
	struct fvm_buf same = { 0 };
	/* a copy of its own, so that a byte behind it is noticed */
	unsigned char *copy = malloc(size + 1);
	if (!copy)
		return 0;
	memcpy(copy, data, size);
	struct vin_payload p = { .at = copy, .end = copy + size };
	if (vin_namespaces_get(&p, &n) == 0) {
		check(&n);
		/* what was read is written as it was */
		vin_namespaces_put(&same, &n);
		if (!same.failed && (same.len != size || memcmp(same.data, data, size) != 0))
			__builtin_trap();
	} else if (n.list || n.members) {
		__builtin_trap();
	}
	fvm_buf_free(&same);
	vin_namespaces_free(&n);
	free(copy);
	return 0;
}
