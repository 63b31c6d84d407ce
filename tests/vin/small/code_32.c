/*
 * A program of 32 bits without a library, which needs no more than a compiler: what it is besides
 * is told in narrow.c, which starts it. Its first argument says what it is to have; at each byte
 * that comes it checks that, and answers with a number: 1, or the negative line of the check that
 * failed.
 */
#include <stdbool.h>
#include <stdint.h>

enum {
	EXIT = 1,
	READ = 3,
	WRITE = 4,
	OPEN = 5,
	CLOSE = 6,
	GETPID = 20,
	SIGACTION = 67,
	READLINK = 85,
	BRK = 45,
	MUNMAP = 91,
	CLONE = 120,
	MREMAP = 163,
	NANOSLEEP = 162,
	POLL = 168,
	RT_SIGACTION = 174,
	RT_SIGPROCMASK = 175,
	RT_SIGPENDING = 176,
	SIGALTSTACK = 186,
	MMAP2 = 192,
	GETTID = 224,
	FUTEX = 240,
	SET_THREAD_AREA = 243,
	EXIT_GROUP = 252,
	EPOLL_CREATE = 254,
	EPOLL_CTL = 255,
	EPOLL_WAIT = 256,
	SET_TID_ADDRESS = 258,
	TGKILL = 270,
	SET_ROBUST_LIST = 311,
	PIPE2 = 331,
	SECCOMP = 354,
	PRCTL = 172,
	CLOCK_NANOSLEEP_64 = 407,
};

#define EINTR  (-4)
#define EAGAIN (-11)
#define PAGE   4096L
#define NOBODY __attribute__((naked, used))

static long call(long nr, long a, long b, long c, long d, long e)
{
	long r;
	__asm__ volatile("int $0x80"
			 : "=a"(r)
			 : "0"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory");
	return r;
}

#define CALL_(n, a, b, c, d, e, ...) call(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))
#define CALL(...)		     CALL_(__VA_ARGS__, 0, 0, 0, 0, 0, 0)

static volatile int wrong; /* line of a check that failed in a thread */

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x))                                                                          \
			return -__LINE__;                                                          \
	} while (0)

static void nap(void)
{
	long time[2] = { 0, 1000000 };
	CALL(NANOSLEEP, time, 0);
}

static int await(const volatile int *flag, int value)
{
	for (int i = 0; i < 30000 && *flag != value; i++)
		nap();
	return *flag == value ? 1 : -__LINE__;
}

/* ---- threads ---- */

#define OF_THREAD 0x50f00 /* CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM */
#define STACK	  16384

static char stacks[2][STACK] __attribute__((aligned(16)));
static int stack_count;

/* What the new stack has: the function; that is entered as calls are, 12 above a multiple of 16. */
static long thread(void (*fn)(void))
{
	void **top = (void **)(stacks[stack_count++] + STACK - 64 + 12);
	long r;
	*top = (void *)fn;
	__asm__ volatile("int $0x80\n"
			 "test %%eax, %%eax\n"
			 "jnz 1f\n"
			 "pop %%eax\n"
			 "call *%%eax\n"
			 "mov $1, %%eax\n"
			 "xor %%ebx, %%ebx\n"
			 "int $0x80\n"
			 "1:\n"
			 : "=a"(r)
			 : "0"(CLONE), "b"(OF_THREAD), "c"(top), "d"(0), "S"(0), "D"(0)
			 : "memory");
	return r;
}

/* ---- signals ---- */

#define SIGTRAP	 5
#define SIGUSR1	 10
#define SIGUSR2	 12
#define SIGINFO	 4
#define RESTORER 0x04000000
#define ONSTACK	 0x08000000

struct action {
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	uint32_t mask[2];
};

static volatile int handled, handled_info, handled_stack;
static char alternate[STACK];

static void on_signal(int sig)
{
	const uintptr_t here = (uintptr_t)__builtin_frame_address(0), at = (uintptr_t)alternate;
	handled = sig;
	handled_stack = here >= at && here < at + STACK;
}

static void on_info(int sig, const int *info, const void *context)
{
	handled = sig;
	handled_info = info[0] == sig && context != 0;
}

static void NOBODY back(void)
{
	__asm__("pop %eax\nmov $119, %eax\nint $0x80\n"); /* sigreturn(2) */
}

