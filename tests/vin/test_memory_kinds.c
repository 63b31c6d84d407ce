/* Memory of the rarer sorts, as mmap(2), madvise(2), mlock2(2), mseal(2), memfd_secret(2) and
 * userfaultfd(2) have it: what can be had again, and what is refused and with which word. */
#include <linux/mman.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include "worlds.h"

#define PAGE	 4096UL
#define HUGE	 (2UL << 20)
#define HUGE_DIR "/sys/kernel/mm/hugepages/hugepages-2048kB/"
#define WANTED	 8 /* huge pages */
#define MSEAL	 462
#define SECRET	 447
#ifndef MFD_NOEXEC_SEAL /* of Linux 6.3 */
#define MFD_NOEXEC_SEAL 8U
#endif

static unsigned char *at, *second;
static char flags[2][256];

static unsigned char *map(size_t len, int prot, int how, int fd)
{
	void *p = mmap(NULL, len, prot, how, fd, 0);
	CHECK(p != MAP_FAILED);
	return p;
}

static unsigned char *own(size_t len)
{
	return map(len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

/* VmFlags of the area at @of, without the one of soft-dirty pages. */
static void flags_of(const unsigned char *of, char ret[256])
{
	char line[512];
	bool here = false;
	FILE *f = fopen("/proc/self/smaps", "r");
	CHECK(f);
	*ret = '\0';
	while (fgets(line, sizeof(line), f)) {
		unsigned long start, end;
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = start <= (unsigned long)of && (unsigned long)of < end;
		else if (here && strncmp(line, "VmFlags:", 8) == 0)
			snprintf(ret, 256, "%.255s", line);
	}
	fclose(f);
	char *dirty = strstr(ret, " sd");
	if (dirty)
		memmove(dirty, dirty + 3, strlen(dirty + 3) + 1);
}

static void remember(void)
{
	flags_of(at, flags[0]);
	flags_of(second ? second : at, flags[1]);
}

static void same_flags(void)
{
	char now[256];
	flags_of(at, now);
	CHECK(strcmp(now, flags[0]) == 0);
	flags_of(second ? second : at, now);
	CHECK(strcmp(now, flags[1]) == 0);
}

/* ---- policies ---- */

#define BIND	   2
#define INTERLEAVE 3
#define STATIC	   (1 << 15)

static int policy_of(const unsigned char *of, unsigned long *nodes)
{
	int mode = -1;
	unsigned long mask[16] = { 0 };
	CHECK(syscall(SYS_get_mempolicy, &mode, mask, 1024UL, of, 2 /* MPOL_F_ADDR */) == 0);
	*nodes = mask[0];
	return mode;
}

static bool no_policies; /* in this kernel */

static void bind_some(void)
{
	unsigned long node = 1;
	at = own(3 * PAGE);
	second = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	if (syscall(SYS_mbind, at + PAGE, PAGE, BIND | STATIC, &node, 64UL, 0) < 0) {
		no_policies = true;
		return;
	}
	CHECK(syscall(SYS_mbind, second, 2 * PAGE, INTERLEAVE, &node, 64UL, 0) == 0);
	at[0] = at[PAGE] = second[PAGE] = 7;
}

static void look_at_policies(void)
{
	unsigned long nodes = 0;
	if (no_policies)
		return;
	CHECK(policy_of(at, &nodes) == 0 && nodes == 0);
	CHECK(policy_of(at + PAGE, &nodes) == (BIND | STATIC) && nodes == 1);
	CHECK(policy_of(at + 2 * PAGE, &nodes) == 0);
	CHECK(policy_of(second, &nodes) == INTERLEAVE && nodes == 1);
	CHECK(policy_of(second + PAGE, &nodes) == INTERLEAVE && nodes == 1);
	CHECK(at[0] == 7 && at[PAGE] == 7 && at[2 * PAGE] == 0 && second[PAGE] == 7);
}

static void nodes_that_pages_are_taken_from(void **state)
{
	(void)state;
	goes_on(bind_some, look_at_policies, 0);
}

/* ---- huge pages ---- */

static long huge_pages(const char *name)
{
	char path[96];
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), HUGE_DIR "%s", name);
	return fvm_read_file(AT_FDCWD, path, 32, &text, NULL) < 0 ? 0 : strtol(text, NULL, 10);
}

