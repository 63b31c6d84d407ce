/* Guests below a PID 1 that is not ours, and that nobody is left when who makes programs again
 * fails or is killed. */
#include "families.h"

/* One in a session that is gone, a zombie, and two who talk through a pipe. */
static void some(void)
{
	int ways[2];
	if (fork() == 0) {
		setsid();
		if (fork() == 0) {
			live_below(0, 1);
			_exit(0);
		}
		_exit(0);
	}
	siginfo_t info;
	waitid(P_ALL, 0, &info, WEXITED | WNOWAIT);
	CHECK(pipe(ways) == 0);
	if (fork() == 0) {
		const struct self was = self_now();
		char c;
		while (!board->end && read(ways[0], &c, 1) == 1)
			still(1, &was);
		_exit(0);
	}
	const struct self was = self_now();
	while (!board->end) {
		const uint64_t before = board->rounds[1];
		CHECK(write(ways[1], "r", 1) == 1);
		while (board->rounds[1] == before && !board->end)
			nap(1);
		still(2, &was);
	}
	CHECK(write(ways[1], "e", 1) == 1);
	while (wait(NULL) > 0)
		;
}

#define SOME 3

/* ---- failures ---- */

/* What ended may still be on its way to PID 1. */
static void nobody_is_below_first(void)
{
	pid_t left[PLACES];
	for (int ms = 0; ms < 30000 && children(left, PLACES) > 0; ms++)
		nap(1);
	assert_int_equal(children(left, PLACES), 0);
}

/* Return: what building came to; all is gone again */
static int build_and_drop(int fd, bool guests)
{
	const struct vin_replay_options options = { .root = outside,
						    .user = !guests && geteuid() != 0,
						    .start = guests ? start_guest : NULL };
	struct vin_replay *r = NULL;
	struct vin_in *in;
	lseek(fd, 0, SEEK_SET);
	int failed = vin_in_open(fd, &in, NULL);
	if (failed < 0)
		return failed;
	failed = vin_replay_build(in, &options, &r, NULL);
	vin_in_close(in);
	if (failed == 0)
		vin_replay_close(r);
	return failed;
}

static void an_image_cut_short_leaves_no_guests(void **state)
{
	(void)state;
	not_sanitized();
	family_begin(some, SOME);
	FILE *image = family_capture(false);
	const int fd = fileno(image);
	const off_t len = lseek(fd, 0, SEEK_END);
	end_first();
	begin_first(NULL);
	assert_int_equal(build_and_drop(fd, true), 0);
	nobody_is_below_first();
	for (off_t to = len - 1; to > 0; to -= len / 40 + 1) {
		assert_int_equal(ftruncate(fd, to), 0);
		assert_true(build_and_drop(fd, true) < 0);
		nobody_is_below_first();
	}
	fclose(image);
	assert_int_equal(waitpid(-1, NULL, WNOHANG | __WALL), 0);
}

static int refuse_to_start(void *arg, int line, pid_t number, struct fvm_error *e)
{
	(void)arg;
	(void)line;
	(void)number;
	return fvm_error_say(e, EPERM, "no guests today");
}

static void a_start_that_fails_is_told(void **state)
{
	const struct vin_replay_options options = { .root = outside, .start = refuse_to_start };
	struct vin_replay *r;
	struct vin_in *in;
	(void)state;
	family_begin(some, SOME);
	FILE *image = family_capture(false);
	lseek(fileno(image), 0, SEEK_SET);
	OK(vin_in_open(fileno(image), &in, &err));
	assert_int_equal(vin_replay_build(in, &options, &r, &err), -EPERM);
	assert_non_null(strstr(err.text, "no guests today"));
	vin_in_close(in);
	fclose(image);
}

/* ---- a controller is killed ---- */

static uint64_t luck = 88172645463325252ULL;

static unsigned int random_below(unsigned int n)
{
	luck ^= luck << 13;
	luck ^= luck >> 7;
	luck ^= luck << 17;
	return (unsigned int)(luck % n);
}

static void kill_after(pid_t pid, unsigned int us)
{
	int status;
	usleep(us);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
}

/* Those who came to us because their maker is gone. */
static void nobody_was_left_to_us(pid_t but)
{
	for (int ms = 0; ms < 5000; ms++) {
		pid_t pid = waitpid(-1, NULL, WNOHANG | __WALL);
		assert_true(pid <= 0 || pid != but);
		if (pid == 0) {
			/* somebody lives: only who should */
			char path[64];
			pid_t others[2] = { 0 };
			snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
			FILE *f = fopen(path, "r");
			assert_non_null(f);
			int n = fscanf(f, "%d %d", &others[0], &others[1]);
			fclose(f);
			if (n == 1 && others[0] == but)
				return;
			nap(1);
		}
		if (pid < 0)
			return;
	}
	fail_msg("somebody is left");
}

static void blanks_die_with_who_makes_them(bool guests)
{
	family_begin(some, SOME);
	FILE *image = family_capture(false);
	const int fd = fileno(image);
	end_first();
	if (guests)
		begin_first(NULL);
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	for (int i = 0; i < 40; i++) {
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			for (;;) /* until it is killed */
				(void)build_and_drop(fd, guests);
		}
		kill_after(pid, 1000 + random_below(50000));
		nobody_was_left_to_us(guests ? first : 0);
		if (guests)
			nobody_is_below_first();
	}
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
	/* the image and its PID 1 are as good as before */
	assert_int_equal(build_and_drop(fd, guests), 0);
	fclose(image);
}

static void nobody_outlives_who_makes_them(void **state)
{
	(void)state;
	not_sanitized();
	blanks_die_with_who_makes_them(false);
}

static void no_guest_outlives_who_makes_them(void **state)
{
	(void)state;
	not_sanitized();
	blanks_die_with_who_makes_them(true);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		FAMILY(an_image_cut_short_leaves_no_guests),
		FAMILY(a_start_that_fails_is_told),
		FAMILY(nobody_outlives_who_makes_them),
		FAMILY(no_guest_outlives_who_makes_them),
	};
	return cmocka_run_group_tests(tests, families_setup, families_teardown);
}

int main(void)
{
	return families_main(run);
}
