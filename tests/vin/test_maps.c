#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cmocka.h>

#include "vin/maps.h"

static int parse(const char *text, struct vin_maps *ret)
{
	scoped_free char *copy = strdup(text);
	return vin_maps_parse(copy, strlen(copy), ret, NULL);
}

static void a_line_is_an_area(void **state)
{
	(void)state;
	scoped_maps m = { 0 };
	assert_int_equal(
		parse("55d6e8007000-55d6e8009000 r-xp 00002000 fe:00 247498     /usr/bin/head\n"
		      "7ffe07f41000-7ffe07f62000 rw-s 00000000 00:00 0 \n",
		      &m),
		0);
	assert_int_equal(m.count, 2);
	assert_false(m.detailed);
	assert_true(m.vmas[0].start == 0x55d6e8007000 && m.vmas[0].end == 0x55d6e8009000);
	assert_int_equal(m.vmas[0].offset, 0x2000);
	assert_int_equal(m.vmas[0].dev, makedev(0xfe, 0));
	assert_int_equal(m.vmas[0].ino, 247498);
	assert_int_equal(m.vmas[0].prot, PROT_READ | PROT_EXEC);
	assert_false(m.vmas[0].shared);
	assert_string_equal(m.vmas[0].name, "/usr/bin/head");
	assert_true(m.vmas[1].shared);
	assert_string_equal(m.vmas[1].name, "");
}

static void names_keep_their_spaces_and_newlines(void **state)
{
	(void)state;
	scoped_maps m = { 0 };
	assert_int_equal(parse("1000-2000 r--p 00000000 00:01 7    /a b\\012c (deleted)\n", &m), 0);
	assert_string_equal(m.vmas[0].name, "/a b\nc (deleted)");
}

static void details_belong_to_the_area_above(void **state)
{
	(void)state;
	scoped_maps m = { 0 };
	assert_int_equal(parse("1000-2000 rw-p 00000000 00:00 0 \n"
			       "Size:                  4 kB\nKernelPageSize:        4 kB\n"
			       "Rss:                   4 kB\nSwap:                  8 kB\n"
			       "SwapPss:               8 kB\nProtectionKey:         3\n"
			       "VmFlags: rd wr mr mw me gd ac dd zz \n"
			       "2000-3000 r--s 00000000 00:00 0 \nVmFlags: rd sh\n",
			       &m),
			 0);
	assert_int_equal(m.count, 2);
	assert_true(m.detailed);
	assert_int_equal(m.vmas[0].present_kb, 12);
	assert_int_equal(m.vmas[0].page_kb, 4);
	assert_int_equal(m.vmas[0].key, 3);
	assert_true(vin_vma_is(&m.vmas[0], VIN_VMA_GROWSDOWN));
	assert_true(vin_vma_is(&m.vmas[0], VIN_VMA_DONTDUMP));
	assert_false(vin_vma_is(&m.vmas[0], VIN_VMA_LOCKED));
	assert_true(m.vmas[0].unknown);
	assert_true(vin_vma_is(&m.vmas[1], VIN_VMA_SHARED));
	assert_false(m.vmas[1].unknown);
}

static void what_the_kernel_would_not_write_is_refused(void **state)
{
	(void)state;
	static const char *const bad[] = {
		"1000-2000 rw-p 00000000 00:00 0",		      /* no end */
		"Rss: 4 kB\n",					      /* of what? */
		"2000-1000 rw-p 00000000 00:00 0 \n",		      /* backwards */
		"1000-1000 rw-p 00000000 00:00 0 \n",		      /* empty */
		"1000-3000 rw-p 0 0:0 0 \n2000-4000 rw-p 0 0:0 0 \n", /* one over the other */
		"1000-2000 rq-p 00000000 00:00 0 \n",		      /* what is q? */
		"1000-2000 rw-\n",				      /* cut */
		"1000-2000 rw-p 00000000 0000 0 \n",		      /* no device */
		"11111111111111111-2 rw-p 00000000 00:00 0 \n",	      /* too long */
		"\n",
	};
	for (size_t i = 0; i < FVM_COUNT(bad); i++) {
		struct vin_maps m = { 0 };
		assert_int_equal(parse(bad[i], &m), -EBADMSG);
		assert_null(m.vmas);
	}
	struct vin_maps m = { 0 };
	char nul[] = "1000-2000 rw-p 0 0:0 1 /a\0b\n";
	assert_int_equal(vin_maps_parse(nul, sizeof(nul) - 1, &m, NULL), -EBADMSG);
}

static void our_own_map_has_what_we_map(void **state)
{
	(void)state;
	scoped_maps before = { 0 }, after = { 0 }, detailed = { 0 };
	assert_int_equal(vin_maps_read(getpid(), false, &before, NULL), 0);
	char *area =
		mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(area != MAP_FAILED);
	assert_int_equal(madvise(area, 3 * 4096, MADV_DONTFORK), 0);
	area[0] = 1;
	assert_int_equal(vin_maps_read(getpid(), true, &detailed, NULL), 0);
	assert_int_equal(vin_maps_read(getpid(), false, &after, NULL), 0);
	assert_false(vin_maps_same(&before, &after));
	const struct vin_vma *v = vin_maps_find(&detailed, (uint64_t)area + 5000);
	assert_non_null(v);
	assert_true(v->start == (uint64_t)area && v->end == v->start + 3 * 4096);
	assert_true(v->shared);
	assert_true(vin_vma_is(v, VIN_VMA_DONTFORK));
	assert_int_equal(v->present_kb, 4);
	assert_null(vin_maps_find(&detailed, 12));
	munmap(area, 3 * 4096);
}

static void a_map_is_the_same_as_itself(void **state)
{
	(void)state;
	static const char text[] = "1000-2000 rw-p 00000000 00:00 0 \n"
				   "2000-3000 rw-p 00000000 00:01 5    /x\n";
	scoped_maps a = { 0 }, b = { 0 }, c = { 0 };
	assert_int_equal(parse(text, &a), 0);
	assert_int_equal(parse(text, &b), 0);
	assert_true(vin_maps_same(&a, &b));
	assert_int_equal(parse("1000-2000 rw-p 00000000 00:00 0 \n", &c), 0);
	assert_false(vin_maps_same(&a, &c));
	assert_false(vin_maps_same(&c, &a));
}

static void nobody_has_no_map(void **state)
{
	(void)state;
	struct vin_maps m = { 0 };
	assert_int_equal(vin_maps_read(0x3ffffffe, false, &m, NULL), -ESRCH);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_line_is_an_area),
		cmocka_unit_test(names_keep_their_spaces_and_newlines),
		cmocka_unit_test(details_belong_to_the_area_above),
		cmocka_unit_test(what_the_kernel_would_not_write_is_refused),
		cmocka_unit_test(our_own_map_has_what_we_map),
		cmocka_unit_test(a_map_is_the_same_as_itself),
		cmocka_unit_test(nobody_has_no_map),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