static void need_huge_pages(void)
{
	if (huge_pages("free_hugepages") < WANTED) {
		print_message("%d huge pages of 2 MiB are not to be had: not tried\n", WANTED);
		skip();
	}
}

static void huge_own(void)
{
	at = map(3 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1);
	at[5] = 1;
	at[2 * HUGE + 12345] = 2;
	CHECK(mprotect(at + 2 * HUGE, HUGE, PROT_READ) == 0);
	remember();
}

static void the_huge_own(void)
{
	unsigned char in[3 * HUGE / PAGE];
	same_flags();
	CHECK(strstr(flags[0], " ht"));
	CHECK(at[5] == 1 && at[2 * HUGE + 12345] == 2);
	/* one that was never touched takes none of the few there are */
	CHECK(mincore(at, 3 * HUGE, in) == 0 && !(in[HUGE / PAGE] & 1));
	at[HUGE] = 3;
}

static void huge_pages_of_ones_own(void **state)
{
	(void)state;
	need_huge_pages();
	goes_on(huge_own, the_huge_own, 0);
}

static void huge_shared(void)
{
	at = map(2 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1);
	at[7] = 1;
	if (fork_below() == 0) {
		while (at[8] != 1)
			nap(1);
		at[9] = 1;
		_exit(0);
	}
	remember();
}

static void the_huge_shared(void)
{
	same_flags();
	CHECK(at[7] == 1);
	at[8] = 1;
	CHECK(wait(NULL) > 0 && at[9] == 1);
}

static void huge_pages_that_are_shared(void **state)
{
	(void)state;
	need_huge_pages();
	goes_on(huge_shared, the_huge_shared, 0);
}

