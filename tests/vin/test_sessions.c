/* Who is whose child, of which session and group, when those who made them so are gone. */
#include "families.h"

/* Ends at once, and is waited for. */
static void wait_for(pid_t pid)
{
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

/* ---- sessions without a leader ---- */

/* Waits until its parent is gone, so that all below it see the same. */
static void be_daemon(int place)
{
	pid_t pid = fork();
	if (pid == 0) {
		setsid();
		const pid_t gone = getpid();
		if (fork() != 0)
			_exit(0);
		while (getppid() == gone)
			nap(1);
		if (fork() == 0) {
			setpgid(0, 0);
			live(place + 1);
			_exit(0);
		}
		live(place);
		while (wait(NULL) > 0)
			;
		_exit(0);
	}
	wait_for(pid);
}

static void daemons(void)
{
	be_daemon(0);
	be_daemon(2);
	live(4);
}

static void daemons_whose_leader_is_gone(void **state)
{
	(void)state;
	goes_on(daemons, 5);
}

/* By a child that ends: its own becomes PID 1's, in the session that it was born in. */
static void leave_one(int place, bool own_group)
{
	pid_t pid = fork();
	if (pid == 0) {
		if (fork() == 0) {
			if (own_group)
				setpgid(0, 0);
			live_below(place, 1);
			_exit(0);
		}
		_exit(0);
	}
	wait_for(pid);
}

static void left_behind(void)
{
	setsid();
	leave_one(0, false);
	leave_one(1, true);
	if (fork() == 0) {
		setsid();
		leave_one(2, true);
		live(3);
		_exit(0);
	}
	live(4);
	while (wait(NULL) > 0)
		;
}

static void those_a_subshell_left_behind(void **state)
{
	(void)state;
	goes_on(left_behind, 5);
}

/* ---- groups ---- */

/* A zombie leads a group with somebody in it; another lies in a group whose leader is reaped. */
static void dead_leaders(void)
{
	siginfo_t info;
	const pid_t zombie = fork();
	if (zombie == 0)
		_exit(setpgid(0, 0) < 0);
	waitid(P_PID, (id_t)zombie, &info, WEXITED | WNOWAIT);
	const pid_t leader = fork();
	if (leader == 0) {
		setpgid(0, 0);
		pause();
	}
	setpgid(leader, leader);
	pid_t members[3];
	for (int i = 0; i < 3; i++) {
		members[i] = fork();
		if (members[i] == 0) {
			while (getpgrp() != leader && getpgrp() != zombie)
				nap(1);
			if (i < 2)
				live(i);
			_exit(i < 2 ? 0 : 5);
		}
		CHECK(setpgid(members[i], i == 1 ? zombie : leader) == 0);
	}
	waitid(P_PID, (id_t)members[2], &info, WEXITED | WNOWAIT);
	kill(leader, SIGKILL);
	CHECK(waitpid(leader, NULL, 0) == leader);
	const struct self was = self_now();
	while (!board->end) {
		still(2, &was);
		CHECK(kill(zombie, 0) == 0 && getpgid(members[2]) == leader &&
		      kill(-leader, 0) == 0);
	}
	int status;
	CHECK(waitpid(zombie, &status, 0) == zombie && status == 0);
	CHECK(waitpid(members[2], &status, 0) == members[2] && WEXITSTATUS(status) == 5);
	while (wait(NULL) > 0)
		;
}

static void groups_led_by_nobody_and_zombies(void **state)
{
	(void)state;
	goes_on(dead_leaders, 3);
}

/* Of a session led by a zombie: its member is PID 1's. */
static void zombie_session(void)
{
	siginfo_t info;
	const pid_t leader = fork();
	if (leader == 0) {
		setsid();
		if (fork() == 0) {
			live_below(0, 1);
			_exit(0);
		}
		_exit(3);
	}
	waitid(P_PID, (id_t)leader, &info, WEXITED | WNOWAIT);
	live(1);
	int status;
	CHECK(waitpid(leader, &status, 0) == leader && WEXITSTATUS(status) == 3);
}

static void a_session_led_by_a_zombie(void **state)
{
	(void)state;
	goes_on(zombie_session, 2);
}

/* Children from before their parent led a session, and after. */
static void late_leader(void)
{
	pid_t leader = fork();
	if (leader == 0) {
		if (fork() == 0) {
			live(0);
			_exit(0);
		}
		if (fork() == 0) {
			setpgid(0, 0);
			live(1);
			_exit(0);
		}
		setsid();
		if (fork() == 0) {
			live(2);
			_exit(0);
		}
		live(3);
		while (wait(NULL) > 0)
			;
		_exit(0);
	}
	live(4);
	while (wait(NULL) > 0)
		;
}

static void children_older_than_their_parents_session(void **state)
{
	(void)state;
	goes_on(late_leader, 5);
}

/* ---- subreapers ---- */

static void be_reaper(bool on)
{
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, on) == 0);
}

static void live_as_reaper(int place)
{
	const struct self was = self_now();
	while (!board->end) {
		int on = 0;
		still(place, &was);
		CHECK(prctl(PR_GET_CHILD_SUBREAPER, &on) == 0 && on == 1);
	}
	while (wait(NULL) > 0)
		;
}

