/* The text of a policy file. */
#include <stddef.h>
#include <stdint.h>

#include "fvm/policy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	scoped_policy policy = { 0 };
	scoped_config config = { 0 };
	struct fvm_error err = { 0 };
	uint32_t taken = 0;
	if (fvm_policy_parse((const char *)data, size, &policy, &err) == 0)
		(void)fvm_policy_merge(&policy, &config, &taken);
	return 0;
}
