/* Whoever captures is killed at each of the moments at which he can be, and the programs go on as
 * if nothing had been. */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include "victim.h"

#include "code_32_bytes.h"
#include "points.h"
#include "vin/capture.h"
#include "vin/dirty.h"

#define THREADS 3
#define SECONDS 3
#define KILLS	100

enum place { SLEEPS, POLLS, READS, VECTORS, NARROW, WORKS, PLACES = WORKS + THREADS };

/* Beside the board: how far each has come. */
static struct {
	volatile uint64_t rounds[PLACES];
	volatile uint64_t wrong[PLACES];
} * table;
static const struct vin_capture_options whole = { .root = -1 };

static void count(enum place place, bool right)
{
	if (!right)
		table->wrong[place]++;
	table->rounds[place]++;
}

static bool mask_is_kept(enum place place)
{
	sigset_t now;
	sigprocmask(SIG_BLOCK, NULL, &now);
	return sigismember(&now, SIGUSR1) == (place == WORKS + 1) &&
	       sigismember(&now, SIGTRAP) == (place == WORKS + 1);
}

/* A sum in many registers, always the same. */
static void *sum(void *arg)
{
	const enum place place = (enum place)(uintptr_t)arg;
	uint64_t first = 0;
	while (!board->end) {
		uint64_t a = 1, b = 2, c = 3, e = 5;
		for (int i = 0; i < 2000; i++) {
			a = a * 6364136223846793005ULL + 1442695040888963407ULL;
			b ^= a >> 7;
			c += b;
			e = e * 3 + (c >> 3);
		}
		first = first ? first : (a ^ b ^ c ^ e);
		count(place, first == (a ^ b ^ c ^ e) && mask_is_kept(place));
		usleep(200);
	}
	return NULL;
}

/* EINTR is what a handler's return would have given as well. */
static void wait_in_turns(void)
{
	int ways[2];
	char c = 0;
	if (pipe(ways) < 0)
		return;
	while (!board->end) {
		struct timespec ms = { 0, 300000 };
		struct pollfd p = { .fd = ways[0], .events = POLLIN };
		int r = nanosleep(&ms, NULL);
		count(SLEEPS, r == 0 || errno == EINTR);
		r = poll(&p, 1, 1);
		count(POLLS, r == 0 || (r < 0 && errno == EINTR));
		count(READS, write(ways[1], "x", 1) == 1 && read(ways[0], &c, 1) == 1 && c == 'x');
	}
}

/* What no call and no stop may change: all vector registers, over and over. */
static void keep_vectors(void)
{
	while (!board->end) {
		uint64_t same = 0;
#ifdef __x86_64__
		uint64_t n = 200000;
		const uint64_t value = 0x123456789abcdef0ULL;
		__asm__ volatile("movq %[value], %%xmm2\n"
				 "movq %[value], %%xmm15\n"
				 "1: dec %[n]\n"
				 "jnz 1b\n"
				 "pxor %%xmm2, %%xmm15\n"
				 "movq %%xmm2, %[same]\n"
				 "movq %%xmm15, %[n]\n"
				 : [same] "=&r"(same), [n] "+r"(n)
				 : [value] "r"(value)
				 : "xmm2", "xmm15", "cc");
		same = same == value && n == 0;
		if (__builtin_cpu_supports("avx")) {
			uint64_t out[4];
			n = 200000;
			__asm__ volatile("vmovq %[value], %%xmm3\n"
					 "vinsertf128 $1, %%xmm3, %%ymm3, %%ymm3\n"
					 "1: dec %[n]\n"
					 "jnz 1b\n"
					 "vmovups %%ymm3, %[out]\n"
					 "vzeroupper\n"
					 : [out] "=m"(out), [n] "+r"(n)
					 : [value] "r"(value)
					 : "xmm3", "cc");
			same = same && out[0] == value && out[1] == 0 && out[2] == value;
		}
#else
		same = 1;
#endif
		count(VECTORS, same);
		usleep(500);
	}
}

static int question[2], answer[2];

