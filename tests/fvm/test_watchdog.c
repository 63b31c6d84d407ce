#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "fvm/watchdog.h"
#include "tests/box.h"

static void seconds_and_action_are_understood(void **state)
{
	struct fvm_watchdog w = { 0 };
	(void)state;
	assert_int_equal(fvm_watchdog_parse("5", &w, NULL), 0);
	assert_int_equal(w.seconds, 5);
	assert_int_equal(w.action, FVM_WATCHDOG_LOG);
	assert_int_equal(fvm_watchdog_parse("86400:restart", &w, NULL), 0);
	assert_int_equal(w.seconds, 86400);
	assert_int_equal(w.action, FVM_WATCHDOG_RESTART);
	assert_int_equal(fvm_watchdog_parse("1:log", &w, NULL), 0);
	assert_int_equal(w.action, FVM_WATCHDOG_LOG);
}

static void a_restore_says_how_often_there_is_a_snapshot(void **state)
{
	static const struct {
		const char *text;
		unsigned int each_s;
	} good[] = { { "5:restore", FVM_WATCHDOG_EACH_S }, { "40:restore", 80 },
		     { "86400:restore", 172800 },	   { "5:restore:10", 10 },
		     { "5:restore:172800", 172800 },	   { "5:restore:0", 0 } };
	static const char *const bad[] = { "5:restore:9",  "5:restore:",    "5:restore:x",
					   "5:restore:-1", "5:restore:10s", "5:restore:172801",
					   "5:restore ",   "5:restores" };
	struct fvm_watchdog w = { 0 };
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(good); i++) {
		assert_int_equal(fvm_watchdog_parse(good[i].text, &w, NULL), 0);
		assert_int_equal(w.action, FVM_WATCHDOG_RESTORE);
		assert_int_equal(w.each_s, good[i].each_s);
	}
	for (size_t i = 0; i < FVM_COUNT(bad); i++)
		assert_int_equal(fvm_watchdog_parse(bad[i], &w, NULL), -EINVAL);
}

static void anything_else_is_refused(void **state)
{
	static const char *const bad[] = {
		"",	  "0",	     "-1",   "+1", " 1",    "1s",     "1.5",
		"86401",  "restart", ":log", "1:", "1:Log", "1:log,", "99999999999999999999",
		"1:log:5"
	};
	struct fvm_watchdog w = { .seconds = 3 };
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(bad); i++)
		assert_int_equal(fvm_watchdog_parse(bad[i], &w, NULL), -EINVAL);
	assert_int_equal(w.seconds, 3);
}

static void the_programs_environment_names_this_watchdog_alone(void **state)
{
	static const char *const before[] = { "A=1", "NOTIFY_SOCKET=/host", "WATCHDOG_PID=1",
					      "WATCHDOG_USEC=9", "NOTIFY_SOCKETS=kept" };
	const struct fvm_watchdog w = { .seconds = 2 };
	scoped_strv env = { 0 };
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(before); i++)
		assert_int_equal(fvm_strv_add(&env, before[i]), 0);
	assert_int_equal(fvm_watchdog_env(&w, &env), 0);
	assert_int_equal(env.count, 4);
	assert_true(fvm_strv_has(&env, "A=1"));
	assert_true(fvm_strv_has(&env, "NOTIFY_SOCKETS=kept"));
	assert_true(fvm_strv_has(&env, "NOTIFY_SOCKET=" FVM_WATCHDOG_SOCKET));
	assert_true(fvm_strv_has(&env, "WATCHDOG_USEC=2000000"));
	assert_null(env.items[env.count]);
}

static void a_message_is_read_by_its_lines(void **state)
{
	(void)state;
	assert_int_equal(fvm_watchdog_word("READY=1\nWATCHDOG=1\n"), FVM_WATCHDOG_LIVES);
	assert_int_equal(fvm_watchdog_word("WATCHDOG=1"), FVM_WATCHDOG_LIVES);
	assert_int_equal(fvm_watchdog_word("WATCHDOG=1\nWATCHDOG=trigger"), FVM_WATCHDOG_TRIGGER);
	static const char *const other[] = {
		"",	      "WATCHDOG=10", "XWATCHDOG=1",	 "WATCHDOG=1 ",
		"watchdog=1", "\n\n\n",	     "STATUS=WATCHDOG=1"
	};
	for (size_t i = 0; i < FVM_COUNT(other); i++)
		assert_int_equal(fvm_watchdog_word(other[i]), FVM_WATCHDOG_OTHER);
}

static void a_threads_state_and_switches_are_found(void **state)
{
	uint64_t switches = 1;
	(void)state;
	assert_int_equal(fvm_watchdog_thread("Name:\tState:\tD\\nx\nState:\tS (sleeping)\n"
					     "voluntary_ctxt_switches:\t40\n"
					     "nonvoluntary_ctxt_switches:\t2\n",
					     &switches),
			 'S');
	assert_int_equal(switches, 42);
	assert_int_equal(fvm_watchdog_thread("Name:\tx\n", &switches), 0);
	assert_int_equal(switches, 0);
	assert_int_equal(fvm_watchdog_thread("x\nState:\t", &switches), 0);
}

