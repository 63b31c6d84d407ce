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
		ssize_t n = poll(&p, 1, 2000) == 1 ? read(fd, got + len, sizeof(got) - 1 - len) : 0;
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
	CHECK(poll(&p, 1, 2000) == 1 && p.revents & POLLHUP);
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
	CHECK(write(3, "x", 1) == 1 && poll(&p, 1, 2000) == 1);
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

static void make_unread(void)
{
	make_pair();
	CHECK(write(5, "typed\n", 6) == 6);
	int queued = 0;
	for (int i = 0; i < 1000 && queued == 0; i++, nap(1))
		ioctl(4, FIONREAD, &queued);
}

static void what_is_not_read_yet_is_not_lost(void **state)
{
	(void)state;
	refused(make_unread, "6 bytes of a terminal are not read yet");
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
		CARRY(a_terminal_that_is_gone_is_refused),
		CARRY(another_programs_terminal_is_refused),
	};
	return cmocka_run_group_tests(tests, pty_setup, carry_teardown);
}

int main(void)
{
	return carry_main(run);
}
