#include "tests/vin/net.h"

#include <linux/filter.h>

#include "vin/tcp.h"

/* ---- without a connection ---- */

static void make_unbound(void)
{
	union address a;
	CHECK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0) == 3);
	CHECK(socket(AF_INET6, SOCK_STREAM, 0) == 4);
	CHECK(bind(4, &a.any, at(&a, "::", 4000)) == 0);
	CHECK(socket(AF_INET, SOCK_STREAM, 0) == 5 && bind(5, &a.any, at(&a, IN4, 4001)) == 0);
}

static void check_unbound(void)
{
	union address a;
	CHECK(is_at(3, false, "0.0.0.0", 0) && fcntl(3, F_GETFL) == (O_RDWR | O_NONBLOCK));
	CHECK(is_at(4, false, "::", 4000) && is_at(5, false, IN4, 4001));
	CHECK(got(4, SOL_SOCKET, SO_REUSEADDR) == 0 && listen(4, 1) == 0);
	CHECK(recv(3, &a, 1, 0) == -1 && errno == ENOTCONN);
	CHECK(connect(3, &a.any, at(&a, "127.0.0.1", 4000)) == 0 || errno == EINPROGRESS);
	CHECK(accept(4, NULL, NULL) >= 0);
}

static void sockets_that_nobody_talks_to(void **state)
{
	(void)state;
	moved(make_unbound, check_unbound);
	moved(make_unbound, check_unbound);
	stayed(make_unbound, check_unbound);
}

static void make_listening(void)
{
	union address a;
	CHECK(socket(AF_INET, SOCK_STREAM, 0) == 3 && set(3, SOL_TCP, TCP_DEFER_ACCEPT, 5));
	CHECK(bind(3, &a.any, at(&a, "0.0.0.0", 4000)) == 0 && listen(3, 7) == 0);
	CHECK(socket(AF_INET6, SOCK_STREAM, 0) == 4 && set(4, SOL_IPV6, IPV6_V6ONLY, 1));
	CHECK(bind(4, &a.any, at(&a, "::", 4000)) == 0 && listen(4, 0) == 0);
	/* both of one port */
	for (int fd = 5; fd < 7; fd++)
		CHECK(socket(AF_INET, SOCK_STREAM, 0) == fd &&
		      set(fd, SOL_SOCKET, SO_REUSEPORT, 1) &&
		      bind(fd, &a.any, at(&a, IN4, 4001)) == 0 && listen(fd, 1) == 0);
}

static int backlog(int fd)
{
	struct tcp_info i;
	socklen_t len = sizeof(i);
	return getsockopt(fd, SOL_TCP, TCP_INFO, &i, &len) == 0 ? (int)i.tcpi_sacked : -1;
}

static void check_listening(void)
{
	union address a;
	CHECK(backlog(3) == 7 && backlog(4) == 0 && backlog(5) == 1);
	CHECK(got(3, SOL_TCP, TCP_DEFER_ACCEPT) > 0 && got(4, SOL_IPV6, IPV6_V6ONLY) == 1);
	CHECK(got(3, SOL_SOCKET, SO_REUSEADDR) == 0 && got(6, SOL_SOCKET, SO_REUSEPORT) == 1);
	CHECK(socket(AF_INET6, SOCK_STREAM, 0) == 7);
	CHECK(connect(7, &a.any, at(&a, "::1", 4000)) == 0 && accept(4, NULL, NULL) == 8);
}

static void sockets_that_listen(void **state)
{
	(void)state;
	moved(make_listening, check_listening);
	stayed(make_listening, check_listening);
}

static const struct {
	int level, name, value;
} plain[] = {
	{ SOL_SOCKET, SO_KEEPALIVE, 1 },
	{ SOL_SOCKET, SO_OOBINLINE, 1 },
	{ SOL_SOCKET, SO_REUSEADDR, 1 },
	{ SOL_SOCKET, SO_REUSEPORT, 1 },
	{ SOL_SOCKET, SO_MARK, 77 },
	{ SOL_SOCKET, SO_RCVLOWAT, 9 },
	{ SOL_SOCKET, SO_DONTROUTE, 0 },
	{ SOL_TCP, TCP_NODELAY, 1 },
	{ SOL_TCP, TCP_KEEPIDLE, 71 },
	{ SOL_TCP, TCP_KEEPINTVL, 72 },
	{ SOL_TCP, TCP_KEEPCNT, 8 },
	{ SOL_TCP, TCP_SYNCNT, 3 },
	{ SOL_TCP, TCP_LINGER2, 11 },
	{ SOL_TCP, TCP_USER_TIMEOUT, 900 },
	{ SOL_TCP, TCP_NOTSENT_LOWAT, 5000 },
	{ SOL_IP, IP_TOS, 0x28 },
	{ SOL_IP, IP_TTL, 33 },
	{ SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO },
	{ SOL_SOCKET, SO_PRIORITY, 3 }, /* behind IP_TOS, which changes it */
};

