/*
 * Twins: program A makes something of itself and is captured; program B, which has made nothing,
 * gets it from the payload. Both then look at themselves with the same eyes: B must have become
 * what A is, and A must still be it.
 *
 * The test runs as root, and once more as an ordinary user in a user namespace of his own.
 */
#ifndef FVM_TESTS_TWINS_H
#define FVM_TESTS_TWINS_H

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "user.h"
#include "victim.h"

#include "vin/traits.h"

#define USER_ID	    61234
#define THREADS_MAX 8

struct twins {
	const char *name;
	void (*set_up)(int thread); /* in each of A's threads; 0 is the leader */
	void (*verify)(int thread); /* in each of both */
	int threads;		    /* beside the leader */
	bool root;		    /* nothing for an ordinary user */
};

/* What A found out for both; shared. */
static volatile int64_t *facts;
static const struct twins *twins;
static bool is_a;
static pid_t pair[2];
static volatile int started, finished;

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			dprintf(2, "%s, line %d: %s (errno %d)\n", is_a ? "A" : "B", __LINE__, #x, \
				errno);                                                            \
			__atomic_add_fetch(&board->wrong, 1, __ATOMIC_SEQ_CST);                    \
		}                                                                                  \
	} while (0)

static void *live(void *arg)
{
	int me = (int)(intptr_t)arg;
	if (is_a)
		twins->set_up(me);
	__atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
	/* said once: the other one begins on the same board */
	if (me == 0)
		board->ready = 1;
	while (!board->end)
		nap(1);
	twins->verify(me);
	__atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

/* One after the other: both have their threads in the same order. */
static void life(void)
{
	for (int i = 1; i <= twins->threads; i++) {
		pthread_t t;
		pthread_create(&t, NULL, live, (void *)(intptr_t)i);
		while (started < i)
			nap(1);
	}
	live(NULL);
	while (finished <= twins->threads)
		nap(1);
}

static void write_text(pid_t pid, const char *name, const char *text)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	assert_int_equal(fvm_write_file(AT_FDCWD, path, text), 0);
}

/* PID 1 of a namespace of its own; root of a user namespace if we are not root. */
static pid_t twin(bool a)
{
	struct clone_args args = { .flags = CLONE_NEWPID, .exit_signal = SIGCHLD };
	bool user = geteuid() != 0;
	char map[40];
	args.flags |= user ? CLONE_NEWUSER : 0;
	memset(board, 0, sizeof(*board));
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (user && !board->seen)
			nap(1);
		vin_watch_end(&watch);
		is_a = a;
		life();
		_exit(0);
	}
	pair[!a] = pid;
	if (user) {
		write_text(pid, "setgroups", "deny");
		snprintf(map, sizeof(map), "0 %d 1", USER_ID);
		write_text(pid, "uid_map", map);
		write_text(pid, "gid_map", map);
	}
	board->seen = 1;
	for (int i = 0; i < 30000 && !board->ready; i++)
		nap(1);
	assert_int_equal(board->ready, 1);
	return pid;
}

/* ---- what /proc shows of both ---- */

static char *text_of(pid_t pid, const char *name)
{
	char path[60], *text = NULL;
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	assert_int_equal(fvm_read_file(AT_FDCWD, path, 1 << 20, &text, NULL), 0);
	return text;
}

static void same_file(const char *name)
{
	scoped_free char *a = text_of(pair[0], name), *b = text_of(pair[1], name);
	assert_string_equal(a, b);
}

static void same_link(const char *name)
{
	char path[2][40], to[2][4096] = { 0 };
	for (int i = 0; i < 2; i++) {
		snprintf(path[i], sizeof(path[i]), "/proc/%d/%s", pair[i], name);
		assert_true(readlink(path[i], to[i], sizeof(to[i]) - 1) > 0);
	}
	assert_string_equal(to[0], to[1]);
}

static void same_status(void)
{
	static const char *const lines[] = { "Name",	"Umask",      "Uid",	  "Gid",
					     "Groups",	"SigQ",	      "SigPnd",	  "ShdPnd",
					     "SigBlk",	"SigIgn",     "SigCgt",	  "CapInh",
					     "CapPrm",	"CapEff",     "CapBnd",	  "CapAmb",
					     "Seccomp", "NoNewPrivs", "Cpus_allowed", "Threads",
					     "THP_enabled" };
	scoped_free char *a = text_of(pair[0], "status"), *b = text_of(pair[1], "status");
	for (size_t i = 0; i < FVM_COUNT(lines); i++) {
		char start[24];
		snprintf(start, sizeof(start), "\n%s:", lines[i]);
		const char *x = i == 0 ? a : strstr(a, start), *y = i == 0 ? b : strstr(b, start);
		if (!x || !y || strcmp(lines[i], "SigQ") == 0)
			continue;
		size_t len = strcspn(x + 1, "\n") + 1;
		if (strncmp(x, y, len + 1) != 0)
			print_error("A%.*s\nB%.*s\n", (int)len, x, (int)len, y);
		assert_int_equal(strncmp(x, y, len + 1), 0);
	}
}

