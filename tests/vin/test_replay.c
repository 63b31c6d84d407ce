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
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "board.h"
#include "images.h"
#include "vin/maps.h"

static struct board {
	volatile uint64_t rounds;
	volatile uint64_t wrong;
	volatile uint64_t seen[8];
	volatile int ready;
	volatile int end;
} * board;
static char board_path[] = "/tmp/vin-board-XXXXXX";
static struct vin_watch watch;
static pid_t last_victim, last_init;

static const struct vin_capture_options bare = { .root = -1, .bare = true }, whole = { .root = -1 };
static const struct vin_capture_options *how = &bare;

static int setup(void **state)
{
	(void)state;
	board = board_open(board_path);
	outside = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	vin_watch_begin(&watch);
	return board == MAP_FAILED ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	vin_watch_end(&watch);
	return board_close(board, board_path);
}

static int each_teardown(void **state)
{
	(void)state;
	/* whoever is left after a failure ends by himself */
	board->end = 1;
	how = &bare;
	if (last_victim > 0 && kill(last_victim, SIGKILL) == 0)
		waitpid(last_victim, NULL, 0);
	if (last_init > 0 && kill(last_init, SIGKILL) == 0)
		waitpid(last_init, NULL, 0);
	last_victim = last_init = 0;
	return 0;
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
	for (int i = 0; i < 30000 && !board->ready; i++)
		nap(1);
	assert_int_equal(board->ready, 1);
	return pid;
}

static void wait_for_rounds(void)
{
	uint64_t before = board->rounds;
	for (int i = 0; i < 30000 && board->rounds < before + 3; i++)
		nap(1);
	assert_true(board->rounds >= before + 3);
}

static FILE *capture(pid_t pid, bool resume)
{
	return image_capture(pid, how, resume);
}

