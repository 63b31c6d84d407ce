/* The stream that "fvm cp" reads from a VM: whatever it says, nothing appears outside its place. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/copy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static char top[] = "/tmp/fvm-fuzz-copy-XXXXXX";

static void remove_top(void)
{
	rmdir(top);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static bool made;
	if (!made && (!mkdtemp(top) || atexit(remove_top) != 0))
		abort();
	made = true;
	char path[sizeof(top) + 8];
	snprintf(path, sizeof(path), "%s/place", top);
	if (mkdir(path, 0700) < 0)
		abort();
	struct fvm_copy copy = { .fd = memfd_create("stream", MFD_CLOEXEC) };
	if (fvm_write_all(copy.fd, data, len) < 0 || lseek(copy.fd, 0, SEEK_SET) != 0)
		abort();
	(void)fvm_copy_receive(&copy, path, NULL);
	scoped_fd dir = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fvm_remove_tree(dir, "place") < 0 || rmdir(top) < 0 || mkdir(top, 0700) < 0)
		abort(); /* rmdir: nothing else was made there */
	return 0;
}