static void NOBODY back_info(void)
{
	__asm__("mov $173, %eax\nint $0x80\n"); /* rt_sigreturn(2) */
}

static long handle(int sig, void *handler, unsigned long flags, bool restorer)
{
	struct action a = { (void (*)(int))handler, flags, 0, { 0, 0 } };
	if (restorer) {
		a.flags |= RESTORER;
		a.restorer = flags & SIGINFO ? back_info : back;
	}
	return CALL(RT_SIGACTION, sig, &a, 0, 8);
}

static int sends(int sig)
{
	handled = 0;
	CHECK(CALL(TGKILL, CALL(GETPID), CALL(GETTID), sig) == 0);
	CHECK(handled == sig);
	return 1;
}

static int actions_make(void)
{
	CHECK(handle(SIGUSR1, (void *)on_signal, 0, false) == 0);
	CHECK(handle(SIGUSR2, (void *)on_info, SIGINFO, true) == 0);
	return 1;
}

static int actions_check(void)
{
	CHECK(sends(SIGUSR1) == 1);
	handled_info = 0;
	CHECK(sends(SIGUSR2) == 1 && handled_info);
	return 1;
}

static int trap_make(void)
{
	return handle(SIGTRAP, (void *)on_signal, 0, true) == 0 ? 1 : -__LINE__;
}

static int trap_check(void)
{
	handled = 0;
	__asm__ volatile("int3");
	CHECK(handled == SIGTRAP);
	return sends(SIGTRAP);
}

static int alternate_make(void)
{
	const struct {
		void *at;
		int flags;
		unsigned long size;
	} stack = { alternate, 0, STACK };
	CHECK(CALL(SIGALTSTACK, &stack, 0) == 0);
	return handle(SIGUSR1, (void *)on_signal, ONSTACK, false) == 0 ? 1 : -__LINE__;
}

static int alternate_check(void)
{
	CHECK(sends(SIGUSR1) == 1 && handled_stack);
	return 1;
}

static int mask_make(void)
{
	const uint32_t mask[2] = { 1U << (SIGUSR1 - 1), 1U << 31 };
	CHECK(CALL(RT_SIGPROCMASK, 2, mask, 0, 8) == 0);
	return CALL(TGKILL, CALL(GETPID), CALL(GETTID), SIGUSR1) == 0 ? 1 : -__LINE__;
}

static int mask_check(void)
{
	uint32_t mask[2], pending[2];
	CHECK(CALL(RT_SIGPROCMASK, 0, 0, mask, 8) == 0 && CALL(RT_SIGPENDING, pending, 8) == 0);
	CHECK(mask[0] == 1U << (SIGUSR1 - 1) && mask[1] == 1U << 31);
	CHECK(pending[0] == 1U << (SIGUSR1 - 1) && pending[1] == 0);
	return 1;
}

/* ---- registers and segments ---- */

static volatile int rounds;

/* All that a system call leaves alone, and what it has nothing to do with, in a loop. */
static void NOBODY computes(void)
{
	__asm__("mov $0x11111111, %ebx\n"
		"mov $0x22222222, %ecx\n"
		"mov $0x33333333, %edx\n"
		"mov $0x44444444, %esi\n"
		"mov $0x55555555, %edi\n"
		"mov $0x66666666, %ebp\n"
		"movd %ebx, %xmm0\n"
		"movd %ecx, %xmm7\n"
		"fldpi\n"
		"1:	incl rounds\n"
		"cmp $0x11111111, %ebx\n"
		"jne 2f\n"
		"cmp $0x22222222, %ecx\n"
		"jne 2f\n"
		"cmp $0x33333333, %edx\n"
		"jne 2f\n"
		"cmp $0x44444444, %esi\n"
		"jne 2f\n"
		"cmp $0x55555555, %edi\n"
		"jne 2f\n"
		"cmp $0x66666666, %ebp\n"
		"jne 2f\n"
		"movd %xmm0, %eax\n"
		"cmp %eax, %ebx\n"
		"jne 2f\n"
		"movd %xmm7, %eax\n"
		"cmp %eax, %ecx\n"
		"jne 2f\n"
		"fldpi\n"
		"fcomip %st(1), %st\n"
		"je 1b\n"
		"2:	movl $-1, wrong\n"
		"jmp 2b\n");
}

static int registers_make(void)
{
	return thread(computes) > 0 ? 1 : -__LINE__;
}

