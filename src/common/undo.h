/*
 * common/undo - inverses that have an order
 *
 * Push the inverse of each step as it succeeds; fvm_undo_run() runs them backwards, fvm_undo_drop()
 * forgets them once the whole has succeeded. Room for 32 steps: a longer list is a design error.
 */
#ifndef FVM_COMMON_UNDO_H
#define FVM_COMMON_UNDO_H

#include <stddef.h>

struct fvm_undo { /* starts as { 0 } */
	struct {
		void (*run)(void *arg);
		void *arg;
	} steps[32];
	size_t count;
};

void fvm_undo_push(struct fvm_undo *undo, void (*run)(void *arg), void *arg);
void fvm_undo_run(struct fvm_undo *undo);
void fvm_undo_drop(struct fvm_undo *undo);

#endif
