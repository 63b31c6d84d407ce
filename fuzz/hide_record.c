/* vms/NAME/hidden: whatever its bytes are, it is read or refused, and answers. */
#include "fvm/hide_record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct fvm_hide_record *r = NULL;
	size_t at = 0;
	if (fvm_hide_record_parse((const char *)data, len, &r) < 0)
		return 0;
	while (fvm_hide_record_below(r, "/a", &at))
		;
	if (fvm_hide_record_always(r, "/a/b") && !fvm_hide_record_ever(r, "/a/b"))
		__builtin_trap();
	(void)fvm_hide_record_at(r, "/a/b", 5);
	fvm_hide_record_free(r);
	return 0;
}
