/*
 * vin/pieces - which addresses are still to come, and from where in a file
 *
 * Theory of operation
 *   Of memory that comes late (vin/lazy) or has come early (vin/early) only where the bytes of each
 *   page are is kept, in the order of addresses. What is said last of a page is what counts.
 */
#ifndef VIN_PIECES_H
#define VIN_PIECES_H

#include "vin/pages.h"

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

/** vin_pieces_lay() - add all @runs, in order, whose bytes follow each other from @at on; at a cost of
 *  both together, where vin_pieces_add() has that of all pieces. Return: 0 or -ENOMEM */
int vin_pieces_lay(struct vin_pieces *p, const struct vin_runs *runs, uint64_t at);

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

/** vin_pieces_pick() - append those between the addresses of @runs, in order. Return: 0, -ENOENT (not
 *  all are there), or -ENOMEM */
int vin_pieces_pick(const struct vin_pieces *p, const struct vin_runs *runs, struct vin_pieces *ret);

/** vin_pieces_copy() - Return: 0 or -ENOMEM */
int vin_pieces_copy(const struct vin_pieces *p, struct vin_pieces *ret);

#endif
