#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>

#include "vin/arch.h"

#ifndef __x86_64__
#error "vin knows x86-64 only; another processor is one more file like this one"
#endif

/*
 * Registers while calls are made, all of which the kernel leaves alone:
 *   r12 entry of the table, r13 its end, r14 struct vin_rescue, rbp the program's SIGTRAP action,
 *   r15 the highest result that the batch goes on after (failures are the 4095 highest numbers)
 * Where there is a stub: r14 the frame, rbp struct vin_keep. rbx is the old gate's first argument.
 *
 * A breakpoint's signal that we have waited for is gone when we die, and the thread goes on behind
 * the breakpoint: there it is sent into it again.
 *
 * The rescue handler is entered as any handler: rdx points to the frame's ucontext, rsp to the
 * frame. It copies r8 .. eflags, cs .. ss into sigcontext (40 bytes into ucontext), the mask into
 * uc_sigmask (296 bytes), and returns. Extended state is the one the kernel saved: calls do not
 * touch it.
 */
__asm__(".pushsection .rodata\n"
	".global vin_code, vin_code_gate, vin_code_batch, vin_code_rescue, vin_code_rescue_32\n"
	".global vin_code_home, vin_code_end\n"
	".hidden vin_code, vin_code_gate, vin_code_batch, vin_code_rescue, vin_code_rescue_32\n"
	".hidden vin_code_home, vin_code_end\n"
	".balign 16\n"
	"vin_code:\n"
	"	syscall\n"
	"3:	int3\n"
	"	jmp 3b\n"
	"vin_code_gate:\n"
	"	int $0x80\n"
	"	jmp 3b\n"
	"vin_code_batch:\n"
	"2:	mov (%r12), %rax\n"
	"	mov 8(%r12), %rdi\n"
	"	mov 16(%r12), %rsi\n"
	"	mov 24(%r12), %rdx\n"
	"	mov 32(%r12), %r10\n"
	"	mov 40(%r12), %r8\n"
	"	mov 48(%r12), %r9\n"
	"	bt $32, %rax\n" /* VIN_CALL_32 */
	"	jc 5f\n"
	"	syscall\n"
	"6:	mov %rax, 56(%r12)\n"
	"	add $64, %r12\n"
	"	cmp %r15, %rax\n"
	"	ja 1f\n"
	"	cmp %r13, %r12\n"
	"	jb 2b\n"
	"1:	int3\n"
	"	jmp 1b\n"
	"5:	mov %eax, %eax\n"
	"	mov %edi, %ebx\n"
	"	mov %esi, %ecx\n"
	"	mov %r10d, %esi\n"
	"	mov %r8d, %edi\n"
	"	int $0x80\n"
	"	jmp 6b\n"
	"vin_code_rescue_32:\n"
	"	mov %rdx, %r12\n"
	"	mov $174, %eax\n" /* the same of 32 bits */
	"	mov $5, %ebx\n"
	"	mov %ebp, %ecx\n"
	"	xor %edx, %edx\n"
	"	mov $8, %esi\n"
	"	int $0x80\n"
	"	jmp 7f\n"
	"vin_code_rescue:\n"
	"	mov %rdx, %r12\n"
	"	mov $13, %eax\n" /* rt_sigaction(SIGTRAP, action, NULL, 8) */
	"	mov $5, %edi\n"
	"	mov %rbp, %rsi\n"
	"	xor %edx, %edx\n"
	"	mov $8, %r10d\n"
	"	syscall\n"
	"7:	lea 40(%r12), %rdi\n"
	"	mov %r14, %rsi\n"
	"	mov $19, %ecx\n"
	"	cld\n"
	"	rep movsq\n"
	"	mov (%rsi), %rax\n"
	"	mov %rax, 296(%r12)\n"
	"	add $8, %rsp\n"
	"	mov $15, %eax\n" /* rt_sigreturn() */
	"	syscall\n"
	"vin_code_home:\n"
	"	mov %r14, %rsp\n"
	"	jmp *40(%rbp)\n"
	"vin_code_end:\n"
	".popsection\n");

