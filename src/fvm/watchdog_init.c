/*
 * The watchdog in PID 1: looks at the first program, tells the log, starts it again, or has it
 * restored. See watchdog.h.
 *
 * What it opens by name lies below the /proc that was there before anybody ran, and no mount on it
 * is crossed: a file system of the VM's can't hold it up.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "common/dir.h"
#include "fvm/init_priv.h"
#include "fvm/lock.h"

#define LOOKS	       4U /* in the time after which something is wrong */
#define LOOK_MOST_MS   5000
#define CLEAR_EACH_MS  50
#define CLEAR_MOST_MS  10000
#define DELAY_LEAST_MS 250U
#define DELAY_MOST_MS  30000U
#define LASTED_MS      60000 /* after that the delay starts small again */
#define GRACE_MS       2000
#define HELD_EACH_MS   500
#define HELD_MOST_MS   600000 /* a keeper that does nothing for so long is none */
#define STUCK_MAX      32
#define STATUS_BYTES   16384
#define MESSAGE_BYTES  4096
#define MESSAGES_MAX   64

struct stuck { /* a thread that was in state D at the last look */
	pid_t tid;
	uint64_t switches; /* times it has been taken off a processor */
	int64_t ms;
};

enum phase { RUNS, DIES, CLEARS, WAITS, HELD };

struct watchdog {
	struct fvm_watchdog_record record;
	int file, proc;
	struct source notify;
	struct fvm_command command; /* restart: to be started again; its descriptors are ours */
	struct termios modes;	    /* of its terminal, as it was given one */
	bool has_modes;
	enum phase phase;
	int status;	   /* of the program that has ended */
	int asked;	   /* signal that somebody outside sent it last */
	int64_t looked_ms; /* by the clock, as are the next three */
	int64_t next_ms;
	int64_t started_ms;
	int64_t cleared_ms;
	unsigned int delay_ms; /* before the next start */
	int64_t stopped_ms, silent_ms;
	enum fvm_watchdog_event told; /* what is wrong now, and in the log */
	pid_t told_tid;
	struct stuck stuck[STUCK_MAX];
	size_t stuck_count;
};

static bool restarts(const struct watchdog *w)
{
	return w->record.what.action == FVM_WATCHDOG_RESTART;
}

static int64_t limit_ms(const struct watchdog *w)
{
	return (int64_t)w->record.what.seconds * 1000;
}

static int64_t look_ms(const struct watchdog *w)
{
	int64_t ms = limit_ms(w) / LOOKS;
	return ms < LOOK_MOST_MS ? ms : LOOK_MOST_MS;
}

static void save(const struct watchdog *w)
{
	char line[FVM_WATCHDOG_RECORD_SZ];
	fvm_watchdog_print(&w->record, line);
	if (w->file >= 0)
		(void)!pwrite(w->file, line, sizeof(line), 0);
}

__attribute__((format(printf, 2, 3))) static void say(const struct init *init, const char *fmt, ...)
{
	char text[256], line[300];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	int n = snprintf(line, sizeof(line), "fvm: watchdog: %s\n", text);
	fvm_logfile_add(init->args.log, line, (size_t)n);
}

/* Signals by which programs are told to end, or end as they are meant to. */
static bool deliberate(int sig)
{
	return sig == SIGHUP || sig == SIGINT || sig == SIGQUIT || sig == SIGTERM || sig == SIGPIPE;
}

/* ---- WATCHDOG=1 ---- */

static void heard(struct watchdog *w, const char *text)
{
	const enum fvm_watchdog_word word = fvm_watchdog_word(text);
	if (word == FVM_WATCHDOG_TRIGGER) {
		w->record.notifies = true;
		w->silent_ms = limit_ms(w);
		w->next_ms = 0;
	} else if (word == FVM_WATCHDOG_LIVES) {
		bool first = !w->record.notifies;
		w->record.notifies = true;
		w->silent_ms = 0;
		if (first)
			save(w);
	}
}

