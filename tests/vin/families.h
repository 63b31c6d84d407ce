/* Families of programs below a PID 1 that is the test's: each of them looks whether it is still who
 * it was, and counts its rounds on a board that is a file. They are captured, go on, are ended and
 * made again, several times: in a namespace of their own and as guests of another such PID 1; as we
 * are and, when that is root, once more as an ordinary user. */
#ifndef FVM_TESTS_VIN_FAMILIES_H
#define FVM_TESTS_VIN_FAMILIES_H

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "board.h"
#include "checks.h"
#include "images.h"
#include "user.h"

#define PLACES 16
#define HOPS   3

static struct board {
	volatile uint64_t rounds[PLACES];
	volatile uint64_t wrong, why; /* line and errno of a check that failed */
	volatile uint64_t seen[8];
	volatile int end;
} *board;
static char board_path[40];
static struct vin_watch watch;
static pid_t first;   /* PID 1 of the programs */
static int its = -1; /* where it takes orders */

static const struct vin_capture_options whole = { .root = -1 };

/* In a program: tells the line. */
#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x) && !board->wrong) {                                                       \
			board->why = (uint64_t)errno;                                              \
			board->wrong = __LINE__;                                                   \
		}                                                                                  \
	} while (0)

static int families_setup(void **state)
{
	(void)state;
	snprintf(board_path, sizeof(board_path), "/tmp/vin-family-XXXXXX");
	board = board_open(board_path);
	outside = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	vin_watch_begin(&watch);
	return board == MAP_FAILED ? -1 : 0;
}

static int families_teardown(void **state)
{
	(void)state;
	vin_watch_end(&watch);
	close(outside);
	return board_close(board, board_path);
}

static void end_first(void)
{
	if (first > 0 && kill(first, SIGKILL) == 0)
		waitpid(first, NULL, 0);
	if (its >= 0)
		close(its);
	first = 0;
	its = -1;
}

static int family_kill(void **state)
{
	(void)state;
	board->end = 1;
	end_first();
	return 0;
}

/* ---- PID 1 ---- */

static void map_user(pid_t pid)
{
	char path[40], line[40];
	snprintf(path, sizeof(path), "/proc/%d/setgroups", pid);
	OK(fvm_write_file(AT_FDCWD, path, "deny"));
	snprintf(path, sizeof(path), "/proc/%d/uid_map", pid);
	snprintf(line, sizeof(line), "%u %u 1", geteuid(), geteuid());
	OK(fvm_write_file(AT_FDCWD, path, line));
	snprintf(path, sizeof(path), "/proc/%d/gid_map", pid);
	snprintf(line, sizeof(line), "%u %u 1", getegid(), getegid());
	OK(fvm_write_file(AT_FDCWD, path, line));
}

/* Nothing of ours is open in a program. */
static void shut_all(void)
{
	(void)close_range(0, ~0U, 0);
	CHECK(open("/dev/null", O_RDWR) == 0 && dup(0) == 1 && dup(0) == 2);
}

static void take_guest(int orders, bool user)
{
	pid_t number;
	int fd;
	size_t count;
	if (fvm_recv_fds(orders, &number, sizeof(number), &fd, 1, &count) != sizeof(number) ||
	    count != 1)
		return;
	struct clone_args args = { .exit_signal = SIGCHLD,
				   .set_tid = (uint64_t)(uintptr_t)&number,
				   .set_tid_size = 1 };
	long pid = syscall(SYS_clone3, &args, sizeof(args));
	/* who had the number may have ended this moment */
	for (int ms = 0; ms < 30000 && pid < 0 && errno == EEXIST; ms++) {
		nap(1);
		(void)waitpid(-1, NULL, WNOHANG);
		pid = syscall(SYS_clone3, &args, sizeof(args));
	}
	if (pid == 0)
		vin_become(fd, user);
	close(fd);
}

/* Takes orders, and reaps, until all is over. */
static _Noreturn void be_first(int orders, void (*program)(void), bool user)
{
	struct pollfd p = { .fd = orders, .events = POLLIN };
	char go;
	if (read(orders, &go, 1) != 1)
		_exit(1);
	if (program && fork() == 0) {
		shut_all();
		program();
		_exit(0);
	}
	for (;;) {
		int status = 0;
		pid_t pid = waitpid(-1, &status, WNOHANG);
		if (pid > 0 && status != 0)
			board->seen[7] = (uint64_t)status;
		if (pid > 0 && status != 0 && board->end)
			_exit(1);
		if (pid < 0 && board->end)
			_exit(0);
		if (pid <= 0 && poll(&p, 1, 1) == 1)
			take_guest(orders, user);
	}
}

static void begin_first(void (*program)(void))
{
	const bool user = geteuid() != 0;
	struct clone_args args = { .flags = CLONE_NEWPID | (user ? CLONE_NEWUSER : 0),
				   .exit_signal = SIGCHLD };
	int line[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, line), 0);
	fflush(NULL);
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_DUMPABLE, 1);
		vin_watch_end(&watch);
		close(line[0]);
		be_first(line[1], program, user);
	}
	close(line[1]);
	first = pid;
	its = line[0];
	if (user)
		map_user(pid);
	assert_int_equal(write(its, "g", 1), 1);
}