/* Return: PID 1 of the new ones */
static pid_t replay(FILE *image)
{
	struct vin_replay *r = image_build(image);
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

/* The runtime of the address sanitizer, made again with the program, gives up when it looks at its
 * threads. */
static void not_sanitized(void)
{
#ifdef __SANITIZE_ADDRESS__
	print_message("skipped: not under the address sanitizer\n");
	skip();
#endif
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
	const size_t len = 9 << 20; /* enough for two threads to carry it */
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

/* ---- threads ---- */

#define WORKERS 6

static __thread uint64_t mine;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t under_lock;
static volatile uint64_t rounds_of[WORKERS];

static void check(bool good)
{
	if (!good)
		__atomic_add_fetch(&board->wrong, 1, __ATOMIC_RELAXED);
}

/* Which of the kernel's things this thread has, so that it can be compared. */
struct kept {
	pid_t tid;
	char name[16];
	stack_t stack;
	void *robust;
	size_t robust_len;
	sigset_t mask;
};

static void look_at_me(struct kept *k)
{
	memset(k, 0, sizeof(*k));
	k->tid = (pid_t)syscall(SYS_gettid);
	prctl(PR_GET_NAME, k->name);
	sigaltstack(NULL, &k->stack);
	syscall(SYS_get_robust_list, 0, &k->robust, &k->robust_len);
	pthread_sigmask(SIG_BLOCK, NULL, &k->mask);
}

static bool same(const struct kept *a, const struct kept *b)
{
	return a->tid == b->tid && strcmp(a->name, b->name) == 0 &&
	       a->stack.ss_sp == b->stack.ss_sp && a->stack.ss_size == b->stack.ss_size &&
	       a->stack.ss_flags == b->stack.ss_flags && a->robust == b->robust &&
	       a->robust_len == b->robust_len && memcmp(&a->mask, &b->mask, 8) == 0;
}

static void *worker(void *arg)
{
	const int n = (int)(intptr_t)arg;
	char name[16];
	unsigned char stack[16384];
	double d[8] = { n, 2, 3, 4, 5, 6, 7, 8 };
	struct kept before, now;
	sigset_t some;
	snprintf(name, sizeof(name), "worker %d", n);
	prctl(PR_SET_NAME, name);
	sigaltstack(&(stack_t){ .ss_sp = stack, .ss_size = sizeof(stack) }, NULL);
	sigemptyset(&some);
	sigaddset(&some, SIGRTMIN + n);
	pthread_sigmask(SIG_BLOCK, &some, NULL);
	look_at_me(&before);
	const uint64_t sum = work_once((unsigned char *)name, sizeof(name), d);
	while (!board->end) {
		check(work_once((unsigned char *)name, sizeof(name), d) == sum);
		look_at_me(&now);
		check(same(&now, &before));
		pthread_mutex_lock(&lock);
		under_lock++;
		pthread_mutex_unlock(&lock);
		check(mine == rounds_of[n]);
		mine = ++rounds_of[n];
		if (n % 2)
			nap(1);
	}
	return NULL;
}

static void many_threads(void)
{
	pthread_t threads[WORKERS];
	for (int i = 0; i < WORKERS; i++)
		pthread_create(&threads[i], NULL, worker, (void *)(intptr_t)i);
	uint64_t least = 0;
	board->ready = 1;
	while (!board->end) {
		nap(1);
		uint64_t all = UINT64_MAX;
		for (int i = 0; i < WORKERS; i++)
			all = rounds_of[i] < all ? rounds_of[i] : all;
		check(all >= least);
		board->rounds += all > least;
		least = all;
	}
	uint64_t sum = 0;
	for (int i = 0; i < WORKERS; i++) {
		pthread_join(threads[i], NULL);
		sum += rounds_of[i];
	}
	check(sum == under_lock);
}

static void threads_go_on(void **state)
{
	(void)state;
	not_sanitized();
	all_ways(many_threads);
}

/* A leader that ended before its threads: they go on under its number. */
static void *lonely(void *arg)
{
	const pid_t pid = getpid();
	(void)arg;
	nap(20);
	board->ready = 1;
	while (!board->end) {
		check(getpid() == pid && syscall(SYS_gettid) != pid);
		board->rounds++;
		nap(1);
	}
	_exit(0);
}

static void leader_goes(void)
{
	pthread_t thread;
	pthread_create(&thread, NULL, lonely, NULL);
	syscall(SYS_exit, 0);
}

static void a_process_without_its_leader_goes_on(void **state)
{
	(void)state;
	all_ways(leader_goes);
}

/* ---- interrupted calls ---- */

static double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* A sleep is as long as it was meant to be, and no call tells of an interruption. */
static void *sleeper(void *arg)
{
	(void)arg;
	struct timespec rest = { 0 }, long_time = { 0, 600000000 };
	double start = seconds();
	board->ready = 1;
	check(nanosleep(&long_time, &rest) == 0);
	double slept = seconds() - start;
	check(slept > 0.59 && slept < 1.1);
	board->seen[0] = (uint64_t)(slept * 1000);
	board->seen[1] = 1;
	return NULL;
}

static void *waiter(void *arg)
{
	sigset_t none;
	siginfo_t info;
	(void)arg;
	sigemptyset(&none);
	sigaddset(&none, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &none, NULL);
	check(sigtimedwait(&none, &info, &(struct timespec){ 0, 700000000 }) < 0 &&
	      errno == EAGAIN);
	board->seen[2] = 1;
	return NULL;
}

static void sleep_and_count(void)
{
	pthread_t threads[2];
	pthread_create(&threads[0], NULL, sleeper, NULL);
	pthread_create(&threads[1], NULL, waiter, NULL);
	while (!board->end) {
		board->rounds++;
		check(nanosleep(&(struct timespec){ 0, 1000000 }, NULL) == 0);
	}
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
}

static void interrupted_calls_go_on(void **state)
{
	(void)state;
	not_sanitized();
	all_ways(sleep_and_count);
	assert_int_equal(board->seen[1], 1);
	assert_int_equal(board->seen[2], 1);
}

/* ---- families ---- */

/* Of each process a place on the board, so that the rounds of all are seen. */
static void live(int place, pid_t parent, pid_t group, pid_t session)
{
	const pid_t pid = getpid();
	while (!board->end) {
		check(getpid() == pid && getppid() == parent);
		check(!group || getpgrp() == group);
		check(!session || getsid(0) == session);
		board->seen[place]++;
		nap(1);
	}
}

/* A parent watches that all go on, with a zombie and children in a session and groups of theirs. */
static void family(void)
{
	const pid_t me = getpid();
	setpgid(0, 0);
	pid_t leader = fork();
	if (leader == 0) {
		const pid_t pid = getpid();
		setsid();
		if (fork() == 0) { /* a job of the session */
			setpgid(0, 0);
			live(2, pid, getpid(), pid);
			_exit(0);
		}
		if (fork() == 0) {
			live(3, pid, pid, pid);
			_exit(0);
		}
		live(1, me, pid, pid);
		while (wait(NULL) > 0) {
		}
		_exit(7);
	}
	const pid_t zombie = fork(), killed = zombie ? fork() : 0;
	if (zombie == 0)
		_exit(42);
	if (killed == 0) {
		raise(SIGKILL);
		_exit(0);
	}
	siginfo_t info;
	waitid(P_PID, (id_t)zombie, &info, WEXITED | WNOWAIT);
	waitid(P_PID, (id_t)killed, &info, WEXITED | WNOWAIT);
	board->ready = 1;
	uint64_t before = 0;
	while (!board->end) {
		check(getpid() == me && getpgrp() == me && kill(zombie, 0) == 0);
		nap(1);
		uint64_t least = UINT64_MAX;
		for (int i = 1; i <= 3; i++)
			least = board->seen[i] < least ? board->seen[i] : least;
		board->rounds += least > before;
		before = least;
	}
	int status = 0;
	check(waitpid(zombie, &status, 0) == zombie && WIFEXITED(status) &&
	      WEXITSTATUS(status) == 42);
	check(waitpid(killed, &status, 0) == killed && WIFSIGNALED(status) &&
	      WTERMSIG(status) == SIGKILL);
	check(waitpid(leader, &status, 0) == leader && WEXITSTATUS(status) == 7);
}

static void families_go_on(void **state)
{
	(void)state;
	all_ways(family);
}

/* ---- memory of all sorts ---- */

#define PAGE	      4096UL
#define GUARD_INSTALL 102 /* MADV_GUARD_INSTALL */
#define AREAS	      18

static unsigned char *areas[AREAS];
static const int advice_of[] = { MADV_DONTFORK,	  MADV_WIPEONFORK, MADV_DONTDUMP, MADV_HUGEPAGE,
				 MADV_NOHUGEPAGE, MADV_MERGEABLE,  MADV_RANDOM,	  MADV_SEQUENTIAL };
#define ADVICES (int)(sizeof(advice_of) / sizeof(*advice_of))

static unsigned char *map(int prot, int flags, int fd, size_t pages)
{
	unsigned char *at = mmap(NULL, pages * PAGE, prot, flags, fd, 0);
	check(at != MAP_FAILED);
	return at;
}

static void fill(unsigned char *at, size_t pages, int seed)
{
	for (size_t i = 0; i < pages; i++)
		at[i * PAGE + (i * 37) % PAGE] = (unsigned char)(seed + (int)i * 3 + 1);
}

static void still(const unsigned char *at, size_t pages, int seed)
{
	for (size_t i = 0; i < pages; i++)
		check(at[i * PAGE + (i * 37) % PAGE] == (unsigned char)(seed + (int)i * 3 + 1));
}

/* A file without a name, of 8 pages. */
static int nameless(bool memfd)
{
	char path[] = "/tmp/vin-gone-XXXXXX";
	int fd = memfd ? memfd_create("a name", 0) : mkstemp(path);
	if (!memfd)
		unlink(path);
	check(fd >= 0 && ftruncate(fd, 8 * PAGE - 100) == 0);
	unsigned char *at = map(PROT_READ | PROT_WRITE, MAP_SHARED, fd, 8);
	fill(at, 8, 50);
	munmap(at, 8 * PAGE);
	return fd;
}

static int make_areas(void)
{
	const int rw = PROT_READ | PROT_WRITE, own = MAP_PRIVATE | MAP_ANONYMOUS;
	int n = 0;
	areas[n++] = map(rw, own | MAP_GROWSDOWN, -1, 8);
	areas[n++] = map(rw, own | MAP_NORESERVE, -1, 8);
	areas[n++] = map(rw | PROT_EXEC, own, -1, 8);
	areas[n++] = map(rw, MAP_SHARED | MAP_ANONYMOUS, -1, 8);
	areas[n++] = sbrk(8 * PAGE);
	for (int i = 0; i < ADVICES; i++) {
		areas[n] = map(rw, own, -1, 8);
		(void)madvise(areas[n++], 8 * PAGE, advice_of[i]);
	}
	areas[n] = map(rw, own, -1, 8);
	check(mlock(areas[n++], 4 * PAGE) == 0);
	for (int i = 0; i < n; i++)
		fill(areas[i], 8, i);
	return n;
}

/* Those of files keep what the file has where nobody wrote. */
static int make_areas_of_files(int n)
{
	for (int memfd = 0; memfd < 2; memfd++) {
		int fd = nameless(memfd);
		areas[n] = map(PROT_READ | PROT_WRITE, MAP_SHARED, fd, 8);
		fill(areas[n], 4, 50);
		n++;
		areas[n] = map(PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 8);
		fill(areas[n], 4, 50);
		n++;
		close(fd);
	}
	return n;
}

/* Of the kernel's merging: an area below one that came from the parent stays one of its own, and
 * when both are made anew they are one. */
static unsigned char *inherited; /* 16 pages, or NULL */

static unsigned char *map_below_inherited(void)
{
	if (!inherited)
		return map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 8);
	unsigned char *at = mmap(inherited, 8 * PAGE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	check(at == inherited);
	return at;
}

static void odd_memory(void)
{
	int own = make_areas(), all = make_areas_of_files(own);
	unsigned char *none = map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 8);
	unsigned char *traps = map_below_inherited();
	fill(none, 8, 99);
	mprotect(none, 8 * PAGE, PROT_NONE);
	fill(traps, 8, 98);
	const bool guards = madvise(traps + 2 * PAGE, PAGE, GUARD_INSTALL) == 0;
	board->ready = 1;
	while (!board->end) {
		for (int i = 0; i < all; i++)
			still(areas[i], 8, i < own ? i : 50);
		still(traps, 2, 98);
		board->rounds++;
		nap(1);
	}
	mprotect(none, 8 * PAGE, PROT_READ);
	still(none, 8, 99);
	/* a trap is EFAULT for the kernel too */
	unsigned char byte;
	struct iovec here = { &byte, 1 }, there = { traps + 2 * PAGE, 1 };
	if (guards)
		check(process_vm_readv(getpid(), &here, 1, &there, 1, 0) < 0);
	/* the very same memory twice: shared is shared, private is not */
	areas[own][0] = 7;
	check(areas[own + 1][0] != 7);
}

static void memory_of_all_sorts_goes_on(void **state)
{
	(void)state;
	all_ways(odd_memory);
}

/* What two processes share they share again; and /proc shows the same areas with the same flags. */
static void sharers(void)
{
	volatile uint64_t *both =
		mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t child = fork();
	if (child == 0) {
		while (!board->end) {
			uint64_t asked = both[0];
			both[512] = asked;
			nap(1);
		}
		_exit(0);
	}
	board->ready = 1;
	while (!board->end) {
		both[0]++;
		for (int i = 0; i < 30000 && both[512] != both[0] && !board->end; i++)
			nap(1);
		check(both[512] == both[0] || board->end);
		board->rounds++;
	}
	waitpid(child, NULL, 0);
}

static void shared_memory_stays_shared(void **state)
{
	(void)state;
	all_ways(sharers);
}

static pid_t child_of(pid_t pid)
{
	char path[64];
	pid_t child = 0;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	FILE *children = fopen(path, "r");
	if (!children || fscanf(children, "%d", &child) != 1)
		child = 0;
	if (children)
		fclose(children);
	return child;
}

static bool same_but_inode(const struct vin_vma *a, const struct vin_vma *b)
{
	const uint64_t sd = 1ULL << VIN_VMA_SOFTDIRTY;
	/* only root makes shared memory without a name that is shown as it was */
	const bool named = geteuid() == 0 || !strstr(a->name, "(deleted)");
	if (strstr(a->name, "vin-gone"))
		return a->start == b->start && a->end == b->end;
	return a->start == b->start && a->end == b->end && a->offset == b->offset &&
	       a->prot == b->prot && a->shared == b->shared && (a->flags | sd) == (b->flags | sd) &&
	       (!named || strcmp(a->name, b->name) == 0);
}

/* Areas that continue each other are one when they are made anew: then all of it has the flag of
 * those with traps in them. */
static void join(struct vin_maps *m)
{
	const uint64_t traps = 1ULL << VIN_VMA_GUARDS;
	size_t kept = 0;
	for (size_t i = 1; i < m->count; i++) {
		struct vin_vma *last = &m->vmas[kept], *v = &m->vmas[i];
		if (last->end == v->start && last->ino == 0 && v->ino == 0 &&
		    last->prot == v->prot && (last->flags | traps) == (v->flags | traps) &&
		    strcmp(last->name, v->name) == 0) {
			last->end = v->end;
			last->flags |= v->flags;
			free(v->name);
		} else {
			m->vmas[++kept] = *v;
		}
	}
	m->count = kept + 1;
}

static void the_map_of_memory_is_the_same(void **state)
{
	struct vin_maps before = { 0 }, after = { 0 };
	(void)state;
	inherited =
		mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(inherited, MAP_FAILED);
	memset(inherited, 1, 16 * PAGE);
	pid_t pid = victim(odd_memory);
	munmap(inherited, 16 * PAGE);
	inherited = NULL;
	wait_for_rounds();
	OK(vin_maps_read(pid, true, &before, &err));
	FILE *image = capture(pid, false);
	reap_killed(pid);
	pid_t init = replay(image);
	fclose(image);
	wait_for_rounds();
	OK(vin_maps_read(child_of(init), true, &after, &err));
	join(&before);
	join(&after);
	for (size_t i = 0; i < before.count && i < after.count; i++) {
		const struct vin_vma *a = &before.vmas[i], *b = &after.vmas[i];
		if (!same_but_inode(a, b)) {
			print_error("%lx-%lx %d %lx %s\n%lx-%lx %d %lx %s\n", a->start, a->end,
				    a->prot, a->flags, a->name, b->start, b->end, b->prot, b->flags,
				    b->name);
			board->wrong++;
		}
	}
	assert_int_equal(before.count, after.count);
	vin_maps_free(&before);
	vin_maps_free(&after);
	end_well(init);
}

/* ---- what goes wrong ---- */

/* Whether somebody else than @one is a child of ours */
static bool child_of_us_but(pid_t one)
{
	char path[64], word[32];
	bool found = false;
	snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
	FILE *children = fopen(path, "r");
	while (children && fscanf(children, "%31s", word) == 1)
		found |= strtol(word, NULL, 10) != one;
	if (children)
		fclose(children);
	return found;
}

static void nobody_is_left_but(pid_t one)
{
	for (int i = 0; i < 3000; i++) {
		pid_t pid = waitpid(-1, NULL, WNOHANG | __WALL);
		assert_int_not_equal(pid, one);
		if (pid < 0 || (pid == 0 && one && kill(one, 0) == 0 && !child_of_us_but(one)))
			return;
		if (pid == 0)
			nap(1);
	}
	fail_msg("somebody is left");
}

static void a_damaged_image_makes_nothing(void **state)
{
	struct vin_replay_options options = { .root = outside, .user = geteuid() != 0 };
	struct vin_replay *r;
	struct vin_in *in;
	(void)state;
	pid_t pid = victim(count);
	FILE *image = capture(pid, false);
	reap_killed(pid);
	const int fd = fileno(image);
	const off_t len = lseek(fd, 0, SEEK_END);
	for (off_t at = 8; at < len; at += at < 8000 ? 211 : len / 7) {
		char good, bad;
		assert_int_equal(pread(fd, &good, 1, at), 1);
		bad = (char)(good ^ 0x10);
		assert_int_equal(pwrite(fd, &bad, 1, at), 1);
		lseek(fd, 0, SEEK_SET);
		int failed = vin_in_open(fd, &in, NULL);
		if (failed == 0) {
			failed = vin_replay_build(in, &options, &r, NULL);
			vin_in_close(in);
		}
		assert_true(failed < 0);
		assert_int_equal(pwrite(fd, &good, 1, at), 1);
	}
	assert_int_equal(ftruncate(fd, len - 30), 0);
	lseek(fd, 0, SEEK_SET);
	OK(vin_in_open(fd, &in, &err));
	assert_int_equal(vin_replay_build(in, &options, &r, NULL), -EBADMSG);
	vin_in_close(in);
	fclose(image);
	nobody_is_left_but(0);
}

static void with_a_segment(void)
{
	int id = shmget(IPC_PRIVATE, 4096, 0600);
	volatile char *at = shmat(id, NULL, 0);
	shmctl(id, IPC_RMID, NULL);
	*at = 1;
	board->ready = 1;
	while (!board->end) {
		board->rounds++;
		nap(1);
	}
}

static void what_can_not_be_captured_is_named_and_goes_on(void **state)
{
	struct vin_capture *c;
	(void)state;
	pid_t pid = victim(with_a_segment);
	err = (struct fvm_error){ 0 };
	assert_int_equal(vin_capture_open(&pid, 1, &bare, &c, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "SysV"));
	wait_for_rounds();
	end_well(pid);
}

/* ---- with all that a process has ---- */

static volatile sig_atomic_t alarms;

static void on_alarm(int sig)
{
	(void)sig;
	alarms++;
}

/* Descriptors 0 to 7, and no others. */
static void open_all(int pipes[2])
{
	struct epoll_event e = { .events = EPOLLIN, .data.u64 = 99 };
	(void)close_range(0, ~0U, 0);
	check(open("/dev/null", O_RDWR) == 0);
	check(dup(0) == 1);
	check(dup(0) == 2);
	check(open("/tmp", O_TMPFILE | O_RDWR, 0600) == 3);
	check(pipe(pipes) == 0 && pipes[0] == 4);
	check(epoll_create1(0) == 6);
	check(epoll_ctl(6, EPOLL_CTL_ADD, pipes[0], &e) == 0);
	check(eventfd(5, EFD_NONBLOCK) == 7);
}

/* The file grows by a number each round, and all of it is as it was written. */
static bool file_is_whole(uint64_t rounds)
{
	uint64_t at = rounds % 64, got = 0, wrote = rounds * 3;
	return lseek(3, 0, SEEK_CUR) == (off_t)(rounds * 8) &&
	       write(3, &wrote, sizeof(wrote)) == sizeof(wrote) &&
	       pread(3, &got, sizeof(got), (off_t)(at * 8)) == sizeof(got) && got == at * 3;
}

static bool pipe_and_events_work(const int pipes[2])
{
	struct epoll_event e = { 0 };
	uint64_t five = 0;
	char c = 0;
	int n;
	if (write(pipes[1], "x", 1) != 1)
		return false;
	while ((n = epoll_wait(6, &e, 1, 1000)) < 0 && errno == EINTR)
		;
	return n == 1 && e.data.u64 == 99 && read(pipes[0], &c, 1) == 1 && c == 'q' &&
	       read(7, &five, sizeof(five)) == sizeof(five) && five == 5 &&
	       write(7, &five, sizeof(five)) == sizeof(five);
}

static bool signal_still_waits(void)
{
	sigset_t waits;
	return sigpending(&waits) == 0 && sigismember(&waits, SIGRTMIN + 3) == 1;
}

static void use_all(void)
{
	int pipes[2];
	sigset_t some;
	const struct sigaction count_alarms = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	const struct itimerval often = { { 0, 5000 }, { 0, 5000 } };
	open_all(pipes);
	check(write(pipes[1], "q", 1) == 1); /* always one behind */
	sigemptyset(&some);
	sigaddset(&some, SIGRTMIN + 3);
	sigprocmask(SIG_BLOCK, &some, NULL);
	check(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){ .sival_int = 41 }) == 0);
	check(sigaction(SIGALRM, &count_alarms, NULL) == 0 &&
	      setitimer(ITIMER_REAL, &often, NULL) == 0);
	board->ready = 1;
	for (uint64_t rounds = 0; !board->end; rounds++) {
		const int before = alarms;
		check(file_is_whole(rounds));
		char c;
		check(pipe_and_events_work(pipes) && read(pipes[0], &c, 1) == 1 &&
		      write(pipes[1], "q", 1) == 1);
		check(signal_still_waits());
		for (int i = 0; i < 30000 && alarms == before; i++)
			nap(1);
		check(alarms != before);
		board->rounds++;
	}
	siginfo_t info;
	check(sigwaitinfo(&some, &info) == SIGRTMIN + 3 && info.si_value.sival_int == 41);
}

static void files_signals_and_timers_go_on(void **state)
{
	(void)state;
	not_sanitized();
	how = &whole;
	all_ways(use_all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(a_counter_goes_on, each_teardown),
		cmocka_unit_test_teardown(threads_go_on, each_teardown),
		cmocka_unit_test_teardown(a_process_without_its_leader_goes_on, each_teardown),
		cmocka_unit_test_teardown(interrupted_calls_go_on, each_teardown),
		cmocka_unit_test_teardown(families_go_on, each_teardown),
		cmocka_unit_test_teardown(memory_of_all_sorts_goes_on, each_teardown),
		cmocka_unit_test_teardown(shared_memory_stays_shared, each_teardown),
		cmocka_unit_test_teardown(the_map_of_memory_is_the_same, each_teardown),
		cmocka_unit_test_teardown(a_damaged_image_makes_nothing, each_teardown),
		cmocka_unit_test_teardown(files_signals_and_timers_go_on, each_teardown),
		cmocka_unit_test_teardown(what_can_not_be_captured_is_named_and_goes_on,
					  each_teardown),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
