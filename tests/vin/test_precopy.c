/* Programs whose memory is copied while they run: they write to it all the time, replace parts of
 * it, and look at all of it in each round. A page of another instant than the rest is one that is
 * wrong.
 */
#include "families.h"

#include <stdarg.h>
#include <sys/ioctl.h>

#include "vin/dirty.h"

#define PAGE	4096UL
#define PAGES	1536UL
#define CHANGES 24
#define SCAN	0xc0606610UL /* ioctl(PAGEMAP_SCAN) */

static bool no_scan;

int ioctl(int fd, unsigned long request, ...)
{
	va_list list;
	va_start(list, request);
	void *data = va_arg(list, void *);
	va_end(list);
	if (request == SCAN && no_scan) {
		errno = ENOTTY;
		return -1;
	}
	return (int)syscall(SYS_ioctl, fd, request, data);
}

/* ---- the program ---- */

struct page {
	uint64_t round, number, twice;
};

static struct page *page_of(char *area, uint64_t i)
{
	return (struct page *)(area + i * PAGE);
}

static void write_page(char *area, uint64_t i, uint64_t round)
{
	struct page *p = page_of(area, i);
	*p = (struct page){ round, i, round * 2 };
	memcpy(area + i * PAGE + PAGE - sizeof(*p), p, sizeof(*p));
}

static bool page_is(char *area, uint64_t i, uint64_t round)
{
	const struct page p = *page_of(area, i), want = { round, i, round * 2 };
	if (round == 0) /* nobody wrote to it */
		return p.round == 0 && p.number == 0 && p.twice == 0;
	return memcmp(&p, &want, sizeof(p)) == 0 &&
	       memcmp(area + i * PAGE + PAGE - sizeof(p), &want, sizeof(p)) == 0;
}

static char *map_at(char *at, unsigned long pages)
{
	return mmap(at, pages * PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);
}

/* What becomes of the memory behind a tracker's back; @rounds says what each page holds. */
static void replace(char *area, uint64_t *rounds, uint64_t n)
{
	const uint64_t i = n * 7919 % (PAGES - 16);
	char *other = NULL;
	switch (n % 6) {
	case 0: /* gone, and empty */
		CHECK(madvise(area + i * PAGE, 8 * PAGE, MADV_DONTNEED) == 0);
		memset(rounds + i, 0, 8 * sizeof(*rounds));
		break;
	case 1: /* another one in its place */
		CHECK(map_at(area + i * PAGE, 8) == area + i * PAGE);
		memset(rounds + i, 0, 8 * sizeof(*rounds));
		break;
	case 2: /* moved there from elsewhere */
		other = map_at(NULL, 4);
		for (uint64_t j = 0; j < 4; j++) {
			write_page(other - i * PAGE, i + j, n);
			rounds[i + j] = n;
		}
		CHECK(mremap(other, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
			     area + i * PAGE) == area + i * PAGE);
		break;
	case 3: /* two that change places */
		other = map_at(NULL, 1);
		CHECK(mremap(area + i * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, other) ==
		      other);
		CHECK(map_at(area + i * PAGE, 1) == area + i * PAGE);
		write_page(area, i, rounds[i] = n);
		munmap(other, PAGE);
		break;
	case 4: /* read-only for a while */
		CHECK(mprotect(area + i * PAGE, 4 * PAGE, PROT_READ) == 0);
		CHECK(mprotect(area + i * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE) == 0);
		break;
	default:
		break;
	}
}

/* The kernel writes, too. */
static void write_by_read(char *area, uint64_t *rounds, uint64_t n, const int ways[2])
{
	const uint64_t i = n * 104729 % PAGES;
	const struct page p = { n, i, n * 2 };
	CHECK(write(ways[1], &p, sizeof(p)) == sizeof(p));
	CHECK(read(ways[0], page_of(area, i), sizeof(p)) == sizeof(p));
	memcpy(area + i * PAGE + PAGE - sizeof(p), &p, sizeof(p));
	rounds[i] = n;
}

static void look_at_all(char *area, const uint64_t *rounds)
{
	for (uint64_t i = 0; i < PAGES; i++)
		CHECK(page_is(area, i, rounds[i]));
}

