/* Threads that run, stopped at each call: see calls.h. What they say is in calls_show.c. */
#include <dirent.h>
#include <errno.h>
#include <linux/audit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vin/calls_priv.h"
#include "vin/status.h"
#include "vin/tree.h"

#define BUCKETS	 1024
#define NS_PER_S 1000000000LL
#define OPTIONS                                                                                    \
	(PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |  \
	 PTRACE_O_TRACEEXEC)

struct tracee {
	pid_t pid, tid;
	pid_t inner_pid, inner_tid;
	bool asked;   /* to stop, and has not yet */
	bool in_call; /* one that is wanted */
	struct vin_call_entry entry;
	size_t arg_count;
	struct fvm_buf args[VIN_CALL_ARGS];
	int64_t began_ns, since_ns; /* wall clock; monotonic */
	struct tracee *next;	    /* in the same bucket */
};

struct stop {
	pid_t tid;
	int status; /* as of waitpid(2) */
};

struct vin_calls {
	const struct vin_calls_options *options;
	struct vin_call_reader reader;
	struct tracee *buckets[BUCKETS];
	size_t count;
	struct stop *stops; /* that wait to be dealt with */
	size_t stop_count;
	sigset_t signals;
	int result; /* of whoever was told of calls */
};

/* ---- who is traced ---- */

static struct tracee **place_of(struct vin_calls *c, pid_t tid)
{
	struct tracee **at = &c->buckets[(size_t)tid % BUCKETS];
	while (*at && (*at)->tid != tid)
		at = &(*at)->next;
	return at;
}

/* Numbers as the namespace knows them; 0, when it ended before we looked. */
static void number(const struct vin_calls *c, struct tracee *t)
{
	scoped_status s = { 0 };
	const size_t depth = c->options->depth;
	if (vin_status_read(t->tid, t->tid, &s, NULL) < 0 || s.depth < depth)
		return;
	t->pid = s.leaders[0];
	t->inner_pid = s.leaders[depth - 1];
	t->inner_tid = s.pids[depth - 1];
}

static struct tracee *add(struct vin_calls *c, pid_t tid)
{
	struct tracee *t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->pid = t->tid = tid;
	number(c, t);
	*place_of(c, tid) = t;
	c->count++;
	return t;
}

static void forget(struct vin_calls *c, struct tracee *t)
{
	*place_of(c, t->tid) = t->next;
	vin_call_forget(&c->reader, t->tid);
	for (size_t i = 0; i < VIN_CALL_ARGS; i++)
		fvm_buf_free(&t->args[i]);
	free(t);
	c->count--;
}

bool vin_calls_has(const struct vin_calls *c, pid_t pid)
{
	return *place_of((struct vin_calls *)(uintptr_t)c, pid);
}

/* ---- what they call ---- */

static void tell(struct vin_calls *c, struct tracee *t, const struct __ptrace_syscall_info *end)
{
	const struct vin_calls_options *o = c->options;
	struct vin_call_seen seen = {
		.pid = t->pid,
		.tid = t->tid,
		.inner_pid = t->inner_pid,
		.inner_tid = t->inner_tid,
		.name = t->entry.name,
		.is_32 = t->entry.is_32,
		.ended = end,
		.result = end ? end->exit.rval : 0,
		.failed = end && end->exit.is_error,
		.arg_count = t->arg_count,
		.began_ns = t->began_ns,
		.took_ns = fvm_clock_ns() - t->since_ns,
	};
	t->in_call = false;
	if (!o->no_args)
		vin_call_after(&c->reader, t->tid, &t->entry, seen.result, !end || seen.failed,
			       t->args);
	for (size_t i = 0; i < t->arg_count; i++)
		seen.args[i] = t->args[i].failed ? "?" : t->args[i].data;
	if (c->result == 0)
		c->result = o->seen(o->arg, &seen);
}

static void enter(struct vin_calls *c, struct tracee *t, const struct __ptrace_syscall_info *begin)
{
	const struct vin_calls_options *o = c->options;
	t->entry = (struct vin_call_entry){ .number = begin->entry.nr,
					    .is_32 = begin->arch == AUDIT_ARCH_I386 };
	for (size_t i = 0; i < VIN_CALL_ARGS; i++)
		t->entry.args[i] = begin->entry.args[i];
	vin_call_name(&t->entry);
	t->in_call = !o->wants || o->wants(o->arg, t->entry.name);
	if (!t->in_call)
		return;
	t->arg_count = o->no_args ? 0 : vin_call_before(&c->reader, t->tid, &t->entry, t->args);
	t->began_ns = fvm_now_ns();
	t->since_ns = fvm_clock_ns();
}

