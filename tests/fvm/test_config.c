#include <errno.h>

#include "fvm/config.h"
#include "tests/box.h"

#define PROGRAMS "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define ID	 "0123456789abcdef0123456789abcdef"

static int parse(const char *json, struct fvm_error *err)
{
	scoped_config c = { 0 };
	return fvm_config_parse(json, strlen(json), &c, err);
}

static void what_is_written_is_read_again(void **state)
{
	scoped_config a = { .name = "web",
			    .id = ID,
			    .created_ns = 5,
			    .memory_bytes = 1ULL << 40,
			    .cpu_percent = 150,
			    .net = FVM_NET_NONE,
			    .secrets = true };
	scoped_config b = { 0 };
	(void)state;
	assert_int_equal(fvm_strv_add(&a.binds, "/srv:/data:ro"), 0);
	assert_int_equal(fvm_strv_add(&a.layers, "l1"), 0);
	assert_int_equal(fvm_config_add_snapshot(&a, "t", 7, &a.layers), 0);
	assert_int_equal(fvm_config_set_programs(&a, 0, PROGRAMS), 0);
	assert_int_equal(fvm_strv_add(&a.before, "l0"), 0);
	assert_int_equal(fvm_config_copy(&b, &a), 0);
	scoped_free char *one = fvm_config_print(&a), *two = fvm_config_print(&b);
	assert_string_equal(one, two);
	assert_int_equal(b.memory_bytes, 1ULL << 40);
	assert_int_equal(b.net, FVM_NET_NONE);
	assert_string_equal(b.snapshots[0].layers.items[0], "l1");
	assert_string_equal(b.snapshots[0].programs, PROGRAMS);
	assert_string_equal(b.before.items[0], "l0");
}

static void unknown_key_is_named(void **state)
{
	struct fvm_error err = { 0 };
	(void)state;
	assert_int_equal(parse("{\"format\":1,\"name\":\"a\",\"id\":\"" ID "\",\"colour\":1}",
			       &err),
			 -EBADMSG);
	assert_non_null(strstr(err.text, "colour"));
}

static void newer_format_is_refused(void **state)
{
	struct fvm_error err = { 0 };
	(void)state;
	assert_int_equal(parse("{\"format\":99,\"name\":\"a\",\"id\":\"" ID "\"}", &err),
			 -EPROTONOSUPPORT);
}

static void garbage_is_refused(void **state)
{
	static const char *const bad[] = {
		"",
		"[]",
		"{",
		"{\"format\":1}",
		"{\"format\":1,\"name\":\"../x\",\"id\":\"" ID "\"}",
		"{\"format\":1,\"name\":\"a\",\"id\":\"short\"}",
		"{\"format\":1,\"name\":\"a\",\"id\":\"" ID "\",\"pids\":-1}",
		"{\"format\":1,\"name\":\"a\",\"id\":\"" ID "\",\"pids\":4294967296}",
		"{\"format\":1,\"name\":\"a\",\"id\":\"" ID "\",\"net\":\"x\"}",
		"{\"format\":1,\"name\":\"a\",\"id\":\"" ID "\",\"binds\":[1]}",
		"{\"format\":1,\"name\":\"a\",\"id\":\"" ID "\",\"snapshots\":[{}]}",
		"{\"format\":1,\"name\":\"a\",\"id\":\"" ID "\",\"snapshots\":[{\"tag\":\"t\","
		"\"created_ns\":1,\"layers\":[],\"programs\":\"../../one\"}]}",
		"{\"format\":1,\"name\":\"a\",\"id\":\"" ID "\",\"snapshots\":[{\"tag\":\"t\","
		"\"created_ns\":1,\"layers\":[],\"programs\":\"" PROGRAMS "0\"}]}",
		"{\"format\":1,\"name\":\"a\",\"name\":\"b\",\"id\":\"" ID "\"}",
	};
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(bad); i++)
		assert_true(parse(bad[i], NULL) < 0);
}

static void names_that_are_paths_are_refused(void **state)
{
	static const char *const bad[] = {
		"", "..", ".hidden", "a/b", "-x", "a b", "a\nb", "\xff"
	};
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(bad); i++)
		assert_int_equal(fvm_name_check(bad[i], NULL), -EINVAL);
	assert_int_equal(fvm_name_check("a.b_c-9", NULL), 0);
	char longest[FVM_NAME_MAX + 2];
	memset(longest, 'a', sizeof(longest));
	longest[FVM_NAME_MAX + 1] = '\0';
	assert_int_equal(fvm_name_check(longest, NULL), -EINVAL);
	longest[FVM_NAME_MAX] = '\0';
	assert_int_equal(fvm_name_check(longest, NULL), 0);
}

static void sizes_have_binary_units(void **state)
{
	uint64_t n = 0;
	(void)state;
	assert_int_equal(fvm_size_parse("1.5G", &n), 0);
	assert_int_equal(n, 3ULL << 29);
	assert_int_equal(fvm_size_parse("512MiB", &n), 0);
	assert_int_equal(n, 512ULL << 20);
	assert_int_equal(fvm_size_parse("7", &n), 0);
	assert_int_equal(n, 7);
	assert_int_equal(fvm_size_parse("-1", &n), -EINVAL);
	assert_int_equal(fvm_size_parse("1X", &n), -EINVAL);
	assert_int_equal(fvm_size_parse("", &n), -EINVAL);
	assert_int_equal(fvm_size_parse("99999999T", &n), -ERANGE);
}

static void path_that_is_not_utf8_is_refused_when_written(void **state)
{
	const struct box *box = *state;
	struct fvm_error err = { 0 };
	scoped_config c = { .name = "a", .id = ID };
	assert_int_equal(fvm_strv_add(&c.hide, "/\xff"), 0);
	assert_int_equal(fvm_config_save(box->dir, &c, false, &err), -EILSEQ);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read_again),
		cmocka_unit_test(unknown_key_is_named),
		cmocka_unit_test(newer_format_is_refused),
		cmocka_unit_test(garbage_is_refused),
		cmocka_unit_test(names_that_are_paths_are_refused),
		cmocka_unit_test(sizes_have_binary_units),
		cmocka_unit_test_setup_teardown(path_that_is_not_utf8_is_refused_when_written,
						box_setup, box_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
