#include <errno.h>

#include "box.h"
#include "fvm/net.h"

static void expect(const char *text, const char *address, uint16_t host, uint16_t guest, bool udp)
{
	struct fvm_port p;
	assert_int_equal(fvm_port_parse(text, &p, NULL), 0);
	assert_string_equal(p.host_address, address);
	assert_int_equal(p.host_port, host);
	assert_int_equal(p.guest_port, guest);
	assert_int_equal(p.udp, udp);
}

static void ports_are_read_in_all_their_forms(void **state)
{
	(void)state;
	expect("8080:80", "", 8080, 80, false);
	expect("8080:80/tcp", "", 8080, 80, false);
	expect("53:5353/udp", "", 53, 5353, true);
	expect("127.0.0.1:1:65535", "127.0.0.1", 1, 65535, false);
	expect("[::1]:8080:80/udp", "::1", 8080, 80, true);
	expect("[2001:DB8:0::1]:8080:80", "2001:db8::1", 8080, 80, false);
	expect("0.0.0.0:8080:80", "", 8080, 80, false);
	expect("[::]:8080:80", "", 8080, 80, false);
}

static void what_is_no_port_is_refused_with_an_example(void **state)
{
	static const char *const bad[] = {
		"",
		"80",
		":",
		"80:",
		":80",
		"0:80",
		"80:0",
		"65536:80",
		"80:65536",
		"8080:80/sctp",
		"8080:80/",
		"a:80",
		"80:b",
		"-1:80",
		"+1:80",
		" 80:80",
		"80:80 ",
		"1:2:3:4",
		"host:80:80",
		"1.2.3:80:80",
		"::1:80:80",
		"[::1]80:80",
		"[::1:80",
		"[1.2.3.4]:8:8",
		"[]:80:80",
		"1.2.3.4::80",
		"1.2.3.4:80",
		"[::1]:80",
		"080000:1",
		"fe80::1%eth0:1:1",
		"[fe80::1%eth0]:80:80",
	};
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(bad); i++) {
		struct fvm_port p;
		struct fvm_error err = { 0 };
		if (fvm_port_parse(bad[i], &p, &err) != -EINVAL)
			fail_msg("'%s' was taken", bad[i]);
		assert_non_null(strstr(err.hint, "8080:80"));
	}
}

static void a_long_text_is_refused(void **state)
{
	char text[4096];
	struct fvm_port p;
	struct fvm_error err = { 0 };
	(void)state;
	memset(text, '1', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	assert_int_equal(fvm_port_parse(text, &p, &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ports_are_read_in_all_their_forms),
		cmocka_unit_test(what_is_no_port_is_refused_with_an_example),
		cmocka_unit_test(a_long_text_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
