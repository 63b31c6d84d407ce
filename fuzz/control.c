/* What comes over a VM's control socket: headers, sessions to take over, which are an image's too,
 * and packed commands, which are packed again. */
#include <stdlib.h>
#include <string.h>

#include "fvm/init_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct fvm_msg head;
	struct fvm_msg_live live;
	scoped_command command = { 0 };
	scoped_buf again = { 0 };
	const char *payload = fvm_msg_check(data, len, &head, NULL);
	if (payload && payload + head.len != (const char *)data + len)
		abort();
	const char *output = fvm_live_parse(data, len, &live);
	if (output && (output + live.output != (const char *)data + len || live.id <= 0 ||
		       memchr(live.command, 0, sizeof(live.command)) == NULL))
		abort();
	if (fvm_run_parse(data, len, &command) < 0)
		return 0;
	if (fvm_run_pack(&command, &again) < 0 || again.len != len)
		abort();
	return 0;
}
