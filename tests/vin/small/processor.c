/* What a processor keeps for a thread, as the manuals of its instructions, rseq(2), membarrier(2),
 * pkeys(7) and sigaltstack(2) have it. What this one lacks is skipped, by name. */
#include <linux/membarrier.h>
#include <linux/rseq.h>
#include <pthread.h>
#include <sys/rseq.h>
#include <sys/ucontext.h>

#include "small.h"

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

static volatile int go_on = 1, rounds, wrong;

static void rounds_make(void *(*fn)(void *))
{
	small_thread(fn, NULL);
	for (int i = 0; i < 30000 && !rounds; i++)
		small_nap(1);
	CHECK(rounds > 0);
}

/* Two more whole rounds: one of them began after the stop. */
static void rounds_check(void)
{
	const int before = rounds;
	for (int i = 0; i < 30000 && rounds < before + 2; i++)
		small_nap(1);
	CHECK(!wrong && rounds >= before + 2);
}

#ifdef __x86_64__
/* Nothing but user mode between the two, for some milliseconds. */
#define SPIN                                                                                       \
	"mov $2000000, %%rcx\n"                                                                    \
	"1: dec %%rcx\n"                                                                           \
	"jnz 1b\n"

static const uint64_t pattern[8] = { 0x0102030405060708, 0x1112131415161718, 0x2122232425262728,
				     0x3132333435363738, 0x4142434445464748, 0x5152535455565758,
				     0x6162636465666768, 0x7172737475767778 };

static void *with_avx(void *arg)
{
	uint64_t out[2][4];
	while (go_on) {
		__asm__ volatile("vmovdqu %2, %%ymm0\n"
				 "vmovdqu %2, %%ymm15\n" SPIN "vmovdqu %%ymm0, %0\n"
				 "vmovdqu %%ymm15, %1\n"
				 "vzeroupper\n"
				 : "=m"(out[0]), "=m"(out[1])
				 : "m"(pattern)
				 : "rcx", "xmm0", "xmm15", "cc");
		for (int i = 0; i < 2; i++)
			wrong |= memcmp(out[i], pattern, sizeof(out[i])) != 0;
		rounds++;
	}
	return arg;
}

static void avx_make(void)
{
	if (!__builtin_cpu_supports("avx"))
		small_skip("this processor has no AVX");
	rounds_make(with_avx);
}

/* The upper half of one of the first 16, one of those that only this has, and a mask. */
static void *with_avx512(void *arg)
{
	uint64_t out[2][8], mask;
	while (go_on) {
		__asm__ volatile("vmovdqu64 %3, %%zmm1\n"
				 "vmovdqu64 %3, %%zmm31\n"
				 "mov $0xa5c3, %%eax\n"
				 "kmovw %%eax, %%k5\n" SPIN "vmovdqu64 %%zmm1, %0\n"
				 "vmovdqu64 %%zmm31, %1\n"
				 "kmovw %%k5, %%eax\n"
				 "mov %%rax, %2\n"
				 "vzeroupper\n"
				 : "=m"(out[0]), "=m"(out[1]), "=m"(mask)
				 : "m"(pattern)
				 : "rax", "rcx", "xmm1", "cc");
		for (int i = 0; i < 2; i++)
			wrong |= memcmp(out[i], pattern, sizeof(out[i])) != 0;
		wrong |= mask != 0xa5c3;
		rounds++;
	}
	return arg;
}

static void avx512_make(void)
{
	if (!__builtin_cpu_supports("avx512f"))
		small_skip("this processor has no AVX-512");
	rounds_make(with_avx512);
}

/* Rounding, exceptions that are masked, and those that have been seen. */
static void *with_controls(void *arg)
{
	while (go_on) {
		const uint32_t mxcsr = 0x7fa5; /* to zero, flush to zero; inexact, zero, invalid */
		const uint16_t x87 = 0x0e7f;   /* up, extended */
		uint32_t now = 0;
		uint16_t word = 0, status = 0;
		__asm__ volatile("fninit\n"
				 "fldcw %4\n"
				 "fld1\n"
				 "fldz\n"
				 "fdivrp\n" /* 1 / 0: seen from now on */
				 "ldmxcsr %3\n" SPIN "stmxcsr %0\n"
				 "fnstcw %1\n"
				 "fnstsw %2\n"
				 "fninit\n"
				 : "=m"(now), "=m"(word), "=m"(status)
				 : "m"(mxcsr), "m"(x87)
				 : "rcx", "cc", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)",
				   "st(6)", "st(7)");
		wrong |= now != mxcsr || word != x87 || !(status & 4);
		rounds++;
	}
	return arg;
}

static void controls_make(void)
{
	rounds_make(with_controls);
}

static uint32_t read_pkru(void)
{
	uint32_t value;
	__asm__ volatile("xor %%ecx, %%ecx\nrdpkru" : "=a"(value) : : "ecx", "edx");
	return value;
}

/* No page has a key: only the register has rights of keys that nobody uses. */
static void keys_make(void)
{
	const int key = pkey_alloc(0, PKEY_DISABLE_WRITE);
	if (key < 0)
		small_skip("this processor has no protection keys");
	CHECK(pkey_get(key) == PKEY_DISABLE_WRITE);
	rounds = (int)read_pkru();
}

static void keys_check(void)
{
	CHECK(read_pkru() == (uint32_t)rounds);
}
#else
#define OTHER(name)                                                                                \
	static void name##_make(void)                                                              \
	{                                                                                          \
		small_skip("this is another processor");                                           \
	}