static void call_stop(struct vin_calls *c, struct tracee *t)
{
	struct __ptrace_syscall_info info;
	if (ptrace(PTRACE_GET_SYSCALL_INFO, t->tid, sizeof(info), &info) <= 0)
		return;
	if (info.op == PTRACE_SYSCALL_INFO_ENTRY)
		enter(c, t, &info);
	else if (info.op == PTRACE_SYSCALL_INFO_EXIT && t->in_call)
		tell(c, t, &info);
}

/* ---- stops ---- */

/* Whoever execs gets his leader's number, and is alone; the leader's own end is not told. */
static struct tracee *executed(struct vin_calls *c, struct tracee *t)
{
	unsigned long former = 0;
	(void)ptrace(PTRACE_GETEVENTMSG, t->tid, 0, &former);
	vin_call_forget(&c->reader, t->tid);
	if ((pid_t)former == t->tid)
		return t;
	struct tracee *caller = *place_of(c, (pid_t)former);
	if (!caller)
		return t;
	const pid_t tid = t->tid;
	forget(c, t);
	*place_of(c, caller->tid) = caller->next;
	vin_call_forget(&c->reader, caller->tid);
	caller->tid = tid;
	caller->inner_tid = caller->inner_pid;
	caller->next = NULL;
	*place_of(c, tid) = caller;
	return caller;
}

