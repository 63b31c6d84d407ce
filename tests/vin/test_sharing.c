/* Processes that have their descriptors or directories together: what one of them opens or enters,
 * the other has, after each hop. What can't be made again is refused while all run. */
#include "families.h"

#include <spawn.h>

/* ---- programs ---- */

static pid_t begin_sharer(uint64_t flags)
{
	struct clone_args args = { .flags = flags, .exit_signal = SIGCHLD };
	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

/* One opens, the other finds it, and closes it. Numbers above those that a round of anybody has. */
static void pass_descriptors(int place, bool older)
{
	const struct self was = self_now();
	while (!board->end) {
		still(place, &was);
		const int number = older ? 50 : 51, its_number = older ? 51 : 50;
		if (fcntl(number, F_GETFD) < 0)
			CHECK(dup2(0, number) == number);
		if (fcntl(its_number, F_GETFD) >= 0 && close(its_number) == 0)
			board->seen[older]++;
	}
}

static void files_together(void)
{
	pid_t child = begin_sharer(CLONE_FILES);
	if (child == 0) {
		if (begin_sharer(CLONE_FILES) == 0) {
			setsid();
			live(2);
			/* the youngest sees it too */
			CHECK(fcntl(60, F_GETFD) == FD_CLOEXEC);
			_exit(0);
		}
		pass_descriptors(1, false);
		_exit(0);
	}
	CHECK(fcntl(dup2(0, 60), F_SETFD, FD_CLOEXEC) == 0);
	struct flock all = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	const int lock = (int)memfd_create("lock", 0);
	CHECK(lock >= 0 && fcntl(lock, F_SETLK, &all) == 0);
	pass_descriptors(0, true);
	/* the lock is of all who have the table */
	pid_t other = fork();
	if (other == 0) {
		struct flock ask = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
		_exit(fcntl(lock, F_GETLK, &ask) == 0 && ask.l_type == F_WRLCK ? 0 : 1);
	}
	int status;
	CHECK(waitpid(other, &status, 0) == other && status == 0);
}

static void descriptors_are_shared_after_each_hop(void **state)
{
	(void)state;
	goes_on(files_together, 3);
	assert_true(board->seen[0] > 0 && board->seen[1] > 0);
}

/* Each goes where the other is not. */
static void walk(int place, const char *from, const char *to)
{
	const struct self was = self_now();
	while (!board->end) {
		char here[64] = "";
		still(place, &was);
		CHECK(getcwd(here, sizeof(here)));
		if (strcmp(here, from) == 0) {
			CHECK(chdir(to) == 0);
			board->seen[place]++;
		}
	}
}

static void directories_together(void)
{
	CHECK(chdir("/usr") == 0);
	pid_t child = begin_sharer(CLONE_FS);
	if (child == 0) {
		walk(0, "/usr", "/etc");
		_exit(0);
	}
	walk(1, "/etc", "/usr");
	while (wait(NULL) > 0)
		;
}

static void directories_are_shared_after_each_hop(void **state)
{
	(void)state;
	goes_on(directories_together, 2);
	assert_true(board->seen[0] > 2 && board->seen[1] > 2);
}

/* The younger waits for what the older does at the end. */
static void both_flags(void)
{
	umask(0123);
	if (begin_sharer(CLONE_FS | CLONE_FILES) == 0) {
		const struct self was = self_now();
		while (board->end < 2)
			still(0, &was);
		CHECK(umask(0321) == 0321);
		CHECK(fcntl(60, F_GETFD) >= 0);
		_exit(0);
	}
	live(1);
	CHECK(umask(0321) == 0123);
	CHECK(dup2(0, 60) == 60);
	board->end = 2;
	while (wait(NULL) > 0)
		;
}

static void both_at_once(void **state)
{
	(void)state;
	goes_on(both_flags, 2);
}

/* ---- refusals ---- */

static void memory_together(void)
{
	/* each on its own stack */
	static char stack[65536] __attribute__((aligned(16)));
	struct clone_args args = { .flags = CLONE_VM,
				   .exit_signal = SIGCHLD,
				   .stack = (uint64_t)(uintptr_t)stack,
				   .stack_size = sizeof(stack) };
	register struct clone_args *a __asm__("rdi") = &args;
	register size_t len __asm__("rsi") = sizeof(args);
	long pid;
	__asm__ volatile("syscall\n"
			 "test %%rax, %%rax\n"
			 "jnz 2f\n"
			 "1: mov $34, %%eax\n" /* pause() for ever */
			 "syscall\n"
			 "jmp 1b\n"
			 "2:\n"
			 : "=a"(pid)
			 : "a"(SYS_clone3), "r"(a), "r"(len)
			 : "rcx", "r11", "memory");
	CHECK(pid > 0);
	live(0);
	kill((pid_t)pid, SIGKILL);
	CHECK(waitpid((pid_t)pid, NULL, 0) == pid);
}

static void sibling(void)
{
	if (begin_sharer(0) == 0) {
		/* a child of its own parent */
		struct clone_args args = { .flags = CLONE_FILES | CLONE_PARENT };
		if (syscall(SYS_clone3, &args, sizeof(args)) == 0) {
			live(1);
			_exit(0);
		}
		live(0);
		_exit(0);
	}
	live(2);
	while (wait(NULL) > 0)
		;
}

static volatile bool apart;

static int go_apart(void *arg)
{
	(void)arg;
	CHECK(unshare(CLONE_FILES) == 0);
	apart = true;
	while (!board->end)
		nap(1);
	return 0;
}

static void thread_apart(void)
{
	static char stack[65536] __attribute__((aligned(16)));
	CHECK(clone(go_apart, stack + sizeof(stack),
		    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD, NULL) > 0);
	while (!apart)
		nap(1);
	live(0);
}

static void refused_for(void (*program)(void), int places, const char *word)
{
	pid_t roots[PLACES];
	struct vin_capture *c = NULL;
	family_begin(program, places);
	err = (struct fvm_error){ 0 };
	const size_t count = children(roots, PLACES);
	assert_int_equal(vin_capture_open(roots, count, &whole, &c, &err), -EOPNOTSUPP);
	if (!strstr(err.text, word))
		print_error("'%s' does not say '%s'\n", err.text, word);
	assert_non_null(strstr(err.text, word));
	assert_non_null(strstr(err.text, "process"));
	wait_for_rounds(places);
	family_end();
}

static void what_cant_be_made_again_is_refused(void **state)
{
	(void)state;
	refused_for(memory_together, 1, "CLONE_VM");
	refused_for(sibling, 3, "CLONE_FILES");
	refused_for(thread_apart, 1, "descriptors of its own");
}

/* ---- vfork ---- */

static void vforks(void)
{
	const struct self was = self_now();
	while (!board->end) {
		still(0, &was);
		char name[] = "true", *args[] = { name, NULL };
		pid_t pid = 0;
		int status = 1;
		CHECK(posix_spawn(&pid, "/bin/true", NULL, NULL, args, args + 1) == 0);
		CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	}
}

static void who_starts_programs_all_the_time_is_captured(void **state)
{
	(void)state;
	family_begin(vforks, 1);
	for (int i = 0; i < 20; i++) {
		fclose(family_capture(true));
		wait_for_rounds(1);
	}
	family_end();
}

static char fifo[64];

static int open_fifo(void *arg)
{
	(void)arg;
	board->seen[0] = 1;
	return open(fifo, O_RDONLY) < 0;
}

/* As vfork(2) does: asleep until its child has opened a FIFO. */
static void hangs_in_vfork(void)
{
	static char stack[65536] __attribute__((aligned(16)));
	snprintf(fifo, sizeof(fifo), "%s-fifo", board_path);
	CHECK(mkfifo(fifo, 0600) == 0);
	const pid_t parent = fork();
	if (parent == 0)
		_exit(clone(open_fifo, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD,
			    NULL) < 0);
	for (int ms = 0; ms < 30000 && !board->seen[0]; ms++)
		nap(1);
	live(0);
	const int fd = open(fifo, O_RDWR);
	int status = 1;
	CHECK(fd >= 0 && waitpid(parent, &status, 0) == parent && status == 0);
	CHECK(unlink(fifo) == 0);
}

static void one_that_hangs_in_vfork_is_refused(void **state)
{
	(void)state;
	refused_for(hangs_in_vfork, 1, "vfork");
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		FAMILY(descriptors_are_shared_after_each_hop),
		FAMILY(directories_are_shared_after_each_hop),
		FAMILY(both_at_once),
		FAMILY(what_cant_be_made_again_is_refused),
		FAMILY(who_starts_programs_all_the_time_is_captured),
		FAMILY(one_that_hangs_in_vfork_is_refused),
	};
	return cmocka_run_group_tests(tests, families_setup, families_teardown);
}

int main(void)
{
	return families_main(run);
}
