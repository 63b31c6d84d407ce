/*
 * membarrier(2): who has registered may have all its threads pass a barrier; who has not is refused
 * (EPERM), which runtimes that asked once at their start do not expect. From Linux 6.3 on the
 * kernel lists what was registered; before, the private ones are known by whether they work.
 */
#include <errno.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>

#include "vin/traits.h"

#define LIST (1 << 9) /* MEMBARRIER_CMD_GET_REGISTRATIONS */
#define ALL                                                                                        \
	((uint64_t)(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED |                                     \
		    MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED |                                    \
		    MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE |                          \
		    MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ))

static const uint64_t tries[] = { MEMBARRIER_CMD_PRIVATE_EXPEDITED,
				  MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE,
				  MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ };

static int ask(struct vin_steps *s, struct fvm_error *err)
{
	(void)err;
	VIN_STEP(s, NULL, SYS_membarrier, LIST);
	for (size_t i = 0; i < FVM_COUNT(tries); i++)
		VIN_STEP(s, NULL, SYS_membarrier, tries[i]);
	return 0;
}

/* The command that registers is the one behind that which uses it. */
static uint64_t registered(const struct vin_call *told)
{
	uint64_t all = 0;
	if (told[0].result >= 0)
		return (uint64_t)told[0].result & ALL;
	for (size_t i = 0; i < FVM_COUNT(tries); i++)
		all |= told[i + 1].result == 0 ? tries[i] << 1 : 0;
	return all;
}

static int put(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
	       struct fvm_error *err)
{
	(void)s;
	(void)err;
	vin_put_u64(to, registered(told));
	return 0;
}

static int replay(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		  struct fvm_error *err)
{
	(void)err;
	const uint64_t want = vin_get_u64(from), now = s->post ? registered(told) : 0;
	if (from->failed || want & ~ALL)
		return -EBADMSG;
	for (uint64_t one = 1; one <= ALL; one <<= 1) {
		if (want & one & ~now)
			VIN_STEP(s, "membarrier", SYS_membarrier, one);
	}
	return 0;
}

const struct vin_trait vin_barriers = {
	.name = "barriers", .ask = ask, .put = put, .replay = replay
};
