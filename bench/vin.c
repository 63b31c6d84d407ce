/*
 * How long do programs stand still while they are captured and made again?
 *
 *   bench-vin [-n ROUNDS] [-w WARM_UP] [-r RATE] PREFIX KIND COUNT
 *
 * KIND  processes, threads, descriptors, areas or mib: a program with COUNT of them; "small" is one
 *       process. In each round one is started, captured into memory and let go, captured once more
 *       and ended, and made again from that image. COUNT 0 makes what is beside the COUNT.
 *       early:  COUNT MiB, of which the program writes to RATE MiB of pages in a second; most of it
 *       copied into memory before the stop
 *       stream: COUNT MiB, captured into a pipe and made again from its other end meanwhile
 *       late:   the same, but their memory comes when the new ones run; the old ones stand still
 *               until then (all)
 *       after:  a program that has nothing to do with us makes 1000 * COUNT system calls and writes
 *               to memory as often: one that was never captured, and one that was, and let go
 *       copy:   the same memory copied into fresh memory of another process, by two threads; the
 *               source is stopped and nothing else is done. This is what stream is compared with
 *
 * Printed are lines of "name value unit": the median, .p90 and .p95 of
 *   still   from the first that stops until all go on in place
 *   freeze  from the first that stops until all go on, made again from an image
 *   total   of the latter, with what is done before anybody stops
 *   all     from the first that stops until no memory is late any more
 *   early   what is done while they run, before the stop
 *   and of their parts: look, stop, write, kill, build, go
 *   never, after: processor time of the two that work
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vin/capture.h"
#include "vin/dirty.h"
#include "vin/replay.h"

enum { ROUNDS_MAX = 1000, PATIENCE_MS = 20000 };

#define PAGE  4096UL
#define MIB   (1024UL * 1024)
#define STACK (64 * 1024)

enum part {
	LOOK,
	STOP,
	WRITE,
	KILL,
	BUILD,
	GO,
	STILL,
	FREEZE,
	TOTAL,
	ALL,
	EARLY,
	NEVER,
	AFTER,
	PARTS
};

static const char *const part_names[PARTS] = { "look",	"stop",	 "write",  "kill",  "build",
					       "go",	"still", "freeze", "total", "all",
					       "early", "never", "after" };

static double figures[PARTS][ROUNDS_MAX];
static size_t round_count; /* of those that count */

struct subject {
	const char *kind;
	long count, rate;
};

static struct fvm_error err;

static _Noreturn void fail(const char *what)
{
	fvm_error_wrap(&err, -1, "%s", what);
	fvm_error_print("bench-vin", &err);
	exit(1);
}

static void must(int r, const char *what)
{
	if (r < 0)
		fail(what);
}

/* ---- what is captured ---- */

static void *wait_for_ever(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static void have_threads(long count)
{
	pthread_attr_t attr;
	pthread_t t;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	for (long i = 0; i < count; i++)
		pthread_create(&t, &attr, wait_for_ever, NULL);
}

/* They do not outlive who started them. */
static void have_processes(long count)
{
	for (long i = 0; i < count; i++) {
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			wait_for_ever(NULL);
		}
	}
}

static void have_descriptors(long count)
{
	for (long i = 0; i < count; i++)
		(void)!open("/dev/null", O_RDONLY);
}

