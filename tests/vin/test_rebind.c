/* Descriptors of a program that waits, swapped under it; and what is left when that fails. */
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>

#include "victim.h"
#include "vin/fdinfo.h"
#include "vin/rebind.h"

static struct fvm_error err;
static int first[2], second[2], epoll;

/* Waits for the first pipe's end, by an epoll; says what it reads at that number. */
static void reader(void)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 77 };
	char byte = 0;
	epoll = epoll_create1(0);
	board->wrong += epoll_ctl(epoll, EPOLL_CTL_ADD, first[0], &event) < 0;
	board->ready = 1;
	while (epoll_wait(epoll, &event, 1, -1) < 0)
		board->wrong += errno != EINTR;
	board->wrong += event.data.u64 != 77;
	board->wrong += read(first[0], &byte, 1) != 1;
	board->seen = (uint64_t)byte;
}

static pid_t start(void)
{
	err = (struct fvm_error){ 0 };
	assert_int_equal(pipe2(first, O_CLOEXEC), 0);
	assert_int_equal(pipe2(second, O_CLOEXEC), 0);
	epoll = second[1] + 1; /* the next number, there as here */
	return victim(reader, false);
}

static void end(void)
{
	for (int i = 0; i < 2; i++) {
		close(first[i]);
		close(second[i]);
	}
}

static int rebind(pid_t pid, const struct vin_end *ends, size_t count, int old, int fresh)
{
	struct vin_tree tree = { 0 };
	assert_int_equal(vin_tree_seize(&pid, 1, 30000, &tree, &err), 0);
	int r = vin_rebind(&tree, ends, count, old, fresh, &err);
	vin_tree_release(&tree);
	return r;
}

/* Descriptors that @pid has. */
static int held(pid_t pid)
{
	int count = 0;
	for (int i = 0; i < 256; i++) {
		char path[48];
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, i);
		count += faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
	}
	return count;
}

static void who_waits_gets_what_comes_by_the_new_one(void **state)
{
	(void)state;
	pid_t pid = start();
	const struct vin_end ends[] = { { pid, first[0] } };
	const int before = held(pid);
	assert_int_equal(rebind(pid, ends, 1, first[0], second[0]), 0);
	assert_true(vin_leads_to(pid, first[0], second[0]));
	assert_int_equal(held(pid), before);
	assert_int_equal(write(second[1], "x", 1), 1);
	victim_end(pid);
	assert_int_equal(board->seen, 'x');
	end();
}

/* An epoll can't watch a regular file: by then the first of the two has been swapped. */
static void after_a_failure_all_have_what_they_had(void **state)
{
	(void)state;
	scoped_fd file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	pid_t pid = start();
	const int before = held(pid);
	const struct vin_end one[] = { { pid, first[0] } };
	assert_int_equal(rebind(pid, one, 1, first[0], file), -EPERM);
	assert_true(vin_leads_to(pid, first[0], first[0]));
	assert_int_equal(held(pid), before);
	scoped_fdinfo info = { 0 };
	assert_int_equal(vin_fdinfo_read(pid, epoll, &info, &err), 0);
	assert_int_equal(info.item_count, 1);
	assert_int_equal(info.items[0].data, 77);
	assert_int_equal(write(first[1], "y", 1), 1);
	victim_end(pid);
	assert_int_equal(board->seen, 'y');
	end();
}

static void a_descriptor_that_is_another_by_now_is_left_alone(void **state)
{
	(void)state;
	pid_t pid = start();
	const struct vin_end ends[] = { { pid, second[0] } };
	assert_int_equal(rebind(pid, ends, 1, first[0], second[1]), -ESTALE);
	assert_true(vin_leads_to(pid, second[0], second[0]));
	assert_int_equal(write(first[1], "z", 1), 1);
	victim_end(pid);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(who_waits_gets_what_comes_by_the_new_one, victim_kill),
		cmocka_unit_test_teardown(after_a_failure_all_have_what_they_had, victim_kill),
		cmocka_unit_test_teardown(a_descriptor_that_is_another_by_now_is_left_alone,
					  victim_kill),
	};
	return cmocka_run_group_tests(tests, victims_setup, victims_teardown);
}
