/* An image of programs: comes from a file or a line, and whoever made it may mean harm. Sums are
 * written anew, or no changed byte would come further than to them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "vin/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void mend_sums(uint8_t *data, size_t size)
{
	uint64_t number = 0;
	for (size_t at = 8; size - at > 24 && at + 24 <= size; number++) {
		uint64_t len, sum;
		memcpy(&len, data + at + 8, sizeof(len));
		if (len > size - at - 24)
			return;
		sum = XXH3_64bits_withSeed(data + at, 16 + (size_t)len, number);
		memcpy(data + at + 16 + len, &sum, sizeof(sum));
		at += 24 + (size_t)len;
	}
}

static void take_apart(struct vin_payload p)
{
	size_t len;
	while (!p.failed && p.at < p.end) {
		switch (*p.at % 3) {
		case 0:
			(void)vin_get_u64(&p);
			break;
		case 1:
			(void)vin_get_blob(&p, &len);
			break;
		default:
			free(vin_get_string(&p));
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vin_in *in = NULL;
	scoped_free uint8_t *copy = malloc(size + 1);
	if (!copy || size < 8)
		return 0;
	memcpy(copy, data, size);
	mend_sums(copy, size);
	scoped_fd fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (fd < 0 || fvm_write_all(fd, copy, size) < 0 || lseek(fd, 0, SEEK_SET) < 0 ||
	    vin_in_open(fd, &in, NULL) < 0)
		return 0;
	for (;;) {
		enum vin_tag tag;
		uint64_t len;
		struct vin_payload p;
		if (vin_in_next(in, &tag, &len, NULL) < 0 || tag == VIN_TAG_END ||
		    vin_in_payload(in, &p, NULL) < 0)
			break;
		take_apart(p);
	}
	vin_in_close(in);
	return 0;
}
