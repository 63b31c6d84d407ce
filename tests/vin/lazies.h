/* Programs that go on before their memory has come, for tests: what nobody asks for comes when the
 * test says so. */
#ifndef FVM_TESTS_LAZIES_H
#define FVM_TESTS_LAZIES_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "board.h"
#include "images.h"
#include "vin/lazy.h"

#define PAGE	4096UL
#define PAGES	2048UL
#define SPARSE	512UL /* pages, of 1024 times as many */
#define WAIT_MS 30000

/* A file, so that those who were made again write on the same one. */
static struct board {
	volatile uint64_t wrong; /* line of a check that failed */
	volatile uint64_t seen, at;
	volatile int ready, go, stage;
} * board;
static char board_path[] = "/tmp/vin-board-XXXXXX";
static struct vin_watch watch;
static pid_t last_victim, last_init;
static int after = -1, held = -1; /* our ends */
static bool entered;

/* In a program: tells the line. */
#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			board->wrong = __LINE__;                                                   \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

/* ---- programs ---- */

static unsigned char *memory, *elsewhere;
static bool lock_it, with_sparse, with_zeros;

static uint64_t word_of(uint64_t page)
{
	return (page + 1) * 6364136223846793005ULL;
}

static void write_page(unsigned char *to, uint64_t page)
{
	const uint64_t word = word_of(page);
	memcpy(to, &word, sizeof(word));
	memcpy(to + PAGE - sizeof(word), &word, sizeof(word));
}

static bool is_page(const unsigned char *at, uint64_t page)
{
	const uint64_t word = word_of(page);
	return memcmp(at, &word, sizeof(word)) == 0 &&
	       memcmp(at + PAGE - sizeof(word), &word, sizeof(word)) == 0 && at[100] == 0;
}

static bool is_zeros(const unsigned char *at)
{
	static const unsigned char zeros[PAGE];
	return memcmp(at, zeros, PAGE) == 0;
}

static inline bool all_pages(const unsigned char *at)
{
	for (uint64_t i = 0; i < PAGES; i++) {
		if (!is_page(at + i * PAGE, i))
			return false;
	}
	return true;
}

static void make_memory(void)
{
	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	CHECK(memory != MAP_FAILED);
	for (uint64_t i = 0; i < PAGES; i++)
		write_page(memory + i * PAGE, i);
	if (with_sparse) {
		elsewhere = mmap(NULL, SPARSE * 1024 * PAGE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		CHECK(elsewhere != MAP_FAILED);
		(void)madvise(elsewhere, SPARSE * 1024 * PAGE, MADV_NOHUGEPAGE);
		for (uint64_t i = 0; i < SPARSE; i++)
			write_page(elsewhere + i * 1024 * PAGE, i);
	}
	if (with_zeros)
		memset(memory + 100 * PAGE, 0, (PAGES - 200) * PAGE);
	CHECK(!lock_it || mlock(memory, PAGES * PAGE) == 0);
}

static void await_stage(int stage)
{
	while (board->stage < stage)
		nap(1);
}

static pid_t victim(void (*fn)(void))
{
	*board = (struct board){ 0 };
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		vin_watch_end(&watch);
		make_memory();
		board->ready = 1;
		while (!board->go)
			nap(1);
		fn();
		_exit(0);
	}
	last_victim = pid;
	for (int i = 0; i < WAIT_MS && !board->ready; i++)
		nap(1);
	assert_int_equal(board->ready, 1);
	return pid;
}

/* ---- the test's side ---- */

static const struct vin_capture_options bare = { .root = -1, .bare = true };

static int setup(void **state)
{
	(void)state;
	board = board_open(board_path);
	outside = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	/* helpers are ours to look at */
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	vin_watch_begin(&watch);
	return board == MAP_FAILED ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	vin_watch_end(&watch);
	return board_close(board, board_path);
}

static void shut(int *fd)
{
	if (*fd >= 0)
		close(fvm_fd_take(fd));
}

static int each_teardown(void **state)
{
	(void)state;
	shut(&after);
	if (last_victim > 0 && kill(last_victim, SIGKILL) == 0)
		waitpid(last_victim, NULL, 0);
	if (last_init > 0 && kill(last_init, SIGKILL) == 0)
		waitpid(last_init, NULL, 0);
	last_victim = last_init = 0;
	shut(&held);
	/* helpers, too: they end when there is nobody whom anything could come to */
	while (waitpid(-1, NULL, 0) > 0)
		;
	return 0;
}

/* An image of a program that will run @fn; it has ended. */
static FILE *image_of(void (*fn)(void))
{
	pid_t pid = victim(fn);
	FILE *image = image_capture(pid, &bare, false);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	last_victim = 0;
	return image;
}

/* It runs, and nothing comes but what it asks for, until let_come(). */
static void replay_lazily(FILE *image)
{
	int wait[2], end[2];
	assert_int_equal(pipe2(wait, O_CLOEXEC), 0);
	assert_int_equal(pipe2(end, O_CLOEXEC), 0);
	const struct vin_lazy_options lazy = {
		.ends = -1, .held = end[1], .after = wait[0], .entered = entered
	};
	const struct vin_replay_options options = { .root = outside, .lazy = &lazy };
	struct vin_replay *r = image_build_with(image, &options);
	close(wait[0]);
	close(end[1]);
	after = wait[1];
	held = end[0];
	last_init = vin_replay_init(r);
	OK(vin_replay_go(r, &err));
	vin_replay_close(r);
	board->go = 1;
}

static void let_come(void)
{
	shut(&after);
}

/* All of it has come, or nobody is left for it: helpers end. */
static void await_all(void)
{
	struct pollfd p = { .fd = held };
	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	shut(&held);
}

static inline bool still_to_come(void)
{
	struct pollfd p = { .fd = held };
	return poll(&p, 1, 0) == 0;
}

static int await_end(void)
{
	int status = -1;
	pid_t got = 0;
	for (int i = 0; i < WAIT_MS && got == 0; i++) {
		got = waitpid(last_init, &status, WNOHANG);
		if (got == 0)
			nap(1);
	}
	assert_int_equal(got, last_init);
	last_init = 0;
	return status;
}

static void end_well(void)
{
	int status = await_end();
	if (board->wrong)
		print_error("line %d\n", (int)board->wrong);
	assert_int_equal(board->wrong, 0);
	assert_int_equal(status, 0);
}

static void reach(int stage)
{
	for (int i = 0; i < WAIT_MS && board->seen < (uint64_t)stage && !board->wrong; i++)
		nap(1);
	assert_int_equal(board->wrong, 0);
	assert_int_equal(board->seen, stage);
}

/* @fn runs while nothing has come that it does not ask for; afterwards the rest comes. */
static inline void without_memory(void (*fn)(void))
{
	FILE *image = image_of(fn);
	replay_lazily(image);
	end_well();
	let_come();
	await_all();
	fclose(image);
}

static pid_t child_of(pid_t pid)
{
	char path[64];
	pid_t child = 0;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	FILE *children = fopen(path, "r");
	assert_non_null(children);
	assert_int_equal(fscanf(children, "%d", &child), 1);
	fclose(children);
	return child;
}

/* Whether there is any use in trying; says why not. */
static bool lazies_can(void)
{
#ifdef __SANITIZE_ADDRESS__
	print_message("programs do not live again under the address sanitizer\n");
	return false;
#endif
	struct fvm_error why = { 0 };
	if (vin_lazy_can(&why) < 0) {
		print_message("%s: not tried\n", why.text);
		return false;
	}
	return true;
}

#endif
