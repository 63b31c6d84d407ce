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

static const char *const actions[] = { "log", "restart", "restore" };
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

/* Between two snapshots it has to show whether the first was a good one. */
static unsigned int least_each(unsigned int seconds)
{
	return 2 * seconds;
}

/* What follows "SEC:restore". */
static int parse_each(const char *text, struct fvm_watchdog *w, struct fvm_error *err)
{
	char *end;
	const unsigned int least = least_each(w->seconds);
	w->each_s = least > FVM_WATCHDOG_EACH_S ? least : FVM_WATCHDOG_EACH_S;
	if (*text == '\0')
		return 0;
	unsigned long each = strtoul(text + 1, &end, 10);
	if (text[1] < '0' || text[1] > '9' || *end || each > 2 * FVM_WATCHDOG_MAX_S ||
	    (each && each < least))
		return fvm_error_say(err, EINVAL,
				     "a watchdog's restore takes %u to %u seconds from one "
				     "snapshot to the next, or 0: not '%s'",
				     least, 2 * FVM_WATCHDOG_MAX_S, text + 1);
	w->each_s = (unsigned int)each;
	return 0;
}

/* What follows "SEC". */
static int parse_action(const char *text, struct fvm_watchdog *w, struct fvm_error *err)
{
	char word[16];
	const size_t len = *text ? strcspn(text + 1, ":") : 0;
	if (*text == '\0')
		return 0;
	snprintf(word, sizeof(word), "%.*s", len < sizeof(word) ? (int)len : 0, text + 1);
	int action = find_word(actions, FVM_COUNT(actions), word);
	const char *more = text + 1 + len;
	if (action == FVM_WATCHDOG_RESTORE) {
		w->action = FVM_WATCHDOG_RESTORE;
		return parse_each(more, w, err);
	}
	if (action < 0 || *more)
		return fvm_error_say(err, EINVAL,
				     "a watchdog's action is log, restart or restore, not '%s'",
				     text + 1);
	w->action = (enum fvm_watchdog_action)action;
	return 0;
}

int fvm_watchdog_parse(const char *text, struct fvm_watchdog *ret, struct fvm_error *err)
{
	char *end;
	bool digits = *text >= '0' && *text <= '9';
	unsigned long seconds = strtoul(text, &end, 10);
	if (!digits || seconds == 0 || seconds > FVM_WATCHDOG_MAX_S || (*end && *end != ':'))
		return fvm_error_say(err, EINVAL,
				     "--watchdog takes 1 to %u seconds, then perhaps an action: "
				     "not '%s'",
				     FVM_WATCHDOG_MAX_S, text);
	struct fvm_watchdog w = { .seconds = (unsigned int)seconds };
	int r = parse_action(end, &w, err);
	if (r == 0)
		*ret = w;
	return r;
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
	int n = snprintf(line, sizeof(line), "%u %s %s %" PRId64 " %u %d %u %d %u %u %" PRId64,
			 r->what.seconds, actions[r->what.action], events[r->event], r->at_ns,
			 r->restarts, r->notifies, r->what.each_s, r->wanted, r->restores,
			 r->recent, r->since_ns);
	memset(ret, ' ', FVM_WATCHDOG_RECORD_SZ);
	memcpy(ret, line, (size_t)n);
	ret[FVM_WATCHDOG_RECORD_SZ - 1] = '\n';
}

