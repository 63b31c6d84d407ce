#include "tests/vin/carry.h"

#include <sys/ioctl.h>
#include <sys/mount.h>
#include <termios.h>

/* A devpts of our own, in which nobody else takes numbers. */
static int pty_setup(void **state)
{
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("devpts", "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=620") < 0) {
		print_error("no devpts of our own: %s\n", strerror(errno));
		return -1;
	}
	return carry_setup(state);
}

static bool reads(int fd, const char *text)
{
	char got[100] = "";
	struct pollfd p = { .fd = fd, .events = POLLIN };
	/* an echo may come in pieces */
	for (size_t len = 0; len < strlen(text);) {
		ssize_t n =
			poll(&p, 1, 30000) == 1 ? read(fd, got + len, sizeof(got) - 1 - len) : 0;
		if (n <= 0)
			return false;
		len += (size_t)n;
	}
	return strcmp(got, text) == 0;
}

static int master(void)
{
	int fd = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY), unlock = 0;
	CHECK(fd >= 0 && ioctl(fd, TIOCSPTLCK, &unlock) == 0);
	return fd;
}

static void make_pair(void)
{
	struct termios t;
	const struct winsize size = { .ws_row = 33, .ws_col = 77 };
	for (int fd = 3; fd <= 5; fd++)
		CHECK(master() == fd);
	close(3);
	close(4); /* 2 is not the lowest that is free */
	CHECK(open("/dev/pts/2", O_RDWR | O_NOCTTY | O_NONBLOCK) == 3);
	CHECK(open("/dev/pts/2", O_RDONLY | O_NOCTTY) == 4 && dup(5) == 6);
	CHECK(tcgetattr(3, &t) == 0);
	t.c_lflag &= ~(tcflag_t)ECHO;
	t.c_cc[VINTR] = 7;
	CHECK(tcsetattr(3, TCSANOW, &t) == 0 && ioctl(5, TIOCSWINSZ, &size) == 0);
}

static void check_pair(void)
{
	struct termios t;
	struct winsize size;
	unsigned int number;
	CHECK(ioctl(5, TIOCGPTN, &number) == 0 && number == 2);
	CHECK(ioctl(3, TIOCGWINSZ, &size) == 0 && size.ws_row == 33 && size.ws_col == 77);
	CHECK(tcgetattr(4, &t) == 0 && !(t.c_lflag & ECHO) && t.c_lflag & ICANON);
	CHECK(t.c_cc[VINTR] == 7 && fcntl(3, F_GETFL) & O_NONBLOCK);
	CHECK(write(5, "typed\n", 6) == 6 && reads(4, "typed\n"));
	CHECK(write(3, "said\n", 5) == 5 && reads(6, "said\r\n"));
	close(3);
	close(4);
	struct pollfd p = { .fd = 5 };
	CHECK(poll(&p, 1, 30000) == 1 && p.revents & POLLHUP);
}

static void both_ends_of_a_terminal_are_as_they_were(void **state)
{
	(void)state;
	carried(make_pair, check_pair);
}

static void make_packets(void)
{
	const int on = 1;
	CHECK(open("/dev/null", O_RDONLY) == 3 && master() == 4);
	CHECK(ioctl(4, TIOCPKT, &on) == 0);
	CHECK(dup2(open("/dev/pts/0", O_RDWR | O_NOCTTY), 3) == 3); /* a slave below its master */
	close(5);
	CHECK(ioctl(4, TIOCSPTLCK, &on) == 0);
}

static void check_packets(void)
{
	char got[10];
	int locked = 0;
	struct pollfd p = { .fd = 4, .events = POLLIN };
	CHECK(ioctl(4, TIOCGPTLCK, &locked) == 0 && locked == 1);
	CHECK(write(3, "x", 1) == 1 && poll(&p, 1, 30000) == 1);
	CHECK(read(4, got, sizeof(got)) == 2 && got[0] == 0 && got[1] == 'x');
}

static void packet_mode_and_lock_are_kept(void **state)
{
	(void)state;
	carried(make_packets, check_packets);
}

