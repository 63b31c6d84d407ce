#include <errno.h>

#include "common/quote.h"
#include "fvm/notes.h"
#include "tests/box.h"

static void quoting_is_undone(void **state)
{
	static const char *const names[] = { "/plain",	      "/with blank",
					     "/new\nline",    "/tab\there",
					     "/\"quoted\"",   "/back\\slash",
					     "/\x01\x7f\xff", "" };
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(names); i++) {
		scoped_buf quoted = { 0 };
		fvm_quote(&quoted, names[i]);
		if (!quoted.data)
			fvm_buf_puts(&quoted, "");
		assert_int_equal(fvm_unquote(quoted.data), 0);
		assert_string_equal(quoted.data, names[i]);
	}
}

static void broken_quotes_are_refused(void **state)
{
	static const char *const bad[] = { "\"",     "\"a",	  "\"a\\",    "\"\\9\"",
					   "\"\\00", "\"\\400\"", "\"\\000\"" };
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(bad); i++) {
		char text[16];
		strcpy(text, bad[i]);
		assert_int_equal(fvm_unquote(text), -EBADMSG);
	}
}

static void notes_are_counted_and_read_again(void **state)
{
	const struct box *box = *state;
	scoped_fd fd = openat(box->dir, "trace", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	struct fvm_notes *n = fvm_notes_new(fd);
	for (int i = 0; i < 3; i++)
		assert_int_equal(fvm_notes_add(n, FVM_TRACE_WRITE, 7, "cp a\tb", "/x\ny"), 0);
	assert_int_equal(fvm_notes_add(n, FVM_TRACE_OPEN, 8, "cat", "/x\ny"), 0);
	assert_int_equal(fvm_notes_flush(n), 0);
	assert_int_equal(fvm_notes_flush(n), 0); /* nothing twice */
	fvm_notes_free(n);

	scoped_free char *text = NULL;
	assert_int_equal(fvm_read_file(box->dir, "trace", 4096, &text, NULL), 0);
	char *second = strchr(text, '\n');
	*second++ = '\0';
	struct fvm_trace_note note;
	assert_int_equal(fvm_trace_parse(text, &note), 0);
	assert_int_equal(note.count, 3);
	assert_int_equal(note.op, FVM_TRACE_WRITE);
	assert_string_equal(note.command, "cp a\tb");
	assert_string_equal(note.path, "/x\ny");
	assert_int_equal(fvm_trace_parse(second, &note), 0);
	assert_int_equal(note.pid, 8);
}

static void garbage_lines_are_refused(void **state)
{
	static const char *const bad[] = { "",
					   "1",
					   "1\t2\t3\t4\topen",
					   "1\t2\t3\t4\tfly\ta\tb",
					   "-1\t2\t3\t4\topen\ta\tb",
					   "1\t2\t3\t4\topen\t\"\tb" };
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(bad); i++) {
		char text[64];
		struct fvm_trace_note note;
		strcpy(text, bad[i]);
		assert_int_equal(fvm_trace_parse(text, &note), -EBADMSG);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(quoting_is_undone),
		cmocka_unit_test(broken_quotes_are_refused),
		cmocka_unit_test_setup_teardown(notes_are_counted_and_read_again, box_setup,
						box_teardown),
		cmocka_unit_test(garbage_lines_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
