#include <errno.h>

#include "tests/box.h"

#include "fvm/init_priv.h"

static void fill(struct fvm_command *c)
{
	*c = (struct fvm_command){
		.uid = 1000,
		.gid = 100,
		.groups = { 4, 27 },
		.group_count = 2,
		.terminal = true,
		.login = true,
		.window = { 24, 80, 0, 0 },
		.fds = { -1, 5, -1 },
	};
	c->workdir = strdup("/home/x");
	assert_int_equal(fvm_strv_add(&c->argv, "sh"), 0);
	assert_int_equal(fvm_strv_add(&c->argv, ""), 0);
	assert_int_equal(fvm_strv_add(&c->env, "A=b c"), 0);
}

static void command_arrives_as_it_was_sent(void **state)
{
	(void)state;
	scoped_command c, got = { 0 };
	scoped_buf b = { 0 };
	fill(&c);
	assert_int_equal(fvm_run_pack(&c, &b), 0);
	assert_int_equal(fvm_run_parse(b.data, b.len, &got), 0);
	assert_int_equal(got.uid, 1000);
	assert_int_equal(got.group_count, 2);
	assert_int_equal(got.groups[1], 27);
	assert_true(got.terminal && got.login && !got.detached);
	assert_int_equal(got.window.ws_col, 80);
	assert_string_equal(got.workdir, "/home/x");
	assert_int_equal(got.argv.count, 2);
	assert_string_equal(got.argv.items[1], "");
	assert_null(got.argv.items[2]);
	assert_string_equal(got.env.items[0], "A=b c");
	assert_true(got.fds[0] == -1 && got.fds[1] == 0 && got.fds[2] == -1);
}

static void every_shorter_command_is_refused(void **state)
{
	(void)state;
	scoped_command c;
	scoped_buf b = { 0 };
	fill(&c);
	assert_int_equal(fvm_run_pack(&c, &b), 0);
	for (size_t len = 0; len < b.len; len++) {
		/* a copy of that size, so that a sanitizer sees a byte too far */
		scoped_free char *cut = malloc(len + !len);
		struct fvm_command got = { 0 };
		memcpy(cut, b.data, len);
		assert_int_equal(fvm_run_parse(cut, len, &got), -EBADMSG);
	}
	fvm_buf_add(&b, "", 1);
	struct fvm_command got = { 0 };
	assert_int_equal(fvm_run_parse(b.data, b.len, &got), -EBADMSG);
}

static void counts_beyond_the_message_are_refused(void **state)
{
	(void)state;
	static const size_t counts[] = { 8, 12, 16 }; /* offsets of groups, argc, envc */
	for (size_t i = 0; i < FVM_COUNT(counts); i++) {
		scoped_command c;
		scoped_buf b = { 0 };
		struct fvm_command got = { 0 };
		uint32_t many = 0x7fffffff;
		fill(&c);
		assert_int_equal(fvm_run_pack(&c, &b), 0);
		memcpy(b.data + counts[i], &many, sizeof(many));
		assert_int_equal(fvm_run_parse(b.data, b.len, &got), -EBADMSG);
	}
}

static void header_that_lies_is_refused(void **state)
{
	(void)state;
	struct fvm_msg head = { FVM_MSG_VERSION, FVM_MSG_LIST, 0 }, got;
	struct fvm_error err = { 0 };
	assert_non_null(fvm_msg_check(&head, sizeof(head), &got, &err));
	assert_null(fvm_msg_check(&head, sizeof(head) - 1, &got, &err));
	head.len = 1;
	assert_null(fvm_msg_check(&head, sizeof(head), &got, &err));
	head.len = 0;
	head.version++;
	assert_null(fvm_msg_check(&head, sizeof(head), &got, &err));
	assert_int_equal(err.code, EPROTONOSUPPORT);
}

static void log_keeps_its_newer_half(void **state)
{
	const struct box *box = *state;
	scoped_free char *piece = malloc(65536);
	scoped_fd log = openat(box->dir, "log", O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	for (unsigned int i = 0; i <= FVM_LOG_CAP / 65536; i++) {
		memset(piece, (int)('a' + i % 26), 65536);
		fvm_logfile_add(log, piece, 65536);
	}
	assert_int_equal(lseek(log, 0, SEEK_END), FVM_LOG_CAP + 65536 - FVM_LOG_CUT);
	char first, last;
	assert_int_equal(pread(log, &first, 1, 0), 1);
	assert_int_equal(pread(log, &last, 1, FVM_LOG_CAP + 65536 - FVM_LOG_CUT - 1), 1);
	assert_int_equal(first, 'a' + FVM_LOG_CUT / 65536 % 26);
	assert_int_equal(last, 'a' + FVM_LOG_CAP / 65536 % 26);
	fvm_logfile_add(log, "end", 3); /* still appends */
	assert_int_equal(lseek(log, 0, SEEK_END), FVM_LOG_CAP + 65536 - FVM_LOG_CUT + 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(command_arrives_as_it_was_sent),
		cmocka_unit_test(every_shorter_command_is_refused),
		cmocka_unit_test(counts_beyond_the_message_are_refused),
		cmocka_unit_test(header_that_lies_is_refused),
		cmocka_unit_test_setup_teardown(log_keeps_its_newer_half, box_setup, box_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
