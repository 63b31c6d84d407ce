/* Records of namespaces that only some programs are in: a list, and behind it in the same input
 * which files are of them. They are read, and nothing made; images may come from anybody. */
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

/* What was read is written as it was. */
static void again(const struct vin_namespaces *n, bool files, const unsigned char *at, size_t size)
{
	struct fvm_buf same = { 0 };
	if (files)
		vin_namespaces_put_files(&same, n);
	else
		vin_namespaces_put(&same, n);
	if (!same.failed && (same.len != size || memcmp(same.data, at, size) != 0))
		__builtin_trap();
	fvm_buf_free(&same);
}

static void look_at_files(struct vin_namespaces *n, const unsigned char *at, size_t size)
{
	struct vin_payload p = { .at = at, .end = at + size };
	if (vin_namespaces_get_files(&p, n) < 0)
		return;
	for (size_t i = 0; i < n->file_count; i++) {
		if (n->files[i].which >= n->count ||
		    vin_namespaces_file(n, n->files[i].id) != &n->list[n->files[i].which])
			__builtin_trap();
	}
	again(n, true, at, size);
}

/* The first byte says where the second record begins. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vin_namespaces n = { 0 };
	const size_t list = size ? (size_t)*data * 8 : 0;
	if (!size || list > size - 1)
		return 0;
	data++;
	size--;
	/* a copy of its own, so that a byte behind it is noticed */
	unsigned char *copy = malloc(size + 1);
	if (!copy)
		return 0;
	memcpy(copy, data, size);
	struct vin_payload p = { .at = copy, .end = copy + list };
	if (vin_namespaces_get(&p, &n) == 0) {
		check(&n);
		again(&n, false, copy, list);
		look_at_files(&n, copy + list, size - list);
	} else if (n.list || n.members) {
		__builtin_trap();
	}
	vin_namespaces_free(&n);
	free(copy);
	return 0;
}
