/* Rings of asynchronous I/O, as io_setup(2), io_submit(2), io_getevents(2) and io_cancel(2) have
 * them: contexts, events that nobody fetched yet, requests in flight. */
#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include "worlds.h"

struct ring {
	unsigned int id, nr, head, tail, magic, compat, incompat, length;
	struct io_event events[];
};

static aio_context_t ring, other;
static int file;

static aio_context_t make_ring(unsigned int requests)
{
	aio_context_t c = 0;
	CHECK(syscall(SYS_io_setup, requests, &c) == 0);
	return c;
}

static struct iocb request(uint16_t what, int fd, uint64_t data)
{
	static char letters[8];
	return (struct iocb){ .aio_lio_opcode = what,
			      .aio_fildes = (uint32_t)fd,
			      .aio_data = data,
			      .aio_buf = what == IOCB_CMD_POLL ? POLLIN : (uint64_t)letters,
			      .aio_nbytes = what == IOCB_CMD_POLL ? 0 : 1 };
}

static long submit(aio_context_t c, struct iocb *r)
{
	return syscall(SYS_io_submit, c, 1L, &r);
}

static long fetch(aio_context_t c, long least, long most, struct io_event *ret)
{
	return syscall(SYS_io_getevents, c, least, most, ret, NULL);
}

/* Requests that are done at once, numbered from @first on. */
static void write_some(aio_context_t c, uint64_t first, unsigned int count)
{
	for (uint64_t i = first; i < first + count; i++) {
		struct iocb r = request(IOCB_CMD_PWRITE, file, i);
		CHECK(submit(c, &r) == 1);
	}
}

static void fetch_some(aio_context_t c, uint64_t first, unsigned int count)
{
	struct io_event e;
	for (uint64_t i = first; i < first + count; i++)
		CHECK(fetch(c, 1, 1, &e) == 1 && e.data == i && e.res == 1);
}

static void open_file(void)
{
	file = memfd_create("file", 0);
	CHECK(file >= 0);
}

/* How many requests there may be until the kernel says EAGAIN; all are fetched again. */
static unsigned int capacity(aio_context_t c)
{
	struct iocb r = request(IOCB_CMD_PWRITE, file, 7);
	struct io_event e;
	unsigned int n = 0;
	while (submit(c, &r) == 1)
		n++;
	for (unsigned int i = 0; i < n; i++)
		CHECK(fetch(c, 1, 1, &e) == 1 && e.data == 7);
	CHECK(fetch(c, 0, 1, &e) == 0);
	return n;
}

/* Of a fresh one of the size; some places may be with a processor that we are not on. */
static void whole(aio_context_t c, unsigned int requests)
{
	CHECK(capacity(c) >= requests);
}

/* ---- rings that go on ---- */

static void empty_ring(void)
{
	ring = make_ring(100);
	open_file();
}

static void it_is_of_use(void)
{
	open_file();
	write_some(ring, 1, 50);
	fetch_some(ring, 1, 50);
	whole(ring, 100);
	CHECK(syscall(SYS_io_destroy, ring) == 0);
}

static void a_ring_that_was_never_used(void **state)
{
	(void)state;
	goes_on(empty_ring, it_is_of_use, 0);
}

static void ring_with_events(void)
{
	empty_ring();
	write_some(ring, 1, 60);
	fetch_some(ring, 1, 40);
	board->seen[0] = ((struct ring *)ring)->head;
	board->seen[1] = ((struct ring *)ring)->tail;
}

static void its_events(void)
{
	const struct ring *r = (const struct ring *)ring;
	CHECK(r->head == board->seen[0] && r->tail == board->seen[1]);
	CHECK(r->events[r->head].data == 41);
	fetch_some(ring, 41, 20);
	it_is_of_use();
}

static void events_that_nobody_fetched_yet(void **state)
{
	(void)state;
	goes_on(ring_with_events, its_events, 0);
}

