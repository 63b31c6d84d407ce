#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/screen.h"

#define ENTER "\033[?1049h\033[?25l" /* alternate screen, no cursor */
#define LEAVE "\033[?25h\033[?1049l"

static void put(const char *text)
{
	(void)fvm_write_all(STDOUT_FILENO, text, strlen(text));
}

static void measure(struct cli_screen *s)
{
	struct winsize w;
	s->rows = 24;
	s->columns = 80;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_row > 0 && w.ws_col > 0) {
		s->rows = w.ws_row;
		s->columns = w.ws_col;
	}
}

/* Keys one by one and unechoed; ^C and ^Z stay signals, which we read as keys. */
static int enter(struct cli_screen *s)
{
	struct termios raw = s->before;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) < 0)
		return -errno;
	put(ENTER);
	measure(s);
	return 0;
}

static void leave(const struct cli_screen *s)
{
	put(LEAVE);
	(void)tcsetattr(STDIN_FILENO, TCSADRAIN, &s->before);
}

int cli_screen_open(struct cli_screen *s, struct fvm_error *err)
{
	static const int signals[] = { SIGWINCH, SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP };
	sigset_t set;
	*s = (struct cli_screen){ .signals = -1 };
	if (!isatty(STDOUT_FILENO) || tcgetattr(STDIN_FILENO, &s->before) < 0)
		return fvm_error_set(err, ENOTTY, "take over the terminal");
	sigemptyset(&set);
	for (size_t i = 0; i < FVM_COUNT(signals); i++)
		sigaddset(&set, signals[i]);
	s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->signals < 0)
		return fvm_error_set(err, errno, "wait for signals");
	sigprocmask(SIG_BLOCK, &set, &s->mask_before);
	int r = enter(s);
	if (r < 0) {
		cli_screen_close(s);
		return fvm_error_set(err, -r, "take over the terminal");
	}
	return 0;
}

void cli_screen_close(struct cli_screen *s)
{
	if (s->signals < 0)
		return;
	leave(s);
	fvm_fd_closep(&s->signals);
	sigprocmask(SIG_SETMASK, &s->mask_before, NULL);
	fvm_buf_free(&s->out);
}

/* How many bytes of @text fill at most @columns columns. */
static size_t cut(const char *text, int columns)
{
	size_t n = 0;
	for (int column = 0; text[n]; n++) {
		if ((text[n] & 0xc0) != 0x80 && column++ == columns)
			break;
	}
	return n;
}

void cli_screen_line(struct cli_screen *s, const char *style, const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;
	if (s->row >= s->rows)
		return;
	va_start(ap, fmt);
	int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	/* erased first, with the style's background, so that a highlighted line is one from edge to
	 * edge; after a full line it would erase its last character */
	if (style[0])
		fvm_buf_printf(&s->out, "\033[%sm", style);
	fvm_buf_puts(&s->out, "\033[K");
	fvm_buf_add(&s->out, text, cut(text, s->columns));
	if (style[0])
		fvm_buf_puts(&s->out, "\033[0m");
	if (++s->row < s->rows)
		fvm_buf_puts(&s->out, "\r\n");
	free(text);
}

void cli_screen_show(struct cli_screen *s)
{
	put("\033[H");
	if (s->out.data && !s->out.failed)
		put(s->out.data);
	fvm_buf_free(&s->out);
	s->row = 0;
}

/* ---- keys ---- */

int cli_key_parse(const char *bytes, size_t len, size_t *ret_used)
{
	static const struct {
		const char *bytes;
		int key;
	} sequences[] = {
		{ "\033[A", CLI_KEY_UP },	{ "\033OA", CLI_KEY_UP },
		{ "\033[B", CLI_KEY_DOWN },	{ "\033OB", CLI_KEY_DOWN },
		{ "\033[C", CLI_KEY_RIGHT },	{ "\033OC", CLI_KEY_RIGHT },
		{ "\033[D", CLI_KEY_LEFT },	{ "\033OD", CLI_KEY_LEFT },
		{ "\033[5~", CLI_KEY_PAGE_UP }, { "\033[6~", CLI_KEY_PAGE_DOWN },
		{ "\033[H", CLI_KEY_HOME },	{ "\033[1~", CLI_KEY_HOME },
		{ "\033OH", CLI_KEY_HOME },	{ "\033[F", CLI_KEY_END },
		{ "\033[4~", CLI_KEY_END },	{ "\033OF", CLI_KEY_END },
	};
	*ret_used = 1;
	if (bytes[0] != '\033')
		return (unsigned char)bytes[0];
	for (size_t i = 0; i < FVM_COUNT(sequences); i++) {
		size_t n = strlen(sequences[i].bytes);
		if (n <= len && memcmp(bytes, sequences[i].bytes, n) == 0) {
			*ret_used = n;
			return sequences[i].key;
		}
	}
	/* an unknown sequence is swallowed whole; a lone escape is the key of that name */
	if (len > 1 && (bytes[1] == '[' || bytes[1] == 'O')) {
		size_t n = 2;
		while (n < len && !(bytes[n] >= '@' && bytes[n] <= '~'))
			n++;
		*ret_used = n < len ? n + 1 : len;
		return CLI_KEY_NONE;
	}
	return CLI_KEY_ESCAPE;
}

static int signal_key(struct cli_screen *s)
{
	struct signalfd_siginfo info;
	if (read(s->signals, &info, sizeof(info)) != sizeof(info))
		return CLI_KEY_NONE;
	if (info.ssi_signo == SIGWINCH) {
		measure(s);
		return CLI_KEY_REDRAW;
	}
	if (info.ssi_signo != SIGTSTP)
		return CLI_KEY_QUIT;
	leave(s);
	raise(SIGSTOP); /* until somebody says fg */
	(void)enter(s);
	return CLI_KEY_REDRAW;
}

/* One read gives what one key sends; of more, e.g. pasted, only the first counts. */
static int typed_key(void)
{
	char bytes[32];
	size_t used;
	ssize_t n = read(STDIN_FILENO, bytes, sizeof(bytes));
	return n <= 0 ? CLI_KEY_QUIT : cli_key_parse(bytes, (size_t)n, &used);
}

int cli_screen_key(struct cli_screen *s, int timeout_ms)
{
	struct pollfd p[] = {
		{ .fd = s->signals, .events = POLLIN },
		{ .fd = STDIN_FILENO, .events = POLLIN },
	};
	if (poll(p, FVM_COUNT(p), timeout_ms) <= 0)
		return CLI_KEY_NONE;
	return p[0].revents ? signal_key(s) : typed_key();
}
