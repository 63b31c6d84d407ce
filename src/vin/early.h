/*
 * vin/early - pages of an image that came before the processes that they are of
 *
 * Theory of operation
 *   EARLY records stand at the beginning of an image, before there is anybody to have them, and the
 *   same page may come several times. So only where the bytes of each page lie is kept, of the last
 *   that came (vin/blocks). KEPT records say which of them are wanted; each of these pages is
 *   read once, and written once, at once or late (vin/lazy).
 */
#ifndef VIN_EARLY_H
#define VIN_EARLY_H

#include "vin/blocks.h"
#include "vin/pieces.h"

struct vin_early_of; /* a process */

struct vin_early { /* starts as { 0 } */
	struct vin_early_of *list;
	size_t count;
};

/**
 * vin_early_take() - the present record, an EARLY one
 * @blocks: get its bytes; @late: see vin_blocks_take()
 * Return: 0, -EBADMSG or another negative errno
 */
int vin_early_take(struct vin_early *e, struct vin_blocks *blocks, bool late, struct vin_in *in,
		   struct fvm_error *err);

/** vin_early_find() - where pages of process @number are, in those blocks
 *  Return: 0, -EBADMSG (not all of them have come), or -ENOMEM */
int vin_early_find(const struct vin_early *e, uint64_t number, const struct vin_runs *kept,
		   struct vin_pieces *ret, struct fvm_error *err);

void vin_early_free(struct vin_early *e);

#endif