/* So many that there are events at the end and at the beginning of the ring. */
static void ring_around_its_end(void)
{
	empty_ring();
	const unsigned int nr = ((struct ring *)ring)->nr;
	for (unsigned int done = 0; done < 3 * nr - 20; done++) {
		write_some(ring, 1, 1);
		fetch_some(ring, 1, 1);
	}
	write_some(ring, 1, 60);
	CHECK(((struct ring *)ring)->tail < ((struct ring *)ring)->head);
	board->seen[0] = ((struct ring *)ring)->head;
	board->seen[1] = ((struct ring *)ring)->tail;
}

static void events_around_its_end(void)
{
	const struct ring *r = (const struct ring *)ring;
	CHECK(r->head == board->seen[0] && r->tail == board->seen[1]);
	fetch_some(ring, 1, 60);
	it_is_of_use();
}

static void events_around_the_end(void **state)
{
	(void)state;
	goes_on(ring_around_its_end, events_around_its_end, 0);
}

/* Until it is full: that the kernel counts what is there is seen by what there is room for. */
static void full_ring(void)
{
	struct iocb r;
	empty_ring();
	write_some(ring, 1, 10);
	fetch_some(ring, 1, 10);
	for (board->seen[0] = 0;; board->seen[0]++) {
		r = request(IOCB_CMD_PWRITE, file, board->seen[0]);
		if (submit(ring, &r) != 1)
			break;
	}
	CHECK(errno == EAGAIN);
}

static void it_is_full(void)
{
	struct iocb r;
	open_file();
	r = request(IOCB_CMD_PWRITE, file, 1);
	CHECK(submit(ring, &r) < 0 && errno == EAGAIN);
	fetch_some(ring, 0, (unsigned int)board->seen[0]);
	it_is_of_use();
}

static void a_ring_that_is_full(void **state)
{
	(void)state;
	goes_on(full_ring, it_is_full, 0);
}

static void many_rings(void)
{
	ring_with_events();
	other = make_ring(5000);
	write_some(other, 100, 4000);
	fetch_some(other, 100, 3500);
	CHECK(make_ring(1) != 0);
}

static void the_many(void)
{
	fetch_some(other, 3600, 500);
	open_file();
	whole(other, 5000);
	its_events();
}

static void several_rings_and_a_large_one(void **state)
{
	(void)state;
	goes_on(many_rings, the_many, 0);
}

/* ---- who waits ---- */

static void *wait_for_one(void *arg)
{
	struct io_event e = { 0 };
	(void)arg;
	long n = fetch(ring, 1, 1, &e);
	CHECK(n == 1 && e.data == 77);
	board->seen[2]++;
	return NULL;
}

static pthread_t waiter;

static void ring_with_waiter(void)
{
	empty_ring();
	CHECK(pthread_create(&waiter, NULL, wait_for_one, NULL) == 0);
}

static void he_is_told(void)
{
	open_file();
	write_some(ring, 77, 1);
	CHECK(pthread_join(waiter, NULL) == 0 && board->seen[2] > 0);
	it_is_of_use();
}

static void a_thread_that_waits_for_events(void **state)
{
	(void)state;
	goes_on(ring_with_waiter, he_is_told, 0);
}

static void ring_of_parent(void)
{
	empty_ring();
	pid_t child = fork();
	if (child == 0) {
		/* no context of ours */
		while (!board->end)
			nap(1);
		struct io_event e;
		_exit(fetch(ring, 0, 1, &e) < 0 && errno == EINVAL ? 0 : 1);
	}
	CHECK(child > 0);
}

static void childs_and_ours(void)
{
	int status;
	CHECK(wait(&status) > 0 && status == 0);
	it_is_of_use();
}

static void what_a_child_inherits_is_no_ring(void **state)
{
	(void)state;
	goes_on(ring_of_parent, childs_and_ours, 0);
}

