/*
 * A program whose files and memory change in lockstep, for tests of checkpoints that let it run on:
 *
 *   lockstep DIR MIB
 *
 * makes DIR with MIB of data, and then changes what lies there, round after round: writes, stores
 * into a shared mapping and into memory of its own, renames, exchanged directories, links,
 * attributes, holes. Each round begins with a look whether all is as the rounds before left it, by
 * their number in memory.
 * Prints "round N" now and then; "wrong: WHAT", and status 1, when something is of another round.
 * Restored, it finds other inodes: its files lie in a lower layer then, whose directories can't be
 * renamed (EXDEV), and whose links end with a copy-up. It says "restored N", and leaves these out.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define PAGE  4096
#define PAGES 64
#define SLOTS 512
#define TELL  50 /* rounds */
#define HOLE  (1 << 20)
#define PLAIN 1024 /* pages of memory that nobody else sees */

static char *mapped, *plain;
static int slots, paged, elsewhere;
static ino_t first_ino;

static void must(int ok, const char *what, uint64_t round)
{
	if (ok)
		return;
	printf("wrong: %s in round %llu\n", what, (unsigned long long)round);
	fflush(stdout);
	_exit(1);
}

static uint64_t word(int fd, off_t at)
{
	uint64_t is = 0;
	return pread(fd, &is, sizeof(is), at) == sizeof(is) ? is : UINT64_MAX;
}

/* The last round up to @n that had number @i of @count. */
static uint64_t last_of(uint64_t n, uint64_t i, uint64_t count)
{
	uint64_t back = (n + count - i) % count;
	return back > n ? 0 : n - back;
}

static char first_byte(const char *path)
{
	char c = 0;
	int fd = open(path, O_RDONLY);
	(void)!read(fd, &c, 1);
	close(fd);
	return c;
}

static uint64_t noted(const char *path)
{
	char text[32] = "";
	return getxattr(path, "user.round", text, sizeof(text) - 1) > 0 ? strtoull(text, NULL, 10)
									: UINT64_MAX;
}

static void note(const char *path, uint64_t n)
{
	char text[32];
	snprintf(text, sizeof(text), "%llu", (unsigned long long)n);
	must(setxattr(path, "user.round", text, strlen(text), 0) == 0, "setxattr", n);
}

static void name_of(uint64_t n, char ret[40])
{
	snprintf(ret, 40, "named.%llu", (unsigned long long)n);
}

/* ---- a round ---- */

static void find_out(uint64_t n)
{
	struct stat st;
	must(stat("slots", &st) == 0, "stat", n);
	if (!elsewhere && st.st_ino != first_ino) {
		elsewhere = 1;
		printf("restored %llu\n", (unsigned long long)n);
		fflush(stdout);
	}
}

static int exchange(const char *a, const char *b)
{
	return renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
}

static void exchange_directories(uint64_t n)
{
	if (exchange("left", "right") == 0)
		return;
	find_out(n); /* it may have been in this round */
	must(errno == EXDEV && elsewhere, "exchange directories", n);
	must(exchange("left/file", "right/file") == 0, "exchange files", n);
}

static void look_at_links(uint64_t n)
{
	struct stat a, b;
	must(stat("link.a", &a) == 0, "the first name", n);
	const int both = stat("link.b", &b) == 0;
	must(both == (n % 2 == 1), "the second name", n);
	find_out(n); /* it may have been between the two looks */
	must(elsewhere || a.st_nlink == 1 + n % 2, "a link's number", n);
	must(elsewhere || !both || a.st_ino == b.st_ino, "the link", n);
}

