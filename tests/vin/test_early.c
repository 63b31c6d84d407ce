/* Pages of an image that came early: of each the last one counts, out of a file and out of a pipe.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "checks.h"
#include "vin/early.h"
#include "vin/mem.h"

#define PAGE	4096UL
#define PAGES	48UL
#define BASE	(1UL << 32)
#define RECORDS 6
#define NUMBER	7

/* In which record each page came last; 0: in none. */
static uint64_t model[2][PAGES];
static uint64_t seed;

static uint64_t next(uint64_t below)
{
	seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
	return seed % below;
}

static void add_page(struct vin_runs *runs, uint64_t i)
{
	assert_int_equal(vin_runs_add(runs, BASE + i * PAGE, BASE + (i + 1) * PAGE), 0);
}

static void write_early(struct vin_out *out, int who, uint64_t record)
{
	scoped_runs runs = { 0 };
	uint64_t page[PAGE / 8] = { 0 };
	for (uint64_t i = 0; i < PAGES; i++) {
		if (next(5) < 2)
			continue;
		add_page(&runs, i);
		model[who][i] = record;
	}
	const uint64_t head[2] = { (uint64_t)(NUMBER + who), runs.count };
	const size_t table = runs.count * sizeof(*runs.runs);
	OK(vin_out_begin(out, VIN_TAG_EARLY, sizeof(head) + table + vin_runs_bytes(&runs), &err));
	OK(vin_out_piece(out, head, sizeof(head), &err));
	OK(vin_out_piece(out, runs.runs, table, &err));
	for (uint64_t i = 0; i < PAGES; i++) {
		page[0] = record;
		page[PAGE / 8 - 1] = i;
		if (model[who][i] == record)
			OK(vin_out_piece(out, page, PAGE, &err));
	}
	OK(vin_out_finish(out, &err));
}

static FILE *make_image(void)
{
	FILE *image = tmpfile();
	struct vin_out *out;
	assert_non_null(image);
	memset(model, 0, sizeof(model));
	OK(vin_out_open(fileno(image), &out, &err));
	for (uint64_t i = 0; i < RECORDS; i++)
		write_early(out, (int)(i % 2), i + 1);
	OK(vin_out_end(out, &err));
	vin_out_close(out);
	rewind(image);
	return image;
}

static struct vin_blocks blocks;

static void take_all(struct vin_early *e, bool late, struct vin_in *in)
{
	enum vin_tag tag;
	uint64_t len;
	for (;;) {
		OK(vin_in_next(in, &tag, &len, &err));
		if (tag == VIN_TAG_END)
			return;
		assert_int_equal(tag, VIN_TAG_EARLY);
		OK(vin_early_take(e, &blocks, late, in, &err));
	}
}

static void look(const struct vin_early *e, int who)
{
	scoped_runs kept = { 0 };
	struct vin_pieces found = { 0 };
	uint64_t page[PAGE / 8], at = BASE;
	for (uint64_t i = 0; i < PAGES; i++) {
		if (model[who][i] && next(4))
			add_page(&kept, i);
	}
	OK(vin_early_find(e, (uint64_t)(NUMBER + who), &kept, &found, &err));
	assert_int_equal(vin_pieces_bytes(&found, 0, UINT64_MAX), vin_runs_bytes(&kept));
	for (size_t i = 0; i < found.count; i++) {
		const struct vin_piece *p = &found.list[i];
		assert_true(p->start >= at);
		for (at = p->start; at < p->end; at += PAGE) {
			OK(vin_blocks_read(&blocks, p->at + (at - p->start), page, PAGE));
			assert_int_equal(page[0], model[who][(at - BASE) / PAGE]);
			assert_int_equal(page[PAGE / 8 - 1], (at - BASE) / PAGE);
		}
	}
	vin_pieces_free(&found);
}

static void look_at_both(int fd, bool late)
{
	struct vin_early e = { 0 };
	struct vin_in *in;
	blocks = (struct vin_blocks)VIN_NO_BLOCKS;
	OK(vin_in_open(fd, &in, &err));
	take_all(&e, late, in);
	look(&e, 0);
	look(&e, 1);
	vin_early_free(&e);
	vin_blocks_free(&blocks);
	vin_in_close(in);
}

static void the_last_that_came_of_each_page_counts(void **state)
{
	(void)state;
	for (uint64_t i = 1; i <= 50; i++) {
		seed = i * 0x9e3779b97f4a7c15ULL;
		FILE *image = make_image();
		look_at_both(fileno(image), i % 2);
		fclose(image);
	}
}

