/* The program that cases are: small --list, or small FAMILY NUMBER SLOT in its directory. */
#include <dirent.h>
#include <linux/futex.h>
#include <pthread.h>

#include "small.h"

static const struct {
	const char *name;
	const struct small_case *cases;
} families[] = {
	{ "memory", memory_cases },	  { "events", event_cases },
	{ "files", file_cases },	  { "processes", process_cases },
	{ "signals", signal_cases },	  { "sockets", socket_cases },
	{ "narrow", narrow_cases },	  { "ipc", ipc_cases },
	{ "processor", processor_cases }, { "namespaces", namespace_cases },
	{ "tunnels", tunnel_cases },
};

static struct small_board *board;
static struct small_slot *slot;

static _Noreturn void end_as(enum small_state state, const char *text)
{
	if (slot->state != SMALL_WRONG) {
		snprintf(slot->text, sizeof(slot->text), "%s", text);
		slot->state = state;
	}
	_exit(0);
}

_Noreturn void small_wrong(const char *file, int line, const char *text)
{
	char all[sizeof(slot->text)];
	const char *name = strrchr(file, '/');
	snprintf(all, sizeof(all), "%s, line %d: %s (%s)", name ? name + 1 : file, line, text,
		 strerror(errno));
	end_as(SMALL_WRONG, all);
}

_Noreturn void small_skip(const char *why)
{
	end_as(SMALL_SKIPPED, why);
}

void small_nap(int ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000L };
	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &t) == EINTR)
		;
}

void small_await(const volatile int *flag, int value)
{
	for (int i = 0; i < 30000 && *flag != value; i++)
		small_nap(1);
	CHECK(*flag == value);
}

void small_thread(void *(*fn)(void *arg), void *arg)
{
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, fn, arg) == 0 && pthread_detach(thread) == 0);
}

int small_file(const char *name, const char *text, int flags)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
	fd = open(name, flags);
	CHECK(fd >= 0);
	return fd;
}

const char *small_proc(const char *file, const char *start)
{
	static char line[1024];
	char path[64], *found = NULL;
	snprintf(path, sizeof(path), "/proc/self/%s", file);
	FILE *f = fopen(path, "re");
	CHECK(f);
	while (!found && fgets(line, sizeof(line), f)) {
		if (strncmp(line, start, strlen(start)) == 0)
			found = line + strlen(start);
	}
	fclose(f);
	if (!found)
		return "";
	found[strcspn(found, "\n")] = '\0';
	return found + strspn(found, " \t");
}

/* Whether the thread or process at @path below /proc sleeps, or is gone. */
static bool sleeps(const char *path)
{
	char text[256];
	FILE *f = fopen(path, "re");
	const char *end = f && fgets(text, sizeof(text), f) ? strrchr(text, ')') : NULL;
	const bool yes = !end || end[2] == 'S';
	if (f)
		fclose(f);
	return yes;
}

static bool children_sleep(const char *tid)
{
	char path[64];
	int child;
	bool all = true;
	snprintf(path, sizeof(path), "/proc/self/task/%.16s/children", tid);
	FILE *f = fopen(path, "re");
	while (f && all && fscanf(f, "%d", &child) == 1) {
		snprintf(path, sizeof(path), "/proc/%d/stat", child);
		all = sleeps(path);
	}
	if (f)
		fclose(f);
	return all;
}

/* Numbers are those of the /proc that there is, which may be another namespace's. */
static bool others_sleep(void)
{
	char path[64], own[64] = "";
	bool all = true;
	const ssize_t len = readlink("/proc/thread-self", own, sizeof(own) - 1);
	DIR *d = opendir("/proc/self/task");
	CHECK(len > 0 && d);
	for (struct dirent *e; all && (e = readdir(d));) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/self/task/%.16s/stat", e->d_name);
		all = children_sleep(e->d_name) &&
		      (strcmp(e->d_name, strrchr(own, '/') + 1) == 0 || sleeps(path));
	}
	closedir(d);
	return all;
}

void small_asleep(void)
{
	bool all = false;
	for (int i = 0; i < 30000 && !all; i++) {
		all = others_sleep();
		if (!all)
			small_nap(1);
	}
	CHECK(all);
}

bool small_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	return poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
}

static int list(void)
{
	for (size_t f = 0; f < COUNT(families); f++) {
		for (const struct small_case *c = families[f].cases; c->says; c++)
			printf("%s\t%u\t%s\n", families[f].name, c->flags, c->says);
	}
	return 0;
}

static const struct small_case *find(const char *family, unsigned long number)
{
	for (size_t f = 0; f < COUNT(families); f++) {
		const struct small_case *c = families[f].cases;
		if (strcmp(families[f].name, family) != 0)
			continue;
		while (number > 0 && c->says)
			c++, number--;
		return c->says ? c : NULL;
	}
	return NULL;
}

static void open_board(unsigned long number)
{
	const int fd = open("../board", O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		board = mmap(NULL, SMALL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || board == MAP_FAILED || number >= SMALL_SLOTS)
		_exit(97);
	close(fd);
	slot = &board->slots[number];
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--list") == 0)
		return list();
	const struct small_case *c = argc == 4 ? find(argv[1], strtoul(argv[2], NULL, 10)) : NULL;
	if (!c)
		return 96;
	open_board(strtoul(argv[3], NULL, 10));
	uint32_t seen = board->turn;
	c->make();
	slot->state = SMALL_READY;
	for (;;) {
		while (board->turn == seen)
			(void)syscall(SYS_futex, &board->turn, FUTEX_WAIT, seen, NULL, NULL, 0);
		seen = board->turn;
		c->check();
		slot->turn = seen;
	}
}
