/* Programs of 64 bits that go into code of 32 bits and back, as Wine has it: registers, segments of
 * their own, calls by the old gate. Programs of 32 bits: small/narrow.c. */
#include "families.h"

#include <asm/ldt.h>

#define MAGIC	 0x5ca1ab1eU
#define LDT_SLOT 5

/* ---- there and back ---- */

/* What lies below 4 GiB: code, and what it needs. */
struct low {
	unsigned char code[256], back[64];
	uint32_t magic;
	struct {
		uint32_t seconds, nanoseconds;
	} time; /* of the old gate */
};

static struct low *low;
static struct board *low_board;
static uint64_t saved_stack;

struct writer {
	unsigned char *at;
};

static void put_bytes(struct writer *w, const void *bytes, size_t len)
{
	memcpy(w->at, bytes, len);
	w->at += len;
}

static void put_address(struct writer *w, const char *opcode, size_t len, const volatile void *at)
{
	const uint32_t address = (uint32_t)(uintptr_t)at;
	put_bytes(w, opcode, len);
	put_bytes(w, &address, sizeof(address));
}

/* Counts a round, sleeps for a moment, and tells of a register or segment that is another. */
static void write_code(bool segment)
{
	struct writer w = { low->code };
	const uint32_t magic = MAGIC;
	const uint16_t code_64 = 0x33;
	put_address(&w, "\xff\x05", 2, &low_board->rounds[0]); /* inc rounds */
	put_bytes(&w, "\xb8\xa2\x00\x00\x00", 5);	       /* mov $162 (nanosleep), %eax */
	put_address(&w, "\xbb", 1, &low->time);		       /* mov $time, %ebx */
	put_bytes(&w, "\x31\xc9\xcd\x80", 4);		       /* xor %ecx, %ecx; int $0x80 */
	put_bytes(&w, "\x81\xfe", 2);			       /* cmp $magic, %esi */
	put_bytes(&w, &magic, 4);
	put_bytes(&w, "\x75\x13", 2); /* jne wrong */
	/* mov %gs:magic, %eax or mov magic, %eax */
	put_address(&w, segment ? "\x65\xa1" : "\x90\xa1", 2,
		    segment ? (void *)offsetof(struct low, magic) : &low->magic);
	put_bytes(&w, "\x39\xf0\x75\x09", 4);		 /* cmp %esi, %eax; jne wrong */
	put_address(&w, "\x83\x3d", 2, &low_board->end); /* cmp $0, end */
	put_bytes(&w, "\x00", 1);
	put_bytes(&w, "\x74\x0c", 2);			     /* je again */
	put_address(&w, "\xc7\x05", 2, &low_board->seen[1]); /* wrong or end: mov %esi .. */
	put_bytes(&w, &magic, 4);
	put_bytes(&w, "\xeb\x05", 2); /* jmp out */
	/* again: */
	put_bytes(&w, "\xe9", 1);
	const int32_t back = (int32_t)(low->code - (w.at + 4));
	put_bytes(&w, &back, 4);
	/* out: */
	put_address(&w, "\xea", 1, low->back); /* ljmp $0x33, back */
	put_bytes(&w, &code_64, 2);
}

static bool make_low(void)
{
	struct user_desc d = { .entry_number = LDT_SLOT,
			       .limit = 0xfffff,
			       .seg_32bit = 1,
			       .limit_in_pages = 1,
			       .useable = 1 };
	const int fd = open(board_path, O_RDWR | O_CLOEXEC);
	low_board = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_32BIT, fd, 0);
	low = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	CHECK(low_board != MAP_FAILED && low != MAP_FAILED && close(fd) == 0);
	low->magic = MAGIC;
	low->time.nanoseconds = 1000000;
	d.base_addr = (unsigned int)(uintptr_t)low;
	if (syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)) < 0)
		return false;
	__asm__ volatile("mov %0, %%gs" : : "r"(LDT_SLOT << 3 | 7));
	return true;
}

/* Its code ends up at low->back, in 64 bits again. */
__attribute__((noinline)) static void go_there(void)
{
	memcpy(low->back, "\x48\xb8", 2); /* mov $.., %rax; jmp *%rax */
	memcpy(low->back + 10, "\xff\xe0", 2);
	__asm__ volatile("sub $128, %%rsp\n"
			 "push %%rbx\n"
			 "push %%rbp\n"
			 "mov %%rsp, %[stack]\n"
			 "lea 1f(%%rip), %%rax\n"
			 "mov %%rax, (%[back])\n"
			 "mov $0x2b, %%eax\n" /* data of 32 bits: there is none in 64 */
			 "mov %%eax, %%ds\n"
			 "mov %[magic], %%esi\n"
			 "pushq $0x23\n"
			 "push %[code]\n"
			 "lretq\n"
			 "1: mov %[stack], %%rsp\n"
			 "pop %%rbp\n"
			 "pop %%rbx\n"
			 "add $128, %%rsp\n"
			 : [stack] "=m"(saved_stack)
			 : [back] "d"(low->back + 2), [magic] "i"(MAGIC),
			   [code] "c"((uint64_t)(uintptr_t)low->code)
			 : "rax", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
			   "r15", "memory", "cc");
}

static void in_32_bits(void)
{
	const struct self was = self_now();
	write_code(make_low());
	go_there();
	CHECK(board->end);
	CHECK(getpid() == was.pid);
	board->end = 2;
}

static bool has_old_gate(void)
{
	long pid;
	__asm__ volatile("int $0x80" : "=a"(pid) : "0"(20L) : "r8", "r9", "r10", "r11", "memory");
	return pid == getpid();
}

static void code_of_32_bits_in_a_program_of_64(void **state)
{
	(void)state;
	if (!has_old_gate()) {
		print_message("this kernel runs no code of 32 bits\n");
		skip();
	}
	goes_on(in_32_bits, 1);
	assert_int_equal(board->end, 2);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		FAMILY(code_of_32_bits_in_a_program_of_64),
	};
	return cmocka_run_group_tests(tests, families_setup, families_teardown);
}

int main(void)
{
	return families_main(run);
}
