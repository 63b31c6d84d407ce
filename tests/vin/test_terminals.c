/* Sessions with a controlling terminal whose master is with a program of the family, as tmux and
 * script have it, or was given. */
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <termios.h>

#include "families.h"

/* ---- an interactive shell ---- */

static int master;
static char heard[1 << 16];
static size_t heard_len;

/* Until @want was written; what was heard before it is forgotten. */
static bool hear(const char *want)
{
	struct pollfd p = { .fd = master, .events = POLLIN };
	for (int ms = 0; ms < 5000; ms++) {
		char *at = strstr(heard, want);
		if (at) {
			heard_len -= (size_t)(at + strlen(want) - heard);
			memmove(heard, at + strlen(want), heard_len + 1);
			return true;
		}
		if (poll(&p, 1, 1) != 1 || heard_len > sizeof(heard) - 4096)
			continue;
		ssize_t n = read(master, heard + heard_len, 4000);
		heard_len += n > 0 ? (size_t)n : 0;
		heard[heard_len] = '\0';
	}
	return false;
}

static bool type(const char *text)
{
	return write(master, text, strlen(text)) == (ssize_t)strlen(text);
}

static pid_t shell(void)
{
	const struct winsize size = { .ws_row = 33, .ws_col = 132 };
	const int unlock = 0;
	unsigned int number = 0;
	char path[32];
	master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY);
	CHECK(master >= 0 && ioctl(master, TIOCSPTLCK, &unlock) == 0 &&
	      ioctl(master, TIOCGPTN, &number) == 0 && ioctl(master, TIOCSWINSZ, &size) == 0);
	snprintf(path, sizeof(path), "/dev/pts/%u", number);
	pid_t pid = fork();
	if (pid == 0) {
		setsid();
		int slave = open(path, O_RDWR); /* becomes its terminal */
		for (int i = 0; i < 3; i++)
			CHECK(dup2(slave, i) == i);
		close_range(3, ~0U, 0);
		char *const argv[] = { (char *)"bash", (char *)"--norc", (char *)"--noprofile",
				       (char *)"-i", NULL };
		setenv("PS1", "ready> ", 1);
		setenv("TERM", "dumb", 1);
		setenv("HISTFILE", "", 1);
		execvp(argv[0], argv);
		_exit(99);
	}
	return pid;
}

/* `cat` in the foreground, a job in the background; it is stopped, brought back and ended by keys.
 * Between two rounds it is quiet for a while. */
static void typist(void)
{
	const pid_t pid = shell();
	CHECK(hear("ready> "));
	CHECK(type("sleep 1000 &\n") && hear("ready> "));
	for (uint64_t n = 0; !board->end && !board->wrong; n++) {
		struct winsize size = { 0 };
		char line[32], want[32];
		CHECK(type("cat\n") && hear("cat"));
		snprintf(line, sizeof(line), "say %d\n", (int)n);
		snprintf(want, sizeof(want), "say %d\r\nsay %d\r\n", (int)n, (int)n);
		nap(30);
		CHECK(type(line) && hear(want));
		nap(30);
		CHECK(type("\032") && hear("Stopped") && hear("ready> "));
		nap(30);
		CHECK(type("jobs\n") && hear("sleep 1000") && hear("cat") && hear("ready> "));
		CHECK(type("fg\n") && hear("cat"));
		nap(30);
		CHECK(type("\003") && hear("ready> "));
		CHECK(ioctl(master, TIOCGWINSZ, &size) == 0 && size.ws_row == 33 &&
		      size.ws_col == 132 && tcgetpgrp(master) == pid);
		board->rounds[0]++;
	}
	CHECK(type("kill %1; wait; exit 0\n"));
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
}

static void an_interactive_shell_on_a_pty_of_the_family(void **state)
{
	(void)state;
	goes_on(typist, 1);
}

/* A devpts of our own, in which nobody else takes numbers. */
static int terminals_setup(void **state)
{
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("devpts", "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=620") < 0) {
		print_error("no devpts of our own: %s\n", strerror(errno));
		return -1;
	}
	return families_setup(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FAMILY(an_interactive_shell_on_a_pty_of_the_family),
	};
	if (geteuid() != 0) {
		print_message("a devpts of its own needs root: not tried\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, terminals_setup, families_teardown);
}
