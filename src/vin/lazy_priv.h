/*
 * vin/lazy_priv - what the files of vin/lazy share
 *
 *   lazy.c         before the programs go: records, and userfaultfds
 *   lazy_helper.c  the helper and its second: what they are
 *   lazy_serve.c   what the helper does
 */
#ifndef VIN_LAZY_PRIV_H
#define VIN_LAZY_PRIV_H

#include <linux/userfaultfd.h>

#include "vin/lazy.h"
#include "vin/pieces.h"

#define VIN_LAZY_PAGE 4096ULL
#define VIN_LAZY_EVENTS                                                                            \
	(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |          \
	 UFFD_FEATURE_EVENT_UNMAP)

/* The memory of one process. */
struct vin_lazy_space {
	int uffd;
	struct vin_blocks *blocks; /* where the bytes are; or NULL, */
	int from; /* and they are in this memory of the process that had them */
	struct vin_pieces pieces;
	int pagemap; /* of that process, or -1 */
	struct vin_pieces unsure; /* which of its pages there are nobody has looked for yet */
	uint64_t *asked; /* pages that somebody waits for */
	size_t asked_count;
};

void vin_lazy_space_free(struct vin_lazy_space *s);

/* What the helper does: puts pages in their places until all have come. */
struct vin_lazy_serving {
	struct vin_lazy_space *spaces;
	size_t count;
	int after; /* as options have it */
	void (*each_round)(void *arg);
	void *arg;
};

/** vin_lazy_serve() - Return: 0 or negative errno */
int vin_lazy_serve(struct vin_lazy_serving *s);

/** vin_lazy_help() - have two processes that do so. @ends: as vin_lazy_begin() has it
 *  Return: 0 or negative errno */
int vin_lazy_help(const struct vin_lazy_space *spaces, size_t count, int ends,
		  const struct vin_lazy_options *options, struct fvm_error *err);

#endif