static void make_optioned(void)
{
	const struct timeval soon = { 3, 500000 };
	const struct linger linger = { 1, 17 };
	int fds[2] = { socket(AF_INET, SOCK_STREAM, 0), socket(AF_INET6, SOCK_STREAM, 0) };
	for (int f = 0; f < 2; f++) {
		CHECK(fds[f] == 3 + f);
		for (size_t i = 0; i < FVM_COUNT(plain); i++)
			CHECK(set(fds[f], plain[i].level, plain[i].name, plain[i].value));
		CHECK(setsockopt(fds[f], SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof(soon)) == 0);
		CHECK(setsockopt(fds[f], SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) == 0);
		CHECK(set(fds[f], SOL_SOCKET, SO_RCVBUF, 30000));
		CHECK(setsockopt(fds[f], SOL_SOCKET, SO_BINDTODEVICE, "in", 3) == 0);
	}
	CHECK(set(3, SOL_TCP, TCP_CORK, 1) && set(3, SOL_TCP, TCP_MAXSEG, 600));
	CHECK(setsockopt(3, SOL_TCP, TCP_CONGESTION, "reno", 4) == 0);
	CHECK(set(4, SOL_IPV6, IPV6_TCLASS, 0x40) && set(4, SOL_IPV6, IPV6_UNICAST_HOPS, 21));
}

static void check_optioned(void)
{
	struct timeval soon = { 0 };
	struct linger linger = { 0 };
	char text[20] = "";
	for (int f = 3; f < 5; f++) {
		socklen_t len = sizeof(soon), llen = sizeof(linger), tlen = sizeof(text);
		for (size_t i = 0; i < FVM_COUNT(plain); i++)
			CHECK(got(f, plain[i].level, plain[i].name) == plain[i].value);
		CHECK(getsockopt(f, SOL_SOCKET, SO_RCVTIMEO, &soon, &len) == 0);
		CHECK(soon.tv_sec == 3 && soon.tv_usec == 500000);
		CHECK(getsockopt(f, SOL_SOCKET, SO_LINGER, &linger, &llen) == 0);
		CHECK(linger.l_onoff == 1 && linger.l_linger == 17);
		CHECK(got(f, SOL_SOCKET, SO_RCVBUF) == 60000);
		CHECK(got(f, SOL_SOCKET, SO_SNDBUF) == 16384);
		CHECK(got(f, SOL_SOCKET, SO_BUF_LOCK) == 2);
		CHECK(getsockopt(f, SOL_SOCKET, SO_BINDTODEVICE, text, &tlen) == 0);
		CHECK(strcmp(text, "in") == 0);
	}
	socklen_t len = sizeof(text);
	CHECK(got(3, SOL_TCP, TCP_CORK) == 1 && got(3, SOL_TCP, TCP_MAXSEG) == 600);
	CHECK(getsockopt(3, SOL_TCP, TCP_CONGESTION, text, &len) == 0 && strcmp(text, "reno") == 0);
	CHECK(got(4, SOL_IPV6, IPV6_TCLASS) == 0x40 && got(4, SOL_IPV6, IPV6_UNICAST_HOPS) == 21);
}

static void options_are_kept(void **state)
{
	(void)state;
	moved(make_optioned, check_optioned);
	stayed(make_optioned, check_optioned);
}

/* ---- connections ---- */

#define PORT 4100
static int listener = -1;
static pid_t peer;

/* Outside; the program's connect() and what it says wait there for us. */
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

static void send_pattern(int fd, size_t from, size_t len)
{
	for (size_t i = from; i < from + len;) {
		unsigned char piece[4096];
		size_t n = from + len - i < sizeof(piece) ? from + len - i : sizeof(piece);
		for (size_t j = 0; j < n; j++)
			piece[j] = (unsigned char)((i + j) * 7 + (i + j) / 251);
		ssize_t done = send(fd, piece, n, MSG_NOSIGNAL);
		if (done < 0)
			break;
		i += (size_t)done;
	}
}

