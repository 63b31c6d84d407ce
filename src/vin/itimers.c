/*
 * The three timers of getitimer(2), by what is left of them.
 * ITIMER_REAL with a signal that was not taken yet does not run: the kernel starts it again when
 * the signal is taken, and shows no time left until then. Set like that it would never run again,
 * so its next round is begun with the restore.
 */
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "vin/traits.h"

#define KINDS 3 /* real, virtual, prof */

struct itimer { /* the kernel's */
	int64_t interval_s, interval_us, value_s, value_us;
};

static int ask(struct vin_steps *s, struct fvm_error *err)
{
	(void)err;
	for (uint64_t which = 0; which < KINDS; which++) {
		uint64_t at = vin_steps_data(s, NULL, sizeof(struct itimer));
		VIN_STEP(s, "getitimer", SYS_getitimer, which, at);
	}
	return 0;
}

static int put(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
	       struct fvm_error *err)
{
	(void)err;
	for (int which = 0; which < KINDS; which++)
		vin_put_blob(to, vin_steps_told(s, told[which].args[1]), sizeof(struct itimer));
	return 0;
}

static bool is_valid(const struct itimer *t)
{
	return t->interval_s >= 0 && t->value_s >= 0 && t->interval_us >= 0 && t->value_us >= 0 &&
	       t->interval_us < 1000000 && t->value_us < 1000000;
}

static int replay(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		  struct fvm_error *err)
{
	(void)told;
	(void)err;
	for (uint64_t which = 0; which < KINDS; which++) {
		size_t len;
		struct itimer t;
		const void *bytes = vin_get_blob(from, &len);
		if (!bytes || len != sizeof(t))
			return -EBADMSG;
		memcpy(&t, bytes, sizeof(t));
		if (!is_valid(&t))
			return -EBADMSG;
		if (which == ITIMER_REAL && t.value_s == 0 && t.value_us == 0) {
			t.value_s = t.interval_s;
			t.value_us = t.interval_us;
		}
		if (t.value_s != 0 || t.value_us != 0 || t.interval_s != 0 || t.interval_us != 0) {
			uint64_t at = vin_steps_data(s, &t, sizeof(t));
			VIN_STEP(s, "setitimer", SYS_setitimer, which, at, 0);
		}
	}
	return 0;
}

const struct vin_trait vin_itimers = {
	.name = "interval timers", .ask = ask, .put = put, .replay = replay
};
