#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "vin/timers.h"
#include "vin/traits.h"

#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77
#endif

#define TEXT_LIMIT (64U << 20)
#define AT_ONCE	   128	      /* timers that are asked at one stop */
#define ID_MAX	   (1U << 20) /* what a kernel that can't be asked for a number is brought to */
#define SECOND	   1000000000LL

struct setting { /* the kernel's itimerspec */
	int64_t interval_s, interval_ns, value_s, value_ns;
};

struct event { /* the kernel's sigevent */
	uint64_t value;
	int32_t sig, notify, tid;
	int32_t rest[11];
};

/* What the payload says of one. */
struct wanted {
	uint64_t id, overrun;
	int64_t clock;
	struct event event;
	struct setting setting;
};

/* ---- /proc ---- */

static int by_id(const void *a, const void *b)
{
	const struct vin_timer *x = a, *y = b;
	return (x->id > y->id) - (x->id < y->id);
}

static int parse_notify(const char *line, struct vin_timer *t)
{
	static const struct {
		const char *name;
		int notify;
	} kinds[] = { { "signal", SIGEV_SIGNAL },
		      { "none", SIGEV_NONE },
		      { "thread", SIGEV_THREAD } };
	char kind[8], whom[4];
	if (sscanf(line, "notify: %7[a-z]/%3[a-z].%d", kind, whom, &t->target) != 3)
		return -EBADMSG;
	for (size_t i = 0; i < FVM_COUNT(kinds); i++) {
		if (strcmp(kind, kinds[i].name) == 0) {
			t->notify = kinds[i].notify;
			if (strcmp(whom, "tid") == 0)
				t->notify |= SIGEV_THREAD_ID;
			return 0;
		}
	}
	return -EBADMSG;
}

/* Four lines, in the kernel's order. */
static int parse_one(char **text, struct vin_timer *t)
{
	const char *id = strsep(text, "\n"), *sig = strsep(text, "\n");
	const char *notify = strsep(text, "\n"), *clock = strsep(text, "\n");
	unsigned long long value;
	if (!clock || sscanf(id, "ID: %d", &t->id) != 1 ||
	    sscanf(sig, "signal: %d/%llx", &t->sig, &value) != 2 ||
	    sscanf(clock, "ClockID: %d", &t->clock) != 1)
		return -EBADMSG;
	t->value = value;
	return parse_notify(notify, t);
}

int vin_timers_parse(char *text, struct vin_timer **ret, size_t *ret_count)
{
	scoped_free struct vin_timer *timers = NULL;
	size_t count = 0;
	while (text && *text) {
		struct vin_timer t = { 0 };
		if (parse_one(&text, &t) < 0)
			return -EBADMSG;
		struct vin_timer *more = realloc(timers, fvm_room(count + 1) * sizeof(*more));
		if (!more)
			return -ENOMEM;
		timers = more;
		timers[count++] = t;
	}
	if (count > 0)
		qsort(timers, count, sizeof(*timers), by_id);
	*ret = fvm_take_ptr(&timers);
	*ret_count = count;
	return 0;
}

static int read_timers(pid_t pid, struct vin_timer **ret, size_t *ret_count, struct fvm_error *err)
{
	char path[40];
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "/proc/%d/timers", pid);
	int r = fvm_read_file(AT_FDCWD, path, TEXT_LIMIT, &text, NULL);
	if (r == 0)
		r = vin_timers_parse(text, ret, ret_count);
	return r < 0 ? fvm_error_set(err, -r, "read %s", path) : 0;
}

/* A kernel without CONFIG_CHECKPOINT_RESTORE does not tell what timers there are. */
static int check(pid_t pid, pid_t tid, uint64_t filters, struct fvm_error *err)
{
	(void)filters;
	scoped_free struct vin_timer *timers = NULL;
	size_t count;
	return pid == tid ? read_timers(pid, &timers, &count, err) : 0;
}

/* ---- capture ---- */

/* As the program numbers its threads; 0: there is none any more. */
static int inner_tid(pid_t pid, int target)
{
	scoped_status status = { 0 };
	if (vin_status_read(pid, target, &status, NULL) < 0)
		return 0;
	return status.pids[status.depth - 1];
}

static void put_timer(struct vin_steps *s, const struct vin_timer *t, const struct vin_call *told,
		      struct fvm_buf *to)
{
	struct wanted w = { .id = (uint64_t)t->id, .clock = t->clock };
	w.event = (struct event){ .value = t->value, .sig = t->sig, .notify = t->notify };
	if (t->notify & SIGEV_THREAD_ID) {
		w.event.tid = inner_tid(s->t->pid, t->target);
		if (w.event.tid == 0)
			w.event.notify = SIGEV_NONE;
	}
	memcpy(&w.setting, vin_steps_told(s, told[0].args[1]), sizeof(w.setting));
	w.overrun = told[1].result > 0 ? (uint64_t)told[1].result : 0;
	vin_put_blob(to, &w, sizeof(w));
}