static void a_pipe_gives_what_a_file_does(void **state)
{
	(void)state;
	int line[2], status;
	seed = 4711;
	FILE *image = make_image();
	assert_int_equal(pipe2(line, O_CLOEXEC), 0);
	pid_t pid = fork();
	if (pid == 0) {
		char block[1000];
		size_t n;
		while ((n = fread(block, 1, sizeof(block), image)) > 0) {
			if (fvm_write_all(line[1], block, n) < 0)
				_exit(1);
		}
		_exit(0);
	}
	close(line[1]);
	look_at_both(line[0], true);
	close(line[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	fclose(image);
}

static void pages_that_never_came_are_refused(void **state)
{
	(void)state;
	seed = 42;
	scoped_runs kept = { 0 };
	struct vin_early e = { 0 };
	struct vin_in *in;
	struct vin_pieces found = { 0 };
	FILE *image = make_image();
	blocks = (struct vin_blocks)VIN_NO_BLOCKS;
	OK(vin_in_open(fileno(image), &in, &err));
	take_all(&e, false, in);
	add_page(&kept, PAGES);
	assert_int_equal(vin_early_find(&e, NUMBER, &kept, &found, NULL), -EBADMSG);
	kept.count = 0;
	add_page(&kept, 0);
	assert_int_equal(vin_early_find(&e, NUMBER + 2, &kept, &found, NULL), -EBADMSG);
	vin_pieces_free(&found);
	vin_early_free(&e);
	vin_blocks_free(&blocks);
	vin_in_close(in);
	fclose(image);
}

/* ---- of who ends meanwhile ---- */

/* A child that holds @letter in @page; its number is chosen, unless that is 0. */
static pid_t start_holder(char *page, char letter, pid_t number)
{
	struct clone_args args = { .exit_signal = SIGCHLD,
				   .set_tid = number ? (uint64_t)(uintptr_t)&number : 0,
				   .set_tid_size = number ? 1 : 0 };
	int ready[2];
	char byte;
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		*page = letter;
		(void)!write(ready[1], "", 1);
		for (;;)
			pause();
	}
	close(ready[1]);
	if (pid > 0)
		assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static void end_holder(pid_t pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* What an EARLY record of that page says of it. */
static char early_byte(struct vin_bytes of, uint64_t at)
{
	scoped_runs runs = { 0 }, gone = { 0 };
	struct vin_early e = { 0 };
	struct vin_pieces found = { 0 };
	struct vin_out *out;
	struct vin_in *in;
	FILE *image = tmpfile();
	enum vin_tag tag;
	uint64_t len;
	char byte = '?';
	assert_non_null(image);
	assert_int_equal(vin_runs_add(&runs, at, at + PAGE), 0);
	of.gone = &gone;
	OK(vin_out_open(fileno(image), &out, &err));
	OK(vin_stream_out(&of, NUMBER, &runs, out, &err));
	OK(vin_out_end(out, &err));
	vin_out_close(out);
	rewind(image);
	blocks = (struct vin_blocks)VIN_NO_BLOCKS;
	OK(vin_in_open(fileno(image), &in, &err));
	OK(vin_in_next(in, &tag, &len, &err));
	OK(vin_early_take(&e, &blocks, false, in, &err));
	OK(vin_early_find(&e, NUMBER, &runs, &found, &err));
	OK(vin_blocks_read(&blocks, found.list[0].at, &byte, 1));
	assert_int_equal(vin_runs_bytes(&gone), byte ? 0 : PAGE);
	vin_pieces_free(&found);
	vin_early_free(&e);
	vin_blocks_free(&blocks);
	vin_in_close(in);
	fclose(image);
	return byte;
}

static void who_has_its_number_later_is_not_read(void **state)
{
	(void)state;
	char path[40], *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				    -1, 0);
	assert_true(page != MAP_FAILED);
	const pid_t pid = start_holder(page, 'o', 0);
	assert_true(pid > 0);
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	scoped_fd mem = open(path, O_RDONLY | O_CLOEXEC), pidfd = pidfd_open(pid, 0);
	assert_true(mem >= 0 && pidfd >= 0);
	const struct vin_bytes of = { .pid = pid, .fd = mem, .pidfd = pidfd };
	assert_int_equal(early_byte(of, (uint64_t)page), 'o');
	end_holder(pid);
	if (start_holder(page, 's', pid) != pid) {
		print_message("skipped: needs the right to choose numbers of processes, and this "
			      "one to be free\n");
		munmap(page, PAGE);
		skip();
	}
	assert_int_equal(early_byte(of, (uint64_t)page), 0);
	end_holder(pid);
	munmap(page, PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_last_that_came_of_each_page_counts),
		cmocka_unit_test(a_pipe_gives_what_a_file_does),
		cmocka_unit_test(pages_that_never_came_are_refused),
		cmocka_unit_test(who_has_its_number_later_is_not_read),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
