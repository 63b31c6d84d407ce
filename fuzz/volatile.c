/* Files of memory in an image of a running VM: whatever the tar says, nothing appears or changes
 * outside of the two directories that it is of. */
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "fvm/volatile.h"
#include "temporary.h"

#define MODE 0751 /* of what lies beside */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct stat st;
	scoped_fd root = temporary_anew("root");
	if (mkdirat(root, "run", 0755) < 0 || mkdirat(root, "dev", 0755) < 0 ||
	    mkdirat(root, "dev/shm", 0755) < 0 || fchmod(root, MODE) < 0)
		abort();
	scoped_fd from = memfd_create("tar", MFD_CLOEXEC);
	if (fvm_write_all(from, data, len) < 0 || lseek(from, 0, SEEK_SET) != 0)
		abort();
	(void)fvm_volatile_unpack(root, from, len, NULL);
	if (fstat(root, &st) < 0 || (st.st_mode & 07777) != MODE || st.st_nlink != 4)
		abort();
	return 0;
}
