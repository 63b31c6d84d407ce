/*
 * small - one small program per resource, as its manual page describes it
 *
 * Theory of operation
 *   A case is two functions: make() sets up what a manual page describes, check() looks whether all
 *   that the page promises, and a program can see, still holds, and leaves it as make() did: what it
 *   has to use up (a queued signal, a byte in a pipe) it makes again. A case is a process of its
 *   own, in a session of its own, started by this program with the case's number and its slot of
 *   the board:
 *
 *     make()  ready   { wait until the board says another turn;  check();  slot: turn }
 *
 *   Between two turns tests/vin/test_small.c captures all of a family's cases, and makes them again
 *   (four ways: there). A case that waits in a system call does that in a thread or a child.
 *   A check that fails is told on the slot, and the case ends.
 *   The working directory is the case's alone in its world, a copy of the world has its own.
 */
#ifndef FVM_TESTS_VIN_SMALL_H
#define FVM_TESTS_VIN_SMALL_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "small_board.h"

#define PAGE	 4096UL
#define COUNT(x) (sizeof(x) / sizeof((x)[0]))

struct small_case {
	const char *says; /* manual page, colon, what is checked; NULL: the table's end */
	void (*make)(void);
	void (*check)(void);
	unsigned int flags; /* SMALL_* */
};

#define SMALL_ROOT 1U /* needs rights that an ordinary user has not */

extern const struct small_case memory_cases[], file_cases[], socket_cases[], inet_cases[],
	event_cases[], signal_cases[], timer_cases[], process_cases[], identity_cases[],
	ipc_cases[], terminal_cases[], call_cases[], narrow_cases[],
	processor_cases[], namespace_cases[], tunnel_cases[];

/** small_wrong() - tell where a check failed, and end */
_Noreturn void small_wrong(const char *file, int line, const char *text);

/** small_skip() - this machine has no such thing; @why is said */
_Noreturn void small_skip(const char *why);

/* True, now and after each way. */
#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x))                                                                          \
			small_wrong(__FILE__, __LINE__, #x);                                       \
	} while (0)

/** small_nap() - sleep for so many milliseconds, whatever signals come */
void small_nap(int ms);

/** small_await() - wait until *@flag is @value, 30 seconds at most; fails otherwise */
void small_await(const volatile int *flag, int value);

/** small_thread() - a thread that runs @fn */
void small_thread(void *(*fn)(void *arg), void *arg);

/** small_file() - a new file "@name" with @text, opened with @flags. Return: the descriptor */
int small_file(const char *name, const char *text, int flags);

/** small_proc() - the first line of /proc/self/@file that begins with @start
 *  Return: what is behind @start without blanks, until the next call; "" if there is none */
const char *small_proc(const char *file, const char *start);

/** small_asleep() - wait until all other threads and all children sleep */
void small_asleep(void);

/** small_readable() - whether a read of @fd would not wait */
bool small_readable(int fd);

#endif
