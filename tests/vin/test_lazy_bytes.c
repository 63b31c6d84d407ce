/* The bytes of memory that comes late, or is there at once: those of zeros cost nothing, and those
 * that were damaged nobody sees. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lazies.h"

static void look_until_killed(void)
{
	CHECK(is_page(memory, 0));
	board->seen = 1;
	await_stage(1);
	for (uint64_t i = PAGES; i-- > 0;)
		CHECK(is_page(memory + i * PAGE, i));
	await_stage(2);
}

/* All of it but where it begins, with the list of its pages. */
static void damage(FILE *image)
{
	const int fd = fileno(image);
	const off_t size = lseek(fd, 0, SEEK_END);
	for (off_t at = size / 4; at < size; at += 30011) {
		unsigned char c;
		assert_int_equal(pread(fd, &c, 1, at), 1);
		c ^= 16;
		assert_int_equal(pwrite(fd, &c, 1, at), 1);
	}
}

/* Nor are bytes that are not what was written: they are looked at before anybody has them. */
static void programs_end_before_they_see_damaged_memory(void **state)
{
	(void)state;
	for (int asked = 0; asked < 2; asked++) {
		FILE *image = image_of(look_until_killed);
		replay_lazily(image);
		reach(1);
		damage(image);
		if (asked)
			board->stage = 1;
		else
			let_come();
		int status = await_end();
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		assert_int_equal(board->wrong, 0);
		await_all();
		shut(&after);
		fclose(image);
	}
}

/* ---- zeros ---- */

static void look_at_zeros(void)
{
	board->at = (uint64_t)memory;
	board->seen = 1;
	await_stage(1);
	for (uint64_t i = 0; i < PAGES; i++)
		CHECK(i < 100 || i >= PAGES - 100 ? is_page(memory + i * PAGE, i)
						  : is_zeros(memory + i * PAGE));
}

/* Pages that the program has of its own there. */
static uint64_t own_bytes(void)
{
	scoped_runs own = { 0 };
	scoped_fd pagemap = vin_pages_open(child_of(last_init));
	assert_true(pagemap >= 0);
	OK(vin_pages_find(pagemap, board->at, board->at + PAGES * PAGE, VIN_PAGES_OWN, false,
			  &own));
	return vin_runs_bytes(&own);
}

/* What lies beside a page that was written is there with it. */
static bool pages_are_huge(void)
{
	char text[80] = "";
	scoped_fd fd = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC);
	return fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && strstr(text, "[always]");
}

static void pages_of_zeros_are_not_sent_and_cost_no_memory(void **state)
{
	(void)state;
	with_zeros = true;
	FILE *image = image_of(look_at_zeros);
	with_zeros = false;
	assert_true(lseek(fileno(image), 0, SEEK_END) < (off_t)(PAGES / 2 * PAGE));
	for (int way = 0; way < 2; way++) {
		board->seen = 0, board->stage = 0, board->go = 1;
		if (way == 0) {
			replay_lazily(image);
			let_come();
			await_all();
		} else {
			struct vin_replay *r = image_build(image);
			last_init = vin_replay_init(r);
			OK(vin_replay_go(r, &err));
			vin_replay_close(r);
		}
		reach(1);
		assert_true(pages_are_huge() || own_bytes() <= 200 * PAGE);
		board->stage = 1;
		end_well();
	}
	fclose(image);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(programs_end_before_they_see_damaged_memory,
					  each_teardown),
		cmocka_unit_test_teardown(pages_of_zeros_are_not_sent_and_cost_no_memory,
					  each_teardown),
	};
	if (!lazies_can())
		return 77;
	return cmocka_run_group_tests(tests, setup, teardown);
}