/* rsp is at the frame, rbp at struct vin_keep. The first part writes down what it has mapped. */
__asm__(".pushsection .rodata\n"
	".macro make_stub name, narrow\n"
	".global \\name, \\name\\()_call, \\name\\()_home\n"
	".hidden \\name, \\name\\()_call, \\name\\()_home\n"
	".balign 16\n"
	"\\name:\n"
	"	syscall\n"
	"	mov %rax, 16(%rbp)\n"
	"	jmp 2f\n"
	"\\name\\()_call:\n"
	"	syscall\n"
	"\\name\\()_home:\n"
	"2:\n"
	"	mov %rsp, %rax\n"
	"	xor %ecx, %ecx\n"
	"	lock cmpxchg %rcx, (%rbp)\n"
	"	jne 1f\n"
	"	xor %edx, %edx\n" /* rt_sigaction(SIGTRAP, action, NULL, 8), by either gate */
	".if \\narrow\n"
	"	mov $174, %eax\n"
	"	mov $5, %ebx\n"
	"	mov 8(%rbp), %ecx\n"
	"	mov $8, %esi\n"
	"	int $0x80\n"
	".else\n"
	"	mov $13, %eax\n"
	"	mov $5, %edi\n"
	"	mov 8(%rbp), %rsi\n"
	"	mov $8, %r10d\n"
	"	syscall\n"
	".endif\n"
	"	mov $11, %eax\n" /* munmap(base, size) */
	"	mov 16(%rbp), %rdi\n"
	"	mov 24(%rbp), %rsi\n"
	"	syscall\n"
	"1:	mov $15, %eax\n" /* rt_sigreturn() */
	"	syscall\n"
	"	int3\n"
	".org \\name + 96\n"
	".endm\n"
	"make_stub vin_stub, 0\n"
	"make_stub vin_stub_32, 1\n"
	".purgem make_stub\n"
	".popsection\n");

_Static_assert(offsetof(struct vin_keep, home) == 40, "the handler goes home by it");

extern const unsigned char vin_stub[] __attribute__((visibility("hidden")));
extern const unsigned char vin_stub_call[] __attribute__((visibility("hidden")));
extern const unsigned char vin_stub_home[] __attribute__((visibility("hidden")));
extern const unsigned char vin_stub_32[] __attribute__((visibility("hidden")));
extern const unsigned char vin_stub_32_call[] __attribute__((visibility("hidden")));
extern const unsigned char vin_stub_32_home[] __attribute__((visibility("hidden")));

__asm__(".pushsection .rodata\n"
	".global vin_init, vin_init_end\n"
	".hidden vin_init, vin_init_end\n"
	".balign 16\n"
	"vin_init:\n"
	"	sub $16, %rsp\n"
	"	xor %ebx, %ebx\n"
	"1:	mov $61, %eax\n" /* wait4(-1, status, 0, NULL) */
	"	mov $-1, %rdi\n"
	"	mov %rsp, %rsi\n"
	"	xor %edx, %edx\n"
	"	xor %r10d, %r10d\n"
	"	syscall\n"
	"	cmp $-4, %rax\n" /* EINTR */
	"	je 1b\n"
	"	test %rax, %rax\n"
	"	js 2f\n"
	"	mov (%rsp), %ebx\n"
	"	jmp 1b\n"
	"2:	mov %ebx, %edi\n"
	"	and $127, %edi\n"
	"	jz 3f\n"
	"	add $128, %edi\n"
	"	jmp 4f\n"
	"3:	movzbl %bh, %edi\n"
	"4:	mov $231, %eax\n" /* exit_group() */
	"	syscall\n"
	"vin_init_end:\n"
	".popsection\n");

extern const unsigned char vin_init[] __attribute__((visibility("hidden")));
extern const unsigned char vin_init_end[] __attribute__((visibility("hidden")));

extern const unsigned char vin_code[] __attribute__((visibility("hidden")));
extern const unsigned char vin_code_gate[] __attribute__((visibility("hidden")));
extern const unsigned char vin_code_batch[] __attribute__((visibility("hidden")));
extern const unsigned char vin_code_rescue[] __attribute__((visibility("hidden")));
extern const unsigned char vin_code_rescue_32[] __attribute__((visibility("hidden")));
extern const unsigned char vin_code_home[] __attribute__((visibility("hidden")));
extern const unsigned char vin_code_end[] __attribute__((visibility("hidden")));

#define CS_64	   0x33
#define NO_SYSCALL (~0ULL)
#define TRAP_FLAG  0x100ULL /* single step: a program that steps itself */
#define DIRECTION  0x400ULL

