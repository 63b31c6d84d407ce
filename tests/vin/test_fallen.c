/* Whoever makes programs again is killed before and after each of his system calls: of the programs
 * nothing is left then, or, from the moment on at which he lets them go, all of them. The calls are
 * those that the kernel shows who traces him. */
#include <dirent.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/ptrace.h>
#include <sys/un.h>

#include "families.h"

#define SECONDS 3

enum { BUILDS, GOES, RUNS };

/* Shared with the controllers. */
static struct {
	volatile int how_far;
	volatile pid_t first;
} * table;
static char directory[] = "/tmp/vin-fallen-XXXXXX";

/* ---- the programs ---- */

static void *live_as_thread(void *arg)
{
	const struct self was = self_now();
	while (!board->end)
		still((int)(intptr_t)arg, &was);
	return NULL;
}

/* Things that are made with more than a call. */
static void hold_things(void)
{
	char path[80];
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int pair[2], sock = socket(AF_UNIX, SOCK_STREAM, 0);
	snprintf(at.sun_path, sizeof(at.sun_path), "%.60s/socket", directory);
	(void)unlink(at.sun_path);
	CHECK(bind(sock, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(sock, 3) == 0);
	snprintf(path, sizeof(path), "%s/gone", directory);
	CHECK(open(path, O_RDWR | O_CREAT, 0600) > 0 && unlink(path) == 0);
	CHECK(mkfifo(path, 0600) == 0 && open(path, O_RDWR) > 0 && unlink(path) == 0);
	CHECK(mkdir(path, 0700) == 0 && open(path, O_RDONLY) > 0 && rmdir(path) == 0);
	CHECK(open(directory, O_TMPFILE | O_RDWR, 0600) > 0 && eventfd(3, 0) > 0);
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0 && send(pair[0], "word", 4, 0) == 4);
	CHECK(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) !=
	      MAP_FAILED);
}

/* An orphan in a session that is gone, a zombie, a thread, and who holds things. */
static void some(void)
{
	pthread_t thread;
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
	hold_things();
	if (fork() == 0) {
		live(1);
		_exit(0);
	}
	CHECK(pthread_create(&thread, NULL, live_as_thread, (void *)2) == 0);
	live(3);
	(void)pthread_join(thread, NULL);
	while (wait(NULL) > 0)
		;
}

#define SOME 4

/* ---- the controller ---- */

static int again(int fd, bool guests)
{
	const struct vin_replay_options options = { .root = outside,
						    .user = !guests && geteuid() != 0,
						    .start = guests ? start_guest : NULL };
	struct fvm_error why = { 0 };
	struct vin_replay *r = NULL;
	struct vin_in *in = NULL;
	lseek(fd, 0, SEEK_SET);
	int e = vin_in_open(fd, &in, &why);
	if (e == 0)
		e = vin_replay_build(in, &options, &r, &why);
	vin_in_close(in);
	if (e == 0 && !guests)
		table->first = vin_replay_init(r);
	table->how_far = GOES;
	if (e == 0)
		e = vin_replay_go(r, &why);
	if (e == 0)
		table->how_far = RUNS;
	vin_replay_close(r);
	if (e < 0)
		fvm_error_print("replay", &why);
	return e;
}

static pid_t start_controller(int fd, bool guests)
{
	int go[2];
	char byte = 'g';
	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	table->how_far = BUILDS;
	table->first = guests ? first : 0;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)!read(go[0], &byte, 1);
		close(go[0]);
		close(go[1]);
		_exit(again(fd, guests) < 0);
	}
	/* who shares his memory is followed, too: calls are made by him */
	assert_int_equal(ptrace(PTRACE_SEIZE, pid, 0,
				PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL),
			 0);
	/* who waits in a call hears of us at its end */
	assert_int_equal(ptrace(PTRACE_INTERRUPT, pid, 0, 0), 0);
	assert_int_equal(write(go[1], &byte, 1), 1);
	close(go[0]);
	close(go[1]);
	return pid;
}

static bool is_call(int status)
{
	return WIFSTOPPED(status) && WSTOPSIG(status) == (SIGTRAP | 0x80);
}

/* The controller ends at the edge @end of his calls. Return: how many he has seen; @ret_killed:
 * whether he came to it */
static unsigned long ends_at_call(unsigned long end, int fd, bool guests, bool *ret_killed)
{
	unsigned long seen = 0;
	const pid_t controller = start_controller(fd, guests);
	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, __WALL);
		assert_true(pid > 0);
		assert_true(!guests || pid != first);
		if (!WIFSTOPPED(status) && pid == controller) {
			*ret_killed = WIFSIGNALED(status);
			assert_true(*ret_killed || WEXITSTATUS(status) == 0);
			return seen;
		}
		if (!WIFSTOPPED(status))
			continue;
		if (is_call(status) && ++seen == end)
			(void)kill(controller, SIGKILL);
		const bool signal = !is_call(status) && status >> 16 == 0;
		(void)ptrace(PTRACE_SYSCALL, pid, 0, signal ? WSTOPSIG(status) : 0);
	}
}

