#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/quote.h"
#include "fvm/internal.h"
#include "fvm/notes.h"

#define BUCKETS	   16384U
#define NOTES_MAX  200000U
#define FILE_LIMIT (1LL << 30) /* a program that opens for ever fills no disk */

struct note {
	struct note *next;
	int64_t first_ns, last_ns;
	uint64_t count;
	pid_t pid;
	enum fvm_trace_op op;
	size_t command_len;
	char text[]; /* command, NUL, path, NUL */
};

struct fvm_notes {
	int fd;
	size_t count;
	struct note *buckets[BUCKETS];
};

struct fvm_notes *fvm_notes_new(int fd)
{
	struct fvm_notes *n = calloc(1, sizeof(*n));
	if (n)
		n->fd = fd;
	return n;
}

static void forget(struct fvm_notes *n)
{
	for (size_t i = 0; i < BUCKETS; i++) {
		while (n->buckets[i]) {
			struct note *gone = n->buckets[i];
			n->buckets[i] = gone->next;
			free(gone);
		}
	}
	n->count = 0;
}

void fvm_notes_free(struct fvm_notes *n)
{
	if (n)
		forget(n);
	free(n);
}

/* FNV-1a: a hostile VM that finds collisions slows down only its own trace. */
static uint32_t hash(uint32_t h, const char *text)
{
	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 16777619U;
	return h;
}

static struct note *find(struct note *at, enum fvm_trace_op op, const char *command,
			 const char *path)
{
	for (; at; at = at->next) {
		if (at->op == op && strcmp(at->text, command) == 0 &&
		    strcmp(at->text + at->command_len + 1, path) == 0)
			return at;
	}
	return NULL;
}

int fvm_notes_add(struct fvm_notes *n, enum fvm_trace_op op, pid_t pid, const char *command,
		  const char *path)
{
	uint32_t at = hash(hash(2166136261U + (uint32_t)op, command), path) % BUCKETS;
	int64_t now = fvm_now_ns();
	struct note *note = find(n->buckets[at], op, command, path);
	if (!note) {
		if (n->count >= NOTES_MAX) {
			int r = fvm_notes_flush(n);
			if (r < 0)
				return r;
		}
		size_t c = strlen(command), p = strlen(path);
		note = malloc(sizeof(*note) + c + p + 2);
		if (!note)
			return -ENOMEM;
		*note = (struct note){
			.next = n->buckets[at], .first_ns = now, .op = op, .command_len = c
		};
		memcpy(note->text, command, c + 1);
		memcpy(note->text + c + 1, path, p + 1);
		n->buckets[at] = note;
		n->count++;
	}
	note->count++;
	note->last_ns = now;
	note->pid = pid;
	return 0;
}

static void put_note(struct fvm_buf *out, const struct note *note)
{
	fvm_buf_printf(out, "%" PRId64 "\t%" PRId64 "\t%" PRIu64 "\t%d\t%s\t", note->first_ns,
		       note->last_ns, note->count, (int)note->pid, fvm_trace_op_name(note->op));
	fvm_quote(out, note->text);
	fvm_buf_puts(out, "\t");
	fvm_quote(out, note->text + note->command_len + 1);
	fvm_buf_puts(out, "\n");
}

static int by_time(const void *a, const void *b)
{
	const struct note *x = *(const struct note *const *)a, *y = *(const struct note *const *)b;
	return x->first_ns < y->first_ns ? -1 : x->first_ns > y->first_ns;
}

static int print_all(const struct fvm_notes *n, struct fvm_buf *out)
{
	scoped_free const struct note **all = malloc((n->count + 1) * sizeof(struct note *));
	size_t count = 0;
	if (!all)
		return -ENOMEM;
	for (size_t i = 0; i < BUCKETS; i++) {
		for (const struct note *note = n->buckets[i]; note; note = note->next)
			all[count++] = note;
	}
	qsort(all, count, sizeof(struct note *), by_time);
	for (size_t i = 0; i < count; i++)
		put_note(out, all[i]);
	return out->failed ? -ENOMEM : 0;
}

int fvm_notes_flush(struct fvm_notes *n)
{
	scoped_buf out = { 0 };
	struct stat st;
	int r = print_all(n, &out);
	if (r < 0)
		return r;
	forget(n);
	if (!out.data || fstat(n->fd, &st) < 0 || st.st_size > FILE_LIMIT)
		return 0;
	return fvm_write_all(n->fd, out.data, out.len);
}
