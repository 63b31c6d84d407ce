/* Resource limits, getrlimit(2). Hard ones are raised only by who may. */
#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "vin/traits.h"

struct limit { /* the kernel's rlimit64 */
	uint64_t soft, hard;
};

static int ask(struct vin_steps *s, struct fvm_error *err)
{
	(void)err;
	for (uint64_t i = 0; i < RLIM_NLIMITS; i++) {
		uint64_t at = vin_steps_data(s, NULL, sizeof(struct limit));
		VIN_STEP(s, "prlimit", SYS_prlimit64, 0, i, 0, at);
	}
	return 0;
}

static int put(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
	       struct fvm_error *err)
{
	(void)err;
	for (int i = 0; i < RLIM_NLIMITS; i++)
		fvm_buf_add(to, vin_steps_told(s, told[i].args[3]), sizeof(struct limit));
	return 0;
}

static int replay(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		  struct fvm_error *err)
{
	(void)err;
	for (uint64_t i = 0; i < RLIM_NLIMITS; i++) {
		struct limit now, want = { 0 };
		memcpy(&now, vin_steps_told(s, told[i].args[3]), sizeof(now));
		want.soft = vin_get_u64(from);
		want.hard = vin_get_u64(from);
		if (from->failed || want.soft > want.hard)
			return -EBADMSG;
		if (memcmp(&now, &want, sizeof(now)) != 0) {
			uint64_t at = vin_steps_data(s, &want, sizeof(want));
			VIN_STEP(s, "prlimit", SYS_prlimit64, 0, i, at, 0);
		}
	}
	return 0;
}

const struct vin_trait vin_limits = { .name = "limits", .ask = ask, .put = put, .replay = replay };
