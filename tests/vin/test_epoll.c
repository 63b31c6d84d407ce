#include "tests/vin/carry.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

static void add(int ep, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event e = { .events = events, .data.u64 = data };
	CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e) == 0);
}

/* What is told first; 0: nothing. */
static uint64_t told(int ep)
{
	struct epoll_event e;
	int n = epoll_wait(ep, &e, 1, 0);
	CHECK(n >= 0);
	return n == 0 ? 0 : e.data.u64;
}

static void make_levels(void)
{
	CHECK(epoll_create1(EPOLL_CLOEXEC) == 3 && eventfd(0, 0) == 4 && eventfd(1, 0) == 5);
	add(3, 4, EPOLLIN, 44);
	add(3, 5, EPOLLIN, 0xfeedfacecafebeefULL);
}

static void check_levels(void)
{
	uint64_t n;
	CHECK(fcntl(3, F_GETFD) == FD_CLOEXEC);
	CHECK(told(3) == 0xfeedfacecafebeefULL && told(3) == 0xfeedfacecafebeefULL);
	CHECK(read(5, &n, 8) == 8 && told(3) == 0);
	CHECK(eventfd_write(4, 1) == 0 && told(3) == 44);
	struct epoll_event e = { .events = EPOLLOUT, .data.u64 = 9 };
	CHECK(epoll_ctl(3, EPOLL_CTL_MOD, 4, &e) == 0 && told(3) == 9);
	CHECK(epoll_ctl(3, EPOLL_CTL_DEL, 4, NULL) == 0 &&
	      epoll_ctl(3, EPOLL_CTL_DEL, 5, NULL) == 0);
	CHECK(epoll_ctl(3, EPOLL_CTL_DEL, 5, NULL) < 0 && errno == ENOENT);
}

static void an_epoll_watches_what_it_did(void **state)
{
	(void)state;
	carried(make_levels, check_levels);
	no_kcmp = true;
	carried(make_levels, check_levels);
	no_kcmp = false;
}

static void make_edges(void)
{
	CHECK(epoll_create1(0) == 3 && eventfd(7, 0) == 4 && epoll_create1(0) == 5);
	add(3, 4, EPOLLIN | EPOLLET, 1);
	CHECK(told(3) == 1);
	CHECK(told(3) == 0);
	add(5, 4, EPOLLIN | EPOLLET, 2); /* not told yet */
}

static void check_edges(void)
{
	CHECK(told(3) == 0 && told(5) == 2 && told(5) == 0);
	CHECK(eventfd_write(4, 1) == 0 && told(3) == 1 && told(3) == 0 && told(5) == 2);
}

static void an_edge_is_told_once(void **state)
{
	(void)state;
	carried(make_edges, check_edges);
}

static void make_once(void)
{
	CHECK(epoll_create1(0) == 3 && eventfd(1, 0) == 4 && eventfd(1, 0) == 5);
	add(3, 4, EPOLLIN | EPOLLONESHOT, 1);
	CHECK(told(3) == 1);
	CHECK(told(3) == 0);
	add(3, 5, EPOLLIN | EPOLLONESHOT, 2);
}

static void check_once(void)
{
	CHECK(told(3) == 2);
	CHECK(told(3) == 0);
	struct epoll_event e = { .events = EPOLLIN | EPOLLONESHOT, .data.u64 = 3 };
	CHECK(epoll_ctl(3, EPOLL_CTL_MOD, 4, &e) == 0 && told(3) == 3 && told(3) == 0);
}

static void what_is_told_once_is_not_told_again(void **state)
{
	(void)state;
	carried(make_once, check_once);
}

static void make_nested(void)
{
	CHECK(epoll_create1(0) == 3);
	CHECK(epoll_create1(0) == 4);
	CHECK(eventfd(0, 0) == 5);
	add(3, 4, EPOLLIN, 10);
	add(4, 5, EPOLLIN | EPOLLET, 20);
}

static void check_nested(void)
{
	CHECK(told(3) == 0 && eventfd_write(5, 1) == 0);
	CHECK(told(3) == 10 && told(4) == 20 && told(4) == 0 && told(3) == 0);
}

static void an_epoll_may_watch_another(void **state)
{
	(void)state;
	carried(make_nested, check_nested);
}

/* An item belongs to a description and a number; both may have gone their own ways since. */
static void make_reused(void)
{
	int p[2];
	CHECK(epoll_create1(0) == 3 && eventfd(0, 0) == 4 && dup(4) == 5);
	add(3, 4, EPOLLIN, 4);
	add(3, 5, EPOLLIN, 5);
	CHECK(pipe(p) == 0 && p[0] == 6 && p[1] == 7);
	CHECK(dup2(6, 4) == 4); /* 4 is the pipe now; what was there lives on as 5 */
	add(3, 4, EPOLLIN, 6);
	close(6);
}

static void check_reused(void)
{
	struct epoll_event e[4];
	CHECK(eventfd_write(5, 1) == 0 && epoll_wait(3, e, 4, 0) == 2);
	CHECK(e[0].data.u64 + e[1].data.u64 == 9);
	CHECK(write(7, "x", 1) == 1 && epoll_wait(3, e, 4, 0) == 3);
	CHECK(e[0].data.u64 + e[1].data.u64 + e[2].data.u64 == 15);
	struct epoll_event mod = { .events = 0 };
	CHECK(epoll_ctl(3, EPOLL_CTL_DEL, 4, &mod) == 0 && epoll_wait(3, e, 4, 0) == 2);
}

static void numbers_that_are_others_now_are_told_apart(void **state)
{
	(void)state;
	carried(make_reused, check_reused);
}

static void make_many(void)
{
	CHECK(epoll_create1(0) == 3);
	for (uint64_t i = 0; i < 200; i++) {
		CHECK(eventfd(i % 10 == 0, 0) == (int)(4 + i));
		add(3, (int)(4 + i), EPOLLIN, i);
	}
}

static void check_many(void)
{
	struct epoll_event e[300];
	uint64_t sum = 0;
	CHECK(epoll_wait(3, e, 300, 0) == 20);
	for (int i = 0; i < 20; i++)
		sum += e[i].data.u64;
	CHECK(sum == 1900);
}

static void one_may_watch_many(void **state)
{
	(void)state;
	carried(make_many, check_many);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		CARRY(an_epoll_watches_what_it_did),
		CARRY(an_edge_is_told_once),
		CARRY(what_is_told_once_is_not_told_again),
		CARRY(an_epoll_may_watch_another),
		CARRY(numbers_that_are_others_now_are_told_apart),
		CARRY(one_may_watch_many),
	};
	return cmocka_run_group_tests(tests, carry_setup, carry_teardown);
}

int main(void)
{
	return carry_main(run);
}
