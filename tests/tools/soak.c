/*
 * A load that looks at itself, for tools/soak-vin.sh: memory, registers, files, pipes, connections
 * and processes whose every value follows from the round before.
 *
 *   soak THREADS MIB
 *
 * Each of THREADS has MIB of memory: it checks that all of it is of the last round and writes this
 * one's; keeps a sum in vector registers beside one that is counted anew; does to a file in its
 * working directory, to a deleted one and to one mapped shared what it does to memory; sends
 * through a pipe, a unix socket and a connection of loopback to a child that gives back; and now
 * and then has a child look at the memory that it inherited. Prints "round N" when all have done N;
 * "wrong: WHAT", and status 1, when something is not as it was left.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define FORK_EACH  8 /* rounds */
#define LANES	   8
#define STEPS	   20000
#define FILE_WORDS 8192

struct worker {
	pthread_t thread;
	uint64_t *memory;
	uint64_t number;
	size_t words;
	int pipe[2], local, tcp; /* to the child and from it */
	int file, deleted;
	uint64_t *mapped; /* FILE_WORDS of a file */
};

static pthread_barrier_t all_done;

static _Noreturn void wrong(const char *what)
{
	printf("wrong: %s\n", what);
	fflush(stdout);
	_exit(1);
}

static uint64_t mix(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdULL;
	x ^= x >> 29;
	return x;
}

/* ---- memory ---- */

static int are_of_round(const uint64_t *at, size_t words, uint64_t round, uint64_t number)
{
	for (size_t i = 0; i < words; i++) {
		if (at[i] != mix(i ^ round << 32 ^ number << 56))
			return 0;
	}
	return 1;
}

static void write_words(uint64_t *at, size_t words, uint64_t round, uint64_t number)
{
	for (size_t i = 0; i < words; i++)
		at[i] = mix(i ^ round << 32 ^ number << 56);
}

static int is_of_round(const struct worker *w, uint64_t round)
{
	return are_of_round(w->memory, w->words, round, w->number);
}

/* ---- files ---- */

static void open_files(struct worker *w)
{
	char name[32];
	snprintf(name, sizeof(name), "soak.%d", (int)w->number);
	w->file = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	snprintf(name, sizeof(name), "soak.%d.deleted", (int)w->number);
	w->deleted = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	unlink(name);
	snprintf(name, sizeof(name), "soak.%d.mapped", (int)w->number);
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	const size_t bytes = FILE_WORDS * sizeof(uint64_t);
	w->mapped = fd < 0 || ftruncate(fd, (off_t)bytes) < 0
			    ? MAP_FAILED
			    : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (w->file < 0 || w->deleted < 0 || w->mapped == MAP_FAILED)
		wrong("no files");
	close(fd);
	write_words(w->mapped, FILE_WORDS, 0, w->number);
}

/* What the round before left there, if it was not the first, and this one's. */
static void try_file(const struct worker *w, int fd, uint64_t round, const char *what)
{
	uint64_t data[FILE_WORDS];
	if (round > 1 && (pread(fd, data, sizeof(data), 0) != sizeof(data) ||
			  !are_of_round(data, FILE_WORDS, round - 1, w->number)))
		wrong(what);
	write_words(data, FILE_WORDS, round, w->number);
	if (pwrite(fd, data, sizeof(data), 0) != sizeof(data))
		wrong(what);
}

static void try_files(const struct worker *w, uint64_t round)
{
	try_file(w, w->file, round, "a file");
	try_file(w, w->deleted, round, "a deleted file");
	if (!are_of_round(w->mapped, FILE_WORDS, round - 1, w->number))
		wrong("a mapped file");
	write_words(w->mapped, FILE_WORDS, round, w->number);
}

/* ---- registers ---- */

/* Without a call or a store in the loop: the sums live in registers all the time. Bits are told. */
static void sum_lanes(double seed, uint64_t ret[LANES])
{
	double sum[LANES];
	for (int l = 0; l < LANES; l++)
		sum[l] = seed + l;
	for (int i = 0; i < STEPS; i++) {
		for (int l = 0; l < LANES; l++)
			sum[l] = sum[l] * 0.999 + (double)(l + 1);
	}
	memcpy(ret, sum, sizeof(sum));
}

static void try_registers(uint64_t round)
{
	uint64_t first[LANES], again[LANES];
	for (int i = 0; i < 20; i++) {
		sum_lanes((double)round, first);
		sum_lanes((double)round, again);
		if (memcmp(first, again, sizeof(first)) != 0)
			wrong("registers");
	}
}

