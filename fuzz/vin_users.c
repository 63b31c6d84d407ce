/* A record of user namespaces, and who is in which. Nothing is made; images may come from
 * anybody. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vin/users.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct vin_users *u)
{
	for (size_t i = 0; i < u->count; i++) {
		if (u->list[i].parent > i || u->list[i].fd != -1)
			__builtin_trap();
	}
	for (size_t i = 0; i < u->user_count; i++) {
		if (u->users[i].which >= u->count || u->users[i].number <= 0 ||
		    vin_users_find(u, u->users[i].number) != -1)
			__builtin_trap();
	}
}

/* What was read is written as it was. */
static void again(const struct vin_users *u, const uint8_t *data, size_t size)
{
	struct fvm_buf same = { 0 };
	vin_users_put(&same, u);
	if (!same.failed && (same.len != size || memcmp(same.data, data, size) != 0))
		__builtin_trap();
	free(same.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vin_users u = { .world = -1, .pids = -1 };
	/* a copy of its own, so that a byte behind it is noticed */
	unsigned char *copy = malloc(size + 1);
	if (!copy)
		return 0;
	memcpy(copy, data, size);
	struct vin_payload p = { .at = copy, .end = copy + size };
	if (vin_users_get(&p, &u) == 0) {
		check(&u);
		again(&u, data, size);
	} else if (u.list || u.users) {
		__builtin_trap();
	}
	vin_users_free(&u);
	free(copy);
	return 0;
}
