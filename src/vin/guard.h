/*
 * vin/guard - programs that are let go one after the other, all of them or none
 *
 * Theory of operation
 *   Who is traced ends with who traces him; who was let go does not. So before the first is let go
 *   a child of ours opens a pidfd of each, and waits at a pipe: for the word that all are gone, at
 *   which it ends, or for the pipe's end, which is ours. Then it ends all of them and whom they have
 *   born meanwhile: each is stopped, asked for children, and killed.
 * Limits: somebody born meanwhile to one of them who has ended meanwhile.
 */
#ifndef VIN_GUARD_H
#define VIN_GUARD_H

#include <sys/types.h>

#include "common/common.h"

struct vin_guard { /* starts as { .line = -1 } */
	pid_t pid;
	int line;
};

/** vin_guard_begin() - from now on @pids end with us. Return: 0 or negative errno */
int vin_guard_begin(const pid_t *pids, size_t count, struct vin_guard *ret, struct fvm_error *err);

/** vin_guard_end() - from now on they do not. One that never began is fine */
void vin_guard_end(struct vin_guard *g);

#endif
