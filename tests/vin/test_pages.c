#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "vin/pages.h"

#define PAGE  4096UL
#define COUNT 64UL

static int pagemap;

static int setup(void **state)
{
	(void)state;
	pagemap = vin_pages_open(getpid());
	return pagemap < 0 ? -1 : 0;
}

static char *area_of(int flags, int fd)
{
	char *area = mmap(NULL, COUNT * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
	assert_true(area != MAP_FAILED);
	(void)madvise(area, COUNT * PAGE, MADV_NOHUGEPAGE);
	return area;
}

/* Pages as numbers in the area: "3 5-7 ". */
static const char *numbers(const char *area, const struct vin_runs *r)
{
	static char text[1000];
	text[0] = '\0';
	for (size_t i = 0; i < r->count; i++) {
		uint64_t first = (r->runs[i].start - (uint64_t)area) / PAGE;
		uint64_t last = (r->runs[i].end - (uint64_t)area) / PAGE - 1;
		sprintf(text + strlen(text), first == last ? "%lu " : "%lu-%lu ", first, last);
	}
	return text;
}

static const char *found(const char *area, enum vin_pages what, bool old_way)
{
	scoped_runs r = { 0 };
	assert_int_equal(vin_pages_find(pagemap, (uint64_t)area, (uint64_t)area + COUNT * PAGE,
					what, old_way, &r),
			 0);
	return numbers(area, &r);
}

static void pages_that_were_written_to_are_found(void **state)
{
	(void)state;
	char *area = area_of(MAP_PRIVATE | MAP_ANONYMOUS, -1);
	assert_string_equal(found(area, VIN_PAGES_OWN, false), "");
	area[3 * PAGE] = area[5 * PAGE] = area[6 * PAGE] = area[63 * PAGE] = 1;
	assert_string_equal(found(area, VIN_PAGES_OWN, false), "3 5-6 63 ");
	assert_string_equal(found(area, VIN_PAGES_OWN, true), "3 5-6 63 ");
	munmap(area, COUNT * PAGE);
}

static void pages_that_were_only_read_are_not(void **state)
{
	(void)state;
	char *area = area_of(MAP_PRIVATE | MAP_ANONYMOUS, -1);
	volatile char sum = area[7 * PAGE];
	(void)sum;
	area[8 * PAGE] = 1;
	/* an older kernel does not know which page is the one of zeros */
	const char *text = found(area, VIN_PAGES_OWN, false);
	assert_true(strcmp(text, "8 ") == 0 || strcmp(text, "7-8 ") == 0);
	munmap(area, COUNT * PAGE);
}

static void of_a_private_file_only_ones_own_count(void **state)
{
	(void)state;
	scoped_fd fd = memfd_create("file", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, COUNT * PAGE), 0);
	char *area = area_of(MAP_PRIVATE, fd);
	for (size_t i = 0; i < COUNT; i++) {
		volatile char sum = area[i * PAGE];
		(void)sum;
	}
	area[9 * PAGE] = 1;
	assert_string_equal(found(area, VIN_PAGES_OWN, false), "9 ");
	assert_string_equal(found(area, VIN_PAGES_OWN, true), "9 ");
	assert_string_equal(found(area, VIN_PAGES_THERE, false), "0-63 ");
	assert_string_equal(found(area, VIN_PAGES_THERE, true), "0-63 ");
	munmap(area, COUNT * PAGE);
}

static void of_shared_memory_all_counts_that_is_there(void **state)
{
	(void)state;
	char *area = area_of(MAP_SHARED | MAP_ANONYMOUS, -1);
	area[0] = area[1 * PAGE] = 1;
	assert_string_equal(found(area, VIN_PAGES_THERE, false), "0-1 ");
	assert_string_equal(found(area, VIN_PAGES_THERE, true), "0-1 ");
	munmap(area, COUNT * PAGE);
}

static void guards_are_listed_apart(void **state)
{
	(void)state;
	char *area = area_of(MAP_PRIVATE | MAP_ANONYMOUS, -1);
	area[1 * PAGE] = area[4 * PAGE] = 1;
	/* MADV_GUARD_INSTALL of Linux 6.13 */
	if (madvise(area + 2 * PAGE, 2 * PAGE, 102) < 0) {
		print_message("skipped: needs MADV_GUARD_INSTALL (Linux 6.13)\n");
		munmap(area, COUNT * PAGE);
		skip();
	}
	/* 6.13 and 6.14 do not tell them from pages that were swapped out */
	const char *text = found(area, VIN_PAGES_GUARD, false);
	if (text[0] != '\0') {
		assert_string_equal(text, "2-3 ");
		assert_string_equal(found(area, VIN_PAGES_OWN, false), "1 4 ");
		assert_string_equal(found(area, VIN_PAGES_OWN, true), "1 4 ");
	}
	munmap(area, COUNT * PAGE);
}