const void *vin_arch_code(size_t *ret_len)
{
	*ret_len = (size_t)(vin_code_end - vin_code);
	return vin_code;
}

const void *vin_arch_init(size_t *ret_len)
{
	*ret_len = (size_t)(vin_init_end - vin_init);
	return vin_init;
}

size_t vin_arch_rescue_at(bool home, bool narrow)
{
	return (size_t)((home	  ? vin_code_home
			 : narrow ? vin_code_rescue_32
				  : vin_code_rescue) -
			vin_code);
}

size_t vin_arch_gate_at(void)
{
	return (size_t)(vin_code_gate - vin_code);
}

struct vin_sigaction_32 vin_arch_action_32(const struct vin_sigaction *a)
{
	return (struct vin_sigaction_32){ (uint32_t)a->handler,
					  (uint32_t)a->flags,
					  (uint32_t)a->restorer,
					  { (uint32_t)a->mask, (uint32_t)(a->mask >> 32) } };
}

bool vin_arch_is_narrow(const void *auxv, size_t len)
{
	uint64_t first = 0;
	if (len >= sizeof(first))
		memcpy(&first, auxv, sizeof(first));
	return first > UINT32_MAX;
}

#define MAP_VDSO_32 0x2002 /* ARCH_MAP_VDSO_32 */

struct vin_call vin_arch_vdso_32(uint64_t at)
{
	return (struct vin_call){ SYS_arch_prctl, { MAP_VDSO_32, at } };
}

/* Not by PTRACE_GETREGSET: of a thread in code of 32 bits, that tells 32 bits only. */
int vin_arch_get(pid_t tid, struct vin_regs *ret)
{
	return ptrace(PTRACE_GETREGS, tid, 0, &ret->gpr) < 0 ? -errno : 0;
}

int vin_arch_set(pid_t tid, const struct vin_regs *regs)
{
	struct vin_regs copy = *regs;
	return ptrace(PTRACE_SETREGS, tid, 0, &copy.gpr) < 0 ? -errno : 0;
}

ssize_t vin_arch_find_syscall(const void *text, size_t len)
{
	const unsigned char *p = memmem(text, len, "\x0f\x05", 2);
	return p ? p - (const unsigned char *)text : -1;
}

uint64_t *vin_arch_ip(struct vin_regs *regs)
{
	return (uint64_t *)&regs->gpr.rip;
}

bool vin_arch_is_64bit(const struct vin_regs *regs)
{
	return regs->gpr.cs == CS_64;
}

/* The kernel's own codes, which no program ever sees. */
enum {
	ERESTARTSYS = 512,
	ERESTARTNOINTR = 513,
	ERESTARTNOHAND = 514,
	ERESTART_RESTARTBLOCK = 516,
};

bool vin_arch_interrupted(const struct vin_regs *regs)
{
	if ((int64_t)regs->gpr.orig_rax < 0)
		return false;
	int64_t r = (int64_t)regs->gpr.rax;
	return r == -ERESTARTSYS || r == -ERESTARTNOINTR || r == -ERESTARTNOHAND ||
	       r == -ERESTART_RESTARTBLOCK;
}

/* Those of 32-bit code; numbers that end in 64 have times of 64 bits. */
enum {
	RESTART_32 = 0,
	IPC_32 = 117,
	NANOSLEEP_32 = 162,
	POLL_32 = 168,
	SIGTIMEDWAIT_32 = 177,
	FUTEX_32 = 240,
	IO_GETEVENTS_32 = 247,
	EPOLL_WAIT_32 = 256,
	CLOCK_NANOSLEEP_32 = 267,
	EPOLL_PWAIT_32 = 319,
	IO_PGETEVENTS_32 = 385,
	CLOCK_NANOSLEEP_32_64 = 407,
	IO_PGETEVENTS_32_64 = 416,
	SEMTIMEDOP_32_64 = 420,
	SIGTIMEDWAIT_32_64 = 421,
	FUTEX_32_64 = 422,
	EPOLL_PWAIT2_32 = 441,
};

static bool is_one_of(uint64_t number, const uint16_t *list, size_t count)
{
	size_t i = 0;
	while (i < count && list[i] != number)
		i++;
	return i < count;
}

#define IS_ONE_OF(number, list) is_one_of(number, list, sizeof(list) / sizeof(*(list)))