static void huge_memfd(void)
{
	int fd = memfd_create("large", MFD_HUGETLB);
	CHECK(fd >= 0 && ftruncate(fd, 2 * HUGE) == 0);
	at = map(2 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	at[HUGE + 3] = 9;
	second = map(HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	second[1] = 5;
	close(fd);
	remember();
}

static void the_huge_memfd(void)
{
	same_flags();
	CHECK(at[HUGE + 3] == 9 && at[1] == 0 && second[1] == 5);
	at[2] = 4;
}

static void a_memfd_of_huge_pages(void **state)
{
	(void)state;
	need_huge_pages();
	goes_on(huge_memfd, the_huge_memfd, 0);
}

static void huge_segment(void)
{
	int id = shmget(IPC_PRIVATE, 2 * HUGE, IPC_CREAT | SHM_HUGETLB | 0600);
	CHECK(id >= 0 && (at = shmat(id, NULL, 0)) != (void *)-1);
	at[HUGE + 3] = 9;
	remember();
}

static void the_huge_segment(void)
{
	same_flags();
	CHECK(at[HUGE + 3] == 9 && at[1] == 0);
	CHECK(shmdt(at) == 0);
}

static void a_segment_of_huge_pages(void **state)
{
	(void)state;
	need_huge_pages();
	if (user_of_machine) {
		print_message("huge segments are for root of the machine: not tried\n");
		skip();
	}
	goes_on(huge_segment, the_huge_segment, CLONE_NEWIPC);
}

/* ---- what stays with an area ---- */

static void sealed(void)
{
	at = own(4 * PAGE);
	at[1] = 1;
	CHECK(mprotect(at + PAGE, PAGE, PROT_READ) == 0);
	CHECK(syscall(MSEAL, at, 2 * PAGE, 0) == 0);
	second = at + PAGE;
	remember();
}

static void still_sealed(void)
{
	same_flags();
	CHECK(at[1] == 1);
	at[2] = 2;
	CHECK(mprotect(at, PAGE, PROT_READ) < 0 && errno == EPERM);
	CHECK(munmap(at + PAGE, PAGE) < 0 && errno == EPERM);
	CHECK(munmap(at + 2 * PAGE, 2 * PAGE) == 0);
}

static void what_is_sealed_stays_so(void **state)
{
	(void)state;
	if (syscall(MSEAL, NULL, 0, 0) < 0 && errno == ENOSYS) {
		print_message("no mseal(2), which is of Linux 6.10: not tried\n");
		skip();
	}
	goes_on(sealed, still_sealed, 0);
}

static void family_of(int advice_a, int advice_b)
{
	at = own(2 * PAGE);
	second = own(2 * PAGE);
	at[0] = second[0] = 1;
	CHECK(madvise(at, 2 * PAGE, advice_a) == 0 && madvise(second, 2 * PAGE, advice_b) == 0);
	remember();
}

static void not_for_children(void)
{
	family_of(MADV_WIPEONFORK, MADV_DONTFORK);
}

static void children_have_it_not(void)
{
	int status;
	unsigned char in[2];
	same_flags();
	CHECK(at[0] == 1 && second[0] == 1);
	pid_t pid = fork();
	if (pid == 0)
		_exit(at[0] == 0 && mincore(second, 2 * PAGE, in) < 0 ? 0 : 1);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static void what_children_do_not_get(void **state)
{
	(void)state;
	goes_on(not_for_children, children_have_it_not, 0);
}

static void advised(void)
{
	family_of(MADV_DONTDUMP, MADV_MERGEABLE);
}

static void still_there(void)
{
	same_flags();
	CHECK(at[0] == 1 && second[0] == 1);
}

static void advice_for_dumps_and_same_pages(void **state)
{
	(void)state;
	goes_on(advised, still_there, 0);
}

static void of_large_pages(void)
{
	family_of(MADV_HUGEPAGE, MADV_NOHUGEPAGE);
}

static void advice_for_large_pages(void **state)
{
	(void)state;
	goes_on(of_large_pages, still_there, 0);
}

static void locked(void)
{
	at = own(2 * PAGE);
	second = own(2 * PAGE);
	at[0] = second[0] = 1;
	CHECK(mlock2(at, 2 * PAGE, MLOCK_ONFAULT) == 0 && mlock(second, 2 * PAGE) == 0);
	remember();
}

static void memory_that_is_locked(void **state)
{
	(void)state;
	goes_on(locked, still_there, 0);
}

/* Room below, which the kernel wants between it and the next. */
#define BELOW (300 * PAGE)

static void grows(void)
{
	at = map(BELOW + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN,
		 -1);
	CHECK(munmap(at, BELOW) == 0);
	at += BELOW;
	at[0] = 1;
	second = at;
	remember();
}

static void has_grown(void)
{
	same_flags();
	CHECK(at[0] == 1);
	(at - PAGE)[0] = 2;
	CHECK(at[0] == 1);
}

static void a_stack_goes_on_growing(void **state)
{
	(void)state;
	goes_on(grows, has_grown, 0);
}

static void may_be_dropped(void)
{
	at = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, 0x08 | MAP_ANONYMOUS, -1, 0);
	CHECK(at != MAP_FAILED);
	at[0] = 1;
	second = at;
	remember();
}

static void is_there_or_zero(void)
{
	same_flags();
	CHECK(at[0] <= 1);
	at[1] = 2;
}

static void memory_that_may_be_dropped(void **state)
{
	(void)state;
	void *p = mmap(NULL, PAGE, PROT_READ, 0x08 | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) {
		print_message("no MAP_DROPPABLE, which is of Linux 6.11: not tried\n");
		skip();
	}
	munmap(p, PAGE);
	goes_on(may_be_dropped, is_there_or_zero, 0);
}

static void of_dev_zero(void)
{
	int fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
	at = map(3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	at[PAGE] = 8;
	close(fd);
	second = at;
	remember();
}

static void still_of_dev_zero(void)
{
	same_flags();
	CHECK(at[0] == 0 && at[PAGE] == 8 && at[2 * PAGE] == 0);
}

static void zeros_of_dev_zero(void **state)
{
	(void)state;
	goes_on(of_dev_zero, still_of_dev_zero, 0);
}

/* ---- mapped and open ---- */

#define AT 5 /* the descriptor */

static void open_memory(int fd)
{
	CHECK(fd >= 0 && dup2(fd, AT) == AT && close(fd) == 0);
	CHECK(ftruncate(AT, 3 * PAGE) == 0);
	at = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, AT);
	at[0] = 1;
	CHECK(pwrite(AT, "end", 3, 2 * PAGE) == 3);
}

static void one_memory(void)
{
	char byte = 0, end[4] = "";
	struct stat st;
	at[5] = 9;
	CHECK(at[0] == 1 && pread(AT, &byte, 1, 5) == 1 && byte == 9);
	CHECK(pwrite(AT, "\007", 1, 6) == 1 && at[6] == 7);
	CHECK(pread(AT, end, 3, 2 * PAGE) == 3 && strcmp(end, "end") == 0);
	CHECK(fstat(AT, &st) == 0 && st.st_size == 3 * PAGE && st.st_nlink == 0);
}

static void open_memfd(void)
{
	open_memory(memfd_create("both", MFD_ALLOW_SEALING));
	CHECK(fcntl(AT, F_ADD_SEALS, F_SEAL_GROW) == 0);
}

static void one_memfd(void)
{
	one_memory();
	CHECK(fcntl(AT, F_GET_SEALS) == F_SEAL_GROW);
}

static void a_memfd_is_mapped_and_open(void **state)
{
	(void)state;
	bare.bare = false;
	goes_on(open_memfd, one_memfd, 0);
}

static void open_deleted(void)
{
	char path[] = "/tmp/vin-gone-XXXXXX";
	open_memory(mkstemp(path));
	CHECK(unlink(path) == 0);
}

static void a_deleted_file_is_mapped_and_open(void **state)
{
	(void)state;
	bare.bare = false;
	goes_on(open_deleted, one_memory, 0);
}

static void sealed_memfd(void)
{
	int fd = memfd_create("sealed", MFD_ALLOW_SEALING);
	CHECK(fd >= 0 && dup2(fd, AT) == AT && close(fd) == 0 && write(AT, "keys", 4) == 4);
	CHECK(fcntl(AT, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_SEAL) == 0);
	at = map(PAGE, PROT_READ, MAP_PRIVATE, AT);
	/* since Linux 6.7 */
	second = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, AT, 0);
	if (second == MAP_FAILED)
		second = at;
}

static void still_sealed_memfd(void)
{
	CHECK(memcmp(at, "keys", 4) == 0 && memcmp(second, "keys", 4) == 0);
	CHECK(fcntl(AT, F_GET_SEALS) == (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_SEAL));
	CHECK(pwrite(AT, "x", 1, 0) < 0 && errno == EPERM);
}

/* As browsers have their shared memory: never to be executed, mapped, and open by nobody. */
static void unexecutable_memfd(void)
{
	int fd = memfd_create("data", MFD_NOEXEC_SEAL | MFD_ALLOW_SEALING);
	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
		fd = memfd_create("data", MFD_ALLOW_SEALING);
	CHECK(fd >= 0 && ftruncate(fd, PAGE) == 0);
	CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) == 0);
	at = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	at[0] = 'd';
	CHECK(close(fd) == 0);
}