static void same_proc(void)
{
	same_status();
	same_file("limits");
	same_file("personality");
	same_file("timerslack_ns");
	same_file("oom_score_adj");
	same_file("coredump_filter");
	same_link("cwd");
	same_link("root");
}

/* ---- capture and replay ---- */

static void capture_a(pid_t pid, struct fvm_buf *payload, uint64_t masks[THREADS_MAX])
{
	struct vin_tree tree = { 0 };
	struct vin_post post = { 0 };
	OK(vin_traits_check(pid, 0, &err));
	OK(vin_tree_seize(&pid, 1, 30000, &tree, &err));
	struct vin_proc *p = &tree.procs[0];
	assert_int_equal(p->thread_count, twins->threads + 1);
	OK(vin_post_open(&post, &p->threads[0], &err));
	OK(vin_traits_capture(&post, p->threads, p->thread_count, 0, NULL, payload, &err));
	OK(vin_post_close(&post, &p->threads[0], &err));
	for (size_t i = 0; i < p->thread_count; i++)
		masks[i] = p->threads[i].mask;
	vin_tree_release(&tree);
	assert_false(payload->failed);
}

static void replay_b(pid_t pid, const struct fvm_buf *payload, const uint64_t masks[THREADS_MAX])
{
	struct vin_tree tree = { 0 };
	struct vin_post post = { 0 };
	OK(vin_tree_seize(&pid, 1, 30000, &tree, &err));
	struct vin_proc *p = &tree.procs[0];
	assert_int_equal(p->thread_count, twins->threads + 1);
	OK(vin_post_open(&post, &p->threads[0], &err));
	/* masks go with registers, which are others' */
	for (size_t i = 0; i < p->thread_count; i++)
		p->threads[i].mask = masks[i];
	OK(vin_traits_replay(&post, p->threads, p->thread_count, NULL, payload->data, payload->len,
			     &err));
	OK(vin_post_close(&post, &p->threads[0], &err));
	if (!facts[63])
		same_proc();
	vin_tree_release(&tree);
}

static void both_are_the_same(void **state)
{
	scoped_buf payload = { 0 };
	uint64_t masks[THREADS_MAX];
	twins = *state;
	if (twins->root && geteuid() != 0) {
		print_message("%s: as root only\n", twins->name);
		skip();
	}
	memset((void *)(uintptr_t)facts, 0, 4096);
	pid_t a = twin(true);
	assert_int_equal(board->wrong, 0);
	capture_a(a, &payload, masks);
	pid_t b = twin(false);
	replay_b(b, &payload, masks);
	board->end = 1;
	for (int i = 0; i < 2; i++) {
		int status;
		assert_int_equal(waitpid(pair[i], &status, 0), pair[i]);
		pair[i] = 0;
		assert_int_equal(status, 0);
	}
	assert_int_equal(board->wrong, 0);
}

static int end_both(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		if (pair[i] > 0 && kill(pair[i], SIGKILL) == 0)
			waitpid(pair[i], NULL, 0);
		pair[i] = 0;
	}
	return victim_kill(state);
}

static int twins_setup(void **state)
{
	facts = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return facts == MAP_FAILED ? -1 : victims_setup(state);
}

static int twins_teardown(void **state)
{
	munmap((void *)(uintptr_t)facts, 4096);
	return victims_teardown(state);
}

#define TWINS(t)                                                                                   \
	{                                                                                          \
		(t)->name, both_are_the_same, NULL, end_both, (void *)(uintptr_t)(t)               \
	}

static void become_user(void)
{
	if (setgroups(0, NULL) < 0 || setresgid(USER_ID, USER_ID, USER_ID) < 0 ||
	    setresuid(USER_ID, USER_ID, USER_ID) < 0)
		_exit(1);
}

/* The rest of main(): as we are, and if that is root as somebody else too. */
static int as_root_and_user(int failed)
{
	(void)victim;
	(void)victim_end;
	return failed + (geteuid() == 0 && run_copy_as(become_user) != 0);
}

#endif