/* One message of who may speak for the program: its user, or root. There is room for the sender's
 * ids only, so that the kernel closes what descriptors come along. Return: whether there was one */
static bool receive(struct watchdog *w, uid_t uid)
{
	char text[MESSAGE_BYTES + 1];
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	struct iovec io = { text, MESSAGE_BYTES };
	struct msghdr m = { .msg_iov = &io,
			    .msg_iovlen = 1,
			    .msg_control = control.room,
			    .msg_controllen = sizeof(control.room) };
	ssize_t n = recvmsg(w->notify.fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return false;
	const struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	struct ucred from;
	if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_CREDENTIALS)
		return true;
	memcpy(&from, CMSG_DATA(c), sizeof(from));
	text[n] = '\0';
	if (from.uid == 0 || from.uid == uid)
		heard(w, text);
	return true;
}

static void listen_to(struct watchdog *w)
{
	for (int i = 0; i < MESSAGES_MAX && receive(w, w->command.uid); i++)
		;
}

static void notify_ready(struct init *init, struct source *source, uint32_t events)
{
	(void)source;
	(void)events;
	listen_to(init->watchdog);
}

/* Nobody of the VM runs yet: the path is what it says. */
static int open_notify(struct init *init, struct watchdog *w, struct fvm_error *err)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX, .sun_path = FVM_WATCHDOG_SOCKET };
	const int on = 1;
	w->notify.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	w->notify.ready = notify_ready;
	if (w->notify.fd < 0 ||
	    setsockopt(w->notify.fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 ||
	    bind(w->notify.fd, (struct sockaddr *)&at, sizeof(at)) < 0 ||
	    chmod(FVM_WATCHDOG_SOCKET, 0666) < 0)
		return fvm_error_set(err, errno, "make the VM's %s", FVM_WATCHDOG_SOCKET);
	int r = source_watch(init, &w->notify, EPOLLIN);
	return r < 0 ? fvm_error_set(err, -r, "watch the VM's %s", FVM_WATCHDOG_SOCKET) : 0;
}

/* ---- looking ---- */

static int open_below(const struct watchdog *w, const char *path, int flags)
{
	struct open_how how = { .flags = (unsigned int)flags | O_CLOEXEC,
				.resolve =
					RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS };
	return fvm_nerr(syscall(SYS_openat2, w->proc, path, &how, sizeof(how)));
}

