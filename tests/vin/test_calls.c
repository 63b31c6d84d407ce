/* Calls of running programs, told in words; and programs that nothing happens to meanwhile. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "victim.h"
#include "vin/calls.h"

#define LIMIT_MS 30000

static int lines = -1; /* a memfd, which the tracer writes */
static pid_t tracer_pid;
static char text[1 << 18];

static void write_line(const struct vin_call_seen *s)
{
	dprintf(lines, "%s%s%s(", s->tid == s->pid ? "" : "thread ", s->is_32 ? "[32] " : "",
		s->name);
	for (size_t i = 0; i < s->arg_count; i++)
		dprintf(lines, "%s%s", i ? ", " : "", s->args[i]);
	if (!s->ended)
		dprintf(lines, ") = ?\n");
	else if (s->failed)
		dprintf(lines, ") = %s\n", vin_errno_name(s->result));
	else
		dprintf(lines, ") = %ld\n", (long)s->result);
}

static int seen(void *arg, const struct vin_call_seen *s)
{
	(void)arg;
	write_line(s);
	return 0;
}

static _Noreturn void be_tracer(pid_t of, int ready)
{
	const struct vin_calls_options options = { .depth = 1, .seen = seen };
	struct vin_calls *c = vin_calls_open(&options);
	int r = c ? vin_calls_add(c, of, NULL) : -ENOMEM;
	(void)!write(ready, &r, sizeof(r));
	while (r == 0)
		r = vin_calls_run(c, 100);
	vin_calls_close(c);
	_exit(r == -ECHILD || r == 1 ? 0 : 1);
}

/* A tracer of @of, who has asked all of it to stop once. */
static void trace(pid_t of)
{
	int ready[2], r = -EIO;
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	tracer_pid = fork();
	assert_true(tracer_pid >= 0);
	if (tracer_pid == 0)
		be_tracer(of, ready[1]);
	close(ready[1]);
	assert_int_equal(read(ready[0], &r, sizeof(r)), sizeof(r));
	close(ready[0]);
	assert_int_equal(r, 0);
}

static void tracer_end(int signal)
{
	int status;
	if (signal)
		kill(tracer_pid, signal);
	assert_int_equal(waitpid(tracer_pid, &status, 0), tracer_pid);
	tracer_pid = 0;
	if (signal != SIGKILL)
		assert_int_equal(status, 0);
}

static const char *told(void)
{
	ssize_t n = pread(lines, text, sizeof(text) - 1, 0);
	text[n < 0 ? 0 : n] = '\0';
	return text;
}

static void assert_told(const char *what)
{
	if (!strstr(told(), what))
		fail_msg("no '%s' in:\n%s", what, text);
}

static void wait_told(const char *what)
{
	for (int i = 0; i < LIMIT_MS && !strstr(told(), what); i++)
		nap(1);
	assert_told(what);
}

/* Until the test says so; anybody may trace. */
static void begin(void)
{
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	board->ready = 1;
	while (!board->end)
		nap(1);
}

static void begin_and_trace(void (*fn)(void))
{
	pid_t pid = victim(fn, false);
	trace(pid);
	victim_end(pid);
	tracer_end(0);
}

/* ---- words ---- */

static void speak(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "/nowhere/\033socket" };
	struct sockaddr_in inet = { .sin_family = AF_INET,
				    .sin_port = htons(9),
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	char bytes[16];
	int ends[2];
	begin();
	int fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
	board->wrong += read(fd, bytes, 4) != 4;
	board->wrong += write(fd, "a\n\001\"", 4) != 4;
	close(fd);
	board->wrong += open("/nowhere/\033[2Jx", O_WRONLY | O_CREAT, 0640) >= 0;
	board->wrong += mkdir("/nowhere/\303\274ber", 0700) == 0;
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	board->wrong += connect(sock, (struct sockaddr *)&name, sizeof(name)) == 0;
	int udp = socket(AF_INET, SOCK_DGRAM, 0);
	board->wrong += connect(udp, (struct sockaddr *)&inet, sizeof(inet)) != 0;
	board->wrong += pipe2(ends, O_NONBLOCK) != 0;
	board->wrong += read(ends[0], bytes, 1) >= 0;
	board->wrong += fcntl(ends[0], F_SETFD, FD_CLOEXEC) != 0;
	void *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	board->wrong += munmap(map, 4096) != 0;
	board->wrong += syscall(9999, 1, 2) != -1;
	kill(getpid(), 0);
}

