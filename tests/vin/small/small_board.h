/* Where cases (small.h) and who runs them (test_small.c) meet: a file that both have mapped. */
#ifndef FVM_TESTS_VIN_SMALL_BOARD_H
#define FVM_TESTS_VIN_SMALL_BOARD_H

#include <stdint.h>

#define SMALL_SLOTS 60
#define SMALL_BYTES 16384

enum small_state { SMALL_STARTS, SMALL_READY, SMALL_SKIPPED, SMALL_WRONG };

struct small_slot {
	volatile uint32_t state; /* SMALL_* */
	volatile uint32_t turn;	 /* the last one that it has checked */
	char text[248];		 /* what was wrong, or why it was skipped */
};

struct small_board {
	volatile uint32_t turn; /* a futex */
	struct small_slot slots[SMALL_SLOTS];
};
_Static_assert(sizeof(struct small_board) <= SMALL_BYTES, "a board has room for all slots");

#endif
