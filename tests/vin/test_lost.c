/* Connections whose own address is another one in the new world, and what else had that address. */
#include "tests/vin/net.h"

#include "vin/lost.h"
#include "vin/tcp.h"

#define PORT	4100
#define THERE4	"198.51.100.7"
#define THERE6	"2001:db8::7"
#define WAIT_MS 30000
#define ALARM_S 120

static int listener = -1;
static const char *outside_ip, *own_ip;

static void listen_outside(const char *ip)
{
	union address a;
	close(listener);
	scoped_fd fd = socket(strchr(ip, ':') ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0 && set(fd, SOL_SOCKET, SO_REUSEADDR, 1));
	assert_int_equal(bind(fd, &a.any, at(&a, ip, PORT)), 0);
	assert_int_equal(listen(fd, 5), 0);
	listener = fvm_fd_take(&fd);
}

static bool comes(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };
	return poll(&p, 1, WAIT_MS) == 1;
}

static bool has_queued(int fd, int bytes)
{
	int queued = 0;
	for (int i = 0; i < WAIT_MS && queued < bytes; i++, nap(1)) {
		if (ioctl(fd, FIONREAD, &queued) < 0)
			return false;
	}
	return queued == bytes;
}

static bool gets_to(int fd, int state)
{
	struct tcp_info i = { 0 };
	socklen_t len = sizeof(i);
	for (int n = 0; n < WAIT_MS && i.tcpi_state != state; n++, nap(1)) {
		if (getsockopt(fd, SOL_TCP, TCP_INFO, &i, &len) < 0)
			return false;
	}
	return i.tcpi_state == state;
}

/* ---- with somebody outside ---- */

/* Says "hello" to two, and "bye" and no more to the second. */
static void be_outside(void)
{
	alarm(ALARM_S);
	int one = accept(listener, NULL, NULL), two = accept(listener, NULL, NULL);
	if (send(one, "hello", 5, MSG_NOSIGNAL) != 5 || send(two, "bye", 3, MSG_NOSIGNAL) != 3 ||
	    shutdown(two, SHUT_WR) < 0)
		_exit(1);
	for (;;)
		nap(1000);
}

static void make_connected(void)
{
	union address a;
	const int family = strchr(outside_ip, ':') ? AF_INET6 : AF_INET;
	for (int fd = 3; fd < 5; fd++) {
		CHECK(socket(family, SOCK_STREAM, 0) == fd);
		CHECK(connect(fd, &a.any, at(&a, outside_ip, PORT)) == 0);
	}
	CHECK(send(3, "unheard", 7, 0) == 7);
	CHECK(has_queued(3, 5) && gets_to(4, TCP_CLOSE_WAIT) && has_queued(4, 3));
}