static void calls_are_told_in_words(void **state)
{
	(void)state;
	begin_and_trace(speak);
	assert_told("\"/dev/zero\", O_RDWR|O_CLOEXEC) = ");
	assert_told("</dev/zero>, \"\\000\\000\\000\\000\", 4) = 4\n");
	assert_told("</dev/zero>, \"a\\n\\001\\\"\", 4) = 4\n");
	assert_told("\"/nowhere/\\033[2Jx\", O_WRONLY|O_CREAT, 0640) = ENOENT\n");
	assert_told("mkdir(\"/nowhere/\303\274ber\", 0700) = ENOENT\n");
	assert_told("socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0) = ");
	assert_told(", \"/nowhere/\\033socket\", 110) = ENOENT\n");
	assert_told(", 127.0.0.1:9, 16) = 0\n");
	assert_told("pipe2([");
	assert_told("], O_NONBLOCK) = 0\n");
	assert_told(", 1) = EAGAIN\n");
	assert_told(">, F_SETFD, 0x1) = 0\n");
	assert_told("mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = ");
	assert_told("call_9999(0x1, 0x2, ");
	assert_told("exit_group(0) = ?\n");
	assert_null(strchr(text, '\033'));
}

static void speak_32(void)
{
	long r = 20; /* getpid */
	begin();
	__asm__ volatile("int $0x80" : "+a"(r) : : "memory");
	board->wrong += r != getpid() && r != -ENOSYS;
}

static void calls_by_the_32_bit_entry_are_named_as_such(void **state)
{
	(void)state;
	begin_and_trace(speak_32);
	assert_told("[32] getpid() = ");
}

/* ---- who is followed ---- */

static void *run_thread(void *arg)
{
	(void)arg;
	board->wrong += access("/thread", F_OK) == 0;
	return NULL;
}

static void *exec_thread(void *arg)
{
	(void)arg;
	execl("/bin/sh", "sh", "-c", "cd /executed", NULL);
	_exit(9);
}

static void multiply(void)
{
	pthread_t thread;
	int status;
	begin();
	board->wrong += pthread_create(&thread, NULL, run_thread, NULL) != 0;
	pthread_join(thread, NULL);
	pid_t pid = fork();
	if (pid == 0) {
		(void)access("/child", F_OK);
		pthread_create(&thread, NULL, exec_thread, NULL);
		for (;;)
			pause();
	}
	board->wrong +=
		waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) == 9;
	/* its parent waits for it in the kernel (vfork) */
	char sh[] = "sh", c[] = "-c", end[] = "exit 3", *const words[] = { sh, c, end, NULL };
	board->wrong += posix_spawn(&pid, "/bin/sh", NULL, NULL, words, NULL) != 0;
	board->wrong += waitpid(pid, &status, 0) != pid || WEXITSTATUS(status) != 3;
}

static void threads_and_children_are_followed_from_their_first_call(void **state)
{
	(void)state;
	begin_and_trace(multiply);
	assert_told("thread access(\"/thread\", F_OK) = ENOENT\n");
	assert_told("\naccess(\"/child\", F_OK) = ENOENT\n");
	assert_told("execve(\"/bin/sh\", [\"sh\", \"-c\", \"cd /executed\"], 0x");
	assert_told("\nchdir(\"/executed\") = ENOENT\n");
	assert_told("exit_group(3) = ?\n");
}

/* ---- nothing happens to them ---- */

static volatile sig_atomic_t signals;

static void count_signal(int signal)
{
	(void)signal;
	signals++;
}

/* Sleeps in calls that a stop alone would end, sends itself signals, and counts all of it. */
static void count_all(void)
{
	struct epoll_event event;
	struct timespec wait = { .tv_nsec = 2000000 };
	struct sigaction sa = { .sa_handler = count_signal, .sa_flags = SA_RESTART };
	sigset_t none;
	int ends[2];
	sigemptyset(&none);
	sigaction(SIGRTMIN, &sa, NULL);
	board->wrong += pipe(ends) != 0;
	int epoll = epoll_create1(0);
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	board->ready = 1;
	for (uint64_t i = 0; !board->end; i++) {
		/* a tracer ended, at this call's beginning or in its first stop: vin/calls.h */
		int r = epoll_wait(epoll, &event, 1, 2);
		board->wrong += r != 0 && !(errno == EINTR && board->seen);
		board->wrong += nanosleep(&wait, NULL) != 0;
		union sigval value = { .sival_int = 1 };
		board->wrong += sigqueue(getpid(), SIGRTMIN, value) != 0;
		board->wrong += (uint64_t)signals != i + 1;
		char byte = 0;
		board->wrong += write(ends[1], "x", 1) != 1;
		board->wrong += read(ends[0], &byte, 1) != 1 || byte != 'x';
		board->rounds++;
	}
}

static void wait_rounds(uint64_t more)
{
	const uint64_t to = board->rounds + more;
	for (int i = 0; i < LIMIT_MS && board->rounds < to; i++)
		nap(1);
	assert_true(board->rounds >= to);
}

static void a_tracer_killed_at_any_moment_harms_nobody(void **state)
{
	(void)state;
	pid_t pid = victim(count_all, false);
	for (unsigned int i = 0; i < 40; i++) {
		board->seen = i % 4 == 0; /* killed while it is being seized */
		(void)!ftruncate(lines, 0);
		trace(pid);
		if (!board->seen)
			wait_told("\n");
		wait_rounds(i % 4);
		for (volatile unsigned int j = 0; j < i * 7919 % 100000; j++)
			;
		board->seen = 1;
		tracer_end(SIGKILL);
		wait_rounds(1);
	}
	wait_rounds(3);
	victim_end(pid);
}