static void more_runs_than_one_call_tells(void **state)
{
	(void)state;
	const size_t pages = 4000;
	char *area = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);
	assert_true(area != MAP_FAILED);
	(void)madvise(area, pages * PAGE, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < pages; i += 2)
		area[i * PAGE] = 1;
	for (int old_way = 0; old_way < 2; old_way++) {
		scoped_runs r = { 0 };
		assert_int_equal(vin_pages_find(pagemap, (uint64_t)area,
						(uint64_t)area + pages * PAGE, VIN_PAGES_OWN,
						old_way, &r),
				 0);
		assert_int_equal(r.count, pages / 2);
		assert_int_equal(vin_runs_bytes(&r), pages / 2 * PAGE);
	}
	munmap(area, pages * PAGE);
}

/* Whose pages are noted; or -1, where the kernel does not. */
static int note_writes(char *area, size_t pages)
{
	struct uffdio_api api = { .api = UFFD_API, .features = 1ULL << 15 /* WP_ASYNC */ };
	struct uffdio_register first = { .range = { (uint64_t)area, pages * PAGE },
					 .mode = UFFDIO_REGISTER_MODE_WP };
	scoped_fd uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* USER_MODE_ONLY */);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0 ||
	    ioctl(uffd, UFFDIO_REGISTER, &first) < 0)
		return -1;
	return fvm_fd_take(&uffd);
}

static void what_was_protected_is_told_where_not_all_can_be(void **state)
{
	(void)state;
	scoped_runs told = { 0 }, again = { 0 };
	char *area = area_of(MAP_PRIVATE | MAP_ANONYMOUS, -1);
	const uint64_t start = (uint64_t)area, middle = start + COUNT / 2 * PAGE;
	scoped_fd uffd = note_writes(area, COUNT / 2);
	if (uffd < 0) {
		print_message("skipped: needs userfaultfd with WP_ASYNC (Linux 6.7)\n");
		munmap(area, COUNT * PAGE);
		skip();
	}
	area[3 * PAGE] = area[5 * PAGE] = area[6 * PAGE] = area[50 * PAGE] = 1;
	assert_int_equal(vin_pages_protect(pagemap, start, start + COUNT * PAGE, false, &told),
			 -EPERM);
	assert_string_equal(numbers(area, &told), "3 5-6 ");
	assert_int_equal(vin_pages_protect(pagemap, start, middle, false, &again), 0);
	assert_string_equal(numbers(area, &again), "");
	munmap(area, COUNT * PAGE);
}

static void add(struct vin_runs *r, uint64_t set)
{
	for (uint64_t i = 0; i < 64; i++) {
		if (set >> i & 1)
			assert_int_equal(vin_runs_add(r, i * PAGE, (i + 1) * PAGE), 0);
	}
}

static uint64_t set_of(const struct vin_runs *r)
{
	uint64_t set = 0, last = 0;
	for (size_t i = 0; i < r->count; i++) {
		assert_true(i == 0 || r->runs[i].start > last);
		last = r->runs[i].end;
		for (uint64_t at = r->runs[i].start; at < last; at += PAGE)
			set |= 1ULL << at / PAGE;
	}
	return set;
}

static void lists_of_runs_are_sets_of_pages(void **state)
{
	(void)state;
	uint64_t seed = 88172645463325252ULL;
	for (int i = 0; i < 2000; i++) {
		scoped_runs a = { 0 }, b = { 0 }, either = { 0 }, both = { 0 }, less = { 0 };
		uint64_t sets[2];
		for (int j = 0; j < 2; j++) {
			seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
			sets[j] = seed & (i % 3 ? seed >> 1 : ~0ULL);
		}
		add(&a, sets[0]);
		add(&b, sets[1]);
		assert_int_equal(vin_runs_either(&a, &b, &either), 0);
		assert_int_equal(vin_runs_both(&a, &b, &both), 0);
		assert_int_equal(vin_runs_less(&a, &b, &less), 0);
		assert_true(set_of(&either) == (sets[0] | sets[1]));
		assert_true(set_of(&both) == (sets[0] & sets[1]));
		assert_true(set_of(&less) == (sets[0] & ~sets[1]));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lists_of_runs_are_sets_of_pages),
		cmocka_unit_test(pages_that_were_written_to_are_found),
		cmocka_unit_test(pages_that_were_only_read_are_not),
		cmocka_unit_test(of_a_private_file_only_ones_own_count),
		cmocka_unit_test(of_shared_memory_all_counts_that_is_there),
		cmocka_unit_test(guards_are_listed_apart),
		cmocka_unit_test(more_runs_than_one_call_tells),
		cmocka_unit_test(what_was_protected_is_told_where_not_all_can_be),
	};
	return cmocka_run_group_tests(tests, setup, NULL);
}
