/* Which addresses are still to come, and from where. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vin/pieces.h"

void vin_pieces_free(struct vin_pieces *p)
{
	free(p->list);
	*p = (struct vin_pieces){ 0 };
}

/* The first piece that ends above @address. */
static size_t place_of(const struct vin_pieces *p, uint64_t address)
{
	size_t low = p->first, high = p->count;
	while (low < high) {
		const size_t middle = low + (high - low) / 2;
		if (p->list[middle].end > address)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static int insert(struct vin_pieces *p, size_t place, const struct vin_piece *piece)
{
	struct vin_piece *more = realloc(p->list, fvm_room(p->count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	p->list = more;
	memmove(more + place + 1, more + place, (p->count - place) * sizeof(*more));
	more[place] = *piece;
	p->count++;
	return 0;
}

int vin_pieces_cut(struct vin_pieces *p, uint64_t start, uint64_t end)
{
	size_t place = place_of(p, start), gone = place;
	if (place >= p->count || !p->list || p->list[place].start >= end)
		return 0;
	struct vin_piece *piece = &p->list[place];
	if (piece->start < start && piece->end > end) {
		const struct vin_piece tail = { end, piece->end, piece->at + (end - piece->start) };
		int r = insert(p, place + 1, &tail);
		if (r == 0)
			p->list[place].end = start;
		return r;
	}
	if (piece->start < start) {
		piece->end = start;
		gone = ++place;
	}
	while (gone < p->count && p->list[gone].end <= end)
		gone++;
	memmove(p->list + place, p->list + gone, (p->count - gone) * sizeof(*p->list));
	p->count -= gone - place;
	if (place < p->count && p->list[place].start < end) {
		p->list[place].at += end - p->list[place].start;
		p->list[place].start = end;
	}
	return 0;
}

int vin_pieces_add(struct vin_pieces *p, uint64_t start, uint64_t end, uint64_t at)
{
	int r = vin_pieces_cut(p, start, end);
	if (r < 0)
		return r;
	const struct vin_piece piece = { start, end, at };
	const size_t place = place_of(p, start);
	struct vin_piece *before = place > p->first ? &p->list[place - 1] : NULL;
	if (before && before->end == start && before->at + (start - before->start) == at) {
		before->end = end;
		return 0;
	}
	return insert(p, place, &piece);
}

/* What of a piece is between two addresses; nothing: start == end */
static struct vin_piece clip(const struct vin_piece *o, uint64_t start, uint64_t end)
{
	const uint64_t low = o->start > start ? o->start : start;
	const uint64_t high = o->end < end ? o->end : end;
	return (struct vin_piece){ low, high > low ? high : low, o->at + (low - o->start) };
}

uint64_t vin_pieces_bytes(const struct vin_pieces *p, uint64_t start, uint64_t end)
{
	uint64_t sum = 0;
	for (size_t i = place_of(p, start); i < p->count && p->list[i].start < end; i++) {
		const struct vin_piece part = clip(&p->list[i], start, end);
		sum += part.end - part.start;
	}
	return sum;
}

int vin_pieces_take(struct vin_pieces *p, uint64_t start, uint64_t end, uint64_t by,
		    struct vin_pieces *into)
{
	int r = 0;
	for (size_t i = place_of(p, start); r == 0 && i < p->count && p->list[i].start < end; i++) {
		const struct vin_piece part = clip(&p->list[i], start, end);
		r = vin_pieces_add(into, part.start + by, part.end + by, part.at);
	}
	return r < 0 ? r : vin_pieces_cut(p, start, end);
}

int vin_pieces_move(struct vin_pieces *p, uint64_t from, uint64_t to, uint64_t len)
{
	struct vin_pieces moved = { 0 };
	int r = vin_pieces_take(p, from, from + len, to - from, &moved);
	if (r == 0)
		r = vin_pieces_cut(p, to, to + len);
	for (size_t i = 0; r == 0 && i < moved.count; i++)
		r = vin_pieces_add(p, moved.list[i].start, moved.list[i].end, moved.list[i].at);
	vin_pieces_free(&moved);
	return r;
}

const struct vin_piece *vin_pieces_find(const struct vin_pieces *p, uint64_t address)
{
	const size_t place = place_of(p, address);
	return place < p->count && p->list[place].start <= address ? &p->list[place] : NULL;
}

int vin_pieces_copy(const struct vin_pieces *p, struct vin_pieces *ret)
{
	const size_t count = p->count - p->first;
	struct vin_piece *list = malloc((fvm_room(count) + 1) * sizeof(*list));
	if (!list)
		return -ENOMEM;
	if (count)
		memcpy(list, p->list + p->first, count * sizeof(*list));
	*ret = (struct vin_pieces){ .list = list, .count = count };
	return 0;
}

/* What of @o lies at or above @from and below @to. */
static void put_part(struct vin_pieces *list, const struct vin_piece *o, uint64_t from, uint64_t to)
{
	const struct vin_piece part = clip(o, from, to);
	if (part.start < part.end)
		list->list[list->count++] = part;
}

/* Each run cuts at most one piece in two. */
int vin_pieces_lay(struct vin_pieces *p, const struct vin_runs *runs, uint64_t at)
{
	const size_t room = fvm_room(p->count - p->first + 2 * runs->count + 1);
	struct vin_pieces new = { .list = malloc(room * sizeof(*new.list)) };
	size_t old = p->first;
	uint64_t covered = 0;
	if (!new.list)
		return -ENOMEM;
	for (size_t i = 0; i < runs->count; i++) {
		const struct vin_run *run = &runs->runs[i];
		for (; old < p->count && p->list[old].start < run->start; old++) {
			put_part(&new, &p->list[old], covered, run->start);
			if (p->list[old].end > run->end)
				break; /* there is more of it behind the run */
		}
		new.list[new.count++] = (struct vin_piece){ run->start, run->end, at };
		at += run->end - run->start;
		covered = run->end;
		while (old < p->count && p->list[old].end <= covered)
			old++;
	}
	for (; old < p->count; old++)
		put_part(&new, &p->list[old], covered, UINT64_MAX);
	vin_pieces_free(p);
	*p = new;
	return 0;
}

int vin_pieces_pick(const struct vin_pieces *p, const struct vin_runs *runs, struct vin_pieces *ret)
{
	for (size_t i = 0; i < runs->count; i++) {
		uint64_t from = runs->runs[i].start;
		const uint64_t end = runs->runs[i].end;
		for (size_t at = place_of(p, from); from < end; at++) {
			if (at >= p->count || p->list[at].start > from)
				return -ENOENT;
			const struct vin_piece part = clip(&p->list[at], from, end);
			int r = insert(ret, ret->count, &part);
			if (r < 0)
				return r;
			from = part.end;
		}
	}
	return 0;
}
