/* Carrying a session: our terminal and signals to PID 1, its output and end to us. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/client_priv.h"

#define DETACH_1  16 /* ^P */
#define DETACH_2  17 /* ^Q */
#define TYPED	  4096
#define DETACH_MS 250 /* ^P is the shell's last line, too: so long it is held back */

struct stream {
	int sock, pidfd, ended, signals;
	int out;	    /* where a terminal's output goes */
	bool terminal;	    /* the session has one */
	bool raw;	    /* and so have we */
	bool read_input;    /* our stdin is forwarded as the terminal's input */
	bool relayed;	    /* there was output: with no terminal, of a detached command */
	bool saw_first;	    /* the first of the two detach keys came last */
	bool first_passed;  /* as the second did not follow soon; it still may */
	long long first_ms; /* when it came */
	char *packet;	    /* room for one message */
	const char *output; /* of it: not yet written */
	size_t output_len;
	int status;
};

enum { GO_ON, ENDED = 1, DETACHED = 2 };

static const int watched[] = { SIGINT,	SIGTERM, SIGHUP,  SIGQUIT, SIGUSR1,
			       SIGUSR2, SIGCONT, SIGTSTP, SIGWINCH };

static int watch_signals(sigset_t *ret_old)
{
	sigset_t set;
	sigemptyset(&set);
	for (size_t i = 0; i < FVM_COUNT(watched); i++)
		sigaddset(&set, watched[i]);
	sigprocmask(SIG_BLOCK, &set, ret_old);
	int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

static void send_window(const struct stream *s)
{
	struct winsize window;
	if (s->terminal && s->sock >= 0 && terminal_window(&window))
		(void)fvm_msg_send(s->sock, FVM_MSG_WINCH, &window, sizeof(window));
}

static void send_signal(const struct stream *s, int sig)
{
	int32_t number = sig;
	if (s->sock >= 0)
		(void)fvm_msg_send(s->sock, FVM_MSG_SIGNAL, &number, sizeof(number));
	else if (s->pidfd >= 0)
		(void)syscall(SYS_pidfd_send_signal, s->pidfd, sig, NULL, 0);
}

/* Stopped from outside (the keyboard's ^Z goes into the VM): give the terminal back meanwhile. */
static void stop_ourselves(const struct stream *s)
{
	terminal_restore();
	kill(getpid(), SIGSTOP);
	if (s->raw)
		(void)terminal_raw(STDIN_FILENO);
	send_window(s);
}

static int on_signal(struct stream *s, int sig)
{
	switch (sig) {
	case SIGWINCH:
	case SIGCONT:
		send_window(s);
		return GO_ON;
	case SIGTSTP:
		stop_ourselves(s);
		return GO_ON;
	default:
		break;
	}
	if (!s->terminal && !(sig == SIGHUP && s->relayed)) {
		send_signal(s, sig);
		return GO_ON;
	}
	return sig == SIGUSR1 || sig == SIGUSR2 ? GO_ON : DETACHED;
}

static int signals_ready(struct stream *s)
{
	struct signalfd_siginfo info;
	while (read(s->signals, &info, sizeof(info)) == sizeof(info)) {
		int r = on_signal(s, (int)info.ssi_signo);
		if (r != GO_ON)
			return r;
	}
	return GO_ON;
}

/* Two keys in a row detach; the first alone is passed on after a moment, or with what follows. */
static size_t find_detach(struct stream *s, char *buf, size_t len, bool *ret_detach)
{
	size_t kept = 0;
	char out[TYPED + 1];
	for (size_t i = 0; i < len; i++) {
		if (s->saw_first && buf[i] == DETACH_2) {
			*ret_detach = true;
			break;
		}
		if (s->saw_first && !s->first_passed)
			out[kept++] = DETACH_1;
		s->saw_first = buf[i] == DETACH_1;
		s->first_passed = false;
		s->first_ms = s->saw_first ? fvm_clock_ms() : 0;
		if (!s->saw_first)
			out[kept++] = buf[i];
	}
	memcpy(buf, out, kept);
	return kept;
}

/* How long the first key may be held back still, in ms; -1: there is none. */
static int first_left(const struct stream *s)
{
	if (!s->saw_first || s->first_passed)
		return -1;
	long long left = s->first_ms + DETACH_MS - fvm_clock_ms();
	return left > 0 ? (int)left : 0;
}

static void pass_first(struct stream *s)
{
	static const char key = DETACH_1;
	if (s->sock >= 0)
		(void)fvm_msg_send(s->sock, FVM_MSG_STDIN, &key, 1);
	s->first_passed = true;
}

static int input_ready(struct stream *s)
{
	char buf[2 * TYPED];
	bool detach = false;
	ssize_t n = read(STDIN_FILENO, buf, TYPED / 2);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return GO_ON;
	if (n <= 0) {
		s->read_input = false;
		if (s->raw)
			return DETACHED; /* the terminal is gone */
		(void)fvm_msg_send(s->sock, FVM_MSG_STDIN, NULL, 0);
		return GO_ON;
	}
	size_t len = (size_t)n;
	if (s->raw)
		len = find_detach(s, buf, len, &detach);
	if (len > 0)
		(void)fvm_msg_send(s->sock, FVM_MSG_STDIN, buf, len);
	return detach ? DETACHED : GO_ON;
}

static void write_output(struct stream *s)
{
	while (s->output_len > 0) {
		ssize_t n = write(s->out, s->output, s->output_len);
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0 && errno != EINTR) {
			s->output_len = 0; /* nobody reads any more; the session may go on */
			return;
		}
		if (n > 0) {
			s->output += n;
			s->output_len -= (size_t)n;
		}
	}
}