static int put_some(struct vin_steps *s, const struct vin_timer *timers, size_t count,
		    struct fvm_buf *to, struct fvm_error *err)
{
	size_t from = s->count;
	for (size_t i = 0; i < count; i++) {
		uint64_t id = (uint64_t)timers[i].id;
		uint64_t at = vin_steps_data(s, NULL, sizeof(struct setting));
		VIN_STEP(s, "timer_gettime", SYS_timer_gettime, id, at);
		VIN_STEP(s, "timer_getoverrun", SYS_timer_getoverrun, id);
	}
	int r = vin_steps_run(s, err);
	for (size_t i = 0; r == 0 && i < count; i++)
		put_timer(s, &timers[i], s->calls + from + 2 * i, to);
	vin_steps_rewind(s);
	return r;
}

static int put(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
	       struct fvm_error *err)
{
	(void)told;
	scoped_free struct vin_timer *timers = NULL;
	size_t count = 0;
	int r = read_timers(s->t->pid, &timers, &count, err);
	if (r < 0)
		return r;
	vin_put_u64(to, count);
	for (size_t i = 0; r == 0 && i < count; i += AT_ONCE)
		r = put_some(s, timers + i, count - i < AT_ONCE ? count - i : AT_ONCE, to, err);
	return r;
}

/* ---- replay: numbers ---- */

static void make(struct vin_steps *s, const struct wanted *w, uint64_t *ret_id_at)
{
	struct {
		struct event event;
		uint64_t id;
	} given = { w->event, w->id };
	uint64_t at = vin_steps_data(s, &given, sizeof(given));
	*ret_id_at = at + sizeof(given.event);
	VIN_STEP(s, "timer_create", SYS_timer_create, (uint64_t)w->clock, at, *ret_id_at);
}

/* One timer, and the number it got. */
static int make_one(struct vin_steps *s, const struct wanted *w, uint64_t *ret_id,
		    struct fvm_error *err)
{
	uint64_t at;
	int32_t id;
	vin_steps_rewind(s);
	make(s, w, &at);
	int r = vin_steps_run(s, err);
	if (r < 0)
		return r;
	memcpy(&id, vin_steps_told(s, at), sizeof(id));
	*ret_id = (uint64_t)id;
	vin_steps_rewind(s);
	return 0;
}

/* Numbers go up by one each time, so those between are known. */
static int count_up(struct vin_steps *s, const struct wanted *w, uint64_t from,
		    struct fvm_error *err)
{
	VIN_STEP(s, "timer_delete", SYS_timer_delete, from);
	for (uint64_t id = from + 1; id < w->id; id++) {
		uint64_t at;
		make(s, w, &at);
		VIN_STEP(s, "timer_delete", SYS_timer_delete, id);
	}
	return vin_steps_run(s, err);
}

static int make_by_counting(struct vin_steps *s, const struct wanted *w, struct fvm_error *err)
{
	uint64_t id;
	if (w->id > ID_MAX)
		return fvm_error_say(
			err, ENOTSUP,
			"timer %llu has a number that this kernel can't be brought to; "
			"Linux 6.15 can",
			(unsigned long long)w->id);
	int r = make_one(s, w, &id, err);
	if (r == 0 && id < w->id && s->post) {
		r = count_up(s, w, id, err);
		if (r == 0)
			r = make_one(s, w, &id, err);
	}
	if (r == 0 && id != w->id && s->post)
		return fvm_error_say(err, EEXIST, "timer %llu would get the number %llu",
				     (unsigned long long)w->id, (unsigned long long)id);
	return r;
}

/* ---- replay: what they are ---- */

static int get_wanted(struct vin_payload *from, struct wanted *ret)
{
	size_t len;
	const void *bytes = vin_get_blob(from, &len);
	if (!bytes || len != sizeof(*ret))
		return -EBADMSG;
	memcpy(ret, bytes, sizeof(*ret));
	const struct setting *t = &ret->setting;
	if (ret->id > INT32_MAX || ret->overrun > INT32_MAX || t->interval_s < 0 ||
	    t->value_s < 0 || t->interval_ns < 0 || t->interval_ns >= SECOND || t->value_ns < 0 ||
	    t->value_ns >= SECOND)
		return -EBADMSG;
	return 0;
}

/* Those whose signals we can take here: the leader's, and the process's. */
static bool takes_signal(const struct vin_steps *s, const struct wanted *w)
{
	if (w->event.sig == SIGTRAP || w->event.sig < 1 || w->event.sig > 64)
		return false;
	return w->event.notify == SIGEV_SIGNAL ||
	       (w->event.notify == SIGEV_THREAD_ID &&
		w->event.tid == s->status.pids[s->status.depth - 1]);
}

