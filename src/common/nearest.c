#include <string.h>

#include "common/nearest.h"

#define WORD_MAX 64

/* Edit distance, row by row of the usual table; exchanged letters are two changes. */
static size_t distance(const char *a, size_t len, const char *b)
{
	size_t row[WORD_MAX + 1];
	size_t n = strlen(b);
	if (len > WORD_MAX || n > WORD_MAX)
		return WORD_MAX;
	for (size_t j = 0; j <= n; j++)
		row[j] = j;
	for (size_t i = 0; i < len; i++) {
		size_t diagonal = row[0];
		row[0] = i + 1;
		for (size_t j = 0; j < n; j++) {
			size_t above = row[j + 1], best = diagonal + (a[i] != b[j]);
			best = above + 1 < best ? above + 1 : best;
			row[j + 1] = row[j] + 1 < best ? row[j] + 1 : best;
			diagonal = above;
		}
	}
	return row[n];
}

void fvm_nearest_try(struct fvm_nearest *n, const char *typed, size_t len, const char *word)
{
	size_t d = distance(typed, len, word), limit = len < 3 ? 1 : 2;
	if (d > limit || d >= len || d >= strlen(word))
		return;
	if (n->word && d >= n->distance)
		return;
	n->word = word;
	n->distance = d;
}