static void ring_of_the_dead(void)
{
	int status;
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	pid_t child = fork();
	if (child == 0) {
		empty_ring();
		if (fork() > 0)
			_exit(0);
		while (!board->end)
			nap(1);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void it_is_alone(void)
{
	int status;
	CHECK(wait(&status) > 0 && status == 0);
}

static void what_is_left_of_one_is_no_ring(void **state)
{
	(void)state;
	goes_on(ring_of_the_dead, it_is_alone, 0);
}

/* ---- in flight ---- */

static int bell = -1; /* of the test, too */

static int new_bell(void **state)
{
	(void)state;
	bell = eventfd(0, EFD_NONBLOCK);
	return bell < 0;
}

static int end_bell(void **state)
{
	close(bell);
	bell = -1;
	return world_kill(state);
}

static void ring_with_flight(void)
{
	struct iocb r = request(IOCB_CMD_POLL, bell, 90);
	ring_with_events();
	CHECK(submit(ring, &r) == 1);
}

static int stop(pid_t pid, struct vin_capture **c)
{
	err = (struct fvm_error){ 0 };
	OK(vin_capture_open(&pid, 1, &bare, c, &err));
	return vin_capture_stop(*c, 30000, &err);
}

static void one_in_flight_is_named(void **state)
{
	(void)state;
	struct vin_capture *c;
	pid_t pid = world_begin(ring_with_flight, its_events, 0);
	assert_int_equal(stop(pid, &c), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "1 requests are in flight"));
	vin_capture_close(c);
	/* and nothing has changed */
	world_end(pid);
}

static void then_the_bell(void)
{
	struct io_event e;
	fetch_some(ring, 41, 20);
	CHECK(fetch(ring, 1, 1, &e) == 1 && e.data == 90 && e.res == POLLIN);
	it_is_of_use();
}

/* Rings it when @pid is stopped. */
static pid_t ringer(pid_t pid)
{
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int i = 0; i < 30000 && process_state(pid) != 't'; i++)
			nap(1);
		nap(20);
		const uint64_t one = 1;
		_exit(write(bell, &one, sizeof(one)) != sizeof(one));
	}
	return child;
}

static void one_in_flight_is_waited_for(void **state)
{
	(void)state;
	int status;
	pid_t pid = world_begin(ring_with_flight, then_the_bell, 0);
	pid_t child = ringer(pid);
	FILE *image = world_capture(pid, false);
	assert_int_equal(waitpid(child, &status, 0), child);
	waitpid(pid, NULL, 0);
	last_world = 0;
	world_again(image, 0);
	fclose(image);
}

static void all_in_flight(void)
{
	struct iocb r = request(IOCB_CMD_POLL, bell, 1);
	empty_ring();
	for (board->seen[0] = 0; submit(ring, &r) == 1; board->seen[0]++)
		;
	CHECK(errno == EAGAIN && board->seen[0] >= 100);
}

static void all_have_come(void)
{
	struct io_event e;
	for (uint64_t i = 0; i < board->seen[0]; i++)
		CHECK(fetch(ring, 1, 1, &e) == 1 && e.data == 1 && e.res == POLLIN);
	it_is_of_use();
}

static void as_many_as_there_can_be_are_waited_for(void **state)
{
	(void)state;
	int status;
	pid_t pid = world_begin(all_in_flight, all_have_come, 0);
	pid_t child = ringer(pid);
	FILE *image = world_capture(pid, true);
	assert_int_equal(waitpid(child, &status, 0), child);
	world_end(pid);
	world_again(image, 0);
	fclose(image);
}

/* ---- at work ---- */

#define DEPTH 16
#define BLOCK 4096