/* An older fvm wrote six of them. */
int fvm_watchdog_scan(const char *text, struct fvm_watchdog_record *ret)
{
	char action[16], event[16];
	struct fvm_watchdog_record r = { 0 };
	unsigned int notifies = 0, wanted = 0;
	int n = sscanf(text, "%u %15s %15s %" SCNd64 " %u %u %u %u %u %u %" SCNd64, &r.what.seconds,
		       action, event, &r.at_ns, &r.restarts, &notifies, &r.what.each_s, &wanted,
		       &r.restores, &r.recent, &r.since_ns);
	if (n != 6 && n != 11)
		return -EBADMSG;
	int a = find_word(actions, FVM_COUNT(actions), action);
	int e = find_word(events, FVM_COUNT(events), event);
	if (a < 0 || e < 0 || r.at_ns < 0 || r.since_ns < 0 || notifies > 1 || wanted > 1)
		return -EBADMSG;
	r.what.action = (enum fvm_watchdog_action)a;
	r.event = (enum fvm_watchdog_event)e;
	r.notifies = notifies;
	r.wanted = wanted;
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

/* ---- what there is to go back to ---- */

#define NS_PER_S 1000000000LL

bool fvm_watchdog_worn_out(const struct fvm_watchdog_record *r, int64_t now_ns)
{
	return r->recent >= FVM_WATCHDOG_RESTORES &&
	       now_ns - r->since_ns < FVM_WATCHDOG_SPAN_S * NS_PER_S;
}

static void count_restore(struct fvm_watchdog_record *r, int64_t now_ns)
{
	if (!r->recent || now_ns - r->since_ns >= FVM_WATCHDOG_SPAN_S * NS_PER_S) {
		r->recent = 0;
		r->since_ns = now_ns;
	}
	r->recent++;
	r->restores++;
	r->wanted = false;
}

int fvm_watchdog_choose(const struct fvm_config *config, int64_t since_ns,
			const struct fvm_watchdog_record *r)
{
	const int64_t well_ns = r->at_ns - least_each(r->what.seconds) * NS_PER_S;
	unsigned int back = r->recent;
	int best = -ENOENT;
	for (size_t i = config->snapshot_count; i-- > 0;) { /* in order of time */
		const struct fvm_snapshot *s = &config->snapshots[i];
		if (!s->programs || s->created_ns < since_ns)
			continue;
		best = (int)i;
		if (s->created_ns <= well_ns && back-- == 0)
			break;
	}
	return best;
}

/* ---- the record ---- */

/* What is known of it from before, for who goes on. */
static struct fvm_watchdog_record first_record(int fd, const struct fvm_watchdog *w, bool goes_on)
{
	const struct fvm_watchdog_record fresh = { .what = *w };
	struct fvm_watchdog_record r;
	if (!goes_on || fvm_watchdog_read(fd, &r) < 0)
		return fresh;
	r.what = *w;
	r.notifies = false;
	if (r.wanted)
		count_restore(&r, fvm_now_ns());
	return r;
}

int fvm_watchdog_open(const struct fvm_vm *vm, const struct fvm_watchdog *w, bool goes_on)
{
	char line[FVM_WATCHDOG_RECORD_SZ];
	if (!w->seconds) {
		if (!vm->config.throw_away) /* else its directory is new */
			(void)unlinkat(vm->dir, "watchdog", 0);
		return -1;
	}
	scoped_fd fd = fvm_vm_open_output(vm, "watchdog", O_RDWR | O_CREAT);
	if (fd < 0)
		return fd;
	const struct fvm_watchdog_record first = first_record(fd, w, goes_on);
	fvm_watchdog_print(&first, line);
	if (ftruncate(fd, 0) < 0 || pwrite(fd, line, sizeof(line), 0) != sizeof(line))
		return errno ? -errno : -ENOSPC;
	return fvm_fd_take(&fd);
}

int fvm_watchdog_read(int fd, struct fvm_watchdog_record *ret)
{
	char text[FVM_WATCHDOG_RECORD_SZ + 1] = { 0 };
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	return n < 0 ? -errno : fvm_watchdog_scan(text, ret);
}

int fvm_watchdog_load(const struct fvm_vm *vm, struct fvm_watchdog_record *ret)
{
	scoped_fd fd = fvm_vm_open_output(vm, "watchdog", O_RDONLY);
	return fd < 0 ? fd : fvm_watchdog_read(fd, ret);
}