static void still_unexecutable_memfd(void)
{
	CHECK(at[0] == 'd');
	at[0] = 'e';
}

static void a_memfd_that_nobody_may_execute_is_mapped(void **state)
{
	(void)state;
	bare.bare = false;
	goes_on(unexecutable_memfd, still_unexecutable_memfd, 0);
}

static void a_sealed_memfd_is_mapped_and_open(void **state)
{
	(void)state;
	bare.bare = false;
	goes_on(sealed_memfd, still_sealed_memfd, 0);
}

/* ---- what can't be had ---- */

static void secret(void)
{
	int fd = (int)syscall(SECRET, O_CLOEXEC);
	CHECK(fd >= 0 && ftruncate(fd, PAGE) == 0);
	at = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
}

static void secret_memory_is_refused(void **state)
{
	(void)state;
	scoped_fd fd = (int)syscall(SECRET, O_CLOEXEC);
	if (fd < 0) {
		print_message("no memfd_secret(2) here: not tried\n");
		skip();
	}
	world_refused(secret, "nobody but the program may read it", 0);
}

static void served(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	CHECK(fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0);
	at = own(PAGE);
	struct uffdio_register r = { .range = { (uint64_t)at, PAGE },
				     .mode = UFFDIO_REGISTER_MODE_MISSING };
	CHECK(ioctl(fd, UFFDIO_REGISTER, &r) == 0);
}