/* Blocks are written and read, past the cache where there is a disk, and each says what it is. */
static void *work(void *arg)
{
	char path[] = "/tmp/vin-aio-XXXXXX";
	int fd = mkstemp(path);
	struct iocb requests[DEPTH], *list[DEPTH];
	struct io_event events[DEPTH];
	uint64_t *blocks = aligned_alloc(BLOCK, DEPTH * BLOCK);
	(void)arg;
	CHECK(fd >= 0 && unlink(path) == 0 && blocks);
	(void)fcntl(fd, F_SETFL, O_DIRECT); /* not on a tmpfs */
	for (uint64_t round = 0; !board->end; round++) {
		const bool read = round & 1;
		for (size_t i = 0; i < DEPTH; i++) {
			uint64_t *block = blocks + i * BLOCK / sizeof(*blocks);
			requests[i] = (struct iocb){
				.aio_lio_opcode = read ? IOCB_CMD_PREAD : IOCB_CMD_PWRITE,
				.aio_fildes = (uint32_t)fd,
				.aio_data = round * DEPTH + i,
				.aio_buf = (uint64_t)block,
				.aio_nbytes = BLOCK,
				.aio_offset = (int64_t)(i * BLOCK),
			};
			list[i] = &requests[i];
			*block = read ? 0 : round * DEPTH + i;
		}
		uint64_t seen = 0;
		for (long done = 0; done < DEPTH;) {
			const long n = syscall(SYS_io_submit, ring, DEPTH - done, list + done);
			CHECK(n > 0);
			done += n > 0 ? n : 0;
		}
		while (seen != (1 << DEPTH) - 1) {
			long n = fetch(ring, 1, DEPTH, events);
			CHECK(n > 0 || errno == EINTR);
			for (long i = 0; i < n; i++) {
				const uint64_t which = events[i].data - round * DEPTH;
				CHECK(which < DEPTH && !(seen >> which & 1));
				CHECK(events[i].res == BLOCK);
				seen |= 1ULL << which;
			}
		}
		for (size_t i = 0; read && i < DEPTH; i++)
			CHECK(blocks[i * BLOCK / sizeof(*blocks)] == (round - 1) * DEPTH + i);
		board->seen[3]++;
	}
	return NULL;
}

static pthread_t worker;

static void busy_ring(void)
{
	ring = make_ring(64);
	CHECK(pthread_create(&worker, NULL, work, NULL) == 0);
}

static void it_was_busy(void)
{
	CHECK(pthread_join(worker, NULL) == 0 && board->seen[3] > 0);
}

static void a_busy_one_misses_nothing(void **state)
{
	(void)state;
	pid_t pid = world_begin(busy_ring, it_was_busy, 0);
	for (int i = 0; i < 30; i++) {
		const uint64_t before = board->seen[3];
		fclose(world_capture(pid, true));
		for (int ms = 0; ms < 30000 && board->seen[3] < before + 3 && !board->wrong; ms++)
			nap(1);
	}
	world_end(pid);
}

/* ---- what can't be had ---- */

static void half_a_ring(void)
{
	ring = make_ring(1000);
	CHECK(munmap((char *)ring + 4096, 4096) == 0);
}

static void part_of_a_ring_is_refused(void **state)
{
	(void)state;
	world_refused(half_a_ring, "ring of asynchronous I/O", 0);
}

/* ---- hops ---- */

static pid_t only_child(pid_t pid)
{
	char path[64];
	pid_t child = 0;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%d", &child), 1);
	fclose(f);
	return child;
}

static void three_hops(void **state)
{
	(void)state;
	pid_t pid = world_begin(ring_around_its_end, events_around_its_end, 0), world = 0;
	for (int hop = 0; hop < 3; hop++) {
		FILE *image = world_capture(pid, false);
		waitpid(world ? world : pid, NULL, 0);
		board->done = 0;
		world = last_world = fork_below();
		assert_true(world >= 0);
		if (world == 0)
			live_again(image, 0);
		for (int i = 0; i < 30000 && !board->done && !board->wrong; i++)
			nap(1);
		assert_int_equal(board->done, 1);
		fclose(image);
		pid = only_child(only_child(world));
	}
	world_end(world);
}

#define RUNG(name) cmocka_unit_test_setup_teardown(name, new_bell, end_bell)

static int run(void)
{
	const struct CMUnitTest tests[] = {
		WORLD(a_ring_that_was_never_used),
		WORLD(events_that_nobody_fetched_yet),
		WORLD(events_around_the_end),
		WORLD(a_ring_that_is_full),
		WORLD(several_rings_and_a_large_one),
		WORLD(a_thread_that_waits_for_events),
		WORLD(what_a_child_inherits_is_no_ring),
		WORLD(what_is_left_of_one_is_no_ring),
		RUNG(one_in_flight_is_named),
		RUNG(one_in_flight_is_waited_for),
		RUNG(as_many_as_there_can_be_are_waited_for),
		WORLD(part_of_a_ring_is_refused),
		WORLD(a_busy_one_misses_nothing),
		WORLD(three_hops),
	};
	return cmocka_run_group_tests(tests, worlds_setup, worlds_teardown);
}

int main(void)
{
	return worlds_main(run);
}
