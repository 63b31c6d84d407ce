/* resolv.conf: DHCP servers and VPNs write it. */
#include <stdint.h>
#include <stdio.h>

#include "fvm/resolv.h"
#include "temporary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	scoped_resolv resolv = { 0 };
	char root[64];
	scoped_fd top = temporary_anew("host");
	if (mkdirat(top, "etc", 0755) < 0 ||
	    fvm_write_file_atomic(top, "etc/resolv.conf", data, size, false) < 0)
		return 0;
	snprintf(root, sizeof(root), "%s/host", temporary_path);
	if (fvm_resolv_read(root, &resolv) == 0)
		(void)fvm_resolv_needs_relay(&resolv, true);
	return 0;
}
