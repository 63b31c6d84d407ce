/*
 * vin/early - pages of an image that came before the processes that they are of
 *
 * Theory of operation
 *   EARLY records stand at the beginning of an image, before there is anybody to have them, and the
 *   same page may come several times. So only where the bytes of each page lie is kept, of the last
 *   that came: in the image itself, if that is a file; what comes out of a pipe is put aside in a
 *   file of ours that has no name. KEPT records say which of them are wanted; each of these pages is
 *   read once, and written once, at once or late (vin/lazy).
 */
#ifndef VIN_EARLY_H
#define VIN_EARLY_H

#include "vin/image.h"
#include "vin/pieces.h"

struct vin_early_of; /* a process */

struct vin_early { /* starts as { .aside = -1 } */
	int fd;	   /* where the bytes are */
	int aside; /* our own file, or -1 */
	uint64_t end; /* of it */
	struct vin_early_of *list;
	size_t count;
};

/**
 * vin_early_take() - the present record, an EARLY one
 * @late: nobody looks at its sum: who asks for it has looked at the whole file
 * Return: 0, -EBADMSG or another negative errno
 */
int vin_early_take(struct vin_early *e, bool late, struct vin_in *in, struct fvm_error *err);

/** vin_early_find() - where pages of process @number are, in the file e->fd
 *  Return: 0, -EBADMSG (not all of them have come), or -ENOMEM */
int vin_early_find(const struct vin_early *e, uint64_t number, const struct vin_runs *kept,
		   struct vin_pieces *ret, struct fvm_error *err);

void vin_early_free(struct vin_early *e);

#endif
