/* Lines of the kernel's tables of sockets. Names of unix sockets in them are whatever a program in
 * the VM chose, newlines among it. The first byte says which table it is. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fvm/handles.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const tables[] = { "unix", "packet", "netlink", "tcp", "tcp6", "udp", "raw" };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fvm_buf to = { 0 };
	uint64_t inode = 0;
	if (size == 0)
		return 0;
	char *line = malloc(size);
	if (!line)
		return 0;
	memcpy(line, data + 1, size - 1);
	line[size - 1] = '\0';
	(void)fvm_sockets_parse(tables[data[0] % FVM_COUNT(tables)], line, &inode, &to);
	free(to.data);
	free(line);
	return 0;
}
