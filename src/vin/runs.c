/* Lists of runs, in order of their addresses: what two of them come to. */
#include <stdlib.h>

#include "vin/pages.h"

enum { IN_A = 1, IN_B = 2 };

struct side {
	const struct vin_runs *runs;
	size_t run;
};

/* Where it begins or ends next, behind @at. Return: whether it holds what begins at @at */
static bool look(struct side *s, uint64_t at, uint64_t *next)
{
	while (s->run < s->runs->count && s->runs->runs[s->run].end <= at)
		s->run++;
	if (s->run == s->runs->count)
		return false;
	const struct vin_run *run = &s->runs->runs[s->run];
	const bool inside = run->start <= at;
	const uint64_t edge = inside ? run->end : run->start;
	*next = edge < *next ? edge : *next;
	return inside;
}

/* From edge to edge; @wanted: a set of IN_A | IN_B, a bit for each. */
static int combine(const struct vin_runs *a, const struct vin_runs *b, unsigned wanted,
		   struct vin_runs *ret)
{
	struct side first = { a, 0 }, second = { b, 0 };
	uint64_t at = 0;
	for (;;) {
		uint64_t next = UINT64_MAX;
		const bool in_a = look(&first, at, &next), in_b = look(&second, at, &next);
		if (next == UINT64_MAX)
			return 0;
		if (wanted & 1U << ((in_a ? IN_A : 0) | (in_b ? IN_B : 0))) {
			int r = vin_runs_add(ret, at, next);
			if (r < 0)
				return r;
		}
		at = next;
	}
}

int vin_runs_either(const struct vin_runs *a, const struct vin_runs *b, struct vin_runs *ret)
{
	return combine(a, b, 1U << IN_A | 1U << IN_B | 1U << (IN_A | IN_B), ret);
}

int vin_runs_both(const struct vin_runs *a, const struct vin_runs *b, struct vin_runs *ret)
{
	return combine(a, b, 1U << (IN_A | IN_B), ret);
}

int vin_runs_less(const struct vin_runs *a, const struct vin_runs *b, struct vin_runs *ret)
{
	return combine(a, b, 1U << IN_A, ret);
}