/* Areas of other rights stay apart. */
static void have_areas(long count)
{
	for (long i = 0; i < count; i++)
		(void)mmap(NULL, PAGE, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* No page is like another. */
static void fill(unsigned char *at, size_t size)
{
	uint64_t seed = 1;
	for (size_t i = 0; i < size; i += sizeof(seed)) {
		seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
		memcpy(at + i, &seed, sizeof(seed));
	}
}

static unsigned char *have_memory(long mib)
{
	const size_t size = (size_t)mib * MIB;
	if (!size)
		return NULL;
	unsigned char *at =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		_exit(1);
	fill(at, size);
	return at;
}

/* It works when it is asked to, and stops when it has. */
static void have_orders(long count)
{
	sigset_t order;
	(void)count;
	sigemptyset(&order);
	sigaddset(&order, SIGUSR1);
	sigprocmask(SIG_BLOCK, &order, NULL);
}

static void work_for_ever(long count)
{
	static volatile unsigned char memory[16 * PAGE];
	sigset_t order;
	int signal;
	sigemptyset(&order);
	sigaddset(&order, SIGUSR1);
	while (sigwait(&order, &signal) == 0) {
		for (long i = 0; i < count * 1000; i++) {
			(void)syscall(SYS_getppid);
			memory[(unsigned long)i * 64 % sizeof(memory)]++;
		}
		(void)raise(SIGSTOP);
	}
	_exit(1);
}

static bool is_late(const struct subject *s)
{
	return strcmp(s->kind, "late") == 0;
}

/* One word of a page here and there: so many pages that it comes to @rate MiB in a second. */
static _Noreturn void write_for_ever(unsigned char *at, long mib, long rate)
{
	const uint64_t pages = (uint64_t)mib * (MIB / PAGE);
	const int64_t begin = fvm_clock_ns();
	uint64_t done = 0;
	for (;;) {
		const uint64_t ms = (uint64_t)(fvm_clock_ns() - begin) / 1000000;
		for (; done < ms * (uint64_t)rate * (MIB / PAGE) / 1000; done++)
			at[done * 2654435761U % pages * PAGE]++;
		usleep(1000);
	}
}

static void have(const struct subject *s)
{
	static const struct {
		const char *kind;
		void (*have)(long count);
	} kinds[] = { { "threads", have_threads },
		      { "processes", have_processes },
		      { "descriptors", have_descriptors },
		      { "areas", have_areas },
		      { "after", have_orders } };
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		if (strcmp(s->kind, kinds[i].kind) == 0)
			kinds[i].have(s->count);
	}
	if (strcmp(s->kind, "mib") == 0 || strcmp(s->kind, "stream") == 0 || is_late(s))
		(void)have_memory(s->count);
}

/* A child, with nothing of ours open, that is ready. */
static pid_t start(const struct subject *s)
{
	int ready[2];
	char byte;
	if (pipe2(ready, O_CLOEXEC) < 0)
		fail("make a pipe");
	pid_t pid = fork();
	if (pid == 0) {
		const int null = open("/dev/null", O_RDWR);
		sigset_t none;
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int i = 0; i < 3; i++)
			dup2(null, i);
		dup2(ready[1], 3);
		fvm_close_range(4, ~0U);
		have(s);
		unsigned char *at = strcmp(s->kind, "early") == 0 ? have_memory(s->count) : NULL;
		(void)!write(3, "", 1);
		close(3);
		if (strcmp(s->kind, "after") == 0)
			work_for_ever(s->count);
		if (at && s->rate)
			write_for_ever(at, s->count, s->rate);
		wait_for_ever(NULL);
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		fail("start a program");
	close(ready[0]);
	return pid;
}

/* ---- capture and replay ---- */

static double since(int64_t *then)
{
	const int64_t now = fvm_clock_ns(), before = *then;
	*then = now;
	return (double)(now - before) / 1e6;
}

static struct vin_capture *look(pid_t pid, bool late, const struct vin_precopy *p,
				double parts[PARTS])
{
	const struct vin_capture_options options = { .root = -1, .late = late, .precopy = p };
	struct vin_capture *c;
	int64_t at = fvm_clock_ns();
	must(vin_capture_open(&pid, 1, &options, &c, &err), "look at a program");
	parts[LOOK] = since(&at);
	must(vin_capture_stop(c, PATIENCE_MS, &err), "stop a program");
	parts[STOP] = since(&at);
	return c;
}

static void write_image(struct vin_capture *c, int to, double parts[PARTS])
{
	struct vin_out *out;
	int64_t at = fvm_clock_ns();
	must(vin_out_open(to, &out, &err), "write");
	must(vin_capture_write(c, out, &err), "write");
	must(vin_out_end(out, &err), "write");
	vin_out_close(out);
	parts[WRITE] = since(&at);
}

static void capture(pid_t pid, int to, bool resume, double parts[PARTS])
{
	struct vin_capture *c = look(pid, false, NULL, parts);
	write_image(c, to, parts);
	int64_t at = fvm_clock_ns();
	if (resume)
		vin_capture_resume(c);
	else
		vin_capture_kill(c);
	parts[KILL] = since(&at);
	vin_capture_close(c);
}

/* Return: PID 1 of those who go on, a child of ours */
static pid_t replay(int from, const struct vin_lazy_options *lazy, double parts[PARTS])
{
	scoped_fd root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	const struct vin_replay_options options = { .root = root,
						    .user = geteuid() != 0,
						    .lazy = lazy };
	struct vin_replay *r;
	struct vin_in *in;
	int64_t at = fvm_clock_ns();
	must(vin_in_open(from, &in, &err), "read the image");
	must(vin_replay_build(in, &options, &r, &err), "make programs again");
	vin_in_close(in);
	parts[BUILD] = since(&at);
	const pid_t init = vin_replay_init(r);
	must(vin_replay_go(r, &err), "let programs go");
	parts[GO] = since(&at);
	vin_replay_close(r);
	return init;
}

/* Of what was started by us, too, if it is there still. */
static void reap(pid_t pid)
{
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, __WALL);
}