bool vin_arch_forgets(const struct vin_regs *regs)
{
	static const uint16_t numbers[] = { SYS_epoll_wait,	 SYS_epoll_pwait,  SYS_epoll_pwait2,
					    SYS_rt_sigtimedwait, SYS_semop,	   SYS_semtimedop,
					    SYS_io_getevents,	 SYS_io_pgetevents };
	static const uint16_t of_32[] = { EPOLL_WAIT_32,    EPOLL_PWAIT_32,   EPOLL_PWAIT2_32,
					  SIGTIMEDWAIT_32,  IO_GETEVENTS_32,  SIGTIMEDWAIT_32_64,
					  SEMTIMEDOP_32_64, IO_PGETEVENTS_32, IO_PGETEVENTS_32_64 };
	const struct user_regs_struct *r = &regs->gpr;
	const uint64_t semop = 1, semtimedop = 4;
	if ((int64_t)r->rax != -EINTR)
		return false;
	if (vin_arch_is_64bit(regs))
		return IS_ONE_OF(r->orig_rax, numbers);
	return IS_ONE_OF(r->orig_rax, of_32) ||
	       (r->orig_rax == IPC_32 && (r->rbx == semop || r->rbx == semtimedop));
}

void vin_arch_again(struct vin_regs *regs)
{
	regs->gpr.rax = regs->gpr.orig_rax;
	regs->gpr.rip -= 2;
	regs->gpr.orig_rax = NO_SYSCALL;
}

uint64_t vin_arch_rest_at(const struct vin_regs *regs, size_t *ret_width)
{
	const struct user_regs_struct *r = &regs->gpr;
	const uint64_t number =
		(int64_t)r->rax == -ERESTART_RESTARTBLOCK ? r->orig_rax : UINT64_MAX;
	*ret_width = 8;
	if (vin_arch_is_64bit(regs))
		return number == SYS_nanosleep	       ? r->rsi
		       : number == SYS_clock_nanosleep ? r->r10
						       : 0;
	if (number != CLOCK_NANOSLEEP_32_64)
		*ret_width = 4;
	return number == NANOSLEEP_32						 ? (uint32_t)r->rcx
	       : number == CLOCK_NANOSLEEP_32 || number == CLOCK_NANOSLEEP_32_64 ? (uint32_t)r->rsi
										 : 0;
}

struct vin_call vin_arch_sleep(const struct vin_regs *regs, uint64_t time)
{
	const struct user_regs_struct *r = &regs->gpr;
	if (!vin_arch_is_64bit(regs) && r->orig_rax == NANOSLEEP_32)
		return (struct vin_call){ VIN_CALL_32 | NANOSLEEP_32, { time, r->rcx } };
	if (!vin_arch_is_64bit(regs))
		return (struct vin_call){ VIN_CALL_32 | r->orig_rax, { r->rbx, 0, time, r->rsi } };
	if (r->orig_rax == SYS_nanosleep)
		return (struct vin_call){ SYS_nanosleep, { time, r->rsi } };
	return (struct vin_call){ SYS_clock_nanosleep, { r->rdi, 0, time, r->r10 } };
}

bool vin_arch_kept(const struct vin_regs *regs)
{
	return (int64_t)regs->gpr.orig_rax >= 0 && (int64_t)regs->gpr.rax == -ERESTART_RESTARTBLOCK;
}

/* Those that the kernel keeps the end of: waits for a time from now on. */
static const uint16_t kept_64[] = { SYS_clock_nanosleep, SYS_nanosleep, SYS_poll, SYS_futex };
static const uint16_t kept_32[] = { NANOSLEEP_32,	   POLL_32,  CLOCK_NANOSLEEP_32,
				    CLOCK_NANOSLEEP_32_64, FUTEX_32, FUTEX_32_64 };

static uint64_t guess_64(const struct user_regs_struct *r)
{
	const uint64_t page = 4096;
	if (r->rdi < page || r->rdi > INT64_MAX) /* no pointer: a clock, or no descriptors */
		return r->rdx >= page && r->rdx < INT64_MAX ? SYS_clock_nanosleep : SYS_poll;
	if (r->r10 >= page && (r->rsi & ~0x180ULL) <= 11 && r->r10 < INT64_MAX && r->rsi != 0)
		return SYS_futex;
	return r->rsi > 0 && r->rsi < 1 << 20 ? SYS_poll : SYS_nanosleep;
}

