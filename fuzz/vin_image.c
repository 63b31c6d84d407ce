/* An image of programs: comes from a file or a line, and whoever made it may mean harm. */
#include <stdint.h>
#include <stdlib.h>

#include "sums.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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
	scoped_fd fd = -1;
	struct vin_in *in = open_mended(data, size, &fd);
	if (!in)
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
