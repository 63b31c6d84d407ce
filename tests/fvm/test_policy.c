/* src/fvm/policy*.c: the text, and what holds when several policies apply. */
#include <errno.h>
#include <sys/stat.h>

#include "fvm/policy.h"
#include "tests/box.h"

static int parse(const char *text, struct fvm_policy *ret, struct fvm_error *err)
{
	return fvm_policy_parse(text, strlen(text), ret, err);
}

static void assert_error(const char *text, const char *said)
{
	scoped_policy p = { 0 };
	struct fvm_error err = { 0 };
	assert_true(parse(text, &p, &err) < 0);
	if (!strstr(err.text, said))
		fail_msg("'%s' does not say '%s'", err.text, said);
}

static void every_key_is_read(void **state)
{
	scoped_policy p = { 0 };
	struct fvm_error err = { 0 };
	(void)state;
	int r = parse("# comment\n; another\r\n\n[policy]\nsummary = for a test\n"
		      "[match]\nprogram = firefox*\nprogram=/usr/bin/x\n"
		      "[vm]\n net = none \nprivate-networks = yes\nsecrets = no\nio-uring = on\n"
		      "i386-sockets = true\nmemory = 1.5G\ndisk = 10M\ncpus = 1.5\npids = 12\n"
		      "hide = ~/a b\nhide = /c\nshow = ~/.aws\ndirect = /d/\nread-only = /e\n"
		      "bind = -/f:/g:ro\nnative = ~/h:empty\ndevice = /dev/kvm\nenv = A=b = c",
		      &p, &err);
	if (r < 0)
		fail_msg("%s", err.text);
	assert_string_equal(p.summary, "for a test");
	assert_int_equal(p.programs.count, 2);
	assert_int_equal(p.vm.net, FVM_NET_NONE);
	assert_true(p.vm.private_networks && p.vm.io_uring && p.vm.i386_sockets);
	assert_false(p.vm.secrets);
	assert_int_equal(p.vm.memory_bytes, 3ULL << 29);
	assert_int_equal(p.vm.cpu_percent, 150);
	assert_int_equal(p.vm.pids, 12);
	assert_string_equal(p.vm.hide.items[0], "~/a b");
	assert_string_equal(p.vm.env.items[0], "A=b = c");
	assert_string_equal(p.vm.binds.items[0], "-/f:/g:ro");
	assert_string_equal(p.vm.native.items[0], "~/h:empty");
}

static void errors_name_line_and_reason(void **state)
{
	(void)state;
	assert_error("[vm]\n\nnte = nat\n", "line 3: there is no key 'nte'");
	assert_error("net = nat\n", "line 1: 'net' stands before any");
	assert_error("[vms]\n", "line 1: '[vms]' is none of");
	assert_error("[vm]\nnet = wlan\n", "line 2: 'wlan' is none of");
	assert_error("[vm]\nnative = /proc/x\n", "line 2: '/proc/x'");
	assert_error("[vm]\nnet\n", "line 2: 'net' is not of the form");
	assert_error("[vm]\nnet =\n", "line 2: a value is missing");
	assert_error("[vm]\n= nat\n", "line 2: a key is missing");
	assert_error("[vm]\nnet = nat\nnet = none\n", "line 3: 'net' stands there twice");
	assert_error("[vm]\n[vm]\n", "line 2: [vm] stands there twice");
	assert_error("[vm]\nsecrets = perhaps\n", "neither yes nor no");
	assert_error("[vm]\nmemory = much\n", "not a size");
	assert_error("[vm]\nmemory = 0\n", "not a size");
	assert_error("[vm]\ncpus = nan\n", "not a number");
	assert_error("[vm]\ncpus = 0x10\n", "not a number");
	assert_error("[vm]\npids = 1.5\n", "not a whole number");
	assert_error("[vm]\npids = --1\n", "not a number");
	assert_error("[vm]\ndisk = -1G\n", "not a size");
	assert_error("[vm]\nhide = secrets\n", "neither / nor ~/");
	assert_error("[vm]\nhide = ~/../x\n", "'..'");
	assert_error("[vm]\nbind = /a:/b:/c\n", "S[:D][:ro]");
	assert_error("[vm]\nenv = A\n", "NAME=VALUE");
	assert_error("[vm]\nenv = A B=c\n", "NAME=VALUE");
	assert_error("[match]\nnet = nat\n", "no key 'net' in this section");
	assert_error("[vm]\nhide = /a\vb\n", "control character");
	scoped_policy p = { 0 };
	struct fvm_error err = { 0 };
	assert_true(fvm_policy_parse("[vm]\0", 5, &p, &err) < 0);
}

