#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>

#include "common/quote.h"
#include "vin/frame.h"
#include "vin/status.h"
#include "vin/tree.h"

struct gathering {
	struct vin_tree tree;
	int64_t end_ns;
	pid_t below;	/* whose children are roots, he himself not; 0: there is none */
	size_t settled; /* processes before this one are done */
};

struct vin_proc *vin_tree_find(const struct vin_tree *tree, pid_t pid)
{
	for (size_t i = 0; i < tree->count; i++) {
		if (tree->procs[i].pid == pid)
			return &tree->procs[i];
	}
	return NULL;
}

static struct vin_thread *find_thread(const struct vin_proc *p, pid_t tid)
{
	for (size_t i = 0; i < p->thread_count; i++) {
		if (p->threads[i].tid == tid)
			return &p->threads[i];
	}
	return NULL;
}

static int add_proc(struct vin_tree *tree, pid_t pid, pid_t parent)
{
	size_t room = fvm_room(tree->count + 1);
	struct vin_proc *more = realloc(tree->procs, room * sizeof(*more));
	if (!more)
		return -ENOMEM;
	tree->procs = more;
	tree->procs[tree->count++] = (struct vin_proc){ .pid = pid, .parent = parent };
	return 0;
}

static struct vin_thread *add_thread(struct vin_proc *p, pid_t tid)
{
	size_t room = fvm_room(p->thread_count + 1);
	struct vin_thread *more = realloc(p->threads, room * sizeof(*more));
	if (!more)
		return NULL;
	p->threads = more;
	p->threads[p->thread_count] = (struct vin_thread){ .pid = p->pid, .tid = tid };
	return &p->threads[p->thread_count++];
}

/* One letter of state and the tracer of a thread. Return: 0, or -ESRCH */
static int look(pid_t pid, pid_t tid, char *ret_state, pid_t *ret_tracer)
{
	char path[64];
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid, tid);
	if (fvm_read_file(AT_FDCWD, path, 1 << 16, &text, NULL) < 0)
		return -ESRCH;
	const char *state = strstr(text, "\nState:\t"), *tracer = strstr(text, "\nTracerPid:\t");
	if (!state || !tracer)
		return -ESRCH;
	*ret_state = state[8];
	*ret_tracer = (pid_t)strtol(tracer + 12, NULL, 10);
	return 0;
}

int vin_tree_traced(pid_t pid, pid_t tracer, struct fvm_error *err)
{
	struct vin_stat stat = { 0 };
	char name[200];
	(void)vin_stat_read(tracer, tracer, &stat, NULL);
	fvm_error_say(err, EBUSY, "process %d is traced by process %d (%s)", pid, tracer,
		      fvm_quote_error(stat.comm, name));
	fvm_error_hint(err, "end that debugger or trace first");
	return -EBUSY;
}

/* Why it could not be seized: 0 when it is gone or a zombie, which is no failure. */
static int refused(struct vin_proc *p, pid_t tid, struct fvm_error *err)
{
	char state;
	pid_t tracer;
	if (look(p->pid, tid, &state, &tracer) < 0)
		return 0;
	if (state == 'Z' || state == 'X') {
		p->leader_gone |= tid == p->pid;
		return 0;
	}
	return tracer ? vin_tree_traced(p->pid, tracer, err) : -EPERM;
}

static int seize_one(struct vin_proc *p, pid_t tid, struct fvm_error *err)
{
	struct fvm_error mine = { 0 };
	int r = vin_thread_seize(tid, &mine);
	if (r == -ESRCH || r == -EPERM) {
		r = refused(p, tid, &mine);
		if (r < 0 && err)
			*err = mine;
		return r;
	}
	if (r < 0) {
		if (err)
			*err = mine;
		return r;
	}
	if (!add_thread(p, tid)) {
		(void)ptrace(PTRACE_DETACH, tid, 0, 0);
		return fvm_error_set(err, ENOMEM, "seize thread %d", tid);
	}
	return 1;
}

/* Return: how many are new, or negative errno */
static int seize_new(struct vin_proc *p, struct fvm_error *err)
{
	char path[40];
	int new = 0;
	snprintf(path, sizeof(path), "/proc/%d/task", p->pid);
	scoped_dir d = opendir(path);
	if (!d && errno != ENOENT)
		return fvm_error_set(err, errno, "list the threads of process %d", p->pid);
	for (struct dirent *e; d && (e = fvm_dir_next(d));) {
		pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);
		if (find_thread(p, tid))
			continue;
		int r = seize_one(p, tid, err);
		if (r < 0)
			return r;
		new += r;
	}
	return new;
}

static unsigned int time_left(const struct gathering *g)
{
	int64_t left = g->end_ns - fvm_clock_ns();
	return left > 0 ? (unsigned int)((left + 999999) / 1000000) : 0;
}

/* Those from @first on have been asked to stop; whoever dies on the way is forgotten. */
static int settle(const struct gathering *g, struct vin_proc *p, size_t first,
		  struct fvm_error *err)
{
	size_t kept = first;
	int r = 0;
	for (size_t i = first; i < p->thread_count; i++) {
		struct vin_thread t = p->threads[i];
		if (r == 0)
			r = vin_thread_settle(p->pid, t.tid, time_left(g), &t, err);
		if (r == 0)
			r = vin_frame_go_home(&t, err);
		if (r == -ESRCH)
			r = 0;
		else
			p->threads[kept++] = t;
	}
	p->thread_count = kept;
	return r;
}

