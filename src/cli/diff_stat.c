#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/diff.h"
#include "fvm/textdiff.h"

struct row {
	char *name; /* as it is printed */
	size_t added, removed;
	long long was_size, now_size;
	char what; /* 't'ext, 'b'inary, 'm'etadata */
};

struct stat_state {
	struct row *rows;
	size_t count, room;
};

static void state_free(struct stat_state *s)
{
	for (size_t i = 0; i < s->count; i++)
		free(s->rows[i].name);
	free(s->rows);
	free(s);
}

static int row_add(struct diff *d, struct row *row, const struct fvm_change *c)
{
	struct stat_state *s = d->state;
	if (s->count == s->room) {
		size_t room = s->room ? s->room * 2 : 256;
		struct row *rows = realloc(s->rows, room * sizeof(*rows));
		if (!rows)
			return -ENOMEM;
		s->rows = rows;
		s->room = room;
	}
	scoped_buf name = { 0 };
	if (c->from) {
		fvm_quote(&name, c->from + 1);
		fvm_buf_puts(&name, " => ");
	}
	fvm_quote(&name, c->path + 1);
	row->name = fvm_buf_steal(&name);
	if (!row->name)
		return -ENOMEM;
	s->rows[s->count++] = *row;
	return 0;
}

static bool is_text(const struct stat *st)
{
	return S_ISREG(st->st_mode) || S_ISLNK(st->st_mode);
}

/* Return: 0, 1 when the change has no place in the table, or -errno */
static int measure(const struct fvm_change *c, struct row *ret)
{
	scoped_sides sides = { 0 };
	scoped_textdiff text = { 0 };
	if ((c->now && !is_text(c->now)) || (c->was && !is_text(c->was)))
		return 1;
	*ret = (struct row){
		.was_size = c->was ? (long long)c->was->st_size : 0,
		.now_size = c->now ? (long long)c->now->st_size : 0,
		.what = c->kind == FVM_META ? 'm' : 't',
	};
	if (c->from || c->kind == FVM_META)
		return 0;
	int r = fvm_sides_read(c, DIFF_TEXT_MAX, &sides);
	if (r < 0)
		return r;
	if (sides.binary) {
		ret->what = 'b';
		return 0;
	}
	r = fvm_textdiff_make(sides.was ?: "", sides.was_len, sides.now ?: "", sides.now_len,
			      &text);
	ret->added = text.added;
	ret->removed = text.removed;
	return r;
}

static void row_json(struct diff *d, const struct fvm_change *c, const struct row *row)
{
	json_t *item = diff_describe(c);
	if (row->what == 't') {
		json_object_set_new(item, "added", json_integer((json_int_t)row->added));
		json_object_set_new(item, "removed", json_integer((json_int_t)row->removed));
	} else if (row->what == 'b') {
		json_object_set_new(item, "binary", json_true());
	}
	diff_json(d, item);
}

static int stat_change(struct diff *d, const struct fvm_change *c)
{
	struct row row;
	if (!d->state)
		d->state = calloc(1, sizeof(struct stat_state));
	if (!d->state)
		return -ENOMEM;
	int r = measure(c, &row);
	if (r != 0)
		return r < 0 ? r : 0;
	if (!d->cli->json)
		return row_add(d, &row, c);
	row_json(d, c, &row);
	return 0;
}

/* ---- the table ---- */

static size_t terminal_width(void)
{
	struct winsize w;
	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 40 ? w.ws_col : 80;
}

/* Bytes are columns here: names of other scripts come out a little narrow. */
static void print_name(FILE *out, const char *name, size_t width)
{
	size_t len = strlen(name);
	if (len <= width)
		fprintf(out, " %-*s", (int)width, name);
	else
		fprintf(out, " ...%s", name + len - (width - 3));
}

static size_t scaled(size_t n, size_t most, size_t room)
{
	if (n == 0 || most <= room)
		return n;
	return 1 + n * (room - 1) / most;
}

static void print_bar(const struct diff *d, const struct row *row, size_t most, size_t room)
{
	fputs(d->color ? "\033[32m" : "", d->out);
	for (size_t n = scaled(row->added, most, room); n > 0; n--)
		putc('+', d->out);
	fputs(d->color ? "\033[m\033[31m" : "", d->out);
	for (size_t n = scaled(row->removed, most, room); n > 0; n--)
		putc('-', d->out);
	fputs(d->color ? "\033[m" : "", d->out);
}

static void print_row(const struct diff *d, const struct row *row, size_t width, size_t most,
		      size_t room)
{
	print_name(d->out, row->name, width);
	if (row->what == 'b') {
		fprintf(d->out, " | Bin %lld -> %lld bytes\n", row->was_size, row->now_size);
		return;
	}
	if (row->what == 'm') {
		fputs(" | metadata\n", d->out);
		return;
	}
	fprintf(d->out, " | %5zu ", row->added + row->removed);
	print_bar(d, row, most, room);
	putc('\n', d->out);
}

static int stat_end(struct diff *d)
{
	struct stat_state *s = d->state;
	size_t most = 1, width = 10, added = 0, removed = 0, columns = terminal_width();
	for (size_t i = 0; s && i < s->count; i++) {
		const struct row *row = &s->rows[i];
		size_t len = strlen(row->name);
		width = len > width ? len : width;
		most = row->added + row->removed > most ? row->added + row->removed : most;
		added += row->added;
		removed += row->removed;
	}
	if (width > columns - 30)
		width = columns - 30;
	for (size_t i = 0; s && i < s->count; i++)
		print_row(d, &s->rows[i], width, most, columns - width - 12);
	if (!d->cli->json)
		fprintf(d->out, " %zu files changed, %zu insertions(+), %zu deletions(-)\n",
			s ? s->count : 0, added, removed);
	if (s)
		state_free(s);
	d->state = NULL;
	return 0;
}

const struct diff_view diff_stat = {
	.change = stat_change,
	.end = stat_end,
	.whole_trees = true,
	.waits = true,
};
