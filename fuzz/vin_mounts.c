/* Records of mounts, and what the kernel says of mounts: tables, and what lies in a tmpfs, of which
 * nothing appears elsewhere. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "temporary.h"
#include "vin/mounts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct vin_mount_table *t)
{
	for (size_t i = 0; i < t->count; i++) {
		const struct vin_mount *m = &t->list[i];
		if (m->fd != -1 || (m->parent != VIN_MOUNT_NONE && m->parent >= i))
			__builtin_trap();
	}
}

static void try_text(const char *data, size_t size)
{
	struct vin_mount_table t = { 0 };
	char *text = malloc(size + 1);
	if (!text)
		return;
	memcpy(text, data, size);
	text[size] = '\0';
	if (vin_mount_table_parse(text, &t) == 0)
		check(&t);
	vin_mount_table_free(&t);
	free(text);
}

/* What was read is written as it was. */
static void try_list(struct vin_payload *p)
{
	const unsigned char *data = p->at;
	const size_t size = (size_t)(p->end - p->at);
	struct vin_mount_table t = { 0 };
	struct fvm_buf same = { 0 };
	if (vin_mount_table_get(p, &t) < 0)
		return;
	check(&t);
	vin_mount_table_put(&same, &t);
	if (!same.failed && (same.len != size || memcmp(same.data, data, size) != 0))
		__builtin_trap();
	fvm_buf_free(&same);
	vin_mount_table_free(&t);
}

static void try_content(struct vin_payload *p)
{
	struct stat st;
	struct fvm_error err = { 0 };
	scoped_fd root = temporary_anew("root");
	(void)vin_mount_tree_take(root, p, &err);
	(void)fchmod(root, 0700);
	if (fstat(temporary_dir(), &st) < 0 || st.st_nlink != 3)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* a copy of its own, so that a byte behind it is noticed */
	unsigned char *copy = malloc(size + 1);
	if (!copy || size == 0) {
		free(copy);
		return 0;
	}
	memcpy(copy, data, size);
	struct vin_payload p = { .at = copy + 1, .end = copy + size };
	if (copy[0] == 'l')
		try_list(&p);
	else if (copy[0] == 'c')
		try_content(&p);
	else
		try_text((const char *)copy, size);
	free(copy);
	return 0;
}
