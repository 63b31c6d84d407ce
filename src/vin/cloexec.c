/*
 * Which descriptors are closed at an exec. /proc shows it together with what the file was opened
 * with: one that was opened close-on-exec and then copied by dup2(2) looks as if it still were. So
 * where the file was, the stopped process is asked.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>

#include "vin/cloexec.h"

static size_t collect(const struct vin_table *t, size_t *at, struct vin_call *calls,
		      struct vin_entry **entries)
{
	size_t count = 0;
	for (; *at < t->count && count < VIN_BATCH_MAX; ++*at) {
		struct vin_entry *e = &t->entries[*at];
		if (!e->unsure)
			continue;
		calls[count] = (struct vin_call){ SYS_fcntl, { (uint64_t)e->number, F_GETFD } };
		entries[count++] = e;
	}
	return count;
}

static int ask(const struct vin_post *post, struct vin_thread *t, const struct vin_table *table,
	       struct fvm_error *err)
{
	scoped_free struct vin_call *calls = calloc(VIN_BATCH_MAX, sizeof(*calls));
	scoped_free struct vin_entry **entries = calloc(VIN_BATCH_MAX, sizeof(struct vin_entry *));
	int r = 0;
	if (!calls || !entries)
		return fvm_error_set(err, ENOMEM, "ask for descriptors");
	for (size_t at = 0; r == 0 && at < table->count;) {
		size_t done, count = collect(table, &at, calls, entries);
		if (count > 0)
			r = vin_batch(post, t, calls, count, false, &done, err);
		for (size_t i = 0; r == 0 && i < count; i++) {
			entries[i]->cloexec = calls[i].result & FD_CLOEXEC;
			entries[i]->unsure = false;
		}
	}
	return r;
}

int vin_cloexec_settle(struct vin_table *table, struct vin_thread *t, struct fvm_error *err)
{
	struct vin_post post;
	bool unsure = false;
	for (size_t i = 0; i < table->count; i++)
		unsure |= table->entries[i].unsure;
	if (!unsure)
		return 0;
	int r = vin_post_open(&post, t, err);
	if (r < 0)
		return r;
	r = ask(&post, t, table, err);
	int closed = vin_post_close(&post, t, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}
