/*
 * tests/box - a directory of its own for each unit test, removed afterwards
 */
#ifndef FVM_TESTS_BOX_H
#define FVM_TESTS_BOX_H

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/common.h"

struct box {
	char path[64];
	int dir;
};

static inline int box_setup(void **state)
{
	struct box *box = calloc(1, sizeof(*box));
	strcpy(box->path, "/tmp/fvm-box-XXXXXX");
	if (!mkdtemp(box->path))
		return -1;
	box->dir = open(box->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = box;
	return box->dir < 0 ? -1 : 0;
}

static inline int box_teardown(void **state)
{
	struct box *box = *state;
	close(box->dir);
	scoped_fd tmp = open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r = fvm_remove_tree(tmp, box->path + strlen("/tmp/"));
	free(box);
	return r;
}

static inline void box_write(const struct box *box, const char *name, const char *text)
{
	int fd = openat(box->dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(fvm_write_all(fd, text, strlen(text)), 0);
	close(fd);
}

#endif
