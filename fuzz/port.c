/* -p of the command line, and "ports" of an imported config.json: what is taken is well-formed. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "fvm/net.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct fvm_port p;
	struct in6_addr a;
	scoped_free char *text = strndup((const char *)data, len);
	if (!text || fvm_port_parse(text, &p, NULL) < 0)
		return 0;
	if (p.host_port == 0 || p.guest_port == 0)
		abort();
	if (p.host_address[0] && inet_pton(AF_INET, p.host_address, &a) != 1 &&
	    inet_pton(AF_INET6, p.host_address, &a) != 1)
		abort();
	return 0;
}