static void make_alone(void)
{
	CHECK(master() == 3 && open("/dev/pts/0", O_RDWR | O_NOCTTY) == 4);
	close(4);
}

static void check_alone(void)
{
	struct pollfd p = { .fd = 3 };
	CHECK(fcntl(4, F_GETFD) < 0 && poll(&p, 1, 0) >= 0);
	CHECK(open("/dev/pts/0", O_RDWR | O_NOCTTY) == 4 && write(4, "x", 1) == 1 && reads(3, "x"));
}

static void a_master_without_a_slave_can_have_one_again(void **state)
{
	(void)state;
	carried(make_alone, check_alone);
}

static bool is_tty(int fd)
{
	char link[40] = "", path[40];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return readlink(path, link, sizeof(link) - 1) == 8 && strcmp(link, "/dev/tty") == 0;
}

static void make_tty(void)
{
	CHECK(master() == 3 && open("/dev/pts/0", O_RDWR | O_NOCTTY) == 4 && setsid() >= 0);
	CHECK(ioctl(4, TIOCSCTTY, 0) == 0 && open("/dev/tty", O_RDWR | O_NONBLOCK) == 5);
	CHECK(open("/dev/tty", O_RDONLY) == 6 && dup2(5, 0) == 0 && is_tty(5));
}

static void check_tty(void)
{
	unsigned int device = 0;
	CHECK(is_tty(5) && is_tty(6) && is_tty(0) && flags_of(5) == (O_RDWR | O_NONBLOCK));
	CHECK(ioctl(6, TIOCGDEV, &device) == 0 && device == 136 << 8);
	CHECK(write(3, "typed\n", 6) == 6 && reads(6, "typed\n") && reads(3, "typed\r\n"));
	CHECK(write(5, "said\n", 5) == 5 && reads(3, "said\r\n"));
	/* nobody has it for his terminal: who has is another matter */
	CHECK(open("/dev/tty", O_RDWR) < 0 && errno == ENXIO && tcgetsid(3) < 0);
}

static void a_terminal_by_its_other_name_is_the_same(void **state)
{
	(void)state;
	carried(make_tty, check_tty);
}

static void make_second_devpts(void)
{
	mkdir("pts", 0755);
	CHECK(mount("devpts", "pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=620") == 0);
	CHECK(master() == 3 && open("pts/ptmx", O_RDWR | O_NOCTTY) == 4);
	int unlock = 0;
	CHECK(ioctl(4, TIOCSPTLCK, &unlock) == 0);
	CHECK(open("/dev/pts/0", O_RDWR | O_NOCTTY) == 5);
	CHECK(open("pts/0", O_RDWR | O_NOCTTY) == 6);
}

static void check_second_devpts(void)
{
	CHECK(write(5, "one\n", 4) == 4 && reads(3, "one\r\n"));
	CHECK(write(6, "two\n", 4) == 4 && reads(4, "two\r\n"));
}

static void terminals_of_one_number_are_told_apart(void **state)
{
	(void)state;
	carried(make_second_devpts, check_second_devpts);
	umount2("pts", MNT_DETACH);
}

static void make_others_slave(void)
{
	make_second_devpts();
	close(4);
	CHECK(open("pts/ptmx", O_RDWR | O_NOCTTY) == 4);
	close(3);
	close(6);
	CHECK(open("pts/ptmx", O_RDWR | O_NOCTTY) == 3);
	/* 5 is of the first, of which no master is left; the second has numbers 0 and 1 */
	umount2("pts", MNT_DETACH);
}

static void a_master_elsewhere_is_not_a_slaves(void **state)
{
	(void)state;
	refused(make_others_slave, "the terminal is gone");
}

/* ---- what is not read yet ---- */

static int reads_bytes(int fd, const void *want, size_t len)
{
	unsigned char got[8192];
	struct pollfd p = { .fd = fd, .events = POLLIN };
	size_t have = 0;
	while (have < len && poll(&p, 1, 30000) == 1) {
		ssize_t n = read(fd, got + have, sizeof(got) - have);
		if (n <= 0)
			break;
		have += (size_t)n;
	}
	return have == len && memcmp(got, want, len) == 0;
}

