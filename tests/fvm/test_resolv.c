#include "box.h"
#include "fvm/resolv.h"

static void put(const struct box *box, const char *dir, const char *name, const char *text)
{
	char path[128];
	if (dir[0])
		assert_int_equal(fvm_mkdir_p(box->dir, dir, 0755), 0);
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	box_write(box, path, text);
}

static void expect(const struct fvm_resolv *r, size_t i, const char *address)
{
	char text[46];
	assert_true(i < r->count);
	fvm_address_print(&r->servers[i], text, sizeof(text));
	assert_string_equal(text, address);
}

static void servers_elsewhere_are_taken_as_they_are(void **state)
{
	const struct box *box = *state;
	scoped_resolv r = { 0 };
	put(box, "etc", "resolv.conf",
	    "# a comment\nsearch example.org example.net\nnameserver\t192.0.2.53\n"
	    "nameserver 2001:db8::53 \noptions ndots:2\nnameserver nonsense\nnameserverx "
	    "1.1.1.1\n");
	assert_int_equal(fvm_resolv_read(box->path, &r), 0);
	assert_int_equal(r.count, 2);
	expect(&r, 0, "192.0.2.53");
	expect(&r, 1, "2001:db8::53");
	assert_string_equal(r.rest, "search example.org example.net\noptions ndots:2\n");
	assert_false(fvm_resolv_needs_relay(&r, false));
}

static void a_stub_tells_whom_it_asks(void **state)
{
	const struct box *box = *state;
	scoped_resolv r = { 0 };
	put(box, "etc", "resolv.conf", "nameserver 127.0.0.53\noptions edns0 trust-ad\n");
	put(box, "run/systemd/resolve", "resolv.conf", "nameserver 198.51.100.53\n");
	assert_int_equal(fvm_resolv_read(box->path, &r), 0);
	assert_int_equal(r.count, 1);
	expect(&r, 0, "198.51.100.53");
}

static void a_resolver_on_loopback_only_needs_a_relay(void **state)
{
	const struct box *box = *state;
	scoped_resolv r = { 0 };
	char text[46];
	put(box, "etc", "resolv.conf", "nameserver ::1\nnameserver fe80::1%eth0\n");
	put(box, "run/systemd/resolve", "resolv.conf", "nameserver 127.0.0.1\n");
	assert_int_equal(fvm_resolv_read(box->path, &r), 0);
	assert_int_equal(r.count, 0);
	assert_true(fvm_resolv_needs_relay(&r, true));
	fvm_address_print(&r.host, text, sizeof(text));
	assert_string_equal(text, "::1");
}

static void no_file_at_all_means_this_machine(void **state)
{
	const struct box *box = *state;
	scoped_resolv r = { 0 };
	char text[46];
	assert_int_equal(fvm_resolv_read(box->path, &r), 0);
	assert_int_equal(r.count, 0);
	fvm_address_print(&r.host, text, sizeof(text));
	assert_string_equal(text, "127.0.0.1");
}

static void servers_of_ipv6_do_not_help_a_vm_without(void **state)
{
	const struct box *box = *state;
	scoped_resolv r = { 0 };
	put(box, "etc", "resolv.conf", "nameserver 2001:db8::53\n");
	assert_int_equal(fvm_resolv_read(box->path, &r), 0);
	assert_true(fvm_resolv_needs_relay(&r, false));
	assert_false(fvm_resolv_needs_relay(&r, true));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(servers_elsewhere_are_taken_as_they_are, box_setup,
						box_teardown),
		cmocka_unit_test_setup_teardown(a_stub_tells_whom_it_asks, box_setup, box_teardown),
		cmocka_unit_test_setup_teardown(a_resolver_on_loopback_only_needs_a_relay,
						box_setup, box_teardown),
		cmocka_unit_test_setup_teardown(no_file_at_all_means_this_machine, box_setup,
						box_teardown),
		cmocka_unit_test_setup_teardown(servers_of_ipv6_do_not_help_a_vm_without, box_setup,
						box_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