/* ---- programs ---- */

struct self {
	pid_t pid, parent, group, session;
};

static struct self self_now(void)
{
	return (struct self){ getpid(), getppid(), getpgrp(), getsid(0) };
}

/* One round: it is who it was. */
static void still(int place, const struct self *was)
{
	const struct self now = self_now();
	CHECK(now.pid == was->pid);
	CHECK(now.parent == was->parent);
	CHECK(now.group == was->group);
	CHECK(now.session == was->session);
	board->rounds[place]++;
	nap(1);
}

static void live(int place)
{
	const struct self was = self_now();
	while (!board->end)
		still(place, &was);
}

/* The same, once its parent is who it will be. */
__attribute__((unused)) static void live_below(int place, pid_t parent)
{
	while (getppid() != parent)
		nap(1);
	live(place);
}

/* ---- the test ---- */

static void tell_wrong(void)
{
	if (board->wrong)
		print_error("line %d: %s\n", (int)board->wrong, strerror((int)board->why));
	assert_int_equal(board->wrong, 0);
}

static void wait_for_rounds(int places)
{
	for (int i = 0; i < places; i++) {
		const uint64_t before = board->rounds[i];
		for (int ms = 0; ms < 30000 && board->rounds[i] < before + 3 && !board->wrong; ms++)
			nap(1);
		tell_wrong();
		if (board->rounds[i] < before + 3)
			print_error("place %d has come to round %d only (%#x)\n", i, (int)before,
				    (unsigned int)board->seen[7]);
		assert_true(board->rounds[i] >= before + 3);
	}
}

static size_t children(pid_t *ret, size_t room)
{
	char path[64];
	size_t count = 0;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", first, first);
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	while (count < room && fscanf(f, "%d", &ret[count]) == 1)
		count++;
	fclose(f);
	return count;
}

static FILE *family_capture_with(const struct vin_capture_options *options, bool resume)
{
	pid_t roots[PLACES];
	const size_t count = children(roots, PLACES);
	return image_capture_all(roots, count, options, resume);
}

static FILE *family_capture(bool resume)
{
	return family_capture_with(&whole, resume);
}

static int start_guest(void *arg, int line, pid_t number, struct fvm_error *e)
{
	(void)arg;
	(void)e;
	return fvm_send_fds(its, &number, sizeof(number), &line, 1);
}

/* @guests: below another PID 1 of the test's. */
__attribute__((unused)) static void family_again(FILE *image, bool guests)
{
	const struct vin_replay_options options = { .root = outside,
						    .user = !guests && geteuid() != 0,
						    .start = guests ? start_guest : NULL };
	end_first();
	if (guests)
		begin_first(NULL);
	struct vin_replay *r = image_build_with(image, &options);
	if (!guests)
		first = vin_replay_init(r);
	OK(vin_replay_go(r, &err));
	vin_replay_close(r);
	fclose(image);
}

static void family_begin(void (*program)(void), int places)
{
	memset(board, 0, sizeof(*board));
	begin_first(program);
	wait_for_rounds(places);
}

static void family_end(void)
{
	int status;
	board->end = 1;
	assert_int_equal(waitpid(first, &status, 0), first);
	first = 0;
	end_first();
	tell_wrong();
	assert_int_equal(status, 0);
}

static void goes_on_as(void (*program)(void), int places, bool guests)
{
	family_begin(program, places);
	fclose(family_capture(true));
	wait_for_rounds(places);
	for (int hop = 0; hop < HOPS; hop++) {
		family_again(family_capture(false), guests);
		wait_for_rounds(places);
	}
	family_end();
}

/* @program's family, of so many who live in places. */
__attribute__((unused)) static void goes_on(void (*program)(void), int places)
{
#ifdef __SANITIZE_ADDRESS__
	print_message("skipped: not under the address sanitizer\n");
	skip();
#endif
	goes_on_as(program, places, false);
	goes_on_as(program, places, true);
}

__attribute__((unused)) static void not_sanitized(void)
{
#ifdef __SANITIZE_ADDRESS__
	print_message("skipped: not under the address sanitizer\n");
	skip();
#endif
}

__attribute__((unused)) static void become_nobody(void)
{
	int status;
	if (setgid(65534) < 0 || setuid(65534) < 0)
		_exit(1);
	pid_t probe = fork();
	if (probe == 0)
		_exit(unshare(CLONE_NEWUSER) < 0);
	if (waitpid(probe, &status, 0) != probe || status != 0) {
		print_message("no user namespaces here: not tried as an ordinary user\n");
		_exit(0);
	}
}

/* @run runs the group. Return: for main() */
__attribute__((unused)) static int families_main(int (*run)(void))
{
	const int failed = run();
	if (geteuid() != 0)
		return failed;
	return run_copy_as(become_nobody) == 0 ? failed : 1;
}

#define FAMILY(name) cmocka_unit_test_teardown(name, family_kill)

#endif