/* Its child sees what was there when it was born, whatever is written meanwhile. */
static void have_child(char *area, const uint64_t *rounds)
{
	int status = 1;
	pid_t pid = fork();
	if (pid == 0) {
		look_at_all(area, rounds);
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
}

static void keep_books(int place, bool calm)
{
	const struct self was = self_now();
	char *area = map_at(NULL, PAGES);
	uint64_t *rounds = calloc(PAGES, sizeof(*rounds));
	int ways[2];
	CHECK(area != MAP_FAILED && rounds && pipe(ways) == 0);
	for (uint64_t i = 0; i < PAGES; i++)
		write_page(area, i, rounds[i] = 1);
	for (uint64_t n = 2; !board->end; n++) {
		for (uint64_t k = 0; k < (calm ? 1 : CHANGES); k++) {
			const uint64_t i = (n * CHANGES + k) * 2654435761U % PAGES;
			write_page(area, i, rounds[i] = n);
		}
		write_by_read(area, rounds, n, ways);
		if (!calm)
			replace(area, rounds, n);
		if (!calm && n % 16 == 0)
			have_child(area, rounds);
		look_at_all(area, rounds);
		still(place, &was);
	}
}

static void two_books(void)
{
	const pid_t pid = getpid();
	if (fork() == 0) {
		while (getppid() != pid)
			nap(1);
		keep_books(1, true);
		_exit(0);
	}
	keep_books(0, false);
	CHECK(wait(NULL) > 0);
}

static void calm_books(void)
{
	keep_books(0, true);
}

/* ---- captures ---- */

static unsigned ways = VIN_DIRTY_ALL;
static struct vin_precopy_told told;

static struct vin_capture *stop_family(const struct vin_capture_options *options)
{
	pid_t roots[PLACES];
	struct vin_capture *c;
	const size_t count = children(roots, PLACES);
	OK(vin_capture_open(roots, count, options, &c, &err));
	OK(vin_capture_stop(c, 30000, &err));
	return c;
}

static struct vin_precopy *track(void)
{
	struct vin_precopy *p = vin_precopy_open(ways);
	struct vin_capture *c = stop_family(&whole);
	assert_non_null(p);
	OK(vin_capture_track(c, p, &err));
	vin_capture_resume(c);
	vin_capture_close(c);
	return p;
}

static FILE *early_capture(bool resume)
{
	struct vin_precopy *p = track();
	struct vin_capture_options options = whole;
	FILE *image = tmpfile();
	struct vin_out *out;
	assert_non_null(image);
	OK(vin_out_open(fileno(image), &out, &err));
	OK(vin_precopy_copy(p, out, NULL, NULL, &told, &err));
	wait_for_rounds(1);
	options.precopy = p;
	image_finish(stop_family(&options), out, resume);
	vin_precopy_close(p);
	return image;
}

/* Bytes of records, by their tags; of KEPT those that it names, of BLOCK to who it follows. */
static void weigh(FILE *image, uint64_t ret[VIN_TAG_KEPT + 1])
{
	struct vin_in *in;
	enum vin_tag tag = 0, of = 0;
	uint64_t len;
	static char block[PAGE];
	memset(ret, 0, (VIN_TAG_KEPT + 1) * sizeof(*ret));
	assert_int_equal(lseek(fileno(image), 0, SEEK_SET), 0);
	OK(vin_in_open(fileno(image), &in, &err));
	while (tag != VIN_TAG_END) {
		OK(vin_in_next(in, &tag, &len, &err));
		of = tag == VIN_TAG_BLOCK ? of : tag;
		ret[of] += len;
		if (tag == VIN_TAG_KEPT) {
			struct vin_payload p;
			OK(vin_in_payload(in, &p, &err));
			(void)vin_get_u64(&p);
			const struct vin_run *runs = vin_get_blob(&p, &len);
			for (size_t i = 0; i < len / sizeof(*runs); i++)
				ret[tag] += runs[i].end - runs[i].start;
		} else if (tag != VIN_TAG_END) {
			for (size_t n; len > 0; len -= n) {
				n = len < PAGE ? len : PAGE;
				OK(vin_in_piece(in, block, n, &err));
			}
			OK(vin_in_finish(in, &err));
		}
	}
	vin_in_close(in);
}

static void hops(bool guests)
{
	family_begin(two_books, 2);
	fclose(early_capture(true));
	wait_for_rounds(2);
	for (int hop = 0; hop < HOPS; hop++) {
		family_again(early_capture(false), guests);
		wait_for_rounds(2);
	}
	family_end();
}

static void memory_copied_while_it_changes_is_of_one_instant(void **state)
{
	(void)state;
	not_sanitized();
	hops(false);
	hops(true);
}

static void most_of_a_calm_program_is_copied_before_the_stop(void **state)
{
	(void)state;
	uint64_t bytes[VIN_TAG_KEPT + 1];
	not_sanitized();
	family_begin(calm_books, 1);
	FILE *image = early_capture(true);
	if (told.processes == 0) {
		fclose(image);
		family_end();
		print_message("skipped: this kernel does not tell what a program writes to\n");
		skip();
	}
	weigh(image, bytes);
	assert_in_range(told.passes, 1, 8);
	assert_true(told.bytes >= PAGES * PAGE);
	assert_true(bytes[VIN_TAG_KEPT] > PAGES * PAGE / 2);
	assert_true(bytes[VIN_TAG_PAGES] < PAGES * PAGE / 2);
	wait_for_rounds(1);
	family_again(image, false);
	wait_for_rounds(1);
	family_end();
}

static void where_nothing_is_told_all_is_written_in_the_stop(void **state)
{
	(void)state;
	uint64_t bytes[VIN_TAG_KEPT + 1];
	not_sanitized();
	ways = 0;
	family_begin(two_books, 2);
	FILE *image = early_capture(false);
	ways = VIN_DIRTY_ALL;
	assert_int_equal(told.processes, 0);
	weigh(image, bytes);
	assert_int_equal(bytes[VIN_TAG_EARLY] + bytes[VIN_TAG_KEPT], 0);
	assert_true(bytes[VIN_TAG_PAGES] >= 2 * (PAGES - 64) * PAGE);
	family_again(image, false);
	wait_for_rounds(2);
	family_end();
}

/* The other way is soft-dirty, where the kernel has it, or none. */
static void a_kernel_that_does_not_scan_is_done_without(void **state)
{
	(void)state;
	not_sanitized();
	family_begin(two_books, 2);
	no_scan = true;
	FILE *image = early_capture(false);
	no_scan = false;
	family_again(image, false);
	wait_for_rounds(2);
	family_end();
}

static void soft_dirty_pages_are_enough(void **state)
{
	(void)state;
	not_sanitized();
	ways = 1U << VIN_DIRTY_SOFT;
	family_begin(two_books, 2);
	for (int hop = 0; hop < HOPS; hop++) {
		family_again(early_capture(false), false);
		wait_for_rounds(2);
	}
	ways = VIN_DIRTY_ALL;
	if (told.processes == 0)
		print_message("this kernel has no soft-dirty pages: all was written in the stop\n");
	family_end();
}

/* ---- nothing is left ---- */

static void look(pid_t pid, struct fvm_buf *ret)
{
	char path[60], target[200];
	size_t len = 0;
	scoped_free char *smaps = NULL;
	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	assert_int_equal(fvm_read_file(AT_FDCWD, path, 1 << 20, &smaps, &len), 0);
	if (strstr(smaps, " uw"))
		fvm_buf_printf(ret, "registered\n");
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	scoped_dir d = opendir(path);
	for (struct dirent *e; d && (e = fvm_dir_next(d));) {
		ssize_t n = readlinkat(dirfd(d), e->d_name, target, sizeof(target) - 1);
		target[n < 0 ? 0 : n] = '\0';
		fvm_buf_printf(ret, "%s %s\n", e->d_name, target);
	}
	fvm_buf_add(ret, "", 1);
}

static void nothing_is_left_of_it_in_a_program(void **state)
{
	(void)state;
	scoped_buf before = { 0 }, meanwhile = { 0 }, after = { 0 };
	pid_t pids[PLACES];
	not_sanitized();
	family_begin(calm_books, 1);
	assert_int_equal(children(pids, PLACES), 1);
	look(pids[0], &before);
	struct vin_precopy *p = track();
	struct vin_out *out;
	scoped_fd null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	OK(vin_out_open(null, &out, &err));
	OK(vin_precopy_copy(p, out, NULL, NULL, &told, &err));
	look(pids[0], &meanwhile);
	vin_out_close(out);
	vin_precopy_close(p);
	look(pids[0], &after);
	assert_string_equal((char *)before.data, (char *)after.data);
	if (told.passes > 1) /* and what it was that is not left */
		assert_non_null(strstr((char *)meanwhile.data, "registered"));
	wait_for_rounds(1);
	family_end();
}

/* ---- out of a pipe ---- */

static pid_t feed(FILE *image, int to)
{
	pid_t pid = fork();
	if (pid == 0) {
		char block[4096];
		size_t n;
		signal(SIGPIPE, SIG_DFL);
		rewind(image);
		while ((n = fread(block, 1, sizeof(block), image)) > 0) {
			if (fvm_write_all(to, block, n) < 0)
				_exit(1);
		}
		_exit(0);
	}
	return pid;
}

static void an_image_comes_out_of_a_pipe(void **state)
{
	(void)state;
	struct vin_replay *r = NULL;
	struct vin_in *in;
	int line[2], status = 1;
	not_sanitized();
	family_begin(two_books, 2);
	FILE *image = early_capture(false);
	end_first();
	assert_int_equal(pipe2(line, O_CLOEXEC), 0);
	const pid_t feeder = feed(image, line[1]);
	close(line[1]);
	const struct vin_replay_options options = { .root = outside, .user = geteuid() != 0 };
	OK(vin_in_open(line[0], &in, &err));
	OK(vin_replay_build(in, &options, &r, &err));
	vin_in_close(in);
	first = vin_replay_init(r);
	OK(vin_replay_go(r, &err));
	vin_replay_close(r);
	close(line[0]);
	assert_int_equal(waitpid(feeder, &status, 0), feeder);
	assert_int_equal(status, 0);
	fclose(image);
	wait_for_rounds(2);
	family_end();
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		FAMILY(memory_copied_while_it_changes_is_of_one_instant),
		FAMILY(most_of_a_calm_program_is_copied_before_the_stop),
		FAMILY(where_nothing_is_told_all_is_written_in_the_stop),
		FAMILY(a_kernel_that_does_not_scan_is_done_without),
		FAMILY(soft_dirty_pages_are_enough),
		FAMILY(nothing_is_left_of_it_in_a_program),
		FAMILY(an_image_comes_out_of_a_pipe),
	};
	return cmocka_run_group_tests(tests, families_setup, families_teardown);
}

int main(void)
{
	return families_main(run);
}
