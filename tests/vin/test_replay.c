/* Programs written into an image, ended, and made again: they check themselves, and tell on a board
 * that is a file, so that those who were made again write on the same one. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
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
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "vin/capture.h"
#include "vin/replay.h"

static struct board {
	volatile uint64_t rounds;
	volatile uint64_t wrong;
	volatile uint64_t seen[8];
	volatile int ready;
	volatile int end;
} * board;
static char board_path[] = "/tmp/vin-board-XXXXXX";
static struct vin_watch watch;
static struct fvm_error err;
static pid_t last_victim, last_init;
static int outside;

#define OK(x)                                                                                      \
	do {                                                                                       \
		err = (struct fvm_error){ 0 };                                                     \
		int r_ = (x);                                                                      \
		if (r_ < 0)                                                                        \
			fvm_error_print("test", &err);                                             \
		assert_int_equal(r_, 0);                                                           \
	} while (0)

static int setup(void **state)
{
	(void)state;
	int fd = mkstemp(board_path);
	if (fd < 0 || ftruncate(fd, 4096) < 0)
		return -1;
	board = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	outside = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	vin_watch_begin(&watch);
	return board == MAP_FAILED ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	vin_watch_end(&watch);
	munmap(board, 4096);
	return unlink(board_path);
}

static int each_teardown(void **state)
{
	(void)state;
	if (last_victim > 0 && kill(last_victim, SIGKILL) == 0)
		waitpid(last_victim, NULL, 0);
	if (last_init > 0 && kill(last_init, SIGKILL) == 0)
		waitpid(last_init, NULL, 0);
	last_victim = last_init = 0;
	return 0;
}

static void nap(int ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000L };
	clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}

static pid_t victim(void (*fn)(void))
{
	memset(board, 0, sizeof(*board));
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		vin_watch_end(&watch);
		fn();
		_exit(0);
	}
	last_victim = pid;
	for (int i = 0; i < 10000 && !board->ready; i++)
		nap(1);
	assert_int_equal(board->ready, 1);
	return pid;
}

static void wait_for_rounds(void)
{
	uint64_t before = board->rounds;
	for (int i = 0; i < 5000 && board->rounds < before + 3; i++)
		nap(1);
	assert_true(board->rounds >= before + 3);
}

static FILE *capture(pid_t pid, bool resume)
{
	struct vin_capture *c;
	struct vin_out *out;
	FILE *image = tmpfile();
	assert_non_null(image);
	OK(vin_capture_open(&pid, 1, &c, &err));
	OK(vin_capture_stop(c, 5000, &err));
	OK(vin_out_open(fileno(image), &out, &err));
	OK(vin_capture_write(c, out, &err));
	OK(vin_out_end(out, &err));
	vin_out_close(out);
	if (resume)
		vin_capture_resume(c);
	else
		vin_capture_kill(c);
	vin_capture_close(c);
	return image;
}

static struct vin_replay *build(FILE *image)
{
	struct vin_replay_options options = { .root = outside, .user = geteuid() != 0 };
	struct vin_replay *r = NULL;
	struct vin_in *in;
	assert_int_equal(lseek(fileno(image), 0, SEEK_SET), 0);
	OK(vin_in_open(fileno(image), &in, &err));
	OK(vin_replay_build(in, &options, &r, &err));
	vin_in_close(in);
	return r;
}

/* Return: PID 1 of the new ones */
static pid_t replay(FILE *image)
{
	struct vin_replay *r = build(image);
	last_init = vin_replay_init(r);
	OK(vin_replay_go(r, &err));
	vin_replay_close(r);
	return last_init;
}

static void end_well(pid_t pid)
{
	int status;
	board->end = 1;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (last_victim == pid)
		last_victim = 0;
	if (last_init == pid)
		last_init = 0;
	assert_int_equal(status, 0);
	assert_int_equal(board->wrong, 0);
}

static void reap_killed(pid_t pid)
{
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	last_victim = 0;
}

/* Resume in place; then kill and replay; then three more hops. */
static void all_ways(void (*fn)(void))
{
	pid_t pid = victim(fn);
	wait_for_rounds();
	FILE *image = capture(pid, true);
	wait_for_rounds();
	fclose(image);
	assert_int_equal(board->wrong, 0);
	image = capture(pid, false);
	reap_killed(pid);
	for (int hop = 0; hop < 4; hop++) {
		pid_t init = replay(image);
		fclose(image);
		image = NULL;
		wait_for_rounds();
		assert_int_equal(board->wrong, 0);
		if (hop == 3) {
			end_well(init);
			return;
		}
		char path[64];
		pid_t child = 0;
		snprintf(path, sizeof(path), "/proc/%d/task/%d/children", init, init);
		FILE *children = fopen(path, "r");
		assert_non_null(children);
		assert_int_equal(fscanf(children, "%d", &child), 1);
		fclose(children);
		image = capture(child, false);
		assert_int_equal(waitpid(init, NULL, 0), init);
		last_init = 0;
	}
}

/* ---- one process ---- */

/* Registers of every sort, stack, heap, data: a changed one is a wrong sum. */
static uint64_t work_once(unsigned char *heap, size_t len, double *d)
{
	uint64_t a = 1, b = 2, c = 3, e = 5;
	double x = d[0], y = d[3];
	for (int i = 0; i < 5000; i++) {
		a = a * 6364136223846793005ULL + 1442695040888963407ULL;
		b ^= a >> 7;
		c += b + heap[(a >> 20) % len];
		e = e * 3 + (c >> 3);
		x = x * 1.000001 + y;
		y = y * 0.999999 + 0.5;
	}
	uint64_t sums[2];
	memcpy(sums, (double[]){ x, y }, sizeof(sums));
	return a ^ b ^ c ^ e ^ sums[0] ^ sums[1];
}

static void count(void)
{
	const size_t len = 3 << 20;
	double d[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	unsigned char *heap = malloc(len);
	const pid_t pid = getpid();
	for (size_t i = 0; i < len; i++)
		heap[i] = (unsigned char)(i * 7 + (i >> 12));
	const uint64_t sum = work_once(heap, len, d);
	board->ready = 1;
	uint64_t mine = 0;
	while (!board->end) {
		if (work_once(heap, len, d) != sum || getpid() != pid || mine != board->rounds)
			board->wrong++;
		mine = ++board->rounds;
		struct timespec t;
		clock_gettime(CLOCK_MONOTONIC, &t); /* by the vdso */
		void *more = malloc(100000 + mine % 7 * 100000);
		memset(more, 1, 100000);
		free(more);
	}
	free(heap);
}

static void a_counter_goes_on(void **state)
{
	(void)state;
	all_ways(count);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(a_counter_goes_on, each_teardown),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
