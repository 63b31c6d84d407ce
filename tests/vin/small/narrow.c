/* Programs of 32 bits, as int 0x80, vdso(7), sigaction(2), set_thread_area(2), nanosleep(2),
 * get_robust_list(2), seccomp(2) and proc(5) have it for them: each case starts one (code_32.c),
 * which makes and checks what it is told, and asks it. */
#include "small.h"
#include "../code_32_bytes.h"

static int question[2], answer[2];

static int answered(void)
{
	int found = 0;
	struct pollfd p = { .fd = answer[0], .events = POLLIN };
	CHECK(poll(&p, 1, 60000) == 1);
	CHECK(read(answer[0], &found, sizeof(found)) == sizeof(found));
	return found;
}

/* A failure is a line of the other program. */
static void expect_right(void)
{
	const int found = answered();
	char text[40];
	snprintf(text, sizeof(text), "it says that line %d is wrong", -found);
	if (found != 1)
		small_wrong("code_32.c", -found, text);
}

static _Noreturn void become(char name)
{
	char what[] = { name, '\0' }, *args[] = { (char *)"code_32", what, NULL },
	     *env[] = { NULL };
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (dup2(question[0], 0) == 0 && dup2(answer[1], 1) == 1 && close_range(3, ~0U, 0) == 0)
		(void)execve("code_32", args, env);
	const int code = errno == ENOEXEC ? 0 : -errno;
	(void)!write(1, &code, sizeof(code));
	_exit(1);
}

static void start(char name)
{
	const int fd = open("code_32", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
	if (CODE_32_SIZE == 0)
		small_skip("the compiler makes no programs of 32 bits");
	CHECK(fd >= 0 && write(fd, CODE_32_BYTES, CODE_32_SIZE) == (ssize_t)CODE_32_SIZE);
	CHECK(close(fd) == 0 && pipe2(question, O_CLOEXEC) == 0 && pipe2(answer, O_CLOEXEC) == 0);
	const pid_t pid = fork();
	if (pid == 0)
		become(name);
	CHECK(pid > 0 && close(question[0]) == 0 && close(answer[1]) == 0);
	const int made = answered();
	if (made == 0)
		small_skip("this kernel runs no programs of 32 bits");
	CHECK(made == 1);
}

static void check(void)
{
	CHECK(write(question[1], "?", 1) == 1);
	expect_right();
}

#define CASE(name, letter)                                                                         \
	static void name##_make(void)                                                              \
	{                                                                                          \
		start(letter);                                                                     \
	}

CASE(actions, 'a')
CASE(trap, 't')
CASE(alternate, 'k')
CASE(mask, 'm')
CASE(registers, 'r')
CASE(segment, 'g')
CASE(entry, 'v')
CASE(sleep, 'n')
CASE(new_sleep, 'c')
CASE(read, 'w')
CASE(epoll, 'e')
CASE(poll, 'p')
CASE(memory, 'b')
CASE(robust, 'l')
CASE(proc, 'x')
CASE(filter, 'f')

const struct small_case narrow_cases[] = {
	{ "sigaction(2): 32 bits: handlers with and without SA_SIGINFO", actions_make, check, 0 },
	{ "sigaction(2): 32 bits: a handler of SIGTRAP, for int3 and tgkill(2)", trap_make, check,
	  0 },
	{ "sigaltstack(2): 32 bits: a handler on it", alternate_make, check, 0 },
	{ "sigprocmask(2): 32 bits: the mask, and what it keeps pending", mask_make, check, 0 },
	{ "sigreturn(2): 32 bits: all registers of a thread that computes", registers_make, check,
	  0 },
	{ "set_thread_area(2): 32 bits: what lies at %gs:0", segment_make, check, 0 },
	{ "vdso(7): 32 bits: calls by its entry", entry_make, check, 0 },
	{ "nanosleep(2): 32 bits: a long sleep goes on, its rest is told", sleep_make, check, 0 },
	{ "clock_nanosleep(2): 32 bits: with times of 64, by the vDSO's entry", new_sleep_make,
	  check, 0 },
	{ "signal(7): 32 bits: read(2) of a pipe waits on", read_make, check, 0 },
	{ "signal(7): 32 bits: epoll_wait(2) waits on", epoll_make, check, 0 },
	{ "signal(7): 32 bits: poll(2) and FUTEX_WAIT with a time end in time", poll_make, check,
	  0 },
	{ "mmap(2): 32 bits: old and new maps, mremap(2), brk(2)", memory_make, check, 0 },
	{ "get_robust_list(2): 32 bits: FUTEX_OWNER_DIED; CLONE_CHILD_CLEARTID", robust_make, check,
	  0 },
	{ "proc(5): 32 bits: exe and auxv", proc_make, check, 0 },
	{ "seccomp(2): 32 bits: a filter for AUDIT_ARCH_I386", filter_make, check, SMALL_ROOT },
	{ 0 },
};