static int clock_now(struct vin_steps *s, int64_t clock, int64_t *ret_ns, struct fvm_error *err)
{
	struct timespec now;
	uint64_t at = vin_steps_data(s, NULL, sizeof(now));
	VIN_STEP(s, "clock_gettime", SYS_clock_gettime, (uint64_t)clock, at);
	int r = vin_steps_run(s, err);
	if (r < 0)
		return r;
	memcpy(&now, vin_steps_told(s, at), sizeof(now));
	*ret_ns = now.tv_sec * SECOND + now.tv_nsec;
	vin_steps_rewind(s);
	return 0;
}

static void set(struct vin_steps *s, const struct wanted *w)
{
	if (w->setting.value_s == 0 && w->setting.value_ns == 0)
		return;
	uint64_t at = vin_steps_data(s, &w->setting, sizeof(w->setting));
	VIN_STEP(s, "timer_settime", SYS_timer_settime, w->id, 0, at, 0);
}

/* When the first of the rounds was that were missed; negative: this clock did not go yet. */
static int64_t start_of(const struct wanted *w, int64_t now)
{
	const struct setting *t = &w->setting;
	int64_t left, interval, missed;
	if (t->value_s > INT32_MAX || t->interval_s > INT32_MAX)
		return -1;
	left = t->value_s * SECOND + t->value_ns;
	interval = t->interval_s * SECOND + t->interval_ns;
	if (__builtin_mul_overflow(interval, (int64_t)w->overrun + 1, &missed))
		return -1;
	return now + left - missed;
}

/* The timer begins in the past: it ends at once, and who takes its signal is told of the rounds
 * until now. The next one is at the time when it would have been. */
static int set_overrun(struct vin_steps *s, const struct wanted *w, struct fvm_error *err)
{
	int64_t now, start;
	int r = clock_now(s, w->clock, &now, err);
	if (r < 0)
		return r;
	start = start_of(w, now);
	if (start <= 0) {
		set(s, w);
		return 0;
	}
	const struct setting past = { w->setting.interval_s, w->setting.interval_ns, start / SECOND,
				      start % SECOND };
	uint64_t at = vin_steps_data(s, &past, sizeof(past));
	VIN_STEP(s, "timer_settime", SYS_timer_settime, w->id, TIMER_ABSTIME, at, 0);
	const struct {
		uint64_t mask;
		int64_t s, ns;
	} wait = { 1ULL << (w->event.sig - 1), 0, SECOND / 50 };
	at = vin_steps_data(s, &wait, sizeof(wait));
	VIN_STEP(s, NULL, SYS_rt_sigtimedwait, at, 0, at + 8, 8);
	return 0;
}

/* The processor's time goes on only while the program runs: it has no past yet. */
static bool has_past(const struct vin_steps *s, const struct wanted *w)
{
	return w->overrun > 0 && w->clock >= 0 && w->clock != CLOCK_PROCESS_CPUTIME_ID &&
	       w->clock != CLOCK_THREAD_CPUTIME_ID && takes_signal(s, w);
}

static int make_all(struct vin_steps *s, struct vin_payload from, uint64_t count, bool asked,
		    struct fvm_error *err)
{
	int r = 0;
	for (uint64_t i = 0; r == 0 && i < count; i++) {
		struct wanted w;
		uint64_t at;
		r = get_wanted(&from, &w);
		if (r == 0 && !asked)
			r = make_by_counting(s, &w, err);
		else if (r == 0)
			make(s, &w, &at);
	}
	return r;
}

/* Timers run only when all are made, and those without a past behind those with one: or a signal
 * would be taken that is another's. */
static int set_all(struct vin_steps *s, struct vin_payload *from, uint64_t count,
		   struct fvm_error *err)
{
	struct vin_payload again = *from;
	struct wanted w;
	int r = 0;
	for (uint64_t i = 0; r == 0 && i < count; i++) {
		r = get_wanted(&again, &w);
		if (r == 0 && has_past(s, &w))
			r = set_overrun(s, &w, err);
	}
	for (uint64_t i = 0; r == 0 && i < count; i++) {
		r = get_wanted(from, &w);
		if (r == 0 && !has_past(s, &w))
			set(s, &w);
	}
	return r;
}

static int replay(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		  struct fvm_error *err)
{
	(void)told;
	const struct vin_call on = { SYS_prctl, { PR_TIMER_CREATE_RESTORE_IDS, 1 } };
	int64_t asked = -ENOSYS;
	uint64_t count = vin_get_u64(from);
	int r = vin_steps_run(s, err);
	if (r < 0 || from->failed || count == 0)
		return r < 0 ? r : from->failed ? -EBADMSG : 0;
	vin_steps_rewind(s);
	if (!s->old_timers)
		r = vin_step_call(s, "prctl", &on, &asked, err);
	if (r == 0)
		r = make_all(s, *from, count, asked == 0, err);
	if (r == 0 && asked == 0)
		VIN_STEP(s, "prctl(PR_TIMER_CREATE_RESTORE_IDS)", SYS_prctl,
			 PR_TIMER_CREATE_RESTORE_IDS, 0);
	return r < 0 ? r : set_all(s, from, count, err);
}

const struct vin_trait vin_timers = {
	.name = "timers", .check = check, .put = put, .replay = replay
};
