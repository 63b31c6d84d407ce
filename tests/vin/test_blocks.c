/* Pages in an image, some at a time: what went in comes out, of zeros next to nothing is written,
 * and what was damaged is given to nobody. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "checks.h"
#include "vin/blocks.h"
#include "vin/mem.h"

#define PAGE  4096UL
#define PAGES 200UL /* some blocks, and a part of one */

static unsigned char memory[PAGES * PAGE];
static uint64_t seed;

static uint64_t next(uint64_t below)
{
	seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
	return seed % below;
}

enum sort { ZEROS, SAME, OTHER, NEARLY, SORTS };

static void make_page(unsigned char *page, enum sort sort)
{
	const uint64_t word = sort == ZEROS ? 0 : next(UINT64_MAX) | 1;
	for (size_t at = 0; at < PAGE; at += sizeof(word))
		memcpy(page + at, &word, sizeof(word));
	if (sort == NEARLY)
		page[next(PAGE)] ^= 1;
	for (size_t at = 0; sort == OTHER && at < PAGE; at++)
		page[at] = (unsigned char)next(256);
}

/* @sort: or SORTS, for all of them */
static void make_memory(uint64_t from, enum sort sort)
{
	seed = from * 0x9e3779b97f4a7c15ULL;
	for (size_t i = 0; i < PAGES; i++)
		make_page(memory + i * PAGE, sort == SORTS ? (enum sort)next(SORTS) : sort);
}

