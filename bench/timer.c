/*
 * Time commands against each other: each round runs every command once, in turn, so that whatever
 * else the machine does meets all of them alike.
 *
 *   timer [-n ROUNDS] [-w WARM_UP] [-p PREFIX] [-e] NAME COMMAND [NAME COMMAND]..
 *
 * COMMAND is split at spaces; its output goes nowhere. Printed are lines of "name value unit":
 * PREFIX/NAME (median), .p90, .p95 and .cpu (median of user and system time of it and its waited
 * children), in ms. -e: go on with commands that fail, and say so; without, a failure ends all.
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
	bool failed;
};

struct settings {
	int rounds, warm_up;
	const char *prefix;
	bool go_on;
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

/* Return: exit status, or 128+n */
static int run_once(const struct subject *s, const posix_spawn_file_actions_t *quiet, double *wall,
		    double *cpu)
{
	pid_t pid;
	int status;
	struct rusage usage;
	double from = now_ms();
	int r = posix_spawnp(&pid, s->words[0], quiet, NULL, s->words, environ);
	if (r != 0)
		return 127;
	while (wait4(pid, &status, 0, &usage) < 0)
		;
	*wall = now_ms() - from;
	*cpu = cpu_ms(&usage);
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

static void report(const struct settings *settings, struct subject *s)
{
	int n = settings->rounds;
	qsort(s->wall_ms, (size_t)n, sizeof(double), by_value);
	qsort(s->cpu_ms, (size_t)n, sizeof(double), by_value);
	printf("%s%s %.3f ms\n", settings->prefix, s->name, at_percent(s->wall_ms, n, 50));
	printf("%s%s.p90 %.3f ms\n", settings->prefix, s->name, at_percent(s->wall_ms, n, 90));
	printf("%s%s.p95 %.3f ms\n", settings->prefix, s->name, at_percent(s->wall_ms, n, 95));
	printf("%s%s.cpu %.3f ms\n", settings->prefix, s->name, at_percent(s->cpu_ms, n, 50));
}

static int run_all(const struct settings *settings, struct subject *subjects, int count)
{
	posix_spawn_file_actions_t quiet;
	posix_spawn_file_actions_init(&quiet);
	posix_spawn_file_actions_addopen(&quiet, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addopen(&quiet, 2, "/dev/null", O_WRONLY, 0);
	int bad = 0;
	for (int round = -settings->warm_up; round < settings->rounds; round++) {
		for (int i = 0; i < count; i++) {
			double wall = 0, cpu = 0;
			struct subject *s = &subjects[i];
			int status = s->failed ? 0 : run_once(s, &quiet, &wall, &cpu);
			if (status != 0) {
				fprintf(stderr, "timer: %s: status %d\n", s->name, status);
				s->failed = true;
				bad = 1;
				if (!settings->go_on)
					return bad;
			}
			if (round >= 0) {
				s->wall_ms[round] = wall;
				s->cpu_ms[round] = cpu;
			}
		}
	}
	posix_spawn_file_actions_destroy(&quiet);
	return settings->go_on ? 0 : bad;
}

int main(int argc, char **argv)
{
	static struct subject subjects[MAX_COMMANDS];
	struct settings settings = { .rounds = 30, .warm_up = 3, .prefix = "" };
	int c, count = 0;
	while ((c = getopt(argc, argv, "n:w:p:e")) != -1) {
		if (c == 'n')
			settings.rounds = atoi(optarg);
		else if (c == 'w')
			settings.warm_up = atoi(optarg);
		else if (c == 'p')
			settings.prefix = optarg;
		else if (c == 'e')
			settings.go_on = true;
		else
			return 2;
	}
	for (; optind + 1 < argc && count < MAX_COMMANDS; optind += 2, count++) {
		struct subject *s = &subjects[count];
		s->name = argv[optind];
		s->wall_ms = calloc((size_t)settings.rounds, sizeof(double));
		s->cpu_ms = calloc((size_t)settings.rounds, sizeof(double));
		if (!s->wall_ms || !s->cpu_ms || split(s, argv[optind + 1]) < 0)
			return 2;
	}
	if (count == 0 || settings.rounds < 1)
		return 2;
	int r = run_all(&settings, subjects, count);
	for (int i = 0; i < count; i++) {
		if (!subjects[i].failed)
			report(&settings, &subjects[i]);
	}
	return r;
}
