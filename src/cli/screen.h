/*
 * cli/screen - a full screen that is drawn anew, on any terminal that knows ANSI sequences
 *
 * Theory of operation
 *   A picture is put together in memory and written at once, each line cut at the width and erased
 *   to its end, so nothing flickers and nothing of an older picture stays. Signals come as keys:
 *   the loop of the program sees a resize or an end like anything else that was pressed, and the
 *   terminal is put back in order on every way out, also when it is stopped by ^Z.
 *   Text is UTF-8; a character counts as one column (wide ones may be cut a little late).
 */
#ifndef FVM_CLI_SCREEN_H
#define FVM_CLI_SCREEN_H

#include <signal.h>
#include <termios.h>

#include "common/common.h"

enum cli_key {
	CLI_KEY_NONE, /* time is up */
	CLI_KEY_UP = 256,
	CLI_KEY_DOWN,
	CLI_KEY_PAGE_UP,
	CLI_KEY_PAGE_DOWN,
	CLI_KEY_HOME,
	CLI_KEY_END,
	CLI_KEY_LEFT,
	CLI_KEY_RIGHT,
	CLI_KEY_ESCAPE,
	CLI_KEY_REDRAW, /* other size, or back from ^Z */
	CLI_KEY_QUIT,	/* ^C, SIGTERM, SIGHUP, or the terminal is gone */
};

struct cli_screen {
	int rows, columns;
	struct termios before;
	sigset_t mask_before;
	int signals;	    /* signalfd */
	struct fvm_buf out; /* the picture so far */
	int row;	    /* lines in it */
};

/** cli_screen_open() - take over the terminal at stdin and stdout. Return: 0 or -ENOTTY, ... */
int cli_screen_open(struct cli_screen *s, struct fvm_error *err);
void cli_screen_close(struct cli_screen *s);

/** cli_screen_line() - add a line to the picture; beyond the last row it is dropped
 *  @style: "" or an SGR number such as "7" (reverse) or "1" (bold) */
void cli_screen_line(struct cli_screen *s, const char *style, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/** cli_screen_show() - write the picture, and begin a new one */
void cli_screen_show(struct cli_screen *s);

/** cli_screen_key() - next key: a character, or enum cli_key; waits at most @timeout_ms */
int cli_screen_key(struct cli_screen *s, int timeout_ms);

/** cli_key_parse() - the first key of @len > 0 bytes from a terminal
 *  @ret_used: how many bytes it took */
int cli_key_parse(const char *bytes, size_t len, size_t *ret_used);

#endif