/* A program of 32 bits. Where there is none, whoever asks has nobody to ask. */
static void be_narrow(void)
{
	char *args[] = { (char *)"code_32", (char *)"s", NULL }, *env[] = { NULL };
	const int fd = memfd_create("code_32", MFD_CLOEXEC);
	if (fd >= 0 && write(fd, CODE_32_BYTES, CODE_32_SIZE) == (ssize_t)CODE_32_SIZE &&
	    dup2(question[0], 0) == 0 && dup2(answer[1], 1) == 1)
		(void)fexecve(fd, args, env);
}

/* A segment and registers; at the end its handler of the breakpoint's signal. */
static void ask_narrow(void)
{
	int found = 0;
	close(question[0]);
	close(answer[1]);
	const bool there = read(answer[0], &found, sizeof(found)) == sizeof(found);
	bool over = false;
	while (!over) {
		over = board->end;
		if (there) {
			found = 0;
			(void)!write(question[1], over ? "!" : "?", 1);
			(void)!read(answer[0], &found, sizeof(found));
		}
		count(NARROW, !there || found == 1);
		usleep(200);
	}
}

/* What a call in their name could lose or leave. */
static void hold_things(void)
{
	const struct itimerspec hour = { .it_value.tv_sec = 3600 };
	struct sigevent none = { .sigev_notify = SIGEV_NONE };
	timer_t timer;
	int ends[2], fd = timerfd_create(CLOCK_MONOTONIC, 0);
	count(WORKS, fd >= 0 && timerfd_settime(fd, 0, &hour, NULL) == 0 && eventfd(7, 0) >= 0 &&
			     pipe(ends) == 0 && write(ends[1], "letters", 7) == 7 &&
			     socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0 &&
			     send(ends[0], "letters", 7, 0) == 7 &&
			     timer_create(CLOCK_MONOTONIC, &none, &timer) == 0 &&
			     timer_settime(timer, 0, &hour, NULL) == 0);
}

static void family(void)
{
	pthread_t threads[THREADS];
	int null = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3; i++)
		(void)dup2(null, i);
	(void)close_range(3, ~0U, 0);
	(void)setsid();
	hold_things();
	if (pipe2(question, O_CLOEXEC) < 0 || pipe2(answer, O_CLOEXEC) < 0)
		return;
	void (*const children[])(void) = { wait_in_turns, keep_vectors, be_narrow, ask_narrow };
	for (size_t i = 0; i < 4; i++) {
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			children[i]();
			_exit(0);
		}
	}
	for (int i = 0; i < 2; i++) {
		close(question[i]);
		close(answer[i]);
	}
	/* one of them with everything blocked, the breakpoint's signal too */
	for (size_t i = 0; i < THREADS; i++) {
		sigset_t all, old;
		sigfillset(&all);
		if (i == 1)
			sigprocmask(SIG_BLOCK, &all, &old);
		(void)pthread_create(&threads[i], NULL, sum, (void *)(WORKS + i));
		if (i == 1)
			sigprocmask(SIG_SETMASK, &old, NULL);
	}
	board->ready = 1;
	for (size_t i = 0; i < THREADS; i++)
		(void)pthread_join(threads[i], NULL);
	while (wait(NULL) > 0)
		;
}

static int capture_once(void *arg)
{
	pid_t pid = *(const pid_t *)arg;
	struct vin_capture *c = NULL;
	struct vin_out *out = NULL;
	scoped_fd to = open("/dev/null", O_WRONLY | O_CLOEXEC);
	int r = vin_capture_open(&pid, 1, &whole, &c, &err);
	if (r == 0)
		r = vin_capture_stop(c, 30000, &err);
	if (r == 0)
		r = vin_out_open(to, &out, &err);
	if (r == 0)
		r = vin_capture_write(c, out, &err);
	if (out)
		vin_out_close(out);
	vin_capture_close(c);
	if (r < 0)
		fvm_error_print("capture", &err);
	return r;
}