static void a_record_is_read_as_it_was_written(void **state)
{
	const struct fvm_watchdog_record r = { .what = { 86400, FVM_WATCHDOG_RESTORE, 172800 },
					       .event = FVM_WATCHDOG_SILENT,
					       .at_ns = INT64_MAX,
					       .restarts = 4294967295u,
					       .restores = 4294967294u,
					       .notifies = true,
					       .wanted = true,
					       .recent = 4294967293u,
					       .since_ns = INT64_MAX };
	char text[FVM_WATCHDOG_RECORD_SZ + 1] = { 0 };
	struct fvm_watchdog_record back = { 0 };
	(void)state;
	fvm_watchdog_print(&r, text);
	assert_int_equal(strlen(text), FVM_WATCHDOG_RECORD_SZ);
	assert_int_equal(fvm_watchdog_scan(text, &back), 0);
	assert_int_equal(back.what.seconds, r.what.seconds);
	assert_int_equal(back.what.action, r.what.action);
	assert_int_equal(back.event, r.event);
	assert_true(back.at_ns == r.at_ns);
	assert_int_equal(back.restarts, r.restarts);
	assert_true(back.notifies);
	assert_int_equal(back.what.each_s, r.what.each_s);
	assert_int_equal(back.restores, r.restores);
	assert_true(back.wanted);
	assert_int_equal(back.recent, r.recent);
	assert_true(back.since_ns == r.since_ns);
}

static void a_record_of_before_there_was_restore_is_read(void **state)
{
	struct fvm_watchdog_record r = { .restores = 1, .wanted = true };
	(void)state;
	assert_int_equal(fvm_watchdog_scan("5 restart crashed 17 3 1   \n", &r), 0);
	assert_int_equal(r.restarts, 3);
	assert_int_equal(r.restores, 0);
	assert_false(r.wanted);
}

/* Snapshots of seconds 10, 20, 30 ..; odd ones without programs. Watched for 2 s. */
static int chosen(size_t count, int64_t since_s, int64_t at_s, unsigned int recent)
{
	static char programs[] = "x";
	struct fvm_snapshot all[8] = { 0 };
	const struct fvm_config config = { .snapshots = all, .snapshot_count = count };
	const struct fvm_watchdog_record r = { .what = { 2, FVM_WATCHDOG_RESTORE, 4 },
					       .at_ns = at_s * 1000000000,
					       .recent = recent };
	for (size_t i = 0; i < count; i++) {
		all[i].created_ns = (int64_t)(i + 1) * 10000000000;
		all[i].programs = i % 2 ? NULL : programs;
	}
	return fvm_watchdog_choose(&config, since_s * 1000000000, &r);
}

static void the_newest_snapshot_of_when_all_was_well_is_chosen(void **state)
{
	(void)state;
	assert_int_equal(chosen(0, 0, 100, 0), -ENOENT);
	assert_int_equal(chosen(7, 0, 100, 0), 6);
	assert_int_equal(chosen(6, 0, 100, 0), 4);
	assert_int_equal(chosen(7, 0, 74, 0), 6); /* it may have been hanging from 70 s on .. */
	assert_int_equal(chosen(7, 0, 73, 0), 4);
	assert_int_equal(chosen(1, 0, 11, 0), 0); /* .. but there is no other */
	assert_int_equal(chosen(7, 31, 100, 0), 6);
	assert_int_equal(chosen(7, 71, 100, 0), -ENOENT); /* another program's */
}

static void each_further_restore_goes_one_further_back(void **state)
{
	(void)state;
	assert_int_equal(chosen(7, 0, 100, 1), 4);
	assert_int_equal(chosen(7, 0, 100, 2), 2);
	assert_int_equal(chosen(7, 0, 73, 1), 2);
	assert_int_equal(chosen(7, 0, 100, 9), 0);
	assert_int_equal(chosen(7, 25, 100, 9), 2);
}

static void restores_in_a_time_are_limited(void **state)
{
	const int64_t span_ns = FVM_WATCHDOG_SPAN_S * 1000000000LL;
	struct fvm_watchdog_record r = { .recent = FVM_WATCHDOG_RESTORES - 1, .since_ns = 7 };
	(void)state;
	assert_false(fvm_watchdog_worn_out(&r, 8));
	r.recent++;
	assert_true(fvm_watchdog_worn_out(&r, 8));
	assert_true(fvm_watchdog_worn_out(&r, span_ns + 6));
	assert_false(fvm_watchdog_worn_out(&r, span_ns + 7));
}

static void a_damaged_record_is_refused(void **state)
{
	static const char *const bad[] = { "",
					   "5",
					   "5 log none 0 0",
					   "5 fly none 0 0 0",
					   "5 log fine 0 0 0",
					   "5 log none -1 0 0",
					   "5 log none 0 0 0 0",
					   "5 log none 0 0 0 0 2 0 0 0",
					   "5 log none 0 0 0 0 0 0 0 -1",
					   "5 log none 0 0 2" };
	struct fvm_watchdog_record r;
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(bad); i++)
		assert_int_equal(fvm_watchdog_scan(bad[i], &r), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(seconds_and_action_are_understood),
		cmocka_unit_test(a_restore_says_how_often_there_is_a_snapshot),
		cmocka_unit_test(anything_else_is_refused),
		cmocka_unit_test(the_programs_environment_names_this_watchdog_alone),
		cmocka_unit_test(a_message_is_read_by_its_lines),
		cmocka_unit_test(a_threads_state_and_switches_are_found),
		cmocka_unit_test(a_record_is_read_as_it_was_written),
		cmocka_unit_test(a_record_of_before_there_was_restore_is_read),
		cmocka_unit_test(the_newest_snapshot_of_when_all_was_well_is_chosen),
		cmocka_unit_test(each_further_restore_goes_one_further_back),
		cmocka_unit_test(restores_in_a_time_are_limited),
		cmocka_unit_test(a_damaged_record_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
