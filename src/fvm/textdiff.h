/*
 * fvm/textdiff - which lines of two texts differ
 *
 * Theory of operation
 *   Myers' O(ND) difference algorithm in linear space (Algorithmica 1, 1986): find the middle snake
 *   of the shortest edit path from both ends at once, and go on with the two halves.
 *   Before it, three things that make real files fast: equal heads and tails are cut off, lines are
 *   numbered so that comparing two is comparing integers, and lines that the other side does not
 *   have at all are marked as changed at once, as they can't be part of any match.
 *   Two large texts with little in common would still take time of N*D: beyond a cost limit the
 *   search takes the best point reached so far. The result is then correct, but may be longer than
 *   need be.
 *   Lines end behind their newline; a last line without one differs from one that has it.
 */
#ifndef FVM_TEXTDIFF_H
#define FVM_TEXTDIFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct fvm_text {
	const char *data; /* borrowed */
	size_t *lines;	  /* offsets; lines[count] is the end */
	bool *changed;	  /* one per line: removed from the old, or added to the new text */
	size_t count;
};

struct fvm_textdiff {
	struct fvm_text was, now;
	size_t removed, added; /* lines */
};

/** fvm_textdiff_make() - compare two texts, which must outlive @ret. Return: 0 or -ENOMEM */
int fvm_textdiff_make(const char *was, size_t was_len, const char *now, size_t now_len,
		      struct fvm_textdiff *ret);
void fvm_textdiff_free(struct fvm_textdiff *d);
#define scoped_textdiff __attribute__((cleanup(fvm_textdiff_free))) struct fvm_textdiff

/* How a hunk's lines are written: @mark is ' ', '-', '+', '@' or '\\'. */
typedef void (*fvm_textdiff_fn)(char mark, const char *line, size_t len, void *arg);

/**
 * fvm_textdiff_hunks() - the unified hunks with three lines of context
 * @fn gets each line without its newline; '@' is a hunk's head, '\\' the remark about a missing
 * newline at the end of a file.
 */
void fvm_textdiff_hunks(const struct fvm_textdiff *d, fvm_textdiff_fn fn, void *arg);

#endif
