/* Memory, as mmap(2), mprotect(2), madvise(2), mlock(2), mremap(2), memfd_create(2) and brk(2) have
 * it. */
#include <linux/mman.h>

#include "small.h"

#ifndef MADV_GUARD_INSTALL /* of Linux 6.13 */
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE  103
#endif
#define SOME (8 * PAGE)

static unsigned char *area, *other;
static int fd = -1;
static uint32_t round_no;

static unsigned char *map(size_t len, int prot, int flags, int from)
{
	void *p = mmap(NULL, len, prot, flags, from, 0);
	CHECK(p != MAP_FAILED);
	return p;
}

static unsigned char *own(size_t len)
{
	return map(len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

/* A pattern that is another one at each byte and in each round. */
static unsigned char byte_at(size_t i)
{
	return (unsigned char)((i * 2654435761U) >> 13 ^ round_no * 37);
}

static void fill(unsigned char *at, size_t len)
{
	for (size_t i = 0; i < len; i++)
		at[i] = byte_at(i);
}

static bool is_filled(const unsigned char *at, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (at[i] != byte_at(i))
			return false;
	}
	return true;
}

static bool is_zero(const unsigned char *at, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (at[i])
			return false;
	}
	return true;
}

/* The area that @of is in: its permissions, and in @ret its VmFlags and other lines. */
static bool smaps_of(const void *of, const char *start, char *ret, size_t room)
{
	char line[512];
	bool in = false, found = false;
	FILE *f = fopen("/proc/self/smaps", "re");
	CHECK(f);
	while (!found && fgets(line, sizeof(line), f)) {
		unsigned long from, to;
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			in = from <= (unsigned long)of && (unsigned long)of < to;
		found = in && strncmp(line, start, strlen(start)) == 0;
	}
	fclose(f);
	snprintf(ret, room, "%s", found ? line + strlen(start) : "");
	return found;
}

static bool has_flag(const void *of, const char *flag)
{
	char text[256], word[8];
	snprintf(word, sizeof(word), " %s ", flag);
	CHECK(smaps_of(of, "VmFlags:", text, sizeof(text)));
	text[strcspn(text, "\n")] = ' ';
	return strstr(text, word) != NULL;
}

/* Whether a system call may write to, or read from, @at: no signal comes of it. */
static bool writable(void *at)
{
	int ends[2];
	CHECK(pipe2(ends, O_CLOEXEC) == 0 && write(ends[1], at, 0) == 0);
	CHECK(write(ends[1], "x", 1) == 1);
	const bool can = read(ends[0], at, 1) == 1;
	CHECK(can || errno == EFAULT);
	close(ends[0]);
	close(ends[1]);
	return can;
}

static bool readable(const void *at)
{
	int ends[2];
	CHECK(pipe2(ends, O_CLOEXEC) == 0);
	const bool can = write(ends[1], at, 1) == 1;
	CHECK(can || errno == EFAULT);
	close(ends[0]);
	close(ends[1]);
	return can;
}

static void next(unsigned char *at, size_t len)
{
	round_no++;
	fill(at, len);
}

/* ---- mmap(2) ---- */

static void private_make(void)
{
	area = own(SOME);
	fill(area, 3 * PAGE);
}

static void private_check(void)
{
	CHECK(is_filled(area, 3 * PAGE) && is_zero(area + 3 * PAGE, SOME - 3 * PAGE));
	next(area, 3 * PAGE);
}

static int other_is; /* the child who has the same memory */