static bool stops_all(int signal)
{
	return signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

static void resume(pid_t tid, int signal)
{
	/* it may have been killed, of which we hear by itself */
	(void)ptrace(PTRACE_SYSCALL, tid, 0, signal);
}

static void ended(struct vin_calls *c, struct tracee *t)
{
	if (t->in_call)
		tell(c, t, NULL);
	forget(c, t);
}

static void deal_with(struct vin_calls *c, const struct stop *s)
{
	struct tracee *t = *place_of(c, s->tid);
	if (!WIFSTOPPED(s->status)) {
		if (t)
			ended(c, t);
		return;
	}
	const int event = s->status >> 16, signal = WSTOPSIG(s->status);
	if (!t)
		t = add(c, s->tid); /* it was just born */
	if (t && signal == (SIGTRAP | 0x80))
		call_stop(c, t);
	if (t && event == PTRACE_EVENT_EXEC)
		t = executed(c, t);
	if (event == PTRACE_EVENT_STOP && stops_all(signal)) {
		(void)ptrace(PTRACE_LISTEN, s->tid, 0, 0);
		return;
	}
	if (t && event == PTRACE_EVENT_STOP && t->asked) {
		vin_thread_unforget(t->pid, t->tid);
		t->asked = false;
	}
	resume(s->tid, 0);
}

static bool is_signals(const siginfo_t *si)
{
	return si->si_code == CLD_TRAPPED && !(si->si_status & ~0x7f);
}

static int add_stop(struct vin_calls *c, pid_t tid, int status)
{
	struct stop *more = realloc(c->stops, fvm_room(c->stop_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	c->stops = more;
	c->stops[c->stop_count++] = (struct stop){ tid, status };
	return 0;
}

/* All stops that there are now. Return: 0, -ECHILD (nobody is traced), or another negative errno */
static int collect(struct vin_calls *c)
{
	for (;;) {
		siginfo_t si = { 0 };
		int status, r = 0;
		if (waitid(P_ALL, 0, &si, WEXITED | WSTOPPED | WNOWAIT | WNOHANG | __WALL) < 0)
			return errno == EINTR ? 0 : -errno;
		if (si.si_pid == 0)
			return 0;
		if (is_signals(&si)) /* it keeps its signal, should we be killed here */
			resume(si.si_pid, si.si_status);
		else if (waitpid(si.si_pid, &status, __WALL | WNOHANG) == si.si_pid)
			r = add_stop(c, si.si_pid, status);
		if (r < 0)
			return r;
	}
}

int vin_calls_run(struct vin_calls *c, unsigned int ms)
{
	const int64_t end = fvm_clock_ns() + ms * 1000000LL;
	for (;;) {
		int r = collect(c);
		for (size_t i = 0; i < c->stop_count; i++)
			deal_with(c, &c->stops[i]);
		const bool idle = c->stop_count == 0;
		c->stop_count = 0;
		if (c->result || r < 0)
			return c->result ?: r;
		const int64_t left = idle ? end - fvm_clock_ns() : 0;
		const struct timespec t = { .tv_sec = left > 0 ? left / NS_PER_S : 0,
					    .tv_nsec = left > 0 ? left % NS_PER_S : 0 };
		int signal = sigtimedwait(&c->signals, NULL, &t);
		if (signal > 0 && signal != SIGCHLD)
			return 1;
		if (fvm_clock_ns() >= end)
			return 0;
	}
}

/* ---- who is to be traced ---- */

/* Return: 1 if it is new, 0, -EBUSY (another one's), or another negative errno */
static int seize(struct vin_calls *c, pid_t pid, pid_t tid, struct fvm_error *err)
{
	scoped_status s = { 0 };
	if (vin_calls_has(c, tid))
		return 0;
	if (ptrace(PTRACE_SEIZE, tid, 0, OPTIONS) < 0) {
		int code = errno;
		struct vin_stat st;
		/* a zombie can't be seized, nor who has been by an event that we will hear of */
		if (code == ESRCH || vin_stat_read(pid, tid, &st, NULL) < 0 || st.state == 'Z' ||
		    st.state == 'X' || vin_status_read(pid, tid, &s, NULL) < 0 ||
		    s.tracer == getpid())
			return 0;
		if (s.tracer)
			return vin_tree_traced(pid, s.tracer, err);
		return fvm_error_set(err, code, "seize thread %d", tid);
	}
	struct tracee *t = add(c, tid);
	if (!t)
		return fvm_error_set(err, ENOMEM, "seize thread %d", tid);
	t->asked = true;
	(void)ptrace(PTRACE_INTERRUPT, tid, 0, 0);
	return 1;
}

static int seize_threads(struct vin_calls *c, pid_t pid, struct fvm_error *err)
{
	char path[40];
	int new = 1;
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	/* who was not yet seized may have made threads meanwhile: until there is nobody new */
	while (new > 0) {
		scoped_dir d = opendir(path);
		new = 0;
		for (struct dirent *e; d && (e = fvm_dir_next(d));) {
			int r = seize(c, pid, (pid_t)strtol(e->d_name, NULL, 10), err);
			if (r < 0)
				return r;
			new += r;
		}
	}
	return 0;
}

struct adding {
	pid_t *pids;
	size_t count;
};

static int add_pid(void *arg, pid_t pid)
{
	struct adding *a = arg;
	pid_t *more = realloc(a->pids, fvm_room(a->count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	a->pids = more;
	a->pids[a->count++] = pid;
	return 0;
}

static int add_children(struct adding *a, pid_t pid)
{
	char path[40];
	int r = 0;
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	scoped_dir d = opendir(path);
	for (struct dirent *e; r == 0 && d && (e = fvm_dir_next(d));)
		r = vin_each_child(pid, (pid_t)strtol(e->d_name, NULL, 10), add_pid, a);
	return r;
}

/* Whoever is seized by now tells of new children by himself; those he had are in /proc. */
int vin_calls_add(struct vin_calls *c, pid_t pid, struct fvm_error *err)
{
	struct adding a = { 0 };
	struct vin_stat st;
	int r = vin_stat_read(pid, pid, &st, err), result = 0;
	if (r == 0)
		r = add_pid(&a, pid);
	for (size_t i = 0; r == 0 && i < a.count; i++) {
		r = seize_threads(c, a.pids[i], err);
		if (r == -EBUSY) {
			result = r;
			r = 0;
		}
		if (r == 0)
			r = add_children(&a, a.pids[i]);
	}
	free(a.pids);
	return r < 0 ? r : result;
}

/* ---- beginning and end ---- */

struct vin_calls *vin_calls_open(const struct vin_calls_options *options)
{
	struct vin_calls *c = calloc(1, sizeof(*c));
	struct vin_watch watch;
	if (!c)
		return NULL;
	c->options = options;
	c->reader.options = options;
	vin_watch_begin(&watch); /* to the end */
	sigemptyset(&c->signals);
	sigaddset(&c->signals, SIGINT);
	sigaddset(&c->signals, SIGTERM);
	sigaddset(&c->signals, SIGHUP);
	sigprocmask(SIG_BLOCK, &c->signals, NULL);
	sigaddset(&c->signals, SIGCHLD);
	return c;
}

void vin_calls_close(struct vin_calls *c)
{
	for (size_t i = 0; c && i < BUCKETS; i++) {
		while (c->buckets[i])
			ended(c, c->buckets[i]);
	}
	if (c)
		free(c->stops);
	free(c);
}