/* How many bytes come that are right, until the end, @len or silence. */
static size_t receive_pattern(int fd, size_t from, size_t len)
{
	size_t i = from;
	while (i < from + len) {
		unsigned char piece[4096];
		struct pollfd p = { .fd = fd, .events = POLLIN };
		size_t want = from + len - i < sizeof(piece) ? from + len - i : sizeof(piece);
		ssize_t n = poll(&p, 1, 30000) == 1 ? recv(fd, piece, want, MSG_DONTWAIT) : 0;
		for (ssize_t j = 0; j < n; j++, i++) {
			if (piece[j] != (unsigned char)(i * 7 + i / 251))
				return i - from;
		}
		if (n <= 0)
			break;
	}
	return i - from;
}

static const char *outside_ip;
static size_t to_program, to_peer;

static void make_connected(void)
{
	union address a;
	CHECK(socket(strchr(outside_ip, ':') ? AF_INET6 : AF_INET, SOCK_STREAM, 0) == 3);
	CHECK(connect(3, &a.any, at(&a, outside_ip, PORT)) == 0);
	send_pattern(3, 0, to_peer);
}

static void check_connected(void)
{
	char end;
	CHECK(is_at(3, true, outside_ip, PORT));
	CHECK(receive_pattern(3, 0, to_program + 1000) == to_program + 1000);
	send_pattern(3, to_peer, 1000);
	CHECK(shutdown(3, SHUT_WR) == 0);
	CHECK(recv(3, &end, 1, 0) == 0);
}

/* Both say something before, and something after. */
static void talk_outside(void)
{
	struct pollfd p = { .fd = listener, .events = POLLIN };
	alarm(60);
	if (poll(&p, 1, 30000) != 1)
		_exit(1);
	int fd = accept(listener, NULL, NULL);
	send_pattern(fd, 0, to_program);
	board->seen = 1;
	if (receive_pattern(fd, 0, to_peer) != to_peer)
		_exit(2);
	send_pattern(fd, to_program, 1000);
	if (receive_pattern(fd, to_peer, 1000) != 1000)
		_exit(3);
	_exit(recv(fd, &p, 1, 0) == 0 ? 0 : 4);
}

static void wait_for_peer(void)
{
	make_connected();
	int queued = 0;
	for (int i = 0; i < 30000 && (size_t)queued < to_program && queued < 50000; i++, nap(1))
		CHECK(ioctl(3, FIONREAD, &queued) == 0);
}

static void talk(const char *outside, size_t in, size_t out, bool stay)
{
	int status;
	outside_ip = outside;
	to_program = in;
	to_peer = out;
	listen_outside("::");
	peer = fork_below();
	if (peer == 0)
		talk_outside();
	(stay ? stayed : moved)(wait_for_peer, check_connected);
	assert_int_equal(waitpid(peer, &status, 0), peer);
	assert_int_equal(status, 0);
}

static void a_connection_goes_on(void **state)
{
	(void)state;
	talk(OUT4, 3000, 3000, true);
	talk(OUT4, 3000, 3000, false);
	talk(OUT6, 3000, 3000, false);
}

/* As much as goes in, of which the other end takes nothing for a while. */
static void make_full(void)
{
	make_connected();
	fcntl(3, F_SETFL, O_RDWR | O_NONBLOCK);
	for (size_t idle = 0, sent = 0; idle < 50;) {
		unsigned char c[1000];
		for (size_t i = 0; i < sizeof(c); i++)
			c[i] = (unsigned char)((sent + i) * 7 + (sent + i) / 251);
		ssize_t n = send(3, c, sizeof(c), MSG_NOSIGNAL);
		idle = n < 0 ? idle + 1 : 0;
		sent += n > 0 ? (size_t)n : 0;
		board->rounds = sent;
		if (n < 0)
			nap(2);
	}
	board->seen = 1;
}

static void check_full(void)
{
	int left;
	CHECK(fcntl(3, F_SETFL, O_RDWR) == 0 && shutdown(3, SHUT_WR) == 0);
	board->seen = 2;
	for (int i = 0; i < 20000 && ioctl(3, TIOCOUTQ, &left) == 0 && left > 0; i++)
		nap(1);
	CHECK(left == 0);
}

static void read_full(void)
{
	alarm(60);
	int fd = accept(listener, NULL, NULL);
	while (board->seen < 2)
		nap(1);
	char c;
	const size_t len = board->rounds;
	_exit(receive_pattern(fd, 0, len) == len && recv(fd, &c, 1, 0) == 0 ? 0 : 1);
}

static void what_the_peer_did_not_take_comes_later(void **state)
{
	(void)state;
	int status;
	outside_ip = OUT4;
	to_peer = 0;
	listen_outside("::");
	board->seen = 0;
	peer = fork_below();
	if (peer == 0)
		read_full();
	moved(make_full, check_full);
	assert_int_equal(waitpid(peer, &status, 0), peer);
	assert_int_equal(status, 0);
}

