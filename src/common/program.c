#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "common/common.h"

/* Beside us in a build tree, in libexec when installed. */
int fvm_exec_part(char **argv)
{
	static const char *const places[] = { "", "/../libexec/fvm" };
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n < 0)
		return -errno;
	self[n] = '\0';
	*strrchr(self, '/') = '\0';
	for (size_t i = 0; i < FVM_COUNT(places); i++) {
		scoped_buf path = { 0 };
		fvm_buf_printf(&path, "%s%s/fvm-changes", self, places[i]);
		if (path.failed)
			return -ENOMEM;
		execv(path.data, argv);
	}
	return -errno;
}