static void memory_that_another_serves_is_refused(void **state)
{
	(void)state;
	world_refused(served, "userfaultfd", 0);
}

static void counted(void)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE,
					.size = sizeof(attr),
					.config = PERF_COUNT_SW_DUMMY,
					.exclude_kernel = 1 };
	int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
	CHECK(fd >= 0);
	at = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
}

static void the_kernels_own_memory_is_refused(void **state)
{
	(void)state;
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE,
					.size = sizeof(attr),
					.config = PERF_COUNT_SW_DUMMY,
					.exclude_kernel = 1 };
	scoped_fd fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
	if (fd < 0) {
		print_message("no perf_event_open(2) for us: not tried\n");
		skip();
	}
	world_refused(counted, "can't be captured", 0);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		WORLD(nodes_that_pages_are_taken_from),
		WORLD(huge_pages_of_ones_own),
		WORLD(huge_pages_that_are_shared),
		WORLD(a_memfd_of_huge_pages),
		WORLD(a_segment_of_huge_pages),
		WORLD(what_is_sealed_stays_so),
		WORLD(what_children_do_not_get),
		WORLD(advice_for_dumps_and_same_pages),
		WORLD(advice_for_large_pages),
		WORLD(memory_that_is_locked),
		WORLD(a_stack_goes_on_growing),
		WORLD(memory_that_may_be_dropped),
		WORLD(zeros_of_dev_zero),
		WORLD(a_memfd_is_mapped_and_open),
		WORLD(a_deleted_file_is_mapped_and_open),
		WORLD(a_memfd_that_nobody_may_execute_is_mapped),
		WORLD(a_sealed_memfd_is_mapped_and_open),
		WORLD(secret_memory_is_refused),
		WORLD(memory_that_another_serves_is_refused),
		WORLD(the_kernels_own_memory_is_refused),
	};
	return cmocka_run_group_tests(tests, worlds_setup, worlds_teardown);
}

/* Some huge pages are reserved for as long as this takes, and given back. */
int main(void)
{
	char before[24], more[24];
	const long reserved = huge_pages("nr_hugepages"), left = huge_pages("free_hugepages");
	snprintf(before, sizeof(before), "%ld", reserved);
	snprintf(more, sizeof(more), "%ld", reserved + WANTED - left);
	const bool reserve = left < WANTED && put(HUGE_DIR "nr_hugepages", more) == 0;
	int r = worlds_main(run);
	if (reserve)
		(void)put(HUGE_DIR "nr_hugepages", before);
	return r;
}