/* ---- what applies ---- */

static void write_policy(const struct box *box, const char *dir, const char *name, const char *text)
{
	char path[128];
	assert_int_equal(fvm_mkdir_p(box->dir, dir, 0755), 0);
	snprintf(path, sizeof(path), "%s/%s.policy", dir, name);
	box_write(box, path, text);
}

static void use_box(const struct box *box)
{
	char path[128];
	setenv("HOME", box->path, 1);
	unsetenv("XDG_CONFIG_HOME");
	snprintf(path, sizeof(path), "%s/shipped", box->path);
	setenv("FVM_POLICY_PATH", path, 1);
}

#define USER "/.config/fvm/policy.d"

static void apply(const struct fvm_config *c, const char *program, struct fvm_config *ret,
		  struct fvm_strv *used)
{
	struct fvm_error err = { 0 };
	if (fvm_policy_apply(c, program, ret, used, &err) < 0)
		fail_msg("%s", err.text);
}

static void config_named(struct fvm_config *c, const char *policy)
{
	strcpy(c->name, "x");
	strcpy(c->id, "0123456789abcdef0123456789abcdef");
	if (policy)
		assert_int_equal(fvm_strv_add(&c->policies, policy), 0);
}

static void command_line_is_stronger_than_a_policy(void **state)
{
	const struct box *box = *state;
	scoped_config c = { 0 }, got = { 0 };
	use_box(box);
	write_policy(box, "shipped", "tight",
		     "[vm]\nnet = none\nmemory = 1G\npids = 5\nsecrets = no\n");
	config_named(&c, "tight");
	c.net_given = true; /* --net nat */
	c.memory_bytes = 7;
	c.secrets = true;
	apply(&c, NULL, &got, NULL);
	assert_int_equal(got.net, FVM_NET_NAT);
	assert_int_equal(got.memory_bytes, 7);
	assert_int_equal(got.pids, 5);
	assert_true(got.secrets);
	assert_false(got.no_secrets);
}

static void named_is_stronger_than_the_users_and_that_than_the_shipped(void **state)
{
	const struct box *box = *state;
	scoped_config c = { 0 }, got = { 0 };
	scoped_strv used = { 0 };
	use_box(box);
	write_policy(box, "shipped", "named", "[vm]\nnet = none\nhide = /n\n");
	write_policy(box, &USER[1], "mine",
		     "[match]\nprogram = prog\n[vm]\nnet = host\npids = 7\nhide = /m\n");
	write_policy(box, "shipped", "theirs",
		     "[match]\nprogram = p*\n[vm]\npids = 9\ncpus = 3\nhide = /t\n");
	write_policy(box, "shipped", "other", "[match]\nprogram = q*\n[vm]\ndisk = 1G\n");
	config_named(&c, "named");
	apply(&c, "/some/where/prog", &got, &used);
	assert_int_equal(got.net, FVM_NET_NONE);
	assert_int_equal(got.pids, 7);
	assert_int_equal(got.cpu_percent, 300);
	assert_int_equal(got.disk_bytes, 0);
	assert_int_equal(got.hide.count, 3);
	assert_int_equal(used.count, 3);
	assert_string_equal(used.items[0], "named");
	assert_string_equal(used.items[1], "mine");
	assert_string_equal(used.items[2], "theirs");
}

static void last_named_is_the_strongest(void **state)
{
	const struct box *box = *state;
	scoped_config c = { 0 }, got = { 0 };
	use_box(box);
	write_policy(box, "shipped", "one", "[vm]\npids = 1\ncpus = 1\n");
	write_policy(box, "shipped", "two", "[vm]\npids = 2\n");
	config_named(&c, "one");
	assert_int_equal(fvm_strv_add(&c.policies, "two"), 0);
	apply(&c, NULL, &got, NULL);
	assert_int_equal(got.pids, 2);
	assert_int_equal(got.cpu_percent, 100);
}

static void users_file_hides_the_shipped_one_of_its_name(void **state)
{
	const struct box *box = *state;
	scoped_config c = { 0 }, got = { 0 };
	use_box(box);
	write_policy(box, &USER[1], "same", "[match]\nprogram = p\n[vm]\npids = 3\n");
	write_policy(box, "shipped", "same", "[match]\nprogram = p\n[vm]\npids = 4\ncpus = 4\n");
	config_named(&c, NULL);
	apply(&c, "p", &got, NULL);
	assert_int_equal(got.pids, 3);
	assert_int_equal(got.cpu_percent, 0);
}

