#include "fvm/meaning.h"
#include "tests/fvm/listing.h"

static int take(const struct fvm_change *c, void *arg)
{
	return fvm_meaning_take(arg, c);
}

/* Facts of a box with one layer, one per line: "+ package hello 2.10-3", "!" behind alarming ones
 */
static char *facts_of(const struct box *box)
{
	static const char marks[] = "-+~";
	static const struct fvm_scan_options options = { .whole_trees = true };
	struct fvm_stack s;
	scoped_buf b = { 0 };
	const struct fvm_fact *facts;
	size_t count;
	struct fvm_meaning *m = fvm_meaning_new();
	box_stack(box, "/", 1, &s);
	assert_int_equal(fvm_stack_scan(&s, &options, take, m, NULL), 0);
	assert_int_equal(fvm_meaning_facts(m, &facts, &count), 0);
	fvm_buf_puts(&b, "");
	for (size_t i = 0; i < count; i++)
		fvm_buf_printf(&b, "%c %s %s %s>%s%s\n", marks[facts[i].change], facts[i].kind,
			       facts[i].name, facts[i].from ? facts[i].from : "",
			       facts[i].to ? facts[i].to : "", facts[i].alarming ? " !" : "");
	fvm_meaning_free(m);
	box_stack_close(&s);
	return fvm_buf_steal(&b);
}

#define assert_facts(box, expected)                                                                \
	do {                                                                                       \
		scoped_free char *text_ = facts_of(box);                                           \
		assert_string_equal(text_, (expected));                                            \
	} while (0)

#define PACKAGE(name, status, version)                                                             \
	"Package: " name "\nStatus: " status "\nArchitecture: all\nVersion: " version "\n"

static void packages_are_compared_by_version(void **state)
{
	box_file(*state, "base/var/lib/dpkg/status",
		 PACKAGE("same", "install ok installed", "1") "\n" PACKAGE(
			 "newer", "install ok installed",
			 "1") "\n" PACKAGE("purged", "install ok installed",
					   "3") "\n" PACKAGE("removed", "install ok installed",
							     "4"));
	box_file(*state, "l0/var/lib/dpkg/status",
		 PACKAGE("added", "install ok installed", "2-1") "\n" PACKAGE(
			 "newer", "install ok installed",
			 "1.1") "\n" PACKAGE("removed", "deinstall ok config-files",
					     "4") "\n" PACKAGE("same", "install ok installed",
							       "1"));
	assert_facts(*state, "+ package added >2-1\n~ package newer 1>1.1\n- package purged 3>\n"
			     "- package removed 4>\n");
}

static void accounts_are_told_by_name(void **state)
{
	box_file(*state, "base/etc/passwd", "root:x:0:0::/root:/bin/sh\na:x:5:5::/a:/bin/sh\n");
	box_file(*state, "l0/etc/passwd",
		 "root:x:0:0::/root:/bin/sh\na:x:5:5:Name:/a:/bin/bash\n"
		 "toor:x:0:0::/:/bin/sh\n");
	box_file(*state, "base/etc/group", "sudo:x:27:\n");
	box_file(*state, "l0/etc/group", "sudo:x:27:a\n");
	box_file(*state, "base/etc/shadow", "a:!:1::::::\nroot:$y$secret:1\n");
	box_file(*state, "l0/etc/shadow", "a::1::::::\nroot:$y$other:1\nnew:!:1\n");
	assert_facts(*state, "~ user a uid 5, /a, /bin/sh>uid 5, /a, /bin/bash\n"
			     "+ user toor >uid 0, /, /bin/sh !\n"
			     "~ group sudo gid 27>gid 27: a !\n"
			     "~ password a locked>none needed !\n"
			     "~ password root set>another\n");
}

static void units_are_told_with_what_starts_them(void **state)
{
	const struct box *box = *state;
	box_file(box, "l0/usr/lib/systemd/system/n.service", "x");
	box_mkdir(box, "l0/etc/systemd/system/multi-user.target.wants");
	assert_int_equal(symlinkat("/usr/lib/systemd/system/n.service", box->dir,
				   "l0/etc/systemd/system/multi-user.target.wants/n.service"),
			 0);
	assert_int_equal(symlinkat("/dev/null", box->dir, "l0/etc/systemd/system/m.service"), 0);
	assert_facts(box, "~ unit m.service >masked\n+ unit n.service >\n"
			  "+ enabled n.service >by multi-user.target\n");
}