static bool is_empty(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	return poll(&p, 1, 0) == 0;
}

static void make_unread(void)
{
	make_pair();
	CHECK(write(5, "one\ntwo\n\x16\x04x\x04\x04par", 16) == 16);
	CHECK(write(3, "said\n", 5) == 5);
}

/* 3 does not wait; 4 does. The last line is still being typed. */
static void check_unread(void)
{
	char got[20];
	CHECK(reads(6, "said\r\n") && is_empty(6));
	CHECK(reads(4, "one\n") && reads(4, "two\n") && reads(4, "\x04x"));
	CHECK(read(4, got, sizeof(got)) == 0 && read(3, got, sizeof(got)) < 0 && errno == EAGAIN);
	CHECK(write(5, "\x7ft\n", 3) == 3 && reads(4, "pat\n") && is_empty(4) && is_empty(6));
}

static void what_is_not_read_yet_is_not_lost(void **state)
{
	(void)state;
	kept_and_carried(make_unread, check_unread);
}

static void fill_values(unsigned char values[4000])
{
	for (int i = 0; i < 4000; i++)
		values[i] = (unsigned char)(i * 7);
}

static void make_values(void)
{
	struct termios t;
	unsigned char values[4000];
	fill_values(values);
	make_pair();
	CHECK(tcgetattr(3, &t) == 0);
	cfmakeraw(&t);
	t.c_cc[VMIN] = 9;
	CHECK(tcsetattr(3, TCSANOW, &t) == 0 && write(5, values, 4000) == 4000);
	CHECK(write(3, values, 4000) == 4000);
}

static void check_values(void)
{
	struct termios t;
	unsigned char values[4000];
	fill_values(values);
	CHECK(reads_bytes(4, values, 4000) && reads_bytes(6, values, 4000));
	CHECK(tcgetattr(4, &t) == 0 && t.c_cc[VMIN] == 9 && is_empty(6));
}

static void all_values_of_bytes_are_kept(void **state)
{
	(void)state;
	kept_and_carried(make_values, check_values);
}

/* A line of the program's own words, longer than what is put in at once. */
static void make_long(void)
{
	make_pair();
	for (int i = 0; i < 100; i++)
		CHECK(write(5, "0123456789abcdefghij", 20) == 20);
	CHECK(write(5, "\nsecond", 7) == 7);
}

static void check_long(void)
{
	char got[4096];
	CHECK(read(4, got, sizeof(got)) == 2001 && got[2000] == '\n' && got[1999] == 'j');
	CHECK(write(5, "\n", 1) == 1 && reads(4, "second\n"));
}

static void a_long_line_is_one_line(void **state)
{
	(void)state;
	kept_and_carried(make_long, check_long);
}

static bool can_write(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	return poll(&p, 1, 0) == 1;
}

static bool stops(int fd)
{
	for (int i = 0; i < 30000 && can_write(fd); i++)
		nap(1);
	return !can_write(fd);
}

static void make_stopped(void)
{
	make_pair();
	CHECK(write(3, "before\n", 7) == 7 && write(5, "\x13", 1) == 1 && stops(3));
}

static void check_stopped(void)
{
	CHECK(!can_write(3) && reads(6, "before\r\n"));
	CHECK(write(5, "\x11", 1) == 1 && write(4, "", 0) < 0);
	for (int i = 0; i < 30000 && !can_write(3); i++)
		nap(1);
	CHECK(write(3, "after\n", 6) == 6 && reads(6, "after\r\n"));
	CHECK(write(5, "typed\n", 6) == 6 && reads(4, "typed\n"));
}

static void output_that_a_key_has_stopped_stays_so(void **state)
{
	(void)state;
	kept_and_carried(make_stopped, check_stopped);
}

