#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "vin/traits.h"

/* The order is the header's. */
static const struct vin_trait *const first[] = { &vin_actions, NULL };
static const struct vin_trait *const of_thread[] = {
	&vin_segments, &vin_attributes,	 &vin_scheduling, &vin_queued, &vin_undo,
	&vin_filters,  &vin_credentials, &vin_keyrings,	  NULL
};
static const struct vin_trait *const of_leader[] = { &vin_segments,
						     &vin_ldt,
						     &vin_barriers,
						     &vin_future,
						     &vin_attributes,
						     &vin_scheduling,
						     &vin_timers,
						     &vin_itimers,
						     &vin_queued,
						     &vin_queued_process,
						     &vin_dirs,
						     &vin_undo,
						     &vin_limits,
						     &vin_process_attributes,
						     &vin_filters,
						     &vin_credentials,
						     &vin_keyrings,
						     &vin_dumpable,
						     NULL };

#define TRAITS_MAX 24

/* ---- check ---- */

/* The leader's are all there are. */
static int check_thread(pid_t pid, pid_t tid, uint64_t filters, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && of_leader[i]; i++)
		r = of_leader[i]->check ? of_leader[i]->check(pid, tid, filters, err) : 0;
	return r;
}

int vin_traits_check(pid_t pid, uint64_t filters, struct fvm_error *err)
{
	char path[40];
	int r = check_thread(pid, pid, filters, err);
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	scoped_dir d = r == 0 ? opendir(path) : NULL;
	if (r == 0 && !d)
		return fvm_error_set(err, errno == ENOENT ? ESRCH : errno,
				     "list the threads of process %d", pid);
	for (struct dirent *e; r == 0 && (e = fvm_dir_next(d));) {
		pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);
		r = tid == pid ? 0 : check_thread(pid, tid, filters, err);
		if (r == -ESRCH) /* it ended while we looked */
			r = 0;
	}
	return r;
}

/* ---- what both directions do at each thread ---- */

static int begin(struct vin_steps *s, struct vin_thread *t, struct fvm_error *err)
{
	int r = vin_steps_at(s, t, err);
	return r < 0 ? r : vin_steps_begin(s, err);
}

static int ask_all(struct vin_steps *s, const struct vin_trait *const *traits,
		   size_t at[TRAITS_MAX], struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && traits[i]; i++) {
		at[i] = s->count;
		r = traits[i]->ask ? traits[i]->ask(s, err) : 0;
	}
	if (r == 0)
		r = vin_steps_run(s, err);
	vin_steps_keep(s);
	return r;
}

typedef int (*thread_fn)(struct vin_steps *s, struct vin_thread *t,
			 const struct vin_trait *const *traits, void *arg, struct fvm_error *err);

static int each_thread(struct vin_steps *s, struct vin_thread *threads, size_t count, thread_fn fn,
		       void *arg, struct fvm_error *err)
{
	int r = fn(s, &threads[0], first, arg, err);
	for (size_t i = 1; r == 0 && i < count; i++)
		r = fn(s, &threads[i], of_thread, arg, err);
	return r < 0 ? r : fn(s, &threads[0], of_leader, arg, err);
}

/* ---- capture ---- */

struct taking {
	struct vin_thread *threads;
	struct vin_thread_state *states; /* of the threads */
	struct fvm_buf *to;		 /* NULL: states are all that is wanted */
};

static int put_all(struct vin_steps *s, const struct vin_trait *const *traits,
		   const size_t at[TRAITS_MAX], struct fvm_buf *to, struct fvm_error *err)
{
	for (size_t i = 0; traits[i]; i++) {
		scoped_buf one = { 0 };
		int r = traits[i]->put(s, s->calls + at[i], &one, err);
		vin_put_string(to, traits[i]->name);
		vin_put_blob(to, one.data, one.len);
		to->failed |= one.failed;
		if (r < 0)
			return fvm_error_wrap(err, r, "capture %s of thread %d", traits[i]->name,
					      s->t->tid);
	}
	return 0;
}

/* The leader is met twice, its state is asked for at the end. */
static int capture_thread(struct vin_steps *s, struct vin_thread *t,
			  const struct vin_trait *const *traits, void *arg, struct fvm_error *err)
{
	static const struct vin_trait *const none[] = { NULL };
	const struct taking *taking = arg;
	size_t at[TRAITS_MAX];
	struct vin_thread_state *state =
		traits == first || !taking->states ? NULL : &taking->states[t - taking->threads];
	if (!taking->to)
		traits = none;
	int r = begin(s, t, err);
	if (r == 0 && state)
		vin_thread_ask(s);
	if (r == 0)
		r = ask_all(s, traits, at, err);
	if (r == 0 && state)
		r = vin_thread_told(s, s->calls, state, err);
	return r < 0 || !taking->to ? r : put_all(s, traits, at, taking->to, err);
}