static void shared_make(void)
{
	area = map(SOME, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	volatile uint32_t *word = (volatile uint32_t *)area;
	other_is = fork();
	if (other_is == 0) {
		for (;;) {
			word[1] = word[0];
			small_nap(1);
		}
	}
	word[0] = 1;
}

static void shared_check(void)
{
	volatile uint32_t *word = (volatile uint32_t *)area;
	word[0]++;
	for (int i = 0; i < 30000 && word[1] != word[0]; i++)
		small_nap(1);
	CHECK(word[1] == word[0]);
	CHECK(kill(other_is, 0) == 0);
}

static void of_file_make(void)
{
	fd = small_file("file", "abcdefgh", O_RDWR);
	CHECK(ftruncate(fd, 3 * PAGE) == 0);
	area = map(3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	area[0] = 'A';
}

static void of_file_check(void)
{
	char text[2];
	CHECK(area[0] == 'A' && area[1] == 'b' && is_zero(area + 8, PAGE));
	CHECK(pread(fd, text, 1, 0) == 1 && text[0] == 'A');
	CHECK(pwrite(fd, "z", 1, PAGE) == 1 && area[PAGE] == 'z');
	area[2 * PAGE] = 'm';
	CHECK(pread(fd, text, 1, 2 * PAGE) == 1 && text[0] == 'm');
	area[PAGE] = area[2 * PAGE] = 0;
}

static void private_of_file_make(void)
{
	fd = small_file("file", "", O_RDWR);
	CHECK(ftruncate(fd, 2 * PAGE) == 0 && pwrite(fd, "file", 4, PAGE) == 4);
	area = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	area[0] = 'p';
}

static void private_of_file_check(void)
{
	char text[4];
	CHECK(area[0] == 'p' && memcmp(area + PAGE, "file", 4) == 0);
	CHECK(pread(fd, text, 1, 0) == 1 && text[0] == '\0');
}

static void fixed_make(void)
{
	other = own(64 * PAGE);
	CHECK(munmap(other, 64 * PAGE) == 0);
	area = mmap(other + 16 * PAGE, PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	CHECK(area == other + 16 * PAGE);
	fill(area, PAGE);
}

static void fixed_check(void)
{
	CHECK(is_filled(area, PAGE) && !readable(other + 15 * PAGE) && !readable(area + PAGE));
	CHECK(mmap(area, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
		   0) == MAP_FAILED &&
	      errno == EEXIST);
}

static void grows_down_make(void)
{
	other = own(64 * PAGE);
	CHECK(munmap(other, 64 * PAGE) == 0);
	area = mmap(other + 62 * PAGE, PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);
	CHECK(area == other + 62 * PAGE);
	fill(area, PAGE);
}

static void grows_down_check(void)
{
	CHECK(is_filled(other + 62 * PAGE, PAGE) && has_flag(area, "gd"));
	if (area <= other + 40 * PAGE)
		return;
	area -= PAGE;
	*(volatile unsigned char *)area = 7; /* touched just below: it grows */
	CHECK(*area == 7);
}

static void map_32bit_make(void)
{
	area = map(PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1);
	fill(area, PAGE);
}

static void map_32bit_check(void)
{
	CHECK((uintptr_t)area < 0x80000000UL && is_filled(area, PAGE));
	next(area, PAGE);
}

static void noreserve_make(void)
{
	area = map(1UL << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		   -1);
	fill(area + (512UL << 20), PAGE);
}

static void noreserve_check(void)
{
	char text[64];
	CHECK(is_filled(area + (512UL << 20), PAGE) && has_flag(area, "nr"));
	CHECK(smaps_of(area, "Rss:", text, sizeof(text)) && strtol(text, NULL, 10) < 4096);
}

static void none_make(void)
{
	area = own(4 * PAGE);
	fill(area, 4 * PAGE);
	CHECK(mprotect(area + PAGE, PAGE, PROT_NONE) == 0);
}

static void none_check(void)
{
	CHECK(readable(area) && !readable(area + PAGE) && readable(area + 2 * PAGE));
	CHECK(mprotect(area + PAGE, PAGE, PROT_READ) == 0 && is_filled(area, 4 * PAGE));
	CHECK(!writable(area + PAGE));
	CHECK(mprotect(area + PAGE, PAGE, PROT_READ | PROT_WRITE) == 0);
	next(area, 4 * PAGE);
	CHECK(mprotect(area + PAGE, PAGE, PROT_NONE) == 0);
}

static void read_only_make(void)
{
	area = own(PAGE);
	fill(area, PAGE);
	CHECK(mprotect(area, PAGE, PROT_READ) == 0);
}

static void read_only_check(void)
{
	CHECK(is_filled(area, PAGE) && !writable(area));
}

static void exec_make(void)
{
	static const unsigned char code[] = "\xb8\x2a\x00\x00\x00\xc3"; /* return 42 */
	area = own(PAGE);
	memcpy(area, code, sizeof(code));
	CHECK(mprotect(area, PAGE, PROT_READ | PROT_EXEC) == 0);
}

static void exec_check(void)
{
	int (*fn)(void) = (int (*)(void))(uintptr_t)area;
	CHECK(fn() == 42 && !writable(area));
}

static void deleted_make(void)
{
	fd = small_file("gone", "", O_RDWR);
	CHECK(ftruncate(fd, 2 * PAGE) == 0);
	area = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	CHECK(unlink("gone") == 0);
	fill(area, 2 * PAGE);
}

static void deleted_check(void)
{
	unsigned char text[PAGE];
	struct stat st;
	CHECK(is_filled(area, 2 * PAGE) && fstat(fd, &st) == 0 && st.st_nlink == 0);
	next(area, 2 * PAGE);
	CHECK(pread(fd, text, PAGE, 0) == (ssize_t)PAGE && is_filled(text, PAGE));
	CHECK(access("gone", F_OK) < 0 && errno == ENOENT);
}

static void beyond_end_make(void)
{
	fd = small_file("file", "x", O_RDWR);
	area = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
}

static void beyond_end_check(void)
{
	CHECK(area[0] == 'x' && is_zero(area + 1, PAGE - 1) && !readable(area + PAGE));
}

static void twice_make(void)
{
	fd = memfd_create("twice", MFD_CLOEXEC);
	CHECK(fd >= 0 && ftruncate(fd, PAGE) == 0);
	area = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	other = map(PAGE, PROT_READ, MAP_SHARED, fd);
	fill(area, PAGE);
}

static void twice_check(void)
{
	CHECK(is_filled(other, PAGE) && !writable(other));
	next(area, PAGE);
	CHECK(is_filled(other, PAGE));
}

/* ---- madvise(2) ---- */

static void dontfork_make(void)
{
	area = own(2 * PAGE);
	fill(area, 2 * PAGE);
	CHECK(madvise(area, PAGE, MADV_DONTFORK) == 0);
}

static void dontfork_check(void)
{
	int status;
	pid_t pid = fork();
	if (pid == 0)
		_exit(readable(area) || !readable(area + PAGE));
	CHECK(waitpid(pid, &status, 0) == pid && status == 0 && is_filled(area, 2 * PAGE));
	CHECK(has_flag(area, "dc"));
}

static void wipeonfork_make(void)
{
	area = own(2 * PAGE);
	fill(area, 2 * PAGE);
	CHECK(madvise(area, PAGE, MADV_WIPEONFORK) == 0);
}

static void wipeonfork_check(void)
{
	int status;
	pid_t pid = fork();
	if (pid == 0)
		_exit(!is_zero(area, PAGE) || is_zero(area + PAGE, PAGE));
	CHECK(waitpid(pid, &status, 0) == pid && status == 0 && is_filled(area, 2 * PAGE));
	next(area, 2 * PAGE);
}

static void dontdump_make(void)
{
	area = own(2 * PAGE);
	fill(area, 2 * PAGE);
	CHECK(madvise(area, PAGE, MADV_DONTDUMP) == 0);
}

static void dontdump_check(void)
{
	CHECK(has_flag(area, "dd") && !has_flag(area + PAGE, "dd") && is_filled(area, 2 * PAGE));
}

static void hints_make(void)
{
	area = own(4 * PAGE);
	fill(area, 4 * PAGE);
	CHECK(madvise(area, PAGE, MADV_RANDOM) == 0);
	CHECK(madvise(area + PAGE, PAGE, MADV_SEQUENTIAL) == 0);
}

static void hints_check(void)
{
	CHECK(has_flag(area, "rr") && !has_flag(area, "sr"));
	CHECK(has_flag(area + PAGE, "sr") && !has_flag(area + PAGE, "rr"));
	CHECK(!has_flag(area + 2 * PAGE, "rr") && !has_flag(area + 2 * PAGE, "sr"));
	CHECK(is_filled(area, 4 * PAGE));
}

static void hugepage_make(void)
{
	area = own(4UL << 20);
	other = own(SOME);
	if (madvise(area, 4UL << 20, MADV_HUGEPAGE) < 0)
		small_skip("this kernel has no transparent huge pages");
	CHECK(madvise(other, SOME, MADV_NOHUGEPAGE) == 0);
	fill(area, SOME);
}

static void hugepage_check(void)
{
	CHECK(has_flag(area, "hg") && has_flag(other, "nh") && is_filled(area, SOME));
	next(area, SOME);
}

static void mergeable_make(void)
{
	area = own(2 * PAGE);
	if (madvise(area, PAGE, MADV_MERGEABLE) < 0)
		small_skip("this kernel merges no pages");
	fill(area, 2 * PAGE);
}

static void mergeable_check(void)
{
	CHECK(has_flag(area, "mg") && !has_flag(area + PAGE, "mg") && is_filled(area, 2 * PAGE));
}

static void dontneed_make(void)
{
	area = own(4 * PAGE);
	fill(area, 4 * PAGE);
	CHECK(madvise(area + PAGE, PAGE, MADV_DONTNEED) == 0);
}

static void dontneed_check(void)
{
	CHECK(is_filled(area, PAGE) && is_zero(area + PAGE, PAGE));
	next(area, 4 * PAGE);
	CHECK(madvise(area + PAGE, PAGE, MADV_DONTNEED) == 0);
}

static void guard_make(void)
{
	area = own(4 * PAGE);
	fill(area, 4 * PAGE);
	if (madvise(area + PAGE, PAGE, MADV_GUARD_INSTALL) < 0)
		small_skip("this kernel has no guard regions");
}

static void guard_check(void)
{
	CHECK(readable(area) && !readable(area + PAGE) && readable(area + 2 * PAGE));
	CHECK(is_filled(area, PAGE));
	CHECK(madvise(area + PAGE, PAGE, MADV_GUARD_REMOVE) == 0 && is_zero(area + PAGE, PAGE));
	CHECK(madvise(area + PAGE, PAGE, MADV_GUARD_INSTALL) == 0);
}

/* ---- mlock(2) ---- */

static void mlock_make(void)
{
	area = own(2 * PAGE);
	fill(area, 2 * PAGE);
	CHECK(mlock(area, PAGE) == 0);
}

static void mlock_check(void)
{
	CHECK(has_flag(area, "lo") && !has_flag(area + PAGE, "lo"));
	CHECK(strtol(small_proc("status", "VmLck:"), NULL, 10) == (long)PAGE / 1024);
	CHECK(is_filled(area, 2 * PAGE));
}

static void onfault_make(void)
{
	area = own(SOME);
	if (mlock2(area, SOME, MLOCK_ONFAULT) < 0)
		small_skip("this kernel has no MLOCK_ONFAULT");
	area[0] = 1;
}

static void onfault_check(void)
{
	unsigned char there[8];
	CHECK(has_flag(area, "lo") && has_flag(area, "lf") && area[0] == 1);
	CHECK(mincore(area, SOME, there) == 0 && (there[0] & 1) && !(there[7] & 1));
}

static void mlockall_make(void)
{
	struct stat st;
	CHECK(stat("/proc/self/exe", &st) == 0);
	if (mlockall(MCL_FUTURE | MCL_ONFAULT) < 0)
		small_skip("there may not be so much locked memory");
}

static void mlockall_check(void)
{
	area = own(PAGE);
	CHECK(has_flag(area, "lo") && munmap(area, PAGE) == 0);
}

/* ---- mremap(2), memfd_create(2), brk(2) ---- */

static void mremap_make(void)
{
	other = own(2 * PAGE);
	fill(other, 2 * PAGE);
	area = mremap(other, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE);
	CHECK(area != MAP_FAILED);
	other = own(16 * PAGE);
	CHECK(mremap(area, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, other + 8 * PAGE) ==
	      other + 8 * PAGE);
	area = other + 8 * PAGE;
}

static void mremap_check(void)
{
	CHECK(is_filled(area, 2 * PAGE) && is_zero(area + 2 * PAGE, 2 * PAGE));
	next(area, 2 * PAGE);
}

static void mremap_dontunmap_make(void)
{
	other = own(2 * PAGE);
	fill(other, 2 * PAGE);
	area = mremap(other, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	if (area == MAP_FAILED)
		small_skip("this kernel has no MREMAP_DONTUNMAP");
}

static void mremap_dontunmap_check(void)
{
	CHECK(is_filled(area, 2 * PAGE) && is_zero(other, 2 * PAGE));
	next(area, 2 * PAGE);
}

static void seals_make(void)
{
	fd = memfd_create("sealed", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	CHECK(fd >= 0 && write(fd, "content", 7) == 7);
	CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE) == 0);
}

static void seals_check(void)
{
	char text[8];
	CHECK(fcntl(fd, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_WRITE));
	CHECK(pwrite(fd, "x", 1, 0) < 0 && errno == EPERM && ftruncate(fd, 3) < 0);
	CHECK(ftruncate(fd, 7) == 0 && pread(fd, text, 8, 0) == 7 &&
	      memcmp(text, "content", 7) == 0);
	CHECK(lseek(fd, 0, SEEK_CUR) == 7);
	CHECK(readlink("/proc/self/fd/0", text, 8) == 8);
}

static void memfd_name_make(void)
{
	fd = memfd_create("a name of its own", 0);
	CHECK(fd >= 0 && ftruncate(fd, 5 * PAGE) == 0 && pwrite(fd, "x", 1, 3 * PAGE) == 1);
}

static void memfd_name_check(void)
{
	char path[40], link[80] = "", byte;
	struct stat st;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	CHECK(readlink(path, link, sizeof(link) - 1) > 0);
	CHECK(strcmp(link, "/memfd:a name of its own (deleted)") == 0);
	CHECK(fcntl(fd, F_GETFD) == 0 && fcntl(fd, F_GET_SEALS) == F_SEAL_SEAL);
	CHECK(fstat(fd, &st) == 0 && st.st_size == 5 * (off_t)PAGE);
	CHECK(pread(fd, &byte, 1, 3 * PAGE) == 1 && byte == 'x');
}

static void brk_make(void)
{
	area = sbrk(3 * PAGE);
	CHECK(area != (void *)-1);
	fill(area, 3 * PAGE);
}

static void brk_check(void)
{
	CHECK(sbrk(0) == area + 3 * PAGE && is_filled(area, 3 * PAGE));
	CHECK(brk(area + 5 * PAGE) == 0 && is_zero(area + 3 * PAGE, 2 * PAGE));
	CHECK(brk(area + 3 * PAGE) == 0 && !readable(area + 3 * PAGE));
	next(area, 3 * PAGE);
}

/* ---- others ---- */

static void stack_make(void)
{
	CHECK(*small_proc("maps", "") != '\0');
}

static __attribute__((noinline)) int deep(int n)
{
	volatile char room[2 * PAGE];
	room[0] = (char)n;
	return n == 0 ? 0 : deep(n - 1) + (room[0] == (char)n);
}

static void stack_check(void)
{
	CHECK(deep(40 + (int)round_no * 8) == 40 + (int)round_no * 8);
	round_no++;
}

static void vdso_make(void)
{
	struct timespec t;
	CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
	area = (unsigned char *)(uintptr_t)t.tv_sec;
}

static void vdso_check(void)
{
	struct timespec t, same;
	CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
	CHECK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &same) == 0);
	CHECK(t.tv_sec >= (time_t)(uintptr_t)area && same.tv_sec - t.tv_sec < 30);
	area = (unsigned char *)(uintptr_t)t.tv_sec;
}

static void proc_mem_make(void)
{
	area = own(PAGE);
	fill(area, PAGE);
	fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0);
}

