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

static void anything_else_is_refused(void **state)
{
	static const char *const bad[] = {
		"",	 "0",	    "-1",   "+1", " 1",	   "1s",     "1.5",
		"86401", "restart", ":log", "1:", "1:Log", "1:log,", "99999999999999999999"
	};
	struct fvm_watchdog w = { .seconds = 3 };
	struct fvm_error err = { 0 };
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(bad); i++)
		assert_int_equal(fvm_watchdog_parse(bad[i], &w, NULL), -EINVAL);
	assert_int_equal(fvm_watchdog_parse("1:restore", &w, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "no checkpoint is taken"));
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
	const struct fvm_watchdog_record r = { .what = { 86400, FVM_WATCHDOG_RESTART },
					       .event = FVM_WATCHDOG_SILENT,
					       .at_ns = INT64_MAX,
					       .restarts = 4294967295u,
					       .notifies = true };
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
}

static void a_damaged_record_is_refused(void **state)
{
	static const char *const bad[] = { "",
					   "5",
					   "5 log none 0 0",
					   "5 fly none 0 0 0",
					   "5 log fine 0 0 0",
					   "5 log none -1 0 0",
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
		cmocka_unit_test(anything_else_is_refused),
		cmocka_unit_test(the_programs_environment_names_this_watchdog_alone),
		cmocka_unit_test(a_message_is_read_by_its_lines),
		cmocka_unit_test(a_threads_state_and_switches_are_found),
		cmocka_unit_test(a_record_is_read_as_it_was_written),
		cmocka_unit_test(a_damaged_record_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
