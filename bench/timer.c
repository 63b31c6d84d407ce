/*
 * Time commands against each other: each round runs every command once, in turn, so that whatever
 * else the machine does meets all of them alike. Each round begins with another one of them.
 *
 *   timer [-n ROUNDS] [-w WARM_UP] [-p PREFIX] [-eir] NAME COMMAND [NAME COMMAND]..
 *   timer -1 COMMAND [ARG]..
 *
 * COMMAND is split at spaces; its output goes nowhere ("-1": its errors are seen). Printed are
 * lines of "name value unit": PREFIX/NAME (median), .p90, .p95 and .cpu (median of user and system
 * time of it and its waited children), in ms. -e  go on with commands that fail, and say so;
 * without, a failure ends all -i  a command measures by itself and prints "WALL CPU" in ms as its
 * last line, as "timer -1" does: what goes before it in a VM is then not counted -r  print .ratio,
 * too, the median of this command's time divided by that of the first in the same round, .ratio.p25
 * and .ratio.p75, and .cpu-ratio
 */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { MAX_WORDS = 64, MAX_COMMANDS = 32 };

struct subject {
	const char *name;
	char *words[MAX_WORDS];
	double *wall_ms, *cpu_ms;
	double *ratio, *cpu_ratio; /* by round, to the first subject */
	bool failed;
};

struct settings {
	int rounds, warm_up;
	const char *prefix;
	bool go_on, inside, ratios;
};

static double now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static double cpu_ms(const struct rusage *u)
{
	return (double)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) * 1e3 +
	       (double)(u->ru_utime.tv_usec + u->ru_stime.tv_usec) / 1e3;
}

static int split(struct subject *s, char *command)
{
	size_t count = 0;
	for (char *word = strtok(command, " "); word; word = strtok(NULL, " ")) {
		if (count + 1 >= MAX_WORDS)
			return -E2BIG;
		s->words[count++] = word;
	}
	s->words[count] = NULL;
	return count ? 0 : -EINVAL;
}

static int spawn(pid_t *pid, char *const words[], int output, bool quiet)
{
	posix_spawn_file_actions_t actions;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	if (output >= 0)
		posix_spawn_file_actions_adddup2(&actions, output, 1);
	else
		posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	if (quiet && !getenv("BENCH_DEBUG"))
		posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
	int r = posix_spawnp(pid, words[0], &actions, NULL, words, environ);
	posix_spawn_file_actions_destroy(&actions);
	return r;
}

/* Return: exit status, or 128+n */
static int run_once(char *const words[], bool quiet, double *wall, double *cpu)
{
	pid_t pid;
	int status;
	struct rusage usage;
	double from = now_ms();
	if (spawn(&pid, words, -1, quiet) != 0)
		return 127;
	while (wait4(pid, &status, 0, &usage) < 0)
		;
	*wall = now_ms() - from;
	*cpu = cpu_ms(&usage);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* The command's last line is "WALL CPU". */
static int run_inside(char *const words[], double *wall, double *cpu)
{
	pid_t pid;
	int status, out[2];
	char line[256];
	double w = -1, c = 0;
	if (pipe2(out, O_CLOEXEC) < 0)
		return 127;
	int r = spawn(&pid, words, out[1], true);
	close(out[1]);
	FILE *f = fdopen(out[0], "r");
	if (r != 0 || !f)
		return 127;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lf %lf", &w, &c) != 2)
			w = -1;
	}
	fclose(f);
	while (waitpid(pid, &status, 0) < 0)
		;
	*wall = w;
	*cpu = c;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && w < 0)
		return 126;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double at_percent(const double *sorted, int count, int percent)
{
	int at = (count * percent + 99) / 100 - 1;
	return sorted[at < 0 ? 0 : at];
}

static void sort(double *values, int count)
{
	qsort(values, (size_t)count, sizeof(double), by_value);
}