static void through_memory(const struct subject *s, double parts[PARTS])
{
	double copy[PARTS] = { 0 };
	scoped_fd image = memfd_create("image", MFD_CLOEXEC);
	const pid_t pid = start(s);
	capture(pid, image, true, copy);
	parts[STILL] = copy[STOP] + copy[WRITE] + copy[KILL];
	if (ftruncate(image, 0) < 0 || lseek(image, 0, SEEK_SET) < 0)
		fail("empty the image");
	capture(pid, image, false, parts);
	reap(pid);
	if (lseek(image, 0, SEEK_SET) < 0)
		fail("rewind the image");
	reap(replay(image, NULL, parts));
}

static pid_t the_source(void *arg, pid_t number)
{
	(void)number;
	return *(const pid_t *)arg;
}

/* Return: ms of processor time */
static double have_it_work(pid_t pid)
{
	struct timespec before, after;
	clockid_t clock;
	int status;
	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &before) < 0 ||
	    kill(pid, SIGUSR1) < 0 || waitpid(pid, &status, WUNTRACED) != pid ||
	    !WIFSTOPPED(status) || clock_gettime(clock, &after) < 0)
		fail("have a program work");
	(void)kill(pid, SIGCONT);
	return (double)(after.tv_sec - before.tv_sec) * 1e3 +
	       (double)(after.tv_nsec - before.tv_nsec) / 1e6;
}

/* In turns who is the first. */
static void work_after(const struct subject *s, double parts[PARTS])
{
	double unused[PARTS];
	scoped_fd image = memfd_create("image", MFD_CLOEXEC);
	const pid_t never = start(s), after = start(s);
	capture(after, image, true, unused);
	for (size_t i = 0; i < 2; i++) {
		if ((round_count + i) % 2)
			parts[NEVER] = have_it_work(never);
		else
			parts[AFTER] = have_it_work(after);
	}
	reap(never);
	reap(after);
}

/* Two stops: at the first they are only tracked from then on. */
static void early(const struct subject *s, double parts[PARTS])
{
	double first[PARTS] = { 0 };
	struct vin_precopy_told told;
	struct vin_out *out;
	scoped_fd image = memfd_create("image", MFD_CLOEXEC);
	const pid_t pid = start(s);
	struct vin_precopy *p = vin_precopy_open(VIN_DIRTY_ALL);
	struct vin_capture *c = look(pid, false, NULL, first);
	int64_t at = fvm_clock_ns();
	must(vin_capture_track(c, p, &err), "track a program");
	vin_capture_resume(c);
	const double tracked = since(&at);
	vin_capture_close(c);
	must(vin_out_open(image, &out, &err), "write");
	must(vin_precopy_copy(p, out, NULL, NULL, &told, &err), "copy memory");
	parts[EARLY] = since(&at);
	c = look(pid, false, p, parts);
	at = fvm_clock_ns();
	must(vin_capture_write(c, out, &err), "write");
	must(vin_out_end(out, &err), "write");
	parts[WRITE] = since(&at);
	vin_capture_resume(c);
	parts[STILL] = first[STOP] + tracked + parts[STOP] + parts[WRITE] + since(&at);
	vin_precopy_close(p);
	vin_out_close(out);
	vin_capture_close(c);
	reap(pid);
}

/* The other end of the pipe: ends with what it measured. */
static _Noreturn void receive(int from, int report, pid_t late)
{
	double parts[PARTS] = { 0 };
	int held[2];
	char byte;
	if (pipe2(held, O_CLOEXEC) < 0)
		fail("make a pipe");
	const struct vin_lazy_options lazy = {
		.ends = -1, .held = held[1], .after = -1, .source = the_source, .arg = &late
	};
	const pid_t init = replay(from, late ? &lazy : NULL, parts);
	(void)!write(report, parts, sizeof(parts));
	close(held[1]);
	if (late && read(held[0], &byte, 1) == 0)
		(void)!write(report, parts, sizeof(parts));
	reap(init);
	_exit(0);
}

