#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include <cmocka.h>

#include "vin/image.h"

static int new_file(void)
{
	int fd = memfd_create("image", MFD_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

/* Head, one record of each sort, end. */
static int written(void)
{
	int fd = new_file();
	struct vin_out *out = NULL;
	scoped_buf b = { 0 };
	assert_int_equal(vin_out_open(fd, &out, NULL), 0);
	vin_put_u64(&b, 42);
	vin_put_string(&b, "init");
	vin_put_blob(&b, "a\0b", 3);
	assert_int_equal(vin_out_record(out, VIN_TAG_PROCESS, &b, NULL), 0);
	assert_int_equal(vin_out_begin(out, VIN_TAG_PAGES, 8, NULL), 0);
	assert_int_equal(vin_out_piece(out, "page", 4, NULL), 0);
	assert_int_equal(vin_out_piece(out, "page!", 5, NULL), -EINVAL);
	assert_int_equal(vin_out_piece(out, "PAGE", 4, NULL), 0);
	assert_int_equal(vin_out_finish(out, NULL), 0);
	assert_int_equal(vin_out_end(out, NULL), 0);
	vin_out_close(out);
	lseek(fd, 0, SEEK_SET);
	return fd;
}

/* Return: 0 when the whole stream was read and is right. */
static int read_all(int fd, struct fvm_error *err)
{
	struct vin_in *in = NULL;
	enum vin_tag tag = 0;
	uint64_t len = 0;
	int r = vin_in_open(fd, &in, err);
	while (r == 0 && (r = vin_in_next(in, &tag, &len, err)) == 0 && tag != VIN_TAG_END) {
		char piece[4];
		struct vin_payload p;
		if (tag == VIN_TAG_PAGES) {
			for (uint64_t left = len; r == 0 && left >= 4; left -= 4)
				r = vin_in_piece(in, piece, 4, err);
			if (r == 0)
				r = vin_in_finish(in, err);
		} else {
			r = vin_in_payload(in, &p, err);
		}
	}
	vin_in_close(in);
	return r;
}

static void what_is_written_is_read(void **state)
{
	(void)state;
	scoped_fd fd = written();
	struct vin_in *in = NULL;
	enum vin_tag tag;
	uint64_t len;
	struct vin_payload p;
	size_t blob_len;
	char page[8];
	assert_int_equal(vin_in_open(fd, &in, NULL), 0);
	assert_int_equal(vin_in_next(in, &tag, &len, NULL), 0);
	assert_int_equal(tag, VIN_TAG_PROCESS);
	assert_int_equal(vin_in_payload(in, &p, NULL), 0);
	assert_int_equal(vin_get_u64(&p), 42);
	scoped_free char *name = vin_get_string(&p);
	assert_string_equal(name, "init");
	assert_memory_equal(vin_get_blob(&p, &blob_len), "a\0b", 3);
	assert_int_equal(blob_len, 3);
	assert_int_equal(vin_get_done(&p), 0);
	assert_int_equal(vin_in_next(in, &tag, &len, NULL), 0);
	assert_int_equal(tag, VIN_TAG_PAGES);
	assert_int_equal(len, 8);
	assert_int_equal(vin_in_piece(in, page, 8, NULL), 0);
	assert_memory_equal(page, "pagePAGE", 8);
	assert_int_equal(vin_in_finish(in, NULL), 0);
	assert_int_equal(vin_in_next(in, &tag, &len, NULL), 0);
	assert_int_equal(tag, VIN_TAG_END);
	assert_int_equal(vin_in_next(in, &tag, &len, NULL), -EBADMSG);
	vin_in_close(in);
}

static void every_flipped_bit_is_found(void **state)
{
	(void)state;
	scoped_fd fd = written();
	off_t size = lseek(fd, 0, SEEK_END);
	for (off_t at = 0; at < size * 8; at++) {
		unsigned char c;
		assert_int_equal(pread(fd, &c, 1, at / 8), 1);
		c ^= (unsigned char)(1U << at % 8);
		assert_int_equal(pwrite(fd, &c, 1, at / 8), 1);
		lseek(fd, 0, SEEK_SET);
		struct fvm_error err = { 0 };
		assert_true(read_all(fd, &err) < 0);
		assert_true(err.text[0]);
		c ^= (unsigned char)(1U << at % 8);
		assert_int_equal(pwrite(fd, &c, 1, at / 8), 1);
	}
	lseek(fd, 0, SEEK_SET);
	assert_int_equal(read_all(fd, NULL), 0);
}

static void every_cut_is_found(void **state)
{
	(void)state;
	scoped_fd fd = written();
	for (off_t size = lseek(fd, 0, SEEK_END) - 1; size >= 0; size--) {
		assert_int_equal(ftruncate(fd, size), 0);
		lseek(fd, 0, SEEK_SET);
		assert_int_equal(read_all(fd, NULL), -EBADMSG);
	}
}

/* Cuts @len bytes out at @at, or doubles them. */
static int rebuilt(off_t at, size_t len, int times)
{
	scoped_fd from = written();
	int to = new_file();
	char all[1000];
	ssize_t size = read(from, all, sizeof(all));
	assert_true(size > 0 && (size_t)size < sizeof(all));
	assert_int_equal(fvm_write_all(to, all, (size_t)at), 0);
	for (int i = 0; i < times; i++)
		assert_int_equal(fvm_write_all(to, all + at, len), 0);
	assert_int_equal(fvm_write_all(to, all + at + len, (size_t)size - (size_t)at - len), 0);
	lseek(to, 0, SEEK_SET);
	return to;
}

static void a_record_that_is_missing_or_doubled_is_found(void **state)
{
	(void)state;
	const off_t head = 8 + 16 + 24 + 8;
	const size_t record = 16 + 8 + 12 + 11 + 8;
	scoped_fd same = rebuilt(head, record, 1), missing = rebuilt(head, record, 0),
		  doubled = rebuilt(head, record, 2);
	assert_int_equal(read_all(same, NULL), 0);
	assert_int_equal(read_all(missing, NULL), -EBADMSG);
	assert_int_equal(read_all(doubled, NULL), -EBADMSG);
}

static int with_head(uint64_t format, uint64_t processor, uint64_t page)
{
	const uint64_t record[] = { VIN_TAG_HEAD, 24, format, processor, page };
	const uint64_t sum = XXH3_64bits_withSeed(record, sizeof(record), 0);
	int fd = new_file();
	assert_int_equal(fvm_write_all(fd, "fvm-vin\n", 8), 0);
	assert_int_equal(fvm_write_all(fd, record, sizeof(record)), 0);
	assert_int_equal(fvm_write_all(fd, &sum, sizeof(sum)), 0);
	lseek(fd, 0, SEEK_SET);
	return fd;
}

static void another_format_or_processor_is_told_so(void **state)
{
	(void)state;
	struct vin_in *in = NULL;
	struct fvm_error err = { 0 };
	scoped_fd ours = with_head(VIN_FORMAT, 62, 4096),
		  newer = with_head(VIN_FORMAT + 1, 62, 4096),
		  other = with_head(VIN_FORMAT, 183, 4096);
	assert_int_equal(vin_in_open(ours, &in, NULL), 0);
	vin_in_close(in);
	assert_int_equal(vin_in_open(newer, &in, &err), -EPROTONOSUPPORT);
	assert_non_null(strstr(err.text, "format 4"));
	assert_int_equal(vin_in_open(other, &in, NULL), -EPROTONOSUPPORT);
}

static void what_is_no_image_is_told_so(void **state)
{
	(void)state;
	scoped_fd fd = new_file();
	struct fvm_error err = { 0 };
	assert_int_equal(read_all(fd, &err), -EBADMSG);
	assert_int_equal(fvm_write_all(fd, "#!/bin/sh\necho\n", 15), 0);
	lseek(fd, 0, SEEK_SET);
	assert_int_equal(read_all(fd, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "no image"));
}

static void getters_stop_at_the_end(void **state)
{
	(void)state;
	scoped_buf b = { 0 };
	size_t len;
	vin_put_u64(&b, 1000); /* a blob that is not there */
	struct vin_payload p = { (unsigned char *)b.data, (unsigned char *)b.data + b.len, false };
	assert_null(vin_get_blob(&p, &len));
	assert_int_equal(len, 0);
	assert_int_equal(vin_get_u64(&p), 0);
	assert_null(vin_get_string(&p));
	assert_int_equal(vin_get_done(&p), -EBADMSG);
	scoped_buf nul = { 0 };
	vin_put_blob(&nul, "a\0b", 3);
	p = (struct vin_payload){ (unsigned char *)nul.data, (unsigned char *)nul.data + nul.len,
				  false };
	assert_null(vin_get_string(&p));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read),
		cmocka_unit_test(every_flipped_bit_is_found),
		cmocka_unit_test(every_cut_is_found),
		cmocka_unit_test(a_record_that_is_missing_or_doubled_is_found),
		cmocka_unit_test(another_format_or_processor_is_told_so),
		cmocka_unit_test(what_is_no_image_is_told_so),
		cmocka_unit_test(getters_stop_at_the_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
