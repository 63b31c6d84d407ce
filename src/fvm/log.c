/* A VM's log: appended to by PID 1, cut to its newer half when it has become too long. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/init_priv.h"

#define PIECE 65536

/* Move the newer half to the front by copying. O_APPEND would send pwrite() to the end: off. */
static int move_half(int fd, off_t from, off_t size)
{
	scoped_free char *buf = malloc(PIECE);
	if (!buf)
		return -ENOMEM;
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_APPEND) < 0)
		return -errno;
	off_t to = 0;
	int r = 0;
	while (from < size && r == 0) {
		ssize_t n = pread(fd, buf, PIECE, from);
		if (n <= 0 || pwrite(fd, buf, (size_t)n, to) != n)
			r = -EIO;
		from += n;
		to += n;
	}
	if (r == 0 && ftruncate(fd, to) < 0)
		r = -errno;
	(void)fcntl(fd, F_SETFL, flags);
	return r;
}

static void cut(int fd, off_t size)
{
	/* whole blocks from the front cost nothing where the file system can do that */
	if (fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, FVM_LOG_CUT) == 0)
		return;
	if (move_half(fd, FVM_LOG_CUT, size) < 0)
		(void)!ftruncate(fd, 0); /* better none than one that grows for ever */
}

void fvm_logfile_add(int fd, const void *data, size_t len)
{
	struct stat st;
	if (fd < 0 || len == 0)
		return;
	if (fvm_write_all(fd, data, len) < 0)
		return;
	if (fstat(fd, &st) == 0 && st.st_size > FVM_LOG_CAP)
		cut(fd, st.st_size);
}
