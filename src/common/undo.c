#include <assert.h>

#include "common/mem.h"
#include "common/undo.h"

void fvm_undo_push(struct fvm_undo *undo, void (*run)(void *arg), void *arg)
{
	assert(undo->count < FVM_COUNT(undo->steps));
	undo->steps[undo->count].run = run;
	undo->steps[undo->count].arg = arg;
	undo->count++;
}

void fvm_undo_run(struct fvm_undo *undo)
{
	while (undo->count > 0) {
		undo->count--;
		undo->steps[undo->count].run(undo->steps[undo->count].arg);
	}
}

void fvm_undo_drop(struct fvm_undo *undo)
{
	undo->count = 0;
}
