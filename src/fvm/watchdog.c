/* What all but PID 1 know of a watchdog: its option, the program's environment, the record; and
 * what PID 1 reads of the program. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fvm/watchdog.h"

static const char *const actions[] = { "log", "restart" };
static const char *const events[] = { "none", "crashed", "stopped", "stuck", "silent" };

_Static_assert(FVM_COUNT(events) == FVM_WATCHDOG_EVENTS, "each event has a name");

const char *fvm_watchdog_event_name(enum fvm_watchdog_event event)
{
	return events[event];
}

const char *fvm_watchdog_action_name(enum fvm_watchdog_action action)
{
	return actions[action];
}

static int find_word(const char *const *words, size_t count, const char *word)
{
	for (size_t i = 0; i < count; i++) {
		if (strcmp(words[i], word) == 0)
			return (int)i;
	}
	return -EINVAL;
}

static int no_restore(struct fvm_error *err)
{
	fvm_error_hint(err, "use :restart, or take checkpoints yourself by fvm checkpoint "
			    "--leave-running and go back by fvm restore");
	return fvm_error_say(err, ENOTSUP,
			     "a watchdog can't restore: no checkpoint is taken of a running VM "
			     "by itself, so there is none to go back to");
}

int fvm_watchdog_parse(const char *text, struct fvm_watchdog *ret, struct fvm_error *err)
{
	char *end;
	bool digits = *text >= '0' && *text <= '9';
	unsigned long seconds = strtoul(text, &end, 10);
	int action = *end == ':' ? find_word(actions, FVM_COUNT(actions), end + 1) : 0;
	if (!digits || seconds == 0 || seconds > FVM_WATCHDOG_MAX_S || (*end && *end != ':'))
		return fvm_error_say(err, EINVAL,
				     "--watchdog takes 1 to %u seconds, then perhaps an action: "
				     "not '%s'",
				     FVM_WATCHDOG_MAX_S, text);
	if (action < 0 && strcmp(end, ":restore") == 0)
		return no_restore(err);
	if (action < 0)
		return fvm_error_say(err, EINVAL, "a watchdog's action is log or restart, not '%s'",
				     end + 1);
	ret->seconds = (unsigned int)seconds;
	ret->action = (enum fvm_watchdog_action)action;
	return 0;
}

static void env_remove(struct fvm_strv *env, const char *name)
{
	size_t kept = 0, len = strlen(name);
	fvm_strv_each(env, i) {
		char *item = env->items[i];
		if (strncmp(item, name, len) == 0 && item[len] == '=')
			free(item);
		else
			env->items[kept++] = item;
	}
	env->count = kept;
	if (env->items)
		env->items[kept] = NULL;
}

int fvm_watchdog_env(const struct fvm_watchdog *w, struct fvm_strv *env)
{
	env_remove(env, "NOTIFY_SOCKET");
	env_remove(env, "WATCHDOG_USEC");
	env_remove(env, "WATCHDOG_PID");
	int r = fvm_strv_add(env, "NOTIFY_SOCKET=" FVM_WATCHDOG_SOCKET);
	return r < 0 ? r : fvm_strv_addf(env, "WATCHDOG_USEC=%u000000", w->seconds);
}

void fvm_watchdog_print(const struct fvm_watchdog_record *r, char ret[FVM_WATCHDOG_RECORD_SZ])
{
	char line[FVM_WATCHDOG_RECORD_SZ + 1];
	int n = snprintf(line, sizeof(line), "%u %s %s %" PRId64 " %u %d", r->what.seconds,
			 actions[r->what.action], events[r->event], r->at_ns, r->restarts,
			 r->notifies);
	memset(ret, ' ', FVM_WATCHDOG_RECORD_SZ);
	memcpy(ret, line, (size_t)n);
	ret[FVM_WATCHDOG_RECORD_SZ - 1] = '\n';
}

int fvm_watchdog_scan(const char *text, struct fvm_watchdog_record *ret)
{
	char action[16], event[16];
	struct fvm_watchdog_record r;
	unsigned int notifies;
	if (sscanf(text, "%u %15s %15s %" SCNd64 " %u %u", &r.what.seconds, action, event, &r.at_ns,
		   &r.restarts, &notifies) != 6)
		return -EBADMSG;
	int a = find_word(actions, FVM_COUNT(actions), action);
	int e = find_word(events, FVM_COUNT(events), event);
	if (a < 0 || e < 0 || r.at_ns < 0 || notifies > 1)
		return -EBADMSG;
	r.what.action = (enum fvm_watchdog_action)a;
	r.event = (enum fvm_watchdog_event)e;
	r.notifies = notifies;
	*ret = r;
	return 0;
}

static bool has_line(const char *text, const char *line)
{
	size_t len = strlen(line);
	for (const char *at = text; *at; at += strcspn(at, "\n"), at += *at == '\n') {
		if (strcspn(at, "\n") == len && strncmp(at, line, len) == 0)
			return true;
	}
	return false;
}

enum fvm_watchdog_word fvm_watchdog_word(const char *message)
{
	if (has_line(message, "WATCHDOG=trigger"))
		return FVM_WATCHDOG_TRIGGER;
	return has_line(message, "WATCHDOG=1") ? FVM_WATCHDOG_LIVES : FVM_WATCHDOG_OTHER;
}

static uint64_t field(const char *status, const char *name)
{
	const char *at = strstr(status, name);
	return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

char fvm_watchdog_thread(const char *status, uint64_t *ret_switches)
{
	const char *state = strstr(status, "\nState:\t");
	*ret_switches = field(status, "\nvoluntary_ctxt_switches:") +
			field(status, "\nnonvoluntary_ctxt_switches:");
	return state ? state[8] : 0;
}

int fvm_watchdog_open(const struct fvm_vm *vm, const struct fvm_watchdog *w)
{
	char line[FVM_WATCHDOG_RECORD_SZ];
	const struct fvm_watchdog_record first = { .what = *w };
	if (!w->seconds) {
		if (!vm->config.throw_away) /* else its directory is new */
			(void)unlinkat(vm->dir, "watchdog", 0);
		return -1;
	}
	scoped_fd fd = fvm_vm_open_output(vm, "watchdog", O_WRONLY | O_CREAT | O_TRUNC);
	fvm_watchdog_print(&first, line);
	if (fd >= 0 && pwrite(fd, line, sizeof(line), 0) != sizeof(line))
		return errno ? -errno : -ENOSPC;
	return fvm_fd_take(&fd);
}

int fvm_watchdog_load(const struct fvm_vm *vm, struct fvm_watchdog_record *ret)
{
	char text[FVM_WATCHDOG_RECORD_SZ + 1] = { 0 };
	scoped_fd fd = fvm_vm_open_output(vm, "watchdog", O_RDONLY);
	if (fd < 0)
		return fd;
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	return n < 0 ? -errno : fvm_watchdog_scan(text, ret);
}
