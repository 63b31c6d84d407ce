/* Programs with an IPC namespace of their own: they make something, are captured, go on and look at
 * it; then they are captured again, ended, made again in another such namespace, and look once more.
 * All of it as we are and, when that is root, once more as an ordinary user in a namespace. */
#ifndef FVM_TESTS_WORLDS_H
#define FVM_TESTS_WORLDS_H

#include <errno.h>
#include <fcntl.h>
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
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "board.h"
#include "images.h"
#include "user.h"

/* A file, so that those who were made again write on the same one. */
static struct board {
	volatile uint64_t wrong, why; /* line and errno of a check that failed */
	volatile uint64_t seen[8];
	volatile int ready, end, done;
} *board;
static char board_path[40];
/* What is neither memory nor IPC is others' to test, unless a case says so. */
static struct vin_capture_options bare = { .root = -1, .bare = true };
static struct vin_watch watch;
static int world_spaces; /* what is set in them is captured */
static pid_t last_world;

/* In a program of the world: tells the line. */
#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x) && !board->wrong) {                                                       \
			board->why = (uint64_t)errno;                                              \
			board->wrong = __LINE__;                                                   \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

static int worlds_setup(void **state)
{
	(void)state;
	snprintf(board_path, sizeof(board_path), "/tmp/vin-world-XXXXXX");
	board = board_open(board_path);
	vin_watch_begin(&watch);
	return board == MAP_FAILED ? -1 : 0;
}

static int worlds_teardown(void **state)
{
	(void)state;
	vin_watch_end(&watch);
	return board_close(board, board_path);
}

static int world_kill(void **state)
{
	(void)state;
	board->end = 1;
	if (last_world > 0 && kill(last_world, 0) == 0) {
		kill_family(last_world);
		waitpid(last_world, NULL, 0);
	}
	last_world = 0;
	bare.bare = true;
	return 0;
}

/* A session of its own, and nothing open that leads out. */
static void be_whole(void)
{
	int null = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3; i++)
		CHECK(dup2(null, i) == i);
	CHECK(close_range(3, ~0U, 0) == 0 && setsid() > 0);
}

/* @make in a namespace of its own, and @look when it may. */
static pid_t world_begin(void (*make)(void), void (*look)(void), int spaces)
{
	memset(board, 0, sizeof(*board));
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		vin_watch_end(&watch);
		CHECK(unshare(spaces) == 0);
		if (!bare.bare)
			be_whole();
		make();
		board->ready = 1;
		while (!board->end)
			nap(1);
		look();
		_exit(0);
	}
	last_world = pid;
	for (int i = 0; i < 30000 && !board->ready && !board->wrong; i++)
		nap(1);
	if (board->wrong)
		print_error("line %d: %s\n", (int)board->wrong, strerror((int)board->why));
	assert_int_equal(board->ready, 1);
	return pid;
}

static void world_end(pid_t pid)
{
	int status;
	board->end = 1;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	last_world = 0;
	if (board->wrong)
		print_error("line %d: %s\n", (int)board->wrong, strerror((int)board->why));
	assert_int_equal(board->wrong, 0);
	assert_int_equal(status, 0);
}

static FILE *world_capture(pid_t pid, bool resume)
{
	bare.spaces = world_spaces;
	return image_capture(pid, &bare, resume);
}

/* In a child, whose namespace becomes the world's. */
static _Noreturn void live_again(FILE *image, int spaces)
{
	struct vin_replay *r = NULL;
	struct vin_in *in;
	struct fvm_error why = { 0 };
	int status = 1;
	struct vin_replay_options options = {
		.root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC),
		.spaces = world_spaces,
		.ipc = true
	};
	int e = unshare(spaces) < 0 ? -errno : 0;
	lseek(fileno(image), 0, SEEK_SET);
	if (e == 0)
		e = vin_in_open(fileno(image), &in, &why);
	if (e == 0) {
		e = vin_replay_build(in, &options, &r, &why);
		vin_in_close(in);
	}
	pid_t init = e == 0 ? vin_replay_init(r) : 0;
	if (e == 0)
		e = vin_replay_go(r, &why);
	vin_replay_close(r);
	if (e < 0) {
		fvm_error_print("world", &why);
		_exit(99);
	}
	board->done = 1;
	_exit(waitpid(init, &status, 0) == init && status == 0 ? 0 : 98);
}

static void world_again(FILE *image, int spaces)
{
	int status;
	pid_t pid = fork_below();
	last_world = pid;
	assert_true(pid >= 0);
	if (pid == 0)
		live_again(image, spaces);
	for (int i = 0; i < 30000 && !board->done && waitpid(pid, &status, WNOHANG) == 0; i++)
		nap(1);
	assert_int_equal(board->done, 1);
	world_end(pid);
}

/* What @make makes is there for @look: when it goes on in place, and twice when it is made again. */
__attribute__((unused)) static void goes_on(void (*make)(void), void (*look)(void), int spaces)
{
	FILE *image = world_capture(world_begin(make, look, spaces), true);
	world_end(last_world);
	fclose(image);
	pid_t pid = world_begin(make, look, spaces);
	image = world_capture(pid, false);
	waitpid(pid, NULL, 0);
	last_world = 0;
	world_again(image, spaces);
	board->end = board->done = 0;
	world_again(image, spaces);
	fclose(image);
}

/* What @make makes is refused while it runs, and the message says @word. */
__attribute__((unused)) static void world_refused(void (*make)(void), const char *word, int spaces)
{
	struct vin_capture *c;
	pid_t pid = world_begin(make, make, spaces);
	err = (struct fvm_error){ 0 };
	bare.spaces = world_spaces;
	assert_int_equal(vin_capture_open(&pid, 1, &bare, &c, &err), -EOPNOTSUPP);
	world_kill(NULL);
	if (!strstr(err.text, word))
		print_error("'%s' does not say '%s'\n", err.text, word);
	assert_non_null(strstr(err.text, word));
}

static int put(const char *path, const char *text)
{
	scoped_fd fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 ? -1 : fvm_write_all(fd, text, strlen(text));
}

/* Nobody of the host, root of his own namespace. */
static void become_user(void)
{
	if (setgid(65534) < 0 || setuid(65534) < 0 || prctl(PR_SET_DUMPABLE, 1) < 0 ||
	    unshare(CLONE_NEWUSER) < 0 || put("/proc/self/setgroups", "deny") < 0 ||
	    put("/proc/self/uid_map", "0 65534 1") < 0 || put("/proc/self/gid_map", "0 65534 1") < 0) {
		print_message("no user namespaces here: not tried as an ordinary user\n");
		_exit(0);
	}
}

static bool user_of_machine;

static void tell_the_user(void)
{
	setenv("WORLDS_OF_USER", "1", 1);
}

/* @run runs the group. Return: for main() */
static int worlds_main(int (*run)(void))
{
#ifdef __SANITIZE_ADDRESS__
	print_message("a world's programs do not live again under the address sanitizer\n");
	return 77;
#endif
	if (geteuid() != 0) {
		print_message("namespaces need root: not tried\n");
		return 77;
	}
	if (getenv("WORLDS_OF_USER")) {
		become_user();
		user_of_machine = true;
		return run() != 0;
	}
	int failed = run();
	return run_copy_as(tell_the_user) == 0 ? failed : 1;
}

#define WORLD(name) cmocka_unit_test_teardown(name, world_kill)

#endif