static void much_is_queued(void **state)
{
	(void)state;
	talk(OUT4, 1500000, 100, false);
	talk(OUT6, 100, 400000, false);
}

/* ---- both ends in the tree ---- */

static const char *loop_ip;

/* 4 and 5 talk, 3 listens. */
static void make_pair(void)
{
	union address a;
	bool is6 = strchr(loop_ip, ':');
	CHECK(socket(is6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0) == 3);
	CHECK(bind(3, &a.any, at(&a, loop_ip, PORT)) == 0 && listen(3, 3) == 0);
	CHECK(socket(is6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0) == 4);
	CHECK(connect(4, &a.any, at(&a, loop_ip, PORT)) == 0 && accept(3, NULL, NULL) == 5);
}

static void make_loop(void)
{
	make_pair();
	send_pattern(4, 0, 60000);
	send_pattern(5, 0, 100);
	/* more than there is room for: a part was never sent */
	CHECK(set(4, SOL_SOCKET, SO_SNDBUF, 100000) && set(5, SOL_SOCKET, SO_RCVBUF, 30000));
	fcntl(5, F_SETFL, O_RDWR | O_NONBLOCK);
	fcntl(4, F_SETFL, O_RDWR | O_NONBLOCK);
	board->rounds = 60000;
	for (unsigned char c;; board->rounds++) {
		size_t i = board->rounds;
		c = (unsigned char)(i * 7 + i / 251);
		if (send(4, &c, 1, MSG_NOSIGNAL) != 1)
			break;
	}
	CHECK(board->rounds > 61000);
}

static void check_loop(void)
{
	CHECK(receive_pattern(5, 0, board->rounds) == board->rounds);
	CHECK(receive_pattern(4, 0, 100) == 100);
	CHECK(send(4, "x", 1, 0) == 1 && send(5, "y", 1, 0) == 1);
	CHECK(got(5, SOL_SOCKET, SO_RCVBUF) == 60000 && got(3, SOL_SOCKET, SO_REUSEADDR) == 0);
	char c;
	close(4);
	struct pollfd p = { .fd = 5, .events = POLLIN };
	CHECK(poll(&p, 1, 30000) == 1 && recv(5, &c, 1, 0) == 1 && c == 'x');
	CHECK(poll(&p, 1, 30000) == 1 && recv(5, &c, 1, 0) <= 0);
}

static void in_all_ways(void (*make)(void), void (*check)(void))
{
	loop_ip = "127.0.0.1";
	moved(make, check);
	stayed(make, check);
	loop_ip = "::1";
	moved(make, check);
}

static void loop(const char *ip)
{
	loop_ip = ip;
	moved(make_loop, check_loop);
}

static void both_ends_go_together(void **state)
{
	(void)state;
	loop("127.0.0.1");
	loop("::1");
}

/* ---- half closed ---- */

static int state_of(int fd)
{
	struct tcp_info i;
	socklen_t len = sizeof(i);
	return getsockopt(fd, SOL_TCP, TCP_INFO, &i, &len) == 0 ? i.tcpi_state : -1;
}

static bool gets_to(int fd, int state)
{
	for (int i = 0; i < 30000 && state_of(fd) != state; i++)
		nap(1);
	return state_of(fd) == state;
}

static bool reads_x_and_end(int fd)
{
	char c[4];
	struct pollfd p = { .fd = fd, .events = POLLIN };
	return poll(&p, 1, 30000) == 1 && recv(fd, c, 1, 0) == 1 && c[0] == 'x' &&
	       poll(&p, 1, 30000) == 1 && recv(fd, c, 4, 0) == 0;
}

/* 5 has FIN_WAIT2, 4 has CLOSE_WAIT; what was said before is still to be read. */
static void make_half(void)
{
	make_pair();
	CHECK(send(5, "x", 1, 0) == 1 && send(4, "x", 1, 0) == 1 && shutdown(5, SHUT_WR) == 0);
	CHECK(gets_to(5, TCP_FIN_WAIT2) && gets_to(4, TCP_CLOSE_WAIT));
}