/* As after the cable was pulled: what had come is read, then there is an error, told once. */
static void check_lost(void)
{
	char text[9] = "";
	CHECK(carry_lost == 2);
	CHECK(comes(3, POLLIN) && recv(3, text, 5, 0) == 5 && memcmp(text, "hello", 5) == 0);
	CHECK(recv(3, text, 1, 0) == -1 && errno == ECONNRESET);
	CHECK(recv(3, text, 1, 0) == 0 && send(3, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	CHECK(recv(4, text, 9, 0) == 3 && memcmp(text, "bye", 3) == 0 && recv(4, text, 9, 0) == 0);
	CHECK(send(4, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	CHECK(close(3) == 0 && close(4) == 0);
}

static void check_lost_said(void)
{
	char wanted[100];
	snprintf(wanted, sizeof(wanted), strchr(outside_ip, ':') ? "4: [%s]:%d" : "4: %s:%d",
		 outside_ip, PORT);
	CHECK(strstr(carry_lost_text, wanted));
	check_lost();
}

static void check_lost_writer(void)
{
	CHECK(send(3, "x", 1, MSG_NOSIGNAL) == -1 && errno == ECONNRESET);
	CHECK(send(3, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
}

static void lose(const char *ip, void (*check)(void))
{
	int status;
	outside_ip = ip;
	listen_outside("::");
	pid_t peer = fork_below();
	if (peer == 0)
		be_outside();
	moved(make_connected, check);
	assert_int_equal(kill(peer, SIGKILL), 0);
	assert_int_equal(waitpid(peer, &status, 0), peer);
	assert_true(WIFSIGNALED(status));
}

static void whose_address_is_gone_is_reset(void **state)
{
	(void)state;
	there4 = THERE4;
	there6 = THERE6;
	lose(OUT4, check_lost_said);
	lose(OUT4, check_lost_writer);
	lose(OUT6, check_lost_said);
	there4 = IN4;
	there6 = IN6;
}

static void with_nobody_to_talk_to_all_outside_is_reset(void **state)
{
	(void)state;
	carry_apart = true;
	lose(OUT4, check_lost_said);
	lose(OUT6, check_lost);
	carry_apart = false;
}

/* ---- inside ---- */

/* 4 and 5 talk by loopback, and go on with it, whatever the world's address. */
static void make_pair(void)
{
	union address a;
	CHECK(socket(AF_INET, SOCK_STREAM, 0) == 3);
	CHECK(socket(AF_INET, SOCK_STREAM, 0) == 4);
	CHECK(bind(3, &a.any, at(&a, "127.0.0.1", PORT)) == 0 && listen(3, 5) == 0);
	CHECK(connect(4, &a.any, at(&a, "127.0.0.1", PORT)) == 0 && accept(3, NULL, NULL) == 5);
}

static void check_pair(void)
{
	char c = 0;
	CHECK(carry_lost == 0);
	CHECK(send(4, "x", 1, 0) == 1 && recv(5, &c, 1, 0) == 1 && c == 'x');
}

static void what_is_said_inside_goes_on(void **state)
{
	(void)state;
	there4 = THERE4;
	carry_apart = true;
	moved(make_pair, check_pair);
	there4 = IN4;
	carry_apart = false;
}

/* ---- other sockets of the address ---- */

static const struct vin_moved to_there = {
	.of = { { 4, { 198, 51, 100, 2 }, { 198, 51, 100, 7 } },
		{ 16,
		  { 0x20, 0x01, 0x0d, 0xb8, [15] = 2 },
		  { 0x20, 0x01, 0x0d, 0xb8, [15] = 7 } } },
};

static void make_named(void)
{
	union address a;
	CHECK(socket(AF_INET, SOCK_STREAM, 0) == 3 && bind(3, &a.any, at(&a, IN4, 4200)) == 0);
	CHECK(listen(3, 5) == 0 && socket(AF_INET6, SOCK_STREAM, 0) == 4);
	CHECK(bind(4, &a.any, at(&a, IN6, 4201)) == 0);
	CHECK(socket(AF_INET, SOCK_DGRAM, 0) == 5 && connect(5, &a.any, at(&a, OUT4, 53)) == 0);
	CHECK(socket(AF_INET6, SOCK_DGRAM, 0) == 6);
	CHECK(bind(6, &a.any, at(&a, "::ffff:" IN4, 4202)) == 0);
	CHECK(socket(AF_INET, SOCK_DGRAM, 0) == 7);
	CHECK(sendto(7, "to you", 6, 0, &a.any, at(&a, IN4, 4202)) == 6 && comes(6, POLLIN));
	CHECK(close(7) == 0 && is_at(5, true, OUT4, 53));
}

static void check_named(void)
{
	union address a;
	char text[9] = "";
	CHECK(carry_lost == 0 && is_at(3, false, THERE4, 4200) && is_at(4, false, THERE6, 4201));
	CHECK(is_at(5, true, OUT4, 53) && is_at(6, false, "::ffff:" THERE4, 4202));
	CHECK(recv(6, text, 9, MSG_DONTWAIT) == 6 && memcmp(text, "to you", 6) == 0);
	CHECK(socket(AF_INET, SOCK_STREAM, 0) == 7);
	CHECK(connect(7, &a.any, at(&a, THERE4, 4200)) == 0 && accept(3, NULL, NULL) == 8);
}

static void what_had_the_address_has_the_other(void **state)
{
	(void)state;
	there4 = THERE4;
	there6 = THERE6;
	carry_moved = &to_there;
	moved(make_named, check_named);
	there4 = IN4;
	there6 = IN6;
	carry_moved = NULL;
}

/* Talks to itself by the address that is another. */
static void make_own(void)
{
	union address a;
	CHECK(socket(AF_INET, SOCK_STREAM, 0) == 3);
	CHECK(socket(AF_INET, SOCK_STREAM, 0) == 4);
	CHECK(bind(3, &a.any, at(&a, own_ip, 4200)) == 0 && listen(3, 5) == 0);
	CHECK(connect(4, &a.any, at(&a, own_ip, 4200)) == 0 && accept(3, NULL, NULL) == 5);
}

static void check_own(void)
{
	char c;
	CHECK(carry_lost == 2 && is_at(3, false, THERE4, 4200));
	CHECK(recv(4, &c, 1, 0) == -1 && errno == ECONNRESET);
	CHECK(recv(5, &c, 1, 0) == -1 && errno == ECONNRESET);
}

static void who_talks_to_himself_by_it_is_reset(void **state)
{
	(void)state;
	own_ip = IN4;
	there4 = THERE4;
	carry_moved = &to_there;
	moved(make_own, check_own);
	there4 = IN4;
	carry_moved = NULL;
}

/* Two of one port that had ended: 5 and 7. */
static void make_ended(void)
{
	union address a;
	make_pair();
	CHECK(socket(AF_INET, SOCK_STREAM, 0) == 6);
	CHECK(connect(6, &a.any, at(&a, "127.0.0.1", PORT)) == 0 && accept(3, NULL, NULL) == 7);
	for (int fd = 5; fd < 8; fd += 2) {
		CHECK(send(fd - 1, "x", 1, 0) == 1 && shutdown(fd - 1, SHUT_WR) == 0);
		CHECK(gets_to(fd, TCP_CLOSE_WAIT) && shutdown(fd, SHUT_WR) == 0);
		CHECK(gets_to(fd, TCP_CLOSE));
	}
}

static void check_ended(void)
{
	char text[2];
	for (int fd = 5; fd < 8; fd += 2) {
		CHECK(recv(fd, text, 2, 0) == 1 && text[0] == 'x' && recv(fd, text, 2, 0) == 0);
		CHECK(got(fd, SOL_SOCKET, SO_ERROR) == 0);
	}
}

static void any_number_of_one_port_may_have_ended(void **state)
{
	(void)state;
	moved(make_ended, check_ended);
	stayed(make_ended, check_ended);
}

/* ---- errors that are not told yet ---- */

/* 5 has something to read before it, 7 has not; 8 was refused. */
static void make_reset(void)
{
	union address a;
	const struct linger now = { 1, 0 };
	make_pair();
	CHECK(socket(AF_INET, SOCK_STREAM, 0) == 6);
	CHECK(connect(6, &a.any, at(&a, "127.0.0.1", PORT)) == 0 && accept(3, NULL, NULL) == 7);
	CHECK(send(4, "x", 1, 0) == 1 && has_queued(5, 1));
	for (int fd = 4; fd < 7; fd += 2) {
		CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0);
		CHECK(close(fd) == 0 && gets_to(fd + 1, TCP_CLOSE));
	}
	CHECK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0) == 4 && dup2(4, 8) == 8);
	CHECK(close(4) == 0);
	CHECK(connect(8, &a.any, at(&a, "127.0.0.1", 4999)) == -1 && errno == EINPROGRESS);
	CHECK(gets_to(8, TCP_CLOSE));
}

static void check_reset(void)
{
	char text[2];
	CHECK(comes(5, POLLIN) && recv(5, text, 1, 0) == 1 && text[0] == 'x');
	CHECK(recv(5, text, 1, 0) == -1 && errno == ECONNRESET && recv(5, text, 1, 0) == 0);
	CHECK(got(7, SOL_SOCKET, SO_ERROR) == ECONNRESET);
	CHECK(got(7, SOL_SOCKET, SO_ERROR) == 0);
	CHECK(got(8, SOL_SOCKET, SO_ERROR) == ECONNREFUSED);
}

static void an_error_that_a_reset_brought_is_told_later(void **state)
{
	(void)state;
	moved(make_reset, check_reset);
	stayed(make_reset, check_reset);
}

/* As who captures it once more would find it, which does not take it from the program. */
static void lost_again(void)
{
	char text[9];
	for (int i = 0; i < 2; i++)
		CHECK(vin_tcp_untold(3) == ECONNRESET && vin_tcp_untold(4) == ECONNRESET);
	CHECK(recv(3, text, 9, 0) == 5 && memcmp(text, "hello", 5) == 0);
	CHECK(recv(3, text, 1, 0) == -1 && errno == ECONNRESET && vin_tcp_untold(3) == 0);
}

static void who_was_lost_may_be_captured_again(void **state)
{
	(void)state;
	there4 = THERE4;
	lose(OUT4, lost_again);
	there4 = IN4;
}

/* ---- what is told before ---- */

static void hear_outside(void *arg, pid_t pid, int number, const char *peer)
{
	char *text = arg;
	(void)pid;
	snprintf(text + strlen(text), 100, "%d %s,", number, peer);
}

static void make_both(void)
{
	make_connected();
	union address a;
	CHECK(socket(AF_INET, SOCK_STREAM, 0) == 5 && bind(5, &a.any, at(&a, "::", 0)) < 0);
	CHECK(bind(5, &a.any, at(&a, "127.0.0.1", PORT)) == 0 && listen(5, 5) == 0);
	CHECK(socket(AF_INET, SOCK_STREAM, 0) == 6);
	CHECK(connect(6, &a.any, at(&a, "127.0.0.1", PORT)) == 0 && accept(5, NULL, NULL) == 7);
}

static void who_is_outside_is_told_before(void **state)
{
	(void)state;
	char text[500] = "";
	scoped_files files = { .root = -1 };
	outside_ip = OUT4;
	listen_outside("::");
	assert_int_equal(link_setup(NULL), 0);
	pid_t peer = fork_below();
	if (peer == 0)
		be_outside();
	pid_t pid = old_victim(make_both);
	OK(vin_files_look(&pid, 1, &files, &err));
	vin_files_outside(&files, hear_outside, text);
	assert_non_null(strstr(text, "3 " OUT4 ":4100,"));
	assert_non_null(strstr(text, "4 " OUT4 ":4100,"));
	assert_null(strstr(text, "127.0.0.1"));
	victim_kill(NULL);
	assert_int_equal(kill(peer, SIGKILL), 0);
	assert_int_equal(waitpid(peer, NULL, 0), peer);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		NET(whose_address_is_gone_is_reset),
		NET(with_nobody_to_talk_to_all_outside_is_reset),
		NET(what_is_said_inside_goes_on),
		NET(what_had_the_address_has_the_other),
		NET(who_talks_to_himself_by_it_is_reset),
		NET(any_number_of_one_port_may_have_ended),
		NET(an_error_that_a_reset_brought_is_told_later),
		NET(who_was_lost_may_be_captured_again),
		NET(who_is_outside_is_told_before),
	};
	return cmocka_run_group_tests(tests, net_setup, carry_teardown);
}

int main(void)
{
	return carry_main(run);
}