/* The memory of all who have enough of it, before they stand still for good. */
static int capture_early(void *arg)
{
	pid_t pid = *(const pid_t *)arg;
	struct vin_capture *c = NULL;
	struct vin_out *out = NULL;
	struct vin_precopy_told told;
	struct vin_precopy *p = vin_precopy_open(VIN_DIRTY_ALL);
	scoped_fd to = open("/dev/null", O_WRONLY | O_CLOEXEC);
	int r = vin_capture_open(&pid, 1, &whole, &c, &err);
	if (r == 0)
		r = vin_capture_stop(c, 30000, &err);
	for (size_t i = 0; r == 0 && i < vin_capture_tree(c)->count; i++)
		r = vin_precopy_add(p, &vin_capture_tree(c)->procs[i].threads[0]);
	vin_capture_close(c);
	c = NULL;
	if (r == 0)
		r = vin_out_open(to, &out, &err);
	if (r == 0)
		r = vin_precopy_copy(p, out, NULL, NULL, &told, &err);
	const struct vin_capture_options options = { .root = -1, .precopy = p };
	if (r == 0)
		r = vin_capture_open(&pid, 1, &options, &c, &err);
	if (r == 0)
		r = vin_capture_stop(c, 30000, &err);
	if (r == 0)
		r = vin_capture_write(c, out, &err);
	if (out)
		vin_out_close(out);
	vin_capture_close(c);
	vin_precopy_close(p);
	if (r < 0)
		fvm_error_print("capture", &err);
	return r;
}

/* ---- what is seen of them from outside ---- */

static void add_file(struct fvm_buf *to, pid_t pid, const char *name)
{
	char path[80];
	scoped_free char *text = NULL;
	size_t len = 0;
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	if (fvm_read_file(AT_FDCWD, path, 1 << 20, &text, &len) == 0)
		fvm_buf_add(to, text, len);
}

static void add_links(struct fvm_buf *to, pid_t pid)
{
	char path[80], target[200];
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	scoped_dir d = opendir(path);
	for (struct dirent *e; d && (e = fvm_dir_next(d));) {
		ssize_t len = readlinkat(dirfd(d), e->d_name, target, sizeof(target) - 1);
		target[len < 0 ? 0 : len] = 0;
		fvm_buf_printf(to, "fd %s %s\n", e->d_name, target);
	}
}

/* Masks and actions, by the lines of status that begin with Sig, and who traces. SigQ is all of the
 * user's. */
static void add_signals(struct fvm_buf *to, pid_t pid, pid_t tid)
{
	char path[80];
	scoped_buf status = { 0 };
	snprintf(path, sizeof(path), "task/%d/status", tid);
	add_file(&status, pid, path);
	fvm_buf_add(&status, "", 1);
	for (char *line = strtok((char *)status.data, "\n"); line; line = strtok(NULL, "\n")) {
		if ((strncmp(line, "Sig", 3) == 0 && line[3] != 'Q') ||
		    strncmp(line, "TracerPid", 9) == 0)
			fvm_buf_add(to, line, strlen(line));
	}
}

static void add_process(struct fvm_buf *to, pid_t pid)
{
	char path[80];
	add_file(to, pid, "maps");
	add_file(to, pid, "timers");
	add_links(to, pid);
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	scoped_dir d = opendir(path);
	for (struct dirent *e; d && (e = fvm_dir_next(d));) {
		pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);
		add_signals(to, pid, tid);
		snprintf(path, sizeof(path), "task/%d/children", tid);
		add_file(to, pid, path);
	}
}

static void look(pid_t pid, struct fvm_buf *ret)
{
	char path[80];
	scoped_free char *text = NULL;
	ret->len = 0;
	add_process(ret, pid);
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	if (fvm_read_file(AT_FDCWD, path, 4096, &text, NULL) == 0) {
		for (char *p = text; *p >= '0' && *p <= '9'; p += *p == ' ')
			add_process(ret, (pid_t)strtol(p, &p, 10));
	}
	fvm_buf_add(ret, "", 1);
}

static bool same(const struct fvm_buf *a, const struct fvm_buf *b)
{
	return a->len == b->len && memcmp(a->data, b->data, a->len) == 0;
}