static void check_half(void)
{
	CHECK(state_of(5) == TCP_FIN_WAIT2 && state_of(4) == TCP_CLOSE_WAIT);
	CHECK(reads_x_and_end(4) && send(5, "y", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	char c;
	CHECK(recv(5, &c, 1, 0) == 1 && c == 'x');
	CHECK(send(4, "x", 1, 0) == 1 && shutdown(4, SHUT_WR) == 0 && reads_x_and_end(5));
	CHECK(gets_to(4, TCP_CLOSE));
}

static void one_way_is_closed(void **state)
{
	(void)state;
	in_all_ways(make_half, check_half);
}

/* Nobody has the other end of 4 any more; whatever 4 says, be it an ACK, is not answered by RST. */
static void make_left(void)
{
	make_pair();
	CHECK(send(5, "x", 1, 0) == 1 && close(5) == 0 && gets_to(4, TCP_CLOSE_WAIT));
}

static void check_left(void)
{
	struct pollfd p = { .fd = 4, .events = POLLIN };
	nap(100); /* of ACKs that wait for others */
	CHECK(poll(&p, 1, 0) == 1 && !(p.revents & (POLLERR | POLLHUP)) && reads_x_and_end(4));
	nap(100);
	CHECK(poll(&p, 1, 0) == 1 && !(p.revents & (POLLERR | POLLHUP)));
	CHECK(shutdown(4, SHUT_WR) == 0 && gets_to(4, TCP_CLOSE));
	CHECK(got(4, SOL_SOCKET, SO_ERROR) == 0);
}

static void whose_peer_has_closed_hears_no_more_of_it(void **state)
{
	(void)state;
	in_all_ways(make_left, check_left);
}

/* What 5 said does not fit into 4's queue, and nobody has 5 any more. */
static void make_owing(void)
{
	char much[4096] = "";
	make_pair();
	CHECK(set(4, SOL_SOCKET, SO_RCVBUF, 30000) && fcntl(5, F_SETFL, O_RDWR | O_NONBLOCK) == 0);
	while (send(5, much, sizeof(much), MSG_NOSIGNAL) > 0)
		board->rounds++;
	CHECK(close(5) == 0 && state_of(4) == TCP_ESTABLISHED);
}

static void check_owing(void)
{
	char much[4096];
	size_t total = 0;
	for (ssize_t n; (n = recv(4, much, sizeof(much), 0)) != 0; total += (size_t)n)
		CHECK(n > 0);
	CHECK(total > board->rounds * 2000);
	CHECK(got(4, SOL_SOCKET, SO_RCVBUF) == 60000);
}

static void who_reads_slowly_hears_the_last_words(void **state)
{
	(void)state;
	in_all_ways(make_owing, check_owing);
}

static void deafen(int fd, bool on);

/* 4 hears nothing, and 5 can't end. */
static void make_deaf(void)
{
	make_pair();
	deafen(4, true);
	CHECK(send(5, "x", 1, 0) == 1 && close(5) == 0 && state_of(4) == TCP_ESTABLISHED);
}

static void check_deaf(void)
{
	deafen(4, false);
	CHECK(reads_x_and_end(4));
}

static void what_nobody_has_is_waited_for(void **state)
{
	int status;
	(void)state;
	loop_ip = "127.0.0.1";
	there_check = check_deaf;
	assert_int_equal(link_setup(NULL), 0);
	pid_t pid = old_victim(make_deaf);
	scoped_files files = { .root = -1, .stopped = true };
	OK(vin_files_look(&pid, 1, &files, &err));
	err = (struct fvm_error){ 0 };
	assert_int_equal(vin_netlock_cut(&files, &err), -EAGAIN);
	assert_non_null(strstr(err.text, "descriptor 4"));
	assert_non_null(strstr(err.text, "the other end was closed"));
	board->end = 1;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	last_victim = 0;
	assert_int_equal(status, 0);
}

/* Nobody hears of the FIN: FIN_WAIT1; and of the answer: LAST_ACK and CLOSING */
static void deafen(int fd, bool on)
{
	if (on)
		CHECK(vin_filter_deaf(fd) == 0);
	else
		CHECK(vin_filter_set(fd, NULL, 0) == 0);
}

static void make_fin_wait1(void)
{
	make_pair();
	CHECK(send(5, "x", 1, 0) == 1);
	nap(50);
	deafen(4, true);
	CHECK(send(5, "x", 1, 0) == 1 && shutdown(5, SHUT_WR) == 0 && state_of(5) == TCP_FIN_WAIT1);
}

static void check_fin_wait1(void)
{
	char c;
	deafen(4, false);
	CHECK(recv(4, &c, 1, 0) == 1 && c == 'x' && reads_x_and_end(4));
	CHECK(gets_to(5, TCP_FIN_WAIT2) && send(4, "x", 1, 0) == 1 && shutdown(4, SHUT_WR) == 0);
	CHECK(reads_x_and_end(5));
}

static void a_fin_that_is_not_heard_is_said_again(void **state)
{
	(void)state;
	loop_ip = "127.0.0.1";
	moved(make_fin_wait1, check_fin_wait1);
}

static void make_last_ack(void)
{
	make_pair();
	CHECK(send(5, "x", 1, 0) == 1 && shutdown(5, SHUT_WR) == 0 && gets_to(4, TCP_CLOSE_WAIT));
	CHECK(gets_to(5, TCP_FIN_WAIT2));
	deafen(5, true);
	CHECK(send(4, "x", 1, 0) == 1 && shutdown(4, SHUT_WR) == 0 && state_of(4) == TCP_LAST_ACK);
}

static void check_last_ack(void)
{
	deafen(5, false);
	CHECK(reads_x_and_end(4) && reads_x_and_end(5) && gets_to(4, TCP_CLOSE));
}

static void the_last_ack_is_waited_for(void **state)
{
	(void)state;
	loop_ip = "127.0.0.1";
	moved(make_last_ack, check_last_ack);
	stayed(make_last_ack, check_last_ack);
}

static void make_closing(void)
{
	make_pair();
	deafen(4, true);
	CHECK(send(5, "x", 1, 0) == 1 && shutdown(5, SHUT_WR) == 0);
	deafen(5, true);
	deafen(4, false);
	/* 4 has heard nothing of 5's; its own FIN comes to 5 with an old ACK */
	deafen(5, false);
	deafen(4, true);
	CHECK(send(4, "x", 1, 0) == 1 && shutdown(4, SHUT_WR) == 0);
	CHECK(state_of(5) == TCP_CLOSING && state_of(4) == TCP_FIN_WAIT1);
}

static void check_closing(void)
{
	deafen(4, false);
	CHECK(reads_x_and_end(4) && reads_x_and_end(5));
	CHECK(gets_to(4, TCP_CLOSE) || state_of(4) == TCP_TIME_WAIT);
}

static void both_close_at_once(void **state)
{
	(void)state;
	loop_ip = "127.0.0.1";
	moved(make_closing, check_closing);
}

/* ---- at the ends of a connection's life ---- */

static void make_ended(void)
{
	make_pair();
	CHECK(send(5, "x", 1, 0) == 1 && shutdown(5, SHUT_WR) == 0);
	CHECK(gets_to(4, TCP_CLOSE_WAIT) && shutdown(4, SHUT_WR) == 0);
	CHECK(gets_to(4, TCP_CLOSE) && gets_to(5, TCP_CLOSE));
}

static void check_ended(void)
{
	struct pollfd p = { .fd = 5, .events = POLLIN | POLLRDHUP };
	CHECK(poll(&p, 1, 0) == 1 && p.revents == (POLLIN | POLLRDHUP | POLLHUP));
	CHECK(reads_x_and_end(4) && send(4, "y", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	CHECK(got(4, SOL_SOCKET, SO_ERROR) == 0 && is_at(5, false, loop_ip, PORT));
	CHECK(recv(5, &p, 1, 0) == 0 && close(4) == 0 && close(5) == 0);
}

static void what_has_ended_can_be_read_to_its_end(void **state)
{
	(void)state;
	loop_ip = "127.0.0.1";
	moved(make_ended, check_ended);
	stayed(make_ended, check_ended);
}

static void make_calling(void)
{
	union address a;
	/* nobody is there yet who could answer */
	CHECK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0) == 3);
	CHECK(connect(3, &a.any, at(&a, "198.51.100.77", PORT)) == -1 && errno == EINPROGRESS);
	CHECK(socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0) == 4);
	CHECK(connect(4, &a.any, at(&a, "2001:db8::77", PORT)) == -1 && errno == EINPROGRESS);
	CHECK(state_of(3) == TCP_SYN_SENT && state_of(4) == TCP_SYN_SENT);
}

static void check_calling(void)
{
	CHECK(state_of(3) == TCP_SYN_SENT && state_of(4) == TCP_SYN_SENT);
	CHECK(add_address("lo", AF_INET, "198.51.100.77", 32) == 0);
	char c;
	CHECK(recv(3, &c, 1, 0) == -1 && errno == EAGAIN);
	CHECK(recv(4, &c, 1, 0) == -1 && errno == EAGAIN);
}

static void who_connects_goes_on_with_it(void **state)
{
	(void)state;
	moved(make_calling, check_calling);
	stayed(make_calling, check_calling);
}

/* ---- urgent bytes ---- */

static void make_another(int from, int to)
{
	union address a;
	CHECK(socket(strchr(loop_ip, ':') ? AF_INET6 : AF_INET, SOCK_STREAM, 0) == from);
	CHECK(connect(from, &a.any, at(&a, loop_ip, PORT)) == 0 && accept(3, NULL, NULL) == to);
}

static bool is_told(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLPRI };
	return poll(&p, 1, 30000) == 1 && p.revents & POLLPRI;
}

