/* The record of wished owners: written by the supervisor at the wish of programs in a VM. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "fvm/owners.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path[] = "/tmp/fvm-fuzz-owners-XXXXXX";

static void clean_up(void)
{
	(void)rmdir(path);
}

static int open_dir(void)
{
	if (!mkdtemp(path))
		abort();
	(void)atexit(clean_up);
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int dir = -1;
	struct fvm_owners *owners = NULL;
	struct fvm_owner owner;
	if (dir < 0)
		dir = open_dir();
	if (fvm_owner_parse((const char *)data, size, &owner) == 0) {
		char text[64];
		fvm_owner_format(&owner, text, sizeof(text));
	}
	if (fvm_write_file_atomic(dir, FVM_OWNERS_FILE, data, size, false) == 0 &&
	    fvm_owners_load(dir, &owners, NULL) == 0) {
		struct stat st = { .st_mode = S_IFLNK };
		fvm_owners_apply(owners, dir, "x", "root", "usr/bin/x", NULL, NULL, &st);
		fvm_owners_free(owners);
	}
	(void)unlinkat(dir, FVM_OWNERS_FILE, 0);
	return 0;
}