static void tell_difference(const char *before, const char *now)
{
	size_t at = 0, line = 0;
	for (; before[at] && before[at] == now[at]; at++)
		line = before[at] == '\n' ? at + 1 : line;
	print_error("before: %.200s\nnow: %.200s\n", before + line, now + line);
}

/* They look as before, and go on. */
static bool are_well(pid_t pid, const struct fvm_buf *before, struct fvm_buf *now)
{
	uint64_t rounds[PLACES];
	memcpy(rounds, (const void *)table->rounds, sizeof(rounds));
	int stands = 0, tries = 0;
	do {
		usleep(100);
		for (stands = 0; stands < PLACES && table->rounds[stands] > rounds[stands];)
			stands++;
		if (stands == PLACES)
			look(pid, now);
	} while (++tries < 20000 && (stands < PLACES || !same(before, now)));
	for (int i = 0; i < PLACES; i++) {
		if (table->wrong[i])
			print_error("place %d has gone wrong\n", i);
		stands = table->wrong[i] ? i : stands;
	}
	if (stands < PLACES)
		print_error("place %d does not go on\n", stands);
	if (!same(before, now))
		tell_difference((const char *)before->data, (const char *)now->data);
	return stands == PLACES && same(before, now);
}

static pid_t start_family(int (*capture)(void *arg), struct fvm_buf *ret)
{
	table = mmap(NULL, sizeof(*table), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0);
	assert_ptr_not_equal(table, MAP_FAILED);
	pid_t pid = victim(family, false);
	assert_false(ends_at(0, capture, &pid));
	usleep(10000);
	look(pid, ret);
	return pid;
}

static void end_family(int (*capture)(void *arg), pid_t pid)
{
	assert_false(ends_at(0, capture, &pid));
	victim_end(pid);
	for (int i = 0; i < PLACES; i++)
		assert_int_equal(table->wrong[i], 0);
	munmap(table, sizeof(*table));
}

/* As many as there is time for, others with each run; FVM_POINT=N: from N on, all. */
static void survive(int (*capture)(void *arg))
{
	scoped_buf before = { 0 }, now = { 0 };
	pid_t pid = start_family(capture, &before);
	const char *from = getenv("FVM_POINT");
	const unsigned long all = points->seen;
	const int64_t until = fvm_now_ns() + SECONDS * 1000000000LL;
	unsigned long end = from ? strtoul(from, NULL, 10) : 1 + (unsigned long)pid % all;
	while (ends_at(end, capture, &pid) && (from || fvm_now_ns() < until)) {
		int status = 0;
		const bool well = are_well(pid, &before, &now);
		if (!well)
			print_error("killed at point %lu\n", end);
		if (waitpid(pid, &status, WNOHANG) != 0)
			print_error("point %lu: ended with status %#x\n", end, status);
		assert_true(well);
		end = from ? end + 1 : 1 + (end + 7919) % all;
	}
	end_family(capture, pid);
}

static void programs_survive_whoever_captures_them(void **state)
{
	(void)state;
	survive(capture_once);
}

static void programs_survive_whoever_copies_their_memory(void **state)
{
	(void)state;
	survive(capture_early);
}

/* The next one comes while they still are on their way back. */
static void programs_survive_one_killed_after_the_other(void **state)
{
	(void)state;
	scoped_buf before = { 0 }, now = { 0 };
	pid_t pid = start_family(capture_once, &before);
	const unsigned long all = points->seen;
	const int64_t until = fvm_now_ns() + SECONDS * 1000000000LL;
	for (unsigned long i = 1; i <= KILLS && fvm_now_ns() < until; i++)
		(void)ends_at(1 + i * 7919 % all, i % 2 ? capture_once : capture_early, &pid);
	assert_true(are_well(pid, &before, &now));
	end_family(capture_once, pid);
}

static int setup(void **state)
{
	return points_setup() < 0 ? -1 : victims_setup(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(programs_survive_whoever_captures_them, victim_kill),
		cmocka_unit_test_teardown(programs_survive_whoever_copies_their_memory,
					  victim_kill),
		cmocka_unit_test_teardown(programs_survive_one_killed_after_the_other, victim_kill),
	};
	return cmocka_run_group_tests(tests, setup, victims_teardown);
}