static int registers_check(void)
{
	const int now = rounds;
	for (int i = 0; i < 30000 && rounds - now < 1000; i++)
		nap();
	CHECK(rounds != now && !wrong);
	return 1;
}

static uint32_t block[4] = { 0xfeedface, 2, 3, 4 };
static uint16_t selector;

static int segment_make(void)
{
	/* base, limit in pages, 32 bits, data, usable */
	uint32_t area[4] = { (uint32_t)-1, (uint32_t)(uintptr_t)block, 0xfffff, 0x51 };
	CHECK(CALL(SET_THREAD_AREA, area) == 0);
	selector = (uint16_t)(area[0] << 3 | 3);
	__asm__ volatile("mov %0, %%gs" : : "r"(selector));
	return 1;
}

static int segment_check(void)
{
	uint32_t found;
	uint16_t gs, cs, ds;
	__asm__ volatile("mov %%gs, %0" : "=r"(gs));
	__asm__ volatile("mov %%cs, %0" : "=r"(cs));
	__asm__ volatile("mov %%ds, %0" : "=r"(ds));
	__asm__ volatile("mov %%gs:0, %0" : "=r"(found));
	CHECK(gs == selector && cs == 0x23 && ds == 0x2b && found == 0xfeedface);
	return 1;
}

/* ---- the kernel's page ---- */

static long entry; /* AT_SYSINFO */

static long by_entry(long nr)
{
	long r;
	__asm__ volatile("call *%1" : "=a"(r) : "r"(entry), "0"(nr) : "memory", "cc");
	return r;
}

static int entry_make(void)
{
	return entry ? 1 : -__LINE__;
}

static int entry_check(void)
{
	CHECK(by_entry(GETPID) == CALL(GETPID) && by_entry(GETTID) == CALL(GETTID));
	return 1;
}

/* ---- what waits ---- */

static volatile int slept, sleeper;
static struct {
	int64_t seconds, nanoseconds;
} rest;
static long narrow_rest[2];

static void sleeps(void)
{
	long time[2] = { 3600, 0 };
	sleeper = (int)CALL(GETTID);
	for (;;) {
		if (CALL(NANOSLEEP, time, narrow_rest) != EINTR)
			wrong = __LINE__;
		time[0] = narrow_rest[0];
		slept++;
	}
}

static int is_left(long seconds)
{
	return seconds > 3000 && seconds < 3600;
}

static int wakes(void)
{
	const int before = slept;
	CHECK(CALL(TGKILL, CALL(GETPID), sleeper, SIGUSR1) == 0);
	CHECK(await(&slept, before + 1) == 1 && !wrong);
	return 1;
}

static int sleep_make(void)
{
	CHECK(handle(SIGUSR1, (void *)on_signal, 0, false) == 0 && thread(sleeps) > 0);
	while (!sleeper)
		nap();
	return 1;
}

static int sleep_check(void)
{
	CHECK(!wrong);
	CHECK(wakes() == 1 && is_left(narrow_rest[0]));
	return 1;
}

/* By the entry, as libraries do, and the new call. */
static void sleeps_newly(void)
{
	struct {
		int64_t seconds, nanoseconds;
	} time = { 3600, 0 };
	sleeper = (int)CALL(GETTID);
	for (;;) {
		long r;
		__asm__ volatile("call *%1"
				 : "=a"(r)
				 : "m"(entry), "0"(CLOCK_NANOSLEEP_64), "b"(1), "c"(0), "d"(&time),
				   "S"(&rest)
				 : "memory");
		if (r != EINTR)
			wrong = __LINE__;
		time.seconds = rest.seconds;
		slept++;
	}
}

static int new_sleep_make(void)
{
	CHECK(handle(SIGUSR1, (void *)on_signal, 0, false) == 0 && thread(sleeps_newly) > 0);
	while (!sleeper)
		nap();
	return 1;
}

static int new_sleep_check(void)
{
	CHECK(!wrong);
	CHECK(wakes() == 1 && is_left((long)rest.seconds));
	return 1;
}

static int line[2];
static volatile int came;

static void reads(void)
{
	char c;
	for (;;) {
		if (CALL(READ, line[0], &c, 1) != 1 || c != 'x')
			wrong = __LINE__;
		came++;
	}
}

static int read_make(void)
{
	CHECK(CALL(PIPE2, line, 0) == 0);
	return thread(reads) > 0 ? 1 : -__LINE__;
}

