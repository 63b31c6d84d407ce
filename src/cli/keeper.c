#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/keeper.h"
#include "fvm/helper.h"
#include "fvm/init_priv.h"
#include "fvm/lock.h"

#define TAG	   "watchdog."
#define TAGS	   3U
#define LOOK_MS	   1000
#define TRIES	   3	/* to roll back */
#define ANEW_MS	   1000 /* before another worker, who may not last either */
#define HOLD_MS	   30000
#define SAID_BYTES 400

struct keeper {
	struct fvm_vm vm; /* of run; not to be closed */
	int held, pidfd, record, log;
	int changes; /* inotify: of the record */
	int guard;   /* the worker's: at its end when there is no guard; else -1 */
	int64_t since_ns;
	int64_t next_ms; /* when the next snapshot is due, by the clock; 0: none is */
	bool refused;	 /* the log tells that there can't be one */
};

__attribute__((format(printf, 2, 3))) static void say(const struct keeper *k, const char *fmt, ...)
{
	char text[SAID_BYTES + 200], line[sizeof(text) + 32];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	int n = snprintf(line, sizeof(line), "fvm: watchdog: %s\n", text);
	fvm_logfile_add(k->log, line, (size_t)n);
}

/* ---- commands ---- */

/* "fvm: what\n.." -> "what" */
static void first_line(char *text)
{
	const char *from = strncmp(text, "fvm: ", 5) == 0 ? text + 5 : text;
	const size_t len = strcspn(from, "\n");
	memmove(text, from, len);
	text[len] = '\0';
}

static _Noreturn void become_command(const char *const *words, int output)
{
	char *argv[8];
	size_t n = 0;
	for (; words[n] && n < FVM_COUNT(argv) - 1; n++)
		argv[n] = (char *)(uintptr_t)words[n];
	argv[n] = NULL;
	signal(SIGPIPE, SIG_DFL);
	if (dup2(output, 2) < 0)
		_exit(CLI_FAILED);
	_exit(cli_exec_changes(argv));
}

/* The rest of what it says is of no use, but it is not to die of that. */
static void hear(int from, char *said)
{
	char more[512];
	ssize_t n = fvm_read_full(from, said, SAID_BYTES - 1);
	said[n > 0 ? n : 0] = '\0';
	while (read(from, more, sizeof(more)) > 0)
		;
	first_line(said);
}