OTHER(avx)
OTHER(avx512)
OTHER(controls)
OTHER(keys)

static void keys_check(void)
{
}
#endif

/* ---- rseq(2) ---- */

static struct rseq *area(void)
{
	return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

static void sequence_area_make(void)
{
	if (__rseq_size == 0)
		small_skip("no restartable sequences are registered here");
}

/* The kernel writes there whenever the thread comes back to its program. */
static void sequence_area_check(void)
{
	cpu_set_t one, all;
	CHECK(sched_getaffinity(0, sizeof(all), &all) == 0);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		CHECK(sched_setaffinity(0, sizeof(one), &one) == 0);
		CHECK(*(volatile uint32_t *)&area()->cpu_id == (uint32_t)cpu);
		CHECK(*(volatile uint32_t *)&area()->cpu_id_start == (uint32_t)cpu);
	}
	CHECK(sched_setaffinity(0, sizeof(all), &all) == 0);
	/* it is registered, as it was: another one can't be */
	CHECK(syscall(SYS_rseq, area(), sizeof(struct rseq), 0, 0x12345678) < 0 &&
	      (errno == EPERM || errno == EINVAL));
}

static struct rseq own __attribute__((aligned(32)));
static volatile int own_cpu = -1;

/* A thread that has registered an area of the first length that there was. */
static void *with_own(void *arg)
{
	if (syscall(SYS_rseq, area(), __rseq_size < 32 ? 32 : __rseq_size, RSEQ_FLAG_UNREGISTER,
		    0x53053053) < 0 ||
	    syscall(SYS_rseq, &own, 32, 0, 0x12345678) < 0)
		wrong = errno;
	for (rounds = 1; go_on;) {
		small_nap(1);
		own_cpu = (int)*(volatile uint32_t *)&own.cpu_id;
	}
	return arg;
}

static void sequence_own_make(void)
{
	sequence_area_make();
	rounds_make(with_own);
}

static void sequence_own_check(void)
{
	CHECK(wrong == 0);
	/* what is written over stays so, unless the kernel still knows of it */
	*(volatile uint32_t *)&own.cpu_id = 9999;
	for (int i = 0; i < 30000 && *(volatile uint32_t *)&own.cpu_id == 9999; i++)
		small_nap(1);
	CHECK(*(volatile uint32_t *)&own.cpu_id < 9999);
}

/* ---- membarrier(2) ---- */

static const int barriers[][2] = {
	{ MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, MEMBARRIER_CMD_GLOBAL_EXPEDITED },
	{ MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, MEMBARRIER_CMD_PRIVATE_EXPEDITED },
	{ MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE,
	  MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE },
};

static int barrier(int what)
{
	return (int)syscall(SYS_membarrier, what, 0, 0);
}

static void barriers_make(void)
{
	if (barrier(MEMBARRIER_CMD_QUERY) < 0)
		small_skip("this kernel has no membarrier(2)");
	/* of one, nobody is told: it must stay unregistered */
	for (size_t i = 0; i < 2; i++)
		CHECK(barrier(barriers[i][0]) == 0);
}

static void barriers_check(void)
{
	CHECK(barrier(barriers[0][1]) == 0 && barrier(barriers[1][1]) == 0);
	CHECK(barrier(barriers[2][1]) < 0 && errno == EPERM);
}

/* ---- sigaltstack(2) ---- */

static char stack_of_signals[64 * 1024];
static volatile int on_it, disarmed;

static void sees_stack(int sig)
{
	stack_t now;
	(void)sig;
	on_it = (char *)&now >= stack_of_signals &&
		(char *)&now < stack_of_signals + sizeof(stack_of_signals);
	disarmed = sigaltstack(NULL, &now) == 0 && now.ss_flags == SS_DISABLE;
}

static void disarm_make(void)
{
	const stack_t stack = { .ss_sp = stack_of_signals,
				.ss_flags = (int)SS_AUTODISARM,
				.ss_size = sizeof(stack_of_signals) };
	const struct sigaction a = { .sa_handler = sees_stack, .sa_flags = SA_ONSTACK };
	CHECK(sigaltstack(&stack, NULL) == 0 && sigaction(SIGUSR1, &a, NULL) == 0);
}

static void disarm_check(void)
{
	stack_t now;
	CHECK(sigaltstack(NULL, &now) == 0 && now.ss_flags == (int)SS_AUTODISARM);
	CHECK(now.ss_sp == stack_of_signals && now.ss_size == sizeof(stack_of_signals));
	on_it = disarmed = 0;
	CHECK(raise(SIGUSR1) == 0 && on_it && disarmed);
}

const struct small_case processor_cases[] = {
	{ "AVX: YMM0 and YMM15 of a thread that computes", avx_make, rounds_check, 0 },
	{ "AVX-512: ZMM1, ZMM31 and K5 of a thread that computes", avx512_make, rounds_check, 0 },
	{ "MXCSR and the x87 control and status words of a thread that computes", controls_make,
	  rounds_check, 0 },
	{ "pkeys(7): PKRU, while no page has a key", keys_make, keys_check, 0 },
	{ "rseq(2): the C library's area: cpu_id is where the thread runs", sequence_area_make,
	  sequence_area_check, 0 },
	{ "rseq(2): an area of the program's own, of 32 bytes", sequence_own_make,
	  sequence_own_check, 0 },
	{ "membarrier(2): two are registered, a third is not", barriers_make, barriers_check, 0 },
	{ "sigaltstack(2): SS_AUTODISARM", disarm_make, disarm_check, 0 },
	{ 0 },
};