static void report(const struct settings *settings, struct subject *s)
{
	int n = settings->rounds;
	const char *prefix = settings->prefix;
	sort(s->wall_ms, n);
	sort(s->cpu_ms, n);
	printf("%s%s %.3f ms\n", prefix, s->name, at_percent(s->wall_ms, n, 50));
	printf("%s%s.p90 %.3f ms\n", prefix, s->name, at_percent(s->wall_ms, n, 90));
	printf("%s%s.p95 %.3f ms\n", prefix, s->name, at_percent(s->wall_ms, n, 95));
	printf("%s%s.cpu %.3f ms\n", prefix, s->name, at_percent(s->cpu_ms, n, 50));
	if (!settings->ratios)
		return;
	sort(s->ratio, n);
	sort(s->cpu_ratio, n);
	printf("%s%s.ratio %.3f x\n", prefix, s->name, at_percent(s->ratio, n, 50));
	printf("%s%s.ratio.p25 %.3f x\n", prefix, s->name, at_percent(s->ratio, n, 25));
	printf("%s%s.ratio.p75 %.3f x\n", prefix, s->name, at_percent(s->ratio, n, 75));
	printf("%s%s.cpu-ratio %.3f x\n", prefix, s->name, at_percent(s->cpu_ratio, n, 50));
}

static int run_subject(const struct settings *settings, struct subject *s, int round)
{
	double wall = 0, cpu = 0;
	int status = settings->inside ? run_inside(s->words, &wall, &cpu)
				      : run_once(s->words, true, &wall, &cpu);
	if (round >= 0) {
		s->wall_ms[round] = wall;
		s->cpu_ms[round] = cpu;
	}
	if (status == 0)
		return 0;
	fprintf(stderr, "timer: %s%s: status %d\n", settings->prefix, s->name, status);
	s->failed = true;
	return -1;
}

static int run_all(const struct settings *settings, struct subject *subjects, int count)
{
	int bad = 0;
	for (int round = -settings->warm_up; round < settings->rounds; round++) {
		for (int i = 0; i < count; i++) {
			int turn = (i + round + settings->warm_up) % count;
			struct subject *s = &subjects[turn];
			if (!s->failed && run_subject(settings, s, round) < 0)
				bad = 1;
			if (bad && !settings->go_on)
				return bad;
		}
	}
	return settings->go_on ? 0 : bad;
}

static void compare(const struct settings *settings, struct subject *subjects, int count)
{
	const struct subject *first = &subjects[0];
	for (int i = count - 1; i >= 0; i--) {
		struct subject *s = &subjects[i];
		for (int n = 0; n < settings->rounds; n++) {
			double wall = first->wall_ms[n], cpu = first->cpu_ms[n];
			s->ratio[n] = wall > 0 ? s->wall_ms[n] / wall : 0;
			s->cpu_ratio[n] = cpu > 0 ? s->cpu_ms[n] / cpu : 0;
		}
	}
}

static int print_once(char *const words[])
{
	double wall = 0, cpu = 0;
	int status = run_once(words, false, &wall, &cpu);
	printf("%.3f %.3f\n", wall, cpu);
	return status;
}

static int subject_make(struct subject *s, int rounds, char *name, char *command)
{
	double **const values[] = { &s->wall_ms, &s->cpu_ms, &s->ratio, &s->cpu_ratio };
	s->name = name;
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		*values[i] = calloc((size_t)rounds, sizeof(double));
		if (!*values[i])
			return -ENOMEM;
	}
	return split(s, command);
}

static int parse(int argc, char **argv, struct settings *settings)
{
	int c;
	while ((c = getopt(argc, argv, "+n:w:p:eir")) != -1) {
		if (c == 'n')
			settings->rounds = atoi(optarg);
		else if (c == 'w')
			settings->warm_up = atoi(optarg);
		else if (c == 'p')
			settings->prefix = optarg;
		else if (c == 'e')
			settings->go_on = true;
		else if (c == 'i')
			settings->inside = true;
		else if (c == 'r')
			settings->ratios = true;
		else
			return -EINVAL;
	}
	return settings->rounds < 1 ? -EINVAL : 0;
}

int main(int argc, char **argv)
{
	static struct subject subjects[MAX_COMMANDS];
	struct settings settings = { .rounds = 30, .warm_up = 3, .prefix = "" };
	int count = 0;
	if (argc > 2 && strcmp(argv[1], "-1") == 0)
		return print_once(argv + 2);
	if (parse(argc, argv, &settings) < 0)
		return 2;
	for (; optind + 1 < argc && count < MAX_COMMANDS; optind += 2, count++) {
		char **pair = argv + optind;
		if (subject_make(&subjects[count], settings.rounds, pair[0], pair[1]) < 0)
			return 2;
	}
	if (count == 0)
		return 2;
	int r = run_all(&settings, subjects, count);
	compare(&settings, subjects, count);
	for (int i = 0; i < count; i++) {
		if (!subjects[i].failed)
			report(&settings, &subjects[i]);
	}
	return r;
}