static void say_urgent(int fd)
{
	CHECK(send(fd, "ab", 2, 0) == 2 && send(fd, "u", 1, MSG_OOB) == 1);
	CHECK(send(fd, "cd", 2, 0) == 2);
}

static bool gives(int fd, const char *text)
{
	char c[8] = "";
	return recv(fd, c, sizeof(c), 0) == (ssize_t)strlen(text) && strcmp(c, text) == 0;
}

static bool has(int fd, int want)
{
	const int on = 1, off = 0;
	int bytes = -1;
	for (int i = 0; i < 30000 && bytes != want; i++, nap(1)) {
		/* all of them are counted with this option only */
		CHECK(setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on)) == 0);
		CHECK(ioctl(fd, FIONREAD, &bytes) == 0);
		CHECK(setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &off, sizeof(off)) == 0);
	}
	return bytes == want;
}

/* 5: not read; 7: read already; 9: within the stream; 11: at its beginning, much behind it. */
static void make_urgent(void)
{
	char c;
	const int on = 1;
	make_pair();
	make_another(6, 7);
	make_another(8, 9);
	make_another(10, 11);
	for (int fd = 4; fd <= 8; fd += 2)
		say_urgent(fd);
	CHECK(send(10, "u", 1, MSG_OOB) == 1);
	send_pattern(10, 0, 30000);
	for (int fd = 5; fd <= 9; fd += 2)
		CHECK(has(fd, 5) && is_told(fd));
	CHECK(has(11, 30001) && is_told(11));
	CHECK(recv(7, &c, 1, MSG_OOB) == 1 && c == 'u');
	CHECK(setsockopt(9, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on)) == 0);
	CHECK(recv(9, &c, 1, 0) == 1 && c == 'a');
}

