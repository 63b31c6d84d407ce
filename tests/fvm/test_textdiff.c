#include "fvm/textdiff.h"
#include "tests/box.h"

static unsigned int seed;

static unsigned int rnd(unsigned int below)
{
	seed = seed * 1103515245 + 12345;
	return (seed >> 8) % below;
}

/* Lines out of few letters, so that there is much to match; the last may lack its newline. */
static size_t random_text(char *to, unsigned int most, unsigned int letters)
{
	unsigned int lines = rnd(most + 1);
	size_t len = 0;
	for (unsigned int i = 0; i < lines; i++) {
		to[len++] = (char)('a' + rnd(letters));
		to[len++] = '\n';
	}
	return len - (len && rnd(4) == 0);
}

static bool same_line(const struct fvm_text *a, size_t i, const struct fvm_text *b, size_t j)
{
	size_t len = a->lines[i + 1] - a->lines[i];
	return len == b->lines[j + 1] - b->lines[j] &&
	       memcmp(a->data + a->lines[i], b->data + b->lines[j], len) == 0;
}

/* What is not marked must be the same on both sides, in order. */
static void assert_unchanged_lines_are_equal(const struct fvm_textdiff *d)
{
	size_t i = 0, j = 0;
	for (;;) {
		while (i < d->was.count && d->was.changed[i])
			i++;
		while (j < d->now.count && d->now.changed[j])
			j++;
		if (i == d->was.count || j == d->now.count)
			break;
		assert_true(same_line(&d->was, i++, &d->now, j++));
	}
	assert_int_equal(i, d->was.count);
	assert_int_equal(j, d->now.count);
}

static size_t longest_common(const struct fvm_text *a, const struct fvm_text *b)
{
	static size_t row[64];
	memset(row, 0, sizeof(row));
	for (size_t i = 0; i < a->count; i++) {
		size_t diagonal = 0;
		for (size_t j = 0; j < b->count; j++) {
			size_t above = row[j + 1];
			if (same_line(a, i, b, j))
				row[j + 1] = diagonal + 1;
			else if (row[j] > above)
				row[j + 1] = row[j];
			diagonal = above;
		}
	}
	return row[b->count];
}

static void difference_of_small_texts_is_the_shortest(void **state)
{
	(void)state;
	char was[200], now[200];
	for (seed = 1; seed < 20000; seed++) {
		unsigned int keep = seed;
		size_t was_len = random_text(was, 30, 4), now_len = random_text(now, 30, 4);
		struct fvm_textdiff d;
		assert_int_equal(fvm_textdiff_make(was, was_len, now, now_len, &d), 0);
		assert_unchanged_lines_are_equal(&d);
		assert_int_equal(d.was.count - d.removed, longest_common(&d.was, &d.now));
		fvm_textdiff_free(&d);
		seed = keep;
	}
}

static void large_texts_without_likeness_end_soon(void **state)
{
	(void)state;
	enum { LINES = 400000 };
	char *was = malloc(LINES * 2), *now = malloc(LINES * 2);
	seed = 7;
	for (size_t i = 0; i < LINES; i++) {
		was[2 * i] = (char)('a' + rnd(26));
		now[2 * i] = (char)('a' + rnd(26));
		was[2 * i + 1] = now[2 * i + 1] = '\n';
	}
	struct fvm_textdiff d;
	assert_int_equal(fvm_textdiff_make(was, LINES * 2, now, LINES * 2, &d), 0);
	assert_unchanged_lines_are_equal(&d);
	fvm_textdiff_free(&d);
	free(was);
	free(now);
}

static void add_line(char sign, const char *line, size_t len, void *arg)
{
	struct fvm_buf *b = arg;
	fvm_buf_add(b, &sign, 1);
	fvm_buf_add(b, line, len);
	fvm_buf_puts(b, "\n");
}

static char *hunks(const char *was, const char *now)
{
	scoped_buf b = { 0 };
	struct fvm_textdiff d;
	assert_int_equal(fvm_textdiff_make(was, strlen(was), now, strlen(now), &d), 0);
	fvm_textdiff_hunks(&d, add_line, &b);
	fvm_textdiff_free(&d);
	fvm_buf_puts(&b, "");
	return fvm_buf_steal(&b);
}

static void missing_newline_is_remarked(void **state)
{
	(void)state;
	scoped_free char *text = hunks("a\nb", "a\nb\n");
	assert_string_equal(text, "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n");
	scoped_free char *both = hunks("a\nb", "c\nb");
	assert_string_equal(both, "@@ -1,2 +1,2 @@\n-a\n+c\n b\n\\ No newline at end of file\n");
}

static void empty_side_is_line_zero(void **state)
{
	(void)state;
	scoped_free char *text = hunks("", "a\n");
	assert_string_equal(text, "@@ -0,0 +1,1 @@\n+a\n");
	scoped_free char *gone = hunks("a\n", "");
	assert_string_equal(gone, "@@ -1,1 +0,0 @@\n-a\n");
	scoped_free char *none = hunks("a\n", "a\n");
	assert_string_equal(none, "");
}

static void near_changes_share_a_hunk(void **state)
{
	(void)state;
	scoped_free char *text = hunks("1\n2\n3\n4\n5\n6\n7\n8\n", "x\n2\n3\n4\n5\n6\n7\ny\n");
	assert_string_equal(text, "@@ -1,8 +1,8 @@\n-1\n+x\n 2\n 3\n 4\n 5\n 6\n 7\n-8\n+y\n");
	scoped_free char *apart =
		hunks("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "x\n2\n3\n4\n5\n6\n7\n8\ny\n");
	assert_string_equal(apart, "@@ -1,4 +1,4 @@\n-1\n+x\n 2\n 3\n 4\n"
				   "@@ -6,4 +6,4 @@\n 6\n 7\n 8\n-9\n+y\n");
}

/* patch(1) must make the new text out of the old one. */
static void patch_takes_the_hunks(void **state)
{
	const struct box *box = *state;
	char was[400], now[400], command[200];
	if (system("patch --version >/dev/null 2>&1") != 0)
		skip();
	for (unsigned int i = 1; i <= 100; i++) {
		seed = i * 77;
		was[random_text(was, 60, 12)] = '\0';
		now[random_text(now, 60, 12)] = '\0';
		scoped_free char *text = hunks(was, now);
		scoped_buf whole = { 0 };
		fvm_buf_printf(&whole, "--- a/f\n+++ b/f\n%s", text);
		box_write(box, "f", was);
		box_write(box, "p", whole.data);
		snprintf(command, sizeof(command), "cd %s && patch -s -p1 <p >/dev/null",
			 box->path);
		if (text[0] && now[0]) /* an emptied file is removed by patch */
			assert_int_equal(system(command), 0);
		else
			continue;
		scoped_free char *result = NULL;
		assert_int_equal(fvm_read_file(box->dir, "f", 1000, &result, NULL), 0);
		assert_string_equal(result, now);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(difference_of_small_texts_is_the_shortest),
		cmocka_unit_test(large_texts_without_likeness_end_soon),
		cmocka_unit_test(missing_newline_is_remarked),
		cmocka_unit_test(empty_side_is_line_zero),
		cmocka_unit_test(near_changes_share_a_hunk),
		cmocka_unit_test_setup_teardown(patch_takes_the_hunks, box_setup, box_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