/* Return: whether it succeeded; else @said tells why not */
static bool do_command(const char *const *words, char said[SAID_BYTES])
{
	int fds[2], status = -1;
	snprintf(said, SAID_BYTES, "it was killed");
	if (pipe2(fds, O_CLOEXEC) < 0)
		return false;
	pid_t pid = fork();
	if (pid == 0)
		become_command(words, fds[1]);
	close(fds[1]);
	if (pid > 0) {
		char text[SAID_BYTES];
		hear(fds[0], text);
		if (text[0])
			memcpy(said, text, sizeof(text));
	}
	close(fds[0]);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* It may have another name by now, and others have taken snapshots. */
static int look_again(struct keeper *k)
{
	scoped_config now = { 0 };
	int r = fvm_config_load(k->vm.dir, &now, NULL);
	if (r < 0)
		return r;
	fvm_config_free(&k->vm.config);
	k->vm.config = now;
	now = (struct fvm_config){ 0 };
	return 0;
}

/* ---- snapshots ---- */

static bool drop(const struct keeper *k, const char *tag)
{
	char said[SAID_BYTES];
	const char *const words[] = { "fvm", "-q", "snapshot", "--drop", k->vm.config.name,
				      tag,   NULL };
	return fvm_config_find_snapshot(&k->vm.config, tag) < 0 || do_command(words, said);
}

static void drop_all(struct keeper *k)
{
	char tag[24];
	for (unsigned int i = 1; look_again(k) == 0 && i <= TAGS; i++) {
		snprintf(tag, sizeof(tag), TAG "%u", i);
		(void)drop(k, tag);
	}
}

/* The one that is not there, or is the oldest. */
static unsigned int next_tag(const struct fvm_config *c)
{
	char tag[24];
	unsigned int oldest = 1;
	int first = INT_MAX;
	for (unsigned int i = 1; i <= TAGS; i++) {
		snprintf(tag, sizeof(tag), TAG "%u", i);
		int at = fvm_config_find_snapshot(c, tag);
		if (at < 0)
			return i;
		if (at < first)
			oldest = i;
		first = at < first ? at : first;
	}
	return oldest;
}

static void take_snapshot(struct keeper *k)
{
	char tag[24], said[SAID_BYTES];
	if (look_again(k) < 0 || fvm_vm_state(&k->vm) != FVM_RUNNING)
		return;
	snprintf(tag, sizeof(tag), TAG "%u", next_tag(&k->vm.config));
	const char *const words[] = { "fvm", "-q", "snapshot", "--live", k->vm.config.name,
				      tag,   NULL };
	bool done = drop(k, tag) && do_command(words, said);
	if (!done && !k->refused && fvm_vm_state(&k->vm) == FVM_RUNNING)
		say(k, "no snapshot was taken: %s", said);
	k->refused = !done;
}

/* ---- going back ---- */

static void see_init(struct keeper *k)
{
	scoped_running running = { 0 };
	fvm_fd_closep(&k->pidfd);
	k->pidfd = fvm_running_load(&k->vm, &running, NULL) < 0 ? -1 : fvm_running_pidfd(&running);
}

/* Return: whether it goes on */
static bool go_back(struct keeper *k, const struct fvm_watchdog_record *r)
{
	char said[SAID_BYTES];
	struct fvm_watchdog_record wish = *r;
	for (int i = 0; i < TRIES && look_again(k) == 0; i++, wish.recent++) {
		int at = fvm_watchdog_choose(&k->vm.config, k->since_ns, &wish);
		if (at < 0) {
			say(k, "there is no snapshot to go back to");
			return false;
		}
		const struct fvm_snapshot *s = &k->vm.config.snapshots[at];
		const char *const words[] = {
			"fvm", "-q", "rollback", "--force", k->vm.config.name, s->tag, NULL
		};
		say(k, "rolling back to snapshot '%s', %lld s old", s->tag,
		    (long long)((fvm_now_ns() - s->created_ns) / 1000000000));
		if (do_command(words, said)) {
			say(k, "the VM is as at '%s', its programs go on", s->tag);
			return true;
		}
		say(k, "the VM was not rolled back: %s", said);
	}
	return false;
}

/* ---- the worker ---- */

static int64_t until_next(const struct keeper *k)
{
	int64_t left = k->next_ms ? k->next_ms - fvm_clock_ms() : LOOK_MS;
	return left < 0 ? 0 : left > LOOK_MS ? LOOK_MS : left;
}

static void await_news(struct keeper *k)
{
	char events[4096];
	struct pollfd p[] = { { .fd = k->changes, .events = POLLIN },
			      { .fd = k->guard, .events = POLLIN },
			      { .fd = k->pidfd, .events = POLLIN } };
	(void)poll(p, FVM_COUNT(p), (int)until_next(k));
	while (read(k->changes, events, sizeof(events)) > 0)
		;
	if (p[1].revents)
		fvm_fd_closep(&k->guard);
	if (p[2].revents)
		fvm_fd_closep(&k->pidfd);
}

static void plan_snapshot(struct keeper *k, unsigned int each_s)
{
	k->next_ms = each_s ? fvm_clock_ms() + (int64_t)each_s * 1000 : 0;
}

enum outcome { OVER, GUARD_GONE, OTHERS };

/* Every start but a rollback makes another record. */
static bool is_others(const struct keeper *k)
{
	struct stat st;
	return fstat(k->record, &st) < 0 || st.st_nlink == 0;
}

/* Somebody who rolls it back by hand has its lock meanwhile. */
static enum outcome work(struct keeper *k)
{
	struct fvm_watchdog_record r = { 0 };
	bool knows = fvm_watchdog_read(k->record, &r) == 0;
	k->next_ms = knows && r.what.each_s ? fvm_clock_ms() : 0;
	while (fvm_lock_any(k->vm.dir)) {
		if (is_others(k))
			return OTHERS;
		if (k->pidfd < 0)
			see_init(k);
		knows = fvm_watchdog_read(k->record, &r) == 0;
		if (knows && r.wanted) {
			if (!go_back(k, &r))
				return OVER;
			plan_snapshot(k, r.what.each_s);
		} else if (k->next_ms && fvm_clock_ms() >= k->next_ms) {
			take_snapshot(k);
			plan_snapshot(k, r.what.each_s);
		} else {
			await_news(k);
		}
		if (k->guard < 0)
			return GUARD_GONE;
	}
	return OVER;
}

/* ---- the two ---- */

/* Return: in the guard when a worker has ended as it should; in who was one, if there is no guard
 */
static enum outcome make_worker(struct keeper *k)
{
	int fds[2], status = -1;
	if (pipe2(fds, O_CLOEXEC) < 0)
		return GUARD_GONE;
	pid_t pid = fork();
	if (pid == 0) {
		close(fds[1]);
		k->guard = fds[0];
		enum outcome o = work(k);
		if (o == GUARD_GONE)
			return o;
		if (o == OVER)
			drop_all(k);
		_exit(0);
	}
	close(fds[0]);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	close(fds[1]);
	return pid > 0 && WIFEXITED(status) ? OVER : GUARD_GONE;
}

static int keep(void *arg, int report)
{
	struct keeper *k = arg;
	const struct fvm_error fine = { 0 };
	const int keep[] = {
		0,	   1,	    2,	      k->vm.store->dir, k->vm.store->vms, k->vm.store->run,
		k->vm.dir, k->held, k->pidfd, k->record,	k->log,		  k->changes,
		report
	};
	const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int i = 0; i < 3 && null >= 0; i++)
		(void)dup2(null, i);
	fvm_helper_close(keep, FVM_COUNT(keep));
	fvm_helper_report(report, &fine);
	while (make_worker(k) == GUARD_GONE) {
		fvm_fd_closep(&k->guard);
		fvm_sleep_ms(ANEW_MS);
	}
	return 0;
}

