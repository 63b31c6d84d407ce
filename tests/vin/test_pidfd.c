#include "tests/vin/carry.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/* The victim's children are 2, 3 and so on in its namespace; the follower makes as many before. */
static pid_t child(bool ends)
{
	const pid_t parent = getpid();
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (ends || getppid() != parent)
			_exit(7);
		for (;;)
			pause();
	}
	/* a zombie before anybody looks */
	siginfo_t info;
	if (ends)
		CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
	return pid;
}

static void before_one(void)
{
	carry_people[2] = child(false);
}

static void before_zombie(void)
{
	carry_people[2] = child(true);
}

static int hold(pid_t pid, unsigned int flags)
{
	return (int)syscall(SYS_pidfd_open, pid, flags);
}

static short told(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	return poll(&p, 1, 0) < 0 ? -1 : p.revents;
}

static pid_t held_by(int fd)
{
	scoped_fdinfo info = { 0 };
	CHECK(vin_fdinfo_read(getpid(), fd, &info, NULL) == 0);
	return info.pid;
}

static void carried_after(void (*before)(void), void (*make)(void), void (*check)(void))
{
	carry_before = before;
	carried(make, check);
	carry_before = NULL;
}

static void make_self(void)
{
	CHECK(hold(getpid(), 0) == 3 && dup(3) == 4 && hold(getpid(), O_NONBLOCK) == 5);
}

static void check_self(void)
{
	CHECK(held_by(3) == getpid() && held_by(4) == getpid() && held_by(5) == getpid());
	CHECK(pidfd_send_signal(3, 0, NULL, 0) == 0 && told(3) == 0);
	CHECK(fcntl(5, F_GETFL) & O_NONBLOCK && !(fcntl(3, F_GETFL) & O_NONBLOCK));
	CHECK(fcntl(3, F_GETFD) == FD_CLOEXEC && fcntl(4, F_GETFD) == 0);
	int fd = pidfd_getfd(3, 0, 0);
	CHECK(fd == 6);
}

static void a_process_holds_itself(void **state)
{
	(void)state;
	carried(make_self, check_self);
}

static void make_child(void)
{
	CHECK(hold(child(false), 0) == 3);
}

static void check_child(void)
{
	siginfo_t info = { 0 };
	CHECK(held_by(3) == carry_people[2] && told(3) == 0);
	CHECK(waitid(P_PIDFD, 3, &info, WEXITED | WNOHANG) == 0 && info.si_pid == 0);
	CHECK(pidfd_send_signal(3, SIGKILL, NULL, 0) == 0);
	CHECK(waitid(P_PIDFD, 3, &info, WEXITED) == 0 && info.si_pid == carry_people[2]);
	CHECK(told(3) & POLLIN && pidfd_send_signal(3, 0, NULL, 0) < 0 && errno == ESRCH);
}

static void a_child_is_held_and_ended(void **state)
{
	(void)state;
	carried_after(before_one, make_child, check_child);
}

static void make_zombie(void)
{
	CHECK(hold(child(true), 0) == 3);
}

static void check_zombie(void)
{
	siginfo_t info = { 0 };
	CHECK(told(3) == POLLIN && held_by(3) == carry_people[2]);
	CHECK(waitid(P_PIDFD, 3, &info, WEXITED) == 0 && info.si_status == 7);
	CHECK(held_by(3) == -1);
}

static void a_zombie_is_held_until_it_is_waited_for(void **state)
{
	(void)state;
	carried_after(before_zombie, make_zombie, check_zombie);
}

static void make_gone(void)
{
	pid_t pid = child(true);
	CHECK(hold(pid, O_NONBLOCK) == 3 && waitpid(pid, NULL, 0) == pid);
}

static void check_gone(void)
{
	siginfo_t info;
	CHECK(held_by(3) == -1 && told(3) & POLLIN && fcntl(3, F_GETFL) & O_NONBLOCK);
	CHECK(pidfd_send_signal(3, 0, NULL, 0) < 0 && errno == ESRCH);
	CHECK(waitid(P_PIDFD, 3, &info, WEXITED) < 0 && errno == ECHILD);
	CHECK(waitpid(-1, NULL, 0) < 0 && errno == ECHILD);
}