static int line_check(void)
{
	const int before = came;
	CHECK(!wrong && CALL(WRITE, line[1], "x", 1) == 1);
	CHECK(await(&came, before + 1) == 1);
	return 1;
}

/* Of 12 bytes: what is awaited, and what it is known by. */
struct event {
	uint32_t events, data[2];
} __attribute__((packed));

static void waits(void)
{
	struct event e;
	char c;
	const int fd = (int)CALL(EPOLL_CREATE, 1);
	e = (struct event){ 1, { 7, 0 } };
	if (CALL(EPOLL_CTL, fd, 1, line[0], &e) != 0)
		wrong = __LINE__;
	for (;;) {
		if (CALL(EPOLL_WAIT, fd, &e, 1, -1) != 1 || e.data[0] != 7)
			wrong = __LINE__;
		if (CALL(READ, line[0], &c, 1) != 1)
			wrong = __LINE__;
		came++;
	}
}

static int epoll_make(void)
{
	CHECK(CALL(PIPE2, line, 0) == 0);
	return thread(waits) > 0 ? 1 : -__LINE__;
}

static volatile int word, polled;

static void polls(void)
{
	for (;;) {
		long time[2] = { 0, 20000000 };
		if (CALL(POLL, 0, 0, 20) != 0)
			wrong = __LINE__;
		/* FUTEX_WAIT_BITSET has a point in time, this one a length of it */
		if (CALL(FUTEX, &word, 0, 0, time) != -110)
			wrong = __LINE__;
		polled++;
	}
}

static int poll_make(void)
{
	return thread(polls) > 0 ? 1 : -__LINE__;
}

static int poll_check(void)
{
	const int before = polled;
	for (int i = 0; i < 30000 && polled < before + 2 && !wrong; i++)
		nap();
	if (wrong)
		return -wrong;
	CHECK(polled >= before + 2);
	return 1;
}

/* ---- memory ---- */

static uint32_t *mapped;
static long top;

static int memory_make(void)
{
	top = CALL(BRK, CALL(BRK, 0) + 3 * PAGE);
	*(volatile uint32_t *)(top - 4) = 41;
	mapped = (uint32_t *)CALL(MMAP2, 0, 4 * PAGE, 3, 0x22, -1);
	mapped[0] = 42;
	mapped[PAGE - 1] = 43; /* of four bytes each: the last one */
	return 1;
}

static int memory_check(void)
{
	CHECK(mapped[0] == 42 && mapped[PAGE - 1] == 43 && *(uint32_t *)(top - 4) == 41 &&
	      CALL(BRK, 0) == top);
	CHECK(CALL(BRK, top + PAGE) == top + PAGE && CALL(BRK, top) == top);
	const long at = CALL(MMAP2, 0, 64 * PAGE, 3, 0x22, -1);
	CHECK((unsigned long)at < (unsigned long)-PAGE);
	*(volatile char *)at = 1;
	const long moved = CALL(MREMAP, at, 64 * PAGE, 128 * PAGE, 1);
	CHECK((unsigned long)moved < (unsigned long)-PAGE && *(volatile char *)moved == 1);
	CHECK(CALL(MUNMAP, moved, 128 * PAGE) == 0);
	return 1;
}

/* ---- robust list, and what is cleared at a thread's end ---- */

static struct {
	void *next;
	long offset;
	void *pending;
} head;
static struct {
	void *next;
	volatile int word;
} mutex;
static volatile int robust_end, ended;

static void dies(void)
{
	CALL(SET_TID_ADDRESS, &ended);
	head.next = &mutex;
	head.offset = (long)((char *)&mutex.word - (char *)&mutex);
	mutex.next = &head;
	CALL(SET_ROBUST_LIST, &head, sizeof(head));
	mutex.word = (int)CALL(GETTID);
	ended = 1;
	while (!robust_end)
		nap();
}

static int robust_make(void)
{
	stack_count = 0;
	robust_end = 0;
	CHECK(thread(dies) > 0);
	return await(&ended, 1);
}

static int robust_check(void)
{
	const int owner_died = 0x40000000;
	CHECK(!(mutex.word & owner_died) && mutex.word);
	robust_end = 1;
	CHECK(await(&ended, 0) == 1);
	CHECK(mutex.word == owner_died);
	return robust_make();
}

/* ---- what /proc says ---- */