int cli_keeper_hold(const struct fvm_vm *vm, struct fvm_error *err)
{
	int fd = -1;
	/* one of the VM's last start ends in a moment by that */
	(void)unlinkat(vm->dir, "watchdog", 0);
	int r = fvm_lock_take_watched(vm->dir, &fd);
	for (int i = 0; r == -EBUSY && i < HOLD_MS / 50; i++) {
		fvm_sleep_ms(50);
		r = fvm_lock_take_watched(vm->dir, &fd);
	}
	return r < 0 ? fvm_error_set(err, -r, "watch VM '%s'", vm->config.name) : fd;
}

int cli_keeper_begin(const struct fvm_vm *vm, const struct fvm_started *started, int held,
		     struct fvm_error *err)
{
	char path[40];
	scoped_fd record = fvm_vm_open_output(vm, "watchdog", O_RDONLY);
	scoped_fd log = fvm_vm_open_output(vm, "log", O_RDWR | O_APPEND);
	scoped_fd changes = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", record);
	if (record < 0 || log < 0 || changes < 0 ||
	    inotify_add_watch(changes, path, IN_MODIFY | IN_ATTRIB) < 0)
		return fvm_error_set(err, errno, "watch VM '%s'", vm->config.name);
	struct keeper k = { .vm = *vm,
			    .held = held,
			    .pidfd = started->pidfd,
			    .record = record,
			    .log = log,
			    .changes = changes,
			    .guard = -1,
			    .since_ns = fvm_now_ns() };
	pid_t pid = fvm_helper_start(keep, &k, err);
	return pid < 0 ? (int)pid : 0;
}
