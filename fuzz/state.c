/* state.json of a running VM, in a directory of its owner's: what it says is used as pids. */
#include <stdlib.h>
#include <string.h>

#include "fvm/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	scoped_running r = { 0 };
	if (fvm_running_parse((const char *)data, size, &r) < 0)
		return 0;
	if (r.init_pid < 0 || r.helper_pid < 0 || r.net_pid < 0 ||
	    strnlen(r.cgroup, sizeof(r.cgroup)) == sizeof(r.cgroup) ||
	    strnlen(r.interface, sizeof(r.interface)) == sizeof(r.interface))
		abort();
	for (size_t i = 0; i < r.left_out_count; i++) {
		if (!r.left_out[i].path || !r.left_out[i].why)
			abort();
	}
	return 0;
}
