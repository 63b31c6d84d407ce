#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vin/steps.h"

struct vin_steps *vin_steps_new(struct vin_post *post)
{
	struct vin_steps *s = calloc(1, sizeof(*s));
	if (s)
		s->post = post;
	return s;
}

void vin_steps_freep(struct vin_steps *const *s)
{
	if (*s)
		vin_status_free(&(*s)->status);
	free(*s);
}

int vin_steps_at(struct vin_steps *s, struct vin_thread *t, struct fvm_error *err)
{
	if (!s->post || s->t == t)
		return 0;
	/* those of a blank stay, one behind the other, until they get their own registers */
	int r = s->t && !s->post->blank ? vin_post_leave(s->post, s->t, err) : 0;
	if (r == 0)
		r = vin_post_move(s->post, t, err);
	if (r == 0)
		s->t = t;
	return r;
}

int vin_steps_begin(struct vin_steps *s, struct fvm_error *err)
{
	s->count = s->ran = s->kept = 0;
	s->used = s->kept_used = 0;
	vin_status_free(&s->status);
	if (!s->post) {
		s->status.depth = 1;
		return 0;
	}
	int r = vin_status_read(s->t->pid, s->t->tid, &s->status, err);
	return r < 0 ? r : vin_stat_read(s->t->pid, s->t->tid, &s->stat, err);
}

void vin_steps_keep(struct vin_steps *s)
{
	s->kept = s->ran;
	s->kept_used = s->used;
}

void vin_steps_rewind(struct vin_steps *s)
{
	s->count = s->ran = s->kept;
	s->used = s->kept_used;
}

void vin_steps_fail(struct vin_steps *s, int code, const char *text)
{
	if (s->failed == 0)
		s->failed = fvm_error_say(&s->why, code, "%s", text);
}

/* What was added is made, so that there is room again. */
static void empty(struct vin_steps *s)
{
	struct fvm_error why = { 0 };
	int r = s->failed == 0 ? vin_steps_run(s, &why) : 0;
	if (r < 0) {
		s->failed = r;
		s->why = why;
	}
	vin_steps_rewind(s);
}

uint64_t vin_steps_data(struct vin_steps *s, const void *data, size_t len)
{
	size_t room = (len + 7) & ~(size_t)7;
	if (room < len || room > VIN_DATA_SIZE - s->used)
		empty(s);
	if (room < len || room > VIN_DATA_SIZE - s->used) {
		vin_steps_fail(s, E2BIG, "more than fits into one system call of another program");
		return 0;
	}
	size_t at = s->used;
	s->used += room;
	if (data)
		memcpy(s->data + at, data, len);
	else
		memset(s->data + at, 0, room);
	return (s->post ? s->post->data : VIN_DATA_SIZE) + at;
}

void *vin_steps_told(struct vin_steps *s, uint64_t at)
{
	return s->data + (at - (s->post ? s->post->data : VIN_DATA_SIZE));
}

void vin_steps_add(struct vin_steps *s, const char *name, const struct vin_call *call)
{
	if (s->count == VIN_BATCH_MAX) {
		/* the data of this call was put there before it */
		const size_t used = s->used;
		empty(s);
		s->used = used;
	}
	if (s->count == VIN_BATCH_MAX) {
		vin_steps_fail(s, E2BIG, "too many calls at once");
		return;
	}
	s->names[s->count] = name;
	s->calls[s->count++] = *call;
}

/* The first failure that counts among those that were just made. */
static int judge(const struct vin_steps *s, size_t from, struct fvm_error *err)
{
	for (size_t i = from; i < s->count; i++) {
		int64_t result = s->calls[i].result;
		if (s->names[i] && result < 0 && result > -4096)
			return fvm_error_set(err, (int)-result, "have process %d call %s",
					     s->t->pid, s->names[i]);
	}
	return 0;
}

static int pass(struct vin_steps *s, bool to_program, struct fvm_error *err)
{
	int r = 0;
	if (s->used > 0)
		r = to_program ? vin_mem_write(s->post->pid, s->post->data, s->data, s->used)
			       : vin_mem_read(s->post->pid, s->post->data, s->data, s->used);
	return r < 0 ? fvm_error_set(err, -r, "reach the memory of process %d", s->post->pid) : 0;
}

int vin_steps_run(struct vin_steps *s, struct fvm_error *err)
{
	size_t from = s->ran, done;
	if (s->failed < 0) {
		if (err)
			*err = s->why;
		return s->failed;
	}
	s->ran = s->count;
	if (!s->post || from == s->count)
		return 0;
	int r = pass(s, true, err);
	if (r == 0)
		r = vin_batch(s->post, s->t, s->calls + from, s->count - from, true, &done, err);
	if (r == 0)
		r = pass(s, false, err);
	return r < 0 ? r : judge(s, from, err);
}

int vin_step_call(struct vin_steps *s, const char *name, const struct vin_call *call, int64_t *ret,
		  struct fvm_error *err)
{
	if (ret)
		*ret = 0;
	return s->post ? vin_call(s->post, s->t, name, call, ret, err) : 0;
}