static void make_stopped_by_call(void)
{
	make_pair();
	CHECK(write(3, "before\n", 7) == 7 && tcflow(3, TCOOFF) == 0 && write(5, "x\n", 2) == 2);
}

static void check_stopped_by_call(void)
{
	CHECK(!can_write(3) && reads(6, "before\r\n") && reads(4, "x\n"));
	CHECK(write(5, "\x11", 1) == 1 && !can_write(3));
	CHECK(tcflow(3, TCOON) == 0 && write(3, "after\n", 6) == 6 && reads(6, "after\r\n"));
}

static void output_that_a_call_has_stopped_stays_so(void **state)
{
	(void)state;
	kept_and_carried(make_stopped_by_call, check_stopped_by_call);
}

static void make_last_words(void)
{
	make_pair();
	CHECK(write(3, "bye\n", 4) == 4);
	close(3);
	close(4);
}

static void check_last_words(void)
{
	char c;
	CHECK(reads(6, "bye\r\n") && read(6, &c, 1) < 0 && errno == EIO);
	CHECK(open("/dev/pts/2", O_RDWR | O_NOCTTY) == 3 && write(3, "more", 4) == 4);
	CHECK(reads(6, "more"));
}

static void last_words_are_heard_and_the_end_behind_them(void **state)
{
	(void)state;
	kept_and_carried(make_last_words, check_last_words);
}

static void make_unread_packets(void)
{
	const int on = 1;
	make_pair();
	CHECK(ioctl(5, TIOCPKT, &on) == 0 && write(3, "said", 4) == 4 && write(5, "x", 1) == 1);
}

static void check_unread_packets(void)
{
	char got[10];
	CHECK(read(6, got, sizeof(got)) == 5 && memcmp(got, "\0said", 5) == 0);
	CHECK(is_empty(6) && write(5, "y\n", 2) == 2 && reads(4, "xy\n"));
}

static void packets_keep_their_first_byte(void **state)
{
	(void)state;
	kept_and_carried(make_unread_packets, check_unread_packets);
}

static void make_told(void)
{
	const int on = 1;
	make_pair();
	CHECK(ioctl(5, TIOCPKT, &on) == 0 && tcflush(3, TCIOFLUSH) == 0);
}

static void what_a_packet_has_to_tell_is_told_first(void **state)
{
	(void)state;
	refused(make_told, "what happened to a terminal is not told yet");
}

static void make_orphan(void)
{
	make_pair();
	close(5);
	close(6);
}

static void a_terminal_that_is_gone_is_refused(void **state)
{
	(void)state;
	refused(make_orphan, "the terminal is gone");
}

/* The test has the master. */
static void another_programs_terminal_is_refused(void **state)
{
	(void)state;
	scoped_fd own = master(), slave = open("/dev/pts/0", O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(own >= 0 && slave >= 0);
	bystander_refused(slave, -1);
	assert_non_null(strstr(err.text, "whose terminal it is, is another program"));
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		CARRY(both_ends_of_a_terminal_are_as_they_were),
		CARRY(packet_mode_and_lock_are_kept),
		CARRY(a_master_without_a_slave_can_have_one_again),
		CARRY(a_terminal_by_its_other_name_is_the_same),
		CARRY(terminals_of_one_number_are_told_apart),
		CARRY(a_master_elsewhere_is_not_a_slaves),
		CARRY(what_is_not_read_yet_is_not_lost),
		CARRY(all_values_of_bytes_are_kept),
		CARRY(a_long_line_is_one_line),
		CARRY(output_that_a_key_has_stopped_stays_so),
		CARRY(output_that_a_call_has_stopped_stays_so),
		CARRY(last_words_are_heard_and_the_end_behind_them),
		CARRY(packets_keep_their_first_byte),
		CARRY(what_a_packet_has_to_tell_is_told_first),
		CARRY(a_terminal_that_is_gone_is_refused),
		CARRY(another_programs_terminal_is_refused),
	};
	return cmocka_run_group_tests(tests, pty_setup, carry_teardown);
}

int main(void)
{
	return carry_main(run);
}
