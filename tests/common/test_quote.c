#include <errno.h>

#include "tests/box.h"

static void assert_quoted(const char *name, const char *expected)
{
	scoped_buf b = { 0 };
	fvm_quote(&b, name);
	assert_string_equal(b.data, expected);
}

static void plain_names_stay_as_they_are(void **state)
{
	(void)state;
	assert_quoted("/usr/bin/x y", "/usr/bin/x y");
	assert_quoted("/h\xc3\xa9\xe6\x97\xa5\xf0\x9f\x90\xa7",
		      "/h\xc3\xa9\xe6\x97\xa5\xf0\x9f\x90\xa7");
}

static void names_that_forge_lines_are_quoted(void **state)
{
	(void)state;
	assert_quoted("a\nD /etc", "\"a\\nD /etc\"");
	assert_quoted("\033[2J\177", "\"\\033[2J\\177\"");
	assert_quoted("a\"b\\c", "\"a\\\"b\\\\c\"");
}

static void bytes_that_are_no_utf8_are_octal(void **state)
{
	(void)state;
	assert_quoted("\xff\xfe", "\"\\377\\376\"");
	assert_quoted("\xc0\xaf", "\"\\300\\257\"");		    /* overlong slash */
	assert_quoted("\xed\xa0\x80", "\"\\355\\240\\200\"");	    /* surrogate */
	assert_quoted("a\xe2\x80", "\"a\\342\\200\"");		    /* cut short */
	assert_quoted("\xc2\x9b", "\"\\302\\233\"");		    /* C1 control */
	assert_quoted("\xe2\x80\xaetxt", "\"\\342\\200\\256txt\""); /* right-to-left override */
}

static void errors_keep_both_ends_of_a_long_name(void **state)
{
	char name[5000], buf[200];
	(void)state;
	memset(name, 'x', sizeof(name));
	name[0] = 'b';
	strcpy(name + sizeof(name) - 4, "end");
	fvm_quote_error(name, buf);
	assert_int_equal(buf[0], 'b');
	assert_non_null(strstr(buf, "end"));
}

static void a_path_is_one_word_in_a_file(void **state)
{
	static const char path[] = "/a b\t\n%\\\177\xc3\xa9";
	scoped_buf percent = { 0 }, octal = { 0 };
	(void)state;
	fvm_percent(&percent, path);
	assert_string_equal(percent.data, "/a%20b%09%0A%25\\%7F\xc3\xa9");
	assert_int_equal(fvm_unpercent(percent.data), 0);
	assert_string_equal(percent.data, path);
	fvm_octal(&octal, path);
	assert_string_equal(octal.data, "/a\\040b\\011\\012%\\134\\177\xc3\xa9");
	fvm_unoctal(octal.data);
	assert_string_equal(octal.data, path);
}

static void escapes_that_are_none_are_refused_or_stay(void **state)
{
	static const char *const bad[] = { "%", "/%", "/%4", "/%4g", "/% 4", "/%+4", "/%00", "%%" };
	char stays[] = "\\ \\0 \\04 \\048 \\400 \\000 \\ 40 \\";
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(bad); i++) {
		char text[8];
		strcpy(text, bad[i]);
		assert_int_equal(fvm_unpercent(text), -EBADMSG);
	}
	scoped_free char *copy = strdup(stays);
	fvm_unoctal(stays);
	assert_string_equal(stays, copy);
}

static void a_terminal_is_driven_by_no_byte_of_a_text(void **state)
{
	static const char text[] = "a\t\"\\\033[2J\177\xc2\x9bm\xe2\x80\xae\xc3\xa9\n\xc3";
	char *printed = NULL;
	size_t len = 0;
	(void)state;
	FILE *to = open_memstream(&printed, &len);
	fvm_print_safe(to, text, sizeof(text) - 1);
	fclose(to);
	assert_string_equal(printed, "a\t\"\\^[[2J^?\\302\\233m\\342\\200\\256\xc3\xa9\n\\303");
	free(printed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_names_stay_as_they_are),
		cmocka_unit_test(names_that_forge_lines_are_quoted),
		cmocka_unit_test(bytes_that_are_no_utf8_are_octal),
		cmocka_unit_test(errors_keep_both_ends_of_a_long_name),
		cmocka_unit_test(a_path_is_one_word_in_a_file),
		cmocka_unit_test(escapes_that_are_none_are_refused_or_stay),
		cmocka_unit_test(a_terminal_is_driven_by_no_byte_of_a_text),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