static void look(uint64_t n)
{
	char name[40];
	struct stat st;
	for (uint64_t i = 0; i < SLOTS; i++)
		must(word(slots, (off_t)(i * 8)) == last_of(n, i, SLOTS), "what was written", n);
	for (uint64_t i = 0; i < PAGES; i++) {
		uint64_t want = last_of(n, i, PAGES);
		must(memcmp(mapped + i * PAGE, &want, 8) == 0, "the mapping", n);
		must(word(paged, (off_t)(i * PAGE)) == want, "the mapped file", n);
	}
	for (uint64_t i = 0; i < PLAIN; i++) {
		uint64_t want = last_of(n, i, PLAIN);
		must(memcmp(plain + i * PAGE, &want, 8) == 0, "memory", n);
		must(memcmp(plain + i * PAGE + PAGE - 8, &want, 8) == 0, "memory's end", n);
	}
	name_of(n, name);
	must(access(name, F_OK) == 0, "the new name", n);
	name_of(n - 1, name);
	must(n == 0 || access(name, F_OK) < 0, "the old name", n);
	must(first_byte("left/file") == "ab"[n % 2], "the left directory", n);
	must(first_byte("right/file") == "ba"[n % 2], "the right directory", n);
	look_at_links(n);
	must(noted("link.a") == n && noted("left") == n, "an attribute", n);
	must(stat("holes", &st) == 0 && (uint64_t)st.st_size == (n % 100 + 1) * HOLE, "a size", n);
}

static void change(uint64_t n)
{
	char was[40], is[40];
	name_of(n - 1, was);
	name_of(n, is);
	must(pwrite(slots, &n, 8, (off_t)(n % SLOTS * 8)) == 8, "pwrite", n);
	memcpy(mapped + n % PAGES * PAGE, &n, 8);
	memcpy(plain + n % PLAIN * PAGE, &n, 8);
	memcpy(plain + n % PLAIN * PAGE + PAGE - 8, &n, 8);
	must(rename(was, is) == 0, "rename", n);
	exchange_directories(n);
	must((n % 2 ? link("link.a", "link.b") : unlink("link.b")) == 0, "link", n);
	note("link.a", n);
	note("left", n);
	must(truncate("holes", (off_t)(n % 100 + 1) * HOLE) == 0, "truncate", n);
}

/* ---- the beginning ---- */

static void write_file(const char *path, const void *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	must(fd >= 0 && write(fd, data, len) == (ssize_t)len, path, 0);
	close(fd);
}

static void fill(long mib)
{
	static uint64_t block[(1 << 20) / 8];
	uint64_t x = 88172645463325252ULL;
	char path[40];
	for (long m = 0; m < mib; m++) {
		for (size_t i = 0; i < sizeof(block) / 8; i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			block[i] = x;
		}
		snprintf(path, sizeof(path), "data.%ld", m);
		write_file(path, block, sizeof(block));
	}
}

static void begin(const char *dir, long mib)
{
	static const char zeros[PAGES * PAGE];
	must(mkdir(dir, 0755) == 0 && chdir(dir) == 0, dir, 0);
	fill(mib);
	must(mkdir("left", 0755) == 0 && mkdir("right", 0755) == 0, "mkdir", 0);
	write_file("left/file", "a", 1);
	write_file("right/file", "b", 1);
	write_file("named.0", "name", 4);
	write_file("link.a", "link", 4);
	write_file("holes", "", 0);
	write_file("slots", zeros, SLOTS * 8);
	write_file("paged", zeros, sizeof(zeros));
	slots = open("slots", O_RDWR);
	paged = open("paged", O_RDWR);
	mapped = mmap(NULL, sizeof(zeros), PROT_READ | PROT_WRITE, MAP_SHARED, paged, 0);
	plain = mmap(NULL, PLAIN * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		     0);
	must(slots >= 0 && mapped != MAP_FAILED && plain != MAP_FAILED, "open", 0);
	memset(plain, 0, PLAIN * PAGE);
	struct stat st;
	must(fstat(slots, &st) == 0, "fstat", 0);
	first_ino = st.st_ino;
	note("link.a", 0);
	note("left", 0);
	must(truncate("holes", HOLE) == 0, "truncate", 0);
}

int main(int argc, char **argv)
{
	must(argc == 3, "the usage: lockstep DIR MIB", 0);
	begin(argv[1], strtol(argv[2], NULL, 10));
	for (uint64_t n = 0;; n++) {
		if (n)
			change(n);
		find_out(n);
		look(n);
		if (n % TELL == 0) {
			printf("round %llu\n", (unsigned long long)n);
			fflush(stdout);
		}
	}
}