static void gained_rights_alarm(void **state)
{
	const struct box *box = *state;
	static const unsigned char caps[20] = { 1, 0, 0, 2, 0, 4 << 3 };
	box_file(box, "base/usr/bin/a", "x");
	box_file(box, "l0/usr/bin/a", "x");
	box_file(box, "l0/usr/bin/b", "x");
	box_file(box, "l0/usr/bin/not-executable", "x");
	assert_int_equal(fchmodat(box->dir, "base/usr/bin/a", 0755, 0), 0);
	assert_int_equal(fchmodat(box->dir, "l0/usr/bin/a", 04755, 0), 0);
	assert_int_equal(fchmodat(box->dir, "l0/usr/bin/b", 0755, 0), 0);
	box_xattr(box, "l0/usr/bin/b", "security.capability", caps, sizeof(caps));
	assert_facts(box,
		     "+ set-id /usr/bin/a >user 0:0 !\n+ capabilities /usr/bin/b >net_raw !\n");
}

static void settings_are_told_by_key(void **state)
{
	box_file(*state, "base/etc/x.conf", "# comment\n[a]\nk = 1\nsame=2\n[b]\nk=1\n");
	box_file(*state, "l0/etc/x.conf", "[a]\nk = 2\nsame = 2\nnew=x\n");
	box_file(*state, "base/etc/prose", "this is\nno settings=file\nat all\n");
	box_file(*state, "l0/etc/prose", "this is\nno settings=file\nwhatever\n");
	box_file(*state, "l0/etc/sysctl.d/x.conf", "net.ipv4.ip_forward=1\n");
	assert_facts(*state, "+ kernel setting /etc/sysctl.d/x.conf net.ipv4.ip_forward >1\n"
			     "~ setting /etc/x.conf a.k 1>2\n"
			     "+ setting /etc/x.conf a.new >x\n"
			     "- setting /etc/x.conf b.k 1>\n");
}

static void modules_of_languages_are_packages(void **state)
{
	box_file(*state, "base/usr/lib/python3/dist-packages/six-1.15.dist-info/METADATA", "x");
	box_whiteout(*state, "l0/usr/lib/python3/dist-packages/six-1.15.dist-info");
	box_file(*state, "l0/usr/lib/python3/dist-packages/six-1.16.dist-info/METADATA", "x");
	box_file(*state, "base/usr/lib/node_modules/npm/package.json", "{\"version\": \"9.0.0\"}");
	box_file(*state, "l0/usr/lib/node_modules/npm/package.json", "{\"version\": \"9.1.00\"}");
	box_file(*state, "l0/usr/lib/node_modules/@a/b/package.json", "{\"version\": \"1.0.0\"}");
	box_file(*state, "l0/usr/lib/node_modules/npm/node_modules/x/package.json", "{}");
	assert_facts(*state, "~ python package six 1.15>1.16\n+ npm package @a/b >1.0.0\n"
			     "~ npm package npm 9.0.0>9.1.00\n");
}

static void places_tell_by_themselves(void **state)
{
	box_file(*state, "l0/etc/cron.d/job", "x");
	box_file(*state, "l0/etc/sudoers.d/me", "x");
	box_file(*state, "l0/root/.ssh/authorized_keys", "x");
	box_file(*state, "l0/etc/ld.so.preload", "x");
	assert_facts(*state, "+ sudo rule /etc/sudoers.d/me > !\n"
			     "+ SSH key /root/.ssh/authorized_keys > !\n"
			     "+ cron job /etc/cron.d/job >\n+ preloaded /etc/ld.so.preload > !\n");
}

static void torn_texts_do_no_harm(void **state)
{
	box_file(*state, "base/var/lib/dpkg/status",
		 "Package:\nVersion:\nStatus:\n\n\n\nPackage: x");
	box_file(*state, "l0/var/lib/dpkg/status",
		 "\n\nStatus: installed\nPackage: y\nVersion: 1\n");
	box_file(*state, "base/etc/passwd", ":::\n::\nx\n");
	box_file(*state, "l0/etc/passwd", "\n:\n::::::::::::::::\nq:");
	box_file(*state, "base/etc/y", "[\n]\n=\n = \nexport =\n");
	box_file(*state, "l0/etc/y", "[]\n==\nexport a=\n[[\n");
	scoped_free char *text = facts_of(*state);
	assert_non_null(text);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, box_setup, box_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(packages_are_compared_by_version),
		TEST(accounts_are_told_by_name),
		TEST(units_are_told_with_what_starts_them),
		TEST(gained_rights_alarm),
		TEST(settings_are_told_by_key),
		TEST(modules_of_languages_are_packages),
		TEST(places_tell_by_themselves),
		TEST(torn_texts_do_no_harm),
	};
	if (geteuid() != 0) {
		print_message("skipped: needs root for whiteouts and capabilities\n");
		return 77;
	}
	umask(022);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