/* A number of milliseconds is less than an address of a program. */
static uint64_t guess_32(const struct user_regs_struct *r)
{
	const uint64_t page = 4096, least = 1 << 27;
	if (r->rbx < page)
		return r->rdx >= least ? CLOCK_NANOSLEEP_32 : POLL_32;
	if (r->rsi >= least && (r->rcx & ~0x180ULL) <= 11 && r->rcx != 0)
		return FUTEX_32;
	return r->rcx > 0 && r->rcx < 1 << 20 ? POLL_32 : NANOSLEEP_32;
}

bool vin_arch_is_nameless(const struct vin_regs *regs)
{
	const uint64_t again = vin_arch_is_64bit(regs) ? SYS_restart_syscall : RESTART_32;
	return vin_arch_kept(regs) && regs->gpr.orig_rax == again;
}

/* mov $number, %eax: in 64 bits the last thing before; in 32 bits a few things come between. */
bool vin_arch_recall(struct vin_regs *regs, const unsigned char *code, size_t len)
{
	const bool wide = vin_arch_is_64bit(regs);
	for (size_t at = len; at >= 5 && (at == len || !wide); at--) {
		uint32_t number;
		memcpy(&number, code + at - 4, sizeof(number));
		if (code[at - 5] != 0xb8 ||
		    !(wide ? IS_ONE_OF(number, kept_64) : IS_ONE_OF(number, kept_32)))
			continue;
		regs->gpr.orig_rax = number;
		return true;
	}
	return false;
}

void vin_arch_guess(struct vin_regs *regs)
{
	regs->gpr.orig_rax = vin_arch_is_64bit(regs) ? guess_64(&regs->gpr) : guess_32(&regs->gpr);
}

void vin_arch_restart_anew(struct vin_regs *regs)
{
	if (vin_arch_kept(regs))
		vin_arch_again(regs);
}

int64_t vin_arch_result(const struct vin_regs *regs)
{
	return (int64_t)regs->gpr.rax;
}

void vin_arch_plain(struct vin_regs *regs, const struct vin_call *call, uint64_t at)
{
	regs->gpr.rax = call->nr;
	regs->gpr.rdi = call->args[0];
	regs->gpr.rsi = call->args[1];
	regs->gpr.rdx = call->args[2];
	regs->gpr.r10 = call->args[3];
	regs->gpr.r8 = call->args[4];
	regs->gpr.r9 = call->args[5];
	if (call->nr & VIN_CALL_32) {
		regs->gpr.rax = (uint32_t)call->nr;
		regs->gpr.rbx = call->args[0];
		regs->gpr.rcx = call->args[1];
		regs->gpr.rsi = call->args[3];
		regs->gpr.rdi = call->args[4];
	}
	regs->gpr.rip = at;
	regs->gpr.cs = CS_64;		 /* a program may have code of 32 bits, too */
	regs->gpr.orig_rax = NO_SYSCALL; /* or the kernel starts the interrupted call again */
	regs->gpr.eflags &= ~(TRAP_FLAG | DIRECTION);
}

static void stand(struct vin_regs *regs, const struct vin_place *place)
{
	regs->gpr.rsp = place->stack & ~15ULL;
	regs->gpr.r14 = place->rescue;
	regs->gpr.rbp = place->action;
	if (place->home) {
		regs->gpr.r14 = vin_arch_owner(place->frame);
		regs->gpr.rbp = place->keep;
	}
}

void vin_arch_single(struct vin_regs *regs, const struct vin_call *call,
		     const struct vin_place *place)
{
	vin_arch_plain(regs, call, place->code + (call->nr & VIN_CALL_32 ? vin_arch_gate_at() : 0));
	stand(regs, place);
}

void vin_arch_batch(struct vin_regs *regs, uint64_t table, size_t count, bool whole,
		    const struct vin_place *place)
{
	static const struct vin_call none;
	vin_arch_plain(regs, &none, place->code + (size_t)(vin_code_batch - vin_code));
	stand(regs, place);
	regs->gpr.r12 = table;
	regs->gpr.r13 = table + count * sizeof(struct vin_call);
	regs->gpr.r15 = whole ? NO_SYSCALL : (uint64_t)-4096;
}

/* What the kernel does on the way back to a program whose call a stop has interrupted. A restart
 * block is gone once a handler returns: such a call (nanosleep, poll with a time) ends with EINTR.
 */
