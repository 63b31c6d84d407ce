/* A layer of an archive that is imported: a tar that anybody may have made. */
#include <stdint.h>
#include <sys/mman.h>

#include "fvm/image_priv.h"
#include "temporary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char root[] = "root", home[] = "home";
	char *items[] = { root, home, NULL };
	const struct fvm_strv keys = { .items = items, .count = 2 };
	struct fvm_error err = { 0 };
	const struct fvm_user_ids one = { .uid = getuid(), .gid = getgid() };
	scoped_fd outside = temporary_anew("outside"), fs = temporary_anew("fs");
	scoped_fd users = temporary_anew("users");
	scoped_fd blob = memfd_create("blob", MFD_CLOEXEC);
	if (outside < 0 || fs < 0 || users < 0 || blob < 0 || fvm_write_all(blob, data, size) < 0 ||
	    lseek(blob, 0, SEEK_SET) < 0)
		return 0;
	(void)image_layer_read(blob, fs, &keys, NULL, NULL, NULL, &err);
	if (lseek(blob, 0, SEEK_SET) == 0)
		(void)image_layer_read(blob, users, &keys, &one, NULL, NULL, &err);
	if (!temporary_is_empty("outside"))
		abort();
	return 0;
}
