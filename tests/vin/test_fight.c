/* Programs that are always about to do something else, or hold what they can against whoever
 * captures them: it ends soon, in an image or in a refusal that has words, and they go on. They are
 * below a PID 1 of their own, so that nobody outlives the test. */
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/ptrace.h>
#include <sys/resource.h>

#include "families.h"

#define TRIES	 30
#define SECONDS	 2     /* for all tries of one */
#define LIMIT_MS 30000 /* for each */

static void count(void)
{
	board->rounds[0]++;
}

/* ---- those who are never the same ---- */

static void forks(void)
{
	for (int i = 0; i < 2; i++) {
		if (fork() == 0)
			break;
	}
	while (!board->end) {
		pid_t pid = fork();
		if (pid == 0)
			_exit(0);
		CHECK(pid > 0 && waitpid(pid, NULL, 0) == pid);
		count();
	}
	while (wait(NULL) > 0)
		;
}

static void *end_at_once(void *arg)
{
	return arg;
}

static void makes_threads(void)
{
	pthread_t thread;
	while (!board->end) {
		CHECK(pthread_create(&thread, NULL, end_at_once, NULL) == 0);
		CHECK(pthread_join(thread, NULL) == 0);
		count();
	}
}

static void *open_and_close(void *arg)
{
	while (!board->end) {
		int fd = open("/dev/null", O_RDWR), copy = dup(fd);
		CHECK(fd >= 0 && copy >= 0 && dup2(fd, 50) == 50);
		CHECK(close(50) == 0 && close(copy) == 0 && close(fd) == 0);
	}
	return arg;
}

static void *map_and_unmap(void *arg)
{
	while (!board->end) {
		char *at = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				-1, 0);
		CHECK(at != MAP_FAILED);
		at[0] = 1;
		CHECK(munmap(at + 4096, 4096) == 0 && munmap(at, 16384) == 0);
	}
	return arg;
}

static void beside(void *(*fn)(void *))
{
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, fn, NULL) == 0);
	for (; !board->end; nap(1))
		count();
	(void)pthread_join(thread, NULL);
}

static void closes(void)
{
	beside(open_and_close);
}

static void unmaps(void)
{
	beside(map_and_unmap);
}

/* Each of them begins as this program does. */
static void exec_with(const char *path)
{
	char *args[] = { (char *)"fight", NULL };
	setenv("FVM_FIGHT_BOARD", path, 1);
	execv("/proc/self/exe", args);
}

static void execs(void)
{
	exec_with(board_path);
	CHECK(false);
}

__attribute__((constructor)) static void exec_again(void)
{
	const char *path = getenv("FVM_FIGHT_BOARD");
	int fd = path ? open(path, O_RDWR) : -1;
	if (!path)
		return;
	board = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || board == MAP_FAILED)
		_exit(1);
	close(fd);
	count();
	if (!board->end)
		exec_with(path);
	_exit(!board->end);
}

static void stops_itself(void)
{
	const pid_t parent = getpid();
	pid_t pid = fork();
	if (pid == 0) {
		for (; !board->end; nap(1))
			(void)kill(parent, SIGCONT);
		for (int i = 0; i < 1000 && getppid() == parent; i++, nap(1))
			(void)kill(parent, SIGCONT);
		_exit(0);
	}
	while (!board->end) {
		CHECK(raise(SIGSTOP) == 0);
		count();
	}
	_exit(0);
}

static int nap_beside(void *arg)
{
	nap(5);
	return arg != NULL;
}

/* As vfork(2) does. */
static void vforks(void)
{
	static char stack[65536] __attribute__((aligned(16)));
	while (!board->end) {
		pid_t pid = clone(nap_beside, stack + sizeof(stack),
				  CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
		CHECK(pid > 0 && waitpid(pid, NULL, 0) == pid);
		count();
	}
}

static sigjmp_buf back;

static void jump(int sig)
{
	(void)sig;
	siglongjmp(back, 1);
}

static void faults(void)
{
	static char room[65536];
	const stack_t other = { .ss_sp = room, .ss_size = sizeof(room) };
	const struct sigaction action = { .sa_handler = jump, .sa_flags = SA_ONSTACK };
	volatile char *nowhere = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(sigaltstack(&other, NULL) == 0 && sigaction(SIGSEGV, &action, NULL) == 0);
	while (!board->end) {
		if (sigsetjmp(back, 1) == 0)
			*nowhere = 1;
		count();
	}
}

/* ---- those who hold something ---- */

static void counts(void)
{
	for (; !board->end; nap(1))
		count();
}

static void ignores(void)
{
	sigset_t all;
	sigfillset(&all);
	for (int sig = 1; sig < 65; sig++)
		(void)signal(sig, SIG_IGN);
	CHECK(sigprocmask(SIG_SETMASK, &all, NULL) == 0);
	counts();
}

#define ALLOW(nr)                                                                                  \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static void filters(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		ALLOW(SYS_clock_nanosleep),
		ALLOW(SYS_restart_syscall),
		ALLOW(SYS_exit_group),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	const struct sock_fprog program = { .len = FVM_COUNT(code), .filter = code };
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
	counts();
}