static void a_signal_ends_the_trace_and_programs_go_on(void **state)
{
	(void)state;
	pid_t pid = victim(count_all, false);
	trace(pid);
	wait_rounds(5);
	board->seen = 1;
	tracer_end(SIGINT);
	assert_told("epoll_wait(");
	wait_rounds(3);
	victim_end(pid);
}

static void wait_for_end(void)
{
	begin();
	(void)access("/went on", F_OK);
}

static void wait_state(pid_t pid, char wanted)
{
	for (int i = 0; i < LIMIT_MS && process_state(pid) != wanted; i++)
		nap(1);
	assert_int_equal(process_state(pid), wanted);
}

static void who_is_stopped_stays_so_until_he_is_continued(void **state)
{
	(void)state;
	int status;
	pid_t pid = victim(wait_for_end, false);
	kill(pid, SIGSTOP);
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	trace(pid);
	board->end = 1;
	wait_state(pid, 't');
	nap(50);
	assert_null(strstr(told(), "went on"));
	tracer_end(SIGKILL);
	wait_state(pid, 'T');
	trace(pid);
	wait_state(pid, 't');
	kill(pid, SIGCONT);
	wait_told("access(\"/went on\", F_OK) = ENOENT\n");
	victim_end(pid);
	tracer_end(0);
}

/* Its argument lies in a page that only another process could fill, and does not. */
static void pass_what_is_not_there(void)
{
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register r = { .range = { (uint64_t)page, 4096 },
				     .mode = UFFDIO_REGISTER_MODE_MISSING };
	board->seen =
		fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 && ioctl(fd, UFFDIO_REGISTER, &r) == 0;
	begin();
	if (board->seen) /* in user mode only: the kernel's own reading fails */
		board->wrong += access(page, F_OK) == 0 || errno != EFAULT;
}

static void what_is_not_there_is_not_waited_for(void **state)
{
	(void)state;
	begin_and_trace(pass_what_is_not_there);
	if (!board->seen)
		skip();
	assert_told("access(0x");
	assert_told(", F_OK) = EFAULT\n");
}

/* ---- refusals ---- */

static void who_has_a_tracer_is_refused_by_its_name(void **state)
{
	(void)state;
	const struct vin_calls_options options = { .depth = 1, .seen = seen };
	pid_t pid = victim(wait_for_end, false);
	char by[64];
	trace(pid);
	sigset_t before;
	sigprocmask(SIG_SETMASK, NULL, &before);
	struct vin_calls *c = vin_calls_open(&options);
	err = (struct fvm_error){ 0 };
	assert_int_equal(vin_calls_add(c, pid, &err), -EBUSY);
	snprintf(by, sizeof(by), "is traced by process %d (", tracer_pid);
	assert_non_null(strstr(err.text, by));
	vin_calls_close(c);
	sigprocmask(SIG_SETMASK, &before, NULL);
	victim_end(pid);
	tracer_end(0);
}

static void names_are_known_and_others_have_a_neighbour(void **state)
{
	(void)state;
	const char *near = NULL;
	assert_true(vin_call_is_name("openat", &near));
	assert_true(vin_call_is_name("socketcall", &near));
	assert_false(vin_call_is_name("opena", &near));
	assert_non_null(near);
	assert_false(vin_call_is_name("", &near));
	assert_string_equal(vin_errno_name(-ENOENT), "ENOENT");
	assert_string_equal(vin_errno_name(-512), "ERESTARTSYS");
	assert_string_equal(vin_errno_name(-4000), "?");
}

static int setup(void **state)
{
	lines = memfd_create("calls", MFD_CLOEXEC);
	(void)fcntl(lines, F_SETFL, O_APPEND);
	return lines < 0 ? -1 : victims_setup(state);
}

static int after_each(void **state)
{
	if (tracer_pid > 0 && kill(tracer_pid, SIGKILL) == 0)
		waitpid(tracer_pid, NULL, 0);
	tracer_pid = 0;
	(void)!ftruncate(lines, 0);
	return victim_kill(state);
}

#define TEST(name) cmocka_unit_test_teardown(name, after_each)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(calls_are_told_in_words),
		TEST(calls_by_the_32_bit_entry_are_named_as_such),
		TEST(threads_and_children_are_followed_from_their_first_call),
		TEST(a_tracer_killed_at_any_moment_harms_nobody),
		TEST(a_signal_ends_the_trace_and_programs_go_on),
		TEST(who_is_stopped_stays_so_until_he_is_continued),
		TEST(what_is_not_there_is_not_waited_for),
		TEST(who_has_a_tracer_is_refused_by_its_name),
		TEST(names_are_known_and_others_have_a_neighbour),
	};
	return cmocka_run_group_tests(tests, setup, victims_teardown);
}
