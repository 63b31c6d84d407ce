/* What comes over a VM's control socket: headers, and packed commands, which are packed again. */
#include <stdlib.h>
#include <string.h>

#include "fvm/init_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct fvm_msg head;
	scoped_command command = { 0 };
	scoped_buf again = { 0 };
	const char *payload = fvm_msg_check(data, len, &head, NULL);
	if (payload && payload + head.len != (const char *)data + len)
		abort();
	if (fvm_run_parse(data, len, &command) < 0)
		return 0;
	if (fvm_run_pack(&command, &again) < 0 || again.len != len)
		abort();
	return 0;
}