/* ---- others ---- */

static int whole(int fd, void *data, size_t len, int out)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = out ? write(fd, (char *)data + at, len - at)
				: read(fd, (char *)data + at, len - at);
		if (n <= 0 && errno != EINTR)
			return 0;
		at += n > 0 ? (size_t)n : 0;
	}
	return 1;
}

static void echo(int from, int to)
{
	uint64_t data[512];
	while (whole(from, data, sizeof(data), 0) && whole(to, data, sizeof(data), 1))
		;
	_exit(0);
}

static void try_echo(int to, int from, uint64_t round, const char *what)
{
	uint64_t data[512], back[512];
	for (size_t i = 0; i < sizeof(data) / sizeof(*data); i++)
		data[i] = mix(round ^ i);
	if (!whole(to, data, sizeof(data), 1) || !whole(from, back, sizeof(back), 0) ||
	    memcmp(data, back, sizeof(data)) != 0)
		wrong(what);
}

static void try_fork(const struct worker *w, uint64_t round)
{
	int status = -1;
	pid_t pid = fork();
	if (pid == 0)
		_exit(is_of_round(w, round) ? 7 : 8);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) ||
	    WEXITSTATUS(status) != 7)
		wrong("a child");
}

/* A connection through loopback; *ret_other is the child's end. */
static int connect_pair(int *ret_other)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof(at);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(listener, (struct sockaddr *)&at, len) < 0 || listen(listener, 1) < 0 ||
	    getsockname(listener, (struct sockaddr *)&at, &len) < 0 ||
	    connect(fd, (struct sockaddr *)&at, len) < 0)
		wrong("a connection");
	*ret_other = accept(listener, NULL, NULL);
	close(listener);
	return fd;
}

static void start_child(struct worker *w)
{
	int to[2], from[2], pair[2], other;
	w->tcp = connect_pair(&other);
	if (pipe(to) < 0 || pipe(from) < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		wrong("a pipe");
	w->local = pair[0];
	if (fork() == 0) {
		close(to[1]);
		close(w->tcp);
		close(w->local);
		if (fork() == 0)
			echo(other, other);
		close(other);
		if (fork() == 0)
			echo(pair[1], pair[1]);
		close(pair[1]);
		echo(to[0], from[1]);
	}
	close(other);
	close(pair[1]);
	close(to[0]);
	close(from[1]);
	w->pipe[0] = from[0];
	w->pipe[1] = to[1];
}

/* ---- rounds ---- */

static void *work(void *arg)
{
	struct worker *w = arg;
	for (uint64_t round = 1;; round++) {
		if (!is_of_round(w, round - 1))
			wrong("memory");
		write_words(w->memory, w->words, round, w->number);
		try_registers(round);
		try_files(w, round);
		try_echo(w->pipe[1], w->pipe[0], round, "a pipe");
		try_echo(w->local, w->local, round, "a unix socket");
		try_echo(w->tcp, w->tcp, round, "a connection");
		if (round % FORK_EACH == w->number % FORK_EACH)
			try_fork(w, round);
		int one = pthread_barrier_wait(&all_done);
		if (one == PTHREAD_BARRIER_SERIAL_THREAD) {
			printf("round %llu\n", (unsigned long long)round);
			fflush(stdout);
		}
	}
	return NULL;
}

int main(int argc, char **argv)
{
	const size_t count = argc > 2 ? strtoul(argv[1], NULL, 10) : 0;
	const size_t bytes = argc > 2 ? strtoul(argv[2], NULL, 10) << 20 : 0;
	struct worker *workers = calloc(count + 1, sizeof(*workers));
	if (count == 0 || bytes == 0 || !workers ||
	    pthread_barrier_init(&all_done, NULL, (unsigned int)count) != 0) {
		fprintf(stderr, "usage: soak THREADS MIB\n");
		return 2;
	}
	for (size_t i = 0; i < count; i++) {
		struct worker *w = &workers[i];
		w->number = i;
		w->words = bytes / sizeof(*w->memory);
		w->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				 -1, 0);
		if (w->memory == MAP_FAILED)
			wrong("no memory");
		write_words(w->memory, w->words, 0, w->number);
		start_child(w);
		open_files(w);
	}
	for (size_t i = 0; i < count; i++)
		pthread_create(&workers[i].thread, NULL, work, &workers[i]);
	pthread_join(workers[0].thread, NULL);
	return 1;
}