/* All threads of @p, until the list names nobody new. */
static int gather_threads(const struct gathering *g, struct vin_proc *p, struct fvm_error *err)
{
	for (;;) {
		size_t before = p->thread_count;
		int r = seize_new(p, err);
		if (r == 0)
			break;
		if (r > 0)
			r = settle(g, p, before, err);
		if (r < 0)
			return r;
	}
	p->zombie = p->thread_count == 0;
	for (size_t i = 1; i < p->thread_count; i++) {
		struct vin_thread t = p->threads[i];
		if (t.tid == p->pid) {
			p->threads[i] = p->threads[0];
			p->threads[0] = t;
		}
	}
	return 0;
}

int vin_each_child(pid_t pid, pid_t tid, int (*fn)(void *arg, pid_t child), void *arg)
{
	char path[64];
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, tid);
	int r = fvm_read_file(AT_FDCWD, path, 1 << 24, &text, NULL);
	if (r < 0)
		return r == -ENOENT || r == -ESRCH ? 0 : r;
	for (char *p = text; r == 0 && isdigit((unsigned char)*p); p += *p == ' ')
		r = fn(arg, (pid_t)strtol(p, &p, 10));
	return r;
}

struct children {
	struct vin_tree *to;
	pid_t parent;
};

static int add_child(void *arg, pid_t child)
{
	const struct children *of = arg;
	return vin_tree_find(of->to, child) ? 0 : add_proc(of->to, child, of->parent);
}

/* A dead leader has a list of children too. */
static int add_children(struct gathering *g, size_t at)
{
	pid_t pid = g->tree.procs[at].pid;
	struct children of = { &g->tree, pid };
	int r = vin_each_child(pid, pid, add_child, &of);
	for (size_t i = 0; r == 0 && i < g->tree.procs[at].thread_count; i++) {
		pid_t tid = g->tree.procs[at].threads[i].tid;
		if (tid != pid)
			r = vin_each_child(pid, tid, add_child, &of);
	}
	return r;
}

static bool exists(pid_t pid)
{
	char state;
	pid_t tracer;
	return look(pid, pid, &state, &tracer) == 0;
}

/* Children that ended and were reaped between the list and us. */
static void forget_gone(struct vin_tree *tree)
{
	size_t kept = 0;
	for (size_t i = 0; i < tree->count; i++) {
		struct vin_proc *p = &tree->procs[i];
		if (p->zombie && !exists(p->pid))
			free(p->threads);
		else
			tree->procs[kept++] = *p;
	}
	tree->count = kept;
}

static int settle_all(struct gathering *g, struct fvm_error *err)
{
	for (; g->settled < g->tree.count; g->settled++) {
		int r = gather_threads(g, &g->tree.procs[g->settled], err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* An orphan may come to a process whose children were listed already, so all are asked until nobody
 * has a new one. */
static int gather(struct gathering *g, struct fvm_error *err)
{
	for (;;) {
		struct children below = { &g->tree, g->below };
		int r = settle_all(g, err);
		if (r < 0)
			return r;
		size_t before = g->tree.count;
		r = g->below ? vin_each_child(g->below, g->below, add_child, &below) : 0;
		for (size_t i = 0; r == 0 && i < before; i++)
			r = add_children(g, i);
		if (r < 0)
			return fvm_error_set(err, -r, "list the children of processes");
		if (g->tree.count == before)
			return 0;
	}
}

static int finish(struct gathering *g, int r, struct vin_tree *ret, struct fvm_error *err)
{
	if (r == 0)
		r = gather(g, err);
	if (r < 0) {
		vin_tree_release(&g->tree);
		return r;
	}
	forget_gone(&g->tree);
	*ret = g->tree;
	return 0;
}

int vin_tree_seize(const pid_t *roots, size_t root_count, unsigned int timeout_ms,
		   struct vin_tree *ret, struct fvm_error *err)
{
	struct gathering g = { .end_ns = fvm_clock_ns() + timeout_ms * 1000000LL };
	int r = 0;
	for (size_t i = 0; r == 0 && i < root_count; i++) {
		if (!exists(roots[i]))
			r = fvm_error_say(err, ESRCH, "there is no process %d", roots[i]);
		else if (!vin_tree_find(&g.tree, roots[i]) && add_proc(&g.tree, roots[i], 0) < 0)
			r = fvm_error_set(err, ENOMEM, "stop %zu processes", root_count);
	}
	return finish(&g, r, ret, err);
}

int vin_tree_seize_below(pid_t init, unsigned int timeout_ms, struct vin_tree *ret,
			 struct fvm_error *err)
{
	struct gathering g = { .end_ns = fvm_clock_ns() + timeout_ms * 1000000LL, .below = init };
	int r = 0;
	if (!exists(init))
		r = fvm_error_say(err, ESRCH, "there is no process %d", init);
	return finish(&g, r, ret, err);
}

void vin_tree_release(struct vin_tree *tree)
{
	/* children first: a parent that goes on may look at them */
	for (size_t i = tree->count; i-- > 0;) {
		struct vin_proc *p = &tree->procs[i];
		for (size_t j = 0; j < p->thread_count; j++)
			(void)vin_thread_release(&p->threads[j], NULL);
		free(p->threads);
	}
	free(tree->procs);
	*tree = (struct vin_tree){ 0 };
}