/* Return: its state as a letter, 0: it has gone */
static char read_thread(const struct watchdog *w, pid_t pid, pid_t tid, uint64_t *ret_switches)
{
	char path[64], text[STATUS_BYTES];
	snprintf(path, sizeof(path), "%d/task/%d/status", (int)pid, (int)tid);
	scoped_fd fd = open_below(w, path, O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	return fvm_watchdog_thread(text, ret_switches);
}

/* How long it has been where it is; 0: it was elsewhere at the last look. */
static int64_t stuck_for(const struct watchdog *w, pid_t tid, uint64_t switches, int64_t passed)
{
	for (size_t i = 0; i < w->stuck_count; i++) {
		if (w->stuck[i].tid == tid && w->stuck[i].switches == switches)
			return w->stuck[i].ms + passed;
	}
	return 0;
}

/* Return: the thread that is stuck for too long, or 0 */
static pid_t look_at_threads(struct watchdog *w, pid_t pid, int64_t passed)
{
	char path[32];
	struct stuck now[STUCK_MAX];
	size_t count = 0;
	pid_t worst = 0;
	snprintf(path, sizeof(path), "%d/task", (int)pid);
	scoped_dir dir = fvm_dir_take(open_below(w, path, O_RDONLY | O_DIRECTORY));
	for (const struct dirent *d; dir && count < STUCK_MAX && (d = fvm_dir_next(dir)) != NULL;) {
		struct stuck *s = &now[count];
		s->tid = (pid_t)strtol(d->d_name, NULL, 10);
		if (s->tid <= 0 || read_thread(w, pid, s->tid, &s->switches) != 'D')
			continue;
		s->ms = stuck_for(w, s->tid, s->switches, passed);
		if (s->ms >= limit_ms(w) && !worst)
			worst = s->tid;
		count++;
	}
	memcpy(w->stuck, now, count * sizeof(now[0]));
	w->stuck_count = count;
	return worst;
}

static enum fvm_watchdog_event examine(struct watchdog *w, pid_t pid, int64_t passed)
{
	uint64_t ignored;
	listen_to(w);
	char state = read_thread(w, pid, pid, &ignored);
	if (state == 't') /* a debugger has it, or a checkpoint is being made */
		return w->told;
	w->stopped_ms = state == 'T' ? w->stopped_ms + passed : 0;
	if (w->record.notifies)
		w->silent_ms += passed;
	w->told_tid = look_at_threads(w, pid, passed);
	if (w->stopped_ms >= limit_ms(w))
		return FVM_WATCHDOG_STOPPED;
	if (w->told_tid)
		return FVM_WATCHDOG_STUCK;
	return w->silent_ms >= limit_ms(w) ? FVM_WATCHDOG_SILENT : FVM_WATCHDOG_NONE;
}

/* ---- to be restored ---- */

static bool restores(const struct watchdog *w)
{
	return w->record.what.action == FVM_WATCHDOG_RESTORE;
}

static void want(struct watchdog *w, bool wanted)
{
	if (w->record.wanted == wanted)
		return;
	w->record.wanted = wanted;
	save(w);
}

/* Return: whether somebody outside will roll the VM back */
static bool ask_to_restore(const struct init *init)
{
	struct watchdog *w = init->watchdog;
	if (fvm_watchdog_worn_out(&w->record, fvm_now_ns())) {
		say(init, "it was restored %u times within %d s, and is not once more",
		    w->record.recent, FVM_WATCHDOG_SPAN_S);
		return false;
	}
	if (!fvm_lock_watched_by(init->args.alive)) {
		say(init, "it is not restored: its keeper has ended");
		return false;
	}
	want(w, true);
	return true;
}

/* Who has crashed waits for the VM's end, which a rollback brings. */
static void hold(struct init *init, int64_t now)
{
	struct watchdog *w = init->watchdog;
	w->next_ms = now + HELD_EACH_MS;
	if (fvm_lock_watched_by(init->args.alive) && now - w->cleared_ms < HELD_MOST_MS)
		return;
	say(init, "it is not restored: its keeper %s",
	    now - w->cleared_ms < HELD_MOST_MS ? "has ended" : "does nothing");
	want(w, false);
	init_shutdown(init, GRACE_MS);
}

/* ---- what is done about it ---- */

static void note(struct watchdog *w, enum fvm_watchdog_event event)
{
	w->told = event;
	if (event == FVM_WATCHDOG_NONE)
		return;
	w->record.event = event;
	w->record.at_ns = fvm_now_ns();
	save(w);
}

static void tell(const struct init *init, enum fvm_watchdog_event event)
{
	const struct watchdog *w = init->watchdog;
	const int pid = (int)init->first->pid;
	const unsigned int s = w->record.what.seconds;
	if (event == FVM_WATCHDOG_STOPPED)
		say(init, "the program (pid %d) has been stopped by a signal for %u s", pid, s);
	else if (event == FVM_WATCHDOG_STUCK)
		say(init,
		    "the program (pid %d) is stuck: its thread %d waits in the kernel for %u s",
		    pid, (int)w->told_tid, s);
	else if (event == FVM_WATCHDOG_SILENT)
		say(init, "the program (pid %d) has not said WATCHDOG=1 for %u s", pid, s);
	else
		say(init, "the program (pid %d) goes on", pid);
}

static void look(struct init *init, int64_t now)
{
	struct watchdog *w = init->watchdog;
	int64_t passed = now - w->looked_ms, most = 2 * look_ms(w);
	enum fvm_watchdog_event was = w->told;
	enum fvm_watchdog_event is = examine(w, init->first->pid, passed < most ? passed : most);
	w->looked_ms = now;
	w->next_ms = now + look_ms(w);
	if (is == was)
		return;
	tell(init, is);
	note(w, is);
	if (is == FVM_WATCHDOG_NONE)
		want(w, false);
	else if (restores(w))
		(void)ask_to_restore(init);
	if (is == FVM_WATCHDOG_NONE || !restarts(w))
		return;
	w->phase = DIES; /* unless the kernel does not let go of it */
	kill(init->first->pid, SIGKILL);
}

/* Sessions beside it stay, and so do children of ours that do not lead theirs yet, and who came
 * from outside. */
static bool is_rest(const struct init *init, pid_t pid)
{
	uint64_t ignored;
	pid_t sid = getsid(pid);
	if (sid <= 1 || read_thread(init->watchdog, pid, pid, &ignored) == 'Z')
		return false;
	for (const struct session *s = init->sessions; s; s = s->next) {
		if (s != init->first && s->pid == sid && !s->ended)
			return false;
	}
	return true;
}

/* Return: whether there was nobody left */
static bool kill_rest(const struct init *init)
{
	bool none = true;
	scoped_dir dir = fvm_dir_take(open_below(init->watchdog, ".", O_RDONLY | O_DIRECTORY));
	for (const struct dirent *d; dir && (d = fvm_dir_next(dir)) != NULL;) {
		pid_t pid = (pid_t)strtol(d->d_name, NULL, 10);
		if (pid <= 1 || !is_rest(init, pid))
			continue;
		none = kill(pid, SIGKILL) < 0 && none;
	}
	return none;
}

static void clear(struct watchdog *w, const struct init *init, int64_t now)
{
	bool late = now - w->cleared_ms > CLEAR_MOST_MS;
	w->next_ms = now + CLEAR_EACH_MS;
	if (!kill_rest(init) && !late)
		return;
	if (late)
		say(init, "what the program left behind does not end: it is started beside that");
	w->phase = WAITS;
	w->next_ms = now + w->delay_ms;
}

static void begin(struct watchdog *w, int64_t now)
{
	w->phase = RUNS;
	w->asked = 0;
	w->stopped_ms = w->silent_ms = 0;
	w->stuck_count = 0;
	w->told = FVM_WATCHDOG_NONE;
	w->record.notifies = false;
	w->started_ms = w->looked_ms = now;
	w->next_ms = now + look_ms(w);
}

static void longer_delay(struct watchdog *w)
{
	w->delay_ms = w->delay_ms < DELAY_MOST_MS / 2 ? w->delay_ms * 2 : DELAY_MOST_MS;
}

static void start_again(struct init *init, int64_t now)
{
	struct watchdog *w = init->watchdog;
	struct session *s = init->first;
	struct fvm_error err = { 0 };
	listen_to(w); /* what the last one said is not this one's */
	if (w->has_modes)
		(void)tcsetattr(s->slave, TCSANOW, &w->modes);
	if (session_again(init, s, &w->command, &err) < 0) {
		s->pid = 0;
		longer_delay(w);
		w->next_ms = now + w->delay_ms;
		say(init, "%s: %s; trying again", err.text, strerror(err.code));
		return;
	}
	begin(w, now);
	w->record.restarts++;
	save(w);
	say(init, "the program was started again (pid %d)", (int)s->pid);
}

int watchdog_tick(struct init *init)
{
	struct watchdog *w = init->watchdog;
	if (!w || !init->first || init->ending)
		return -1;
	int64_t now = fvm_clock_ms();
	if (now >= w->next_ms && w->phase == CLEARS)
		clear(w, init, now);
	else if (now >= w->next_ms && w->phase == WAITS)
		start_again(init, now);
	else if (now >= w->next_ms && w->phase == HELD)
		hold(init, now);
	else if (now >= w->next_ms && w->phase == RUNS)
		look(init, now);
	if (w->phase == DIES || init->ending)
		return -1; /* SIGCHLD wakes us */
	return w->next_ms > now ? (int)(w->next_ms - now) : 0;
}

/* ---- its start and end ---- */

int watchdog_start(struct init *init, const struct fvm_command *command, struct fvm_error *err)
{
	if (!init->args.watchdog.seconds)
		return 0;
	struct watchdog *w = calloc(1, sizeof(*w));
	if (!w)
		return fvm_error_set(err, ENOMEM, "watch the program");
	w->file = init->args.watchdog_file;
	if (fvm_watchdog_read(w->file, &w->record) < 0)
		w->record = (struct fvm_watchdog_record){ .what = init->args.watchdog };
	w->command = *command;
	w->delay_ms = DELAY_LEAST_MS;
	w->proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (w->proc < 0) {
		free(w);
		return fvm_error_set(err, errno, "open the VM's /proc");
	}
	init->watchdog = w;
	begin(w, fvm_clock_ms());
	return open_notify(init, w, err);
}

/* Its environment has the socket's name, which is made here before anybody of the VM's runs. */
int watchdog_adopt(struct init *init, uid_t uid, struct fvm_error *err)
{
	const struct fvm_command unknown = { .fds = { -1, -1, -1 }, .uid = uid };
	return init->watchdog ? 0 : watchdog_start(init, &unknown, err);
}

bool watchdog_keeps(const struct init *init)
{
	return init->watchdog && restarts(init->watchdog);
}

void watchdog_started(struct init *init)
{
	struct watchdog *w = init->watchdog;
	const struct session *s = init->first;
	if (!w)
		return;
	begin(w, fvm_clock_ms());
	w->has_modes = s->terminal && tcgetattr(s->slave, &w->modes) == 0;
}

/* The end of a pipe has to come when the last writer is gone. */
static void let_go(struct init *init)
{
	struct session *s = init->first;
	if (!restarts(init->watchdog))
		return;
	for (int i = 0; i < 3; i++)
		fvm_fd_closep(&init->watchdog->command.fds[i]);
	if (!s->terminal && s->slave >= 0)
		fvm_fd_closep(&s->slave);
	if (!s->terminal)
		s->slave = -1;
}

static void end_for_now(struct watchdog *w, struct session *s, int status, enum phase phase,
			int64_t now)
{
	w->status = status;
	w->phase = phase;
	w->cleared_ms = now;
	w->next_ms = 0;
	s->pid = 0;
}

bool watchdog_ended(struct init *init, struct session *s, int status)
{
	struct watchdog *w = init->watchdog;
	if (!w || s != init->first)
		return false;
	int sig = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	bool crashed =
		sig && w->phase == RUNS && !init->ending && !deliberate(sig) && sig != w->asked;
	if (crashed) {
		say(init, "the program (pid %d) was ended by signal %d (%s)", (int)s->pid, sig,
		    strsignal(sig));
		note(w, FVM_WATCHDOG_CRASHED);
	}
	int64_t now = fvm_clock_ms();
	if (crashed && restores(w) && ask_to_restore(init)) {
		end_for_now(w, s, status, HELD, now);
		return true;
	}
	if (init->ending || !restarts(w) || !(crashed || w->phase == DIES)) {
		let_go(init);
		return false;
	}
	if (now - w->started_ms >= LASTED_MS + limit_ms(w))
		w->delay_ms = DELAY_LEAST_MS;
	else if (w->record.restarts)
		longer_delay(w);
	end_for_now(w, s, status, CLEARS, now);
	return true;
}

static bool between(const struct init *init)
{
	return init->watchdog && init->first && init->first->pid == 0;
}

void watchdog_give_up(struct init *init)
{
	struct session *s = init->first;
	if (!between(init))
		return;
	let_go(init);
	init->first = NULL;
	init->status = init->watchdog->status;
	session_ended(init, s, init->status);
}

void watchdog_signal(struct init *init, const struct session *s, int sig)
{
	if (init->watchdog && s == init->first)
		init->watchdog->asked = sig;
	if (s != init->first || !between(init))
		session_signal(s, sig);
	else if (deliberate(sig))
		init_shutdown(init, GRACE_MS);
}