int vin_traits_capture(struct vin_post *post, struct vin_thread *threads, size_t count,
		       uint64_t filters, struct vin_thread_state *states, struct fvm_buf *ret,
		       struct fvm_error *err)
{
	struct taking taking = { threads, states, ret };
	scoped_steps *s = vin_steps_new(post);
	if (!s)
		return fvm_error_set(err, ENOMEM, "capture process %d", post->pid);
	s->t = &threads[0];
	s->filters = filters;
	if (ret)
		vin_put_u64(ret, count);
	int r = each_thread(s, threads, count, capture_thread, &taking, err);
	if (r == 0 && ret && ret->failed)
		r = fvm_error_set(err, ENOMEM, "capture process %d", post->pid);
	int back = vin_steps_at(s, &threads[0], r < 0 ? NULL : err);
	return r < 0 ? r : back;
}

/* ---- replay ---- */

static int damaged(struct fvm_error *err)
{
	return fvm_error_say(err, EBADMSG, "the image is damaged: that is nothing a process has");
}

/* The part of the payload that is of one trait. */
static int next_part(struct vin_payload *from, const struct vin_trait *trait,
		     struct vin_payload *ret)
{
	size_t len;
	const char *name = vin_get_blob(from, &len);
	if (!name || len != strlen(trait->name) || memcmp(name, trait->name, len) != 0)
		return -EBADMSG;
	ret->at = vin_get_blob(from, &len);
	ret->end = ret->at + len;
	ret->failed = from->failed;
	return from->failed ? -EBADMSG : 0;
}

struct giving {
	struct vin_thread *threads;
	const struct vin_thread_state *states; /* of the threads, or NULL */
	struct vin_payload *from;
	bool known;	       /* what threads of a blank are by birth: one was asked for all */
	size_t at[TRAITS_MAX]; /* what it has told */
};

/* What a thread is before it is told what to be. */
static int meet(struct vin_steps *s, struct vin_thread *t, const struct vin_trait *const *traits,
		struct giving *g, struct fvm_error *err)
{
	const struct vin_thread_state *state = g->states ? &g->states[t - g->threads] : NULL;
	const bool alike = traits == of_thread && state && s->post && s->post->blank;
	int r = alike && g->known ? vin_steps_at(s, t, err) : begin(s, t, err);
	if (r == 0 && alike && g->known)
		vin_steps_rewind(s);
	else if (r == 0)
		r = ask_all(s, traits, g->at, err);
	g->known = alike;
	if (r == 0 && alike)
		s->status.pids[s->status.depth - 1] = state->tid;
	if (r == 0 && s->post && state && traits != first)
		vin_thread_dress(s, state);
	return r;
}

static int replay_thread(struct vin_steps *s, struct vin_thread *t,
			 const struct vin_trait *const *traits, void *arg, struct fvm_error *err)
{
	struct giving *g = arg;
	int r = meet(s, t, traits, g, err);
	for (size_t i = 0; r == 0 && traits[i]; i++) {
		struct vin_payload part;
		if (next_part(g->from, traits[i], &part) < 0)
			return damaged(err);
		r = traits[i]->replay(s, s->calls + g->at[i], &part, err);
		if (r == -EBADMSG || (r == 0 && vin_get_done(&part) < 0))
			return damaged(err);
		if (r < 0)
			return fvm_error_wrap(err, r, "restore %s", traits[i]->name);
	}
	return r < 0 ? r : vin_steps_run(s, err);
}

static int dress_only(struct vin_steps *s, struct vin_thread *t,
		      const struct vin_trait *const *traits, void *arg, struct fvm_error *err)
{
	const struct giving *g = arg;
	if (traits == first)
		return 0;
	int r = vin_steps_at(s, t, err);
	vin_steps_rewind(s);
	if (r == 0)
		vin_thread_dress(s, &g->states[t - g->threads]);
	return r < 0 ? r : vin_steps_run(s, err);
}

int vin_traits_dress(struct vin_post *post, struct vin_thread *threads, size_t count,
		     const struct vin_thread_state *states, struct fvm_error *err)
{
	struct giving g = { .threads = threads, .states = states };
	scoped_steps *s = vin_steps_new(post);
	if (!s)
		return fvm_error_set(err, ENOMEM, "restore a process");
	s->t = threads;
	return each_thread(s, threads, count, dress_only, &g, err);
}

static int replay_all(struct vin_post *post, struct vin_thread *threads, size_t count,
		      const struct vin_thread_state *states, struct vin_payload from,
		      struct fvm_error *err)
{
	struct giving g = { .threads = threads, .states = states, .from = &from };
	scoped_steps *s = vin_steps_new(post);
	if (!s)
		return fvm_error_set(err, ENOMEM, "restore a process");
	s->t = threads;
	int r = each_thread(s, threads, count, replay_thread, &g, err);
	return r == 0 && vin_get_done(&from) < 0 ? damaged(err) : r;
}

int vin_traits_replay(struct vin_post *post, struct vin_thread *threads, size_t count,
		      const struct vin_thread_state *states, const void *payload, size_t len,
		      struct fvm_error *err)
{
	struct vin_payload from = { payload, (const unsigned char *)payload + len, false };
	uint64_t there = vin_get_u64(&from);
	if (from.failed || there == 0 || (post && there != count) || there > len / 64)
		return damaged(err);
	scoped_free struct vin_thread *nobody = calloc(there, sizeof(*nobody));
	if (!nobody)
		return fvm_error_set(err, ENOMEM, "restore a process");
	int r = replay_all(NULL, nobody, there, NULL, from, err);
	return r < 0 || !post ? r : replay_all(post, threads, count, states, from, err);
}