static void check_urgent(void)
{
	char c;
	CHECK(is_told(5) && sockatmark(5) == 0 && gives(5, "ab") && sockatmark(5) == 1);
	CHECK(recv(5, &c, 1, MSG_OOB) == 1 && c == 'u' && gives(5, "cd"));
	CHECK(recv(7, &c, 1, MSG_OOB) < 0 && errno == EINVAL);
	CHECK(gives(7, "ab") && sockatmark(7) == 1 && gives(7, "cd"));
	CHECK(is_told(9) && gives(9, "b") && sockatmark(9) == 1 && gives(9, "ucd"));
	CHECK(sockatmark(11) == 1 && recv(11, &c, 1, MSG_OOB) == 1 && c == 'u');
	CHECK(receive_pattern(11, 0, 30000) == 30000);
	for (int fd = 4; fd <= 10; fd += 2)
		CHECK(send(fd, "x", 1, 0) == 1 && gives(fd + 1, "x") &&
		      send(fd + 1, "y", 1, 0) == 1 && gives(fd, "y"));
	say_urgent(4);
	CHECK(is_told(5) && recv(5, &c, 1, MSG_OOB) == 1 && c == 'u');
}

/* Linux before 6.9 does not. */
static bool shows_what_is_behind(void)
{
	scoped_fd fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return vin_urgent_can(fd);
}

static void an_urgent_byte_stays_one(void **state)
{
	(void)state;
	loop_ip = "127.0.0.1";
	if (!shows_what_is_behind())
		not_now(make_urgent, "an urgent byte is not read yet");
	else
		in_all_ways(make_urgent, check_urgent);
}

static void make_urgent_end(void)
{
	make_pair();
	say_urgent(4);
	CHECK(has(5, 5) && shutdown(4, SHUT_WR) == 0 && gets_to(5, TCP_CLOSE_WAIT));
}

static void check_urgent_end(void)
{
	char c;
	CHECK(gives(5, "ab") && recv(5, &c, 1, MSG_OOB) == 1 && c == 'u' && gives(5, "cd"));
	CHECK(gives(5, "") && send(5, "y", 1, 0) == 1 && gives(4, "y"));
}

static void an_urgent_byte_comes_before_the_end(void **state)
{
	(void)state;
	loop_ip = "127.0.0.1";
	if (!shows_what_is_behind())
		not_now(make_urgent_end, "an urgent byte is not read yet");
	else
		in_all_ways(make_urgent_end, check_urgent_end);
}

/* ---- what can't be had ---- */

static void make_unaccepted(void)
{
	make_pair();
	union address a;
	CHECK(socket(AF_INET, SOCK_STREAM, 0) == 6);
	CHECK(connect(6, &a.any, at(&a, loop_ip, PORT)) == 0);
}