/* Of a session that is gone, and of one whose leader lives below. */
static void adopting(void)
{
	const pid_t me = getpid();
	be_reaper(true);
	pid_t gone = fork();
	if (gone == 0) {
		setsid();
		for (int i = 0; i < 2; i++) {
			if (fork() == 0) {
				live_below(i, me);
				_exit(0);
			}
		}
		_exit(0);
	}
	wait_for(gone);
	if (fork() == 0) {
		setsid();
		pid_t between = fork();
		if (between == 0) {
			if (fork() == 0) {
				setpgid(0, 0);
				live_below(2, me);
				_exit(0);
			}
			_exit(0);
		}
		wait_for(between);
		live(3);
		_exit(0);
	}
	live_as_reaper(4);
}

static void a_subreaper_and_whom_it_adopted(void **state)
{
	(void)state;
	goes_on(adopting, 5);
}

/* Those of one session that is gone are of two subreapers, one below the other: the lower one was
 * none for a moment. */
static void adopt_below(pid_t above)
{
	const pid_t me = getpid();
	be_reaper(true);
	const pid_t gone = fork();
	if (gone == 0) {
		setsid();
		for (int i = 0; i < 2; i++) {
			if (fork() != 0)
				continue;
			if (fork() == 0) {
				live_below(i, i ? above : me);
				_exit(0);
			}
			while (i && !board->seen[0])
				nap(1);
			_exit(0);
		}
		CHECK(wait(NULL) > 0);
		_exit(0);
	}
	wait_for(gone);
	be_reaper(false);
	board->seen[0] = 1;
	CHECK(wait(NULL) > 0);
	be_reaper(true);
	live_as_reaper(2);
}

static void adopting_twice(void)
{
	const pid_t me = getpid();
	be_reaper(true);
	if (fork() == 0) {
		adopt_below(me);
		_exit(0);
	}
	live_as_reaper(3);
}

static void a_session_shared_by_two_subreapers(void **state)
{
	(void)state;
	goes_on(adopting_twice, 4);
}

/* ---- signals of parents and stops ---- */

static volatile int deaths;

static void on_death(int sig)
{
	(void)sig;
	deaths++;
}

static void live_with_signal(int place)
{
	const struct self was = self_now();
	signal(SIGUSR1, on_death);
	CHECK(prctl(PR_SET_PDEATHSIG, SIGUSR1) == 0);
	while (!board->end) {
		int sig = 0;
		still(place, &was);
		CHECK(prctl(PR_GET_PDEATHSIG, &sig) == 0 && sig == SIGUSR1 &&
		      (deaths == 0 || board->end));
	}
}

static void mourning(void)
{
	pid_t pid = fork();
	if (pid == 0) {
		if (fork() == 0) {
			while (getppid() != 1)
				nap(1);
			live_with_signal(0);
			_exit(0);
		}
		_exit(0);
	}
	wait_for(pid);
	if (fork() == 0) {
		live_with_signal(1);
		for (int i = 0; i < 30000 && deaths == 0; i++)
			nap(1);
		CHECK(deaths == 1);
		_exit(0);
	}
	live(2);
}

static void signals_at_a_parents_end(void **state)
{
	(void)state;
	goes_on(mourning, 3);
}

/* It stops itself again and again; its parent sees each stop, and lets it go on. Nobody of a group
 * whose parents are all in it or in other sessions would be stopped by SIGTSTP. */
static void stopping(void)
{
	const pid_t pid = fork();
	if (pid == 0) {
		CHECK(setpgid(0, 0) == 0);
		while (!board->end) {
			board->seen[0]++;
			raise(board->seen[0] % 2 ? SIGTSTP : SIGSTOP);
		}
		_exit(0);
	}
	for (uint64_t rounds = 1;; rounds++) {
		int status = 0;
		CHECK(waitpid(pid, &status, WUNTRACED) == pid);
		if (WIFEXITED(status))
			break;
		/* who was made again is stopped by SIGSTOP, which can't be blocked or caught */
		CHECK(WIFSTOPPED(status) && (WSTOPSIG(status) == (rounds % 2 ? SIGTSTP : SIGSTOP) ||
					     WSTOPSIG(status) == SIGSTOP));
		for (int i = 0; i < 30 && !board->end; i++) {
			CHECK(board->seen[0] == rounds);
			nap(1);
		}
		/* one that was reported may be reported once more where it was made again */
		while (waitpid(pid, &status, WUNTRACED | WNOHANG) == pid)
			CHECK(WIFSTOPPED(status));
		board->rounds[0]++;
		kill(pid, SIGCONT);
	}
}

static void stopped_programs_and_reports_of_them(void **state)
{
	(void)state;
	goes_on(stopping, 1);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		FAMILY(daemons_whose_leader_is_gone),
		FAMILY(those_a_subshell_left_behind),
		FAMILY(groups_led_by_nobody_and_zombies),
		FAMILY(a_session_led_by_a_zombie),
		FAMILY(children_older_than_their_parents_session),
		FAMILY(a_subreaper_and_whom_it_adopted),
		FAMILY(a_session_shared_by_two_subreapers),
		FAMILY(signals_at_a_parents_end),
		FAMILY(stopped_programs_and_reports_of_them),
	};
	return cmocka_run_group_tests(tests, families_setup, families_teardown);
}

int main(void)
{
	return families_main(run);
}
