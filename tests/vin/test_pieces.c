#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vin/lazy_priv.h"

#define PAGE  VIN_LAZY_PAGE
#define PAGES 64

/* The same, one number a page: where its bytes are, 0 if it is not to come. */
static uint64_t model[PAGES];
static struct vin_pieces pieces;

static void same(void)
{
	uint64_t bytes = 0;
	for (uint64_t i = 0; i < PAGES; i++) {
		const struct vin_piece *p = vin_pieces_find(&pieces, i * PAGE + 5);
		const uint64_t at = p ? p->at + (i * PAGE - p->start) : 0;
		assert_int_equal(at, model[i]);
		bytes += model[i] ? PAGE : 0;
	}
	assert_int_equal(vin_pieces_bytes(&pieces, 0, PAGES * PAGE), bytes);
	for (size_t i = pieces.first + 1; i < pieces.count; i++)
		assert_true(pieces.list[i - 1].end <= pieces.list[i].start);
}

static int setup(void **state)
{
	(void)state;
	memset(model, 0, sizeof(model));
	pieces = (struct vin_pieces){ 0 };
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	vin_pieces_free(&pieces);
	return 0;
}

static void add(uint64_t first, uint64_t count, uint64_t at)
{
	assert_int_equal(vin_pieces_add(&pieces, first * PAGE, (first + count) * PAGE, at * PAGE),
			 0);
	for (uint64_t i = 0; i < count; i++)
		model[first + i] = (at + i) * PAGE;
}

static void cut(uint64_t first, uint64_t count)
{
	assert_int_equal(vin_pieces_cut(&pieces, first * PAGE, (first + count) * PAGE), 0);
	memset(model + first, 0, count * sizeof(*model));
}

static void move(uint64_t from, uint64_t to, uint64_t count)
{
	uint64_t moved[PAGES];
	assert_int_equal(vin_pieces_move(&pieces, from * PAGE, to * PAGE, count * PAGE), 0);
	memcpy(moved, model + from, count * sizeof(*model));
	memset(model + from, 0, count * sizeof(*model));
	memcpy(model + to, moved, count * sizeof(*model));
}

static void what_touches_is_one_piece(void **state)
{
	(void)state;
	add(3, 2, 100);
	add(5, 4, 102);
	assert_int_equal(pieces.count, 1);
	add(9, 1, 500);
	assert_int_equal(pieces.count, 2);
	same();
}

static void the_later_word_counts(void **state)
{
	(void)state;
	add(0, 30, 100);
	add(10, 5, 900);
	add(12, 1, 700);
	same();
	assert_int_equal(pieces.count, 5);
}

static void a_hole_in_the_middle(void **state)
{
	(void)state;
	add(0, 30, 100);
	cut(10, 5);
	cut(0, 1);
	cut(29, 10);
	same();
	cut(0, PAGES);
	same();
	assert_int_equal(pieces.count, 0);
}

static void what_moves_is_gone_where_it_was(void **state)
{
	(void)state;
	add(0, 4, 100);
	add(8, 4, 200);
	move(2, 32, 8);
	same();
	move(32, 33, 8); /* onto itself */
	same();
}

static void what_has_come_is_not_copied(void **state)
{
	struct vin_pieces copy;
	(void)state;
	add(0, 2, 100);
	add(8, 2, 200);
	pieces.first = 1;
	model[0] = model[1] = 0;
	same();
	assert_int_equal(vin_pieces_copy(&pieces, &copy), 0);
	assert_int_equal(copy.count, 1);
	assert_int_equal(copy.list[0].at, 200 * PAGE);
	vin_pieces_free(&copy);
}

static void anything_is_as_the_model_has_it(void **state)
{
	unsigned int seed = 1;
	(void)state;
	for (int i = 0; i < 20000; i++) {
		const uint64_t first = (uint64_t)rand_r(&seed) % (PAGES - 1);
		const uint64_t count = 1 + (uint64_t)rand_r(&seed) % (PAGES - first);
		const uint64_t to = (uint64_t)rand_r(&seed) % (PAGES - count + 1);
		const int what = rand_r(&seed) % 4;
		if (what == 0)
			cut(first, count);
		else if (what == 1)
			move(first, to, count);
		else
			add(first, count > 9 ? 9 : count, 1 + (uint64_t)rand_r(&seed) % 1000);
		same();
	}
}

int main(void)
{
#define PIECES(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		PIECES(what_touches_is_one_piece),   PIECES(the_later_word_counts),
		PIECES(a_hole_in_the_middle),	     PIECES(what_moves_is_gone_where_it_was),
		PIECES(what_has_come_is_not_copied), PIECES(anything_is_as_the_model_has_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