static char auxv[1024], now[1024];
static long auxv_len;

static long read_file(const char *path, char *to)
{
	const long fd = CALL(OPEN, path, 0);
	const long len = CALL(READ, fd, to, sizeof(now));
	CALL(CLOSE, fd);
	return len;
}

static int same(const char *a, const char *b, long len)
{
	while (len > 0 && *a == *b)
		a++, b++, len--;
	return len == 0;
}

static int proc_make(void)
{
	auxv_len = read_file("/proc/self/auxv", auxv);
	return auxv_len > 0 ? 1 : -__LINE__;
}

static int proc_check(void)
{
	CHECK(read_file("/proc/self/auxv", now) == auxv_len && same(auxv, now, auxv_len));
	CHECK(CALL(READLINK, "/proc/self/exe", now, sizeof(now)) > 7);
	return 1;
}

/* ---- a filter ---- */

struct filter {
	uint16_t code;
	uint8_t yes, no;
	uint32_t k;
};

static int filter_make(void)
{
	/* the architecture is i386, and sched_yield(2), which is 158, fails with 77 */
	static const struct filter filter[] = {
		{ 0x20, 0, 0, 4 },   { 0x15, 0, 3, 0x40000003 }, { 0x20, 0, 0, 0 },
		{ 0x15, 0, 1, 158 }, { 0x06, 0, 0, 0x0005004d }, { 0x06, 0, 0, 0x7fff0000 },
	};
	const struct {
		uint16_t count;
		const struct filter *list;
	} program = { 6, filter };
	CHECK(CALL(PRCTL, 38, 1, 0, 0, 0) == 0);
	CHECK(CALL(SECCOMP, 1, 0, &program) == 0);
	return 1;
}

static int filter_check(void)
{
	CHECK(CALL(158) == -77 && CALL(GETPID) > 0);
	return 1;
}

/* ---- for whoever stops it anywhere ---- */

static int several_make(void)
{
	CHECK(trap_make() == 1 && segment_make() == 1 && registers_make() == 1);
	return 1;
}

static char asked;

/* The breakpoint only when told that no controller has just died: see vin/rcall.h. */
static int several_check(void)
{
	int r = asked == '!' ? trap_check() : 1;
	if (r == 1)
		r = segment_check();
	return r == 1 ? registers_check() : r;
}

/* ---- the program ---- */

static const struct {
	char name;
	int (*make)(void);
	int (*check)(void);
} cases[] = {
	{ 'a', actions_make, actions_check },	  { 't', trap_make, trap_check },
	{ 'k', alternate_make, alternate_check }, { 'm', mask_make, mask_check },
	{ 'r', registers_make, registers_check }, { 'g', segment_make, segment_check },
	{ 'v', entry_make, entry_check },	  { 'n', sleep_make, sleep_check },
	{ 'c', new_sleep_make, new_sleep_check }, { 'w', read_make, line_check },
	{ 'e', epoll_make, line_check },	  { 'p', poll_make, poll_check },
	{ 'b', memory_make, memory_check },	  { 'l', robust_make, robust_check },
	{ 'x', proc_make, proc_check },		  { 'f', filter_make, filter_check },
	{ 's', several_make, several_check },
};

static void tell(int what)
{
	CALL(WRITE, 1, &what, sizeof(what));
}

/* The stack as the kernel leaves it: count, arguments, 0, environment, 0, numbers. */
__attribute__((used, noreturn)) static void begin(long *stack)
{
	const char name = stack[0] > 1 ? *(const char *)stack[2] : 0;
	unsigned int i = 0;
	long *at = stack + 1 + stack[0] + 1;
	while (*at++)
		;
	for (; at[0]; at += 2) {
		if (at[0] == 32)
			entry = at[1];
	}
	while (i < sizeof(cases) / sizeof(*cases) && cases[i].name != name)
		i++;
	if (i < sizeof(cases) / sizeof(*cases)) {
		tell(cases[i].make());
		while (CALL(READ, 0, &asked, 1) == 1)
			tell(cases[i].check());
	}
	for (;;)
		CALL(EXIT_GROUP, 0);
}

__attribute__((naked, noreturn, used)) void _start(void);
void _start(void)
{
	__asm__("mov %esp, %eax\n"
		"and $-16, %esp\n"
		"sub $12, %esp\n"
		"push %eax\n"
		"call begin\n");
}