/* ---- what is left ---- */

static void list_directory(char *ret, size_t room)
{
	size_t len = 0, names = 0;
	scoped_dir d = opendir(directory);
	assert_non_null(d);
	ret[0] = '\0';
	for (struct dirent *e; (e = fvm_dir_next(d)); names++)
		len += (size_t)snprintf(ret + len, room - len, "%s ", e->d_name);
	assert_true(len < room);
	if (names > 1 || (names == 1 && strcmp(ret, "socket ") != 0))
		fail_msg("there is left: %s", ret);
}

static size_t count_mounts(void)
{
	size_t lines = 0;
	FILE *f = fopen("/proc/self/mountinfo", "r");
	assert_non_null(f);
	for (int c; (c = getc(f)) != EOF;)
		lines += c == '\n';
	fclose(f);
	return lines;
}

/* Children of ours, but for the guests' first. */
static size_t count_ours(bool guests)
{
	char path[64];
	size_t count = 0;
	int status;
	pid_t pid;
	/* who did something for him is followed no further */
	while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0) {
		if (WIFSTOPPED(status))
			(void)ptrace(PTRACE_DETACH, pid, 0,
				     status >> 16 || is_call(status) ? 0 : WSTOPSIG(status));
	}
	snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	while (fscanf(f, "%d", &pid) == 1)
		count += !guests || pid != first;
	fclose(f);
	return count;
}

static size_t count_left(bool guests)
{
	pid_t list[PLACES];
	const size_t ours = count_ours(guests);
	return ours + (guests ? children(list, PLACES) : 0);
}

/* All of them live; they end, and the next ones may come. */
static void all_live(bool guests)
{
	if (!guests)
		first = table->first;
	wait_for_rounds(SOME);
	end_first();
	if (guests)
		begin_first(NULL);
}

static bool have_all_moved(const uint64_t *before)
{
	int i = 0;
	while (i < SOME && board->rounds[i] >= before[i] + 3)
		i++;
	return i == SOME;
}

/* Until the last one goes, some may have gone already, and end: guests when their guard does, who
 * is ours now. */
static void none_or_all_is_left(bool guests)
{
	char names[200];
	uint64_t before[SOME];
	memcpy(before, (const void *)board->rounds, sizeof(before));
	bool all = table->how_far == RUNS;
	for (int ms = 0; ms < 30000 && !all && count_left(guests) > 0; ms++) {
		nap(1);
		if (guests && count_ours(true) > 0)
			memcpy(before, (const void *)board->rounds, sizeof(before));
		all = table->how_far == GOES && !board->wrong && have_all_moved(before);
	}
	if (all)
		all_live(guests);
	board->wrong = 0;
	assert_int_equal(count_left(guests), 0);
	list_directory(names, sizeof(names));
}

/* As many as there is time for, others with each run; FVM_POINT=N: from N on, all. */
static void nothing_is_left(bool guests)
{
	bool killed;
	family_begin(some, SOME);
	FILE *image = family_capture(false);
	const int fd = fileno(image);
	const size_t mounts = count_mounts();
	const char *from = getenv("FVM_POINT");
	const int64_t until = fvm_now_ns() + SECONDS * 1000000000LL;
	end_first();
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	if (guests)
		begin_first(NULL);
	const unsigned long all = ends_at_call(0, fd, guests, &killed) ?: 1;
	none_or_all_is_left(guests);
	unsigned long end = from ? strtoul(from, NULL, 10) : 1 + (unsigned long)getpid() % all;
	while (from ? end <= all : fvm_now_ns() < until) {
		if (from)
			print_message("call %lu of %lu\n", end, all);
		(void)ends_at_call(end, fd, guests, &killed);
		none_or_all_is_left(guests);
		assert_int_equal(count_mounts(), mounts);
		end = from ? end + 1 : 1 + (end + 7919) % all;
	}
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
	fclose(image);
}

static void nothing_is_left_of_a_world(void **state)
{
	(void)state;
	not_sanitized();
	nothing_is_left(false);
}

static void nothing_is_left_of_guests(void **state)
{
	(void)state;
	not_sanitized();
	nothing_is_left(true);
}

static int setup(void **state)
{
	table = mmap(NULL, sizeof(*table), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0);
	if (table == MAP_FAILED || !mkdtemp(directory))
		return -1;
	return families_setup(state);
}

static int teardown(void **state)
{
	char path[80];
	munmap(table, sizeof(*table));
	snprintf(path, sizeof(path), "%s/socket", directory);
	(void)unlink(path);
	return families_teardown(state) < 0 ? -1 : rmdir(directory);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		FAMILY(nothing_is_left_of_a_world),
		FAMILY(nothing_is_left_of_guests),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}

int main(void)
{
	return families_main(run);
}
