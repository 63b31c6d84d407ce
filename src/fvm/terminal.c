/*
 * The user's own terminal: raw while a session has it, restored whatever ends us.
 *
 * A process has one terminal, and a handler of a fatal signal must find its old settings: this is
 * the one place with state outside of arguments.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fvm/client_priv.h"

static struct {
	struct termios old;
	int fd;
	volatile sig_atomic_t raw;
} saved;

void terminal_restore(void)
{
	if (!saved.raw)
		return;
	saved.raw = 0;
	(void)tcsetattr(saved.fd, TCSADRAIN, &saved.old);
}

/* async-signal-safe: tcsetattr(3) is; the signal's default comes after us (SA_RESETHAND) */
static void restore_and_die(int sig)
{
	terminal_restore();
	raise(sig);
}

static void guard_crashes(void)
{
	static const int fatal[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGALRM };
	struct sigaction act = { .sa_handler = restore_and_die, .sa_flags = (int)SA_RESETHAND };
	sigfillset(&act.sa_mask);
	for (size_t i = 0; i < FVM_COUNT(fatal); i++)
		sigaction(fatal[i], &act, NULL);
}

int terminal_raw(int fd)
{
	struct termios raw;
	if (saved.raw)
		return 0;
	if (tcgetattr(fd, &saved.old) < 0)
		return -errno;
	raw = saved.old;
	cfmakeraw(&raw);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	saved.fd = fd;
	if (tcsetattr(fd, TCSADRAIN, &raw) < 0)
		return -errno;
	saved.raw = 1;
	guard_crashes();
	atexit(terminal_restore);
	return 0;
}

bool terminal_is_cooked(int fd)
{
	struct termios now;
	return tcgetattr(fd, &now) == 0 && now.c_lflag & ICANON;
}

bool terminal_window(struct winsize *ret)
{
	for (int fd = 0; fd < 3; fd++) {
		if (isatty(fd) && ioctl(fd, TIOCGWINSZ, ret) == 0)
			return true;
	}
	return false;
}

/* An own description of the same terminal can be non-blocking without the shell noticing. */
int terminal_reopen(int fd)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}
