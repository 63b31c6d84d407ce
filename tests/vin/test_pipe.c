#include "tests/vin/carry.h"

#include <sys/ioctl.h>

static int queued(int fd)
{
	int n = -1;
	return ioctl(fd, FIONREAD, &n) < 0 ? -1 : n;
}

static short poll_of(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };
	return poll(&p, 1, 0) < 0 ? -1 : p.revents;
}

static bool reads(int fd, const char *text)
{
	char got[100] = "";
	ssize_t n = read(fd, got, sizeof(got) - 1);
	return n == (ssize_t)strlen(text) && strcmp(got, text) == 0;
}

static void make_queue(void)
{
	int p[2];
	CHECK(pipe2(p, O_CLOEXEC) == 0 && p[0] == 3 && p[1] == 4);
	CHECK(fcntl(4, F_SETFL, O_NONBLOCK) == 0 && fcntl(4, F_SETPIPE_SZ, 8192) == 8192);
	CHECK(write(4, "hello ", 6) == 6 && write(4, "world", 5) == 5);
}

static void check_queue(void)
{
	CHECK(queued(3) == 11 && fcntl(3, F_GETPIPE_SZ) == 8192);
	CHECK(fcntl(3, F_GETFD) == FD_CLOEXEC);
	CHECK((fcntl(3, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == O_RDONLY);
	CHECK((fcntl(4, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == (O_WRONLY | O_NONBLOCK));
	CHECK(poll_of(3, POLLIN) == POLLIN && poll_of(4, POLLOUT) == POLLOUT);
	CHECK(reads(3, "hello world") && poll_of(3, POLLIN) == 0);
	CHECK(write(4, "x", 1) == 1 && reads(3, "x"));
	close(4);
	CHECK(poll_of(3, POLLIN) == POLLHUP && read(3, &(char){ 0 }, 1) == 0);
}

static void a_pipe_has_what_was_queued_in_it(void **state)
{
	(void)state;
	carried(make_queue, check_queue);
}

static void make_full(void)
{
	char piece[4096];
	int p[2];
	CHECK(pipe2(p, O_NONBLOCK) == 0);
	memset(piece, 'p', sizeof(piece));
	while (write(4, piece, sizeof(piece)) > 0)
		;
}

static void check_full(void)
{
	char all[70000];
	CHECK(poll_of(4, POLLOUT) == 0 && write(4, "x", 1) < 0 && errno == EAGAIN);
	CHECK(read(3, all, sizeof(all)) == fcntl(3, F_GETPIPE_SZ));
	CHECK(all[0] == 'p' && queued(3) == 0 && poll_of(4, POLLOUT) == POLLOUT);
}

static void a_full_pipe_is_full(void **state)
{
	(void)state;
	carried(make_full, check_full);
}

static void make_packets(void)
{
	int p[2];
	CHECK(pipe2(p, O_DIRECT) == 0);
	CHECK(write(4, "one", 3) == 3 && write(4, "three", 5) == 5 && write(4, "x", 1) == 1);
}

static void check_packets(void)
{
	CHECK(fcntl(4, F_GETFL) & O_DIRECT);
	CHECK(reads(3, "one") && reads(3, "three") && reads(3, "x") && queued(3) == 0);
	CHECK(write(4, "a", 1) == 1 && write(4, "b", 1) == 1 && reads(3, "a") && reads(3, "b"));
}

static void packets_stay_apart(void **state)
{
	(void)state;
	carried(make_packets, check_packets);
}

static void make_packets_left(void)
{
	make_packets();
	close(4);
}

static void check_packets_left(void)
{
	CHECK(reads(3, "one") && reads(3, "three") && reads(3, "x"));
	CHECK(poll_of(3, POLLIN) == POLLHUP);
}

static void packets_stay_apart_when_their_writer_is_gone(void **state)
{
	(void)state;
	carried(make_packets_left, check_packets_left);
}

static void make_no_reader(void)
{
	make_queue();
	close(3);
}

static void check_no_reader(void)
{
	signal(SIGPIPE, SIG_IGN);
	CHECK(fcntl(3, F_GETFD) < 0);
	CHECK(poll_of(4, POLLOUT) & POLLERR);
	CHECK(write(4, "x", 1) < 0 && errno == EPIPE);
}

static void a_pipe_without_a_reader_is_broken(void **state)
{
	(void)state;
	carried(make_no_reader, check_no_reader);
}

static void make_shared(void)
{
	make_queue();
	CHECK(dup2(3, 10) == 10 && fcntl(3, F_SETFL, O_NONBLOCK) == 0);
	CHECK(open("/proc/self/fd/3", O_RDONLY) == 5);
}

static void check_shared(void)
{
	CHECK(fcntl(10, F_GETFL) & O_NONBLOCK && !(fcntl(5, F_GETFL) & O_NONBLOCK));
	CHECK(fcntl(10, F_SETFL, 0) == 0 && !(fcntl(3, F_GETFL) & O_NONBLOCK));
	CHECK(reads(5, "hello world"));
}

static void ends_that_are_the_same_stay_so(void **state)
{
	(void)state;
	carried(make_shared, check_shared);
	no_kcmp = true;
	carried(make_shared, check_shared);
	no_kcmp = false;
}

static void make_fifo(void)
{
	CHECK(mkfifo("fifo", 0600) == 0);
	CHECK(open("fifo", O_RDWR) == 3 && write(3, "queued", 6) == 6);
	CHECK(open("fifo", O_RDONLY | O_NONBLOCK) == 4 && open("fifo", O_WRONLY) == 5);
}

static void check_fifo(void)
{
	CHECK(reads(4, "queued") && write(5, "more", 4) == 4 && reads(3, "more"));
	CHECK(fcntl(4, F_GETFL) & O_NONBLOCK);
	scoped_fd own = open("fifo", O_WRONLY | O_NONBLOCK);
	CHECK(own >= 0 && write(own, "by name", 7) == 7 && reads(4, "by name"));
	unlink("fifo");
}

static void a_fifo_has_what_was_queued_in_it(void **state)
{
	(void)state;
	carried(make_fifo, check_fifo);
}

static void make_untouched(void)
{
	CHECK(mkfifo("fifo", 0600) == 0 && open("fifo", O_RDONLY | O_NONBLOCK) == 3);
}

static void check_untouched(void)
{
	CHECK(poll_of(3, POLLIN) == 0);
	int writer = open("fifo", O_WRONLY);
	CHECK(writer >= 0 && write(writer, "a", 1) == 1 && reads(3, "a"));
	close(writer);
	CHECK(poll_of(3, POLLIN) == POLLHUP);
	unlink("fifo");
}

static void a_fifo_that_waits_for_its_first_writer_still_does(void **state)
{
	(void)state;
	carried(make_untouched, check_untouched);
}

static void make_left_fifo(void)
{
	make_untouched();
	int writer = open("fifo", O_WRONLY);
	CHECK(writer == 4 && write(writer, "last", 4) == 4);
	close(writer);
	unlink("fifo");
}

static void check_left_fifo(void)
{
	CHECK(poll_of(3, POLLIN) == (POLLIN | POLLHUP) && reads(3, "last"));
	CHECK(poll_of(3, POLLIN) == POLLHUP && access("fifo", F_OK) < 0);
}

static void a_deleted_fifo_is_one_without_a_name(void **state)
{
	(void)state;
	carried(make_left_fifo, check_left_fifo);
}

static int outside[2];

static void a_pipe_that_leads_out_is_refused(void **state)
{
	(void)state;
	assert_int_equal(pipe(outside), 0);
	bystander_refused(-1, outside[1]);
	assert_non_null(strstr(err.text, "descriptor 3"));
	assert_non_null(strstr(err.text, "who reads it is another program"));
	victim_kill(NULL);
	close(outside[0]);
	close(outside[1]);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		CARRY(a_pipe_has_what_was_queued_in_it),
		CARRY(a_full_pipe_is_full),
		CARRY(packets_stay_apart),
		CARRY(packets_stay_apart_when_their_writer_is_gone),
		CARRY(a_pipe_without_a_reader_is_broken),
		CARRY(ends_that_are_the_same_stay_so),
		CARRY(a_fifo_has_what_was_queued_in_it),
		CARRY(a_fifo_that_waits_for_its_first_writer_still_does),
		CARRY(a_deleted_fifo_is_one_without_a_name),
		CARRY(a_pipe_that_leads_out_is_refused),
	};
	return cmocka_run_group_tests(tests, carry_setup, carry_teardown);
}

int main(void)
{
	return carry_main(run);
}