static void what_can_not_be_had_now_is_told(void **state)
{
	(void)state;
	loop_ip = "127.0.0.1";
	not_now(make_unaccepted, "1 connections wait to be accepted");
}

static void make_locked(void)
{
	make_pair();
	CHECK(set(5, SOL_SOCKET, SO_LOCK_FILTER, 1));
}

/* Where nothing has to be stopped first. */
static void what_can_not_be_had_at_all_is_refused(void **state)
{
	(void)state;
	loop_ip = "127.0.0.1";
	assert_int_equal(link_setup(NULL), 0);
	pid_t pid = old_victim(make_locked);
	scoped_files files = { .root = -1 };
	OK(vin_files_look(&pid, 1, &files, &err));
	err = (struct fvm_error){ 0 };
	assert_int_equal(vin_files_check(&files, NULL, NULL, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "its filter is locked"));
	assert_int_equal(vin_netlock_cut(&files, NULL), -EPERM);
	victim_kill(NULL);
}

/* ---- filters, and what becomes of them ---- */

static void make_filtered(void)
{
	struct sock_filter code[] = { BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0),
				      BPF_STMT(BPF_RET | BPF_K, 0x7777) };
	const struct sock_fprog filter = { 2, code };
	make_pair();
	for (int fd = 3; fd < 6; fd++)
		CHECK(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) == 0);
	CHECK(set(4, SOL_SOCKET, SO_REUSEADDR, 1));
}

static void check_filtered(void)
{
	for (int fd = 3; fd < 6; fd++) {
		struct sock_filter code[9] = { 0 };
		socklen_t count = FVM_COUNT(code);
		CHECK(getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, code, &count) == 0);
		CHECK(count == 2 && code[1].k == 0x7777);
	}
	CHECK(got(4, SOL_SOCKET, SO_REUSEADDR) == 1 && got(5, SOL_SOCKET, SO_REUSEADDR) == 0);
	CHECK(send(4, "x", 1, 0) == 1 && shutdown(4, SHUT_WR) == 0 && reads_x_and_end(5));
}

static void filters_are_kept(void **state)
{
	(void)state;
	loop_ip = "127.0.0.1";
	moved(make_filtered, check_filtered);
	stayed(make_filtered, check_filtered);
}

/* Who had cut the network dies; somebody goes on for him. */
static void die_with(pid_t pid, bool silent)
{
	int status;
	pid_t killer = fork();
	if (killer == 0) {
		struct vin_files files = { .root = -1, .stopped = true };
		if (vin_files_look(&pid, 1, &files, NULL) < 0 ||
		    vin_netlock_cut(&files, NULL) < 0 ||
		    (silent && vin_netlock_silence(&files, NULL) < 0))
			_exit(1);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(killer, &status, 0), killer);
	assert_true(WIFSIGNALED(status));
}

static void nobody_stays_deaf_when_we_die(void **state)
{
	(void)state;
	loop_ip = "127.0.0.1";
	for (int silent = 0; silent < 2; silent++) {
		int status;
		there_check = check_filtered;
		assert_int_equal(link_setup(NULL), 0);
		pid_t pid = old_victim(make_filtered);
		die_with(pid, silent);
		nap(100);
		board->end = 1;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		last_victim = 0;
		if (status)
			print_error("line %d\n", (int)board->wrong);
		assert_int_equal(status, 0);
	}
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		NET(sockets_that_nobody_talks_to),
		NET(sockets_that_listen),
		NET(options_are_kept),
		NET(a_connection_goes_on),
		NET(much_is_queued),
		NET(what_the_peer_did_not_take_comes_later),
		NET(both_ends_go_together),
		NET(one_way_is_closed),
		NET(whose_peer_has_closed_hears_no_more_of_it),
		NET(who_reads_slowly_hears_the_last_words),
		NET(what_nobody_has_is_waited_for),
		NET(a_fin_that_is_not_heard_is_said_again),
		NET(the_last_ack_is_waited_for),
		NET(both_close_at_once),
		NET(what_has_ended_can_be_read_to_its_end),
		NET(who_connects_goes_on_with_it),
		NET(an_urgent_byte_stays_one),
		NET(an_urgent_byte_comes_before_the_end),
		NET(what_can_not_be_had_now_is_told),
		NET(what_can_not_be_had_at_all_is_refused),
		NET(filters_are_kept),
		NET(nobody_stays_deaf_when_we_die),
	};
	return cmocka_run_group_tests(tests, net_setup, carry_teardown);
}

int main(void)
{
	return carry_main(run);
}