static void restart(struct user_regs_struct *r)
{
	if (r->rax == (uint64_t)-ERESTART_RESTARTBLOCK) {
		r->rax = (uint64_t)-EINTR;
	} else {
		r->rax = r->orig_rax;
		r->rip -= 2;
	}
}

void vin_arch_rescue(const struct vin_regs *regs, uint64_t mask, struct vin_rescue *ret)
{
	struct user_regs_struct r = regs->gpr;
	if (vin_arch_interrupted(regs))
		restart(&r);
	const uint64_t gregs[19] = { r.r8,
				     r.r9,
				     r.r10,
				     r.r11,
				     r.r12,
				     r.r13,
				     r.r14,
				     r.r15,
				     r.rdi,
				     r.rsi,
				     r.rbp,
				     r.rbx,
				     r.rdx,
				     r.rax,
				     r.rcx,
				     r.rsp,
				     r.rip,
				     r.eflags,
				     /* cs gs fs ss */ r.cs | r.ss << 48 };
	memcpy(ret->gregs, gregs, sizeof(gregs));
	ret->mask = mask;
}

const void *vin_arch_stub(bool narrow, size_t *ret_call, size_t *ret_home)
{
	if (narrow) {
		*ret_call = (size_t)(vin_stub_32_call - vin_stub_32);
		*ret_home = (size_t)(vin_stub_32_home - vin_stub_32);
		return vin_stub_32;
	}
	*ret_call = (size_t)(vin_stub_call - vin_stub);
	*ret_home = (size_t)(vin_stub_home - vin_stub);
	return vin_stub;
}

void vin_arch_framed(struct vin_regs *regs, uint64_t at, uint64_t keep)
{
	regs->gpr.rsp = vin_arch_owner(at);
	regs->gpr.rbp = keep;
}

uint64_t vin_arch_owner(uint64_t at)
{
	return at + sizeof(uint64_t); /* as a handler's return has left the stack */
}

uint64_t vin_arch_sp(const struct vin_regs *regs)
{
	return regs->gpr.rsp;
}

/* The kernel's struct rt_sigframe without its siginfo, which nobody reads on the way back. */
struct frame {
	uint64_t restorer;
	uint64_t flags, link;
	stack_t stack;
	uint64_t gregs[18];
	uint16_t cs, gs, fs, ss;
	uint64_t error, trap, old_mask, fault;
	uint64_t state; /* address of the extended state */
	uint64_t reserved[8];
	uint64_t mask;
};

_Static_assert(offsetof(struct frame, gregs) == 8 + 40, "sigcontext");
_Static_assert(offsetof(struct frame, mask) == 8 + 296, "uc_sigmask");

/* Extended state as XSAVE writes it, with the kernel's marks for a frame (sigcontext.h). */
#define STATE_AT     448 /* in the frame; XRSTOR wants multiples of 64 */
#define STATE_MAX    (VIN_FRAME_SIZE - STATE_AT - 8 - sizeof(struct vin_keep))
#define LEGACY_SIZE  576 /* x87, SSE and the header */
#define MARKS_AT     464
#define HEADER_AT    512
#define PKRU	     (1ULL << 9)
#define TILES	     (3ULL << 17)
#define UC_FP_XSTATE 1
#define UC_SS	     2
#define UC_STRICT_SS 4
#define NO_STACK     0x7fff /* flags that sigaltstack() refuses: the stack stays what it is */

struct marks {
	uint32_t magic, size_with_end;
	uint64_t features;
	uint32_t size;
};

static uint32_t state_size(uint64_t features)
{
	uint32_t end = LEGACY_SIZE;
	for (uint32_t i = 2; i < 63; i++) {
		uint32_t size, at, c, d;
		if (features & 1ULL << i && __get_cpuid_count(0xd, i, &size, &at, &c, &d) &&
		    at + size > end)
			end = at + size;
	}
	return end;
}

