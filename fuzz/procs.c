/* What a VM's programs put into their names, and texts of /proc: parsed without a slip. */
#include <stdlib.h>
#include <string.h>

#include "fvm/procs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct fvm_cgroup_host host;
	struct fvm_proc proc;
	scoped_free char *text = strndup((const char *)data, len);
	if (!text)
		return 0;
	(void)fvm_proc_parse(text, 100, 4096, &proc);
	/* half is mountinfo, the rest cgroup */
	size_t half = strlen(text) / 2;
	scoped_free char *own = strdup(text + half);
	text[half] = '\0';
	if (!own)
		return 0;
	fvm_cgroup_find(text, own, &host);
	struct fvm_cgroups g;
	(void)fvm_cgroup_named_on(&host, own, &g);
	(void)fvm_cgroup_plan_on(&host, "ab", true, &g);
	return 0;
}