static void unknown_name_says_which_there_are(void **state)
{
	const struct box *box = *state;
	scoped_policy p = { 0 };
	struct fvm_error err = { 0 };
	use_box(box);
	write_policy(box, "shipped", "here", "[vm]\n");
	assert_int_equal(fvm_policy_load("gone", &p, &err), -ENOENT);
	assert_non_null(strstr(err.hint, "here"));
}

static void broken_policy_that_might_match_stops_the_start(void **state)
{
	const struct box *box = *state;
	scoped_config c = { 0 }, got = { 0 };
	struct fvm_error err = { 0 };
	use_box(box);
	write_policy(box, "shipped", "broken", "[vm]\nnte = none\n");
	config_named(&c, NULL);
	assert_true(fvm_policy_apply(&c, "prog", &got, NULL, &err) < 0);
	assert_non_null(strstr(err.text, "broken.policy"));
}

static void file_that_all_may_write_is_not_trusted(void **state)
{
	const struct box *box = *state;
	scoped_policy p = { 0 };
	use_box(box);
	write_policy(box, "shipped", "open", "[vm]\n");
	assert_int_equal(fchmodat(box->dir, "shipped/open.policy", 0666, 0), 0);
	assert_int_equal(fvm_policy_load("open", &p, NULL), -EPERM);
}

static void tilde_and_dash_are_expanded(void **state)
{
	const struct box *box = *state;
	scoped_config c = { 0 }, got = { 0 };
	char path[128];
	use_box(box);
	box_write(box, "there", "");
	write_policy(box, "shipped", "p",
		     "[vm]\nhide = ~/x\ndirect = ~/there\ndirect = -~/gone\n"
		     "bind = -/nonexistent:/d\ndevice = -/dev/null\n");
	config_named(&c, "p");
	apply(&c, NULL, &got, NULL);
	snprintf(path, sizeof(path), "%s/x", box->path);
	assert_true(fvm_strv_has(&got.hide, path));
	assert_true(fvm_strv_has(&got.hide, "/root/x"));
	assert_int_equal(got.direct.count, 1);
	assert_int_equal(got.binds.count, 0);
	assert_string_equal(got.devices.items[0], "/dev/null");
}

static void soft_limit_is_hard_once_the_command_line_has_one(void **state)
{
	const struct box *box = *state;
	scoped_config c = { 0 }, soft = { 0 }, hard = { 0 };
	use_box(box);
	write_policy(box, "shipped", "p", "[vm]\nmemory = -1G\ncpus = -2\npids = -9\n");
	config_named(&c, "p");
	apply(&c, NULL, &soft, NULL);
	assert_true(soft.soft_limits);
	assert_int_equal(soft.memory_bytes, 1 << 30);
	assert_int_equal(soft.cpu_percent, 200);
	assert_int_equal(soft.pids, 9);
	c.pids = 5;
	apply(&c, NULL, &hard, NULL);
	assert_false(hard.soft_limits);
}

static void pattern_with_a_slash_is_for_the_whole_path(void **state)
{
	struct fvm_policy p = { 0 };
	char pattern[] = "/*/sh", *items[] = { pattern, NULL };
	(void)state;
	p.programs = (struct fvm_strv){ items, 1 };
	setenv("PATH", "/usr/bin:/bin", 1);
	assert_false(fvm_policy_matches(&p, "no-such-program"));
	strcpy(pattern, "sh");
	assert_true(fvm_policy_matches(&p, "/bin/sh"));
	assert_false(fvm_policy_matches(&p, "bash"));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, box_setup, box_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(every_key_is_read),
		TEST(errors_name_line_and_reason),
		TEST(command_line_is_stronger_than_a_policy),
		TEST(named_is_stronger_than_the_users_and_that_than_the_shipped),
		TEST(last_named_is_the_strongest),
		TEST(users_file_hides_the_shipped_one_of_its_name),
		TEST(unknown_name_says_which_there_are),
		TEST(broken_policy_that_might_match_stops_the_start),
		TEST(file_that_all_may_write_is_not_trusted),
		TEST(tilde_and_dash_are_expanded),
		TEST(soft_limit_is_hard_once_the_command_line_has_one),
		TEST(pattern_with_a_slash_is_for_the_whole_path),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