/* Tiles that are not in use are left out: few programs may have them, and they would not fit. */
static int read_state(pid_t tid, unsigned char *state, size_t *ret_len)
{
	const uint32_t end = 0x46505845;
	struct iovec iov = { state, STATE_MAX };
	uint64_t features, in_use;
	if (ptrace(PTRACE_GETREGSET, tid, VIN_ARCH_EXTENDED, &iov) < 0)
		return -errno;
	memcpy(&features, state + MARKS_AT, sizeof(features));
	memcpy(&in_use, state + HEADER_AT, sizeof(in_use));
	if (in_use & TILES)
		return -E2BIG;
	/* what was written ends with the last feature, if it is all there are: to ask for the size
	 * of each takes long in a virtual machine, where the host answers */
	const bool whole = !(features & TILES) && iov.iov_len < STATE_MAX;
	features &= ~TILES;
	const uint32_t size = whole ? (uint32_t)iov.iov_len : state_size(features);
	in_use |= features & PKRU; /* the kernel keeps it elsewhere, but has written it */
	memcpy(state + HEADER_AT, &in_use, sizeof(in_use));
	const struct marks marks = { 0x46505853, size + sizeof(end), features, size };
	if (size > iov.iov_len)
		return -E2BIG;
	memset(state + MARKS_AT, 0, HEADER_AT - MARKS_AT);
	memcpy(state + MARKS_AT, &marks, sizeof(marks));
	memcpy(state + marks.size, &end, sizeof(end));
	*ret_len = marks.size_with_end;
	return 0;
}

static const char *name_of(uint32_t component)
{
	static const char *const names[] = {
		[2] = "AVX",	 [3] = "MPX",	  [4] = "MPX",	[5] = "AVX-512",
		[6] = "AVX-512", [7] = "AVX-512", [17] = "AMX", [18] = "AMX",
	};
	const char *name = component < sizeof(names) / sizeof(*names) ? names[component] : NULL;
	return name ? name : "something that has no name here";
}

/* Where a component lies is the same on processors that are related; AVX always does. What they
 * have is of one layout when all together is as long as it would be here. */
static int fit_one(uint32_t i, const unsigned char *state, size_t len, unsigned char *own,
		   size_t own_len)
{
	uint64_t theirs, ours;
	uint32_t size, at, c, d;
	memcpy(&theirs, state + MARKS_AT, sizeof(theirs));
	memcpy(&ours, own + MARKS_AT, sizeof(ours));
	if (!(ours >> i & 1) || !__get_cpuid_count(0xd, i, &size, &at, &c, &d) ||
	    (i > 2 && state_size(theirs) != len))
		return -EOPNOTSUPP;
	if (at < LEGACY_SIZE || (size_t)at + size > len || (size_t)at + size > own_len)
		return -EBADMSG;
	memcpy(own + at, state + at, size);
	return 0;
}

int vin_arch_fit(const void *state, size_t len, void *own, size_t own_len, const char **ret_what)
{
	const unsigned char *from = state;
	unsigned char *to = own;
	uint64_t in_use, in_use_here;
	if (len < LEGACY_SIZE || own_len < LEGACY_SIZE)
		return -EBADMSG;
	memcpy(&in_use, from + HEADER_AT, sizeof(in_use));
	memcpy(&in_use_here, to + HEADER_AT, sizeof(in_use_here));
	in_use &= ~PKRU;
	for (uint32_t i = 2; i < 64; i++) {
		int r = in_use >> i & 1 ? fit_one(i, from, len, to, own_len) : 0;
		if (r == -EOPNOTSUPP)
			*ret_what = name_of(i);
		if (r < 0)
			return r;
	}
	memcpy(to, from, MARKS_AT);
	in_use |= in_use_here & PKRU;
	memcpy(to + HEADER_AT, &in_use, sizeof(in_use));
	return 0;
}

int vin_arch_frame(pid_t tid, const struct vin_regs *regs, uint64_t mask, uint64_t at,
		   uint64_t stub, void *ret, size_t *ret_len)
{
	struct vin_rescue back;
	vin_arch_rescue(regs, mask, &back);
	struct frame frame = {
		.restorer = stub,
		.flags = UC_FP_XSTATE | UC_SS | UC_STRICT_SS,
		.stack.ss_flags = NO_STACK,
		.cs = (uint16_t)regs->gpr.cs,
		.ss = (uint16_t)regs->gpr.ss,
		.state = at + STATE_AT,
		.mask = mask,
	};
	memcpy(frame.gregs, back.gregs, sizeof(frame.gregs));
	memset(ret, 0, VIN_FRAME_SIZE);
	memcpy(ret, &frame, sizeof(frame));
	int r = read_state(tid, (unsigned char *)ret + STATE_AT, ret_len);
	if (r == 0)
		*ret_len += STATE_AT;
	return r;
}