static int new_file(void)
{
	int fd = memfd_create("blocks", MFD_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

/* Some runs, and all pages of them: their addresses are places in memory[]. */
static void make_runs(struct vin_runs *ret)
{
	for (size_t i = 0; i < PAGES; i++) {
		if (next(8))
			OK(vin_runs_add(ret, i * PAGE, (i + 1) * PAGE));
	}
}

/* As formats 1 and 2 have them. */
static void write_whole(struct vin_out *out, const struct vin_runs *runs)
{
	const uint64_t head[2] = { 0, runs->count };
	const size_t table = runs->count * sizeof(*runs->runs);
	OK(vin_out_begin(out, VIN_TAG_PAGES, sizeof(head) + table + vin_runs_bytes(runs), &err));
	OK(vin_out_piece(out, head, sizeof(head), &err));
	OK(vin_out_piece(out, runs->runs, table, &err));
	for (size_t i = 0; i < runs->count; i++) {
		const struct vin_run *run = &runs->runs[i];
		OK(vin_out_piece(out, memory + run->start, run->end - run->start, &err));
	}
	OK(vin_out_finish(out, &err));
}

static int image_of(const struct vin_runs *runs, bool old)
{
	struct vin_out *out;
	scoped_fd from = new_file();
	int fd = new_file();
	OK(fvm_write_all(from, memory, sizeof(memory)));
	const struct vin_bytes s = { .fd = from };
	OK(vin_out_open(fd, &out, &err));
	if (old)
		write_whole(out, runs);
	else
		OK(vin_stream_out(&s, 0, runs, out, &err));
	OK(vin_out_end(out, &err));
	vin_out_close(out);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	return fd;
}

static bool anywhere(const void *arg, uint64_t start, uint64_t end)
{
	(void)arg;
	return start < end && end <= PAGES * PAGE;
}

/* The image, up to what follows the number of the PAGES record. */
static int open_pages(int image, struct vin_in **ret)
{
	enum vin_tag tag;
	uint64_t number, len;
	int r = vin_in_open(image, ret, &err);
	if (r == 0)
		r = vin_in_next(*ret, &tag, &len, &err);
	if (r == 0 && tag != VIN_TAG_PAGES)
		r = -EBADMSG;
	return r < 0 ? r : vin_in_piece(*ret, &number, sizeof(number), &err);
}

/* At once, as pages of shared memory are read. */
static int read_stream(int image, int to)
{
	struct vin_in *in = NULL;
	enum vin_tag tag = 0;
	uint64_t len;
	const struct vin_bytes s = { .fd = to, .zeros = anywhere };
	int r = open_pages(image, &in);
	if (r == 0)
		r = vin_stream_in(&s, anywhere, NULL, in, &err);
	if (r == 0)
		r = vin_in_next(in, &tag, &len, &err);
	vin_in_close(in);
	return r == 0 && tag != VIN_TAG_END ? -EBADMSG : r;
}

/* Later, in pieces of any length. */
static int read_later(int image, const struct vin_runs *runs, unsigned char *to)
{
	struct vin_in *in = NULL;
	struct vin_blocks blocks = VIN_NO_BLOCKS;
	scoped_runs there = { 0 };
	uint64_t at = 0;
	int r = open_pages(image, &in);
	if (r == 0)
		r = vin_stream_table(in, anywhere, NULL, &there, &err);
	if (r == 0)
		r = vin_blocks_take(&blocks, in, vin_runs_bytes(&there), true, &at, &err);
	for (size_t i = 0; r == 0 && i < runs->count; i++) {
		const struct vin_run *run = &runs->runs[i];
		for (uint64_t done = run->start, len; r == 0 && done < run->end; done += len) {
			len = 1 + next(run->end - done);
			r = vin_blocks_read(&blocks, at, to + done, len);
			at += len;
		}
	}
	if (r == 0)
		assert_int_equal(vin_blocks_read(&blocks, at, to, 1), -EBADMSG);
	vin_blocks_free(&blocks);
	vin_in_close(in);
	return r;
}

/* What is not of a run is zeros. */
static bool is_right(const unsigned char *there, const struct vin_runs *runs)
{
	static const unsigned char zeros[PAGE];
	uint64_t at = 0;
	for (size_t i = 0; i <= runs->count; i++) {
		const uint64_t start = i < runs->count ? runs->runs[i].start : PAGES * PAGE;
		for (; at < start; at += PAGE) {
			if (memcmp(there + at, zeros, PAGE) != 0)
				return false;
		}
		for (; i < runs->count && at < runs->runs[i].end; at += PAGE) {
			if (memcmp(there + at, memory + at, PAGE) != 0)
				return false;
		}
	}
	return true;
}

static unsigned char *map(int fd)
{
	assert_int_equal(ftruncate(fd, PAGES * PAGE), 0);
	unsigned char *at = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(at != MAP_FAILED);
	return at;
}

/* @through: a pipe, or the file itself */
static void read_both_ways(int image, int through, const struct vin_runs *runs)
{
	scoped_fd to = new_file();
	scoped_free unsigned char *later = calloc(PAGES, PAGE);
	if (through == image) {
		OK(read_stream(image, to));
		unsigned char *there = map(to);
		assert_true(is_right(there, runs));
		munmap(there, PAGES * PAGE);
		assert_int_equal(lseek(image, 0, SEEK_SET), 0);
	}
	OK(read_later(through, runs, later));
	assert_true(is_right(later, runs));
}

static void what_is_written_is_read(void **state)
{
	(void)state;
	for (uint64_t i = 1; i <= 60; i++) {
		scoped_runs runs = { 0 };
		make_memory(i, SORTS);
		make_runs(&runs);
		scoped_fd image = image_of(&runs, i % 3 == 0);
		read_both_ways(image, image, &runs);
	}
}

static void a_pipe_gives_what_a_file_does(void **state)
{
	(void)state;
	for (uint64_t i = 1; i <= 10; i++) {
		int line[2], status;
		scoped_runs runs = { 0 };
		make_memory(i, SORTS);
		make_runs(&runs);
		scoped_fd image = image_of(&runs, i % 3 == 0);
		assert_int_equal(pipe2(line, O_CLOEXEC), 0);
		pid_t pid = fork();
		if (pid == 0) {
			char block[1000];
			ssize_t n;
			while ((n = read(image, block, sizeof(block))) > 0) {
				if (fvm_write_all(line[1], block, (size_t)n) < 0)
					_exit(1);
			}
			_exit(0);
		}
		close(line[1]);
		read_both_ways(image, line[0], &runs);
		close(line[0]);
		assert_int_equal(waitpid(pid, &status, 0), pid);
	}
}

static void zeros_and_the_same_cost_nothing(void **state)
{
	(void)state;
	for (enum sort sort = ZEROS; sort <= SAME; sort++) {
		struct stat st;
		scoped_runs runs = { 0 };
		make_memory(1, sort);
		OK(vin_runs_add(&runs, 0, PAGES * PAGE));
		scoped_fd image = image_of(&runs, false), to = new_file();
		assert_int_equal(fstat(image, &st), 0);
		assert_true(st.st_size < 4096);
		read_both_ways(image, image, &runs);
		assert_int_equal(lseek(image, 0, SEEK_SET), 0);
		OK(read_stream(image, to));
		assert_int_equal(fstat(to, &st), 0);
		if (sort == ZEROS) /* nor memory */
			assert_int_equal(st.st_blocks, 0);
	}
}

static void what_was_damaged_is_given_to_nobody(void **state)
{
	struct stat st;
	scoped_runs runs = { 0 };
	(void)state;
	make_memory(7, SORTS);
	make_runs(&runs);
	scoped_fd image = image_of(&runs, false), to = new_file();
	scoped_free unsigned char *later = calloc(PAGES, PAGE);
	assert_int_equal(fstat(image, &st), 0);
	for (off_t at = 60; at < st.st_size - 24; at += 1 + (off_t)next(997)) {
		unsigned char was, is;
		assert_int_equal(pread(image, &was, 1, at), 1);
		is = was ^ (unsigned char)(1U << next(8));
		assert_int_equal(pwrite(image, &is, 1, at), 1);
		assert_int_equal(lseek(image, 0, SEEK_SET), 0);
		assert_int_equal(read_stream(image, to), -EBADMSG);
		assert_int_equal(lseek(image, 0, SEEK_SET), 0);
		assert_int_equal(read_later(image, &runs, later), -EBADMSG);
		assert_int_equal(pwrite(image, &was, 1, at), 1);
	}
	assert_int_equal(ftruncate(image, st.st_size / 2), 0);
	assert_int_equal(lseek(image, 0, SEEK_SET), 0);
	assert_int_equal(read_later(image, &runs, later), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read),
		cmocka_unit_test(a_pipe_gives_what_a_file_does),
		cmocka_unit_test(zeros_and_the_same_cost_nothing),
		cmocka_unit_test(what_was_damaged_is_given_to_nobody),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
