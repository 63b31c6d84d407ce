#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/quote.h"
#include "fvm/calls.h"
#include "fvm/handles.h"
#include "fvm/state.h"
#include "vin/status.h"
#include "vin/tree.h"

#define LOOK_MS 50
#define MISSED	16

struct job {
	const struct fvm_calls_options *options;
	struct vin_calls *calls;
	struct fvm_reals *reals;
	bool stale; /* what we know of sockets */
	/* sockets that no table has: raw ones of old kernels, or not bound yet */
	uint64_t missed[MISSED];
	size_t next;
	pid_t init;
	int result; /* of adding children */
};

static void job_free(struct job *j)
{
	vin_calls_close(j->calls);
	fvm_reals_free(j->reals);
}
#define scoped_job __attribute__((cleanup(job_free))) struct job

/* ---- sockets ---- */

static bool is_missed(const struct job *j, uint64_t inode)
{
	for (size_t i = 0; i < MISSED; i++) {
		if (j->missed[i] == inode)
			return true;
	}
	return false;
}

static const char *find_socket(struct job *j, pid_t tid, uint64_t inode, struct fvm_buf *what)
{
	if (j->stale)
		fvm_reals_forget(j->reals);
	if (j->stale)
		memset(j->missed, 0, sizeof(j->missed));
	j->stale = false;
	const char *kind = fvm_reals_socket(j->reals, inode, what);
	if (strcmp(kind, "socket") != 0 || is_missed(j, inode))
		return kind;
	fvm_reals_forget(j->reals);
	if (fvm_reals_process(j->reals, tid) < 0)
		return kind;
	kind = fvm_reals_socket(j->reals, inode, what);
	if (strcmp(kind, "socket") == 0)
		j->missed[j->next++ % MISSED] = inode;
	return kind;
}

static void tell_socket(void *arg, pid_t tid, uint64_t inode, struct fvm_buf *to)
{
	struct job *j = arg;
	scoped_buf what = { 0 };
	fvm_buf_puts(to, find_socket(j, tid, inode, &what));
	if (!what.data || !what.data[0]) {
		fvm_buf_printf(to, " %" PRIu64, inode);
		return;
	}
	fvm_buf_puts(to, " ");
	fvm_quote(to, what.data + strspn(what.data, " "));
}

/* After these a socket is otherwise than the tables said. */
static bool is_change(const char *name)
{
	static const char *const names[] = { "bind", "connect", "listen", "socketcall" };
	for (size_t i = 0; i < FVM_COUNT(names); i++) {
		if (strcmp(names[i], name) == 0)
			return true;
	}
	return false;
}

static bool wants(void *arg, const char *name)
{
	struct job *j = arg;
	const bool yes = !j->options->wants || j->options->wants(j->options->arg, name);
	j->stale |= !yes && is_change(name);
	return yes;
}

static int seen(void *arg, const struct vin_call_seen *call)
{
	struct job *j = arg;
	j->stale |= is_change(call->name);
	return j->options->seen(j->options->arg, call);
}

/* ---- processes ---- */

static int add_child(void *arg, pid_t child)
{
	struct job *j = arg;
	struct fvm_error ignored = { 0 };
	if (vin_calls_has(j->calls, child))
		return 0;
	/* a debugger's are its own; others are gone */
	int r = vin_calls_add(j->calls, child, &ignored);
	return r == -EBUSY || r == -ESRCH ? 0 : r;
}

static int add_all(struct job *j, struct fvm_error *err)
{
	int r = vin_each_child(j->init, j->init, add_child, j);
	return r < 0 ? fvm_error_set(err, -r, "trace the processes of the VM") : 0;
}

static int begin(struct job *j, const struct fvm_vm *vm, struct vin_calls_options *o,
		 struct fvm_error *err)
{
	scoped_procs procs = { 0 };
	scoped_status first = { 0 };
	const pid_t pid = j->options->pid;
	int r = fvm_vm_processes(vm, &procs, &j->init, err);
	if (r == 0)
		r = vin_status_read(j->init, j->init, &first, err);
	if (r < 0)
		return r;
	o->depth = first.depth;
	const struct fvm_proc *only = pid ? fvm_vm_process(vm, &procs, pid, err) : NULL;
	if (pid && !only)
		return -ESRCH;
	if (only && only->pid == j->init)
		return fvm_error_say(err, EPERM, "process 1 is fvm's own");
	j->reals = fvm_reals_open(vm);
	j->calls = vin_calls_open(o);
	if (!j->reals || !j->calls)
		return fvm_error_set(err, ENOMEM, "trace VM '%s'", vm->config.name);
	return only ? vin_calls_add(j->calls, only->pid, err) : add_all(j, err);
}

/* A VM without programs, which waits for commands, may have some later. */
static bool goes_on(const struct job *j)
{
	struct vin_stat st;
	return !j->options->pid && vin_stat_read(j->init, j->init, &st, NULL) == 0 &&
	       st.state != 'Z';
}

static int follow(struct job *j, struct fvm_error *err)
{
	for (;;) {
		int r = vin_calls_run(j->calls, LOOK_MS);
		if (j->options->tick)
			j->options->tick(j->options->arg);
		if (r == -ECHILD && goes_on(j)) {
			fvm_sleep_ms(LOOK_MS);
			r = vin_calls_run(j->calls, 0);
			r = r == -ECHILD ? 0 : r;
		}
		if (r == -ECHILD || r == 1)
			return 0;
		if (r == 0 && !j->options->pid)
			r = add_all(j, err);
		if (r)
			return r;
	}
}

int fvm_calls(struct fvm_vm *vm, const struct fvm_calls_options *options, struct fvm_error *err)
{
	struct job j = { .options = options };
	struct vin_calls_options o = { .no_args = options->no_args,
				       .wants = wants,
				       .socket = tell_socket,
				       .seen = seen,
				       .arg = &j };
	if (fvm_vm_state(vm) == FVM_PAUSED) {
		fvm_error_hint(err, "fvm resume %s", vm->config.name);
		return fvm_error_say(err, EBUSY, "VM '%s' is paused", vm->config.name);
	}
	int r = begin(&j, vm, &o, err);
	fvm_fd_closep(&vm->lock);
	if (r == 0)
		r = follow(&j, err);
	job_free(&j);
	return r;
}