/* PID 1 is gone without a word: its status tells, if it is our child. */
static int vm_ended(struct stream *s, struct fvm_error *err)
{
	siginfo_t info = { 0 };
	if (s->pidfd >= 0) {
		struct pollfd pfd = { .fd = s->pidfd, .events = POLLIN };
		(void)poll(&pfd, 1, 5000);
	}
	if (s->pidfd < 0 ||
	    waitid((idtype_t)P_PIDFD, (id_t)s->pidfd, &info, WEXITED | WNOWAIT | WNOHANG) < 0 ||
	    info.si_pid == 0)
		return fvm_error_set(err, EPIPE, "wait for the command: the VM has ended");
	s->status = info.si_code == CLD_EXITED ? W_EXITCODE(info.si_status, 0)
					       : W_EXITCODE(0, info.si_status);
	return ENDED;
}

/* Length of the terminal's escape sequence at @at that asks for an answer, or 0: CSI n and c
 * (position, attributes), OSC with "?" (colours), DCS $q and +q (settings). */
static size_t question(const char *at, size_t len)
{
	size_t i = 2;
	if (len < 3 || at[0] != '\033')
		return 0;
	if (at[1] == '[') {
		while (i < len && at[i] >= 0x20 && at[i] < 0x40)
			i++;
		return i < len && (at[i] == 'n' || at[i] == 'c') ? i + 1 : 0;
	}
	if (at[1] != ']' && at[1] != 'P')
		return 0;
	while (i < len && i < 256 && at[i] != '\a' && at[i] != '\033')
		i++;
	if (i == len || i == 256)
		return 0;
	bool asks = at[1] == ']' ? at[i - 1] == '?'
				 : i > 3 && at[3] == 'q' && (at[2] == '$' || at[2] == '+');
	return !asks ? 0 : at[i] == '\a' ? i + 1 : i + 2 <= len ? i + 2 : len;
}

size_t client_drop_questions(char *text, size_t len)
{
	size_t kept = 0;
	for (size_t i = 0; i < len;) {
		size_t skip = question(text + i, len - i);
		if (skip)
			i += skip;
		else
			text[kept++] = text[i++];
	}
	return kept;
}

