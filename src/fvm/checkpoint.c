#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/apart.h"
#include "fvm/checkpoint_priv.h"
#include "fvm/early.h"
#include "fvm/image_priv.h"
#include "fvm/internal.h"
#include "fvm/lock.h"
#include "fvm/pause.h"
#include "fvm/snapshot.h"
#include "fvm/state.h"
#include "fvm/subids.h"
#include "fvm/volatile.h"
#include "vin/dirty.h"
#include "vin/image.h"
#include "vin/status.h"
#include "vin/task.h"

#define STOP_MS 5000
#define TRIES	50 /* of what may be otherwise a moment later */
#define TRY_MS	20
#define KILL_MS 10000

/* ---- who is captured ---- */

static int add_root(void *arg, pid_t child)
{
	struct fvm_world *w = arg;
	if (child == w->foothold.pid)
		return 0;
	pid_t *more = realloc(w->roots, fvm_room(w->root_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	w->roots = more;
	w->roots[w->root_count++] = child;
	return 0;
}

static int find_roots(struct fvm_world *w, struct fvm_error *err)
{
	w->root_count = 0;
	int r = vin_each_child(w->init, w->init, add_root, w);
	if (r < 0)
		return fvm_error_set(err, -r, "list the VM's processes");
	if (w->root_count == 0)
		return fvm_error_say(err, ENOENT, "nothing runs in VM '%s'", w->vm->config.name);
	return 0;
}

static int check_sort(const struct fvm_vm *vm, struct fvm_error *err)
{
	if (fvm_vm_state(vm) == FVM_PAUSED) {
		fvm_error_hint(err, "fvm resume %s", vm->config.name);
		return fvm_error_say(err, EBUSY, "VM '%s' is paused", vm->config.name);
	}
	return 0;
}

/* What has not come yet nobody can write down (vin/lazy). */
static int await_memory(const struct fvm_vm *vm, struct fvm_error *err)
{
	int r = fvm_lock_await_late(vm->dir);
	return r < 0 ? fvm_error_set(err, -r, "wait for the memory of its programs") : 0;
}

static int look(struct fvm_world *w, const struct vin_precopy *precopy, struct vin_capture **ret,
		struct fvm_error *err)
{
	const struct vin_capture_options options = { .root = w->root,
						     .given = w->given,
						     .given_count = w->given_count,
						     .within = w->foothold.pid ?: w->init,
						     .spaces = w->spaces,
						     .precopy = precopy,
						     .filters = w->filters };
	int r = find_roots(w, err);
	return r < 0 ? r : vin_capture_open(w->roots, w->root_count, &options, ret, err);
}

/* What is queued in a terminal will be read; who has ended will not be looked at again. */
static bool may_pass(int r)
{
	return r == -EAGAIN || r == -ESRCH;
}

struct outside {
	struct fvm_connections *to;
	int result;
};

static void add_outside(void *arg, pid_t pid, int number, const char *peer)
{
	struct outside *o = arg;
	struct fvm_connection one = { .pid = vin_inner_number(pid), .number = number };
	snprintf(one.peer, sizeof(one.peer), "%s", peer);
	if (o->result == 0)
		o->result = fvm_connections_add(o->to, pid, &one);
}

static int list_outside(struct vin_capture *c, struct fvm_connections *ret, struct fvm_error *err)
{
	struct outside o = { .to = ret };
	fvm_connections_free(ret);
	int r = vin_capture_outside(c, add_outside, &o, err);
	return r == 0 && o.result < 0 ? fvm_error_set(err, -o.result, "list connections") : r;
}

int fvm_checkpoint_check(const struct fvm_vm *vm, struct fvm_connections *ret,
			 struct fvm_error *err)
{
	scoped_connections outside = { 0 };
	struct vin_capture *c = NULL;
	scoped_world w = FVM_NO_WORLD;
	int r = check_sort(vm, err);
	if (r == 0)
		r = await_memory(vm, err);
	if (r == 0)
		r = fvm_world_open(vm, &w, err);
	if (r == 0)
		r = fvm_world_enter(&w, err);
	if (r == 0)
		r = fvm_world_hold(&w, err);
	for (int i = 0; (r == 0 || may_pass(r)) && i < TRIES; i++) {
		r = look(&w, NULL, &c, err);
		if (r == 0)
			r = list_outside(c, &outside, err);
		vin_capture_close(c);
		c = NULL;
		if (!may_pass(r))
			break;
		fvm_sleep_ms(TRY_MS);
	}
	if (r < 0)
		return fvm_error_wrap(err, r, "checkpoint VM '%s'", vm->config.name);
	*ret = outside;
	outside = (struct fvm_connections){ 0 };
	return 0;
}

/* ---- the blob ---- */

struct blob {
	int fd;
	struct vin_out *out; /* the programs' stream, and where it was before the stop */
	struct vin_out_place place;
	off_t at;
	struct vin_precopy *precopy; /* what it has of their memory by then; or NULL */
};

#define REST_AT ((off_t)(strlen(FVM_PROGRAMS_MAGIC) + sizeof(struct fvm_net_wish)))

/* All there is before anybody is looked at. */
static int begin_blob(const struct fvm_world *w, struct blob *b, struct fvm_error *err)
{
	const uint64_t rest = 0;
	int r = ftruncate(b->fd, 0) < 0 || lseek(b->fd, 0, SEEK_SET) < 0 ? -errno : 0;
	if (r == 0)
		r = fvm_write_all(b->fd, FVM_PROGRAMS_MAGIC, strlen(FVM_PROGRAMS_MAGIC));
	if (r == 0)
		r = fvm_write_all(b->fd, &w->addresses, sizeof(w->addresses));
	if (r == 0)
		r = fvm_write_all(b->fd, &rest, sizeof(rest));
	if (r < 0)
		return fvm_error_set(err, -r, "write the programs");
	vin_out_close(b->out);
	b->out = NULL;
	return vin_out_open(b->fd, &b->out, err);
}

/* What comes behind this may come once more. */
static int mark_blob(struct blob *b, struct fvm_error *err)
{
	int r = vin_out_mark(b->out, &b->place, err);
	b->at = r < 0 ? -1 : lseek(b->fd, 0, SEEK_CUR);
	return r == 0 && b->at < 0 ? fvm_error_set(err, errno, "write the programs") : r;
}

static void end_blob(struct blob *b)
{
	vin_precopy_close(b->precopy);
	vin_out_close(b->out);
	b->precopy = NULL;
	b->out = NULL;
}

static int write_sessions(const struct fvm_world *w, int to)
{
	uint32_t count = (uint32_t)w->count;
	int r = fvm_write_all(to, &count, sizeof(count));
	for (size_t i = 0; r == 0 && i < w->count; i++) {
		uint32_t len = (uint32_t)w->held[i].len;
		r = fvm_write_all(to, &len, sizeof(len));
		if (r == 0)
			r = fvm_write_all(to, w->held[i].told, len);
	}
	return r;
}

/* Its length is known when it is there. */
static int write_volatile(const struct fvm_world *w, bool covered, int to, struct fvm_error *err)
{
	const pid_t within = w->foothold.pid ?: w->init;
	uint64_t len = 0;
	off_t at = lseek(to, 0, SEEK_CUR);
	int r = at < 0 ? -errno : fvm_write_all(to, &len, sizeof(len));
	if (r < 0)
		return fvm_error_set(err, -r, "write the programs");
	r = fvm_volatile_write(w->pidfd, w->root, covered ? within : 0, to, err);
	if (r < 0)
		return r;
	off_t end = lseek(to, 0, SEEK_CUR);
	len = (uint64_t)(end - at) - sizeof(len);
	if (end < 0 || pwrite(to, &len, sizeof(len), at) != sizeof(len))
		return fvm_error_set(err, errno ? errno : EIO, "write the programs");
	return 0;
}

static int write_programs(struct vin_capture *c, const struct blob *to, struct fvm_error *err)
{
	int r = vin_capture_write(c, to->out, err);
	return r < 0 ? r : vin_out_end(to->out, err);
}

/* Where the sessions begin is known when the programs are written. */
static int write_rest(const struct fvm_world *now, int to, struct fvm_error *err)
{
	const off_t at = lseek(to, 0, SEEK_CUR);
	const uint64_t rest = (uint64_t)at;
	int r = at < 0 ? -errno : write_sessions(now, to);
	if (r == 0 && pwrite(to, &rest, sizeof(rest), REST_AT) != sizeof(rest))
		r = errno ? -errno : -EIO;
	return r < 0 ? fvm_error_set(err, -r, "write the sessions") : 0;
}

/* What PID 1 tells of the sessions, when nobody adds to it any more. */
static int write_blob(struct fvm_world *w, struct vin_capture *c, const struct blob *to,
		      struct fvm_error *err)
{
	scoped_world now = FVM_NO_WORLD;
	int r = ftruncate(to->fd, to->at) < 0 || lseek(to->fd, to->at, SEEK_SET) < 0 ? -errno : 0;
	vin_out_back(to->out, &to->place);
	now.vm = w->vm;
	now.addresses = w->addresses;
	now.foothold.number = w->foothold.number;
	if (r == 0)
		r = FVM_FAULT("checkpoint.programs");
	if (r < 0)
		return fvm_error_set(err, -r, "write the programs");
	r = fvm_world_hold(&now, err);
	if (r == 0)
		r = write_programs(c, to, err);
	if (r == 0)
		r = write_rest(&now, to->fd, err);
	return r < 0 ? r : write_volatile(w, vin_capture_mounted(c), to->fd, err);
}

/* Stops them, and writes what they are, unless @to is NULL; @ret goes on to hold them still. */
static int capture_once(struct fvm_world *w, const struct blob *to, struct vin_capture **ret,
			int64_t *ret_since, struct fvm_error *err)
{
	struct vin_capture *c = NULL;
	int r = look(w, to ? to->precopy : NULL, &c, err);
	*ret_since = fvm_clock_ns();
	if (r == 0)
		r = vin_capture_stop(c, STOP_MS, err);
	if (r == 0 && to)
		r = write_blob(w, c, to, err);
	if (r < 0)
		vin_capture_close(c);
	else
		*ret = c;
	return r;
}

static int capture(struct fvm_world *w, const struct blob *to, struct vin_capture **ret,
		   int64_t *ret_since, struct fvm_error *err)
{
	int r = -EAGAIN;
	for (int i = 0; may_pass(r) && i < TRIES; i++) {
		if (i)
			fvm_sleep_ms(TRY_MS);
		if (err)
			*err = (struct fvm_error){ 0 };
		r = capture_once(w, to, ret, ret_since, err);
	}
	return r;
}

/* A file of the store that no name leads to. */
static int open_blob(const struct fvm_vm *vm, struct fvm_error *err)
{
	char tmp[40];
	scoped_fd dir = fvm_tmp_make(vm->store, tmp);
	int fd = dir < 0 ? dir : openat(dir, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	if (fd < 0 && dir >= 0)
		fd = openat(dir, "programs", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 && dir >= 0)
		fd = -errno;
	if (dir >= 0)
		(void)fvm_remove_tree(vm->store->dir, tmp);
	return fd < 0 ? fvm_error_set(err, -fd, "make a file in %s", vm->store->path) : fd;
}

static void count(const struct vin_tree *tree, struct fvm_checkpoint_told *ret)
{
	for (size_t i = 0; i < tree->count; i++) {
		ret->processes += !tree->procs[i].zombie;
		ret->threads += tree->procs[i].thread_count;
	}
}

/* Whether our command has ended, or was told to. */
static bool is_abandoned(void)
{
	sigset_t waiting;
	return sigpending(&waiting) == 0 && sigismember(&waiting, SIGTERM) == 1;
}

/* What becomes of a VM whose programs stand still. */
struct job {
	int blob; /* gets the programs */
	bool leave_running;
	fvm_progress_fn progress;
	void *arg;
	/* a file .. */
	int dir;
	const char *file;
	/* .. or another VM, or a snapshot */
	const char *clone, *tag;
};

static int finish(const struct fvm_vm *vm, struct vin_capture *c, bool leave_running,
		  struct fvm_error *err)
{
	if (leave_running || is_abandoned()) {
		vin_capture_resume(c);
		return 0;
	}
	vin_capture_kill(c);
	int r = fvm_vm_kill(vm, KILL_MS, err);
	return r == -ESRCH ? 0 : r; /* it ends with its first session */
}

struct standing {
	struct vin_capture *capture;
	struct blob blob;
	struct fvm_early early;
	int64_t since, still_ns;
	int64_t before_ns; /* they stood still already, for the early copies */
};

static void go_on(void *arg)
{
	struct standing *s = arg;
	if (s->still_ns)
		return; /* when the early copy was finished */
	vin_capture_resume(s->capture);
	s->still_ns = fvm_clock_ns() - s->since;
	end_blob(&s->blob);
}

static int export(const struct fvm_vm *vm, const struct job *job, const struct standing *s,
		  void (*written)(void *arg), void *arg, struct fvm_error *err)
{
	const struct fvm_image_live live = { .programs = job->blob,
					     .layer = s->early.dir,
					     .written = job->leave_running ? written : NULL,
					     .arg = arg };
	return fvm_vm_export_live(vm, job->dir, job->file, &live, job->progress, job->arg, err);
}

static void tell_written(void *arg)
{
	(void)!write(*(int *)arg, "w", 1);
}

/* Who reads layers that have files of subordinate ids loses the right to trace. */
static int export_apart(const struct fvm_vm *vm, const struct job *job, struct standing *s,
			struct fvm_error *err)
{
	int written[2];
	char byte;
	struct fvm_apart a;
	struct fvm_error why = { 0 };
	if (pipe2(written, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "make a pipe");
	int r = fvm_apart_begin(&a, err);
	if (r == 0 && a.pid == 0) {
		r = fvm_subids_enter(vm, &why);
		if (r == 0)
			r = export(vm, job, s, tell_written, &written[1], &why);
		fvm_apart_tell(&a, r, &why, NULL, 0);
	}
	close(written[1]);
	if (r == 0 && fvm_read_full(written[0], &byte, 1) == 1)
		go_on(s);
	close(written[0]);
	return r < 0 ? r : fvm_apart_end(&a, NULL, 0, err);
}

/* The image is written when they run again, of a copy; if there can't be one, before that. */
static int write_file(const struct fvm_vm *vm, const struct job *job, struct standing *s,
		      struct fvm_error *err)
{
	if (s->early.dir >= 0 && fvm_early_finish(&s->early, NULL) == 0)
		go_on(s);
	else
		fvm_early_close(&s->early);
	return vm->config.rootless ? export_apart(vm, job, s, err)
				   : export(vm, job, s, go_on, s, err);
}

static int keep_files(const struct fvm_vm *vm, const struct job *job, struct standing *s,
		      struct fvm_error *err)
{
	struct fvm_vm origin = *vm;
	scoped_vm copy = { .dir = -1, .lock = -1 };
	if (!job->clone && !job->tag)
		return write_file(vm, job, s, err);
	origin.held = true;
	origin.early = s->early.dir >= 0 ? &s->early : NULL;
	origin.copied = go_on;
	origin.copied_arg = s;
	if (job->tag)
		return fvm_vm_snapshot_live(&origin, job->tag, job->blob, err);
	return fvm_vm_clone(&origin, job->clone, &copy, NULL, err);
}

/* They stand still for a moment: so nobody is in a write that began before the copy of files; and
 * memory that is written to is noted from then on. */
static int mark(struct fvm_world *w, struct standing *s, struct fvm_error *err)
{
	struct vin_capture *c = NULL;
	int64_t since = 0;
	int r = capture(w, NULL, &c, &since, err);
	if (r < 0)
		return r;
	s->blob.precopy = vin_precopy_open(VIN_DIRTY_ALL);
	if (s->blob.precopy)
		(void)vin_capture_track(c, s->blob.precopy, NULL);
	fvm_early_mark(&s->early);
	vin_capture_resume(c);
	s->before_ns = fvm_clock_ns() - since;
	vin_capture_close(c);
	return 0;
}

/* An image can do without it: see write_file(). */
static int copy_files(const struct job *job, struct standing *s, struct fvm_error *err)
{
	const bool wanted = job->clone || job->tag;
	s->early.progress = job->progress;
	s->early.arg = job->arg;
	int r = fvm_early_copy(&s->early, wanted ? err : NULL);
	if (r < 0)
		fvm_early_close(&s->early);
	return wanted ? r : 0;
}

static bool had_enough(void *arg)
{
	(void)arg;
	return FVM_FAULT("checkpoint.memory") < 0 || is_abandoned();
}

/* Another stop is not for nothing. What can't be captured is said later. */
static bool has_much_memory(struct fvm_world *w)
{
	struct vin_capture *c = NULL;
	const bool worth = look(w, NULL, &c, NULL) == 0 && vin_capture_worth(c);
	vin_capture_close(c);
	return worth;
}

/* If it can't be written now, it may be when there is less of it. */
static int copy_memory(const struct fvm_world *w, struct blob *b, struct fvm_error *err)
{
	struct vin_precopy_told told;
	if (!b->precopy || vin_precopy_copy(b->precopy, b->out, had_enough, NULL, &told, NULL) == 0)
		return 0;
	vin_precopy_close(b->precopy);
	b->precopy = NULL;
	return begin_blob(w, b, err);
}

/* Memory last: it is what changes most. */
static int copy_early(struct fvm_world *w, const struct job *job, struct standing *s,
		      struct fvm_error *err)
{
	const bool files = job->leave_running && fvm_early_can(w->vm);
	int r = job->leave_running ? fvm_early_open(w->vm, job->clone || job->tag, &s->early, err)
				   : 0;
	if (r == 0)
		r = begin_blob(w, &s->blob, err);
	if (r == 0 && (files || has_much_memory(w)))
		r = mark(w, s, err);
	if (r == 0 && files)
		r = copy_files(job, s, err);
	if (r == 0)
		r = copy_memory(w, &s->blob, err);
	if (r == 0)
		r = mark_blob(&s->blob, err);
	return r == 0 && is_abandoned() ? -ECANCELED : r;
}

static int checkpoint(struct fvm_world *w, const struct job *job, struct fvm_checkpoint_told *ret,
		      struct fvm_error *err)
{
	struct standing s = { .early = FVM_NO_EARLY, .blob = { .fd = job->blob } };
	int r = fvm_world_hold(w, err);
	if (r == 0)
		r = copy_early(w, job, &s, err);
	if (r == 0)
		r = capture(w, &s.blob, &s.capture, &s.since, err);
	if (r < 0) {
		end_blob(&s.blob);
		fvm_early_close(&s.early);
		return r;
	}
	count(vin_capture_tree(s.capture), ret);
	r = keep_files(w->vm, job, &s, err);
	if (r == 0)
		r = finish(w->vm, s.capture, job->leave_running, err);
	ret->still_ns = s.before_ns + (s.still_ns ? s.still_ns : fvm_clock_ns() - s.since);
	vin_capture_close(s.capture);
	end_blob(&s.blob);
	fvm_early_close(&s.early);
	return r;
}

/* Out of the terminal's reach; of our command's end it is told by a signal that it looks for. */
static _Noreturn void be_tracer(struct fvm_world *w, const struct job *job,
				const struct fvm_apart *a)
{
	struct fvm_checkpoint_told told = { 0 };
	struct fvm_error why = { 0 };
	struct vin_watch watch;
	int r = -ECANCELED;
	sigset_t end;
	sigemptyset(&end);
	sigaddset(&end, SIGTERM);
	sigprocmask(SIG_BLOCK, &end, NULL);
	(void)setsid();
	(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
	vin_watch_begin(&watch);
	if (getppid() == a->parent)
		r = checkpoint(w, job, &told, &why);
	fvm_apart_tell(a, r, &why, &told, sizeof(told));
}

/* Who is killed while a program makes a call for him harms it. So it is not the command that asks
 * for the calls, but a child, whom nobody thinks of killing. */
static int do_apart(struct fvm_world *w, const struct job *job, struct fvm_checkpoint_told *ret,
		    struct fvm_error *err)
{
	struct fvm_apart a;
	int r = fvm_apart_begin(&a, err);
	if (r < 0)
		return r;
	if (a.pid == 0)
		be_tracer(w, job, &a);
	return fvm_apart_end(&a, ret, sizeof(*ret), err);
}

static int do_job(const struct fvm_vm *vm, struct job *job, struct fvm_checkpoint_told *ret,
		  struct fvm_error *err)
{
	scoped_world w = FVM_NO_WORLD;
	*ret = (struct fvm_checkpoint_told){ 0 };
	int r = check_sort(vm, err);
	if (r == 0)
		r = await_memory(vm, err);
	if (r == 0)
		r = fvm_world_open(vm, &w, err);
	if (r == 0)
		r = fvm_world_enter(&w, err);
	if (r == 0)
		r = job->blob = open_blob(vm, err);
	return r < 0 ? r : do_apart(&w, job, ret, err);
}

int fvm_checkpoint(const struct fvm_vm *vm, int dir, const char *file,
		   const struct fvm_checkpoint_options *options, struct fvm_checkpoint_told *ret,
		   struct fvm_error *err)
{
	struct job job = { .blob = -1,
			   .leave_running = options->leave_running,
			   .progress = options->progress,
			   .arg = options->arg,
			   .dir = dir,
			   .file = file };
	int r = do_job(vm, &job, ret, err);
	fvm_fd_closep(&job.blob);
	return r < 0 ? fvm_error_wrap(err, r, "checkpoint VM '%s'", vm->config.name) : 0;
}

int fvm_clone_live(const struct fvm_vm *vm, const char *name, int *ret_programs,
		   struct fvm_checkpoint_told *ret, struct fvm_error *err)
{
	struct job job = { .blob = -1, .leave_running = true, .clone = name };
	int r = fvm_vm_check_clone(vm, name, err);
	if (r == 0)
		r = do_job(vm, &job, ret, err);
	if (r == 0 && lseek(job.blob, 0, SEEK_SET) < 0)
		r = fvm_error_set(err, errno, "read the programs");
	if (r == 0)
		*ret_programs = fvm_fd_take(&job.blob);
	fvm_fd_closep(&job.blob);
	return r < 0 ? fvm_error_wrap(err, r, "clone VM '%s'", vm->config.name) : 0;
}

int fvm_snapshot_live(const struct fvm_vm *vm, const char *tag, struct fvm_checkpoint_told *ret,
		      struct fvm_error *err)
{
	struct job job = { .blob = -1, .leave_running = true, .tag = tag };
	int r = fvm_vm_check_tag(vm, tag, err);
	if (r < 0)
		return r;
	r = do_job(vm, &job, ret, err);
	fvm_fd_closep(&job.blob);
	return r < 0 ? fvm_error_wrap(err, r, "snapshot VM '%s'", vm->config.name) : 0;
}
