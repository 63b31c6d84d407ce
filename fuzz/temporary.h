/* A directory for one run of a fuzz target that needs files; it goes at the end. */
#ifndef FVM_FUZZ_TEMPORARY_H
#define FVM_FUZZ_TEMPORARY_H

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/common.h"

/* In memory: each run makes and deletes files. */
static char temporary_path[] = "/dev/shm/fvm-fuzz-XXXXXX";

static void temporary_remove(void)
{
	scoped_fd tmp = open("/dev/shm", O_PATH | O_DIRECTORY | O_CLOEXEC);
	(void)fvm_remove_tree(tmp, temporary_path + strlen("/dev/shm/"));
}

/* Made at the first call. Return: a descriptor that is never closed */
static int temporary_dir(void)
{
	static int dir = -1;
	if (dir >= 0)
		return dir;
	if (!mkdtemp(temporary_path))
		abort();
	(void)atexit(temporary_remove);
	dir = open(temporary_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		abort();
	return dir;
}

/* @name below it, empty. */
static inline int temporary_anew(const char *name)
{
	int top = temporary_dir();
	if (fvm_remove_tree(top, name) < 0 || mkdirat(top, name, 0755) < 0)
		abort();
	return openat(top, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static inline bool temporary_is_empty(const char *name)
{
	int top = temporary_dir();
	if (unlinkat(top, name, AT_REMOVEDIR) < 0)
		return false;
	return mkdirat(top, name, 0777) == 0;
}

#endif