static void what_is_gone_stays_gone(void **state)
{
	(void)state;
	carried(make_gone, check_gone);
}

static void *sleep_on(void *arg)
{
	*(volatile pid_t *)arg = (pid_t)syscall(SYS_gettid);
	for (;;)
		pause();
	return NULL;
}

static pid_t make_thread(void)
{
	static volatile pid_t tid;
	pthread_t t;
	CHECK(pthread_create(&t, NULL, sleep_on, (void *)(uintptr_t)&tid) == 0);
	while (!tid)
		nap(1);
	return tid;
}

static void before_thread(void)
{
	carry_people[2] = make_thread();
}

static void make_held_thread(void)
{
	CHECK(hold(make_thread(), O_EXCL) == 3 && hold(getpid(), O_EXCL) == 4);
}

static void check_held_thread(void)
{
	CHECK(fcntl(3, F_GETFL) & O_EXCL && held_by(3) == carry_people[2] && told(3) == 0);
	CHECK(held_by(4) == getpid() && pidfd_send_signal(3, 0, NULL, 0) == 0);
	CHECK(syscall(SYS_tgkill, getpid(), carry_people[2], 0) == 0);
}

static void a_thread_is_held(void **state)
{
	(void)state;
	int fd = hold(getpid(), O_EXCL);
	if (fd < 0) {
		print_message("no pidfds of threads: %s\n", strerror(errno));
		skip();
	}
	close(fd);
	carried_after(before_thread, make_held_thread, check_held_thread);
}

static void make_watched(void)
{
	struct epoll_event e = { .events = EPOLLIN, .data.u64 = 9 };
	CHECK(hold(child(false), 0) == 3 && epoll_create1(0) == 4);
	CHECK(epoll_ctl(4, EPOLL_CTL_ADD, 3, &e) == 0);
}

static void check_watched(void)
{
	struct epoll_event e;
	CHECK(epoll_wait(4, &e, 1, 0) == 0 && kill(carry_people[2], SIGKILL) == 0);
	CHECK(epoll_wait(4, &e, 1, 5000) == 1 && e.data.u64 == 9 && e.events == EPOLLIN);
	CHECK(waitpid(carry_people[2], NULL, 0) > 0);
}

static void an_epoll_waits_for_a_process(void **state)
{
	(void)state;
	carried_after(before_one, make_watched, check_watched);
}

static int outsider;

static void make_outside(void)
{
	CHECK(dup2(outsider, 3) == 3);
}

static void kept_victim(void)
{
	int null = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3; i++)
		dup2(null, i);
	make_outside();
	fvm_close_range(4, ~0U);
	board->ready = 1;
	for (;;)
		pause();
}

static void a_process_outside_is_refused(void **state)
{
	char want[60];
	(void)state;
	outsider = hold(getpid(), 0);
	pid_t pid = victim(kept_victim, true);
	err = (struct fvm_error){ 0 };
	assert_int_equal(carry_capture(&pid, 1), -1);
	snprintf(want, sizeof(want), "process %d, which is outside", getpid());
	assert_non_null(strstr(err.text, want));
	victim_kill(NULL);
	close(outsider);
}

/* ---- who gets signals of a file ---- */

static bool owned_by(int fd, enum __pid_type type, pid_t pid)
{
	struct f_owner_ex owner;
	return fcntl(fd, F_GETOWN_EX, &owner) == 0 && owner.type == type && owner.pid == pid;
}

static void make_owned(void)
{
	struct f_owner_ex thread = { F_OWNER_TID, (pid_t)syscall(SYS_gettid) },
			  group = { F_OWNER_PGRP, 1 };
	CHECK(setpgid(0, 0) == 0 && fcntl(0, F_GETFD) >= 0);
	for (int i = 3; i <= 6; i++)
		CHECK(open("letters", O_RDONLY) == i);
	CHECK(fcntl(3, F_SETOWN, child(false)) == 0 && fcntl(4, F_SETOWN_EX, &thread) == 0);
	CHECK(fcntl(5, F_SETOWN_EX, &group) == 0 && fcntl(5, F_SETSIG, SIGUSR2) == 0);
}

static void before_owned(void)
{
	before_one();
	CHECK(setpgid(0, 0) == 0);
}

