#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vin/early.h"
#include "vin/mem.h"

#define BLOCK	      (256UL * 1024)
#define RECORDS_MAX   64 /* of one process: each is laid over all before */
#define PROCESSES_MAX 65536

struct vin_early_of {
	uint64_t number;
	unsigned records;
	struct vin_pieces pieces;
};

void vin_early_free(struct vin_early *e)
{
	for (size_t i = 0; i < e->count; i++)
		vin_pieces_free(&e->list[i].pieces);
	free(e->list);
	fvm_fd_closep(&e->aside);
	*e = (struct vin_early){ .aside = -1 };
}

static int bad(struct fvm_error *err)
{
	return fvm_error_say(err, EBADMSG, "the image is damaged: pages that came early");
}

static struct vin_early_of *find(const struct vin_early *e, uint64_t number)
{
	for (size_t i = 0; i < e->count; i++) {
		if (e->list[i].number == number)
			return &e->list[i];
	}
	return NULL;
}

static struct vin_early_of *find_or_add(struct vin_early *e, uint64_t number)
{
	struct vin_early_of *of = find(e, number);
	if (of || e->count == PROCESSES_MAX)
		return of;
	struct vin_early_of *more = realloc(e->list, fvm_room(e->count + 1) * sizeof(*more));
	if (!more)
		return NULL;
	e->list = more;
	e->list[e->count] = (struct vin_early_of){ .number = number };
	return &e->list[e->count++];
}

static bool is_users(const void *arg, uint64_t start, uint64_t end)
{
	(void)arg;
	return start < end && end <= VIN_ARCH_END;
}

/* Through a buffer, since the sum is of it all; and aside, if it can't be read again. */
static int read_bytes(struct vin_early *e, struct vin_in *in, uint64_t bytes, bool aside,
		      struct fvm_error *err)
{
	int r = 0;
	scoped_free char *block = malloc(BLOCK);
	if (!block)
		return fvm_error_set(err, ENOMEM, "read pages");
	while (r == 0 && bytes > 0) {
		const size_t len = bytes < BLOCK ? (size_t)bytes : BLOCK;
		r = vin_in_piece(in, block, len, err);
		if (r == 0 && aside && pwrite(e->aside, block, len, (off_t)e->end) != (ssize_t)len)
			r = fvm_error_set(err, errno ? errno : EIO, "put pages aside");
		if (r == 0 && aside)
			e->end += len;
		bytes -= len;
	}
	return r < 0 ? r : vin_in_finish(in, err);
}

static int leave_bytes(struct vin_in *in, uint64_t bytes, uint64_t *ret_at, struct fvm_error *err)
{
	uint64_t len;
	int r = vin_in_leave(in, ret_at, &len, err);
	return r == 0 && len != bytes ? bad(err) : r;
}

static int put_aside(struct vin_early *e, struct vin_in *in, uint64_t bytes, uint64_t *ret_at,
		     struct fvm_error *err)
{
	if (e->aside < 0)
		e->aside = memfd_create("vin-early", MFD_CLOEXEC);
	if (e->aside < 0)
		return fvm_error_set(err, errno, "put pages aside");
	e->fd = e->aside;
	*ret_at = e->end;
	return read_bytes(e, in, bytes, true, err);
}

static int take_bytes(struct vin_early *e, bool late, struct vin_in *in, uint64_t bytes,
		      uint64_t *ret_at, struct fvm_error *err)
{
	const int file = vin_in_file(in);
	if (file < 0)
		return put_aside(e, in, bytes, ret_at, err);
	e->fd = file;
	if (late)
		return leave_bytes(in, bytes, ret_at, err);
	const off_t at = lseek(file, 0, SEEK_CUR);
	if (at < 0)
		return fvm_error_set(err, errno, "read the image");
	*ret_at = (uint64_t)at;
	return read_bytes(e, in, bytes, false, err);
}

int vin_early_take(struct vin_early *e, bool late, struct vin_in *in, struct fvm_error *err)
{
	scoped_runs runs = { 0 };
	uint64_t number, at = 0;
	int r = vin_in_piece(in, &number, sizeof(number), err);
	if (r < 0)
		return r;
	struct vin_early_of *of = find_or_add(e, number);
	if (!of || of->records++ == RECORDS_MAX)
		return bad(err);
	r = vin_stream_table(in, is_users, NULL, &runs, err);
	if (r == 0)
		r = take_bytes(e, late, in, vin_runs_bytes(&runs), &at, err);
	if (r < 0)
		return r;
	r = vin_pieces_lay(&of->pieces, &runs, at);
	return r < 0 ? fvm_error_set(err, -r, "list pages") : 0;
}

int vin_early_find(const struct vin_early *e, uint64_t number, const struct vin_runs *kept,
		   struct vin_pieces *ret, struct fvm_error *err)
{
	const struct vin_early_of *of = find(e, number);
	int r = of ? vin_pieces_pick(&of->pieces, kept, ret) : -ENOENT;
	return r == -ENOENT ? bad(err) : r < 0 ? fvm_error_set(err, -r, "list pages") : 0;
}
