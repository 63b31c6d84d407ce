/*
 * vin/lazy_priv - what the files of vin/lazy share
 *
 *   pieces.c       which addresses are still to come, and from where
 *   lazy.c         before the programs go: records, and userfaultfds
 *   lazy_helper.c  the helper and its second: what they are
 *   lazy_serve.c   what the helper does
 */
#ifndef VIN_LAZY_PRIV_H
#define VIN_LAZY_PRIV_H

#include <linux/userfaultfd.h>

#include "vin/lazy.h"

#define VIN_LAZY_PAGE 4096ULL
#define VIN_LAZY_EVENTS                                                                            \
	(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |          \
	 UFFD_FEATURE_EVENT_UNMAP)

/* Whole pages, and where in a file their bytes are. */
struct vin_piece {
	uint64_t start, end, at;
};

/* In the order of their addresses; those before @first have come. Starts as { 0 } */
struct vin_pieces {
	struct vin_piece *list;
	size_t first, count;
};

void vin_pieces_free(struct vin_pieces *p);

/** vin_pieces_add() - it takes the place of what was said of these addresses. Return: 0, -ENOMEM */
int vin_pieces_add(struct vin_pieces *p, uint64_t start, uint64_t end, uint64_t at);

/** vin_pieces_cut() - forget what is between two addresses. Return: 0 or -ENOMEM */
int vin_pieces_cut(struct vin_pieces *p, uint64_t start, uint64_t end);

/** vin_pieces_bytes() - how many there are between two addresses */
uint64_t vin_pieces_bytes(const struct vin_pieces *p, uint64_t start, uint64_t end);

/** vin_pieces_take() - what is between two addresses is in @into instead, higher by @by (modulo
 *  2^64), where nothing was. Return: 0 or -ENOMEM */
int vin_pieces_take(struct vin_pieces *p, uint64_t start, uint64_t end, uint64_t by,
		    struct vin_pieces *into);

/** vin_pieces_move() - what was to come to @from comes to @to now. Return: 0 or -ENOMEM */
int vin_pieces_move(struct vin_pieces *p, uint64_t from, uint64_t to, uint64_t len);

/** vin_pieces_find() - the piece with @address in it, or NULL */
const struct vin_piece *vin_pieces_find(const struct vin_pieces *p, uint64_t address);

/** vin_pieces_copy() - Return: 0 or -ENOMEM */
int vin_pieces_copy(const struct vin_pieces *p, struct vin_pieces *ret);

/* The memory of one process. */
struct vin_lazy_space {
	int uffd;
	int from; /* file of the bytes, or memory of the process that had them */
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
