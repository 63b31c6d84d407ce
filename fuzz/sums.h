/* An image as a fuzzer makes it, in a file as replay has it: sums are written anew, or no changed byte
 * would come further than to them. */
#ifndef FVM_FUZZ_SUMS_H
#define FVM_FUZZ_SUMS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "vin/image.h"

#define SUMS_MAGIC 8UL	/* bytes before the first record, as vin/image has them */
#define SUMS_HEAD  16UL /* tag, zero, length */
#define SUMS_SUM   8UL

static void mend_sums(uint8_t *data, size_t size)
{
	uint64_t number = 0;
	for (size_t at = SUMS_MAGIC; size - at >= SUMS_HEAD + SUMS_SUM; number++) {
		uint64_t len, sum;
		memcpy(&len, data + at + 8, sizeof(len));
		if (len > size - at - SUMS_HEAD - SUMS_SUM)
			return;
		sum = XXH3_64bits_withSeed(data + at, SUMS_HEAD + (size_t)len, number);
		memcpy(data + at + SUMS_HEAD + len, &sum, sizeof(sum));
		at += SUMS_HEAD + (size_t)len + SUMS_SUM;
	}
}

/* @ret_fd: the caller's to close, also when there is none. Return: or NULL */
static struct vin_in *open_mended(const uint8_t *data, size_t size, int *ret_fd)
{
	struct vin_in *in = NULL;
	scoped_free uint8_t *copy = malloc(size + 1);
	if (!copy || size < SUMS_MAGIC)
		return NULL;
	memcpy(copy, data, size);
	mend_sums(copy, size);
	const int fd = *ret_fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (fd < 0 || fvm_write_all(fd, copy, size) < 0 || lseek(fd, 0, SEEK_SET) < 0 ||
	    vin_in_open(fd, &in, NULL) < 0)
		return NULL;
	return in;
}

#endif
