/*
 * A patch as git writes it: patch -p1 and git apply take it, with modes, symlinks and odd names.
 * What that format has no words for (owners, xattrs, devices, directories) stands before a file's
 * part as a line that begins with "#", which both programs pass over.
 */
#include <errno.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "cli/diff.h"
#include "common/quote.h"
#include "fvm/textdiff.h"

/* git knows no directories, devices, FIFOs and sockets */
static bool has_text(const struct stat *st)
{
	return st && (S_ISREG(st->st_mode) || S_ISLNK(st->st_mode));
}

/* A symlink has no permissions worth telling: git wants 120000. */
static mode_t git_mode(const struct stat *st)
{
	return !st ? 0 : S_ISLNK(st->st_mode) ? S_IFLNK : st->st_mode;
}

static const char *color(const struct diff *d, const char *code)
{
	return d->color ? code : "";
}

static void print_name(struct diff *d, const char *before, const char *side, const char *path)
{
	fputs(before, d->out);
	diff_quoted(d->out, side, path);
	/* a blank would end the name for patch, unless a tab stands behind it */
	if (side[0] && !fvm_quote_needed(path) && strchr(path, ' '))
		putc('\t', d->out);
	putc('\n', d->out);
}

static void print_remark(struct diff *d, const struct fvm_change *c, const char *what)
{
	fputs("# ", d->out);
	diff_quoted(d->out, "", c->path);
	fprintf(d->out, ": %s", what);
}

static void print_other_meta(struct diff *d, const struct fvm_change *c)
{
	if (c->meta & FVM_META_OWNER) {
		print_remark(d, c, "owner");
		fprintf(d->out, " %u:%u -> %u:%u\n", c->was->st_uid, c->was->st_gid, c->now->st_uid,
			c->now->st_gid);
	}
	if (c->meta & FVM_META_XATTR)
		print_remark(d, c, "extended attributes changed\n");
	if (c->meta & FVM_META_CAPS)
		print_remark(d, c, "capabilities changed\n");
}

static void print_no_text(struct diff *d, const struct fvm_change *c)
{
	const struct stat *st = c->now ?: c->was;
	const char *verb = c->kind == FVM_ADDED	    ? "added"
			   : c->kind == FVM_DELETED ? "deleted"
						    : "changed";
	if (!st)
		return;
	if (S_ISDIR(st->st_mode)) {
		if ((c->meta & FVM_META_MODE) && c->was && c->now) {
			print_remark(d, c, "mode");
			fprintf(d->out, " %04o -> %04o\n", c->was->st_mode & 07777,
				c->now->st_mode & 07777);
		}
		return;
	}
	print_remark(d, c,
		     S_ISFIFO(st->st_mode)   ? "FIFO "
		     : S_ISSOCK(st->st_mode) ? "socket "
					     : "device ");
	fprintf(d->out, "%s\n", verb);
}

static void print_head(struct diff *d, const struct fvm_change *c)
{
	const char *from = c->from ?: c->path;
	fprintf(d->out, "%sdiff --git ", color(d, "\033[1m"));
	diff_quoted(d->out, "a", from);
	putc(' ', d->out);
	diff_quoted(d->out, "b", c->path);
	putc('\n', d->out);
	if (!has_text(c->was))
		fprintf(d->out, "new file mode %06o\n", git_mode(c->now));
	else if (!has_text(c->now))
		fprintf(d->out, "deleted file mode %06o\n", git_mode(c->was));
	else if (git_mode(c->was) != git_mode(c->now))
		fprintf(d->out, "old mode %06o\nnew mode %06o\n", git_mode(c->was),
			git_mode(c->now));
	if (c->from) {
		/* these names are relative, for patch and git alike */
		print_name(d, "similarity index 100%\nrename from ", "", c->from + 1);
		print_name(d, "rename to ", "", c->path + 1);
	}
	fputs(color(d, "\033[m"), d->out);
}

/* On a terminal, control bytes of a hostile file must not drive it. */
static void print_text(struct diff *d, const char *line, size_t len)
{
	if (d->terminal)
		fvm_print_safe(d->out, line, len);
	else
		fwrite(line, 1, len, d->out);
}

static void print_hunk_line(char sign, const char *line, size_t len, void *arg)
{
	struct diff *d = arg;
	const char *code = sign == '-' ? "\033[31m" : sign == '+' ? "\033[32m" : "\033[36m";
	bool plain = sign == ' ' || sign == '\\';
	if (!plain)
		fputs(color(d, code), d->out);
	putc(sign, d->out);
	print_text(d, line, len);
	if (!plain)
		fputs(color(d, "\033[m"), d->out);
	putc('\n', d->out);
}

static int print_sides(struct diff *d, const struct fvm_change *c, const struct fvm_sides *s)
{
	bool was = has_text(c->was), now = has_text(c->now);
	scoped_textdiff text = { 0 };
	if (s->binary) {
		fputs("Binary files ", d->out);
		diff_quoted(d->out, was ? "a" : "", was ? c->path : "/dev/null");
		fputs(" and ", d->out);
		diff_quoted(d->out, now ? "b" : "", now ? c->path : "/dev/null");
		fputs(" differ\n", d->out);
		return 0;
	}
	int r = fvm_textdiff_make(s->was ?: "", s->was_len, s->now ?: "", s->now_len, &text);
	if (r < 0 || (text.added == 0 && text.removed == 0))
		return r;
	print_name(d, "--- ", was ? "a" : "", was ? c->path : "/dev/null");
	print_name(d, "+++ ", now ? "b" : "", now ? c->path : "/dev/null");
	fvm_textdiff_hunks(&text, print_hunk_line, d);
	return 0;
}

static int print_part(struct diff *d, const struct fvm_change *c)
{
	scoped_sides sides = { 0 };
	print_head(d, c);
	if (c->from || c->kind == FVM_META)
		return 0;
	int r = fvm_sides_read(c, DIFF_TEXT_MAX, &sides);
	return r < 0 ? r : print_sides(d, c, &sides);
}

static int patch_change(struct diff *d, const struct fvm_change *c)
{
	int r = 0;
	print_other_meta(d, c);
	bool was = has_text(c->was), now = has_text(c->now);
	if (!was && !now)
		print_no_text(d, c);
	else if (c->kind == FVM_META && !(c->meta & FVM_META_MODE))
		r = 0;
	else if (c->kind != FVM_TYPE || !was || !now) {
		r = print_part(d, c);
	} else { /* for git a file can't become a symlink: one goes, the other comes */
		struct fvm_change part = *c;
		part.now = NULL;
		r = print_part(d, &part);
		part.now = c->now;
		part.was = NULL;
		if (r == 0)
			r = print_part(d, &part);
	}
	return r < 0 ? r : ferror(d->out) ? -EIO : 0;
}

static int patch_json(struct diff *d, const struct fvm_change *c)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = d->out, *memory = open_memstream(&text, &len);
	if (!memory)
		return -ENOMEM;
	d->out = memory;
	int r = patch_change(d, c);
	fclose(memory);
	d->out = out;
	json_t *item = diff_describe(c);
	/* text that is no UTF-8 has no place in JSON */
	json_t *patch = json_stringn(text, len);
	json_object_set_new(item, "patch", patch ?: json_null());
	free(text);
	diff_json(d, item);
	return r;
}

static int patch_any(struct diff *d, const struct fvm_change *c)
{
	return d->cli->json ? patch_json(d, c) : patch_change(d, c);
}

const struct diff_view diff_patch = { .change = patch_any, .whole_trees = true };