static void traces(void)
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		for (;;)
			nap(1);
	}
	CHECK(ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_EXITKILL) == 0);
	while (!board->end) {
		CHECK(ptrace(PTRACE_INTERRUPT, pid, 0, 0) == 0 && waitpid(pid, &status, 0) == pid);
		CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
		count();
	}
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
}

static void hides(void)
{
	CHECK(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0);
	counts();
}

static void may_open_nothing(void)
{
	const struct rlimit none = { 0, 0 };
	CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
	counts();
}

static void may_map_nothing(void)
{
	const struct rlimit little = { 1, 1 };
	CHECK(setrlimit(RLIMIT_AS, &little) == 0 && setrlimit(RLIMIT_DATA, &little) == 0);
	counts();
}

static void closes_everything(void)
{
	CHECK(close_range(0, ~0U, 0) == 0);
	counts();
}

static void sees_nothing(void)
{
	char empty[] = "/tmp/vin-fight-XXXXXX";
	CHECK(mkdtemp(empty) && chdir(empty) == 0 && rmdir(empty) == 0 && chroot(".") == 0);
	counts();
}

/* ---- the test ---- */

static int capture_once(void)
{
	pid_t roots[PLACES];
	struct vin_capture *c = NULL;
	struct vin_out *out = NULL;
	const size_t n = children(roots, PLACES);
	scoped_fd to = open("/dev/null", O_WRONLY | O_CLOEXEC);
	err = (struct fvm_error){ 0 };
	int r = vin_capture_open(roots, n, &whole, &c, &err);
	if (r == 0)
		r = vin_capture_stop(c, 2000, &err);
	if (r == 0)
		r = vin_out_open(to, &out, &err);
	if (r == 0)
		r = vin_capture_write(c, out, &err);
	if (out)
		vin_out_close(out);
	vin_capture_close(c);
	return r;
}

static void nobody_is_traced(void)
{
	pid_t roots[PLACES];
	const size_t n = children(roots, PLACES);
	for (size_t i = 0; i < n; i++) {
		char path[40];
		scoped_free char *text = NULL;
		snprintf(path, sizeof(path), "/proc/%d/status", roots[i]);
		if (fvm_read_file(AT_FDCWD, path, 1 << 16, &text, NULL) == 0)
			assert_non_null(strstr(text, "TracerPid:\t0\n"));
	}
}

static void fights(void (*program)(void))
{
	int images = 0, refusals = 0;
	char why[sizeof(err.text)] = "";
	not_sanitized(); /* a filter kills what the sanitizer calls */
	family_begin(program, 1);
	const int64_t until = fvm_now_ns() + SECONDS * 1000000000LL;
	for (int i = 0; i < TRIES && (i < 2 || fvm_now_ns() < until); i++) {
		const int64_t since = fvm_now_ns();
		const int r = capture_once();
		assert_true(fvm_now_ns() - since < LIMIT_MS * 1000000LL);
		if (r < 0) {
			assert_true(err.text[0] != '\0');
			snprintf(why, sizeof(why), "%s", err.text);
		}
		images += r == 0;
		refusals += r < 0;
		wait_for_rounds(1);
		nobody_is_traced();
	}
	print_message("%d images, %d refusals: %s\n", images, refusals, why);
	family_end();
}

#define FIGHTS(name)                                                                               \
	static void one_that_##name(void **state)                                                  \
	{                                                                                          \
		(void)state;                                                                       \
		fights(name);                                                                      \
	}

FIGHTS(forks)
FIGHTS(makes_threads)
FIGHTS(closes)
FIGHTS(unmaps)
FIGHTS(execs)
FIGHTS(stops_itself)
FIGHTS(vforks)
FIGHTS(faults)
FIGHTS(ignores)
FIGHTS(filters)
FIGHTS(traces)
FIGHTS(hides)
FIGHTS(may_open_nothing)
FIGHTS(may_map_nothing)
FIGHTS(closes_everything)
FIGHTS(sees_nothing)

static int run(void)
{
	const struct CMUnitTest tests[] = {
		FAMILY(one_that_forks),
		FAMILY(one_that_makes_threads),
		FAMILY(one_that_closes),
		FAMILY(one_that_unmaps),
		FAMILY(one_that_execs),
		FAMILY(one_that_stops_itself),
		FAMILY(one_that_vforks),
		FAMILY(one_that_faults),
		FAMILY(one_that_ignores),
		FAMILY(one_that_filters),
		FAMILY(one_that_traces),
		FAMILY(one_that_hides),
		FAMILY(one_that_may_open_nothing),
		FAMILY(one_that_may_map_nothing),
		FAMILY(one_that_closes_everything),
		FAMILY(one_that_sees_nothing),
	};
	return cmocka_run_group_tests(tests, families_setup, families_teardown);
}

int main(void)
{
	return families_main(run);
}
