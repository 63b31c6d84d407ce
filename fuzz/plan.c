/* /proc/self/mountinfo: names of mount points and sources are whoever's who mounts. */
#include <stdint.h>
#include <string.h>

#include "fvm/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	scoped_plan plan = { 0 };
	struct fvm_error err = { 0 };
	scoped_free char *text = strndup((const char *)data, size);
	if (text && fvm_plan_parse(text, &plan, &err) == 0)
		fvm_plan_want_home(&plan, "/home/somebody");
	return 0;
}