/* Both ends work at once: what it takes is the time from the stop until the others go. */
static void through_pipe(const struct subject *s, double parts[PARTS])
{
	int line[2], report[2];
	double there[PARTS] = { 0 };
	const pid_t pid = start(s);
	if (pipe2(line, O_CLOEXEC) < 0 || pipe2(report, O_CLOEXEC) < 0)
		fail("make a pipe");
	(void)fcntl(line[1], F_SETPIPE_SZ, MIB);
	const pid_t other = fork();
	if (other == 0) {
		close(line[1]);
		receive(line[0], report[1], is_late(s) ? pid : 0);
	}
	close(line[0]);
	struct vin_capture *c = look(pid, is_late(s), NULL, parts);
	int64_t at = fvm_clock_ns();
	write_image(c, line[1], parts);
	close(line[1]);
	close(report[1]);
	if (read(report[0], there, sizeof(there)) != sizeof(there))
		fail("make programs again");
	/* the old ones are ended behind that, by whom does not matter */
	parts[BUILD] = since(&at) - parts[WRITE];
	if (is_late(s) && read(report[0], there, sizeof(there)) != sizeof(there))
		fail("have all memory");
	if (is_late(s))
		parts[ALL] = parts[STOP] + parts[WRITE] + parts[BUILD] + since(&at);
	vin_capture_kill(c);
	vin_capture_close(c);
	close(report[0]);
	reap(pid);
	(void)waitpid(other, NULL, 0);
}

/* ---- the plain copy ---- */

struct half {
	pid_t pid;
	unsigned char *from, *to;
	size_t size;
	bool failed;
};

static void *copy_half(void *arg)
{
	struct half *h = arg;
	for (size_t at = 0; at < h->size && !h->failed; at += MIB) {
		struct iovec here = { h->to + at, MIB }, there = { h->from + at, MIB };
		h->failed = process_vm_readv(h->pid, &here, 1, &there, 1, 0) != (ssize_t)MIB;
	}
	return NULL;
}

static void plain_copy(const struct subject *s, double parts[PARTS])
{
	const size_t size = (size_t)s->count * MIB, middle = size / MIB / 2 * MIB;
	unsigned char *from = have_memory(s->count);
	const pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		wait_for_ever(NULL);
	}
	int64_t at = fvm_clock_ns();
	unsigned char *to =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct half halves[2] = { { pid, from, to, middle, false },
				  { pid, from + middle, to + middle, size - middle, false } };
	pthread_t t;
	if (to == MAP_FAILED || pthread_create(&t, NULL, copy_half, &halves[0]) != 0)
		fail("copy");
	copy_half(&halves[1]);
	pthread_join(t, NULL);
	parts[WRITE] = since(&at);
	if (halves[0].failed || halves[1].failed)
		fail("copy");
	munmap(from, size);
	munmap(to, size);
	reap(pid);
}

/* ---- figures ---- */

static void one_round(const struct subject *s, bool counts)
{
	double parts[PARTS] = { 0 };
	if (strcmp(s->kind, "copy") == 0)
		plain_copy(s, parts);
	else if (strcmp(s->kind, "stream") == 0 || is_late(s))
		through_pipe(s, parts);
	else if (strcmp(s->kind, "after") == 0)
		work_after(s, parts);
	else if (strcmp(s->kind, "early") == 0)
		early(s, parts);
	else
		through_memory(s, parts);
	for (int i = STOP; i <= GO; i++)
		parts[FREEZE] += parts[i];
	parts[TOTAL] = parts[LOOK] + parts[FREEZE];
	for (int i = 0; counts && i < PARTS; i++)
		figures[i][round_count] = parts[i];
	round_count += counts;
}

static int compare(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double quantile(const double *sorted, size_t percent)
{
	return sorted[(round_count - 1) * percent / 100];
}

static void print(const char *prefix)
{
	for (int i = 0; i < PARTS; i++) {
		double *f = figures[i];
		qsort(f, round_count, sizeof(*f), compare);
		if (f[round_count - 1] <= 0)
			continue;
		printf("%s/%s %.3f ms\n", prefix, part_names[i], quantile(f, 50));
		printf("%s/%s.p90 %.3f ms\n", prefix, part_names[i], quantile(f, 90));
		printf("%s/%s.p95 %.3f ms\n", prefix, part_names[i], quantile(f, 95));
	}
}

int main(int argc, char **argv)
{
	long rounds = 30, warm_up = 3, rate = 0;
	struct vin_watch watch;
	for (int o; (o = getopt(argc, argv, "n:w:r:")) != -1;)
		*(o == 'n' ? &rounds : o == 'r' ? &rate : &warm_up) = strtol(optarg, NULL, 10);
	if (argc - optind != 3 || rounds < 1 || rounds > ROUNDS_MAX) {
		fprintf(stderr,
			"usage: bench-vin [-n ROUNDS] [-w WARM_UP] [-r RATE] PREFIX KIND COUNT\n");
		return 2;
	}
	const struct subject s = { argv[optind + 1], strtol(argv[optind + 2], NULL, 10), rate };
	vin_watch_begin(&watch);
	for (long i = -warm_up; i < rounds; i++)
		one_round(&s, i >= 0);
	print(argv[optind]);
	return 0;
}
