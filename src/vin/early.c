#include <errno.h>
#include <stdlib.h>

#include "vin/early.h"
#include "vin/mem.h"

#define RECORDS_MAX   64 /* of one process: each is laid over all before */
#define PROCESSES_MAX 65536

struct vin_early_of {
	uint64_t number;
	unsigned records;
	struct vin_pieces pieces;
};

void vin_early_free(struct vin_early *e)
{
	for (size_t i = 0; i < e->count; i++)
		vin_pieces_free(&e->list[i].pieces);
	free(e->list);
	*e = (struct vin_early){ 0 };
}

static int bad(struct fvm_error *err)
{
	return fvm_error_say(err, EBADMSG, "the image is damaged: pages that came early");
}

static struct vin_early_of *find(const struct vin_early *e, uint64_t number)
{
	for (size_t i = 0; i < e->count; i++) {
		if (e->list[i].number == number)
			return &e->list[i];
	}
	return NULL;
}

static struct vin_early_of *find_or_add(struct vin_early *e, uint64_t number)
{
	struct vin_early_of *of = find(e, number);
	if (of || e->count == PROCESSES_MAX)
		return of;
	struct vin_early_of *more = realloc(e->list, fvm_room(e->count + 1) * sizeof(*more));
	if (!more)
		return NULL;
	e->list = more;
	e->list[e->count] = (struct vin_early_of){ .number = number };
	return &e->list[e->count++];
}

static bool is_users(const void *arg, uint64_t start, uint64_t end)
{
	(void)arg;
	return start < end && end <= VIN_ARCH_END;
}

int vin_early_take(struct vin_early *e, struct vin_blocks *blocks, bool late, struct vin_in *in,
		   struct fvm_error *err)
{
	scoped_runs runs = { 0 };
	uint64_t number, at = 0;
	int r = vin_in_piece(in, &number, sizeof(number), err);
	if (r < 0)
		return r;
	struct vin_early_of *of = find_or_add(e, number);
	if (!of || of->records++ == RECORDS_MAX)
		return bad(err);
	r = vin_stream_table(in, is_users, NULL, &runs, err);
	if (r == 0)
		r = vin_blocks_take(blocks, in, vin_runs_bytes(&runs), late, &at, err);
	if (r < 0)
		return r;
	r = vin_pieces_lay(&of->pieces, &runs, at);
	return r < 0 ? fvm_error_set(err, -r, "list pages") : 0;
}

int vin_early_find(const struct vin_early *e, uint64_t number, const struct vin_runs *kept,
		   struct vin_pieces *ret, struct fvm_error *err)
{
	const struct vin_early_of *of = find(e, number);
	int r = of ? vin_pieces_pick(&of->pieces, kept, ret) : -ENOENT;
	return r == -ENOENT ? bad(err) : r < 0 ? fvm_error_set(err, -r, "list pages") : 0;
}
