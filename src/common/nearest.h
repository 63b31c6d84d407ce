/*
 * common/nearest - the word that comes nearest to what was typed, for "did you mean"
 *
 * Near is what up to two letters changed, put in or left out would make equal, one in short words;
 * a word of which nothing would stay is not.
 */
#ifndef FVM_COMMON_NEAREST_H
#define FVM_COMMON_NEAREST_H

#include <stddef.h>

struct fvm_nearest { /* starts as { 0 } */
	const char *word; /* borrowed; NULL: none is near */
	size_t distance;
};

/** fvm_nearest_try() - let @word be the answer if it is nearer to the @len bytes of @typed */
void fvm_nearest_try(struct fvm_nearest *n, const char *typed, size_t len, const char *word);

#endif