static void check_owned(void)
{
	CHECK(owned_by(3, F_OWNER_PID, carry_people[2]));
	CHECK(owned_by(4, F_OWNER_TID, getpid()));
	CHECK(owned_by(5, F_OWNER_PGRP, getpid()) && fcntl(5, F_GETSIG) == SIGUSR2);
	CHECK(owned_by(6, F_OWNER_PID, 0) || owned_by(6, F_OWNER_TID, 0));
}

static void owners_are_those_that_have_their_numbers(void **state)
{
	(void)state;
	carried_after(before_owned, make_owned, check_owned);
}

/* The test itself, which has a number that is somebody's inside, maybe. */
static void make_owned_outside(void)
{
	CHECK(dup2(outsider, 3) == 3 && owned_by(3, F_OWNER_PID, 0));
}

static void outside_victim(void)
{
	int null = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3; i++)
		dup2(null, i);
	make_owned_outside();
	fvm_close_range(4, ~0U);
	board->ready = 1;
	for (;;)
		pause();
}

static void check_owned_outside(void)
{
	CHECK(fcntl(3, F_GETOWN) == 0);
}

static void an_owner_outside_gets_no_signals_any_more(void **state)
{
	(void)state;
	outsider = open("letters", O_RDONLY | O_CLOEXEC);
	assert_int_equal(fcntl(outsider, F_SETOWN, getpid()), 0);
	pid_t pid = victim(outside_victim, true);
	err = (struct fvm_error){ 0 };
	int image = carry_capture(&pid, 1);
	assert_true(image >= 0);
	victim_kill(NULL);
	close(outsider);
	carry_follow(image, check_owned_outside);
	close(image);
}

static void make_async(void)
{
	int p[2];
	CHECK(pipe(p) == 0 && dup2(p[0], 7) == 7 && dup2(p[1], 8) == 8);
	close(p[0]);
	close(p[1]);
	CHECK(fcntl(7, F_SETSIG, SIGUSR1) == 0 && fcntl(7, F_SETOWN, getpid()) == 0);
	CHECK(fcntl(7, F_SETFL, O_ASYNC | O_NONBLOCK) == 0);
}

static void check_async(void)
{
	sigset_t set;
	siginfo_t info;
	const struct timespec wait = { 2, 0 };
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	CHECK(flags_of(7) == (O_RDONLY | O_ASYNC | O_NONBLOCK));
	CHECK(write(8, "x", 1) == 1 && sigtimedwait(&set, &info, &wait) == SIGUSR1);
	CHECK(info.si_fd == 7 && info.si_code == POLL_IN);
}

static void a_signal_tells_the_number_of_the_descriptor(void **state)
{
	(void)state;
	carried(make_async, check_async);
}

/* ---- records that somebody made up ---- */

static int parsed(uint64_t number, uint64_t thread, size_t len)
{
	uint64_t fields[2] = { number, thread }, its[8] = { 0 };
	struct vin_payload p = { .at = (unsigned char *)fields,
				 .end = (unsigned char *)fields + len };
	return vin_kind_pidfd.parse(&p, true, its);
}

static void made_up_pidfds_are_refused(void **state)
{
	(void)state;
	assert_int_equal(parsed(5, 1, 16), 0);
	assert_int_equal(parsed(0, 0, 16), 0);
	assert_int_equal(parsed(1ULL << 31, 0, 16), -EBADMSG);
	assert_int_equal(parsed(5, 2, 16), -EBADMSG);
	assert_int_equal(parsed(5, 1, 12), -EBADMSG);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		CARRY(a_process_holds_itself),
		CARRY(a_child_is_held_and_ended),
		CARRY(a_zombie_is_held_until_it_is_waited_for),
		CARRY(what_is_gone_stays_gone),
		CARRY(a_thread_is_held),
		CARRY(an_epoll_waits_for_a_process),
		CARRY(a_process_outside_is_refused),
		CARRY(owners_are_those_that_have_their_numbers),
		CARRY(an_owner_outside_gets_no_signals_any_more),
		CARRY(a_signal_tells_the_number_of_the_descriptor),
		CARRY(made_up_pidfds_are_refused),
	};
	return cmocka_run_group_tests(tests, carry_setup, carry_teardown);
}

int main(void)
{
	return carry_main(run);
}
