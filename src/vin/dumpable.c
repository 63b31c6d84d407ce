/*
 * Whether a process may be looked into and leaves core dumps, PR_SET_DUMPABLE. Comes last: it may
 * shut us out. 2 ("readable by root") is nobody's to set, only what a change of ids leaves behind
 * on some machines; 0 is as closed.
 */
#include <errno.h>
#include <linux/prctl.h>
#include <sys/syscall.h>

#include "vin/traits.h"

static int ask(struct vin_steps *s, struct fvm_error *err)
{
	(void)err;
	VIN_STEP(s, "prctl(PR_GET_DUMPABLE)", SYS_prctl, PR_GET_DUMPABLE);
	return 0;
}

static int put(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
	       struct fvm_error *err)
{
	(void)s;
	(void)err;
	vin_put_u64(to, (uint64_t)told->result);
	return 0;
}

static int replay(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		  struct fvm_error *err)
{
	(void)told;
	uint64_t want = vin_get_u64(from);
	if (from->failed || want > 2)
		return -EBADMSG;
	const struct vin_call call = { SYS_prctl, { PR_SET_DUMPABLE, want == 1 } };
	int r = vin_steps_run(s, err);
	return r < 0 ? r : vin_step_call(s, "prctl(PR_SET_DUMPABLE)", &call, NULL, err);
}

const struct vin_trait vin_dumpable = {
	.name = "dumpable", .ask = ask, .put = put, .replay = replay
};