static int sock_ready(struct stream *s, struct fvm_error *err)
{
	struct fvm_msg head;
	ssize_t n = recv(s->sock, s->packet, sizeof(head) + FVM_MSG_MAX, MSG_DONTWAIT);
	/* PID 1 has closed before it read all of ours: told once, before what it had said */
	if (n < 0 && errno == ECONNRESET)
		n = recv(s->sock, s->packet, sizeof(head) + FVM_MSG_MAX, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return GO_ON;
	if (n <= 0)
		return vm_ended(s, err);
	const char *payload = fvm_msg_check(s->packet, (size_t)n, &head, err);
	if (!payload)
		return -EBADMSG;
	int32_t status;
	if (head.type == FVM_MSG_OUTPUT || head.type == FVM_MSG_REPLAY) {
		s->relayed = true;
		s->output = payload;
		s->output_len = head.len;
		if (head.type == FVM_MSG_REPLAY)
			s->output_len = client_drop_questions((char *)(uintptr_t)payload, head.len);
		write_output(s);
	} else if (head.type == FVM_MSG_EXITED && head.len == sizeof(status)) {
		memcpy(&status, payload, sizeof(status));
		s->status = status;
		return ENDED;
	} else if (head.type == FVM_MSG_ERROR && head.len == sizeof(*err)) {
		return fvm_error_take(err, payload, head.len) ?: -EIO;
	}
	return GO_ON;
}

enum { P_SIGNALS, P_SOCK, P_VM, P_ENDED, P_INPUT, P_OUT, P_RELAY, P_COUNT = P_RELAY + RELAYS };

static int one_round(struct stream *s, struct fvm_error *err)
{
	bool full =
		s->output_len > 0; /* our terminal first: PID 1 waits, and so does the program */
	struct pollfd pfd[P_COUNT] = {
		[P_SIGNALS] = { .fd = s->signals, .events = POLLIN },
		[P_SOCK] = { .fd = full ? -1 : s->sock, .events = POLLIN },
		[P_VM] = { .fd = s->sock < 0 ? s->pidfd : -1, .events = POLLIN },
		[P_ENDED] = { .fd = s->sock < 0 ? s->ended : -1, .events = POLLIN },
		[P_INPUT] = { .fd = s->read_input ? STDIN_FILENO : -1, .events = POLLIN },
		[P_OUT] = { .fd = full ? s->out : -1, .events = POLLOUT },
	};
	int wait = relays_poll(pfd + P_RELAY), left = first_left(s);
	if (left >= 0 && (wait < 0 || left < wait))
		wait = left;
	if (poll(pfd, P_COUNT, wait) < 0)
		return errno == EINTR ? GO_ON : fvm_error_set(err, errno, "wait for the session");
	relays_ready(pfd + P_RELAY);
	int r = GO_ON;
	if (pfd[P_SIGNALS].revents)
		r = signals_ready(s);
	if (r == GO_ON && pfd[P_INPUT].revents)
		r = input_ready(s);
	else if (first_left(s) == 0)
		pass_first(s);
	if (r == GO_ON && pfd[P_OUT].revents)
		write_output(s);
	if (r == GO_ON && pfd[P_SOCK].revents)
		r = sock_ready(s, err);
	if (r == GO_ON && pfd[P_ENDED].revents & POLLIN)
		r = ENDED;
	if (r == GO_ON && pfd[P_VM].revents)
		r = vm_ended(s, err);
	return r;
}

static int begin(struct stream *s, struct fvm_error *err)
{
	s->packet = malloc(sizeof(struct fvm_msg) + FVM_MSG_MAX);
	if (!s->packet)
		return fvm_error_set(err, ENOMEM, "carry the session");
	if (s->signals < 0)
		return fvm_error_set(err, -s->signals, "watch signals");
	s->out = isatty(STDOUT_FILENO) ? terminal_reopen(STDOUT_FILENO) : -1;
	if (s->out < 0)
		s->out = STDOUT_FILENO;
	s->read_input = s->terminal && s->sock >= 0;
	s->raw = s->read_input && isatty(STDIN_FILENO);
	if (!s->raw)
		return 0;
	int r = terminal_raw(STDIN_FILENO);
	if (r < 0)
		return fvm_error_set(err, -r, "set the terminal to raw mode");
	send_window(s);
	return 0;
}

static void finish(struct stream *s, const sigset_t *old_mask)
{
	if (s->raw)
		terminal_restore();
	if (s->out > STDERR_FILENO)
		close(s->out);
	if (s->signals >= 0)
		close(s->signals);
	free(s->packet);
	sigprocmask(SIG_SETMASK, old_mask, NULL);
}

int fvm_client_stream(int sock, int pidfd, int ended, bool terminal, int *ret_status,
		      struct fvm_error *err)
{
	sigset_t old_mask;
	struct stream s = { .sock = sock, .pidfd = pidfd, .ended = ended, .terminal = terminal };
	s.signals = watch_signals(&old_mask);
	relays_passed();
	int r = begin(&s, err);
	while (r == GO_ON)
		r = one_round(&s, err);
	finish(&s, &old_mask);
	if (r == ENDED) {
		relays_finish();
		*ret_status = s.status;
		return 0;
	}
	return r == DETACHED ? 1 : r;
}