static void proc_mem_check(void)
{
	unsigned char text[PAGE];
	CHECK(pread(fd, text, PAGE, (off_t)(uintptr_t)area) == (ssize_t)PAGE);
	CHECK(is_filled(text, PAGE));
	next(area, PAGE);
}

const struct small_case memory_cases[] = {
	{ "mmap(2): MAP_PRIVATE|MAP_ANONYMOUS keeps what was written, the rest is zero",
	  private_make, private_check },
	{ "mmap(2): MAP_SHARED|MAP_ANONYMOUS is the same memory for parent and child", shared_make,
	  shared_check },
	{ "mmap(2): MAP_SHARED of a file: updates are seen both ways", of_file_make,
	  of_file_check },
	{ "mmap(2): MAP_PRIVATE of a file: updates are not carried through to it",
	  private_of_file_make, private_of_file_check },
	{ "mmap(2): MAP_FIXED_NOREPLACE: the address stays, and what is beside is free", fixed_make,
	  fixed_check },
	{ "mmap(2): MAP_GROWSDOWN: touching the guard page makes it grow by a page",
	  grows_down_make, grows_down_check },
	{ "mmap(2): MAP_32BIT: in the first 2 GiB", map_32bit_make, map_32bit_check },
	{ "mmap(2): MAP_NORESERVE: 1 GiB with one page touched", noreserve_make, noreserve_check },
	{ "mprotect(2): PROT_NONE on a page with data, which comes back with PROT_READ", none_make,
	  none_check },
	{ "mprotect(2): PROT_READ: a write fails with EFAULT", read_only_make, read_only_check },
	{ "mprotect(2): PROT_EXEC: code that was written runs", exec_make, exec_check },
	{ "mmap(2): MAP_SHARED of a file that was unlinked", deleted_make, deleted_check },
	{ "mmap(2): what lies behind the file's end: zeros in its page, SIGBUS after it",
	  beyond_end_make, beyond_end_check },
	{ "mmap(2): one memfd mapped twice, once to read only", twice_make, twice_check },
	{ "madvise(2): MADV_DONTFORK: a child has not got it", dontfork_make, dontfork_check },
	{ "madvise(2): MADV_WIPEONFORK: a child finds zeros", wipeonfork_make, wipeonfork_check },
	{ "madvise(2): MADV_DONTDUMP stays on its page", dontdump_make, dontdump_check },
	{ "madvise(2): MADV_RANDOM and MADV_SEQUENTIAL stay on their pages", hints_make,
	  hints_check },
	{ "madvise(2): MADV_HUGEPAGE and MADV_NOHUGEPAGE", hugepage_make, hugepage_check },
	{ "madvise(2): MADV_MERGEABLE", mergeable_make, mergeable_check },
	{ "madvise(2): MADV_DONTNEED: zeros are read afterwards", dontneed_make, dontneed_check },
	{ "madvise(2): MADV_GUARD_INSTALL and MADV_GUARD_REMOVE", guard_make, guard_check },
	{ "mlock(2): locked pages are counted in VmLck", mlock_make, mlock_check },
	{ "mlock2(2): MLOCK_ONFAULT: untouched pages stay out", onfault_make, onfault_check },
	{ "mlockall(2): MCL_FUTURE|MCL_ONFAULT holds for what is mapped later", mlockall_make,
	  mlockall_check },
	{ "mremap(2): grown and moved to a fixed address", mremap_make, mremap_check },
	{ "mremap(2): MREMAP_DONTUNMAP: the old range reads as zeros", mremap_dontunmap_make,
	  mremap_dontunmap_check },
	{ "memfd_create(2): F_SEAL_SHRINK|F_SEAL_WRITE hold, F_SEAL_SEAL is not set", seals_make,
	  seals_check },
	{ "memfd_create(2): its name in /proc/self/fd, sparse content, sealed by default",
	  memfd_name_make, memfd_name_check },
	{ "brk(2): the program break, grown and shrunk again", brk_make, brk_check },
	{ "proc(5): the stack grows on", stack_make, stack_check },
	{ "vdso(7): clock_gettime(2) by the vDSO tells what the call does", vdso_make, vdso_check },
	{ "proc(5): /proc/self/mem that was opened before reads this process", proc_mem_make,
	  proc_mem_check },
	{ NULL },
};
