#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/dir.h"
#include "common/fd.h"

void fvm_dir_closep(DIR **d)
{
	if (*d)
		closedir(*d);
}

DIR *fvm_dir_open(int dir, const char *path)
{
	int fd = fvm_open_nofollow(dir, path, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		errno = -fd;
	return fvm_dir_take(fd);
}

DIR *fvm_dir_take(int fd)
{
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	int kept = errno;
	if (!d && fd >= 0)
		close(fd);
	errno = kept;
	return d;
}

int fvm_dir_filter(const struct dirent *e)
{
	return strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
}

struct dirent *fvm_dir_next(DIR *d)
{
	struct dirent *e;
	while ((e = readdir(d)) && !fvm_dir_filter(e))
		;
	return e;
}
